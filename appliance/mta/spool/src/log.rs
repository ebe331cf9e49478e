//! The log: takes batches, makes them durable in groups, and keeps its promises when the storage
//! does not keep its own. Synchronous and without clock or threads, so that tests drive it
//! through thousands of crashes; the committer thread is a thin shell around it.
//!
//! Two rules carry the weight. A segment in which a write or a sync failed is never written or
//! synced again: it counts up to its last durable group, which the first frame of the next
//! segment says. And a refused accept is answered only when nothing of it can come back.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::format::{FRAMES_START, GROUP_ALIGNMENT, RosterEntry, Seed, align, put_roster};
use crate::group::{Group, Pending};
use crate::operation::SubmitError;
use crate::reclaim::Cleaning;
use crate::replay::segment_path;
use crate::state::State;
use crate::storage::Storage;
use crate::supply::Ready;

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
    pub(crate) seed: Seed,
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

/// See the module.
pub(crate) struct Log<S: Storage> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) settings: Settings,
    pub(crate) head: Option<Head<S::File>>,
    pub(crate) ready: VecDeque<Ready<S::File>>,
    pub(crate) next_number: u32,
    /// Batches without an accept that wait for a segment that works.
    pub(crate) held: VecDeque<Pending>,
    /// Refused accepts whose bytes may lie behind the end of a failed segment. They are answered
    /// when a durable roster says where that segment ends.
    pub(crate) in_doubt: Vec<(oneshot::Sender<Result<(), SubmitError>>, SubmitError)>,
    pub(crate) cleaning: Option<Cleaning>,
    pub(crate) is_below_minimum: bool,
    /// Why the last preparation of a segment failed; none is tried again before the next tick.
    pub(crate) prepare_error: Option<SubmitError>,
    /// Why the last group failed.
    pub(crate) write_error: Option<SubmitError>,
    /// Removals wait for the next tick after one failed.
    pub(crate) is_removal_paused: bool,
    pub(crate) has_new_head: bool,
    /// A tick has passed since the last group.
    pub(crate) has_ticked: bool,
    pub(crate) group: Group,
    /// Held, never read.
    pub(crate) _lock: S::File,
}

/// A group is closed when it has this many bytes.
const GROUP_LIMIT: u64 = 8 << 20;
/// So many batches make a group worth its room when there is little of it.
const GATHERED: usize = 512;
/// Groups that may fail in one call; then callers are told, and the next tick tries again.
pub(crate) const FAILURES: usize = 3;

pub(crate) fn submit_error(doing: &'static str, error: &io::Error) -> SubmitError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SubmitError::Full,
        _ => SubmitError::Storage { doing, reason: error.to_string() },
    }
}

impl<S: Storage> Log<S> {
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

    pub(crate) fn begin_group(&mut self) -> Group {
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

    pub(crate) fn give_back(&mut self, mut group: Group) {
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

    pub(crate) fn write(&mut self, group: &mut Group) -> io::Result<()> {
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
    pub(crate) fn fail(&mut self, group: &mut Group, work: &mut VecDeque<Pending>, error: &io::Error) {
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
}
