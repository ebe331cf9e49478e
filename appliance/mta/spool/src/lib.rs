//! The durable store of accepted mail: append-only segments, group commit, reclaimed space.
//! A message whose [`Operation::Accept`] was answered `Ok` is found again after any crash until
//! each of its recipients is complete; one whose accept was refused is never found.
//! `docs/develop/spool.md` describes the format and what happens at each fault.

mod format;
mod group;
mod id;
mod index;
mod inspect;
mod log;
mod operation;
mod read;
mod reclaim;
mod replay;
mod scan;
mod spool;
mod start;
mod state;
mod storage;
mod supply;
#[cfg(test)]
mod tests;

pub use format::Sums;
pub use id::{MessageId, MessageIdError};
pub use inspect::{Inspection, SegmentReport, inspect};
pub use log::Settings;
pub use operation::{
    Batch, NewMessage, OpenError, Operation, ReadError, RetryState, Stored, StoredMetadata, SubmitError, Ticket,
};
pub use replay::{Recovered, Repair};
pub use scan::{Damage, Finding, scan_segment};
pub use spool::{Spool, Statistics};
pub use start::Recovery;
pub use storage::{Disk, Storage};
