//! The rehearsal: a simulated internet on loopback (DNS and mailbox
//! providers that keep their published rules), a campaign that is sent through
//! a real `postkeepd`, here or in a machine elsewhere, and a judge at the receivers who counts what the
//! product promises. `postkeep rehearse` tells an owner how a configuration
//! would fare; tests use [`Internet`] and [`Client`] on their own.
//!
//! It is a model: what it says about a provider is no better than the rule
//! book it was given.

mod account;
mod arrivals;
mod block;
pub mod campaign;
mod certificates;
mod chance;
pub mod client;
mod comeback;
mod command;
mod content;
mod daemon;
mod derive;
mod error;
mod events;
mod excuses;
mod folder;
mod handed;
mod http;
mod inject;
mod internet;
pub mod judge;
mod keys;
mod learnt;
mod ledger;
mod list;
pub mod mailbox;
mod names;
mod policy_host;
mod progress;
mod reasons;
mod receiver;
mod records;
pub mod rulebook;
mod run;
mod scratch;
mod signature;
mod stage;
mod stop;
mod sum_up;
mod summary;
mod verdict;
mod watch;

pub use block::Block;
pub use client::{Client, Submission};
pub use error::Error;
pub use folder::Ports;
pub use internet::{Internet, InternetOptions, Owner};
pub use progress::Watching;
pub use run::{News, Options, rehearse, serve};
pub use stage::{Addresses, prepare};
pub use summary::Summary;
