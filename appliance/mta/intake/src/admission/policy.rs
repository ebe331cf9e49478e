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
    powermta_headers: bool,
    may_suppress: bool,
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
            powermta_headers: false,
            may_suppress: false,
        }
    }

    /// With `powermta-headers` as it says.
    #[must_use]
    pub fn with_powermta_headers(self, powermta_headers: bool) -> Self {
        Self { powermta_headers, ..self }
    }

    /// With `may-suppress` as it says.
    #[must_use]
    pub fn with_suppression(self, may_suppress: bool) -> Self {
        Self { may_suppress, ..self }
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

    /// Whether a list is its own: its identifier (RFC 2919), lower case, is one of its domains or lies below one.
    /// `weekly.example.com` is a list of `example.com`.
    pub fn owns_list(&self, identifier: &str) -> bool {
        std::iter::successors(Some(identifier), |rest| rest.split_once('.').map(|(_, rest)| rest))
            .any(|domain| self.allows_domain(domain))
    }

    /// Whether PowerMTA's header fields count in its mail.
    pub fn has_powermta_headers(&self) -> bool {
        self.powermta_headers
    }

    /// Whether it may ask for suppressions and change them.
    pub fn may_suppress(&self) -> bool {
        self.may_suppress
    }

    /// Whether its mail may be of every stream.
    pub fn may_choose_any(&self) -> bool {
        self.any_stream
    }

    /// Whether a message of it may name that stream. Its own it always may.
    pub fn may_choose(&self, stream: &str) -> bool {
        self.any_stream || stream == self.stream || self.streams.iter().any(|allowed| allowed == stream)
    }
}
