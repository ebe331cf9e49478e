//! Promise 3: no lane, provider or stream exceeds its limits, counted by the
//! receivers with their own clock, over several sources, over SIGKILL and
//! restart, and over a live change. A window is shorter than the limit's by the
//! jitter that `counting` states.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postkeep_tests::counting::{JITTER, most_at_once, most_in};
use postkeep_tests::{Act, Client, Daemon, Ground, Names, Settings, Sink, Stage, message, wait_until};

const LIMIT: Duration = Duration::from_secs(40);

/// Submits `count` messages over one connection, `recipient(n)` each.
fn submit(daemon: &Daemon, count: usize, mut recipient: impl FnMut(usize) -> String, stream: Option<&str>) {
    let mut client = Client::connect(daemon.door()).expect("connect");
    client.ehlo().expect("EHLO");
    for n in 0..count {
        let mut content =
            stream.map_or_else(Vec::new, |stream| format!("X-Postkeep-Stream: {stream}\r\n").into_bytes());
        content.extend(message::simple("a@example.test", "r@there.test", &format!("{n}"), "x\n"));
        let reply = client.submit("a@example.test", &[&recipient(n)], &content).expect("submit");
        assert_eq!(reply.code, 250, "{reply}");
    }
    client.quit();
}

/// What one source did, or all together.
#[derive(Debug, Default)]
struct Seen {
    mails: Vec<Instant>,
    connections: Vec<(Instant, Option<Instant>)>,
    most_on_one: u64,
}

impl Seen {
    fn add(&mut self, sink: &Sink, source: Option<IpAddr>) {
        let ours = |other: IpAddr| source.is_none_or(|source| source == other);
        sink.look(|all| {
            for transaction in all.iter().filter(|transaction| ours(transaction.source.ip())) {
                self.mails.push(transaction.mail_at);
                self.most_on_one = self.most_on_one.max(transaction.number);
            }
        });
        for connection in sink.connections().iter().filter(|connection| ours(connection.source.ip())) {
            self.connections.push((connection.opened_at, connection.closed_at));
        }
    }

    fn by_source(sink: &Sink) -> BTreeMap<IpAddr, Self> {
        let sources: Vec<IpAddr> = sink.connections().iter().map(|connection| connection.source.ip()).collect();
        sources
            .into_iter()
            .map(|source| {
                let mut seen = Self::default();
                seen.add(sink, Some(source));
                (source, seen)
            })
            .collect()
    }

    fn together<'a>(sinks: impl IntoIterator<Item = &'a Sink>) -> Self {
        let mut seen = Self::default();
        for sink in sinks {
            seen.add(sink, None);
        }
        seen
    }

    #[track_caller]
    fn at_once(&self, limit: usize) -> &Self {
        let most = most_at_once(&self.connections);
        assert!(most <= limit, "{most} connections at once, {limit} allowed");
        self
    }

    #[track_caller]
    fn connections_in(&self, limit: usize, window: Duration) -> &Self {
        let most = most_in(self.connections.iter().map(|(opened, _)| *opened).collect(), window - JITTER);
        assert!(most <= limit, "{most} new connections in {window:?}, {limit} allowed");
        self
    }

    #[track_caller]
    fn messages_in(&self, limit: usize, window: Duration) -> &Self {
        let most = most_in(self.mails.clone(), window - JITTER);
        assert!(most <= limit, "{most} messages in {window:?}, {limit} allowed");
        self
    }

    #[track_caller]
    fn per_connection(&self, limit: u64) -> &Self {
        assert!(self.most_on_one <= limit, "{} messages on one connection, {limit} allowed", self.most_on_one);
        self
    }

    fn took(&self) -> Duration {
        let (first, last) = (self.mails.iter().min(), self.mails.iter().max());
        first.zip(last).map_or(Duration::ZERO, |(first, last)| last.duration_since(*first))
    }
}

const TWO_SOURCES: &str = "[pool.default.sources]\none = 1\ntwo = 1\n";

fn second_source(ground: &Ground) -> String {
    format!("[source.two]\nipv4 = \"{}\"\n{TWO_SOURCES}", ground.ip(12))
}

#[test]
fn each_lane_keeps_its_own_limits_with_two_sources_at_one_site() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    // A slow receiver makes a sender want more connections.
    let sink = Sink::at(&ground, 100).with_script(|moment| match moment.stage {
        Stage::Final => Act::after(Duration::from_millis(60)),
        _ => Act::Accept,
    });
    let settings = Settings::new(&ground).with(&second_source(&ground)).with(
        "[lane]\nconnections = 3\nconnection-rate = \"5/1s\"\nmessages-per-connection = 6\nmessage-rate = \"20/1s\"\n",
    );
    let daemon = Daemon::start(&ground, &settings);
    submit(&daemon, 160, |n| format!("r{n}@there.test"), None);
    sink.wait(160, LIMIT);
    let lanes = Seen::by_source(&sink);
    assert_eq!(lanes.len(), 2, "both sources are used: {:?}", lanes.keys());
    for (source, seen) in &lanes {
        eprintln!(
            "{source}: {} messages in {:?} over {} connections",
            seen.mails.len(),
            seen.took(),
            seen.connections.len()
        );
        seen.at_once(3)
            .connections_in(5, Duration::from_secs(1))
            .messages_in(20, Duration::from_secs(1))
            .per_connection(6);
        assert!(seen.mails.len() > 40, "the weights are equal: {} of 160 from {source}", seen.mails.len());
        // The limits are limits, not wishes: at 20 a second the lane needs a few seconds, and not many more.
        let fair = Duration::from_secs_f64(seen.mails.len() as f64 / 20.0);
        assert!(seen.took() < fair * 3 + Duration::from_secs(2), "{source} took {:?}, {fair:?} would do", seen.took());
    }
}

#[test]
fn a_provider_total_holds_over_its_sites_and_sources() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    let sinks: Vec<Sink> = (0..3u8)
        .map(|n| {
            let (domain, host) = (format!("d{n}.test"), format!("mx{n}.big.test"));
            names.mx(&domain, 10, &host).a(&host, ground.ip(100 + n));
            Sink::at(&ground, 100 + n).with_script(|moment| match moment.stage {
                Stage::Final => Act::after(Duration::from_millis(60)),
                _ => Act::Accept,
            })
        })
        .collect();
    let settings = Settings::new(&ground).with(&second_source(&ground)).with(
        "[lane]\nconnections = 3\nmessages-per-connection = 5\n\
         [provider.big]\nmx-suffix = [\"big.test\"]\n\
         [provider.big.total]\nconnections = 4\nconnection-rate = \"8/1s\"\nmessage-rate = \"30/1s\"\n",
    );
    let daemon = Daemon::start(&ground, &settings);
    submit(&daemon, 150, |n| format!("r{n}@d{}.test", n % 3), None);
    wait_until("150 messages", LIMIT, || sinks.iter().map(Sink::count).sum::<usize>() == 150);
    assert!(sinks.iter().all(|sink| sink.count() == 50));
    let seen = Seen::together(&sinks);
    eprintln!("{} messages in {:?} over {} connections", seen.mails.len(), seen.took(), seen.connections.len());
    seen.at_once(4).connections_in(8, Duration::from_secs(1)).messages_in(30, Duration::from_secs(1)).per_connection(5);
    assert!(seen.took() < Duration::from_secs(20), "150 messages at 30 a second took {:?}", seen.took());
}

#[test]
fn a_stream_total_holds_over_sites_and_leaves_other_streams_alone() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    let sinks: Vec<Sink> = (0..2u8)
        .map(|n| {
            names.domain(&format!("d{n}.test"), ground.ip(100 + n));
            Sink::at(&ground, 100 + n).with_script(|moment| match moment.stage {
                Stage::Final => Act::after(Duration::from_millis(100)),
                _ => Act::Accept,
            })
        })
        .collect();
    let settings = Settings::new(&ground).with(
        "[lane]\nconnections = 10\n[stream.news]\n[stream.news.total]\nconnections = 2\nmessage-rate = \"10/1s\"\n[stream.receipts]\n",
    );
    let daemon = Daemon::start(&ground, &settings);
    submit(&daemon, 50, |n| format!("news{n}@d{}.test", n % 2), Some("news"));
    submit(&daemon, 50, |n| format!("receipt{n}@d{}.test", n % 2), Some("receipts"));
    wait_until("100 messages", LIMIT, || sinks.iter().map(Sink::count).sum::<usize>() == 100);
    let of = |prefix: &str| -> Vec<(Instant, Option<Instant>)> {
        sinks
            .iter()
            .flat_map(Sink::messages)
            .filter(|message| message.addresses()[0].starts_with(prefix))
            .map(|message| (message.mail_at, message.replied_at))
            .collect()
    };
    let (news, receipts) = (of("news"), of("receipt"));
    let most = most_in(news.iter().map(|(mail, _)| *mail).collect(), Duration::from_secs(1) - JITTER);
    assert!(most <= 10, "{most} messages of the stream in a second, 10 allowed");
    // A stream counts a connection while it carries its message, and here the clock of one
    // process sees both ends: no allowance beyond a few milliseconds for the reply's way back.
    let carried: Vec<_> = news
        .iter()
        .map(|(mail, replied)| (*mail, replied.map(|replied| replied + JITTER - Duration::from_millis(10))))
        .collect();
    let most = most_at_once(&carried);
    assert!(most <= 2, "{most} messages of the stream at once, 2 allowed");
    let last = |list: &[(Instant, Option<Instant>)]| list.iter().filter_map(|(_, replied)| *replied).max();
    assert!(last(&receipts) < last(&news), "the stream without limits is not held up by the other");
}

#[test]
fn limits_hold_over_kills_and_restarts() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100);
    let window = Duration::from_secs(4);
    let settings = Settings::new(&ground).with(&second_source(&ground)).with(
        "[lane]\nconnections = 2\nconnection-rate = \"6/4s\"\nmessages-per-connection = 4\nmessage-rate = \"16/4s\"\n",
    );
    let mut daemon = Daemon::start(&ground, &settings);
    submit(&daemon, 70, |n| format!("r{n}@there.test"), None);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        daemon.kill();
        daemon.run();
    }
    sink.wait(70, LIMIT);
    for (source, seen) in Seen::by_source(&sink) {
        eprintln!(
            "{source}: {} messages in {:?} over {} connections",
            seen.mails.len(),
            seen.took(),
            seen.connections.len()
        );
        seen.at_once(2).connections_in(6, window).messages_in(16, window).per_connection(4);
    }
}

#[test]
fn an_orderly_restart_does_not_open_the_window_anew() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100);
    let settings = Settings::new(&ground).with("[lane]\nmessage-rate = \"10/5s\"\n");
    let mut daemon = Daemon::start(&ground, &settings);
    submit(&daemon, 20, |n| format!("r{n}@there.test"), None);
    sink.wait(10, LIMIT);
    daemon.terminate();
    daemon.run();
    sink.wait(20, LIMIT);
    Seen::together([&sink]).messages_in(10, Duration::from_secs(5));
}

#[test]
fn a_tighter_limit_counts_from_the_reload_on() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100));
    let sink = Sink::at(&ground, 100).with_script(|moment| match moment.stage {
        Stage::Final => Act::after(Duration::from_millis(40)),
        _ => Act::Accept,
    });
    let base = Settings::new(&ground);
    let loose = base.clone().with("[lane]\nconnections = 6\nmessage-rate = \"60/1s\"\n");
    let tight = base.with("[lane]\nconnections = 2\nmessage-rate = \"10/1s\"\n");
    let daemon = Daemon::start(&ground, &loose);
    submit(&daemon, 140, |n| format!("r{n}@there.test"), None);
    sink.wait(60, LIMIT);
    daemon.write(&tight);
    daemon.postkeep(&["reload"]).done();
    // Connections beyond the new limit may finish the message that they carry.
    let changed = Instant::now() + JITTER;
    sink.wait(140, LIMIT);
    let mut seen = Seen::together([&sink]);
    let before = seen.mails.len();
    seen.mails.retain(|at| *at > changed);
    assert!(seen.mails.len() > 20, "enough was left for the new limit: {} of {before}", seen.mails.len());
    seen.messages_in(10, Duration::from_secs(1));
    // What is open beyond the new limit has a moment to finish its message and go.
    let settled = changed + Duration::from_millis(500);
    let open_after: Vec<_> = seen
        .connections
        .iter()
        .filter(|(_, closed)| closed.is_none_or(|closed| closed > settled))
        .map(|(opened, closed)| ((*opened).max(settled), *closed))
        .collect();
    let most = most_at_once(&open_after);
    assert!(most <= 2, "{most} connections at once after the change, 2 allowed");
    // And back: the pace rises again without a restart.
    daemon.write(&loose);
    daemon.postkeep(&["reload"]).done();
    let start = Instant::now();
    submit(&daemon, 60, |n| format!("s{n}@there.test"), None);
    sink.wait(200, LIMIT);
    assert!(start.elapsed() < Duration::from_secs(4), "60 messages at 60 a second took {:?}", start.elapsed());
}

#[test]
fn one_lane_limit_is_the_most_specific_word() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100)).domain("other.test", ground.ip(101));
    let (there, other) = (Sink::at(&ground, 100), Sink::at(&ground, 101));
    let settings = Settings::new(&ground).with("[lane]\nmessages-per-connection = 50\n").with(
        "[[lane-limit]]\nsource = \"one\"\nsite = \"mx.there.test\"\n[lane-limit.limits]\nmessages-per-connection = 2\nconnections = 1\n",
    );
    let daemon = Daemon::start(&ground, &settings);
    submit(&daemon, 20, |n| format!("r{n}@{}.test", if n % 2 == 0 { "there" } else { "other" }), None);
    there.wait(10, LIMIT);
    other.wait(10, LIMIT);
    Seen::together([&there]).per_connection(2).at_once(1);
    let most = Seen::together([&other]).most_on_one;
    assert!(most > 2, "the other site keeps the general limit, and reuses connections: {most}");
}
