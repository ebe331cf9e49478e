//! Takes command lines off the octets of a connection: CRLF ends a line and nothing else does.

use bytes::{Buf, BytesMut};
use memchr::memchr;

/// Longest command line with its CRLF: 512 octets (RFC 5321 §4.5.3.1.4) and what the
/// extensions add, of which DSN and AUTH are the largest.
pub const MAXIMUM_COMMAND_LINE: usize = 2048;
/// Octets of an overlong line that are read and dropped before the client is given up.
pub const MAXIMUM_SKIPPED: usize = 64 * 1024;

/// What the front of the buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// No whole line yet.
    Partial,
    /// The first so many octets are a line; the two after them are its CRLF. Take both off.
    Complete(usize),
    /// A line ended with LF alone. It has been taken off; refuse it.
    BareLineFeed,
    /// A line was too long. It has been taken off; refuse it.
    TooLong,
    /// A line has no end. Refuse and close.
    Endless,
}

/// Finds lines; keeps what it knows of a line that has not ended.
#[derive(Debug, Clone, Default)]
pub struct LineReader {
    /// Octets at the front of the buffer that are known to have no LF.
    searched: usize,
    /// Octets of an overlong line that were dropped.
    skipped: usize,
}

impl LineReader {
    /// Looks at the front of the buffer.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Line {
        let Some(offset) = buffer.get(self.searched..).and_then(|rest| memchr(b'\n', rest)) else {
            if self.skipped > 0 || buffer.len() > MAXIMUM_COMMAND_LINE {
                self.skipped += buffer.len();
                buffer.clear();
            }
            self.searched = buffer.len();
            return if self.skipped > MAXIMUM_SKIPPED { Line::Endless } else { Line::Partial };
        };
        let line_feed = self.searched + offset;
        self.searched = 0;
        if self.skipped > 0 || line_feed + 1 > MAXIMUM_COMMAND_LINE {
            buffer.advance(line_feed + 1);
            let length = std::mem::take(&mut self.skipped) + line_feed;
            return if length > MAXIMUM_SKIPPED { Line::Endless } else { Line::TooLong };
        }
        match line_feed.checked_sub(1) {
            Some(end) if buffer.get(end) == Some(&b'\r') => Line::Complete(end),
            _ => {
                buffer.advance(line_feed + 1);
                Line::BareLineFeed
            }
        }
    }
}
