//! Abuse reports (RFC 5965, 6591, 6650): `message/feedback-report` beside the message that is complained of.

use crate::address::{addresses, first_address, is_redacted};
use crate::opened::{PartKind, field_in};
use crate::{Finding, Kind, Material};

/// Complaints in which the recipient, or somebody for them, does not want this mail.
const AGAINST: [&str; 5] = ["abuse", "fraud", "virus", "opt-out", "complaint"];

/// The recipients of a report; nothing when it is none.
pub(crate) fn read(material: &Material<'_>) -> Vec<Finding> {
    let opened = material.opened;
    let Some(report) = opened.of(PartKind::FeedbackReport).next() else { return Vec::new() };
    // Such a part in a letter is what somebody passes on.
    if !material.sender.may_pass_on_complaints() {
        return Vec::new();
    }
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
    let mut is_sure = true;
    if recipients.is_empty() {
        // Redacted, or not said: the message that is complained of may name whom it was sent to. One of several
        // complained, and nobody knows which.
        let to = ["x-original-to", "delivered-to", "to"].iter().find_map(|name| opened.returned_header(name));
        recipients = to.map(|to| addresses(&to)).unwrap_or_default();
        is_sure = recipients.len() == 1;
    }
    let is_against = AGAINST.contains(&kind.as_str());
    let reporter = field_in(report, "user-agent").or_else(|| field_in(report, "reporting-mta")).unwrap_or_default();
    let finding = |recipient: Option<String>| Finding {
        suppress: is_against && is_sure && recipient.as_deref().is_some_and(|address| !is_redacted(address)),
        recipient,
        kind: Kind::Complaint,
        status: None,
        class: kind.clone(),
        scope: if is_against { "recipient" } else { "sender-domain" },
        reason: format!("{kind} reported by {reporter}").trim_end_matches(" reported by ").to_owned(),
    };
    if recipients.is_empty() {
        return vec![finding(None)];
    }
    recipients.into_iter().map(|recipient| finding(Some(recipient))).collect()
}
