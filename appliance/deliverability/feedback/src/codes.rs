//! The numbers and commands in the text of a report: reply codes, enhanced codes, and what was refused. Versions,
//! dates and addresses of hosts look like codes and are none.

use std::sync::LazyLock;

use postkeep_deliverability::reply::Stage;
use postkeep_smtp::reply::EnhancedCode;
use regex::Regex;

/// Octets before a number that tell what it is.
const BEFORE: usize = 24;

static STATUS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[245]\.[0-7]\.[0-9]{1,3}").ok());
static CODE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[245][0-5][0-9]").ok());
/// The word before a version or a date.
static NO_CODE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(version|ver|v|exim|pro|postfix|sendmail|qmail|courier|smtpd?|mta|mailer|release|build|server|engine|agent|esmtp|am|vom|den|dated?|le|del|il|op|on the)[ ./:v-]{0,2}$").ok()
});
/// What stands before a code that somebody said.
static SAID: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?:[245][0-5][0-9][ -]+#?|#)$").ok());
static COMMAND: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:after|to|our|command:?|sent|>>>|during)\s*(?:the )?(?:end of |initial |your |final )?(data|rcpt|mail from|mail command|ehlo|helo|connect)\b|(?m:^(DATA|RCPT TO|MAIL FROM)\b)|\[(DATA|RCPT_TO|MAIL_FROM)\]").ok()
});
/// What a host says to DATA when it has refused every recipient.
static NOBODY_LEFT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?im)^\s*(?:<<< ?)?5[05][0-9][ -].{0,30}(no valid recipients?|need rcpt|valid rcpt|rcpt commands were rejected|no recipients)").ok()
});

/// The command that was refused, as a text tells: the last that it names.
pub(crate) fn stage_of(text: &str) -> Option<Stage> {
    // In a transcript of pipelined commands DATA stands last, also when RCPT was refused: then nobody was left.
    if NOBODY_LEFT.as_ref().is_some_and(|pattern| pattern.is_match(text)) {
        return Some(Stage::Rcpt);
    }
    let found = COMMAND.as_ref()?.captures_iter(text).last()?;
    let word = found.iter().skip(1).flatten().next()?.as_str().to_ascii_lowercase();
    Some(match word.split([' ', '_']).next().unwrap_or_default() {
        "data" => Stage::Data,
        "rcpt" => Stage::Rcpt,
        "mail" => Stage::Mail,
        "ehlo" | "helo" => Stage::Ehlo,
        _ => Stage::Connect,
    })
}

/// Whether somebody's code stands in the text.
pub(crate) fn has_code(text: &str) -> bool {
    codes(text).any(|(_, code)| code >= 400) || status(text).is_some()
}

/// Where the first code of a refusal stands.
pub(crate) fn first_place(text: &str) -> Option<usize> {
    let code = codes(text).find(|(_, code)| *code >= 400).map(|(place, _)| place);
    let status = statuses(text).map(|(place, _)| place).next();
    code.into_iter().chain(status).min()
}

/// The reply code: the first that refuses, else the first.
pub(crate) fn code(text: &str) -> Option<u16> {
    let all = || codes(text).map(|(_, code)| code);
    all().find(|code| *code >= 400).or_else(|| all().next())
}

/// The enhanced code: best one behind a reply code or `#`, and one that says something.
pub(crate) fn status(text: &str) -> Option<EnhancedCode> {
    let is_said = |place: usize| {
        let before = text.get(..place).unwrap_or_default();
        SAID.as_ref().is_some_and(|pattern| pattern.is_match(before))
    };
    let worth = |(place, status): &(usize, EnhancedCode)| (!is_vague(*status), is_said(*place));
    let mut best: Option<(usize, EnhancedCode)> = None;
    for found in statuses(text) {
        if best.as_ref().is_none_or(|best| worth(&found) > worth(best)) {
            best = Some(found);
        }
    }
    best.map(|(_, status)| status)
}

/// `x.0.0` says nothing, and neither does "expired" about why.
pub(crate) fn is_vague(status: EnhancedCode) -> bool {
    (status.subject, status.detail) == (0, 0)
}

fn statuses(text: &str) -> impl Iterator<Item = (usize, EnhancedCode)> + '_ {
    STATUS.as_ref().into_iter().flat_map(move |pattern| pattern.find_iter(text)).filter_map(move |found| {
        let (before, after) = around(text, found.start(), found.end())?;
        let begins = !before.ends_with(|c: char| c.is_ascii_digit() || c == '.');
        // A full stop may follow, and no further part of a version.
        let mut rest = after.chars();
        let ends = match rest.next() {
            Some('.') => !rest.next().is_some_and(char::is_alphanumeric),
            next => !next.is_some_and(|next| next.is_ascii_digit()),
        };
        let is_code = NO_CODE.as_ref().is_none_or(|pattern| !pattern.is_match(before));
        let mut parts = found.as_str().split('.').map(|part| part.parse::<u16>().ok());
        let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
        let status = EnhancedCode::new(u8::try_from(class).ok()?, subject, detail);
        (begins && ends && is_code).then_some((found.start(), status))
    })
}

fn codes(text: &str) -> impl Iterator<Item = (usize, u16)> + '_ {
    CODE.as_ref().into_iter().flat_map(move |pattern| pattern.find_iter(text)).filter_map(move |found| {
        let (before, after) = around(text, found.start(), found.end())?;
        let begins = before.chars().next_back().is_none_or(|c| c.is_whitespace() || ":;<>()'\"#[=".contains(c));
        let ends = after.chars().next().is_none_or(|c| c.is_whitespace() || "-:;,)>'\"".contains(c));
        (begins && ends).then_some((found.start(), found.as_str().parse().ok()?))
    })
}

/// What stands close before and behind.
fn around(text: &str, start: usize, end: usize) -> Option<(&str, &str)> {
    let from = text.floor_char_boundary(start.saturating_sub(BEFORE));
    Some((text.get(from..start)?, text.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_dates_and_hosts_are_no_codes() {
        for text in [
            "550 User unknown (Exim 4.94.2 on mx.example)",
            "reported by CommuniGate Pro 5.1.16",
            "Ihre Nachricht vom 4.5.23 konnte nicht",
            "host 5.1.1.9 said no",
            "this is version 5.1.1",
            "5.9.9",
        ] {
            assert_eq!(status(text), None, "{text}");
        }
    }

    #[test]
    fn the_code_that_somebody_said_is_the_code() {
        let said = |text: &str| status(text).map(|status| status.to_string());
        assert_eq!(said("mailer 4.2.0, 550 5.1.1 unknown").as_deref(), Some("5.1.1"));
        assert_eq!(said("no mailbox here by that name. (#5.1.1)").as_deref(), Some("5.1.1"));
        assert_eq!(said("451 4.0.0 x, later 550 5.2.2 full.").as_deref(), Some("5.2.2"));
        assert_eq!(said("5.1.1 unknown").as_deref(), Some("5.1.1"));
        assert_eq!(code("250 Ok, then 550 no"), Some(550));
        assert_eq!(code("250 Ok"), Some(250));
        assert_eq!(code("port 2525 and 550x"), None);
    }

    #[test]
    fn the_command_is_the_one_that_was_refused() {
        for (text, expected) in [
            ("550 no (in reply to RCPT TO command)", Some(Stage::Rcpt)),
            ("550 no (in reply to end of DATA command)", Some(Stage::Data)),
            ("did not like our MAIL FROM: 550", Some(Stage::Mail)),
            ("did not like our final DATA: 550", Some(Stage::Data)),
            (">>> MAIL From:<a@b.example>", Some(Stage::Mail)),
            ("Remote host said: 550 no [RCPT_TO]", Some(Stage::Rcpt)),
            (">>> DATA\n<<< 550 unknown\n<<< 554 Error: no valid recipients\n", Some(Stage::Rcpt)),
            ("the mail to the address", None),
        ] {
            assert_eq!(stage_of(text), expected, "{text}");
        }
    }
}
