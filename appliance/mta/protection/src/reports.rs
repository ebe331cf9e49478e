//! TLS reports (RFC 8460): what is counted of each session, and the report that a domain gets of one day.
//!
//! A session is one connection that mail to the domain was to go over. Counts are kept for each UTC day; they are
//! written out now and then, so that a crash loses some minutes of counting and no more. Everything is bounded: domains of a day, and
//! kinds of failures of a domain; beyond that, failures are counted without their details.

mod document;
mod received;

use std::collections::BTreeMap;
use std::net::IpAddr;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::mta_sts::{ReportUri, TlsRpt};
use serde::{Deserialize, Serialize};

pub use document::{Document, Sender};
pub use received::{LARGEST_REPORT, Received, ReceivedError, Sessions};

/// Seconds of a day.
pub const DAY: u64 = 86_400;
/// Domains that are counted on one day.
const MOST_DOMAINS: usize = 50_000;
/// Policies of one domain on one day.
const MOST_POLICIES: usize = 20;
/// Kinds of failures of one policy.
const MOST_DETAILS: usize = 100;
/// Places to which one domain's report goes.
const MOST_PLACES: usize = 5;

/// The policy that a session was held to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applied {
    /// DANE: the host's TLSA records in the form of zone files.
    Tlsa {
        /// The records.
        records: Vec<String>,
        /// The TLSA base domain.
        host: String,
    },
    /// MTA-STS.
    Sts {
        /// The lines of the policy.
        lines: Vec<String>,
        /// Its `mx` patterns.
        mx: Vec<String>,
    },
    /// None that could be found.
    None,
}

/// Why a session failed, in the words of RFC 8460 §4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are those of RFC 8460 §4.3")]
pub enum ResultType {
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    ValidationFailure,
    TlsaInvalid,
    DnssecInvalid,
    DaneRequired,
    StsPolicyFetchError,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

/// One kind of failure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// What failed.
    pub result: ResultType,
    /// Our address.
    pub source: Option<IpAddr>,
    /// The MX host.
    pub host: Option<String>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// In words.
    pub reason: Option<String>,
}

/// Counts of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCounts {
    /// The policy.
    pub policy: Applied,
    /// Sessions that came about as it wants.
    pub successes: u64,
    /// Sessions that did not, or that were not protected as it wants.
    pub failures: u64,
    /// How they failed.
    pub details: Vec<(Failure, u64)>,
}

/// One UTC day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// Its first second, Unix seconds.
    pub start: u64,
    domains: BTreeMap<String, Vec<PolicyCounts>>,
    /// Sessions of domains beyond the bound.
    uncounted: u64,
}

impl Day {
    /// The day that a second belongs to, without sessions.
    pub fn of(now: u64) -> Self {
        Self { start: now - now % DAY, domains: BTreeMap::new(), uncounted: 0 }
    }

    /// Whether it is over.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.start + DAY
    }

    /// Counts a session of mail to a domain.
    pub fn count(&mut self, domain: &str, policy: &Applied, failure: Option<Failure>) {
        if self.domains.len() >= MOST_DOMAINS && !self.domains.contains_key(domain) {
            self.uncounted += 1;
            return;
        }
        let policies = self.domains.entry(domain.to_owned()).or_default();
        let place = match policies.iter().position(|counts| counts.policy == *policy) {
            Some(place) => place,
            None if policies.len() < MOST_POLICIES => {
                policies.push(PolicyCounts { policy: policy.clone(), successes: 0, failures: 0, details: Vec::new() });
                policies.len() - 1
            }
            None => policies.len() - 1,
        };
        let Some(counts) = policies.get_mut(place) else { return };
        let Some(failure) = failure else {
            counts.successes += 1;
            return;
        };
        counts.failures += 1;
        match counts.details.iter().position(|(known, _)| *known == failure) {
            Some(place) => {
                if let Some((_, times)) = counts.details.get_mut(place) {
                    *times += 1;
                }
            }
            None if counts.details.len() < MOST_DETAILS => counts.details.push((failure, 1)),
            None => {}
        }
    }

    /// The domains that mail went to.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.keys().map(String::as_str)
    }

    /// What was counted for a domain.
    pub fn counts(&self, domain: &str) -> Option<&[PolicyCounts]> {
        self.domains.get(domain).map(Vec::as_slice)
    }

    /// A domain has its report, or wants none.
    pub fn done(&mut self, domain: &str) {
        self.domains.remove(domain);
    }

    /// Whether nothing is left to report.
    pub fn is_done(&self) -> bool {
        self.domains.is_empty()
    }

    /// Sessions that were not counted, because there were too many domains.
    pub fn uncounted(&self) -> u64 {
        self.uncounted
    }
}

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// By mail to this address.
    Mail(String),
    /// By POST to this URL.
    Https(String),
}

/// The name at which a domain says where its reports go.
pub fn record_name(domain: &str) -> String {
    format!("_smtp._tls.{domain}")
}

/// Where reports go by the TXT records at that name; none when there are none or several (RFC 8460 §3).
pub fn places<'a>(records: impl Iterator<Item = &'a [u8]>) -> Vec<Place> {
    let mut found = records.filter(|record| record.starts_with(b"v=TLSRPTv1"));
    let (Some(record), None) = (found.next(), found.next()) else { return Vec::new() };
    let Ok(record) = TlsRpt::parse(record) else { return Vec::new() };
    record
        .rua
        .into_iter()
        .take(MOST_PLACES)
        .map(|uri| match uri {
            ReportUri::Mail(address) => Place::Mail(address),
            ReportUri::Http(url) => Place::Https(url),
        })
        .collect()
}

/// When a day's report of a domain is sent: some time in the four hours after it, not for all domains at once (§4).
pub fn due(day: &Day, domain: &str, secret: u64) -> u64 {
    // FNV-1a: spread is all that is asked for.
    let hash = domain.bytes().fold(0xcbf2_9ce4_8422_2325 ^ secret, |hash: u64, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    });
    day.start + DAY + hash % (4 * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(host: &str) -> Failure {
        Failure {
            result: ResultType::CertificateExpired,
            source: None,
            host: Some(host.to_owned()),
            address: None,
            reason: None,
        }
    }

    #[test]
    fn sessions_are_counted_by_domain_policy_and_kind_of_failure() {
        let mut day = Day::of(DAY + 5);
        let sts = Applied::Sts { lines: vec!["mode: enforce".into()], mx: vec!["mx.a.example".into()] };
        for _ in 0..3 {
            day.count("a.example", &sts, None);
        }
        day.count("a.example", &sts, Some(failure("mx.a.example")));
        day.count("a.example", &sts, Some(failure("mx.a.example")));
        day.count("a.example", &Applied::None, None);
        let counts = day.counts("a.example").unwrap();
        assert_eq!(counts.len(), 2);
        assert_eq!((counts[0].successes, counts[0].failures), (3, 2));
        assert_eq!(counts[0].details, [(failure("mx.a.example"), 2)]);
        assert!(!day.is_over(2 * DAY - 1) && day.is_over(2 * DAY));
        let kept: Day = serde_json::from_slice(&serde_json::to_vec(&day).unwrap()).unwrap();
        assert_eq!(kept, day);
        day.done("a.example");
        assert!(day.is_done());
    }

    #[test]
    fn domains_and_failures_are_bounded_and_what_is_left_out_is_counted() {
        let mut day = Day::of(0);
        for number in 0..MOST_DOMAINS + 7 {
            day.count(&format!("{number}.example"), &Applied::None, None);
        }
        assert_eq!((day.domains().count(), day.uncounted()), (MOST_DOMAINS, 7));
        for number in 0..MOST_DETAILS + 9 {
            day.count("1.example", &Applied::None, Some(failure(&number.to_string())));
        }
        let counts = &day.counts("1.example").unwrap()[0];
        assert_eq!((counts.details.len(), counts.failures), (MOST_DETAILS, MOST_DETAILS as u64 + 9));
    }

    #[test]
    fn the_records_of_rfc_8460_3_are_read() {
        let read = |records: &[&str]| places(records.iter().map(|record| record.as_bytes()));
        assert_eq!(
            read(&["v=TLSRPTv1;rua=mailto:reports@example.com"]),
            [Place::Mail("reports@example.com".to_owned())]
        );
        assert_eq!(
            read(&["v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt,mailto:a@example.com"]),
            [
                Place::Https("https://reporting.example.com/v1/tlsrpt".to_owned()),
                Place::Mail("a@example.com".to_owned())
            ]
        );
        assert_eq!(read(&["v=TLSRPTv1;rua=mailto:a@b.c", "v=TLSRPTv1;rua=mailto:d@e.f"]), []);
        assert_eq!(read(&["v=spf1 -all"]), []);
    }

    #[test]
    fn reports_are_spread_over_four_hours() {
        let day = Day::of(0);
        let times: std::collections::BTreeSet<u64> =
            (0..100).map(|number| due(&day, &format!("{number}.example"), 7)).collect();
        assert!(times.len() > 90 && times.iter().all(|time| (DAY..DAY + 4 * 3600).contains(time)));
        assert_eq!(due(&day, "a.example", 7), due(&day, "a.example", 7));
    }
}
