//! What lies in the slot that does not run, held against the signed manifest. systemd-sysupdate knows a part by its label, and
//! leaves one alone that a disk has damaged since: it is written again here, and read again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use postkeep_release::{File as Entry, FileError, Release};
use rustix::fs::{Advice, fadvise};

use crate::place::{Disk, label};
use crate::transfer::{PARTS, partition_type, staged_name};

/// Why a slot does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The disk.
    #[error("cannot {verb} {path}: {error}", path = path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// There is no slot for it.
    #[error("{disk} has no partition with the label {label} for {part}", disk = disk.display())]
    NoSlot {
        /// Of which disk.
        disk: PathBuf,
        /// Of which version.
        label: String,
        /// For what.
        part: String,
    },
    /// It was written, and is not there.
    #[error("{device} does not keep what is written to it; replace the disk: {error}", device = device.display())]
    NotKept {
        /// The partition.
        device: PathBuf,
        /// In what it differs.
        error: FileError,
    },
}

/// Reads each part of `release` from the slot of `disk` that is labelled with it. What is not as the manifest says is written again
/// from `staged`, and read again. Returns what was written again.
///
/// # Errors
/// The disk.
pub fn hold(release: &Release, staged: &Path, disk: &Disk) -> Result<Vec<PathBuf>, SlotError> {
    let label = label(release.version);
    let mut again = Vec::new();
    for role in PARTS.into_iter().filter(|role| partition_type(*role).is_some()) {
        let Some(file) = release.file(role) else { continue };
        let Some(name) = staged_name(file, release.version) else { continue };
        let none = || SlotError::NoSlot { disk: disk.device.clone(), label: label.clone(), part: role.to_string() };
        let device = disk.part(role, release.version).ok_or_else(none)?;
        let content = Entry { name: device.display().to_string(), ..file.expanded() };
        if look(device, &content)?.is_ok() {
            continue;
        }
        copy(&staged.join(name), device)?;
        look(device, &content)?.map_err(|error| SlotError::NotKept { device: device.to_owned(), error })?;
        again.push(device.to_owned());
    }
    Ok(again)
}

/// Removes the boot file at `path` if it is not the one that the manifest means: systemd-sysupdate would leave it.
///
/// # Errors
/// The boot partition.
pub fn hold_boot_file(path: &Path, entry: &Entry) -> Result<(), SlotError> {
    let content = Entry { name: path.display().to_string(), ..entry.expanded() };
    let is_longer = fs::metadata(path).is_ok_and(|data| data.len() > content.size);
    if !is_longer && look(path, &content)?.is_ok() {
        return Ok(());
    }
    fs::remove_file(path).map_err(|error| failed("remove", path, error))
}

/// Whether what is at `path`, as far as `content` reaches, is that; read from the disk, not from memory.
fn look(path: &Path, content: &Entry) -> Result<Result<(), FileError>, SlotError> {
    let file = File::open(path).map_err(|error| failed("read", path, error))?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| failed("read", path, error.into()))?;
    Ok(content.verify(file.take(content.size), |_| {}))
}

fn copy(from: &Path, to: &Path) -> Result<(), SlotError> {
    let mut source = File::open(from).map_err(|error| failed("read", from, error))?;
    // Never made: a device that is gone must not become a file in memory.
    let mut target = OpenOptions::new().write(true).open(to).map_err(|error| failed("open", to, error))?;
    io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).map_err(|error| failed("write", to, error))
}

fn failed(verb: &'static str, path: &Path, error: io::Error) -> SlotError {
    SlotError::File { verb, path: path.to_owned(), error }
}
