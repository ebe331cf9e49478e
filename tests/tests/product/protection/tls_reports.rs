//! TLS reports: sessions are counted, kept over restarts, and told to the domains that ask for it, by mail that is signed
//! and by HTTPS. The oracle for the report's form is Python's own gzip and JSON, and dkimpy for its signature.

use std::process::Command;

use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::run_with_input;
use postkeep_tests::ground::HTTPS_PORT;
use postkeep_tests::policy_host::{Page, PolicyHost};
use postkeep_tests::tools::{self, needs};
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message, wait_for};
use serde_json::Value;

use super::LIMIT;

const READ: &str = r#"
import email, gzip, json, sys
message = email.message_from_bytes(sys.stdin.buffer.read())
part = next(part for part in message.walk() if part.get_content_type() == "application/tlsrpt+gzip")
print(json.dumps({"headers": {k: v for k, v in message.items()}, "type": message.get_content_type(),
    "report-type": message.get_param("report-type"), "report": json.loads(gzip.decompress(part.get_payload(decode=True)))}))
"#;

fn settings(ground: &Ground) -> Settings {
    std::fs::write(ground.path("roots.pem"), ground.authority().pem()).expect("write the roots");
    Settings::new(ground).with(&format!(
        "[delivery]\nextra-roots = {:?}\n[tls-reports]\nfrom = \"tls@sender.test\"\norganization = \"Sender\"\ndirectory = {:?}\n",
        ground.path("roots.pem"),
        ground.path("tls-reports"),
    ))
}

#[test]
fn sessions_are_counted_by_what_they_were_held_to_and_survive_a_restart() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("tls.test", ground.ip(101)).domain("clear.test", ground.ip(102));
    let _sinks = [
        Sink::at(&ground, 101).with_tls(ground.authority().identity("mx.tls.test", Flaw::None).server()),
        Sink::at(&ground, 102),
    ];
    let mut daemon = Daemon::start(&ground, &settings(&ground));
    for domain in ["tls.test", "clear.test"] {
        let recipient = format!("r@{domain}");
        daemon.submit("a@sender.test", &[&recipient], &message::simple("a@sender.test", &recipient, domain, "Hi\n"));
        daemon.wait_record("delivered", LIMIT, |record| record["domain"] == domain);
    }
    daemon.terminate();
    let days: Value = serde_json::from_slice(&std::fs::read(ground.path("tls-reports/days.json")).unwrap()).unwrap();
    let counts = |domain: &str| &days[0]["domains"][domain][0];
    assert_eq!((&counts("tls.test")["successes"], &counts("tls.test")["failures"]), (&1.into(), &0.into()), "{days}");
    assert_eq!(counts("clear.test")["failures"], 1, "{days}");
    assert_eq!(counts("clear.test")["details"][0][0]["result"], "starttls-not-supported", "{days}");
}

#[test]
fn a_day_that_is_over_becomes_a_report_by_mail_and_by_https() {
    let Some(python) = needs(tools::find("python3")) else { return };
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("asks.test", ground.ip(101)).a("collector.asks.test", ground.ip(80));
    names.txt(
        "_smtp._tls.asks.test",
        &format!("v=TLSRPTv1; rua=mailto:reports@asks.test,https://collector.asks.test:{HTTPS_PORT}/v1"),
    );
    let sink = Sink::at(&ground, 101);
    let identity = ground.authority().identity("collector.asks.test", Flaw::None);
    let collector =
        PolicyHost::open(ground.at(80, HTTPS_PORT), vec![("collector.asks.test", identity, Page::text("ok"))]);
    // What a daemon of the day before yesterday left behind.
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400 * 86_400;
    let start = today - 2 * 86_400;
    std::fs::create_dir_all(ground.path("tls-reports")).unwrap();
    let days = serde_json::json!([{ "start": start, "uncounted": 0, "domains": {
        "asks.test": [{ "policy": "none", "successes": 7, "failures": 2, "details": [[
            { "result": "certificate-expired", "source": null, "host": "mx.asks.test", "address": "192.0.2.9", "reason": "old" }, 2]] }],
        "asksnot.test": [{ "policy": "none", "successes": 1, "failures": 0, "details": [] }],
    }}]);
    std::fs::write(ground.path("tls-reports/days.json"), days.to_string()).unwrap();
    let mut daemon = Daemon::start(&ground, &settings(&ground));
    let mail = sink.wait(1, LIMIT).remove(0);
    assert_eq!(mail.sender, "tls@sender.test");
    assert_eq!(mail.addresses(), ["reports@asks.test"]);
    let read = run_with_input(Command::new(python).args(["-c", READ]), &mail.content).done().json();
    assert_eq!((&read["type"], &read["report-type"]), (&"multipart/report".into(), &"tlsrpt".into()), "{read}");
    assert_eq!(read["headers"]["TLS-Report-Domain"], "asks.test");
    assert_eq!(read["headers"]["TLS-Report-Submitter"], "sender.test");
    assert_eq!(read["headers"]["TLS-Required"], "No");
    let policy = &read["report"]["policies"][0];
    assert_eq!(policy["summary"]["total-successful-session-count"], 7, "{read}");
    assert_eq!(policy["failure-details"][0]["result-type"], "certificate-expired", "{read}");
    assert_eq!(policy["failure-details"][0]["failed-session-count"], 2, "{read}");
    let posted = wait_for("the report at the collector", LIMIT, || collector.asked().pop());
    assert_eq!(posted.line, "POST /v1 HTTP/1.1");
    assert!(posted.body.starts_with(&[0x1f, 0x8b]), "gzip");
    // Reported once: a restart sends nothing again.
    daemon.terminate();
    daemon.run();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!((sink.count(), collector.asked().len()), (1, 1));
}
