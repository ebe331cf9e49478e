//! What the configuration means for the engine, worked out once for each
//! (re)load: sources, pools and streams by number, and the retry schedule.

use std::sync::Arc;

use postkeep_configuration::{Configuration, OneClick, Pool, Stream};

use crate::clock::{Micros, seconds};
use crate::queue::Entry;

/// A source's number, for as long as the process runs; names keep their number over reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceId(pub u16);

/// A pool as the engine uses it: sources with a weight above zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PoolPlan {
    pub name: String,
    pub members: Vec<(SourceId, u32)>,
    /// Names of the members, for selectors.
    pub names: Vec<String>,
}

impl PoolPlan {
    /// The pool or source of that name, which a message chose.
    pub(crate) fn chosen(
        configuration: &Configuration,
        name: &str,
        source: impl FnMut(&str) -> SourceId,
    ) -> Option<Self> {
        match configuration.pool.get(name) {
            Some(pool) => Some(Self::new(name, pool, source)),
            None if configuration.source.contains_key(name) => {
                let pool = Pool { sources: [(name.to_owned(), 1)].into() };
                Some(Self::new(name, &pool, source))
            }
            None => None,
        }
    }

    fn new(name: &str, pool: &Pool, mut source: impl FnMut(&str) -> SourceId) -> Self {
        let members: Vec<_> = pool.sources.iter().filter(|(_, weight)| **weight > 0).collect();
        Self {
            name: name.to_owned(),
            members: members.iter().map(|(name, weight)| (source(name), **weight)).collect(),
            names: members.iter().map(|(name, _)| (*name).clone()).collect(),
        }
    }

    pub(crate) fn weight(&self, source: SourceId) -> Option<u32> {
        self.members.iter().find(|(member, _)| *member == source).map(|(_, weight)| *weight)
    }
}

/// A stream as the engine uses it.
#[derive(Debug, Clone)]
pub(crate) struct StreamPlan {
    pub settings: Stream,
    pub pool: Arc<PoolPlan>,
    /// Each recipient gets a transaction of its own, with tokens of its own.
    pub has_tokens: bool,
}

impl StreamPlan {
    pub(crate) fn new(configuration: &Configuration, name: &str, source: impl FnMut(&str) -> SourceId) -> Self {
        let settings = configuration.stream(name).clone();
        let pool = match configuration.pool_of(name) {
            Some((pool_name, pool)) => PoolPlan::new(pool_name, pool, source),
            None => PoolPlan::default(),
        };
        let has_tokens = settings.verp && configuration.feedback.is_some() || settings.unsubscribe == OneClick::Add;
        Self { settings, pool: Arc::new(pool), has_tokens }
    }

    /// When an accepted message is given up on, Unix seconds. Up to a second late and never early:
    /// `received` has lost its fraction.
    pub(crate) fn expires(&self, received: u32) -> u32 {
        let life = u32::try_from(self.settings.expire_after.as_secs()).unwrap_or(u32::MAX);
        received.saturating_add(life).saturating_add(1)
    }

    /// What follows a failed attempt at `now`: the entry with its next due
    /// time, or `None` when its time is up. `random` is 0 to 1, `at_least` a wait that the receiver imposed.
    pub(crate) fn next_attempt(
        &self,
        entry: Entry,
        now: Micros,
        random: f64,
        at_least: Option<Micros>,
    ) -> Option<Entry> {
        let now_seconds = seconds(now);
        let expires = self.expires(entry.received);
        if now_seconds >= expires {
            return None;
        }
        let tries = usize::from(entry.tries());
        let base =
            self.settings.retry.get(tries).or(self.settings.retry.last()).map_or(300_000_000, |wait| wait.as_micros());
        let jitter = self.settings.retry_jitter.clamp(0.0, 0.9);
        // Jitter goes both ways round the scheduled wait.
        let wait = (base as f64 * (1.0 + jitter * (2.0 * random - 1.0))) as u64;
        let wait = wait.max(at_least.unwrap_or(0));
        // Due times are whole seconds; rounding down would shorten the wait.
        let due = seconds(now.saturating_add(wait).saturating_add(999_999)).min(expires);
        let attempts = (entry.tries() + 1).min(!Entry::DELAY_NOTIFIED) | (entry.attempts & Entry::DELAY_NOTIFIED);
        Some(Entry { due, attempts, ..entry })
    }
}

#[cfg(test)]
mod tests {
    use postkeep_configuration::units::Duration;
    use proptest::prelude::*;

    use super::*;

    fn plan(retry: &[u64], expire: u64) -> StreamPlan {
        let settings = Stream {
            retry: retry.iter().map(|seconds| Duration::from_secs(*seconds)).collect(),
            retry_jitter: 0.2,
            expire_after: Duration::from_secs(expire),
            ..Stream::default()
        };
        StreamPlan { settings, pool: Arc::default(), has_tokens: false }
    }

    #[test]
    fn four_and_a_half_days_of_retries_pass_in_a_moment_and_end_at_the_expiry() {
        let plan = plan(&[300, 600, 3600], 4 * 86400 + 12 * 3600);
        let mut entry = Entry { message: 1, due: 0, received: 1000, recipient: 0, attempts: 0 };
        let mut now = 1000u64;
        let mut waits = Vec::new();
        while let Some(next) = plan.next_attempt(entry, now * 1_000_000, 0.5, None) {
            waits.push(u64::from(next.due) - now);
            now = u64::from(next.due);
            entry = next;
        }
        assert_eq!(waits[..4], [300, 600, 3600, 3600]);
        assert_eq!(now, 1000 + 4 * 86400 + 12 * 3600 + 1, "the last attempt is at the expiry itself");
        assert_eq!(usize::from(entry.tries()), waits.len());
    }

    proptest! {
        #[test]
        fn the_next_attempt_is_later_than_now_within_jitter_and_never_past_the_expiry(
            tries in 0u16..40, age in 0u32..400_000, random in 0.0f64..=1.0, imposed in proptest::option::of(0u64..10_000_000_000)
        ) {
            let plan = plan(&[60, 120, 240], 388_800);
            let received = 1_000_000;
            let now = u64::from(received + age) * 1_000_000;
            let entry = Entry { message: 1, due: 0, received, recipient: 0, attempts: tries | Entry::DELAY_NOTIFIED };
            match plan.next_attempt(entry, now, random, imposed) {
                None => prop_assert!(age > 388_800),
                Some(next) => {
                    prop_assert!(next.due > received + age);
                    prop_assert!(next.due <= received + 388_801);
                    prop_assert_eq!(next.tries(), tries + 1);
                    prop_assert_eq!(next.attempts & Entry::DELAY_NOTIFIED, Entry::DELAY_NOTIFIED);
                    if imposed.is_none() && next.due < received + 388_801 {
                        prop_assert!(next.due - received - age <= 289);
                        prop_assert!(next.due - received - age >= 48);
                    }
                }
            }
        }
    }
}
