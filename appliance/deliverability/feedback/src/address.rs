//! Addresses in the fields of a report, freed from what carries them; how they are found in words is
//! [`postkeep_deliverability::reply::named`].

use std::borrow::Cow;
use std::sync::LazyLock;

pub(crate) use postkeep_deliverability::reply::named::{
    Mention, Parties, addresses, first_address, is_same, local_part, mentions, tail, without,
};
use regex::{Captures, Regex};

/// RFC 6533 §3: a character by its number.
static BY_NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\\x\{([0-9A-Fa-f]{1,6})\}").ok());
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

/// The beginning of a text, cut at a character.
pub(crate) fn head(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_decoded_where_it_says_what_must_not_stand_as_itself() {
        assert_eq!(of_field("utf-8;j\\x{F6}rg@m\\x{FC}ller.example").as_deref(), Some("jörg@müller.example"));
        assert_eq!(of_field("rfc822;user+2Btag@there.example").as_deref(), Some("user+tag@there.example"));
        // A detail that looks like xtext and is none.
        assert_eq!(of_field("rfc822;user+25@there.example").as_deref(), Some("user+25@there.example"));
        assert_eq!(of_field("x400;/S=ann/O=there/DDA=RFC-822=ann(a)there@there/"), None);
    }

    #[test]
    fn an_address_that_stands_in_for_a_hidden_one_is_known() {
        for (address, expected) in [
            ("redacted-9f86@isp.example", true),
            ("xxxxx@isp.example", true),
            ("x@isp.example", false),
            ("max@isp.example", false),
        ] {
            assert_eq!(is_redacted(address), expected, "{address}");
        }
    }
}
