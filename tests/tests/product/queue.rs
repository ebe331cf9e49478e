//! `postkeep queue …`: seeing a part of the queue and acting on it, by stream,
//! domain, site and source; every answer also as JSON; what was decided
//! survives a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postkeep_tests::daemon::Said;
use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

struct House {
    daemon: Daemon,
    sinks: [Sink; 2],
    mailbox: Sink,
    defer: Arc<AtomicBool>,
    ground: Ground,
    _names: Names,
}

/// Two domains that defer everything, for an hour, until the switch is turned; two streams; two pools.
fn open() -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("one.test", ground.ip(101)).domain("two.test", ground.ip(102)).domain("sender.test", ground.ip(90));
    let defer = Arc::new(AtomicBool::new(true));
    let sinks = [101, 102].map(|n| {
        let defer = Arc::clone(&defer);
        Sink::at(&ground, n).with_script(move |moment| {
            if moment.stage == Stage::Rcpt && defer.load(Ordering::SeqCst) {
                Act::reply("451 4.2.1 Mailbox busy")
            } else {
                Act::Accept
            }
        })
    });
    let mailbox = Sink::at(&ground, 90);
    let settings = Settings::new(&ground).with(&format!(
        "[stream.default]\nretry = [\"1h\"]\n[stream.news]\nretry = [\"1h\"]\npool = \"second\"\n\
         [source.two]\nipv4 = \"{}\"\n[pool.second.sources]\ntwo = 1\n",
        ground.ip(12)
    ));
    let daemon = Daemon::start(&ground, &settings);
    House { daemon, sinks, mailbox, defer, ground, _names: names }
}

impl House {
    fn send(&self, recipient: &str, stream: &str) {
        let content =
            format!("From: a@sender.test\r\nX-Postkeep-Stream: {stream}\r\nSubject: {recipient}\r\n\r\nHi\r\n");
        self.daemon.submit("a@sender.test", &[recipient], content.as_bytes());
    }

    /// Two recipients each: default and news, one.test and two.test; all deferred.
    fn filled(self) -> Self {
        for stream in ["default", "news"] {
            for domain in ["one.test", "two.test"] {
                for n in 0..2 {
                    self.send(&format!("{stream}{n}@{domain}"), stream);
                }
            }
        }
        wait_until("eight deferred recipients", LIMIT, || self.daemon.events("deferred").len() >= 8);
        self
    }

    #[track_caller]
    fn queue(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["queue"];
        all.extend(arguments);
        all.push("--json");
        self.daemon.postkeep(&all).done().json()
    }

    fn show(&self, selection: &[&str]) -> Value {
        let mut all = vec!["show"];
        all.extend(selection);
        self.queue(&all)
    }

    /// Recipients in the selected part of the queue.
    fn waiting(&self, selection: &[&str]) -> u64 {
        self.show(selection)["mail"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|mail| ["ready", "waiting", "under-way"].iter().filter_map(|key| mail[key].as_u64()).sum::<u64>())
            .sum()
    }
}

#[test]
fn show_tells_what_waits_where_and_why() {
    let house = open().filled();
    let all = house.show(&[]);
    assert_eq!(all["total"], 8, "{all}");
    assert_eq!(all["mail"].as_array().map(Vec::len), Some(4), "{all}");
    for (selection, expected) in [
        (vec!["--stream", "news"], 4),
        (vec!["--domain", "one.test"], 4),
        (vec!["--domain", "ONE.test", "--stream", "news"], 2),
        (vec!["--site", "mx.two.test"], 4),
        (vec!["--source", "two"], 4),
        (vec!["--source", "two", "--site", "mx.one.test"], 2),
        (vec!["--domain", "three.test"], 0),
    ] {
        assert_eq!(house.waiting(&selection), expected, "{selection:?}: {}", house.show(&selection));
    }
    let mail = &house.show(&["--domain", "one.test", "--stream", "news"])["mail"][0];
    assert!(mail["last-error"].as_str().is_some_and(|error| error.contains("Mailbox busy")), "{mail}");
    assert!(mail["next-due"].is_string(), "{mail}");
    let lanes = all["lanes"].as_array().expect("lanes");
    assert_eq!(lanes.len(), 4, "two sources at two sites: {lanes:?}");
    let text = house.daemon.postkeep(&["queue", "show"]).done().out;
    assert!(text.contains("one.test") && text.contains("news") && text.contains("Mailbox busy"), "{text}");
}

#[test]
fn retry_makes_a_part_due_now() {
    let house = open().filled();
    house.defer.store(false, Ordering::SeqCst);
    let report = house.queue(&["retry", "--stream", "news", "--domain", "one.test"]);
    assert_eq!(report["affected"], 2, "{report}");
    house.sinks[0].wait(2, LIMIT);
    assert!(house.sinks[0].messages().iter().all(|message| message.addresses()[0].starts_with("news")));
    let report = house.queue(&["retry", "--site", "mx.two.test"]);
    assert_eq!(report["affected"], 4, "{report}");
    house.sinks[1].wait(4, LIMIT);
    house.queue(&["retry"]);
    house.sinks[0].wait(4, LIMIT);
    wait_until("an empty queue", LIMIT, || house.show(&[])["total"] == 0);
}

#[test]
fn what_is_paused_stays_until_resumed_also_over_a_restart() {
    let mut house = open();
    house.defer.store(false, Ordering::SeqCst);
    house.queue(&["pause", "--stream", "news"]);
    house.queue(&["pause", "--source", "one", "--site", "mx.two.test"]);
    for stream in ["default", "news"] {
        for domain in ["one.test", "two.test"] {
            house.send(&format!("{stream}@{domain}"), stream);
        }
    }
    house.sinks[0].wait(1, LIMIT);
    for restart in [false, true] {
        if restart {
            house.daemon.kill();
            house.daemon.run();
        }
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(house.sinks[0].messages()[0].addresses(), ["default@one.test"]);
        assert_eq!((house.sinks[0].count(), house.sinks[1].count()), (1, 0), "after a restart: {restart}");
        let status = house.show(&[]);
        assert_eq!(status["pauses"].as_array().map(Vec::len), Some(2), "{status}");
    }
    // Intake goes on while the queue is paused.
    house.queue(&["resume", "--source", "one", "--site", "mx.two.test"]);
    house.sinks[1].wait(1, LIMIT);
    assert_eq!(house.sinks[1].messages()[0].addresses(), ["default@two.test"]);
    house.queue(&["resume", "--stream", "news"]);
    house.sinks[0].wait(2, LIMIT);
    house.sinks[1].wait(2, LIMIT);
    let refused: Said = house.daemon.postkeep(&["queue", "resume", "--stream", "news"]);
    assert_ne!(refused.status, 0, "nothing is paused any more: {refused:?}");
}

#[test]
fn delete_removes_without_a_word_and_expire_returns() {
    let house = open().filled();
    let report = house.queue(&["delete", "--stream", "news", "--domain", "one.test"]);
    assert_eq!(report["affected"], 2, "{report}");
    wait_until("two removed records", LIMIT, || house.daemon.events("removed").len() == 2);
    assert!(house.daemon.events("removed").iter().all(|record| record["actor"].is_string()));
    let report = house.queue(&["expire", "--domain", "two.test", "--stream", "news"]);
    assert_eq!(report["affected"], 2, "{report}");
    wait_until("two expired records", LIMIT, || house.daemon.events("expired").len() == 2);
    house.mailbox.wait(2, LIMIT);
    assert!(
        house.mailbox.messages().iter().all(|report| String::from_utf8_lossy(&report.content).contains("@two.test"))
    );
    assert_eq!(house.waiting(&[]), 4);
    // A forgotten selection does not cost the queue.
    let refused = house.daemon.postkeep(&["queue", "delete"]);
    assert_eq!(refused.status, 2, "{refused:?}");
    assert_eq!(house.waiting(&[]), 4);
    house.queue(&["delete", "--all"]);
    wait_until("an empty queue", LIMIT, || house.show(&[])["total"] == 0);
    house.defer.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((house.sinks[0].count(), house.sinks[1].count()), (0, 0), "what was removed is gone");
}

#[test]
fn removed_mail_stays_removed_after_a_crash() {
    let mut house = open().filled();
    house.queue(&["delete", "--domain", "one.test"]);
    house.daemon.kill();
    house.daemon.run();
    assert_eq!(house.waiting(&["--domain", "one.test"]), 0);
    wait_until("what is left", LIMIT, || house.waiting(&["--domain", "two.test"]) == 4);
}

#[test]
fn mail_is_rerouted_and_back_again() {
    let mut house = open().filled();
    let elsewhere = Sink::open(house.ground.at(120, 21777));
    let target = elsewhere.address().to_string();
    house.queue(&["reroute", "--domain", "one.test", "--to", &target]);
    house.queue(&["retry", "--domain", "one.test"]);
    elsewhere.wait(4, LIMIT);
    assert!(elsewhere.messages().iter().all(|message| message.addresses()[0].ends_with("@one.test")));
    house.daemon.kill();
    house.daemon.run();
    house.send("later@one.test", "default");
    elsewhere.wait(5, LIMIT);
    house.defer.store(false, Ordering::SeqCst);
    house.queue(&["reroute", "--domain", "one.test", "--clear"]);
    house.send("last@one.test", "default");
    house.sinks[0].wait(1, LIMIT);
    let wrong = house.daemon.postkeep(&["queue", "reroute", "--domain", "one.test", "--to", "not a host"]);
    assert_ne!(wrong.status, 0, "{wrong:?}");
    assert_eq!(elsewhere.count(), 5);
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_three() {
    let mut house = open();
    house.daemon.kill();
    let said = house.daemon.postkeep(&["queue", "show"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(said.err.contains("control.sock"), "it says what it could not reach: {said:?}");
}
