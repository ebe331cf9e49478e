//! What the doors answer: each refusal with its code, its enhanced code and its
//! record; each bound with its reply; nothing half-done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postkeep_tests::ground::HOSTNAME;
use postkeep_tests::settings::PASSWORD;
use postkeep_tests::{Client, Daemon, Ground, Names, Reply, Settings, Sink, message, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const CONTENT: &[u8] = b"From: a@example.test\r\nSubject: x\r\n\r\nHi\r\n";

struct House {
    daemon: Daemon,
    sink: Sink,
    ground: Ground,
    _names: Names,
}

impl House {
    fn open(over: &str) -> Self {
        Self::with(|settings, _| settings.with(over))
    }

    fn with(change: impl FnOnce(Settings, &Ground) -> Settings) -> Self {
        let ground = Ground::claim();
        let names = Names::new(&ground);
        names.domain("there.test", ground.ip(100));
        let sink = Sink::at(&ground, 100);
        let settings = change(Settings::new(&ground).with_submission(&ground), &ground);
        let daemon = Daemon::start(&ground, &settings);
        Self { daemon, sink, ground, _names: names }
    }

    fn client(&self) -> Client {
        self.daemon.client()
    }

    /// A client at the submission door after STARTTLS, before AUTH.
    fn encrypted(&self) -> Client {
        let mut client = Client::connect(self.daemon.submission()).expect("connect");
        client.ehlo().expect("EHLO");
        let reply = client.starttls(self.ground.authority().client(), HOSTNAME).expect("STARTTLS");
        assert_eq!(reply.code, 250, "{reply}");
        client
    }

    fn authenticated(&self) -> Client {
        let mut client = self.encrypted();
        let reply = client.auth_plain("user", PASSWORD).expect("AUTH");
        assert_eq!(reply.codes(), "235 2.7.0", "{reply}");
        client
    }

    /// Waits until a probe that is sent now has arrived; gives the subjects of everything that did.
    fn arrived(&self) -> Vec<String> {
        self.daemon.submit(
            "a@example.test",
            &["r@there.test"],
            &message::simple("a@example.test", "r@there.test", "probe", "x\n"),
        );
        let subjects = || -> Vec<String> {
            self.sink.messages().iter().map(|message| message::header(&message.content, "Subject")).collect()
        };
        wait_until("the probe", LIMIT, || subjects().iter().any(|subject| subject == "probe"));
        std::thread::sleep(Duration::from_millis(100));
        subjects().into_iter().filter(|subject| subject != "probe").collect()
    }
}

/// Sends lines one by one; gives the codes of the replies.
fn dialogue(client: &mut Client, lines: &[&str]) -> Vec<Reply> {
    lines.iter().map(|line| client.command(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[track_caller]
fn expect(reply: &Reply, allowed: &[&str]) {
    assert!(allowed.contains(&reply.codes().as_str()), "got `{reply}`, expected one of {allowed:?}");
}

#[test]
fn each_wrong_command_gets_its_own_code() {
    let house = House::open("");
    // What is sent after EHLO, and the codes that the last line may get.
    let table: &[(&[&str], &[&str])] = &[
        (&["FOO"], &["500 5.5.1", "500 5.5.2"]),
        (&["DATA"], &["503 5.5.1"]),
        (&["RCPT TO:<r@there.test>"], &["503 5.5.1"]),
        (&["MAIL FROM:<a@example.test>", "MAIL FROM:<a@example.test>"], &["503 5.5.1"]),
        (&["MAIL FROM:<a@example.test>", "DATA"], &["503 5.5.1", "554 5.5.1"]),
        (&["MAIL FROM:<a@example.test> FOO=BAR"], &["555 5.5.4"]),
        (&["MAIL FROM:<a@example.test> SIZE=abc"], &["501 5.5.4", "501 5.5.2"]),
        (&["MAIL FROM:<a@example.test> BODY=NINEBIT"], &["501 5.5.4", "504 5.5.4", "555 5.5.4"]),
        (&["MAIL FROM a@example.test"], &["501 5.5.4", "501 5.5.2"]),
        (&["MAIL FROM:<a@@example.test>"], &["501 5.1.7", "553 5.1.7", "501 5.5.2", "501 5.5.4"]),
        (&["MAIL FROM:<a@exa mple.test>"], &["501 5.1.7", "553 5.1.7", "501 5.5.2", "501 5.5.4"]),
        (&["MAIL FROM:<a@example.test>", "RCPT TO:<>"], &["501 5.1.3", "553 5.1.3", "501 5.5.2", "501 5.5.4"]),
        (
            &["MAIL FROM:<a@example.test>", "RCPT TO:<nobody>"],
            &["501 5.1.3", "553 5.1.3", "501 5.1.2", "501 5.5.2", "501 5.5.4", "550 5.1.2", "550 5.1.3"],
        ),
        (&["MAIL FROM:<a@example.test>", "RCPT TO:<r@there.test> FOO=BAR"], &["555 5.5.4"]),
        (&["MAIL FROM:<a@example.test>", "RCPT TO:<r@there.test> NOTIFY=NEVER,SUCCESS"], &["501 5.5.4"]),
        (&["VRFY r"], &["252 2.5.0", "252 2.1.5", "252 2.5.1", "252 2.0.0", "502 5.5.1"]),
        (&["EXPN r"], &["502 5.5.1", "252 2.5.0", "550 5.7.1"]),
        (&["HELP"], &["214 2.0.0", "502 5.5.1", "214"]),
        (&["NOOP anything"], &["250 2.0.0"]),
        (&["RSET"], &["250 2.0.0"]),
        (&["AUTH PLAIN AHUAcA=="], &["502 5.5.1", "503 5.5.1", "538 5.7.11", "530 5.7.0", "503 5.7.0"]),
        (&["STARTTLS"], &["502 5.5.1", "503 5.5.1"]),
        (&["BDAT 5 LAST\r\nhello"], &["503 5.5.1"]),
        (&["BDAT x"], &["501 5.5.4", "501 5.5.2"]),
        (&["QUIT"], &["221 2.0.0"]),
    ];
    let mut wrong = Vec::new();
    for (lines, allowed) in table {
        let mut client = house.client();
        let last = dialogue(&mut client, lines).pop().expect("a reply");
        if !allowed.contains(&last.codes().as_str()) {
            wrong.push(format!("{lines:?}: got `{last}`, expected one of {allowed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut client = Client::connect(house.daemon.door()).expect("connect");
    expect(&client.command("MAIL FROM:<a@example.test>").expect("a reply"), &["503 5.5.1"]);
    assert!(client.greeting.lines[0].starts_with(HOSTNAME), "the greeting names the host: {}", client.greeting);
    let mut client = Client::connect(house.daemon.door()).expect("connect");
    expect(&client.command("EHLO").expect("a reply"), &["501 5.5.4", "501 5.5.2", "501"]);
    assert!(house.arrived().is_empty());
}

#[test]
fn extensions_are_offered_where_they_work() {
    let house = House::open("[intake]\nmessage-size = \"1MiB\"\n");
    let mut client = Client::connect(house.daemon.door()).expect("connect");
    let plain = client.ehlo().expect("EHLO");
    for keyword in ["PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES"] {
        assert!(plain.offers(keyword), "{keyword}: {plain}");
    }
    assert!(plain.lines.iter().any(|line| line == "SIZE 1048576"), "{plain}");
    assert!(!plain.offers("AUTH") && !plain.offers("STARTTLS"), "a door without TLS: {plain}");

    let mut client = Client::connect(house.daemon.submission()).expect("connect");
    let before = client.ehlo().expect("EHLO");
    assert!(before.offers("STARTTLS") && !before.offers("AUTH"), "before TLS: {before}");
    let after = client.starttls(house.ground.authority().client(), HOSTNAME).expect("STARTTLS");
    assert!(!after.offers("STARTTLS") && after.offers("AUTH"), "after TLS: {after}");
    let auth = after.lines.iter().find(|line| line.starts_with("AUTH")).expect("AUTH");
    assert!(auth.contains("PLAIN") && auth.contains("LOGIN"), "{auth}");

    let trust = house.ground.authority().client();
    let mut client = Client::connect_tls(house.daemon.submissions(), trust, HOSTNAME).expect("connect with TLS");
    let implicit = client.ehlo().expect("EHLO");
    assert!(!implicit.offers("STARTTLS") && implicit.offers("AUTH"), "{implicit}");
}

#[test]
fn strangers_may_not_relay_and_nobody_authenticates_in_the_clear() {
    let house = House::with(|settings, _| {
        settings.replacing(
            "network",
            "[[network]]\nname = \"here\"\naddresses = [\"127.0.0.1/32\"]\nsender-domains = [\"example.test\"]\n",
        )
    });
    // From an address that no network lists.
    let stranger = IpAddr::V4(house.ground.ip(200));
    let mut client = Client::connect_from(house.daemon.door(), stranger).expect("connect");
    client.ehlo().expect("EHLO");
    let reply = client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply");
    expect(&reply, &["554 5.7.1", "550 5.7.1", "530 5.7.0", "530 5.7.1"]);

    // The submission door wants AUTH even of those that are listed.
    let mut client = Client::connect(house.daemon.submission()).expect("connect");
    client.ehlo().expect("EHLO");
    let reply = client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply");
    expect(&reply, &["530 5.7.0", "530 5.7.1", "530 5.7.10"]);
    let reply = client.auth_plain("user", PASSWORD).expect("a reply");
    expect(&reply, &["538 5.7.11", "530 5.7.0", "530 5.7.11", "503 5.5.1", "502 5.5.1"]);
    let mut client = house.encrypted();
    let reply = client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply");
    expect(&reply, &["530 5.7.0", "530 5.7.1"]);

    // The listed network has its own sender domains.
    let mut client = house.client();
    let reply = client.submit("a@elsewhere.test", &["r@there.test"], CONTENT).expect("a reply");
    expect(&reply, &["550 5.7.1", "553 5.7.1", "554 5.7.1"]);
    wait_until("refused records", LIMIT, || house.daemon.events("refused").len() >= 4);
    let refused = house.daemon.events("refused");
    assert!(refused.iter().all(|record| record["reply"]["code"].is_u64() && record["peer"].is_string()), "{refused:?}");
    assert!(house.arrived().is_empty());
}

#[test]
fn wrong_passwords_are_refused_and_too_many_end_the_connection() {
    let house = House::open("[intake]\nauth-failures = 3\n");
    let mut client = house.encrypted();
    expect(&client.auth_plain("user", "wrong").expect("a reply"), &["535 5.7.8"]);
    expect(&client.auth_plain("nobody", PASSWORD).expect("a reply"), &["535 5.7.8"]);
    let reply = client.auth_plain("user", "wrong again").expect("a reply");
    expect(&reply, &["421 4.7.0", "535 5.7.8"]);
    assert!(client.closed_within(Duration::from_secs(5)), "the connection ends after three failures");

    let mut client = house.encrypted();
    expect(&client.command("AUTH CRAM-MD5").expect("a reply"), &["504 5.5.4", "504 5.7.4"]);
    expect(&client.command("AUTH PLAIN !!!").expect("a reply"), &["501 5.5.2", "501 5.5.4"]);
    let mut client = house.encrypted();
    assert_eq!(client.command("AUTH PLAIN").expect("a reply").code, 334);
    expect(&client.command("*").expect("a reply"), &["501 5.7.0", "501 5.0.0", "501 5.5.2", "501 5.5.4"]);
    assert_eq!(client.command("AUTH LOGIN").expect("a reply").code, 334);
    assert_eq!(client.command("dXNlcg==").expect("a reply").code, 334);
    expect(&client.command("Y29ycmVjdCBob3JzZQ==").expect("a reply"), &["235 2.7.0"]);
    expect(&client.auth_plain("user", PASSWORD).expect("a reply"), &["503 5.5.1"]);
}

#[test]
fn a_credential_sends_only_for_its_domains_in_envelope_and_header() {
    let house = House::open("");
    let mut client = house.authenticated();
    let reply = client.submit("a@elsewhere.test", &["r@there.test"], CONTENT).expect("a reply");
    expect(&reply, &["550 5.7.1", "553 5.7.1"]);
    client.command("RSET").expect("RSET");
    let other = b"From: a@elsewhere.test\r\nSubject: other\r\n\r\nHi\r\n";
    let reply = client.submit("a@example.test", &["r@there.test"], other).expect("a reply");
    expect(&reply, &["550 5.7.1", "553 5.7.1", "554 5.7.1"]);
    let reply = client.submit("a@mail.example.test", &["r@there.test"], CONTENT).expect("a reply");
    assert_eq!(reply.code, 250, "a domain below is allowed by *.example.test: {reply}");
    let near = b"From: a@notexample.test\r\nSubject: near\r\n\r\nHi\r\n";
    let reply = client.submit("a@example.test", &["r@there.test"], near).expect("a reply");
    expect(&reply, &["550 5.7.1", "553 5.7.1", "554 5.7.1"]);
    house.sink.wait(1, LIMIT);
    assert_eq!(house.arrived(), ["x"]);
}

#[test]
fn size_and_number_of_recipients_are_bounded() {
    let house = House::open("[intake]\nmessage-size = \"100KiB\"\nrecipients = 3\n");
    let mut client = house.client();
    let reply = client.command("MAIL FROM:<a@example.test> SIZE=200000").expect("a reply");
    expect(&reply, &["552 5.3.4"]);
    let mut big = CONTENT.to_vec();
    big.extend(b"0123456789\r\n".repeat(20_000));
    let reply = client.submit("a@example.test", &["r@there.test"], &big).expect("a reply");
    expect(&reply, &["552 5.3.4"]);
    let reply = client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply");
    assert_eq!(reply.code, 250, "the connection goes on after that: {reply}");

    dialogue(
        &mut client,
        &["MAIL FROM:<a@example.test>", "RCPT TO:<1@there.test>", "RCPT TO:<2@there.test>", "RCPT TO:<3@there.test>"],
    );
    let reply = client.command("RCPT TO:<4@there.test>").expect("a reply");
    expect(&reply, &["452 4.5.3"]);
    assert_eq!(client.data(CONTENT).expect("a reply").code, 250, "the first three are served");
    let messages = house.sink.wait(2, LIMIT);
    let mut all: Vec<&str> = messages.iter().flat_map(|message| message.addresses()).collect();
    all.sort_unstable();
    assert_eq!(all, ["1@there.test", "2@there.test", "3@there.test", "r@there.test"]);

    // By BDAT too, without reading it all.
    let mut client = house.client();
    dialogue(&mut client, &["MAIL FROM:<a@example.test>", "RCPT TO:<1@there.test>"]);
    client.send(b"BDAT 150000\r\n").expect("send");
    client.send(&vec![b'x'; 150_000]).expect("send");
    expect(&client.read().expect("a reply"), &["552 5.3.4"]);
}

#[test]
fn too_many_errors_or_idle_commands_or_messages_end_with_421() {
    let house = House::open("[intake]\nerrors = 5\nidle-commands = 10\nmessages-per-connection = 2\n");
    let mut client = house.client();
    let mut codes: Vec<u16> = Vec::new();
    while let Ok(reply) = client.command("FOO") {
        codes.push(reply.code);
        if reply.code == 421 || codes.len() > 20 {
            break;
        }
    }
    assert_eq!(codes.last(), Some(&421), "{codes:?}");
    assert!((5..=7).contains(&codes.len()), "{codes:?}");
    assert!(client.closed_within(Duration::from_secs(5)));

    let mut client = house.client();
    let mut count = 0;
    while let Ok(reply) = client.command("NOOP") {
        count += 1;
        if reply.code == 421 || count > 40 {
            break;
        }
    }
    assert!((10..=12).contains(&count), "{count} idle commands");
    assert!(client.closed_within(Duration::from_secs(5)));

    let mut client = house.client();
    for _ in 0..2 {
        assert_eq!(client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply").code, 250);
    }
    let reply = client.command("MAIL FROM:<a@example.test>").expect("a reply");
    assert_eq!(reply.code, 421, "{reply}");
    assert!(client.closed_within(Duration::from_secs(5)));
}

#[test]
fn connections_are_bounded_in_all_and_by_address() {
    let house = House::open("[intake]\nconnections = 6\nconnections-per-address = 3\n");
    let door = house.daemon.door();
    let from = |n: u8| Client::connect_from(door, IpAddr::V4(house.ground.ip(n))).expect("connect");
    let mut open: Vec<Client> = (0..3).map(|_| from(201)).collect();
    let fourth = from(201);
    expect(&fourth.greeting, &["421 4.7.0", "421 4.3.2", "421 4.7.1"]);
    open.extend((0..3).map(|_| from(202)));
    assert!(open.iter().all(|client| client.greeting.code == 220));
    let seventh = from(203);
    expect(&seventh.greeting, &["421 4.3.2", "421 4.7.0"]);
    open.truncate(2);
    wait_until("a place to become free", LIMIT, || from(204).greeting.code == 220);
}

#[test]
fn who_says_nothing_is_told_421() {
    let house = House::open("[intake]\ncommand-timeout = \"1s\"\ndata-timeout = \"1s\"\nsession-timeout = \"4s\"\n");
    let start = Instant::now();
    let mut client = house.client();
    expect(&client.read().expect("a reply"), &["421 4.4.2"]);
    assert!(start.elapsed() < Duration::from_secs(4));
    let mut client = house.client();
    dialogue(&mut client, &["MAIL FROM:<a@example.test>", "RCPT TO:<r@there.test>", "DATA"]);
    client.send(b"Subject: half\r\n").expect("send");
    expect(&client.read().expect("a reply"), &["421 4.4.2"]);
    // One that is never idle for long, but stays too long.
    let start = Instant::now();
    let mut client = house.client();
    let last = loop {
        match client.command("NOOP") {
            Ok(reply) if reply.code == 250 => std::thread::sleep(Duration::from_millis(300)),
            Ok(reply) => break Some(reply),
            Err(_) => break None,
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the session does not end");
    };
    assert!(last.is_none_or(|reply| reply.code == 421));
    assert!(house.arrived().is_empty());
}

#[test]
fn headers_that_cannot_be_right_are_refused_with_a_reason() {
    let house = House::open("[intake]\nhops = 5\n");
    let received = "Received: from a by b; Mon, 23 Nov 2026 10:00:00 +0000\r\n";
    let table: Vec<(&str, String, &[&str])> = vec![
        ("no From", "Subject: x\r\n\r\nHi\r\n".to_owned(), &["550 5.6.0"]),
        (
            "two From",
            "From: a@example.test\r\nFrom: b@example.test\r\nSubject: x\r\n\r\nHi\r\n".to_owned(),
            &["550 5.6.0"],
        ),
        ("From without address", "From: nobody\r\nSubject: x\r\n\r\nHi\r\n".to_owned(), &["550 5.6.0"]),
        ("loop", format!("{}From: a@example.test\r\n\r\nHi\r\n", received.repeat(7)), &["554 5.4.6"]),
    ];
    let mut client = house.client();
    let mut wrong = Vec::new();
    for (name, content, allowed) in table {
        let reply = client.submit("a@example.test", &["r@there.test"], content.as_bytes()).expect("a reply");
        if !allowed.contains(&reply.codes().as_str()) || reply.lines[0].len() < 15 {
            wrong.push(format!("{name}: got `{reply}`, expected one of {allowed:?} with a reason"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let fine = format!("{}From: a@example.test\r\nSubject: fine\r\n\r\nHi\r\n", received.repeat(4));
    assert_eq!(client.submit("a@example.test", &["r@there.test"], fine.as_bytes()).expect("a reply").code, 250);
    house.sink.wait(1, LIMIT);
    assert_eq!(house.arrived(), ["fine"]);
}

#[test]
fn missing_date_and_message_id_are_added_or_refused_by_policy() {
    let house = House::open("");
    house.daemon.submit("a@example.test", &["r@there.test"], CONTENT);
    let arrived = house.sink.wait(1, LIMIT).remove(0).content;
    assert_eq!(message::headers(&arrived, "Date").len(), 1);
    let id = message::headers(&arrived, "Message-ID");
    assert!(id.len() == 1 && id[0].starts_with('<') && id[0].ends_with('>') && id[0].contains('@'), "{id:?}");
    let trace = message::headers(&arrived, "Received");
    assert_eq!(trace.len(), 1);
    for part in ["from client.test", "by out.postkeep.test", "with ESMTP id", "127.0.0.1"] {
        assert!(trace[0].contains(part), "{part}: {trace:?}");
    }

    let house = House::open("[intake]\nmissing-date = \"refuse\"\nmissing-message-id = \"refuse\"\n");
    let mut client = house.client();
    for content in [
        "From: a@example.test\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\r\nHi\r\n",
        "From: a@example.test\r\nMessage-ID: <1@example.test>\r\n\r\nHi\r\n",
    ] {
        let reply = client.submit("a@example.test", &["r@there.test"], content.as_bytes()).expect("a reply");
        expect(&reply, &["550 5.6.0"]);
    }
}

#[test]
fn a_stream_may_be_chosen_by_header_where_allowed_and_the_header_goes() {
    let house = House::with(|settings, _| {
        settings.with("[stream.news]\n[stream.secret]\n").replacing(
            "credential",
            &format!(
                "[[credential]]\nname = \"user\"\npassword-hash = \"{}\"\nsender-domains = [\"*\"]\nmay-choose-streams = [\"news\"]\n",
                postkeep_tests::settings::PASSWORD_HASH
            ),
        )
    });
    let mut client = house.authenticated();
    let content = |stream: &str| {
        format!("From: a@example.test\r\nX-Postkeep-Stream: {stream}\r\nSubject: {stream}\r\n\r\nHi\r\n").into_bytes()
    };
    assert_eq!(client.submit("a@example.test", &["r@there.test"], &content("news")).expect("a reply").code, 250);
    for stream in ["secret", "nowhere"] {
        let reply = client.submit("a@example.test", &["r@there.test"], &content(stream)).expect("a reply");
        assert!(reply.code / 100 == 5 && reply.enhanced().starts_with("5."), "{stream}: {reply}");
    }
    let arrived = house.sink.wait(1, LIMIT).remove(0).content;
    assert!(message::headers(&arrived, "X-Postkeep-Stream").is_empty(), "the header is removed");
    assert_eq!(message::header(&arrived, "Subject"), "news");
    let record = house.daemon.wait_record("received", LIMIT, |_| true);
    assert_eq!((record["stream"].as_str(), record["credential"].as_str()), (Some("news"), Some("user")), "{record}");
    assert_eq!(house.arrived(), ["news"]);
}

#[test]
fn chunks_may_be_cut_anywhere() {
    let house = House::open("");
    let content = b"From: a@example.test\r\nSubject: chunks\r\n\r\n.one\r\n..two\r\n.\r\nthree\r\n";
    for cut in [1, 21, 22, 41, 42, 44, content.len() - 1] {
        let mut client = house.client();
        dialogue(&mut client, &["MAIL FROM:<a@example.test> BODY=8BITMIME", "RCPT TO:<r@there.test>"]);
        // Everything pipelined: chunk, chunk, an empty last one.
        let mut bytes = format!("BDAT {cut}\r\n").into_bytes();
        bytes.extend(&content[..cut]);
        bytes.extend(format!("BDAT {}\r\n", content.len() - cut).as_bytes());
        bytes.extend(&content[cut..]);
        bytes.extend(b"BDAT 0 LAST\r\n");
        client.send(&bytes).expect("send");
        for _ in 0..3 {
            let reply = client.read().expect("a reply");
            assert_eq!(reply.code, 250, "cut at {cut}: {reply}");
        }
        client.quit();
    }
    for message in house.sink.wait(7, LIMIT) {
        assert!(message::ends_with(&message.content, content), "{:?}", String::from_utf8_lossy(&message.content));
        assert!(message.faults.is_empty(), "{:?}", message.faults);
    }
    // BDAT and DATA do not mix, and a refused chunk is still read over.
    let mut client = house.client();
    dialogue(&mut client, &["MAIL FROM:<a@example.test>", "RCPT TO:<r@there.test>"]);
    client.send(b"BDAT 5\r\nFrom:").expect("send");
    assert_eq!(client.read().expect("a reply").code, 250);
    expect(&client.command("DATA").expect("a reply"), &["503 5.5.1"]);
    client.command("RSET").expect("RSET");
    client.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n").expect("send");
    expect(&client.read().expect("a reply"), &["503 5.5.1"]);
    expect(&client.read().expect("the reply to NOOP, since QUIT was data"), &["250 2.0.0"]);
}

#[test]
fn pipelined_transactions_are_answered_in_order() {
    let house = House::open("");
    let mut client = house.client();
    let one = |subject: &str| format!("From: a@example.test\r\nSubject: {subject}\r\n\r\nHi\r\n");
    let group = "MAIL FROM:<a@example.test>\r\nRCPT TO:<r@there.test>\r\nRCPT TO:<bad@@there.test>\r\nDATA\r\n";
    client.send(group.as_bytes()).expect("send");
    let codes: Vec<u16> = (0..4).map(|_| client.read().expect("a reply").code).collect();
    assert_eq!((codes[0], codes[1], codes[2] / 100, codes[3]), (250, 250, 5, 354), "{codes:?}");
    // The message, and the next transaction right behind it.
    client.send(format!("{}.\r\n{group}", one("first")).as_bytes()).expect("send");
    let codes: Vec<u16> = (0..5).map(|_| client.read().expect("a reply").code).collect();
    assert_eq!((codes[0], codes[1], codes[2], codes[3] / 100, codes[4]), (250, 250, 250, 5, 354), "{codes:?}");
    client.send(format!("{}.\r\nQUIT\r\n", one("second")).as_bytes()).expect("send");
    assert_eq!(client.read().expect("a reply").code, 250);
    assert_eq!(client.read().expect("a reply").code, 221);
    let subjects: Vec<String> =
        house.sink.wait(2, LIMIT).iter().map(|message| message::header(&message.content, "Subject")).collect();
    assert!(subjects.contains(&"first".to_owned()) && subjects.contains(&"second".to_owned()), "{subjects:?}");
}

#[test]
fn what_is_sent_in_the_clear_behind_starttls_is_not_obeyed() {
    let house = House::open("");
    let mut client = Client::connect(house.daemon.submission()).expect("connect");
    client.ehlo().expect("EHLO");
    // The injected EHLO would be answered inside TLS (CVE-2011-0411).
    client.send(b"STARTTLS\r\nEHLO injected.test\r\nNOOP\r\n").expect("send");
    let reply = client.read().expect("a reply");
    if reply.code != 220 {
        assert!(reply.code / 100 == 5 || reply.code == 421, "refused: {reply}");
        return;
    }
    // Whoever goes on with the handshake must not find an answer to the injected commands.
    let mut client = Client::connect(house.daemon.submission()).expect("connect");
    client.ehlo().expect("EHLO");
    client.send(b"STARTTLS\r\nNOOP injected\r\n").expect("send");
    assert_eq!(client.read().expect("a reply").code, 220);
    let first =
        client.handshake(house.ground.authority().client(), HOSTNAME).and_then(|()| client.command("EHLO after.test"));
    if let Ok(reply) = first {
        assert!(reply.code == 250 && reply.lines.len() > 1, "the first reply inside TLS belongs to EHLO: {reply}");
        client.patience(Duration::from_millis(300));
        assert!(client.read().is_err(), "and nothing else is answered");
    }
}

#[test]
fn addresses_beyond_ascii_need_smtputf8() {
    let house = House::open("");
    let mut client = house.client();
    let reply = client.command("MAIL FROM:<jürgen@example.test>").expect("a reply");
    expect(&reply, &["553 5.6.7", "550 5.6.7", "501 5.6.7", "553 5.1.7", "501 5.1.7"]);
    let mut client = house.client();
    dialogue(&mut client, &["MAIL FROM:<a@example.test>"]);
    let reply = client.command("RCPT TO:<jürgen@there.test>").expect("a reply");
    expect(&reply, &["553 5.6.7", "550 5.6.7", "501 5.6.7", "553 5.1.3", "501 5.1.3"]);
    let mut client = house.client();
    let replies = dialogue(&mut client, &["MAIL FROM:<jürgen@example.test> SMTPUTF8", "RCPT TO:<müller@there.test>"]);
    assert!(replies.iter().all(|reply| reply.code == 250), "{replies:?}");
    let content = "From: jürgen@example.test\r\nSubject: ünïcode\r\n\r\nHi\r\n";
    assert_eq!(client.data(content.as_bytes()).expect("a reply").code, 250);
    let arrived = house.sink.wait(1, LIMIT).remove(0);
    assert_eq!(arrived.addresses(), ["müller@there.test"]);
    assert!(arrived.parameters.contains("SMTPUTF8"), "{}", arrived.parameters);
    assert!(message::header(&arrived.content, "Received").contains("UTF8SMTP"), "RFC 6531 §4.3");
}

/// PROXY v2: signature, version and command, family, length, addresses.
fn proxy_v2(source: [u8; 4], target: [u8; 4], local: bool) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.push(if local { 0x20 } else { 0x21 });
    header.push(0x11);
    header.extend(12u16.to_be_bytes());
    header.extend(source);
    header.extend(target);
    header.extend(40_000u16.to_be_bytes());
    header.extend(25u16.to_be_bytes());
    header
}

#[test]
fn proxy_protocol_is_heard_from_listed_proxies_only() {
    let house = House::with(|settings, ground| {
        settings.with(&format!(
            "[[listener]]\naddress = \"{}\"\ntls = \"none\"\nproxy-protocol-from = [\"{}/32\"]\n",
            ground.at(1, 21099),
            ground.ip(210),
        ))
    });
    let door = house.ground.at(1, 21099);
    let proxy = Some(IpAddr::V4(house.ground.ip(210)));
    let mut client =
        Client::connect_saying(door, proxy, &proxy_v2([127, 9, 9, 9], [127, 0, 0, 1], false)).expect("a greeting");
    assert_eq!(client.greeting.code, 220);
    client.ehlo().expect("EHLO");
    let reply = client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply");
    assert_eq!(reply.code, 250, "{reply}");
    let record = house.daemon.wait_record("received", LIMIT, |_| true);
    assert!(record["peer"].as_str().is_some_and(|peer| peer.starts_with("127.9.9.9")), "{record}");

    // The client that the proxy names counts, not the proxy.
    let mut client =
        Client::connect_saying(door, proxy, &proxy_v2([192, 0, 2, 7], [127, 0, 0, 1], false)).expect("a greeting");
    client.ehlo().expect("EHLO");
    let reply = client.submit("a@example.test", &["r@there.test"], CONTENT).expect("a reply");
    assert_eq!(reply.code / 100, 5, "192.0.2.7 is in no listed network: {reply}");

    // From elsewhere the header is not believed: garbage, or refused at once.
    let liar = Some(IpAddr::V4(house.ground.ip(211)));
    match Client::connect_saying(door, liar, &proxy_v2([127, 9, 9, 9], [127, 0, 0, 1], false)) {
        Ok(mut client) => {
            client.ehlo().ok();
            let _ = client.submit("a@example.test", &["r@there.test"], CONTENT);
        }
        Err(error) => drop(error),
    }
    let peers: Vec<String> = house
        .daemon
        .events("received")
        .iter()
        .filter_map(|record| record["peer"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(peers.iter().filter(|peer| peer.starts_with("127.9.9.9")).count(), 1, "{peers:?}");
    // A proxy that does not speak the protocol gets nowhere.
    let started = Instant::now();
    let silent = Client::connect_saying(door, proxy, b"EHLO client.test\r\n");
    assert!(silent.is_err() || silent.is_ok_and(|client| client.greeting.code != 220), "no greeting without a header");
    assert!(started.elapsed() < Duration::from_secs(31));
}

#[test]
fn every_refusal_leaves_a_record_with_its_reason() {
    let house = House::open("");
    let mut client = house.client();
    dialogue(&mut client, &["MAIL FROM:<a@example.test>", "RCPT TO:<bad@@there.test>", "RSET"]);
    client.submit("a@example.test", &["r@there.test"], b"Subject: no from\r\n\r\n").ok();
    let record = house.daemon.wait_record("refused", LIMIT, |record| record["reply"]["enhanced"] == "5.6.0");
    for key in ["time", "stage", "peer", "sender"] {
        assert!(record[key].is_string(), "{key}: {record}");
    }
    assert!(record["reply"]["text"].as_str().is_some_and(|text| text.contains("From")), "{record}");
    let counts: BTreeMap<String, usize> = house.daemon.records().iter().fold(BTreeMap::new(), |mut counts, record| {
        *counts.entry(record["event"].to_string()).or_default() += 1;
        counts
    });
    assert!(!counts.contains_key("\"received\""), "{counts:?}");
}
