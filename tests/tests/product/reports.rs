//! Reports to the sender (RFC 3461 and 3464), read by Python's email package.

use std::time::Duration;

use postkeep_tests::tools::needs;
use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, message, oracle};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

struct House {
    daemon: Daemon,
    sink: Sink,
    mailbox: Sink,
    _names: Names,
    _ground: Ground,
}

/// `there.test` knows nobody whose name begins with `no`, and wants time for those that begin with `late`.
fn open(over: &str, capabilities: &[&str]) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100)).domain("sender.test", ground.ip(90));
    let sink = Sink::at(&ground, 100).with_capabilities(capabilities).with_script(|moment| match moment.stage {
        Stage::Rcpt if moment.recipient.starts_with("no") => Act::reply("550-5.1.1 No such user\n550 5.1.1 here"),
        Stage::Rcpt if moment.recipient.starts_with("late") => Act::reply("451 4.2.1 Later"),
        _ => Act::Accept,
    });
    let mailbox = Sink::at(&ground, 90);
    let daemon = Daemon::start(&ground, &Settings::new(&ground).with(over));
    House { daemon, sink, mailbox, _names: names, _ground: ground }
}

const ALL: &[&str] = &["PIPELINING", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8"];
const NO_DSN: &[&str] = &["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"];

impl House {
    /// Sends with parameters of RFC 3461.
    fn send(&self, mail: &str, recipients: &[(&str, &str)], content: &[u8]) {
        let mut client = self.daemon.client();
        let reply = client.command(format!("MAIL FROM:<a@sender.test> {mail}").trim_end()).expect("a reply");
        assert_eq!(reply.code, 250, "{reply}");
        for (address, parameters) in recipients {
            let reply = client.command(format!("RCPT TO:<{address}> {parameters}").trim_end()).expect("a reply");
            assert_eq!(reply.code, 250, "{reply}");
        }
        let reply = client.data(content).expect("a reply");
        assert_eq!(reply.code, 250, "{reply}");
    }

    fn report(&self) -> Option<(postkeep_tests::sink::Transaction, Value)> {
        let message = self.mailbox.wait(1, LIMIT).remove(0);
        let report = needs(oracle::report(&message.content))?;
        Some((message, report))
    }
}

const CONTENT: &[u8] = b"From: a@sender.test\r\nTo: r@there.test\r\nSubject: what became of it\r\nMessage-ID: <known@sender.test>\r\nX-Own: kept\r\n\r\nthe body of the message\r\n";

#[test]
fn a_bounce_is_a_report_that_others_can_read() {
    let house = open("", ALL);
    house.send(
        "ENVID=QQ314159 RET=HDRS",
        &[("nobody@there.test", "ORCPT=rfc822;Nobody+2Bat@there.test"), ("r@there.test", "")],
        CONTENT,
    );
    let Some((transaction, report)) = house.report() else { return };
    assert_eq!(transaction.sender, "", "a report has the null sender");
    assert_eq!(transaction.addresses(), ["a@sender.test"]);
    assert_eq!(report["type"], "multipart/report");
    assert_eq!(report["report-type"], "delivery-status");
    assert_eq!(report["parts"][0], "text/plain", "{report}");
    assert_eq!(report["parts"][1], "message/delivery-status", "{report}");
    assert!(report["parts"][2] == "text/rfc822-headers" || report["parts"][2] == "message/rfc822", "{report}");
    assert_eq!(report["defects"], serde_json::json!([]));
    assert!(report["auto-submitted"].as_str().is_some_and(|value| value.starts_with("auto-")), "RFC 3834: {report}");
    for header in ["message-id", "date", "subject"] {
        assert!(
            report[header].as_str().is_some_and(|value| value != "None" && !value.is_empty()),
            "{header}: {report}"
        );
    }
    assert!(report["to"].as_str().is_some_and(|to| to.contains("a@sender.test")));
    let fields = &report["message"];
    assert_eq!(fields["reporting-mta"], "dns; out.postkeep.test".to_owned().as_str(), "{fields}");
    assert_eq!(fields["original-envelope-id"], "QQ314159", "{fields}");
    assert!(fields["arrival-date"].is_string(), "{fields}");
    let recipients = report["recipients"].as_array().expect("recipients");
    assert_eq!(recipients.len(), 1, "only the one that failed: {recipients:?}");
    let one = &recipients[0];
    let plain = |value: &Value| value.as_str().unwrap_or_default().replace("; ", ";").to_ascii_lowercase();
    assert_eq!(plain(&one["final-recipient"]), "rfc822;nobody@there.test");
    assert_eq!(
        plain(&one["original-recipient"]),
        "rfc822;nobody+at@there.test",
        "ORCPT comes back, out of its xtext (RFC 3461 §4.2)"
    );
    assert_eq!(one["action"], "failed");
    assert_eq!(one["status"], "5.1.1");
    assert!(plain(&one["remote-mta"]).starts_with("dns;mx.there.test"), "{one}");
    let diagnostic = plain(&one["diagnostic-code"]);
    assert!(diagnostic.starts_with("smtp;550") && diagnostic.contains("no such user"), "{one}");
    assert_eq!(report["returned"]["message-id"], "<known@sender.test>");
    assert_eq!(report["returned"]["x-own"], "kept");
    assert!(!String::from_utf8_lossy(&transaction.content).contains("the body of the message"), "RET=HDRS");
    assert!(
        report["text"].as_str().is_some_and(|text| text.contains("nobody@there.test")),
        "a person can read it, too"
    );
    house.sink.wait(1, LIMIT);
}

#[test]
fn ret_full_returns_the_whole_message() {
    let house = open("", ALL);
    house.send("RET=FULL", &[("nobody@there.test", "")], CONTENT);
    let Some((_, report)) = house.report() else { return };
    assert_eq!(report["parts"][2], "message/rfc822");
    assert_eq!(report["returned-body"], "the body of the message\r\n");
}

#[test]
fn notify_never_means_never_and_the_null_sender_gets_nothing() {
    let house = open("[stream.default]\nexpire-after = \"1500ms\"\n", ALL);
    house.send("", &[("nobody@there.test", "NOTIFY=NEVER"), ("late@there.test", "NOTIFY=NEVER")], CONTENT);
    house.send("", &[("nothing@there.test", "NOTIFY=SUCCESS")], CONTENT);
    let mut client = house.daemon.client();
    client.command("MAIL FROM:<>").expect("a reply");
    client.command("RCPT TO:<nowhere@there.test>").expect("a reply");
    assert_eq!(client.data(CONTENT).expect("a reply").code, 250);
    for recipient in ["nobody@there.test", "nothing@there.test", "nowhere@there.test"] {
        house.daemon.wait_record("bounced", LIMIT, |record| record["recipient"] == recipient);
    }
    house.daemon.wait_record("expired", LIMIT, |record| record["recipient"] == "late@there.test");
    // Whatever would be sent now is sent before this one.
    house.send("", &[("nohow@there.test", "")], CONTENT);
    let Some((_, report)) = house.report() else { return };
    assert!(report["recipients"][0]["final-recipient"].as_str().is_some_and(|one| one.contains("nohow@")), "{report}");
    assert_eq!(house.mailbox.count(), 1);
}

#[test]
fn notify_success_is_relayed_to_hosts_with_dsn_and_reported_for_hosts_without() {
    let house = open("", ALL);
    house.send(
        "ENVID=E1 RET=HDRS",
        &[("r@there.test", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;orig+40there.test")],
        CONTENT,
    );
    let relayed = house.sink.wait(1, LIMIT).remove(0);
    assert!(
        relayed.parameters.contains("ENVID=E1") && relayed.parameters.contains("RET=HDRS"),
        "{}",
        relayed.parameters
    );
    let parameters = &relayed.recipients[0].parameters;
    assert!(
        parameters.contains("NOTIFY=SUCCESS,FAILURE") || parameters.contains("NOTIFY=FAILURE,SUCCESS"),
        "{parameters}"
    );
    assert!(parameters.contains("ORCPT=rfc822;orig+40there.test"), "{parameters}");
    house.daemon.wait_record("delivered", LIMIT, |_| true);

    let without = open("", NO_DSN);
    without.send("ENVID=E2", &[("r@there.test", "NOTIFY=SUCCESS")], CONTENT);
    let Some((_, report)) = without.report() else { return };
    let one = &report["recipients"][0];
    assert_eq!(one["action"], "relayed", "RFC 3461 §5.2.2: {one}");
    assert!(one["status"].as_str().is_some_and(|status| status.starts_with("2.")), "{one}");
    assert_eq!(report["message"]["original-envelope-id"], "E2");
    assert_eq!(without.sink.wait(1, LIMIT)[0].recipients[0].parameters, "");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(house.mailbox.count(), 0, "where the next host speaks DSN, the report is its task");
}

#[test]
fn a_delay_is_reported_once_and_expiry_too() {
    let house = open("[stream.default]\nexpire-after = \"4s\"\ndelay-notice-after = \"1s\"\n", ALL);
    house.send("", &[("late@there.test", "NOTIFY=DELAY,FAILURE")], CONTENT);
    let Some((_, report)) = house.report() else { return };
    let one = &report["recipients"][0];
    assert_eq!(one["action"], "delayed", "{report}");
    assert!(one["status"].as_str().is_some_and(|status| status.starts_with("4.")), "{one}");
    assert!(one["will-retry-until"].is_string(), "{one}");
    let second = house.mailbox.wait(2, LIMIT).remove(1);
    let Some(report) = needs(oracle::report(&second.content)) else { return };
    let one = &report["recipients"][0];
    assert_eq!(one["action"], "failed", "{report}");
    assert!(
        one["status"].as_str().is_some_and(|status| status == "4.4.7" || status == "5.4.7" || status == "4.2.1"),
        "{one}"
    );
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(house.mailbox.count(), 2);
}

#[test]
fn recipients_that_fail_together_share_a_report() {
    let house = open("", ALL);
    house.send(
        "",
        &[("no1@there.test", ""), ("no2@there.test", ""), ("no3@there.test", ""), ("yes@there.test", "")],
        CONTENT,
    );
    let Some((_, report)) = house.report() else { return };
    assert_eq!(report["recipients"].as_array().map(Vec::len), Some(3), "{report}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(house.mailbox.count(), 1);
}

#[test]
fn a_report_that_cannot_be_delivered_is_not_reported() {
    let house = open("", ALL);
    let mut client = house.daemon.client();
    let content = message::simple("no-reply@there.test", "nobody@there.test", "x", "Hi\n");
    let reply = client.submit("no-reply@there.test", &["nobody@there.test"], &content).expect("a reply");
    assert_eq!(reply.code, 250);
    // The report to no-reply@there.test is refused in its turn, and that is the end of it.
    house.daemon.wait_record("bounced", LIMIT, |record| record["recipient"] == "nobody@there.test");
    house
        .daemon
        .wait_record("bounced", LIMIT, |record| record["recipient"] == "no-reply@there.test" && record["sender"] == "");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(house.daemon.events("bounced").len(), 2);
    assert_eq!((house.sink.count(), house.mailbox.count()), (0, 0));
}
