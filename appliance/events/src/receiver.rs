//! The life of one receiver: opened, served, and opened again when something was not there or its task ended.
//!
//! Mail does not depend on any of this, so nothing here stops the daemon: what cannot be opened is tried again,
//! and the status says meanwhile what is wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postkeep_configuration::EventsFrom;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Common;
use crate::complaints::Complaints;
use crate::cursor::Cursor;
use crate::event::Selection;
use crate::follower::Position;
use crate::privacy::Privacy;
use crate::reader::Reader;
use crate::runner::{Pace, Runner, Sink};
use crate::status::{Shared, Trouble};

/// Where cursors lie, below the folder of the records.
const CURSORS: &str = "receivers";
/// Wait before a receiver is opened again; doubled with each further failure.
const FIRST_GAP: Duration = Duration::from_secs(1);
/// Longest of these waits.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// What a receiver is opened with, as often as it is needed.
pub(crate) struct Receiver<F> {
    pub(crate) common: Common,
    /// `webhook shop`.
    pub(crate) label: String,
    pub(crate) pace: Pace,
    /// Makes what hands events over.
    pub(crate) sink: F,
    /// Folder of the records.
    pub(crate) directory: PathBuf,
    pub(crate) hostname: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) written: watch::Receiver<u64>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Where it begins without a cursor: decided once, lest what happens until a disk is mended be missed.
    pub(crate) first: Option<Position>,
    pub(crate) complaints: Complaints,
}

impl<S: Sink, F: FnMut(&Cursor) -> io::Result<S> + Send + 'static> Receiver<F> {
    /// Opens it the first time. The future serves it until it is told to stop.
    pub(crate) fn begin(mut self) -> impl Future<Output = ()> + Send + 'static {
        let runner = self.open();
        self.keep(runner)
    }

    async fn keep(mut self, mut runner: Option<Runner<S>>) {
        let mut gap = FIRST_GAP;
        loop {
            if let Some(mut runner) = runner.take() {
                let since = Instant::now();
                // Beside this task, which so outlives it; ended with this task.
                let mut work = JoinSet::new();
                work.spawn(async move { runner.run().await });
                match work.join_next().await {
                    None | Some(Ok(())) => return,
                    Some(Err(error)) => self.complain(&format!("its task has ended: {error}")),
                }
                if since.elapsed() > LONGEST_GAP {
                    gap = FIRST_GAP;
                }
            }
            if tokio::time::timeout(gap, self.stop.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
            gap = (gap * 2).min(LONGEST_GAP);
            runner = tokio::task::block_in_place(|| self.open());
        }
    }

    fn open(&mut self) -> Option<Runner<S>> {
        match self.try_open() {
            Ok(runner) => {
                self.shared.works(Trouble::Start);
                Some(runner)
            }
            Err(error) => {
                self.complain(&error.to_string());
                None
            }
        }
    }

    fn complain(&mut self, detail: &str) {
        self.shared.failed(Trouble::Start, detail);
        self.complaints.failed(&self.label, detail);
    }

    fn try_open(&mut self) -> io::Result<Runner<S>> {
        let first = match &self.first {
            Some(place) => Ok(place.clone()),
            None => first_place(&self.directory, self.common.from),
        };
        self.first = first.as_ref().ok().cloned();
        let cursors = self.directory.join(CURSORS);
        let cursor = Cursor::open(&cursors.join(self.label.replace(' ', "-")), || first)?;
        let selection = Selection {
            events: self.common.events.clone(),
            // One key for all: an address has the same sum wherever it goes.
            privacy: Privacy::open(self.common.local_part, &cursors.join("address-key"))?,
            hostname: self.hostname.clone(),
        };
        Ok(Runner {
            label: self.label.clone(),
            sink: (self.sink)(&cursor)?,
            pace: self.pace.clone(),
            at_a_time: self.pace.batch,
            selection,
            cursor,
            directory: self.directory.clone(),
            shared: Arc::clone(&self.shared),
            written: self.written.clone(),
            stop: self.stop.clone(),
            complaints: Complaints::default(),
            save_again: None,
        })
    }
}

/// Where a receiver begins that has never been told anything.
fn first_place(directory: &Path, from: EventsFrom) -> io::Result<Position> {
    match from {
        EventsFrom::Beginning => Ok(Position::beginning()),
        EventsFrom::End => Reader::end(directory),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::event::Event;
    use crate::runner::Failure;

    struct Fragile(Arc<AtomicUsize>);

    impl Sink for Fragile {
        async fn deliver(&mut self, _: &[Event], _: &mut Cursor) -> Result<(), Failure> {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the first time it breaks");
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_task_that_has_ended_is_shown_and_begun_again() {
        let directory = tempfile::tempdir().expect("a folder");
        let record = "{\"time\":\"2026-11-26T21:12:00Z\",\"event\":\"delivered\"}\n";
        std::fs::write(directory.path().join("records-20260101T000000Z-000.jsonl"), record).expect("write");
        let (stop, stopped) = watch::channel(false);
        let (_, written) = watch::channel(0);
        let (shared, tries) = (Arc::new(Shared::default()), Arc::new(AtomicUsize::new(0)));
        let common = Common {
            kind: "webhook",
            name: "shop".into(),
            events: vec!["*".into()],
            local_part: postkeep_configuration::LocalPart::Plain,
            buffer: postkeep_configuration::ByteSize::mebibytes(1),
            from: EventsFrom::Beginning,
        };
        let theirs = Arc::clone(&tries);
        let receiver = Receiver {
            label: "webhook shop".into(),
            pace: crate::pace(&common),
            common,
            sink: move |_: &Cursor| Ok(Fragile(Arc::clone(&theirs))),
            directory: directory.path().to_owned(),
            hostname: "a.test".into(),
            shared: Arc::clone(&shared),
            written,
            stop: stopped,
            first: None,
            complaints: Complaints::default(),
        };
        let task = tokio::spawn(receiver.begin());
        let mut shown = String::new();
        for _ in 0..500 {
            if let Some(why) = shared.failing() {
                shown = why;
            }
            if shared.sent.load(Ordering::SeqCst) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(shown.contains("its task has ended"), "{shown}");
        assert_eq!((tries.load(Ordering::SeqCst), shared.failing()), (2, None));
        stop.send_replace(true);
        task.await.expect("ended");
    }
}
