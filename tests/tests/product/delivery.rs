//! The way out: where a message goes (MX, addresses, faults of DNS), what each
//! reply of a receiver does, and how a message fits what the receiver offers.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, message, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// What an old host offers.
const SEVEN_BIT: &[&str] = &["PIPELINING", "ENHANCEDSTATUSCODES"];

struct House {
    daemon: Daemon,
    names: Names,
    mailbox: Sink,
    ground: Ground,
}

/// A daemon whose senders in `sender.test` have a mailbox at address 90.
fn open(over: &str) -> House {
    with(|settings, _| settings.with(over))
}

fn with(change: impl FnOnce(Settings, &Ground) -> Settings) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("sender.test", ground.ip(90));
    let mailbox = Sink::at(&ground, 90);
    let daemon = Daemon::start(&ground, &change(Settings::new(&ground), &ground));
    House { daemon, names, mailbox, ground }
}

impl House {
    fn send(&self, recipients: &[&str], subject: &str) -> String {
        self.daemon.submit(
            "a@sender.test",
            recipients,
            &message::simple("a@sender.test", recipients[0], subject, "Hi\n"),
        )
    }

    /// Waits for the outcome of a recipient; gives its record.
    #[track_caller]
    fn outcome(&self, event: &str, recipient: &str) -> serde_json::Value {
        self.daemon.wait_record(event, LIMIT, |record| record["recipient"] == recipient)
    }
}

/// `421`, `450`, …: `code enhanced` of a record's reply.
fn codes(record: &serde_json::Value) -> String {
    format!("{} {}", record["reply"]["code"], record["reply"]["enhanced"].as_str().unwrap_or(""))
}

#[test]
fn the_most_preferred_mx_that_answers_takes_the_mail() {
    let house = open("");
    let names = &house.names;
    // Written in the wrong order; the first host is dead, the second lives, the third is never asked.
    names.mx("pref.test", 30, "third.test").mx("pref.test", 10, "first.test").mx("pref.test", 20, "second.test");
    for (host, n) in [("first.test", 101), ("second.test", 102), ("third.test", 103)] {
        names.a(host, house.ground.ip(n));
    }
    let (second, third) = (Sink::at(&house.ground, 102), Sink::at(&house.ground, 103));
    house.send(&["r@pref.test"], "one");
    second.wait(1, LIMIT);
    let record = house.outcome("delivered", "r@pref.test");
    assert_eq!(record["host"], "second.test", "{record}");
    let first = Sink::at(&house.ground, 101);
    wait_until("the first host to be used again, once the warm connection has gone", LIMIT, || {
        house.send(&["r@pref.test"], "again");
        std::thread::sleep(Duration::from_millis(1500));
        first.count() > 0
    });
    assert_eq!(third.count(), 0);
}

#[test]
fn hosts_of_equal_preference_share_the_mail() {
    let house = open("[lane]\nmessages-per-connection = 1\n");
    house.names.mx("equal.test", 10, "x1.test").mx("equal.test", 10, "x2.test");
    house.names.a("x1.test", house.ground.ip(101)).a("x2.test", house.ground.ip(102));
    let (one, two) = (Sink::at(&house.ground, 101), Sink::at(&house.ground, 102));
    for n in 0..30 {
        house.send(&["r@equal.test"], &n.to_string());
    }
    wait_until("30 messages", LIMIT, || one.count() + two.count() == 30);
    assert!(one.count() > 2 && two.count() > 2, "{} and {}", one.count(), two.count());
}

#[test]
fn without_mx_the_address_of_the_domain_is_used() {
    let house = open("");
    house.names.a("direct.test", house.ground.ip(101));
    house.names.cname("alias.test", "target.test").domain("target.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101);
    house.send(&["r@direct.test"], "one");
    house.send(&["r@alias.test"], "two");
    sink.wait(2, LIMIT);
    // A literal is no way around the rules of sites and providers.
    let mut client = house.daemon.client();
    let literal = format!("r@[{}]", house.ground.ip(101));
    let reply = client.submit("a@sender.test", &[&literal], b"From: a@sender.test\r\n\r\nHi\r\n").expect("a reply");
    assert_eq!(reply.codes(), "550 5.1.2", "{reply}");
}

#[test]
fn names_that_cannot_take_mail_bounce_and_those_that_do_not_answer_wait() {
    let house = open("");
    let names = &house.names;
    names.null_mx("null.test").empty("nothing.test").silence("silent.test").failure("failing.test");
    names.mx("dangling.test", 10, "nowhere.test");
    for domain in ["null.test", "gone.test", "nothing.test", "silent.test", "failing.test", "dangling.test"] {
        house.send(&[&format!("r@{domain}")], domain);
    }
    assert_eq!(codes(&house.outcome("bounced", "r@null.test")), "556 5.1.10");
    let gone = house.outcome("bounced", "r@gone.test");
    assert_eq!(gone["reply"]["enhanced"], "5.1.2", "{gone}");
    let nothing = house.outcome("bounced", "r@nothing.test");
    assert_eq!(nothing["reply"]["enhanced"], "5.1.2", "{nothing}");
    for domain in ["silent.test", "failing.test"] {
        let record = house.outcome("deferred", &format!("r@{domain}"));
        assert!(record["reply"]["enhanced"].as_str().is_none_or(|code| code.starts_with("4.")), "{record}");
        assert!(record["next-attempt"].is_string(), "{record}");
    }
    // When the name answers at last, the mail goes.
    let sink = Sink::at(&house.ground, 101);
    names.forget("silent.test").domain("silent.test", house.ground.ip(101));
    sink.wait(1, LIMIT);
    wait_until("three reports or more", LIMIT, || house.mailbox.count() >= 3);
    assert_eq!(
        house.daemon.events("bounced").iter().filter(|record| record["recipient"] == "r@silent.test").count(),
        0
    );
}

#[test]
fn mail_goes_to_hosts_of_its_own_domain_and_no_other() {
    let house = open("");
    let sinks: Vec<Sink> = (0..8u8)
        .map(|n| {
            house.names.domain(&format!("d{n}.test"), house.ground.ip(101 + n));
            Sink::at(&house.ground, 101 + n).with_script(|moment| {
                let odd = moment.recipient.starts_with("no");
                if moment.stage == Stage::Rcpt && odd { Act::reply("550 5.1.1 No such user") } else { Act::Accept }
            })
        })
        .collect();
    // Queues come and go quickly: one message at a time, now here, now there, and reports between them.
    let mut chance = fastrand::Rng::with_seed(7);
    let mut expected = [0; 8];
    let mut reports = 0;
    for round in 0..200 {
        let n = chance.usize(0..8);
        let bounces = chance.u8(0..3) == 0;
        house.send(&[&format!("{}{round}@d{n}.test", if bounces { "no" } else { "r" })], &round.to_string());
        if bounces { reports += 1 } else { expected[n] += 1 }
    }
    wait_until("all messages and reports", LIMIT, || {
        sinks.iter().map(Sink::count).eq(expected.iter().copied()) && house.mailbox.count() == reports
    });
    for (n, sink) in sinks.iter().enumerate() {
        for transaction in sink.transactions() {
            for address in transaction.addresses() {
                assert!(address.ends_with(&format!("@d{n}.test")), "{address} came to the host of d{n}.test");
            }
        }
        let strays: Vec<String> = sink
            .connections()
            .iter()
            .flat_map(|connection| connection.commands.clone())
            .filter(|command| command.starts_with("RCPT") && !command.contains(&format!("@d{n}.test")))
            .collect();
        assert!(strays.is_empty(), "asked of the host of d{n}.test: {strays:?}");
    }
    let all = house.mailbox.transactions();
    assert!(
        all.iter().all(|one| one.addresses() == ["a@sender.test"]),
        "the mailbox of the sender got its reports alone"
    );
}

#[test]
fn ipv6_hosts_are_reached_from_the_ipv6_source() {
    // All addresses of IPv6's loopback are one; so the port must be free there, too.
    let ground = Ground::claim();
    let Some(port) = (0..100).find_map(|_| {
        let port = fastrand::u16(22_000..30_000);
        std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok().map(|_| port)
    }) else {
        eprintln!("SKIPPED: this machine has no IPv6 loopback");
        return;
    };
    let names = Names::new(&ground);
    names.mx("six.test", 10, "mx.six.test").aaaa("mx.six.test", Ipv6Addr::LOCALHOST);
    names
        .mx("both.test", 10, "mx.both.test")
        .aaaa("mx.both.test", Ipv6Addr::LOCALHOST)
        .a("mx.both.test", ground.ip(101));
    let six = Sink::open((Ipv6Addr::LOCALHOST, port).into());
    let four = Sink::open(ground.at(101, port));
    let settings =
        Settings::new(&ground).with(&format!("[delivery]\nipv6 = true\nport = {port}\n[source.one]\nipv6 = \"::1\"\n"));
    let daemon = Daemon::start(&ground, &settings);
    for recipient in ["r@six.test", "r@both.test"] {
        daemon.submit("a@sender.test", &[recipient], &message::simple("a@sender.test", recipient, recipient, "Hi\n"));
    }
    six.wait(1, LIMIT);
    wait_until("both", LIMIT, || six.count() + four.count() == 2);
    assert!(six.messages().iter().all(|message| message.source.ip() == Ipv6Addr::LOCALHOST));
}

#[test]
fn a_fixed_route_goes_before_dns() {
    let house = with(|settings, ground| {
        settings
            .with_route("routed.test", &[&ground.at(110, 21111).to_string(), &ground.at(111, 21112).to_string()])
            .with_route("*.below.test", &[&ground.at(111, 21112).to_string()])
    });
    let second = Sink::open(house.ground.at(111, 21112));
    house.names.domain("routed.test", house.ground.ip(101)).domain("x.below.test", house.ground.ip(101));
    let wrong = Sink::at(&house.ground, 101);
    house.send(&["r@routed.test"], "dead first hop");
    house.send(&["r@x.below.test"], "wildcard");
    second.wait(2, LIMIT);
    assert_eq!(wrong.count(), 0);
}

#[test]
fn a_host_that_offers_chunking_but_does_not_know_bdat_gets_data_from_then_on() {
    let house = open("[stream.default]\nretry = [\"1s\"]\n");
    house.names.domain("bdat.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101).with_capabilities(&["PIPELINING", "CHUNKING", "8BITMIME"]).with_script({
        let asked = AtomicUsize::new(0);
        move |moment| {
            if moment.stage == Stage::Final && asked.fetch_add(1, Ordering::SeqCst) == 0 {
                Act::close("502 5.5.1 Command not implemented")
            } else {
                Act::Accept
            }
        }
    });
    for n in 1..=2 {
        house.send(&[&format!("r{n}@bdat.test")], "chunk");
        sink.wait(n, LIMIT);
    }
    let chunked: Vec<bool> = sink.transactions().iter().map(|transaction| transaction.chunked).collect();
    assert_eq!(chunked, [true, false, false]);
    let deferred = house.daemon.events("deferred");
    assert_eq!(deferred.len(), 1);
    assert_eq!((&deferred[0]["stage"], &deferred[0]["reply"]["code"]), (&"local".into(), &451.into()));
}

#[test]
fn a_4xx_is_tried_again_by_the_schedule() {
    let house = open("[stream.default]\nretry = [\"1s\", \"2s\", \"3s\"]\nretry-jitter = 0.0\n");
    house.names.domain("grey.test", house.ground.ip(101));
    let asked = Arc::new(AtomicUsize::new(0));
    let sink = Sink::at(&house.ground, 101).with_script({
        let asked = Arc::clone(&asked);
        move |moment| {
            if moment.stage == Stage::Rcpt && asked.fetch_add(1, Ordering::SeqCst) < 3 {
                Act::reply("450 4.7.1 Greylisted, come back")
            } else {
                Act::Accept
            }
        }
    });
    let id = house.send(&["r@grey.test"], "grey");
    sink.wait(1, LIMIT);
    let times: Vec<Instant> = sink.transactions().iter().map(|transaction| transaction.mail_at).collect();
    assert_eq!(times.len(), 4);
    for (pair, expected) in times.windows(2).zip([1.0, 2.0, 3.0]) {
        let waited = (pair[1] - pair[0]).as_secs_f64();
        // Never earlier, or a host that counts the seconds is met too soon; the schedule's grain is a second.
        assert!((expected - 0.05..expected + 1.3).contains(&waited), "waited {waited} s instead of {expected} s");
    }
    let delivered = house.outcome("delivered", "r@grey.test");
    assert_eq!(delivered["message"], id.as_str());
    assert_eq!(delivered["attempt"], 4, "{delivered}");
    let deferred = house.daemon.events("deferred");
    assert_eq!(deferred.len(), 3);
    assert!(deferred.iter().all(|record| codes(record) == "450 4.7.1" && record["stage"] == "rcpt"), "{deferred:?}");
    assert_eq!(house.mailbox.count(), 0);
}

#[test]
fn a_message_that_cannot_be_delivered_in_time_is_returned() {
    let house = open("[stream.default]\nexpire-after = \"2s\"\n");
    house.names.domain("never.test", house.ground.ip(101));
    let _sink = Sink::at(&house.ground, 101).with_script(|moment| {
        if moment.stage == Stage::Rcpt { Act::reply("451 4.2.1 Mailbox busy") } else { Act::Accept }
    });
    let start = Instant::now();
    house.send(&["r@never.test"], "late");
    let record = house.outcome("expired", "r@never.test");
    assert!(start.elapsed() > Duration::from_millis(1500), "{record}");
    house.mailbox.wait(1, LIMIT);
}

#[test]
fn refusals_at_every_stage_concern_whom_they_should() {
    let house = open("");
    let stages = [("mail", Stage::Mail), ("rcpt", Stage::Rcpt), ("data", Stage::Data), ("final", Stage::Final)];
    let mut sinks = Vec::new();
    for (n, (name, stage)) in (101u8..).zip(stages) {
        house.names.domain(&format!("{name}.test"), house.ground.ip(n));
        // Without CHUNKING, so that there is a stage of DATA.
        sinks.push(Sink::at(&house.ground, n).with_capabilities(SEVEN_BIT).with_script(move |moment| {
            if moment.stage == stage { Act::reply("554 5.7.1 Refused here") } else { Act::Accept }
        }));
        house.send(&[&format!("r@{name}.test")], name);
    }
    for (name, _) in stages {
        let record = house.outcome("bounced", &format!("r@{name}.test"));
        assert_eq!(codes(&record), "554 5.7.1");
        assert_eq!(record["stage"], name, "{record}");
    }
    house.mailbox.wait(4, LIMIT);
    assert!(sinks.iter().all(|sink| sink.count() == 0));
}

#[test]
fn recipients_of_one_message_have_their_own_outcomes() {
    let house = open("");
    house.names.domain("mixed.test", house.ground.ip(101));
    let mut late = 0;
    let sink = Sink::at(&house.ground, 101).with_script(move |moment| match moment.stage {
        Stage::Rcpt if moment.recipient.starts_with("no") => Act::reply("550 5.1.1 No such user"),
        Stage::Rcpt if moment.recipient.starts_with("late") => {
            late += 1;
            if late == 1 { Act::reply("450 4.2.1 Later") } else { Act::Accept }
        }
        _ => Act::Accept,
    });
    house.send(&["one@mixed.test", "no@mixed.test", "late@mixed.test", "two@mixed.test"], "mixed");
    let messages = sink.wait(2, LIMIT);
    let mut first = messages[0].addresses();
    first.sort_unstable();
    assert_eq!(first, ["one@mixed.test", "two@mixed.test"], "one transaction for those of one site");
    assert_eq!(messages[1].addresses(), ["late@mixed.test"], "only the deferred one is tried again");
    house.outcome("bounced", "no@mixed.test");
    for recipient in ["one@mixed.test", "two@mixed.test", "late@mixed.test"] {
        house.outcome("delivered", recipient);
    }
    let report = house.mailbox.wait(1, LIMIT).remove(0);
    let text = String::from_utf8_lossy(&report.content).into_owned();
    assert!(text.contains("no@mixed.test") && !text.contains("one@mixed.test\r\nAction"), "{text}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((sink.count(), house.mailbox.count()), (2, 1));
}

#[test]
fn many_recipients_are_split_over_transactions_and_the_connection_is_used_again() {
    let house = open("[lane]\nrecipients-per-transaction = 10\nconnections = 1\nmessages-per-connection = 3\n");
    house.names.domain("many.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101);
    let recipients: Vec<String> = (0..45).map(|n| format!("r{n}@many.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    house.send(&recipients, "many");
    let messages = sink.wait(5, LIMIT);
    assert!(messages.iter().all(|message| message.recipients.len() <= 10));
    let mut all: Vec<&str> = messages.iter().flat_map(|message| message.addresses()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 45, "each recipient once");
    assert_eq!(sink.connections().len(), 2, "five transactions, three a connection");
}

#[test]
fn a_connection_is_reused_while_warm_and_closed_with_quit_when_idle() {
    let house = open("[delivery]\nidle-timeout = \"700ms\"\n[lane]\nconnections = 1\n");
    house.names.domain("warm.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101);
    for n in 0..4 {
        house.send(&["r@warm.test"], &n.to_string());
        sink.wait(n + 1, LIMIT);
    }
    assert_eq!(sink.connections().len(), 1, "one connection for messages in quick succession");
    let last = Instant::now();
    wait_until("the idle connection to be closed", LIMIT, || sink.connections()[0].closed_at.is_some());
    assert!(
        last.elapsed() > Duration::from_millis(400) && last.elapsed() < Duration::from_secs(4),
        "{:?}",
        last.elapsed()
    );
    assert_eq!(sink.connections()[0].commands.last().map(String::as_str), Some("QUIT"));
    house.send(&["r@warm.test"], "after");
    sink.wait(5, LIMIT);
    assert_eq!(sink.connections().len(), 2);
}

#[test]
fn four_twenty_one_and_dropped_connections_back_the_lane_off_and_lose_nothing() {
    let house = open("[backoff]\nfailures = 2\npause = \"1s\"\n[lane]\nconnections = 2\n");
    house.names.domain("moody.test", house.ground.ip(101)).domain("calm.test", house.ground.ip(102));
    let start = Instant::now();
    let moody = Sink::at(&house.ground, 101).with_capabilities(SEVEN_BIT).with_script(move |moment| {
        let bad = start.elapsed() < Duration::from_millis(1500);
        match moment.stage {
            Stage::Mail if bad && moment.connection % 3 == 0 => Act::close("421 4.7.0 Try again later"),
            Stage::Data if bad && moment.connection % 3 == 1 => Act::Drop,
            Stage::Connect if bad && moment.connection % 3 == 2 => Act::close("421 4.3.2 Too busy"),
            _ => Act::Accept,
        }
    });
    let calm = Sink::at(&house.ground, 102);
    for n in 0..20 {
        house.send(&[&format!("r{n}@moody.test"), &format!("r{n}@calm.test")], &n.to_string());
    }
    calm.wait(20, LIMIT);
    assert!(start.elapsed() < Duration::from_secs(8), "the other lane goes on");
    moody.wait(20, LIMIT);
    assert_eq!(house.mailbox.count(), 0, "nothing bounces");
    // While it pauses, the lane does not connect: two connections, two failures, a pause of a second.
    let early = moody
        .connections()
        .iter()
        .filter(|connection| connection.opened_at < start + Duration::from_millis(1500))
        .count();
    assert!(early <= 8, "{early} connections to a host that refuses them, within 1.5 s");
    let mut all: Vec<String> = moody
        .messages()
        .iter()
        .flat_map(|message| message.recipients.iter().map(|one| one.address.clone()).collect::<Vec<_>>())
        .collect();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!((all.len(), count), (20, 20), "each once");
}

#[test]
fn a_connection_dropped_after_the_dot_is_tried_again_since_nobody_knows() {
    let house = open("");
    house.names.domain("cut.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101).with_script(|moment| {
        if moment.stage == Stage::Final && moment.connection == 1 { Act::Drop } else { Act::Accept }
    });
    house.send(&["r@cut.test"], "cut");
    sink.wait(1, LIMIT);
    let record = house.outcome("deferred", "r@cut.test");
    assert_eq!(record["stage"], "final", "{record}");
}

#[test]
fn a_host_that_hangs_is_given_up_by_each_timeout() {
    let house = open(
        "[delivery]\ngreeting-timeout = \"1s\"\nrcpt-timeout = \"1s\"\nfinal-timeout = \"1s\"\n[backoff]\nfailures = 100\n",
    );
    for (n, stage) in [(101u8, Stage::Connect), (102, Stage::Rcpt), (103, Stage::Final)] {
        house.names.domain(&format!("slow{n}.test"), house.ground.ip(n));
        let mut times = 0;
        let sink = Sink::at(&house.ground, n).with_script(move |moment| {
            times += usize::from(moment.stage == stage);
            if moment.stage == stage && times == 1 { Act::after(Duration::from_secs(4)) } else { Act::Accept }
        });
        let start = Instant::now();
        house.send(&[&format!("r@slow{n}.test")], "slow");
        wait_until("the second attempt", LIMIT, || sink.connections().len() >= 2);
        let waited = start.elapsed();
        assert!(waited > Duration::from_millis(900) && waited < Duration::from_millis(3900), "{stage:?}: {waited:?}");
        wait_until("its success", LIMIT, || {
            house.daemon.events("delivered").iter().any(|record| record["domain"] == format!("slow{n}.test"))
        });
    }
}

#[test]
fn eight_bit_mail_is_converted_for_hosts_of_seven_bits() {
    let house = open("");
    house.names.domain("seven.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101).with_capabilities(SEVEN_BIT);
    let content = "From: a@sender.test\r\nSubject: seven\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                   Content-Transfer-Encoding: 8bit\r\n\r\ngrüße\r\n.dot\r\n";
    house.daemon.submit("a@sender.test", &["r@seven.test"], content.as_bytes());
    let arrived = sink.wait(1, LIMIT).remove(0);
    assert!(arrived.content.is_ascii(), "{:?}", String::from_utf8_lossy(&arrived.content));
    assert!(!arrived.parameters.contains("BODY"), "{}", arrived.parameters);
    let encoding = message::header(&arrived.content, "Content-Transfer-Encoding").to_ascii_lowercase();
    assert!(matches!(encoding.as_str(), "quoted-printable" | "base64"), "{encoding}");
    let python = "import sys,email,email.policy\nm=email.message_from_bytes(sys.stdin.buffer.read(),policy=email.policy.SMTP)\n\
                  sys.stdout.buffer.write(m.get_payload(decode=True))";
    let said = postkeep_tests::daemon::run_with_input(
        std::process::Command::new("python3").args(["-c", python]),
        &arrived.content,
    )
    .done();
    assert_eq!(message::crlf(&said.out), "grüße\r\n.dot\r\n");
}

#[test]
fn internationalised_mail_bounces_where_it_is_not_understood() {
    let house = open("");
    house.names.domain("ascii.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101).with_capabilities(&["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"]);
    // RFC 6531 §3.6: an address beyond ASCII is 5.6.7, a header beyond ASCII 5.6.9.
    for (recipient, subject, code) in [("müller@ascii.test", "u", "5.6.7"), ("muller@ascii.test", "ü", "5.6.9")] {
        let mut client = house.daemon.client();
        assert_eq!(client.command("MAIL FROM:<a@sender.test> SMTPUTF8").expect("a reply").code, 250);
        assert_eq!(client.command(&format!("RCPT TO:<{recipient}>")).expect("a reply").code, 250);
        let content = format!("From: a@sender.test\r\nSubject: {subject}\r\n\r\nHi\r\n");
        assert_eq!(client.data(content.as_bytes()).expect("a reply").code, 250);
        let record = house.outcome("bounced", recipient);
        assert_eq!(record["reply"]["enhanced"], code, "{record}");
    }
    house.mailbox.wait(2, LIMIT);
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_host_without_extensions_and_one_with_all_get_the_same_message() {
    let house = open("");
    house.names.domain("old.test", house.ground.ip(101)).domain("new.test", house.ground.ip(102));
    let old = Sink::at(&house.ground, 101).with_capabilities(&[]);
    let new = Sink::at(&house.ground, 102);
    let content = b"From: a@sender.test\r\nSubject: both\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <b@sender.test>\r\n\r\n..\r\n.\r\n.x\r\n";
    house.daemon.submit("a@sender.test", &["r@old.test", "r@new.test"], content);
    let (old, new) = (old.wait(1, LIMIT).remove(0), new.wait(1, LIMIT).remove(0));
    for arrived in [&old, &new] {
        assert!(message::ends_with(&arrived.content, content), "{:?}", String::from_utf8_lossy(&arrived.content));
        assert!(arrived.faults.is_empty(), "{:?}", arrived.faults);
    }
    assert_eq!(old.parameters, "", "no parameter that was not offered");
    assert!(new.parameters.contains("SIZE="), "{}", new.parameters);
}

#[test]
fn helo_is_tried_where_ehlo_is_not_known() {
    let house = open("");
    house.names.domain("ancient.test", house.ground.ip(101));
    let mut times = 0;
    let sink = Sink::at(&house.ground, 101).with_script(move |moment| {
        times += usize::from(moment.stage == Stage::Ehlo);
        if moment.stage == Stage::Ehlo && times == 1 { Act::reply("502 5.5.1 Not implemented") } else { Act::Accept }
    });
    house.send(&["r@ancient.test"], "old");
    sink.wait(1, LIMIT);
    let commands = sink.connections()[0].commands.clone();
    assert!(commands[0].starts_with("EHLO ") && commands[1].starts_with("HELO "), "{commands:?}");
}

#[test]
fn each_source_has_its_address_and_name_and_an_unbindable_one_stays_out() {
    let house = with(|settings, ground| {
        settings.with(&format!(
            "[source.one]\nehlo = \"one.postkeep.test\"\n[source.two]\nipv4 = \"{}\"\nehlo = \"two.postkeep.test\"\n\
             [source.absent]\nipv4 = \"198.51.100.7\"\n[pool.default.sources]\none = 1\ntwo = 1\nabsent = 2\n\
             [lane]\nmessages-per-connection = 1\n",
            ground.ip(12)
        ))
    });
    house.names.domain("there.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101);
    for n in 0..30 {
        house.send(&["r@there.test"], &n.to_string());
    }
    let messages = sink.wait(30, LIMIT);
    for transaction in &messages {
        let expected =
            if transaction.source.ip() == house.ground.ip(11) { "one.postkeep.test" } else { "two.postkeep.test" };
        assert_eq!(transaction.helo, expected, "{}", transaction.source);
    }
    let one = messages.iter().filter(|message| message.source.ip() == house.ground.ip(11)).count();
    assert!((3..28).contains(&one), "both sources work: {one} of 30 from the first");
    assert_eq!(house.mailbox.count(), 0);
}
