//! The reading end: segment after segment, frame after frame, in bounded memory.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::format::{self, FRAME_HEAD, Head, LONGEST_PAYLOAD, Payload};
use crate::change::{Change, ScopeNumber};
use crate::journal::Detail;
use crate::seal::{DataKey, Identity, LONGEST_HEAD, SealError};
use crate::secret::Secret;

/// A place in the journal, between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    /// 0: before its head.
    pub(crate) offset: u64,
}

/// What is found while reading.
pub(crate) enum Found<'a> {
    /// A segment begins; its secret is told by its check, or known when an identity opens it.
    Segment { path: &'a Path, secret_check: [u8; 8], secret: Option<Secret> },
    /// A scope has a number.
    Scope(ScopeNumber, &'a str),
    /// Changes, with their details when an identity opens them.
    Changes(&'a [Change], Option<Vec<Detail>>),
    /// The last write of a process that died: nobody was answered.
    Cut { path: &'a Path, offset: u64 },
    /// Something cannot be read: where and what. Reading goes on behind it where that can be done.
    Damage { path: &'a Path, offset: u64, what: &'a str },
}

/// The segments of a folder by number.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("journal-").and_then(|rest| rest.strip_suffix(".pks"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads everything from `from` on. What no identity opens is told without its details.
///
/// # Errors
/// A file cannot be read, a sealed part is damaged, or `found` says stop.
pub(crate) fn read<E: From<io::Error> + From<SealError>>(
    folder: &Path,
    from: Position,
    identities: &[Identity],
    mut found: impl FnMut(Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    for (number, path) in segments(folder)? {
        if number < from.segment {
            continue;
        }
        let start = if number == from.segment { from.offset } else { 0 };
        read_segment(&path, start, identities, &mut found)?;
    }
    Ok(())
}

fn read_segment<E: From<io::Error> + From<SealError>>(
    path: &Path,
    start: u64,
    identities: &[Identity],
    found: &mut impl FnMut(Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let mut octets = Vec::new();
    (&mut file).take(LONGEST_HEAD as u64 + 64).read_to_end(&mut octets)?;
    let (head, length) = match Head::decode(&octets) {
        Ok(decoded) => decoded,
        // A crash while it was made: nothing in it was ever answered.
        Err(format::FormatError::HeadCut) => return Ok(()),
        Err(error) => return found(Found::Damage { path, offset: 0, what: &error.to_string() }),
    };
    let (key, secret) = open_head(identities, &head.sealed_key)?.unzip();
    found(Found::Segment { path, secret_check: head.secret_check, secret })?;
    file.seek(SeekFrom::Start(length as u64))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut offset = length as u64;
    let mut payload = Vec::new();
    let mut number = 0;
    loop {
        let mut frame = [0; FRAME_HEAD];
        match reader.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let [l0, l1, l2, l3, s0, s1, s2, s3] = frame;
        let size = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let after = offset + FRAME_HEAD as u64 + size as u64;
        if size == 0 {
            // No frame is empty: the file was made longer than what was written, as a power cut leaves it.
            return found(Found::Cut { path, offset });
        }
        if size > LONGEST_PAYLOAD || after > end {
            // The last write of a process that died, or a length that was damaged.
            return if size > LONGEST_PAYLOAD {
                found(Found::Damage { path, offset, what: "a length that cannot be" })
            } else {
                found(Found::Cut { path, offset })
            };
        }
        // Only a place in the segment's frames makes a frame readable, so they are counted from its start.
        if after <= start {
            reader.seek_relative(size as i64)?;
        } else {
            payload.resize(size, 0);
            reader.read_exact(&mut payload)?;
            let is_whole = crc32c::crc32c(&payload) == u32::from_be_bytes([s0, s1, s2, s3]);
            match Payload::decode(&payload).filter(|_| is_whole) {
                Some(Payload::Scope { number, name }) => found(Found::Scope(number, name))?,
                Some(Payload::Changes { changes, clear, sealed }) => {
                    let details = key.as_ref().map(|key| format::details(key, number, clear, sealed)).transpose()?;
                    found(Found::Changes(&changes, details))?;
                }
                None if after == end => found(Found::Cut { path, offset })?,
                None => found(Found::Damage { path, offset, what: "a frame whose sum does not match" })?,
            }
        }
        number += 1;
        offset = after;
    }
}

/// The key and secret in a head, if one of the identities opens it.
fn open_head(identities: &[Identity], sealed: &[u8]) -> Result<Option<(DataKey, Secret)>, SealError> {
    for identity in identities {
        match DataKey::open(identity, sealed) {
            Err(SealError::NotOurs) => {}
            opened => return opened.map(Some),
        }
    }
    Ok(None)
}
