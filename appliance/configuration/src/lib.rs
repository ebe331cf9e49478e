//! Postkeep's configuration: one typed TOML file with includes.
//!
//! A file is read whole or not at all; every error names its place and the remedy,
//! and all errors are reported in one go. Nothing here opens a socket or keeps state.

pub mod access;
pub mod accounting;
pub mod change;
mod check;
pub mod command;
mod deserialize;
pub mod load;
pub mod name;
pub mod password;
pub mod path;
pub mod problem;
pub mod reference;
pub mod schema;
mod suggest;
mod tree;
pub mod types;
pub mod units;

pub use change::{Change, TakesEffect, changes};
pub use check::EVENTS;
pub use load::{Loaded, Options, load, load_with, parse, parse_untrusted, to_toml};
pub use name::{DomainPattern, HostName, RouteHost};
pub use password::hash_password;
pub use path::KeyPath;
pub use problem::{Errors, Place, Problem, Severity};
pub use types::*;
pub use units::{ByteSize, Duration, Rate, UnitError};
