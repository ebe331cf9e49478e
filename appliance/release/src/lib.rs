//! What a release is made of, and whether it may be installed.
//!
//! A release is a set of files and one manifest, `release.note`: a TOML text that the release key has signed as a note
//! ([`postkeep_notes`]). The manifest names each file with its size and its sum, so whoever believes the note can check
//! all the rest. The build writes it with [`Release::to_toml`]; the flasher and the updater read it with
//! [`Release::open`], ask [`decide`], and let [`File::verify`] read each file before they use it.

mod decide;
mod file;
mod manifest;
mod sum;
mod version;

pub use self::decide::{Decision, MachineFacts, Refusal, decide};
pub use self::file::{File, FileError, Role};
pub use self::manifest::{ARCHITECTURE, DataFormat, LARGEST_MANIFEST, PRODUCT, Release, ReleaseError};
pub use self::sum::{Sha256, SumError, Summing};
pub use self::version::{Version, VersionError};
