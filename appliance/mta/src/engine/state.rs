//! The engine's one locked state: queues, domains, sites, lanes and the
//! governor that holds every limit.
//!
//! The lock around [`State`] is held for microseconds and never across an
//! await. Everything that must be true together changes under it together: a
//! message is taken from its queue in the same breath in which its lane's
//! limits are reserved, so concurrent workers cannot overshoot.
//! Nothing here does I/O; what is to be done is returned as [`Work`].

mod dispatch;
mod naming;
mod placing;
mod share;
mod suspension;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use postkeep_deliverability::governor::{self, Governor};
use postkeep_deliverability::limits::Limits;
use smallvec::SmallVec;
use tokio::sync::Notify;

pub use suspension::Suspension;

use super::plan::{SourceId, StreamPlan};
use super::rules::Rules;
use crate::clock::Micros;
use crate::message::Message;
use crate::queue::{DomainId, Entry, QueueId, Queues, StreamId};
use crate::routing::Route;
use crate::selector::Selector;

/// A site's number, for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SiteId(pub u32);

/// A lane's number, for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LaneId(pub u32);

/// A sending address as the engine uses it.
#[derive(Debug, Clone)]
pub(crate) struct SourcePlan {
    pub name: Arc<str>,
    pub settings: postkeep_configuration::Source,
    pub ehlo: Arc<str>,
    /// Not used before this: its address could not be bound.
    pub out_until: Micros,
    /// Not used before this: a receiver has said what is wrong with it.
    pub suspended_until: Micros,
    /// Still in the configuration.
    pub configured: bool,
}

impl SourcePlan {
    /// When it may be used again.
    pub(crate) fn back_at(&self) -> Micros {
        self.out_until.max(self.suspended_until)
    }
}

/// Where a domain's mail goes, as far as is known.
#[derive(Debug, Clone)]
pub(crate) enum Resolution {
    Unknown,
    Asking,
    Bound { site: SiteId, route: Arc<Route> },
}

#[derive(Debug)]
pub(crate) struct Domain {
    pub name: Arc<str>,
    pub resolution: Resolution,
    pub queues: SmallVec<[QueueId; 2]>,
}

#[derive(Debug)]
pub(crate) struct Site {
    pub name: Arc<str>,
    pub provider: Option<Arc<str>>,
    /// Queues with ready mail, served in turn.
    active: VecDeque<QueueId>,
    pub lanes: SmallVec<[LaneId; 2]>,
    /// Messages taken by each source, for weights.
    taken: HashMap<SourceId, u64>,
    /// A wake-up is already planned for this time.
    wake: Micros,
    /// It stands in `waiting_for_capacity`.
    waits_for_capacity: bool,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub source: SourceId,
    pub site: SiteId,
    pub governor: governor::LaneId,
    pub limits: Limits,
    pub open: u32,
    /// Of those open, the ones that have been told to close.
    retiring: u32,
    /// The governor has forgotten it for want of use; its number there is asked for again when needed.
    forgotten: bool,
    /// A limit of its own or of its provider stands in the way until then.
    held_until: Micros,
    /// When it last took a message.
    took_at: Micros,
    idle: Vec<(u64, Arc<Notify>)>,
}

/// Mail sent elsewhere by an administrator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reroute {
    pub selector: Selector,
    /// Hosts as in `[[route]]`.
    pub hosts: Vec<String>,
}

/// What the caller must do after letting go of the lock.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Connections to open, each with the batch that it is for.
    pub connections: Vec<(governor::ConnectionPermit, Batch)>,
    /// Domains to resolve.
    pub domains: Vec<DomainId>,
    /// A limit waits for its horizon to become durable.
    pub horizons: bool,
    /// The scheduler has to come sooner than it planned.
    pub reschedule: bool,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.domains.is_empty() && !self.horizons && !self.reschedule
    }
}

/// One transaction's worth of mail, taken from its queue.
#[derive(Debug)]
pub(crate) struct Batch {
    pub queue: QueueId,
    pub stream: StreamId,
    pub lane: LaneId,
    pub route: Arc<Route>,
    pub entries: SmallVec<[Entry; 2]>,
    pub message: Option<Arc<Message>>,
}

/// What a connection is to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this.
    Send(Batch),
    /// A limit says wait; look again then.
    Wait(Micros),
    /// Nothing to do: wait to be woken under this token.
    Idle(u64, Arc<Notify>),
    /// Close.
    Retire,
}

pub(crate) struct State {
    pub queues: Queues<Message>,
    pub streams: Vec<(Arc<str>, Arc<StreamPlan>, governor::StreamId)>,
    stream_ids: HashMap<Arc<str>, StreamId>,
    pub domains: HashMap<DomainId, Domain>,
    domain_ids: HashMap<Arc<str>, DomainId>,
    next_domain: u32,
    pub sites: Vec<Site>,
    site_ids: HashMap<Arc<str>, SiteId>,
    pub lanes: Vec<Lane>,
    lane_ids: HashMap<(SourceId, SiteId), LaneId>,
    pub sources: Vec<SourcePlan>,
    source_ids: HashMap<Arc<str>, SourceId>,
    pub governor: Governor,
    pub rules: Rules,
    pub paused: Vec<Selector>,
    pub reroutes: Vec<Reroute>,
    /// What receivers do not want for a while.
    pub suspensions: Vec<Suspension>,
    pub stopping: bool,
    /// Which site's `active` list a queue stands in.
    listed: HashMap<QueueId, SiteId>,
    /// Sites with mail for which the box or their provider has no connection left.
    waiting_for_capacity: VecDeque<SiteId>,
    /// Counts how often all routes were forgotten: an answer to a question from before is asked again.
    pub route_epoch: u64,
    wakes: BinaryHeap<Reverse<(Micros, SiteId)>>,
    next_token: u64,
}

impl Lane {
    /// Wakes every idle connection, so that it looks at what has changed.
    pub(crate) fn wake_idle(&mut self) {
        for (_, wake) in self.idle.drain(..) {
            wake.notify_one();
        }
    }
}

impl State {
    pub(crate) fn new(governor: Governor, rules: Rules) -> Self {
        Self {
            queues: Queues::default(),
            streams: Vec::new(),
            stream_ids: HashMap::new(),
            domains: HashMap::new(),
            domain_ids: HashMap::new(),
            next_domain: 0,
            sites: Vec::new(),
            site_ids: HashMap::new(),
            lanes: Vec::new(),
            lane_ids: HashMap::new(),
            sources: Vec::new(),
            source_ids: HashMap::new(),
            governor,
            rules,
            paused: Vec::new(),
            reroutes: Vec::new(),
            suspensions: Vec::new(),
            stopping: false,
            listed: HashMap::new(),
            waiting_for_capacity: VecDeque::new(),
            route_epoch: 0,
            wakes: BinaryHeap::new(),
            next_token: 0,
        }
    }
}

#[cfg(test)]
mod tests;
