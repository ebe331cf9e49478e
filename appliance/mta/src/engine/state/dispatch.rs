//! Mail goes out: which message a connection carries next, how many connections
//! a site is worth, and who has to wait.

use postkeep_deliverability::governor::{self, Hold, Limit, Wait};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::sync::Arc;
use tokio::sync::Notify;

use super::{Batch, LaneId, Next, Resolution, SiteId, State, Work};
use crate::clock::Micros;
use crate::engine::plan::SourceId;
use crate::queue::StreamId;

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

impl State {
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
    pub(super) fn take(&mut self, lane_id: LaneId, now: Micros, work: &mut Work) -> Result<Option<Batch>, Micros> {
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
    pub(super) fn demand(&mut self, site: SiteId, now: Micros, work: &mut Work) -> (usize, SmallVec<[LaneId; 4]>) {
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
    pub(super) fn least_served(&self, site: SiteId, lanes: &[LaneId]) -> usize {
        let taken = &self.site(site).taken;
        let count = |lane: &LaneId| taken.get(&self.lane(*lane).source).copied().unwrap_or(0);
        (0..lanes.len()).min_by_key(|place| count(&lanes[*place])).unwrap_or(0)
    }

    /// True when this source has taken more than its weight allows while another of the pool could take mail now.
    pub(super) fn is_ahead(
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

    pub(super) fn note_hold(&self, hold: &Hold, now: Micros, wake: &mut Option<Micros>, work: &mut Work) {
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
