//! What the evidence about one recipient amounts to.

use std::sync::LazyLock;

use postkeep_deliverability::reply::{Reaction, RuleBook, Scope, Stage, Subject, judge_by_codes, may_mean_user};
use postkeep_smtp::reply::{EnhancedCode, Reply};
use regex::Regex;

use crate::{Finding, Kind};

/// Octets of a reason that are kept.
const LONGEST_REASON: usize = 400;

/// What is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    /// As the report says, or its words.
    pub kind: Kind,
    /// What was said about the recipient: a diagnostic, or an excerpt.
    pub said: &'a str,
    /// It is a diagnostic: the receiver's own words.
    pub is_quoted: bool,
    /// The command that was refused, as the words of the report tell.
    pub stage: Option<Stage>,
    /// What was said is about this recipient, and not about several together.
    pub is_own: bool,
    /// A mail server speaks, and not a person.
    pub is_machine: bool,
    /// The `Status` field.
    pub status_field: Option<&'a str>,
    /// It is a delivery status notification.
    pub is_report: bool,
}

static STATUS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?:^|[^0-9.])([245])\.([0-9]{1,3})\.([0-9]{1,3})(?:$|[^0-9.]|\.(?:\s|$))").ok());
static CODE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?:^|[\s:;<>()'\x22#\[=])([245][0-5][0-9])(?:$|[\s\-:;,)>'\x22])").ok());
static COMMAND: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:after|to|our|command:?|sent|>>>|during)\s*(?:the )?(?:end of |initial |your )?(data|rcpt|mail from|mail|ehlo|helo|connect)\b|(?m:^(DATA|RCPT TO|MAIL FROM)\b)").ok()
});

/// The finding.
pub(crate) fn judge(recipient: Option<String>, evidence: &Evidence<'_>, book: &RuleBook) -> Finding {
    let said = one_line(evidence.said);
    let field = evidence.status_field.and_then(first_status);
    let own = first_status(&said);
    // The receiver's own code says more than the reporter's summary of it, unless it is about another attempt.
    let status = match (own, field) {
        (Some(own), Some(field)) if is_vague(own) && !is_vague(field) => Some(field),
        (own, field) => own.or(field),
    };
    let code = first_code(&said).filter(|code| *code >= 400 || evidence.kind == Kind::None);
    let stage = stage_of(&said).or(evidence.stage);

    let mut kind = evidence.kind;
    if kind == Kind::Bounce
        && !evidence.is_report
        && code.is_none_or(|code| code < 500)
        && status.is_some_and(|status| status.class == 2)
    {
        kind = Kind::None;
    }
    // What an address is called says nothing about it.
    let words = recipient.as_deref().map_or_else(|| said.clone(), |recipient| without(&said, recipient));
    let subject = Subject { stage: None, code, status, text: &words, provider: None };
    let rule = book.find(&subject);
    let fallback = fallback(code, status);
    let (mut class, scope, reaction) = match rule {
        Some(rule) => (rule.class, rule.scope, rule.reaction),
        None => fallback,
    };
    let is_after_content = matches!(stage, Some(Stage::Data | Stage::Final));
    let is_about_user = matches!(class, "bad-mailbox" | "mailbox-moved");
    // With the very code for it, even an answer to the content is about the user.
    let is_users = status.is_some_and(|status| status.subject == 1);
    // "User unknown" under the code of a closed mailbox: only as an answer to RCPT.
    let is_closed = status.is_some_and(|status| (status.subject, status.detail) == (2, 1));
    let is_filter = is_about_user
        && !is_users
        && !(is_closed && stage == Some(Stage::Rcpt))
        && (is_after_content || !may_mean_user(status));
    if is_filter {
        class = "mailbox-filtered";
    }
    // A report with neither a code of the receiver's nor a status of its own is hearsay.
    let is_hearsay = evidence.is_report
        && !matches!(class, "bad-domain" | "domain-takes-no-mail")
        && status.is_none_or(|status| status.subject != 1)
        && (field.is_none() || (evidence.is_quoted && code.is_none()));
    let is_permanent =
        kind == Kind::Bounce && code.is_none_or(|code| code >= 500) && status.is_none_or(|status| status.class == 5);
    // Who reports has looked the domain up; a receiver that speaks of one may mean the sender's.
    let is_no_domain = class == "bad-domain" && !is_after_content;
    // Prose without a code is a mail server's word, or nobody's.
    let is_attested = evidence.is_report || code.is_some() || status.is_some() || evidence.is_machine;
    let suppress = is_permanent
        && is_attested
        && evidence.is_own
        && (reaction == Reaction::Suppress || is_no_domain)
        && !is_filter
        && !is_hearsay
        && recipient.is_some();
    if kind == Kind::None {
        class = "delivered";
    }
    let status = status.map(|status| status.to_string()).or_else(|| {
        let class = match (code, kind) {
            (Some(code), _) => u16::from(code >= 500) + 4,
            (None, Kind::Delay) => 4,
            (None, Kind::None) => 2,
            _ => 5,
        };
        Some(format!("{class}.0.0"))
    });
    Finding {
        recipient,
        kind,
        status,
        class: class.to_owned(),
        scope: scope.as_str(),
        suppress,
        reason: said.chars().take(LONGEST_REASON).collect(),
    }
}

/// `x.0.0` says nothing, and neither does "expired" about why.
fn is_vague(status: EnhancedCode) -> bool {
    (status.subject, status.detail) == (0, 0)
}

fn fallback(code: Option<u16>, status: Option<EnhancedCode>) -> (&'static str, Scope, Reaction) {
    let code = code.or(status.map(|status| u16::from(status.class) * 100 + 50)).unwrap_or(550);
    let mut reply = Reply::plain(code, "");
    reply.enhanced = status;
    let verdict = judge_by_codes(Stage::Rcpt, &reply);
    (verdict.class, verdict.scope, verdict.reaction)
}

pub(crate) fn stage_of(text: &str) -> Option<Stage> {
    let pattern = COMMAND.as_ref()?;
    let found = pattern.captures_iter(text).last()?;
    let word = found.get(1).or_else(|| found.get(2))?.as_str().to_ascii_lowercase();
    Some(match word.split(' ').next().unwrap_or_default() {
        "data" => Stage::Data,
        "rcpt" => Stage::Rcpt,
        "mail" => Stage::Mail,
        "ehlo" | "helo" => Stage::Ehlo,
        _ => Stage::Connect,
    })
}

/// Whether somebody's code stands in the text.
pub(crate) fn has_code(text: &str) -> bool {
    first_code(text).is_some_and(|code| code >= 400) || first_status(text).is_some()
}

fn first_status(text: &str) -> Option<EnhancedCode> {
    let mut vague = None;
    for found in STATUS.as_ref()?.captures_iter(text) {
        let part = |number: usize| found.get(number).and_then(|part| part.as_str().parse::<u16>().ok());
        let (Some(class), Some(subject), Some(detail)) = (part(1), part(2), part(3)) else { continue };
        let status = EnhancedCode::new(u8::try_from(class).unwrap_or(5), subject, detail);
        if !is_vague(status) {
            return Some(status);
        }
        vague.get_or_insert(status);
    }
    vague
}

fn first_code(text: &str) -> Option<u16> {
    CODE.as_ref()?.captures(text)?.get(1)?.as_str().parse().ok()
}

/// The text with an address taken out, in upper and lower case.
fn without(text: &str, address: &str) -> String {
    let (lower, address) = (text.to_ascii_lowercase(), address.to_ascii_lowercase());
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (at, found) in lower.match_indices(&address) {
        out.push_str(text.get(from..at).unwrap_or_default());
        from = at + found.len();
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
