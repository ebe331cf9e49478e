//! The rule book at work: what a receiver says reaches whom it concerns, and nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, message, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// Two providers of the owner's own, so that shipped rules for known ones do not meddle.
const RULES: &str = r#"
[[rule]]
name = "domain-not-wanted"
text = 'your domain is not welcome'
scope = "sender-domain"
class = "authentication-policy"
reaction = "alarm"
duration = "1h"
source = "a test"
checked = "2026-11-26"
note = "mend your domain"
examples = ["550 5.7.1 your domain is not welcome"]

[[rule]]
name = "come-back"
text = 'come back in three seconds'
scope = "lane"
class = "rate-limited"
reaction = "hold"
duration = "3s"
source = "a test"
checked = "2026-11-26"
examples = ["451 4.7.1 come back in three seconds"]
"#;

fn send(daemon: &Daemon, sender: &str, recipient: &str) {
    daemon.submit(sender, &[recipient], &message::simple(sender, recipient, "x", "Hi\n"));
}

#[test]
fn a_word_about_a_senders_domain_stops_that_domain_at_that_site_and_over_a_restart() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("picky.test", ground.ip(101)).domain("other.test", ground.ip(102));
    let picky = Sink::at(&ground, 101).with_script(|moment| {
        if moment.stage == Stage::Final && moment.sender.ends_with("@bad.test") {
            Act::reply("550 5.7.1 your domain is not welcome")
        } else {
            Act::Accept
        }
    });
    let other = Sink::at(&ground, 102);
    std::fs::write(ground.path("rules.toml"), RULES).expect("write the rules");
    let settings = Settings::new(&ground).with(&format!("[replies]\nrules = [{:?}]\n", ground.path("rules.toml")));
    let mut daemon = Daemon::start(&ground, &settings);
    send(&daemon, "a@bad.test", "r1@picky.test");
    let deferred = daemon.wait_record("deferred", LIMIT, |record| record["recipient"] == "r1@picky.test");
    assert_eq!((&deferred["rule"], &deferred["scope"]), (&"domain-not-wanted".into(), &"sender-domain".into()));
    assert_eq!(deferred["class"], "authentication-policy");
    // The next message of that domain is not even shown to the site; others and other sites go on.
    let seen = picky.transactions().len();
    send(&daemon, "a@bad.test", "r2@picky.test");
    let held = daemon.wait_record("deferred", LIMIT, |record| record["recipient"] == "r2@picky.test");
    assert_eq!(held["stage"], "local", "{held}");
    assert_eq!(picky.transactions().len(), seen);
    send(&daemon, "a@good.test", "r3@picky.test");
    send(&daemon, "a@bad.test", "r4@other.test");
    picky.wait(1, LIMIT);
    other.wait(1, LIMIT);
    let shown = daemon.postkeep(&["queue", "show"]).done().out;
    assert!(shown.contains("bad.test") && shown.contains("your domain is not welcome"), "{shown}");
    daemon.kill();
    daemon.run();
    let seen = picky.transactions().len();
    send(&daemon, "a@bad.test", "r5@picky.test");
    daemon.wait_record("deferred", LIMIT, |record| record["recipient"] == "r5@picky.test");
    assert_eq!(picky.transactions().len(), seen);
    assert!(daemon.events("bounced").is_empty(), "nothing is returned for what is about the sender's domain");
}

#[test]
fn a_lane_that_is_told_to_stay_away_does_for_that_long() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("busy.test", ground.ip(101));
    let told = Arc::new(AtomicBool::new(false));
    let sink = Sink::at(&ground, 101).with_script({
        let told = Arc::clone(&told);
        move |moment| {
            if moment.stage == Stage::Rcpt && !told.swap(true, Ordering::SeqCst) {
                Act::reply("451 4.7.1 come back in three seconds")
            } else {
                Act::Accept
            }
        }
    });
    std::fs::write(ground.path("rules.toml"), RULES).expect("write the rules");
    let settings = Settings::new(&ground).with(&format!("[replies]\nrules = [{:?}]\n", ground.path("rules.toml")));
    let daemon = Daemon::start(&ground, &settings);
    send(&daemon, "a@sender.test", "r1@busy.test");
    wait_until("the reply", LIMIT, || told.load(Ordering::SeqCst));
    daemon.wait_record("deferred", LIMIT, |_| true);
    send(&daemon, "a@sender.test", "r2@busy.test");
    sink.wait(2, LIMIT);
    let times: Vec<_> = sink.transactions().iter().map(|transaction| transaction.mail_at).collect();
    let waited = times[1] - times[0];
    assert!(waited >= Duration::from_millis(2900), "the lane was back after {waited:?}");
}

#[test]
fn the_command_line_explains_replies_and_checks_rules() {
    let ground = Ground::claim();
    let daemon = Daemon::start(&ground, &Settings::new(&ground));
    let text = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume";
    let said = daemon.postkeep(&["--json", "reply", "explain", text, "--provider", "yahoo", "--stage", "mail"]).done();
    let json = said.json();
    assert_eq!((&json["scope"], &json["reaction"]), (&"lane".into(), &"hold".into()), "{json}");
    assert_eq!((&json["duration"], &json["suppress"]), (&"4h".into(), &false.into()), "{json}");
    assert!(daemon.postkeep(&["reply", "explain", text]).done().out.contains("concerns  lane"));
    for (arguments, complaint) in [
        (&["reply", "explain", "hello"][..], "does not begin with a reply code"),
        (&["reply", "explain", text, "--provider", "nobody"], "is no shipped provider"),
        (&["reply", "explain", text, "--stage", "quit"], "is none of greeting"),
        (&["reply", "check", "--rules", "/nonexistent.toml"], "cannot be read"),
    ] {
        let said = daemon.postkeep(arguments);
        assert!(said.status == 2 && said.err.contains(complaint), "{arguments:?}: {said:?}");
    }
    assert!(daemon.postkeep(&["reply", "check"]).done().out.contains("rules keep their examples"));
    let wrong = RULES.replace("\"451 4.7.1 come back in three seconds\"", "\"451 something else\"");
    std::fs::write(ground.path("wrong.toml"), wrong).expect("write the rules");
    let said = daemon.postkeep(&["reply", "check", "--rules", &ground.path("wrong.toml").display().to_string()]);
    assert!(said.status == 1 && said.out.contains("does not meet it"), "{said:?}");
}

#[test]
fn bounces_are_classified_line_by_line_and_one_bad_file_does_not_stop_the_rest() {
    let ground = Ground::claim();
    let daemon = Daemon::start(&ground, &Settings::new(&ground));
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/bounces/sisimai/");
    let files =
        [format!("{corpus}lhost-opensmtpd-17.eml"), "/nonexistent.eml".to_owned(), format!("{corpus}arf-01.eml")];
    let arguments: Vec<&str> = ["bounce", "classify"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let said = daemon.postkeep(&arguments);
    assert_eq!(said.status, 2);
    assert!(said.err.contains("cannot read /nonexistent.eml"), "{}", said.err);
    let lines: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(lines.len(), 3, "{}", said.out);
    let keys = ["file", "recipient", "kind", "status", "class", "scope", "suppress", "reason"];
    for line in &lines {
        assert!(keys.iter().all(|key| line.get(key).is_some()), "{line}");
    }
    let gist = |line: &serde_json::Value| (line["kind"].clone(), line["status"].clone(), line["suppress"].clone());
    assert_eq!(gist(&lines[0]), ("bounce".into(), "5.1.1".into(), true.into()));
    assert_eq!(gist(&lines[1]), ("bounce".into(), "5.2.2".into(), false.into()));
    assert_eq!(lines[2]["kind"], "complaint");
}
