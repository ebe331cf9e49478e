//! The image that is written: the file that was given, held to what its release says about it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use postkeep_release::{File as Entry, FileError, Release, Role, Sha256};

/// zstd's `--long` needs 128 MiB of memory; nobody needs more for an image.
const LARGEST_WINDOW: u32 = 27;

/// An image that belongs to a release.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    entry: Entry,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The release is not one that is flashed.
    #[error("the release has no disk-image among its files; fetch the release that is made for flashing")]
    NoImage,
    /// It is read twice.
    #[error("the image {} is no file: it is read twice, to be checked before a disk is touched; put it into a file", .0.display())]
    NotAFile(PathBuf),
    /// The disk that it lies on.
    #[error("cannot read the image {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is not the image that the release means.
    #[error("the image {} is not the one of the release: {error}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// In what it differs.
        error: FileError,
    },
    /// It says to be compressed and the release knows no compressed one.
    #[error("the image {} is compressed, and the one of the release is not; expand it first", .0.display())]
    Compressed(PathBuf),
}

impl Source {
    /// The image at `path` as the disk image of `release`: as it is stored there, or expanded before.
    ///
    /// # Errors
    /// The release has no such image.
    pub fn of(release: &Release, path: &Path) -> Result<Self, SourceError> {
        let mut entry = release.file(Role::DiskImage).ok_or(SourceError::NoImage)?.clone();
        let compressed = path.extension().is_some_and(|extension| extension == "zst");
        if compressed && !entry.is_compressed() {
            return Err(SourceError::Compressed(path.to_owned()));
        }
        if !compressed {
            entry = entry.expanded();
        }
        Ok(Self { path: path.to_owned(), entry })
    }

    /// Reads the whole file and compares it with the release; `seen` is told how many octets were read.
    ///
    /// # Errors
    /// It is another file, or none.
    pub fn verify(&self, seen: impl FnMut(u64)) -> Result<(), SourceError> {
        let file = File::open(&self.path).map_err(|error| self.failed(error))?;
        if !file.metadata().map_err(|error| self.failed(error))?.is_file() {
            return Err(SourceError::NotAFile(self.path.clone()));
        }
        self.entry.verify(file, seen).map_err(|error| SourceError::Other { path: self.path.clone(), error })
    }

    /// How many octets the file has.
    #[must_use]
    pub fn stored_size(&self) -> u64 {
        self.entry.size
    }

    /// How many octets come onto the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entry.content_size()
    }

    /// Their sum.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        self.entry.content_sha256()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What comes onto the disk; never more than one octet too many.
    pub(crate) fn content(&self) -> Result<Box<dyn Read>, SourceError> {
        let file = File::open(&self.path).map_err(|error| self.failed(error))?;
        let limit = self.size().saturating_add(1);
        if !self.entry.is_compressed() {
            return Ok(Box::new(BufReader::new(file).take(limit)));
        }
        let mut decoder = zstd::Decoder::new(file).map_err(|error| self.failed(error))?;
        decoder.window_log_max(LARGEST_WINDOW).map_err(|error| self.failed(error))?;
        Ok(Box::new(decoder.take(limit)))
    }

    pub(crate) fn failed(&self, error: io::Error) -> SourceError {
        SourceError::Read { path: self.path.clone(), error }
    }
}
