//! Who sent a message that may be a report: a mail server, or somebody whose words only look like one's. No word of a
//! person, a list or a shop is believed about an address, however well it imitates a report.

use std::sync::LazyLock;

use regex::Regex;

use crate::address::{first_address, is_same, local_part, mentions};
use crate::opened::{Opened, PartKind};

/// Octets of words in which a sentence of a report is looked for.
const LONGEST: usize = 8 << 10;
/// What mail servers call themselves: whole local parts, whole display names.
const DAEMONS: [&str; 29] = [
    "mailer-daemon",
    "mailer daemon",
    "mailerdaemon",
    "mail-daemon",
    "maildaemon",
    "postmaster",
    "post_master",
    "mail delivery subsystem",
    "mail delivery system",
    "mail delivery service",
    "mail delivery",
    "delivery subsystem",
    "internet mail delivery",
    "mail system",
    "mail-system",
    "mail delivery daemon",
    "mmdf mail router",
    "mailsystem",
    "mailer_daemon",
    "mail_daemon",
    "mdaemon",
    "mail.delivery.system",
    "mail administrator",
    "internet mail service",
    "post office",
    "postoffice",
    "mmsc ndr administrator",
    "mail delivery report",
    "mail router",
];
/// Local parts under which providers send reports of complaints.
const DESKS: [&str; 11] = [
    "abuse",
    "abusedesk",
    "arf",
    "complaint",
    "complaints",
    "fbl",
    "feedback",
    "feedbackloop",
    "scomp",
    "spamreport",
    "staff",
];

/// Sentences that reports have and letters have not, in several languages.
static SENTENCES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?is)created automatically by (the )?mail|this is (the|a) (mail system|postfix|qmail|mailer-daemon|dragonfly|delivery status|exim|courier|mail delivery|automatically[- ]generated delivery)|qmail-send program|",
        r"transcript of (the )?session|addresses? (listed below )?(had|have) .{0,30}(errors?|problems?|failures?)|(permanent|fatal|transient)( fatal| non-fatal)? errors?|",
        r"delivery to (the )?(following )?(recipients?|address(es)?).{0,60}(fail|delay|abort|has been|could|was)|delivery (has )?(failed|failure|status notification)|(failed|error|unable) (while |in )?(to )?deliver(y|ing)?|mail(er)? delivery (failed|failure|error|system)|failure notice|non-?delivery (report|notif)|",
        r"(message|mail|e-mail|letter|document|following|subject)\b.{0,200}(could not|couldn.t|cannot|can.t|can not|was not|wasn.t|has not|hasn.t|did not|not) (be |been |yet been )?(able to be )?(deliver|reach|sent|forwarded)|(unable|not able|wasn.t able|failed) to (deliver|send|reach)|undeliver(ed|able)|(message|mail) (was )?returned|returned (mail|message|to (the )?sender)|could not be (deliver|reach)|error (occurred|was encountered)|was undeliverable|(rejected|refused) .{0,40}(recipient|address)|(is|been) delayed|not yet been delivered|warning message|smtp error from|(host|server) .{0,80} said:|",
        r"nicht (zugestellt|erreicht|übermittelt|ausgeliefert)|unzustellbar|zustellung .{0,60}(fehl|verz|nicht)|n.a pas (pu|été)|non remis|no (se )?(ha )?(pod|pud)ido? |no se pudo|no entregad|mancata (consegna|ricezione)|impossibile (consegnare|recapitare)|non .{0,20}(recapitat|consegnat)|niet (worden )?(afgeleverd|bezorgd)|n(ã|a)o (p(ô|o)de|foi)|incorrectly constructed|was detected while processing|送信できません|送信できませんでした|送信できなかった|配信できません|配信(に)?失敗|送信(に)?失敗|届きません|お届けできません|無法|无法|退信|не (удалось|доставлено|может быть)",
    ))
    .ok()
});
/// Subjects of answers and of what is passed on.
static ANSWER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)^\s*(re|aw|antw|sv|vs|r|rif|fwd?|wg|tr|doorst|enc|rv)\s*(\[[0-9]+\])?\s*:").ok());
/// Local parts that lists and their keepers have.
static KEEPER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)^(owner-.*|.*[-+](owner|request|bounces|admin)|majordomo.*|listserv.*|mailman.*|sympa.*)$").ok()
});

/// What the header and the words of a message say about who sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    /// A name that only mail servers have.
    pub is_daemon: bool,
    /// A name under which complaints are passed on.
    pub is_desk: bool,
    /// A name that stands for returned mail and nothing else; a postmaster may be a person.
    pub is_mailer: bool,
    /// Named after the reports of non-delivery: too short a name to prove anything.
    pub is_non_delivery: bool,
    /// The return path is null, or a mail server's.
    pub has_null_path: bool,
    /// The return path is there and somebody's.
    pub has_own_path: bool,
    /// It is a report by its form (RFC 6522), and of delivery or of complaints.
    pub is_report: bool,
    /// It is a notification of reading (RFC 8098), or another report that is not about delivery.
    pub is_other_report: bool,
    /// A sentence that only reports have.
    pub has_sentence: bool,
    /// An answer, mail of a list, or in bulk.
    pub is_letter: bool,
    /// Whoever sent it writes about their own address.
    pub is_about_self: bool,
}

impl Sender {
    pub(crate) fn of(opened: &Opened, words: &str) -> Self {
        let header = |name: &str| opened.header(name).unwrap_or_default();
        let from = header("from");
        let path = opened.return_path();
        let local = |text: &str| first_address(text).map(|address| local_part(&address).to_owned()).unwrap_or_default();
        let is_daemons_path =
            path.is_some_and(|path| matches!(path.trim(), "<>" | "") || names(path).any(|name| is_mailer(&name)));
        let reports_on = |kind: &str| opened.content_type.contains(kind);
        let is_multipart_report = reports_on("multipart/report");
        let is_other_report = is_multipart_report
            && ["disposition-notification", "tlsrpt"].iter().any(|kind| reports_on(kind))
            && opened.of(PartKind::DeliveryStatus).next().is_none();
        let beginning = crate::address::head(words, LONGEST);
        let own = first_address(from);
        let is_keeper = KEEPER.as_ref().is_some_and(|pattern| pattern.is_match(&local(from)));
        let is_list = opened.headers_named(|name| name.starts_with("list-")).next().is_some()
            || ["bulk", "list", "junk"].iter().any(|word| header("precedence").eq_ignore_ascii_case(word))
            || is_keeper;
        let is_answer = !header("in-reply-to").is_empty() && !is_daemons_path
            || ANSWER.as_ref().is_some_and(|pattern| pattern.is_match(header("subject")));
        let is_named_daemon = names(from).chain(names(header("sender"))).any(|name| is_daemon(&name));
        let sounds = |text: &str| SENTENCES.as_ref().is_some_and(|pattern| pattern.is_match(text));
        Self {
            is_desk: names(from).any(|name| DESKS.contains(&name.as_str())),
            is_mailer: names(from).any(|name| is_mailer(&name)),
            is_non_delivery: names(from).any(|name| name == "ndr"),
            is_daemon: is_named_daemon,
            has_null_path: is_daemons_path,
            has_own_path: path.is_some() && !is_daemons_path,
            is_report: is_multipart_report && !is_other_report,
            is_other_report,
            // Some say it in the subject alone.
            has_sentence: sounds(beginning) || is_named_daemon && sounds(header("subject")),
            is_letter: is_list || is_answer,
            is_about_self: own.is_some_and(|own| mentions(beginning).any(|one| is_same(one.address, &own))),
        }
    }

    /// A mail server's word: one sign of it is none.
    pub(crate) fn is_attested(self) -> bool {
        if self.is_daemon {
            return self.has_null_path || self.has_sentence || self.is_report;
        }
        self.is_report && (self.has_null_path || self.has_sentence || !self.is_letter)
            || self.has_null_path && self.has_sentence && !self.is_letter && !self.is_about_self
    }

    /// May be a mail server; that is enough to call it a report, and not enough to suppress anybody.
    pub(crate) fn may_be_machine(self) -> bool {
        self.is_attested()
            || self.is_mailer
            || (self.is_daemon && !self.has_own_path)
            || ((!self.has_own_path || self.is_non_delivery) && self.has_sentence && !self.is_about_self)
    }

    /// Whose report of complaints is taken for one.
    pub(crate) fn may_pass_on_complaints(self) -> bool {
        self.may_report() || self.is_desk
    }

    /// Whose parts of a report are taken for one.
    pub(crate) fn may_report(self) -> bool {
        self.is_report || self.is_daemon || self.has_null_path
    }
}

fn is_mailer(name: &str) -> bool {
    is_daemon(name)
        && !matches!(name, "postmaster" | "post_master" | "mail administrator" | "post office" | "postoffice")
}

fn is_daemon(name: &str) -> bool {
    DAEMONS.contains(&name)
}

/// The names in an address field: local parts and display names, lower case.
fn names(field: &str) -> impl Iterator<Item = String> {
    let (display, rest) = field.split_once('<').unwrap_or(("", field));
    let inside = rest.split_once('>').map_or(rest, |(inside, _)| inside);
    let comment = inside.split_once('(').and_then(|(_, comment)| comment.split_once(')')).map(|(comment, _)| comment);
    let plain = inside.split('(').next().unwrap_or_default();
    let local = plain.split('@').next().unwrap_or_default();
    [Some(display), Some(local), comment]
        .into_iter()
        .flatten()
        .map(|name| name.trim().trim_matches(['"', '\'', '\\', ' ']).to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_name_is_a_mail_servers() {
        for field in [
            "MAILER-DAEMON@mx.example (Mail Delivery System)",
            "Mail Delivery System <x@mx.example>",
            "\"Mail Delivery Subsystem\" <MAILER-DAEMON@mx.example>",
            "<Postmaster\\@example.com@mx.example>",
            "MAILER-DAEMON <>",
            "mailer-daemon",
        ] {
            assert!(names(field).any(|name| is_daemon(&name)), "{field}");
        }
        for field in [
            "Andrea Berg <andrea@there.example>",
            "\"Mailer Daemon Fan Club\" <club@there.example>",
            "Postmaster Weekly <weekly@postmaster.example>",
            "DPD Delivery <info@delivery.example>",
            "Administrator <administrator@there.example>",
        ] {
            assert!(!names(field).any(|name| is_daemon(&name)), "{field}");
        }
    }
}
