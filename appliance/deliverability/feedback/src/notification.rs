//! Notifications of Amazon SES by mail: the event as JSON, alone or inside a notification of SNS.

use serde::Deserialize;

use crate::address::first_address;
use crate::judgement::{Evidence, judge};
use crate::opened::PartKind;
use crate::{Finding, Kind, Material};

/// Who sends such notifications.
const HOSTS: [&str; 2] = ["amazonaws.com", "amazonses.com"];

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
pub(crate) fn read(material: &Material<'_>) -> Vec<Finding> {
    let opened = material.opened;
    // An event in a letter is an example that somebody shows.
    let host = opened.header("from").and_then(first_address).unwrap_or_default().to_ascii_lowercase();
    if !HOSTS.iter().any(|known| host.strip_suffix(known).is_some_and(|rest| rest.ends_with(['@', '.']))) {
        return Vec::new();
    }
    let Some(event) = opened.of(PartKind::Text).find_map(event) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut add = |kind: Kind, is_waiting: bool, address: String, said: &str, status: Option<&str>| {
        let evidence = Evidence {
            kind,
            said,
            is_quoted: !said.is_empty(),
            is_local: false,
            stage: None,
            is_own: true,
            is_only: true,
            is_attested: true,
            is_waiting,
            status_field: status,
            is_report: true,
            remote_host: None,
            aliases: &[],
            senders: &[],
        };
        findings.push(judge(Some(address), &evidence, material.book));
    };
    if let Some(bounce) = event.bounce {
        // Amazon has given up, also where the cause may pass; that it may is what a 4 says.
        let is_transient = bounce.bounce_type.eq_ignore_ascii_case("transient");
        for recipient in bounce.bounced_recipients {
            let said = recipient.diagnostic_code.unwrap_or_default();
            let said = said.split_once(';').map_or(said.as_str(), |(_, rest)| rest.trim());
            let status = recipient.status.as_deref().or(is_transient.then_some("4.0.0"));
            add(Kind::Bounce, is_transient, recipient.email_address, said, status);
        }
    }
    if let Some(delivery) = event.delivery {
        for address in delivery.recipients {
            add(Kind::None, false, address, &delivery.smtp_response, None);
        }
    }
    if let Some(complaint) = event.complaint {
        let class = complaint.complaint_feedback_type.unwrap_or_else(|| "abuse".to_owned());
        findings.extend(complaint.complained_recipients.into_iter().map(|recipient| Finding {
            recipient: Some(recipient.email_address),
            kind: Kind::Complaint,
            status: None,
            scope: if class == "not-spam" { "message" } else { "recipient" },
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
