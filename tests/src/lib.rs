//! The harness for tests of the whole product: `postkeepd` runs as a process,
//! software that nobody here wrote submits to it and receives from it, and a
//! scriptable receiver of our own ([`Sink`]) counts what the wire shows.
//!
//! Each test stands on its own [`Ground`]: a loopback network, a temporary
//! folder and a certificate authority that no other test touches, so that any
//! number of tests may run beside each other. Nothing here looks inside the
//! daemon: what a test knows, it knows from sockets, records and commands.

pub mod brokers;
pub mod certificates;
pub mod client;
pub mod counting;
pub mod daemon;
pub mod ground;
pub mod hook;
pub mod message;
pub mod names;
pub mod oracle;
pub mod policy_host;
pub mod receivers;
pub mod settings;
pub mod signed_names;
pub mod sink;
pub mod submitters;
pub mod token;
pub mod tools;
pub mod tpm;
pub mod wait;

pub use client::{Client, Reply};
pub use daemon::Daemon;
pub use ground::Ground;
pub use names::Names;
pub use settings::Settings;
pub use sink::{Act, Moment, Sink, Stage};
pub use wait::{wait_for, wait_until};
