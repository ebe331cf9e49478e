//! The report itself: JSON by RFC 8460 §4.4, gzip, and the mail that carries it (§5.3). The shapes are mail-auth's.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use mail_auth::report::tlsrpt::{
    DateRange, FailureDetails, Policy, PolicyDetails, PolicyType, ResultType as Kind, Summary, TlsReport,
};

use super::{Applied, DAY, Day, Failure, PolicyCounts, ResultType};

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender<'a> {
    /// Name of the organisation.
    pub organization: &'a str,
    /// Address of somebody to talk to.
    pub contact: &'a str,
    /// Domain that the reporting mail comes from.
    pub submitter: &'a str,
}

/// One domain's report of one day.
#[derive(Debug, Clone)]
pub struct Document {
    report: TlsReport,
    domain: String,
    submitter: String,
}

impl Document {
    /// Of what was counted; the same day and domain have the same identifier, so that a report that is sent twice is seen to be one.
    pub fn new(day: &Day, domain: &str, counts: &[PolicyCounts], sender: &Sender<'_>) -> Self {
        let report = TlsReport {
            organization_name: Some(sender.organization.to_owned()),
            date_range: DateRange::from_timestamps(day.start as i64, (day.start + DAY - 1) as i64),
            contact_info: Some(sender.contact.to_owned()),
            report_id: format!("{}.{domain}@{}", day.start, sender.submitter),
            policies: counts.iter().map(|counts| policy(domain, counts)).collect(),
        };
        Self { report, domain: domain.to_owned(), submitter: sender.submitter.to_owned() }
    }

    /// `application/tlsrpt+gzip`.
    ///
    /// # Errors
    /// Only for want of memory.
    pub fn gzip(&self) -> std::io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(self.report.to_json().as_bytes())?;
        encoder.finish()
    }

    /// The whole mail, CRLF line ends, but for `Date` and what is put before a message when it is signed.
    ///
    /// # Errors
    /// Only for want of memory.
    pub fn mail(&self, from: &str, to: &str) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.report.write_rfc5322_from_bytes(
            &self.domain,
            &self.submitter,
            from,
            [to].into_iter(),
            &self.gzip()?,
            &mut out,
        )?;
        Ok(out)
    }

    /// Its identifier.
    pub fn id(&self) -> &str {
        &self.report.report_id
    }
}

fn policy(domain: &str, counts: &PolicyCounts) -> Policy {
    let (policy_type, policy_string, policy_domain, mx_host) = match &counts.policy {
        Applied::Tlsa { records, host } => (PolicyType::Tlsa, records.clone(), host.clone(), Vec::new()),
        Applied::Sts { lines, mx } => (PolicyType::Sts, lines.clone(), domain.to_owned(), mx.clone()),
        Applied::None => (PolicyType::NoPolicyFound, Vec::new(), domain.to_owned(), Vec::new()),
    };
    let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Policy {
        policy: PolicyDetails { policy_type, policy_string, policy_domain, mx_host },
        summary: Summary { total_success: number(counts.successes), total_failure: number(counts.failures) },
        failure_details: counts.details.iter().map(|(failure, times)| detail(failure, number(*times))).collect(),
    }
}

fn detail(failure: &Failure, times: u32) -> FailureDetails {
    FailureDetails {
        result_type: match failure.result {
            ResultType::StarttlsNotSupported => Kind::StartTlsNotSupported,
            ResultType::CertificateHostMismatch => Kind::CertificateHostMismatch,
            ResultType::CertificateExpired => Kind::CertificateExpired,
            ResultType::CertificateNotTrusted => Kind::CertificateNotTrusted,
            ResultType::ValidationFailure => Kind::ValidationFailure,
            ResultType::TlsaInvalid => Kind::TlsaInvalid,
            ResultType::DnssecInvalid => Kind::DnssecInvalid,
            ResultType::DaneRequired => Kind::DaneRequired,
            ResultType::StsPolicyFetchError => Kind::StsPolicyFetchError,
            ResultType::StsPolicyInvalid => Kind::StsPolicyInvalid,
            ResultType::StsWebpkiInvalid => Kind::StsWebpkiInvalid,
        },
        sending_mta_ip: failure.source,
        receiving_mx_hostname: failure.host.clone(),
        receiving_mx_helo: None,
        receiving_ip: failure.address,
        failed_session_count: times,
        additional_information: None,
        failure_reason_code: failure.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_counted_and_reads_back() {
        let mut day = Day::of(1_790_000_000);
        let sts = Applied::Sts { lines: vec!["version: STSv1".into()], mx: vec!["*.a.example".into()] };
        day.count("a.example", &sts, None);
        let failure = Failure {
            result: ResultType::CertificateHostMismatch,
            source: "192.0.2.1".parse().ok(),
            host: Some("mx.a.example".into()),
            address: "192.0.2.9".parse().ok(),
            reason: Some("not valid for name".into()),
        };
        day.count("a.example", &sts, Some(failure));
        let sender = Sender { organization: "Ours", contact: "tls@ours.example", submitter: "ours.example" };
        let document = Document::new(&day, "a.example", day.counts("a.example").unwrap(), &sender);
        let mail = document.mail("tls@ours.example", "reports@a.example").unwrap();
        let text = String::from_utf8_lossy(&mail);
        assert!(text.contains("TLS-Report-Domain: a.example\r\n") && text.contains("report-type=\"tlsrpt\""), "{text}");
        let read = TlsReport::parse_rfc5322(&mail, 1 << 20).unwrap();
        assert_eq!(read, document.report);
        let json = document.report.to_json();
        for part in [
            r#""policy-type":"sts""#,
            r#""total-successful-session-count":1"#,
            r#""result-type":"certificate-host-mismatch""#,
            r#""start-datetime":"2026-09-2"#,
            r#""failed-session-count":1"#,
        ] {
            assert!(json.contains(part), "{part} is not in {json}");
        }
    }
}
