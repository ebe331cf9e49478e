use proptest::prelude::*;

use super::*;

fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map_err(|error: UnitError| error.to_string())
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, seconds) in
        [("0s", 0), ("90m", 5400), ("1h30m", 5400), ("4d12h", 388_800), ("5s", 5), ("3650d", 315_360_000)]
    {
        assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("1s20us"), Ok(Duration::from_micros(1_000_020)));
    assert_eq!(duration("90m").map(|d| d.to_string()), Ok("1h30m".to_owned()));
}

#[test]
fn a_duration_that_is_not_one_says_why() {
    for (text, why) in [
        ("", "empty"),
        ("5", "a number without a unit"),
        ("5x", "\"x\" is not a unit of time"),
        ("m5", "no number before \"m\""),
        ("1m1h", "\"h\" after \"m\""),
        ("1h1h", "\"h\" twice"),
        ("3651d", "longer than 3650d"),
        ("99999999999999999999d", "longer than 3650d"),
        ("-5s", "no number before \"-\""),
        ("5 s", "\" s\" is not a unit"),
        ("1.5h", "\".\" is not a unit"),
    ] {
        let error = duration(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
        assert!(error.contains("such as \"4d12h\""), "{text}: {error}");
    }
}

#[test]
fn sizes_have_units_in_steps_of_1024_or_1000() {
    for (text, bytes) in
        [("500B", 500), ("64KiB", 65_536), ("10MiB", 10 << 20), ("1GiB", 1 << 30), ("10MB", 10_000_000), ("3kb", 3000)]
    {
        assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
    }
    for text in ["", "10", "MiB", "10 MiB", "10Mi", "1.5GiB", "-1B", "2000TiB", "10Mbit"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    assert_eq!(ByteSize::mebibytes(25).to_string(), "25MiB");
    assert_eq!(ByteSize::from_bytes(10_000_000).to_string(), "10MB");
    assert_eq!(ByteSize::from_bytes(0).to_string(), "0B");
}

#[test]
fn rates_have_a_count_and_a_length() {
    for (text, count, seconds) in
        [("100/1m", 100, 60), ("20/10s", 20, 10), ("5/s", 5, 1), ("1000/h", 1000, 3600), ("1/d", 1, 86400)]
    {
        assert_eq!(text.parse::<Rate>().ok(), Rate::new(count, Duration::from_secs(seconds)), "{text}");
    }
    for (text, why) in [
        ("100", "no \"/\""),
        ("0/1m", "would stop everything"),
        ("5/", "the duration is empty"),
        ("5/500ms", "500ms is not 1s to 24h"),
        ("5/2d", "2d is not 1s to 24h"),
        ("+5/1s", "\"+5\" is not a whole number"),
        ("4294967296/1s", "more than 4294967295"),
        ("5/0s", "0s is not 1s to 24h"),
    ] {
        let error = text.parse::<Rate>().expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_number_without_a_unit_gets_a_suggestion() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Sample {
        wait: Option<Duration>,
        size: Option<ByteSize>,
        rate: Option<Rate>,
    }
    let error = |text| toml::from_str::<Sample>(text).expect_err(text).message().to_owned();
    assert!(error("wait = 300").ends_with("did you mean \"300s\"?"), "{}", error("wait = 300"));
    assert!(error("size = 1024").ends_with("did you mean \"1024B\"?"));
    assert!(error("rate = 5").contains("\"5/1s\" or \"5/1m\""));
    assert!(error("wait = true").contains("expected a duration with units"));
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(micros in 0..=Duration::LONGEST.as_micros(), bytes in 0..=ByteSize::LARGEST.bytes(),
                                  count in 1u32.., per in 1_000_000u64..=86_400_000_000) {
        let duration = Duration::from_micros(micros);
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        let size = ByteSize::from_bytes(bytes);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
        let rate = Rate { count, per: Duration::from_micros(per) };
        prop_assert_eq!(rate.to_string().parse(), Ok(rate));
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,80}", likely in "[0-9dhmsuKMGTiB/]{0,24}") {
        for text in [text, likely] {
            for printed in [
                text.parse::<Duration>().map(|d| d.to_string()),
                text.parse::<ByteSize>().map(|s| s.to_string()),
                text.parse::<Rate>().map(|r| r.to_string()),
            ] {
                prop_assert!(printed.is_err() || printed.is_ok_and(|printed| !printed.is_empty()));
            }
        }
    }
}
