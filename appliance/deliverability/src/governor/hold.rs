//! Why a permit was not given, and what to wait for.

use crate::Micros;
use crate::pacer::{NotYet, Pacer};

/// Which limit stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `[delivery] connections`.
    BoxConnections,
    /// Connections of the lane, scaled by its share while it is slow.
    LaneConnections,
    /// New connections of the lane per time.
    LaneConnectionRate,
    /// Messages of the lane per time.
    LaneMessageRate,
    /// Connections to the provider over all lanes.
    ProviderConnections,
    /// New connections to the provider per time.
    ProviderConnectionRate,
    /// Messages to the provider per time.
    ProviderMessageRate,
    /// Connections that carry a message of the stream.
    StreamConnections,
    /// Messages of the stream per time.
    StreamMessageRate,
    /// The lane is paused after failures or a block.
    BackingOff,
    /// The lane was forgotten; ask for its id again.
    Forgotten,
}

impl Limit {
    /// A word for records and metrics, kebab-case.
    pub fn name(self) -> &'static str {
        match self {
            Self::BoxConnections => "box-connections",
            Self::LaneConnections => "lane-connections",
            Self::LaneConnectionRate => "lane-connection-rate",
            Self::LaneMessageRate => "lane-message-rate",
            Self::ProviderConnections => "provider-connections",
            Self::ProviderConnectionRate => "provider-connection-rate",
            Self::ProviderMessageRate => "provider-message-rate",
            Self::StreamConnections => "stream-connections",
            Self::StreamMessageRate => "stream-message-rate",
            Self::BackingOff => "backing-off",
            Self::Forgotten => "forgotten",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// This time; other limits may show up then.
    Until(Micros),
    /// A release: of a connection, or of a message for [`Limit::StreamConnections`].
    Capacity,
    /// A durable horizon: see [`Governor::horizons_due`].
    Horizon,
}

/// A permit that was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// What to wait for.
    pub until: Wait,
    /// Which limit it is; of several, the one that takes longest.
    pub because: Limit,
}

impl Hold {
    pub(super) const FORGOTTEN: Self = Self { until: Wait::Capacity, because: Limit::Forgotten };
}

/// The longest of several waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    until: Option<(Micros, Limit)>,
    capacity: Option<Limit>,
    horizon: Option<Limit>,
}

impl Waits {
    pub(super) fn rate(&mut self, pacer: &mut Option<Pacer>, now: Micros, share: u32, limit: Limit) {
        let Some(pacer) = pacer else { return };
        pacer.observe(now);
        match pacer.check(now, share) {
            Ok(()) => {}
            Err(NotYet::Until(until)) => {
                if self.until.is_none_or(|(longest, _)| until > longest) {
                    self.until = Some((until, limit));
                }
            }
            Err(NotYet::Horizon) => {
                pacer.want_horizon(now, share);
                self.horizon = Some(limit);
            }
        }
    }

    pub(super) fn count(&mut self, open: u32, limit: Option<u32>, because: Limit) {
        if limit.is_some_and(|limit| open >= limit) {
            self.capacity = Some(because);
        }
    }

    pub(super) fn result(self) -> Result<(), Hold> {
        match (self.until, self.capacity, self.horizon) {
            (Some((until, because)), _, _) => Err(Hold { until: Wait::Until(until), because }),
            (None, Some(because), _) => Err(Hold { until: Wait::Capacity, because }),
            (None, None, Some(because)) => Err(Hold { until: Wait::Horizon, because }),
            (None, None, None) => Ok(()),
        }
    }
}
