//! All counters in one place: who may open a connection, who may send a message, now.
//!
//! A permit is reserved before the act and checks everything at once: the whole box, the
//! provider, the lane, the stream; it takes from all of them or from none. Since every worker
//! asks here, no limit is exceeded however many workers there are; since rates are covered by
//! durable horizons, none is exceeded across restarts either.
//!
//! A rate counts from the moment it is set; a rate that is changed counts what was granted under
//! the old one. A limit that is lowered below what is open now only lets things close.

use std::collections::HashMap;
use std::sync::Arc;

use postkeep_configuration::TotalLimits;

use crate::Micros;
use crate::backoff::{Backoff, Settings, State};
use crate::limits::Limits;
use crate::pacer::WHOLE;

pub use hold::{Hold, Limit, Wait};
pub use note::Note;
pub use snapshot::{LaneSnapshot, TotalSnapshot};

mod hold;
mod note;
mod paced;
mod snapshot;

use hold::Waits;
use paced::{Paced, pay};

/// Names a lane. Good until the lane is forgotten; a number is not used for another lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneId {
    index: u32,
    generation: u32,
}

/// Names a provider; good as long as the governor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProviderId(u32);

/// Names a stream; good as long as the governor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

/// The right to one open connection. Give it back with [`Governor::release_connection`].
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "a permit that is not released counts as an open connection for ever"]
pub struct ConnectionPermit {
    lane: LaneId,
}

impl ConnectionPermit {
    /// The lane it counts on.
    pub fn lane(&self) -> LaneId {
        self.lane
    }
}

/// The counters. See the module.
#[derive(Debug)]
pub struct Governor {
    settings: Settings,
    box_limit: u32,
    box_open: u32,
    lanes: Vec<Slot>,
    free: Vec<u32>,
    providers: Vec<Total>,
    streams: Vec<Total>,
    by_key: HashMap<Arc<[u8]>, Entity>,
    /// Notes of a former life, or of forgotten lanes, that nobody has asked for yet.
    former: HashMap<Box<[u8]>, Note>,
    /// Whose note may have to be written.
    due: Vec<Entity>,
    /// Notes to remove.
    removed: Vec<Arc<[u8]>>,
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entity {
    Lane(LaneId),
    Provider(u32),
    Stream(u32),
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    lane: Option<Box<Lane>>,
}

#[derive(Debug)]
struct Lane {
    key: Arc<[u8]>,
    provider: Option<ProviderId>,
    connection_limit: u32,
    open: u32,
    messages: u32,
    paced: Paced,
    backoff: Backoff,
    /// The stored note says something else about backing off.
    backoff_changed: bool,
    used_at: Micros,
    waiting: Option<Hold>,
}

/// A provider or a stream.
#[derive(Debug)]
struct Total {
    key: Arc<[u8]>,
    limit: Option<u32>,
    open: u32,
    paced: Paced,
}

impl Governor {
    /// A governor for a box that may hold `connections` open.
    pub fn new(connections: u32, settings: Settings) -> Self {
        Self {
            settings,
            box_limit: connections,
            box_open: 0,
            lanes: Vec::new(),
            free: Vec::new(),
            providers: Vec::new(),
            streams: Vec::new(),
            by_key: HashMap::new(),
            former: HashMap::new(),
            due: Vec::new(),
            removed: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Changes `[delivery] connections` and `[backoff]`.
    pub fn configure(&mut self, connections: u32, settings: Settings) {
        self.box_limit = connections;
        self.settings = settings;
    }

    /// The id of a provider, made on first use; its limits become these.
    pub fn provider_id(&mut self, name: &str, limits: &TotalLimits, now: Micros) -> ProviderId {
        let index = self.total_index(b"provider\0", name, Entity::Provider);
        self.set_total(Entity::Provider(index), limits, now);
        ProviderId(index)
    }

    /// The id of a stream, made on first use; its limits become these (`connection_rate` is not for streams).
    pub fn stream_id(&mut self, name: &str, limits: &TotalLimits, now: Micros) -> StreamId {
        let index = self.total_index(b"stream\0", name, Entity::Stream);
        let limits = TotalLimits { connection_rate: None, ..limits.clone() };
        self.set_total(Entity::Stream(index), &limits, now);
        StreamId(index)
    }

    /// The id of a lane, made on first use; its provider and limits become these, live.
    pub fn lane_id(
        &mut self,
        source: &str,
        site: &str,
        provider: Option<ProviderId>,
        limits: &Limits,
        now: Micros,
    ) -> LaneId {
        self.scratch.clear();
        self.scratch.extend_from_slice(b"lane\0");
        self.scratch.extend_from_slice(source.as_bytes());
        self.scratch.push(0);
        self.scratch.extend_from_slice(site.as_bytes());
        let known = self.by_key.get(self.scratch.as_slice()).copied();
        let id = match known {
            Some(Entity::Lane(id)) => id,
            _ => self.add_lane(now),
        };
        self.set_provider(id, provider);
        self.set_limits(id, limits, now);
        id
    }

    /// Changes a lane's limits.
    pub fn set_limits(&mut self, id: LaneId, limits: &Limits, now: Micros) {
        let Some(lane) = lane_mut(&mut self.lanes, id) else { return };
        lane.connection_limit = limits.connections;
        let changed = lane.paced.set(limits.connection_rate, limits.message_rate, now);
        if let Some(note) = self.former.remove(&*lane.key) {
            lane.paced.restore(&note, now);
            lane.backoff = note.backoff;
            lane.backoff_changed = false;
        }
        if changed {
            queue(&mut self.due, &mut lane.paced, Entity::Lane(id));
        }
    }

    /// More connections are open to the lane's provider, or from the whole box, than is allowed: a
    /// total was lowered. Whoever may close one, should.
    pub fn is_over_total(&self, id: LaneId) -> bool {
        let provider = lane_ref(&self.lanes, id).and_then(|lane| self.providers.get(lane.provider?.0 as usize));
        self.box_open > self.box_limit
            || provider.is_some_and(|provider| provider.limit.is_some_and(|limit| provider.open > limit))
    }

    /// A permit to open one connection on this lane: box, provider and lane, numbers and rates, or nothing.
    pub fn reserve_connection(&mut self, id: LaneId, now: Micros) -> Result<ConnectionPermit, Hold> {
        let Some(lane) = lane_mut(&mut self.lanes, id) else { return Err(Hold::FORGOTTEN) };
        let mut provider = lane.provider.and_then(|provider| self.providers.get_mut(provider.0 as usize));
        let share = lane.share(now)?;
        let mut waits = Waits::default();
        waits.rate(&mut lane.paced.connections, now, share, Limit::LaneConnectionRate);
        waits.count(lane.open, Some(lane.connection_limit_at(share)), Limit::LaneConnections);
        waits.count(self.box_open, Some(self.box_limit), Limit::BoxConnections);
        if let Some(provider) = provider.as_deref_mut() {
            waits.rate(&mut provider.paced.connections, now, WHOLE, Limit::ProviderConnectionRate);
            waits.count(provider.open, provider.limit, Limit::ProviderConnections);
        }
        let result = waits.result();
        lane.waiting = result.err();
        if result.is_ok() {
            lane.open += 1;
            lane.used_at = now;
            self.box_open += 1;
            pay(&mut lane.paced.connections, now, share);
        }
        if lane.paced.connections.as_ref().is_some_and(|pacer| pacer.horizon_due(now)) {
            queue(&mut self.due, &mut lane.paced, Entity::Lane(id));
        }
        if let (Some(provider), Some(name)) = (provider, lane.provider) {
            if result.is_ok() {
                provider.open += 1;
                pay(&mut provider.paced.connections, now, WHOLE);
            }
            if provider.paced.connections.as_ref().is_some_and(|pacer| pacer.horizon_due(now)) {
                queue(&mut self.due, &mut provider.paced, Entity::Provider(name.0));
            }
        }
        result.map(|()| ConnectionPermit { lane: id })
    }

    /// The connection is closed.
    pub fn release_connection(&mut self, permit: ConnectionPermit) {
        self.box_open = self.box_open.saturating_sub(1);
        let Some(lane) = lane_mut(&mut self.lanes, permit.lane) else { return };
        lane.open = lane.open.saturating_sub(1);
        if let Some(provider) = lane.provider.and_then(|provider| self.providers.get_mut(provider.0 as usize)) {
            provider.open = provider.open.saturating_sub(1);
        }
    }

    /// The right to send one message (one transaction) of this stream on this lane; end it with
    /// [`Governor::message_done`]. A paused lane sends nothing, not even on a connection that is open.
    pub fn reserve_message(&mut self, id: LaneId, stream: StreamId, now: Micros) -> Result<(), Hold> {
        self.message(id, stream, now, true)
    }

    /// Whether [`Governor::reserve_message`] would succeed now; takes nothing.
    pub fn check_message(&mut self, id: LaneId, stream: StreamId, now: Micros) -> Result<(), Hold> {
        self.message(id, stream, now, false)
    }

    fn message(&mut self, id: LaneId, stream: StreamId, now: Micros, take: bool) -> Result<(), Hold> {
        let Some(lane) = lane_mut(&mut self.lanes, id) else { return Err(Hold::FORGOTTEN) };
        let mut provider = lane.provider.and_then(|provider| self.providers.get_mut(provider.0 as usize));
        let mut total = self.streams.get_mut(stream.0 as usize);
        let share = lane.share(now)?;
        let mut waits = Waits::default();
        waits.rate(&mut lane.paced.messages, now, share, Limit::LaneMessageRate);
        if let Some(provider) = provider.as_deref_mut() {
            waits.rate(&mut provider.paced.messages, now, WHOLE, Limit::ProviderMessageRate);
        }
        if let Some(total) = total.as_deref_mut() {
            waits.rate(&mut total.paced.messages, now, WHOLE, Limit::StreamMessageRate);
            waits.count(total.open, total.limit, Limit::StreamConnections);
        }
        let result = waits.result();
        lane.waiting = result.err();
        let take = take && result.is_ok();
        if take {
            lane.messages += 1;
            lane.used_at = now;
            pay(&mut lane.paced.messages, now, share);
        }
        if lane.paced.messages.as_ref().is_some_and(|pacer| pacer.horizon_due(now)) {
            queue(&mut self.due, &mut lane.paced, Entity::Lane(id));
        }
        if let (Some(provider), Some(name)) = (provider, lane.provider) {
            if take {
                pay(&mut provider.paced.messages, now, WHOLE);
            }
            if provider.paced.messages.as_ref().is_some_and(|pacer| pacer.horizon_due(now)) {
                queue(&mut self.due, &mut provider.paced, Entity::Provider(name.0));
            }
        }
        if let Some(total) = total {
            if take {
                total.open += 1;
                pay(&mut total.paced.messages, now, WHOLE);
            }
            if total.paced.messages.as_ref().is_some_and(|pacer| pacer.horizon_due(now)) {
                queue(&mut self.due, &mut total.paced, Entity::Stream(stream.0));
            }
        }
        result
    }

    /// The transaction has ended, however it ended. Once for each [`Governor::reserve_message`] that succeeded.
    pub fn message_done(&mut self, id: LaneId, stream: StreamId) {
        if let Some(lane) = lane_mut(&mut self.lanes, id) {
            lane.messages = lane.messages.saturating_sub(1);
        }
        if let Some(total) = self.streams.get_mut(stream.0 as usize) {
            total.open = total.open.saturating_sub(1);
        }
    }

    /// A delivery on this lane. `Some`: its back-off state changed to this.
    pub fn success(&mut self, id: LaneId, now: Micros) -> Option<State> {
        let settings = self.settings;
        self.change_backoff(id, now, |backoff| backoff.success(&settings, now))
    }

    /// A lane failure: 421, connection refused or lost. `Some`: its back-off state changed to this.
    pub fn failure(&mut self, id: LaneId, now: Micros, why: &str) -> Option<State> {
        let settings = self.settings;
        self.change_backoff(id, now, |backoff| backoff.failure(&settings, now, why))
    }

    /// The receiver wants to be left alone for this long. `Some`: the back-off state changed to this.
    pub fn block(&mut self, id: LaneId, now: Micros, length: Micros, why: &str) -> Option<State> {
        let settings = self.settings;
        self.change_backoff(id, now, |backoff| backoff.block(&settings, now, length, why))
    }

    /// Ends backing off: an administrator's word.
    pub fn reset_backoff(&mut self, id: LaneId, now: Micros) -> Option<State> {
        self.change_backoff(id, now, |backoff| {
            let changed = !backoff.is_normal();
            backoff.reset();
            changed
        })
    }

    /// Whether [`Governor::horizons_due`] has anything to say.
    pub fn has_horizons_due(&self) -> bool {
        !self.due.is_empty() || !self.removed.is_empty()
    }

    /// Appends the notes that must be written now, as (key, value), in the order in which they
    /// must be written; an empty value removes the note. Each is named once: report every one with
    /// [`Governor::horizon_durable`] or [`Governor::horizon_lost`].
    pub fn horizons_due(&mut self, now: Micros, out: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        out.extend(self.removed.drain(..).map(|key| (key.to_vec(), Vec::new())));
        let mut due = std::mem::take(&mut self.due);
        for entity in due.drain(..) {
            match entity {
                Entity::Lane(id) => {
                    if let Some(lane) = lane_mut(&mut self.lanes, id) {
                        let changed = std::mem::take(&mut lane.backoff_changed);
                        lane.paced.write_note(&lane.key, Some(&lane.backoff), changed, now, out);
                    }
                }
                Entity::Provider(index) => {
                    if let Some(total) = self.providers.get_mut(index as usize) {
                        total.paced.write_note(&total.key, None, false, now, out);
                    }
                }
                Entity::Stream(index) => {
                    if let Some(total) = self.streams.get_mut(index as usize) {
                        total.paced.write_note(&total.key, None, false, now, out);
                    }
                }
            }
        }
        // Keeps its capacity.
        self.due = due;
    }

    /// This note is on disk: permits up to its horizons may be given.
    pub fn horizon_durable(&mut self, key: &[u8], value: &[u8]) {
        let Some(note) = Note::decode(value) else { return };
        if let Some(paced) = self.paced_mut(key) {
            if let (Some(pacer), Some(horizon)) = (&mut paced.connections, note.connections) {
                pacer.horizon_durable(horizon);
            }
            if let (Some(pacer), Some(horizon)) = (&mut paced.messages, note.messages) {
                pacer.horizon_durable(horizon);
            }
        }
    }

    /// This note could not be written. It is due again.
    pub fn horizon_lost(&mut self, key: &[u8]) {
        let Some(entity) = self.by_key.get(key).copied() else { return };
        if let Entity::Lane(id) = entity
            && let Some(lane) = lane_mut(&mut self.lanes, id)
        {
            lane.backoff_changed = true;
        }
        if let Some(paced) = self.paced_mut(key) {
            for pacer in [&mut paced.connections, &mut paced.messages].into_iter().flatten() {
                pacer.horizon_lost();
            }
            if !paced.queued {
                paced.queued = true;
                self.due.push(entity);
            }
        }
    }

    /// Takes over a note of a former life. False: it is not one of ours, or damaged; nothing was changed.
    pub fn restore(&mut self, key: &[u8], value: &[u8], now: Micros) -> bool {
        let Some(note) = Note::decode(value) else { return false };
        if ![&b"lane\0"[..], b"provider\0", b"stream\0"].iter().any(|kind| key.starts_with(kind)) {
            return false;
        }
        let Some(entity) = self.by_key.get(key).copied() else {
            self.former.insert(key.into(), note);
            return true;
        };
        if let Entity::Lane(id) = entity
            && let Some(lane) = lane_mut(&mut self.lanes, id)
        {
            lane.backoff = note.backoff.clone();
        }
        if let Some(paced) = self.paced_mut(key) {
            paced.restore(&note, now);
        }
        true
    }

    /// Drops lanes that were not used for `idle`, have nothing open, and would behave the same if
    /// made anew. Returns how many.
    pub fn forget_idle(&mut self, now: Micros, idle: Micros) -> usize {
        let mut forgotten = 0;
        for (index, slot) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = &slot.lane else { continue };
            if lane.used_at.saturating_add(idle) > now || !lane.is_forgettable(now) {
                continue;
            }
            self.by_key.remove(&lane.key);
            if lane.paced.noted {
                // A rate with a longer stretch may be set later: the note stays for a day.
                self.former.insert(lane.key.as_ref().into(), lane.paced.put_away(now));
            }
            slot.lane = None;
            // A number whose generations are used up is never used again.
            if let Some(generation) = slot.generation.checked_add(1) {
                slot.generation = generation;
                self.free.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
            forgotten += 1;
        }
        self.former.retain(|key, note| {
            let keep = !note.is_forgettable(now);
            if !keep {
                self.removed.push(key.as_ref().into());
            }
            keep
        });
        forgotten
    }

    /// One lane as it is now.
    pub fn lane(&self, id: LaneId, now: Micros) -> Option<LaneSnapshot> {
        let slot = self.lanes.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.lane.as_ref().map(|lane| self.describe(id, lane, now))
    }

    /// All lanes as they are now.
    pub fn snapshot(&self, now: Micros) -> Vec<LaneSnapshot> {
        let lanes = self.lanes.iter().enumerate();
        lanes
            .filter_map(|(index, slot)| {
                let id = LaneId { index: u32::try_from(index).ok()?, generation: slot.generation };
                slot.lane.as_ref().map(|lane| self.describe(id, lane, now))
            })
            .collect()
    }

    /// All providers as they are now.
    pub fn providers(&self) -> Vec<TotalSnapshot> {
        self.providers.iter().map(Total::describe).collect()
    }

    /// All streams as they are now.
    pub fn streams(&self) -> Vec<TotalSnapshot> {
        self.streams.iter().map(Total::describe).collect()
    }

    /// Whether the lane is still known; it is forgotten when it was idle for long.
    pub fn knows(&self, id: LaneId) -> bool {
        lane_ref(&self.lanes, id).is_some()
    }

    /// Open connections of the whole box.
    pub fn connections(&self) -> u32 {
        self.box_open
    }

    fn describe(&self, id: LaneId, lane: &Lane, now: Micros) -> LaneSnapshot {
        let share = lane.backoff.share(now);
        let provider = lane.provider.and_then(|provider| self.providers.get(provider.0 as usize));
        LaneSnapshot {
            id,
            source: key_part(&lane.key, 1),
            site: key_part(&lane.key, 2),
            provider: provider.map(|provider| key_part(&provider.key, 1)),
            connections: lane.open,
            connection_limit: if share == 0 { 0 } else { lane.connection_limit_at(share) },
            messages: lane.messages,
            state: lane.backoff.state(now),
            share,
            last_failure: lane.backoff.last_failure().map(|(at, why)| (at, why.to_owned())),
            waiting: lane.waiting,
            used_at: lane.used_at,
        }
    }

    /// Adds the lane whose key is in `scratch`.
    fn add_lane(&mut self, now: Micros) -> LaneId {
        let key: Arc<[u8]> = self.scratch.as_slice().into();
        let index = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(Slot::default());
            u32::try_from(self.lanes.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.lanes.get(index as usize).map_or(0, |slot| slot.generation);
        let id = LaneId { index, generation };
        if let Some(slot) = self.lanes.get_mut(index as usize) {
            slot.lane = Some(Box::new(Lane {
                key: Arc::clone(&key),
                provider: None,
                connection_limit: 0,
                open: 0,
                messages: 0,
                paced: Paced::default(),
                backoff: Backoff::new(),
                backoff_changed: false,
                used_at: now,
                waiting: None,
            }));
        }
        self.by_key.insert(key, Entity::Lane(id));
        id
    }

    /// Moves a lane to another provider, with its open connections.
    fn set_provider(&mut self, id: LaneId, provider: Option<ProviderId>) {
        let Some(lane) = lane_mut(&mut self.lanes, id) else { return };
        if lane.provider == provider {
            return;
        }
        let old = std::mem::replace(&mut lane.provider, provider);
        let mut total = |provider: Option<ProviderId>, change: fn(u32, u32) -> u32| {
            if let Some(total) = provider.and_then(|provider| self.providers.get_mut(provider.0 as usize)) {
                total.open = change(total.open, lane.open);
            }
        };
        total(old, u32::saturating_sub);
        total(provider, u32::saturating_add);
    }

    fn total_index(&mut self, kind: &[u8], name: &str, entity: fn(u32) -> Entity) -> u32 {
        self.scratch.clear();
        self.scratch.extend_from_slice(kind);
        self.scratch.extend_from_slice(name.as_bytes());
        if let Some(Entity::Provider(index) | Entity::Stream(index)) = self.by_key.get(self.scratch.as_slice()) {
            return *index;
        }
        let key: Arc<[u8]> = self.scratch.as_slice().into();
        let totals = match entity(0) {
            Entity::Stream(_) => &mut self.streams,
            _ => &mut self.providers,
        };
        let index = u32::try_from(totals.len()).unwrap_or(u32::MAX);
        totals.push(Total { key: Arc::clone(&key), limit: None, open: 0, paced: Paced::default() });
        self.by_key.insert(key, entity(index));
        index
    }

    fn set_total(&mut self, entity: Entity, limits: &TotalLimits, now: Micros) {
        let total = match entity {
            Entity::Provider(index) => self.providers.get_mut(index as usize),
            Entity::Stream(index) => self.streams.get_mut(index as usize),
            Entity::Lane(_) => None,
        };
        let Some(total) = total else { return };
        total.limit = limits.connections;
        let changed = total.paced.set(limits.connection_rate, limits.message_rate, now);
        if let Some(note) = self.former.remove(&*total.key) {
            total.paced.restore(&note, now);
        }
        if changed {
            queue(&mut self.due, &mut total.paced, entity);
        }
    }

    fn change_backoff(&mut self, id: LaneId, now: Micros, change: impl FnOnce(&mut Backoff) -> bool) -> Option<State> {
        let lane = lane_mut(&mut self.lanes, id)?;
        if !change(&mut lane.backoff) {
            return None;
        }
        lane.backoff_changed = true;
        queue(&mut self.due, &mut lane.paced, Entity::Lane(id));
        Some(lane.backoff.state(now))
    }

    fn paced_mut(&mut self, key: &[u8]) -> Option<&mut Paced> {
        match self.by_key.get(key).copied()? {
            Entity::Lane(id) => lane_mut(&mut self.lanes, id).map(|lane| &mut lane.paced),
            Entity::Provider(index) => self.providers.get_mut(index as usize).map(|total| &mut total.paced),
            Entity::Stream(index) => self.streams.get_mut(index as usize).map(|total| &mut total.paced),
        }
    }
}

impl Lane {
    /// The share in force, or the pause that stands in the way.
    fn share(&mut self, now: Micros) -> Result<u32, Hold> {
        self.backoff.observe(now);
        match self.backoff.state(now) {
            State::Normal { .. } => Ok(WHOLE),
            State::Slow { share, .. } => Ok(share),
            State::Paused { until } => {
                let hold = Hold { until: Wait::Until(until), because: Limit::BackingOff };
                self.waiting = Some(hold);
                Err(hold)
            }
        }
    }

    /// At least one, unless the limit itself is none.
    fn connection_limit_at(&self, share: u32) -> u32 {
        let scaled = u64::from(self.connection_limit) * u64::from(share.min(WHOLE)) / u64::from(WHOLE);
        u32::try_from(scaled).unwrap_or(u32::MAX).max(self.connection_limit.min(1))
    }

    fn is_forgettable(&self, now: Micros) -> bool {
        self.open == 0
            && self.messages == 0
            && !self.paced.queued
            && self.paced.pacers().all(|pacer| pacer.is_forgettable(now))
            && note::backoff_is_forgettable(&self.backoff, now)
    }
}

impl Total {
    fn describe(&self) -> TotalSnapshot {
        TotalSnapshot { name: key_part(&self.key, 1), open: self.open, limit: self.limit }
    }
}

fn queue(due: &mut Vec<Entity>, paced: &mut Paced, entity: Entity) {
    if !paced.queued {
        paced.queued = true;
        due.push(entity);
    }
}

fn lane_ref(lanes: &[Slot], id: LaneId) -> Option<&Lane> {
    let slot = lanes.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
    slot.lane.as_deref()
}

fn lane_mut(lanes: &mut [Slot], id: LaneId) -> Option<&mut Lane> {
    let slot = lanes.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
    slot.lane.as_deref_mut()
}

/// A piece of a key between its zero octets, as text.
fn key_part(key: &[u8], part: usize) -> String {
    let piece = key.split(|byte| *byte == 0).nth(part).unwrap_or_default();
    String::from_utf8_lossy(piece).into_owned()
}

#[cfg(test)]
mod tests;
