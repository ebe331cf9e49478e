//! Control: the administration API on a Unix socket, its client, and the
//! Prometheus endpoint. Who may open the socket may do everything; nothing of
//! this listens on the network but `/metrics`, where that is configured.

mod api;
mod client;
mod server;

pub use api::{Problem, ReloadReport, Status};
pub use client::{Client, ClientError};
pub use server::{Control, ControlError, ReloadAnswer, Reloader};
