//! The octets of the journal. Pure; nothing here trusts a length that it reads.

use thiserror::Error;

use crate::change::{CHANGE_LENGTH, Change, Described, ScopeNumber};
use crate::seal::{DataKey, LONGEST_HEAD, SealError, TAG_LENGTH};

pub(super) const MAGIC: &[u8; 8] = b"PKSUPPR1";
/// Largest payload; the keeper cuts requests so that theirs stay far below.
pub(super) const LONGEST_PAYLOAD: usize = 128 * 1024 * 1024;
/// Octets before a payload.
pub(super) const FRAME_HEAD: usize = 8;
/// Octets of the head before the age file.
pub(super) const FIXED_HEAD: usize = 32;
/// Longest note, in octets; longer ones are cut.
const LONGEST_NOTE: usize = 1024;

const CHANGES: u8 = 1;
const SCOPE: u8 = 2;

/// What is sealed of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail {
    /// The address; empty when only its key came back.
    pub address: Box<str>,
    /// Who or what said so: a reply, a message, an actor, a file.
    pub note: Box<str>,
}

/// Why octets are no segment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FormatError {
    #[error("it is no segment of a suppression journal")]
    Magic,
    #[error("its head is damaged")]
    Head,
    #[error("it ends within its head")]
    HeadCut,
}

/// The head of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) made: u32,
    pub(crate) secret_check: [u8; 8],
    pub(crate) sealed_key: Vec<u8>,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_HEAD + self.sealed_key.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.made.to_be_bytes());
        out.extend_from_slice(&self.secret_check);
        out.extend_from_slice(&(self.sealed_key.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.sealed_key);
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_be_bytes());
        out
    }

    /// The head and its length.
    pub(super) fn decode(octets: &[u8]) -> Result<(Self, usize), FormatError> {
        let (magic, rest) = octets.split_first_chunk::<8>().ok_or(FormatError::HeadCut)?;
        if magic != MAGIC {
            return Err(FormatError::Magic);
        }
        let (number, rest) = rest.split_first_chunk::<8>().ok_or(FormatError::HeadCut)?;
        let (made, rest) = rest.split_first_chunk::<4>().ok_or(FormatError::HeadCut)?;
        let (secret_check, rest) = rest.split_first_chunk::<8>().ok_or(FormatError::HeadCut)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(FormatError::HeadCut)?;
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST_HEAD {
            return Err(FormatError::Head);
        }
        let (sealed_key, rest) = rest.split_at_checked(length).ok_or(FormatError::HeadCut)?;
        let sum = rest.first_chunk::<4>().ok_or(FormatError::HeadCut)?;
        let before = FIXED_HEAD + length;
        if octets.get(..before).map(crc32c::crc32c) != Some(u32::from_be_bytes(*sum)) {
            return Err(FormatError::Head);
        }
        let head = Self {
            number: u64::from_be_bytes(*number),
            made: u32::from_be_bytes(*made),
            secret_check: *secret_check,
            sealed_key: sealed_key.to_vec(),
        };
        Ok((head, before + 4))
    }
}

/// Writes a frame of changes with their details at the end of `out`. `number` is its place in the segment.
pub(super) fn put_changes(
    out: &mut Vec<u8>,
    key: &DataKey,
    number: u64,
    changes: &[Described],
) -> Result<(), SealError> {
    let start = begin(out);
    let mut payload = out.split_off(start);
    payload.push(CHANGES);
    payload.extend_from_slice(&(changes.len() as u32).to_be_bytes());
    changes.iter().for_each(|described| described.change.encode(&mut payload));
    let clear = payload.len();
    for described in changes {
        put_text(&mut payload, described.address.as_ref().map_or("", |address| address.as_str()));
        put_text(&mut payload, &described.note[..described.note.floor_char_boundary(LONGEST_NOTE)]);
    }
    key.seal(number, &mut payload, clear)?;
    out.append(&mut payload);
    end(out, start);
    Ok(())
}

/// Writes a frame that gives a scope its number.
pub(super) fn put_scope(out: &mut Vec<u8>, number: ScopeNumber, name: &str) {
    let start = begin(out);
    out.push(SCOPE);
    out.extend_from_slice(&number.0.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    end(out, start);
}

fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; FRAME_HEAD]);
    out.len()
}

fn end(out: &mut [u8], start: usize) {
    let (before, payload) = out.split_at_mut(start);
    let length = (payload.len() as u32).to_be_bytes();
    let sum = crc32c::crc32c(payload).to_be_bytes();
    if let Some(head) = before.last_chunk_mut::<FRAME_HEAD>() {
        head[..4].copy_from_slice(&length);
        head[4..].copy_from_slice(&sum);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A payload, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    /// Changes; their details are still sealed.
    Changes { changes: Vec<Change>, clear: &'a [u8], sealed: &'a [u8] },
    /// A scope has a number.
    Scope { number: ScopeNumber, name: &'a str },
}

impl<'a> Payload<'a> {
    /// `None`: not written by this build, or damaged in a way that the sum did not show.
    pub(super) fn decode(payload: &'a [u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        match *kind {
            CHANGES => {
                let (count, rest) = rest.split_first_chunk::<4>()?;
                let length = (u32::from_be_bytes(*count) as usize).checked_mul(CHANGE_LENGTH)?;
                let (records, sealed) = rest.split_at_checked(length)?;
                if sealed.len() < TAG_LENGTH {
                    return None;
                }
                let changes: Option<Vec<Change>> =
                    records.as_chunks::<CHANGE_LENGTH>().0.iter().map(Change::decode).collect();
                Some(Self::Changes { changes: changes?, clear: payload.get(..5 + length)?, sealed })
            }
            SCOPE => {
                let (number, name) = rest.split_first_chunk::<4>()?;
                let name = std::str::from_utf8(name).ok()?;
                Some(Self::Scope { number: ScopeNumber(u32::from_be_bytes(*number)), name })
            }
            _ => None,
        }
    }
}

/// Opens the sealed part of a frame.
pub(crate) fn details(key: &DataKey, number: u64, clear: &[u8], sealed: &[u8]) -> Result<Vec<Detail>, SealError> {
    let opened = key.unseal(number, clear, sealed)?;
    let mut rest = &opened[..];
    let mut text = || -> Option<Box<str>> {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (text, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        Some(std::str::from_utf8(text).ok()?.into())
    };
    let count = clear.len().saturating_sub(5) / CHANGE_LENGTH;
    (0..count)
        .map(|_| Some(Detail { address: text()?, note: text()? }))
        .collect::<Option<Vec<Detail>>>()
        .ok_or(SealError::Damaged)
}
