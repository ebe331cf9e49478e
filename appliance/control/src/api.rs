//! What goes over the control socket, both ways. JSON, kebab-case keys.

use postkeep_mta::engine::QueueAction;
use postkeep_mta::selector::Selector;
use postkeep_suppression::{ImportReport, Origin, SuppressionAddition};
pub use postkeep_update::api::Problem;
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

/// How a receiver of events is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReceiverStatus {
    /// `accounting`, `webhook`, `amqp`, `kafka` or `nats`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The record file that it is in.
    pub file: String,
    /// Octets of that file that are dealt with.
    pub offset: u64,
    /// Octets of records that it is still to be told of.
    pub lag_octets: u64,
    /// Age of the oldest event among them, seconds.
    pub lag_seconds: u64,
    /// Events that it has taken, since the start.
    pub sent: u64,
    /// Failed tries, since the start.
    pub retried: u64,
    /// Events that were dropped, since the start.
    pub dropped: u64,
    /// Record files that were deleted before it had read them to their ends, since the start.
    #[serde(default)]
    pub lost_files: u64,
    /// What does not work; absent: everything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// The last failure there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// And when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_time: Option<String>,
}

/// Entries to come, all of them or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SuppressionAdditions {
    /// They.
    pub entries: Vec<SuppressionAddition>,
    /// From where they are known.
    #[serde(default = "by_api")]
    pub origin: Origin,
    /// Who asks, by their own word.
    #[serde(default)]
    pub actor: String,
}

const fn by_api() -> Origin {
    Origin::Api
}

/// One line of the answer to an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportLine {
    /// So far.
    Progress(ImportReport),
    /// A line that cannot be used.
    Refused {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// All of it; the last line.
    Report(ImportReport),
    /// It ended before its time; the last line.
    Problem(Problem),
}
