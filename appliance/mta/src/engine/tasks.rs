//! What runs beside the connections: promoting what is due, making rate horizons
//! durable, sweeping, and finding out where domains go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postkeep_spool::Operation;

use super::settle::Fate;
use super::state::{State, Work};
use super::{FATE_AT_ONCE, Inner};
use crate::clock::{self, seconds};
use crate::queue::{DomainId, Entry, QueueId, StreamId};
use crate::routing::{self, Route, RouteError};

/// Queues, domains and lanes that hold nothing are forgotten this often.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// Mail whose time is up has this long, in seconds, for the last attempt that its schedule gives it.
const HELD_FOR: u32 = 600;

impl Inner {
    pub(super) async fn schedule(self: Arc<Self>) {
        loop {
            let mut work = Work::default();
            let (next, stopping) = {
                let mut state = self.state.lock();
                (state.tick(clock::now(), &mut work), state.stopping)
            };
            self.perform(work);
            if stopping {
                return;
            }
            let wait =
                next.map_or(Duration::from_secs(60), |at| Duration::from_micros(at.saturating_sub(clock::now())));
            tokio::select! {
                () = tokio::time::sleep(wait.clamp(Duration::from_millis(1), Duration::from_secs(60))) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Makes rate horizons and back-off states durable before they are used.
    pub(super) async fn keep_horizons(self: Arc<Self>) {
        let mut due = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = self.horizon_wake.notified() => {}
            }
            {
                let mut state = self.state.lock();
                if state.governor.has_horizons_due() {
                    state.governor.horizons_due(clock::now(), &mut due);
                }
            }
            if due.is_empty() {
                continue;
            }
            let notes = due.iter().map(|(key, value)| Operation::Note {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            });
            let written = self.spool.submit(notes).await;
            let mut work = Work::default();
            {
                let mut state = self.state.lock();
                for (key, value) in due.drain(..) {
                    match &written {
                        Ok(()) => state.governor.horizon_durable(&key, &value),
                        Err(_) => state.governor.horizon_lost(&key),
                    }
                }
                state.pump_all(clock::now(), &mut work);
            }
            self.perform(work);
            if let Err(error) = written {
                log::error!("spool: rate limits cannot be made durable: {error}; lanes with rates wait");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.state.lock().sweep(clock::now());
            self.expire_held().await;
            let old = self.repeats.old(seconds(clock::now()));
            if !old.is_empty() {
                drop(self.spool.submit(old));
            }
        }
    }

    /// Mail whose time is up while a pause or a limit holds it back is returned too.
    async fn expire_held(&self) {
        let now = seconds(clock::now());
        let held: Vec<(QueueId, StreamId)> = {
            let state = self.state.lock();
            let late = |queue: QueueId, stream: StreamId| {
                let oldest = state.queues.oldest(queue);
                state.stream(stream).1.expires(oldest).saturating_add(HELD_FOR) < now
            };
            state
                .queues
                .keys()
                .filter(|(queue, stream, _)| late(*queue, *stream))
                .map(|(id, stream, _)| (id, stream))
                .collect()
        };
        for (queue, stream) in held {
            let entries = {
                let mut state = self.state.lock();
                let plan = Arc::clone(&state.stream(stream).1);
                // What waits on although its time is up could not be read, or its report found no room.
                let is_late = |entry: &Entry| plan.expires(entry.received).saturating_add(HELD_FOR) < now;
                state.queues.extract(queue, |entry| is_late(entry) && entry.due <= now)
            };
            let fate = Fate::retry_unanswered("held back until its time was up", "queue");
            self.settle_entries(queue, stream, entries, &fate).await;
        }
    }

    /// Finds out where a domain's mail goes.
    pub(super) async fn resolve(self: Arc<Self>, domain: DomainId) {
        let Ok(slot) = self.dns_slots.acquire().await else { return };
        let (name, epoch) = {
            let state = self.state.lock();
            (state.domain_name(domain), state.route_epoch)
        };
        let configuration = self.configuration.load_full();
        let fixed = match self.route_to_sink(&name).await {
            Some(route) => Some(route),
            None => routing::configured_route(&configuration, &name),
        };
        let answer = match fixed {
            Some(route) => Ok(route),
            None => {
                let resolver = self.resolver.load_full();
                resolver.route(&name).await
            }
        };
        match answer {
            Ok(route) => {
                // A host that serves its policy slowly delays its own domain and nobody else's look-ups.
                drop(slot);
                if !route.fixed {
                    self.learn_policy(&name).await;
                }
                self.bind(domain, route, epoch);
            }
            Err(RouteError::Permanent(reply)) => self.refuse_domain(domain, Fate::failed(reply, "dns"), epoch).await,
            Err(RouteError::Temporary(detail)) => {
                self.refuse_domain(domain, Fate::retry_unanswered(detail, "dns"), epoch).await;
            }
        }
    }

    fn bind(&self, domain: DomainId, route: Route, epoch: u64) {
        let mut work = Work::default();
        {
            let mut state = self.state.lock();
            if state.route_epoch != epoch {
                state.ask_again(domain, clock::now(), &mut work);
                drop(state);
                self.perform(work);
                return;
            }
            let (site, provider) = state.rules.place(&route);
            state.bind(domain, &site, provider, Arc::new(route), clock::now(), &mut work);
        }
        self.perform(work);
    }

    /// All ready mail of a domain meets the same fate; what comes later asks again.
    async fn refuse_domain(&self, domain: DomainId, fate: Fate, epoch: u64) {
        loop {
            let mut work = Work::default();
            let taken: HashMap<(QueueId, StreamId), Vec<Entry>> = {
                let mut state = self.state.lock();
                if state.route_epoch != epoch {
                    state.ask_again(domain, clock::now(), &mut work);
                    drop(state);
                    self.perform(work);
                    return;
                }
                let taken = state.take_ready_of(domain, FATE_AT_ONCE);
                if taken.is_empty() {
                    state.forget_route_of(domain);
                }
                taken
            };
            if taken.is_empty() {
                return;
            }
            for ((queue, stream), entries) in taken {
                self.settle_entries(queue, stream, entries, &fate).await;
            }
        }
    }
}

impl State {
    /// An answer was found by a configuration that is no longer in force.
    fn ask_again(&mut self, domain: DomainId, now: clock::Micros, work: &mut Work) {
        self.forget_route_of(domain);
        let queues = self.domains.get(&domain).map(|domain| domain.queues.to_vec()).unwrap_or_default();
        let ready = queues.into_iter().filter(|queue| self.queues.ready(*queue) > 0).collect();
        self.gained(ready, now, work);
    }

    /// Takes up to `most` ready recipients of a domain, by queue. What is rerouted does not go by the
    /// domain's own route, and what is paused is left alone.
    fn take_ready_of(&mut self, domain: DomainId, most: usize) -> HashMap<(QueueId, StreamId), Vec<Entry>> {
        let mut out = HashMap::new();
        let queues = self.domains.get(&domain).map(|domain| domain.queues.clone()).unwrap_or_default();
        for queue in queues {
            let Some((stream, _)) = self.queues.key(queue) else { continue };
            if self.is_paused_everywhere(queue) || self.rerouted(queue).is_some() {
                continue;
            }
            let mut entries = Vec::new();
            while entries.len() < most
                && let Some(taken) = self.queues.take(queue, most)
            {
                entries.extend(taken.entries);
            }
            if !entries.is_empty() {
                out.insert((queue, stream), entries);
            }
        }
        out
    }
}
