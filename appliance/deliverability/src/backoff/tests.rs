use proptest::prelude::*;

use super::*;

const START: Micros = 1_795_000_000 * SECOND;
const MINUTE: Micros = 60 * SECOND;

fn settings() -> Settings {
    Settings::default()
}

fn paused(backoff: &mut Backoff, now: Micros) {
    for _ in 0..settings().failures {
        backoff.failure(&settings(), now, "421 4.7.0 try later");
    }
}

#[test]
fn failures_in_a_row_pause_and_a_success_between_them_does_not() {
    let mut backoff = Backoff::new();
    for _ in 0..10 {
        assert!(!backoff.failure(&settings(), START, "x"));
        assert!(!backoff.failure(&settings(), START, "x"));
        backoff.success(&settings(), START);
    }
    assert!(backoff.may_connect(START));
    assert!(!backoff.failure(&settings(), START, "x"));
    assert!(!backoff.failure(&settings(), START, "x"));
    assert!(backoff.failure(&settings(), START, "421 no"));
    assert!(!backoff.may_connect(START));
    assert_eq!(backoff.until(START), Some(START + MINUTE));
    assert_eq!(backoff.last_failure(), Some((START, "421 no")));
}

#[test]
fn after_the_pause_the_share_doubles_with_successes_until_it_is_whole() {
    let mut backoff = Backoff::new();
    paused(&mut backoff, START);
    let now = START + MINUTE;
    assert!(backoff.may_connect(now));
    assert_eq!(backoff.share(now), 250);
    let mut shares = Vec::new();
    for _ in 0..40 {
        backoff.success(&settings(), now);
        shares.push(backoff.share(now));
    }
    assert_eq!(shares[18], 250);
    assert_eq!(shares[19], 500);
    assert_eq!(shares[39], WHOLE);
    assert!(backoff.is_normal());
}

#[test]
fn each_failure_while_slow_doubles_the_pause_up_to_the_longest() {
    let mut backoff = Backoff::new();
    paused(&mut backoff, START);
    let mut now = START;
    let mut lengths = Vec::new();
    for _ in 0..8 {
        let until = backoff.until(now).expect("paused");
        lengths.push((until - now) / MINUTE);
        now = until;
        assert!(backoff.failure(&settings(), now, "again"));
    }
    assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn many_connections_that_fail_together_are_one_pause() {
    let mut backoff = Backoff::new();
    for _ in 0..100 {
        backoff.failure(&settings(), START, "lost");
    }
    assert_eq!(backoff.until(START), Some(START + MINUTE));
    // What had begun before the pause proves nothing.
    assert!(!backoff.success(&settings(), START + 1));
    assert!(!backoff.may_connect(START + 1));
}

#[test]
fn a_block_pauses_at_once_and_never_shortens() {
    let mut backoff = Backoff::new();
    assert!(backoff.block(&settings(), START, 4 * 60 * MINUTE, "TSS04"));
    assert!(!backoff.block(&settings(), START, MINUTE, "421"));
    assert_eq!(backoff.until(START), Some(START + 240 * MINUTE));
    assert!(backoff.block(&settings(), START, Micros::MAX, "for ever"));
    assert_eq!(backoff.until(START), Some(START + LONGEST_BLOCK));
    // And the next ordinary failure is an ordinary pause again.
    let after = START + LONGEST_BLOCK;
    assert!(backoff.failure(&settings(), after, "421"));
    assert_eq!(backoff.until(after), Some(after + 60 * MINUTE));
}

#[test]
fn a_clock_put_back_does_not_lengthen_a_pause() {
    let mut backoff = Backoff::new();
    paused(&mut backoff, START);
    let back = START - 365 * DAY;
    assert_eq!(backoff.until(back), Some(back + MINUTE));
    backoff.observe(back);
    assert!(backoff.may_connect(back + MINUTE));
}

#[test]
fn strange_settings_are_brought_within_reason() {
    let strange = configuration::Backoff {
        failures: 0,
        pause: configuration::units::Duration::ZERO,
        longest_pause: configuration::units::Duration::ZERO,
        slow_share: f64::NAN,
        successes: 0,
        ..Default::default()
    };
    let settings = Settings::from(&strange);
    assert_eq!(settings.failures, 1);
    assert_eq!((settings.pause, settings.longest_pause), (SECOND, SECOND));
    assert_eq!((settings.slow_share, settings.successes), (WHOLE, 1));
}

#[test]
fn six_weeks_of_a_receiver_with_moods_pass_and_the_lane_always_comes_back() {
    let mut backoff = Backoff::new();
    let mut now = START;
    let end = START + 42 * DAY;
    let (mut sent, mut failed, mut longest) = (0u64, 0u64, 0);
    while now < end {
        if let Some(until) = backoff.until(now) {
            longest = longest.max(until - now);
            assert!(until - now <= settings().longest_pause);
            now = until;
            continue;
        }
        // Bad from 02:00 to 05:00 every day, and all of every seventh day.
        let (day, hour) = ((now - START) / DAY, now % DAY / (60 * MINUTE));
        if day % 7 == 6 || (2..5).contains(&hour) {
            backoff.failure(&settings(), now, "421 4.7.0 [TSS04] Messages temporarily deferred");
            failed += 1;
        } else {
            backoff.success(&settings(), now);
            sent += 1;
        }
        // Ten a second at full share.
        now += 100_000 * u64::from(WHOLE) / u64::from(backoff.share(now).max(1));
    }
    assert!(longest > 55 * MINUTE, "{longest}");
    assert!(failed < 36 * 12 + 6 * 40, "{failed} failures");
    // 36 good days of 21 hours, less the pauses that reach into them.
    assert!(sent > 36 * 19 * 3600 * 10, "{sent} sent");
}

proptest! {
    #[test]
    fn every_state_has_an_exit_and_survives_a_restart(
        events in proptest::collection::vec((0u8..4, 0u64..200 * 60, "[ -~é]{0,400}"), 0..100),
    ) {
        let mut backoff = Backoff::new();
        let mut now = START;
        for (kind, wait, why) in events {
            now += wait * SECOND;
            match kind {
                0 => { backoff.failure(&settings(), now, &why); }
                1 => { backoff.block(&settings(), now, wait * SECOND, &why); }
                _ => { backoff.success(&settings(), now); }
            }
            let mut bytes = Vec::new();
            backoff.encode(&mut bytes);
            let restored = Backoff::decode(&bytes);
            prop_assert!(restored.is_some());
            let restored = restored.unwrap_or_default();
            if bytes.is_empty() {
                let normal = matches!(backoff.state(now), State::Normal { .. });
                prop_assert!(normal);
            } else {
                prop_assert_eq!(&restored, &backoff);
            }
        }
        // The exit: wait out the pause, then succeed.
        if let Some(until) = backoff.until(now) {
            prop_assert!(until - now <= LONGEST_BLOCK);
            now = until;
        }
        for _ in 0..60 {
            backoff.success(&settings(), now);
        }
        prop_assert!(backoff.is_normal());
    }

    #[test]
    fn stored_bytes_from_anywhere_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80), now in any::<u64>()) {
        if let Some(mut backoff) = Backoff::decode(&bytes) {
            let _ = backoff.state(now);
            if let Some(until) = backoff.until(now) {
                prop_assert!(until - now <= LONGEST_BLOCK);
            }
            backoff.failure(&settings(), now, "x");
            backoff.success(&settings(), now);
        }
    }
}
