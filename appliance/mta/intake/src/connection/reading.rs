//! Waiting for octets: time-outs, the room in the buffer, the memory that contents may take.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Connection, End, Flow, reached};
use crate::Gatekeeper;
use crate::doors::Phase;

/// Room for commands on a connection that has sent no message yet.
const FIRST_ROOM: usize = 2 * 1024;
/// Room for commands, and small messages, on one that has.
const ROOM: usize = 16 * 1024;
/// A buffer with less spare room than this is given more before a read.
const LEAST_ROOM: usize = 1024;
/// Most room that is made at once for a content whose size is not known.
const LARGEST_STEP: usize = 1 << 20;
/// After this long without a command the buffer is given back.
const BUFFER_KEPT: Duration = Duration::from_secs(5);

/// What waiting for a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Octets,
    Ended,
    TimedOut,
    Closing,
}

impl<G: Gatekeeper> Connection<G> {
    /// Writes what there is to say.
    pub(super) async fn flush(&mut self) -> Flow {
        if self.output.is_empty() {
            return Ok(());
        }
        // A client that does not read its replies is not waited for longer than one that does not speak.
        match timeout(self.tables.command_timeout, self.transport.write(&self.output)).await {
            Ok(written) => written?,
            Err(_) => return Err(End::Lost(std::io::ErrorKind::TimedOut.into())),
        }
        self.output.clear();
        Ok(())
    }

    /// Waits until the buffer has a whole line or something like one.
    pub(super) async fn fill_line(&mut self) -> Result<Fill, End> {
        self.flush().await?;
        let start = Instant::now();
        let deadline = self.deadline.min(start + self.tables.command_timeout);
        loop {
            let room = if self.session.messages() == 0 { FIRST_ROOM } else { ROOM };
            make_room(&mut self.input, LEAST_ROOM, room);
            let keep_until = start + BUFFER_KEPT;
            let is_large = self.input.is_empty() && self.input.capacity() > FIRST_ROOM && keep_until < deadline;
            let until = if is_large { keep_until.max(Instant::now()) } else { deadline };
            // Only a client that is not in the middle of something is sent away.
            let may_close = !self.session.is_in_transaction() && self.input.is_empty();
            let read = timeout_at(until, self.transport.read(&mut self.input));
            let outcome = tokio::select! {
                biased;
                outcome = read => outcome,
                () = reached(&mut self.phase, Phase::Closing), if may_close => return Ok(Fill::Closing),
            };
            match outcome {
                Ok(Ok(0)) => return Ok(Fill::Ended),
                Ok(Ok(_)) => {
                    if memchr::memchr(b'\n', &self.input).is_some()
                        || self.input.len() > postkeep_smtp::command::MAXIMUM_COMMAND_LINE
                    {
                        return Ok(Fill::Octets);
                    }
                }
                Ok(Err(error)) => return Err(End::Lost(error)),
                Err(_) if is_large => self.input = BytesMut::new(),
                Err(_) => return Ok(Fill::TimedOut),
            }
        }
    }

    /// Reads more of a content into the buffer. The client has the data time-out for each piece.
    pub(super) async fn fill_content(&mut self) -> Result<Fill, End> {
        self.flush().await?;
        make_room(&mut self.input, LEAST_ROOM, ROOM);
        let until = self.deadline.min(Instant::now() + self.tables.data_timeout);
        match timeout_at(until, self.transport.read(&mut self.input)).await {
            Ok(Ok(0)) => Ok(Fill::Ended),
            Ok(Ok(_)) => Ok(Fill::Octets),
            Ok(Err(error)) => Err(End::Lost(error)),
            Err(_) => Ok(Fill::TimedOut),
        }
    }

    /// Makes room for a content: for all of it where its size is known, else in growing steps.
    /// `false`: there is no memory for it.
    pub(super) fn room_for_content(&mut self, memory: &mut ContentMemory, announced: Option<u64>, kept: usize) -> bool {
        let length = self.input.len();
        let spare = self.input.capacity() - length;
        let largest = usize::try_from(self.tables.data_limits.size).unwrap_or(usize::MAX);
        if spare < LEAST_ROOM {
            let announced = announced.map(|size| usize::try_from(size).unwrap_or(usize::MAX).min(largest));
            let more = match announced {
                // And the final dot, and a command or two behind it.
                Some(size) if size > length => (size - length).saturating_add(LEAST_ROOM),
                _ => length.clamp(ROOM, LARGEST_STEP),
            };
            if !memory.take(length.saturating_add(more).saturating_add(kept)) {
                return false;
            }
            self.input.reserve(more);
            return true;
        }
        memory.take(length.saturating_add(kept))
    }

    /// Gives a buffer that grew for a large content back.
    pub(super) fn shrink(&mut self) {
        if self.input.capacity() > 4 * ROOM {
            let rest = std::mem::take(&mut self.input);
            self.input.extend_from_slice(&rest);
        }
    }
}

fn make_room(buffer: &mut BytesMut, least: usize, room: usize) {
    if buffer.capacity() - buffer.len() < least {
        buffer.reserve(room);
    }
}

/// The memory that one content has been given of what all may take; returned when dropped.
pub(super) struct ContentMemory {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl ContentMemory {
    pub(super) const fn new(all: Arc<Semaphore>) -> Self {
        Self { all, held: None }
    }

    /// Sees that it has at least so many octets; `false` when there are not enough.
    pub(super) fn take(&mut self, octets: usize) -> bool {
        let wanted = octets.div_ceil(1024);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = wanted.checked_sub(held).filter(|missing| *missing > 0) else {
            return true;
        };
        let Ok(missing) = u32::try_from(missing) else {
            return false;
        };
        match (Arc::clone(&self.all).try_acquire_many_owned(missing), &mut self.held) {
            (Ok(more), Some(held)) => held.merge(more),
            (Ok(more), held) => *held = Some(more),
            (Err(_), _) => return false,
        }
        true
    }

    pub(super) fn give_back(&mut self) {
        self.held = None;
    }
}
