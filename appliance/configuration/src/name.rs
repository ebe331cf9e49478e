//! Names that other programs must understand: domains, patterns of domains, next hops,
//! and the names of streams, sources and pools.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::units::UnitError;

/// Which domains are meant: `example.com` is that one, `*.example.com` everything below it
/// but not itself, `*` any. Kept as A-labels in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainPattern {
    /// Any domain, address literals too.
    Any,
    /// Everything below this domain.
    Below(Box<str>),
    /// This domain.
    Exactly(Box<str>),
}

impl DomainPattern {
    /// Whether `domain` is meant; upper and lower case are the same, and so are a U-label and its A-label.
    pub fn matches(&self, domain: &str) -> bool {
        let domain = match self {
            Self::Any => return true,
            _ if domain.is_ascii() => Cow::Borrowed(domain),
            _ => match idna::domain_to_ascii(domain) {
                Ok(ascii) => Cow::Owned(ascii),
                Err(_) => return false,
            },
        };
        let domain = domain.as_bytes();
        match self {
            Self::Any => true,
            Self::Exactly(own) => domain.eq_ignore_ascii_case(own.as_bytes()),
            Self::Below(parent) => {
                let parent = parent.as_bytes();
                domain.len() > parent.len() + 1
                    && domain
                        .split_at_checked(domain.len() - parent.len())
                        .is_some_and(|(head, tail)| head.ends_with(b".") && tail.eq_ignore_ascii_case(parent))
            }
        }
    }

    /// How narrow the pattern is, for choosing the best of several that match: an exact name
    /// before a longer parent before a shorter one before `*`.
    pub fn precision(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Below(parent) => parent.len(),
            Self::Exactly(_) => usize::MAX,
        }
    }
}

impl FromStr for DomainPattern {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const EXPECTED: &str =
            "a domain such as \"example.com\", \"*.example.com\" for everything below it, or \"*\" for any";
        if text == "*" {
            return Ok(Self::Any);
        }
        let (below, domain) = match text.strip_prefix("*.") {
            Some(parent) => (true, parent),
            None => (false, text),
        };
        let domain = if domain.is_ascii() {
            Cow::Borrowed(domain)
        } else {
            Cow::Owned(idna::domain_to_ascii(domain).map_err(|_| UnitError {
                problem: format!("{} is not a valid internationalised domain", shown(text)),
                expected: EXPECTED,
            })?)
        };
        if let Some(complaint) = domain_complaint(&domain) {
            return Err(UnitError {
                problem: format!("{} is not a domain: {complaint}", shown(text)),
                expected: EXPECTED,
            });
        }
        let domain = domain.to_ascii_lowercase().into_boxed_str();
        Ok(if below { Self::Below(domain) } else { Self::Exactly(domain) })
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => out.write_str("*"),
            Self::Below(parent) => write!(out, "*.{parent}"),
            Self::Exactly(domain) => out.write_str(domain),
        }
    }
}

/// A next hop of a `[[route]]`: `mx.example.com`, `mx.example.com:2525`, `192.0.2.1:25`, `[2001:db8::1]:25`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteHost {
    /// Name or address.
    pub host: HostName,
    /// Port; absent: `[delivery] port`.
    pub port: Option<u16>,
}

/// A host by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostName {
    /// A name to look up: A and AAAA, not MX.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl FromStr for RouteHost {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = |problem: String| UnitError {
            problem,
            expected: "a host such as \"mx.example.com\", \"mx.example.com:2525\", \"192.0.2.1:25\" or \"[2001:db8::1]:25\"",
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: HostName::Address(address), port: None });
        }
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address = address
                .parse::<Ipv6Addr>()
                .map_err(|_| fail(format!("{} is not an IPv6 address in brackets", shown(text))))?;
            return Ok(Self { host: HostName::Address(address.into()), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(fail(format!("{} has port 0", shown(text))));
            }
            return Ok(Self { host: HostName::Address(address.ip()), port: Some(address.port()) });
        }
        let (name, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((name, digits)) => match digits.parse::<u16>() {
                Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
                _ => return Err(fail(format!("{} is not a port, 1 to 65535", shown(digits)))),
            },
        };
        match host_complaint(name) {
            None => Ok(Self { host: HostName::Name(name.to_ascii_lowercase()), port }),
            Some(complaint) => Err(fail(format!("{} is not a host: {complaint}", shown(name)))),
        }
    }
}

impl fmt::Display for RouteHost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (HostName::Name(name), None) => out.write_str(name),
            (HostName::Name(name), Some(port)) => write!(out, "{name}:{port}"),
            (HostName::Address(IpAddr::V6(address)), None) => write!(out, "[{address}]"),
            (HostName::Address(address), None) => write!(out, "{address}"),
            (HostName::Address(address), Some(port)) => SocketAddr::new(*address, port).fmt(out),
        }
    }
}

/// What keeps `text` from being a domain name with two labels at least, as A-labels (RFC 1123 §2.1).
pub(crate) fn domain_complaint(text: &str) -> Option<String> {
    if let Some(complaint) = host_complaint(text) {
        return Some(complaint);
    }
    if !text.contains('.') {
        return Some("it has only one label".to_owned());
    }
    None
}

/// What keeps `text` from being the name of a host, one label or more.
fn host_complaint(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("it is empty".to_owned());
    }
    if !text.is_ascii() {
        return Some(match idna::domain_to_ascii(text) {
            Ok(ascii) => format!("it is not in ASCII; its A-labels are \"{ascii}\""),
            Err(_) => "it is not in ASCII".to_owned(),
        });
    }
    if text.ends_with('.') {
        return Some("it ends with a dot".to_owned());
    }
    if text.len() > 253 {
        return Some("it is longer than 253 characters".to_owned());
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Some("it has an empty label".to_owned());
        }
        if label.len() > 63 {
            return Some("one of its labels is longer than 63 characters".to_owned());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some(format!("its label {} begins or ends with a hyphen", shown(label)));
        }
        if let Some(wrong) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Some(format!("{wrong:?} cannot stand in a domain"));
        }
    }
    if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Some("its last label is a number, as in an address".to_owned());
    }
    None
}

/// What keeps `text` from naming a stream, source, pool or provider. The name appears in
/// records, on the command line and in headers, so it has no spaces, quotes or `*`.
pub(crate) fn name_complaint(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("the name is empty");
    }
    if text.len() > 64 {
        return Some("the name is longer than 64 characters");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/@:+".contains(&b);
    if !text.bytes().all(allowed) {
        return Some("the name has other characters than letters, digits and . _ - / @ : +");
    }
    None
}

/// Whether `text` is a header field name (RFC 5322 §2.2: printable, no colon).
pub(crate) fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 76 && text.bytes().all(|b| (33..=126).contains(&b) && b != b':')
}

/// A text as an error may show it: in quotes, short, without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    format!("\"{short}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> DomainPattern {
        text.parse().expect("pattern")
    }

    #[test]
    fn a_pattern_matches_itself_what_lies_below_or_anything() {
        assert!(pattern("example.com").matches("Example.COM"));
        assert!(!pattern("example.com").matches("a.example.com"));
        assert!(pattern("*.Example.com").matches("a.b.example.com"));
        assert!(!pattern("*.example.com").matches("example.com"));
        assert!(!pattern("*.example.com").matches(".example.com"));
        assert!(!pattern("*.example.com").matches("badexample.com"));
        assert!(pattern("*").matches("[192.0.2.1]"));
        assert!(pattern("bücher.example").matches("xn--bcher-kva.example"));
        assert!(pattern("*.xn--bcher-kva.example").matches("post.BÜCHER.example"));
    }

    #[test]
    fn what_is_not_a_domain_is_not_a_pattern() {
        for text in ["", "com", "*.com.", "a..b", "*example.com", "a.*.com", "-a.com", "192.0.2.1", "a b.com", "**"] {
            assert!(text.parse::<DomainPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_narrower_pattern_has_more_precision() {
        let order = ["*", "*.example.com", "*.mail.example.com", "a.mail.example.com"].map(|t| pattern(t).precision());
        assert!(order.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn next_hops_are_names_or_addresses_with_or_without_port() {
        let parsed = |text: &str| text.parse::<RouteHost>().map(|host| host.to_string()).ok();
        for text in ["mx.example.com", "mx.example.com:2525", "relay", "192.0.2.1", "192.0.2.1:25", "[2001:db8::1]:25"]
        {
            assert_eq!(parsed(text).as_deref(), Some(text));
        }
        assert_eq!(parsed("2001:db8::1").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(parsed("[::1]").as_deref(), Some("[::1]"));
        for text in [
            "",
            ":25",
            "mx.example.com:",
            "mx:0",
            "mx:65536",
            "mx:+25",
            "[::1",
            "[::1]:0",
            "a b",
            "1.2.3.4:0",
            "300.1.1.1",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn patterns_and_hosts_take_any_text_without_panic(text in ".{0,80}", domain in ".{0,80}") {
            if let Ok(pattern) = text.parse::<DomainPattern>() {
                pattern.matches(&domain);
                prop_assert_eq!(pattern.to_string().parse::<DomainPattern>().ok(), Some(pattern));
            }
            if let Ok(host) = text.parse::<RouteHost>() {
                prop_assert_eq!(host.to_string().parse::<RouteHost>().ok(), Some(host));
            }
            let _ = pattern("*.example.com").matches(&domain);
        }
    }
}
