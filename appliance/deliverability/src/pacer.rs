//! A strict rate limiter whose whole running state is one timestamp.
//!
//! Promise: with a rate of N per T, no half-open stretch of time of length T holds more than
//! N grants, wherever it begins; this also holds across changes of the rate (each grant is
//! at most the N-th of the stretch that ends with it, N and T being those in force), across
//! shares, and across restarts, wherever the crash falls.
//!
//! It is the generic cell rate algorithm with a burst b = max(1, N/16) and an emission
//! interval I = T/(N−b+1): after a burst of b at once, further grants come I apart, so that a
//! stretch of T holds b + (N−b). The price of strictness is that the steady rate is
//! N−b+1 per T, at worst 6 % below N.
//!
//! For restarts, a *horizon* is written ahead: no grant may push the timestamp beyond the
//! last horizon that is durable, and after a restart the timestamp begins at that horizon.

use postkeep_configuration::units::Rate;

use crate::{DAY, Micros, SECOND};

/// Thousandths of a limit: what a share of 1 is.
pub const WHOLE: u32 = 1000;

/// Longest stretch that a horizon is written ahead.
const LONGEST_STRIDE: Micros = 60 * SECOND;

/// Why a grant has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotYet {
    /// The rate allows the next one at this time.
    Until(Micros),
    /// The rate would allow it, but no durable horizon covers it yet:
    /// write what [`Pacer::horizon_needed`] names, then ask again.
    Horizon,
}

/// What has to survive a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The timestamp never passed this.
    pub until: Micros,
    /// The rate in force when this was written.
    pub rate: Rate,
    /// The finest emission interval of the grants behind it, in microseconds; 0: unknown.
    pub finest: Micros,
}

/// Grants at a bounded rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pacer {
    rate: Rate,
    /// Emission interval: what one grant costs.
    interval: Micros,
    /// How far the timestamp may run ahead of the clock: (b−1) intervals.
    tolerance: Micros,
    /// The state: when all grants so far are paid off.
    paid_at: Micros,
    /// Finest interval of earlier rates whose grants are less than a day old; 0: unknown.
    finest: Micros,
    /// When `finest` is of no more interest.
    finest_until: Micros,
    /// Nothing may push `paid_at` beyond this.
    durable: Micros,
    /// The horizon that was last asked for.
    asked: Micros,
    /// A grant failed because it needed a horizon of at least this.
    wanted: Micros,
}

impl Pacer {
    /// A pacer without a past, whose grants need durable horizons.
    pub fn new(rate: Rate) -> Self {
        let (interval, tolerance) = shape(rate);
        Self {
            rate,
            interval,
            tolerance,
            paid_at: 0,
            finest: interval,
            finest_until: 0,
            durable: 0,
            asked: 0,
            wanted: 0,
        }
    }

    /// A pacer that need not outlive the process: it asks for no horizons.
    pub fn volatile(rate: Rate) -> Self {
        Self { durable: Micros::MAX, asked: Micros::MAX, ..Self::new(rate) }
    }

    /// The rate in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// When the rate allows the next grant: `now` or later. Horizons are not looked at.
    pub fn ready_at(&self, now: Micros) -> Micros {
        self.settled(now).saturating_sub(self.tolerance).max(now)
    }

    /// Whether [`Pacer::take_share`] would succeed now.
    pub fn check(&self, now: Micros, share: u32) -> Result<(), NotYet> {
        let ready = self.ready_at(now);
        if ready > now {
            return Err(NotYet::Until(ready));
        }
        if self.after_grant(now, share) > self.durable {
            return Err(NotYet::Horizon);
        }
        Ok(())
    }

    /// Notices that the clock was put back, so that the wait which follows begins now.
    pub fn observe(&mut self, now: Micros) {
        self.paid_at = self.settled(now);
    }

    /// Notes that a grant waits for a horizon.
    pub fn want_horizon(&mut self, now: Micros, share: u32) {
        self.wanted = self.after_grant(now, share);
    }

    /// Takes one grant.
    pub fn take(&mut self, now: Micros) -> Result<(), NotYet> {
        self.take_share(now, WHOLE)
    }

    /// Takes one grant while only `share` thousandths of the rate are wanted (at least one per
    /// stretch): it costs more of the rate, so that the rate itself can never be exceeded.
    pub fn take_share(&mut self, now: Micros, share: u32) -> Result<(), NotYet> {
        self.observe(now);
        let checked = self.check(now, share);
        match checked {
            Ok(()) => self.paid_at = self.after_grant(now, share),
            Err(NotYet::Horizon) => self.want_horizon(now, share),
            Err(NotYet::Until(_)) => {}
        }
        checked
    }

    /// Changes the rate; what was granted before counts against the new one.
    pub fn set_rate(&mut self, now: Micros, rate: Rate) {
        if rate == self.rate {
            return;
        }
        self.paid_at = self.settled(now);
        let finest = self.finest_at(now);
        self.adopt(now, rate, finest, true);
        if self.durable != Micros::MAX {
            // The horizon on disk knows nothing of the new interval.
            self.durable = 0;
            self.asked = 0;
        }
    }

    /// Continues after a restart from the last durable horizon, as if all grants up to it had been
    /// used; the rate may have been changed in between.
    pub fn restore(&mut self, now: Micros, horizon: Horizon) {
        self.paid_at = self.paid_at.max(horizon.until);
        self.adopt(now, self.rate, horizon.finest, horizon.rate != self.rate);
    }

    /// The horizon to write now, if one is due: before it runs out, or because a grant waits for it.
    /// Named once; [`Pacer::horizon_lost`] makes it due again.
    pub fn horizon_needed(&mut self, now: Micros) -> Option<Horizon> {
        if !self.horizon_due(now) {
            return None;
        }
        let until = self.next_cost_from(now).saturating_add(self.stride());
        self.asked = until;
        self.wanted = 0;
        Some(Horizon { until, rate: self.rate, finest: self.finest_at(now) })
    }

    /// The horizon to put into a note that is written anyway: a new one if due, else the one on
    /// record, so that the note never says less than the one it replaces. `None`: no past at all.
    pub fn horizon_for_note(&mut self, now: Micros) -> Option<Horizon> {
        if let Some(horizon) = self.horizon_needed(now) {
            return Some(horizon);
        }
        if self.durable == Micros::MAX || (self.asked == 0 && self.paid_at == 0) {
            return None;
        }
        if self.asked == 0 {
            self.asked = self.next_cost_from(now).saturating_add(self.stride());
        }
        Some(Horizon { until: self.asked, rate: self.rate, finest: self.finest_at(now) })
    }

    /// Whether [`Pacer::horizon_needed`] would name one.
    pub fn horizon_due(&self, now: Micros) -> bool {
        if self.durable == Micros::MAX {
            return false;
        }
        let active = self.wanted > 0 || self.paid_at > now.saturating_sub(SECOND);
        // One stride is written ahead; the next is asked for when half of it is used.
        active && self.asked < self.next_cost_from(now).saturating_add(self.stride() / 2)
    }

    /// `horizon` is on disk: grants up to it may be given.
    pub fn horizon_durable(&mut self, horizon: Horizon) {
        // One that was asked for before the rate changed says too little.
        if horizon.rate == self.rate && horizon.until <= self.asked {
            self.durable = self.durable.max(horizon.until);
        }
    }

    /// The horizon that was asked for could not be written: it is due again.
    pub fn horizon_lost(&mut self) {
        if self.durable != Micros::MAX {
            self.asked = self.durable;
        }
    }

    /// The horizon on record, for a pacer that is put away.
    pub fn horizon_on_record(&self, now: Micros) -> Option<Horizon> {
        let known = self.asked > 0 && self.durable != Micros::MAX;
        known.then(|| Horizon { until: self.asked.max(self.paid_at), rate: self.rate, finest: self.finest_at(now) })
    }

    /// Whether a new pacer of the same rate would behave the same: nothing that was granted, or
    /// could have been under the horizon on record, lies within a stretch any more.
    pub fn is_forgettable(&self, now: Micros) -> bool {
        self.paid_at.max(self.asked).saturating_add(self.rate.per.as_micros()) <= now && self.finest_until <= now
    }

    /// The timestamp, pulled back where the clock was put back: whatever was granted, was granted
    /// before now, so that a wait of one stretch from now is always enough.
    fn settled(&self, now: Micros) -> Micros {
        self.paid_at.min(now.saturating_add(self.rate.per.as_micros()).saturating_add(self.tolerance))
    }

    /// Takes on `rate` after grants that cost `finest` or more each. `changed`: they were
    /// given under another rate.
    fn adopt(&mut self, now: Micros, rate: Rate, finest: Micros, changed: bool) {
        let (interval, tolerance) = shape(rate);
        let per = rate.per.as_micros();
        // Where every earlier grant cost at least an interval, the timestamp is right as it is:
        // k grants since s have pushed it to s + k·I or beyond.
        if changed && finest < interval && self.paid_at.saturating_add(per) > now {
            // At a time s, the stretch that ends there holds fewer than (paid_at + T − s)/finest
            // earlier grants. The new ones, one per interval, begin where they fit on top.
            let room = finest.saturating_mul(u64::from(rate.count.saturating_sub(1)));
            self.paid_at = self.paid_at.saturating_add(per.saturating_add(tolerance).saturating_sub(room));
        }
        self.rate = rate;
        self.interval = interval;
        self.tolerance = tolerance;
        let settled = self.settled(now);
        self.finest_until = self.paid_at.max(now).saturating_add(DAY);
        // Where the timestamp is cut to the new stretch, it no longer tells how many there were.
        self.finest = if settled < self.paid_at { 0 } else { finest };
        self.paid_at = settled;
    }

    fn after_grant(&self, now: Micros, share: u32) -> Micros {
        self.settled(now).max(now).saturating_add(self.cost(share))
    }

    fn cost(&self, share: u32) -> Micros {
        if share >= WHOLE {
            return self.interval;
        }
        let stretched = self.interval.saturating_mul(u64::from(WHOLE)) / u64::from(share.max(1));
        stretched.min(self.rate.per.as_micros()).max(self.interval)
    }

    /// What the timestamp will be after the next grant.
    fn next_cost_from(&self, now: Micros) -> Micros {
        self.after_grant(now, WHOLE).max(self.wanted)
    }

    fn stride(&self) -> Micros {
        (self.rate.per.as_micros() / 8).clamp(SECOND, LONGEST_STRIDE)
    }

    fn finest_at(&self, now: Micros) -> Micros {
        if now >= self.finest_until { self.interval } else { self.finest.min(self.interval) }
    }
}

/// Emission interval and tolerance of a rate.
fn shape(rate: Rate) -> (Micros, Micros) {
    let count = u64::from(rate.count.max(1));
    let burst = (count / 16).max(1);
    let interval = rate.per.as_micros().div_ceil(count - burst + 1).max(1);
    (interval, interval.saturating_mul(burst - 1))
}

#[cfg(test)]
mod tests;
