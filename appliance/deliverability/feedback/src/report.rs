//! Abuse reports (RFC 5965, 6591, 6650): `message/feedback-report` beside the message that is complained of.

use postkeep_deliverability::reply::RuleBook;

use crate::opened::{Opened, PartKind, field_in};
use crate::prose::{addresses, first_address};
use crate::{Finding, Kind};

/// Complaints in which the recipient, or somebody for them, does not want this mail.
const AGAINST: [&str; 5] = ["abuse", "fraud", "virus", "opt-out", "complaint"];

/// The recipients of a report; nothing when it is none.
pub(crate) fn read(opened: &Opened, _: &RuleBook) -> Vec<Finding> {
    let Some(report) = opened.of(PartKind::FeedbackReport).next() else { return Vec::new() };
    let kind = field_in(report, "feedback-type").unwrap_or_else(|| "abuse".to_owned()).to_ascii_lowercase();
    let kind = kind.split([' ', ';']).next().unwrap_or("abuse").to_owned();
    let mut recipients: Vec<String> = Vec::new();
    for line in report.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let name = name.trim().to_ascii_lowercase();
        if matches!(name.as_str(), "original-rcpt-to" | "removal-recipient")
            && let Some(address) = first_address(value)
            && !recipients.contains(&address)
        {
            recipients.push(address);
        }
    }
    if recipients.is_empty() {
        // Redacted, or not said: the message that is complained of may name whom it was sent to.
        let to = ["x-original-to", "delivered-to", "to"].iter().find_map(|name| opened.returned_header(name));
        recipients = to.map(|to| addresses(&to)).unwrap_or_default();
    }
    let suppress = AGAINST.contains(&kind.as_str());
    let reporter = field_in(report, "user-agent").or_else(|| field_in(report, "reporting-mta")).unwrap_or_default();
    let finding = |recipient: Option<String>| Finding {
        suppress: suppress && recipient.is_some(),
        recipient,
        kind: Kind::Complaint,
        status: None,
        class: kind.clone(),
        scope: if suppress { "recipient" } else { "sender-domain" },
        reason: format!("{kind} reported by {reporter}").trim_end_matches(" reported by ").to_owned(),
    };
    if recipients.is_empty() {
        return vec![finding(None)];
    }
    recipients.into_iter().map(|recipient| finding(Some(recipient))).collect()
}
