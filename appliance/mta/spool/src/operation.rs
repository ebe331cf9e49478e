//! What callers ask of the spool and what they get back: operations, batches,
//! tickets, and the errors of each door.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::MessageId;

/// How far the attempts for one recipient have come.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct RetryState {
    /// Attempts that ended in a temporary failure.
    pub attempts: u16,
    /// When the next attempt is due, in Unix seconds; 0 is at once.
    pub due: u32,
}

/// A message to be kept.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// From [`Spool::next_id`](crate::Spool::next_id); never used before.
    pub id: MessageId,
    /// When it was received, in Unix seconds.
    pub received: u32,
    /// Opaque to the spool: the encoded envelope.
    pub metadata: Bytes,
    /// Prefix and content, stored one after the other, without a copy on the way.
    pub body: [Bytes; 2],
    /// How many recipients, numbered from 0; none is a message that is complete at once.
    pub recipients: u16,
}

/// One thing to be made durable.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Keep a message until each of its recipients is complete.
    Accept(NewMessage),
    /// The recipient needs no more attempts: delivered, bounced with a report, or removed.
    Complete {
        /// The message.
        id: MessageId,
        /// The recipient's number.
        recipient: u16,
    },
    /// The recipient is to be tried again.
    Defer {
        /// The message.
        id: MessageId,
        /// The recipient's number.
        recipient: u16,
        /// Replaces the earlier state.
        state: RetryState,
    },
    /// A small value under a key; the last one wins. Survives as long as it is not forgotten.
    Note {
        /// Chosen by the caller.
        key: Bytes,
        /// Empty: forget the key.
        value: Bytes,
    },
}

/// Operations that become durable together or not at all.
pub type Batch = SmallVec<[Operation; 1]>;

/// Why a batch with an [`Operation::Accept`] was refused. Nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No room: below the free space to be kept, or the disk is full. SMTP: 452 4.3.1.
    #[error("the spool is full: free space on its file system, or lower `minimum-free`")]
    Full,
    /// More bytes wait to be written than allowed. SMTP: 452 4.3.1 or 451 4.3.2.
    #[error("the spool is busy: {limit} bytes already wait to be written")]
    Busy {
        /// The bound, in bytes.
        limit: u64,
    },
    /// The message cannot be stored at any time. SMTP: 552 5.3.4.
    #[error("the message is too large for the spool: at most {limit} bytes")]
    TooLarge {
        /// The bound on metadata and bodies of one batch, in bytes.
        limit: u64,
    },
    /// The storage failed. SMTP: 451 4.3.0.
    #[error("the spool could not {doing}: {reason}")]
    Storage {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The spool was closed before the batch was written. SMTP: 421 4.3.2.
    #[error("the spool is closed")]
    Closed,
    /// The spool was closed while the storage failed: it is not known whether a later start finds
    /// the message. The only refusal of which something may be left; SMTP: close without a reply.
    #[error("the spool was closed while its storage failed: the message may be there at the next start")]
    InDoubt,
}

/// Resolves when the batch is durable or refused.
#[derive(Debug)]
#[must_use = "a batch counts only when its ticket says so"]
pub struct Ticket(pub(crate) TicketState);

#[derive(Debug)]
pub(crate) enum TicketState {
    Ready(Result<(), SubmitError>),
    Waiting(oneshot::Receiver<Result<(), SubmitError>>),
}

impl Ticket {
    pub(crate) fn refused(error: SubmitError) -> Self {
        Self(TicketState::Ready(Err(error)))
    }

    /// Blocks the thread until the answer is there. Not for use inside an async task.
    pub fn wait(self) -> Result<(), SubmitError> {
        match self.0 {
            TicketState::Ready(answer) => answer,
            TicketState::Waiting(receiver) => receiver.blocking_recv().unwrap_or(Err(SubmitError::Closed)),
        }
    }

    /// The answer, if it is there already.
    pub fn try_answer(&mut self) -> Option<Result<(), SubmitError>> {
        match &mut self.0 {
            TicketState::Ready(answer) => Some(answer.clone()),
            TicketState::Waiting(receiver) => match receiver.try_recv() {
                Ok(answer) => {
                    self.0 = TicketState::Ready(answer.clone());
                    Some(answer)
                }
                Err(oneshot::error::TryRecvError::Empty) => None,
                Err(oneshot::error::TryRecvError::Closed) => Some(Err(SubmitError::Closed)),
            },
        }
    }
}

impl Future for Ticket {
    type Output = Result<(), SubmitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            TicketState::Ready(answer) => Poll::Ready(answer.clone()),
            TicketState::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(SubmitError::Closed)))
            }
        }
    }
}

/// One message as it lies in the spool.
#[derive(Debug, Clone)]
pub struct Stored {
    /// When it was received, in Unix seconds.
    pub received: u32,
    /// The encoded envelope.
    pub metadata: Bytes,
    /// First part of the body.
    pub prefix: Bytes,
    /// Second part; a slice of the same buffer as the prefix.
    pub content: Bytes,
    /// Recipients that are not complete, in rising order.
    pub outstanding: Vec<(u16, RetryState)>,
}

/// One message without its body.
#[derive(Debug, Clone)]
pub struct StoredMetadata {
    /// When it was received, in Unix seconds.
    pub received: u32,
    /// The encoded envelope.
    pub metadata: Bytes,
    /// Octets of prefix and content together.
    pub body_length: u32,
    /// Recipients that are not complete, in rising order.
    pub outstanding: Vec<(u16, RetryState)>,
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not in the spool: never accepted, or complete.
    #[error("message {0} is not in the spool")]
    Unknown(MessageId),
    /// What lies on the disk is not what was written.
    #[error("message {id} is damaged in {path} at offset {offset}: {what}")]
    Damaged {
        /// The message.
        id: MessageId,
        /// The segment.
        path: PathBuf,
        /// Where its frame begins.
        offset: u64,
        /// Which sum or field is wrong.
        what: &'static str,
    },
    /// The system refused to read; trying again may help.
    #[error("message {id} could not be read from {path}: {source}")]
    Storage {
        /// The message.
        id: MessageId,
        /// The segment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why the spool could not be opened. Nothing was changed that matters.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the spool {directory} is in use by another process: stop that one first")]
    Locked {
        /// The spool's folder.
        directory: PathBuf,
    },
    /// Written by a later version of this program.
    #[error(
        "the segment {path} has format version {found}, and this program knows versions up to {known}: start the version that wrote it"
    )]
    NewerVersion {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is understood here.
        known: u32,
    },
    /// A call to the system failed.
    #[error("the spool could not {doing} {path}: {source}")]
    Storage {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A setting is out of its range.
    #[error("the spool cannot be opened: {0}")]
    Setting(&'static str),
}
