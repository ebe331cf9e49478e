//! Notifications of Amazon SES by mail: the event as JSON, alone or inside a notification of SNS.

use postkeep_deliverability::reply::RuleBook;
use serde::Deserialize;

use crate::judgement::{Evidence, judge};
use crate::opened::{Opened, PartKind};
use crate::{Finding, Kind};

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Message")]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    bounce: Option<Bounce>,
    complaint: Option<Complaint>,
    delivery: Option<Delivery>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bounce {
    #[serde(default)]
    bounce_type: String,
    #[serde(default)]
    bounced_recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Complaint {
    #[serde(default)]
    complained_recipients: Vec<Recipient>,
    complaint_feedback_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivery {
    #[serde(default)]
    recipients: Vec<String>,
    #[serde(default)]
    smtp_response: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recipient {
    email_address: String,
    status: Option<String>,
    diagnostic_code: Option<String>,
}

/// The recipients of an event; nothing when it is none.
pub(crate) fn read(opened: &Opened, book: &RuleBook) -> Vec<Finding> {
    let Some(event) = opened.of(PartKind::Text).find_map(event) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut add = |kind: Kind, address: String, said: &str, status: Option<&str>| {
        let evidence = Evidence {
            kind,
            said,
            is_quoted: !said.is_empty(),
            stage: None,
            is_own: true,
            is_machine: true,
            status_field: status,
            is_report: true,
        };
        findings.push(judge(Some(address), &evidence, book));
    };
    if let Some(bounce) = event.bounce {
        let kind = if bounce.bounce_type.eq_ignore_ascii_case("transient") { Kind::Delay } else { Kind::Bounce };
        for recipient in bounce.bounced_recipients {
            let said = recipient.diagnostic_code.unwrap_or_default();
            let said = said.split_once(';').map_or(said.as_str(), |(_, rest)| rest.trim());
            add(kind, recipient.email_address, said, recipient.status.as_deref());
        }
    }
    if let Some(delivery) = event.delivery {
        for address in delivery.recipients {
            add(Kind::None, address, &delivery.smtp_response, None);
        }
    }
    if let Some(complaint) = event.complaint {
        let class = complaint.complaint_feedback_type.unwrap_or_else(|| "abuse".to_owned());
        findings.extend(complaint.complained_recipients.into_iter().map(|recipient| Finding {
            recipient: Some(recipient.email_address),
            kind: Kind::Complaint,
            status: None,
            scope: "recipient",
            suppress: class != "not-spam",
            reason: format!("{class} reported by Amazon SES"),
            class: class.clone(),
        }));
    }
    findings
}

/// The first JSON object in the text that is an event. Mail servers break long lines with `!` and a space.
fn event(text: &str) -> Option<Event> {
    let start = text.find('{').filter(|start| text.get(..*start).is_some_and(|before| before.trim().is_empty()))?;
    let text = text.get(start..)?.replace("!\n ", "");
    let first = |text: &str| serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>().next()?.ok();
    let mut value = first(&text)?;
    if let Ok(envelope) = Envelope::deserialize(&value) {
        value = first(&envelope.message)?;
    }
    let event = Event::deserialize(value).ok()?;
    (event.bounce.is_some() || event.complaint.is_some() || event.delivery.is_some()).then_some(event)
}
