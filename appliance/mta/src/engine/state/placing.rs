//! Mail comes in: each queue is placed at the site that serves it, by its
//! domain's route or by an administrator's reroute, and woken when its time comes.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use super::{Domain, Resolution, SiteId, State, Work};
use crate::clock::{Micros, seconds};
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
    pub(super) fn rerouted(&mut self, queue: QueueId) -> Option<(SiteId, Arc<Route>)> {
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

    pub(super) fn list(&mut self, queue: QueueId, site: SiteId) {
        if self.listed.insert(queue, site) != Some(site) {
            self.sites[site.0 as usize].active.push_back(queue);
        }
    }
}
