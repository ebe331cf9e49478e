//! What is known of domains' policies, without clock or network: when to ask, when to fetch, and what counts meanwhile.
//!
//! A policy that was fetched counts until its `max_age` is over, whatever becomes of the TXT record or the web server
//! (§5.1, §10.2): that is what makes it proof against somebody who can suppress both for a while.

use std::collections::HashMap;
use std::sync::Arc;

use super::policy::{Mode, Policy};

/// A record that was seen, or seen to be absent, is not asked for again for so long, in seconds.
const RECORD_LIFE: u64 = 300;
/// After a fetch that failed, none is tried for so long (§3.3).
const FETCH_PAUSE: u64 = 300;
/// A policy is fetched again after so long although its record has not changed (§3.3).
const REFRESH_AFTER: u64 = 86_400;
/// Domains that are remembered.
const MOST: usize = 200_000;

/// A policy with what it was fetched under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedPolicy {
    /// Its domain.
    pub domain: Box<str>,
    /// `id` of the TXT record.
    pub id: Box<str>,
    /// When it was fetched, Unix seconds.
    pub fetched: u64,
    /// The policy.
    pub policy: Policy,
}

impl CachedPolicy {
    /// When it stops counting, Unix seconds.
    pub fn expires(&self) -> u64 {
        self.fetched.saturating_add(self.policy.max_age)
    }

    /// When it is fetched again, although its record has not changed: daily, and well before it runs out.
    fn refresh(&self) -> u64 {
        self.fetched.saturating_add(REFRESH_AFTER.min(self.policy.max_age / 2))
    }
}

/// What the DNS said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is a policy with that id.
    Policy(String),
    /// There is none.
    None,
    /// There was no answer.
    Failed,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// This counts; `None`: nothing does.
    Known(Option<Arc<CachedPolicy>>),
    /// Ask for the record.
    Ask,
    /// Fetch the policy; give its outcome to [`Cache::fetched`].
    Fetch,
}

#[derive(Debug, Default)]
struct Entry {
    policy: Option<Arc<CachedPolicy>>,
    /// The record was asked for.
    asked: Option<u64>,
    /// A fetch failed.
    failed: Option<u64>,
}

/// The policies of many domains.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Box<str>, Entry>,
}

impl Cache {
    /// With policies that were kept.
    pub fn new(kept: impl IntoIterator<Item = CachedPolicy>) -> Self {
        let entries = kept
            .into_iter()
            .map(|policy| (policy.domain.clone(), Entry { policy: Some(Arc::new(policy)), ..Entry::default() }))
            .collect();
        Self { entries }
    }

    /// What counts for a domain now.
    pub fn standing(&self, domain: &str, now: u64) -> Standing {
        match self.entries.get(domain) {
            Some(entry) if entry.asked.is_some_and(|asked| now < asked + RECORD_LIFE) => {
                Standing::Known(entry.valid(now))
            }
            _ => Standing::Ask,
        }
    }

    /// What is known to count for a domain now, without asking.
    pub fn known(&self, domain: &str, now: u64) -> Option<Arc<CachedPolicy>> {
        self.entries.get(domain)?.valid(now)
    }

    /// The record was asked for.
    pub fn answered(&mut self, domain: &str, answer: &Answer, now: u64) -> Standing {
        self.make_room(now);
        let entry = self.entries.entry(domain.into()).or_default();
        entry.asked = Some(now);
        let valid = entry.valid(now);
        let Answer::Policy(id) = answer else {
            // Whoever can hide the record must not switch the policy off.
            return Standing::Known(valid);
        };
        let is_same = valid.as_ref().is_some_and(|cached| *cached.id == **id && now < cached.refresh());
        let may_fetch = entry.failed.is_none_or(|failed| now >= failed + FETCH_PAUSE);
        if is_same || !may_fetch { Standing::Known(valid) } else { Standing::Fetch }
    }

    /// A fetch has ended: with the policy, or `None` when it failed. Gives what counts now.
    pub fn fetched(&mut self, domain: &str, id: &str, policy: Option<Policy>, now: u64) -> Option<Arc<CachedPolicy>> {
        let entry = self.entries.entry(domain.into()).or_default();
        match policy {
            Some(policy) => {
                entry.failed = None;
                entry.policy =
                    Some(Arc::new(CachedPolicy { domain: domain.into(), id: id.into(), fetched: now, policy }));
            }
            None => entry.failed = Some(now),
        }
        entry.valid(now)
    }

    /// Domains whose policy should be fetched again though no mail asks for it, so that it does not run out (§3.3).
    pub fn stale(&self, now: u64) -> Vec<Box<str>> {
        self.entries
            .iter()
            .filter(|(_, entry)| {
                entry.valid(now).is_some_and(|cached| now >= cached.refresh())
                    && entry.failed.is_none_or(|failed| now >= failed + FETCH_PAUSE)
            })
            .map(|(domain, _)| domain.clone())
            .collect()
    }

    /// Forgets policies that have run out; gives their domains.
    pub fn expire(&mut self, now: u64) -> Vec<Box<str>> {
        let mut gone = Vec::new();
        for (domain, entry) in &mut self.entries {
            if entry.policy.as_ref().is_some_and(|cached| cached.expires() <= now) {
                entry.policy = None;
                gone.push(domain.clone());
            }
        }
        gone
    }

    /// Every policy that counts.
    pub fn policies(&self, now: u64) -> impl Iterator<Item = Arc<CachedPolicy>> {
        self.entries.values().filter_map(move |entry| entry.valid(now))
    }

    fn make_room(&mut self, now: u64) {
        if self.entries.len() >= MOST {
            self.entries.retain(|_, entry| entry.valid(now).is_some());
        }
        if self.entries.len() >= MOST {
            // Rather one policy fewer than memory without end; it comes back with its next mail.
            if let Some(domain) = self.entries.keys().next().cloned() {
                self.entries.remove(&domain);
            }
        }
    }
}

impl Entry {
    fn valid(&self, now: u64) -> Option<Arc<CachedPolicy>> {
        self.policy.as_ref().filter(|cached| cached.policy.mode != Mode::None && now < cached.expires()).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: &str, max_age: u64) -> Policy {
        let text = format!("version: STSv1\nmode: {mode}\nmx: mx.example.org\nmax_age: {max_age}\n");
        Policy::parse(text.as_bytes()).unwrap()
    }

    fn found(id: &str) -> Answer {
        Answer::Policy(id.to_owned())
    }

    const WEEK: u64 = 604_800;

    #[test]
    fn a_policy_is_asked_for_fetched_once_and_renewed_when_its_id_changes() {
        let mut cache = Cache::default();
        assert_eq!(cache.standing("a.example", 0), Standing::Ask);
        assert_eq!(cache.answered("a.example", &found("1"), 0), Standing::Fetch);
        assert!(cache.fetched("a.example", "1", Some(policy("enforce", WEEK)), 0).is_some());
        assert!(matches!(cache.standing("a.example", RECORD_LIFE - 1), Standing::Known(Some(_))));
        assert_eq!(cache.standing("a.example", RECORD_LIFE), Standing::Ask);
        assert!(matches!(cache.answered("a.example", &found("1"), 1000), Standing::Known(Some(_))));
        assert_eq!(cache.answered("a.example", &found("2"), 2000), Standing::Fetch);
        // The old one counts while the new one cannot be had.
        assert_eq!(cache.fetched("a.example", "2", None, 2000).unwrap().id.as_ref(), "1");
        assert!(
            matches!(cache.answered("a.example", &found("2"), 2100), Standing::Known(Some(_))),
            "not at once again"
        );
        assert_eq!(cache.answered("a.example", &found("2"), 2000 + FETCH_PAUSE), Standing::Fetch);
    }

    #[test]
    fn neither_a_hidden_record_nor_a_dead_host_switches_a_policy_off_before_its_time() {
        let mut cache = Cache::default();
        cache.answered("a.example", &found("1"), 0);
        cache.fetched("a.example", "1", Some(policy("enforce", WEEK)), 0);
        for (now, answer) in [(1000, Answer::None), (2000, Answer::Failed), (WEEK - 1, Answer::None)] {
            assert!(matches!(cache.answered("a.example", &answer, now), Standing::Known(Some(_))), "{answer:?}");
        }
        assert_eq!(cache.answered("a.example", &Answer::None, WEEK), Standing::Known(None));
        assert_eq!(cache.expire(WEEK), ["a.example".into()]);
        assert_eq!(cache.policies(WEEK).count(), 0);
    }

    #[test]
    fn a_domain_without_a_policy_that_can_be_had_is_as_if_it_had_none() {
        let mut cache = Cache::default();
        assert_eq!(cache.answered("a.example", &Answer::None, 0), Standing::Known(None));
        assert_eq!(cache.answered("b.example", &found("1"), 0), Standing::Fetch);
        assert_eq!(cache.fetched("b.example", "1", None, 0), None);
        assert_eq!(cache.answered("c.example", &found("1"), 0), Standing::Fetch);
        assert_eq!(cache.fetched("c.example", "1", Some(policy("none", WEEK)), 0), None, "mode none");
    }

    #[test]
    fn policies_are_renewed_daily_though_nobody_writes_to_the_domain() {
        let mut cache = Cache::new([CachedPolicy {
            domain: "a.example".into(),
            id: "1".into(),
            fetched: 0,
            policy: policy("enforce", WEEK),
        }]);
        assert_eq!(cache.stale(REFRESH_AFTER - 1).len(), 0);
        assert_eq!(cache.stale(REFRESH_AFTER), ["a.example".into()]);
        cache.fetched("a.example", "1", None, REFRESH_AFTER);
        assert_eq!(cache.stale(REFRESH_AFTER + 1).len(), 0, "a failed fetch is not tried again at once");
        cache.fetched("a.example", "1", Some(policy("enforce", WEEK)), 2 * REFRESH_AFTER);
        assert_eq!(cache.stale(2 * REFRESH_AFTER).len(), 0);
        // The week begins anew.
        assert_eq!(cache.policies(8 * REFRESH_AFTER).count(), 1);
    }

    #[test]
    fn a_policy_of_a_day_or_less_is_renewed_before_it_runs_out() {
        let mut cache = Cache::default();
        cache.answered("a.example", &found("1"), 0);
        cache.fetched("a.example", "1", Some(policy("enforce", 3600)), 0);
        assert_eq!(cache.stale(1799).len(), 0);
        assert_eq!(cache.stale(1800), ["a.example".into()]);
        assert!(cache.known("a.example", 3599).is_some() && cache.known("a.example", 3600).is_none());
    }

    #[test]
    fn the_memory_is_bounded_and_policies_stay_longest() {
        let mut cache = Cache::default();
        cache.answered("kept.example", &found("1"), 0);
        cache.fetched("kept.example", "1", Some(policy("enforce", WEEK)), 0);
        for number in 0..MOST + 10 {
            cache.answered(&format!("{number}.example"), &Answer::None, 1);
        }
        assert!(cache.entries.len() <= MOST);
        assert_eq!(cache.policies(2).count(), 1);
    }
}
