//! The disk as it really is: it fills up, and it fails to sync. Nothing that
//! was answered `250` is lost, nothing that was refused is delivered, and mail
//! goes on when the trouble is over, without a restart.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postkeep_tests::daemon::run;
use postkeep_tests::tools::{self, needs};
use postkeep_tests::{Act, Client, Daemon, Ground, Names, Reply, Settings, Sink, Stage, message, wait_until};

const LIMIT: Duration = Duration::from_secs(40);

/// A small tmpfs, unmounted when dropped.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn mount(folder: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&folder).expect("make the mount point");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&folder)).done();
        Self { folder }
    }

    /// Takes up space until nothing is left.
    fn fill(&self) {
        let mut ballast =
            std::fs::File::options().create(true).append(true).open(self.ballast()).expect("open the ballast");
        let piece = vec![0; 4096];
        while ballast.write_all(&piece).is_ok() {}
    }

    /// Takes up this much space.
    fn take(&self, bytes: usize) {
        std::fs::write(self.ballast(), vec![0; bytes]).expect("write the ballast");
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("remove the ballast");
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

fn submit(client: &mut Client, number: usize, size: usize) -> Reply {
    let body = format!(
        "{number}\n{}",
        "0123456789012345678901234567890123456789012345678901234567890123456789\n".repeat(size / 71)
    );
    let content = message::simple("a@example.test", "r@there.test", &number.to_string(), &body);
    let reply = client
        .submit("a@example.test", &[&format!("r{number}@there.test")], &content)
        .unwrap_or_else(|error| panic!("message {number} got no reply: {error}"));
    if reply.code != 250 {
        let reset = client.command("RSET").expect("RSET");
        assert_eq!(reset.code, 250, "{reset}");
    }
    reply
}

fn numbers(sink: &Sink) -> BTreeSet<usize> {
    sink.look(|all| {
        all.iter()
            .filter(|transaction| transaction.accepted())
            .filter_map(|transaction| message::header(&transaction.content, "Subject").parse().ok())
            .collect()
    })
}

/// A receiver that defers while the switch is on.
fn deferring(ground: &Ground) -> (Sink, Arc<AtomicBool>) {
    let defer = Arc::new(AtomicBool::new(true));
    let sink = Sink::at(ground, 100).with_script({
        let defer = Arc::clone(&defer);
        move |moment| {
            if moment.stage == Stage::Rcpt && defer.load(Ordering::SeqCst) {
                Act::reply("451 4.3.0 Later")
            } else {
                Act::Accept
            }
        }
    });
    (sink, defer)
}

fn full_disk(ground: &Ground, minimum_free: &str) -> (SmallDisk, Settings) {
    let disk = SmallDisk::mount(ground.path("disk"), "32m");
    let settings = Settings::new(ground).with(&format!(
        "[spool]\ndirectory = {:?}\nsegment-size = \"2MiB\"\nminimum-free = \"{minimum_free}\"\n",
        disk.folder.join("spool")
    ));
    (disk, settings)
}

#[test]
fn below_the_threshold_intake_answers_452_and_delivery_goes_on() {
    let Some(()) = needs(tools::root()) else { return };
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let (sink, defer) = deferring(&ground);
    let (disk, settings) = full_disk(&ground, "8MiB");
    let daemon = Daemon::start(&ground, &settings);

    let mut client = daemon.client();
    let mut accepted = BTreeSet::new();
    let mut refused = None;
    for number in 0..600 {
        let reply = submit(&mut client, number, 100_000);
        match reply.code {
            250 => drop(accepted.insert(number)),
            _ => {
                refused = Some(reply);
                break;
            }
        }
    }
    let refused = refused.expect("a 32 MiB disk does not hold 60 MB");
    assert_eq!(refused.codes(), "452 4.3.1", "{refused}");
    assert!(accepted.len() > 50, "{} messages fit", accepted.len());

    // Delivery works while the disk is full, and with it space comes back: no restart, no command.
    defer.store(false, Ordering::SeqCst);
    wait_until("everything accepted to be delivered", LIMIT, || numbers(&sink) == accepted);
    let end = Instant::now() + LIMIT;
    let mut number = 1000;
    while submit(&mut client, number, 1000).code != 250 {
        assert!(Instant::now() < end, "intake does not open again after the queue is empty");
        std::thread::sleep(Duration::from_millis(200));
        number += 1;
    }
    wait_until("the new message", LIMIT, || numbers(&sink).contains(&number));
    drop(disk);
}

#[test]
fn a_disk_filled_by_others_loses_nothing_and_opens_again_when_space_is_freed() {
    let Some(()) = needs(tools::root()) else { return };
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let (sink, defer) = deferring(&ground);
    // So little that the write itself meets the end of the disk.
    let (disk, settings) = full_disk(&ground, "4KiB");
    let mut daemon = Daemon::start(&ground, &settings);

    let mut client = daemon.client();
    let mut accepted = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for number in 0..20 {
        assert_eq!(submit(&mut client, number, 5_000).code, 250);
        accepted.insert(number);
    }
    disk.take(20 << 20);
    let mut replies = Vec::new();
    for number in 20..400 {
        let reply = submit(&mut client, number, 60_000);
        if reply.code == 250 {
            accepted.insert(number);
        } else {
            refused.insert(number);
            replies.push(reply);
        }
        if refused.len() == 5 {
            break;
        }
    }
    assert_eq!(refused.len(), 5, "the disk of 32 MiB took everything");
    // Now to the brim. What still fits into space that the spool already has may be taken.
    disk.fill();
    for number in 400..600 {
        let reply = submit(&mut client, number, 20_000);
        if reply.code == 250 {
            accepted.insert(number);
            continue;
        }
        refused.insert(number);
        replies.push(reply);
        if refused.len() == 10 {
            break;
        }
    }
    assert_eq!(refused.len(), 10, "200 messages of 20 kB fitted a full disk");
    for reply in &replies {
        assert!(matches!(reply.codes().as_str(), "452 4.3.1" | "451 4.3.0"), "{reply}");
    }
    assert!(replies.iter().any(|reply| reply.codes() == "452 4.3.1"), "{replies:?}");

    // Mail goes out while the disk is full to the brim.
    defer.store(false, Ordering::SeqCst);
    wait_until("the accepted mail to be delivered on a full disk", LIMIT, || numbers(&sink).is_superset(&accepted));
    assert!(daemon.alive());

    disk.free();
    let end = Instant::now() + LIMIT;
    while submit(&mut client, 700, 1_000).code != 250 {
        assert!(Instant::now() < end, "intake does not open again after space was freed");
        std::thread::sleep(Duration::from_millis(100));
    }
    accepted.insert(700);
    wait_until("the new message", LIMIT, || numbers(&sink).contains(&700));
    defer.store(true, Ordering::SeqCst);
    assert_eq!(submit(&mut client, 701, 1_000).code, 250);
    accepted.insert(701);
    daemon.kill();
    daemon.run();
    defer.store(false, Ordering::SeqCst);
    wait_until("what was accepted before the kill", LIMIT, || numbers(&sink).contains(&701));
    let delivered = numbers(&sink);
    assert_eq!(delivered, accepted, "just what was accepted is delivered");
    assert!(delivered.is_disjoint(&refused));
    drop(daemon);
    drop(disk);
}

/// Compiles the wrapper that makes syncing fail.
fn build_fault(ground: &Ground) -> Option<PathBuf> {
    let compiler = needs(tools::find("gcc").or_else(|_| tools::find("cc")))?;
    let program = ground.path("fsync-fault");
    run(Command::new(compiler).args(["-O1", "-o"]).arg(&program).arg(tools::file("faults/fsync.c"))).done();
    Some(program)
}

#[test]
fn while_sync_fails_nothing_is_answered_250_and_nothing_refused_is_ever_delivered() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let (sink, defer) = deferring(&ground);
    let Some(fault) = build_fault(&ground) else { return };
    let (switch, spool, count) = (ground.path("fail"), ground.path("spool"), ground.path("syncs"));
    let mut daemon = Daemon::start_under(&ground, &Settings::new(&ground), &[&fault, &switch, &spool, &count]);
    let syncs = || std::fs::metadata(&count).map_or(0, |file| file.len());

    let mut client = daemon.client();
    let mut accepted = BTreeSet::new();
    let mut refused = BTreeSet::new();
    let before = syncs();
    for number in 0..10 {
        let reply = submit(&mut client, number, 3_000);
        assert_eq!(reply.code, 250, "{reply}");
        accepted.insert(number);
    }
    assert!(syncs() > before, "nothing below the spool was ever synced");

    for round in 0..3 {
        std::fs::write(&switch, "").expect("turn the fault on");
        for number in (0..8).map(|n| 100 + round * 100 + n) {
            let mut client = daemon.client();
            let reply = submit(&mut client, number, 3_000);
            assert!(matches!(reply.code, 451 | 452), "{number} while fsync fails: {reply}");
            assert!(reply.enhanced().starts_with("4.3."), "{reply}");
            refused.insert(number);
        }
        std::fs::remove_file(&switch).expect("turn the fault off");
        let end = Instant::now() + LIMIT;
        let number = 150 + round * 100;
        while submit(&mut client, number, 3_000).code != 250 {
            assert!(Instant::now() < end, "intake does not work again after the fault is gone");
            std::thread::sleep(Duration::from_millis(100));
        }
        accepted.insert(number);
        assert!(daemon.alive());
        // In the second round the refused mail meets a crash, too.
        if round == 1 {
            daemon.kill();
            daemon.run();
            client = daemon.client();
        }
    }
    defer.store(false, Ordering::SeqCst);
    wait_until("everything accepted", LIMIT, || numbers(&sink).is_superset(&accepted));
    daemon.kill();
    daemon.run();
    assert_eq!(submit(&mut daemon.client(), 900, 100).code, 250);
    accepted.insert(900);
    wait_until("the last message", LIMIT, || numbers(&sink).contains(&900));
    let delivered = numbers(&sink);
    assert!(delivered.is_disjoint(&refused), "refused and delivered: {:?}", delivered.intersection(&refused));
    assert_eq!(delivered, accepted);
}
