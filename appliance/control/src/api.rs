//! What goes over the control socket, both ways. JSON, kebab-case keys.

use postkeep_mta::engine::QueueAction;
use postkeep_mta::selector::Selector;
use serde::{Deserialize, Serialize};

/// A request to do something to a part of the queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ActionRequest {
    /// Which part.
    pub(crate) selector: Selector,
    /// What.
    #[serde(flatten)]
    pub(crate) action: QueueAction,
    /// Who asks, by their own word; records have the user id of the process beside it.
    pub(crate) actor: String,
    /// A selector that names nothing is meant: the whole queue.
    #[serde(default)]
    pub(crate) all: bool,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReloadReport {
    /// Keys that changed and hold now.
    pub changed: Vec<String>,
    /// Keys that changed but need a restart.
    pub need_restart: Vec<String>,
    /// What is allowed but doubtful.
    pub warnings: Vec<String>,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it was ready, RFC 3339.
    pub since: String,
    /// Doors, in the order of the configuration.
    pub doors: Vec<String>,
    /// Open connections to them.
    pub connections: usize,
    /// Recipients queued.
    pub queued: u64,
}

/// Why a request was not carried out (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of failure.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What was tried, why it failed, what to do.
    pub detail: String,
}
