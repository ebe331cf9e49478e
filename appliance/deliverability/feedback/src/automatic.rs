//! Automatic replies (RFC 3834): somebody is away, or a machine thanks for the mail. Whom such a reply names instead
//! is somebody to write to, and never somebody who is not there.

use regex::Regex;
use std::sync::LazyLock;

use crate::address::first_address;
use crate::{Finding, Kind, Material};

static SUBJECT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^\s*((re|aw|sv|antw)\s*:\s*)?(auto(matic)?[- ]?(re(ply|sponse)|generated)|auto(reply)?:|out[- ]of[- ](the )?office|vacation|away from|abwesen|auto(matische)? ?(antwort|svar|beantwoording)|r[ée]ponse auto|absence|absent|respuesta autom|resposta autom|risposta auto|automatis(ch|k|ert|eret)|autosvar|fraværs|frånvaro|afwezig|i am (away|out)|on (holiday|leave)|不在|自動(応答|返信)|自动(回复|答复)|自動回覆)",
    )
    .ok()
});
/// Fields that only those have who answer by machine.
const FIELDS: [&str; 6] = [
    "x-autoreply",
    "x-autorespond",
    "x-auto-response-suppress-reply",
    "x-vacation",
    "x-autoresponse",
    "x-autoresponder",
];

/// The one who is away; nothing when no machine answered.
pub(crate) fn read(material: &Material<'_>) -> Vec<Finding> {
    let Material { opened, sender, words, .. } = material;
    let has = |name: &str| opened.header(name).is_some_and(|value| !value.is_empty());
    let submitted = opened.header("auto-submitted").unwrap_or_default().to_ascii_lowercase();
    let subject = opened.header("subject").unwrap_or_default();
    let says_so = submitted.starts_with("auto-replied") || FIELDS.into_iter().any(has);
    let is_automatic = says_so
        // Exchange says of its own answers that they are generated, and asks that nobody answer them.
        || (submitted.starts_with("auto-generated") && has("x-auto-response-suppress") && !sender.is_daemon)
        || opened.header("precedence").is_some_and(|value| value.to_ascii_lowercase().contains("auto_reply"))
        || opened.header("x-apple-action").is_some_and(|value| value.eq_ignore_ascii_case("vacation"))
        || SUBJECT.as_ref().is_some_and(|pattern| pattern.is_match(subject))
        // Who writes by machine about their own address has left it.
        || (sender.has_null_path && !sender.is_daemon && sender.is_about_self);
    // A mail server that returns mail answers by machine, too: then it says so in a sentence of its own.
    let is_report = sender.is_mailer || sender.is_daemon && sender.has_sentence || sender.is_report;
    if !is_automatic || is_report {
        return Vec::new();
    }
    let said = words.lines().map(str::trim).find(|line| !line.is_empty());
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
