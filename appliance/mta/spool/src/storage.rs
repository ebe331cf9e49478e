//! Every call that the spool makes to the file system, behind one trait, so that tests
//! can fail each of them and can lose power between any two.

use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FallocateFlags;

/// The file-system calls of the spool. Each is used with paths inside one directory.
pub trait Storage: Send + Sync + 'static {
    /// An open file; dropping it closes it.
    type File: Send + Sync + 'static;

    /// Makes the directory and its parents if absent.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on `path`, made if absent; `None` when another process has it.
    /// Dropping the file gives it back.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::File>>;
    /// The names of the files in the directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes a file that must not exist, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open_writable(&self, path: &Path) -> io::Result<Self::File>;
    /// The length in bytes.
    fn length(&self, file: &Self::File) -> io::Result<u64>;
    /// Makes the file at least `size` long with blocks set aside for all of it.
    fn preallocate(&self, file: &Self::File, size: u64) -> io::Result<()>;
    /// Writes all of the slices from `offset` on.
    fn write_at(&self, file: &Self::File, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Cuts the file to `length`.
    fn truncate(&self, file: &Self::File, length: u64) -> io::Result<()>;
    /// Fills the buffer from `offset` on; fewer bytes only at the end of the file.
    fn read_at(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in the directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Bytes that this process may still allocate.
    fn free_space(&self, directory: &Path) -> io::Result<u64>;
    /// A number nobody can guess.
    fn random(&self) -> u64;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

/// The kernel takes no more slices in one call.
const SLICES_PER_CALL: usize = 1024;

impl Storage for Disk {
    type File = File;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(path)?;
        // A folder that is new must still be there after a power cut, with all that is in it.
        path.parent().map_or(Ok(()), |parent| self.sync_directory(parent))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn open_writable(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn length(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn preallocate(&self, file: &File, size: u64) -> io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            // The file system cannot set blocks aside; a full disk then shows at the write.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if file.metadata()?.len() < size {
                    file.set_len(size)?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, file: &File, mut offset: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let call = &slices[..slices.len().min(SLICES_PER_CALL)];
            match rustix::io::pwritev(file, call, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(file)?)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn read_at(&self, file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<usize> {
        let mut total = 0;
        while !buffer.is_empty() {
            match file.read_at(buffer, offset) {
                Ok(0) => break,
                Ok(read) => {
                    total += read;
                    offset += read as u64;
                    buffer = &mut buffer[read..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn free_space(&self, directory: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(directory)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn random(&self) -> u64 {
        // The standard library seeds each hasher state from the system's randomness.
        std::hash::RandomState::new().build_hasher().finish()
    }
}
