//! Addresses in the text of a report: found whole, in whatever script, and freed from what carries them.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Octets of an address (RFC 5321 §4.5.3.1); of what is longer nothing is taken.
const LONGEST: usize = 320;
/// Names of roles: they are mentioned as whom to ask, and are hardly ever whom a newsletter was for.
const ROLES: [&str; 8] =
    ["postmaster", "abuse", "helpdesk", "support", "hostmaster", "mailer-daemon", "mail-daemon", "webmaster"];

static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    // Letters of every script (RFC 6531): half a name is another person's address.
    Regex::new(
        r#"(?:"[^"\s]+"|[\w!#$%&'*+/=?^_`{|}~.\-]+)@(?:\w[\w-]*\.)*\w[\w-]*"#,
    )
    .ok()
});
/// RFC 6533 §3: a character by its number.
static BY_NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\\x\{([0-9A-Fa-f]{1,6})\}").ok());
/// What is said to be somebody to ask.
static ASKED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(contact|\bask\b|write to|mail to|inform|questions|help|assistance|report|message-?id|\bid\b|see).{0,40}$").ok()
});

/// An address in a text, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mention<'a> {
    pub address: &'a str,
    pub start: usize,
    pub end: usize,
}

/// Every address of a text in its order, also those that are there twice.
pub(crate) fn mentions(text: &str) -> impl Iterator<Item = Mention<'_>> {
    ADDRESS.as_ref().into_iter().flat_map(move |pattern| pattern.find_iter(text)).filter_map(|found| {
        let address = cleaned(found.as_str());
        let (local, domain) = address.rsplit_once('@')?;
        let start = found.start() + found.as_str().find(address)?;
        (!local.is_empty() && !domain.is_empty() && address.len() <= LONGEST).then_some(Mention { address, start, end: start + address.len() })
    })
}

/// Every address in a piece of text, each once.
pub(crate) fn addresses(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for Mention { address, .. } in mentions(text) {
        if !all.iter().any(|known| known == address) {
            all.push(address.to_owned());
        }
    }
    all
}

/// The first address in a piece of text.
pub(crate) fn first_address(text: &str) -> Option<String> {
    mentions(text).next().map(|mention| mention.address.to_owned())
}

/// Without what quotes it, and without what Sendmail and others put in front of it.
fn cleaned(found: &str) -> &str {
    let found = match found.split_at_checked(5) {
        Some((kind, rest)) if kind.eq_ignore_ascii_case("smtp=") => rest,
        _ => found,
    };
    found.trim_start_matches(['.', '\'', '`', '=', '|']).trim_end_matches('.')
}

/// Whether two addresses are one, upper and lower case alike.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
}

/// The part before the last `@`.
pub(crate) fn local_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

/// The text with every mention of an address taken out; an address that only ends in it stays.
pub(crate) fn without<'a>(text: &'a str, address: &str) -> Cow<'a, str> {
    let mut out = String::new();
    let mut from = 0;
    for mention in mentions(text).filter(|mention| is_same(mention.address, address)) {
        out.push_str(text.get(from..mention.start).unwrap_or_default());
        from = mention.end;
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Cow::Owned(out)
}

/// Whether a text names somebody who is neither the recipient nor only to be asked. `own` are the recipient's
/// addresses, `senders` those of who wrote: a host of the recipient's may know them by the same name elsewhere,
/// but never by the sender's.
pub(crate) fn names_another(text: &str, own: &[&str], senders: &[String]) -> bool {
    mentions(text).any(|Mention { address, start, .. }| {
        if own.iter().any(|own| is_same(own, address)) {
            return false;
        }
        if senders.iter().any(|sender| is_same(sender, address)) {
            return true;
        }
        let local = local_part(address);
        let is_role = ROLES.iter().any(|role| role.eq_ignore_ascii_case(local));
        let before = text.get(..start).unwrap_or_default();
        let is_asked = ASKED.as_ref().is_some_and(|asked| asked.is_match(tail(before, 80)));
        !(is_role || is_asked || own.iter().any(|own| is_same(local_part(own), local)))
    })
}

/// The address of a field `type; address` of a delivery status: characters by their number (RFC 6533) and what
/// must never stand in xtext as itself (RFC 3461 §4: `+` and `=`) written as they are.
pub(crate) fn of_field(value: &str) -> Option<String> {
    let value = match BY_NUMBER.as_ref() {
        Some(pattern) if value.contains("\\x{") => pattern.replace_all(value, |found: &Captures<'_>| {
            let number = found.get(1).and_then(|digits| u32::from_str_radix(digits.as_str(), 16).ok());
            number.and_then(char::from_u32).map(String::from).unwrap_or_default()
        }),
        _ => Cow::Borrowed(value),
    };
    let (kind, rest) = value.split_once(';').unwrap_or(("", &value));
    // An address of X.400 holds no address of the internet, even where an `@` stands in it.
    if kind.trim().eq_ignore_ascii_case("x400") {
        return None;
    }
    first_address(rest).map(|address| address.replace("+2B", "+").replace("+3D", "="))
}

/// Whether the address is a stand-in for one that was hidden (RFC 6590).
pub(crate) fn is_redacted(address: &str) -> bool {
    let lower = address.to_ascii_lowercase();
    let local = local_part(&lower);
    ["redact", "removed", "hidden", "anonym", "xxxx", "withheld"].iter().any(|word| lower.contains(word))
        || local.len() > 2 && local.chars().all(|character| matches!(character, 'x' | '*' | '.' | '-' | '_'))
}

/// The end of a text, cut at a character.
pub(crate) fn tail(text: &str, longest: usize) -> &str {
    text.get(text.ceil_char_boundary(text.len().saturating_sub(longest))..).unwrap_or_default()
}

/// The beginning of a text, cut at a character.
pub(crate) fn head(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_found_whole_in_every_script_and_without_its_quotes() {
        for (text, expected) in [
            ("<jörg@müller.example>: unknown", "jörg@müller.example"),
            ("to 'ann@there.example' reported", "ann@there.example"),
            ("mailto:o'brien@there.example", "o'brien@there.example"),
            ("用户@例子.example", "用户@例子.example"),
            ("SMTP=ann@there.example; x", "ann@there.example"),
            ("sent to ann@there.example.", "ann@there.example"),
        ] {
            assert_eq!(first_address(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(first_address("@there.example and ann@"), None);
    }

    #[test]
    fn a_field_is_decoded_where_it_says_what_must_not_stand_as_itself() {
        assert_eq!(of_field("utf-8;j\\x{F6}rg@m\\x{FC}ller.example").as_deref(), Some("jörg@müller.example"));
        assert_eq!(of_field("rfc822;user+2Btag@there.example").as_deref(), Some("user+tag@there.example"));
        // A detail that looks like xtext and is none.
        assert_eq!(of_field("rfc822;user+25@there.example").as_deref(), Some("user+25@there.example"));
        assert_eq!(of_field("x400;/S=ann/O=there/DDA=RFC-822=ann(a)there@there/"), None);
    }

    #[test]
    fn who_else_is_named_is_told_from_who_is_to_be_asked() {
        let senders = ["news@lettershop.example".to_owned()];
        let names = |text: &str| names_another(text, &["ann@there.example"], &senders);
        assert!(names("550 5.1.1 <news@lettershop.example>... User unknown"));
        assert!(names("550 5.1.1 member old@third.example of list: user unknown"));
        assert!(!names("550 5.1.1 <ANN@there.example>: unknown"));
        assert!(!names("550 5.1.1 ann@inside.there.example: unknown"));
        assert!(!names("550 5.1.1 unknown, contact it@there.example or postmaster@else.example"));
        assert!(names_another("550 <info@a.example> unknown", &["info@b.example"], &["info@a.example".to_owned()]));
    }

    proptest! {
        #[test]
        fn an_address_that_only_ends_in_another_is_somebody_else(
            longer in "[a-z0-9]{1,8}", local in "[a-z]{1,8}", domain in "[a-z]{1,8}\\.example",
        ) {
            let own = format!("{local}@{domain}");
            let text = format!("x <{longer}{own}>: unknown, y");
            prop_assert_eq!(without(&text, &own), text.as_str());
            prop_assert!(addresses(&text).iter().all(|address| !is_same(address, &own)));
            prop_assert!(names_another(&text, &[&own], &[]));
            let both = format!("<{own}> and <{longer}{own}>");
            let left = format!("<> and <{longer}{own}>");
            prop_assert_eq!(without(&both, &own).into_owned(), left);
        }

        #[test]
        fn whatever_the_text_mentions_stand_where_they_say(text in "[ -~äöü@<>.'=`|]{0,80}") {
            for mention in mentions(&text) {
                prop_assert_eq!(text.get(mention.start..mention.end), Some(mention.address));
            }
        }
    }
}
