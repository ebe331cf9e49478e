//! The content of a message as a client sends it, by DATA (RFC 5321 §4.5.2) or BDAT (RFC 3030).
//!
//! The readers work on the connection's own buffer: what they give back is cut
//! out of it, not copied. Only CRLF `.` CRLF ends DATA; a bare CR or LF never
//! does, and is refused or made CRLF, never passed on (so no two servers can
//! disagree where a message ends). The result does not depend on how the octets arrived.

mod chunks;
mod content;

use std::sync::LazyLock;

use bytes::{Buf, BytesMut};
use memchr::memmem::Finder;

pub use chunks::{ChunkReader, ChunkStep};
pub use content::{BareLineEnds, Content, ContentError};

static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n.\r\n"));
static DOT_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n."));

/// Bounds of a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataLimits {
    /// Largest content in octets, dots of transparency not counted.
    pub size: u64,
    /// Longest line with its CRLF.
    pub line_length: usize,
    /// What becomes of a bare CR or LF.
    pub bare_line_ends: BareLineEnds,
}

impl DataLimits {
    /// Octets that are read in all before a client that sends too much is given up:
    /// four times the limit, and 16 MiB more.
    pub const fn swallowed(&self) -> u64 {
        self.size.saturating_mul(4).saturating_add(16 << 20)
    }
}

/// What became of the octets in the buffer.
#[derive(Debug)]
pub enum DataStep {
    /// Not all there yet; leave the buffer as it is and read more into it.
    More,
    /// All read, and taken off the buffer.
    Done(Result<Content, ContentError>),
    /// Far more than allowed came, without an end. Refuse and close.
    Absurd,
}

/// Reads the content that follows `354`.
#[derive(Debug, Clone)]
pub struct DataReader {
    limits: DataLimits,
    /// Octets at the front of the buffer in which no end begins.
    searched: usize,
    /// Octets in all that were dropped because they could not be kept.
    dropped: u64,
    /// Dots of transparency in the first `counted` octets; counted only near the limit.
    dots: u64,
    counted: usize,
    refusal: Option<ContentError>,
}

impl DataReader {
    /// A reader for one message.
    pub const fn new(limits: DataLimits) -> Self {
        Self { limits, searched: 0, dropped: 0, dots: 0, counted: 0, refusal: None }
    }

    /// Keeps nothing from now on, and refuses with [`ContentError::NoMemory`] at the end.
    pub fn stop_keeping(&mut self) {
        self.refusal.get_or_insert(ContentError::NoMemory);
    }

    /// Whether octets are still kept.
    pub const fn is_keeping(&self) -> bool {
        self.refusal.is_none()
    }

    /// Looks at what is in the buffer, which holds all octets of the content that came so far.
    pub fn read(&mut self, buffer: &mut BytesMut) -> DataStep {
        if let Some((length, whole)) = self.find_end(buffer) {
            let content = buffer.split_to(length);
            buffer.advance(whole - length);
            return DataStep::Done(match self.refusal.take() {
                Some(error) => Err(error),
                None => Content::from_data(content, &self.limits),
            });
        }
        self.searched = buffer.len().saturating_sub(4);
        if self.refusal.is_none() && self.is_too_large(buffer) {
            self.refusal = Some(ContentError::TooLarge { limit: self.limits.size });
        }
        if self.refusal.is_some() {
            // The last four octets may be the beginning of the end. Five are kept, so that
            // what stands at the front afterwards cannot be taken for the first line.
            let dropped = buffer.len().saturating_sub(5);
            buffer.advance(dropped);
            self.dropped += dropped as u64;
            self.searched = self.searched.saturating_sub(dropped);
            if self.dropped > self.limits.swallowed() {
                return DataStep::Absurd;
            }
        }
        DataStep::More
    }

    /// Length of the content, and of the content with its end, when the end is there.
    fn find_end(&self, buffer: &BytesMut) -> Option<(usize, usize)> {
        if self.dropped == 0 && self.searched == 0 && buffer.starts_with(b".\r\n") {
            return Some((0, 3));
        }
        let offset = END.find(buffer.get(self.searched..)?)?;
        let start = self.searched + offset;
        Some((start + 2, start + 5))
    }

    /// Whether more octets came than the limit and the dots of transparency explain.
    fn is_too_large(&mut self, buffer: &BytesMut) -> bool {
        // The last five octets may belong to the end.
        let Some(excess) = (buffer.len() as u64).saturating_sub(5).checked_sub(self.limits.size) else {
            return false;
        };
        if excess == 0 {
            return false;
        }
        if self.counted == 0 {
            self.dots = u64::from(buffer.starts_with(b"."));
        }
        let from = self.counted.saturating_sub(2);
        self.dots += DOT_LINE.find_iter(buffer.get(from..).unwrap_or_default()).count() as u64;
        self.counted = buffer.len();
        excess > self.dots
    }
}

#[cfg(test)]
mod tests;
