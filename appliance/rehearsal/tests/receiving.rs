//! The simulated internet on its own: the campaign's client speaks straight
//! to the providers' hosts, and the judge must see exactly what was done.

use std::collections::HashMap;
use std::time::Duration;

use postkeep_configuration::{LaneLimits, TotalLimits};
use postkeep_rehearsal::campaign::{Campaign, Message, Plan, To};
use postkeep_rehearsal::judge::Promise;
use postkeep_rehearsal::mailbox::Reason;
use postkeep_rehearsal::rulebook::RuleBook;
use postkeep_rehearsal::{Client, Internet, InternetOptions, Owner, Submission};

const BOOK: &str = r#"
[[provider]]
name = "plain"
source = "test"
checked = "2026-11-23"
weight = 1
[[provider.site]]
domains = ["plain.test"]
host = [{ name = "mx.plain.test" }]

[[provider]]
name = "strict"
source = "test"
checked = "2026-11-23"
weight = 0
[[provider.site]]
domains = ["strict.test"]
host = [{ name = "mx.strict.test", certificate = "none" }]
[provider.limits]
connections = 2

[[provider]]
name = "lossy"
source = "test"
checked = "2026-11-23"
weight = 0
[[provider.site]]
domains = ["lossy.test"]
host = [{ name = "mx.lossy.test", certificate = "none" }]
[provider.mood]
lost-reply = 1.0
"#;

async fn internet() -> Internet {
    let promise = Promise {
        lane: LaneLimits { connections: Some(2), messages_per_connection: Some(50), ..LaneLimits::default() },
        total: TotalLimits::default(),
    };
    let owner = Owner {
        return_domains: vec!["sender.test".to_owned()],
        promises: HashMap::from([(String::new(), promise)]),
        ..Owner::default()
    };
    let mut options = InternetOptions::new(1, owner).unwrap();
    options.book = RuleBook::parse(BOOK).unwrap();
    Internet::start(options).await.unwrap()
}

fn to(internet: &Internet, host_number: u8, host: &str, tls: bool) -> Submission {
    Submission {
        address: ([127, 2, 0, host_number], internet.port()).into(),
        host: host.to_owned(),
        credential: None,
        implicit_tls: false,
        authority: tls.then(|| internet.authority().certificate().clone()),
    }
}

fn messages(recipients: u64) -> impl Iterator<Item = Message> {
    let plan = Plan {
        seed: 5,
        recipients,
        domains: vec!["sender.test".to_owned()],
        stream_header: "X-Postkeep-Stream".to_owned(),
        streams: vec![None],
        recipients_per_message: 10,
        largest_body: 20_000,
    };
    Campaign::new(plan, &RuleBook::parse(BOOK).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_message_arrives_whole_over_tls_by_data_and_by_bdat() {
    let internet = internet().await;
    let submission = to(&internet, 1, "mx.plain.test", true);
    let mut client = Client::connect(&submission).await.unwrap();
    let mut sent = Vec::new();
    for (number, message) in messages(120).enumerate() {
        if number % 50 == 49 {
            client.quit().await;
            client = Client::connect(&submission).await.unwrap();
        }
        let answer = client.send(&message, &message.content("X-Postkeep-Stream")).await.unwrap();
        assert!(answer.recipients.iter().all(Result::is_ok), "{answer:?}");
        assert!(answer.queued.is_some());
        sent.push(message);
    }
    client.quit().await;
    assert!(sent.iter().any(|message| message.chunking) && sent.iter().any(|message| !message.chunking));
    internet.with_ledger(|ledger| {
        assert_eq!(ledger.corrupted_samples(), []);
        for message in &sent {
            for to in &message.to {
                let acceptances = ledger.acceptances(&message.id, &to.address);
                assert_eq!(acceptances.len(), 1);
                assert!(acceptances[0].tls && acceptances[0].replied.is_some());
            }
        }
        assert_eq!(ledger.delivered(0), 120);
    });
    assert_eq!(internet.tls(0).1, 0);
    internet.with_judge(|judge| assert_eq!(judge.count(), 0, "{:?}", judge.violations()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_connection_is_refused_and_judged_but_one_that_has_hung_up_does_not_count() {
    let internet = internet().await;
    let submission = to(&internet, 2, "mx.strict.test", false);
    let first = Client::connect(&submission).await.unwrap();
    let second = Client::connect(&submission).await.unwrap();
    let refusal = Client::connect(&submission).await.err().unwrap().to_string();
    assert!(refusal.contains("421"), "{refusal}");
    internet.with_judge(|judge| assert_eq!(judge.count(), 1));
    assert_eq!(internet.with_mailboxes(1, |m| m.reasons()[&Reason::TooManyConnections]), Some(1));
    // Dropped and replaced at once, a hundred times: never three at the same instant.
    drop(first);
    for _ in 0..100 {
        drop(Client::connect(&submission).await.unwrap());
    }
    drop(second);
    internet.with_judge(|judge| assert_eq!(judge.count(), 1, "{:?}", judge.violations()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_on_the_ledger_without_a_reply() {
    let internet = internet().await;
    let submission = to(&internet, 3, "mx.lossy.test", false);
    let mut message = messages(1).next().unwrap();
    message.to = vec![To { address: "a@lossy.test".to_owned(), provider: 2, never_notify: false }];
    for _ in 0..2 {
        let mut client = Client::connect(&submission).await.unwrap();
        assert!(client.send(&message, &message.content("X")).await.is_err());
    }
    internet.with_ledger(|ledger| {
        let acceptances = ledger.acceptances(&message.id, "a@lossy.test");
        assert_eq!(acceptances.len(), 2);
        assert!(acceptances.iter().all(|acceptance| acceptance.replied.is_none()));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_body_and_a_smuggled_message_are_seen() {
    let internet = internet().await;
    let submission = to(&internet, 1, "mx.plain.test", true);
    let mut client = Client::connect(&submission).await.unwrap();
    let message = messages(1).next().unwrap();
    let mut content = message.content("X");
    let last = content.len() - 3;
    content[last] ^= 1;
    client.send(&message, &content).await.unwrap();
    client.send(&message, b"Subject: no marks\r\n\r\nx\r\n").await.unwrap();
    internet.with_ledger(|ledger| assert_eq!(ledger.corrupted_count(), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_comes_home_is_read_and_matched_by_its_return_path() {
    let internet = internet().await;
    let mut client = Client::connect(&to(&internet, 4, "return.rehearsal.test", true)).await.unwrap();
    let mut message = messages(1).next().unwrap();
    message.sender = None;
    message.to = vec![To { address: "bounce+r5-000001@sender.test".to_owned(), provider: 3, never_notify: false }];
    let report = "From: MAILER-DAEMON@box.test\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n--b\r\n\r\nSorry\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; box.test\r\n\r\nFinal-Recipient: rfc822; x@plain.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b--\r\n";
    client.send(&message, report.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    internet.with_ledger(|ledger| {
        let home = &ledger.reports()[0];
        assert_eq!((home.id.as_str(), home.report.recipient.as_str()), ("r5-000001", "x@plain.test"));
        assert_eq!((home.report.action.as_str(), home.report.status.as_str()), ("failed", "5.1.1"));
        assert_eq!(ledger.corrupted_count(), 0);
    });
}
