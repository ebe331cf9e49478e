//! Lanes, providers and streams as administrators see them.

use crate::Micros;
use crate::backoff::State;

use super::{Hold, LaneId};

/// A lane as administrators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneSnapshot {
    /// Which lane.
    pub id: LaneId,
    /// Source name.
    pub source: String,
    /// Site name.
    pub site: String,
    /// Provider name.
    pub provider: Option<String>,
    /// Open connections.
    pub connections: u32,
    /// How many may be open, after its share.
    pub connection_limit: u32,
    /// Messages on their way.
    pub messages: u32,
    /// Backing off or not.
    pub state: State,
    /// Thousandths of the limits in use; 0 while paused.
    pub share: u32,
    /// When the last failure was, and what was said.
    pub last_failure: Option<(Micros, String)>,
    /// Why the last reservation failed, if none succeeded since.
    pub waiting: Option<Hold>,
    /// Last reservation that succeeded.
    pub used_at: Micros,
}

/// A provider or a stream as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalSnapshot {
    /// Its name.
    pub name: String,
    /// Open connections (provider), or messages on their way (stream).
    pub open: u32,
    /// How many there may be.
    pub limit: Option<u32>,
}
