use std::collections::VecDeque;

use postkeep_configuration::units::Duration;
use proptest::prelude::*;

use super::*;

/// A day in November 2026.
const START: Micros = 1_795_000_000 * SECOND;

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

/// The oracle: remembers every grant of the last day and counts.
#[derive(Default)]
struct SlidingWindow(VecDeque<Micros>);

impl SlidingWindow {
    fn grant(&mut self, at: Micros, rate: Rate) -> Result<(), TestCaseError> {
        while self.0.front().is_some_and(|first| first + DAY <= at) {
            self.0.pop_front();
        }
        self.0.push_back(at);
        let begin = at.saturating_sub(rate.per.as_micros());
        let count = self.0.iter().rev().take_while(|event| **event > begin).count();
        prop_assert!(count <= rate.count as usize, "{count} grants within {} at {at}, rate {rate}", rate.per);
        Ok(())
    }
}

#[test]
fn a_burst_comes_at_once_and_the_rest_evenly() {
    let mut pacer = Pacer::volatile(rate("32/1m"));
    let mut at = Vec::new();
    let mut now = START;
    while at.len() < 40 {
        match pacer.take(now) {
            Ok(()) => at.push(now),
            Err(NotYet::Until(later)) => now = later,
            Err(NotYet::Horizon) => panic!("volatile"),
        }
    }
    assert_eq!(at[0], at[1]);
    assert!(at[2] > at[1]);
    // b = 2, I = 60 s / 31.
    assert_eq!(at[3] - at[2], 60_000_000u64.div_ceil(31));
    assert_eq!(at.iter().filter(|event| **event < START + 60 * SECOND).count(), 32);
}

#[test]
fn small_rates_are_spaced_and_the_steady_rate_is_within_seven_percent() {
    let mut pacer = Pacer::volatile(rate("1/1h"));
    assert_eq!(pacer.take(START), Ok(()));
    assert_eq!(pacer.take(START + 1), Err(NotYet::Until(START + 3600 * SECOND)));
    assert_eq!(pacer.take(START + 3600 * SECOND), Ok(()));

    let mut pacer = Pacer::volatile(rate("1000/1m"));
    let mut now = START;
    let mut count = 0;
    while now < START + 600 * SECOND {
        match pacer.take(now) {
            Ok(()) => count += 1,
            Err(NotYet::Until(later)) => now = later,
            Err(NotYet::Horizon) => panic!("volatile"),
        }
    }
    assert!((9300..=10_000).contains(&count), "{count}");
}

#[test]
fn nothing_is_granted_without_a_durable_horizon() {
    let mut pacer = Pacer::new(rate("10/1s"));
    assert_eq!(pacer.horizon_needed(START), None, "nobody wants anything yet");
    assert_eq!(pacer.take(START), Err(NotYet::Horizon));
    let horizon = pacer.horizon_needed(START).expect("wanted");
    assert_eq!(pacer.horizon_needed(START), None, "named once");
    assert_eq!(pacer.take(START), Err(NotYet::Horizon), "not on disk yet");
    pacer.horizon_lost();
    assert_eq!(pacer.horizon_needed(START), Some(horizon), "lost, so due again");
    pacer.horizon_durable(horizon);
    assert_eq!(pacer.take(START), Ok(()));
}

#[test]
fn the_next_horizon_is_asked_for_before_the_last_runs_out() {
    let mut pacer = Pacer::new(rate("100/1s"));
    let mut now = START;
    let mut writes = 0;
    let mut stalls = 0;
    let mut on_the_way: Option<(Micros, Horizon)> = None;
    while now < START + 20 * SECOND {
        if let Some((done, horizon)) = on_the_way
            && done <= now
        {
            pacer.horizon_durable(horizon);
            on_the_way = None;
        }
        match pacer.take(now) {
            Ok(()) => {}
            Err(NotYet::Until(later)) => now = later,
            Err(NotYet::Horizon) => {
                stalls += 1;
                now += 1000;
            }
        }
        if on_the_way.is_none()
            && let Some(horizon) = pacer.horizon_needed(now)
        {
            writes += 1;
            // A slow disk: 20 ms.
            on_the_way = Some((now + 20_000, horizon));
        }
    }
    assert!(stalls <= 21, "only at the start: {stalls}");
    assert!(writes <= 45, "about two a second: {writes}");
}

#[test]
fn a_horizon_from_before_a_change_of_rate_covers_nothing() {
    let mut pacer = Pacer::new(rate("10/1s"));
    let _ = pacer.take(START);
    let old = pacer.horizon_needed(START).expect("wanted");
    pacer.set_rate(START, rate("20/1s"));
    pacer.horizon_durable(old);
    assert_eq!(pacer.take(START), Err(NotYet::Horizon));
}

#[test]
fn a_clock_put_back_delays_by_one_stretch_at_most() {
    let mut pacer = Pacer::volatile(rate("5/1m"));
    assert_eq!(pacer.take(START), Ok(()));
    let back = START - 365 * DAY;
    let Err(NotYet::Until(until)) = pacer.take(back) else { panic!("granted") };
    assert!(until <= back + 60 * SECOND);
    assert_eq!(pacer.take(until), Ok(()));
}

#[test]
fn extremes_do_not_overflow() {
    let widest = Rate::new(u32::MAX, Duration::from_secs(86_400)).expect("rate");
    let narrowest = Rate::new(1, Duration::from_secs(86_400)).expect("rate");
    for now in [0, 1, Micros::MAX - 1, Micros::MAX] {
        let mut pacer = Pacer::new(widest);
        let _ = pacer.take(now);
        pacer.set_rate(now, narrowest);
        let _ = pacer.take_share(now, 0);
        if let Some(horizon) = pacer.horizon_needed(now) {
            pacer.horizon_durable(horizon);
            pacer.restore(now, horizon);
        }
        pacer.restore(now, Horizon { until: Micros::MAX, rate: widest, finest: 0 });
        let _ = pacer.take(now);
    }
}

#[test]
fn a_short_stretch_between_two_long_ones_does_not_hide_the_past() {
    let mut pacer = Pacer::volatile(rate("160/24h"));
    let burst = std::iter::from_fn(|| pacer.take(START).ok()).count();
    assert_eq!(burst, 10);
    // For a moment only the last second counts, and then the last four again.
    pacer.set_rate(START, rate("1/1s"));
    pacer.set_rate(START, rate("3/4s"));
    assert_eq!(pacer.ready_at(START), START + 4 * SECOND);
}

#[test]
fn a_raised_rate_takes_effect_at_once() {
    let mut pacer = Pacer::volatile(rate("1/1h"));
    assert_eq!(pacer.take(START), Ok(()));
    pacer.set_rate(START, rate("10/1s"));
    assert!(pacer.ready_at(START) <= START + SECOND);
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let count = prop_oneof![1u32..5, 1u32..200, 1u32..5000];
    let seconds = prop_oneof![1u64..4, 1u64..120, Just(3600), Just(86_400)];
    (count, seconds).prop_map(|(count, per)| Rate::new(count, Duration::from_secs(per)).expect("rate"))
}

#[derive(Debug, Clone)]
enum Step {
    /// Time passes: this many thousandths of the stretch.
    Wait(u64),
    /// Tries this often at once.
    Take(u8, u32),
    /// Waits until ready, then takes, this often.
    Saturate(u16),
    /// Another rate.
    Change(Rate),
    /// The clock is put back by so many seconds.
    PutBack(u64),
    /// The process dies; perhaps the last horizon was written and not yet confirmed.
    Crash(bool),
}

fn any_step(changes: bool) -> impl Strategy<Value = Step> {
    let share = prop_oneof![Just(WHOLE), Just(250u32), 1u32..1000];
    prop_oneof![
        3 => prop_oneof![0u64..10, 0u64..1100].prop_map(Step::Wait),
        3 => (1u8..40, share).prop_map(|(count, share)| Step::Take(count, share)),
        3 => (1u16..300).prop_map(Step::Saturate),
        1 => if changes { any_rate().prop_map(Step::Change).boxed() } else { Just(Step::Wait(1)).boxed() },
        1 => prop_oneof![1u64..5, 1u64..200_000].prop_map(Step::PutBack),
        2 => any::<bool>().prop_map(Step::Crash),
    ]
}

/// A pacer, its store, and the real time beside its clock.
struct World {
    pacer: Pacer,
    rate: Rate,
    /// What the store holds.
    stored: Option<Horizon>,
    /// Real time; the clock shows `real - behind`.
    real: Micros,
    behind: Micros,
    counter: SlidingWindow,
}

impl World {
    fn new(rate: Rate) -> Self {
        Self { pacer: Pacer::new(rate), rate, stored: None, real: START, behind: 0, counter: SlidingWindow::default() }
    }

    fn now(&self) -> Micros {
        self.real - self.behind
    }

    /// One try, with a store that writes at once.
    fn take(&mut self, share: u32) -> Result<Option<Micros>, TestCaseError> {
        let now = self.now();
        let mut result = self.pacer.take_share(now, share);
        if result == Err(NotYet::Horizon) {
            let horizon = self.pacer.horizon_needed(now);
            prop_assert!(horizon.is_some(), "a wanted horizon is due");
            if let Some(horizon) = horizon {
                self.stored = Some(horizon);
                self.pacer.horizon_durable(horizon);
            }
            result = self.pacer.take_share(now, share);
        }
        match result {
            Ok(()) => {
                self.counter.grant(self.real, self.rate)?;
                Ok(None)
            }
            Err(NotYet::Until(until)) => {
                prop_assert!(until > now);
                prop_assert!(until <= now + self.rate.per.as_micros(), "a wait is one stretch at most");
                Ok(Some(until))
            }
            Err(NotYet::Horizon) => {
                prop_assert!(false, "a durable horizon covers one grant");
                Ok(None)
            }
        }
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Wait(part) => self.real += self.rate.per.as_micros() / 1000 * part,
            Step::Take(count, share) => {
                for _ in 0..*count {
                    self.take(*share)?;
                }
            }
            Step::Saturate(count) => {
                for _ in 0..*count {
                    if let Some(until) = self.take(WHOLE)? {
                        self.real += until - self.now();
                    }
                }
            }
            Step::Change(rate) => {
                self.rate = *rate;
                self.pacer.set_rate(self.now(), *rate);
            }
            Step::PutBack(seconds) => self.behind += seconds * SECOND,
            Step::Crash(written) => {
                if *written && let Some(horizon) = self.pacer.horizon_needed(self.now()) {
                    self.stored = Some(horizon);
                }
                self.pacer = Pacer::new(self.rate);
                if let Some(horizon) = self.stored {
                    self.pacer.restore(self.now(), horizon);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_stretch_holds_more_than_the_rate_wherever_crashes_fall(
        rate in any_rate(),
        steps in proptest::collection::vec(any_step(false), 1..60),
    ) {
        let mut world = World::new(rate);
        for step in &steps {
            world.run(step)?;
        }
    }

    #[test]
    fn no_stretch_holds_more_than_the_rate_in_force_across_changes_and_crashes(
        rate in any_rate(),
        steps in proptest::collection::vec(any_step(true), 1..60),
    ) {
        let mut world = World::new(rate);
        for step in &steps {
            world.run(step)?;
        }
    }

    #[test]
    fn a_change_of_rate_that_falls_into_a_crash_is_counted_too(
        rate in any_rate(),
        other in any_rate(),
        steps in proptest::collection::vec(any_step(false), 1..30),
        more in proptest::collection::vec(any_step(false), 1..30),
    ) {
        let mut world = World::new(rate);
        for step in &steps {
            world.run(step)?;
        }
        world.rate = other;
        world.run(&Step::Crash(true))?;
        for step in &more {
            world.run(step)?;
        }
    }

    #[test]
    fn a_share_is_kept_on_average(share in 50u32..1000) {
        let rate = rate("1000/1m");
        let mut pacer = Pacer::volatile(rate);
        let mut now = START;
        let mut count = 0u32;
        while now < START + 3600 * SECOND {
            match pacer.take_share(now, share) {
                Ok(()) => count += 1,
                Err(NotYet::Until(later)) => now = later,
                Err(NotYet::Horizon) => unreachable!(),
            }
        }
        let wanted = 60_000 * share / 1000;
        prop_assert!(count <= wanted + 63 && count >= wanted * 9 / 10, "{count} of {wanted}");
    }
}
