use std::collections::VecDeque;

use postkeep_configuration::units::{Duration, Rate};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::SECOND;

const START: Micros = 1_795_000_000 * SECOND;

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

fn governor(connections: u32) -> Governor {
    Governor::new(connections, Settings::default())
}

/// Writes everything that is due at once.
fn flush(governor: &mut Governor, now: Micros) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut notes = Vec::new();
    governor.horizons_due(now, &mut notes);
    for (key, value) in &notes {
        governor.horizon_durable(key, value);
    }
    notes
}

fn connect(governor: &mut Governor, lane: LaneId, now: Micros) -> Result<ConnectionPermit, Hold> {
    let result = governor.reserve_connection(lane, now);
    if matches!(result, Err(Hold { until: Wait::Horizon, .. })) {
        flush(governor, now);
        return governor.reserve_connection(lane, now);
    }
    result
}

fn send(governor: &mut Governor, lane: LaneId, stream: StreamId, now: Micros) -> Result<(), Hold> {
    let result = governor.reserve_message(lane, stream, now);
    if matches!(result, Err(Hold { until: Wait::Horizon, .. })) {
        flush(governor, now);
        return governor.reserve_message(lane, stream, now);
    }
    result
}

fn capacity(because: Limit) -> Hold {
    Hold { until: Wait::Capacity, because }
}

#[test]
fn each_limit_on_connections_holds_and_releases() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let mut governor = governor(4);
    let total = TotalLimits { connections: Some(3), ..TotalLimits::default() };
    let google = governor.provider_id("google", &total, START);
    let a = governor.lane_id("a", "x", Some(google), &limits, START);
    let b = governor.lane_id("b", "x", Some(google), &limits, START);
    let c = governor.lane_id("c", "y", None, &limits, START);
    let permit = governor.reserve_connection(a, START).expect("first");
    let _second = governor.reserve_connection(a, START).expect("second");
    assert_eq!(governor.reserve_connection(a, START), Err(capacity(Limit::LaneConnections)));
    let _third = governor.reserve_connection(b, START).expect("third");
    assert_eq!(governor.reserve_connection(b, START), Err(capacity(Limit::ProviderConnections)));
    let _fourth = governor.reserve_connection(c, START).expect("fourth");
    assert_eq!(governor.reserve_connection(c, START), Err(capacity(Limit::BoxConnections)));
    assert_eq!(governor.connections(), 4);
    governor.release_connection(permit);
    assert_eq!(governor.providers()[0].open, 2);
    let _again = governor.reserve_connection(c, START).expect("room again");
}

#[test]
fn a_permit_that_one_limit_refuses_is_taken_from_none() {
    let limits = Limits { connection_rate: Some(rate("1/1m")), ..Limits::default() };
    let mut governor = governor(1);
    let a = governor.lane_id("a", "x", None, &limits, START);
    let b = governor.lane_id("b", "x", None, &limits, START);
    let permit = connect(&mut governor, a, START).expect("free");
    // The box is full: b's rate must not be spent.
    for second in 0..10 {
        assert_eq!(connect(&mut governor, b, START + second), Err(capacity(Limit::BoxConnections)));
    }
    governor.release_connection(permit);
    assert!(connect(&mut governor, b, START + 11).is_ok());
    assert_eq!(
        connect(&mut governor, a, START + 12).map(|_| ()),
        Err(Hold { until: Wait::Until(START + 60 * SECOND), because: Limit::LaneConnectionRate })
    );
}

#[test]
fn message_rates_of_lane_provider_and_stream_and_the_streams_cap_count() {
    let mut governor = governor(100);
    let hourly = |count: u32| TotalLimits {
        connections: None,
        connection_rate: None,
        message_rate: Rate::new(count, Duration::from_secs(3600)),
    };
    let provider = governor.provider_id("p", &hourly(1), START);
    let news = governor.stream_id("news", &TotalLimits { connections: Some(1), ..TotalLimits::default() }, START);
    let slow = governor.stream_id("slow", &hourly(1), START);
    let with = governor.lane_id("a", "x", Some(provider), &Limits::default(), START);
    let without = governor.lane_id("a", "y", None, &Limits::default(), START);
    let until = Wait::Until(START + 3600 * SECOND);

    send(&mut governor, with, news, START).expect("first");
    assert_eq!(send(&mut governor, without, news, START), Err(capacity(Limit::StreamConnections)));
    governor.message_done(with, news);
    assert_eq!(send(&mut governor, with, news, START), Err(Hold { until, because: Limit::ProviderMessageRate }));
    send(&mut governor, without, news, START).expect("no provider");
    send(&mut governor, without, slow, START).expect("first of the hour");
    assert_eq!(send(&mut governor, without, slow, START), Err(Hold { until, because: Limit::StreamMessageRate }));
}

#[test]
fn lowered_limits_count_what_is_open() {
    let mut governor = governor(100);
    let lane = governor.lane_id("a", "x", None, &Limits { connections: 5, ..Limits::default() }, START);
    let mut permits: Vec<_> = (0..5).map(|_| governor.reserve_connection(lane, START).expect("free")).collect();
    governor.set_limits(lane, &Limits { connections: 2, ..Limits::default() }, START);
    while permits.len() > 2 {
        governor.release_connection(permits.pop().expect("some"));
        assert_eq!(governor.reserve_connection(lane, START), Err(capacity(Limit::LaneConnections)));
    }
    governor.release_connection(permits.pop().expect("some"));
    assert!(governor.reserve_connection(lane, START).is_ok());
}

#[test]
fn a_lane_that_moves_to_another_provider_takes_its_connections_along() {
    let mut governor = governor(100);
    let one = governor.provider_id("one", &TotalLimits::default(), START);
    let two = governor.provider_id("two", &TotalLimits::default(), START);
    let lane = governor.lane_id("a", "x", Some(one), &Limits::default(), START);
    let permit = governor.reserve_connection(lane, START).expect("free");
    assert_eq!(governor.lane_id("a", "x", Some(two), &Limits::default(), START), lane);
    assert_eq!(governor.providers().iter().map(|p| p.open).collect::<Vec<_>>(), [0, 1]);
    governor.release_connection(permit);
    assert_eq!(governor.providers().iter().map(|p| p.open).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_paused_lane_neither_connects_nor_sends_and_then_runs_at_its_share() {
    let mut governor = governor(100);
    let stream = governor.stream_id("default", &TotalLimits::default(), START);
    let lane = governor.lane_id("a", "x", None, &Limits { connections: 8, ..Limits::default() }, START);
    assert_eq!(governor.failure(lane, START, "lost"), None);
    assert_eq!(governor.failure(lane, START, "lost"), None);
    let until = START + 60 * SECOND;
    assert_eq!(governor.failure(lane, START, "421 go away"), Some(State::Paused { until }));
    let hold = Hold { until: Wait::Until(until), because: Limit::BackingOff };
    assert_eq!(governor.reserve_connection(lane, START).map(|_| ()), Err(hold));
    assert_eq!(governor.reserve_message(lane, stream, START), Err(hold));
    let seen = governor.lane(lane, START).expect("known");
    assert_eq!((seen.share, seen.connection_limit, seen.waiting), (0, 0, Some(hold)));
    assert_eq!(seen.last_failure, Some((START, "421 go away".to_owned())));

    let permits: Vec<_> = std::iter::from_fn(|| governor.reserve_connection(lane, until).ok()).collect();
    assert_eq!(permits.len(), 2, "a quarter of 8");
    for _ in 0..40 {
        governor.success(lane, until);
    }
    assert_eq!(governor.lane(lane, until).expect("known").connection_limit, 8);
    assert_eq!(governor.block(lane, until, 7200 * SECOND, "S3140").map(|_| ()), Some(()));
    assert_eq!(governor.reset_backoff(lane, until), Some(State::Normal { failures: 0 }));
    permits.into_iter().for_each(|permit| governor.release_connection(permit));
}

#[test]
fn a_slow_lane_may_always_open_one_connection() {
    let mut governor = governor(100);
    let lane = governor.lane_id("a", "x", None, &Limits { connections: 1, ..Limits::default() }, START);
    governor.block(lane, START, SECOND, "x");
    assert!(governor.reserve_connection(lane, START + SECOND).is_ok());
}

#[test]
fn back_off_and_pacing_survive_a_restart() {
    let limits = Limits { message_rate: Some(rate("1/1h")), ..Limits::default() };
    let mut store = HashMap::new();
    let mut first = governor(10);
    let stream = first.stream_id("default", &TotalLimits::default(), START);
    let lane = first.lane_id("a", "x", None, &limits, START);
    let other = first.lane_id("b", "x", None, &Limits::default(), START);
    assert!(matches!(first.reserve_message(lane, stream, START), Err(Hold { until: Wait::Horizon, .. })));
    first.block(other, START, 3600 * SECOND, "4.7.650");
    assert!(first.has_horizons_due());
    let notes = flush(&mut first, START);
    assert_eq!(notes.len(), 2);
    assert!(!first.has_horizons_due());
    store.extend(notes);
    first.reserve_message(lane, stream, START).expect("covered");
    drop(first);

    let now = START + 60 * SECOND;
    let mut second = governor(10);
    for (key, value) in &store {
        assert!(second.restore(key, value, now));
    }
    let stream = second.stream_id("default", &TotalLimits::default(), now);
    let lane = second.lane_id("a", "x", None, &limits, now);
    let other = second.lane_id("b", "x", None, &Limits::default(), now);
    let Err(Hold { until: Wait::Until(until), because: Limit::LaneMessageRate }) =
        second.reserve_message(lane, stream, now)
    else {
        panic!("the hour is not over");
    };
    assert!(until >= START + 3600 * SECOND && until <= now + 3600 * SECOND);
    assert_eq!(
        second.reserve_connection(other, now).map(|_| ()),
        Err(Hold { until: Wait::Until(START + 3600 * SECOND), because: Limit::BackingOff })
    );
}

#[test]
fn a_note_for_one_rate_keeps_what_was_known_about_the_other() {
    let limits = Limits { message_rate: Some(rate("1/1h")), connection_rate: Some(rate("5/1s")), ..Limits::default() };
    let mut store = HashMap::new();
    let mut first = governor(10);
    let stream = first.stream_id("default", &TotalLimits::default(), START);
    let lane = first.lane_id("a", "x", None, &limits, START);
    assert!(first.reserve_message(lane, stream, START).is_err());
    store.extend(flush(&mut first, START));
    first.reserve_message(lane, stream, START).expect("covered");

    // Twice it dies; in between, only a connection is opened.
    for life in 1..3 {
        let now = START + life * 10 * SECOND;
        let mut next = governor(10);
        for (key, value) in &store {
            assert!(next.restore(key, value, now));
        }
        let stream = next.stream_id("default", &TotalLimits::default(), now);
        let lane = next.lane_id("a", "x", None, &limits, now);
        let held = next.reserve_message(lane, stream, now).expect_err("the hour is not over");
        assert_eq!(held.because, Limit::LaneMessageRate);
        assert!(matches!(held.until, Wait::Until(until) if until >= START + 3600 * SECOND), "{held:?}");
        assert!(matches!(next.reserve_connection(lane, now), Err(Hold { until: Wait::Horizon, .. })));
        store.extend(flush(&mut next, now));
        let _permit = next.reserve_connection(lane, now).expect("covered");
    }
}

#[test]
fn notes_that_are_not_ours_change_nothing() {
    let mut governor = governor(10);
    for (key, value) in [(&b"lane\0a\0x"[..], &b""[..]), (b"lane\0a\0x", b"\x07\x00"), (b"other", b"\x01\x00")] {
        assert!(!governor.restore(key, value, START));
    }
}

#[test]
fn idle_lanes_are_forgotten_only_when_nothing_would_change() {
    let hour = 3600 * SECOND;
    let limits = Limits { message_rate: Some(rate("1/1h")), ..Limits::default() };
    let mut governor = governor(10);
    let stream = governor.stream_id("default", &TotalLimits::default(), START);
    let paced = governor.lane_id("a", "paced", None, &limits, START);
    let open = governor.lane_id("a", "open", None, &Limits::default(), START);
    let paused = governor.lane_id("a", "paused", None, &Limits::default(), START);
    let plain = governor.lane_id("a", "plain", None, &Limits::default(), START);
    send(&mut governor, paced, stream, START).expect("first");
    governor.message_done(paced, stream);
    let permit = governor.reserve_connection(open, START).expect("free");
    governor.block(paused, START, 2 * hour, "x");
    flush(&mut governor, START);

    assert_eq!(governor.forget_idle(START + 60 * SECOND, hour), 0, "too early");
    assert_eq!(governor.forget_idle(START + hour, hour), 1);
    assert!(governor.lane(plain, START).is_none());
    assert_eq!(governor.reserve_connection(plain, START), Err(capacity(Limit::Forgotten)));
    governor.success(plain, START);
    governor.release_connection(permit);
    let day_after = START + 30 * hour;
    assert_eq!(governor.forget_idle(day_after, hour), 3);
    let notes = flush(&mut governor, day_after);
    assert_eq!(notes.iter().filter(|(_, value)| value.is_empty()).count(), 2, "their notes go too: {notes:?}");

    let new = governor.lane_id("z", "z", None, &Limits::default(), day_after);
    assert_ne!(new, plain, "a number is used again, an id is not");
    assert!(governor.snapshot(day_after).iter().all(|lane| lane.site == "z"));
}

#[test]
fn a_forgotten_lane_still_counts_when_its_rate_gets_a_longer_stretch() {
    let with = |text| Limits { message_rate: Some(rate(text)), ..Limits::default() };
    let mut governor = governor(10);
    let stream = governor.stream_id("default", &TotalLimits::default(), START);
    let lane = governor.lane_id("a", "x", None, &with("1/1s"), START);
    send(&mut governor, lane, stream, START).expect("first");
    governor.message_done(lane, stream);
    flush(&mut governor, START);
    let later = START + 60 * SECOND;
    assert_eq!(governor.forget_idle(later, SECOND), 1);
    let lane = governor.lane_id("a", "x", None, &with("1/1h"), later);
    let held = send(&mut governor, lane, stream, later).expect_err("one in the last hour");
    assert!(matches!(held.until, Wait::Until(until) if until >= START + 3600 * SECOND), "{held:?}");
}

#[test]
fn a_lost_write_is_due_again() {
    let limits = Limits { message_rate: Some(rate("10/1s")), ..Limits::default() };
    let mut governor = governor(10);
    let stream = governor.stream_id("default", &TotalLimits::default(), START);
    let lane = governor.lane_id("a", "x", None, &limits, START);
    let mut notes = Vec::new();
    assert!(governor.reserve_message(lane, stream, START).is_err());
    governor.horizons_due(START, &mut notes);
    governor.horizon_lost(&notes[0].0);
    assert!(governor.reserve_message(lane, stream, START).is_err());
    assert_eq!(flush(&mut governor, START).len(), 1);
    assert!(governor.reserve_message(lane, stream, START).is_ok());
}

// ---- The model: many workers, live changes, crashes, and a counter that knows nothing of pacers. ----

const SOURCES: usize = 2;
const SITES: usize = 3;
const LANES: usize = SOURCES * SITES;

/// Grants of one kind, remembered for a day.
#[derive(Debug, Default, Clone)]
struct Window {
    /// Since when the present limit, or its forerunners without a gap, are in force.
    events: VecDeque<Micros>,
}

impl Window {
    fn grant(&mut self, at: Micros, rate: Option<Rate>) -> Result<(), TestCaseError> {
        let Some(rate) = rate else { return Ok(()) };
        self.events.push_back(at);
        let begin = at.saturating_sub(rate.per.as_micros());
        let count = self.events.iter().filter(|event| **event > begin).count();
        prop_assert!(count <= rate.count as usize, "{count} within {}, rate {rate}", rate.per);
        Ok(())
    }

    fn limit(&mut self, rate: Option<Rate>) {
        if rate.is_none() {
            self.events.clear();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Connect(usize),
    Disconnect(usize),
    Send(usize, usize),
    Done(usize),
    Succeed(usize),
    Fail(usize),
    Block(usize, u64),
    LaneLimits(usize, u32, Option<Rate>, Option<Rate>),
    ProviderLimits(Option<u32>, Option<Rate>, Option<Rate>),
    StreamLimits(usize, Option<u32>, Option<Rate>),
    BoxLimit(u32),
    /// Notes are written; the last ones of them only perhaps.
    Write(bool),
    Forget,
    Crash,
}

fn some_rate() -> impl Strategy<Value = Option<Rate>> {
    proptest::option::weighted(
        0.7,
        (1u32..40, prop_oneof![1u64..5, Just(60u64), Just(3600)])
            .prop_map(|(count, per)| Rate::new(count, Duration::from_secs(per)).expect("rate")),
    )
}

fn some_step() -> impl Strategy<Value = Step> {
    let lane = 0..LANES;
    prop_oneof![
        6 => prop_oneof![0u64..1000, 0u64..2_000_000, 0u64..600_000_000].prop_map(Step::Wait),
        12 => lane.clone().prop_map(Step::Connect),
        4 => (0usize..50).prop_map(Step::Disconnect),
        20 => (lane.clone(), 0usize..2).prop_map(|(lane, stream)| Step::Send(lane, stream)),
        6 => (0usize..50).prop_map(Step::Done),
        4 => lane.clone().prop_map(Step::Succeed),
        2 => lane.clone().prop_map(Step::Fail),
        1 => (lane.clone(), 1u64..1000).prop_map(|(lane, seconds)| Step::Block(lane, seconds)),
        2 => (lane, 1u32..5, some_rate(), some_rate()).prop_map(|(l, n, c, m)| Step::LaneLimits(l, n, c, m)),
        1 => (proptest::option::of(1u32..6), some_rate(), some_rate())
            .prop_map(|(n, c, m)| Step::ProviderLimits(n, c, m)),
        1 => (0usize..2, proptest::option::of(1u32..6), some_rate()).prop_map(|(s, n, m)| Step::StreamLimits(s, n, m)),
        1 => (1u32..12).prop_map(Step::BoxLimit),
        12 => any::<bool>().prop_map(Step::Write),
        1 => Just(Step::Forget),
        2 => Just(Step::Crash),
    ]
}

struct World {
    governor: Governor,
    store: HashMap<Vec<u8>, Vec<u8>>,
    now: Micros,
    box_limit: u32,
    lane_limits: [Limits; LANES],
    provider_limits: TotalLimits,
    stream_limits: [TotalLimits; 2],
    /// Workers with a connection: permit and lane.
    connections: Vec<(ConnectionPermit, usize)>,
    /// Messages on their way: lane and stream, with the ids they were reserved under.
    messages: Vec<(LaneId, StreamId, usize)>,
    // The independent counters.
    connects: [Window; LANES],
    sends: [Window; LANES],
    provider_connects: Window,
    provider_sends: Window,
    stream_sends: [Window; 2],
    granted: usize,
}

/// Sites 0 and 1 belong to the provider.
fn has_provider(lane: usize) -> bool {
    lane % SITES < 2
}

impl World {
    fn new() -> Self {
        Self {
            governor: governor(8),
            store: HashMap::new(),
            now: START,
            box_limit: 8,
            lane_limits: [Limits {
                connections: 3,
                message_rate: Rate::new(20, Duration::from_secs(1)),
                ..Limits::default()
            }; LANES],
            provider_limits: TotalLimits { connections: Some(4), ..TotalLimits::default() },
            stream_limits: [TotalLimits::default(), TotalLimits { connections: Some(3), ..TotalLimits::default() }],
            connections: Vec::new(),
            messages: Vec::new(),
            connects: Default::default(),
            sends: Default::default(),
            provider_connects: Window::default(),
            provider_sends: Window::default(),
            stream_sends: Default::default(),
            granted: 0,
        }
    }

    fn lane(&mut self, lane: usize) -> LaneId {
        let provider = self.governor.provider_id("provider", &self.provider_limits, self.now);
        self.governor.lane_id(
            ["a", "b"][lane / SITES],
            ["x", "y", "z"][lane % SITES],
            has_provider(lane).then_some(provider),
            &self.lane_limits[lane],
            self.now,
        )
    }

    fn stream(&mut self, stream: usize) -> StreamId {
        self.governor.stream_id(["news", "default"][stream], &self.stream_limits[stream], self.now)
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        let now = self.now;
        match step {
            Step::Wait(micros) => self.now += micros,
            Step::Connect(lane) => {
                let id = self.lane(lane);
                if let Ok(permit) = self.governor.reserve_connection(id, now) {
                    self.granted += 1;
                    self.connections.push((permit, lane));
                    let open = |wanted: &dyn Fn(usize) -> bool| {
                        self.connections.iter().filter(|(_, lane)| wanted(*lane)).count()
                    };
                    prop_assert!(open(&|_| true) <= self.box_limit as usize);
                    prop_assert!(open(&|other| other == lane) <= self.lane_limits[lane].connections as usize);
                    self.connects[lane].grant(now, self.lane_limits[lane].connection_rate)?;
                    if has_provider(lane) {
                        let limit = self.provider_limits.connections.unwrap_or(u32::MAX);
                        prop_assert!(open(&has_provider) <= limit as usize);
                        self.provider_connects.grant(now, self.provider_limits.connection_rate)?;
                    }
                }
            }
            Step::Disconnect(which) => {
                if !self.connections.is_empty() {
                    let (permit, _) = self.connections.swap_remove(which % self.connections.len());
                    self.governor.release_connection(permit);
                }
            }
            Step::Send(lane, stream) => {
                let (id, stream_id) = (self.lane(lane), self.stream(stream));
                if self.governor.reserve_message(id, stream_id, now).is_ok() {
                    self.granted += 1;
                    self.messages.push((id, stream_id, stream));
                    let of_stream = self.messages.iter().filter(|(_, _, other)| *other == stream).count();
                    let limit = self.stream_limits[stream].connections.unwrap_or(u32::MAX);
                    prop_assert!(of_stream <= limit as usize);
                    self.sends[lane].grant(now, self.lane_limits[lane].message_rate)?;
                    self.stream_sends[stream].grant(now, self.stream_limits[stream].message_rate)?;
                    if has_provider(lane) {
                        self.provider_sends.grant(now, self.provider_limits.message_rate)?;
                    }
                }
            }
            Step::Done(which) => {
                if !self.messages.is_empty() {
                    let (lane, stream, _) = self.messages.swap_remove(which % self.messages.len());
                    self.governor.message_done(lane, stream);
                }
            }
            Step::Succeed(lane) => {
                let id = self.lane(lane);
                self.governor.success(id, now);
            }
            Step::Fail(lane) => {
                let id = self.lane(lane);
                self.governor.failure(id, now, "421");
            }
            Step::Block(lane, seconds) => {
                let id = self.lane(lane);
                self.governor.block(id, now, seconds * SECOND, "blocked");
            }
            Step::LaneLimits(lane, connections, connection_rate, message_rate) => {
                self.lane_limits[lane] = Limits { connections, connection_rate, message_rate, ..Limits::default() };
                self.connects[lane].limit(connection_rate);
                self.sends[lane].limit(message_rate);
                self.lane(lane);
            }
            Step::ProviderLimits(connections, connection_rate, message_rate) => {
                self.provider_limits = TotalLimits { connections, connection_rate, message_rate };
                self.provider_connects.limit(connection_rate);
                self.provider_sends.limit(message_rate);
                self.lane(0);
            }
            Step::StreamLimits(stream, connections, message_rate) => {
                self.stream_limits[stream] = TotalLimits { connections, connection_rate: None, message_rate };
                self.stream_sends[stream].limit(message_rate);
                self.stream(stream);
            }
            Step::BoxLimit(limit) => {
                self.box_limit = limit;
                self.governor.configure(limit, Settings::default());
            }
            Step::Write(confirmed) => {
                let mut notes = Vec::new();
                self.governor.horizons_due(now, &mut notes);
                for (key, value) in notes {
                    if confirmed {
                        self.governor.horizon_durable(&key, &value);
                    }
                    self.store.insert(key.clone(), value);
                    if !confirmed {
                        // Written, but the answer was an error.
                        self.governor.horizon_lost(&key);
                    }
                }
            }
            Step::Forget => {
                self.governor.forget_idle(now, SECOND);
            }
            Step::Crash => {
                // Permits die with the process.
                self.connections.clear();
                self.messages.clear();
                self.governor = governor(self.box_limit);
                for (key, value) in self.store.iter().filter(|(_, value)| !value.is_empty()) {
                    prop_assert!(self.governor.restore(key, value, now));
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_limit_is_ever_exceeded_by_any_interleaving(steps in proptest::collection::vec(some_step(), 1..400)) {
        let mut world = World::new();
        for step in steps {
            world.run(step)?;
        }
    }

    #[test]
    fn notes_read_back_as_they_were_and_damage_is_harmless(
        steps in proptest::collection::vec(some_step(), 1..100),
        damage in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut world = World::new();
        for step in steps {
            world.run(step)?;
        }
        for value in world.store.values().filter(|value| !value.is_empty()) {
            let note = Note::decode(value);
            prop_assert!(note.is_some());
            let note = note.unwrap_or_default();
            let mut again = Vec::new();
            note::encode(note.connections, note.messages, Some(&note.backoff), &mut again);
            prop_assert_eq!(&again, value);
        }
        let mut governor = governor(1);
        governor.restore(b"lane\0a\0x", &damage, START);
        governor.lane_id("a", "x", None, &world.lane_limits[0], START);
    }
}

#[test]
fn the_model_is_not_vacuous() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut granted = 0;
    for _ in 0..20 {
        let steps = proptest::collection::vec(some_step(), 400..401).new_tree(&mut runner).expect("steps").current();
        let mut world = World::new();
        for step in steps {
            world.run(step).expect("no limit exceeded");
        }
        granted += world.granted;
    }
    assert!(granted > 500, "{granted} permits in 8000 steps");
}

#[test]
#[ignore = "a measurement"]
fn how_long_a_reservation_takes() {
    let limits = Limits { message_rate: Some(rate("1000000/1s")), ..Limits::default() };
    let mut governor = governor(10_000);
    let stream = governor.stream_id("default", &TotalLimits::default(), START);
    let lanes: Vec<_> = (0..10_000).map(|n| governor.lane_id("a", &format!("site{n}"), None, &limits, START)).collect();
    let begin = std::time::Instant::now();
    let mut count = 0u32;
    for round in 0..100u64 {
        for lane in &lanes {
            let _ = send(&mut governor, *lane, stream, START + round * 10_000);
            governor.message_done(*lane, stream);
            count += 1;
        }
    }
    let took = begin.elapsed();
    eprintln!("{:?} a message reservation over {} lanes", took / count, lanes.len());
}
