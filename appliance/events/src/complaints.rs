//! What is logged of a receiver's troubles, and when: one that is down for hours does not fill the log, and
//! nothing that is lost goes unsaid.

use std::io;
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::reader::Loss;

/// How often the same trouble is logged while it goes on.
const BETWEEN: Duration = Duration::from_secs(60);
/// Another reason than the last one is told at once, but not more often than this.
const BETWEEN_REASONS: Duration = Duration::from_millis(500);

/// What was logged last of one receiver.
#[derive(Default)]
pub(crate) struct Complaints {
    failing: Option<(Instant, String)>,
    lost_at: Option<Instant>,
    lost: Loss,
    read_at: Option<Instant>,
    unsaved_at: Option<Instant>,
}

impl Complaints {
    pub(crate) fn failed(&mut self, label: &str, detail: &str) {
        let is_new = self
            .failing
            .as_ref()
            .is_none_or(|(at, said)| said != detail && at.elapsed() > BETWEEN_REASONS || at.elapsed() > BETWEEN);
        if is_new {
            log::warn!("{label}: {detail}; trying again");
            self.failing = Some((Instant::now(), detail.to_owned()));
        }
    }

    pub(crate) fn works(&mut self, label: &str) {
        if self.failing.take().is_some() {
            log::info!("{label}: takes events again");
        }
    }

    /// Each of these is logged: what is missing at the receiver can be found among the records by it.
    pub(crate) fn gave_up(label: &str, events: &[Event], after: Duration, detail: &str) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let after = Duration::from_secs(after.as_secs());
        let count = events.len();
        let message = if count == 1 {
            format!("{label}: event {} is DROPPED after {after:?}: {detail}", first.id)
        } else {
            format!("{label}: {count} events, {} to {}, are DROPPED after {after:?}: {detail}", first.id, last.id)
        };
        postkeep_journal::EVENTS_DROPPED
            .tell(format_args!("{message}"), [&label, &first.id, &last.id, &count, &detail]);
    }

    pub(crate) fn lost(&mut self, label: &str, loss: &Loss) {
        if let Some(gone) = &loss.gone {
            log::error!(
                "{label}: {gone} was deleted before all of it was sent; its events are DROPPED: [records] keep"
            );
        }
        self.lost.events += loss.events;
        self.lost.octets += loss.octets;
        self.tell_losses(label, false);
    }

    /// Logs what was lost and not yet told, if it is time or `now`.
    pub(crate) fn tell_losses(&mut self, label: &str, now: bool) {
        if self.lost.octets > 0 && (now || is_time(self.lost_at)) {
            log::error!(
                "{label}: the buffer is full: {} events ({} octets of records) are DROPPED",
                self.lost.events,
                self.lost.octets
            );
            self.lost = Loss::default();
            self.lost_at = Some(Instant::now());
        }
    }

    pub(crate) fn read(&mut self, label: &str, error: &io::Error) {
        if is_time(self.read_at) {
            log::error!("{label}: cannot read the records: {error}; trying again");
            self.read_at = Some(Instant::now());
        }
    }

    pub(crate) fn unsaved(&mut self, label: &str, detail: &str) {
        if is_time(self.unsaved_at) {
            log::error!("{label}: {detail}; trying again, and after a crash some events would be sent again");
            self.unsaved_at = Some(Instant::now());
        }
    }

    pub(crate) fn saved(&mut self, label: &str) {
        if self.unsaved_at.take().is_some() {
            log::info!("{label}: how far it is could be saved again");
        }
    }
}

fn is_time(last: Option<Instant>) -> bool {
    last.is_none_or(|at| at.elapsed() > BETWEEN)
}
