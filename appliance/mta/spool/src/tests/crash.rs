//! The promise, as a property: random work, random faults, random crashes.

use std::collections::BTreeMap;

use super::world::{SEGMENT, World};

/// One life of a spool: many starts, much work, every kind of trouble.
fn live(seed: u64, outcomes: &mut BTreeMap<&'static str, u64>) {
    let mut world = World::new(seed);
    world.disk.set_capacity(SEGMENT * world.random.u64(8..60));
    assert!(world.open());
    for _ in 0..world.random.usize(3..12) {
        for _ in 0..world.random.usize(5..60) {
            match world.random.u8(..40) {
                0 => {
                    let rate = [0.0, 0.02, 0.2, 0.9][world.random.usize(..4)];
                    world.disk.set_fail_rate(rate);
                }
                1 | 2 => world.disk.set_fail_rate(0.0),
                3 => {
                    let at = world.disk.calls() + world.random.u64(..40);
                    world.disk.die_at(at);
                }
                4 => {
                    // Something else takes or gives back room.
                    let capacity = if world.random.bool() {
                        world.disk.used() + world.random.u64(..SEGMENT * 4)
                    } else {
                        SEGMENT * 60
                    };
                    world.disk.set_capacity(capacity);
                }
                5..9 => {
                    if let Some(log) = &mut world.log {
                        log.tick();
                    }
                }
                _ => {}
            }
            let batches = (0..world.random.usize(..6)).map(|_| world.random_batch()).collect();
            world.commit(batches);
            if let Some(log) = &mut world.log {
                log.housekeep();
            }
            if world.disk.is_dead() {
                break;
            }
        }
        if world.random.u8(..4) == 0 && !world.disk.is_dead() {
            world.disk.end_faults();
            world.read_back(20);
        }
        let power = world.random.bool();
        world.crash(power);
        if world.random.u8(..3) == 0 {
            // The next start has trouble too, or is cut short itself.
            if world.random.bool() {
                world.disk.set_fail_rate(0.03);
            } else {
                let at = world.disk.calls() + world.random.u64(..60);
                world.disk.die_at(at);
            }
        }
        while !world.open() || world.disk.is_dead() {
            let power = world.random.bool();
            world.crash(power);
        }
        world.disk.end_faults();
        world.read_back(10);
    }
    // Trouble over, everything comes to its end.
    world.disk.crash(false);
    world.disk.set_capacity(u64::MAX / 2);
    world.rest();
    assert!(!world.has_open_tickets(), "a ticket was never answered");
    world.read_all();
    world.complete_all();
    world.rest();
    assert!(!world.has_open_tickets());
    world.crash(true);
    assert!(world.open());
    assert_eq!(world.read_all(), 0);
    world.rest();
    // A head, what is ready, and small ones with a note in them.
    let left = world.segment_names().len();
    assert!(left <= 12, "{left} segments are left of nothing");
    for (what, count) in world.outcomes {
        *outcomes.entry(what).or_default() += count;
    }
}

fn seeds() -> std::ops::Range<u64> {
    // For longer runs: POSTKEEP_SPOOL_SEEDS=1000..50000
    let text = std::env::var("POSTKEEP_SPOOL_SEEDS").unwrap_or_default();
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.unwrap_or(0..400)
}

#[test]
fn what_was_acknowledged_survives_any_crash_and_what_was_refused_never_appears() {
    let mut outcomes = BTreeMap::new();
    for seed in seeds() {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            live(seed, &mut outcomes);
        }));
        if let Err(panic) = result {
            eprintln!("the seed was {seed}");
            std::panic::resume_unwind(panic);
        }
    }
    eprintln!("{outcomes:?}");
    for expected in ["acknowledged", "refused: full", "refused: storage", "power lost", "killed"] {
        assert!(outcomes.contains_key(expected), "no case of {expected}");
    }
}

/// The same short story each time; some call of it fails or is the last.
fn story(world: &mut World) {
    if world.log.is_none() && !world.open() {
        return;
    }
    for round in 0..14 {
        let mut batches = Vec::new();
        for size in [200, 1500, 3000] {
            batches.push(world.accept(size).1);
        }
        for _ in 0..3 {
            batches.push(world.random_batch());
        }
        world.commit(batches);
        if let Some(log) = &mut world.log {
            if round % 3 == 0 {
                log.tick();
            }
            log.housekeep();
        }
    }
    world.complete_all();
    for _ in 0..6 {
        if let Some(log) = &mut world.log {
            log.tick();
            log.housekeep();
        }
        let batch = world.random_batch();
        world.commit(vec![batch]);
    }
}

fn end_of_story(mut world: World) {
    let power = world.random.bool();
    world.crash(power);
    assert!(world.open());
    world.rest();
    assert!(!world.has_open_tickets());
    world.read_all();
    world.complete_all();
    world.rest();
    assert!(world.segment_names().len() <= 8);
}

#[test]
fn each_storage_call_may_fail_or_be_the_last() {
    let mut plain = World::new(11);
    story(&mut plain);
    let calls = plain.disk.calls();
    let plain_names = plain.disk.call_names();
    let names: std::collections::BTreeSet<_> = plain_names.iter().copied().collect();
    for expected in [
        "create",
        "preallocate",
        "write_at",
        "sync",
        "rename",
        "remove",
        "sync_directory",
        "read_at",
        "free_space",
        "list",
        "lock",
        "open_writable",
        "create_directory",
    ] {
        assert!(names.contains(expected), "the story has no {expected}");
    }
    end_of_story(plain);
    for call in 0..calls {
        let mut world = World::new(11);
        eprintln!("fail {call} {}", plain_names[call as usize]);
        world.disk.fail_at(call);
        story(&mut world);
        if world.log.is_none() {
            world.disk.crash(false);
            assert!(world.open(), "after the failure of call {call}");
            story(&mut world);
        }
        end_of_story(world);

        let mut world = World::new(11);
        eprintln!("die {call} {}", plain_names[call as usize]);
        world.disk.die_at(call);
        story(&mut world);
        end_of_story(world);
    }
    eprintln!("{calls} calls, each failed once and each the last once");
}
