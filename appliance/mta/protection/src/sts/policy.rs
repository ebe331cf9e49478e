//! A policy as its host serves it (RFC 8461 §3.2).

use serde::{Deserialize, Serialize};

/// Octets of a policy that are read (§3.3 suggests 64 KiB).
pub const LARGEST_POLICY: usize = 64 * 1024;
/// Longest life of a policy, in seconds: a year (§3.2).
const LONGEST_LIFE: u64 = 31_557_600;
/// Host patterns that are kept.
const MOST_PATTERNS: usize = 200;

/// What to do with a host that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Do not deliver there.
    Enforce,
    /// Deliver, and report.
    Testing,
    /// There is no policy any more.
    None,
}

/// A domain's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What to do with a host that fails.
    pub mode: Mode,
    /// How long it counts after it was fetched, in seconds.
    pub max_age: u64,
    /// Host names, lower case; `*.example.com` is any name one label longer.
    pub mx: Vec<Box<str>>,
    /// The lines as served, for reports (RFC 8460 §4.3.1).
    pub text: Box<str>,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is no text.
    #[error("the policy is not UTF-8")]
    Encoding,
    /// A field that must be there is not.
    #[error("the policy has no {0}")]
    Missing(&'static str),
    /// A field says what it cannot.
    #[error("line {line} of the policy: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Policy {
    /// Reads a policy. Fields that nobody knows are passed over; of a field that is there twice, but for `mx`, the first counts.
    ///
    /// # Errors
    /// It is not a policy; the line is named.
    pub fn parse(octets: &[u8]) -> Result<Self, PolicyError> {
        let text = std::str::from_utf8(octets).map_err(|_| PolicyError::Encoding)?;
        let (mut version, mut mode, mut max_age) = (false, None, None);
        let mut mx: Vec<Box<str>> = Vec::new();
        for (number, line) in text.split('\n').enumerate() {
            let wrong = |what| PolicyError::Line { line: number + 1, what };
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or(wrong("it is not `key: value`"))?;
            let value = value.trim_matches([' ', '\t']);
            match key.trim_end_matches([' ', '\t']) {
                "version" if !version => {
                    if value != "STSv1" {
                        return Err(wrong("the version is not STSv1"));
                    }
                    version = true;
                }
                "mode" if mode.is_none() => {
                    mode = Some(match value {
                        "enforce" => Mode::Enforce,
                        "testing" => Mode::Testing,
                        "none" => Mode::None,
                        _ => return Err(wrong("the mode is not enforce, testing or none")),
                    });
                }
                "max_age" if max_age.is_none() => {
                    let is_number =
                        (1..=10).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit());
                    let seconds: u64 =
                        value.parse().ok().filter(|_| is_number).ok_or(wrong("max_age is not seconds"))?;
                    max_age = Some(seconds.min(LONGEST_LIFE));
                }
                "mx" if mx.len() < MOST_PATTERNS => {
                    mx.push(pattern(value).ok_or(wrong("mx is not a host name or `*.` and one"))?);
                }
                _ => {}
            }
        }
        if !version {
            return Err(PolicyError::Missing("version"));
        }
        let mode = mode.ok_or(PolicyError::Missing("mode"))?;
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::Missing("mx"));
        }
        let max_age = max_age.ok_or(PolicyError::Missing("max_age"))?;
        Ok(Self { mode, max_age, mx, text: text.into() })
    }

    /// Whether mail may go to that host (§4.1): its MX name matches one of the patterns.
    pub fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(above) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(above))
            }
            None => host.eq_ignore_ascii_case(pattern),
        })
    }

    /// Its lines as reports want them.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty())
    }
}

fn pattern(value: &str) -> Option<Box<str>> {
    let name = value.strip_prefix("*.").unwrap_or(value).trim_end_matches('.');
    let is_name = (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
        });
    is_name.then(|| value.trim_end_matches('.').to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 8461 §3.2.
    const EXAMPLE: &str = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\nmax_age: 604800\n";

    #[test]
    fn the_example_of_rfc_8461_is_read_with_either_line_end() {
        for text in [EXAMPLE.to_owned(), EXAMPLE.replace('\n', "\r\n"), EXAMPLE.trim_end().to_owned()] {
            let policy = Policy::parse(text.as_bytes()).unwrap();
            assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, 604_800));
            assert_eq!(policy.mx.len(), 3);
            assert_eq!(policy.lines().count(), 6);
        }
    }

    #[test]
    fn a_star_stands_for_one_label_and_nothing_else() {
        let policy = Policy::parse(EXAMPLE.as_bytes()).unwrap();
        for good in ["mail.example.com", "MAIL.example.COM.", "a.example.net", "mx-1.EXAMPLE.net"] {
            assert!(policy.allows(good), "{good}");
        }
        for bad in
            ["example.net", "a.b.example.net", ".example.net", "xmail.example.com", "mail.example.com.evil.org", ""]
        {
            assert!(!policy.allows(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let with = |from: &str, to: &str| Policy::parse(EXAMPLE.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert_eq!(with("STSv1", "STSv2"), "line 1 of the policy: the version is not STSv1");
        assert_eq!(
            with("mode: enforce", "mode: forced"),
            "line 2 of the policy: the mode is not enforce, testing or none"
        );
        assert_eq!(
            with("mx: *.example.net", "mx: a.*.net"),
            "line 4 of the policy: mx is not a host name or `*.` and one"
        );
        assert_eq!(with("mx: *.example.net", "nonsense"), "line 4 of the policy: it is not `key: value`");
        assert_eq!(with("604800", "a week"), "line 6 of the policy: max_age is not seconds");
        assert_eq!(with("max_age: 604800\n", ""), "the policy has no max_age");
        assert_eq!(with("version: STSv1\n", ""), "the policy has no version");
        assert_eq!(Policy::parse(b"version: STSv1\nmode: testing\nmax_age: 1"), Err(PolicyError::Missing("mx")));
        assert!(Policy::parse(b"version: STSv1\nmode: none\nmax_age: 1").is_ok());
        assert_eq!(Policy::parse(&[0xff]), Err(PolicyError::Encoding));
    }

    #[test]
    fn fields_that_nobody_knows_and_ages_beyond_a_year_do_no_harm() {
        let policy =
            Policy::parse(format!("{EXAMPLE}\nfuture: x:y\nmode: none\n").replace("604800", "9999999999").as_bytes());
        let policy = policy.unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, LONGEST_LIFE));
    }

    proptest! {
        #[test]
        fn no_octets_make_parsing_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Policy::parse(&octets);
        }
    }
}
