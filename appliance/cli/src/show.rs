//! How answers look: JSON for programs, short tables for people.

use std::fmt::Write;

use postkeep_configuration::command::Outcome;
use postkeep_control::{ReceiverStatus, ReloadReport, Status};
use postkeep_mta::engine::QueueStatus;
use serde::Serialize;

use crate::{FAILED, failure};

/// A value as JSON or as text.
pub(crate) fn value<T: Serialize>(value: &T, json: bool, text: impl FnOnce(&T) -> String) -> Outcome {
    let text = if json {
        match serde_json::to_string_pretty(value) {
            Ok(text) => text + "\n",
            Err(error) => return failure(FAILED, &format!("cannot write the answer as JSON: {error}")),
        }
    } else {
        text(value)
    };
    Outcome { text, complaint: String::new(), code: 0 }
}

/// Receivers of events.
pub(crate) fn receivers(receivers: &[ReceiverStatus]) -> String {
    if receivers.is_empty() {
        return "nobody is told of events: there is no [accounting], [[webhook]], [[amqp]], [[kafka]] or [[nats]]\n"
            .into();
    }
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<11} {:<16} {:>10} {:>8} {:>8} {:>10} {:>12} {:>8}  state",
        "kind", "name", "sent", "retries", "dropped", "lost files", "lag octets", "lag s"
    );
    for one in receivers {
        let _ = writeln!(
            out,
            "{:<11} {:<16} {:>10} {:>8} {:>8} {:>10} {:>12} {:>8}  {}",
            one.kind,
            one.name,
            one.sent,
            one.retried,
            one.dropped,
            one.lost_files,
            one.lag_octets,
            one.lag_seconds,
            one.failing.as_deref().map_or_else(|| "works".to_owned(), |why| format!("fails: {}", shorten(why))),
        );
    }
    out
}

/// The queue.
pub(crate) fn queue(status: &QueueStatus, rows: usize) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} recipients queued", status.total);
    if !status.mail.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<16} {:<30} {:>9} {:>9} {:>6}  {:<20}  last error",
            "stream", "domain", "ready", "waiting", "sent", "next attempt"
        );
        for mail in status.mail.iter().take(rows) {
            let _ = writeln!(
                out,
                "{:<16} {:<30} {:>9} {:>9} {:>6}  {:<20}  {}{}",
                mail.stream,
                mail.domain,
                mail.ready,
                mail.waiting,
                mail.under_way,
                mail.next_due.as_deref().unwrap_or("-"),
                if mail.paused { "[paused] " } else { "" },
                shorten(mail.last_error.as_deref().unwrap_or("-")),
            );
        }
        if status.mail.len() > rows {
            let _ = writeln!(out, "… and {} more; --rows N or --json shows them", status.mail.len() - rows);
        }
    }
    if !status.lanes.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<14} {:<40} {:>11}  {:<7} {:<24}  last failure",
            "source", "site", "connections", "state", "held by"
        );
        for lane in &status.lanes {
            let _ = writeln!(
                out,
                "{:<14} {:<40} {:>5}/{:<5}  {:<7} {:<24}  {}",
                lane.source,
                lane.site,
                lane.connections,
                lane.connection_limit,
                lane.state,
                lane.until.as_deref().or(lane.held_by.as_deref()).unwrap_or("-"),
                shorten(lane.last_failure.as_deref().unwrap_or("-")),
            );
        }
    }
    for pause in &status.pauses {
        let _ = writeln!(out, "\npaused: {pause}");
    }
    for (selector, hosts) in &status.reroutes {
        let _ = writeln!(out, "\nrerouted: {selector} → {}", hosts.join(", "));
    }
    for suspension in &status.suspensions {
        let _ = writeln!(out, "\n{suspension}");
    }
    for (source, until) in &status.sources_out {
        if !status.suspensions.iter().any(|suspension| suspension.source.as_ref() == Some(source)) {
            let _ = writeln!(out, "\nsource {source} is out until {until}: its address cannot be bound");
        }
    }
    out
}

/// What a reload did.
pub(crate) fn reload(report: &ReloadReport) -> String {
    let mut out = match report.changed.len() + report.need_restart.len() {
        0 => "read again; nothing has changed\n".to_owned(),
        _ if report.changed.is_empty() => "read again\n".to_owned(),
        _ => format!("read again; {} keys hold now: {}\n", report.changed.len(), report.changed.join(", ")),
    };
    for key in &report.need_restart {
        let _ = writeln!(out, "{key}: takes effect at the next start");
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// How the daemon is.
pub(crate) fn status(status: &Status) -> String {
    format!(
        "postkeepd {} (process {}), ready since {}\ndoors: {}\n{} clients connected, {} recipients queued\n",
        status.version,
        status.pid,
        status.since,
        status.doors.join(", "),
        status.connections,
        status.queued
    )
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
