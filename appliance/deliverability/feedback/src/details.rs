//! What a report says beside its findings: who reports, and of which message.

use crate::Details;
use crate::opened::{Opened, PartKind, field_in};

/// Octets of one value that are kept.
const LONGEST: usize = 200;

/// The details of a report.
pub(crate) fn read(opened: &Opened) -> Details {
    let in_report = |name: &str| opened.of(PartKind::FeedbackReport).find_map(|text| field_in(text, name));
    let in_status = |name: &str| {
        let anywhere = |text: &str| text.split("\n\n").find_map(|block| field_in(block, name));
        opened.of(PartKind::DeliveryStatus).find_map(anywhere)
    };
    let returned = |name: &str| opened.attached_header(name);
    Details {
        user_agent: kept(in_report("user-agent")),
        reporting_mta: kept(in_report("reporting-mta").or_else(|| in_status("reporting-mta")).map(without_type)),
        remote_mta: kept(in_status("remote-mta").map(without_type)),
        reported_domain: kept(in_report("reported-domain")),
        source_address: kept(in_report("source-ip")),
        from: kept(returned("from")),
        return_path: kept(returned("return-path")),
        job: kept(returned("x-job")),
        subject: kept(returned("subject")),
    }
}

/// `dns; mx.example.com` without its type.
fn without_type(value: String) -> String {
    value.split_once(';').map(|(_, name)| name.trim().to_owned()).unwrap_or(value)
}

/// On one line and not too long; nothing for nothing.
fn kept(value: Option<String>) -> Option<String> {
    let mut value: String =
        value?.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    value.truncate(value.floor_char_boundary(LONGEST));
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_says_who_reports_and_of_which_message() {
        // The example of RFC 5965, appendix B.2, shortened.
        let report = b"From: <abusedesk@example.com>\r\nMIME-Version: 1.0\r\n\
            Content-Type: multipart/report; report-type=feedback-report; boundary=\"b\"\r\n\r\n\
            --b\r\nContent-Type: text/plain\r\n\r\nThis is an email abuse report.\r\n\
            --b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: SomeGenerator/1.0\r\n\
            Version: 1\r\nReporting-MTA: dns; mail.example.com\r\nSource-IP: 192.0.2.1\r\nReported-Domain: example.net\r\n\
            --b\r\nContent-Type: message/rfc822\r\n\r\nFrom: <somespammer@example.net>\r\nReturn-Path: <a@example.net>\r\n\
            Subject: Earn money\r\n\r\nSpam\r\n--b--\r\n";
        let details = Opened::new(report, None).map(|opened| read(&opened)).expect("a message");
        assert_eq!(
            details,
            Details {
                user_agent: Some("SomeGenerator/1.0".into()),
                reporting_mta: Some("mail.example.com".into()),
                remote_mta: None,
                reported_domain: Some("example.net".into()),
                source_address: Some("192.0.2.1".into()),
                from: Some("<somespammer@example.net>".into()),
                return_path: Some("<a@example.net>".into()),
                job: None,
                subject: Some("Earn money".into()),
            }
        );
    }
}
