//! Postkeep's configuration: one typed TOML file with includes.
//!
//! A file is read whole or not at all; every error names its place and the remedy.

pub mod types;
pub mod units;

pub use types::*;
