//! The engine: takes accepted mail from the doors into spool and queue, and
//! drives it out through lanes until every recipient has reached its end.
//!
//! One locked [`state::State`] decides; tasks around it do the I/O: one for each
//! outgoing connection, one that promotes what is due, one that makes rate
//! horizons durable, one that resolves each domain.

mod admin;
mod connection;
mod feedback;
mod fetch;
mod gatekeeper;
mod health;
mod host_faults;
mod plan;
mod protection;
mod reload;
mod rendering;
mod repeats;
mod rules;
mod settle;
mod state;
mod suppressed;
mod tasks;
mod tls_reports;
mod unsubscribe;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use postkeep_configuration::Configuration;
use postkeep_deliverability::dkim::Signer;
use postkeep_deliverability::governor::{ConnectionPermit, Governor};
use postkeep_deliverability::reply::RuleBook;
use postkeep_delivery::Connector;
use postkeep_spool::{Disk, MessageId, Operation, Spool};
use postkeep_suppression::{Standings, Suppression};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, watch};

pub use admin::{LaneView, MailView, QueueAction, QueueReport, QueueStatus, Waiting};
pub use health::HealthCheck;
pub(crate) use reload::reload_parts;
pub use reload::{ReloadError, try_out};
pub use state::Suspension;

use self::host_faults::HostFaults;
use self::protection::Policies;
use self::repeats::Repeats;
use self::rules::Rules;
use self::settle::{Fate, Journey};
use self::state::{Batch, LaneId, Next, SourcePlan, State, Work};
use self::tls_reports::TlsSessions;
use crate::clock::{self, Micros, seconds};
use crate::message::{Budget, Message};
use crate::metadata::Metadata;
use crate::metrics::{Levels, Metrics};
use crate::queue::{Entry, QueueId, StreamId};
use crate::records::Records;
use crate::routing::Resolver;

/// DNS questions about domains that may be open at once.
const DNS_AT_ONCE: usize = 256;
/// Recipients taken out of a queue at a time when all of them share a fate.
const FATE_AT_ONCE: usize = 512;
/// Messages that are settled side by side, so that they share the spool's syncs.
const SETTLED_AT_ONCE: usize = 64;
/// Wait after a message could not be read back from the spool.
const UNREADABLE_WAIT_SECONDS: u32 = 3600;
/// Spool note that keeps the administrator's pauses.
const NOTE_PAUSED: &[u8] = b"admin/paused";
/// Spool note that keeps what receivers do not want for a while.
const NOTE_SUSPENDED: &[u8] = b"replies/suspended";
/// Spool note that keeps the administrator's reroutes.
const NOTE_REROUTED: &[u8] = b"admin/rerouted";

/// Why the engine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The spool.
    #[error("cannot open the spool: {0}")]
    Spool(#[from] postkeep_spool::OpenError),
    /// The records.
    #[error("cannot open the records: {0}")]
    Records(#[from] std::io::Error),
    /// The folder of MTA-STS policies.
    #[error("cannot open the folder of [mta-sts]: {0}")]
    Policies(std::io::Error),
    /// The folder of TLS reports.
    #[error("cannot open the folder of [tls-reports]: {0}")]
    TlsReports(std::io::Error),
    /// What the configuration refers to.
    #[error(transparent)]
    Configuration(#[from] ReloadError),
}

/// The running mail core. Clones share one engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) state: Mutex<State>,
    pub(crate) spool: Spool<Disk>,
    /// Whom not to write to.
    pub(crate) suppression: Suppression,
    /// What was submitted under a key of its own.
    repeats: Arc<Repeats>,
    pub(crate) records: Records,
    pub(crate) metrics: Metrics,
    pub(crate) configuration: Arc<ArcSwap<Configuration>>,
    pub(crate) signer: ArcSwap<Signer>,
    /// What receivers' replies mean.
    pub(crate) replies: ArcSwap<RuleBook>,
    pub(crate) connector: ArcSwap<Connector>,
    pub(crate) resolver: ArcSwap<Resolver>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) host_faults: HostFaults,
    /// What domains want their mail protected by.
    policies: Policies,
    /// What is told to them about it.
    tls_sessions: TlsSessions,
    /// What examinations need.
    health: health::Health,
    /// The spool had no room a moment ago; new messages are refused before they are read until then.
    full_until: AtomicU64,
    /// When it was said last that the disk is full.
    full_told: AtomicU64,
    /// Wakes the scheduler.
    pub(crate) wake: Notify,
    horizon_wake: Notify,
    dns_slots: Semaphore,
    /// Open outgoing connections; shutdown waits for zero.
    connections: watch::Sender<usize>,
    me: std::sync::Weak<Inner>,
}

impl Engine {
    /// Opens spool and records, finds the mail that was left, and starts.
    /// Blocks while the spool is read; call inside a tokio runtime.
    ///
    /// # Errors
    /// Spool, records, keys or resolver cannot be opened.
    pub fn start(configuration: Arc<ArcSwap<Configuration>>, suppression: Suppression) -> Result<Self, StartError> {
        let current = configuration.load_full();
        let parts = reload::Parts::new(&current)?;
        let records = Records::open(&current.records)?;
        let governor = Governor::new(current.delivery.connections, (&current.backoff).into());
        parts.warn();
        let rules = Rules { configuration: Arc::clone(&current), providers: Arc::clone(&parts.providers) };
        let now = clock::now();
        let mut state = State::new(governor, rules);
        state.configure(&current, Arc::clone(&parts.providers), now);
        let repeats = Arc::new(Repeats::default());
        let policies = Policies::open(&current, parts.https).map_err(StartError::Policies)?;
        let tls_sessions = TlsSessions::default();
        if let Some(reports) = &current.tls_reports {
            tls_sessions.load(&reports.directory).map_err(StartError::TlsReports)?;
        }
        let spool = recover(&current, &mut state, &repeats, now)?;
        let inner = Arc::new_cyclic(|me| Inner {
            state: Mutex::new(state),
            spool,
            suppression,
            repeats,
            records,
            metrics: Metrics::default(),
            host_faults: HostFaults::default(),
            policies,
            tls_sessions,
            health: health::Health::default(),
            full_until: AtomicU64::new(0),
            full_told: AtomicU64::new(0),
            budget: Budget::new(current.spool.memory.bytes()),
            configuration,
            signer: ArcSwap::from_pointee(parts.signer),
            replies: ArcSwap::from_pointee(parts.replies),
            connector: ArcSwap::from_pointee(parts.connector),
            resolver: ArcSwap::from_pointee(parts.resolver),
            wake: Notify::new(),
            horizon_wake: Notify::new(),
            dns_slots: Semaphore::new(DNS_AT_ONCE),
            connections: watch::channel(0).0,
            me: me.clone(),
        });
        tokio::spawn(Arc::clone(&inner).schedule());
        tokio::spawn(Arc::clone(&inner).keep_horizons());
        tokio::spawn(Arc::clone(&inner).sweep());
        tokio::spawn(Arc::clone(&inner).refresh_policies());
        tokio::spawn(Arc::clone(&inner).report_sessions());
        tokio::spawn(Arc::clone(&inner).keep_sessions());
        Ok(Self(inner))
    }

    /// Stops sending: nothing new is taken from the queue, what is under way
    /// may finish within `grace`. Then spool and records are closed.
    pub async fn stop(&self, grace: Duration) {
        {
            let mut state = self.0.state.lock();
            state.stopping = true;
            state.wake_everyone();
        }
        self.0.wake.notify_one();
        let mut open = self.0.connections.subscribe();
        if tokio::time::timeout(grace, open.wait_for(|open| *open == 0)).await.is_err() {
            log::warn!(
                "stopping with {} transactions under way; they will be tried again after the start",
                *self.0.connections.borrow()
            );
        }
        let inner = Arc::clone(&self.0);
        // Both block until their threads have written everything.
        let _ = tokio::task::spawn_blocking(move || {
            if let Some(reports) = &inner.configuration.load().tls_reports {
                inner.tls_sessions.keep(&reports.directory);
            }
            inner.spool.close();
            inner.records.close();
        })
        .await;
    }

    /// Whom not to write to.
    pub fn suppression(&self) -> &Suppression {
        &self.0.suppression
    }

    /// Changes whenever records were written.
    pub fn records_written(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.records.written()
    }

    /// Recipients queued, all told.
    pub fn queued(&self) -> u64 {
        self.0.state.lock().queues.len() as u64
    }

    /// Text for Prometheus.
    pub fn metrics(&self) -> String {
        let levels = self.0.levels();
        self.0.metrics.render(&levels)
    }
}

/// Reads the spool back into the queue.
fn recover(
    configuration: &Configuration,
    state: &mut State,
    repeats: &Arc<Repeats>,
    now: Micros,
) -> Result<Spool<Disk>, StartError> {
    let mut settings = postkeep_spool::Settings::new(&configuration.spool.directory);
    settings.segment_size = configuration.spool.segment_size.bytes();
    settings.minimum_free = configuration.spool.minimum_free.bytes();
    let mut unreadable = 0u64;
    let (spool, recovery) = Spool::open(settings, Disk, |found| match Metadata::decode(&found.metadata) {
        Ok(metadata) => {
            let stream = state.stream_with_pool(&metadata.stream, metadata.pool.as_deref(), now);
            for (recipient, retry) in found.outstanding {
                let Some(address) =
                    metadata.envelope.recipients.get(usize::from(*recipient)).map(|recipient| &recipient.address)
                else {
                    continue;
                };
                let queue = state.queue(stream, address.domain());
                let entry = Entry {
                    message: found.id.0,
                    due: retry.due,
                    received: found.received,
                    recipient: *recipient,
                    attempts: retry.attempts,
                };
                state.queues.push_waiting(queue, entry);
            }
        }
        Err(error) => {
            unreadable += 1;
            log::error!("spool: message {}: {error}; it stays in the spool", found.id);
        }
    })?;
    for repair in &recovery.repairs {
        log::warn!("spool: {repair}");
    }
    for (key, value) in &recovery.notes {
        let known = match &key[..] {
            NOTE_PAUSED => serde_json::from_slice(value).map(|paused| state.paused = paused).is_ok(),
            NOTE_SUSPENDED => serde_json::from_slice(value).map(|list| state.restore_suspensions(list, now)).is_ok(),
            NOTE_REROUTED => serde_json::from_slice(value).map(|reroutes| state.reroutes = reroutes).is_ok(),
            key if key.starts_with(repeats::NOTE) => repeats.restore(key, value),
            key => state.governor.restore(key, value, now),
        };
        if !known {
            log::warn!("spool: note {} is not understood and ignored", String::from_utf8_lossy(key));
        }
    }
    log::info!(
        "spool: {} messages for {} recipients found, {unreadable} unreadable",
        recovery.messages,
        recovery.recipients
    );
    Ok(spool)
}

impl Inner {
    // ---- mail in -----------------------------------------------------------

    /// Puts a message that is durable into the queue. Who is suppressed goes nowhere: they are given
    /// back as taken, to be settled.
    pub(crate) fn enqueue(&self, message: Message, suppressed: &Standings) -> Vec<(QueueId, StreamId, Vec<Entry>)> {
        let now = clock::now();
        let (id, received) = (message.id, message.received);
        let domain = |index: u16| message.metadata.envelope.recipients[usize::from(index)].address.domain();
        let mut order: Vec<u16> = (0..message.metadata.envelope.recipients.len() as u16).collect();
        // Recipients of one domain stand together, so that they travel together.
        order.sort_by(|a, b| domain(*a).cmp(domain(*b)));
        let mut work = Work::default();
        let mut state = self.state.lock();
        let stream = state.stream_with_pool(&message.metadata.stream, message.metadata.pool.as_deref(), now);
        let groups: Vec<(QueueId, &[u16])> = order
            .chunk_by(|a, b| domain(*a) == domain(*b))
            .map(|recipients| (state.queue(stream, domain(recipients[0])), recipients))
            .collect();
        let shared = self.budget.hold(message);
        let mut taken = Vec::new();
        for (queue, recipients) in &groups {
            let mut entries = Vec::new();
            for recipient in *recipients {
                let entry = Entry { message: id.0, due: 0, received, recipient: *recipient, attempts: 0 };
                if suppressed.get(usize::from(*recipient)).is_some_and(Option::is_some) {
                    state.queues.push_taken(*queue, &entry);
                    entries.push(entry);
                } else {
                    state.queues.push_ready(*queue, entry, shared.clone());
                }
            }
            if !entries.is_empty() {
                taken.push((*queue, stream, entries));
            }
        }
        state.gained(groups.iter().map(|(queue, _)| *queue).collect(), now, &mut work);
        drop(state);
        self.perform(work);
        taken
    }

    // ---- mail out ----------------------------------------------------------

    /// Does what the state asked for.
    pub(crate) fn perform(&self, work: Work) {
        if work.is_empty() {
            return;
        }
        let Some(engine) = self.me.upgrade() else { return };
        for (permit, batch) in work.connections {
            self.connections.send_modify(|open| *open += 1);
            tokio::spawn(connection::run(Arc::clone(&engine), permit, batch));
        }
        for domain in work.domains {
            tokio::spawn(Arc::clone(&engine).resolve(domain));
        }
        self.perform_horizons(work.horizons);
        if work.reschedule {
            self.wake.notify_one();
        }
    }

    pub(crate) fn perform_horizons(&self, wanted: bool) {
        if wanted {
            self.horizon_wake.notify_one();
        }
    }

    /// What the connection does next.
    pub(crate) fn next(&self, lane: LaneId) -> Next {
        let mut work = Work::default();
        let next = self.state.lock().next(lane, clock::now(), &mut work);
        self.perform(work);
        next
    }

    pub(crate) fn stop_idling(&self, lane: LaneId, token: u64) {
        self.state.lock().stop_idling(lane, token);
    }

    pub(crate) fn wake_lane_at(&self, lane: LaneId, at: Micros) {
        let mut work = Work::default();
        {
            let mut state = self.state.lock();
            let site = state.lane(lane).site;
            state.wake_at(site, at, &mut work);
        }
        self.perform(work);
    }

    pub(crate) fn messages_per_connection(&self, lane: LaneId) -> u32 {
        match self.state.lock().lane(lane).limits.messages_per_connection {
            0 => u32::MAX,
            limit => limit,
        }
    }

    pub(crate) fn message_done(&self, lane: LaneId, stream: StreamId) {
        self.state.lock().message_done(lane, stream);
    }

    pub(crate) fn source(&self, lane: LaneId) -> SourcePlan {
        let state = self.state.lock();
        state.source(state.lane(lane).source).clone()
    }

    pub(crate) fn provider(&self, lane: LaneId) -> Option<Arc<str>> {
        let state = self.state.lock();
        state.site(state.lane(lane).site).provider.clone()
    }

    /// The connection is gone: its place is free for another.
    pub(crate) fn connection_closed(&self, lane: LaneId, permit: Option<ConnectionPermit>, retired: bool) {
        let mut work = Work::default();
        {
            let mut state = self.state.lock();
            state.closed(lane, permit, retired, clock::now(), &mut work);
        }
        self.perform(work);
        self.connections.send_modify(|open| *open = open.saturating_sub(1));
    }

    /// Nothing was tried for this batch: it goes back to the front of its queue.
    pub(crate) fn give_back(&self, batch: Batch) {
        let mut state = self.state.lock();
        let site = state.lane(batch.lane).site;
        let mut work = Work::default();
        state.put_back(batch, clock::now(), &mut work);
        state.wake_at(site, clock::now() + 1_000_000, &mut work);
        drop(state);
        self.perform(work);
    }

    /// The message of a batch, from memory or from the spool.
    pub(crate) async fn load(&self, batch: &Batch) -> Result<Arc<Message>, String> {
        if let Some(message) = &batch.message {
            return Ok(Arc::clone(message));
        }
        match batch.entries.first() {
            Some(entry) => self.read(MessageId(entry.message)).await,
            None => Err("an empty batch".to_owned()),
        }
    }

    /// Reads a message back from the spool.
    pub(crate) async fn read(&self, id: MessageId) -> Result<Arc<Message>, String> {
        let Some(engine) = self.me.upgrade() else { return Err("stopping".to_owned()) };
        let stored =
            tokio::task::spawn_blocking(move || engine.spool.read(id)).await.map_err(|error| error.to_string())?;
        let stored = stored.map_err(|error| error.to_string())?;
        Message::from_spool(id, stored).map(Arc::new).map_err(|error| error.to_string())
    }

    async fn read_without_body(&self, id: MessageId) -> Result<Arc<Message>, String> {
        let Some(engine) = self.me.upgrade() else { return Err("stopping".to_owned()) };
        let stored = tokio::task::spawn_blocking(move || engine.spool.read_metadata(id))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let metadata = Metadata::decode(&stored.metadata).map_err(|error| error.to_string())?;
        Ok(Arc::new(Message::new(id, stored.received, metadata, Bytes::new(), Bytes::new())))
    }

    /// Recipients of a message that cannot be read wait; they are never thrown away.
    pub(crate) fn unreadable(&self, queue: QueueId, entries: &[Entry], detail: &str) {
        let Some(first) = entries.first() else { return };
        log::error!(
            "spool: message {} cannot be read: {detail}; it is tried again in an hour",
            MessageId(first.message)
        );
        let due = seconds(clock::now()) + UNREADABLE_WAIT_SECONDS;
        let mut state = self.state.lock();
        for entry in entries {
            state.queues.defer(queue, Entry { due, ..*entry }, Some(detail.into()));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// One fate for all recipients of a batch.
    pub(crate) async fn settle_all(&self, batch: Batch, journey: &Journey, fate: Fate) {
        self.message_done(batch.lane, batch.stream);
        match self.load(&batch).await {
            Ok(message) => {
                let fates = batch.entries.iter().map(|entry| (*entry, fate.clone())).collect();
                self.settle(batch.queue, batch.stream, &message, journey, fates).await;
            }
            Err(detail) => self.unreadable(batch.queue, &batch.entries, &detail),
        }
    }

    /// One fate for recipients that no connection has taken.
    pub(crate) async fn settle_entries(&self, queue: QueueId, stream: StreamId, mut entries: Vec<Entry>, fate: &Fate) {
        let Some(engine) = self.me.upgrade() else { return };
        entries.sort_unstable_by_key(|entry| (entry.message, entry.recipient));
        let mut running = tokio::task::JoinSet::new();
        for group in entries.chunk_by(|a, b| a.message == b.message) {
            if running.len() >= SETTLED_AT_ONCE {
                running.join_next().await;
            }
            let (engine, group, fate) = (Arc::clone(&engine), group.to_vec(), fate.clone());
            running.spawn(async move { engine.settle_group(queue, stream, group, fate).await });
        }
        while running.join_next().await.is_some() {}
    }

    /// One fate for recipients of one message.
    async fn settle_group(&self, queue: QueueId, stream: StreamId, group: Vec<Entry>, fate: Fate) {
        let Some(id) = group.first().map(|entry| MessageId(entry.message)) else { return };
        // Nobody is told about a removal, so the body is not needed.
        let message = match &fate {
            Fate::Removed { .. } => self.read_without_body(id).await,
            _ => self.read(id).await,
        };
        match message {
            Ok(message) => {
                let fates = group.iter().map(|entry| (*entry, fate.clone())).collect();
                self.settle(queue, stream, &message, &Journey::default(), fates).await;
            }
            Err(detail) if matches!(fate, Fate::Removed { .. }) => {
                log::warn!("spool: message {id} is removed unread: {detail}");
                let operations = group
                    .iter()
                    .map(|entry| Operation::Complete { id: MessageId(entry.message), recipient: entry.recipient });
                let _ = self.spool.submit(operations).await;
                let mut state = self.state.lock();
                for _ in &group {
                    state.queues.finish(queue);
                }
            }
            Err(detail) => self.unreadable(queue, &group, &detail),
        }
    }

    // ---- lanes -------------------------------------------------------------

    pub(crate) fn lane_succeeded(&self, lane: LaneId) {
        let mut state = self.state.lock();
        let governed = state.lane(lane).governor;
        if let Some(news) = state.governor.success(governed, clock::now()) {
            let text = state.describe_lane(lane);
            drop(state);
            log::info!("lane {text}: {news:?}");
        }
    }

    pub(crate) fn lane_trouble(&self, lane: LaneId, length: Option<Micros>, why: &str) {
        let now = clock::now();
        let mut state = self.state.lock();
        let governed = state.lane(lane).governor;
        let news = match length {
            Some(length) => state.governor.block(governed, now, length, why),
            None => state.governor.failure(governed, now, why),
        };
        if let Some(news) = news {
            let text = state.describe_lane(lane);
            drop(state);
            log::warn!("lane {text}: {news:?} after {why}");
        }
    }

    /// The source cannot be bound: it is taken out for a while.
    pub(crate) fn source_failed(&self, lane: LaneId, detail: &str) {
        let pause = self.configuration.load().backoff.unbindable_pause;
        let mut state = self.state.lock();
        let source = state.lane(lane).source;
        let plan = &mut state.sources[usize::from(source.0)];
        plan.out_until = plan.out_until.max(clock::now() + pause.as_micros());
        let name = Arc::clone(&plan.name);
        drop(state);
        postkeep_journal::SOURCE_UNUSABLE.tell(
            format_args!(
                "source {name} is out for {pause}: {detail}; is its address on an interface? (freebind = true binds before it is)"
            ),
            [&name, &(pause.as_micros() / 1_000_000), &detail],
        );
    }

    fn levels(&self) -> Levels {
        let state = self.state.lock();
        let mut levels =
            Levels { records_dropped: self.records.dropped(), memory_bodies: self.budget.used(), ..Levels::default() };
        (levels.ready, levels.waiting, levels.taken) = state.queues.totals();
        let mut providers: HashMap<String, u64> = HashMap::new();
        for lane in &state.lanes {
            let provider = state.site(lane.site).provider.as_deref().unwrap_or("");
            *providers.entry(provider.to_owned()).or_default() += u64::from(lane.open);
        }
        drop(state);
        levels.connections_out = providers.into_iter().collect();
        levels.connections_out.sort();
        let statistics = self.spool.statistics();
        levels.suppression = self.suppression.statistics().entries;
        levels.spool_bytes = statistics.bytes;
        levels.spool_messages = statistics.messages;
        levels
    }

    /// Looks at everything again after a pause, a limit or a route has changed.
    pub(crate) fn look_again(&self) {
        let mut work = Work::default();
        {
            let mut state = self.state.lock();
            let now = clock::now();
            let ready = state.queues.with_ready();
            state.gained(ready, now, &mut work);
        }
        self.perform(work);
        self.wake.notify_one();
    }
}

impl State {
    fn describe_lane(&self, lane: LaneId) -> String {
        let lane = self.lane(lane);
        format!("{} → {}", self.source(lane.source).name, self.site(lane.site).name)
    }

    fn wake_everyone(&mut self) {
        for lane in &mut self.lanes {
            lane.wake_idle();
        }
    }
}
