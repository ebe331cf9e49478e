//! Times as services write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use jiff::tz::Offset;

/// Unix seconds of a text; `None`: it is no time that anybody writes.
pub(super) fn parse(text: &str) -> Option<u32> {
    const PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    let text = text.trim();
    if let Ok(number) = text.parse::<u64>() {
        // Milliseconds are beyond the year 5000 when they are read as seconds.
        return u32::try_from(if number > 100_000_000_000 { number / 1000 } else { number }).ok();
    }
    let bare = text.strip_suffix(" UTC").unwrap_or(text);
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| PARSER.parse_timestamp(text).ok())
        .or_else(|| Offset::UTC.to_timestamp(bare.parse::<DateTime>().ok()?).ok())?;
    u32::try_from(time.as_second()).ok()
}

/// As RFC 3339 writes it.
pub(super) fn rfc3339(time: u32) -> String {
    Timestamp::from_second(time.into()).map(|time| time.to_string()).unwrap_or_default()
}

/// As RFC 2822 writes it.
pub(super) fn rfc2822(time: u32) -> String {
    Timestamp::from_second(time.into())
        .ok()
        .and_then(|time| DateTimePrinter::new().timestamp_to_string(&time).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_moment_in_all_the_ways_that_services_write_it() {
        for text in [
            "1769860800",
            "1769860800000",
            "2026-01-31T12:00:00Z",
            "2026-01-31T13:00:00+01:00",
            "Sat, 31 Jan 2026 12:00:00 +0000",
            "Sat, 31 Jan 2026 12:00:00 UTC",
            "2026-01-31 12:00:00",
            "2026-01-31 12:00:00 UTC",
            "2026-01-31T12:00:00",
        ] {
            assert_eq!(parse(text), Some(1_769_860_800), "{text}");
        }
        assert_eq!(parse("2026-01-31"), Some(1_769_817_600));
        for text in ["", "yesterday", "-5", "99999999999999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(rfc3339(1_769_860_800), "2026-01-31T12:00:00Z");
        assert_eq!(parse(&rfc2822(1_769_860_800)), Some(1_769_860_800));
    }
}
