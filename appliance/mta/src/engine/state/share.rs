//! Who of a pool's sources is served next, so that each carries its weight of a
//! site's mail: counts of messages taken, compared by weight.

use super::{LaneId, SiteId, State};
use crate::clock::Micros;
use crate::engine::plan::SourceId;
use crate::queue::{DomainId, StreamId};

/// A lane may run this many messages (by weight) ahead of the others of its pool.
const SHARE_SLACK: u64 = 8;
/// A lane with open connections that has taken nothing for this long is stuck (a tarpit), and nobody waits for it.
const STUCK_AFTER: Micros = 2_000_000;

impl State {
    /// The place of the lane whose source has taken least, by weight-free count; weights act in `take`.
    pub(super) fn least_served(&self, site: SiteId, lanes: &[LaneId]) -> usize {
        let taken = &self.site(site).taken;
        let count = |lane: &LaneId| taken.get(&self.lane(*lane).source).copied().unwrap_or(0);
        (0..lanes.len()).min_by_key(|place| count(&lanes[*place])).unwrap_or(0)
    }

    /// True when this source has taken more than its weight allows while another of the pool could take mail now.
    pub(super) fn is_ahead(
        &mut self,
        (stream, domain, site_id): (StreamId, DomainId, SiteId),
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
            let is_stuck = lane.idle.is_empty() && now.saturating_sub(lane.took_at) > STUCK_AFTER;
            if lane.open == 0 || lane.held_until > now || is_stuck || self.is_paused(stream, domain, site_id, *other) {
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
}
