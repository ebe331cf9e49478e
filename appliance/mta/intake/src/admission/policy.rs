//! What one sender, a credential or a network, may do.

use postkeep_configuration::DomainPattern;

/// The stream that always exists.
pub(super) const DEFAULT_STREAM: &str = "default";

/// One sender's permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderPolicy {
    name: String,
    domains: Vec<DomainPattern>,
    stream: String,
    any_stream: bool,
    streams: Vec<String>,
}

impl SenderPolicy {
    /// From the keys of `[[credential]]` or `[[network]]`.
    pub fn new(name: &str, domains: &[String], stream: Option<&str>, may_choose: &[String]) -> Self {
        Self {
            name: name.to_owned(),
            // What is no pattern has been refused with its place before anybody comes here.
            domains: domains.iter().filter_map(|pattern| pattern.parse().ok()).collect(),
            stream: stream.unwrap_or(DEFAULT_STREAM).to_owned(),
            any_stream: may_choose.iter().any(|stream| stream == "*"),
            streams: may_choose.to_vec(),
        }
    }

    /// Name of the credential or network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream of mail that names none.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Whether it may send from a domain given in A-labels and lower case.
    pub fn allows_domain(&self, domain: &str) -> bool {
        self.domains.iter().any(|pattern| pattern.matches(domain))
    }

    /// Whether a message of it may name that stream. Its own it always may.
    pub fn may_choose(&self, stream: &str) -> bool {
        self.any_stream || stream == self.stream || self.streams.iter().any(|allowed| allowed == stream)
    }
}
