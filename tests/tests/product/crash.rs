//! Promise 1: what was answered `250` is delivered, bounced with a report, or
//! still in the spool, after any crash. The daemon is killed at random moments
//! under load; receivers and the senders' mailbox are asked afterwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postkeep_tests::{Act, Client, Daemon, Ground, Names, Settings, Sink, Stage, message};

/// How often the daemon dies.
const KILLS: usize = 50;
/// A final reply this long before a kill may not have been noted: the daemon
/// had to be given processor time to read it and to write it down.
const IN_FLIGHT: Duration = Duration::from_millis(250);
/// A receiver may answer this long after a kill what it had been sent before.
const LATE: Duration = Duration::from_millis(100);
/// Connections that the daemon may have open to the receivers: no more
/// transactions than these can be in flight at a kill.
const CONNECTIONS: usize = 8;
const SUBMITTERS: u64 = 3;

/// What a submitter knows of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accepted,
    /// The connection died before a reply: nobody knows.
    Unknown,
}

/// `ok` delivers at once, `grey` first refuses for a while, `bad` bounces.
const DOMAINS: [&str; 3] = ["ok.test", "grey.test", "bad.test"];

fn body(number: u64) -> String {
    let mut chance = fastrand::Rng::with_seed(number);
    let lines = chance.usize(1..60);
    (0..lines).map(|line| format!("{number} {line} {}\n", "z".repeat(chance.usize(0..200)))).collect()
}

fn content(number: u64) -> Vec<u8> {
    message::simple("a@sender.test", "r@there.test", &format!("number {number}"), &body(number))
}

fn submit_until(
    stop: &AtomicBool,
    next: &AtomicU64,
    answers: &Mutex<BTreeMap<u64, Answer>>,
    door: std::net::SocketAddr,
) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut client) = Client::connect(door) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        client.patience(Duration::from_secs(10));
        if client.greeting.code != 220 || client.ehlo().is_err() {
            continue;
        }
        while !stop.load(Ordering::SeqCst) {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let recipients = DOMAINS.map(|domain| format!("m{number}@{domain}"));
            // One of seven kinds: each single domain, each pair, all three.
            let kind = number % 7 + 1;
            let chosen: Vec<&str> = recipients
                .iter()
                .enumerate()
                .filter(|(bit, _)| kind >> bit & 1 == 1)
                .map(|(_, one)| one.as_str())
                .collect();
            match client.submit("a@sender.test", &chosen, &content(number)) {
                Ok(reply) if reply.code == 250 => {
                    answers.lock().unwrap().insert(number, Answer::Accepted);
                }
                Ok(reply) => panic!("message {number} was refused: {reply}"),
                Err(_) => {
                    answers.lock().unwrap().insert(number, Answer::Unknown);
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

#[test]
fn nothing_answered_250_is_lost_and_nothing_doubled_beyond_what_was_in_flight() {
    let seed = std::env::var("POSTKEEP_CRASH_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed of the kills: {seed} (POSTKEEP_CRASH_SEED repeats it)");
    let mut chance = fastrand::Rng::with_seed(seed);

    let ground = Ground::claim();
    let names = Names::new(&ground);
    for (domain, n) in [("ok.test", 101), ("grey.test", 102), ("bad.test", 103), ("sender.test", 104)] {
        names.domain(domain, ground.ip(n));
    }
    let ok = Sink::at(&ground, 101);
    let mut seen: HashMap<String, Instant> = HashMap::new();
    let grey = Sink::at(&ground, 102).with_script(move |moment| {
        if moment.stage != Stage::Rcpt {
            return Act::Accept;
        }
        let first = *seen.entry(moment.recipient.to_owned()).or_insert_with(Instant::now);
        if first.elapsed() < Duration::from_millis(400) { Act::reply("451 4.7.1 Greylisted") } else { Act::Accept }
    });
    let refusals: Arc<Mutex<BTreeMap<u64, Vec<Instant>>>> = Arc::default();
    let bad = Sink::at(&ground, 103).with_script({
        let refusals = Arc::clone(&refusals);
        move |moment| {
            if moment.stage != Stage::Rcpt {
                return Act::Accept;
            }
            if let Some(number) = number_in(moment.recipient) {
                refusals.lock().unwrap().entry(number).or_default().push(Instant::now());
            }
            Act::reply("550 5.1.1 No such user")
        }
    });
    let mailbox = Sink::at(&ground, 104);

    let settings = Settings::new(&ground).with(&format!(
        "[delivery]\nconnections = {CONNECTIONS}\n[stream.default]\nretry = [\"1s\", \"1s\"]\n[lane]\nconnections = 4\n"
    ));
    let mut daemon = Daemon::start(&ground, &settings);

    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(0));
    let answers: Arc<Mutex<BTreeMap<u64, Answer>>> = Arc::default();
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|_| {
            let (stop, next, answers, door) =
                (Arc::clone(&stop), Arc::clone(&next), Arc::clone(&answers), daemon.door());
            std::thread::spawn(move || submit_until(&stop, &next, &answers, door))
        })
        .collect();

    let mut kills: Vec<Instant> = Vec::new();
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(chance.u64(20..350)));
        kills.push(Instant::now());
        daemon.kill();
        daemon.run();
    }
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::SeqCst);
    for submitter in submitters {
        submitter.join().expect("a submitter was refused");
    }
    let answers = answers.lock().unwrap().clone();
    let accepted: Vec<u64> =
        answers.iter().filter(|(_, answer)| **answer == Answer::Accepted).map(|(number, _)| *number).collect();

    // Everything that is owed arrives.
    let owed = |kind: u64| accepted.iter().filter(move |number| (*number % 7 + 1) >> kind & 1 == 1).copied();
    let end = Instant::now() + Duration::from_secs(90);
    let mut missing;
    loop {
        let arrived = [deliveries(&ok), deliveries(&grey), reports(&mailbox)];
        missing = (0..3u64)
            .flat_map(|kind| {
                let arrived = &arrived[usize::try_from(kind).unwrap()];
                owed(kind).filter(move |number| !arrived.contains_key(number)).map(move |number| (kind, number))
            })
            .collect::<Vec<_>>();
        if missing.is_empty() || Instant::now() > end {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let arrived = [deliveries(&ok), deliveries(&grey), reports(&mailbox)];
    let duplicates: Vec<(usize, u64, Vec<Instant>)> = arrived
        .iter()
        .enumerate()
        .flat_map(|(kind, all)| {
            all.iter().filter(|(_, times)| times.len() > 1).map(move |(number, times)| (kind, *number, times.clone()))
        })
        .collect();
    let unknown = answers.len() - accepted.len();
    eprintln!(
        "{KILLS} kills; {} submitted, {} answered 250, {unknown} unanswered; delivered {} + {} (greylisted), reports {}; duplicates {}; lost {}",
        answers.len(),
        accepted.len(),
        arrived[0].len(),
        arrived[1].len(),
        arrived[2].len(),
        duplicates.len(),
        missing.len(),
    );
    assert!(missing.is_empty(), "lost (0 ok, 1 greylisted, 2 bounced; number): {missing:?}");
    assert!(accepted.len() > KILLS * 4, "too little load to prove anything: {} messages", accepted.len());

    // Each repetition must be explained by a kill that came just after the earlier copy's reply;
    // for a report also by one just after the refusal that it reports.
    let refusals = refusals.lock().unwrap().clone();
    let mut by_kill: BTreeMap<usize, usize> = BTreeMap::new();
    for (kind, number, times) in &duplicates {
        let mut earlier = times[..times.len() - 1].to_vec();
        if *kind == 2 && refusals.get(number).is_some_and(|refusals| refusals.len() > 1) {
            let refusals = &refusals[number];
            earlier = refusals[..refusals.len() - 1].to_vec();
        }
        for earlier in &earlier {
            let in_flight = |kill: &Instant| {
                *earlier <= *kill + LATE && kill.checked_duration_since(*earlier).unwrap_or_default() <= IN_FLIGHT
            };
            let Some(kill) = kills.iter().position(in_flight) else {
                let before = kills.iter().rfind(|kill| *kill < earlier).map(|kill| earlier.duration_since(*kill));
                let after = kills.iter().find(|kill| *kill >= earlier).map(|kill| kill.duration_since(*earlier));
                panic!(
                    "message {number} to {} was repeated, though the reply to its earlier copy was sent {before:?} after one kill and {after:?} before the next",
                    DOMAINS[*kind]
                );
            };
            *by_kill.entry(kill).or_default() += 1;
        }
    }
    for (kill, count) in by_kill {
        assert!(
            count <= CONNECTIONS,
            "{count} repetitions after kill {kill}, and only {CONNECTIONS} connections could be in flight"
        );
    }
    // And what arrived is whole.
    for sink in [&ok, &grey] {
        sink.look(|all| {
            for transaction in all.iter().filter(|transaction| transaction.accepted()) {
                let number = number_of(&transaction.content).expect("a subject with a number");
                assert!(
                    message::ends_with(&transaction.content, &content(number)),
                    "message {number} was changed: {:?}",
                    String::from_utf8_lossy(&transaction.content)
                );
                assert!(transaction.faults.is_empty(), "{number}: {:?}", transaction.faults);
            }
        });
    }
    assert_eq!(bad.count(), 0, "nothing was delivered where every recipient is refused");
}

fn number_of(content: &[u8]) -> Option<u64> {
    message::header(content, "Subject").strip_prefix("number ")?.parse().ok()
}

/// The number in `m12@ok.test`.
fn number_in(address: &str) -> Option<u64> {
    address.strip_prefix('m')?.split('@').next()?.parse().ok()
}

/// Message number to the times of its accepting replies.
fn deliveries(sink: &Sink) -> BTreeMap<u64, Vec<Instant>> {
    let mut found: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
    sink.look(|all| {
        for transaction in all.iter().filter(|transaction| transaction.accepted()) {
            if let (Some(number), Some(at)) = (number_of(&transaction.content), transaction.replied_at) {
                found.entry(number).or_default().push(at);
            }
        }
    });
    found
}

/// Message number to the times at which reports about it were accepted.
fn reports(mailbox: &Sink) -> BTreeMap<u64, Vec<Instant>> {
    let mut found: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
    mailbox.look(|all| {
        for transaction in all.iter().filter(|transaction| transaction.accepted()) {
            let text = String::from_utf8_lossy(&transaction.content);
            let number = text
                .lines()
                .find_map(|line| line.strip_prefix("Final-Recipient: rfc822;"))
                .and_then(|address| number_in(address.trim()));
            if let (Some(number), Some(at)) = (number, transaction.replied_at) {
                found.entry(number).or_default().push(at);
            }
        }
    });
    found
}
