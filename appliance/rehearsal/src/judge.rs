//! The judge of limits: counts at the receiver what the owner's configuration
//! promises, for each lane (source × site) and over all lanes of a provider.
//! Pure: events and their times come from outside.
//!
//! Two allowances are made for what a receiver cannot see exactly. A
//! connection counts as closed from the moment its FIN can be read, even if it
//! has not been read yet (the edge finds these out before it blames anybody).
//! Rates are held to their stretch less [`JITTER`], for the way from the
//! sender's clock to the receiver's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use postkeep_configuration::units::Rate;
use postkeep_configuration::{LaneLimits, TotalLimits};
use serde::Serialize;

use crate::mailbox::Moment;

/// How much shorter than promised a stretch may look at the receiver.
pub const JITTER: Duration = Duration::from_millis(250);

/// What the owner's configuration promises towards one provider.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Promise {
    /// For each lane.
    pub lane: LaneLimits,
    /// Over all lanes.
    pub total: TotalLimits,
}

/// A lane as the receiver sees it: name of the source and place of the site.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey {
    /// The source's name, or its address when no name is known.
    pub source: String,
    /// Place of the provider in the rule book.
    pub provider: usize,
    /// Place of the site at that provider.
    pub site: usize,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Violation {
    /// Place of the provider in the rule book.
    #[serde(skip)]
    pub provider: usize,
    /// The source, absent for limits over all lanes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The limit as the configuration names it.
    pub limit: &'static str,
    /// What was promised.
    pub promised: String,
    /// What was seen.
    pub seen: String,
    /// Seconds since the start.
    pub second: f64,
}

/// Counts for one provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections ever made.
    pub connections: u64,
    /// Open now.
    pub open: u32,
    /// Most open at once from one source at one site.
    pub most_open: u32,
    /// MAIL commands.
    pub messages: u64,
    /// Broken promises.
    pub violations: u64,
}

#[derive(Debug, Default)]
struct Watch {
    open: u32,
    opened: VecDeque<Moment>,
    messages: VecDeque<Moment>,
}

/// Most sentences kept.
const SAMPLES: usize = 50;

/// The judge.
#[derive(Debug, Default)]
pub struct Judge {
    promises: HashMap<usize, Promise>,
    lanes: HashMap<LaneKey, Watch>,
    totals: HashMap<usize, Watch>,
    open: HashMap<u64, LaneKey>,
    tallies: BTreeMap<usize, Tally>,
    violations: Vec<Violation>,
    count: u64,
}

impl Judge {
    /// A judge who knows these promises, by place of the provider in the rule book.
    pub fn new(promises: HashMap<usize, Promise>) -> Self {
        Self { promises, ..Self::default() }
    }

    /// Connections open in a lane.
    pub fn open_in(&self, lane: &LaneKey) -> u32 {
        self.lanes.get(lane).map_or(0, |watch| watch.open)
    }

    /// Whether one more connection in that lane would break a promise, so that
    /// the edge looks first for connections that have ended unread.
    pub fn would_exceed(&self, lane: &LaneKey) -> bool {
        let Some(promise) = self.promises.get(&lane.provider) else { return false };
        let over = |open: u32, limit: Option<u32>| limit.is_some_and(|limit| open >= limit);
        over(self.open_in(lane), promise.lane.connections)
            || over(self.totals.get(&lane.provider).map_or(0, |watch| watch.open), promise.total.connections)
    }

    /// A connection was accepted.
    pub fn opened(&mut self, connection: u64, lane: LaneKey, now: Moment) {
        let promise = self.promises.get(&lane.provider).cloned().unwrap_or_default();
        let watch = self.lanes.entry(lane.clone()).or_default();
        watch.open += 1;
        let open = watch.open;
        let slow =
            promise.lane.connection_rate.and_then(|rate| too_fast(&mut watch.opened, rate, now).map(|s| (rate, s)));
        let total = self.totals.entry(lane.provider).or_default();
        total.open += 1;
        let total_open = total.open;
        let total_slow =
            promise.total.connection_rate.and_then(|rate| too_fast(&mut total.opened, rate, now).map(|s| (rate, s)));
        let tally = self.tallies.entry(lane.provider).or_default();
        tally.connections += 1;
        tally.open += 1;
        tally.most_open = tally.most_open.max(open);
        if let Some(limit) = promise.lane.connections.filter(|limit| open > *limit) {
            self.violation(&lane, true, "connections", limit.to_string(), open.to_string(), now);
        }
        if let Some((rate, seen)) = slow {
            self.violation(&lane, true, "connection-rate", rate.to_string(), seen, now);
        }
        if let Some(limit) = promise.total.connections.filter(|limit| total_open > *limit) {
            self.violation(&lane, false, "total connections", limit.to_string(), total_open.to_string(), now);
        }
        if let Some((rate, seen)) = total_slow {
            self.violation(&lane, false, "total connection-rate", rate.to_string(), seen, now);
        }
        self.open.insert(connection, lane);
    }

    /// A connection ended; saying so twice does no harm.
    pub fn closed(&mut self, connection: u64) {
        let Some(lane) = self.open.remove(&connection) else { return };
        for watch in [self.lanes.get_mut(&lane), self.totals.get_mut(&lane.provider)].into_iter().flatten() {
            watch.open = watch.open.saturating_sub(1);
        }
        if let Some(tally) = self.tallies.get_mut(&lane.provider) {
            tally.open = tally.open.saturating_sub(1);
        }
    }

    /// MAIL: the `number`th of its connection.
    pub fn message(&mut self, lane: &LaneKey, number: u32, now: Moment) {
        let promise = self.promises.get(&lane.provider).cloned().unwrap_or_default();
        self.tallies.entry(lane.provider).or_default().messages += 1;
        if let Some(limit) = promise.lane.messages_per_connection.filter(|limit| number > *limit) {
            self.violation(lane, true, "messages-per-connection", limit.to_string(), number.to_string(), now);
        }
        if let Some(rate) = promise.lane.message_rate
            && let Some(seen) = too_fast(&mut self.lanes.entry(lane.clone()).or_default().messages, rate, now)
        {
            self.violation(lane, true, "message-rate", rate.to_string(), seen, now);
        }
        if let Some(rate) = promise.total.message_rate
            && let Some(seen) = too_fast(&mut self.totals.entry(lane.provider).or_default().messages, rate, now)
        {
            self.violation(lane, false, "total message-rate", rate.to_string(), seen, now);
        }
    }

    /// RCPT: the `number`th of its transaction.
    pub fn recipient(&mut self, lane: &LaneKey, number: u32, now: Moment) {
        let limit = self.promises.get(&lane.provider).and_then(|promise| promise.lane.recipients_per_transaction);
        // Once for each transaction, at the first recipient too many.
        if let Some(limit) = limit.filter(|limit| number == limit.saturating_add(1)) {
            self.violation(lane, true, "recipients-per-transaction", limit.to_string(), number.to_string(), now);
        }
    }

    fn violation(
        &mut self,
        lane: &LaneKey,
        of_lane: bool,
        limit: &'static str,
        promised: String,
        seen: String,
        now: Moment,
    ) {
        self.count += 1;
        self.tallies.entry(lane.provider).or_default().violations += 1;
        if self.violations.len() < SAMPLES {
            self.violations.push(Violation {
                provider: lane.provider,
                source: of_lane.then(|| lane.source.clone()),
                limit,
                promised,
                seen,
                second: now.as_secs_f64(),
            });
        }
    }

    /// How many promises were broken.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them, in order.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What was promised towards a provider.
    pub fn promise(&self, provider: usize) -> Option<&Promise> {
        self.promises.get(&provider)
    }

    /// Counts for a provider.
    pub fn tally(&self, provider: usize) -> Tally {
        self.tallies.get(&provider).cloned().unwrap_or_default()
    }
}

/// Counts an event; says what was seen if the last `count + 1` came within the stretch less [`JITTER`].
fn too_fast(events: &mut VecDeque<Moment>, rate: Rate, now: Moment) -> Option<String> {
    let count = rate.count as usize;
    let stretch = rate.per.as_std().saturating_sub(JITTER);
    while events.len() > count {
        events.pop_front();
    }
    let first = (events.len() == count).then(|| events.pop_front()).flatten();
    events.push_back(now);
    let span = now.saturating_sub(first?);
    (span < stretch).then(|| format!("{} in {:.3} s", count + 1, span.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(source: &str) -> LaneKey {
        LaneKey { source: source.to_owned(), provider: 0, site: 0 }
    }

    fn judge(lane: LaneLimits, total: TotalLimits) -> Judge {
        Judge::new(HashMap::from([(0, Promise { lane, total })]))
    }

    fn ms(milliseconds: u64) -> Moment {
        Moment::from_millis(milliseconds)
    }

    #[test]
    fn connections_are_counted_for_each_source_at_every_instant() {
        let mut judge = judge(LaneLimits { connections: Some(2), ..LaneLimits::default() }, TotalLimits::default());
        judge.opened(1, lane("a"), ms(0));
        judge.opened(2, lane("a"), ms(0));
        judge.opened(3, lane("b"), ms(0));
        assert!(judge.would_exceed(&lane("a")));
        assert!(!judge.would_exceed(&lane("b")));
        judge.closed(1);
        judge.closed(1);
        judge.opened(4, lane("a"), ms(1));
        assert_eq!(judge.count(), 0);
        judge.opened(5, lane("a"), ms(2));
        assert_eq!(judge.count(), 1);
        assert_eq!((judge.violations()[0].limit, judge.violations()[0].seen.as_str()), ("connections", "3"));
        assert_eq!((judge.tally(0).open, judge.tally(0).most_open), (4, 3));
    }

    #[test]
    fn totals_are_counted_over_all_sources() {
        let mut judge = judge(LaneLimits::default(), TotalLimits { connections: Some(1), ..TotalLimits::default() });
        judge.opened(1, lane("a"), ms(0));
        judge.opened(2, lane("b"), ms(0));
        assert_eq!(judge.violations()[0].limit, "total connections");
        assert_eq!(judge.violations()[0].source, None);
    }

    #[test]
    fn rates_are_held_to_their_stretch_less_the_allowance() {
        let rate = "2/1s".parse().ok();
        let limits = LaneLimits { message_rate: rate, ..LaneLimits::default() };
        let mut fine = judge(limits.clone(), TotalLimits::default());
        for at in [0, 10, 760, 770, 1520] {
            fine.message(&lane("a"), 1, ms(at));
        }
        assert_eq!(fine.count(), 0);
        let mut broken = judge(limits, TotalLimits::default());
        for at in [0, 10, 740] {
            broken.message(&lane("a"), 1, ms(at));
        }
        assert_eq!(broken.count(), 1);
        assert_eq!(broken.violations()[0].seen, "3 in 0.740 s");
    }

    #[test]
    fn messages_and_recipients_are_counted_by_connection_and_transaction() {
        let limits = LaneLimits {
            messages_per_connection: Some(2),
            recipients_per_transaction: Some(2),
            ..LaneLimits::default()
        };
        let mut judge = judge(limits, TotalLimits::default());
        (1..=3).for_each(|number| judge.message(&lane("a"), number, ms(0)));
        (1..=4).for_each(|number| judge.recipient(&lane("a"), number, ms(0)));
        let limits: Vec<_> = judge.violations().iter().map(|violation| violation.limit).collect();
        assert_eq!(limits, ["messages-per-connection", "recipients-per-transaction"]);
    }

    proptest::proptest! {
        /// The oracle counts every stretch by brute force.
        #[test]
        fn a_rate_is_broken_exactly_when_some_stretch_holds_too_many(
            gaps in proptest::collection::vec(0u64..900, 1..60),
            count in 1u32..6,
        ) {
            let rate = Rate::new(count, postkeep_configuration::units::Duration::from_secs(2)).unwrap();
            let mut judge = judge(LaneLimits { message_rate: Some(rate), ..LaneLimits::default() }, TotalLimits::default());
            let mut times = Vec::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                times.push(now);
                judge.message(&lane("a"), 1, ms(now));
            }
            let crowded = (0..times.len()).any(|last| {
                let within = times[..=last].iter().filter(|time| times[last] - **time < 1750).count();
                within > count as usize
            });
            proptest::prop_assert_eq!(judge.count() > 0, crowded);
        }
    }
}
