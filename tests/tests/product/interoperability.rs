//! Mail goes in by swaks and Python's smtplib and comes out at Postfix's
//! smtp-sink, aiosmtpd and OpenSMTPD; dkimpy judges the signatures.

use std::collections::BTreeMap;
use std::time::Duration;

use postkeep_tests::ground::MAIL_PORT;
use postkeep_tests::oracle::{self, Signature};
use postkeep_tests::receivers::{Aiosmtpd, Kept, OpenSmtpd, SmtpSink};
use postkeep_tests::settings::PASSWORD;
use postkeep_tests::submitters::{Letter, Tls, smtplib, swaks};
use postkeep_tests::tools::needs;
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

/// One daemon, three foreign receivers, DKIM keys of both kinds.
struct House {
    daemon: Daemon,
    smtp_sink: SmtpSink,
    aiosmtpd: Aiosmtpd,
    opensmtpd: OpenSmtpd,
    keys: BTreeMap<String, String>,
    ground: Ground,
    _names: Names,
}

const EVERYWHERE: [&str; 3] = ["reader@smtp-sink.test", "reader@aiosmtpd.test", "reader@opensmtpd.test"];

impl House {
    fn open() -> Option<Self> {
        let ground = Ground::claim();
        let names = Names::new(&ground);
        for (domain, n) in [("smtp-sink.test", 101), ("aiosmtpd.test", 102), ("opensmtpd.test", 103)] {
            names.domain(domain, ground.ip(n));
        }
        let smtp_sink = needs(SmtpSink::start(&ground, ground.at(101, MAIL_PORT)))?;
        let aiosmtpd = needs(Aiosmtpd::start(&ground, ground.at(102, MAIL_PORT)))?;
        let opensmtpd = needs(OpenSmtpd::start(&ground, ground.at(103, MAIL_PORT)))?;
        let (keys, settings) = with_keys(&ground, Settings::new(&ground).with_submission(&ground))?;
        let daemon = Daemon::start(&ground, &settings);
        Some(Self { daemon, smtp_sink, aiosmtpd, opensmtpd, keys, ground, _names: names })
    }

    /// What each receiver kept, once each has `count`.
    fn kept(&self, count: usize) -> [(&'static str, Vec<Kept>); 3] {
        let all = || {
            [
                ("smtp-sink", self.smtp_sink.kept()),
                ("aiosmtpd", self.aiosmtpd.kept()),
                ("OpenSMTPD", self.opensmtpd.kept()),
            ]
        };
        let end = std::time::Instant::now() + LIMIT;
        while all().iter().any(|(_, kept)| kept.len() < count) {
            assert!(
                std::time::Instant::now() < end,
                "not {count} messages everywhere after {LIMIT:?}: {:?}; records: {:#?}",
                all().map(|(name, kept)| (name, kept.len())),
                self.daemon.records().iter().rev().take(10).collect::<Vec<_>>(),
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        all()
    }
}

/// An RSA and an Ed25519 key for `example.test`.
fn with_keys(ground: &Ground, settings: Settings) -> Option<(BTreeMap<String, String>, Settings)> {
    let (rsa, ed25519) = (ground.path("rsa.pem"), ground.path("ed25519.pem"));
    let keys = BTreeMap::from([
        ("r1._domainkey.example.test.".to_owned(), needs(oracle::rsa_key(&rsa))?),
        ("e1._domainkey.example.test.".to_owned(), needs(oracle::ed25519_key(&ed25519))?),
    ]);
    let settings = settings.with(&format!(
        "[[dkim]]\ndomain = \"example.test\"\nselector = \"r1\"\nkey = {rsa:?}\n\
         [[dkim]]\ndomain = \"example.test\"\nselector = \"e1\"\nkey = {ed25519:?}\nalgorithm = \"ed25519-sha256\"\n"
    ));
    Some((keys, settings))
}

/// Bodies that break what is sloppy.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let head = |subject: &str| {
        format!(
            "From: News <news@example.test>\r\nTo: reader@there.test\r\nSubject: {subject}\r\n\
             Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{subject}@example.test>\r\n"
        )
    };
    let with = |subject: &'static str, more: &str, body: &[u8]| {
        let mut content = (head(subject) + more + "\r\n").into_bytes();
        content.extend_from_slice(body);
        (subject, content)
    };
    vec![
        with("plain", "", b"Hello.\r\n"),
        with("dots", "", b".\r\n..\r\n...three\r\n.one\r\n\r\n.\r\nend\r\n"),
        with("first-line-is-a-dot", "", b".\r\n"),
        with(
            "eight-bit",
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n",
            b"caf\xe9 \xff\xfe\x80 na\xefve\r\n",
        ),
        with(
            "utf-8",
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
            "größe — ✓\r\n".as_bytes(),
        ),
        with("long-lines", "", format!("{}\r\n{}\r\n", "x".repeat(998), "y".repeat(997)).as_bytes()),
        with("empty-body", "", b""),
        with("blank-lines-at-the-end", "", b"text\r\n\r\n\r\n\r\n"),
        with("white-space-at-line-ends", "", b"text \t \r\n \r\n\t\r\nend  \r\n"),
        with("folded", "X-Folded: one\r\n two\r\n\tthree\r\n", b"text\r\n"),
        with("three-hundred-kilobytes", "", "0123456789 abcdefghijklmnopqrstuvwxyz .\r\n".repeat(7500).as_bytes()),
    ]
}

fn verify(keys: &BTreeMap<String, String>, messages: &[&[u8]]) -> Option<Vec<Vec<Signature>>> {
    needs(oracle::signatures(keys, messages))
}

#[test]
fn what_smtplib_submits_arrives_byte_for_byte_and_both_signatures_hold() {
    let Some(house) = House::open() else { return };
    let messages = messages();
    let (first, second) = messages.split_at(messages.len() / 2);
    for (tls, to, messages) in
        [(Tls::Starttls, house.daemon.submission(), first), (Tls::Implicit, house.daemon.submissions(), second)]
    {
        let batch: Vec<Letter<'_>> = messages
            .iter()
            .map(|(_, content)| Letter {
                sender: "news@example.test",
                recipients: &EVERYWHERE,
                content,
                options: &["BODY=8BITMIME"],
            })
            .collect();
        let Some(replies) = needs(smtplib(&house.ground, to, tls, &batch)) else { return };
        for ((subject, _), (code, text)) in messages.iter().zip(replies) {
            assert_eq!(code, 250, "{subject} by {tls:?}: {text}");
        }
    }
    let kept = house.kept(messages.len());
    for (receiver, kept) in &kept {
        for (subject, sent) in &messages {
            let arrived = kept
                .iter()
                .find(|kept| message::header(&kept.content, "Subject") == *subject)
                .unwrap_or_else(|| panic!("{subject} did not arrive at {receiver}"));
            assert!(
                message::ends_with(&arrived.content, sent),
                "{subject} changed on its way to {receiver}:\nsent {:?}\ngot  {:?}",
                String::from_utf8_lossy(&sent[..sent.len().min(1500)]),
                String::from_utf8_lossy(&arrived.content[..arrived.content.len().min(3000)]),
            );
            assert_eq!(arrived.sender, "news@example.test");
            let trace = message::header(&arrived.content, "Received");
            assert!(trace.contains("by out.postkeep.test") && trace.contains("with ESMTPSA"), "Received: {trace}");
        }
        let contents: Vec<&[u8]> = kept.iter().map(|kept| kept.content.as_slice()).collect();
        let Some(verdicts) = verify(&house.keys, &contents) else { return };
        for (kept, signatures) in kept.iter().zip(&verdicts) {
            let subject = message::header(&kept.content, "Subject");
            let mut algorithms: Vec<&str> = signatures.iter().map(|signature| signature.algorithm.as_str()).collect();
            algorithms.sort_unstable();
            assert_eq!(algorithms, ["ed25519-sha256", "rsa-sha256"], "{subject} at {receiver}");
            assert!(signatures.iter().all(|signature| signature.valid), "{subject} at {receiver}: {signatures:?}");
        }
    }
}

#[test]
fn swaks_submits_with_auth_plain_and_login() {
    let Some(house) = House::open() else { return };
    for method in ["PLAIN", "LOGIN"] {
        let Some(mut command) = needs(swaks(&house.ground, house.daemon.submission())) else { return };
        command
            .args(["--auth", method, "--auth-user", "user", "--auth-password", PASSWORD])
            .args(["--from", "news@example.test", "--to", &EVERYWHERE.join(",")])
            .args(["--header", &format!("Subject: by swaks {method}"), "--body", "one\n.\n.two\n"]);
        let said = postkeep_tests::daemon::run(&mut command);
        assert_eq!(said.status, 0, "{method}: {}\n{}", said.out, said.err);
    }
    for (receiver, kept) in house.kept(2) {
        for method in ["PLAIN", "LOGIN"] {
            let kept = kept
                .iter()
                .find(|kept| message::header(&kept.content, "Subject") == format!("by swaks {method}"))
                .unwrap_or_else(|| panic!("{method} did not arrive at {receiver}"));
            let (_, body) = message::split(&kept.content);
            assert!(body.starts_with(b"one\r\n.\r\n.two\r\n"), "{receiver}: {:?}", String::from_utf8_lossy(body));
        }
        let contents: Vec<&[u8]> = kept.iter().map(|kept| kept.content.as_slice()).collect();
        let Some(verdicts) = verify(&house.keys, &contents) else { return };
        assert!(verdicts.iter().flatten().all(|signature| signature.valid), "{verdicts:?}");
        assert!(verdicts.iter().all(|signatures| signatures.len() == 2), "{verdicts:?}");
    }
}

#[test]
fn a_header_added_after_signing_breaks_the_signature() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100);
    let Some((keys, settings)) = with_keys(&ground, Settings::new(&ground)) else { return };
    let daemon = Daemon::start(&ground, &settings);
    let content = b"From: news@example.test\r\nTo: reader@there.test\r\nSubject: signed\r\nReply-To: r@example.test\r\n\r\nHi\r\n";
    daemon.submit("news@example.test", &["reader@there.test"], content);
    let arrived = sink.wait(1, LIMIT).remove(0).content;
    let with = |header: &str| [header.as_bytes(), arrived.as_slice()].concat();
    let changed = [
        arrived.clone(),
        with("From: other@example.test\r\n"),
        with("Subject: other\r\n"),
        with("To: other@there.test\r\n"),
        with("Reply-To: other@example.test\r\n"),
        with("Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n"),
        with("X-Unsigned: may come\r\n"),
        [arrived.as_slice(), b"more\r\n"].concat(),
    ];
    let changed: Vec<&[u8]> = changed.iter().map(Vec::as_slice).collect();
    let Some(verdicts) = verify(&keys, &changed) else { return };
    let valid: Vec<Vec<bool>> =
        verdicts.iter().map(|one| one.iter().map(|signature| signature.valid).collect()).collect();
    let (yes, no) = (vec![true, true], vec![false, false]);
    assert_eq!(
        valid,
        [yes.clone(), no.clone(), no.clone(), no.clone(), no.clone(), no.clone(), yes, no],
        "as sent, From, Subject, To, Reply-To, Date, unsigned header, body; h= {:?}",
        verdicts[0][0].headers
    );
    for signature in &verdicts[0] {
        for name in ["from", "subject"] {
            let times = signature.headers.iter().filter(|header| *header == name).count();
            assert_eq!(times, 2, "{name} is signed once more than it is there: {:?}", signature.headers);
        }
    }
}

#[test]
fn a_signature_is_chosen_by_stream() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100);
    let (general, special) = (ground.path("general.pem"), ground.path("special.pem"));
    let (Some(general_txt), Some(special_txt)) = (needs(oracle::rsa_key(&general)), needs(oracle::rsa_key(&special)))
    else {
        return;
    };
    let keys = BTreeMap::from([
        ("general._domainkey.example.test.".to_owned(), general_txt),
        ("special._domainkey.example.test.".to_owned(), special_txt),
    ]);
    let settings = Settings::new(&ground).with("[stream.receipts]\n").with(&format!(
        "[[dkim]]\ndomain = \"example.test\"\nselector = \"general\"\nkey = {general:?}\n\
         [[dkim]]\ndomain = \"example.test\"\nselector = \"special\"\nkey = {special:?}\nstreams = [\"receipts\"]\n"
    ));
    let daemon = Daemon::start(&ground, &settings);
    for (subject, more) in [("one", ""), ("two", "X-Postkeep-Stream: receipts\r\n")] {
        let content = format!("From: a@mail.example.test\r\nSubject: {subject}\r\n{more}\r\nHi\r\n");
        daemon.submit("a@mail.example.test", &["reader@there.test"], content.as_bytes());
    }
    let messages = sink.wait(2, LIMIT);
    let contents: Vec<&[u8]> = messages.iter().map(|message| message.content.as_slice()).collect();
    let Some(verdicts) = verify(&keys, &contents) else { return };
    for (message, signatures) in messages.iter().zip(verdicts) {
        let expected = if message::header(&message.content, "Subject") == "one" { "general" } else { "special" };
        let found: Vec<(&str, bool)> = signatures.iter().map(|one| (one.selector.as_str(), one.valid)).collect();
        assert_eq!(found, [(expected, true)]);
    }
}

#[test]
fn tls_towards_foreign_receivers_is_recorded() {
    let Some(house) = House::open() else { return };
    house.daemon.submit(
        "news@example.test",
        &EVERYWHERE,
        &message::simple("news@example.test", "r@there.test", "tls", "x\n"),
    );
    house.kept(1);
    wait_until("three delivered records", LIMIT, || house.daemon.events("delivered").len() == 3);
    let tried = house.daemon.events("attempted");
    for record in house.daemon.events("delivered") {
        let encrypted = record["tls"]["version"].as_str().is_some_and(|version| version.contains("1.3"));
        match record["domain"].as_str() {
            Some("smtp-sink.test") => assert!(!encrypted, "{record}"),
            Some("aiosmtpd.test") => assert!(encrypted, "{record}"),
            // OpenSMTPD 6.8 with OpenSSL 3 (Debian 12) offers STARTTLS and fails every handshake, also
            // OpenSSL's own: mail still arrives, and the record says why it went in the clear.
            _ => assert!(
                encrypted || tried.iter().any(|tried| tried["site"] == record["site"] && tried["stage"] == "tls"),
                "{record}"
            ),
        }
    }
}
