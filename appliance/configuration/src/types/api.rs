//! The door through which the box is managed over the network.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[api]`: the door through which the box is managed over the network. TLS 1.3 only, and only for clients with a
/// certificate that is listed in `[[api-client]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Api {
    /// Address and port; `[::]` is IPv4 too.
    #[schemars(extend("x-type" = "address and port"))]
    pub address: SocketAddr,
    /// PEM file with the box's certificate, which clients know by its fingerprint.
    #[schemars(extend("x-type" = "path"))]
    pub certificate: PathBuf,
    /// PEM file with its private key, not encrypted.
    #[schemars(extend("x-type" = "path"))]
    pub key: PathBuf,
    /// Open connections of listed clients, 1 to 10000.
    pub connections: u32,
    /// Open connections from one address, 1 to 10000, those included that have not shown their certificate yet.
    pub connections_per_address: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8443)),
            certificate: PathBuf::from("/var/lib/postkeep/etc/api/box.pem"),
            key: PathBuf::from("/var/lib/postkeep/etc/api/box.key"),
            connections: 64,
            connections_per_address: 16,
        }
    }
}

/// `[[api-client]]`: somebody who may come in through `[api]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApiClient {
    /// Name for records and the journal.
    pub name: String,
    /// SHA-256 sum of the client's certificate in DER, 64 small hexadecimal digits; `postkeep api identity new` prints it.
    pub fingerprint: String,
    /// What the client may do.
    pub role: ApiRole,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ApiRole {
    /// Look: everything that is asked with GET.
    Read,
    /// Everything.
    Admin,
}
