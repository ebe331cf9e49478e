//! Records for others: the accounting file and webhooks. The oracle is the record files: what is in them
//! must arrive, in order, under an id made of file and place; Python reads the CSV and checks signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::{run, run_with_input};
use postkeep_tests::ground::HOSTNAME;
use postkeep_tests::hook::{Answer, Hook};
use postkeep_tests::tools::{self, needs};
use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
/// 32 octets in base64.
const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Events that receivers are told of when they name none.
const FINAL: [&str; 7] = ["delivered", "bounced", "expired", "suppressed", "removed", "remote-bounce", "complaint"];

/// Every record with the id that receivers of events know it by.
pub(crate) fn identified(daemon: &Daemon) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for file in daemon.record_files() {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let stem = name.trim_start_matches("records-").trim_end_matches(".jsonl");
        let mut offset = 0;
        let text = std::fs::read(&file).expect("read records");
        for line in text.split_inclusive(|octet| *octet == b'\n') {
            // A killed daemon may have left half a line.
            if line.ends_with(b"\n") {
                let record = serde_json::from_slice(line).expect("a record");
                all.push((format!("{stem}-{offset}@{HOSTNAME}"), record));
            }
            offset += line.len();
        }
    }
    all
}

/// Ids of the records of these events, in order.
pub(crate) fn ids(daemon: &Daemon, events: &[&str]) -> Vec<String> {
    let is_wanted = |record: &Value| record["event"].as_str().is_some_and(|event| events.contains(&event));
    identified(daemon).into_iter().filter(|(_, record)| is_wanted(record)).map(|(id, _)| id).collect()
}

/// Ids of events, each once, in the order in which they came first.
pub(crate) fn first_ids(events: &[Value]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = events.iter().map(|event| event["id"].as_str().expect("an id").to_owned());
    all.filter(|id| seen.insert(id.clone())).collect()
}

pub(crate) struct House {
    pub(crate) daemon: Daemon,
    pub(crate) ground: Ground,
    _names: Names,
    _sink: Sink,
}

/// A receiver that takes mail, but `no…` never and `late…` at the third try.
pub(crate) fn house(settings: impl FnOnce(&Ground) -> String) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100)).domain("sender.test", ground.ip(100));
    let mut late = 0;
    let sink = Sink::at(&ground, 100).with_script(move |moment| match moment.stage {
        Stage::Rcpt if moment.recipient.contains("nobody") => {
            Act::reply(&format!("550 5.1.1 <{}>: \"no\", such user", moment.recipient))
        }
        Stage::Rcpt if moment.recipient.starts_with("late") => {
            late += 1;
            if late <= 2 { Act::reply("451 4.2.1 Later") } else { Act::Accept }
        }
        _ => Act::Accept,
    });
    std::fs::write(ground.path("secret"), SECRET).expect("write the secret");
    let over = settings(&ground);
    let daemon = Daemon::start(
        &ground,
        &Settings::new(&ground)
            .with("[backoff]\nfailures = 1000\n[suppression]\nhard-bounces = \"none\"\n")
            .with(&over),
    );
    House { daemon, ground, _names: names, _sink: sink }
}

/// Submits messages to one recipient each, on one connection.
pub(crate) fn send(daemon: &Daemon, recipients: impl Iterator<Item = String>) {
    let mut client = daemon.client();
    for recipient in recipients {
        let content = format!("From: a@sender.test\r\nSubject: to {recipient}\r\n\r\nHi\r\n");
        let reply = client.submit("a@sender.test", &[&recipient], content.as_bytes()).expect("submit");
        assert_eq!(reply.code, 250, "{reply}");
    }
    client.quit();
}

/// The accounting lines of a folder and of the one that closed files go to, as Python's csv module reads them.
fn accounting(folders: &[PathBuf]) -> Vec<BTreeMap<String, String>> {
    let python = tools::python().expect("Python");
    let read = || {
        let mut files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        files.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
        files.dedup_by_key(|path| path.file_name().map(ToOwned::to_owned));
        run(Command::new(&python).arg(tools::file("oracles/accounting_read.py")).args(files))
    };
    // A file may be moved, or have half a line, just when it is read.
    let mut said = read();
    for _ in 0..20 {
        if said.status == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        said = read();
    }
    said.done().out.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
}

fn accounting_settings(ground: &Ground, over: &str) -> String {
    let folder = ground.folder().display();
    format!(
        "[accounting]\ndirectory = \"{folder}/accounting\"\nmove-to = \"{folder}/done\"\nrotate-after = \"1s\"\n{over}"
    )
}

#[test]
fn accounting_files_tell_what_powermta_would_and_python_reads_them() {
    let Some(_) = needs(tools::python()) else { return };
    let fields = "record-fields = { \"d,b\" = [\"*\", \"!dlvEsmtpAvailable\", \"totalSecondsQueued\", \"header_Message-Id\"] }\n";
    let house = house(|ground| accounting_settings(ground, fields));
    let recipients = ["r@there.test", "\"a,\\\"b\"@there.test", "nobody@there.test", "late@there.test"];
    let mut client = house.daemon.client();
    for recipient in recipients {
        let said = [
            "MAIL FROM:<a@sender.test> ENVID=batch-7".to_owned(),
            format!("RCPT TO:<{recipient}> ORCPT=rfc822;orig+2Binal@there.test"),
        ];
        for line in said {
            let reply = client.command(&line).expect("a reply");
            assert_eq!(reply.code, 250, "{line}: {reply}");
        }
        let reply = client
            .data(b"From: a@sender.test\r\nMessage-ID: <1@sender.test>\r\nSubject: x\r\n\r\nHi\r\n")
            .expect("DATA");
        assert_eq!(reply.code, 250, "{reply}");
    }
    client.quit();
    let folders = [house.ground.path("accounting"), house.ground.path("done")];
    let of = |short: &str| -> Vec<BTreeMap<String, String>> {
        accounting(&folders).into_iter().filter(|line| line["type"] == short).collect()
    };
    wait_until("all lines", LIMIT, || {
        // Three to their recipients, and the report to the sender.
        of("d").len() == 4 && of("b").len() == 1 && of("t").len() == 2 && of("r").len() >= 4
    });
    wait_until("a closed file to be moved", LIMIT, || {
        std::fs::read_dir(&folders[1]).is_ok_and(|mut all| all.next().is_some())
    });
    let delivered = of("d");
    assert!(delivered.iter().any(|line| line["rcpt"] == recipients[1]), "{delivered:#?}");
    let line = delivered.iter().find(|line| line["rcpt"] == "r@there.test").expect("a delivery");
    let wanted = [
        ("orig", "a@sender.test"),
        // As the client gave it: xtext.
        ("orcpt", "rfc822;orig+2Binal@there.test"),
        ("dsnAction", "relayed"),
        ("srcType", "smtp"),
        ("srcMta", "loopback (127.0.0.1)"),
        ("dlvType", "smtp"),
        ("vmta", "one"),
        ("vmtaPool", "default"),
        ("jobId", "default"),
        ("envId", "batch-7"),
        ("queue", "there.test/one"),
        ("header_Message-Id", "<1@sender.test>"),
    ];
    for (column, cell) in wanted {
        assert_eq!(line[column], cell, "{column} of {line:#?}");
    }
    assert_eq!(line["dlvSourceIp"], house.ground.ip(11).to_string());
    assert_eq!(line["dlvDestinationIp"], house.ground.ip(100).to_string());
    assert_eq!(line["dsnMta"], format!("mx.there.test ({})", house.ground.ip(100)));
    assert!(!line.contains_key("dlvEsmtpAvailable") || line["dlvEsmtpAvailable"].is_empty());
    let is_time = |text: &str| text.len() == 24 && text.ends_with("+0000") && text.starts_with("20");
    assert!(is_time(&line["timeLogged"]) && is_time(&line["timeQueued"]), "{line:#?}");
    let bounced = &of("b")[0];
    assert_eq!(bounced["dsnStatus"], "5.1.1 (bad destination mailbox address)");
    assert_eq!(bounced["dsnDiag"], "smtp;550 5.1.1 <nobody@there.test>: \"no\", such user");
    assert_eq!((bounced["bounceCat"].as_str(), bounced["dsnAction"].as_str()), ("bad-mailbox", "failed"));
    let deferred = &of("t")[0];
    assert_eq!((deferred["dsnAction"].as_str(), deferred["rcpt"].as_str()), ("delayed", "late@there.test"));
}

#[test]
fn after_kills_each_record_has_one_accounting_line_and_no_local_part_is_in_it() {
    let Some(_) = needs(tools::python()) else { return };
    let columns = "[\"*\", \"id\"]";
    let over = format!(
        "local-part = \"hashed\"\nrecord-fields = {{ d = {columns}, b = {columns}, r = {columns} }}\ntypes = [\"d\", \"b\", \"r\"]\n"
    );
    let mut house = house(|ground| accounting_settings(ground, &over) + "[records]\nrotate-size = \"64KiB\"\n");
    for round in 0..6 {
        send(
            &house.daemon,
            (0..60).map(|n| format!("{}{round}-{n}@there.test", if n % 10 == 0 { "nobody" } else { "person" })),
        );
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..400)));
        house.daemon.kill();
        house.daemon.run();
    }
    let folders = [house.ground.path("accounting"), house.ground.path("done")];
    wait_until("everything to end", LIMIT, || {
        house.daemon.postkeep(&["queue", "show", "--json"]).done().json()["total"] == 0
    });
    let wanted = || ids(&house.daemon, &["received", "delivered", "bounced", "expired", "suppressed", "removed"]);
    wait_until("all lines", LIMIT, || accounting(&folders).len() >= wanted().len());
    let lines = accounting(&folders);
    let told: Vec<String> = lines.iter().map(|line| line["id"].clone()).collect();
    assert_eq!(told, wanted(), "each record once, and in order");
    assert!(told.len() > 600, "{}", told.len());
    for line in &lines {
        assert!(!line.values().any(|cell| cell.contains("person") || cell.contains("nobody")), "{line:#?}");
    }
    let local = |address: &str| address.split('@').next().unwrap_or_default().to_owned();
    let sums: BTreeSet<String> =
        lines.iter().filter(|line| line["type"] == "d").map(|line| local(&line["rcpt"])).collect();
    assert!(sums.iter().all(|sum| sum.len() == 32 && sum.bytes().all(|byte| byte.is_ascii_hexdigit())), "{sums:?}");
    assert!(sums.len() > 300, "different people have different sums: {}", sums.len());
}

fn webhook_settings(ground: &Ground, over: &str) -> String {
    format!(
        "[[webhook]]\nname = \"shop\"\nurl = \"http://{}/hooks\"\nsecret = \"{}\"\nbatch-age = \"100ms\"\nbatch-events = 50\n\
         timeout = \"1s\"\n{over}",
        ground.at(200, 8080),
        ground.path("secret").display()
    )
}

#[test]
fn webhooks_get_every_event_signed_though_the_receiver_fails_and_the_daemon_is_killed() {
    let Some(python) = needs(tools::python()) else { return };
    let mut house = house(|ground| webhook_settings(ground, "") + "[records]\nrotate-size = \"64KiB\"\n");
    // Where the redirect leads somebody does listen.
    let elsewhere = house.ground.at(201, 8080);
    let other = Hook::at(elsewhere, |_| Answer::status(200));
    let hook = Hook::at(house.ground.at(200, 8080), move |number| match number % 7 {
        1 => Answer::status(500),
        2 => Answer::Close,
        3 => Answer::Wait(Duration::from_millis(1500), Box::new(Answer::status(200))),
        4 => Answer::Status(302, format!("Location: http://{elsewhere}/hooks\r\n")),
        _ => Answer::status(204),
    });
    for round in 0..4 {
        send(
            &house.daemon,
            (0..100).map(|n| format!("{}{round}-{n}@there.test", if n % 10 == 0 { "nobody" } else { "r" })),
        );
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..1000)));
        house.daemon.kill();
        house.daemon.run();
    }
    wait_until("the queue to be empty", LIMIT, || {
        house.daemon.postkeep(&["queue", "show", "--json"]).done().json()["total"] == 0
    });
    wait_until("every event to be told", Duration::from_secs(90), || {
        first_ids(&hook.taken()).len() >= ids(&house.daemon, &FINAL).len()
    });
    assert_eq!(first_ids(&hook.taken()), ids(&house.daemon, &FINAL), "all of them, in order");
    assert!(other.requests().is_empty(), "no redirect is followed");
    let records: BTreeMap<String, Value> = identified(&house.daemon).into_iter().collect();
    let requests = hook.requests();
    for event in requests.iter().flat_map(|request| request.events()) {
        let mut event = event;
        let id = event.as_object_mut().and_then(|event| event.remove("id")).expect("an id");
        assert_eq!(Some(&event), records.get(id.as_str().expect("text")), "an event is its record");
    }
    let lines: String = requests.iter().map(|request| request.line() + "\n").collect();
    let mut check = Command::new(&python);
    let said = run_with_input(check.arg(tools::file("oracles/webhook_check.py")).arg(SECRET), lines.as_bytes());
    assert_eq!(said.clone().done().out.trim(), requests.len().to_string());
    let mut wrong = Command::new(&python);
    let said = run_with_input(wrong.arg(tools::file("oracles/webhook_check.py")).arg("whsec_AAAA"), lines.as_bytes());
    assert_ne!(said.status, 0, "another secret does not fit");
    let status = house.daemon.postkeep(&["events", "status", "--json"]).done().json();
    assert_eq!(
        (&status[0]["kind"], &status[0]["name"], &status[0]["dropped"]),
        (&"webhook".into(), &"shop".into(), &0.into())
    );
}

#[test]
fn a_webhook_by_https_is_believed_by_its_certificate_only() {
    let url = |ground: &Ground| format!("https://{}/hooks", ground.at(200, 8443));
    let mut house = house(|ground| {
        let settings = webhook_settings(ground, "");
        settings.replace(&format!("http://{}/hooks", ground.at(200, 8080)), &url(ground))
    });
    let address = house.ground.at(200, 8443);
    let identity = house.ground.authority().identity(&address.ip().to_string(), Flaw::None);
    let hook = Hook::at_with_tls(address, identity.server(), |_| Answer::status(200));
    send(&house.daemon, std::iter::once("r@there.test".to_owned()));
    let status = |daemon: &Daemon| daemon.postkeep(&["events", "status", "--json"]).done().json()[0].clone();
    wait_until("the certificate to be refused", LIMIT, || {
        status(&house.daemon)["failing"].as_str().is_some_and(|why| why.contains("no TLS that can be trusted"))
    });
    assert!(hook.requests().is_empty());
    let roots = house.ground.path("roots.pem");
    std::fs::write(&roots, house.ground.authority().pem()).expect("write the roots");
    let text = std::fs::read_to_string(house.daemon.configuration()).expect("the configuration");
    let place = format!("\"{}\"", url(&house.ground));
    assert!(text.contains(&place), "{text}");
    house.daemon.write_text(&text.replace(&place, &format!("{place}\nextra-roots = \"{}\"", roots.display())));
    assert!(house.daemon.terminate().success());
    house.daemon.run();
    wait_until("the event to be told", LIMIT, || hook.taken().len() == 1);
    assert_eq!(first_ids(&hook.taken()), ids(&house.daemon, &FINAL));
}

/// How long that many messages take from the first to the last delivery.
fn time_of(house: &House, messages: usize) -> Duration {
    let start = Instant::now();
    send(&house.daemon, (0..messages).map(|n| format!("r{n}@there.test")));
    wait_until("all mail to be delivered", LIMIT, || house.daemon.events("delivered").len() == messages);
    start.elapsed()
}

#[test]
fn a_dead_webhook_holds_up_no_mail_and_what_it_misses_is_told() {
    // Nobody listens there; and the smallest buffer there is.
    let house =
        house(|ground| webhook_settings(ground, "buffer = \"64KiB\"\n") + "[records]\nrotate-size = \"64KiB\"\n");
    let messages = 1500;
    let beside_it = time_of(&house, messages);
    let alone = time_of(&self::house(|_| "[records]\nrotate-size = \"64KiB\"\n".to_owned()), messages);
    eprintln!("{messages} messages: {beside_it:?} beside a dead webhook, {alone:?} without");
    // Other tests run beside this one; a webhook that mail waits for would take its time-outs, not shares.
    assert!(beside_it < 3 * alone + Duration::from_secs(1), "{beside_it:?} beside a dead webhook, {alone:?} without");
    let status = || house.daemon.postkeep(&["events", "status", "--json"]).done().json()[0].clone();
    wait_until("the loss to be counted", LIMIT, || status()["dropped"].as_u64() > Some(0));
    let now = status();
    assert!(now["failing"].as_str().is_some_and(|why| why.contains("cannot be reached")), "{now}");
    assert!(now["retried"].as_u64() > Some(0) && now["lag-octets"].as_u64() > Some(0), "{now}");
    assert!(house.daemon.tail(1000).contains("webhook shop: the buffer is full"), "{}", house.daemon.tail(50));
    let text = house.daemon.postkeep(&["events", "status"]).done().out;
    assert!(text.contains("shop") && text.contains("fails: "), "{text}");
    let metrics = house.daemon.metrics();
    let sample = metrics.get("postkeep_events_dropped_total{kind=\"webhook\",name=\"shop\"}");
    assert!(sample.is_some_and(|dropped| *dropped > 0.0), "{metrics:#?}");
    // When it is back it gets the rest, and the two parts are the whole.
    let hook = Hook::at(house.ground.at(200, 8080), |_| Answer::status(200));
    wait_until("the rest to be told", LIMIT, || status()["lag-octets"] == 0 && status()["failing"].is_null());
    let told = first_ids(&hook.taken());
    let all = ids(&house.daemon, &FINAL);
    assert_eq!(told, all[all.len() - told.len()..], "the newest");
    assert!(!told.is_empty() && told.len() < messages, "{}", told.len());
    // Events that nobody wants are skipped as well, so at least as many as are missing.
    assert!(status()["dropped"].as_u64() >= Some((messages - told.len()) as u64), "{} told, {}", told.len(), status());
}

#[test]
fn a_request_is_given_up_after_its_time_and_the_log_says_so() {
    let house = house(|ground| webhook_settings(ground, "retry-for = \"1s\"\nevents = [\"delivered\"]\n"));
    let _hook = Hook::at(house.ground.at(200, 8080), |_| Answer::status(500));
    send(&house.daemon, (0..3).map(|n| format!("r{n}@there.test")));
    let status = || house.daemon.postkeep(&["events", "status", "--json"]).done().json()[0].clone();
    wait_until("the events to be dropped", LIMIT, || status()["dropped"] == 3);
    assert!(house.daemon.tail(100).contains("DROPPED"), "{}", house.daemon.tail(50));
    assert!(status()["last-error"].as_str().is_some_and(|why| why.contains("500")), "{}", status());
}

#[test]
fn a_request_keeps_its_id_and_comes_no_sooner_than_it_was_asked_to() {
    let house = house(|ground| webhook_settings(ground, "events = [\"delivered\"]\n"));
    let hook = Hook::at(house.ground.at(200, 8080), |number| match number {
        0 => Answer::Status(503, "Retry-After: 4\r\n".into()),
        1 => Answer::Status(429, "Retry-After: 3\r\n".into()),
        _ => Answer::status(200),
    });
    send(&house.daemon, std::iter::once("r@there.test".to_owned()));
    wait_until("the event to be taken", LIMIT, || hook.taken().len() == 1);
    let requests = hook.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.id == requests[0].id), "{requests:?}");
    // Without that they would come after half a second and one.
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(4), "{requests:?}");
    assert!(requests[2].at - requests[1].at >= Duration::from_secs(3), "{requests:?}");
}

#[test]
fn an_event_that_is_refused_for_good_is_dropped_alone() {
    let house = house(|ground| webhook_settings(ground, "retry-for = \"1s\"\nevents = [\"delivered\"]\n"));
    // Whatever has the fourth message's event in it.
    let address = house.ground.at(200, 8080);
    let hook = Hook::at_by_body(address, |body| {
        Answer::status(if String::from_utf8_lossy(body).contains("r3@there.test") { 413 } else { 200 })
    });
    send(&house.daemon, (0..8).map(|n| format!("r{n}@there.test")));
    let status = || house.daemon.postkeep(&["events", "status", "--json"]).done().json()[0].clone();
    wait_until("one to be dropped and the others taken", LIMIT, || status()["dropped"] == 1 && status()["sent"] == 7);
    let missing = identified(&house.daemon)
        .into_iter()
        .find(|(_, record)| record["event"] == "delivered" && record["recipient"] == "r3@there.test")
        .map(|(id, _)| id)
        .expect("a record");
    let wanted: Vec<_> = ids(&house.daemon, &["delivered"]).into_iter().filter(|id| *id != missing).collect();
    assert_eq!(first_ids(&hook.taken()), wanted);
    let log = house.daemon.tail(100);
    assert!(log.contains(&format!("event {missing} is DROPPED")), "{log}");
}

#[test]
fn a_receiver_that_cannot_begin_holds_up_no_mail_and_begins_when_it_can() {
    let mut house = house(|ground| webhook_settings(ground, "events = [\"delivered\"]\n"));
    let hook = Hook::at(house.ground.at(200, 8080), |_| Answer::status(200));
    send(&house.daemon, std::iter::once("before@there.test".to_owned()));
    wait_until("the first event", LIMIT, || hook.taken().len() == 1);
    assert!(house.daemon.terminate().success());
    let file = house.daemon.record_files()[0].clone();
    let cursor = file.with_file_name("receivers").join("webhook-shop").join("cursor.json");
    let kept = std::fs::read(&cursor).expect("the cursor");
    std::fs::write(&cursor, "{").expect("damage it");
    house.daemon.run();
    send(&house.daemon, std::iter::once("meanwhile@there.test".to_owned()));
    wait_until("mail to be delivered", LIMIT, || house.daemon.events("delivered").len() == 2);
    let status = house.daemon.postkeep(&["events", "status", "--json"]).done().json()[0].clone();
    assert!(status["failing"].as_str().is_some_and(|why| why.contains("is no cursor")), "{status}");
    assert_eq!(hook.taken().len(), 1);
    std::fs::write(&cursor, kept).expect("mend it");
    wait_until("the event meanwhile to be told", LIMIT, || hook.taken().len() == 2);
    assert_eq!(first_ids(&hook.taken()), ids(&house.daemon, &["delivered"]));
}

#[test]
fn a_configuration_that_cannot_be_is_refused_with_its_place() {
    let house = house(|_| String::new());
    let file = house.ground.path("bad.toml");
    let text = "hostname = \"a.test\"\n[[listener]]\naddress = \"127.0.0.1:2525\"\ntls = \"none\"\n[source.a]\nipv4 = \"127.0.0.1\"\n\
                [pool.default]\nsources = { a = 1 }\n[[webhook]]\nname = \"x\"\nurl = \"http://example.com/\"\nsecret = \"/nowhere\"\n";
    std::fs::write(&file, text).expect("write");
    let said = house.daemon.postkeep(&["config", "check", file.to_str().expect("a path")]);
    assert_eq!(said.status, 1, "{said:?}");
    let all = format!("{}{}", said.out, said.err);
    for wanted in ["http:// would tell strangers", "cannot read /nowhere", "bad.toml:11"] {
        assert!(all.contains(wanted), "{wanted} is not in {all}");
    }
    // A secret that is none is refused as well, before anything begins.
    let secret = house.ground.path("no-secret");
    std::fs::write(&secret, "hunter2\n").expect("write");
    let text = text
        .replace("http://example.com/", "https://example.com/")
        .replace("/nowhere", secret.to_str().expect("a path"));
    let folder = house.ground.folder().display();
    let own = format!(
        "[spool]\ndirectory = \"{folder}/spool2\"\n[records]\ndirectory = \"{folder}/records2\"\n\
         [suppression]\ndirectory = \"{folder}/suppression2\"\n[control]\nsocket = \"{folder}/2.sock\"\n"
    );
    std::fs::write(&file, text + &own).expect("write");
    let said = run(Command::new(tools::program("postkeepd")).arg("--config").arg(&file).env_remove("JOURNAL_STREAM"));
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.err.contains("holds no secret") && said.err.contains("openssl rand"), "{said:?}");
    assert!(!said.err.contains("hunter2"), "{said:?}");
}
