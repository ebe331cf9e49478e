//! One receiver's task: reads records, hands events over, moves the cursor behind what was taken.
//!
//! The order is the promise: the cursor moves only when the receiver has taken the events, so a crash
//! sends some again, with the same ids, and loses none. What is lost to the bound of the buffer, to
//! `retry-for` or to deletion is counted and logged. Nobody waits for this task.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::cursor::Cursor;
use crate::event::{Event, Selection};
use crate::follower::Position;
use crate::reader::{Line, Loss, Reader};
use crate::status::Shared;

/// Events written in this time are looked for together.
const COALESCE: Duration = Duration::from_millis(100);
/// Lines read at a time, at least: of many kinds of events a receiver may want few.
const LEAST_LINES: usize = 200;
/// Records that are looked for although nobody said that there are any.
const UNASKED: Duration = Duration::from_secs(5);
/// How often the place is saved when nothing that is read is wanted.
const SAVE_UNWANTED: Duration = Duration::from_secs(1);
/// How often losses are logged while they go on.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);
/// Wait after the first failure; doubled with each further one.
const FIRST_GAP: Duration = Duration::from_millis(500);

/// Why events were not taken.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was tried, on what, why it failed.
    pub(crate) detail: String,
    /// The receiver wants to be left alone so long.
    pub(crate) at_least: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), at_least: None }
    }
}

/// A receiver of events.
pub(crate) trait Sink: Send + 'static {
    /// Hands events over. All of them are taken on success, and safe at the receiver. May have moved the
    /// cursor itself.
    fn deliver(&mut self, events: &[Event], cursor: &mut Cursor) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Does what is due without events.
    fn tick(&mut self, _: &mut Cursor) {}
}

/// How a receiver is served.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Events at a time.
    pub(crate) batch: usize,
    /// How long an event may wait for others.
    pub(crate) linger: Duration,
    /// Longest gap between tries.
    pub(crate) longest_gap: Duration,
    /// How long the same events are tried; `None`: as long as the buffer has room.
    pub(crate) retry_for: Option<Duration>,
    /// Octets of records by which it may lag behind.
    pub(crate) buffer: u64,
}

/// What the task works with.
pub(crate) struct Runner<S> {
    pub(crate) label: String,
    pub(crate) sink: S,
    pub(crate) pace: Pace,
    pub(crate) selection: Selection,
    pub(crate) cursor: Cursor,
    pub(crate) directory: PathBuf,
    pub(crate) shared: Arc<Shared>,
    /// Changes when records were written.
    pub(crate) written: watch::Receiver<u64>,
    /// Becomes true when it is to stop.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Events that were read and not yet taken.
struct Pending {
    events: Vec<Event>,
    /// Behind all that was read with them.
    end: Position,
    /// There may be more at once.
    is_full: bool,
}

impl<S: Sink> Runner<S> {
    /// Works until it is told to stop, and then until what is there was tried once.
    pub(crate) async fn run(mut self) {
        let mut complaints = Complaints::default();
        let mut saved = Instant::now();
        self.shared.is_at(&self.cursor.position().file, self.cursor.position().offset);
        loop {
            let stopping = *self.stop.borrow();
            self.written.borrow_and_update();
            let pending = match self.read(&mut complaints).await {
                Ok(pending) => pending,
                Err(error) => {
                    self.shared.failed(&format!("cannot read the records: {error}"));
                    complaints.read(&self.label, &error);
                    if stopping || self.rest(Duration::from_secs(5)).await {
                        return;
                    }
                    continue;
                }
            };
            self.sink.tick(&mut self.cursor);
            let is_full = pending.is_full;
            if pending.events.is_empty() {
                self.shared.waits_since(None);
                if pending.end != *self.cursor.position() && (saved.elapsed() > SAVE_UNWANTED || stopping || is_full) {
                    self.advance(pending.end);
                    saved = Instant::now();
                }
                if is_full {
                    continue;
                }
                if stopping {
                    return;
                }
                self.wait_for_records().await;
                continue;
            }
            self.shared.waits_since(pending.events.first().map(|event| event.time.as_str()));
            if !is_full && !stopping && !self.pace.linger.is_zero() && pending.events.len() < self.pace.batch {
                // Others may come; what is read now is read again with them.
                if !self.rest(self.pace.linger).await
                    && let Ok(more) = self.read(&mut complaints).await
                {
                    if self.hand_over(more, &mut complaints).await {
                        return;
                    }
                    continue;
                }
            }
            if self.hand_over(pending, &mut complaints).await {
                return;
            }
        }
    }

    /// Reads from the cursor on, after having skipped what is too far back.
    async fn read(&mut self, complaints: &mut Complaints) -> io::Result<Pending> {
        let mut reader = Reader::at(&self.directory, self.cursor.position().clone());
        let (buffer, batch) = (self.pace.buffer, self.pace.batch);
        let most = (2 * batch).max(LEAST_LINES);
        let work = move || -> io::Result<(Loss, Reader, Vec<Line>, u64)> {
            let loss = reader.catch_up(buffer)?;
            let lag = reader.lag()?;
            let mut lines = Vec::new();
            reader.read(most, &mut lines)?;
            Ok((loss, reader, lines, lag))
        };
        let (loss, reader, lines, lag) = blocking(work).await?;
        self.shared.lag_octets.store(lag, Ordering::Relaxed);
        if !loss.is_empty() {
            self.shared.dropped.fetch_add(loss.events, Ordering::Relaxed);
            complaints.lost(&self.label, &loss);
            // The place behind it is known by the first line, or by the reader when there is none.
            let place = lines.first().map_or_else(|| reader.position().clone(), |line| line.start.clone());
            self.advance(place);
        }
        let mut pending = Pending { events: Vec::new(), end: reader.position().clone(), is_full: false };
        let all = lines.len();
        for (index, line) in lines.iter().enumerate() {
            match self.selection.event(line) {
                Ok(Some(event)) => pending.events.push(event),
                Ok(None) => {}
                Err(error) => {
                    log::warn!("{}: no record at {} of {}: {error}", self.label, line.start.offset, line.start.file);
                }
            }
            if pending.events.len() >= batch && index + 1 < all {
                pending.end = Position { file: line.start.file.clone(), offset: line.end };
                pending.is_full = true;
                break;
            }
        }
        pending.is_full |= all >= most;
        Ok(pending)
    }

    /// Tries until the events are taken, dropped, or it is told to stop; then true.
    async fn hand_over(&mut self, pending: Pending, complaints: &mut Complaints) -> bool {
        if pending.events.is_empty() {
            return false;
        }
        let since = Instant::now();
        let mut gap = FIRST_GAP;
        let mut stop = self.stop.clone();
        loop {
            let stopping = *stop.borrow();
            let failure = {
                let delivered = self.sink.deliver(&pending.events, &mut self.cursor);
                tokio::select! {
                    biased;
                    result = delivered => match result {
                        Ok(()) => break,
                        Err(failure) => failure,
                    },
                    // What is under way may be taken: then it is sent again after the start, with the same ids.
                    () = until_told_and_over(&mut stop) => return true,
                }
            };
            self.shared.failed(&failure.detail);
            self.shared.retried.fetch_add(1, Ordering::Relaxed);
            complaints.failed(&self.label, &failure.detail);
            if stopping {
                return true;
            }
            if self.pace.retry_for.is_some_and(|limit| since.elapsed() >= limit) {
                let count = pending.events.len() as u64;
                self.shared.dropped.fetch_add(count, Ordering::Relaxed);
                log::error!(
                    "{}: {count} events are DROPPED after {:?}: {}",
                    self.label,
                    since.elapsed(),
                    failure.detail
                );
                self.advance(pending.end);
                return false;
            }
            let wait = gap.mul_f64(0.75 + fastrand::f64() / 2.0).max(failure.at_least.unwrap_or_default());
            gap = (gap * 2).min(self.pace.longest_gap);
            if self.rest(wait).await {
                // One last try.
                continue;
            }
            if self.is_overdue(&pending).await {
                // The reading that follows skips and tells.
                return false;
            }
        }
        complaints.works(&self.label);
        self.shared.works();
        self.shared.sent.fetch_add(pending.events.len() as u64, Ordering::Relaxed);
        self.advance(pending.end);
        false
    }

    /// Whether the buffer has run over meanwhile.
    async fn is_overdue(&mut self, pending: &Pending) -> bool {
        let reader = Reader::at(&self.directory, self.cursor.position().clone());
        let lag = blocking(move || reader.lag()).await;
        if let Ok(lag) = lag {
            self.shared.lag_octets.store(lag, Ordering::Relaxed);
        }
        !pending.events.is_empty() && lag.is_ok_and(|lag| lag > self.pace.buffer)
    }

    fn advance(&mut self, place: Position) {
        // A write of a few hundred octets and its sync; this task has nothing else to do.
        if *self.cursor.position() != place
            && let Err(error) = tokio::task::block_in_place(|| self.cursor.advance(place))
        {
            log::error!("{}: cannot save how far it is: {error}; some events will be sent again", self.label);
        }
        self.shared.is_at(&self.cursor.position().file, self.cursor.position().offset);
    }

    /// Until there are records, or it is to stop.
    async fn wait_for_records(&mut self) {
        let closed = tokio::select! {
            changed = self.written.changed() => changed.is_err(),
            _ = self.stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(UNASKED) => false,
        };
        // Nobody writes any more: only the stop is left to wait for.
        if closed {
            let _ = tokio::time::timeout(UNASKED, self.stop.wait_for(|stop| *stop)).await;
        }
        let _ = tokio::time::timeout(COALESCE, self.stop.wait_for(|stop| *stop)).await;
    }

    /// Rests; true: it is to stop.
    async fn rest(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.stop.wait_for(|stop| *stop)).await.is_ok()
    }
}

/// Work on the disk, beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Ends some seconds after the order to stop: long enough for one last request.
async fn until_told_and_over(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(crate::LAST_REQUEST).await;
}

/// What was logged last, so that a receiver that is down for hours does not fill the log.
#[derive(Default)]
struct Complaints {
    failing: Option<(Instant, String)>,
    lost_at: Option<Instant>,
    lost: Loss,
    read_at: Option<Instant>,
}

impl Complaints {
    fn failed(&mut self, label: &str, detail: &str) {
        let is_new = self
            .failing
            .as_ref()
            .is_none_or(|(at, said)| said != detail && at.elapsed() > FIRST_GAP || at.elapsed() > BETWEEN_COMPLAINTS);
        if is_new {
            log::warn!("{label}: {detail}; trying again");
            self.failing = Some((Instant::now(), detail.to_owned()));
        }
    }

    fn works(&mut self, label: &str) {
        if self.failing.take().is_some() {
            log::info!("{label}: takes events again");
        }
    }

    fn lost(&mut self, label: &str, loss: &Loss) {
        if let Some(gone) = &loss.gone {
            log::error!(
                "{label}: {gone} was deleted before all of it was sent; its events are DROPPED: [records] keep"
            );
        }
        self.lost.events += loss.events;
        self.lost.octets += loss.octets;
        if self.lost.octets > 0 && self.lost_at.is_none_or(|at| at.elapsed() > BETWEEN_COMPLAINTS) {
            log::error!(
                "{label}: the buffer is full: {} events ({} octets of records) are DROPPED",
                self.lost.events,
                self.lost.octets
            );
            self.lost = Loss::default();
            self.lost_at = Some(Instant::now());
        }
    }

    fn read(&mut self, label: &str, error: &io::Error) {
        if self.read_at.is_none_or(|at| at.elapsed() > BETWEEN_COMPLAINTS) {
            log::error!("{label}: cannot read the records: {error}; trying again");
            self.read_at = Some(Instant::now());
        }
    }
}

/// Where a receiver begins that has never been told anything.
pub(crate) fn first_place(directory: &Path, from: postkeep_configuration::EventsFrom) -> io::Result<Position> {
    match from {
        postkeep_configuration::EventsFrom::Beginning => Ok(Position::beginning()),
        postkeep_configuration::EventsFrom::End => Reader::end(directory),
    }
}
