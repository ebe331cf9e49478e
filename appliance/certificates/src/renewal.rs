//! When a certificate is renewed. Pure: time and chance are passed in, in Unix seconds and 0 to 1.
//!
//! It is due at two thirds of its life and a little later, by chance, so that boxes that began together do not ask
//! together. After a failure the wait grows: at most four tries in an hour, where Let's Encrypt allows five failed
//! validations for a name, and at last two a day.

use serde::{Deserialize, Serialize};

/// Waits after the first failure, the second, and so on; the last one repeats. Seconds.
const WAITS: [u64; 8] = [120, 600, 1800, 3600, 7200, 14_400, 28_800, 43_200];
/// No wait is longer, whatever an authority or a wrong clock said. Seconds.
const LONGEST_REST: u64 = 2 * 86_400;
/// Share of the life over which the time that it is due is spread.
const SPREAD: f64 = 0.03;
/// Share of a wait that is added by chance.
const JITTER: f64 = 0.1;

/// From when to when a certificate is valid, Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub from: u64,
    /// To.
    pub until: u64,
}

/// Where renewal stands; what is written down survives restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Renewal {
    /// When the certificate is due; 0: there is none.
    #[serde(skip)]
    due: u64,
    /// Failures since the last success.
    failures: u32,
    /// No further try before this.
    not_before: u64,
}

impl Renewal {
    /// A certificate is there: it is due at two thirds of its life.
    pub fn holds(&mut self, validity: Validity, chance: f64) {
        let life = validity.until.saturating_sub(validity.from);
        self.due = validity.from + life / 3 * 2 + (life as f64 * SPREAD * chance.clamp(0.0, 1.0)) as u64;
    }

    /// A certificate was got.
    pub fn succeeded(&mut self, validity: Validity, chance: f64) {
        (self.failures, self.not_before) = (0, 0);
        self.holds(validity, chance);
    }

    /// A try begins. It counts as failed until it has succeeded, so that it counts if nobody lives to see its end.
    pub fn begun(&mut self, now: u64, chance: f64) {
        let wait = WAITS[(self.failures as usize).min(WAITS.len() - 1)];
        let wait = wait + (wait as f64 * JITTER * chance.clamp(0.0, 1.0)) as u64;
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(wait);
    }

    /// The try that began at `now` failed; `at_least`: how long the authority wants to be left alone, in seconds.
    pub fn failed(&mut self, now: u64, at_least: u64) {
        self.not_before = self.not_before.max(now.saturating_add(at_least));
    }

    /// What was written down under a clock that was far ahead does not hold for ever.
    pub fn bound(&mut self, now: u64) {
        self.not_before = self.not_before.min(now.saturating_add(LONGEST_REST));
    }

    /// When to try next. In the past: now.
    pub fn next(&self) -> u64 {
        self.due.max(self.not_before)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const START: u64 = 1_790_000_000;

    /// What happened in a simulated stretch of time.
    #[derive(Debug, Default)]
    struct Year {
        renewals: u32,
        tries: Vec<u64>,
        expired: u64,
    }

    /// Runs for so many days, minute by minute; `works` says whether the authority gives a certificate at that time.
    fn run(days: u64, life: u64, works: impl Fn(u64) -> bool) -> Year {
        let (mut renewal, mut year, mut until) = (Renewal::default(), Year::default(), 0);
        for now in (START..START + days * DAY).step_by(60) {
            let chance = (now % 97) as f64 / 97.0;
            year.expired += u64::from(until != 0 && now >= until) * 60;
            if renewal.next() > now {
                continue;
            }
            year.tries.push(now);
            renewal.begun(now, chance);
            if works(now) {
                until = now + life;
                // Authorities date certificates an hour back.
                renewal.succeeded(Validity { from: now - 3600, until }, chance);
                year.renewals += 1;
            } else {
                renewal.failed(now, 0);
            }
        }
        year
    }

    fn most_in(tries: &[u64], stretch: u64) -> usize {
        tries
            .iter()
            .map(|from| tries.iter().filter(|at| (*from..*from + stretch).contains(at)).count())
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn in_a_year_a_certificate_of_90_days_is_got_six_times_and_never_runs_out() {
        let year = run(365, 90 * DAY, |_| true);
        // On the first day, then every 60 to 62 days.
        assert_eq!((year.renewals, year.expired, year.tries.len()), (6, 0, 6), "{year:?}");
    }

    #[test]
    fn one_of_six_days_is_renewed_in_time_too() {
        let year = run(365, 6 * DAY, |_| true);
        assert!((85..=92).contains(&year.renewals) && year.expired == 0, "{year:?}");
    }

    #[test]
    fn an_authority_that_is_away_for_three_weeks_is_not_pestered_and_nothing_runs_out() {
        let away = START + 60 * DAY..START + 81 * DAY;
        let year = run(365, 90 * DAY, |now| !away.contains(&now));
        assert_eq!(year.expired, 0, "{year:?}");
        assert!(most_in(&year.tries, 3600) <= 5 && most_in(&year.tries, DAY) <= 12, "{year:?}");
        assert!(year.tries.len() < 60, "{}", year.tries.len());
    }

    #[test]
    fn one_that_never_works_is_asked_four_times_in_the_first_hour_and_then_twice_a_day() {
        let year = run(30, 90 * DAY, |_| false);
        assert!(most_in(&year.tries, 3600) <= 4, "{:?}", year.tries);
        assert_eq!(most_in(&year.tries.split_off_last_days(10), DAY), 2);
    }

    trait LastDays {
        fn split_off_last_days(&self, days: u64) -> Vec<u64>;
    }

    impl LastDays for Vec<u64> {
        fn split_off_last_days(&self, days: u64) -> Vec<u64> {
            self.iter().copied().filter(|at| *at >= START + (30 - days) * DAY).collect()
        }
    }

    #[test]
    fn failures_are_remembered_over_restarts_and_an_authority_can_ask_for_more_patience() {
        let mut renewal = Renewal::default();
        assert_eq!(renewal.next(), 0, "at once");
        renewal.begun(START, 0.0);
        renewal.failed(START, 0);
        assert_eq!((renewal.failures(), renewal.next()), (1, START + 120), "also if nobody sees its end");
        renewal.begun(START, 0.5);
        renewal.failed(START, 5 * 3600);
        assert_eq!(renewal.next(), START + 5 * 3600);
        let again: Renewal = serde_json::from_str(&serde_json::to_string(&renewal).unwrap()).unwrap();
        assert_eq!(again, renewal);
        let mut later = again;
        later.bound(START);
        assert_eq!(later, renewal);
        later.bound(START - 365 * DAY);
        assert_eq!(later.next(), START - 363 * DAY, "the clock was a year ahead");
        renewal.succeeded(Validity { from: START, until: START + 90 * DAY }, 0.0);
        assert_eq!((renewal.failures(), renewal.next()), (0, START + 60 * DAY));
    }
}
