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
/// Room that is made at once for a content: at first this much, then as much as there is already.
const FIRST_STEP: usize = 256 * 1024;
/// Buffers that grew beyond this are not kept for the next message.
const LARGEST_KEPT: usize = 64 * 1024;
/// After this long without a command the buffer is given back.
const BUFFER_KEPT: Duration = Duration::from_secs(5);

/// What waiting for a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Octets,
    Ended,
    TimedOut,
    /// The connection's own time is up.
    Over,
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
        let keep_until = start + BUFFER_KEPT;
        // The time that counts is that of the line, not of its pieces.
        let mut may_release = self.session.messages() > 0 && keep_until < deadline;
        loop {
            // A client that is never silent would never meet a time-out.
            if Instant::now() >= self.deadline {
                return Ok(Fill::Over);
            }
            make_room(&mut self.input, LEAST_ROOM, if may_release { ROOM } else { FIRST_ROOM });
            let is_releasing = may_release && self.input.is_empty();
            let until = if is_releasing { keep_until } else { deadline };
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
                Err(_) if is_releasing => {
                    self.input = BytesMut::new();
                    may_release = false;
                }
                Err(_) => return Ok(if Instant::now() >= self.deadline { Fill::Over } else { Fill::TimedOut }),
            }
        }
    }

    /// Reads more of a content into the buffer. The client has the data time-out for each piece.
    pub(super) async fn fill_content(&mut self) -> Result<Fill, End> {
        self.flush().await?;
        make_room(&mut self.input, LEAST_ROOM, ROOM);
        if Instant::now() >= self.deadline {
            return Ok(Fill::Over);
        }
        let until = self.deadline.min(Instant::now() + self.tables.data_timeout);
        match timeout_at(until, self.transport.read(&mut self.input)).await {
            Ok(Ok(0)) => Ok(Fill::Ended),
            Ok(Ok(_)) => Ok(Fill::Octets),
            Ok(Err(error)) => Err(End::Lost(error)),
            Err(_) => Ok(if Instant::now() >= self.deadline { Fill::Over } else { Fill::TimedOut }),
        }
    }

    /// Makes room for a content: for all of it where its size is known, else in growing steps.
    /// `false`: there is no memory for it.
    pub(super) fn room_for_content(&mut self, memory: &mut ContentMemory, announced: Option<u64>, kept: usize) -> bool {
        let length = self.input.len();
        let mut more = 0;
        if self.input.capacity() - length < LEAST_ROOM {
            let announced = announced.map_or(ROOM, |size| usize::try_from(size).unwrap_or(usize::MAX));
            let largest = usize::try_from(self.tables.data_limits.size).unwrap_or(usize::MAX);
            // What is announced but not there yet takes no memory from others. The final dot, and a
            // command or two behind it, have room as well.
            more = announced.min(largest).saturating_sub(length).saturating_add(LEAST_ROOM);
            more = more.clamp(ROOM, FIRST_STEP.max(length));
        }
        if !memory.take(length.saturating_add(more).saturating_add(kept)) {
            return false;
        }
        if more > 0 {
            self.input.reserve(more);
            self.has_grown |= self.input.capacity() > LARGEST_KEPT;
        }
        true
    }

    /// Gives a buffer that grew for a large content back.
    pub(super) fn shrink(&mut self) {
        if std::mem::take(&mut self.has_grown) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_share_one_memory_and_give_it_back() {
        let all = Arc::new(Semaphore::new(100));
        let mut first = ContentMemory::new(Arc::clone(&all));
        let mut second = ContentMemory::new(Arc::clone(&all));
        assert!(first.take(1) && first.take(50 * 1024));
        assert_eq!(all.available_permits(), 50);
        assert!(first.take(1024), "what is held already is not taken again");
        assert!(second.take(50 * 1024));
        assert!(!second.take(51 * 1024));
        first.give_back();
        assert!(second.take(51 * 1024));
        drop(second);
        assert_eq!(all.available_permits(), 100);
    }
}
