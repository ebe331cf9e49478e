//! The log: takes batches, makes them durable in groups, and keeps its promises when the storage
//! does not keep its own. Synchronous and without clock or threads, so that tests drive it
//! through thousands of crashes; the committer thread is a thin shell around it.
//!
//! Two rules carry the weight. A segment in which a write or a sync failed is never written or
//! synced again: it counts up to its last durable group, which the first frame of the next
//! segment says. And a refused accept is answered only when nothing of it can come back.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::format::{FRAMES_START, GROUP_ALIGNMENT, RosterEntry, Seed, SegmentHeader, VERSION, align, put_roster};
use crate::group::{Group, Pending};
use crate::operation::{OpenError, SubmitError};
use crate::reclaim::Cleaning;
use crate::replay::{OpenTail, Recovered, Repair, Replay, damaged_path, failed, new_path, replay, segment_path, tell};
use crate::state::{Segment, State};
use crate::storage::Storage;

/// How the spool is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the segments; made if absent.
    pub directory: PathBuf,
    /// Bytes of one segment, 64 KiB to 4 GiB. A message that is larger gets a larger segment.
    pub segment_size: u64,
    /// Accepts are refused while the file system has less free bytes than this.
    pub minimum_free: u64,
    /// Bytes of accepts that may wait to be written.
    pub pending_limit: u64,
}

impl Settings {
    /// 64 MiB segments, 256 MiB kept free, 64 MiB waiting.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), segment_size: 64 << 20, minimum_free: 256 << 20, pending_limit: 64 << 20 }
    }
}

/// What readers and the committer share.
pub(crate) struct Shared<S: Storage> {
    pub(crate) storage: S,
    pub(crate) directory: PathBuf,
    pub(crate) segment_size: u64,
    pub(crate) state: Mutex<State<S::File>>,
    pub(crate) next_id: AtomicU64,
    pub(crate) counters: Counters,
}

/// Totals since the start.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) groups: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) reclaimed: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) ready: AtomicU64,
}

/// The segment that is written to.
pub(crate) struct Head<F> {
    pub(crate) number: u32,
    pub(crate) file: Arc<F>,
    seed: Seed,
    pub(crate) size: u64,
    /// Where the next group begins.
    pub(crate) position: u64,
    /// Where the last durable frame ends.
    pub(crate) end: u64,
}

impl<F> Head<F> {
    /// Whether a start would find this segment's roster.
    pub(crate) fn has_roster(&self) -> bool {
        self.end > FRAMES_START
    }

    pub(crate) fn room(&self) -> u64 {
        self.size.saturating_sub(self.position)
    }
}

/// A segment that waits to become the head: header durable, no frames.
pub(crate) struct Ready<F> {
    pub(crate) number: u32,
    pub(crate) file: F,
    pub(crate) seed: Seed,
    pub(crate) size: u64,
}

/// See the module.
pub(crate) struct Log<S: Storage> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) settings: Settings,
    pub(crate) head: Option<Head<S::File>>,
    pub(crate) ready: VecDeque<Ready<S::File>>,
    pub(crate) next_number: u32,
    /// Batches without an accept that wait for a segment that works.
    held: VecDeque<Pending>,
    /// Refused accepts whose bytes may lie behind the end of a failed segment. They are answered
    /// when a durable roster says where that segment ends.
    in_doubt: Vec<(oneshot::Sender<Result<(), SubmitError>>, SubmitError)>,
    pub(crate) cleaning: Option<Cleaning>,
    pub(crate) is_below_minimum: bool,
    /// Why the last preparation of a segment failed; none is tried again before the next tick.
    prepare_error: Option<SubmitError>,
    /// Why the last group failed.
    write_error: Option<SubmitError>,
    /// Removals wait for the next tick after one failed.
    pub(crate) is_removal_paused: bool,
    has_new_head: bool,
    /// A tick has passed since the last group.
    has_ticked: bool,
    group: Group,
    _lock: S::File,
}

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

/// A group is closed when it has this many bytes.
const GROUP_LIMIT: u64 = 8 << 20;
/// Ids that may have been given out and not become durable before a crash; far more than
/// can wait at one time.
const ID_GAP: u64 = 1 << 16;
/// So many batches make a group worth its room when there is little of it.
const GATHERED: usize = 512;
/// Groups that may fail in one call; then callers are told, and the next tick tries again.
const FAILURES: usize = 3;

pub(crate) fn submit_error(doing: &'static str, error: &io::Error) -> SubmitError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SubmitError::Full,
        _ => SubmitError::Storage { doing, reason: error.to_string() },
    }
}

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

    /// Makes the batches durable, in order, and answers each. Comes back when all are answered
    /// or wait for storage that works.
    pub(crate) fn commit(&mut self, batches: &mut Vec<Pending>) {
        let mut work = std::mem::take(&mut self.held);
        work.extend(batches.drain(..));
        let is_last_room = self.is_last_room();
        if is_last_room && !self.has_ticked && work.len() < GATHERED && self.in_doubt.is_empty() {
            self.refuse_or_hold(work);
            return;
        }
        self.has_ticked = false;
        let mut failures = 0;
        let mut may_carry = true;
        while failures < FAILURES {
            if !self.ensure_head() {
                break;
            }
            let mut group = self.begin_group();
            let carried = if may_carry { self.carry(&mut group) } else { None };
            may_carry = false;
            let needs_room = self.fill(&mut group, &mut work);
            let has_content = !group.batches.is_empty() || carried.is_some();
            if has_content || !self.in_doubt.is_empty() {
                match self.write(&mut group) {
                    Ok(()) => {
                        if let Some(step) = carried {
                            self.carried(step);
                        }
                        for pending in group.batches.drain(..) {
                            pending.answer(Ok(()));
                        }
                        for (answer, error) in self.in_doubt.drain(..) {
                            let _ = answer.send(Err(error));
                        }
                    }
                    Err(error) => {
                        failures += 1;
                        self.fail(&mut group, &mut work, &error);
                    }
                }
            }
            let written = has_content;
            self.give_back(group);
            if self.head.is_none() {
                continue;
            }
            if let Some(need) = needs_room {
                let is_accept = work.front().is_some_and(Pending::has_accept);
                if let Err(error) = self.roll(need, is_accept) {
                    if is_accept {
                        if let Some(pending) = work.pop_front() {
                            pending.answer(Err(error));
                        }
                    } else {
                        self.write_error = Some(error);
                        break;
                    }
                }
            } else if work.is_empty() || !written {
                break;
            }
        }
        self.refuse_or_hold(work);
    }

    /// Whether the disk is full and the reserve is being used up. Then batches gather for a tick,
    /// for a group of one small batch takes as much room as one of thirty.
    fn is_last_room(&mut self) -> bool {
        if !self.ready.is_empty() {
            return false;
        }
        self.keep_ready();
        self.ready.is_empty()
            && self.cleaning.is_none()
            && self.head.as_ref().is_some_and(|head| head.room() < head.size / 2)
    }

    fn refuse_or_hold(&mut self, work: VecDeque<Pending>) {
        for pending in work {
            if pending.has_accept() {
                let error = self.refusal();
                pending.answer(Err(error));
            } else {
                self.held.push_back(pending);
            }
        }
        let held = self.held.len() as u64;
        self.shared.counters.held.store(held, Ordering::Relaxed);
    }

    /// Why accepts are refused while there is no head or no reserve.
    fn refusal(&self) -> SubmitError {
        self.write_error.clone().or_else(|| self.prepare_error.clone()).unwrap_or(SubmitError::Full)
    }

    /// Whether something waits for storage that works.
    pub(crate) fn is_troubled(&self) -> bool {
        !self.held.is_empty() || !self.in_doubt.is_empty() || self.head.is_none()
    }

    /// Answers what cannot be answered any better, before the log is dropped.
    pub(crate) fn abandon(&mut self) {
        for (answer, _) in self.in_doubt.drain(..) {
            let _ = answer.send(Err(SubmitError::InDoubt));
        }
        for pending in self.held.drain(..) {
            pending.answer(Err(SubmitError::Closed));
        }
    }

    /// To be called about once a second: looks at the free space, lets what failed be tried
    /// again, and looks for segments worth cleaning.
    pub(crate) fn tick(&mut self) {
        match self.shared.storage.free_space(&self.shared.directory) {
            Ok(free) => self.is_below_minimum = free < self.settings.minimum_free,
            Err(error) => log::warn!("spool: the free space could not be read: {error}"),
        }
        self.prepare_error = None;
        self.is_removal_paused = false;
        self.has_ticked = true;
        self.keep_ready();
        self.choose_cleaning();
    }

    /// One bounded step of what has time: removing dead segments, preparing new ones.
    pub(crate) fn housekeep(&mut self) {
        if self.remove_dead() || std::mem::take(&mut self.has_new_head) {
            self.choose_cleaning();
        }
        self.keep_ready();
    }

    /// Whether another step is worthwhile without new batches.
    pub(crate) fn has_work(&self) -> bool {
        let may_remove = !self.is_removal_paused
            && self.head.as_ref().is_some_and(Head::has_roster)
            && self.shared.state.lock().may_have_dead;
        self.cleaning.is_some() || may_remove
    }

    fn begin_group(&mut self) -> Group {
        let mut group = std::mem::take(&mut self.group);
        if let Some(head) = &self.head {
            group.begin(head.seed, head.position);
            if head.position == FRAMES_START {
                let state = self.shared.state.lock();
                let entries = state
                    .segments
                    .iter()
                    .filter(|(number, _)| **number != head.number)
                    .map(|(number, segment)| RosterEntry { number: *number, seed: segment.seed, end: segment.end });
                let entries: Vec<_> = entries.collect();
                let next_id = self.shared.next_id.load(Ordering::Relaxed);
                group.frame(1, |out| put_roster(out, next_id.max(state.next_id), entries.into_iter()), []);
            }
        }
        group
    }

    /// The group at the front of a head that was begun meanwhile.
    pub(crate) fn restart_group(&mut self, group: Group) -> Group {
        self.group = group;
        self.begin_group()
    }

    fn give_back(&mut self, mut group: Group) {
        // Lets go of the bodies.
        group.begin(Seed(0), 0);
        self.group = group;
    }

    /// Moves batches into the group while they fit. Returns the bytes that the next one needs
    /// when it does not.
    fn fill(&mut self, group: &mut Group, work: &mut VecDeque<Pending>) -> Option<u64> {
        let (number, room) = self.head.as_ref().map(|head| (head.number, head.room()))?;
        while let Some(front) = work.front() {
            if front.has_accept()
                && let Err(error) = self.may_accept()
            {
                if let Some(pending) = work.pop_front() {
                    pending.answer(Err(error));
                }
                continue;
            }
            let need = front.size();
            if group.length() + need > room {
                return Some(need);
            }
            if !group.batches.is_empty() && group.length() + need > GROUP_LIMIT {
                return None;
            }
            let Some(pending) = work.pop_front() else {
                break;
            };
            let state = self.shared.state.lock();
            // What is not known yet is in this group, or nowhere.
            group.add(pending, &|id| state.index.get(id).map_or(number, |entry| entry.segment));
        }
        None
    }

    /// An accept needs a reserve behind it, so that completions find room on a full disk.
    fn may_accept(&mut self) -> Result<(), SubmitError> {
        if self.is_below_minimum {
            return Err(SubmitError::Full);
        }
        if self.ready.is_empty() {
            self.prepare(self.settings.segment_size, true)?;
        }
        Ok(())
    }

    fn write(&mut self, group: &mut Group) -> io::Result<()> {
        let Some(head) = &mut self.head else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let storage = &self.shared.storage;
        let start = group.start();
        {
            let mut slices = group.finish();
            storage.write_at(&head.file, start, &mut slices)?;
        }
        storage.sync(&head.file)?;
        head.end = group.end();
        head.position = align(head.end, GROUP_ALIGNMENT);
        let mut state = self.shared.state.lock();
        if let Some(segment) = state.segments.get_mut(&head.number) {
            segment.end = head.end;
        }
        for frame in group.frames() {
            state.apply(head.number, &frame);
        }
        drop(state);
        self.write_error = None;
        let counters = &self.shared.counters;
        counters.groups.fetch_add(1, Ordering::Relaxed);
        let batches = group.batches.len() as u64;
        counters.batches.fetch_add(batches, Ordering::Relaxed);
        counters.written.fetch_add(head.position - start, Ordering::Relaxed);
        Ok(())
    }

    /// A group did not become durable: nobody knows what of it reached the disk.
    fn fail(&mut self, group: &mut Group, work: &mut VecDeque<Pending>, error: &io::Error) {
        let counters = &self.shared.counters;
        counters.failures.fetch_add(1, Ordering::Relaxed);
        let refusal = submit_error("write a group", error);
        self.write_error = Some(refusal.clone());
        self.cleaning = None;
        if let Some(head) = self.head.take() {
            let path = segment_path(&self.shared.directory, head.number);
            log::error!(
                "spool: {} could not be written at {}: {error}; it ends there, and a new segment is begun",
                path.display(),
                head.position
            );
            // Only to make room and to be tidy: the roster of the next segment decides.
            let is_cut = self.shared.storage.truncate(&head.file, head.end).is_ok();
            let mut state = self.shared.state.lock();
            state.may_have_dead = true;
            if let Some(segment) = state.segments.get_mut(&head.number) {
                segment.has_failed = true;
                if is_cut {
                    segment.size = head.end;
                }
            }
        }
        for pending in group.batches.drain(..).rev() {
            if pending.has_accept() {
                self.in_doubt.push((pending.answer, refusal.clone()));
            } else {
                work.push_front(pending);
            }
        }
    }

    fn ensure_head(&mut self) -> bool {
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
    fn keep_ready(&mut self) {
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
