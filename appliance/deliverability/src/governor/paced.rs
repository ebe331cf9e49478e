//! The two rates that lanes, providers and streams have, and the note that keeps them.

use postkeep_configuration::units::Rate;

use super::note::{self, Note};
use crate::Micros;
use crate::backoff::Backoff;
use crate::pacer::Pacer;

/// The two rates of anything.
#[derive(Debug, Default)]
pub(super) struct Paced {
    pub(super) connections: Option<Pacer>,
    pub(super) messages: Option<Pacer>,
    /// In the list of those due.
    pub(super) queued: bool,
    /// There is a note in the store.
    pub(super) noted: bool,
}

impl Paced {
    pub(super) fn pacers(&self) -> impl Iterator<Item = &Pacer> {
        [&self.connections, &self.messages].into_iter().flatten()
    }

    /// Takes on these rates; true when a note of the old ones must not stay as it is.
    pub(super) fn set(&mut self, connections: Option<Rate>, messages: Option<Rate>, now: Micros) -> bool {
        let mut changed = false;
        for (pacer, rate) in [(&mut self.connections, connections), (&mut self.messages, messages)] {
            match (pacer.as_mut(), rate) {
                (Some(pacer), Some(rate)) => pacer.set_rate(now, rate),
                (Some(_), None) => {
                    *pacer = None;
                    changed = true;
                }
                (None, Some(rate)) => *pacer = Some(Pacer::new(rate)),
                (None, None) => {}
            }
        }
        changed && self.noted
    }

    pub(super) fn restore(&mut self, note: &Note, now: Micros) {
        self.noted = true;
        if let (Some(pacer), Some(horizon)) = (&mut self.connections, note.connections) {
            pacer.restore(now, horizon);
        }
        if let (Some(pacer), Some(horizon)) = (&mut self.messages, note.messages) {
            pacer.restore(now, horizon);
        }
    }

    /// What is worth remembering of a lane that is forgotten.
    pub(super) fn put_away(&self, now: Micros) -> Note {
        let horizon = |pacer: &Option<Pacer>| pacer.as_ref().and_then(|pacer| pacer.horizon_on_record(now));
        Note { connections: horizon(&self.connections), messages: horizon(&self.messages), backoff: Backoff::new() }
    }

    /// Appends the note, or its removal, if there is something new to say.
    pub(super) fn write_note(
        &mut self,
        key: &[u8],
        backoff: Option<&Backoff>,
        changed: bool,
        now: Micros,
        out: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) {
        self.queued = false;
        let mut value = Vec::with_capacity(64);
        let connections = self.connections.as_mut().and_then(|pacer| pacer.horizon_for_note(now));
        let messages = self.messages.as_mut().and_then(|pacer| pacer.horizon_for_note(now));
        note::encode(connections, messages, backoff, &mut value);
        if !value.is_empty() || self.noted || changed {
            self.noted = !value.is_empty();
            out.push((key.to_vec(), value));
        }
    }
}

/// Takes what a check has just allowed.
pub(super) fn pay(pacer: &mut Option<Pacer>, now: Micros, share: u32) {
    if let Some(pacer) = pacer {
        let taken = pacer.take_share(now, share);
        debug_assert!(taken.is_ok(), "checked before: {taken:?}");
    }
}
