//! Getting space back. A segment that nothing needs is removed or used again; one with little in
//! it that is needed is cleaned: what is needed is written once more at the head, in steps that
//! travel with ordinary groups, and the segment goes when the last step is durable.
//!
//! What "needed" means, for a segment X: messages whose newest copy lies in X; retry states and
//! notes whose newest record lies in X; and completions and supersessions in X of copies that
//! lie in other segments that still exist, for a start without X would bring these back.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::format::{FRAME_HEADER, FRAMES_START, Record, put_complete, put_defer, put_moved, put_note, put_superseded};
use crate::group::Group;
use crate::log::Log;
use crate::replay::{damaged_path, old_path, segment_path};
use crate::scan::{FileReader, Frame, Window};
use crate::state::{State, from_units};
use crate::storage::Storage;
use crate::supply::{Ready, make_ready};

/// A segment being cleaned.
pub(crate) struct Cleaning {
    victim: u32,
    position: u64,
    holes: usize,
}

/// What one step read, to be counted when it is durable.
pub(crate) struct Step {
    next: u64,
    holes: usize,
    moved: u64,
    is_last: bool,
}

/// A step carries about this much,
const STEP_CARRY: u64 = 256 << 10;
/// and reads headers over at most this much of the victim;
const STEP_SCAN: u64 = 4 << 20;
/// but neither more than this part of a segment.
const STEP_PART: u64 = 8;
/// Segments ready to be used, beyond which dead ones are removed.
const READY_LIMIT: usize = 3;
/// The newest segments hold mail that is on its way; most of it will be complete in a moment.
const YOUNG: usize = 2;
/// Small segments, as restarts leave them, that are put up with.
const SMALL_LIMIT: usize = 8;

/// A frame to be carried.
struct CarriedFrame {
    records: u32,
    metadata: Vec<u8>,
    body: Option<Bytes>,
}

impl<S: Storage> Log<S> {
    /// Picks the segment whose cleaning gains most, if one gains enough.
    pub(crate) fn choose_cleaning(&mut self) {
        let Some(head) = self.head.as_ref().filter(|head| head.has_roster()) else {
            return;
        };
        if self.cleaning.is_some() {
            return;
        }
        let is_pressed = self.is_below_minimum || self.ready.is_empty();
        let half = self.settings.segment_size / 2;
        let state = self.shared.state.lock();
        let young = if is_pressed { 0 } else { YOUNG };
        let older = state.segments.len().saturating_sub(1 + young);
        let small = state.segments.values().filter(|segment| segment.size < half).count();
        let worth = state
            .segments
            .iter()
            .take(older)
            .filter(|(number, segment)| {
                **number != head.number && !segment.is_condemned && !segment.is_unreadable && !segment.is_dead()
            })
            .filter(|(_, segment)| {
                let live = segment.live_bytes();
                let gains = if is_pressed {
                    live < segment.size / 5 * 4
                } else {
                    live < segment.size / 2 || (small > SMALL_LIMIT && segment.size < half)
                };
                let fits = match self.ready.len() {
                    0 => live + live / 8 + 4096 <= head.room(),
                    1 => live <= half,
                    _ => true,
                };
                gains && fits
            })
            .min_by_key(|(_, segment)| segment.live_bytes() * 1000 / segment.size.max(1));
        if let Some((number, _)) = worth {
            self.cleaning = Some(Cleaning { victim: *number, position: FRAMES_START, holes: 0 });
        }
    }

    /// Adds the next step of the cleaning to the group.
    pub(crate) fn carry(&mut self, group: &mut Group) -> Option<Step> {
        let cleaning = self.cleaning.as_ref()?;
        let victim = cleaning.victim;
        let (step, frames) = match self.read_step(cleaning) {
            Ok(step) => step,
            Err(why) => {
                let path = segment_path(&self.shared.directory, victim);
                log::error!("spool: {} cannot be cleaned: {why}", path.display());
                if let Some(segment) = self.shared.state.lock().segments.get_mut(&victim) {
                    segment.is_unreadable = true;
                }
                self.cleaning = None;
                return None;
            }
        };
        if frames.is_empty() {
            self.carried(step);
            return None;
        }
        let need: u64 = frames
            .iter()
            .map(|frame| {
                let body = frame.body.as_ref().map_or(0, Bytes::len);
                (FRAME_HEADER + frame.metadata.len() + body + 8) as u64
            })
            .sum();
        let room = self.head.as_ref().map_or(0, |head| head.room());
        if group.length() + need > room {
            if self.ready.is_empty() || self.roll(need, false).is_err() {
                // No room now; a later tick chooses anew.
                self.cleaning = None;
                return None;
            }
            *group = self.restart_group(std::mem::take(group));
        }
        for frame in frames {
            let metadata = frame.metadata;
            group.frame(frame.records, |out| out.extend_from_slice(&metadata), frame.body);
        }
        Some(step)
    }

    /// A step is durable, or had nothing to carry.
    pub(crate) fn carried(&mut self, step: Step) {
        let Some(cleaning) = &mut self.cleaning else {
            return;
        };
        cleaning.position = step.next;
        cleaning.holes += step.holes;
        let counters = &self.shared.counters;
        counters.moved.fetch_add(step.moved, Ordering::Relaxed);
        if !step.is_last {
            return;
        }
        let victim = cleaning.victim;
        self.cleaning = None;
        let mut state = self.shared.state.lock();
        state.drop_spent_notes(victim);
        state.may_have_dead = true;
        if let Some(segment) = state.segments.get_mut(&victim) {
            if segment.messages == 0 && segment.states == 0 && segment.notes == 0 {
                segment.is_condemned = true;
            } else {
                // Never remove what the accounts say is needed.
                segment.is_unreadable = true;
                log::error!(
                    "spool: segment {victim:08x} was cleaned, yet {} messages, {} states and {} notes are left in it; it stays",
                    segment.messages,
                    segment.states,
                    segment.notes
                );
            }
        }
    }

    /// Reads on in the victim until a step is full.
    fn read_step(&self, cleaning: &Cleaning) -> Result<(Step, Vec<CarriedFrame>), String> {
        let victim = cleaning.victim;
        let state = self.shared.state.lock();
        let segment = state.segments.get(&victim).ok_or("it is gone".to_owned())?;
        let (seed, end, damages) = (segment.seed, segment.end, segment.damages);
        let file = state.file(victim);
        drop(state);
        let storage = &self.shared.storage;
        let file = match file {
            Some(file) => file,
            None => {
                let path = segment_path(&self.shared.directory, victim);
                let file = storage.open(&path).map_err(|error| error.to_string())?;
                let mut state = self.shared.state.lock();
                state.keep_file(victim, file.into()).ok_or("it is gone".to_owned())?
            }
        };
        let reader = FileReader { storage, file: &*file };
        let mut window = Window::new(&reader, end);
        let mut step = Step { next: cleaning.position, holes: 0, moved: 0, is_last: false };
        let mut small = CarriedFrame { records: 0, metadata: Vec::new(), body: None };
        let mut frames = Vec::new();
        let mut wanted = Vec::new();
        let mut carried = 0;
        let part = self.settings.segment_size / STEP_PART;
        let (carry_limit, scan_limit) = (STEP_CARRY.min(part) as usize, STEP_SCAN.min(part));
        while carried < carry_limit && step.next - cleaning.position < scan_limit {
            let (offset, is_damage) = window.next_sealed(step.next, seed).map_err(|error| error.to_string())?;
            step.holes += usize::from(is_damage);
            if cleaning.holes + step.holes > damages {
                return Err(format!("it became unreadable near {}", step.next));
            }
            let Some(offset) = offset else {
                step.is_last = true;
                break;
            };
            let Some(frame) =
                window.frame(offset, seed, crate::format::Sums::Verify).map_err(|error| error.to_string())?
            else {
                return Err(format!("the frame at {offset} became unreadable"));
            };
            step.next = frame.end();
            let before = small.metadata.len();
            let state = self.shared.state.lock();
            select(&state, victim, &frame, &mut small, &mut wanted);
            drop(state);
            carried += small.metadata.len() - before;
            for message in wanted.drain(..) {
                let mut body = vec![0; message.body_length];
                let filled =
                    storage.read_at(&file, message.body_offset, &mut body).map_err(|error| error.to_string())?;
                if filled < body.len() || crc32c::crc32c(&body) != message.body_sum {
                    return Err(format!("the body at {} is damaged", message.body_offset));
                }
                carried += message.metadata.len() + body.len();
                step.moved += 1;
                frames.push(CarriedFrame { records: 1, metadata: message.metadata, body: Some(body.into()) });
            }
        }
        if small.records > 0 {
            frames.push(small);
        }
        Ok((step, frames))
    }

    /// Removes one segment that nothing needs, or makes it ready to be used again. Says whether
    /// one went.
    pub(crate) fn remove_dead(&mut self) -> bool {
        // Before the head's roster is durable, an older one may be what tells ends from tails.
        let Some(head) = self.head.as_ref().filter(|head| head.has_roster()) else {
            return false;
        };
        if self.is_removal_paused {
            return false;
        }
        let head = head.number;
        let mut state = self.shared.state.lock();
        if !state.may_have_dead {
            return false;
        }
        let only_notes: Vec<u32> = state
            .segments
            .iter()
            .filter(|(_, segment)| segment.notes > 0 && segment.messages == 0)
            .map(|(number, _)| *number)
            .collect();
        for number in only_notes {
            state.drop_spent_notes(number);
        }
        let cleaned = self.cleaning.as_ref().map(|cleaning| cleaning.victim);
        let dead = state
            .segments
            .iter()
            .find(|(number, segment)| **number != head && (segment.is_condemned || segment.is_dead()))
            .map(|(number, _)| *number);
        let Some(number) = dead else {
            state.may_have_dead = false;
            return false;
        };
        if cleaned == Some(number) {
            self.cleaning = None;
        }
        let (_, is_lent) = state.close_file(number);
        let Some(segment) = state.segments.get_mut(&number) else {
            return false;
        };
        segment.is_condemned = true;
        let is_damaged = segment.damages > 0 || segment.is_unreadable;
        let is_useful = !segment.has_failed
            && !is_lent
            && segment.size == self.settings.segment_size
            && self.ready.len() < READY_LIMIT;
        drop(state);
        self.remove_segment(number, is_damaged, is_useful)
    }

    fn remove_segment(&mut self, number: u32, is_damaged: bool, is_useful: bool) -> bool {
        let directory = &self.shared.directory;
        let storage = &self.shared.storage;
        let path = segment_path(directory, number);
        let old = old_path(directory, number);
        let removed = if is_damaged {
            log::warn!(
                "spool: nothing needs the damaged segment {} any more; it is kept with the ending `damaged`",
                path.display()
            );
            storage.rename(&path, &damaged_path(directory, number))
        } else if is_useful {
            storage.rename(&path, &old)
        } else {
            storage.remove(&path)
        };
        let removed = match removed {
            // An earlier attempt came this far.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        // Until this is durable the segment may come back, so all that it pins stays.
        if let Err(error) = removed.and_then(|()| storage.sync_directory(directory)) {
            log::warn!("spool: {} could not be removed: {error}", path.display());
            self.is_removal_paused = true;
            return false;
        }
        self.shared.state.lock().remove_segment(number);
        let counters = &self.shared.counters;
        counters.reclaimed.fetch_add(1, Ordering::Relaxed);
        if is_useful && !is_damaged {
            self.use_again(number);
        }
        true
    }

    /// Blocks that were written before need no allocation at the next sync, which doubles the
    /// syncs a second on ext4.
    fn use_again(&mut self, number: u32) {
        let new_number = self.take_number();
        let directory = &self.shared.directory;
        let storage = &self.shared.storage;
        let old = old_path(directory, number);
        let ready = storage.open_writable(&old).and_then(|file| {
            let seed = make_ready(storage, directory, new_number, &file, &old)?;
            Ok(Ready { number: new_number, file, seed, size: self.settings.segment_size })
        });
        match ready {
            Ok(ready) => {
                self.ready.push_back(ready);
                self.count_ready();
            }
            Err(error) => {
                log::warn!("spool: {} could not be used again: {error}", old.display());
                let _ = storage.remove(&old);
                let _ = storage.remove(&segment_path(directory, new_number));
            }
        }
    }
}

/// A message to be moved.
struct Wanted {
    metadata: Vec<u8>,
    body_offset: u64,
    body_length: usize,
    body_sum: u32,
}

/// Picks from a frame of the victim what is still needed.
fn select<F>(state: &State<F>, victim: u32, frame: &Frame<'_>, small: &mut CarriedFrame, wanted: &mut Vec<Wanted>) {
    let exists = |target: u32| target != victim && state.segments.contains_key(&target);
    for (message, body_offset) in frame.messages() {
        let entry = state
            .index
            .get(message.id)
            .filter(|entry| entry.segment == victim && from_units(entry.offset) == frame.offset);
        if let Some(entry) = entry {
            let outstanding: Vec<_> =
                state.index.outstanding(&entry).into_iter().map(|one| (one.recipient, one.state)).collect();
            let mut metadata = Vec::new();
            put_moved(&mut metadata, &message, victim, &outstanding);
            wanted.push(Wanted {
                metadata,
                body_offset,
                body_length: message.body_length() as usize,
                body_sum: message.body_sum,
            });
        }
        if let Some(moved) = message.moved
            && exists(moved.from)
        {
            put_superseded(&mut small.metadata, message.id, moved.from);
            small.records += 1;
        }
    }
    for record in frame.records() {
        let out = &mut small.metadata;
        match record {
            Record::Complete { id, recipient, target } if exists(target) => put_complete(out, id, recipient, target),
            Record::Superseded { id, target } if exists(target) => put_superseded(out, id, target),
            Record::Defer { id, recipient, .. } => {
                let current = state
                    .index
                    .get(id)
                    // A message in the victim takes its states along when it moves.
                    .filter(|entry| entry.segment != victim)
                    .and_then(|entry| state.index.recipient(&entry, recipient))
                    .filter(|one| one.state_segment == victim);
                let Some(current) = current else { continue };
                put_defer(out, id, recipient, current.state);
            }
            Record::Note { key, .. } => {
                let is_needed = state.notes.get(key).is_some_and(|note| note.segment == victim)
                    && !state.is_spent_note(key, victim);
                let value = state.notes.get(key).map(|note| note.value.clone());
                let Some(value) = value.filter(|_| is_needed) else {
                    continue;
                };
                put_note(out, key, &value);
            }
            _ => continue,
        }
        small.records += 1;
    }
}
