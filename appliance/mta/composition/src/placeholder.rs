//! Placeholders in texts.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Values by name.
pub type Values = BTreeMap<String, String>;

/// A placeholder without a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no value for {{{{{0}}}}}")]
pub struct MissingValue(pub String);

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// As it is.
    Text,
    /// Without line ends: a header has one line.
    Header,
    /// `<`, `>`, `&` and quotes escaped, unless three braces say that it is HTML.
    Html,
}

/// A piece of a text.
enum Piece<'a> {
    Text(&'a str),
    Value { name: &'a str, is_raw: bool },
}

/// Longest name, in octets.
const LONGEST_NAME: usize = 64;

/// The pieces of a text. What looks like a placeholder but is none stays text.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut waiting = None;
    std::iter::from_fn(move || {
        if let Some(piece) = waiting.take() {
            return Some(piece);
        }
        let mut from = 0;
        while let Some(start) = rest.get(from..).and_then(|tail| tail.find("{{")).map(|place| place + from) {
            let (braces, is_raw) = if rest[start..].starts_with("{{{") { (3, true) } else { (2, false) };
            let closing = &"}}}"[..braces];
            let after = &rest[start + braces..];
            let name = after.find(closing).and_then(|end| after.get(..end)).map(|name| (name.trim(), name.len()));
            if let Some((name, length)) = name.filter(|(name, _)| is_name(name)) {
                let before = &rest[..start];
                rest = &rest[start + 2 * braces + length..];
                let value = Piece::Value { name, is_raw };
                if before.is_empty() {
                    return Some(value);
                }
                waiting = Some(value);
                return Some(Piece::Text(before));
            }
            from = start + 1;
        }
        let last = std::mem::take(&mut rest);
        (!last.is_empty()).then_some(Piece::Text(last))
    })
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_.-".contains(&octet))
}

/// Whether a text has a placeholder.
pub(crate) fn has_any(text: &str) -> bool {
    pieces(text).any(|piece| matches!(piece, Piece::Value { .. }))
}

/// A text with its values; of a recipient's own first, then those for all.
pub(crate) fn fill<'a>(text: &'a str, into: Into, own: &Values, common: &Values) -> Result<Cow<'a, str>, MissingValue> {
    if !has_any(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len() + 64);
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Value { name, is_raw } => {
                let value = own.get(name).or_else(|| common.get(name)).ok_or_else(|| MissingValue(name.to_owned()))?;
                match into {
                    Into::Html if !is_raw => escape(value, &mut out),
                    Into::Text | Into::Html => out.push_str(value),
                    Into::Header => out.extend(value.chars().filter(|letter| !letter.is_control())),
                }
            }
        }
    }
    Ok(Cow::Owned(out))
}

fn escape(value: &str, out: &mut String) {
    for letter in value.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_are_put_where_they_belong_and_own_ones_go_first() {
        let (own, common) = (values(&[("first", "Ann & Bob")]), values(&[("first", "you"), ("shop", "Shop <1>")]));
        let text = "Hi {{ first }}, {{shop}}! {{{shop}}} {not} {{no good}} {{ }}";
        assert_eq!(
            fill(text, Into::Text, &own, &common).unwrap(),
            "Hi Ann & Bob, Shop <1>! Shop <1> {not} {{no good}} {{ }}"
        );
        assert_eq!(
            fill(text, Into::Html, &own, &common).unwrap(),
            "Hi Ann &amp; Bob, Shop &lt;1&gt;! Shop <1> {not} {{no good}} {{ }}"
        );
        assert_eq!(fill("{{x}}", Into::Text, &own, &common), Err(MissingValue("x".to_owned())));
        let lines = values(&[("first", "Ann\r\nBcc: everybody")]);
        assert_eq!(fill("Hi {{first}}", Into::Header, &lines, &common).unwrap(), "Hi AnnBcc: everybody");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_text_without_placeholders_stays(text in "[{}a-z <&.]{0,60}") {
            let all = ('a'..='z').map(|letter| (letter.to_string(), String::new())).collect::<Values>();
            match fill(&text, Into::Text, &all, &Values::new()) {
                Ok(filled) if !has_any(&text) => prop_assert_eq!(filled, text.as_str()),
                Ok(filled) => prop_assert!(filled.len() < text.len()),
                Err(MissingValue(name)) => prop_assert!(text.contains(&name)),
            }
        }
    }
}
