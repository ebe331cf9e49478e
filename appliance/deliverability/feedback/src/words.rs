//! The words of a report: what is written for people, up to where the returned message begins, without what somebody
//! quotes from elsewhere.

use std::sync::LazyLock;

use regex::Regex;

use crate::address::head;
use crate::opened::{Opened, PartKind, field_in};

/// Octets of words that are looked at.
const LONGEST: usize = 64 << 10;

/// Where the returned message begins, or what a program of the recipient's said (which proves nothing).
static CUT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?im)^[\s>*|=\-_]*(-+ ?(original|returned|undelivered|unsent|rejected|copy of|forwarded|message header|header)( message| text| follows|s)?.{0,30}-*$|-{2,}.{0,10}(this is a copy|below this line|original message|returned message|message (text|header|body) follows|the (header|body) of|included is|transcript of message|unsent message|original mail|header of)|(the )?(original|returned|unsent|rejected|undelivered) (message|mail|headers?|text)( (follows|is attached|headers?|was|begins)|:).{0,40}$|.{0,30}(copy of (the|your) (message|mail)|first \d+ lines|headers? of the (original|message)|returned to you|text of the (original|message) follows|message text follows|message headers? follows?|original message follows).{0,60}$|received: from .{0,200}$|return-path: <|-----original message|--- returned message ---|message-id: ?<|begin forwarded message|dkim-signature:|",
        r"-{2,} ?(urspr(ü|ue)ngliche (nachricht|mail)|original-?nachricht|weitergeleitete nachricht|mensaje original|mensagem original|messaggio (originale|inoltrato)|message (d.origine|original|transf)|oorspronkelijk bericht|ursprungligt meddelande|opprinnelig melding|oprindelig meddelelse|元のメッセージ|原始邮件|исходное сообщение)|",
        r"the following text was generated during the delivery attempt)",
    ))
    .ok()
});
/// Lines of a transcript, which begin as a quotation of the third degree would.
static TRANSCRIPT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^\s*>>> ?(?i:[A-Z]{4}\b|\.|QUIT|STARTTLS|Message)").ok());

/// The words for people, up to the returned message.
pub(crate) fn words(opened: &Opened) -> String {
    let mut words = String::new();
    for part in &opened.parts {
        match part.kind {
            PartKind::Text => {
                for line in part.text.lines().filter(|line| !is_quoted(line)) {
                    words.push_str(line);
                    words.push('\n');
                }
                words.push('\n');
            }
            PartKind::Returned => break,
            PartKind::DeliveryStatus | PartKind::FeedbackReport => {}
        }
        if words.len() > LONGEST {
            break;
        }
    }
    let end = CUT.as_ref().and_then(|cut| {
        // A report that begins with what looks like a returned message is all there is.
        cut.find_iter(&words)
            .map(|found| found.start())
            .find(|start| !words.get(..*start).unwrap_or_default().trim().is_empty())
    });
    let end = end.unwrap_or(words.len()).min(LONGEST);
    words.truncate(words.floor_char_boundary(end));
    words
}

/// A line that somebody quotes: it was said elsewhere, about something else.
fn is_quoted(line: &str) -> bool {
    line.trim_start().starts_with('>') && !TRANSCRIPT.as_ref().is_some_and(|pattern| pattern.is_match(line))
}

/// A field of a returned message that stands in the text itself.
pub(crate) fn returned_in_text(opened: &Opened, name: &str) -> Option<String> {
    let text: String = opened.of(PartKind::Text).collect::<Vec<_>>().join("\n");
    let start = CUT.as_ref()?.find(&text)?.start();
    let rest = text.get(start..)?;
    rest.split("\n\n").take(4).find_map(|block| field_in(block, name))
}

/// The part of some words in which a receiver speaks: from a code to the end of its paragraph. Without a code,
/// all of them. What was sent to the receiver is left out.
pub(crate) fn spoken(words: &str) -> String {
    let mut spoken = String::new();
    for paragraph in words.split("\n\n") {
        let paragraph: String = paragraph
            .lines()
            .filter(|line| !line.trim_start().starts_with(">>>"))
            .flat_map(|line| [line, "\n"])
            .collect();
        if let Some(place) = crate::codes::first_place(&paragraph) {
            // qmail's code stands behind its words.
            let is_behind = paragraph.get(..place).unwrap_or_default().ends_with(['#', '(', '[']);
            spoken.push_str(paragraph.get(if is_behind { 0 } else { place }..).unwrap_or_default());
        }
    }
    if spoken.is_empty() { head(words, LONGEST).to_owned() } else { spoken }
}
