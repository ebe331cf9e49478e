//! A disk in memory that behaves as badly as real ones may: it keeps what was not synced apart,
//! loses, keeps or tears any of it when power fails, forgets pages after a failed sync, fails
//! any call on demand, and can run full.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Storage;

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(crate) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

pub(crate) struct SimFile {
    inode: usize,
    lock: Option<(PathBuf, SimDisk)>,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some((path, disk)) = self.lock.take() {
            disk.inner.lock().locks.remove(&path);
        }
    }
}

#[derive(Default, Clone)]
struct Inode {
    /// What reads see.
    cached: Vec<u8>,
    /// What a power cut leaves for sure.
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum Change {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    capacity: u64,
    random: fastrand::Rng,
    calls: u64,
    /// The one call that fails.
    fail_at: Option<u64>,
    /// From this call on nothing happens any more: power is lost.
    die_at: Option<u64>,
    /// Any call fails with this probability.
    fail_rate: f32,
    /// Calls of this name fail.
    failing: Vec<&'static str>,
    log: Vec<&'static str>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            locks: BTreeSet::new(),
            capacity: u64::MAX,
            random: fastrand::Rng::with_seed(1),
            calls: 0,
            fail_at: None,
            die_at: None,
            fail_rate: 0.0,
            failing: Vec::new(),
            log: Vec::new(),
        }
    }
}

/// How a call goes.
enum Fate {
    Works,
    Fails(io::Error),
    /// The change is made, and an error returned all the same.
    HalfFails(io::Error),
}

impl Inner {
    fn fate(&mut self, name: &'static str) -> Fate {
        let call = self.calls;
        self.calls += 1;
        self.log.push(name);
        if self.is_dead() {
            return Fate::Fails(io::Error::other("no power"));
        }
        if self.failing.contains(&name) {
            return Fate::Fails(io::Error::from_raw_os_error(5));
        }
        if self.fail_at == Some(call) || self.random.f32() < self.fail_rate {
            // EIO, ENOSPC or EDQUOT.
            let number = [5, 28, 122][self.random.usize(..3)];
            let error = io::Error::from_raw_os_error(number);
            return if self.random.u8(..4) == 0 { Fate::HalfFails(error) } else { Fate::Fails(error) };
        }
        Fate::Works
    }

    fn plain(&mut self, name: &'static str) -> io::Result<()> {
        match self.fate(name) {
            Fate::Works => Ok(()),
            Fate::Fails(error) | Fate::HalfFails(error) => Err(error),
        }
    }

    fn is_dead(&self) -> bool {
        self.die_at.is_some_and(|at| self.calls > at)
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].cached.len() as u64).sum()
    }

    fn write(&mut self, inode: usize, offset: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let file = &mut self.inodes[inode];
        let end = offset + data.len();
        if file.cached.len() < end {
            file.cached.resize(end, 0);
        }
        file.cached[offset..end].copy_from_slice(data);
        file.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn cut_power(&mut self) {
        let random = &mut self.random;
        for file in &mut self.inodes {
            let length = if random.bool() { file.cached.len() } else { file.durable.len() };
            let mut left = file.durable.clone();
            left.resize(length, 0);
            // What a truncation dropped and what was written since are one thing here.
            for sector in std::mem::take(&mut file.dirty) {
                let start = (sector * SECTOR).min(length);
                let end = (start + SECTOR).min(length).min(file.cached.len());
                if start >= end {
                    continue;
                }
                let (from, to) = match random.u8(..4) {
                    0 => (start, start),
                    1 => (start, random.usize(start..=end)),
                    2 => (random.usize(start..=end), end),
                    _ => (start, end),
                };
                let is_change = left[start..end] != file.cached[start..end];
                left[from..to].copy_from_slice(&file.cached[from..to]);
                if is_change && random.u8(..8) == 0 {
                    // The sector that was being written is unreadable noise now.
                    left[start..end].fill_with(|| random.u8(..));
                }
            }
            file.durable = left.clone();
            file.cached = left;
        }
        let keep_in_order = random.bool().then(|| random.usize(..=self.changes.len()));
        for (at, change) in std::mem::take(&mut self.changes).iter().enumerate() {
            if keep_in_order.map_or_else(|| random.bool(), |cut| at < cut) {
                apply(&mut self.durable_names, change);
            }
        }
        self.names = self.durable_names.clone();
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Change::Remove(path) => {
            names.remove(path);
        }
    }
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.inner.lock().random = fastrand::Rng::with_seed(seed);
        disk
    }

    /// The process dies; with `power` lost too, so does what was not synced. Faults end.
    pub(crate) fn crash(&self, power: bool) {
        let mut inner = self.inner.lock();
        if power {
            inner.cut_power();
        }
        inner.locks.clear();
        inner.fail_at = None;
        inner.die_at = None;
        inner.fail_rate = 0.0;
        inner.failing.clear();
    }

    /// All works again.
    pub(crate) fn end_faults(&self) {
        let mut inner = self.inner.lock();
        inner.fail_at = None;
        inner.die_at = None;
        inner.fail_rate = 0.0;
        inner.failing.clear();
    }

    pub(crate) fn calls(&self) -> u64 {
        self.inner.lock().calls
    }

    /// Names of the calls so far.
    pub(crate) fn call_names(&self) -> Vec<&'static str> {
        self.inner.lock().log.clone()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.inner.lock().is_dead()
    }

    pub(crate) fn fail_at(&self, call: u64) {
        self.inner.lock().fail_at = Some(call);
    }

    pub(crate) fn fail_all(&self, names: &[&'static str]) {
        self.inner.lock().failing = names.to_vec();
    }

    pub(crate) fn die_at(&self, call: u64) {
        self.inner.lock().die_at = Some(call);
    }

    pub(crate) fn set_fail_rate(&self, rate: f32) {
        self.inner.lock().fail_rate = rate;
    }

    pub(crate) fn set_capacity(&self, capacity: u64) {
        self.inner.lock().capacity = capacity;
    }

    pub(crate) fn used(&self) -> u64 {
        self.inner.lock().used()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let inner = self.inner.lock();
        inner.names.keys().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }

    /// Changes what lies on the medium itself.
    pub(crate) fn corrupt(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner.lock();
        let inode = inner.names[path];
        let file = &mut inner.inodes[inode];
        edit(&mut file.durable);
        file.cached = file.durable.clone();
        file.dirty.clear();
    }

    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let inner = self.inner.lock();
        inner.inodes[inner.names[path]].cached.clone()
    }

    fn file(&self, name: &'static str, path: &Path) -> io::Result<SimFile> {
        let mut inner = self.inner.lock();
        inner.plain(name)?;
        let inode = *inner.names.get(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(SimFile { inode, lock: None })
    }

    fn link(&self, name: &'static str, path: &Path) -> io::Result<SimFile> {
        let mut inner = self.inner.lock();
        let fate = inner.fate(name);
        if let Fate::Fails(error) = fate {
            return Err(error);
        }
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = inner.inodes.len();
        inner.inodes.push(Inode::default());
        inner.change(Change::Link(path.to_owned(), inode));
        match fate {
            Fate::HalfFails(error) => Err(error),
            _ => Ok(SimFile { inode, lock: None }),
        }
    }

    fn rearrange(&self, name: &'static str, needed: &Path, change: Change) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let fate = inner.fate(name);
        if let Fate::Fails(error) = fate {
            return Err(error);
        }
        if !inner.names.contains_key(needed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change(change);
        match fate {
            Fate::HalfFails(error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Storage for SimDisk {
    type File = SimFile;

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        self.inner.lock().plain("create_directory")
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimFile>> {
        let mut inner = self.inner.lock();
        inner.plain("lock")?;
        if !inner.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(SimFile { inode: usize::MAX, lock: Some((path.to_owned(), self.clone())) }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.inner.lock().plain("list")?;
        let _ = directory;
        Ok(self.names())
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        self.link("create", path)
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.file("open", path)
    }

    fn open_writable(&self, path: &Path) -> io::Result<SimFile> {
        self.file("open_writable", path)
    }

    fn length(&self, file: &SimFile) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        inner.plain("length")?;
        Ok(inner.inodes[file.inode].cached.len() as u64)
    }

    fn preallocate(&self, file: &SimFile, size: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let fate = inner.fate("preallocate");
        if let Fate::Fails(error) = fate {
            return Err(error);
        }
        let length = inner.inodes[file.inode].cached.len() as u64;
        if size > length {
            if inner.used() + size - length > inner.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inner.inodes[file.inode].cached.resize(size as usize, 0);
        }
        match fate {
            Fate::HalfFails(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn write_at(&self, file: &SimFile, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let data: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut inner = self.inner.lock();
        let before = inner.is_dead();
        match inner.fate("write_at") {
            Fate::Works => {
                inner.write(file.inode, offset as usize, &data);
                Ok(())
            }
            Fate::Fails(error) | Fate::HalfFails(error) => {
                // Power may go in the middle of a write.
                if !before {
                    let part = inner.random.usize(..=data.len());
                    inner.write(file.inode, offset as usize, &data[..part]);
                }
                Err(error)
            }
        }
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let fate = inner.fate("sync");
        let is_dead = inner.is_dead();
        let mut random = inner.random.fork();
        let inode = &mut inner.inodes[file.inode];
        match fate {
            Fate::Works => {
                // Only what is dirty: what a failed sync forgot stays forgotten.
                inode.durable.resize(inode.cached.len(), 0);
                for sector in std::mem::take(&mut inode.dirty) {
                    let start = (sector * SECTOR).min(inode.cached.len());
                    let end = (start + SECTOR).min(inode.cached.len());
                    inode.durable[start..end].copy_from_slice(&inode.cached[start..end]);
                }
                Ok(())
            }
            Fate::Fails(error) | Fate::HalfFails(error) => {
                if is_dead {
                    return Err(error);
                }
                // Some pages are written, and all are clean from now on: no later sync writes
                // the others. They may be dropped from memory, too.
                let drops = random.bool();
                for sector in std::mem::take(&mut inode.dirty) {
                    let start = sector * SECTOR;
                    let end = (start + SECTOR).min(inode.cached.len());
                    if inode.durable.len() < end {
                        inode.durable.resize(end, 0);
                    }
                    if start >= end {
                        continue;
                    }
                    if random.bool() {
                        let (cached, durable) = (&inode.cached, &mut inode.durable);
                        durable[start..end].copy_from_slice(&cached[start..end]);
                    } else if drops {
                        let (cached, durable) = (&mut inode.cached, &inode.durable);
                        cached[start..end].copy_from_slice(&durable[start..end]);
                    }
                }
                Err(error)
            }
        }
    }

    fn truncate(&self, file: &SimFile, length: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let fate = inner.fate("truncate");
        if let Fate::Fails(error) = fate {
            return Err(error);
        }
        inner.inodes[file.inode].cached.resize(length as usize, 0);
        match fate {
            Fate::HalfFails(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn read_at(&self, file: &SimFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.inner.lock();
        inner.plain("read_at")?;
        let content = &inner.inodes[file.inode].cached;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let change = Change::Rename(from.to_owned(), to.to_owned());
        self.rearrange("rename", from, change)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.rearrange("remove", path, Change::Remove(path.to_owned()))
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.plain("sync_directory")?;
        inner.changes.clear();
        inner.durable_names = inner.names.clone();
        Ok(())
    }

    fn free_space(&self, _directory: &Path) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        inner.plain("free_space")?;
        Ok(inner.capacity.saturating_sub(inner.used()))
    }

    fn random(&self) -> u64 {
        self.inner.lock().random.u64(..)
    }
}
