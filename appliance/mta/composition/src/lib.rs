//! Mail put together from parts. A [`Composition`] is what a caller of the HTTP API gives: addresses,
//! subject, texts, files. It becomes one MIME message for all its recipients, or a [`Document`]: the parts once,
//! with the values of each recipient, from which each one's message is rendered when it is delivered.
//!
//! Placeholders are `{{name}}`, and in HTML `{{{name}}}` for values that are HTML themselves. All of
//! them are looked up before a message is taken, so that rendering cannot fail for want of a value; a value
//! cannot add a header line or markup. There is no logic: whoever wants some has their own templates.

mod composition;
mod document;
mod placeholder;

pub use composition::{Attachment, Composition, Mailbox};
pub use document::{Document, DocumentError, Recipient};
pub use placeholder::{FillError, Style, Values, has_placeholders};
