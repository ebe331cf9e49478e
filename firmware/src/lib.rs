//! What lies below the system: the signed boot file and what it measures, the log of a measured boot, Secure Boot
//! and whose keys it holds, the keys themselves, and what all of that is worth on one machine: its posture.
//!
//! Everything but [`facts`], [`history`] and [`keys::make`] is pure: bytes in, values out.

mod bytes;

pub mod attestation;
pub mod components;
pub mod device_path;
pub mod digest;
pub mod event_log;
pub mod facts;
pub mod guid;
pub mod history;
pub mod keys;
pub mod pcr;
pub mod pe;
pub mod posture;
pub mod secure_boot;
pub mod signature_list;
pub mod signed_policy;

pub use bytes::Short;
pub use digest::Digest;
pub use guid::Guid;
