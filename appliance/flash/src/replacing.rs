//! A disk for the one that a mirrored box has lost: all that is not the data is copied from the disk that is left. The half of
//! the data's mirror stays empty, and the box fills it at its next start.
//!
//! Nothing is verified here: what is copied is signed, and is checked at each start as it is on the other disk. As in
//! [`crate::writing`] the table of partitions comes last.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use postkeep_release::Sha256;

use crate::gpt::{Layout, SECTOR};
use crate::writing::{PIECE, WriteError, arm, chance, disarm, forget, put, put_if_other, sync, table_at};
use crate::{Disk, GptError, Target};

/// A superblock of a RAID, and of whatever else may have been there, lies in the first and the last of these.
const SIGNATURES: u64 = 1 << 20;

/// Why a disk cannot take the place of another.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The disk that is left.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The disk.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is not one of two.
    #[error("{} is no disk of a mirrored box: {why}", path.display())]
    NotOfTwo {
        /// The disk.
        path: PathBuf,
        /// What speaks against it.
        why: String,
    },
    /// The new one.
    #[error("{} has {found} octets, and {needed} are needed to take the place of the other disk; have a larger one put in", path.display())]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// What it has.
        found: u64,
        /// What it needs.
        needed: u64,
    },
    /// The work.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The disk that is left, as it was looked at.
#[derive(Debug)]
pub struct Survivor {
    path: PathBuf,
    file: File,
    head: Vec<u8>,
    layout: Layout,
    /// Where its half of the mirror lies, in octets.
    half: (u64, u64),
    /// The UUID of its EFI partition.
    left: [u8; 16],
}

impl Survivor {
    /// Looks at `disk`, which may be in use, and is only read.
    ///
    /// # Errors
    /// It cannot be read, or is not one of two disks of a box.
    pub fn open(disk: &Disk) -> Result<Self, ReplaceError> {
        let path = disk.path.clone();
        let failed = |error| ReplaceError::Read { path: path.clone(), error };
        let strange = |why: String| ReplaceError::NotOfTwo { path: path.clone(), why };
        if disk.size < PIECE as u64 {
            return Err(strange(format!("it has {} octets, and no system fits on it", disk.size)));
        }
        let file = File::open(&path).map_err(failed)?;
        let mut head = vec![0; PIECE];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let layout = Layout::read(&head).map_err(|error: GptError| strange(error.to_string()))?;
        layout.efi_partition().map_err(|error| strange(error.to_string()))?;
        let left = layout.efi_uuid().ok_or_else(|| strange("it has no EFI partition".to_owned()))?;
        let half = layout.half_of_mirror().ok_or_else(|| {
            strange("it has no partition postkeep-mirror; a box with one disk is flashed anew".to_owned())
        })?;
        Ok(Self { path: disk.path.clone(), file, head, layout, half, left })
    }

    /// Whether `disk` could take the place of the one that was lost.
    ///
    /// # Errors
    /// It is too small.
    pub fn fits(&self, disk: &Disk) -> Result<(), ReplaceError> {
        let needed = self.layout.smallest_disk();
        if disk.size < needed {
            return Err(ReplaceError::TooSmall { path: disk.path.clone(), found: disk.size, needed });
        }
        Ok(())
    }

    /// Copies all but the data onto `target`, compares it, and then makes it a disk of the box; `seen` is told how many octets are
    /// done and to be done.
    ///
    /// # Errors
    /// Either disk. Until the very end the new one does not boot.
    pub fn replace_with(&self, target: &Target, mut seen: impl FnMut(u64, u64)) -> Result<(), ReplaceError> {
        self.fits(&target.disk)?;
        disarm(target)?;
        let (begin, length) = self.half;
        let total = 2 * begin.saturating_sub(PIECE as u64);
        let mut done = 0;
        self.each_piece(begin, |at, piece| {
            done += piece.len() as u64;
            seen(done, total);
            put_if_other(target, at, piece, false)
        })?;
        sync(target, begin)?;
        forget(&target.file);
        let mut found = vec![0; PIECE];
        self.each_piece(begin, |at, piece| {
            let found = &mut found[..piece.len()];
            target.file.read_exact_at(found, at).map_err(|error| WriteError::disk(target, "read", at, error))?;
            if found != piece {
                let (found, wanted) = (Sha256::of(found), Sha256::of(piece));
                return Err(WriteError::ReadBack { path: target.disk.path.clone(), found, wanted });
            }
            done += piece.len() as u64;
            seen(done, total);
            Ok(())
        })?;
        // The box takes a half without a superblock for an empty one.
        let zeroes = vec![0; PIECE];
        let edge = length.min(SIGNATURES);
        for at in [begin, begin + length - edge] {
            put(target, at, &zeroes[..usize::try_from(edge).unwrap_or(PIECE)])?;
        }
        let [a, b, c, d, e, f, g, h, ..] = self.left;
        let of_box = [a, b, c, d, e, f, g, h];
        let mut own = self.layout.of_disk(of_box, chance(&of_box, target)).map_err(WriteError::from)?;
        if own.efi_uuid() == Some(self.left) {
            // The disk that is left was once flashed where the new one is now.
            let other = Sha256::of(&self.left).0;
            own = self.layout.of_disk(of_box, other).map_err(WriteError::from)?;
        }
        let table = own.fitted(target.disk.size / SECTOR).map_err(WriteError::from)?;
        put(target, table_at(target, &table), &table.tail)?;
        if let Err(error) = arm(target, &self.head, &table) {
            let _ = disarm(target);
            return Err(error.into());
        }
        Ok(())
    }

    /// Reads all but the first piece up to `end`.
    fn each_piece(
        &self,
        end: u64,
        mut work: impl FnMut(u64, &[u8]) -> Result<(), WriteError>,
    ) -> Result<(), ReplaceError> {
        let (mut at, mut piece) = (PIECE as u64, vec![0; PIECE]);
        while at < end {
            let piece = &mut piece[..usize::try_from(end - at).unwrap_or(PIECE).min(PIECE)];
            let read = self.file.read_exact_at(piece, at);
            read.map_err(|error| ReplaceError::Read { path: self.path.clone(), error })?;
            work(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
