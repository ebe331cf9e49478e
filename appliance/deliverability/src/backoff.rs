//! How a lane slows down after failures and comes back.
//!
//! Normal → (failures in a row, or a block) → Paused until a time → Slow (a share of the limits)
//! → (successes) the share doubles → Normal. A failure while slow pauses again, twice as long,
//! up to the longest pause. Every state has an exit, and the reason is on record.

use postkeep_configuration as configuration;

use crate::pacer::WHOLE;
use crate::{DAY, Micros, SECOND};

/// The longest that a block may last, whatever asked for it.
pub const LONGEST_BLOCK: Micros = 7 * DAY;
/// Octets of a reason that are kept.
pub const LONGEST_REASON: usize = 300;

/// Version octet of the stored form.
const VERSION: u8 = 1;

/// `[backoff]` in this module's units, with every value within reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that start a pause, 1 or more.
    pub failures: u32,
    /// First pause, 1 s or more.
    pub pause: Micros,
    /// Longest pause, at least the first, at most [`LONGEST_BLOCK`].
    pub longest_pause: Micros,
    /// Share after a pause, in thousandths, 1 to [`WHOLE`].
    pub slow_share: u32,
    /// Successes that double the share, 1 or more.
    pub successes: u32,
}

impl From<&configuration::Backoff> for Settings {
    fn from(backoff: &configuration::Backoff) -> Self {
        let pause = backoff.pause.as_micros().clamp(SECOND, LONGEST_BLOCK);
        let share = if backoff.slow_share.is_finite() { backoff.slow_share.clamp(0.001, 1.0) } else { 1.0 };
        Self {
            failures: backoff.failures.max(1),
            pause,
            longest_pause: backoff.longest_pause.as_micros().clamp(pause, LONGEST_BLOCK),
            // Between 1 and 1000 by the clamp above.
            slow_share: (share * f64::from(WHOLE)).round() as u32,
            successes: backoff.successes.max(1),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::from(&configuration::Backoff::default())
    }
}

/// What a lane may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All of its limits.
    Normal {
        /// Failures in a row so far.
        failures: u32,
    },
    /// Nothing before that time.
    Paused {
        /// End of the pause.
        until: Micros,
    },
    /// A share of its limits.
    Slow {
        /// Thousandths of the limits.
        share: u32,
        /// Successes in a row since the share last changed.
        successes: u32,
    },
}

/// One lane's state, with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    phase: Phase,
    /// Length of the last pause; 0 when the lane has recovered since.
    pause: Micros,
    last_failure: Option<(Micros, Box<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Normal {
        failures: u32,
    },
    /// `length` bounds the wait that is left when the clock is put back.
    Paused {
        until: Micros,
        length: Micros,
        share: u32,
    },
    Slow {
        share: u32,
        successes: u32,
    },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Normal { failures: 0 }
    }
}

impl Backoff {
    /// A lane without a history.
    pub fn new() -> Self {
        Self::default()
    }

    /// A delivery on this lane. True when the share changed.
    pub fn success(&mut self, settings: &Settings, now: Micros) -> bool {
        self.settle(now);
        match self.phase {
            Phase::Normal { .. } => {
                self.phase = Phase::Normal { failures: 0 };
                false
            }
            // A transaction that had begun before the pause proves nothing.
            Phase::Paused { .. } => false,
            Phase::Slow { share, successes } if successes.saturating_add(1) < settings.successes => {
                self.phase = Phase::Slow { share, successes: successes.saturating_add(1) };
                false
            }
            Phase::Slow { share, .. } => {
                let share = share.saturating_mul(2);
                if share >= WHOLE {
                    self.phase = Phase::Normal { failures: 0 };
                    self.pause = 0;
                } else {
                    self.phase = Phase::Slow { share, successes: 0 };
                }
                true
            }
        }
    }

    /// A lane failure: 421, a connection refused or lost. True when a pause began.
    pub fn failure(&mut self, settings: &Settings, now: Micros, why: &str) -> bool {
        self.settle(now);
        self.record(now, why);
        match self.phase {
            Phase::Normal { failures } if failures.saturating_add(1) < settings.failures => {
                self.phase = Phase::Normal { failures: failures.saturating_add(1) };
                return false;
            }
            Phase::Normal { .. } => self.pause_for(settings, now, settings.pause),
            // Connections that were open when the pause began fail one by one: one pause is enough.
            Phase::Paused { .. } => return false,
            Phase::Slow { .. } => {
                let pause = self.pause.saturating_mul(2).clamp(settings.pause, settings.longest_pause);
                self.pause_for(settings, now, pause);
            }
        }
        true
    }

    /// The receiver said to stay away: a pause of this length at once, never shortening one
    /// that runs. At most [`LONGEST_BLOCK`]. True when it changed anything.
    pub fn block(&mut self, settings: &Settings, now: Micros, length: Micros, why: &str) -> bool {
        self.settle(now);
        self.record(now, why);
        let length = length.clamp(SECOND, LONGEST_BLOCK);
        if let Phase::Paused { until, .. } = self.phase
            && until >= now.saturating_add(length)
        {
            return false;
        }
        self.pause_for(settings, now, length);
        // Doubling goes on from the ordinary pauses, not from the block's length.
        self.pause = self.pause.min(settings.longest_pause);
        true
    }

    /// Back to normal at once: an administrator's word.
    pub fn reset(&mut self) {
        self.phase = Phase::default();
        self.pause = 0;
    }

    /// Whether a connection may be opened now.
    pub fn may_connect(&self, now: Micros) -> bool {
        !matches!(self.state(now), State::Paused { .. })
    }

    /// End of the pause, if one runs.
    pub fn until(&self, now: Micros) -> Option<Micros> {
        match self.state(now) {
            State::Paused { until } => Some(until),
            _ => None,
        }
    }

    /// Thousandths of the limits that may be used; 0 while paused.
    pub fn share(&self, now: Micros) -> u32 {
        match self.state(now) {
            State::Normal { .. } => WHOLE,
            State::Paused { .. } => 0,
            State::Slow { share, .. } => share,
        }
    }

    /// The state at this time.
    pub fn state(&self, now: Micros) -> State {
        match self.phase {
            Phase::Normal { failures } => State::Normal { failures },
            Phase::Paused { until, length, .. } if until > now => {
                State::Paused { until: until.min(now.saturating_add(length)) }
            }
            Phase::Paused { share, .. } => State::Slow { share, successes: 0 },
            Phase::Slow { share, successes } => State::Slow { share, successes },
        }
    }

    /// When the last failure or block was, and what was said.
    pub fn last_failure(&self) -> Option<(Micros, &str)> {
        self.last_failure.as_ref().map(|(at, why)| (*at, &**why))
    }

    /// Nothing worth keeping: no failures in a row, no pause, no share.
    pub fn is_normal(&self) -> bool {
        self.phase == Phase::default()
    }

    /// Appends the stored form; nothing while normal (failures in a row are counted anew after a restart).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (tag, first, second, third) = match self.phase {
            Phase::Normal { .. } => return,
            Phase::Paused { until, length, share } => (1u8, until, length, share),
            Phase::Slow { share, successes } => (2, u64::from(successes), 0, share),
        };
        out.push(VERSION);
        out.push(tag);
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&second.to_le_bytes());
        out.extend_from_slice(&third.to_le_bytes());
        out.extend_from_slice(&self.pause.to_le_bytes());
        if let Some((at, why)) = &self.last_failure {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(why.as_bytes());
        }
    }

    /// Reads the stored form back; `None` when it is not one. Every value is brought within bounds.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (version, bytes) = bytes.split_first()?;
        let (tag, bytes) = bytes.split_first()?;
        let (first, bytes) = bytes.split_first_chunk::<8>()?;
        let (second, bytes) = bytes.split_first_chunk::<8>()?;
        let (third, bytes) = bytes.split_first_chunk::<4>()?;
        let (pause, bytes) = bytes.split_first_chunk::<8>()?;
        let first = u64::from_le_bytes(*first);
        let share = u32::from_le_bytes(*third).clamp(1, WHOLE);
        let phase = match (*version, *tag) {
            (VERSION, 1) => {
                Phase::Paused { until: first, length: u64::from_le_bytes(*second).min(LONGEST_BLOCK), share }
            }
            (VERSION, 2) => Phase::Slow { share, successes: u32::try_from(first).unwrap_or(u32::MAX) },
            _ => return None,
        };
        let last_failure = match bytes.split_first_chunk::<8>() {
            Some((at, why)) => Some((u64::from_le_bytes(*at), shortened(std::str::from_utf8(why).ok()?))),
            None if bytes.is_empty() => None,
            None => return None,
        };
        Some(Self { phase, pause: u64::from_le_bytes(*pause).min(LONGEST_BLOCK), last_failure })
    }

    /// A pause that is over becomes slow running; one that a clock put back made too long is cut.
    fn settle(&mut self, now: Micros) {
        if let Phase::Paused { until, length, share } = self.phase {
            self.phase = if until <= now {
                Phase::Slow { share, successes: 0 }
            } else {
                Phase::Paused { until: until.min(now.saturating_add(length)), length, share }
            };
        }
    }

    /// Notices that the clock was put back during a pause; call before waiting for its end.
    pub fn observe(&mut self, now: Micros) {
        self.settle(now);
    }

    fn pause_for(&mut self, settings: &Settings, now: Micros, length: Micros) {
        self.pause = length;
        self.phase = Phase::Paused { until: now.saturating_add(length), length, share: settings.slow_share };
    }

    fn record(&mut self, now: Micros, why: &str) {
        self.last_failure = Some((now, shortened(why)));
    }
}

fn shortened(why: &str) -> Box<str> {
    why.get(..why.floor_char_boundary(LONGEST_REASON)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
