//! Certificates that the box gets and renews by itself: ACME (RFC 8555) with TLS-ALPN-01 (RFC 8737).
//!
//! Promises. A certificate that works is never dropped for want of a better one. What was got is on the disk before it
//! is used, and a restart uses it again. Failures wait longer and longer, over restarts too, so that no authority is
//! asked more often than it allows.
//!
//! ```text
//! renewal (pure): when? ── keeper (task) ── order: account, proof, certificate ── store: files
//!                                │
//!                                └─ served: what a handshake is given, and the proofs of names
//! ```

mod client;
mod keeper;
mod order;
mod renewal;
mod served;
mod store;

pub use keeper::Certificates;
pub use renewal::{Renewal, Validity};
pub use served::ACME_TLS;
pub use store::StoreError;
