//! Live reload and configuration errors: a bad file leaves the running one in
//! place and says where and why; a good one takes effect without a restart.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postkeep_tests::daemon::{Said, run};
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message, tools, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

struct House {
    daemon: Daemon,
    sink: Sink,
    base: Settings,
    ground: Ground,
    _names: Names,
}

fn open() -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100);
    let base = Settings::new(&ground);
    let daemon = Daemon::start(&ground, &base);
    House { daemon, sink, base, ground, _names: names }
}

impl House {
    fn send(&self, subject: &str) {
        self.daemon.submit(
            "a@example.test",
            &["r@there.test"],
            &message::simple("a@example.test", "r@there.test", subject, "Hi\n"),
        );
    }
}

fn check(file: &Path) -> Said {
    run(Command::new(tools::program("postkeep")).args(["config", "check"]).arg(file))
}

/// The number of the first line with `text`.
fn line_of(file: &str, text: &str) -> usize {
    file.lines().position(|line| line.contains(text)).expect("the line") + 1
}

#[test]
fn a_bad_file_is_refused_with_its_place_and_the_running_one_stays() {
    let house = open();
    let name = house.daemon.configuration().file_name().expect("a name").to_string_lossy().into_owned();
    let good = house.base.text();
    let cases = [
        ("not TOML", format!("{good}\n[broken\n"), "[broken"),
        ("an unknown key", good.clone() + "\n[[route]]\ndomain = \"x.test\"\nhostz = []\n", "hostz"),
        ("a number without a unit", good.replace("segment-size = \"4MiB\"", "segment-size = 4"), "segment-size"),
        ("a pool without such a source", format!("{good}\n[pool.other.sources]\nnowhere = 1\n"), "nowhere"),
        (
            "a key that is not there",
            format!("{good}\n[[dkim]]\ndomain = \"x.test\"\nselector = \"s\"\nkey = \"/absent/key.pem\"\n"),
            "/absent/key.pem",
        ),
    ];
    for (what, text, place) in &cases {
        house.daemon.write_text(text);
        let said = house.daemon.postkeep(&["reload"]);
        assert_ne!(said.status, 0, "{what}: {said:?}");
        let complaint = format!("{}{}", said.out, said.err);
        let expected = format!("{name}:{}", line_of(text, place));
        assert!(complaint.contains(&expected), "{what}: no `{expected}` in {complaint}");
        let checked = check(house.daemon.configuration());
        assert!(checked.status == 1 || checked.status == 2, "{what}: {checked:?}");
        assert!(format!("{}{}", checked.out, checked.err).contains(&expected), "{what}: {checked:?}");
        house.send(what);
    }
    // By SIGHUP the same, and the complaint is in the log.
    let mut house = house;
    house.daemon.hang_up();
    wait_until("the complaint in the log", LIMIT, || house.daemon.tail(20).contains(&format!("{name}:")));
    assert!(house.daemon.alive());
    house.send("after SIGHUP");
    house.sink.wait(cases.len() + 1, LIMIT);
    house.daemon.write_text(&good);
    house.daemon.postkeep(&["reload"]).done();
}

#[test]
fn a_good_file_takes_effect_at_once() {
    let mut house = open();
    house.send("before");
    assert_eq!(house.sink.wait(1, LIMIT)[0].helo, "out.postkeep.test");
    // A connection that is open keeps its session while the doors change their mind.
    let mut client = house.daemon.client();
    let changed = house.base.clone().with(&format!(
        "[intake]\nmessage-size = \"64KiB\"\nrecipients = 2\n[source.one]\nehlo = \"new.postkeep.test\"\n[delivery]\nidle-timeout = \"200ms\"\n\
         [stream.extra]\n[source.two]\nipv4 = \"{}\"\n",
        house.ground.ip(12)
    ));
    house.daemon.write(&changed);
    let report = house.daemon.postkeep(&["reload", "--json"]).done().json();
    assert!(report["changed"].as_array().is_some_and(|changed| !changed.is_empty()), "{report}");
    let reply = client.submit(
        "a@example.test",
        &["r@there.test"],
        &message::simple("a@example.test", "r@there.test", "across", "Hi\n"),
    );
    assert_eq!(reply.expect("a reply").code, 250);
    let mut client = house.daemon.client();
    assert_eq!(client.command("MAIL FROM:<a@example.test> SIZE=100000").expect("a reply").code, 552);
    std::thread::sleep(Duration::from_millis(1300));
    house.send("after");
    wait_until("the new EHLO name", LIMIT, || {
        house.sink.messages().iter().any(|message| message.helo == "new.postkeep.test")
    });
    // And by SIGHUP.
    house.daemon.write(&house.base.clone().with("[source.one]\nehlo = \"third.postkeep.test\"\n"));
    house.daemon.hang_up();
    wait_until("the third name", LIMIT, || {
        house.send("again");
        std::thread::sleep(Duration::from_millis(1200));
        house.sink.messages().iter().any(|message| message.helo == "third.postkeep.test")
    });
}

#[test]
fn a_daemon_does_not_start_with_a_bad_file() {
    let ground = Ground::claim();
    let file = ground.path("bad.toml");
    std::fs::write(&file, Settings::new(&ground).text().replace("[delivery]", "[delivery]\nprt = 25")).expect("write");
    let said = run(Command::new(tools::program("postkeepd")).arg("--config").arg(&file));
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.err.contains("bad.toml:") && said.err.contains("prt"), "{said:?}");
    assert!(said.err.contains("port"), "it guesses what was meant: {said:?}");
    let said = run(Command::new(tools::program("postkeepd")).args(["--config", "/absent/postkeep.toml"]));
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.err.contains("/absent/postkeep.toml"), "{said:?}");
}

#[test]
fn a_door_that_is_taken_stops_the_start_with_a_reason() {
    let house = open();
    let file = house.ground.path("second.toml");
    let text = house
        .base
        .text()
        .replace("/spool", "/spool2")
        .replace("/records", "/records2")
        .replace("/suppression", "/suppression2")
        .replace("control.sock", "control2.sock");
    std::fs::write(&file, text).expect("write");
    let said = run(Command::new("timeout").arg("20").arg(tools::program("postkeepd")).arg("--config").arg(&file));
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains(&house.daemon.door().to_string()), "it names the address: {said:?}");
}

#[test]
fn sigterm_lets_what_is_under_way_finish() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("slow.test", ground.ip(100));
    let sink = Sink::at(&ground, 100).with_script(|moment| match moment.stage {
        postkeep_tests::Stage::Final => postkeep_tests::Act::after(Duration::from_millis(1500)),
        _ => postkeep_tests::Act::Accept,
    });
    let mut daemon = Daemon::start(&ground, &Settings::new(&ground));
    daemon.submit("a@example.test", &["r@slow.test"], &message::simple("a@example.test", "r@slow.test", "x", "Hi\n"));
    wait_until("the transaction to be under way", LIMIT, || {
        sink.transactions().iter().any(|one| one.content_at.is_some())
    });
    let status = daemon.terminate();
    assert!(status.success(), "{status}");
    assert_eq!(sink.count(), 1);
    assert_eq!(daemon.events("delivered").len(), 1, "its outcome was noted before the end");
    daemon.run();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(sink.transactions().len(), 1, "and it is not sent again");
}

#[test]
fn explain_says_where_from_and_why() {
    let house = open();
    let file = house.daemon.configuration().to_string_lossy().into_owned();
    let said =
        house.daemon.postkeep(&["config", "explain", &file, "r@there.test", "--sender", "a@example.test"]).done();
    for part in ["one", "default", "mx.there.test"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    house.daemon.postkeep(&["config", "explain", &file, "r@there.test", "--json"]).done().json();
    let schema = house.daemon.postkeep(&["config", "schema"]).done().json();
    assert!(schema["properties"]["listener"].is_object(), "a JSON Schema");
}
