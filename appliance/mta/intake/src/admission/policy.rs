//! What one sender, a credential or a network, may do.

/// The stream that always exists.
pub(super) const DEFAULT_STREAM: &str = "default";

/// Domains: `example.com` is that one, `*.example.com` everything below, `*` any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainPatterns {
    any: bool,
    exact: Vec<String>,
    /// With the dot in front.
    below: Vec<String>,
}

impl DomainPatterns {
    /// From the patterns of the configuration; international domains in either form.
    pub fn new(patterns: &[String]) -> Self {
        let mut all = Self::default();
        for pattern in patterns {
            match pattern.as_str() {
                "*" => all.any = true,
                pattern => match pattern.strip_prefix("*.") {
                    Some(domain) => all.below.push(format!(".{}", ascii(domain))),
                    None => all.exact.push(ascii(pattern)),
                },
            }
        }
        all
    }

    /// Whether a domain, in A-labels and lower case, is one of them.
    pub fn matches(&self, domain: &str) -> bool {
        self.any
            || self.exact.iter().any(|exact| exact == domain)
            || self.below.iter().any(|below| domain.len() > below.len() && domain.ends_with(below.as_str()))
    }
}

/// A-labels in lower case; what is no domain matches nothing but itself.
fn ascii(domain: &str) -> String {
    match postkeep_smtp::address::normalise_domain(domain) {
        Ok(domain) => postkeep_smtp::address::ascii_domain(&domain).into_owned(),
        Err(_) => domain.to_ascii_lowercase(),
    }
}

/// One sender's permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderPolicy {
    name: String,
    domains: DomainPatterns,
    stream: String,
    any_stream: bool,
    streams: Vec<String>,
}

impl SenderPolicy {
    /// From the keys of `[[credential]]` or `[[network]]`.
    pub fn new(name: &str, domains: &[String], stream: Option<&str>, may_choose: &[String]) -> Self {
        Self {
            name: name.to_owned(),
            domains: DomainPatterns::new(domains),
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
        self.domains.matches(domain)
    }

    /// Whether a message of it may name that stream. Its own it always may.
    pub fn may_choose(&self, stream: &str) -> bool {
        self.any_stream || stream == self.stream || self.streams.iter().any(|allowed| allowed == stream)
    }
}
