//! SMTP without sockets: the grammar and both dialogues as pure state machines.
//!
//! Octets and events go in, replies, commands and decisions come out. Nothing in
//! this package opens a socket, reads a clock or touches a file, nothing panics
//! on outside input, and everything from outside has a limit.

pub mod address;
pub mod capabilities;
pub mod client;
pub mod command;
pub mod data;
pub mod downgrade;
pub mod envelope;
pub mod header;
pub mod mailbox;
pub mod proxy;
pub mod reply;
pub mod server;

pub use address::{Address, AddressError};
pub use envelope::{BodyKind, Envelope, Notify, Recipient, Return};
pub use reply::{EnhancedCode, Reply};
