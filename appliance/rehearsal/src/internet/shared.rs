//! What the hosts of a simulated internet share: who is connected, what was
//! accepted, who counts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::StreamPromise;
use crate::arrivals::Arrival;
use crate::comeback::Comebacks;
use crate::judge::{Judge, LaneKey};
use crate::ledger::{Ledger, Receipt};
use crate::mailbox::{Mailboxes, Moment};
use crate::receiver::TlsTally;
use crate::rulebook::Provider;
use crate::signature::Verifier;

/// A lock that a panic elsewhere does not close for good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the hosts share.
pub(crate) struct Shared {
    pub(super) start: Instant,
    pub(super) providers: Vec<Arc<Provider>>,
    pub(super) mailboxes: Vec<Mutex<Mailboxes>>,
    pub(super) tls: Vec<TlsTally>,
    pub(super) home: usize,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) floor: Mutex<Floor>,
    pub(super) verifier: Verifier,
    pub(super) sources: HashMap<IpAddr, String>,
    pub(super) next: AtomicU64,
    pub(super) comebacks: Comebacks,
    /// What the owner's streams promise.
    pub(crate) streams: HashMap<String, StreamPromise>,
    pub(super) feedback_domain: Option<String>,
}

/// Who is connected, and the judge who counts them.
pub(super) struct Floor {
    pub(super) judge: Judge,
    pub(super) live: HashMap<usize, Vec<Live>>,
}

pub(super) struct Live {
    id: u64,
    handle: OwnedFd,
}

impl Floor {
    /// Connections whose sender has hung up are over, even if nobody has read that yet.
    fn reap(&mut self, provider: usize) {
        let Some(list) = self.live.get_mut(&provider) else { return };
        let judge = &mut self.judge;
        list.retain(|live| {
            let mut asked = [PollFd::new(&live.handle, PollFlags::RDHUP)];
            let over = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0);
            if over {
                judge.closed(live.id);
            }
            !over
        });
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Moment {
        self.start.elapsed()
    }

    pub(crate) fn source_name(&self, address: IpAddr) -> String {
        self.sources.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    pub(crate) fn provider_name(&self, provider: usize) -> String {
        self.providers.get(provider).map(|provider| provider.name.clone()).unwrap_or_default()
    }

    pub(crate) fn mailboxes(&self, provider: usize) -> MutexGuard<'_, Mailboxes> {
        // Doors are made from the same list, so the place exists.
        #[allow(clippy::indexing_slicing)]
        lock(&self.mailboxes[provider])
    }

    pub(crate) fn tls(&self, provider: usize) -> &TlsTally {
        #[allow(clippy::indexing_slicing)]
        &self.tls[provider]
    }

    pub(crate) fn is_home(&self, provider: usize) -> bool {
        provider == self.home
    }

    /// Whether mail of a stream that was handed in with one return path may arrive with another.
    pub(crate) fn may_come_from(&self, stream: &str, sent: &str, arrived: &str) -> bool {
        // One of the box's own, by which it is found again.
        let own = || {
            let verp = self.streams.get(stream).is_some_and(|promise| promise.verp);
            let domain = arrived.rsplit_once('@').map(|(_, domain)| domain);
            verp && !sent.is_empty()
                && domain.zip(self.feedback_domain.as_deref()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        arrived == sent || own()
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(crate) fn judged(&self, tell: impl FnOnce(&mut Judge)) {
        tell(&mut lock(&self.floor).judge);
    }

    /// A connection was accepted: its number, and how many that lane has now.
    pub(crate) fn entered(&self, lane: LaneKey, handle: Option<OwnedFd>) -> (u64, u32) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let limit = self.providers.get(lane.provider).and_then(|provider| provider.limits.connections);
        let mut floor = lock(&self.floor);
        if floor.judge.would_exceed(&lane) || limit.is_some_and(|limit| floor.judge.open_in(&lane) >= limit) {
            floor.reap(lane.provider);
        }
        if let Some(handle) = handle {
            floor.live.entry(lane.provider).or_default().push(Live { id, handle });
        }
        floor.judge.opened(id, lane.clone(), self.start.elapsed());
        let open = floor.judge.open_in(&lane);
        (id, open)
    }

    /// A connection ended.
    pub(crate) fn left(&self, id: u64, lane: &LaneKey) {
        let mut floor = lock(&self.floor);
        floor.judge.closed(id);
        if let Some(list) = floor.live.get_mut(&lane.provider) {
            list.retain(|live| live.id != id);
        }
    }

    /// Whether arrivals are written down.
    pub(crate) fn keeps_arrivals(&self) -> bool {
        self.verifier.keeps_arrivals()
    }

    pub(crate) async fn verify(&self, provider: usize, message: Bytes, arrival: Option<Arrival>) {
        self.verifier.submit(provider, message, arrival).await;
    }

    /// A message was accepted and answered: some of its recipients send something back.
    pub(crate) async fn come_back(&self, provider: usize, recipients: &[String], sender: &str, message: &[u8]) {
        let Some(rules) = self.providers.get(provider) else { return };
        self.comebacks.note(rules, &self.streams, recipients, sender, message).await;
    }

    pub(crate) fn replied(&self, receipts: &[Receipt]) {
        let now = self.now();
        let mut ledger = self.ledger();
        for receipt in receipts {
            ledger.replied(receipt, now);
        }
    }
}
