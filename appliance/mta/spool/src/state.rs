//! What the log amounts to: the messages that are not complete, the notes, and for each segment
//! what in it is still needed. Start-up and commit both build it by applying the records of
//! durable frames, through the same door.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::format::{FRAME_ALIGNMENT, FRAME_HEADER, MESSAGE_RECORD, NOTE_RECORD, Record, SMALL_RECORD, Seed};
use crate::index::{Index, Outstanding};
use crate::scan::Frame;
use crate::{MessageId, RetryState};

/// What is known of one segment file.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) seed: Seed,
    /// Length of the file.
    pub(crate) size: u64,
    /// Where its durable frames end.
    pub(crate) end: u64,
    /// Messages whose newest copy lies here, and their bytes.
    pub(crate) messages: u64,
    pub(crate) message_bytes: u64,
    /// Retry states whose newest record lies here.
    pub(crate) states: u64,
    /// Notes whose newest record lies here, and their bytes.
    pub(crate) notes: u64,
    pub(crate) note_bytes: u64,
    /// Completions and supersessions in here of copies in other segments, counted by segment.
    /// While such a segment exists, a start without this one would bring its copies back.
    pins: HashMap<u32, u64>,
    /// Stretches that were unreadable at start. The file is kept aside, not removed.
    pub(crate) damages: usize,
    /// A sync or write failed: the blocks are not used again.
    pub(crate) has_failed: bool,
    /// Something in it could not be read since: it is not reclaimed until nothing needs it.
    pub(crate) is_unreadable: bool,
    /// Nothing needs it; its removal is not yet known to be durable.
    pub(crate) is_condemned: bool,
    handle: Handle<F>,
}

/// An open file that is closed when many others are used.
#[derive(Debug)]
struct Handle<F> {
    kept: Option<Arc<F>>,
    /// Also knows of readers that still hold a file that is not kept.
    lent: Weak<F>,
}

impl<F> Segment<F> {
    pub(crate) fn new(seed: Seed, size: u64, end: u64) -> Self {
        Self {
            seed,
            size,
            end,
            messages: 0,
            message_bytes: 0,
            states: 0,
            notes: 0,
            note_bytes: 0,
            pins: HashMap::new(),
            damages: 0,
            has_failed: false,
            is_unreadable: false,
            is_condemned: false,
            handle: Handle { kept: None, lent: Weak::new() },
        }
    }

    /// Whether a start without this segment would find the same.
    pub(crate) fn is_dead(&self) -> bool {
        self.messages == 0 && self.states == 0 && self.notes == 0 && self.pins.is_empty()
    }

    /// What reclaiming it would write elsewhere, at most.
    pub(crate) fn live_bytes(&self) -> u64 {
        let small = SMALL_RECORD as u64;
        self.message_bytes
            + self.states * small
            + self.pins.values().sum::<u64>() * small
            + self.note_bytes
            + self.notes * NOTE_RECORD as u64
    }
}

#[derive(Debug)]
pub(crate) struct Note {
    /// Empty: forgotten, and remembered as such while older records of the key exist.
    pub(crate) value: Bytes,
    /// The segment with the newest record.
    pub(crate) segment: u32,
    /// All segments with a record of this key.
    pub(crate) holders: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State<F> {
    pub(crate) index: Index,
    pub(crate) segments: BTreeMap<u32, Segment<F>>,
    pub(crate) notes: HashMap<Bytes, Note>,
    /// Recipients that are not complete.
    pub(crate) recipients: u64,
    /// Above every id that was seen.
    pub(crate) next_id: u64,
    /// Some segment may have become dead.
    pub(crate) may_have_dead: bool,
    open_files: usize,
}

/// Files kept open for reading, besides the head.
const OPEN_FILES: usize = 256;

impl<F> Default for State<F> {
    fn default() -> Self {
        Self {
            index: Index::default(),
            segments: BTreeMap::new(),
            notes: HashMap::new(),
            recipients: 0,
            next_id: 1,
            may_have_dead: false,
            open_files: 0,
        }
    }
}

/// An offset or a length in the units of the index.
pub(crate) fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(FRAME_ALIGNMENT)).unwrap_or(u32::MAX)
}

/// Back to bytes.
pub(crate) fn from_units(units: u32) -> u64 {
    u64::from(units) * FRAME_ALIGNMENT
}

impl<F> State<F> {
    /// Applies a durable frame of the segment.
    pub(crate) fn apply(&mut self, number: u32, frame: &Frame<'_>) {
        for record in frame.records() {
            match record {
                Record::Message(message) => {
                    self.saw(message.id);
                    let carried = message.moved.map_or(0, |moved| 6 + 8 * moved.outstanding().count() as u64);
                    let length = FRAME_HEADER as u64
                        + MESSAGE_RECORD as u64
                        + carried
                        + message.metadata.len() as u64
                        + message.body_length();
                    let outstanding = match message.moved {
                        Some(moved) => moved.outstanding().map(|(recipient, state)| fresh(recipient, state)).collect(),
                        None => {
                            (0..message.recipients).map(|recipient| fresh(recipient, RetryState::default())).collect()
                        }
                    };
                    self.forget_message(message.id);
                    self.add_message(number, frame.offset, length, message.id, outstanding);
                    if let Some(moved) = message.moved {
                        self.pin(number, moved.from);
                    }
                }
                Record::Complete { id, recipient, target } => {
                    self.saw(id);
                    self.complete(id, recipient);
                    self.pin(number, target);
                }
                Record::Superseded { id, target } => {
                    if self.index.get(id).is_some_and(|entry| entry.segment == target) {
                        self.forget_message(id);
                    }
                    self.pin(number, target);
                }
                Record::Defer { id, recipient, state } => {
                    self.saw(id);
                    self.defer(number, id, recipient, state);
                }
                Record::Note { key, value } => self.note(number, key, value),
                Record::Roster(roster) => self.next_id = self.next_id.max(roster.next_id),
            }
        }
    }

    fn saw(&mut self, id: MessageId) {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
    }

    fn add_message(&mut self, number: u32, offset: u64, length: u64, id: MessageId, outstanding: Vec<Outstanding>) {
        if outstanding.is_empty() {
            return;
        }
        self.recipients += outstanding.len() as u64;
        let length = units(length);
        self.index.insert(id, number, units(offset), length, outstanding);
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.messages += 1;
            segment.message_bytes += from_units(length);
        }
    }

    /// Takes a message out of the index and of the accounts.
    fn forget_message(&mut self, id: MessageId) {
        let Some((entry, outstanding)) = self.index.remove(id) else {
            return;
        };
        self.recipients -= outstanding.len() as u64;
        for one in outstanding {
            self.release_state(one.state_segment);
        }
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.messages -= 1;
            segment.message_bytes -= from_units(entry.length);
            self.may_have_dead |= segment.messages == 0;
        }
    }

    fn complete(&mut self, id: MessageId, recipient: u16) {
        let Some((gone, remain)) = self.index.complete(id, recipient) else {
            return;
        };
        if remain {
            self.recipients -= 1;
            self.release_state(gone.state_segment);
        } else {
            self.forget_message(id);
        }
    }

    fn defer(&mut self, number: u32, id: MessageId, recipient: u16, state: RetryState) {
        let new = Outstanding { recipient, state, state_segment: number };
        if let Some(earlier) = self.index.defer(id, new) {
            self.release_state(earlier.state_segment);
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.states += 1;
            }
        }
    }

    fn release_state(&mut self, number: u32) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.states -= 1;
            self.may_have_dead |= segment.states == 0;
        }
    }

    /// The segment holds a record without which a copy in `target` would come back.
    fn pin(&mut self, number: u32, target: u32) {
        if number != target
            && self.segments.contains_key(&target)
            && let Some(segment) = self.segments.get_mut(&number)
        {
            *segment.pins.entry(target).or_default() += 1;
        }
    }

    fn note(&mut self, number: u32, key: &[u8], value: &[u8]) {
        let bytes = (key.len() + value.len()) as u64;
        if let Some(note) = self.notes.get_mut(key) {
            let earlier = (key.len() + note.value.len()) as u64;
            if let Some(segment) = self.segments.get_mut(&note.segment) {
                segment.notes -= 1;
                segment.note_bytes -= earlier;
                self.may_have_dead |= segment.notes == 0;
            }
            note.value = Bytes::copy_from_slice(value);
            note.segment = number;
            if !note.holders.contains(&number) {
                note.holders.push(number);
            }
        } else {
            let note = Note { value: Bytes::copy_from_slice(value), segment: number, holders: vec![number] };
            self.notes.insert(Bytes::copy_from_slice(key), note);
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.notes += 1;
            segment.note_bytes += bytes;
        }
    }

    /// Whether the note is only there to be forgotten, and this segment's is the only record.
    pub(crate) fn is_spent_note(&self, key: &[u8], number: u32) -> bool {
        self.notes
            .get(key)
            .is_some_and(|note| note.segment == number && note.value.is_empty() && note.holders == [number])
    }

    /// Drops notes that are spent in this segment from the accounts.
    pub(crate) fn drop_spent_notes(&mut self, number: u32) {
        let mut count = 0;
        let mut bytes = 0;
        self.notes.retain(|key, note| {
            let is_spent = note.segment == number && note.value.is_empty() && note.holders == [number];
            if is_spent {
                count += 1;
                bytes += key.len() as u64;
            }
            !is_spent
        });
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.notes -= count;
            segment.note_bytes -= bytes;
        }
    }

    /// Closes the file of the segment, and says whether some reader still has it open.
    pub(crate) fn close_file(&mut self, number: u32) -> (Option<Arc<F>>, bool) {
        let Some(segment) = self.segments.get_mut(&number) else {
            return (None, false);
        };
        let kept = segment.handle.kept.take();
        let mine = usize::from(kept.is_some());
        self.open_files -= mine;
        let is_lent = segment.handle.lent.strong_count() > mine;
        (kept, is_lent)
    }

    /// Forgets a segment whose removal is durable.
    pub(crate) fn remove_segment(&mut self, number: u32) -> Option<Segment<F>> {
        let removed = self.segments.remove(&number)?;
        if removed.handle.kept.is_some() {
            self.open_files = self.open_files.saturating_sub(1);
        }
        for segment in self.segments.values_mut() {
            if segment.pins.remove(&number).is_some() {
                self.may_have_dead = true;
            }
        }
        for note in self.notes.values_mut() {
            note.holders.retain(|holder| *holder != number);
        }
        Some(removed)
    }

    /// The file of the segment, if it is open.
    pub(crate) fn file(&self, number: u32) -> Option<Arc<F>> {
        let handle = &self.segments.get(&number)?.handle;
        handle.kept.clone().or_else(|| handle.lent.upgrade())
    }

    /// Keeps a file open. `None` when the segment is gone, and the file must not be read.
    pub(crate) fn keep_file(&mut self, number: u32, file: Arc<F>) -> Option<Arc<F>> {
        if self.segments.get(&number)?.is_condemned {
            return None;
        }
        if let Some(open) = self.file(number) {
            return Some(open);
        }
        if self.open_files >= OPEN_FILES {
            // The oldest are the least likely to be read next.
            let victims = self.segments.values_mut().filter(|one| one.handle.kept.is_some());
            for segment in victims.take(OPEN_FILES / 4) {
                segment.handle.kept = None;
                self.open_files -= 1;
            }
        }
        let segment = self.segments.get_mut(&number)?;
        segment.handle = Handle { kept: Some(file.clone()), lent: Arc::downgrade(&file) };
        self.open_files += 1;
        Some(file)
    }
}

fn fresh(recipient: u16, state: RetryState) -> Outstanding {
    Outstanding { recipient, state, state_segment: 0 }
}
