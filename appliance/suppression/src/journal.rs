//! The journal: every change of the list, in order, in files that are only ever appended to. It is
//! the truth; the index can be made anew from it.
//!
//! A segment file has a head, then frames. A frame is durable or it is not there: a cut frame
//! at the end of a segment is what a crash leaves, and its request was never answered. What a
//! change is about stands in the clear as key, scope, reason and time; the address and the note are sealed.
//!
//! ```text
//! head     magic 8 | segment number u64 | made u32 | check of the secret 8 | length u32 | age file | crc32c u32
//! frame    length u32 | crc32c of the payload u32 | payload
//! payload  1 | count u32 | changes of 23 octets | sealed: for each change address and note, each length u16 first
//!          2 | number u32 | name of a scope
//! ```

mod format;
mod read;
mod write;

pub use format::Detail;
pub(crate) use read::{Found, Position, read, segments};
pub(crate) use write::{Disk, Files, Journal};
