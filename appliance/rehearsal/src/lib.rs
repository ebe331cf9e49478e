//! The rehearsal: a simulated internet on loopback (DNS and mailbox
//! providers that keep their published rules), a campaign that is sent through
//! a real `postkeepd`, and a judge at the receivers who counts what the
//! product promises. `postkeep rehearse` tells an owner how a configuration
//! would fare; tests use [`Internet`] and [`Client`] on their own.
//!
//! It is a model: what it says about a provider is no better than the rule
//! book it was given.

pub mod account;
pub mod campaign;
pub mod certificates;
pub mod chance;
pub mod client;
pub mod comeback;
mod command;
pub mod content;
pub mod daemon;
pub mod derive;
mod error;
mod excuses;
pub mod handed;
pub mod http;
mod inject;
pub mod internet;
pub mod judge;
pub mod keys;
pub mod learnt;
pub mod ledger;
pub mod mailbox;
pub mod names;
mod policy_host;
pub mod progress;
pub mod reasons;
mod receiver;
pub mod records;
pub mod rulebook;
mod run;
mod scratch;
pub mod signature;
mod stop;
mod sum_up;
pub mod summary;
pub mod verdict;
mod watch;

pub use client::{Client, Submission};
pub use error::Error;
pub use internet::{Internet, InternetOptions, Owner};
pub use progress::Watching;
pub use run::{Addresses, News, Options, rehearse, serve};
pub use summary::Summary;
