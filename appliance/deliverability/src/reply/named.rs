//! Who is named in what a host says: addresses whole, in whatever script. A reply that names somebody else is no word
//! about the recipient, whatever its code.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// Octets of an address (RFC 5321 §4.5.3.1); of what is longer nothing is taken.
const LONGEST: usize = 320;
/// Names of roles: they are mentioned as whom to ask, and are hardly ever whom a newsletter was for.
const ROLES: [&str; 8] =
    ["postmaster", "abuse", "helpdesk", "support", "hostmaster", "mailer-daemon", "mail-daemon", "webmaster"];

static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    // Letters of every script (RFC 6531): half a name is another person's address.
    Regex::new(r#"(?:"[^"\s]+"|[\w!#$%&'*+/=?^_`{|}~.\-]+)@(?:\w[\w-]*\.)*\w[\w-]*"#).ok()
});
/// What is said to be somebody to ask.
static ASKED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(contact|\bask\b|write to|mail to|inform|questions|help|assistance|report|message-?id|\bid\b|see).{0,40}$").ok()
});

/// An address in a text, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Mention<'a> {
    /// The address.
    pub address: &'a str,
    /// Its first octet.
    pub start: usize,
    /// The octet behind it.
    pub end: usize,
}

/// Every address of a text in its order, also those that are there twice.
pub fn mentions(text: &str) -> impl Iterator<Item = Mention<'_>> {
    ADDRESS.as_ref().into_iter().flat_map(move |pattern| pattern.find_iter(text)).filter_map(|found| {
        let address = cleaned(found.as_str());
        let (local, domain) = address.rsplit_once('@')?;
        let start = found.start() + found.as_str().find(address)?;
        (!local.is_empty() && !domain.is_empty() && address.len() <= LONGEST).then_some(Mention {
            address,
            start,
            end: start + address.len(),
        })
    })
}

/// Every address in a piece of text, each once.
pub fn addresses(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for Mention { address, .. } in mentions(text) {
        if !all.iter().any(|known| known == address) {
            all.push(address.to_owned());
        }
    }
    all
}

/// The first address in a piece of text.
pub fn first_address(text: &str) -> Option<String> {
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
pub fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
}

/// The part before the last `@`.
pub fn local_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

/// The text with every mention of an address taken out; an address that only ends in it stays.
pub fn without<'a>(text: &'a str, address: &str) -> Cow<'a, str> {
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

/// Whom a reply is about, and who wrote.
#[derive(Debug, Clone, Copy)]
pub struct Parties<'a> {
    /// The recipient's addresses.
    pub recipient: &'a [&'a str],
    /// The sender's: addresses, or domains alone.
    pub senders: &'a [&'a str],
}

impl Parties<'_> {
    /// Whether a text names somebody who is neither the recipient nor only to be asked, or the sender's domain. A
    /// host may know the recipient by the same name elsewhere, but never by the sender's.
    pub fn leave_out_whom(&self, text: &str) -> bool {
        self.names_another(text) || self.names_domain(text)
    }

    fn names_another(&self, text: &str) -> bool {
        mentions(text).any(|Mention { address, start, .. }| {
            if self.recipient.iter().any(|own| is_same(own, address)) {
                return false;
            }
            if self.senders.iter().any(|sender| is_same(sender, address)) {
                return true;
            }
            let local = local_part(address);
            let is_role = ROLES.iter().any(|role| role.eq_ignore_ascii_case(local));
            let before = text.get(..start).unwrap_or_default();
            let is_asked = ASKED.as_ref().is_some_and(|asked| asked.is_match(tail(before, 80)));
            !(is_role || is_asked || self.recipient.iter().any(|own| is_same(local_part(own), local)))
        })
    }

    /// The domain of who wrote, by itself: then it is not the recipient's that is spoken of.
    fn names_domain(&self, text: &str) -> bool {
        let domain =
            |address: &str| address.rsplit_once('@').map_or(address, |(_, domain)| domain).to_ascii_lowercase();
        let own: Vec<String> = self.recipient.iter().map(|own| domain(own)).collect();
        let text = text.to_ascii_lowercase();
        self.senders.iter().map(|sender| domain(sender)).filter(|name| name.contains('.') && !own.contains(name)).any(
            |domain| {
                text.match_indices(&domain).any(|(place, _)| {
                    let before = text.get(..place).unwrap_or_default().chars().next_back();
                    let after = text.get(place + domain.len()..).unwrap_or_default().chars().next();
                    // Behind `@` it is an address, which is looked at by itself.
                    before.is_none_or(|c| !c.is_alphanumeric() && !"@-_.".contains(c))
                        && after.is_none_or(|c| !c.is_alphanumeric() && c != '-')
                })
            },
        )
    }
}

/// The end of a text, at most so many octets, cut at a character.
pub fn tail(text: &str, longest: usize) -> &str {
    text.get(text.ceil_char_boundary(text.len().saturating_sub(longest))..).unwrap_or_default()
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
    fn who_else_is_named_is_told_from_who_is_to_be_asked() {
        let parties = Parties { recipient: &["ann@there.example"], senders: &["news@lettershop.example"] };
        let names = |text: &str| parties.leave_out_whom(text);
        assert!(names("550 5.1.1 <news@lettershop.example>... User unknown"));
        assert!(names("550 5.1.1 member old@third.example of list: user unknown"));
        assert!(!names("550 5.1.1 <ANN@there.example>: unknown"));
        assert!(!names("550 5.1.1 ann@inside.there.example: unknown"));
        assert!(!names("550 5.1.1 unknown, contact it@there.example or postmaster@else.example"));
        let parties = Parties { recipient: &["info@b.example"], senders: &["info@a.example"] };
        assert!(parties.leave_out_whom("550 <info@a.example> unknown"));
        // The sender's domain by itself; as a part of another name it is another.
        assert!(names("550 lettershop.example: no such user"));
        assert!(!names("550 my-lettershop.example: no such user"));
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
            let parties = Parties { recipient: &[&own], senders: &[] };
            prop_assert!(parties.leave_out_whom(&text));
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
