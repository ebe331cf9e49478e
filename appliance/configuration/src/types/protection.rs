//! What protects mail on its way: DNSSEC, MTA-STS, lowest versions of TLS, and reports about them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// Whether answers of the DNS are validated by their signatures (DNSSEC). Without that there is no DANE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Dnssec {
    /// If the servers pass signatures on, as a question for the root's keys shows; once they did, always.
    #[default]
    Auto,
    /// Always; mail waits while an answer cannot be validated.
    Required,
    /// Never.
    Off,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// `[mta-sts]`: policies by which domains say that their mail must be protected (RFC 8461).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MtaSts {
    /// Ask for policies and hold mail to them.
    pub enabled: bool,
    /// Folder that keeps policies over restarts, made if absent.
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
    /// Port of the hosts that serve policies; anything but 443 is for tests.
    pub port: u16,
    /// Time for fetching one policy, 1s to 5m.
    pub timeout: Duration,
}

impl Default for MtaSts {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: PathBuf::from("/var/lib/postkeep/mta-sts"),
            port: 443,
            timeout: Duration::from_secs(30),
        }
    }
}

/// `[tls-reports]`: tell domains that ask for it how well connections to them were protected (RFC 8460); absent:
/// nobody is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsReports {
    /// Address that reports come from; a `[[dkim]]` key must sign for its domain.
    pub from: String,
    /// Name of your organisation.
    pub organization: String,
    /// Address of people who can be asked; absent: `from`.
    #[serde(default)]
    pub contact: Option<String>,
    /// Stream of the reports; `default` when absent.
    #[serde(default)]
    #[schemars(extend("x-type" = "name"))]
    pub stream: Option<String>,
    /// Folder that keeps the counts, made if absent.
    #[serde(default = "directory")]
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
}

fn directory() -> PathBuf {
    PathBuf::from("/var/lib/postkeep/tls-reports")
}
