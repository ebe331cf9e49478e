//! One receiver's task: reads records, hands events over, moves the cursor behind what was taken.
//!
//! The order is the promise: the cursor moves only when the receiver has taken the events, so a crash
//! sends some again, with the same ids, and loses none. What is lost to the bound of the buffer, to
//! `retry-for` or to deletion is counted and logged. Nobody waits for this task.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::complaints::Complaints;
use crate::cursor::Cursor;
use crate::event::{Event, Selection};
use crate::follower::Position;
use crate::reader::{Line, Loss, Reader};
use crate::status::{Shared, Trouble};

/// Events written in this time are looked for together.
const COALESCE: Duration = Duration::from_millis(100);
/// Lines read at a time, at least: of many kinds of events a receiver may want few.
const LEAST_LINES: usize = 200;
/// Records that are looked for although nobody said that there are any.
const UNASKED: Duration = Duration::from_secs(5);
/// How often the place is saved when nothing that is read is wanted.
const SAVE_UNWANTED: Duration = Duration::from_secs(1);
/// Wait after the first failure; doubled with each further one.
const FIRST_GAP: Duration = Duration::from_millis(500);
/// Longest wait before a place that could not be saved is saved again.
const LONGEST_SAVE_GAP: Duration = Duration::from_secs(60);
/// Refusals of the same events after which fewer are tried: one of them may be what is refused. And as many
/// are needed before one is dropped, though its time be over.
const PATIENT_REFUSALS: u32 = 3;

/// Why events were not taken.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was tried, on what, why it failed.
    pub(crate) detail: String,
    /// The receiver wants to be left alone so long.
    pub(crate) at_least: Option<Duration>,
    /// It was there and did not want these events: others it may.
    pub(crate) is_refusal: bool,
}

impl Failure {
    /// The receiver could not be asked, or did not answer.
    pub(crate) fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), at_least: None, is_refusal: false }
    }

    /// The receiver refused the events.
    pub(crate) fn refusal(detail: impl Into<String>) -> Self {
        Self { is_refusal: true, ..Self::new(detail) }
    }
}

/// A receiver of events.
pub(crate) trait Sink: Send + 'static {
    /// Hands events over. All of them are taken on success, and safe at the receiver. May have moved the
    /// cursor itself.
    fn deliver(&mut self, events: &[Event], cursor: &mut Cursor) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Does what is due without events. What is said is wrong until the next call says otherwise.
    fn tick(&mut self) -> Option<String> {
        None
    }
}

/// How a receiver is served.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// Events at a time.
    pub(crate) batch: usize,
    /// How long an event may wait for others.
    pub(crate) linger: Duration,
    /// Longest gap between tries.
    pub(crate) longest_gap: Duration,
    /// How long an event that is refused is tried; `None`: as long as the buffer has room.
    pub(crate) retry_for: Option<Duration>,
    /// The same for events that the receiver could not even be asked about.
    pub(crate) outage_for: Option<Duration>,
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
    pub(crate) complaints: Complaints,
    /// Events at a time just now: fewer than the pace has it while some are refused.
    pub(crate) at_a_time: usize,
    /// When a place that could not be saved is saved again, and the wait after that.
    pub(crate) save_again: Option<(Instant, Duration)>,
}

/// Events that were read and not yet taken.
struct Pending {
    events: Vec<Event>,
    /// Behind all that was read with them.
    end: Position,
    /// Nothing was behind that in its file.
    at_end: bool,
    /// There may be more at once.
    is_full: bool,
}

impl<S: Sink> Runner<S> {
    /// Works until it is told to stop, and then until what is there was tried once.
    pub(crate) async fn run(&mut self) {
        self.work().await;
        self.complaints.tell_losses(&self.label, true);
        if self.cursor.is_unsaved() {
            self.save();
        }
    }

    async fn work(&mut self) {
        let mut saved = Instant::now();
        self.shared.is_at(&self.cursor.position().file, self.cursor.position().offset);
        loop {
            let stopping = *self.stop.borrow();
            self.written.borrow_and_update();
            self.complaints.tell_losses(&self.label, false);
            self.save_when_due();
            let pending = match self.read().await {
                Ok(pending) => pending,
                Err(error) => {
                    self.shared.failed(Trouble::Records, &format!("cannot read the records: {error}"));
                    self.complaints.read(&self.label, &error);
                    if stopping || self.rest(Duration::from_secs(5)).await {
                        return;
                    }
                    continue;
                }
            };
            self.shared.works(Trouble::Records);
            match self.sink.tick() {
                Some(detail) => self.shared.failed(Trouble::Aside, &detail),
                None => self.shared.works(Trouble::Aside),
            }
            let is_full = pending.is_full;
            if pending.events.is_empty() {
                self.shared.waits_since(None);
                self.cursor.advance(pending.end, pending.at_end);
                self.shared.is_at(&self.cursor.position().file, self.cursor.position().offset);
                if self.is_to_be_saved() && (saved.elapsed() > SAVE_UNWANTED || stopping) {
                    self.save();
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
                    && let Ok(more) = self.read().await
                {
                    if self.hand_over(more).await {
                        return;
                    }
                    continue;
                }
            }
            if self.hand_over(pending).await {
                return;
            }
        }
    }

    /// Reads from the cursor on, after having skipped what is too far back.
    async fn read(&mut self) -> io::Result<Pending> {
        let mut reader = Reader::at(&self.directory, self.cursor.position().clone(), self.cursor.is_at_end());
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
            self.shared.lost_files.fetch_add(u64::from(loss.gone.is_some()), Ordering::Relaxed);
            self.complaints.lost(&self.label, &loss);
            // The place behind it is known by the first line, or by the reader when there is none.
            let (place, at_end) = lines
                .first()
                .map_or_else(|| (reader.position().clone(), reader.is_at_end()), |line| (line.start.clone(), false));
            self.advance(place, at_end);
        }
        let (end, at_end) = (reader.position().clone(), reader.is_at_end());
        let mut pending = Pending { events: Vec::new(), end, at_end, is_full: false };
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
                pending.at_end = false;
                pending.is_full = true;
                break;
            }
        }
        pending.is_full |= all >= most;
        Ok(pending)
    }

    /// Tries until the events are taken, dropped, or it is told to stop; then true.
    async fn hand_over(&mut self, pending: Pending) -> bool {
        // All of them wait from now on, also those that are not in the first part.
        let began = Instant::now();
        let mut progress = began;
        let mut gap = FIRST_GAP;
        let mut refusals = 0;
        let mut rest = pending.events.as_slice();
        let mut stop = self.stop.clone();
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(self.at_a_time.clamp(1, rest.len()));
            // With the last event goes what was read behind it and not wanted.
            let (end, at_end) = match part.last() {
                Some(last) if !behind.is_empty() => (last.end.clone(), false),
                _ => (pending.end.clone(), pending.at_end),
            };
            let stopping = *stop.borrow();
            let delivered = self.sink.deliver(part, &mut self.cursor);
            let result = tokio::select! {
                biased;
                result = delivered => result,
                // What is under way may be taken: then it is sent again after the start, with the same ids.
                () = until_told_and_over(&mut stop) => return true,
            };
            let Err(failure) = result else {
                self.complaints.works(&self.label);
                self.shared.works(Trouble::Delivery);
                self.shared.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
                self.advance(end, at_end);
                self.at_a_time = (2 * self.at_a_time).min(self.pace.batch);
                (gap, refusals, progress, rest) = (FIRST_GAP, 0, Instant::now(), behind);
                continue;
            };
            self.shared.failed(Trouble::Delivery, &failure.detail);
            self.shared.retried.fetch_add(1, Ordering::Relaxed);
            self.complaints.failed(&self.label, &failure.detail);
            if stopping {
                return true;
            }
            refusals += u32::from(failure.is_refusal);
            let so_far = SoFar {
                refusals: failure.is_refusal.then_some(refusals),
                events: part.len(),
                is_small: self.at_a_time < self.pace.batch,
                waiting: if failure.is_refusal { began.elapsed() } else { progress.elapsed() },
            };
            match so_far.next(&self.pace) {
                Next::Drop => {
                    self.shared.dropped.fetch_add(part.len() as u64, Ordering::Relaxed);
                    Complaints::gave_up(&self.label, part, so_far.waiting, &failure.detail);
                    self.advance(end, at_end);
                    (gap, refusals, progress, rest) = (FIRST_GAP, 0, Instant::now(), behind);
                    continue;
                }
                Next::Fewer => (gap, refusals, self.at_a_time) = (FIRST_GAP, 0, part.len() / 2),
                Next::Again => {}
            }
            let wait = gap.mul_f64(0.75 + fastrand::f64() / 2.0).max(failure.at_least.unwrap_or_default());
            gap = (gap * 2).min(self.pace.longest_gap);
            if self.rest_and_save(wait).await {
                // One last try.
                continue;
            }
            if self.is_overdue().await {
                // The reading that follows skips and tells.
                return false;
            }
        }
        false
    }

    /// Whether the buffer has run over meanwhile.
    async fn is_overdue(&mut self) -> bool {
        let reader = Reader::at(&self.directory, self.cursor.position().clone(), self.cursor.is_at_end());
        let lag = blocking(move || reader.lag()).await;
        if let Ok(lag) = lag {
            self.shared.lag_octets.store(lag, Ordering::Relaxed);
        }
        lag.is_ok_and(|lag| lag > self.pace.buffer)
    }

    fn advance(&mut self, place: Position, at_end: bool) {
        // That this is the end of the file can wait until there is nothing else to save.
        let is_other_place = *self.cursor.position() != place;
        self.cursor.advance(place, at_end);
        self.shared.is_at(&self.cursor.position().file, self.cursor.position().offset);
        if is_other_place && self.is_to_be_saved() {
            self.save();
        }
    }

    /// The disk has an older place, and did not refuse this one just now.
    fn is_to_be_saved(&self) -> bool {
        self.cursor.is_unsaved() && self.save_again.is_none()
    }

    /// Saves the place once more if that failed before and it is time.
    fn save_when_due(&mut self) {
        if self.save_again.is_some_and(|(due, _)| due <= Instant::now()) {
            self.save();
        }
    }

    fn save(&mut self) {
        // A write of a few hundred octets and its sync; this task has nothing else to do.
        match tokio::task::block_in_place(|| self.cursor.save()) {
            Ok(()) => {
                self.save_again = None;
                self.shared.works(Trouble::Place);
                self.complaints.saved(&self.label);
            }
            Err(error) => {
                let gap = self.save_again.map_or(FIRST_GAP, |(_, gap)| (gap * 2).min(LONGEST_SAVE_GAP));
                self.save_again = Some((Instant::now() + gap, gap));
                let detail = format!("cannot save how far it is: {error}");
                self.shared.failed(Trouble::Place, &detail);
                self.complaints.unsaved(&self.label, &detail);
            }
        }
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

    /// The same, for waits that may be long: a place that is to be saved again does not wait so long.
    async fn rest_and_save(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            self.save_when_due();
            let left = until.saturating_duration_since(Instant::now());
            let next = self.save_again.map_or(left, |(due, _)| left.min(due.saturating_duration_since(Instant::now())));
            if self.rest(next).await {
                return true;
            }
            if until <= Instant::now() {
                return false;
            }
        }
    }
}

/// How it has gone with some events that were not taken just now.
struct SoFar {
    /// How often these events were refused; `None`: the receiver could not be asked this time.
    refusals: Option<u32>,
    /// How many they are.
    events: usize,
    /// They are fewer than usual, since some were refused before.
    is_small: bool,
    /// How long they have waited.
    waiting: Duration,
}

/// What becomes of events that were not taken.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Again,
    /// Half of them, to find out which of them it is.
    Fewer,
    Drop,
}

impl SoFar {
    /// One that is refused is never dropped together with others that may not be. Where nobody answers, fewer
    /// would be no better.
    fn next(&self, pace: &Pace) -> Next {
        let is_over = |limit: Option<Duration>| limit.is_some_and(|limit| self.waiting >= limit);
        match self.refusals {
            None if is_over(pace.outage_for) => Next::Drop,
            None => Next::Again,
            Some(refusals) if self.events > 1 && (refusals >= PATIENT_REFUSALS || self.is_small) => Next::Fewer,
            Some(refusals) if self.events == 1 && refusals >= PATIENT_REFUSALS && is_over(pace.retry_for) => Next::Drop,
            Some(_) => Next::Again,
        }
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

#[cfg(test)]
mod tests;
