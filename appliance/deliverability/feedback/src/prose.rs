//! Reports written for people: whom a mail server names in its prose, and what it says about them.
//!
//! The words end where the returned message begins. An address that begins a line, or stands where a
//! sentence about failure puts it, is named; if none is, any address that is not the sender's own will do; if
//! there is none at all, the returned message says whom it was for.

use std::sync::LazyLock;

use regex::Regex;

use crate::address::{Mention, addresses, first_address, head, is_same, local_part, mentions, tail};
use crate::codes::{has_code, stage_of};
use crate::judgement::{Evidence, judge};
use crate::opened::Opened;
use crate::sender::Sender;
use crate::words::returned_in_text;
use crate::{Finding, Kind, MOST_FINDINGS, Material};

/// Places where an address stands that are looked at.
const MENTIONS: usize = 20;
/// Octets of an address, and a little more.
const LONGEST_ADDRESS: usize = 330;
/// Octets of one line that are looked at.
const LONGEST_LINE: usize = 2000;
/// Octets of words that say something about one recipient.
const LONGEST_EXCERPT: usize = 2000;

struct Patterns {
    /// The subject of a report.
    subject: Regex,
    /// Sentences that only reports have.
    words: Regex,
    /// It is still being tried.
    delay: Regex,
    /// It is, in a sentence that means nothing else.
    certain_delay: Regex,
    /// It is not.
    last: Regex,
    /// A heading, or a remark, about addresses that are not given up.
    transient: Regex,
    /// The address that an alias or a forwarding was made from, as Exim says.
    parent: Regex,
    /// A line of a transcript about a host, and not about an address.
    of_host: Regex,
    /// A line of the letter's header, repeated.
    to: Regex,
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
        subject: pattern(
            r"(?i)undeliver|returned (mail|to sender)|return(ing)? (of )?(message|mail|to sender)|failure|failed|delivery (status|problem|report|notif|error|delay)|delayed|could not (be )?(deliver|send)|not (be )?delivered|non-?deliver|processing error|advisory|non remis|unzustellbar|mail (error|system|delivery)|warning|problem|bounce|rejected|error|cannot|unable|address (error|unknown)|unknown user|mailbox|no entregad|mancata|nicht zugestellt|zustell|nicht zustellbar|nicht erreicht|notification|unbekannt|avis de|エラー|配信|送信|退信|не доставлен",
        )?,
        words: pattern(
            r"(?i)(could ?n.t|could not|can ?not|can.t|unable to|not|never|failed to|has not)( yet)?( been| be)? (deliver|reach|sent|forward|accept|process)|undeliver|delivery .{0,40}(fail|abort|error|problem|unsuccess)|permanent(ly)? (fail|error|fatal)|returned (to you|mail|message)|transcript of session|(user|address|recipient|mailbox|host|domain).{0,30}(unknown|not (found|known|listed|recogni|exist)|invalid|full|disabled)|did not reach|not (a )?valid (user|recipient|address)|message (was )?(rejected|refused|bounced|not sent)|failure notice|mail delivery (failed|system)|has been delayed|error(s)? (occurred|while|in|delivering) .{0,30}(deliver|send|your)|invalid (user|recipient|address)|no such user|encountered an error|kein(e)? |konnte nicht|n'a pas pu|nicht (zugestellt|erreicht)|unbekannt|no se pudo|impossibile|送信できません|配信できません|届きません|не удалось",
        )?,
        delay: pattern(
            r"(?i)(will|is|are) (be |being )?(re-?tried|re-?tr(y|ies)|still (being )?(tried|trying)|continue)|not (yet )?been (yet )?delivered|has been delayed|delivery (is |was |has been |temporarily )?(delayed|deferred|suspended)|still (be )?(trying|tried)|(this is a |a )?warning (message )?only|no action is required|do(es)? not need to resend|delayed \d+ hours|not yet (been )?delivered|keep trying|retry(ing)? for (up to )?\d|temporary (failure|problem|error)s?.{0,40}(again|retr)",
        )?,
        certain_delay: pattern(
            r"(?i)warning message only|do(es)? not need to resend|will be retried until|will keep trying|(is|been) delayed|could not be delivered for more than|not (yet )?been delivered (yet|after)|still being (tried|retried)|(will|is) (be )?(automatically )?(re-?tried|re-?try)|verz(ö|oe)gert|wird weiter versucht|weitere (zustell)?versuche|encore (essay|tent)|retardé|retras(ad)?o|ritardat",
        )?,
        transient: pattern(r"(?i)\((transient|temporary) failure\)|transient non-fatal errors?|\bdeferred\b:?")?,
        parent: pattern(r"(?i)^[>)]?[ \t]*\n?[ \t]*\((?:ultimately )?generated from ([^()\s]+@[^()\s]+)\)")?,
        of_host: pattern(r"^[245]\d\d \S+ \([a-z]+\)\.\.\.")?,
        to: pattern(r"(?i)^\s*(to|an|à|a|para|recipients?|empf(ä|ae)nger|destinataires?|宛先)\s*:\s*")?,
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
pub(crate) fn read_named(material: &Material<'_>) -> Vec<Finding> {
    let opened = material.opened;
    // In a letter of somebody's it means nothing.
    if !material.sender.may_be_machine() && !material.sender.has_null_path {
        return Vec::new();
    }
    let mut named: Vec<String> = Vec::new();
    for header in ["x-failed-recipients", "x-mailer-daemon-recipients"] {
        for value in opened.headers(header) {
            for address in addresses(value) {
                if !named.iter().any(|known| is_same(known, &address)) {
                    named.push(address);
                }
            }
        }
    }
    if named.is_empty() {
        return Vec::new();
    }
    findings(material, named)
}

/// Whom the prose names; nothing when it is no report.
pub(crate) fn read(material: &Material<'_>) -> Vec<Finding> {
    let Some(patterns) = PATTERNS.as_ref() else { return Vec::new() };
    let (opened, sender, words) = (material.opened, material.sender, material.words);
    let by_subject = patterns.subject.is_match(opened.header("subject").unwrap_or_default());
    let by_words = patterns.words.is_match(words);
    // Of a mail server, what it is called or what it says; of somebody who may be one, both.
    let is_enough =
        if sender.is_daemon || sender.is_attested() { by_subject || by_words } else { by_subject && by_words };
    if !sender.may_be_machine() || sender.is_other_report || !is_enough {
        return Vec::new();
    }
    findings(material, named(opened, sender, words, patterns))
}

/// Whether some words speak of waiting or of another attempt.
pub(crate) fn is_waiting(words: &str) -> bool {
    PATTERNS.as_ref().is_some_and(|patterns| {
        [&patterns.delay, &patterns.certain_delay, &patterns.transient].iter().any(|pattern| pattern.is_match(words))
    })
}

/// The address that this one was made from, where the words say so.
pub(crate) fn parent(words: &str, address: &str) -> Option<String> {
    let patterns = PATTERNS.as_ref()?;
    places(words, address).find_map(|place| {
        let found = patterns.parent.captures(words.get(place + address.len()..)?)?;
        first_address(found.get(1)?.as_str())
    })
}

fn findings(material: &Material<'_>, named: Vec<String>) -> Vec<Finding> {
    let Some(patterns) = PATTERNS.as_ref() else { return Vec::new() };
    let words = material.words;
    let subject = material.opened.header("subject").unwrap_or_default();
    let is_certain = [words, subject].iter().any(|text| patterns.certain_delay.is_match(text));
    let is_delay = is_certain || [words, subject].iter().any(|text| patterns.delay.is_match(text));
    let is_one = named.len() <= 1;
    let senders = material.opened.senders();
    let recipients: Vec<Option<String>> =
        if named.is_empty() { vec![None] } else { named.into_iter().map(Some).collect() };
    recipients
        .into_iter()
        .take(MOST_FINDINGS)
        .map(|recipient| {
            // All of it is about the one.
            let (said, is_own) = match recipient.as_deref() {
                _ if is_one => (head(words, 4 * LONGEST_EXCERPT).to_owned(), true),
                Some(address) => about(words, address).map_or_else(|| (beginning(words), false), |about| (about, true)),
                None => (beginning(words), false),
            };
            // One report may tell of who is given up and of who is not.
            let is_given_up = patterns.last.is_match(words) && !is_certain;
            let is_own_end = !is_one && is_own && codes_refuse(&said) && !patterns.transient.is_match(&said);
            let kind = if is_delay && !is_given_up && !is_own_end { Kind::Delay } else { Kind::Bounce };
            let parent = recipient.as_deref().and_then(|address| parent(words, address));
            let aliases: Vec<&str> = recipient.iter().map(String::as_str).collect();
            let evidence = Evidence {
                kind,
                said: &said,
                is_quoted: false,
                is_local: false,
                stage: stage_of(&said),
                is_own,
                is_only: is_one,
                is_attested: material.sender.is_attested(),
                is_waiting: is_waiting(&said) || (is_one && is_delay),
                status_field: None,
                is_report: false,
                remote_host: None,
                aliases: &aliases,
                senders: &senders,
            };
            judge(parent.or_else(|| recipient.clone()), &evidence, material.book)
        })
        .collect()
}

/// Whether some words hold a code that is final.
fn codes_refuse(words: &str) -> bool {
    crate::codes::code(words).is_some_and(|code| code >= 500)
        && crate::codes::status(words).is_none_or(|status| status.class == 5)
}

/// The recipients that the words name, in order.
fn named(opened: &Opened, sender: Sender, words: &str, patterns: &Patterns) -> Vec<String> {
    let own: Vec<String> = ["to", "delivered-to", "from", "sender", "return-path", "x-envelope-to", "apparently-to"]
        .iter()
        .flat_map(|name| opened.headers(name))
        .flat_map(addresses)
        .collect();
    let is_own = |address: &str| {
        own.iter().any(|own| is_same(own, address)) || local_part(address).eq_ignore_ascii_case("mailer-daemon")
    };
    let (mut strong, mut weak): (Vec<String>, Vec<String>) = Default::default();
    let (mut repeated, mut parents): (Vec<String>, Vec<String>) = Default::default();
    let add = |list: &mut Vec<String>, address: &str| {
        if !list.iter().any(|known| is_same(known, address)) {
            list.push(address.to_owned());
        }
    };
    for line in words.lines().map(|line| head(line, LONGEST_LINE)).filter(|line| line.contains('@')) {
        // The parent of an address is looked for where the address is; some hosts do not disclose what they made of it.
        let (line, parent) =
            line.split_once("generated from ").map_or((line, None), |(line, parent)| (line, Some(parent)));
        if let Some(parent) = parent.and_then(first_address) {
            add(&mut parents, &parent);
        }
        let (is_foreign, is_to) = (patterns.foreign.is_match(line), patterns.to.is_match(line));
        for Mention { address, start, end } in mentions(line) {
            if strong.len() + weak.len() + repeated.len() >= MOST_FINDINGS {
                break;
            }
            if is_own(address) {
                continue;
            }
            let (before, after) = (line.get(..start).unwrap_or_default(), line.get(end..).unwrap_or_default());
            let begins = before.chars().all(|c| c.is_whitespace() || "<*-•·>[(\"'+".contains(c))
                || before.trim_start().starts_with(|c: char| c.is_ascii_digit()) && before.trim_end().ends_with('<');
            let is_named =
                begins && patterns.after.is_match(after) || patterns.before.is_match(tail(before, 200)) && !is_foreign;
            if is_named {
                add(&mut strong, address);
            } else if is_to {
                add(&mut repeated, address);
            } else if !is_foreign {
                add(&mut weak, address);
            }
        }
    }
    if !strong.is_empty() {
        return strong;
    }
    if weak.is_empty() && !parents.is_empty() {
        return parents;
    }
    // Of what is only mentioned, those that the returned message was for come first.
    let to: Vec<String> = opened
        .returned_header("to")
        .or_else(|| returned_in_text(opened, "to"))
        .map(|to| addresses(&to))
        .unwrap_or_default()
        .into_iter()
        .filter(|address| sender.is_attested() && !is_own(address))
        .collect();
    let both: Vec<String> = weak.iter().filter(|address| to.iter().any(|to| is_same(to, address))).cloned().collect();
    match (both.is_empty(), weak.is_empty(), to.len()) {
        (false, _, _) => both,
        (true, false, _) => weak,
        (true, true, 1) => to,
        _ => repeated,
    }
}

/// The words before anybody is named.
pub(crate) fn beginning(words: &str) -> String {
    head(words, LONGEST_EXCERPT).to_owned()
}

/// Where an address stands in some words, whole and not as the end of another. Looked for as text first: a report may
/// have many recipients and many words.
fn places(words: &str, address: &str) -> impl Iterator<Item = usize> {
    let lower = words.to_ascii_lowercase();
    let found: Vec<usize> = lower.match_indices(&address.to_ascii_lowercase()).map(|(place, _)| place).collect();
    // As much around it as the longest address has.
    let is_whole = |place: &usize| {
        if words.get(..*place).unwrap_or_default().ends_with(char::is_alphanumeric) {
            return false;
        }
        let start = words.floor_char_boundary(place.saturating_sub(LONGEST_ADDRESS));
        let end = words.floor_char_boundary(place + address.len() + LONGEST_ADDRESS);
        let around = words.get(start..end).unwrap_or_default();
        mentions(around).any(|mention| start + mention.start == *place && is_same(mention.address, address))
    };
    found.into_iter().take(4 * MENTIONS).filter(is_whole).take(MENTIONS).collect::<Vec<_>>().into_iter()
}

/// What the words say about one address alone: from a line where it stands to the next address, best where a code
/// is. Nothing when they say nothing.
pub(crate) fn about(words: &str, address: &str) -> Option<String> {
    let patterns = PATTERNS.as_ref()?;
    let mut best: Option<String> = None;
    for place in places(words, address) {
        let line_start = words.get(..place)?.rfind('\n').map_or(0, |place| place + 1);
        let mut excerpt = String::new();
        for line in words.get(line_start..).unwrap_or_default().lines().map(|line| head(line, LONGEST_LINE)) {
            let another = mentions(line).next().is_some_and(|found| {
                let before = line.get(..found.start).unwrap_or_default();
                !is_same(found.address, address)
                    && before.chars().all(|c| c.is_whitespace() || c.is_ascii_digit() || "<*-(.'\"".contains(c))
            }) || patterns.of_host.is_match(line);
            if (another && !excerpt.is_empty()) || excerpt.len() > LONGEST_EXCERPT {
                break;
            }
            excerpt.push_str(line);
            excerpt.push('\n');
        }
        if has_code(&excerpt) {
            return Some(excerpt);
        }
        let is_bare = excerpt.trim().len() <= address.len() + 4;
        if !is_bare && best.is_none() {
            best = Some(excerpt);
        }
    }
    best
}
