//! Automatic replies (RFC 3834): somebody is away, or a machine thanks for the mail.

use postkeep_deliverability::reply::RuleBook;
use regex::Regex;
use std::sync::LazyLock;

use crate::opened::{Opened, PartKind};
use crate::prose::first_address;
use crate::{Finding, Kind};

static SUBJECT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^\s*(re:\s*)?(auto(matic)?[- ]?(re(ply|sponse)|generated)|out of (the )?office|vacation|away from|abwesen|r[ée]ponse automatique|absence|respuesta autom|risposta automatica|automatisch|autosvar|fraværs|afwezig|i am (away|out)|on (holiday|leave))",
    )
    .ok()
});

/// The one who is away; nothing when no machine answered.
pub(crate) fn read(opened: &Opened, _: &RuleBook) -> Vec<Finding> {
    let has = |name: &str| opened.header(name).is_some_and(|value| !value.is_empty());
    let submitted = opened.header("auto-submitted").unwrap_or_default().to_ascii_lowercase();
    let subject = opened.header("subject").unwrap_or_default();
    let is_automatic = submitted.starts_with("auto-replied")
        || ["x-autoreply", "x-autorespond", "x-auto-response-suppress-reply", "x-vacation", "x-autoresponse"]
            .into_iter()
            .any(has)
        || opened.header("precedence").is_some_and(|value| value.to_ascii_lowercase().contains("auto_reply"))
        || opened.header("x-apple-action").is_some_and(|value| value.eq_ignore_ascii_case("vacation"))
        || SUBJECT.as_ref().is_some_and(|pattern| pattern.is_match(subject));
    // A mail server that returns mail answers by machine, too.
    let sender = opened.header("from").unwrap_or_default().to_ascii_lowercase();
    if !is_automatic || ["mailer-daemon", "postmaster", "mail delivery"].iter().any(|name| sender.contains(name)) {
        return Vec::new();
    }
    let said = opened.of(PartKind::Text).flat_map(str::lines).map(str::trim).find(|line| !line.is_empty());
    vec![Finding {
        recipient: opened.header("from").and_then(first_address),
        kind: Kind::AutoReply,
        status: None,
        class: "auto-reply".to_owned(),
        scope: "recipient",
        suppress: false,
        reason: said.unwrap_or(subject).chars().take(200).collect(),
    }]
}
