//! A receiver's task over records on a disk, with a receiver that is made up.

use std::collections::BTreeSet;
use std::path::Path;

use parking_lot::Mutex;

use super::*;
use crate::privacy::Privacy;

/// A receiver that refuses whatever has one of these events in it.
#[derive(Clone, Default)]
struct Picky {
    refused: BTreeSet<String>,
    taken: Arc<Mutex<Vec<String>>>,
    tries: Arc<Mutex<Vec<usize>>>,
}

impl Sink for Picky {
    async fn deliver(&mut self, events: &[Event], _: &mut Cursor) -> Result<(), Failure> {
        self.tries.lock().push(events.len());
        if events.iter().any(|event| self.refused.contains(&event.name)) {
            return Err(Failure::refusal("not that one"));
        }
        self.taken.lock().extend(events.iter().map(|event| event.name.clone()));
        Ok(())
    }
}

fn pace() -> Pace {
    Pace {
        batch: 8,
        linger: Duration::ZERO,
        longest_gap: Duration::from_millis(100),
        retry_for: Some(Duration::ZERO),
        outage_for: None,
        buffer: 1 << 20,
    }
}

fn write(directory: &Path, names: &[&str]) {
    let record = |name: &&str| format!("{{\"time\":\"2026-11-26T21:12:00Z\",\"event\":\"{name}\"}}\n");
    let text: String = names.iter().map(record).collect();
    std::fs::write(directory.join("records-20260101T000000Z-000.jsonl"), text).expect("write");
}

fn runner(directory: &Path, sink: &Picky) -> (Runner<Picky>, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    // Whoever wrote has gone: records are looked for now and then.
    let (_, written) = watch::channel(0);
    let cursor = Cursor::open(&directory.join("cursor"), || Ok(Position::beginning())).expect("a cursor");
    let runner = Runner {
        label: "picky".into(),
        sink: sink.clone(),
        at_a_time: pace().batch,
        pace: pace(),
        selection: Selection { events: vec!["*".into()], privacy: Privacy::plain(), hostname: "a.test".into() },
        cursor,
        directory: directory.to_owned(),
        shared: Arc::default(),
        written,
        stop: stopped,
        complaints: Complaints::default(),
        save_again: None,
    };
    (runner, stop)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_sent_once_while_the_place_cannot_be_saved_and_it_is_saved_when_it_can() {
    let directory = tempfile::tempdir().expect("a folder");
    write(directory.path(), &["a", "b", "c"]);
    let sink = Picky::default();
    let (mut runner, stop) = runner(directory.path(), &sink);
    // A folder in the place of the half that is written first.
    let half = directory.path().join("cursor/cursor.json.half");
    std::fs::create_dir(&half).expect("a folder");
    let shared = Arc::clone(&runner.shared);
    let failing = move || shared.failing().unwrap_or_default();
    let work = tokio::spawn(async move { runner.run().await });
    until("the trouble to be shown", || failing().contains("cannot save how far it is")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*sink.tries.lock(), [3], "nothing is sent again for the disk's sake");
    std::fs::remove_dir(&half).expect("removed");
    until("the place to be saved", || failing().is_empty()).await;
    let again = Cursor::open(&directory.path().join("cursor"), || panic!("there is one")).expect("it");
    assert_eq!(again.position().offset, std::fs::read(record_file(directory.path())).expect("records").len() as u64);
    assert_eq!(*sink.tries.lock(), [3]);
    stop.send_replace(true);
    work.await.expect("ended");
}

fn record_file(directory: &Path) -> PathBuf {
    directory.join("records-20260101T000000Z-000.jsonl")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_refused_for_good_is_dropped_alone() {
    let directory = tempfile::tempdir().expect("a folder");
    write(directory.path(), &["a", "b", "c", "d", "bad", "f", "g", "h", "i"]);
    let sink = Picky { refused: ["bad".to_owned()].into(), ..Picky::default() };
    let (mut runner, stop) = runner(directory.path(), &sink);
    let shared = Arc::clone(&runner.shared);
    let work = tokio::spawn(async move { runner.run().await });
    until("all others to be taken", || sink.taken.lock().len() == 8).await;
    assert_eq!(*sink.taken.lock(), ["a", "b", "c", "d", "f", "g", "h", "i"]);
    assert_eq!(shared.dropped.load(Ordering::Relaxed), 1);
    stop.send_replace(true);
    work.await.expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_deleted_unread_is_counted_once_and_one_that_was_read_is_not() {
    for (was_read, lost) in [(false, 1), (true, 0)] {
        let directory = tempfile::tempdir().expect("a folder");
        write(directory.path(), &["a", "b"]);
        let sink = Picky::default();
        let (mut runner, stop) = runner(directory.path(), &sink);
        // It stood in a file that is not there any more.
        runner.cursor.advance(Position { file: "records-20250101T000000Z-000.jsonl".into(), offset: 99 }, was_read);
        let shared = Arc::clone(&runner.shared);
        let work = tokio::spawn(async move { runner.run().await });
        until("the rest to be taken", || sink.taken.lock().len() == 2).await;
        stop.send_replace(true);
        work.await.expect("ended");
        assert_eq!(shared.lost_files.load(Ordering::Relaxed), lost);
    }
}

#[test]
fn what_becomes_of_events_that_were_not_taken() {
    let hour = Duration::from_secs(3600);
    let broker = Pace { retry_for: Some(hour), ..pace() };
    let webhook = Pace { outage_for: Some(hour), ..broker.clone() };
    let so_far = |refusals, events, is_small, waiting| SoFar { refusals, events, is_small, waiting };
    let cases = [
        // Nobody answers: a broker's events wait, a webhook's are given up in time.
        (so_far(None, 8, false, 2 * hour), &broker, Next::Again),
        (so_far(None, 8, false, hour / 2), &webhook, Next::Again),
        (so_far(None, 8, false, hour), &webhook, Next::Drop),
        // Refused: patience, then fewer, then one alone.
        (so_far(Some(1), 8, false, 2 * hour), &broker, Next::Again),
        (so_far(Some(3), 8, false, hour / 2), &broker, Next::Fewer),
        (so_far(Some(1), 4, true, 2 * hour), &broker, Next::Fewer),
        (so_far(Some(9), 1, true, hour / 2), &broker, Next::Again),
        (so_far(Some(1), 1, true, 2 * hour), &broker, Next::Again),
        (so_far(Some(3), 1, true, 2 * hour), &broker, Next::Drop),
    ];
    for (index, (so_far, pace, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(so_far.next(pace), wanted, "case {index}");
    }
}
