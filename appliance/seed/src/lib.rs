//! What a box is told when it is flashed: whose it is, which machine it is for, how it reaches the network, who opens it.
//!
//! A seed is a TOML text that its owner has signed as a note ([`postkeep_notes`]). The owner's public key stands in it: the
//! first seed of a box says whose the box is, later ones are believed only when that owner has signed them. Nothing
//! secret is in it: it lies on the one partition that anybody can read.

mod machine;
mod names;
mod network;
mod networkd;
mod seed;

pub use self::machine::{Mac, Machine, MachineFacts, firmware_tells};
pub use self::network::{Interface, Network};
pub use self::networkd::{networkd_files, networkd_names};
pub use self::seed::{Api, FORMAT, LARGEST_SEED, Mail, MailFile, Seed, SeedError};
