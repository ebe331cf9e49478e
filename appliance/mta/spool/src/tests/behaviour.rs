//! Single promises, one by one, on the simulated disk.

use std::path::PathBuf;

use bytes::Bytes;

use super::world::{SEGMENT, World};
use crate::format::{FRAMES_START, SegmentHeader};
use crate::replay::{Repair, damaged_path, segment_path};
use crate::{Finding, MessageId, Operation, ReadError, RetryState, Sums, scan_segment};

fn open_world() -> World {
    let mut world = World::new(3);
    assert!(world.open());
    world
}

fn head_path(world: &World) -> PathBuf {
    let number = world.log.as_ref().unwrap().head.as_ref().unwrap().number;
    segment_path(world.directory(), number)
}

fn frames(world: &World, path: &std::path::Path) -> Vec<(u64, u64)> {
    let mut frames = Vec::new();
    scan_segment(&world.disk.content(path), Sums::Verify, |finding| {
        if let Finding::Frame { offset, length, .. } = finding {
            frames.push((offset, length));
        }
    });
    frames
}

fn accept_one(world: &mut World, size: usize) -> MessageId {
    let message = world.new_message(size, 1);
    let id = message.id;
    world.commit(vec![vec![Operation::Accept(message)]]);
    id
}

fn complete(world: &mut World, id: MessageId) {
    world.commit(vec![vec![Operation::Complete { id, recipient: 0 }]]);
}

#[test]
fn a_torn_tail_is_cut_and_the_rest_survives() {
    let mut world = open_world();
    accept_one(&mut world, 1000);
    accept_one(&mut world, 700);
    // The power goes in the write of the third.
    let path = head_path(&world);
    let before = world.disk.content(&path);
    accept_one(&mut world, 900);
    let (offset, length) = frames(&world, &path)[3];
    world.crash(false);
    world.disk.corrupt(&path, |content| {
        let half = (offset + length / 2) as usize;
        content[half..].copy_from_slice(&before[half..]);
    });
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |_| {});
    let (log, recovery) = opened.unwrap();
    assert_eq!(recovery.messages, 2);
    assert!(
        matches!(&recovery.repairs[..], [Repair::TornTail { path: torn, end }]
            if *torn == path && *end <= offset),
        "{:?}",
        recovery.repairs
    );
    drop(log);
    // Once repaired it is not reported again.
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |_| {});
    let (_log, recovery) = opened.unwrap();
    assert_eq!((recovery.messages, recovery.repairs), (2, Vec::new()));
}

#[test]
fn damage_in_a_sealed_segment_is_reported_and_the_rest_survives_and_the_file_is_kept() {
    let mut world = open_world();
    let path = head_path(&world);
    let ids: Vec<_> = (0..8).map(|_| accept_one(&mut world, 1000)).collect();
    let (offset, length) = frames(&world, &path)[3];
    world.crash(true);
    assert!(world.open());
    world.crash(true);
    world.disk.corrupt(&path, |content| {
        content[offset as usize + 40] ^= 1;
    });
    let mut found = Vec::new();
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |one| {
        found.push(one.id);
    });
    let (mut log, recovery) = opened.unwrap();
    let rest: Vec<_> = ids.iter().copied().filter(|id| *id != ids[2]).collect();
    assert_eq!(found, rest);
    assert!(
        matches!(&recovery.repairs[..], [Repair::Damaged { path: damaged, damage }]
            if *damaged == path && damage.from <= offset + length && damage.to > offset),
        "{:?}",
        recovery.repairs
    );
    for id in &rest {
        log.shared.read(*id).unwrap();
        let operation = Operation::Complete { id: *id, recipient: 0 };
        let (pending, _ticket) = crate::group::Pending::new([operation].into_iter().collect());
        log.commit(&mut vec![pending]);
    }
    for _ in 0..20 {
        log.tick();
        log.housekeep();
    }
    let names = world.disk.names();
    let kept = damaged_path(world.directory(), 1);
    let kept = kept.file_name().unwrap().to_str().unwrap();
    assert!(names.iter().any(|name| name == kept), "{names:?}");
    assert!(!names.iter().any(|name| name == "00000001.segment"));
}

#[test]
fn damage_before_durable_groups_of_the_last_segment_is_not_taken_for_a_torn_tail() {
    let mut world = open_world();
    let path = head_path(&world);
    for _ in 0..8 {
        accept_one(&mut world, 1000);
    }
    let (offset, _) = frames(&world, &path)[4];
    world.crash(false);
    world.disk.corrupt(&path, |content| {
        content[offset as usize] ^= 1;
    });
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |_| {});
    let (_log, recovery) = opened.unwrap();
    assert_eq!(recovery.messages, 7);
    assert!(matches!(&recovery.repairs[..], [Repair::Damaged { .. }]), "{:?}", recovery.repairs);
}

#[test]
fn a_damaged_body_is_said_at_start_and_at_each_read_and_its_metadata_stays_readable() {
    let mut world = open_world();
    let path = head_path(&world);
    let damaged = accept_one(&mut world, 1000);
    let whole = accept_one(&mut world, 1000);
    let (offset, length) = frames(&world, &path)[1];
    world.crash(false);
    world.disk.corrupt(&path, |content| {
        content[(offset + length) as usize - 20] ^= 4;
    });
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |_| {});
    let (log, recovery) = opened.unwrap();
    assert_eq!(recovery.messages, 2);
    assert_eq!(recovery.repairs, vec![Repair::BodyDamaged { path, id: damaged }]);
    assert!(matches!(log.shared.read(damaged), Err(ReadError::Damaged { .. })));
    log.shared.read_metadata(damaged).unwrap();
    log.shared.read(whole).unwrap();
}

#[test]
fn a_segment_with_an_unreadable_header_is_read_with_the_key_in_the_roster() {
    let mut world = open_world();
    let path = head_path(&world);
    let id = accept_one(&mut world, 500);
    world.crash(true);
    assert!(world.open());
    world.crash(true);
    world.disk.corrupt(&path, |content| content[..1024].fill(0));
    assert!(world.open());
    assert_eq!(world.repairs, Vec::new());
    world.log.as_ref().unwrap().shared.read(id).unwrap();
}

#[test]
fn a_lone_segment_with_an_unreadable_header_is_set_aside_and_said() {
    let mut world = open_world();
    let path = head_path(&world);
    accept_one(&mut world, 500);
    world.crash(true);
    world.disk.corrupt(&path, |content| content[..1024].fill(0));
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |_| {});
    let (_log, recovery) = opened.unwrap();
    assert_eq!(recovery.repairs, vec![Repair::HeaderDamaged { path }]);
    assert!(world.disk.names().contains(&"00000001.damaged".to_owned()));
}

#[test]
fn a_newer_version_is_refused_with_a_plain_sentence() {
    let mut world = open_world();
    let path = head_path(&world);
    world.crash(true);
    world.disk.corrupt(&path, |content| {
        let header = SegmentHeader { version: 2, number: 1, nonce: 9 };
        content[..FRAMES_START as usize].copy_from_slice(&header.encode());
    });
    let opened = crate::log::Log::open(world.settings.clone(), world.disk.clone(), |_| {});
    let error = opened.err().unwrap().to_string();
    assert_eq!(
        error,
        "the segment /spool/00000001.segment has format version 2, and this program knows versions up to 1: start the version that wrote it"
    );
}

#[test]
fn on_a_full_disk_accepts_are_refused_and_completions_go_through_and_make_room() {
    let mut world = open_world();
    world.settings.minimum_free = 0;
    world.crash(true);
    world.disk.set_capacity(SEGMENT * 8);
    assert!(world.open());
    let mut ids = Vec::new();
    while !world.outcomes.contains_key("refused: full") {
        ids.push(accept_one(&mut world, 1500));
        world.log.as_mut().unwrap().housekeep();
        assert!(ids.len() < 500, "the disk never ran full");
    }
    ids.pop();
    let acknowledged = world.outcomes["acknowledged"];
    let mut touched_reserve = false;
    // A full head would be the worst case: no room anywhere but in the reserve.
    for id in &ids {
        let state = RetryState { attempts: 1, due: 2 };
        let defer = Operation::Defer { id: *id, recipient: 0, state };
        let complete = Operation::Complete { id: *id, recipient: 0 };
        world.commit(vec![vec![defer.clone()], vec![defer], vec![complete]]);
        if world.log.as_ref().unwrap().ready.is_empty() {
            // The reserve is being used: it is not for accepts.
            let refused = world.outcomes["refused: full"];
            accept_one(&mut world, 10);
            assert_eq!(world.outcomes["refused: full"], refused + 1);
            touched_reserve = true;
        }
        world.log.as_mut().unwrap().housekeep();
    }
    assert!(touched_reserve);
    assert!(world.outcomes["acknowledged"] > acknowledged, "nothing went through before the next tick");
    world.rest();
    assert!(!world.has_open_tickets());
    assert_eq!(world.outcomes["acknowledged"] - acknowledged, ids.len() as u64 * 3);
    let refused = world.outcomes["refused: full"];
    accept_one(&mut world, 1500);
    assert_eq!(world.outcomes["refused: full"], refused);
}

#[test]
fn accepts_are_refused_below_the_minimum_of_free_space_and_taken_again_above_it() {
    let mut world = open_world();
    accept_one(&mut world, 100);
    world.disk.set_capacity(world.disk.used() + SEGMENT);
    world.log.as_mut().unwrap().tick();
    accept_one(&mut world, 100);
    assert_eq!(world.outcomes["refused: full"], 1);
    world.disk.set_capacity(SEGMENT * 40);
    world.log.as_mut().unwrap().tick();
    accept_one(&mut world, 100);
    assert_eq!(world.outcomes["acknowledged"], 2);
}

#[test]
fn after_a_failed_sync_the_group_is_refused_and_stays_away_though_the_truncation_failed() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        assert!(world.open());
        let kept = accept_one(&mut world, 400);
        let before = head_path(&world);
        world.disk.fail_all(&["sync", "truncate"]);
        let (_, accept) = world.accept(600);
        world.commit(vec![
            accept,
            vec![Operation::Defer { id: kept, recipient: 0, state: RetryState { attempts: 5, due: 9 } }],
        ]);
        // Not answered before it is certain that it cannot come back.
        assert!(world.has_open_tickets());
        assert!(!world.outcomes.contains_key("refused: storage"));
        world.disk.end_faults();
        world.log.as_mut().unwrap().tick();
        world.commit(Vec::new());
        assert!(!world.has_open_tickets());
        assert_eq!(world.outcomes["refused: storage"], 1);
        assert_ne!(head_path(&world), before);
        let power = world.random.bool();
        world.crash(power);
        assert!(world.open());
        assert_eq!(world.read_all(), 1);
    }
}

#[test]
fn what_a_start_has_told_of_is_durable_though_the_sync_before_the_kill_had_failed() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        assert!(world.open());
        accept_one(&mut world, 400);
        world.disk.fail_all(&["sync", "truncate"]);
        let (_, accept) = world.accept(600);
        world.commit(vec![accept]);
        world.crash(false);
        // What is told of now is taken over.
        assert!(world.open());
        let count = world.read_all();
        world.crash(true);
        assert!(world.open());
        assert_eq!(world.read_all(), count);
    }
}

#[test]
fn ids_are_not_given_out_again_when_all_is_complete_and_reclaimed() {
    let mut world = open_world();
    let mut last = MessageId(0);
    for _ in 0..60 {
        last = accept_one(&mut world, 1500);
        complete(&mut world, last);
    }
    world.rest();
    for _ in 0..3 {
        world.crash(true);
        assert!(world.open());
        world.rest();
        let message = world.new_message(1, 1);
        assert!(message.id > MessageId(last.0 + 60_000), "{}", message.id);
        last = message.id;
    }
}

#[test]
fn a_message_larger_than_a_segment_and_batches_of_several_are_stored_and_read() {
    let mut world = open_world();
    accept_one(&mut world, 100);
    accept_one(&mut world, SEGMENT as usize * 5);
    accept_one(&mut world, 0);
    let (_, mut batch) = world.accept(900);
    for size in [70_000, 0, 3] {
        batch.extend(world.accept(size).1);
    }
    world.commit(vec![batch]);
    assert_eq!(world.read_all(), 7);
    world.crash(true);
    assert!(world.open());
    assert_eq!(world.read_all(), 7);
}

#[test]
fn a_few_messages_that_stay_do_not_hold_the_segments_of_all_the_others() {
    let mut world = open_world();
    let mut stay = Vec::new();
    for round in 0..400_u32 {
        let id = accept_one(&mut world, 1200);
        if round % 20 == 0 {
            stay.push(id);
            let state = RetryState { attempts: 1, due: round };
            world.commit(vec![vec![
                Operation::Defer { id, recipient: 0, state },
                Operation::Note {
                    key: Bytes::from(format!("lane {}", round % 3)),
                    value: Bytes::from(format!("{round}")),
                },
            ]]);
        } else {
            complete(&mut world, id);
        }
        let log = world.log.as_mut().unwrap();
        if round % 8 == 0 {
            log.tick();
        }
        log.housekeep();
    }
    world.rest();
    let log = world.log.as_ref().unwrap();
    let moved = log.shared.counters.moved.load(std::sync::atomic::Ordering::Relaxed);
    assert!(moved > 0);
    // 20 messages of 1.3 KiB are two segments; 400 were 40.
    let segments = world.segment_names();
    assert!(segments.len() <= 9, "{segments:?}");
    for id in &stay {
        let stored = world.log.as_ref().unwrap().shared.read(*id).unwrap();
        assert_eq!(stored.outstanding[0].1.attempts, 1);
    }
    world.crash(true);
    assert!(world.open());
    assert_eq!(world.read_all(), stay.len());
    let state = world.log.as_ref().unwrap().shared.state.lock();
    assert_eq!(state.notes.len(), 3);
}

#[test]
fn the_scanner_takes_any_bytes_and_finds_nothing_forged() {
    let mut world = open_world();
    let path = head_path(&world);
    for _ in 0..6 {
        accept_one(&mut world, 700);
    }
    let content = world.disk.content(&path);
    let count = |bytes: &[u8], sums| {
        let mut frames = 0;
        scan_segment(bytes, sums, |finding| {
            frames += usize::from(matches!(finding, Finding::Frame { .. }));
        });
        frames
    };
    assert_eq!(count(&content, Sums::Verify), 7);
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..3000 {
        let mut bytes = content.clone();
        bytes.truncate(random.usize(..=bytes.len()));
        for _ in 0..random.usize(..20) {
            if bytes.len() > 1100 {
                let at = random.usize(1024..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        assert!(count(&bytes, Sums::Verify) <= 7);
        if round % 10 == 0 {
            count(&bytes, Sums::Ignore);
        }
    }
    // The frames of one segment are noise in another, wherever they lie.
    let mut other = SegmentHeader { version: 1, number: 1, nonce: 77 }.encode();
    other.extend_from_slice(&content[1024..]);
    assert_eq!(count(&other, Sums::Verify), 0);
    let mut shifted = content.clone();
    shifted.copy_within(2048.., 1536);
    assert!(count(&shifted, Sums::Verify) <= 2);
}
