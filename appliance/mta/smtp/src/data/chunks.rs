//! Content in chunks of a length told beforehand (BDAT, RFC 3030). No transparency, no end mark.

use bytes::{Buf, BytesMut};

use super::{Content, ContentError, DataLimits};

/// What became of the octets in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkStep {
    /// The chunk is not all there; leave the buffer as it is and read more into it.
    More,
    /// The chunk has been taken off the buffer.
    Done,
}

/// Collects the chunks of one message. A single chunk is not copied.
#[derive(Debug, Clone)]
pub struct ChunkReader {
    limits: DataLimits,
    stored: BytesMut,
    /// Octets of the present chunk that are still to be taken.
    remaining: u64,
    /// Octets announced in all.
    announced: u64,
    refusal: Option<ContentError>,
}

impl ChunkReader {
    /// A reader for one message.
    pub fn new(limits: DataLimits) -> Self {
        Self { limits, stored: BytesMut::new(), remaining: 0, announced: 0, refusal: None }
    }

    /// A chunk of that many octets follows. `false`: absurdly many; refuse and close.
    pub fn begin(&mut self, size: u64) -> bool {
        self.remaining = size;
        self.announced = self.announced.saturating_add(size);
        if self.announced > self.limits.size {
            self.refuse(ContentError::TooLarge { limit: self.limits.size });
        }
        self.announced <= self.limits.swallowed()
    }

    /// Keeps nothing from now on, and refuses with [`ContentError::NoMemory`] at the end.
    pub fn stop_keeping(&mut self) {
        self.refuse(ContentError::NoMemory);
    }

    /// Whether octets are still kept.
    pub const fn is_keeping(&self) -> bool {
        self.refusal.is_none()
    }

    /// Octets kept so far, those in the buffer not counted.
    pub fn kept(&self) -> usize {
        self.stored.len()
    }

    /// Looks at what is in the buffer.
    pub fn read(&mut self, buffer: &mut BytesMut) -> ChunkStep {
        let available = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if self.refusal.is_some() {
            buffer.advance(available);
            self.remaining -= available as u64;
        } else if available as u64 == self.remaining {
            let chunk = buffer.split_to(available);
            self.remaining = 0;
            if self.stored.is_empty() {
                self.stored = chunk;
            } else {
                self.stored.extend_from_slice(&chunk);
            }
        }
        if self.remaining == 0 { ChunkStep::Done } else { ChunkStep::More }
    }

    /// Why the chunks so far are refused; the chunk that brought it is answered with it.
    pub const fn refusal(&self) -> Option<ContentError> {
        self.refusal
    }

    /// After the last chunk. Content that does not end with CRLF gets one.
    pub fn finish(self) -> Result<Content, ContentError> {
        match self.refusal {
            Some(error) => Err(error),
            None => Content::check(self.stored, &self.limits),
        }
    }

    fn refuse(&mut self, error: ContentError) {
        self.refusal.get_or_insert(error);
        self.stored = BytesMut::new();
    }
}
