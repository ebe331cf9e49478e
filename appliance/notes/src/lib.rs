//! Signed notes (C2SP `signed-note`): a text, an empty line, and Ed25519 signatures under it, one a line.
//!
//! Releases, seeds and the heads of the audit log travel in this form: a person can read what was signed, and tools that
//! are not ours can check it. A text is worth nothing until [`open`] or [`Note::verify`] gives it back.

mod error;
mod key;
mod note;

pub use self::error::{KeyError, NoteError};
pub use self::key::{SignerKey, VerifierKey};
pub use self::note::{LARGEST_NOTE, MOST_SIGNATURES, Note, Signature, Verified, countersign, open, sign};
