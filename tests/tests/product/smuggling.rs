//! SMTP smuggling: no sequence of line ends but CRLF.CRLF ends a message, at
//! this door or at the next one. A bare CR or LF is refused, or repaired by
//! policy; it is never passed on.

use std::time::Duration;

use postkeep_tests::{Client, Daemon, Ground, Names, Settings, Sink, message, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// Ends of data that some server somewhere has taken for one.
const FALSE_ENDS: [&[u8]; 10] = [
    b"\n.\n",
    b"\r\n.\n",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\r.\r\n",
];

const SMUGGLED: &[u8] = b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<victim@there.test>\r\nDATA\r\nFrom: evil@example.test\r\nSubject: smuggled\r\n\r\nboo\r\n.\r\n";

struct House {
    daemon: Daemon,
    sink: Sink,
    _ground: Ground,
    _names: Names,
}

fn open(policy: &str) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100);
    let settings = Settings::new(&ground).with(&format!("[intake]\nbare-line-ends = \"{policy}\"\n"));
    let daemon = Daemon::start(&ground, &settings);
    House { daemon, sink, _ground: ground, _names: names }
}

/// Sends one message with `end` in its middle and a whole second transaction behind that.
fn smuggle(client: &mut Client, end: &[u8]) -> Vec<u16> {
    for line in ["MAIL FROM:<a@example.test>", "RCPT TO:<r@there.test>"] {
        assert_eq!(client.command(line).expect("a reply").code, 250);
    }
    assert_eq!(client.command("DATA").expect("a reply").code, 354);
    let mut bytes = b"From: a@example.test\r\nSubject: carrier\r\n\r\nfirst".to_vec();
    bytes.extend(end);
    bytes.extend(SMUGGLED);
    client.send(&bytes).expect("send");
    client.patience(Duration::from_secs(2));
    let mut codes = Vec::new();
    while let Ok(reply) = client.read() {
        codes.push(reply.code);
        client.patience(Duration::from_millis(200));
    }
    codes
}

fn subjects(sink: &Sink) -> Vec<String> {
    sink.messages().iter().map(|message| message::header(&message.content, "Subject")).collect()
}

fn probe(house: &House) {
    house.daemon.submit(
        "a@example.test",
        &["r@there.test"],
        &message::simple("a@example.test", "r@there.test", "probe", "x\n"),
    );
    wait_until("the probe", LIMIT, || subjects(&house.sink).iter().any(|subject| subject == "probe"));
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn refused_line_ends_deliver_nothing_at_all() {
    let house = open("refuse");
    for end in FALSE_ENDS {
        let mut client = house.daemon.client();
        let codes = smuggle(&mut client, end);
        assert!(
            codes.iter().all(|code| *code / 100 == 5 || *code == 421),
            "{:?}: {codes:?}",
            String::from_utf8_lossy(end)
        );
        assert!(codes.contains(&550) || codes.contains(&554), "{:?}: {codes:?}", String::from_utf8_lossy(end));
        // A NUL is read to the true end of the message; a bare CR or LF leaves no true end to trust.
        if !end.contains(&0) {
            assert!(
                client.closed_within(Duration::from_secs(5)),
                "the connection ends after {:?}",
                String::from_utf8_lossy(end)
            );
        }
    }
    probe(&house);
    assert_eq!(subjects(&house.sink), ["probe"]);
    let refused = house.daemon.events("refused");
    assert!(refused.len() >= FALSE_ENDS.len(), "{} records", refused.len());
}

#[test]
fn repaired_line_ends_never_make_two_messages() {
    let house = open("repair");
    for end in FALSE_ENDS {
        let mut client = house.daemon.client();
        let codes = smuggle(&mut client, end);
        let accepted = codes.iter().filter(|code| **code == 250).count();
        assert!(accepted <= 1, "{:?}: {codes:?}", String::from_utf8_lossy(end));
        assert!(!codes.contains(&354), "no second DATA was obeyed after {:?}: {codes:?}", String::from_utf8_lossy(end));
    }
    probe(&house);
    let found = subjects(&house.sink);
    assert!(!found.contains(&"smuggled".to_owned()), "{found:?}");
    assert!(
        found.iter().filter(|subject| *subject == "carrier").count() >= 4,
        "what can be repaired is delivered: {found:?}"
    );
    for transaction in house.sink.messages() {
        assert!(transaction.faults.is_empty(), "passed on: {:?}", transaction.faults);
        assert_eq!(transaction.addresses(), ["r@there.test"]);
    }
}

#[test]
fn bare_line_ends_in_chunks_are_no_better() {
    let house = open("refuse");
    for body in [
        &b"From: a@example.test\r\n\r\nfirst\n.\nsecond\r\n"[..],
        b"From: a@example.test\r\n\r\nfirst\rsecond\r\n",
        b"From: a@example.test\r\n\r\nnul\0here\r\n",
    ] {
        let mut client = house.daemon.client();
        client.command("MAIL FROM:<a@example.test>").expect("a reply");
        client.command("RCPT TO:<r@there.test>").expect("a reply");
        client.send(format!("BDAT {} LAST\r\n", body.len()).as_bytes()).expect("send");
        client.send(body).expect("send");
        let reply = client.read().expect("a reply");
        assert!(reply.code / 100 == 5 && reply.enhanced().starts_with("5."), "{reply}");
    }
    // A CR at the end of one chunk and its LF at the start of the next are one line end.
    let mut client = house.daemon.client();
    client.command("MAIL FROM:<a@example.test>").expect("a reply");
    client.command("RCPT TO:<r@there.test>").expect("a reply");
    client.send(b"BDAT 43\r\nFrom: a@example.test\r\nSubject: split\r\n\r\nHi\rBDAT 1 LAST\r\n\n").expect("send");
    assert_eq!(client.read().expect("a reply").code, 250);
    let reply = client.read().expect("a reply");
    assert_eq!(reply.code, 250, "{reply}");
    probe(&house);
    let mut found = subjects(&house.sink);
    found.sort();
    assert_eq!(found, ["probe", "split"]);
}

#[test]
fn lines_beyond_the_limit_and_nul_are_refused() {
    let house = open("refuse");
    let mut client = house.daemon.client();
    let long = format!("From: a@example.test\r\nSubject: long\r\n\r\n{}\r\n", "x".repeat(1500));
    let reply = client.submit("a@example.test", &["r@there.test"], long.as_bytes()).expect("a reply");
    assert!(
        matches!(reply.codes().as_str(), "550 5.6.0" | "500 5.6.0" | "554 5.6.0" | "500 5.5.2" | "552 5.6.0"),
        "{reply}"
    );
    let mut client = house.daemon.client();
    let reply =
        client.submit("a@example.test", &["r@there.test"], b"From: a@example.test\r\n\r\na\0b\r\n").expect("a reply");
    assert!(reply.code / 100 == 5, "{reply}");
    // A command line beyond RFC 5321 §4.5.3.1.4, and one without end.
    let mut client = house.daemon.client();
    let reply = client.command(&format!("NOOP {}", "x".repeat(5000))).expect("a reply");
    assert!(matches!(reply.code, 500 | 501 | 421), "{reply}");
    let mut client = house.daemon.client();
    let _ = client.send(&vec![b'x'; 1 << 20]);
    client.patience(Duration::from_secs(5));
    let reply = client.read();
    assert!(reply.map_or(true, |reply| matches!(reply.code, 500 | 421)), "an endless line is cut off");
    // Bare line ends between commands are no commands.
    let mut client = house.daemon.client();
    client.send(b"MAIL FROM:<a@example.test>\nRCPT TO:<r@there.test>\r\n").expect("send");
    let reply = client.read().expect("a reply");
    assert!(reply.code / 100 == 5 || reply.code == 421, "a bare LF does not end a command: {reply}");
    probe(&house);
    assert_eq!(subjects(&house.sink), ["probe"]);
}
