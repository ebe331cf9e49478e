//! What a message's content is, once all of it is there: checked, unstuffed, repaired.

use bytes::{Buf, BytesMut};
use memchr::{memchr, memchr_iter};

use super::{DOT_LINE, DataLimits};
use crate::header::header_length;

/// What to do with a CR without LF, or a LF without CR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BareLineEnds {
    /// Refuse the message.
    #[default]
    Refuse,
    /// Make each a CRLF.
    Repair,
}

/// A whole content with what is worth knowing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The octets: CRLF line ends only, no dots of transparency, CRLF at the end unless empty.
    pub octets: BytesMut,
    /// Some line begins with a dot, so that DATA must stuff it.
    pub has_dot_lines: bool,
    /// Some octet is above 127.
    pub eight_bit: bool,
    /// Longest line with its CRLF.
    pub longest_line: usize,
    /// Length of the header with the empty line after it; of everything when there is none.
    pub header_length: usize,
}

/// Why a content is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Larger than the limit.
    #[error("the message is larger than {limit} octets")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A bare CR or LF.
    #[error("the message has a bare CR or LF at octet {position}: every line must end with CRLF")]
    BareLineEnd {
        /// Where, from 0.
        position: usize,
    },
    /// A NUL.
    #[error("the message has a NUL at octet {position}")]
    Nul {
        /// Where, from 0.
        position: usize,
    },
    /// A line that receivers would refuse or break.
    #[error("line {line} of the message has {length} octets, more than {limit}")]
    LineTooLong {
        /// Number of the line, from 1.
        line: usize,
        /// Its length with CRLF.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The server was short of memory while it came.
    #[error("the server has no memory for the message now")]
    NoMemory,
}

impl Content {
    /// From the octets before the final dot.
    pub(super) fn from_data(mut octets: BytesMut, limits: &DataLimits) -> Result<Self, ContentError> {
        unstuff(&mut octets);
        Self::check(octets, limits)
    }

    /// From octets that are there as a whole and came otherwise than by SMTP.
    ///
    /// # Errors
    /// They break one of the limits.
    pub fn whole(octets: BytesMut, limits: &DataLimits) -> Result<Self, ContentError> {
        Self::check(octets, limits)
    }

    /// From octets that need no unstuffing.
    pub(super) fn check(mut octets: BytesMut, limits: &DataLimits) -> Result<Self, ContentError> {
        // First of all, so that the fault that is named does not depend on how the octets arrived.
        let too_large = ContentError::TooLarge { limit: limits.size };
        if octets.len() as u64 > limits.size {
            return Err(too_large);
        }
        if let Some(position) = memchr(0, &octets) {
            return Err(ContentError::Nul { position });
        }
        if let Some(position) = bare_line_end(&octets) {
            match limits.bare_line_ends {
                BareLineEnds::Refuse => return Err(ContentError::BareLineEnd { position }),
                BareLineEnds::Repair => octets = repaired(&octets),
            }
        }
        if !octets.is_empty() && octets.last() != Some(&b'\n') {
            octets.extend_from_slice(b"\r\n");
        }
        if octets.len() as u64 > limits.size {
            return Err(too_large);
        }
        let longest_line = longest_line(&octets, limits.line_length)?;
        Ok(Self {
            has_dot_lines: octets.starts_with(b".") || DOT_LINE.find(&octets).is_some(),
            eight_bit: !octets.is_ascii(),
            longest_line,
            header_length: header_length(&octets),
            octets,
        })
    }

    /// Takes `range` out; only the octets before it are moved. Meant for a header field.
    pub fn cut(&mut self, range: std::ops::Range<usize>) {
        if range.start > range.end || range.end > self.octets.len() {
            return;
        }
        let length = range.len();
        self.octets.copy_within(..range.start, length);
        self.octets.advance(length);
        if range.end <= self.header_length {
            self.header_length -= length;
        }
    }
}

/// Takes the dot of transparency off every line that has one, in place.
fn unstuff(octets: &mut BytesMut) {
    if octets.first() == Some(&b'.') {
        octets.advance(1);
    }
    let Some(first) = DOT_LINE.find(octets) else {
        return;
    };
    // Everything up to `written` is final; everything from `read` is still as it came.
    let mut written = first + 2;
    let mut read = first + 3;
    loop {
        let next = octets.get(read..).and_then(|rest| DOT_LINE.find(rest));
        let end = next.map_or(octets.len(), |offset| read + offset + 2);
        octets.copy_within(read..end, written);
        written += end - read;
        if next.is_none() {
            octets.truncate(written);
            return;
        }
        read = end + 1;
    }
}

/// Where the first CR without LF or LF without CR stands.
fn bare_line_end(octets: &[u8]) -> Option<usize> {
    let mut lines = 0usize;
    for position in memchr_iter(b'\n', octets) {
        if position.checked_sub(1).and_then(|before| octets.get(before)) != Some(&b'\r') {
            // An earlier CR may be bare too; which of them is named does not matter.
            return Some(position);
        }
        lines += 1;
    }
    // Every LF has its CR, so any further CR is a bare one.
    if memchr_iter(b'\r', octets).count() == lines {
        return None;
    }
    memchr_iter(b'\r', octets).find(|position| octets.get(position + 1) != Some(&b'\n'))
}

/// With every bare CR and LF made CRLF.
fn repaired(octets: &[u8]) -> BytesMut {
    let mut repaired = BytesMut::with_capacity(octets.len() + octets.len() / 32 + 2);
    let mut after_return = false;
    for byte in octets {
        match (after_return, byte) {
            (true, b'\n') => {}
            (_, b'\r' | b'\n') => repaired.extend_from_slice(b"\r\n"),
            _ => repaired.extend_from_slice(&[*byte]),
        }
        after_return = *byte == b'\r';
    }
    repaired
}

fn longest_line(octets: &[u8], limit: usize) -> Result<usize, ContentError> {
    let (mut start, mut longest) = (0, 0);
    for (number, position) in memchr_iter(b'\n', octets).enumerate() {
        let length = position + 1 - start;
        if length > limit {
            return Err(ContentError::LineTooLong { line: number + 1, length, limit });
        }
        longest = longest.max(length);
        start = position + 1;
    }
    Ok(longest)
}
