//! Control: the administration API on a Unix socket and, where that is configured, at a door on the network; its
//! client, and the Prometheus endpoint. Who may open the socket may do everything; at the door only those may who
//! are listed, by their certificates.

mod api;
mod client;
mod door;
mod fingerprint;
mod identity;
mod managers;
mod profile;
mod server;
mod suppression;
mod system;
mod update;
mod way;

pub use api::{ImportLine, Problem, ReceiverStatus, ReloadReport, Status, SuppressionAdditions};
pub use client::{Client, ClientError, FileOptions};
pub use door::DoorError;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use identity::{Identity, IdentityError};
pub use managers::Managers;
pub use postkeep_suppression::{SuppressionAddition, SuppressionView};
pub use profile::{BoxProfile, PORT, ProfileError};
pub use server::{Control, ControlError, ReloadAnswer, Reloader};
pub use system::{BillFormat, Places, System, TextRecord};
pub use update::{Fetching, MirrorRequest};
