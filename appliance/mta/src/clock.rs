//! The one place that reads the wall clock, and how times are written.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Microseconds since the Unix epoch.
pub type Micros = u64;

/// Now, by the wall clock.
pub fn now() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}

/// Whole seconds of a time.
pub fn seconds(time: Micros) -> u32 {
    u32::try_from(time / 1_000_000).unwrap_or(u32::MAX)
}

/// RFC 3339 in UTC with microseconds.
pub fn timestamp(time: Micros) -> String {
    let time =
        i64::try_from(time).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok()).unwrap_or(Timestamp::MAX);
    format!("{time:.6}")
}

/// RFC 3339 in UTC with whole seconds.
pub fn timestamp_seconds(time: u32) -> String {
    Timestamp::from_second(time.into()).unwrap_or(Timestamp::MAX).to_string()
}

/// RFC 5322 date in UTC, for headers.
pub fn header_date(time: Micros) -> String {
    let time = i64::try_from(time / 1_000_000)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX);
    time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_standards_want() {
        assert_eq!(timestamp(1_764_000_000_123_456), "2025-11-24T16:00:00.123456Z");
        assert_eq!(timestamp_seconds(1_764_000_000), "2025-11-24T16:00:00Z");
        assert_eq!(header_date(1_764_000_000_123_456), "Mon, 24 Nov 2025 16:00:00 +0000");
    }
}
