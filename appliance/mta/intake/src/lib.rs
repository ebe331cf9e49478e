//! Mail in: the SMTP server's edge and the admission of messages.
//!
//! [`Doors`] opens the configured listeners and runs one task for each connection.
//! What a client may do is decided by pure parts (`postkeep_smtp::server`,
//! [`admission`]); what becomes of an admitted message is decided by the
//! [`Gatekeeper`], which answers only when the message is durable.

pub mod admission;
mod authentication;
mod connection;
mod doors;
mod gatekeeper;
mod identity;
mod tables;
mod transport;

pub use doors::{CloseSummary, Doors, DoorsError};
pub use gatekeeper::{Click, Gatekeeper, NotKept, Once, Refused, Returned, Submission, TlsSummary};
pub use identity::try_identity;
pub use postkeep_smtp::server::Stage;
pub use tables::{TablesError, server_tls};
