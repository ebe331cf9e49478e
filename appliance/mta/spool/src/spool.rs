//! The spool as its users see it: the log behind a queue, and one thread that drives it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::MessageId;
use crate::format::BATCH_LIMIT;
use crate::group::{Charge, Pending, batch_size};
use crate::log::{Log, Settings, Shared};
use crate::operation::{
    Batch, OpenError, Operation, ReadError, Stored, StoredMetadata, SubmitError, Ticket, TicketState,
};
use crate::replay::Recovered;
use crate::start::Recovery;
use crate::storage::{Disk, Storage};

/// Counters and levels, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Segment files, those in reserve included.
    pub segments: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// Bytes of messages that are not complete.
    pub live_bytes: u64,
    /// Messages that are not complete.
    pub messages: u64,
    /// Recipients that are not complete.
    pub recipients: u64,
    /// Keys with a note.
    pub notes: u64,
    /// Groups written, each with one sync, since the start.
    pub groups: u64,
    /// Batches in them.
    pub batches: u64,
    /// Bytes written in groups.
    pub written: u64,
    /// Messages moved to reclaim space.
    pub moved: u64,
    /// Segments removed or used again.
    pub reclaimed: u64,
    /// Groups whose write or sync failed.
    pub failures: u64,
    /// Batches without an accept that wait in memory for storage that works.
    pub held: u64,
    /// Bytes of accepts that wait to be written.
    pub pending_bytes: u64,
}

/// The durable store of accepted mail. One process has it at a time.
pub struct Spool<S: Storage = Disk> {
    shared: Arc<Shared<S>>,
    queue: Arc<Queue>,
    pending_limit: u64,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl<S: Storage> fmt::Debug for Spool<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Spool").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

/// What waits for the committer.
#[derive(Default)]
struct Queue {
    inner: Mutex<QueueInner>,
    wake: Condvar,
    accept_bytes: Arc<AtomicU64>,
}

#[derive(Default)]
struct QueueInner {
    batches: Vec<Pending>,
    is_closed: bool,
    is_committer_asleep: bool,
}

/// Between looks at the free space, and tries after a failure.
const TICK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(100);

impl<S: Storage> Spool<S> {
    /// Opens the spool, or makes it, and repairs what a crash left. `on_message` is called for
    /// each message that is not complete, in the order of the segments; nothing is collected,
    /// so millions of them need no more memory than the index.
    pub fn open(
        settings: Settings,
        storage: S,
        on_message: impl FnMut(Recovered<'_>),
    ) -> Result<(Self, Recovery), OpenError> {
        if !(64 << 10..=4 << 30).contains(&settings.segment_size) {
            return Err(OpenError::Setting("`segment-size` is outside of 64KiB to 4GiB"));
        }
        let pending_limit = settings.pending_limit;
        let (log, recovery) = Log::open(settings, storage, on_message)?;
        let shared = log.shared.clone();
        let queue = Arc::new(Queue::default());
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn({
            let queue = queue.clone();
            move || run(log, &queue)
        });
        let committer = thread.map_err(|source| OpenError::Storage {
            doing: "start the thread of",
            path: shared.directory.clone(),
            source,
        })?;
        let spool = Self { shared, queue, pending_limit, committer: Mutex::new(Some(committer)) };
        Ok((spool, recovery))
    }

    /// An id above all that were given out, in this run or an earlier one.
    pub fn next_id(&self) -> MessageId {
        MessageId(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a batch to the committer; never blocks on the disk. The batch becomes durable whole
    /// or not at all. Batches become durable in the order in which they were submitted. A batch
    /// without an accept is never refused, unless the spool is closed.
    pub fn submit(&self, batch: impl IntoIterator<Item = Operation>) -> Ticket {
        let batch: Batch = batch.into_iter().collect();
        if batch.is_empty() {
            return Ticket(TicketState::Ready(Ok(())));
        }
        let size = batch_size(&batch);
        let has_accept = batch.iter().any(|operation| matches!(operation, Operation::Accept(_)));
        if size > BATCH_LIMIT {
            return Ticket::refused(SubmitError::TooLarge { limit: BATCH_LIMIT });
        }
        let mut charge = None;
        if has_accept {
            charge = Charge::take(&self.queue.accept_bytes, size, self.pending_limit);
            if charge.is_none() {
                return Ticket::refused(SubmitError::Busy { limit: self.pending_limit });
            }
        }
        // Sums the bodies, on the caller's core.
        let (mut pending, receiver) = Pending::new(batch);
        pending.charge = charge;
        let mut inner = self.queue.inner.lock();
        if inner.is_closed {
            return Ticket::refused(SubmitError::Closed);
        }
        inner.batches.push(pending);
        let wake = std::mem::take(&mut inner.is_committer_asleep);
        drop(inner);
        if wake {
            self.queue.wake.notify_one();
        }
        Ticket(TicketState::Waiting(receiver))
    }

    /// Reads one durable message whole, both sums checked. Blocks on the disk.
    pub fn read(&self, id: MessageId) -> Result<Stored, ReadError> {
        self.shared.read(id)
    }

    /// Reads one durable message without its body. Blocks on the disk.
    pub fn read_metadata(&self, id: MessageId) -> Result<StoredMetadata, ReadError> {
        self.shared.read_metadata(id)
    }

    /// Bytes that the file system of the spool has left. Asks the system.
    pub fn free_space(&self) -> std::io::Result<u64> {
        self.shared.storage.free_space(&self.shared.directory)
    }

    /// Counters and levels of now.
    pub fn statistics(&self) -> Statistics {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pending_bytes = get(&self.queue.accept_bytes);
        let state = self.shared.state.lock();
        let ready = get(&counters.ready);
        let size = state.segments.values().map(|segment| segment.size);
        Statistics {
            segments: state.segments.len() as u64 + ready,
            bytes: size.sum::<u64>() + ready * self.shared.segment_size,
            live_bytes: state.segments.values().map(|segment| segment.message_bytes).sum(),
            messages: state.index.len(),
            recipients: state.recipients,
            notes: state.notes.values().filter(|note| !note.value.is_empty()).count() as u64,
            groups: get(&counters.groups),
            batches: get(&counters.batches),
            written: get(&counters.written),
            moved: get(&counters.moved),
            reclaimed: get(&counters.reclaimed),
            failures: get(&counters.failures),
            held: get(&counters.held),
            pending_bytes,
        }
    }

    /// Writes what waits and stops the committer; blocks until then. Later batches are refused.
    pub fn close(&self) {
        self.queue.inner.lock().is_closed = true;
        self.queue.wake.notify_one();
        let committer = self.committer.lock().take();
        if let Some(committer) = committer
            && committer.join().is_err()
        {
            log::error!("spool: the committer ended in a panic");
        }
    }
}

impl<S: Storage> Drop for Spool<S> {
    fn drop(&mut self) {
        self.close();
    }
}

/// When the committer ends, also in a panic, nobody is left waiting for an answer.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.is_closed = true;
        inner.batches.clear();
    }
}

/// The committer: takes all that waits, makes it durable at once, and does the housework in
/// between. While it syncs, the next group gathers.
fn run<S: Storage>(mut log: Log<S>, queue: &Queue) {
    let _closing = Closing(queue);
    let mut batches = Vec::new();
    let mut last_tick = Instant::now();
    loop {
        let is_troubled = log.is_troubled();
        let mut inner = queue.inner.lock();
        if inner.batches.is_empty() && !inner.is_closed && !log.has_work() {
            inner.is_committer_asleep = true;
            let pause = if is_troubled { RETRY } else { TICK };
            queue.wake.wait_for(&mut inner, pause);
            inner.is_committer_asleep = false;
        }
        std::mem::swap(&mut inner.batches, &mut batches);
        let is_closed = inner.is_closed;
        drop(inner);
        // At the end, too: what gathers on a full disk is written now.
        if is_closed || last_tick.elapsed() >= if is_troubled { RETRY } else { TICK } {
            last_tick = Instant::now();
            log.tick();
        }
        let is_idle = batches.is_empty();
        log.commit(&mut batches);
        if is_closed && is_idle {
            break;
        }
        log.housekeep();
    }
    log.abandon();
}
