//! Control: the administration API on a Unix socket, its client, and the
//! Prometheus endpoint. Who may open the socket may do everything; nothing of
//! this listens on the network but `/metrics`, where that is configured.

mod api;
mod client;
mod server;
mod suppression;

pub use api::{ImportLine, Problem, ReloadReport, Status, SuppressionAdditions};
pub use client::{Client, ClientError, FileOptions};
pub use postkeep_suppression::{SuppressionAddition, SuppressionView};
pub use server::{Control, ControlError, ReloadAnswer, Reloader};
