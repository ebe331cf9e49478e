//! What comes back finds its recipient: bounces of a real mail server, complaints with and without the
//! recipient's name, and claims of strangers, which change nothing.

use std::time::Duration;

use postkeep_tests::ground::MAIL_PORT;
use postkeep_tests::receivers::OpenSmtpd;
use postkeep_tests::tools::needs;
use postkeep_tests::{Act, Client, Daemon, Ground, Names, Settings, Sink, Stage, message};

const LIMIT: Duration = Duration::from_secs(30);

const FEEDBACK: &str = "[feedback]\ndomain = \"bounce.sender.test\"\nreport-addresses = [\"fbl@sender.test\"]\n\
                        forward-to = \"people@office.test\"\n[stream.news]\n[stream.plain]\nverp = false\n";

struct House {
    ground: Ground,
    names: Names,
    daemon: Daemon,
    there: Sink,
}

fn house(extra: &str) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101);
    let daemon = Daemon::start(&ground, &Settings::new(&ground).with(&format!("{FEEDBACK}{extra}")));
    House { ground, names, daemon, there }
}

fn content(stream: &str) -> Vec<u8> {
    let header = format!("X-Postkeep-Stream: {stream}\r\n").into_bytes();
    [header, message::simple("a@sender.test", "r@there.test", "x", "Hi\n")].concat()
}

/// Sends a report as a stranger would: no credential, the null sender.
fn report(daemon: &Daemon, to: &str, content: &[u8]) -> String {
    let mut client = Client::connect(daemon.door()).expect("connect");
    client.ehlo().expect("EHLO");
    client.submit("", &[to], content).expect("submit").codes()
}

/// An abuse report (RFC 5965) about a message, as a provider that hides the recipient sends it.
fn complaint(headers: &str) -> Vec<u8> {
    message::crlf(&format!(
        "From: <feedback@provider.test>\nTo: <fbl@sender.test>\nSubject: FW: x\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"b\"\n\n\
         --b\nContent-Type: text/plain\n\nThis is an email abuse report.\n\n\
         --b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: Some/1.0\nVersion: 1\n\
         Original-Mail-From: <redacted@sender.test>\nOriginal-Rcpt-To: <redacted@there.test>\n\n\
         --b\nContent-Type: text/rfc822-headers\n\n{headers}From: a@sender.test\nSubject: x\n\n--b--\n"
    ))
    .into_bytes()
}

#[test]
fn each_recipient_gets_a_return_path_and_headers_that_only_this_box_can_read() {
    let house = house("");
    house.daemon.submit("a@sender.test", &["ann@there.test", "bob@there.test"], &content("news"));
    let mut mails = house.there.wait(2, LIMIT);
    mails.sort_by_key(|mail| mail.addresses()[0].to_owned());
    let mut seen = Vec::new();
    for mail in &mails {
        let (local, domain) = mail.sender.rsplit_once('@').expect("a return path");
        assert_eq!(domain, "bounce.sender.test");
        assert!(local.len() <= 64, "{local}");
        let token = message::header(&mail.content, "X-Postkeep-Token");
        assert_eq!(token, message::header(&mail.content, "CFBL-Feedback-ID"));
        assert_eq!(message::header(&mail.content, "CFBL-Address"), "fbl@sender.test; report=arf");
        assert!(token.len() > 60 && !token.contains("there"), "{token}");
        assert_eq!(mail.recipients.len(), 1, "each its own transaction");
        seen.push((local.to_owned(), token));
    }
    assert!(seen[0] != seen[1]);
    // A stream that does not want it keeps the sender's own return path.
    house.daemon.submit("a@sender.test", &["cid@there.test"], &content("plain"));
    let plain = house.there.wait(3, LIMIT).pop().expect("a mail");
    assert_eq!(plain.sender, "a@sender.test");
    assert_eq!(message::header(&plain.content, "X-Postkeep-Token"), "");
}

#[test]
fn a_bounce_of_opensmtpd_comes_back_and_suppresses_whom_it_is_about() {
    let mut house = house("");
    let end = Sink::at(&house.ground, 102).with_script(|moment| match (moment.stage, moment.recipient) {
        (Stage::Rcpt, "gone@far.test") => {
            Act::reply("550 5.1.1 <gone@far.test>: Recipient address rejected: User unknown")
        }
        (Stage::Rcpt, "full@far.test") => Act::reply("552 5.2.2 <full@far.test>: mailbox is over quota"),
        _ => Act::Accept,
    });
    let relay = OpenSmtpd::relay(
        &house.ground,
        house.ground.at(103, MAIL_PORT),
        end.address(),
        ("bounce.sender.test", house.daemon.door()),
    );
    let Some(_relay) = needs(relay) else { return };
    house.names.domain("far.test", house.ground.ip(103));
    for recipient in ["gone@far.test", "full@far.test", "good@far.test"] {
        house.daemon.submit("a@sender.test", &[recipient], &content("news"));
    }
    let bounced = house.daemon.wait_record("remote-bounce", LIMIT, |record| record["recipient"] == "gone@far.test");
    assert_eq!((&bounced["suppress"], &bounced["stream"]), (&true.into(), &"news".into()), "{bounced}");
    let received = house.daemon.events("received");
    assert!(received.iter().any(|record| record["message"] == bounced["message"]), "{bounced}");
    let full = house.daemon.wait_record("remote-bounce", LIMIT, |record| record["recipient"] == "full@far.test");
    assert_eq!(full["suppress"], false, "{full}");
    assert_eq!(house.daemon.suppressions("gone@far.test"), ["hard-bounce all"]);
    assert!(house.daemon.suppressions("full@far.test").is_empty());
    // Taken in is taken in.
    house.daemon.kill();
    house.daemon.run();
    assert_eq!(house.daemon.suppressions("gone@far.test"), ["hard-bounce all"]);
}

#[test]
fn a_complaint_that_hides_its_recipient_finds_them_and_one_without_a_token_suppresses_nobody() {
    let house = house("[suppression]\ncomplaints = \"stream\"\n");
    let daemon = &house.daemon;
    daemon.submit("a@sender.test", &["ann@there.test"], &content("news"));
    let mail = house.there.wait(1, LIMIT).remove(0);
    let token = message::header(&mail.content, "X-Postkeep-Token");
    assert_eq!(report(daemon, "fbl@sender.test", &complaint(&format!("X-Postkeep-Token: {token}\n"))), "250 2.0.0");
    assert_eq!(daemon.suppressions("ann@there.test"), ["complaint stream:news"]);
    let told = daemon.wait_record("complaint", LIMIT, |record| record["recipient"] == "ann@there.test");
    assert_eq!((&told["class"], &told["suppress"]), (&"abuse".into(), &true.into()), "{told}");

    // A stranger claims the same about somebody else.
    let forged = String::from_utf8(complaint("")).unwrap().replace("redacted@there.test", "bob@there.test");
    assert_eq!(report(daemon, "fbl@sender.test", forged.as_bytes()), "250 2.0.0");
    let claimed = daemon.wait_record("complaint", LIMIT, |record| record["suppress"] == false);
    assert_eq!(claimed["recipient"], "bob@there.test", "{claimed}");
    assert!(daemon.suppressions("bob@there.test").is_empty());
    // With a token of another mail it proves nothing about bob either.
    let mixed = String::from_utf8(complaint(&format!("X-Postkeep-Token: {}x\n", &token[..token.len() - 1]))).unwrap();
    assert_eq!(report(daemon, "fbl@sender.test", mixed.replace("redacted@", "bob@").as_bytes()), "250 2.0.0");
    assert!(daemon.suppressions("bob@there.test").is_empty());
}

#[test]
fn a_return_path_that_was_not_given_out_takes_nothing_and_answers_of_people_go_to_people() {
    let house = house("");
    let office = Sink::at(&house.ground, 104);
    house.names.domain("office.test", house.ground.ip(104));
    let daemon = &house.daemon;
    daemon.submit("a@sender.test", &["ann@there.test"], &content("news"));
    let path = house.there.wait(1, LIMIT).remove(0).sender;
    let mut forged = path.clone().into_bytes();
    forged[20] = if forged[20] == b'0' { b'1' } else { b'0' };
    let mut client = daemon.client();
    client.command("MAIL FROM:<>").expect("MAIL");
    let forged = String::from_utf8(forged).unwrap();
    assert_eq!(client.command(&format!("RCPT TO:<{forged}>")).expect("RCPT").codes(), "550 5.1.1");
    assert_eq!(client.command("RCPT TO:<anybody@bounce.sender.test>").expect("RCPT").codes(), "550 5.1.1");
    assert_eq!(client.command(&format!("RCPT TO:<{}>", path.to_uppercase())).expect("RCPT").code, 250);
    assert_eq!(client.command("RCPT TO:<postmaster@bounce.sender.test>").expect("RCPT").code, 250);

    let answer = message::simple("ann@there.test", &path, "Re: x", "Thank you, and call me.\n");
    assert_eq!(report(daemon, &path, &answer), "250 2.0.0");
    let forwarded = office.wait(1, LIMIT).remove(0);
    assert!(message::ends_with(&forwarded.content, &answer), "as it came");
    assert_eq!(forwarded.addresses(), ["people@office.test"]);
    assert!(daemon.suppressions("ann@there.test").is_empty());
    // Mail and reports in one transaction are not taken apart by guesswork.
    let mut client = daemon.client();
    let reply = client.submit("a@sender.test", &[&path, "bob@there.test"], &answer).expect("submit");
    assert_eq!(reply.codes(), "554 5.5.1");
}
