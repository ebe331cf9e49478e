//! Mail goes out: which message a connection carries next, how many connections
//! a site is worth, and who has to wait.

use std::cmp::Reverse;
use std::sync::Arc;

use postkeep_deliverability::governor::{self, ConnectionPermit, Hold, Limit, Wait};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{Batch, LaneId, Next, Resolution, Site, SiteId, State, Work};
use crate::clock::Micros;
use crate::engine::plan::SourceId;
use crate::queue::{QueueId, StreamId, Taken};
use crate::routing::Route;

/// Ready messages for each further connection that is worth opening.
const MESSAGES_PER_NEW_CONNECTION: usize = 4;
/// Queues looked at for one transaction, so that a site with a hundred thousand held queues costs no more than one with few.
const QUEUES_PER_LOOK: usize = 64;
/// Sites that wait for a connection of the box or provider, looked at when one closes.
const WAITING_SITES_PER_LOOK: usize = 8;
/// How long a lane that is ahead of its share waits before it looks again.
const SHARE_WAIT: Micros = 10_000;
/// How long to wait for capacity that no event announces (a stream's, taken by other sites).
const CAPACITY_WAIT: Micros = 20_000;
/// How long a horizon takes to become durable, about.
const HORIZON_WAIT: Micros = 3_000;

impl State {
    /// What the connection of `lane` does next. Reserves the lane's, provider's
    /// and stream's limits for the batch that it hands out.
    pub(crate) fn next(&mut self, lane: LaneId, now: Micros, work: &mut Work) -> Next {
        if self.stopping || !self.source_usable(self.lane(lane).source, now) || self.is_surplus(lane) {
            self.lanes[lane.0 as usize].retiring += 1;
            return Next::Retire;
        }
        match self.take(lane, false, now, work) {
            Ok((_, batch)) => Next::Send(batch),
            Err(NotTaken::Nothing) => {
                self.next_token += 1;
                let token = self.next_token;
                let wake = Arc::new(Notify::new());
                self.lanes[lane.0 as usize].idle.push((token, Arc::clone(&wake)));
                Next::Idle(token, wake)
            }
            Err(NotTaken::Until(until)) => Next::Wait(until),
            Err(NotTaken::Held(hold)) => Next::Wait(look_again(&hold, now)),
        }
    }

    /// An idle connection gives up waiting.
    pub(crate) fn stop_idling(&mut self, lane: LaneId, token: u64) {
        self.lanes[lane.0 as usize].idle.retain(|(theirs, _)| *theirs != token);
    }

    /// Takes a batch for the lane, and with `opening` the right to one more connection. Limits are
    /// paid for only when there is something to send and all of them allow it.
    pub(super) fn take(
        &mut self,
        lane_id: LaneId,
        opening: bool,
        now: Micros,
        work: &mut Work,
    ) -> Result<(Option<ConnectionPermit>, Batch), NotTaken> {
        let lane = self.lane(lane_id);
        let (site_id, source, governed) = (lane.site, lane.source, lane.governor);
        let mut wait: Option<Micros> = None;
        let mut look = Look::new(self.site(site_id));
        while let Some((queue, route)) = self.next_queue(site_id, &mut look) {
            let Some((stream_id, domain_id)) = self.queues.key(queue) else { continue };
            if self.is_paused(stream_id, domain_id, site_id, source) {
                continue;
            }
            let pool = Arc::clone(&self.stream(stream_id).1.pool);
            let Some(weight) = pool.weight(source) else { continue };
            if self.is_ahead((stream_id, domain_id, site_id), source, weight, &pool.members, now) {
                wait = Some(wait.unwrap_or(Micros::MAX).min(now + SHARE_WAIT));
                continue;
            }
            let stream_governed = self.stream(stream_id).2;
            if let Err(hold) = self.governor.check_message(governed, stream_governed, now) {
                work.horizons |= hold.until == Wait::Horizon;
                wait = Some(wait.unwrap_or(Micros::MAX).min(look_again(&hold, now)));
                if matches!(hold.because, Limit::StreamConnections | Limit::StreamMessageRate) {
                    continue;
                }
                self.lanes[lane_id.0 as usize].held_until = look_again(&hold, now);
                break;
            }
            let permit = match opening.then(|| self.governor.reserve_connection(governed, now)).transpose() {
                Ok(permit) => permit,
                Err(hold) => return Err(NotTaken::Held(hold)),
            };
            let most = if self.stream(stream_id).1.has_tokens {
                1
            } else {
                self.lane(lane_id).limits.recipients_per_transaction.max(1) as usize
            };
            // Neither can fail: nothing has changed since the look.
            let (Ok(()), Some(taken)) =
                (self.governor.reserve_message(governed, stream_governed, now), self.queues.take(queue, most))
            else {
                if let Some(permit) = permit {
                    self.governor.release_connection(permit);
                }
                break;
            };
            *self.sites[site_id.0 as usize].taken.entry(source).or_default() += 1;
            self.lanes[lane_id.0 as usize].took_at = now;
            let batch = Batch {
                queue,
                stream: stream_id,
                lane: lane_id,
                route,
                entries: taken.entries,
                message: taken.message,
            };
            return Ok((permit, batch));
        }
        if wait.is_none() && look.is_cut_short() {
            wait = Some(now + CAPACITY_WAIT);
        }
        Err(wait.map_or(NotTaken::Nothing, |until| NotTaken::Until(until.max(now + 1_000))))
    }

    /// The next queue at the site that has mail which could go, and where it goes; it moves to the
    /// end of the line. Queues that have none, or that wait for an administrator, leave the line:
    /// they come back by [`State::gained`].
    fn next_queue(&mut self, site_id: SiteId, look: &mut Look) -> Option<(QueueId, Arc<Route>)> {
        while look.left > 0 && look.found < QUEUES_PER_LOOK {
            look.left -= 1;
            let queue = self.sites[site_id.0 as usize].active.pop_front()?;
            if self.listed.get(&queue) != Some(&site_id) {
                continue; // it has gone elsewhere
            }
            let Some(route) = self.served(queue, site_id) else {
                self.listed.remove(&queue);
                continue;
            };
            self.sites[site_id.0 as usize].active.push_back(queue);
            look.found += 1;
            return Some((queue, route));
        }
        None
    }

    /// Where the ready mail of a queue goes from this site; `None`: it has none, it is paused
    /// altogether, or its route is being asked for.
    fn served(&mut self, queue: QueueId, site_id: SiteId) -> Option<Arc<Route>> {
        let (stream, domain) = self.queues.key(queue).filter(|_| self.queues.ready(queue) > 0)?;
        if !self.paused.is_empty() {
            let pool = Arc::clone(&self.stream(stream).1.pool);
            if pool.members.iter().all(|(source, _)| self.is_paused(stream, domain, site_id, *source)) {
                return None;
            }
        }
        if let Some((site, route)) = self.rerouted(queue) {
            return (site == site_id).then_some(route);
        }
        match self.domains.get(&domain).map(|domain| &domain.resolution) {
            Some(Resolution::Bound { site, route }) if *site == site_id => Some(Arc::clone(route)),
            _ => None,
        }
    }

    /// Opens as many connections to a site as its ready mail is worth and its limits allow.
    pub(crate) fn pump(&mut self, site_id: SiteId, now: Micros, work: &mut Work) {
        if self.stopping || self.site(site_id).active.is_empty() {
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
            match self.take(lane, true, now, work) {
                Ok((Some(permit), batch)) => {
                    self.lanes[lane.0 as usize].open += 1;
                    work.connections.push((permit, batch));
                    wanted -= 1;
                    continue;
                }
                // A connection was asked for, so there is a permit with every batch.
                Ok((None, batch)) => {
                    self.message_done(batch.lane, batch.stream);
                    self.queues.give_back(batch.queue, Taken { entries: batch.entries, message: batch.message });
                }
                Err(NotTaken::Held(hold)) => self.note_hold(site_id, &hold, now, &mut wake, work),
                Err(NotTaken::Until(until)) => wake = Some(wake.unwrap_or(Micros::MAX).min(until)),
                Err(NotTaken::Nothing) => {}
            }
            open.remove(place);
        }
        if let Some(at) = wake {
            self.wake_at(site_id, at, work);
        }
    }

    /// Nothing was tried for this batch: it goes back to the front of its queue, and the queue is
    /// placed anew: it may have left its line meanwhile, or its domain may have another route by now.
    pub(crate) fn put_back(&mut self, batch: Batch, now: Micros, work: &mut Work) {
        self.message_done(batch.lane, batch.stream);
        self.queues.give_back(batch.queue, Taken { entries: batch.entries, message: batch.message });
        self.gained(vec![batch.queue], now, work);
    }

    /// More connections are open than the limits allow since they were lowered.
    pub(super) fn is_surplus(&self, lane: LaneId) -> bool {
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
        // Those that wait for a place in the box or at the provider come first: their own lanes are
        // not the ones that close.
        for _ in 0..self.waiting_for_capacity.len().min(WAITING_SITES_PER_LOOK) {
            if let Some(waiting) = self.waiting_for_capacity.pop_front() {
                self.sites[waiting.0 as usize].waits_for_capacity = false;
                self.pump(waiting, now, work);
            }
        }
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

    /// How much is ready for a site, and which lanes may carry it.
    fn demand(&mut self, site: SiteId, now: Micros, work: &mut Work) -> (usize, SmallVec<[LaneId; 4]>) {
        let mut backlog = 0;
        let mut sources: SmallVec<[SourceId; 4]> = SmallVec::new();
        let mut later: Option<Micros> = None;
        let mut look = Look::new(self.site(site));
        while let Some((queue, _)) = self.next_queue(site, &mut look) {
            let Some((stream, domain)) = self.queues.key(queue) else { continue };
            let pool = Arc::clone(&self.stream(stream).1.pool);
            let mut usable = false;
            for (source, _) in &pool.members {
                if self.is_paused(stream, domain, site, *source) {
                    continue;
                }
                if !self.source_usable(*source, now) {
                    let out = self.source(*source).back_at();
                    later = later.into_iter().chain((out > now).then_some(out)).min();
                    continue;
                }
                usable = true;
                if !sources.contains(source) {
                    sources.push(*source);
                }
            }
            if usable {
                backlog += self.queues.ready(queue);
            }
        }
        if backlog == 0 && look.is_cut_short() {
            later = Some(later.unwrap_or(Micros::MAX).min(now + CAPACITY_WAIT));
        }
        if let Some(at) = later {
            self.wake_at(site, at, work);
        }
        let lanes = sources.into_iter().map(|source| self.lane_id(source, site, now)).collect();
        (backlog, lanes)
    }

    fn note_hold(&mut self, site: SiteId, hold: &Hold, now: Micros, wake: &mut Option<Micros>, work: &mut Work) {
        work.horizons |= hold.until == Wait::Horizon;
        if hold.until != Wait::Capacity {
            *wake = Some(wake.unwrap_or(Micros::MAX).min(look_again(hold, now).max(now + 1_000)));
            return;
        }
        // A connection of the lane itself that closes looks at this site anyway.
        if matches!(hold.because, Limit::BoxConnections | Limit::ProviderConnections)
            && !std::mem::replace(&mut self.sites[site.0 as usize].waits_for_capacity, true)
        {
            self.waiting_for_capacity.push_back(site);
        }
    }
}

/// Why there is no batch.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// There is no mail that this lane may carry.
    Nothing,
    /// There may be at that time.
    Until(Micros),
    /// There is, but no further connection may be opened.
    Held(Hold),
}

/// One look along the line of a site's queues.
struct Look {
    /// Places of the line that have not been looked at.
    left: usize,
    /// Queues with mail that were found.
    found: usize,
}

impl Look {
    fn new(site: &Site) -> Self {
        Self { left: site.active.len(), found: 0 }
    }

    /// There was more to look at.
    fn is_cut_short(&self) -> bool {
        self.left > 0
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
