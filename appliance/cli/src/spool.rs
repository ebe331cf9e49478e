//! `postkeep spool inspect`: a spool that is not running, as a table or as JSON.

use std::fmt::Write;
use std::path::Path;

use postkeep_configuration::command::Outcome;
use postkeep_mta::clock::timestamp_seconds;
use postkeep_mta::metadata::Metadata;
use postkeep_spool::Inspection;
use serde::Serialize;

use crate::{BAD_INPUT, FAILED, failure, show};

/// The answer of `spool inspect --json`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    messages: u64,
    recipients: u64,
    segments: Vec<Segment>,
    damages: Vec<String>,
    kept_aside: Vec<String>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queued: Vec<Message>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Segment {
    path: String,
    size: u64,
    end: u64,
    messages: u64,
    message_bytes: u64,
    damages: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Message {
    message: String,
    received: String,
    stream: String,
    sender: String,
    recipients: Vec<String>,
}

/// Looks into the spool; exit code 1 when something in it is damaged.
pub(crate) fn inspect(directory: &Path, list: bool, json: bool) -> Outcome {
    let mut queued = Vec::new();
    let inspection = postkeep_spool::inspect(directory, |found| {
        if list {
            queued.push(message(&found));
        }
    });
    match inspection {
        Ok(inspection) => {
            let report = report(&inspection, queued);
            let damaged = !report.damages.is_empty();
            let mut outcome = show::value(&report, json, table);
            if damaged && outcome.code == 0 {
                outcome.code = FAILED;
            }
            outcome
        }
        Err(error) => failure(BAD_INPUT, &error.to_string()),
    }
}

fn message(found: &postkeep_spool::Recovered<'_>) -> Message {
    let (stream, sender, recipients) = match Metadata::decode(found.metadata.as_ref()) {
        Ok(metadata) => (
            metadata.stream.into_string(),
            metadata.envelope.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            found
                .outstanding
                .iter()
                .filter_map(|(index, _)| metadata.envelope.recipients.get(usize::from(*index)))
                .map(|recipient| recipient.address.to_string())
                .collect(),
        ),
        Err(error) => (format!("unreadable: {error}"), String::new(), Vec::new()),
    };
    Message { message: found.id.to_string(), received: timestamp_seconds(found.received), stream, sender, recipients }
}

fn report(inspection: &Inspection, queued: Vec<Message>) -> Report {
    Report {
        messages: inspection.messages,
        recipients: inspection.recipients,
        segments: inspection
            .segments
            .iter()
            .map(|segment| Segment {
                path: segment.path.display().to_string(),
                size: segment.size,
                end: segment.end,
                messages: segment.messages,
                message_bytes: segment.message_bytes,
                damages: segment.damages,
            })
            .collect(),
        damages: inspection.damages.iter().map(ToString::to_string).collect(),
        kept_aside: inspection.kept_aside.iter().map(|path| path.display().to_string()).collect(),
        notes: inspection.notes.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect(),
        queued,
    }
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} messages for {} recipients in {} segments",
        report.messages,
        report.recipients,
        report.segments.len()
    );
    let _ = writeln!(out, "\n{:<50} {:>12} {:>12} {:>9} {:>12}", "segment", "bytes", "used", "messages", "their bytes");
    for segment in &report.segments {
        let _ = writeln!(
            out,
            "{:<50} {:>12} {:>12} {:>9} {:>12}",
            segment.path, segment.size, segment.end, segment.messages, segment.message_bytes
        );
    }
    for message in &report.queued {
        let _ = writeln!(
            out,
            "{} {} {} <{}> → {}",
            message.message,
            message.received,
            message.stream,
            message.sender,
            message.recipients.join(", ")
        );
    }
    for damage in &report.damages {
        let _ = writeln!(out, "damaged: {damage}");
    }
    for path in &report.kept_aside {
        let _ = writeln!(out, "kept aside earlier: {path}");
    }
    out
}
