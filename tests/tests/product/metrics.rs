//! Metrics and records: what Prometheus reads is well-formed by the text
//! format's own rules, and its counters agree with the records, line by line.

use std::collections::BTreeMap;
use std::time::Duration;

use postkeep_tests::{Act, Client, Daemon, Ground, Names, Settings, Sink, Stage, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

struct House {
    daemon: Daemon,
    sink: Sink,
    mailbox: Sink,
    _names: Names,
    _ground: Ground,
}

/// A little of everything: delivered, deferred, bounced, expired, removed, refused.
fn lived_in(over: &str) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100)).domain("sender.test", ground.ip(90)).domain("dead.test", ground.ip(130));
    let mut late = 0;
    let sink = Sink::at(&ground, 100).with_script(move |moment| match moment.stage {
        Stage::Rcpt if moment.recipient.starts_with("no") => Act::reply("550 5.1.1 No such user"),
        Stage::Rcpt if moment.recipient.starts_with("late") => {
            late += 1;
            if late <= 2 { Act::reply("451 4.2.1 Later") } else { Act::Accept }
        }
        Stage::Rcpt if moment.recipient.starts_with("never") => Act::reply("451 4.2.1 Never"),
        _ => Act::Accept,
    });
    let mailbox = Sink::at(&ground, 90);
    let daemon = Daemon::start(
        &ground,
        &Settings::new(&ground)
            .with("[stream.brief]\nexpire-after = \"1500ms\"\nretry = [\"1s\"]\n[backoff]\nfailures = 50\n")
            .with(over),
    );
    let mut client = Client::connect(daemon.door()).expect("connect");
    client.ehlo().expect("EHLO");
    let mut send = |recipients: &[&str], stream: &str| {
        let content = format!("From: a@sender.test\r\nX-Postkeep-Stream: {stream}\r\nSubject: x\r\n\r\nHi\r\n");
        let reply = client.submit("a@sender.test", recipients, content.as_bytes()).expect("submit");
        assert_eq!(reply.code, 250, "{reply}");
    };
    for n in 0..10 {
        send(&[&format!("r{n}@there.test"), &format!("s{n}@there.test")], "default");
    }
    send(&["no1@there.test", "late@there.test"], "default");
    send(&["never@there.test", "r@dead.test"], "brief");
    client.submit("a@sender.test", &["r@there.test"], b"Subject: no from\r\n\r\n").expect("submit");
    wait_until("everything to end", LIMIT, || {
        let delivered = daemon.events("delivered");
        count(&delivered, |record| record["sender"] == "a@sender.test") == 21.0
            && delivered.len() > 22
            && daemon.events("bounced").len() == 1
            && daemon.events("expired").len() == 2
    });
    House { daemon, sink, mailbox, _names: names, _ground: ground }
}

fn count(records: &[Value], test: impl Fn(&Value) -> bool) -> f64 {
    records.iter().filter(|record| test(record)).count() as f64
}

#[test]
fn metrics_follow_the_text_format() {
    // With a receiver of events that nobody answers for, so that it has metrics too.
    let house = lived_in("[[kafka]]\nname = \"k\"\nbrokers = [\"127.0.0.1:9\"]\ntopic = \"t\"\n");
    let (head, body) = house.daemon.metrics_text();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4")
            || head.contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    let body = if body.contains("\r\n") && head.contains("chunked") { unchunk(&body) } else { body };
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut helps = 0;
    let mut samples = 0;
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram", "summary", "untyped", "unknown"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else if line.starts_with("# HELP ") {
            helps += 1;
        } else if line.starts_with('#') {
            assert!(line == "# EOF" || line.starts_with("# UNIT "), "{line}");
        } else {
            samples += 1;
            let (name, labels, value) = sample(line);
            assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
            assert!(name.starts_with("postkeep_"), "{line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'), "{line}");
            let family = ["_total", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| types.contains_key(*name)))
                .unwrap_or(&name);
            assert!(types.contains_key(family), "no TYPE before {line}");
            for (label, _) in labels {
                assert!(label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            }
        }
    }
    assert!(helps >= types.len(), "each has a HELP");
    assert!(samples > 10, "{body}");
}

/// `name{a="b",c="d"} 1` taken apart.
fn sample(line: &str) -> (String, Vec<(String, String)>, String) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let Some((name, rest)) = series.split_once('{') else {
        return (series.to_owned(), Vec::new(), value.to_owned());
    };
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {line}"));
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next() {
                Some((_, '\\')) => value.extend(characters.next().map(|(_, character)| character)),
                Some((at, '"')) => break at,
                Some((_, character)) => value.push(character),
                None => panic!("no end of a label: {line}"),
            }
        };
        labels.push((label.trim_start_matches(',').to_owned(), value));
        rest = &after[end + 1..];
    }
    (name.to_owned(), labels, value.to_owned())
}

fn unchunk(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((length, after)) = rest.split_once("\r\n") {
        let Ok(length) = usize::from_str_radix(length.trim(), 16) else { break };
        if length == 0 {
            break;
        }
        out.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    out
}

#[test]
fn counters_agree_with_the_records() {
    let house = lived_in("");
    house.mailbox.wait(2, LIMIT);
    wait_until("an empty queue", LIMIT, || {
        house
            .daemon
            .metrics()
            .iter()
            .filter(|(name, _)| name.starts_with("postkeep_queue_recipients{"))
            .map(|(_, value)| value)
            .sum::<f64>()
            == 0.0
    });
    let records = house.daemon.records();
    let metrics = house.daemon.metrics();
    let sum = |prefix: &str, part: &str| -> f64 {
        metrics.iter().filter(|(name, _)| name.starts_with(prefix) && name.contains(part)).map(|(_, value)| value).sum()
    };
    for event in ["delivered", "deferred", "bounced", "expired", "removed"] {
        let recorded = count(&records, |record| record["event"] == event);
        let counted = sum("postkeep_outcomes_total{", &format!("event=\"{event}\""));
        assert_eq!(counted, recorded, "{event}");
    }
    // What came in by the doors; reports that the daemon writes itself may be counted beside.
    let received = count(&records, |record| record["event"] == "received");
    assert_eq!(sum("postkeep_messages_received_total{", ""), received);
    assert_eq!(sum("postkeep_refusals_total{", ""), count(&records, |record| record["event"] == "refused"));
    assert_eq!(house.sink.count() as f64 + house.mailbox.count() as f64, {
        let mut transactions: Vec<String> = records
            .iter()
            .filter(|record| record["event"] == "delivered")
            .map(|record| format!("{} {}", record["message"], record["reply"]["text"]))
            .collect();
        transactions.sort();
        transactions.dedup();
        transactions.len() as f64
    });
}

#[test]
fn every_recipient_has_one_end_and_every_record_its_keys() {
    let house = lived_in("");
    let records = house.daemon.records();
    let mut ends: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for record in &records {
        let time = record["time"].as_str().unwrap_or_default();
        assert!(
            time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T',
            "RFC 3339 with microseconds: {record}"
        );
        let event = record["event"].as_str().unwrap_or_default();
        let needed: &[&str] = match event {
            "received" => &["message", "sender", "stream", "size", "recipients"],
            "refused" => &["peer", "stage", "reply"],
            "attempted" => &["site", "stage", "source", "host", "address", "detail"],
            "deferred" => &["message", "recipient", "sender", "stream", "domain", "attempt", "next-attempt"],
            "delivered" => &[
                "message",
                "recipient",
                "stream",
                "domain",
                "site",
                "source",
                "pool",
                "host",
                "address",
                "attempt",
                "reply",
                "duration-ms",
            ],
            "bounced" => &["message", "recipient", "stream", "domain", "attempt", "reply"],
            "expired" => &["message", "recipient", "stream", "domain"],
            "removed" => &["message", "recipient", "actor"],
            other => panic!("an unknown event {other}: {record}"),
        };
        for key in needed {
            assert!(!record[key].is_null(), "{key} is missing: {record}");
        }
        if let Some(id) = record["message"].as_str() {
            assert!(
                id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
                "{record}"
            );
            if ["delivered", "bounced", "expired", "removed"].contains(&event) {
                let recipient = record["recipient"].as_str().unwrap_or_default().to_owned();
                ends.entry((id.to_owned(), recipient)).or_default().push(event.to_owned());
            }
        }
    }
    assert!(ends.values().all(|ends| ends.len() == 1), "{ends:?}");
    let mut times: Vec<&str> = records.iter().filter_map(|record| record["time"].as_str()).collect();
    let sorted = {
        let mut sorted = times.clone();
        sorted.sort_unstable();
        sorted
    };
    // Writers run beside each other; the order may differ by a moment, not by a second.
    times.truncate(sorted.len());
    for (one, other) in times.iter().zip(&sorted) {
        assert_eq!(one[..17], other[..17], "records are in the order of time");
    }
}

#[test]
fn record_files_rotate_and_lose_no_line() {
    let house = lived_in("[records]\nrotate-size = \"64KiB\"\n");
    let mut client = house.daemon.client();
    for n in 0..200 {
        let content = b"From: a@sender.test\r\nSubject: many\r\n\r\nHi\r\n";
        let reply = client.submit("a@sender.test", &[&format!("more{n}@there.test")], content).expect("submit");
        assert_eq!(reply.code, 250, "{reply}");
    }
    house.sink.wait(200, LIMIT);
    wait_until("their records", LIMIT, || {
        count(&house.daemon.records(), |record| {
            record["event"] == "delivered" && record["recipient"].as_str().is_some_and(|one| one.starts_with("more"))
        }) >= 200.0
    });
    let files = std::fs::read_dir(house._ground.path("records")).expect("the folder").count();
    assert!(files > 1, "{files} files of 64 KiB");
    let records = house.daemon.records();
    assert_eq!(count(&records, |record| record["event"] == "delivered" && record["sender"] == "a@sender.test"), 221.0);
}

#[test]
fn nobody_but_a_scraper_is_answered() {
    use std::io::{Read, Write};
    let ground = Ground::claim();
    let _daemon = Daemon::start(&ground, &Settings::new(&ground));
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut socket =
            std::net::TcpStream::connect(ground.at(1, postkeep_tests::ground::METRICS_PORT)).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        socket.write_all(request.as_bytes()).expect("write");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("read");
        assert!(answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
}
