//! What goes over the updater's socket, and through the mail core's doors to it. JSON, kebab-case keys.

use jiff::Timestamp;
use postkeep_release::Version;
use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, Event};
use crate::boot_file::Standing;

/// Asks whether a release may be installed, or says that it shall be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The signed manifest, `release.note`, whole.
    pub release: String,
    /// An older version may take the place of a newer one.
    #[serde(default)]
    pub allow_older: bool,
}

/// Asks for a staged release to be installed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApplyRequest {
    /// Which: the one that was staged.
    pub version: Version,
    /// The machine is started again afterwards.
    #[serde(default)]
    pub restart: bool,
    /// As when it was staged. A box that is older than this word refuses it, so it is said only where it is true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_older: bool,
}

/// Asks for the version before.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RollbackRequest {
    /// What is gone back to, when it must be that and no other.
    #[serde(default)]
    pub to: Option<Version>,
}

/// What would be done to install a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// What runs.
    pub running: Version,
    /// What would be installed.
    pub version: Version,
    /// When it was made.
    pub issued: Timestamp,
    /// Who has signed it.
    pub signed_by: Vec<String>,
    /// What is lost: the version in the other slot.
    pub replaces: Option<Version>,
    /// The files that are needed.
    pub files: Vec<Wanted>,
    /// The disks that are written.
    pub disks: Vec<String>,
}

/// A file that is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Wanted {
    /// Its name beside the manifest.
    pub name: String,
    /// How many octets it has.
    pub size: u64,
    /// It is here and was checked.
    pub staged: bool,
}

/// How the versions of the box are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// What runs.
    pub running: Version,
    /// What lies in the boot partition.
    pub versions: Vec<Installed>,
    /// What is being done.
    pub activity: Activity,
    /// An update whose end is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// What happened, the newest last.
    pub history: Vec<Dated>,
}

/// A version that could be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Installed {
    /// Which.
    pub version: Version,
    /// What its boot file says.
    pub standing: Standing,
    /// It runs.
    pub running: bool,
}

/// What the updater does at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Activity {
    /// Nothing.
    #[default]
    Idle,
    /// Files of a release come in.
    Staging {
        /// Of which.
        version: Version,
        /// Octets that came so far.
        octets: u64,
        /// Octets that have to come.
        of: u64,
    },
    /// The other slot is written.
    Installing {
        /// With which.
        version: Version,
    },
    /// It is whole, and the machine was not started again yet.
    Installed {
        /// Which.
        version: Version,
    },
    /// The mail core finishes what is under way, then the machine starts again.
    Restarting {
        /// With which.
        version: Version,
    },
    /// The last thing that was tried has failed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dated {
    /// When.
    pub time: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
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
