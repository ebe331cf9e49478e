//! Submissions under a key of their own, which are kept once however often they are tried.
//!
//! A key becomes durable in the same batch as its message: after a crash both are there or neither is.
//! It is remembered for a day, as long as there is room: when there are too many, the credential that has most of them
//! loses its oldest.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use postkeep_intake::Once;
use postkeep_spool::{MessageId, Operation};

/// What the spool's notes for keys begin with.
pub(super) const NOTE: &[u8] = b"once/";
/// How long a key is remembered, in seconds.
const REMEMBERED: u32 = 86_400;
/// Keys that are remembered.
const MOST: usize = 400_000;
/// The octets of a key that are its credential's, see [`Once::key`].
const CREDENTIAL: usize = 4;

#[derive(Default)]
pub(super) struct Repeats(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_key: HashMap<[u8; 16], Entry>,
    /// Keys of kept messages by credential, oldest first.
    order: HashMap<[u8; CREDENTIAL], VecDeque<(u32, [u8; 16])>>,
    /// Keys in all of these.
    kept: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    fingerprint: [u8; 16],
    /// With the number of its recipients; absent while it is being kept.
    message: Option<(MessageId, u16)>,
}

/// What is known of a key.
pub(super) enum Standing {
    /// Nothing: keep it.
    New(Reserved),
    /// It was kept as this message.
    Kept(MessageId, u16),
    /// It was used for something else.
    Other,
    /// It is being kept.
    InProgress,
}

/// A key that is being kept; dropped before it is, it is free again.
pub(super) struct Reserved {
    repeats: Arc<Repeats>,
    once: Once,
    is_kept: bool,
}

impl Repeats {
    pub(super) fn reserve(self: &Arc<Self>, once: Once) -> Standing {
        let mut known = self.0.lock();
        if let Some(standing) = known.standing(once) {
            return standing;
        }
        known.by_key.insert(once.key, Entry { fingerprint: once.fingerprint, message: None });
        Standing::New(Reserved { repeats: Arc::clone(self), once, is_kept: false })
    }

    /// What is known of a key; never [`Standing::New`].
    pub(super) fn standing(&self, once: Once) -> Option<Standing> {
        self.0.lock().standing(once)
    }

    /// A note of the spool; false: it is none of ours.
    pub(super) fn restore(&self, key: &[u8], value: &[u8]) -> bool {
        let Some(key) = key.strip_prefix(NOTE).and_then(|key| key.try_into().ok()) else { return false };
        let Some((message, rest)) = value.split_first_chunk::<8>() else { return false };
        let Some((recipients, rest)) = rest.split_first_chunk::<2>() else { return false };
        let Some((time, fingerprint)) = rest.split_first_chunk::<4>() else { return false };
        let Ok(fingerprint) = fingerprint.try_into() else { return false };
        let mut known = self.0.lock();
        let message = Some((MessageId(u64::from_be_bytes(*message)), u16::from_be_bytes(*recipients)));
        known.by_key.insert(key, Entry { fingerprint, message });
        let time = u32::from_be_bytes(*time);
        // Notes come in no order.
        let order = known.order.entry(credential(&key)).or_default();
        order.insert(order.partition_point(|(other, _)| *other <= time), (time, key));
        known.kept += 1;
        true
    }

    /// Forgets what is old or too much; what is to be forgotten on the disk, too.
    pub(super) fn old(&self, now: u32) -> Vec<Operation> {
        let mut known = self.0.lock();
        let mut old = Vec::new();
        for order in known.order.values_mut() {
            let fresh = order.partition_point(|(time, _)| time.saturating_add(REMEMBERED) <= now);
            old.extend(order.drain(..fresh));
        }
        for _ in MOST..known.kept.saturating_sub(old.len()).max(MOST) {
            let most = known.order.values_mut().max_by_key(|order| order.len());
            old.extend(most.and_then(VecDeque::pop_front));
        }
        known.kept = known.kept.saturating_sub(old.len());
        known.order.retain(|_, order| !order.is_empty());
        old.into_iter()
            .map(|(_, key)| {
                known.by_key.remove(&key);
                Operation::Note { key: note_key(&key), value: Bytes::new() }
            })
            .collect()
    }
}

impl Known {
    fn standing(&self, once: Once) -> Option<Standing> {
        let entry = self.by_key.get(&once.key)?;
        Some(match entry.message {
            _ if entry.fingerprint != once.fingerprint => Standing::Other,
            Some((message, recipients)) => Standing::Kept(message, recipients),
            None => Standing::InProgress,
        })
    }
}

impl Reserved {
    /// The note that goes with the message.
    pub(super) fn note(&self, message: MessageId, recipients: u16, now: u32) -> Operation {
        let value = [
            &message.0.to_be_bytes()[..],
            &recipients.to_be_bytes()[..],
            &now.to_be_bytes()[..],
            &self.once.fingerprint[..],
        ]
        .concat()
        .into();
        Operation::Note { key: note_key(&self.once.key), value }
    }

    /// Takes the note back.
    pub(super) fn forget(&self) -> Operation {
        Operation::Note { key: note_key(&self.once.key), value: Bytes::new() }
    }

    /// Both are durable.
    pub(super) fn kept(mut self, message: MessageId, recipients: u16, now: u32) {
        self.is_kept = true;
        let mut known = self.repeats.0.lock();
        if let Some(entry) = known.by_key.get_mut(&self.once.key) {
            entry.message = Some((message, recipients));
        }
        known.order.entry(credential(&self.once.key)).or_default().push_back((now, self.once.key));
        known.kept += 1;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_kept {
            self.repeats.0.lock().by_key.remove(&self.once.key);
        }
    }
}

fn credential(key: &[u8; 16]) -> [u8; CREDENTIAL] {
    let [a, b, c, d, ..] = *key;
    [a, b, c, d]
}

fn note_key(key: &[u8; 16]) -> Bytes {
    [NOTE, key].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Once = Once { key: [1; 16], fingerprint: [2; 16] };

    #[test]
    fn whoever_has_most_keys_loses_the_oldest_and_others_none() {
        let repeats = Arc::new(Repeats::default());
        let once = |credential: u8, number: u32| {
            let mut key = [credential; 16];
            key[12..].copy_from_slice(&number.to_be_bytes());
            Once { key, fingerprint: [0; 16] }
        };
        let keep = |once: Once, now: u32| {
            let Standing::New(reserved) = repeats.reserve(once) else { panic!("it is new") };
            reserved.kept(MessageId(1), 1, now);
        };
        keep(once(1, 0), 50);
        (0..MOST as u32 + 9).for_each(|number| keep(once(2, number), 100 + number / 10_000));
        let forgotten = repeats.old(200).len();
        assert_eq!(forgotten, 10);
        assert!(matches!(repeats.reserve(once(1, 0)), Standing::Kept(..)), "older than all, and its only one");
        assert!(matches!(repeats.reserve(once(2, 9)), Standing::New(_)));
        assert!(matches!(repeats.reserve(once(2, 10)), Standing::Kept(..)));
        assert_eq!(repeats.old(50 + REMEMBERED).len(), 1, "by age");
        assert!(repeats.old(100_000 + REMEMBERED).len() == MOST - 1 && repeats.0.lock().order.is_empty());
    }

    #[test]
    fn a_key_is_free_again_when_its_message_was_not_kept_and_taken_when_it_was() {
        let repeats = Arc::new(Repeats::default());
        let Standing::New(first) = repeats.reserve(ONCE) else { panic!("it is new") };
        assert!(matches!(repeats.reserve(ONCE), Standing::InProgress));
        drop(first);
        let Standing::New(second) = repeats.reserve(ONCE) else { panic!("it is free again") };
        let Operation::Note { key, value } = second.note(MessageId(7), 3, 100) else { panic!("a note") };
        second.kept(MessageId(7), 3, 100);
        assert!(matches!(repeats.reserve(ONCE), Standing::Kept(MessageId(7), 3)));
        assert!(matches!(repeats.reserve(Once { fingerprint: [3; 16], ..ONCE }), Standing::Other));

        let restored = Arc::new(Repeats::default());
        assert!(restored.restore(&key, &value) && !restored.restore(b"once/x", &value));
        assert!(matches!(restored.reserve(ONCE), Standing::Kept(MessageId(7), 3)));
        assert!(restored.old(100 + REMEMBERED - 1).is_empty());
        assert_eq!(restored.old(100 + REMEMBERED).len(), 1);
        assert!(matches!(restored.reserve(ONCE), Standing::New(_)));
    }
}
