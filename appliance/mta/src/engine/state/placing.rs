//! Mail comes in: each queue is placed at the site that serves it, by its
//! domain's route or by an administrator's reroute, and woken when its time comes.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use super::{Domain, Resolution, SiteId, State, Work};
use crate::clock::{Micros, seconds};
use crate::engine::health;
use crate::engine::plan::SourceId;
use crate::queue::{DomainId, QueueId, StreamId};
use crate::routing::Route;
use crate::selector::{Selector, Subject};

/// Entries moved from waiting to ready under one hold of the lock.
const PROMOTE_AT_ONCE: usize = 20_000;
/// A lane without mail for this long is forgotten by the governor, unless its limits must be remembered.
const FORGET_IDLE_AFTER: Micros = 3600 * 1_000_000;

impl State {
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

    /// Queues have gained ready mail: serve them, or find out where they go. Each site is looked at once.
    pub(crate) fn gained(&mut self, queues: Vec<QueueId>, now: Micros, work: &mut Work) {
        let mut sites: Vec<SiteId> = queues.into_iter().filter_map(|queue| self.place(queue, work)).collect();
        sites.sort_unstable();
        sites.dedup();
        for site in sites {
            self.pump(site, now, work);
        }
    }

    /// Puts a queue with ready mail into the line of its site; `None`: its domain has to be asked for first.
    fn place(&mut self, queue: QueueId, work: &mut Work) -> Option<SiteId> {
        let (_, domain_id) = self.queues.key(queue)?;
        if let Some((site, _)) = self.rerouted(queue) {
            self.list(queue, site);
            return Some(site);
        }
        // Nothing is attempted for what is paused: not even a question that could end in a bounce.
        let is_paused = self.is_paused_everywhere(queue);
        let domain = self.domains.get_mut(&domain_id)?;
        match &domain.resolution {
            Resolution::Bound { site, route } if route.valid_until > Instant::now() => {
                let site = *site;
                self.list(queue, site);
                Some(site)
            }
            Resolution::Unknown | Resolution::Bound { .. } if !is_paused => {
                domain.resolution = Resolution::Asking;
                work.domains.push(domain_id);
                None
            }
            _ => None,
        }
    }

    /// Whether a pause covers the queue wherever it goes.
    pub(crate) fn is_paused_everywhere(&self, queue: QueueId) -> bool {
        if self.paused.is_empty() {
            return false;
        }
        let Some((stream, domain)) = self.queues.key(queue) else { return false };
        let Some(domain) = self.domains.get(&domain) else { return false };
        let (stream, plan, _) = self.stream(stream);
        let site = self.site_of(domain).map(|site| &*self.site(site).name);
        plan.pool.names.iter().all(|source| {
            let subject = Subject { stream, domain: &domain.name, site, sources: std::slice::from_ref(source) };
            self.paused.iter().any(|pause| pause.matches_mail(subject))
        })
    }

    /// The pauses that keep mail of a stream for a domain from every source that it may leave from; none, as long as one of
    /// these may carry it.
    pub(crate) fn pauses_that_hold(&self, stream: &str, domain: &str) -> Vec<&Selector> {
        let (stream, plan, _) = self.stream(self.stream_or_default(stream));
        let site = self.domain_ids.get(domain).and_then(|id| self.site_of(self.domains.get(id)?));
        let site = site.map(|site| &*self.site(site).name);
        let mut holding = Vec::new();
        for source in &plan.pool.names {
            let subject = Subject { stream, domain, site, sources: std::slice::from_ref(source) };
            let Some(pause) = self.paused.iter().find(|pause| pause.matches_mail(subject)) else { return Vec::new() };
            if !holding.contains(&pause) {
                holding.push(pause);
            }
        }
        holding
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
    pub(crate) fn rerouted(&mut self, queue: QueueId) -> Option<(SiteId, Arc<Route>)> {
        if self.reroutes.is_empty() {
            return None;
        }
        let (stream, domain) = self.queues.key(queue)?;
        let (stream_name, plan, _) = self.stream(stream);
        let domain = self.domains.get(&domain)?;
        if *domain.name == *health::DOMAIN {
            return None;
        }
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
        for site in &mut self.sites {
            site.active.clear();
        }
    }

    /// Moves what is due, wakes sites whose time has come, and says when to come again.
    pub(crate) fn tick(&mut self, now: Micros, work: &mut Work) -> Option<Micros> {
        let gained = self.queues.promote(seconds(now), PROMOTE_AT_ONCE);
        self.gained(gained, now, work);
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

    /// Queues that a selector names.
    pub(crate) fn select(&self, selector: &Selector) -> Vec<QueueId> {
        self.queues
            .keys()
            .filter(|(_, stream, domain)| {
                let (stream, plan, _) = self.stream(*stream);
                let Some(domain) = self.domains.get(domain) else { return false };
                let site = self.site_of(domain).map(|site| &*self.site(site).name);
                selector.matches_mail(Subject { stream, domain: &domain.name, site, sources: &plan.pool.names })
            })
            .map(|(id, _, _)| id)
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
        source.configured && source.back_at() <= now
    }

    /// The next ready mail of this domain asks the DNS again.
    pub(crate) fn forget_route_of(&mut self, domain: DomainId) {
        if let Some(domain) = self.domains.get_mut(&domain) {
            domain.resolution = Resolution::Unknown;
        }
    }

    /// Forgets what DNS said, so that each domain is asked again when its mail is next due.
    pub(crate) fn forget_routes(&mut self, domains: impl IntoIterator<Item = DomainId>) {
        for id in domains {
            let Some(domain) = self.domains.get_mut(&id) else { continue };
            if let Resolution::Bound { .. } = domain.resolution {
                domain.resolution = Resolution::Unknown;
                for queue in &domain.queues {
                    self.listed.remove(queue);
                }
            }
        }
        for (index, site) in self.sites.iter_mut().enumerate() {
            site.active.retain(|queue| self.listed.get(queue) == Some(&SiteId(index as u32)));
        }
    }

    /// The configuration has changed: everything is asked anew, also what is being asked just now.
    pub(crate) fn forget_all_routes(&mut self) {
        self.route_epoch += 1;
        let all: Vec<DomainId> = self.domains.keys().copied().collect();
        self.forget_routes(all);
    }

    /// Queues, domains and lanes that hold nothing any more are forgotten.
    pub(crate) fn sweep(&mut self, now: Micros) {
        self.governor.forget_idle(now, FORGET_IDLE_AFTER);
        for lane in &mut self.lanes {
            lane.forgotten = lane.open == 0 && !self.governor.knows(lane.governor);
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
            // The shares of a while ago are no reason to hold a source back now.
            site.taken.clear();
        }
    }

    pub(super) fn list(&mut self, queue: QueueId, site: SiteId) {
        if self.listed.insert(queue, site) != Some(site) {
            self.sites[site.0 as usize].active.push_back(queue);
        }
    }
}
