//! How each receiver of events is: for `postkeep events status` and for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;

/// How a receiver is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// `accounting`, `webhook`, `amqp`, `kafka` or `nats`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The record file that it is in, and the octets of it that are dealt with.
    pub file: String,
    /// See `file`.
    pub offset: u64,
    /// Octets of records behind that place.
    pub lag_octets: u64,
    /// Age of the oldest event that it is still to be told, seconds.
    pub lag_seconds: u64,
    /// Events that it has taken, since the start.
    pub sent: u64,
    /// Failed tries, since the start.
    pub retried: u64,
    /// Events that were dropped, since the start.
    pub dropped: u64,
    /// Record files that were deleted before it had read them to their ends, since the start. How many events
    /// were in them is not known.
    pub lost_files: u64,
    /// What does not work, if anything.
    pub failing: Option<String>,
    /// The last failure there was, and when.
    pub last_error: Option<(String, Timestamp)>,
}

/// What may be wrong with a receiver. Each is over when that very thing works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// It could not be begun with, or its task has ended.
    Start,
    /// The records cannot be read.
    Records,
    /// The receiver does not take events.
    Delivery,
    /// How far it is cannot be written down.
    Place,
    /// Something beside taking events, such as moving an accounting file.
    Aside,
}

/// Counters of one receiver, shared between its task and whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) sent: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) lost_files: AtomicU64,
    pub(crate) lag_octets: AtomicU64,
    /// Unix seconds of the oldest event that waits; 0: none.
    oldest: AtomicU64,
    place: Mutex<Place>,
}

#[derive(Debug, Default, Clone)]
struct Place {
    file: String,
    offset: u64,
    failing: BTreeMap<Trouble, String>,
    last_error: Option<(String, Timestamp)>,
}

impl Shared {
    pub(crate) fn is_at(&self, file: &str, offset: u64) {
        let mut place = self.place.lock();
        file.clone_into(&mut place.file);
        place.offset = offset;
    }

    /// The oldest event that waits happened then.
    pub(crate) fn waits_since(&self, time: Option<&str>) {
        let seconds = time.and_then(|time| time.parse::<Timestamp>().ok()).map_or(0, |time| time.as_second());
        self.oldest.store(u64::try_from(seconds).unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, trouble: Trouble, detail: &str) {
        let mut place = self.place.lock();
        place.failing.insert(trouble, detail.to_owned());
        place.last_error = Some((detail.to_owned(), Timestamp::now()));
    }

    pub(crate) fn works(&self, trouble: Trouble) {
        self.place.lock().failing.remove(&trouble);
    }

    /// What does not work, if anything.
    pub(crate) fn failing(&self) -> Option<String> {
        let all = self.place.lock().failing.values().cloned().collect::<Vec<_>>().join("; ");
        Some(all).filter(|all| !all.is_empty())
    }
}

/// All receivers' counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(pub(crate) Vec<(&'static str, String, Arc<Shared>)>);

impl Board {
    pub(crate) fn statuses(&self) -> Vec<Status> {
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let status = |(kind, name, shared): &(&'static str, String, Arc<Shared>)| {
            let place = shared.place.lock().clone();
            let oldest = shared.oldest.load(Ordering::Relaxed);
            Status {
                kind,
                name: name.clone(),
                file: place.file,
                offset: place.offset,
                lag_octets: shared.lag_octets.load(Ordering::Relaxed),
                lag_seconds: if oldest > 0 { now.saturating_sub(oldest) } else { 0 },
                sent: shared.sent.load(Ordering::Relaxed),
                retried: shared.retried.load(Ordering::Relaxed),
                dropped: shared.dropped.load(Ordering::Relaxed),
                lost_files: shared.lost_files.load(Ordering::Relaxed),
                failing: shared.failing(),
                last_error: place.last_error,
            }
        };
        self.0.iter().map(status).collect()
    }

    /// Families of metrics in the OpenMetrics text form, without an end.
    pub(crate) fn metrics(&self) -> String {
        type Family = (&'static str, &'static str, &'static str, &'static str, fn(&Status) -> u64);
        const FAMILIES: [Family; 7] = [
            ("events_sent", "counter", "_total", "Events that a receiver has taken.", |status| status.sent),
            ("events_retries", "counter", "_total", "Failed tries to send events.", |status| status.retried),
            ("events_dropped", "counter", "_total", "Events that a receiver was never told.", |status| status.dropped),
            (
                "events_lost_files",
                "counter",
                "_total",
                "Record files deleted before a receiver had read them.",
                |status| status.lost_files,
            ),
            ("events_lag_bytes", "gauge", "", "Octets of records that a receiver is behind.", |status| {
                status.lag_octets
            }),
            ("events_lag_seconds", "gauge", "", "Age of the oldest event that waits for a receiver.", |status| {
                status.lag_seconds
            }),
            ("events_failing", "gauge", "", "1 when something does not work.", |status| {
                u64::from(status.failing.is_some())
            }),
        ];
        let statuses = self.statuses();
        let mut text = String::new();
        if statuses.is_empty() {
            return text;
        }
        for (name, kind, suffix, help, value) in FAMILIES {
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP postkeep_{name} {help}\n# TYPE postkeep_{name} {kind}\n");
            for status in &statuses {
                let labels = format!("kind=\"{}\",name=\"{}\"", status.kind, status.name);
                let _ = writeln!(text, "postkeep_{name}{suffix}{{{labels}}} {}", value(status));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_over_when_that_very_thing_works_again() {
        let shared = Arc::new(Shared::default());
        let board = Board(vec![("webhook", "shop".to_owned(), Arc::clone(&shared))]);
        let failing = || board.statuses().into_iter().next().and_then(|status| status.failing);
        assert_eq!(failing(), None);
        shared.failed(Trouble::Place, "no room");
        shared.failed(Trouble::Delivery, "answered 500");
        assert_eq!(failing().as_deref(), Some("answered 500; no room"));
        shared.works(Trouble::Delivery);
        assert_eq!(failing().as_deref(), Some("no room"));
        shared.works(Trouble::Records);
        shared.works(Trouble::Place);
        assert_eq!(failing(), None);
        assert!(board.statuses().iter().all(|status| status.last_error.is_some()));
    }
}
