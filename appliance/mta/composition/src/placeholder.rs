//! Placeholders in texts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Values by name.
pub type Values = BTreeMap<String, String>;

/// Why a text could not be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// A placeholder without a value.
    #[error("there is no value for the placeholder {0}")]
    Missing(String),
    /// A value again and again makes a text of any length.
    #[error("the text is longer than {0} octets with its values")]
    TooLong(usize),
    /// A header is folded between words; what has none cannot be.
    #[error("a header has a word of more than {0} octets with its values")]
    LongWord(usize),
}

/// Longest text with its values, in octets.
const LONGEST_TEXT: usize = 32 << 20;
/// Longest header value with its values, in octets.
const LONGEST_HEADER: usize = 8 << 10;

/// Longest word in a header, in octets: a line has 998 (RFC 5322 §2.1.1), with the name of the field before it.
const LONGEST_WORD: usize = 900;

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

/// How placeholders are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// `{{name}}` and `{{{name}}}`.
    #[default]
    Braces,
    /// `%recipient.name%` and `%recipient%`, never escaped, as Mailgun has them.
    Percent,
}

/// A piece of a text.
enum Piece<'a> {
    Text(&'a str),
    Value { name: &'a str, is_raw: bool },
}

/// Longest name, in octets.
const LONGEST_NAME: usize = 64;

/// A placeholder: where it stands, its name, and whether its value is HTML itself.
struct Found<'a> {
    start: usize,
    end: usize,
    name: &'a str,
    is_raw: bool,
}

/// The first placeholder of a text.
fn find(text: &str, style: Style) -> Option<Found<'_>> {
    match style {
        Style::Braces => find_braces(text),
        Style::Percent => find_percent(text),
    }
}

fn find_percent(text: &str) -> Option<Found<'_>> {
    const OPENING: &str = "%recipient";
    text.match_indices(OPENING).find_map(|(start, _)| {
        let after = &text[start + OPENING.len()..];
        if after.starts_with('%') {
            return Some(Found { start, end: start + OPENING.len() + 1, name: &OPENING[1..], is_raw: true });
        }
        let rest = head(after.strip_prefix('.')?);
        let name = rest.get(..rest.find('%')?).filter(|name| is_name(name))?;
        Some(Found { start, end: start + OPENING.len() + name.len() + 2, name, is_raw: true })
    })
}

fn find_braces(text: &str) -> Option<Found<'_>> {
    text.match_indices("{{").find_map(|(start, _)| {
        let (braces, is_raw) = if text[start..].starts_with("{{{") { (3, true) } else { (2, false) };
        let after = head(&text[start + braces..]);
        let inner = after.get(..after.find(&"}}}"[..braces])?)?;
        let name = Some(inner.trim()).filter(|name| is_name(name))?;
        Some(Found { start, end: start + 2 * braces + inner.len(), name, is_raw })
    })
}

/// The pieces of a text. What looks like a placeholder but is none stays text.
fn pieces(text: &str, style: Style) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut waiting = None;
    std::iter::from_fn(move || {
        if let Some(piece) = waiting.take() {
            return Some(piece);
        }
        let Some(Found { start, end, name, is_raw }) = find(rest, style) else {
            let last = std::mem::take(&mut rest);
            return (!last.is_empty()).then_some(Piece::Text(last));
        };
        let before = &rest[..start];
        rest = &rest[end..];
        let value = Piece::Value { name, is_raw };
        if before.is_empty() {
            return Some(value);
        }
        waiting = Some(value);
        Some(Piece::Text(before))
    })
}

/// As much of a text as a name with blanks around it can have: what is longer is none, however far away it closes.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(4 * LONGEST_NAME)]
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_.-".contains(&octet))
}

/// Whether a text has a placeholder.
pub fn has_placeholders(text: &str, style: Style) -> bool {
    pieces(text, style).any(|piece| matches!(piece, Piece::Value { .. }))
}

/// A text with its values; of a recipient's own first, then those for all.
pub(crate) fn fill<'a>(
    text: &'a str,
    into: Into,
    style: Style,
    own: &Values,
    common: &Values,
) -> Result<Cow<'a, str>, FillError> {
    if !has_placeholders(text, style) {
        return with_short_words(Cow::Borrowed(text), into);
    }
    let mut out = String::with_capacity(text.len() + 64);
    for piece in pieces(text, style) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Value { name, is_raw } => {
                let value =
                    own.get(name).or_else(|| common.get(name)).ok_or_else(|| FillError::Missing(name.to_owned()))?;
                match into {
                    Into::Html if !is_raw => escape(value, &mut out),
                    Into::Text | Into::Html => out.push_str(value),
                    Into::Header => out.extend(value.chars().filter(|letter| !letter.is_control())),
                }
            }
        }
        let most = if into == Into::Header { LONGEST_HEADER } else { LONGEST_TEXT };
        if out.len() > most {
            return Err(FillError::TooLong(most));
        }
    }
    with_short_words(Cow::Owned(out), into)
}

/// A text that can be folded, if it is for a header. What is not ASCII is written in encoded words, which are short.
fn with_short_words(text: Cow<'_, str>, into: Into) -> Result<Cow<'_, str>, FillError> {
    let is_long =
        into == Into::Header && text.is_ascii() && text.split([' ', '\t']).any(|word| word.len() > LONGEST_WORD);
    if is_long { Err(FillError::LongWord(LONGEST_WORD)) } else { Ok(text) }
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
            fill(text, Into::Text, Style::Braces, &own, &common).unwrap(),
            "Hi Ann & Bob, Shop <1>! Shop <1> {not} {{no good}} {{ }}"
        );
        assert_eq!(
            fill(text, Into::Html, Style::Braces, &own, &common).unwrap(),
            "Hi Ann &amp; Bob, Shop &lt;1&gt;! Shop <1> {not} {{no good}} {{ }}"
        );
        assert_eq!(fill("{{x}}", Into::Text, Style::Braces, &own, &common), Err(FillError::Missing("x".to_owned())));
        let lines = values(&[("first", "Ann\r\nBcc: everybody")]);
        assert_eq!(fill("Hi {{first}}", Into::Header, Style::Braces, &lines, &common).unwrap(), "Hi AnnBcc: everybody");
    }

    #[test]
    fn a_value_again_and_again_ends_with_an_error_and_braces_that_never_close_take_no_time() {
        let large = values(&[("a", &"x".repeat(1 << 20))]);
        let filled = fill(&"{{a}}".repeat(64)[..], Into::Text, Style::Braces, &large, &Values::new()).map(|_| ());
        assert_eq!(filled, Err(FillError::TooLong(LONGEST_TEXT)));
        let started = std::time::Instant::now();
        assert!(!has_placeholders(&"{".repeat(1 << 20), Style::Braces));
        assert!(!has_placeholders(&"%recipient.".repeat(1 << 17), Style::Percent));
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn mailguns_placeholders_are_read_as_mailgun_does() {
        let own = values(&[("first", "Ann <1>"), ("recipient", "ann@example.org")]);
        let text = "%recipient.first% %recipient% %recipient.no good% 5% %recipientx% {{first}} %recipient.first";
        assert_eq!(
            fill(text, Into::Html, Style::Percent, &own, &Values::new()).unwrap(),
            "Ann <1> ann@example.org %recipient.no good% 5% %recipientx% {{first}} %recipient.first"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_text_without_placeholders_stays(text in "[{}a-z <&.]{0,60}") {
            let all = ('a'..='z').map(|letter| (letter.to_string(), String::new())).collect::<Values>();
            match fill(&text, Into::Text, Style::Braces, &all, &Values::new()) {
                Ok(filled) if !has_placeholders(&text, Style::Braces) => prop_assert_eq!(filled, text.as_str()),
                Ok(filled) => prop_assert!(filled.len() < text.len()),
                Err(FillError::Missing(name)) => prop_assert!(text.contains(&name)),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
