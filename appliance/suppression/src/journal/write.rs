//! The writing end: frames are appended, then synced, then counted as written.
//!
//! A segment that could not be written or synced is left where its last durable frame ends and never
//! written to again; the next request begins another. Each start begins another, too, because the
//! data key of the last one is gone with the process that had it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::format::{self, Head};
use super::read::Position;
use crate::change::{Described, ScopeNumber};
use crate::seal::{DataKey, Recipients, SealError};
use crate::secret::Secret;

/// Why changes were not made durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("cannot write the suppression journal {path}: {error}")]
    Disk { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// The calls that the journal makes to the file system; tests fail each of them.
pub(crate) trait Files: Send + 'static {
    type File: Send;
    /// Makes a file that must not exist; its name is durable on return.
    fn create(&mut self, path: &Path) -> io::Result<Self::File>;
    fn append(&mut self, file: &mut Self::File, octets: &[u8]) -> io::Result<()>;
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;
    fn truncate(&mut self, file: &mut Self::File, length: u64) -> io::Result<()>;
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Debug, Default)]
pub(crate) struct Disk;

impl Files for Disk {
    type File = File;

    fn create(&mut self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(file)
    }

    fn append(&mut self, file: &mut File, octets: &[u8]) -> io::Result<()> {
        file.write_all(octets)
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&mut self, file: &mut File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

/// The segment that is written to.
struct Segment<F> {
    file: F,
    path: PathBuf,
    key: DataKey,
    /// Octets that are durable.
    length: u64,
    /// Frames so far.
    frames: u64,
}

/// The journal's writing end.
pub(crate) struct Journal<F: Files> {
    files: F,
    folder: PathBuf,
    recipients: Recipients,
    secret: Secret,
    segment_size: u64,
    /// Number of the next segment.
    next: u64,
    segment: Option<Segment<F::File>>,
}

impl<F: Files> Journal<F> {
    /// Writes into `folder`, beginning with the segment `next`.
    pub(crate) fn new(
        files: F,
        folder: PathBuf,
        recipients: Recipients,
        secret: Secret,
        segment_size: u64,
        next: u64,
    ) -> Self {
        Self { files, folder, recipients, secret, segment_size, next, segment: None }
    }

    /// Appends scopes and groups of changes, one frame each, and makes them durable together.
    pub(crate) fn write(
        &mut self,
        now: u32,
        scopes: &[(ScopeNumber, String)],
        groups: &[&[Described]],
    ) -> Result<(), WriteError> {
        let mut segment = match self.segment.take() {
            Some(segment) if segment.length < self.segment_size => segment,
            _ => self.begin(now)?,
        };
        let mut octets = Vec::new();
        let mut frames = segment.frames;
        for (number, name) in scopes {
            format::put_scope(&mut octets, *number, name);
            frames += 1;
        }
        for group in groups {
            format::put_changes(&mut octets, &segment.key, frames, group)?;
            frames += 1;
        }
        let written = self.files.append(&mut segment.file, &octets).and_then(|()| self.files.sync(&mut segment.file));
        if let Err(error) = written {
            // What is not answered had better not come back; if it does, it was true all the same.
            let _ = self.files.truncate(&mut segment.file, segment.length);
            return Err(WriteError::Disk { path: segment.path, error });
        }
        segment.length += octets.len() as u64;
        segment.frames = frames;
        self.segment = Some(segment);
        Ok(())
    }

    /// Up to where all is durable.
    pub(crate) fn position(&self) -> Position {
        match &self.segment {
            Some(segment) => Position { segment: self.next - 1, offset: segment.length },
            None => Position { segment: self.next, offset: 0 },
        }
    }

    fn begin(&mut self, now: u32) -> Result<Segment<F::File>, WriteError> {
        let (key, sealed_key) = DataKey::generate(&self.recipients, &self.secret)?;
        let head = Head { number: self.next, made: now, secret_check: self.secret.check(), sealed_key }.encode();
        let path = self.folder.join(name_of(self.next));
        // Also when this fails: a half-made file has this name now.
        self.next += 1;
        let made = self.files.create(&path).and_then(|mut file| {
            self.files.append(&mut file, &head)?;
            Ok(file)
        });
        let file = made.map_err(|error| {
            // A full disk would otherwise be left with a stub for every try.
            if self.files.remove(&path).is_ok() {
                self.next -= 1;
            }
            WriteError::Disk { path: path.clone(), error }
        })?;
        Ok(Segment { file, path, key, length: head.len() as u64, frames: 0 })
    }
}

/// The file of a segment.
pub(super) fn name_of(number: u64) -> String {
    format!("journal-{number:010}.pks")
}
