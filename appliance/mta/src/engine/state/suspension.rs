//! What a receiver does not want for a while: a source altogether, or a sender's domain or a
//! stream at one site. Learnt from replies; an administrator lifts them with `queue retry`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LaneId, State};
use crate::clock::{Micros, timestamp};
use crate::queue::StreamId;

/// Suspensions kept at most; beyond this the soonest to end go.
const MOST: usize = 1000;
/// A suspension that grows by less is not written again.
const WORTH_WRITING: Micros = 60_000_000;

/// One of them. An absent part means everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Suspension {
    /// At this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// From this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Of this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// With this domain in `From`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_domain: Option<String>,
    /// Until then, in microseconds since 1970.
    pub until: u64,
    /// What the receiver said.
    pub why: String,
}

impl fmt::Display for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("source", &self.source),
            ("sender domain", &self.sender_domain),
            ("stream", &self.stream),
            ("at", &self.site),
        ];
        for (word, name) in parts {
            if let Some(name) = name {
                write!(f, "{word} {name} ")?;
            }
        }
        write!(f, "is suspended until {}: {}", timestamp(self.until), self.why)
    }
}

impl State {
    /// Adds one, or prolongs the one that is there. Whether the list is worth writing again.
    pub(crate) fn suspend(&mut self, suspension: Suspension, now: Micros) -> bool {
        self.suspensions.retain(|known| known.until > now);
        let same = |known: &Suspension| {
            known.site == suspension.site
                && known.source == suspension.source
                && known.stream == suspension.stream
                && known.sender_domain == suspension.sender_domain
        };
        if let Some(name) = &suspension.source {
            let id = self.source_id(name);
            let source = &mut self.sources[usize::from(id.0)];
            source.suspended_until = source.suspended_until.max(suspension.until);
        }
        match self.suspensions.iter_mut().find(|known| same(known)) {
            Some(known) => {
                let grows = suspension.until.saturating_sub(known.until);
                if grows > 0 {
                    *known = suspension;
                }
                grows > WORTH_WRITING
            }
            None => {
                if self.suspensions.len() >= MOST
                    && let Some(soonest) =
                        (0..self.suspensions.len()).min_by_key(|place| self.suspensions[*place].until)
                {
                    self.suspensions.swap_remove(soonest);
                }
                self.suspensions.push(suspension);
                true
            }
        }
    }

    /// Takes over those of a former life.
    pub(crate) fn restore_suspensions(&mut self, list: Vec<Suspension>, now: Micros) {
        for suspension in list.into_iter().filter(|suspension| suspension.until > now) {
            self.suspend(suspension, now);
        }
    }

    /// The list, as the spool keeps it.
    pub(crate) fn suspensions_as_note(&self) -> Vec<u8> {
        // A list of strings and numbers can always be written.
        serde_json::to_vec(&self.suspensions).unwrap_or_default()
    }

    /// Until when mail of this stream and sender is not to go out on this lane, and why. Sources that are
    /// suspended do not come here: they are out.
    pub(crate) fn suspended(
        &self,
        lane: LaneId,
        stream: StreamId,
        sender_domain: &str,
        now: Micros,
    ) -> Option<(Micros, String)> {
        if self.suspensions.is_empty() {
            return None;
        }
        let site = &self.site(self.lane(lane).site).name;
        let stream = &self.stream(stream).0;
        self.suspensions
            .iter()
            .filter(|known| known.until > now && known.source.is_none())
            .filter(|known| known.site.as_deref().is_none_or(|own| own == &**site))
            .filter(|known| known.stream.as_deref().is_none_or(|own| own == &**stream))
            .filter(|known| known.sender_domain.as_deref().is_none_or(|own| own == sender_domain))
            .max_by_key(|known| known.until)
            .map(|known| (known.until, known.to_string()))
    }

    /// Lifts what concerns these sites or sources; how many.
    pub(crate) fn lift_suspensions(&mut self, mut concerns: impl FnMut(&Suspension) -> bool) -> usize {
        let (lifted, left) = std::mem::take(&mut self.suspensions).into_iter().partition(|known| concerns(known));
        self.suspensions = left;
        let lifted: Vec<Suspension> = lifted;
        for name in lifted.iter().filter_map(|suspension| suspension.source.as_deref()) {
            let id = self.source_id(name);
            self.sources[usize::from(id.0)].suspended_until = 0;
        }
        lifted.len()
    }
}
