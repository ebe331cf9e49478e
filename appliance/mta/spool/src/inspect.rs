//! A look at a spool that is not running: what its segments hold, and what is wrong with them.
//! Writes nothing.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::operation::OpenError;
use crate::replay::{Recovered, Repair, failed, replay, segment_path, tell};
use crate::storage::{Disk, Storage};

/// What one segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub path: PathBuf,
    /// Length of the file, in bytes.
    pub size: u64,
    /// Where its frames end.
    pub end: u64,
    /// Messages in it that are not complete.
    pub messages: u64,
    /// Their bytes.
    pub message_bytes: u64,
    /// Retry states in it that count.
    pub retry_states: u64,
    /// Notes in it that count.
    pub notes: u64,
    /// Unreadable stretches in it.
    pub damages: u64,
}

/// What a spool holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// In order.
    pub segments: Vec<SegmentReport>,
    /// Messages that are not complete.
    pub messages: u64,
    /// Recipients that are not complete.
    pub recipients: u64,
    /// Every key with its last value.
    pub notes: Vec<(Bytes, Bytes)>,
    /// What a start would find wrong and repair.
    pub damages: Vec<Repair>,
    /// Damaged segments that were kept aside earlier.
    pub kept_aside: Vec<PathBuf>,
}

/// Reads a spool that no process has open. `on_message` sees each message that is not complete,
/// in the order of the segments.
///
/// # Errors
/// [`OpenError::Locked`] while a daemon has it; [`OpenError::Storage`] when it is not there or
/// cannot be read.
pub fn inspect(directory: &Path, mut on_message: impl FnMut(Recovered<'_>)) -> Result<Inspection, OpenError> {
    let storage = Disk;
    let names = storage.list(directory).map_err(failed("list", directory))?;
    // The lock file is there if this ever was a spool; making it would be a change.
    let lock_path = directory.join("lock");
    let lock = if names.iter().any(|name| name == "lock") {
        let lock = storage.lock(&lock_path).map_err(failed("lock", &lock_path))?;
        Some(lock.ok_or_else(|| OpenError::Locked { directory: directory.to_owned() })?)
    } else {
        None
    };
    let mut replay = replay(&storage, directory)?;
    tell(&storage, directory, &replay.state, &mut on_message)?;
    drop(lock);
    let segments = replay
        .state
        .segments
        .iter()
        .map(|(number, segment)| SegmentReport {
            path: segment_path(directory, *number),
            size: segment.size,
            end: segment.end,
            messages: segment.messages,
            message_bytes: segment.message_bytes,
            retry_states: segment.states,
            notes: segment.notes,
            damages: segment.damages as u64,
        })
        .collect();
    let mut notes: Vec<_> = replay
        .state
        .notes
        .drain()
        .filter(|(_, note)| !note.value.is_empty())
        .map(|(key, note)| (key, note.value))
        .collect();
    notes.sort();
    let mut kept_aside: Vec<_> =
        names.iter().filter(|name| name.ends_with(".damaged")).map(|name| directory.join(name)).collect();
    kept_aside.sort();
    Ok(Inspection {
        segments,
        messages: replay.state.index.len(),
        recipients: replay.state.recipients,
        notes,
        damages: replay.repairs,
        kept_aside,
    })
}
