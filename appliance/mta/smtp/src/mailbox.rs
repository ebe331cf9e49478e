//! The mailboxes of a `From`, `Sender` or `Reply-To` value (RFC 5322 §3.4, groups by RFC 6854).
//!
//! Only the addresses are read; display names, comments and encoded words are
//! passed over. A value that two readers could understand differently (text after
//! the angle bracket, a name without an address, an open quote) is refused.

use crate::address::{Address, AddressError, is_atom_character};

/// Longest value that is read, in octets.
pub const MAXIMUM_VALUE: usize = 64 * 1024;
/// Most mailboxes in one value.
pub const MAXIMUM_MAILBOXES: usize = 100;
/// Deepest nesting of comments.
const MAXIMUM_COMMENT_DEPTH: usize = 16;
/// Longer candidates are no address whatever follows.
const MAXIMUM_CANDIDATE: usize = 400;

/// Why a value has no readable mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// Octets that are not UTF-8.
    #[error("it is not valid UTF-8")]
    NotUtf8,
    /// Too long, or too many mailboxes.
    #[error("it is longer than 64 KiB or has more than 100 mailboxes")]
    TooLong,
    /// Text without an address where a mailbox was expected.
    #[error(
        "a name stands without an address: write `Name <local@domain>`, with quotes around a name that has commas, colons or other special characters"
    )]
    NoAddress,
    /// An open quote, comment, bracket or group.
    #[error("a quote, comment, bracket or group is not closed")]
    Unclosed,
    /// Something between `>` and the next comma.
    #[error("text follows the closing angle bracket")]
    TrailingText,
    /// An address that the envelope could not carry either.
    #[error("the address is not valid: {0}")]
    Address(#[from] AddressError),
}

/// The addresses in an address list, folded or not. Empty for an empty group.
pub fn addresses(value: &[u8]) -> Result<Vec<Address>, MailboxError> {
    if value.len() > MAXIMUM_VALUE {
        return Err(MailboxError::TooLong);
    }
    let text = std::str::from_utf8(value).map_err(|_| MailboxError::NotUtf8)?;
    let mut list = AddressList::default();
    let mut rest = text;
    while let Some(token) = next_token(&mut rest)? {
        list.take(token)?;
    }
    list.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// An atom, a quoted string with its quotes, or a domain literal with its brackets.
    Word(&'a str),
    Special(char),
}

/// Takes one token off the front; comments and white space are passed over.
fn next_token<'a>(rest: &mut &'a str) -> Result<Option<Token<'a>>, MailboxError> {
    loop {
        *rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else {
            return Ok(None);
        };
        let length = match first {
            '(' => {
                let length = enclosed_length(rest, '(', ')')?;
                *rest = rest.get(length..).unwrap_or_default();
                continue;
            }
            '"' => enclosed_length(rest, '"', '"')?,
            '[' => enclosed_length(rest, '[', ']')?,
            _ if is_atom_character(first) => rest.find(|c| !is_atom_character(c)).unwrap_or(rest.len()),
            _ => {
                *rest = rest.get(first.len_utf8()..).unwrap_or_default();
                return Ok(Some(Token::Special(first)));
            }
        };
        let (word, after) = rest.split_at(length);
        *rest = after;
        return Ok(Some(Token::Word(word)));
    }
}

/// Length of what the first character opens, both ends included. Comments nest.
fn enclosed_length(text: &str, open: char, close: char) -> Result<usize, MailboxError> {
    let mut depth = 0usize;
    let mut escaped = false;
    for (position, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == close && depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Ok(position + 1);
                }
            }
            _ if character == open && (depth == 0 || open == '(') => {
                depth += 1;
                if depth > MAXIMUM_COMMENT_DEPTH {
                    return Err(MailboxError::TooLong);
                }
            }
            _ => {}
        }
    }
    Err(MailboxError::Unclosed)
}

/// What has been read since the last separator.
#[derive(Default)]
struct AddressList {
    found: Vec<Address>,
    /// The tokens without the white space between them.
    candidate: String,
    /// Two words stood side by side: a phrase, no address.
    is_phrase: bool,
    after_word: bool,
    in_angle: bool,
    after_angle: bool,
    in_group: bool,
}

impl AddressList {
    fn take(&mut self, token: Token<'_>) -> Result<(), MailboxError> {
        match token {
            Token::Special('<') if !self.in_angle && !self.after_angle => {
                self.clear();
                self.in_angle = true;
            }
            Token::Special('>') if self.in_angle => {
                self.in_angle = false;
                self.address()?;
                self.after_angle = true;
            }
            // An obsolete source route, `<@a,@b:local@domain>`.
            Token::Special(',') if self.in_angle && self.candidate.starts_with('@') => self.push(",", false),
            Token::Special(':') if self.in_angle && self.candidate.starts_with('@') => self.clear(),
            Token::Special(',') if !self.in_angle => self.end_mailbox()?,
            Token::Special(';') if !self.in_angle && self.in_group => {
                self.end_mailbox()?;
                self.in_group = false;
                self.after_angle = true;
            }
            Token::Special(':') if !self.in_angle && !self.in_group && !self.after_angle => {
                if self.candidate.is_empty() {
                    return Err(MailboxError::NoAddress);
                }
                self.clear();
                self.in_group = true;
            }
            _ if self.after_angle => return Err(MailboxError::TrailingText),
            Token::Word(word) => self.push(word, true),
            Token::Special(special) => self.push(special.encode_utf8(&mut [0; 4]), false),
        }
        Ok(())
    }

    fn push(&mut self, text: &str, is_word: bool) {
        self.is_phrase |= (is_word && self.after_word) || self.candidate.len() + text.len() > MAXIMUM_CANDIDATE;
        self.after_word = is_word;
        // A phrase still has to be seen as something, but need not be kept.
        if !self.is_phrase {
            self.candidate.push_str(text);
        }
    }

    fn clear(&mut self) {
        self.candidate.clear();
        self.is_phrase = false;
        self.after_word = false;
    }

    /// The candidate is a whole address or an error.
    fn address(&mut self) -> Result<(), MailboxError> {
        if self.is_phrase {
            return Err(MailboxError::NoAddress);
        }
        if self.found.len() >= MAXIMUM_MAILBOXES {
            return Err(MailboxError::TooLong);
        }
        match Address::parse(&self.candidate) {
            Ok(address) => self.found.push(address),
            Err(AddressError::NoDomain) => return Err(MailboxError::NoAddress),
            Err(error) => return Err(error.into()),
        }
        self.clear();
        Ok(())
    }

    /// At a comma, a semicolon or the end. Empty elements are obsolete but harmless.
    fn end_mailbox(&mut self) -> Result<(), MailboxError> {
        if self.after_angle {
            self.after_angle = false;
            return Ok(());
        }
        if self.candidate.is_empty() && !self.is_phrase { Ok(()) } else { self.address() }
    }

    fn finish(mut self) -> Result<Vec<Address>, MailboxError> {
        if self.in_angle || self.in_group {
            return Err(MailboxError::Unclosed);
        }
        self.end_mailbox()?;
        Ok(self.found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(value: &str) -> Result<Vec<String>, MailboxError> {
        Ok(addresses(value.as_bytes())?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn examples_of_rfc_5322_and_rfc_6854_are_read() {
        for (value, expected) in [
            ("John Doe <jdoe@machine.example>", &["jdoe@machine.example"][..]),
            ("jdoe@machine.example", &["jdoe@machine.example"]),
            ("\"Joe Q. Public\" <john.q.public@example.com>", &["john.q.public@example.com"]),
            ("Who? <one@y.test>", &["one@y.test"]),
            (
                "<boss@nil.test>, \"Giant; \\\"Big\\\" Box\" <sysservices@example.net>",
                &["boss@nil.test", "sysservices@example.net"],
            ),
            (
                "A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;",
                &["c@a.test", "joe@where.test", "jdoe@one.test"],
            ),
            ("Undisclosed recipients:;", &[]),
            ("Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", &["pete@silly.test"]),
            ("(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;", &[]),
            ("Joe Q. Public <john.q.public@example.com>", &["john.q.public@example.com"]),
            (
                "Mary Smith <@node.test:mary@example.net>, , jdoe@test  . example",
                &["mary@example.net", "jdoe@test.example"],
            ),
            ("Nightly Monitor Robot:;", &[]),
        ] {
            assert_eq!(
                texts(value).as_deref().map(<[String]>::to_vec),
                Ok(expected.iter().map(|s| (*s).to_owned()).collect()),
                "{value}"
            );
        }
    }

    #[test]
    fn what_real_senders_write_is_read() {
        for (value, expected) in [
            ("=?UTF-8?Q?J=C3=BCrgen_=40_Home?= <j@example.com>", "j@example.com"),
            ("ann@example.com <ann@Example.com>", "ann@example.com"),
            ("[Example] News <news@example.com>", "news@example.com"),
            ("Jürgen Müller <jürgen@bücher.example>", "jürgen@xn--bcher-kva.example"),
            ("\"a@evil.example, x\"\r\n <ann@example.com>", "ann@example.com"),
            ("(ann@evil.example) ann@example.com", "ann@example.com"),
            ("\"quoted local\"@example.com", "\"quoted local\"@example.com"),
            ("O'Brien & Sons <a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ] {
            assert_eq!(texts(value), Ok(vec![expected.to_owned()]), "{value}");
        }
    }

    #[test]
    fn ambiguous_values_are_refused() {
        for (value, error) in [
            ("Ann Example", MailboxError::NoAddress),
            ("Example, Inc. <ann@example.com>", MailboxError::NoAddress),
            ("<ann@example.com> <bob@evil.example>", MailboxError::TrailingText),
            ("<ann@example.com> bob@evil.example", MailboxError::TrailingText),
            ("ann@example.com bob@evil.example", MailboxError::NoAddress),
            ("Ann <ann@example.com", MailboxError::Unclosed),
            ("\"Ann <ann@example.com>", MailboxError::Unclosed),
            ("(Ann <ann@example.com>", MailboxError::Unclosed),
            ("News: ann@example.com", MailboxError::Unclosed),
            ("<>", MailboxError::Address(AddressError::Empty)),
            ("<ann@example.com@evil.example>", MailboxError::Address(AddressError::Domain)),
        ] {
            assert_eq!(texts(value), Err(error), "{value}");
        }
        assert_eq!(addresses(b"Ann \xff <ann@example.com>"), Err(MailboxError::NotUtf8));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        assert_eq!(texts(&"(".repeat(1000)), Err(MailboxError::TooLong));
        assert_eq!(texts(&"a@b,".repeat(101)), Err(MailboxError::TooLong));
        assert_eq!(texts(&"a@b,".repeat(100)).map(|all| all.len()), Ok(100));
    }

    proptest! {
        #[test]
        fn no_value_makes_the_reader_panic(value in "[<>@,;:.()\\[\\]\"\\\\ ab\u{e9}\r\n]{0,60}") {
            let _ = addresses(value.as_bytes());
        }

        #[test]
        fn a_display_name_in_quotes_never_changes_the_address(name in "[^\"\\\\\u{0}]{0,40}") {
            let value = format!("\"{name}\" <ann@example.com>");
            prop_assert_eq!(texts(&value), Ok(vec!["ann@example.com".to_owned()]));
        }
    }
}
