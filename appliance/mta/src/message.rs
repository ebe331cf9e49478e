//! A message in memory, shared by all its recipients, and the budget that
//! bounds how many bytes of bodies are held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use postkeep_spool::{MessageId, Stored};

use crate::metadata::{Metadata, MetadataError};

/// A message with its bytes.
#[derive(Debug)]
pub struct Message {
    /// Its number in the spool.
    pub id: MessageId,
    /// When it was accepted, Unix seconds.
    pub received: u32,
    /// Envelope and what intake found out.
    pub metadata: Metadata,
    /// Header lines that we put in front: Received, perhaps Date and Message-ID.
    pub prefix: Bytes,
    /// The message as it came.
    pub content: Bytes,
    share: Option<Share>,
}

impl Message {
    /// A message that has just been accepted.
    pub fn new(id: MessageId, received: u32, metadata: Metadata, prefix: Bytes, content: Bytes) -> Self {
        Self { id, received, metadata, prefix, content, share: None }
    }

    /// A message read back from the spool.
    ///
    /// # Errors
    /// Its metadata does not decode.
    pub fn from_spool(id: MessageId, stored: Stored) -> Result<Self, MetadataError> {
        Ok(Self::new(id, stored.received, Metadata::decode(&stored.metadata)?, stored.prefix, stored.content))
    }

    /// Octets on the wire before our signatures.
    pub fn size(&self) -> u64 {
        (self.prefix.len() + self.content.len()) as u64
    }

    /// Who handed it in and by which protocol, `smtp` or `http`, as the first two lines of our own
    /// `Received` have it; `None` for reports of our own.
    pub fn submitter(&self) -> Option<(&str, &'static str)> {
        let mut lines = self.prefix.split(|octet| *octet == b'\n');
        let line = lines.next().filter(|line| line.starts_with(b"Received: from "))?;
        let start = memchr::memrchr(b'[', line)? + 1;
        let end = start + memchr::memchr(b']', line.get(start..)?)?;
        let address = std::str::from_utf8(line.get(start..end)?).ok()?;
        let is_http = memchr::memmem::find(lines.next()?, b" with HTTP").is_some();
        Some((address.strip_prefix("IPv6:").unwrap_or(address), if is_http { "http" } else { "smtp" }))
    }
}

/// How many bytes of bodies may be in memory between acceptance and first attempt.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), limit: AtomicU64::new(limit) })
    }

    /// Changes the limit; what is held stays held.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Shares a message while it fits; otherwise it will be read back from disk.
    pub fn hold(self: &Arc<Self>, mut message: Message) -> Option<Arc<Message>> {
        let size = message.size();
        let before = self.used.fetch_add(size, Ordering::Relaxed);
        let share = Share { budget: Arc::clone(self), size };
        if before + size > self.limit.load(Ordering::Relaxed) {
            return None; // the share gives the bytes back
        }
        message.share = Some(share);
        Some(Arc::new(message))
    }
}

#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    size: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.size, Ordering::Relaxed);
    }
}
