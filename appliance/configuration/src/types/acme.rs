//! Certificates from an authority that speaks ACME (RFC 8555).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[acme]`: certificates that the box gets and renews by itself. Each name is proved at an `[[http]]` door with
/// `acme = true` that the authority reaches at port 443 (TLS-ALPN-01, RFC 8737).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Acme {
    /// Names in the certificate, 1 to 100; the first one is its own name in logs.
    #[schemars(extend("x-type" = "list of host names"))]
    pub names: Vec<String>,
    /// Whether you agree to the terms of service of the authority; without `true` no account is made.
    #[serde(default)]
    pub agree_to_terms: bool,
    /// The authority: URL of its directory.
    #[serde(default = "lets_encrypt")]
    pub url: String,
    /// Where the authority writes to when something is wrong: `"mailto:hostmaster@example.com"`.
    #[serde(default)]
    pub contact: Vec<String>,
    /// Folder of account and certificates, made if absent; readable for nobody else.
    #[serde(default = "directory")]
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
    /// PEM file with more roots that the authority's own HTTPS may be held against, for a private one.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub extra_roots: Option<PathBuf>,
    /// An account that the authority knows you by already (external account binding, RFC 8555 §7.3.4).
    #[serde(default)]
    pub external_account: Option<ExternalAccount>,
}

/// External account binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExternalAccount {
    /// Key identifier, as the authority gave it.
    pub id: String,
    /// File with the secret in base64url, as the authority gave it; readable for nobody else.
    #[schemars(extend("x-type" = "path"))]
    pub secret: PathBuf,
}

fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".to_owned()
}

fn directory() -> PathBuf {
    PathBuf::from("/var/lib/postkeep/acme")
}
