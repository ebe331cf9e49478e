//! The writing itself: onto one disk or several at once, able to go on after an interruption, and read back.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use postkeep_release::{Sha256, Summing};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};

use crate::gpt::{Fitted, Layout, SECTOR};
use crate::{EspError, GptError, Source, SourceError, State, StateError, Target, esp};

/// What is written last, and the piece that everything is written in.
pub(crate) const PIECE: usize = 1 << 20;
/// Sector 0 and the header of the table: without them nothing boots.
const KEYSTONE: usize = 2 * SECTOR as usize;

/// What is to be done.
#[derive(Debug)]
pub struct Job<'a> {
    /// The image; verified before.
    pub source: &'a Source,
    /// The disks.
    pub targets: &'a [Target],
    /// The seed, as its owner signed it; verified before.
    pub seed: &'a [u8],
    /// Where the state is kept.
    pub state_path: &'a Path,
    /// After how many octets the disks are synced and the state is saved.
    pub sync_every: u64,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The image goes onto the disks.
    Writing,
    /// It is read back from the disks.
    ReadingBack,
}

/// Why the work was not finished. The disks do not boot; the same command goes on with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A disk failed.
    #[error("cannot {what} {} at octet {at}: {error}; the disk may be failing, look at the kernel's log", path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Where.
        at: u64,
        /// Why not.
        error: io::Error,
    },
    /// The disk does not hold what was written to it.
    #[error(
        "{} does not give back what was written to it: the sum is {found}, and the release names {wanted}; the disk or \
         the memory of this machine is failing: run the command again, and have the disk replaced if that does not help",
        path.display()
    )]
    ReadBack {
        /// The disk.
        path: PathBuf,
        /// The sum of what is there.
        found: Sha256,
        /// The sum that it should have.
        wanted: Sha256,
    },
    /// The image.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is not what it was when it was verified.
    #[error("the image {} changed while it was written, or expands to something else; fetch it again", .0.display())]
    Changed(PathBuf),
    /// The table in the image.
    #[error(transparent)]
    Gpt(#[from] GptError),
    /// The seed.
    #[error(transparent)]
    Esp(#[from] EspError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Does `job`, from where `state` says; `seen` is told the stage, and how many octets of it are done and to be done.
///
/// # Errors
/// The disks, the image. Until the very end the disks do not boot.
pub fn write(job: &Job<'_>, state: State, mut seen: impl FnMut(Stage, u64, u64)) -> Result<(), WriteError> {
    for target in job.targets {
        disarm(target)?;
    }
    let head = stream(job, state, &mut seen)?;
    let layout = Layout::read(&head)?;
    let (begin, length) = layout.efi_partition()?;
    if begin < PIECE as u64 {
        // The seed would be lost under the first piece, which is written after it.
        return Err(WriteError::Changed(job.source.path().to_owned()));
    }
    let total = job.source.size().saturating_mul(job.targets.len() as u64);
    for (at, target) in job.targets.iter().enumerate() {
        let before = job.source.size().saturating_mul(at as u64);
        read_back(job.source, target, &head, |done| seen(Stage::ReadingBack, before + done, total))?;
    }
    let mut fitted = Vec::new();
    let of_box = of_box(job);
    for target in job.targets {
        let table = layout.of_disk(of_box, chance(&of_box, target))?.fitted(target.disk.size / SECTOR)?;
        forget_inner_copy(job.source, target, &table)?;
        put(target, table_at(target, &table), &table.tail)?;
        sync(target, 0)?;
        esp::place(&target.file, begin, length, job.seed, job.targets.len() > 1)?;
        fitted.push(table);
    }
    let armed = job.targets.iter().zip(&fitted).try_for_each(|(target, table)| arm(target, &head, table));
    if armed.is_err() {
        // None of them may start: neither one of two, nor one that did not give back what was written.
        for target in job.targets {
            let _ = disarm(target);
        }
    }
    armed?;
    // The work is done; a state that stays is compared by the next one.
    let _ = std::fs::remove_file(job.state_path);
    Ok(())
}

/// What the disks of a box have in common: the same for the same work, so that it can go on; of two boxes hardly the same.
fn of_box(job: &Job<'_>) -> [u8; 8] {
    let mut told = format!("{} {}", job.source.sha256(), Sha256::of(job.seed));
    for Target { disk, .. } in job.targets {
        told += &format!(" {} {}", disk.identity, disk.size);
    }
    let [a, b, c, d, e, f, g, h, ..] = Sha256::of(told.as_bytes()).0;
    [a, b, c, d, e, f, g, h]
}

/// What a disk has for itself.
pub(crate) fn chance(of_box: &[u8; 8], target: &Target) -> [u8; 32] {
    Sha256::of(
        format!("{of_box:?} {} {} {}", target.disk.path.display(), target.disk.identity, target.disk.size).as_bytes(),
    )
    .0
}

/// Takes away what a firmware would start, and what a table's copy at the end would bring back.
pub(crate) fn disarm(target: &Target) -> Result<(), WriteError> {
    let size = target.disk.size;
    let zeroes = vec![0; PIECE];
    put(target, 0, &zeroes[..usize::try_from(size).unwrap_or(PIECE).min(PIECE)])?;
    put(target, size.saturating_sub(PIECE as u64), &zeroes[..usize::try_from(size).unwrap_or(PIECE).min(PIECE)])?;
    sync(target, 0)
}

/// Writes all but the first piece, and gives that one.
fn stream(job: &Job<'_>, mut state: State, seen: &mut impl FnMut(Stage, u64, u64)) -> Result<Vec<u8>, WriteError> {
    let changed = || WriteError::Changed(job.source.path().to_owned());
    let mut content = Summing::new(job.source.content()?);
    let (mut head, mut piece) = (Vec::new(), Vec::with_capacity(PIECE));
    let (mut at, mut synced) = (0_u64, 0_u64);
    let known = state.written;
    state.save(job.state_path)?;
    loop {
        piece.clear();
        let read = (&mut content).take(PIECE as u64).read_to_end(&mut piece);
        read.map_err(|error| job.source.failed(error))?;
        if at + piece.len() as u64 > job.source.size() {
            return Err(changed());
        }
        if piece.is_empty() {
            break;
        }
        if at == 0 {
            head.clone_from(&piece);
        } else {
            for target in job.targets {
                put_if_other(target, at, &piece, at < known)?;
            }
        }
        at += piece.len() as u64;
        seen(Stage::Writing, at, job.source.size());
        if at - synced >= job.sync_every {
            for target in job.targets {
                sync(target, at)?;
            }
            synced = at;
            state.written = state.written.max(at);
            state.save(job.state_path)?;
        }
    }
    let (_, octets, sum) = content.finish();
    if octets != job.source.size() || sum != job.source.sha256() {
        return Err(changed());
    }
    for target in job.targets {
        sync(target, at)?;
    }
    state.written = at;
    state.save(job.state_path)?;
    Ok(head)
}

/// Writes `piece`; where it is said to be there already (`known`), only when it is not.
pub(crate) fn put_if_other(target: &Target, at: u64, piece: &[u8], known: bool) -> Result<(), WriteError> {
    if known {
        let mut found = vec![0; piece.len()];
        target.file.read_exact_at(&mut found, at).map_err(|error| failed(target, "read", at, error))?;
        if found == piece {
            return Ok(());
        }
    }
    // Zeroes without writing them, where the disk can; what is read afterwards is zero all the same.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if piece.iter().all(|octet| *octet == 0) && fallocate(&target.file, hole, at, piece.len() as u64).is_ok() {
        return Ok(());
    }
    put(target, at, piece)
}

fn read_back(source: &Source, target: &Target, head: &[u8], mut seen: impl FnMut(u64)) -> Result<(), WriteError> {
    forget(&target.file);
    let mut sum = Summing::new(io::sink());
    let mut add = |octets: &[u8]| io::Write::write_all(&mut sum, octets).map_err(|e| failed(target, "sum", 0, e));
    add(head)?;
    let (mut at, mut piece) = (head.len() as u64, vec![0; PIECE]);
    while at < source.size() {
        let length = usize::try_from(source.size() - at).unwrap_or(PIECE).min(PIECE);
        let piece = &mut piece[..length];
        target.file.read_exact_at(piece, at).map_err(|error| failed(target, "read", at, error))?;
        add(piece)?;
        at += length as u64;
        seen(at);
    }
    let (_, _, found) = sum.finish();
    if found != source.sha256() {
        return Err(WriteError::ReadBack { path: target.disk.path.clone(), found, wanted: source.sha256() });
    }
    Ok(())
}

/// Where the image's own copy of the table lay there is room for data now, and a table in it would be a wrong one.
fn forget_inner_copy(source: &Source, target: &Target, table: &Fitted) -> Result<(), WriteError> {
    let copy = source.size().saturating_sub(table.tail.len() as u64);
    if copy >= PIECE as u64 && target.disk.size / SECTOR != source.size() / SECTOR {
        put(target, copy, &vec![0; table.tail.len()])?;
    }
    Ok(())
}

/// Writes the first piece, the part of it last without which nothing boots; and reads both ends again.
pub(crate) fn arm(target: &Target, head: &[u8], table: &Fitted) -> Result<(), WriteError> {
    let mut head = head.to_vec();
    head[..table.head.len()].copy_from_slice(&table.head);
    put(target, KEYSTONE as u64, &head[KEYSTONE..])?;
    sync(target, 0)?;
    put(target, 0, &head[..KEYSTONE])?;
    sync(target, 0)?;
    forget(&target.file);
    for (at, wanted) in [(0, &head), (table_at(target, table), &table.tail)] {
        let mut found = vec![0; wanted.len()];
        target.file.read_exact_at(&mut found, at).map_err(|error| failed(target, "read", at, error))?;
        if found != *wanted {
            let (found, wanted) = (Sha256::of(&found), Sha256::of(wanted));
            return Err(WriteError::ReadBack { path: target.disk.path.clone(), found, wanted });
        }
    }
    Ok(())
}

pub(crate) fn table_at(target: &Target, table: &Fitted) -> u64 {
    (target.disk.size / SECTOR * SECTOR).saturating_sub(table.tail.len() as u64)
}

pub(crate) fn put(target: &Target, at: u64, octets: &[u8]) -> Result<(), WriteError> {
    target.file.write_all_at(octets, at).map_err(|error| failed(target, "write", at, error))
}

pub(crate) fn sync(target: &Target, at: u64) -> Result<(), WriteError> {
    File::sync_all(&target.file).map_err(|error| failed(target, "sync", at, error))
}

fn failed(target: &Target, what: &'static str, at: u64, error: io::Error) -> WriteError {
    WriteError::disk(target, what, at, error)
}

impl WriteError {
    pub(crate) fn disk(target: &Target, what: &'static str, at: u64, error: io::Error) -> Self {
        Self::Disk { path: target.disk.path.clone(), what, at, error }
    }
}

/// What is read from now on comes from the disk, not from memory. Where that is refused, it is still what the kernel would write.
pub(crate) fn forget(disk: &File) {
    let _ = fadvise(disk, 0, None, Advice::DontNeed);
}
