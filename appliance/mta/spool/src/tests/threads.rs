//! The whole spool with its thread, on the real file system.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::{
    Disk, MessageId, NewMessage, OpenError, Operation, ReadError, RetryState, Settings, Spool, SubmitError, inspect,
};

fn settings(directory: &std::path::Path) -> Settings {
    let mut settings = Settings::new(directory);
    settings.segment_size = 64 << 10;
    settings.minimum_free = 0;
    settings
}

fn open(directory: &std::path::Path) -> (Spool, Vec<MessageId>) {
    let mut found = Vec::new();
    let (spool, recovery) = Spool::open(settings(directory), Disk, |one| found.push(one.id)).unwrap();
    assert_eq!(recovery.repairs, Vec::new());
    (spool, found)
}

fn message(spool: &Spool, size: usize) -> NewMessage {
    let id = spool.next_id();
    NewMessage {
        id,
        received: 5,
        metadata: Bytes::from(format!("envelope of {id}")),
        body: [Bytes::from(format!("Received: {id}\r\n")), Bytes::from(vec![id.0 as u8; size])],
        recipients: 1,
    }
}

fn check(spool: &Spool, id: MessageId) {
    let stored = spool.read(id).unwrap();
    assert_eq!(stored.metadata, format!("envelope of {id}"));
    assert_eq!(stored.prefix, format!("Received: {id}\r\n"));
    assert!(stored.content.iter().all(|byte| *byte == id.0 as u8));
}

#[test]
fn many_threads_submit_read_and_complete_while_space_is_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, found) = open(directory.path());
    assert_eq!(found, Vec::new());
    let mut left: Vec<MessageId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let spool = &spool;
                scope.spawn(move || {
                    let mut left = Vec::new();
                    for round in 0..120_usize {
                        let new = message(spool, (round * 97 + thread * 13) % 9000);
                        let id = new.id;
                        spool.submit([Operation::Accept(new)]).wait().unwrap();
                        check(spool, id);
                        if round % 12 == 0 {
                            let state = RetryState { attempts: 1, due: 7 };
                            let ticket = spool.submit([Operation::Defer { id, recipient: 0, state }]);
                            ticket.wait().unwrap();
                            left.push(id);
                        } else {
                            let ticket = spool.submit([Operation::Complete { id, recipient: 0 }]);
                            ticket.wait().unwrap();
                            assert!(matches!(spool.read(id), Err(ReadError::Unknown(_))));
                        }
                        for id in &left {
                            check(spool, *id);
                        }
                    }
                    left
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    left.sort();
    let statistics = spool.statistics();
    assert_eq!(statistics.messages, left.len() as u64);
    assert!(statistics.groups < statistics.batches, "{statistics:?}");
    assert!(statistics.reclaimed > 10, "{statistics:?}");
    spool.close();
    let refused = spool.submit([Operation::Complete { id: left[0], recipient: 0 }]);
    assert_eq!(refused.wait(), Err(SubmitError::Closed));
    drop(spool);
    let (spool, mut found) = open(directory.path());
    found.sort();
    assert_eq!(found, left);
    for id in left {
        check(&spool, id);
        let stored = spool.read_metadata(id).unwrap();
        assert_eq!(stored.outstanding[0].1.attempts, 1);
    }
}

#[test]
fn two_processes_cannot_share_a_spool_and_inspection_wants_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path());
    let second = Spool::open(settings(directory.path()), Disk, |_| {});
    let error = second.err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().contains("in use by another process"));
    assert!(matches!(inspect(directory.path(), |_| {}), Err(OpenError::Locked { .. })));
    let new = message(&spool, 100);
    let id = new.id;
    let note = Operation::Note { key: Bytes::from_static(b"lane"), value: Bytes::from_static(b"42") };
    spool.submit([Operation::Accept(new)]).wait().unwrap();
    spool.submit([note]).wait().unwrap();
    drop(spool);
    let list = || {
        let mut files: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let content = std::fs::read(entry.path()).unwrap();
                (entry.file_name(), crc32c::crc32c(&content))
            })
            .collect();
        files.sort();
        files
    };
    let before = list();
    let mut found = Vec::new();
    let inspection = inspect(directory.path(), |one| found.push(one.id)).unwrap();
    assert_eq!(found, vec![id]);
    assert_eq!((inspection.messages, inspection.recipients), (1, 1));
    assert_eq!(inspection.notes.len(), 1);
    assert_eq!(inspection.damages, Vec::new());
    assert_eq!(list(), before, "inspection changed something");
}

#[test]
fn accepts_over_the_bound_are_refused_as_busy_and_other_batches_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.pending_limit = 10_000;
    let (spool, _) = Spool::open(settings, Disk, |_| {}).unwrap();
    let tickets: Vec<_> = (0..200).map(|_| spool.submit([Operation::Accept(message(&spool, 4000))])).collect();
    let id = MessageId(1);
    let other = spool.submit([Operation::Complete { id, recipient: 0 }]);
    let mut busy = 0;
    for ticket in tickets {
        match ticket.wait() {
            Ok(()) => {}
            Err(SubmitError::Busy { limit: 10_000 }) => busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(busy > 0);
    assert_eq!(other.wait(), Ok(()));
    spool.submit([Operation::Accept(message(&spool, 60_000))]).wait().unwrap();
    assert_eq!(spool.statistics().pending_bytes, 0);
}

#[test]
fn a_ticket_is_a_future() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path());
    let woken = Arc::new(Flag(AtomicBool::new(false), std::thread::current()));
    let waker = std::task::Waker::from(woken.clone());
    let mut context = std::task::Context::from_waker(&waker);
    let mut ticket = std::pin::pin!(spool.submit([Operation::Accept(message(&spool, 10))]));
    let answer = loop {
        match ticket.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => break answer,
            std::task::Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(answer, Ok(()));
}

struct Flag(AtomicBool, std::thread::Thread);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}
