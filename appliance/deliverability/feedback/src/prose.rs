//! Reports written for people: whom a mail server names in its prose, and what it says about them.
//!
//! The words end where the returned message begins. An address that begins a line, or stands where a
//! sentence about failure puts it, is named; if none is, any address that is not the sender's own will do; if
//! there is none at all, the returned message says whom it was for.

use std::sync::LazyLock;

use postkeep_deliverability::reply::RuleBook;
use regex::Regex;

use crate::judgement::{Evidence, has_code, judge, stage_of};
use crate::opened::{Opened, PartKind, field_in};
use crate::{Finding, Kind, MOST_FINDINGS};

/// Octets of words that are looked at.
const LONGEST_WORDS: usize = 64 << 10;
/// Places where an address stands that are looked at.
const MENTIONS: usize = 20;
/// What mail servers call themselves.
const MACHINES: [&str; 11] = [
    "mailer-daemon",
    "postmaster",
    "mail delivery",
    "mailerdaemon",
    "mail-daemon",
    "maildaemon",
    "ndr",
    "administrator",
    "mail system",
    "post_master",
    "delivery",
];
/// Octets of one line that are looked at.
const LONGEST_LINE: usize = 2000;
/// Octets of words that say something about one recipient.
const LONGEST_EXCERPT: usize = 2000;

struct Patterns {
    address: Regex,
    /// Where the returned message begins.
    cut: Regex,
    /// The subject of a report.
    subject: Regex,
    /// Sentences that only reports have.
    words: Regex,
    /// It is still being tried.
    delay: Regex,
    /// It is not.
    last: Regex,
    /// What stands before the address of a failed recipient.
    before: Regex,
    /// What stands after it.
    after: Regex,
    /// Lines whose addresses are somebody else's.
    foreign: Regex,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    let pattern = |text: &str| Regex::new(text).ok();
    Some(Patterns {
        address: pattern(
            r#"(?:"[^"\s]{1,64}"|[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-]{1,64})@(?:[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})\.)*[A-Za-z0-9][A-Za-z0-9-]{0,62}"#,
        )?,
        cut: pattern(
            r"(?im)^[\s>*|=\-_]*(-+ ?(original|returned|undelivered|unsent|rejected|copy of|forwarded|message header|header)( message| text| follows|s)?.{0,30}-*$|-{2,}.{0,10}(this is a copy|below this line|original message|returned message|message (text|header|body) follows|the (header|body) of|included is|transcript of message|unsent message|original mail|header of)|(the )?(original|returned|unsent|rejected|undelivered) (message|mail|headers?|text)( (follows|is attached|headers?|was|begins)|:).{0,40}$|.{0,30}(copy of (the|your) (message|mail)|first \d+ lines|headers? of the (original|message)|returned to you|text of the (original|message) follows|message text follows|message header follows|original message (follows|was received)).{0,60}$|received: from .{0,200}$|return-path: <|-----original message|--- returned message ---|message-id: ?<|begin forwarded message|dkim-signature:)",
        )?,
        subject: pattern(
            r"(?i)undeliver|returned (mail|to sender)|return(ing)? (of )?(message|mail|to sender)|failure|failed|delivery (status|problem|report|notif|error|delay)|delayed|could not (be )?(deliver|send)|not (be )?delivered|non-?deliver|processing error|advisory|non remis|unzustellbar|mail (error|system|delivery)|warning|problem|bounce|rejected|error|cannot|unable|address (error|unknown)|unknown user|mailbox|no entregad|mancata|nicht zugestellt|notification",
        )?,
        words: pattern(
            r"(?i)(could ?n.t|could not|can ?not|can.t|unable to|not|never|failed to|has not)( yet)?( been| be)? (deliver|reach|sent|forward|accept|process)|undeliver|delivery .{0,40}(fail|abort|error|problem|unsuccess)|permanent(ly)? (fail|error|fatal)|returned (to you|mail|message)|transcript of session|(user|address|recipient|mailbox|host|domain).{0,30}(unknown|not (found|known|listed|recogni|exist)|invalid|full|disabled)|did not reach|not (a )?valid (user|recipient|address)|message (was )?(rejected|refused|bounced|not sent)|failure notice|mail delivery (failed|system)|has been delayed|error(s)? (occurred|while|in|delivering) .{0,30}(deliver|send|your)|invalid (user|recipient|address)|no such user|encountered an error|kein(e)? |konnte nicht|n'a pas pu",
        )?,
        delay: pattern(
            r"(?i)(will|is|are) (be |being )?(re-?tried|re-?tr(y|ies)|still (being )?(tried|trying)|continue)|not (yet )?been (yet )?delivered|has been delayed|delivery (is |was |has been |temporarily )?(delayed|deferred|suspended)|still (be )?(trying|tried)|(this is a |a )?warning (message )?only|no action is required|do(es)? not need to resend|delayed \d+ hours|not yet (been )?delivered|keep trying|retry(ing)? for (up to )?\d|temporary (failure|problem|error)s?.{0,40}(again|retr)",
        )?,
        last: pattern(r"(?i)permanent|giving up|fatal|returned to sender|undeliverable|could not be delivered")?,
        before: pattern(
            r"(?i)(unknown (user|address|recipient)|no such (user|address|recipient)|user|recipient(s)?|address(ee)?(s|\(es\))?|mailbox|account|delivering (your )?(mail|message) to|deliver(y|ed)? (of .{0,40})?(to|for)|rcpt to|reach|mail to|message to|for|to|gateway for|failed|destination|unable to deliver .{0,30}to|could not .{0,60}(to|for|at))\s*[:=]?\s*[<(\[“'\x22]?\s*$",
        )?,
        after: pattern(
            r"(?i)^\s*[>)\]”'\x22]?\s*([:.…]|\(|-|–|$|on (mon|tue|wed|thu|fri|sat|sun)|unknown|not |does|did|is |was |has |had |invalid|user|no |rejected|could|cannot|can.t|failed|undeliver|unable|reason|mailbox|\.\.\.|because|said|had )",
        )?,
        foreign: pattern(
            r"(?i)^\s*(to|from|reply-to|sender|return-path|message-id|x-[a-z-]+|received|date|subject|cc|in-reply-to|references|envelope-from|errors-to)\s*:|postmaster@|mailer-daemon@|abuse@|helpdesk@|support@|(contact|ask|write to|e-?mail to|questions).{0,30}@|message id|envelope-from|(e-?)?mail from\b",
        )?,
    })
});

/// Recipients that a header names: `X-Failed-Recipients` is Exim's, Google's and others'.
pub(crate) fn read_named(opened: &Opened, book: &RuleBook) -> Vec<Finding> {
    let mut named: Vec<String> = Vec::new();
    for header in ["x-failed-recipients", "x-mailer-daemon-recipients"] {
        for value in opened.headers(header) {
            for address in addresses(value) {
                if !named.iter().any(|known| known.eq_ignore_ascii_case(&address)) {
                    named.push(address);
                }
            }
        }
    }
    if named.is_empty() {
        return Vec::new();
    }
    let words = words(opened);
    findings(opened, named, &words, book)
}

/// Whom the prose names; nothing when it is no report.
pub(crate) fn read(opened: &Opened, book: &RuleBook) -> Vec<Finding> {
    let Some(patterns) = PATTERNS.as_ref() else { return Vec::new() };
    let words = words(opened);
    let header = |name: &str| opened.header(name).unwrap_or_default().to_ascii_lowercase();
    let is_machine = is_machine(opened);
    let is_report = opened.content_type.contains("multipart/report");
    let by_subject = patterns.subject.is_match(&header("subject"));
    let by_words = patterns.words.is_match(&words);
    // Two of three: who sends it, what it is called, what it says.
    if usize::from(is_machine || is_report) + usize::from(by_subject) + usize::from(by_words) < 2 {
        return Vec::new();
    }
    let named = named(opened, &words, patterns);
    findings(opened, named, &words, book)
}

/// Whether a mail server sent it: the null return path, or a name that only they have.
pub(crate) fn is_machine(opened: &Opened) -> bool {
    let header = |name: &str| opened.header(name).unwrap_or_default().to_ascii_lowercase();
    let sender = header("from") + &header("return-path") + &header("sender");
    header("return-path").trim() == "<>" || MACHINES.iter().any(|name| sender.contains(name))
}

fn findings(opened: &Opened, named: Vec<String>, words: &str, book: &RuleBook) -> Vec<Finding> {
    let Some(patterns) = PATTERNS.as_ref() else { return Vec::new() };
    let subject = opened.header("subject").unwrap_or_default();
    let is_delay = patterns.delay.is_match(words) || patterns.delay.is_match(subject);
    let kind = if is_delay && !patterns.last.is_match(words) { Kind::Delay } else { Kind::Bounce };
    let (stage, is_machine) = (stage_of(words), is_machine(opened));
    let is_one = named.len() <= 1;
    let recipients: Vec<Option<String>> =
        if named.is_empty() { vec![None] } else { named.into_iter().map(Some).collect() };
    recipients
        .into_iter()
        .take(MOST_FINDINGS)
        .map(|recipient| {
            // All of it is about the one.
            let (said, is_own) = if is_one {
                (head(words, 4 * LONGEST_EXCERPT).to_owned(), true)
            } else {
                near(words, recipient.as_deref())
            };
            let evidence = Evidence {
                kind,
                said: &said,
                is_quoted: false,
                stage,
                is_own,
                is_machine,
                status_field: None,
                is_report: false,
            };
            judge(recipient, &evidence, book)
        })
        .collect()
}

/// The words for people, up to the returned message.
pub(crate) fn words(opened: &Opened) -> String {
    let mut words = String::new();
    for part in &opened.parts {
        match part.kind {
            PartKind::Text => {
                words.push_str(&part.text);
                words.push('\n');
            }
            PartKind::Returned => break,
            PartKind::DeliveryStatus | PartKind::FeedbackReport => {}
        }
        if words.len() > LONGEST_WORDS {
            break;
        }
    }
    let end = PATTERNS.as_ref().and_then(|patterns| {
        // A report that begins with what looks like a returned message is all there is.
        patterns
            .cut
            .find_iter(&words)
            .map(|found| found.start())
            .find(|start| !words.get(..*start).unwrap_or_default().trim().is_empty())
    });
    words.truncate(words.floor_char_boundary(end.unwrap_or(words.len()).min(LONGEST_WORDS)));
    words
}

/// The recipients that the words name, in order.
fn named(opened: &Opened, words: &str, patterns: &Patterns) -> Vec<String> {
    let own: Vec<String> = ["to", "delivered-to", "from", "sender", "return-path", "x-envelope-to", "apparently-to"]
        .iter()
        .flat_map(|name| opened.headers(name))
        .flat_map(addresses)
        .map(|address| address.to_ascii_lowercase())
        .collect();
    let is_own = |address: &str| {
        let address = address.to_ascii_lowercase();
        let local = address.split('@').next().unwrap_or_default();
        own.contains(&address) || local == "mailer-daemon"
    };
    let (mut strong, mut weak): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let add = |list: &mut Vec<String>, address: &str| {
        if !list.iter().any(|known| known.eq_ignore_ascii_case(address)) {
            list.push(address.to_owned());
        }
    };
    for line in words.lines().map(|line| head(line, LONGEST_LINE)) {
        if !line.contains('@') {
            continue;
        }
        let is_foreign = patterns.foreign.is_match(line);
        for found in patterns.address.find_iter(line) {
            if strong.len() + weak.len() >= MOST_FINDINGS {
                break;
            }
            let address = found.as_str().trim_matches('.');
            let address = match address.split_at_checked(5) {
                Some((kind, rest)) if kind.eq_ignore_ascii_case("smtp=") => rest,
                _ => address,
            };
            if is_own(address) || !address.contains('@') {
                continue;
            }
            let (before, after) =
                (line.get(..found.start()).unwrap_or_default(), line.get(found.end()..).unwrap_or_default());
            let begins = before.chars().all(|c| c.is_whitespace() || "<*-•·>[(\"'+".contains(c))
                || before.trim_start().starts_with(|c: char| c.is_ascii_digit()) && before.trim_end().ends_with('<');
            let is_named =
                begins && patterns.after.is_match(after) || patterns.before.is_match(tail(before, 200)) && !is_foreign;
            if is_named {
                add(&mut strong, address);
            } else if !is_foreign {
                add(&mut weak, address);
            }
        }
    }
    if !strong.is_empty() {
        return strong;
    }
    // Of what is only mentioned, those that the returned message was for come first.
    let to: Vec<String> = opened
        .returned_header("to")
        .or_else(|| returned_in_text(opened, "to"))
        .map(|to| addresses(&to))
        .unwrap_or_default()
        .into_iter()
        .filter(|address| !is_own(address))
        .collect();
    let both: Vec<String> =
        weak.iter().filter(|address| to.iter().any(|to| to.eq_ignore_ascii_case(address))).cloned().collect();
    match (both.is_empty(), weak.is_empty(), to.len()) {
        (false, _, _) => both,
        (true, false, _) => weak,
        (true, true, 1) => to,
        _ => Vec::new(),
    }
}

/// A field of a returned message that stands in the text itself.
fn returned_in_text(opened: &Opened, name: &str) -> Option<String> {
    let text: String = opened.of(PartKind::Text).collect::<Vec<_>>().join("\n");
    let start = PATTERNS.as_ref()?.cut.find(&text)?.start();
    let rest = text.get(start..)?;
    rest.split("\n\n").take(4).find_map(|block| field_in(block, name))
}

/// What the words say about an address, and whether it is about that address alone: from a line where
/// it stands to the next address, best where a code is; all the words where there is nothing else.
pub(crate) fn near(words: &str, address: Option<&str>) -> (String, bool) {
    let common = || (head(words, LONGEST_EXCERPT).to_owned(), false);
    let (Some(address), Some(patterns)) = (address, PATTERNS.as_ref()) else { return common() };
    let lower = words.to_ascii_lowercase();
    let mut best: Option<String> = None;
    for (start, _) in lower.match_indices(&address.to_ascii_lowercase()).take(MENTIONS) {
        let line_start = words.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |place| place + 1);
        let mut excerpt = String::new();
        for line in words.get(line_start..).unwrap_or_default().lines().map(|line| head(line, LONGEST_LINE)) {
            let another = patterns.address.find(line).is_some_and(|found| {
                let before = line.get(..found.start()).unwrap_or_default();
                !found.as_str().eq_ignore_ascii_case(address)
                    && before.chars().all(|c| c.is_whitespace() || c.is_ascii_digit() || "<*-(.".contains(c))
            });
            if (another && !excerpt.is_empty()) || excerpt.len() > LONGEST_EXCERPT {
                break;
            }
            excerpt.push_str(line);
            excerpt.push('\n');
        }
        let is_bare = excerpt.trim().len() <= address.len() + 4;
        if has_code(&excerpt) {
            return (excerpt, true);
        }
        if !is_bare && best.is_none() {
            best = Some(excerpt);
        }
    }
    best.map_or_else(common, |excerpt| (excerpt, true))
}

/// The beginning of a text, cut at a character.
pub(crate) fn head(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or_default()
}

/// The end of a text, cut at a character.
fn tail(text: &str, longest: usize) -> &str {
    text.get(text.ceil_char_boundary(text.len().saturating_sub(longest))..).unwrap_or_default()
}

/// Every address in a piece of text, each once.
pub(crate) fn addresses(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    if let Some(patterns) = PATTERNS.as_ref() {
        for found in patterns.address.find_iter(text) {
            let address = found.as_str().trim_matches('.').to_owned();
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    all
}

/// The first address in a piece of text.
pub(crate) fn first_address(text: &str) -> Option<String> {
    addresses(text).into_iter().next()
}
