//! Promise 2: a suppressed address gets no mail, from the moment the suppression is acknowledged: learnt from
//! receivers, said by people, under load, and over SIGKILL. Counted at the receivers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postkeep_tests::{Act, Client, Daemon, Ground, Names, Settings, Sink, Stage, message, tools, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

struct House {
    ground: Ground,
    daemon: Daemon,
    there: Sink,
    _names: Names,
}

fn house(extra: &str, script: impl FnMut(&postkeep_tests::Moment<'_>) -> Act + Send + 'static) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101).with_script(script);
    let daemon = Daemon::start(&ground, &Settings::new(&ground).with(extra));
    House { ground, daemon, there, _names: names }
}

fn send(daemon: &Daemon, recipient: &str) {
    daemon.submit("a@sender.test", &[recipient], &message::simple("a@sender.test", recipient, "x", "Hi\n"));
}

/// The reply to RCPT for an address.
fn asked(daemon: &Daemon, recipient: &str) -> String {
    let mut client = daemon.client();
    client.command("MAIL FROM:<a@sender.test>").expect("MAIL");
    client.command(&format!("RCPT TO:<{recipient}>")).expect("RCPT").codes()
}

/// Entries by reason.
fn counts(daemon: &Daemon) -> BTreeMap<String, u64> {
    let status = daemon.postkeep(&["suppression", "status", "--json"]).done().json();
    let entries = status["entries"].as_array().expect("entries").clone();
    entries.iter().map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].as_u64().unwrap())).collect()
}

#[test]
fn an_unknown_user_is_learnt_and_refused_at_the_door_and_blocks_and_full_mailboxes_are_not() {
    let mut house = house("", |moment| match (moment.stage, moment.recipient) {
        (Stage::Rcpt, "gone@there.test") => Act::reply("550 5.1.1 <gone@there.test>: no such user here"),
        (Stage::Rcpt, "full@there.test") => Act::reply("552 5.2.2 mailbox is full"),
        (Stage::Rcpt, "blocked@there.test") => Act::reply("554 5.7.1 Your host is on our block list"),
        _ => Act::Accept,
    });
    for recipient in ["gone@there.test", "full@there.test", "good@there.test"] {
        send(&house.daemon, recipient);
    }
    house.daemon.wait_record("bounced", LIMIT, |record| record["recipient"] == "gone@there.test");
    house.there.wait(1, LIMIT);
    assert_eq!(house.daemon.suppressions("Gone@there.test"), ["hard-bounce all"]);
    assert_eq!(asked(&house.daemon, "gone@THERE.test"), "550 5.7.1");
    assert_eq!(asked(&house.daemon, "good@there.test"), "250 2.1.5");
    let refused = house.daemon.wait_record("refused", LIMIT, |record| record["recipient"] == "gone@there.test");
    assert!(refused["reply"]["text"].as_str().unwrap().contains("hard-bounce"), "{refused}");

    send(&house.daemon, "blocked@there.test");
    house.daemon.postkeep(&["queue", "expire", "--all"]).done();
    wait_until("an end for all", LIMIT, || {
        let ends = house.daemon.records();
        ends.iter().filter(|record| matches!(record["event"].as_str(), Some("bounced" | "expired"))).count() >= 2
    });
    for recipient in ["full@there.test", "blocked@there.test"] {
        assert!(house.daemon.suppressions(recipient).iter().all(|reason| reason == "block all"), "{recipient}");
        assert_eq!(asked(&house.daemon, recipient), "250 2.1.5", "{recipient}");
    }
    // It is still known after a restart, and until somebody takes it out.
    house.daemon.terminate();
    house.daemon.run();
    assert_eq!(asked(&house.daemon, "gone@there.test"), "550 5.7.1");
    house.daemon.postkeep(&["suppression", "remove", "gone@there.test", "--reason", "hard-bounce"]).done();
    assert_eq!(asked(&house.daemon, "gone@there.test"), "250 2.1.5");
    let again = house.daemon.postkeep(&["suppression", "remove", "gone@there.test"]);
    assert_eq!(again.status, 1, "{}", again.err);
    assert!(house.daemon.metrics().contains_key("postkeep_suppression_entries{reason=\"complaint\"}"));
}

#[test]
fn a_suppression_for_a_stream_or_list_stops_that_mail_only_and_its_sender_is_told() {
    let extra = "[stream.news]\n[stream.invoices]\n";
    let house = house(extra, |_| Act::Accept);
    let back = Sink::at(&house.ground, 102);
    house._names.domain("sender.test", house.ground.ip(102));
    let daemon = &house.daemon;
    daemon
        .postkeep(&["suppression", "add", "ann@there.test", "--scope", "stream:news", "--reason", "complaint"])
        .done();
    daemon.postkeep(&["suppression", "add", "bob@there.test", "--scope", "list:weekly.sender.test"]).done();
    let content =
        |header: &str| [header.as_bytes(), &message::simple("a@sender.test", "r@there.test", "x", "Hi\n")].concat();
    // One of two is suppressed: the other gets it.
    daemon.submit("a@sender.test", &["ann@there.test", "cid@there.test"], &content("X-Postkeep-Stream: news\r\n"));
    let suppressed = daemon.wait_record("suppressed", LIMIT, |record| record["recipient"] == "ann@there.test");
    assert_eq!(suppressed["stage"], "local");
    assert!(suppressed["detail"].as_str().unwrap().contains("complaint, stream:news"), "{suppressed}");
    daemon.submit("a@sender.test", &["ann@there.test"], &content("X-Postkeep-Stream: invoices\r\n"));
    // Both of a list: nothing is taken.
    let mut client = Client::connect(daemon.door()).expect("connect");
    client.ehlo().expect("EHLO");
    let listed = content("List-Id: Our week <Weekly.Sender.test>\r\n");
    let reply = client.submit("a@sender.test", &["bob@there.test"], &listed).expect("submit");
    assert_eq!(reply.codes(), "550 5.7.1");
    daemon.submit("a@sender.test", &["bob@there.test"], &content("List-Id: <daily.sender.test>\r\n"));
    let mut got: Vec<String> = house
        .there
        .wait(3, LIMIT)
        .iter()
        .flat_map(|mail| mail.addresses().iter().map(|address| (*address).to_owned()).collect::<Vec<_>>())
        .collect();
    got.sort();
    assert_eq!(got, ["ann@there.test", "bob@there.test", "cid@there.test"]);
    let report = back.wait(1, LIMIT).remove(0);
    let text = String::from_utf8_lossy(&report.content).into_owned();
    assert!(text.contains("ann@there.test") && text.contains("Status: 5.7.1"), "{text}");
    assert!(!text.contains("Final-Recipient: rfc822;cid@there.test"), "{text}");
}

#[test]
fn under_load_nothing_reaches_an_address_after_its_suppression_is_acknowledged() {
    const PEOPLE: usize = 120;
    const ROUNDS: usize = 5;
    let mut turn = 0u64;
    let house = house("[lane]\nconnections = 4\n", move |moment| {
        turn += 1;
        // Slow at every step, so that acknowledgements fall into the middle of transactions.
        if moment.stage == Stage::Data || moment.stage == Stage::Final {
            Act::after(Duration::from_millis(turn % 23))
        } else {
            Act::Accept
        }
    });
    let daemon = &house.daemon;
    daemon.postkeep(&["queue", "pause", "--all"]).done();
    let name = |number: usize| format!("p{number}@there.test");
    let mut client = Client::connect(daemon.door()).expect("connect");
    client.ehlo().expect("EHLO");
    for round in 0..ROUNDS {
        for person in 0..PEOPLE {
            let content = message::simple("a@sender.test", "r@there.test", &format!("{round}"), "Hi\n");
            assert_eq!(client.submit("a@sender.test", &[&name(person)], &content).expect("submit").code, 250);
        }
    }
    daemon.postkeep(&["queue", "resume"]).done();
    house.there.wait(20, LIMIT);
    let mut acknowledged: BTreeMap<String, Instant> = BTreeMap::new();
    for person in (0..PEOPLE).rev().step_by(3) {
        daemon.postkeep(&["suppression", "add", &name(person), "--reason", "unsubscribe"]).done();
        acknowledged.insert(name(person), Instant::now());
    }
    let added = Instant::now();
    wait_until("an empty queue", Duration::from_secs(60), || {
        daemon.postkeep(&["queue", "show", "--json"]).done().json()["total"] == 0
    });
    let (mut late, mut after) = (Vec::new(), 0);
    house.there.look(|transactions| {
        for mail in transactions {
            let ended = mail.replied_at.or(mail.content_at).unwrap_or(mail.mail_at);
            after += usize::from(ended > added);
            for address in mail.addresses() {
                if acknowledged.get(address).is_some_and(|at| ended > *at) {
                    late.push(address.to_owned());
                }
            }
        }
    });
    assert!(late.is_empty(), "mail after the acknowledgement: {late:?}");
    let suppressed = daemon.events("suppressed").len();
    let delivered = daemon.events("delivered").len();
    assert_eq!(suppressed + delivered, PEOPLE * ROUNDS, "every recipient has one end");
    assert!(suppressed >= 40 && after >= 1, "{suppressed} suppressed, {after} transactions after the last: no load");
}

#[test]
fn whoever_suppresses_is_answered_when_the_delivery_under_way_has_ended() {
    let reached = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&reached);
    let house = house("", move |moment| {
        if moment.stage == Stage::Final {
            flag.store(true, Ordering::SeqCst);
            return Act::after(Duration::from_millis(900));
        }
        Act::Accept
    });
    send(&house.daemon, "slow@there.test");
    wait_until("the content at the receiver", LIMIT, || reached.load(Ordering::SeqCst));
    house.daemon.postkeep(&["suppression", "add", "slow@there.test"]).done();
    let acknowledged = Instant::now();
    let mail = house.there.wait(1, LIMIT).remove(0);
    assert!(mail.replied_at.expect("a reply") <= acknowledged, "the receiver took it after the acknowledgement");
    assert_eq!(asked(&house.daemon, "slow@there.test"), "550 5.7.1");
}

#[test]
fn a_file_goes_in_line_by_line_and_what_is_acknowledged_survives_sigkill() {
    const LINES: usize = 300_000;
    let mut house = house("", |_| Act::Accept);
    let file = house.ground.path("list.csv");
    let mut text = String::from("address,reason,scope,time\n");
    for number in 0..LINES {
        if number % 50_000 == 7 {
            let _ = writeln!(text, "not an address {number},manual,all,");
        } else {
            let _ = writeln!(text, "user{number}@list.test,hard-bounce,all,2026-01-31T12:00:00Z");
        }
    }
    std::fs::write(&file, &text).expect("write the file");
    let good = (LINES - LINES / 50_000) as u64;
    let path = file.to_str().expect("a path").to_owned();

    // Killed in the middle of it, three times.
    for wait in [30, 120, 300] {
        let mut import = Command::new(tools::program("postkeep"))
            .args(["suppression", "import", &path, "--socket"])
            .arg(house.ground.path("control.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the import");
        std::thread::sleep(Duration::from_millis(wait));
        house.daemon.kill();
        assert!(!import.wait().expect("wait").success());
        house.daemon.run();
        let held = counts(&house.daemon)["hard-bounce"];
        assert!(held <= good, "{held}");
    }
    let refused = house.ground.path("refused.txt");
    let said =
        house.daemon.postkeep(&["suppression", "import", &path, "--json", "--refused", refused.to_str().unwrap()]);
    assert_eq!(said.status, 1, "bad lines are told: {}", said.err);
    let report: Value = said.json();
    assert_eq!(report["added"].as_u64().unwrap() + report["known"].as_u64().unwrap(), good, "{report}");
    assert_eq!(report["refused"], 6);
    let lines: Vec<String> = std::fs::read_to_string(&refused).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[0].starts_with("9: "), "{lines:?}");

    // What was acknowledged is there after a kill at any moment.
    let mut chance = fastrand::Rng::with_seed(3);
    let mut known = Vec::new();
    for round in 0..8 {
        let before = Instant::now();
        let long = Duration::from_millis(chance.u64(5..60));
        while before.elapsed() < long {
            let address = format!("round{round}-{}@list.test", known.len());
            house.daemon.postkeep(&["suppression", "add", &address, "--scope", "stream:news"]).done();
            known.push(address);
        }
        house.daemon.kill();
        house.daemon.run();
    }
    let check = |daemon: &Daemon| {
        for address in &known {
            assert_eq!(daemon.suppressions(address), ["manual stream:news"], "{address}");
        }
        for number in [0, 8, 1234, LINES - 1] {
            assert_eq!(daemon.suppressions(&format!("user{number}@list.test")), ["hard-bounce all"]);
        }
        counts(daemon)
    };
    let before = check(&house.daemon);
    assert_eq!((before["hard-bounce"], before["manual"]), (good, known.len() as u64));
    // Made anew from the journal it answers the same.
    house.daemon.terminate();
    std::fs::remove_dir_all(house.ground.path("suppression/index")).expect("remove the index");
    house.daemon.run();
    assert_eq!(check(&house.daemon), before);

    let folder = house.ground.path("suppression");
    let exported = house.daemon.postkeep(&["suppression", "export", "--directory", folder.to_str().unwrap()]).done();
    assert_eq!(exported.out.lines().count() as u64, good + known.len() as u64 + 1);
}
