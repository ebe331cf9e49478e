//! The engine's one locked state: queues, domains, sites, lanes and the
//! governor that holds every limit.
//!
//! The lock around [`State`] is held for microseconds and never across an
//! await. Everything that must be true together changes under it together: a
//! message is taken from its queue in the same breath in which its lane's
//! limits are reserved, so concurrent workers cannot overshoot.
//! Nothing here does I/O; what is to be done is returned as [`Work`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use postkeep_configuration::Configuration;
use postkeep_deliverability::governor::{self, Governor, Hold, Limit, Wait};
use postkeep_deliverability::limits::Limits;
use postkeep_deliverability::provider::ProviderTable;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::plan::{SourceId, StreamPlan};
use super::rules::Rules;
use crate::clock::{Micros, seconds};
use crate::message::Message;
use crate::queue::{DomainId, Entry, QueueId, Queues, StreamId};
use crate::routing::Route;
use crate::selector::{Selector, Subject};

/// Ready messages for each further connection that is worth opening.
const MESSAGES_PER_NEW_CONNECTION: usize = 4;
/// Queues looked at for one transaction, so that a site with a hundred thousand held queues costs no more than one with few.
const QUEUES_PER_LOOK: usize = 64;
/// A lane may run this many messages (by weight) ahead of the others of its pool.
const SHARE_SLACK: u64 = 8;
/// How long a lane that is ahead of its share waits before it looks again.
const SHARE_WAIT: Micros = 10_000;
/// How long to wait for capacity that no event announces (a stream's, taken by other sites).
const CAPACITY_WAIT: Micros = 20_000;
/// How long a horizon takes to become durable, about.
const HORIZON_WAIT: Micros = 3_000;
/// A lane without mail for this long is forgotten by the governor, unless its limits must be remembered.
const FORGET_IDLE_AFTER: Micros = 3600 * 1_000_000;
/// Entries moved from waiting to ready under one hold of the lock.
const PROMOTE_AT_ONCE: usize = 20_000;

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
    /// Still in the configuration.
    pub configured: bool,
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
    pub streams: Vec<(Arc<str>, StreamPlan, governor::StreamId)>,
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
    pub stopping: bool,
    /// Which site's `active` list a queue stands in.
    listed: HashMap<QueueId, SiteId>,
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
            stopping: false,
            listed: HashMap::new(),
            wakes: BinaryHeap::new(),
            next_token: 0,
        }
    }

    // ---- names and numbers -------------------------------------------------

    pub(crate) fn stream_id(&self, name: &str) -> Option<StreamId> {
        self.stream_ids.get(name).copied()
    }

    /// The number of a stream; of `default` when the configuration has lost it.
    pub(crate) fn stream_or_default(&self, name: &str) -> StreamId {
        self.stream_id(name).or_else(|| self.stream_id("default")).unwrap_or(StreamId(0))
    }

    /// Takes over a configuration: sources, pools, streams and limits of known lanes.
    pub(crate) fn configure(&mut self, configuration: &Arc<Configuration>, providers: Arc<ProviderTable>, now: Micros) {
        self.rules = Rules { configuration: Arc::clone(configuration), providers };
        self.governor.configure(configuration.delivery.connections, (&configuration.backoff).into());
        for source in &mut self.sources {
            source.configured = false;
        }
        for (name, settings) in &configuration.source {
            let id = self.source_id(name);
            let plan = &mut self.sources[usize::from(id.0)];
            if plan.settings != *settings {
                plan.out_until = 0;
            }
            plan.settings = settings.clone();
            plan.ehlo = configuration.ehlo_of(name).into();
            plan.configured = true;
        }
        let names: Vec<String> = configuration.stream_names().map(str::to_owned).collect();
        for name in names {
            let plan = StreamPlan::new(configuration, &name, |source| self.source_id(source));
            self.set_stream(&name, plan, now);
        }
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            let (source, site) = (&self.sources[usize::from(lane.source.0)].name, &self.sites[lane.site.0 as usize]);
            let (governed, limits) =
                self.rules.lane(&mut self.governor, source, &site.name, site.provider.as_deref(), now);
            let lane = &mut self.lanes[index];
            (lane.governor, lane.limits, lane.forgotten) = (governed, limits, false);
            // Idle connections look whether they are still wanted.
            lane.wake_idle();
        }
    }

    /// Adds a stream or replaces its plan.
    pub(crate) fn set_stream(&mut self, name: &str, plan: StreamPlan, now: Micros) -> StreamId {
        let governed = self.governor.stream_id(name, &plan.settings.total, now);
        if let Some(id) = self.stream_ids.get(name) {
            let place = &mut self.streams[usize::from(id.0)];
            place.1 = plan;
            place.2 = governed;
            return *id;
        }
        let id = StreamId(self.streams.len() as u16);
        let name: Arc<str> = name.into();
        self.streams.push((Arc::clone(&name), plan, governed));
        self.stream_ids.insert(name, id);
        id
    }

    pub(crate) fn stream(&self, id: StreamId) -> &(Arc<str>, StreamPlan, governor::StreamId) {
        &self.streams[usize::from(id.0)]
    }

    /// The number of a source, new or known.
    pub(crate) fn source_id(&mut self, name: &str) -> SourceId {
        if let Some(id) = self.source_ids.get(name) {
            return *id;
        }
        let id = SourceId(self.sources.len() as u16);
        let name: Arc<str> = name.into();
        self.sources.push(SourcePlan {
            name: Arc::clone(&name),
            settings: postkeep_configuration::Source { ipv4: None, ipv6: None, ehlo: None, freebind: false },
            ehlo: "".into(),
            out_until: 0,
            configured: false,
        });
        self.source_ids.insert(name, id);
        id
    }

    pub(crate) fn source(&self, id: SourceId) -> &SourcePlan {
        &self.sources[usize::from(id.0)]
    }

    pub(crate) fn domain_id(&mut self, name: &str) -> DomainId {
        if let Some(id) = self.domain_ids.get(name) {
            return *id;
        }
        let id = DomainId(self.next_domain);
        self.next_domain = self.next_domain.wrapping_add(1);
        let name: Arc<str> = name.into();
        self.domains
            .insert(id, Domain { name: Arc::clone(&name), resolution: Resolution::Unknown, queues: SmallVec::new() });
        self.domain_ids.insert(name, id);
        id
    }

    pub(crate) fn domain_name(&self, id: DomainId) -> Arc<str> {
        self.domains.get(&id).map_or_else(|| "".into(), |domain| Arc::clone(&domain.name))
    }

    fn site_id(&mut self, name: &Arc<str>, provider: Option<Arc<str>>) -> SiteId {
        if let Some(id) = self.site_ids.get(name) {
            self.sites[id.0 as usize].provider = provider;
            return *id;
        }
        let id = SiteId(self.sites.len() as u32);
        self.sites.push(Site {
            name: Arc::clone(name),
            provider,
            active: VecDeque::new(),
            lanes: SmallVec::new(),
            taken: HashMap::new(),
            wake: Micros::MAX,
        });
        self.site_ids.insert(Arc::clone(name), id);
        id
    }

    pub(crate) fn site(&self, id: SiteId) -> &Site {
        &self.sites[id.0 as usize]
    }

    pub(crate) fn lane(&self, id: LaneId) -> &Lane {
        &self.lanes[id.0 as usize]
    }

    fn lane_id(&mut self, source: SourceId, site: SiteId, now: Micros) -> LaneId {
        let known = self.lane_ids.get(&(source, site)).copied();
        if let Some(id) = known
            && !self.lane(id).forgotten
        {
            return id;
        }
        let site_state = &self.sites[site.0 as usize];
        let source_name = &self.sources[usize::from(source.0)].name;
        let (governed, limits) =
            self.rules.lane(&mut self.governor, source_name, &site_state.name, site_state.provider.as_deref(), now);
        if let Some(id) = known {
            let lane = &mut self.lanes[id.0 as usize];
            (lane.governor, lane.limits, lane.forgotten) = (governed, limits, false);
            return id;
        }
        let id = LaneId(self.lanes.len() as u32);
        self.lanes.push(Lane {
            source,
            site,
            governor: governed,
            limits,
            open: 0,
            retiring: 0,
            forgotten: false,
            held_until: 0,
            idle: Vec::new(),
        });
        self.lane_ids.insert((source, site), id);
        self.sites[site.0 as usize].lanes.push(id);
        id
    }

    // ---- mail comes in -----------------------------------------------------

    /// The queue of a stream and domain.
    pub(crate) fn queue(&mut self, stream: StreamId, domain: &str) -> QueueId {
        let domain = self.domain_id(domain);
        let queue = self.queues.queue(stream, domain);
        if let Some(domain) = self.domains.get_mut(&domain)
            && !domain.queues.contains(&queue)
        {
            domain.queues.retain(|other| self.queues.key(*other).is_some());
            domain.queues.push(queue);
        }
        queue
    }

    /// A queue has gained ready mail: serve it, or find out where it goes.
    pub(crate) fn gained(&mut self, queue: QueueId, now: Micros, work: &mut Work) {
        let Some((_, domain_id)) = self.queues.key(queue) else { return };
        if let Some((site, _)) = self.rerouted(queue) {
            self.list(queue, site);
            self.pump(site, now, work);
            return;
        }
        let Some(domain) = self.domains.get_mut(&domain_id) else { return };
        match &domain.resolution {
            Resolution::Bound { site, route } if route.valid_until > Instant::now() => {
                let site = *site;
                self.list(queue, site);
                self.pump(site, now, work);
            }
            Resolution::Asking => {}
            Resolution::Unknown | Resolution::Bound { .. } => {
                domain.resolution = Resolution::Asking;
                work.domains.push(domain_id);
            }
        }
    }

    /// A domain's route is known: its ready mail can go.
    pub(crate) fn bind(
        &mut self,
        domain: DomainId,
        site_name: &Arc<str>,
        provider: Option<Arc<str>>,
        route: Arc<Route>,
        now: Micros,
        work: &mut Work,
    ) {
        let site = self.site_id(site_name, provider);
        let Some(domain) = self.domains.get_mut(&domain) else { return };
        let bound = Arc::clone(&route);
        domain.resolution = Resolution::Bound { site, route };
        for queue in domain.queues.clone() {
            if self.queues.ready(queue) > 0 {
                let (place, _) = self.rerouted(queue).unwrap_or((site, Arc::clone(&bound)));
                self.list(queue, place);
                if place != site {
                    self.pump(place, now, work);
                }
            }
        }
        self.pump(site, now, work);
    }

    /// Where an administrator sends the mail of a queue, if anywhere: the latest reroute that names it.
    fn rerouted(&mut self, queue: QueueId) -> Option<(SiteId, Arc<Route>)> {
        if self.reroutes.is_empty() {
            return None;
        }
        let (stream, domain) = self.queues.key(queue)?;
        let (stream_name, plan, _) = self.stream(stream);
        let domain = self.domains.get(&domain)?;
        let site = self.site_of(domain).map(|site| &*self.site(site).name);
        let subject = Subject { stream: stream_name, domain: &domain.name, site, sources: &plan.pool.names };
        let reroute = self.reroutes.iter().rev().find(|reroute| reroute.selector.matches_mail(subject))?;
        let route = crate::routing::fixed_route(&reroute.hosts)?;
        let (name, provider) = self.rules.place(&route);
        Some((self.site_id(&name, provider), Arc::new(route)))
    }

    /// The site that serves a queue now, or would by its domain.
    pub(crate) fn site_of_queue(&self, queue: QueueId) -> Option<SiteId> {
        self.listed.get(&queue).copied().or_else(|| self.site_of(self.domains.get(&self.queues.key(queue)?.1)?))
    }

    /// Takes every queue off its site, so that all are placed anew.
    pub(crate) fn unlist_all(&mut self) {
        self.listed.clear();
    }

    /// Moves what is due, wakes sites whose time has come, and says when to come again.
    pub(crate) fn tick(&mut self, now: Micros, work: &mut Work) -> Option<Micros> {
        for queue in self.queues.promote(seconds(now), PROMOTE_AT_ONCE) {
            self.gained(queue, now, work);
        }
        while let Some(Reverse((at, site))) = self.wakes.peek().copied() {
            if at > now {
                break;
            }
            self.wakes.pop();
            self.sites[site.0 as usize].wake = Micros::MAX;
            self.pump(site, now, work);
        }
        let due = self.queues.next_due().map(|due| Micros::from(due) * 1_000_000);
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        due.into_iter().chain(wake).min()
    }

    // ---- mail goes out -----------------------------------------------------

    /// What the connection of `lane` does next. Reserves the lane's, provider's
    /// and stream's limits for the batch that it hands out.
    pub(crate) fn next(&mut self, lane: LaneId, now: Micros, work: &mut Work) -> Next {
        if self.stopping || !self.source_usable(self.lane(lane).source, now) || self.is_surplus(lane) {
            self.lanes[lane.0 as usize].retiring += 1;
            return Next::Retire;
        }
        match self.take(lane, now, work) {
            Ok(Some(batch)) => Next::Send(batch),
            Ok(None) => {
                self.next_token += 1;
                let token = self.next_token;
                let wake = Arc::new(Notify::new());
                self.lanes[lane.0 as usize].idle.push((token, Arc::clone(&wake)));
                Next::Idle(token, wake)
            }
            Err(until) => Next::Wait(until),
        }
    }

    /// An idle connection gives up waiting; false: it has been woken meanwhile and must look again.
    pub(crate) fn stop_idling(&mut self, lane: LaneId, token: u64) -> bool {
        let idle = &mut self.lanes[lane.0 as usize].idle;
        let before = idle.len();
        idle.retain(|(theirs, _)| *theirs != token);
        idle.len() != before
    }

    /// Takes a batch for the lane. `Err`: when to look again.
    fn take(&mut self, lane_id: LaneId, now: Micros, work: &mut Work) -> Result<Option<Batch>, Micros> {
        let lane = self.lane(lane_id);
        let (site_id, source, governed) = (lane.site, lane.source, lane.governor);
        let mut wait: Option<Micros> = None;
        for _ in 0..self.site(site_id).active.len().min(QUEUES_PER_LOOK) {
            let Some(queue) = self.sites[site_id.0 as usize].active.pop_front() else { break };
            if self.listed.get(&queue) != Some(&site_id) {
                continue; // it has gone elsewhere
            }
            let Some((stream_id, domain_id)) = self.queues.key(queue).filter(|_| self.queues.ready(queue) > 0) else {
                self.listed.remove(&queue);
                continue;
            };
            self.sites[site_id.0 as usize].active.push_back(queue);
            if self.is_paused(stream_id, domain_id, site_id, source) {
                continue;
            }
            let pool = Arc::clone(&self.stream(stream_id).1.pool);
            let Some(weight) = pool.weight(source) else { continue };
            if self.is_ahead(site_id, source, weight, &pool.members, now) {
                wait = Some(wait.unwrap_or(Micros::MAX).min(now + SHARE_WAIT));
                continue;
            }
            let stream_governed = self.stream(stream_id).2;
            match self.governor.reserve_message(governed, stream_governed, now) {
                Ok(()) => {}
                Err(hold) => {
                    work.horizons |= hold.until == Wait::Horizon;
                    wait = Some(wait.unwrap_or(Micros::MAX).min(look_again(&hold, now)));
                    if matches!(hold.because, Limit::StreamConnections | Limit::StreamMessageRate) {
                        continue;
                    }
                    self.lanes[lane_id.0 as usize].held_until = look_again(&hold, now);
                    break;
                }
            }
            let most = self.lane(lane_id).limits.recipients_per_transaction.max(1) as usize;
            let route = match self.domains.get(&domain_id).map(|domain| &domain.resolution) {
                Some(Resolution::Bound { site, route }) if *site == site_id => Some(Arc::clone(route)),
                _ => self.rerouted(queue).map(|(_, route)| route),
            };
            let (Some(route), Some(taken)) = (route, self.queues.take(queue, most)) else {
                self.governor.message_done(governed, stream_governed);
                continue;
            };
            *self.sites[site_id.0 as usize].taken.entry(source).or_default() += 1;
            return Ok(Some(Batch {
                queue,
                stream: stream_id,
                lane: lane_id,
                route,
                entries: taken.entries,
                message: taken.message,
            }));
        }
        match wait {
            Some(until) => Err(until.max(now + 1_000)),
            None => Ok(None),
        }
    }

    /// Opens as many connections to a site as its ready mail is worth and its limits allow.
    pub(crate) fn pump(&mut self, site_id: SiteId, now: Micros, work: &mut Work) {
        if self.stopping {
            return;
        }
        let (mut backlog, candidates) = self.demand(site_id, now, work);
        if backlog == 0 {
            return;
        }
        for lane in &candidates {
            let idle = &mut self.lanes[lane.0 as usize].idle;
            while backlog > 0
                && let Some((_, wake)) = idle.pop()
            {
                wake.notify_one();
                backlog -= backlog.min(MESSAGES_PER_NEW_CONNECTION);
            }
        }
        let mut wanted = backlog.div_ceil(MESSAGES_PER_NEW_CONNECTION);
        let mut wake: Option<Micros> = None;
        let mut open: SmallVec<[LaneId; 4]> = candidates;
        while wanted > 0 && !open.is_empty() {
            let place = self.least_served(site_id, &open);
            let lane = open[place];
            let governed = self.lane(lane).governor;
            let permit = match self.governor.reserve_connection(governed, now) {
                Ok(permit) => permit,
                Err(hold) => {
                    self.note_hold(&hold, now, &mut wake, work);
                    open.remove(place);
                    continue;
                }
            };
            match self.take(lane, now, work) {
                Ok(Some(batch)) => {
                    self.lanes[lane.0 as usize].open += 1;
                    work.connections.push((permit, batch));
                    wanted -= 1;
                }
                other => {
                    self.governor.release_connection(permit);
                    if let Err(until) = other {
                        wake = Some(wake.unwrap_or(Micros::MAX).min(until));
                    }
                    open.remove(place);
                }
            }
        }
        if let Some(at) = wake {
            self.wake_at(site_id, at, work);
        }
    }

    /// More connections are open than the limits allow since they were lowered.
    fn is_surplus(&self, lane: LaneId) -> bool {
        let lane = self.lane(lane);
        lane.open.saturating_sub(lane.retiring) > lane.limits.connections || self.governor.is_over_total(lane.governor)
    }

    /// A connection has closed. `retired`: it had been told to.
    pub(crate) fn closed(
        &mut self,
        lane: LaneId,
        permit: Option<governor::ConnectionPermit>,
        retired: bool,
        now: Micros,
        work: &mut Work,
    ) {
        if let Some(permit) = permit {
            self.governor.release_connection(permit);
        }
        let lane = &mut self.lanes[lane.0 as usize];
        lane.open = lane.open.saturating_sub(1);
        lane.retiring = lane.retiring.saturating_sub(retired.into());
        let site = lane.site;
        self.pump(site, now, work);
    }

    /// One more connection for a lane that already holds a batch (the next MX host).
    pub(crate) fn exchange_permit(
        &mut self,
        lane: LaneId,
        permit: governor::ConnectionPermit,
        now: Micros,
    ) -> (Option<governor::ConnectionPermit>, Option<Hold>) {
        self.governor.release_connection(permit);
        match self.governor.reserve_connection(self.lane(lane).governor, now) {
            Ok(permit) => (Some(permit), None),
            Err(hold) => (None, Some(hold)),
        }
    }

    /// A transaction has ended, whatever came of it.
    pub(crate) fn message_done(&mut self, lane: LaneId, stream: StreamId) {
        let (lane, stream) = (self.lane(lane).governor, self.stream(stream).2);
        self.governor.message_done(lane, stream);
    }

    /// Plans to look at a site again.
    pub(crate) fn wake_at(&mut self, site: SiteId, at: Micros, work: &mut Work) {
        let planned = &mut self.sites[site.0 as usize].wake;
        if at < *planned {
            *planned = at;
            self.wakes.push(Reverse((at, site)));
            work.reschedule = true;
        }
    }

    /// Looks at every site with ready mail again: limits, pauses or routes have changed.
    pub(crate) fn pump_all(&mut self, now: Micros, work: &mut Work) {
        for index in 0..self.sites.len() {
            self.pump(SiteId(index as u32), now, work);
        }
    }

    /// The next ready mail of this domain asks the DNS again.
    pub(crate) fn forget_route_of(&mut self, domain: DomainId) {
        if let Some(domain) = self.domains.get_mut(&domain) {
            domain.resolution = Resolution::Unknown;
        }
    }

    /// Forgets what DNS said, so that each domain is asked again when its mail is next due.
    pub(crate) fn forget_routes(&mut self, mut which: impl FnMut(&str) -> bool) {
        let mut touched = Vec::new();
        for domain in self.domains.values_mut() {
            if which(&domain.name) && matches!(domain.resolution, Resolution::Bound { .. }) {
                domain.resolution = Resolution::Unknown;
                touched.extend(domain.queues.iter().copied());
            }
        }
        for queue in touched {
            self.listed.remove(&queue);
        }
    }

    /// Queues, domains and lanes that hold nothing any more are forgotten.
    pub(crate) fn sweep(&mut self, now: Micros) {
        self.governor.forget_idle(now, FORGET_IDLE_AFTER);
        for lane in &mut self.lanes {
            lane.forgotten = lane.open == 0 && self.governor.lane(lane.governor, now).is_none();
        }
        let queues = &mut self.queues;
        let mut gone = Vec::new();
        for (id, domain) in &mut self.domains {
            domain.queues.retain(|queue| {
                queues.drop_if_empty(*queue);
                queues.key(*queue).is_some_and(|(_, domain)| domain == *id)
            });
            if domain.queues.is_empty() && !matches!(domain.resolution, Resolution::Asking) {
                gone.push(*id);
            }
        }
        for id in gone {
            if let Some(domain) = self.domains.remove(&id) {
                self.domain_ids.remove(&domain.name);
            }
        }
        for site in &mut self.sites {
            // The shares of an hour ago are no reason to hold a source back now.
            site.taken.clear();
        }
    }

    // ---- selection ---------------------------------------------------------

    /// Queues that a selector names.
    pub(crate) fn select(&self, selector: &Selector) -> Vec<QueueId> {
        self.queues
            .views()
            .filter(|view| {
                let (stream, plan, _) = self.stream(view.stream);
                let Some(domain) = self.domains.get(&view.domain) else { return false };
                let site = self.site_of(domain).map(|site| &*self.site(site).name);
                selector.matches_mail(Subject { stream, domain: &domain.name, site, sources: &plan.pool.names })
            })
            .map(|view| view.id)
            .collect()
    }

    pub(crate) fn site_of(&self, domain: &Domain) -> Option<SiteId> {
        match domain.resolution {
            Resolution::Bound { site, .. } => Some(site),
            _ => None,
        }
    }

    pub(crate) fn is_paused(&self, stream: StreamId, domain: DomainId, site: SiteId, source: SourceId) -> bool {
        if self.paused.is_empty() {
            return false;
        }
        let stream = &self.stream(stream).0;
        let domain = self.domain_name(domain);
        let (site, source) = (&self.site(site).name, &self.source(source).name);
        self.paused.iter().any(|selector| selector.matches_lane(stream, &domain, site, source))
    }

    pub(crate) fn source_usable(&self, source: SourceId, now: Micros) -> bool {
        let source = self.source(source);
        source.configured && source.out_until <= now
    }

    // ---- helpers -----------------------------------------------------------

    fn list(&mut self, queue: QueueId, site: SiteId) {
        if self.listed.insert(queue, site) != Some(site) {
            self.sites[site.0 as usize].active.push_back(queue);
        }
    }

    /// How much is ready for a site, and which lanes may carry it.
    fn demand(&mut self, site: SiteId, now: Micros, work: &mut Work) -> (usize, SmallVec<[LaneId; 4]>) {
        let mut backlog = 0;
        let mut sources: SmallVec<[SourceId; 4]> = SmallVec::new();
        let mut later: Option<Micros> = None;
        for index in 0..self.site(site).active.len().min(QUEUES_PER_LOOK) {
            let queue = self.site(site).active[index];
            let ready = self.queues.ready(queue);
            let Some((stream, domain)) = self.queues.key(queue).filter(|_| ready > 0) else { continue };
            let pool = Arc::clone(&self.stream(stream).1.pool);
            let mut usable = false;
            for (source, _) in &pool.members {
                if self.is_paused(stream, domain, site, *source) {
                    continue;
                }
                if !self.source_usable(*source, now) {
                    let out = self.source(*source).out_until;
                    later = later.into_iter().chain((out > now).then_some(out)).min();
                    continue;
                }
                usable = true;
                if !sources.contains(source) {
                    sources.push(*source);
                }
            }
            if usable {
                backlog += ready;
            }
        }
        if let Some(at) = later {
            self.wake_at(site, at, work);
        }
        let lanes = sources.into_iter().map(|source| self.lane_id(source, site, now)).collect();
        (backlog, lanes)
    }

    /// The place of the lane whose source has taken least, by weight-free count; weights act in `take`.
    fn least_served(&self, site: SiteId, lanes: &[LaneId]) -> usize {
        let taken = &self.site(site).taken;
        let count = |lane: &LaneId| taken.get(&self.lane(*lane).source).copied().unwrap_or(0);
        (0..lanes.len()).min_by_key(|place| count(&lanes[*place])).unwrap_or(0)
    }

    /// True when this source has taken more than its weight allows while another of the pool could take mail now.
    fn is_ahead(
        &mut self,
        site_id: SiteId,
        source: SourceId,
        weight: u32,
        members: &[(SourceId, u32)],
        now: Micros,
    ) -> bool {
        if members.len() < 2 {
            return false;
        }
        let site = &self.sites[site_id.0 as usize];
        let count = |source: &SourceId| site.taken.get(source).copied().unwrap_or(0);
        let mine = count(&source);
        let mut ahead = false;
        let mut lagging: Option<u64> = None;
        for (other, other_weight) in members {
            if *other == source || !self.source_usable(*other, now) {
                continue;
            }
            let Some(lane) = self.lane_ids.get(&(*other, site_id)) else { continue };
            let lane = self.lane(*lane);
            if lane.open == 0 || lane.held_until > now {
                continue;
            }
            let theirs = count(other);
            // mine / weight > theirs / other_weight + slack, without division.
            if mine * u64::from(*other_weight) > (theirs + SHARE_SLACK * u64::from(*other_weight)) * u64::from(weight) {
                ahead = true;
            }
            lagging = Some(lagging.unwrap_or(0).max(theirs * u64::from(weight) / u64::from(*other_weight).max(1)));
        }
        // A source that was away for long does not get to catch up all at once.
        if let Some(level) = lagging
            && mine + 4 * SHARE_SLACK * u64::from(weight) < level
        {
            self.sites[site_id.0 as usize].taken.insert(source, level - 4 * SHARE_SLACK * u64::from(weight));
        }
        ahead
    }

    fn note_hold(&self, hold: &Hold, now: Micros, wake: &mut Option<Micros>, work: &mut Work) {
        work.horizons |= hold.until == Wait::Horizon;
        if hold.until != Wait::Capacity {
            *wake = Some(wake.unwrap_or(Micros::MAX).min(look_again(hold, now).max(now + 1_000)));
        }
    }
}

/// When to look at something held again.
fn look_again(hold: &Hold, now: Micros) -> Micros {
    match hold.until {
        Wait::Until(at) => at,
        Wait::Capacity => now + CAPACITY_WAIT,
        Wait::Horizon => now + HORIZON_WAIT,
    }
}
