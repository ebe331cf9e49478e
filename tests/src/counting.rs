//! What a receiver counts: how many at once, how many in any stretch of time.
//! The receiver's clock is not the sender's, so each count allows a jitter:
//! a reservation made on time may arrive late by that much.

use std::time::{Duration, Instant};

/// How late an event may be seen, beside the moment at which it was allowed.
pub const JITTER: Duration = Duration::from_millis(250);

/// The most events in any stretch of `window`.
pub fn most_in(mut times: Vec<Instant>, window: Duration) -> usize {
    times.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for last in 0..times.len() {
        while times[last].duration_since(times[first]) >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// The most intervals open at once; each ends [`JITTER`] early, since a close is seen late.
pub fn most_at_once(intervals: &[(Instant, Option<Instant>)]) -> usize {
    let mut edges: Vec<(Instant, i64)> = Vec::new();
    for &(from, until) in intervals {
        let until = until.and_then(|until| until.checked_sub(JITTER));
        match until {
            Some(until) if until <= from => {}
            Some(until) => edges.extend([(from, 1), (until, -1)]),
            None => edges.push((from, 1)),
        }
    }
    edges.sort_unstable();
    let mut open = 0;
    let mut most = 0;
    for (_, change) in edges {
        open += change;
        most = most.max(open);
    }
    usize::try_from(most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_the_densest_stretch() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let times = vec![at(0), at(900), at(1000), at(1100), at(1899), at(3000)];
        assert_eq!(most_in(times, Duration::from_secs(1)), 4);
    }

    #[test]
    fn intervals_that_touch_are_not_at_once() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let one = [(at(0), Some(at(1000))), (at(1000), Some(at(2000)))];
        assert_eq!(most_at_once(&one), 1);
        let two = [(at(0), Some(at(2000))), (at(1000), None), (at(1900), Some(at(2600)))];
        assert_eq!(most_at_once(&two), 2);
    }
}
