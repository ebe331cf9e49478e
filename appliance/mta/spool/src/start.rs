//! The start: takes the lock, reads what the directory holds, repairs what a crash left, and makes
//! sure that a later start would read the same before anybody is told of it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::format::{FRAMES_START, GROUP_ALIGNMENT, align};
use crate::group::Group;
use crate::log::{Counters, FAILURES, Log, Settings, Shared};
use crate::operation::OpenError;
use crate::replay::{OpenTail, Recovered, Repair, Replay, damaged_path, failed, replay, segment_path, tell};
use crate::state::State;
use crate::storage::Storage;

/// What the start found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Messages that are not complete.
    pub messages: u64,
    /// Their recipients that are not complete.
    pub recipients: u64,
    /// Every key with its last value.
    pub notes: Vec<(bytes::Bytes, bytes::Bytes)>,
    /// What was wrong and what was done about it.
    pub repairs: Vec<Repair>,
}

/// Ids that may have been given out and not become durable before a crash; far more than
/// can wait at one time.
const ID_GAP: u64 = 1 << 16;

impl<S: Storage> Log<S> {
    /// Opens the directory, repairs it, and tells of what is not complete.
    pub(crate) fn open(
        mut settings: Settings,
        storage: S,
        mut on_message: impl FnMut(Recovered<'_>),
    ) -> Result<(Self, Recovery), OpenError> {
        settings.segment_size = align(settings.segment_size, 4096);
        let directory = settings.directory.clone();
        storage.create_directory(&directory).map_err(failed("make the directory", &directory))?;
        let lock_path = directory.join("lock");
        let lock = storage
            .lock(&lock_path)
            .map_err(failed("lock", &lock_path))?
            .ok_or_else(|| OpenError::Locked { directory: directory.clone() })?;
        let Replay { mut state, repairs, tails, unreadable, left_over, highest } = replay(&storage, &directory)?;
        for number in unreadable {
            let path = segment_path(&directory, number);
            storage.rename(&path, &damaged_path(&directory, number)).map_err(failed("rename", &path))?;
        }
        for name in left_over {
            let path = directory.join(name);
            if let Err(error) = storage.remove(&path) {
                log::warn!("spool: {} could not be removed: {error}", path.display());
            }
        }
        storage.sync_directory(&directory).map_err(failed("sync", &directory))?;
        let (with_frames, empty): (Vec<_>, Vec<_>) = tails.into_iter().partition(|tail| tail.end > FRAMES_START);
        for tail in with_frames {
            settle_tail(&storage, &directory, &mut state, tail)?;
        }
        let next_id = if highest == 0 { 1 } else { state.next_id.saturating_add(ID_GAP) };
        state.may_have_dead = true;
        let mut recovery =
            Recovery { messages: state.index.len(), recipients: state.recipients, notes: Vec::new(), repairs };
        for (key, note) in &state.notes {
            if !note.value.is_empty() {
                recovery.notes.push((key.clone(), note.value.clone()));
            }
        }
        recovery.notes.sort();
        let mut log = Self {
            shared: Arc::new(Shared {
                storage,
                directory,
                segment_size: settings.segment_size,
                state: Mutex::new(state),
                next_id: AtomicU64::new(next_id),
                counters: Counters::default(),
            }),
            settings,
            head: None,
            ready: VecDeque::new(),
            next_number: highest.saturating_add(1),
            held: VecDeque::new(),
            in_doubt: Vec::new(),
            cleaning: None,
            is_below_minimum: false,
            prepare_error: None,
            write_error: None,
            is_removal_paused: false,
            has_new_head: false,
            has_ticked: false,
            group: Group::default(),
            _lock: lock,
        };
        // From here on a later start reads the same as this one, whatever the old tail held.
        if !log.write_roster() {
            log.empty_tails(&empty)?;
        }
        log.tick();
        tell(&log.shared.storage, &log.shared.directory, &log.shared.state.lock(), &mut on_message)?;
        Ok((log, recovery))
    }

    /// Begins a head and makes its roster durable, if the storage lets it.
    fn write_roster(&mut self) -> bool {
        for _ in 0..FAILURES {
            if !self.ensure_head() {
                return false;
            }
            let mut group = self.begin_group();
            let written = self.write(&mut group);
            if let Err(error) = &written {
                self.fail(&mut group, &mut VecDeque::new(), error);
            }
            self.give_back(group);
            if written.is_ok() {
                return true;
            }
        }
        false
    }

    /// Without a roster nothing says that these segments hold no frames: a group that failed in
    /// one, and that memory forgot and the disk did not, could come back.
    fn empty_tails(&self, tails: &[OpenTail]) -> Result<(), OpenError> {
        let storage = &self.shared.storage;
        for tail in tails {
            let path = segment_path(&self.shared.directory, tail.number);
            let file = storage.open_writable(&path).map_err(failed("open", &path))?;
            storage.truncate(&file, FRAMES_START).map_err(failed("truncate", &path))?;
            storage.sync(&file).map_err(failed("sync", &path))?;
            if let Some(segment) = self.shared.state.lock().segments.get_mut(&tail.number) {
                segment.size = FRAMES_START;
            }
        }
        Ok(())
    }
}

/// Makes sure of the end of a segment that no roster seals. Nothing proves that its last group is
/// on the disk and not only in the page cache of a process that was killed, perhaps after a sync
/// that failed: so it is written once more, and synced.
fn settle_tail<S: Storage>(
    storage: &S,
    directory: &Path,
    state: &mut State<S::File>,
    tail: OpenTail,
) -> Result<(), OpenError> {
    let path = segment_path(directory, tail.number);
    let file = storage.open_writable(&path).map_err(failed("open", &path))?;
    let padded = align(tail.end, GROUP_ALIGNMENT);
    let mut position = tail.last_group;
    let mut buffer = vec![0; 1 << 20];
    while position < tail.end {
        let step = (tail.end - position).min(buffer.len() as u64) as usize;
        let filled = storage.read_at(&file, position, &mut buffer[..step]).map_err(failed("read", &path))?;
        if filled < step {
            break;
        }
        storage.write_at(&file, position, &mut [IoSlice::new(&buffer[..step])]).map_err(failed("write", &path))?;
        position += step as u64;
    }
    if padded > tail.end {
        let padding = [0; GROUP_ALIGNMENT as usize];
        let zeros = &padding[..(padded - tail.end) as usize];
        storage.write_at(&file, tail.end, &mut [IoSlice::new(zeros)]).map_err(failed("write", &path))?;
    }
    storage.truncate(&file, padded).map_err(failed("truncate", &path))?;
    storage.sync(&file).map_err(failed("sync", &path))?;
    if let Some(segment) = state.segments.get_mut(&tail.number) {
        segment.size = padded;
    }
    Ok(())
}
