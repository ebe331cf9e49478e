//! Where groups go: the head, the segments that are ready behind it, and the reserve that lets
//! completions through when the disk is full.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::{FRAMES_START, GROUP_ALIGNMENT, Seed, SegmentHeader, VERSION, align};
use crate::log::{Head, Log, submit_error};
use crate::operation::SubmitError;
use crate::replay::{new_path, segment_path};
use crate::state::Segment;
use crate::storage::Storage;

/// A segment that waits to become the head: header durable, no frames.
pub(crate) struct Ready<F> {
    pub(crate) number: u32,
    pub(crate) file: F,
    pub(crate) seed: Seed,
    pub(crate) size: u64,
}

impl<S: Storage> Log<S> {
    /// Whether the disk is full and the reserve is being used up. Then batches gather for a tick,
    /// for a group of one small batch takes as much room as one of thirty.
    pub(crate) fn is_last_room(&mut self) -> bool {
        if !self.ready.is_empty() {
            return false;
        }
        self.keep_ready();
        self.ready.is_empty()
            && self.cleaning.is_none()
            && self.head.as_ref().is_some_and(|head| head.room() < head.size / 2)
    }

    /// An accept needs a reserve behind it, so that completions find room on a full disk.
    pub(crate) fn may_accept(&mut self) -> Result<(), SubmitError> {
        if self.is_below_minimum {
            return Err(SubmitError::Full);
        }
        if self.ready.is_empty() {
            self.prepare(self.settings.segment_size, true)?;
        }
        Ok(())
    }

    pub(crate) fn ensure_head(&mut self) -> bool {
        if self.head.is_some() {
            return true;
        }
        let size = self.settings.segment_size;
        if self.ready.is_empty() && self.prepare(size, false).is_err() {
            return false;
        }
        self.begin_head().is_some()
    }

    /// Takes the next segment that is ready as head.
    fn begin_head(&mut self) -> Option<()> {
        let ready = self.ready.pop_front()?;
        let file = Arc::new(ready.file);
        let mut state = self.shared.state.lock();
        let segment = Segment::new(ready.seed, ready.size, FRAMES_START);
        state.segments.insert(ready.number, segment);
        state.keep_file(ready.number, file.clone());
        state.may_have_dead = true;
        drop(state);
        self.has_new_head = true;
        self.head = Some(Head {
            number: ready.number,
            file,
            seed: ready.seed,
            size: ready.size,
            position: FRAMES_START,
            end: FRAMES_START,
        });
        self.count_ready();
        Some(())
    }

    /// Goes on in a new segment that has room for `need` bytes. The reserve is touched only
    /// for what must not fail.
    pub(crate) fn roll(&mut self, need: u64, is_accept: bool) -> Result<(), SubmitError> {
        let size = self.settings.segment_size;
        let wanted = if is_accept { 2 } else { 1 };
        while self.ready.len() < wanted {
            self.prepare(size, is_accept)?;
        }
        let segments = self.shared.state.lock().segments.len() as u64;
        let roster = 128 + 16 * (segments + 1);
        let whole = align(FRAMES_START + align(roster, GROUP_ALIGNMENT) + need + GROUP_ALIGNMENT, 4096);
        if let Some(next) = self.ready.front_mut()
            && next.size < whole
        {
            let storage = &self.shared.storage;
            let enlarged = storage.preallocate(&next.file, whole).and_then(|()| storage.sync(&next.file));
            if let Err(error) = enlarged {
                // It may be of any length now, and a sync of it may have failed.
                let error = submit_error("enlarge a segment", &error);
                if let Some(spoilt) = self.ready.pop_front() {
                    self.discard(spoilt);
                }
                return Err(error);
            }
            next.size = whole;
        }
        self.begin_head();
        Ok(())
    }

    fn discard(&mut self, ready: Ready<S::File>) {
        let path = segment_path(&self.shared.directory, ready.number);
        if let Err(error) = self.shared.storage.remove(&path) {
            log::warn!("spool: {} could not be removed: {error}", path.display());
        }
        self.count_ready();
    }

    /// Keeps a segment in reserve, and a second one when the head is half full.
    pub(crate) fn keep_ready(&mut self) {
        let size = self.settings.segment_size;
        if self.ready.is_empty() {
            // Below the minimum too: completions go before free space.
            let _ = self.prepare(size, false);
        }
        let is_filling = self.head.as_ref().is_some_and(|head| head.room() < head.size / 2);
        if is_filling && self.ready.len() < 2 && !self.is_below_minimum {
            let _ = self.prepare(size, true);
        }
    }

    /// Makes a segment ready. With `keep_minimum` the file system keeps its minimum of space.
    fn prepare(&mut self, size: u64, keep_minimum: bool) -> Result<(), SubmitError> {
        if let Some(error) = &self.prepare_error {
            return Err(error.clone());
        }
        if keep_minimum {
            let free = self.shared.storage.free_space(&self.shared.directory);
            if free.is_ok_and(|free| free < self.settings.minimum_free.saturating_add(size)) {
                return Err(SubmitError::Full);
            }
        }
        let number = self.take_number();
        let directory = &self.shared.directory;
        let storage = &self.shared.storage;
        let new = new_path(directory, number);
        let prepared = storage.create(&new).and_then(|file| {
            storage.preallocate(&file, size)?;
            Ok(file)
        });
        let ready = prepared.and_then(|file| {
            let seed = make_ready(storage, directory, number, &file, &new)?;
            Ok(Ready { number, file, seed, size })
        });
        match ready {
            Ok(ready) => {
                self.ready.push_back(ready);
                self.count_ready();
                Ok(())
            }
            Err(error) => {
                // What is left of it is removed now or at the next start.
                let _ = storage.remove(&new);
                let _ = storage.remove(&segment_path(directory, number));
                log::warn!("spool: no new segment could be made in {}: {error}", directory.display());
                let error = submit_error("make a segment", &error);
                self.prepare_error = Some(error.clone());
                Err(error)
            }
        }
    }

    pub(crate) fn take_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        number
    }

    pub(crate) fn count_ready(&self) {
        let ready = self.ready.len() as u64;
        self.shared.counters.ready.store(ready, Ordering::Relaxed);
    }
}

/// Writes the header into a file, and gives it its name as a segment, all of it durable.
pub(crate) fn make_ready<S: Storage>(
    storage: &S,
    directory: &Path,
    number: u32,
    file: &S::File,
    path: &Path,
) -> io::Result<Seed> {
    let header = SegmentHeader { version: VERSION, number, nonce: storage.random() };
    storage.write_at(file, 0, &mut [IoSlice::new(&header.encode())])?;
    storage.sync(file)?;
    storage.rename(path, &segment_path(directory, number))?;
    storage.sync_directory(directory)?;
    Ok(header.seed())
}
