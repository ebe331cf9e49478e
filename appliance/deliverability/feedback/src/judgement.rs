//! What the evidence about one recipient amounts to.

use std::sync::LazyLock;

use postkeep_deliverability::provider::ProviderTable;
use postkeep_deliverability::reply::{Reaction, RuleBook, Scope, Stage, Subject, judge_by_codes, may_mean_user};
use postkeep_smtp::reply::{EnhancedCode, Reply};
use regex::Regex;

use crate::address::{Parties, without};
use crate::codes;
use crate::words::spoken;
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
    /// The diagnostic is the reporting host's own, and no answer to it.
    pub is_local: bool,
    /// The command that was refused, as the words of the report about this recipient tell.
    pub stage: Option<Stage>,
    /// What was said is about this recipient, and not about several together.
    pub is_own: bool,
    /// There is no other recipient in the report.
    pub is_only: bool,
    /// A mail server speaks, and not a person.
    pub is_attested: bool,
    /// The words speak of waiting or of another attempt.
    pub is_waiting: bool,
    /// The `Status` field.
    pub status_field: Option<&'a str>,
    /// It is a delivery status notification.
    pub is_report: bool,
    /// Whose host spoke, where that is said.
    pub remote_host: Option<&'a str>,
    /// Other addresses of the recipient.
    pub aliases: &'a [&'a str],
    /// The addresses of who wrote the message that came back.
    pub senders: &'a [String],
}

static PROVIDERS: LazyLock<Option<ProviderTable>> = LazyLock::new(|| ProviderTable::shipped().ok());
/// The host that speaks, in the words of Postfix, Exim and others.
static HOST: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:\b(?:host|server|to|by|at|from)\s+|\()([a-z0-9-]+(?:\.[a-z0-9-]+)+)\.?\s*(?:\(?\[[0-9a-f.:]+\]|:? ?said)").ok()
});

/// The finding.
pub(crate) fn judge(recipient: Option<String>, evidence: &Evidence<'_>, book: &RuleBook) -> Finding {
    let said = one_line(evidence.said);
    let field = evidence.status_field.and_then(codes::status);
    let own = codes::status(&said);
    // The receiver's own code says more than the reporter's summary of it, unless it is about another attempt.
    let status = match (own, field) {
        (Some(own), Some(field)) if codes::is_vague(own) && !codes::is_vague(field) => Some(field),
        (own, field) => own.or(field),
    };
    let code = codes::code(&said).filter(|code| *code >= 400 || evidence.kind == Kind::None);
    let stage = codes::stage_of(&said).or(evidence.stage);

    let mut kind = evidence.kind;
    if kind == Kind::Bounce
        && !evidence.is_report
        && code.is_none_or(|code| code < 500)
        && status.is_some_and(|status| status.class == 2)
    {
        kind = Kind::None;
    }
    // What an address is called says nothing about it.
    let words = recipient.as_deref().map_or_else(|| said.clone(), |recipient| without(&said, recipient).into_owned());
    let subject = Subject { stage, code, status, text: &words, provider: provider(evidence) };
    let spoken = if evidence.is_quoted { said.clone() } else { one_line(&spoken(evidence.said)) };
    let mut rule = book.find(&subject);
    // What a report says around the receiver's words can make a full mailbox of them, and no unknown user.
    if rule.is_some_and(|rule| rule.reaction == Reaction::Suppress || rule.class == "bad-domain") {
        let words = recipient.as_deref().map_or_else(|| spoken.clone(), |own| without(&spoken, own).into_owned());
        rule = book.find(&Subject { text: &words, ..subject }).or(rule);
    }
    let (mut class, scope, reaction) = match rule {
        Some(rule) => (rule.class, rule.scope, rule.reaction),
        None => fallback(code, status),
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
    let found = Found { class, reaction, stage, code, status, own };
    let suppress = kind == Kind::Bounce
        && !is_filter
        && !is_hearsay(&found, field, evidence)
        && found.is_permanent()
        && found.is_certain(evidence, recipient.as_deref(), &words)
        && recipient.as_deref().is_some_and(|recipient| !is_in_doubt(recipient, evidence, class, &spoken, book));
    if kind == Kind::None {
        class = "delivered";
    }
    let status = status.map(|status| status.to_string()).or_else(|| {
        let class = match (code, kind) {
            (Some(code), _) => u16::from(code >= 500) + 4,
            (None, Kind::Delay) => 4,
            (None, Kind::None) => 2,
            // Exim gives up so what was refused for the time being, and nothing else.
            (None, Kind::Bounce) if said.contains("retry timeout exceeded") => 4,
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

/// What the rule book and the codes say.
struct Found {
    class: &'static str,
    reaction: Reaction,
    stage: Option<Stage>,
    code: Option<u16>,
    status: Option<EnhancedCode>,
    /// The status in the receiver's own words.
    own: Option<EnhancedCode>,
}

impl Found {
    fn is_permanent(&self) -> bool {
        // 53x is about who logs in, 50x about the language of SMTP.
        self.code.is_none_or(|code| code >= 500 && !matches!(code, 502..=504 | 530..=539))
            && self.status.is_none_or(|status| status.class == 5)
    }

    /// Nobody has the address, or there is no such domain, if what was said is about this recipient.
    fn is_certain(&self, evidence: &Evidence<'_>, recipient: Option<&str>, words: &str) -> bool {
        match self.class {
            // Who reports has looked the domain up; a receiver that speaks of one may mean the sender's, unless it
            // names the recipient's.
            "bad-domain" => {
                let is_routing = self.status.is_none_or(|status| matches!(status.subject, 0 | 1 | 4));
                let domain = recipient.and_then(|address| address.rsplit_once('@')).map(|(_, domain)| domain);
                let is_named = || {
                    let words = words.to_ascii_lowercase();
                    let says_so = words.contains("recipient domain") || words.contains("recipient's domain");
                    domain.is_some_and(|domain| words.contains(&domain.to_ascii_lowercase()))
                        || says_so && self.own.is_some_and(|own| (own.subject, own.detail) == (1, 2))
                };
                is_routing && (self.stage.is_none() || (self.stage == Some(Stage::Rcpt) && is_named()))
            }
            // It may be opened again, and a report comes late.
            "mailbox-disabled" => false,
            // The reporter's own code, beside which nobody else speaks: it has looked for the mailbox itself.
            "bad-mailbox" if self.reaction != Reaction::Suppress => {
                let is_code = self.status.is_some_and(|status| (status.subject, status.detail) == (1, 1));
                is_code && self.code.is_none() && self.stage.is_none()
            }
            _ if self.reaction != Reaction::Suppress => false,
            "bad-mailbox" | "mailbox-moved" => match self.stage {
                None | Some(Stage::Rcpt) => true,
                // The answer to the content is the same for all recipients: it has to name its one, with the very code.
                Some(Stage::Data | Stage::Final) => {
                    let is_code = self.own.is_some_and(|own| (own.class, own.subject, own.detail) == (5, 1, 1));
                    let is_named = recipient.is_some_and(|address| without(evidence.said, address) != evidence.said);
                    is_code && (evidence.is_only || is_named)
                }
                Some(_) => false,
            },
            _ => matches!(self.stage, None | Some(Stage::Rcpt)),
        }
    }
}

/// A report with neither a code of the receiver's nor a status of its own.
fn is_hearsay(found: &Found, field: Option<EnhancedCode>, evidence: &Evidence<'_>) -> bool {
    evidence.is_report
        && !matches!(found.class, "bad-domain" | "domain-takes-no-mail")
        && found.status.is_none_or(|status| status.subject != 1)
        && (field.is_none() || (evidence.is_quoted && found.code.is_none() && !evidence.is_local))
}

/// Somebody else may be meant, or nobody knows yet, or it is no mail server that speaks.
fn is_in_doubt(recipient: &str, evidence: &Evidence<'_>, class: &str, spoken: &str, book: &RuleBook) -> bool {
    if !evidence.is_attested || !evidence.is_own || evidence.is_waiting {
        return true;
    }
    let own: Vec<&str> = evidence.aliases.iter().copied().chain([recipient]).collect();
    let senders: Vec<&str> = evidence.senders.iter().map(String::as_str).collect();
    let parties = Parties { recipient: &own, senders: &senders };
    // Prose without a code mentions many; whom it is about has been looked for already.
    let is_said = evidence.is_quoted || codes::has_code(spoken);
    // Whoever has moved is named with where to.
    let has_moved = class == "mailbox-moved";
    (is_said && !has_moved && parties.leave_out_whom(spoken)) || book.doubt(spoken).is_some()
}

/// Whose host spoke: some texts mean what they say only there.
fn provider(evidence: &Evidence<'_>) -> Option<&'static str> {
    let table = PROVIDERS.as_ref()?;
    let in_words = || HOST.as_ref()?.captures(evidence.said)?.get(1).map(|host| host.as_str());
    let host = evidence.remote_host.or_else(in_words)?;
    table.provider_of_host(host).map(|provider| &*provider.name)
}

fn fallback(code: Option<u16>, status: Option<EnhancedCode>) -> (&'static str, Scope, Reaction) {
    let code = code.or(status.map(|status| u16::from(status.class) * 100 + 50)).unwrap_or(550);
    let mut reply = Reply::plain(code, "");
    reply.enhanced = status;
    let verdict = judge_by_codes(Stage::Rcpt, &reply);
    (verdict.class, verdict.scope, verdict.reaction)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
