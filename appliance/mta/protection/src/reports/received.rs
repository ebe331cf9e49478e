//! Reports that other senders make about us, as files or as the mail that brought them.

use std::io::Read;

use flate2::read::GzDecoder;
use mail_auth::report::tlsrpt::TlsReport;
use serde::Serialize;

/// Octets of a report that are read, packed and unpacked.
pub const LARGEST_REPORT: usize = 25 << 20;

/// A report of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Received(TlsReport);

/// Why a report cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceivedError {
    /// Packed so that it unpacks to more than is read.
    #[error("the report is larger than {LARGEST_REPORT} octets")]
    TooLarge,
    /// It is broken.
    #[error("this is no TLS report: {0}")]
    Unreadable(String),
}

/// Sessions of one policy of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sessions<'a> {
    /// The domain that the policy is of.
    pub domain: &'a str,
    /// Sessions that came about.
    pub successes: u64,
    /// Sessions that did not.
    pub failures: u64,
}

impl Received {
    /// Reads a report: JSON, gzip, or a whole mail with either in it.
    ///
    /// # Errors
    /// It is none, or too large.
    pub fn read(octets: &[u8]) -> Result<Self, ReceivedError> {
        if octets.len() > LARGEST_REPORT {
            return Err(ReceivedError::TooLarge);
        }
        let broken = |error: mail_auth::report::Error| ReceivedError::Unreadable(in_words(error));
        if octets.starts_with(&[0x1f, 0x8b]) {
            let mut json = Vec::new();
            GzDecoder::new(octets)
                .take(LARGEST_REPORT as u64 + 1)
                .read_to_end(&mut json)
                .map_err(|error| ReceivedError::Unreadable(error.to_string()))?;
            if json.len() > LARGEST_REPORT {
                return Err(ReceivedError::TooLarge);
            }
            return json_report(&json);
        }
        if octets.trim_ascii_start().starts_with(b"{") {
            return json_report(octets);
        }
        TlsReport::parse_rfc5322(octets, LARGEST_REPORT).map(Self).map_err(broken)
    }

    /// Who reports.
    pub fn organization(&self) -> &str {
        self.0.organization_name.as_deref().unwrap_or("somebody")
    }

    /// Its identifier.
    pub fn id(&self) -> &str {
        &self.0.report_id
    }

    /// First and last second, RFC 3339.
    pub fn range(&self) -> (String, String) {
        (self.0.date_range.start_datetime.to_rfc3339(), self.0.date_range.end_datetime.to_rfc3339())
    }

    /// What it says of each policy.
    pub fn sessions(&self) -> impl Iterator<Item = Sessions<'_>> {
        self.0.policies.iter().map(|policy| Sessions {
            domain: &policy.policy.policy_domain,
            successes: policy.summary.total_success.into(),
            failures: policy.summary.total_failure.into(),
        })
    }

    /// Its failures, each on a line: how often, what, where, why.
    pub fn failures(&self) -> impl Iterator<Item = String> {
        self.0.policies.iter().flat_map(|policy| &policy.failure_details).map(|failure| {
            let result = serde_json::to_value(failure.result_type).unwrap_or_default();
            format!(
                "{} × {} at {}{}",
                failure.failed_session_count,
                result.as_str().unwrap_or("other"),
                failure.receiving_mx_hostname.as_deref().unwrap_or("an unnamed host"),
                failure.failure_reason_code.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
            )
        })
    }
}

/// The example of RFC 8460 §4.4 has texts where its own definition has lists, and some senders follow the example.
fn json_report(octets: &[u8]) -> Result<Received, ReceivedError> {
    let unreadable = |error: serde_json::Error| ReceivedError::Unreadable(error.to_string());
    let mut report: serde_json::Value = serde_json::from_slice(octets).map_err(unreadable)?;
    for policy in report.get_mut("policies").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        for key in ["mx-host", "policy-string"] {
            if let Some(value) = policy.pointer_mut(&format!("/policy/{key}")).filter(|value| value.is_string()) {
                *value = serde_json::Value::Array(vec![value.take()]);
            }
        }
    }
    let json = serde_json::to_vec(&report).map_err(unreadable)?;
    TlsReport::parse_json(&json).map(Received).map_err(|error| ReceivedError::Unreadable(in_words(error)))
}

fn in_words(error: mail_auth::report::Error) -> String {
    use mail_auth::report::Error;
    match error {
        Error::MailParseError => "the mail cannot be read".to_owned(),
        Error::ReportParseError(why) | Error::UncompressError(why) => why,
        Error::NoReportsFound => "there is no report in it".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Applied, Day, Document, Sender};
    use super::*;

    #[test]
    fn what_we_send_can_be_read_as_mail_and_as_file() {
        let mut day = Day::of(1_790_000_000);
        day.count("a.example", &Applied::None, None);
        let sender = Sender { organization: "Ours", contact: "tls@ours.example", submitter: "ours.example" };
        let document = Document::new(&day, "a.example", day.counts("a.example").unwrap(), &sender);
        let mail = document.mail("tls@ours.example", "reports@a.example").unwrap();
        for octets in [mail, document.gzip().unwrap()] {
            let read = Received::read(&octets).unwrap();
            assert_eq!((read.organization(), read.id()), ("Ours", document.id()));
            let sessions: Vec<_> = read.sessions().collect();
            assert_eq!(sessions, [Sessions { domain: "a.example", successes: 1, failures: 0 }]);
        }
        // The example of RFC 8460 writes a text where a list belongs.
        let odd = br#"{"date-range":{"start-datetime":"2026-11-01T00:00:00Z","end-datetime":"2026-11-01T23:59:59Z"},"policies":[
            {"policy":{"policy-type":"sts","policy-domain":"b.c","mx-host":"*.b.c"},"summary":{"total-successful-session-count":5}}]}"#;
        assert_eq!(Received::read(odd).unwrap().sessions().map(|one| one.successes).collect::<Vec<_>>(), [5]);
        assert!(matches!(Received::read(b"{"), Err(ReceivedError::Unreadable(_))));
        assert!(matches!(Received::read(b""), Err(ReceivedError::Unreadable(_))));
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let zeros = vec![b' '; 1 << 20];
        for _ in 0..26 {
            std::io::Write::write_all(&mut encoder, &zeros).unwrap();
        }
        assert_eq!(Received::read(&encoder.finish().unwrap()), Err(ReceivedError::TooLarge));
    }
}
