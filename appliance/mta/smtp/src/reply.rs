//! SMTP replies: what a server says, read and written (RFC 5321 §4.2, RFC 2034, RFC 3463).
//! The reader is incremental, takes what real servers send (bare LF, a missing
//! text, an enhanced code on every line), is bounded in lines and bytes, and never panics.

use std::fmt;
use std::str::FromStr;

use bytes::{Buf, BufMut, BytesMut};

/// Longest reply line that is read, in octets with its line end.
pub const MAXIMUM_LINE: usize = 4096;
/// Most lines in one reply.
pub const MAXIMUM_LINES: usize = 128;
/// Octets of reply text that are kept; what comes after is read and dropped.
pub const MAXIMUM_TEXT: usize = 2048;
/// Longest piece of text that is written on one line, so that code, enhanced
/// code and line end stay below the 512 octets of RFC 5321 §4.5.3.1.5.
const MAXIMUM_WRITTEN_TEXT: usize = 480;

/// An enhanced status code (RFC 3463): `5.7.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedCode {
    /// 2 success, 4 transient, 5 permanent.
    pub class: u8,
    /// What it is about: 1 address, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// The detail within the subject.
    pub detail: u16,
}

impl EnhancedCode {
    /// A code from its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads `5.7.1` and nothing else: class 2, 4 or 5, the others up to three digits.
    pub fn parse(text: &str) -> Option<Self> {
        match Self::split_from(text.as_bytes()) {
            // The code and nothing else, not even a space.
            Some((code, [])) if text.ends_with(|last: char| last.is_ascii_digit()) => Some(code),
            _ => None,
        }
    }

    /// Reads a code at the start of a line; the rest is what follows the white space after it.
    fn split_from(line: &[u8]) -> Option<(Self, &[u8])> {
        let class = match line.first()? {
            digit @ (b'2' | b'4' | b'5') => digit - b'0',
            _ => return None,
        };
        let rest = line.get(1..)?.strip_prefix(b".")?;
        let (subject, rest) = split_number(rest)?;
        let rest = rest.strip_prefix(b".")?;
        let (detail, rest) = split_number(rest)?;
        match rest.first() {
            None => Some((Self::new(class, subject, detail), rest)),
            Some(b' ' | b'\t') => Some((Self::new(class, subject, detail), rest.trim_ascii_start())),
            Some(_) => None,
        }
    }
}

/// Up to three digits from the front.
fn split_number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 3 {
        return None;
    }
    let (number, rest) = bytes.split_at(digits);
    Some((number.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')), rest))
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl FromStr for EnhancedCode {
    type Err = EnhancedCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or(EnhancedCodeError)
    }
}

/// A text that is no enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code: write class.subject.detail, such as 5.7.1, with class 2, 4 or 5")]
pub struct EnhancedCodeError;

/// One whole reply.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// The enhanced code, when there was one that agrees with `code`.
    pub enhanced: Option<EnhancedCode>,
    /// The lines joined by `\n`, without their codes; at most [`MAXIMUM_TEXT`] octets when read from a peer.
    pub text: String,
}

impl Reply {
    /// A reply with an enhanced code. Lines of `text` are separated by `\n`.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<String>) -> Self {
        let (class, subject, detail) = enhanced;
        Self { code, enhanced: Some(EnhancedCode::new(class, subject, detail)), text: text.into() }
    }

    /// A reply without an enhanced code: greeting, EHLO and 3xx (RFC 2034 §3).
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, text: text.into() }
    }

    /// 2xx: done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3xx: go on.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4xx: try again later.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx: do not try again.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Writes the reply as a server sends it: a line for each line of the text,
    /// the enhanced code on each (RFC 2034 §4), CRLF. Control characters become
    /// spaces, so that no text can forge a reply; long lines are cut in pieces.
    pub fn write_to(&self, out: &mut impl BufMut) {
        let mut pieces = self.text.split('\n').flat_map(Pieces::new).peekable();
        while let Some(piece) = pieces.next() {
            let separator = if pieces.peek().is_some() { b'-' } else { b' ' };
            put_number(out, self.code);
            if let Some(enhanced) = self.enhanced {
                out.put_u8(separator);
                put_number(out, u16::from(enhanced.class));
                out.put_u8(b'.');
                put_number(out, enhanced.subject);
                out.put_u8(b'.');
                put_number(out, enhanced.detail);
                if !piece.is_empty() {
                    out.put_u8(b' ');
                }
            } else {
                out.put_u8(separator);
            }
            put_text(out, piece);
            out.put_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line for people: `550 5.1.1 no such user`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n').filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

/// A line of text in pieces that fit a reply line; one empty piece for an empty line.
struct Pieces<'a> {
    rest: Option<&'a str>,
}

impl<'a> Pieces<'a> {
    fn new(line: &'a str) -> Self {
        Self { rest: Some(line) }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.take()?;
        if rest.len() <= MAXIMUM_WRITTEN_TEXT {
            return Some(rest);
        }
        let end = rest.floor_char_boundary(MAXIMUM_WRITTEN_TEXT);
        let end = rest[..end].rfind(' ').filter(|space| *space > 0).unwrap_or(end);
        let (piece, rest) = rest.split_at(end);
        self.rest = Some(rest.strip_prefix(' ').unwrap_or(rest));
        Some(piece)
    }
}

fn put_number(out: &mut impl BufMut, number: u16) {
    let mut digits = [0u8; 5];
    let mut start = digits.len();
    let mut number = number;
    while start > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[start..]);
}

fn put_text(out: &mut impl BufMut, text: &str) {
    if text.bytes().all(|byte| !byte.is_ascii_control()) {
        out.put_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            out.put_u8(if byte.is_ascii_control() { b' ' } else { byte });
        }
    }
}

/// Why what a server said is no reply. The connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line grew beyond [`MAXIMUM_LINE`].
    #[error("a reply line is longer than {MAXIMUM_LINE} octets; the peer does not speak SMTP")]
    LineTooLong,
    /// More lines than [`MAXIMUM_LINES`].
    #[error("a reply has more than {MAXIMUM_LINES} lines; the peer does not speak SMTP")]
    TooManyLines,
    /// A line does not start with a reply code between 200 and 599.
    #[error("not an SMTP reply: {0:?}")]
    Malformed(String),
    /// The lines of one reply carry different codes (RFC 5321 §4.2.1 forbids it).
    #[error("lines of one reply carry different codes, {first} and then {then}")]
    InconsistentCodes {
        /// Code of the first line.
        first: u16,
        /// Code of the line that differs.
        then: u16,
    },
}

/// Reads replies from a growing buffer, a line at a time.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The reply whose last line has not come yet.
    pending: Option<Reply>,
    lines: usize,
    /// Octets of the current line that are known to hold no LF.
    scanned: usize,
}

impl ReplyReader {
    /// A reader at the start of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether part of a reply was read and its last line is still to come.
    pub fn is_inside_reply(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes one reply from the front of `buffer`; `None` when it is not whole yet.
    /// Octets after the reply stay in the buffer. After an error the stream makes no sense any more.
    pub fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
        loop {
            let scanned = self.scanned.min(buffer.len());
            let Some(found) = memchr::memchr(b'\n', &buffer[scanned..]) else {
                if buffer.len() >= MAXIMUM_LINE {
                    return Err(ReplyError::LineTooLong);
                }
                self.scanned = buffer.len();
                return Ok(None);
            };
            let end = scanned + found;
            self.scanned = 0;
            if end >= MAXIMUM_LINE {
                return Err(ReplyError::LineTooLong);
            }
            self.lines += 1;
            if self.lines > MAXIMUM_LINES {
                return Err(ReplyError::TooManyLines);
            }
            let last = self.read_line(buffer.get(..end).unwrap_or_default());
            buffer.advance(end + 1);
            if last? {
                self.lines = 0;
                return Ok(self.pending.take());
            }
        }
    }

    /// Adds one line, given without its LF; true when it ends the reply.
    fn read_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let mut line = line;
        while let Some(shorter) = line.strip_suffix(b"\r") {
            line = shorter;
        }
        let (code, last, text) = split_line(line).ok_or_else(|| ReplyError::Malformed(quoted(line)))?;
        let reply = match &mut self.pending {
            Some(reply) if reply.code != code => {
                return Err(ReplyError::InconsistentCodes { first: reply.code, then: code });
            }
            Some(reply) => {
                push_text(&mut reply.text, b"\n");
                reply
            }
            None => self.pending.insert(Reply { code, enhanced: None, text: String::new() }),
        };
        let text = match EnhancedCode::split_from(text) {
            Some((enhanced, rest)) if agrees(code, enhanced) => {
                reply.enhanced.get_or_insert(enhanced);
                rest
            }
            _ => text,
        };
        push_text(&mut reply.text, text);
        Ok(last)
    }
}

/// A code of another class than the reply is no information (RFC 3463 §2); a 3xx may carry 2.x.x.
fn agrees(code: u16, enhanced: EnhancedCode) -> bool {
    let class = code / 100;
    u16::from(enhanced.class) == if class == 3 { 2 } else { class }
}

/// Code, whether this is the last line, and the text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
        return None;
    };
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest {
        [] => Some((code, true, rest)),
        [b'-', text @ ..] => Some((code, false, text)),
        [b' ' | b'\t', text @ ..] => Some((code, true, text.trim_ascii_start())),
        // "2500 octets" is not a reply; "250=Ok" and "250Ok" are, from somebody careless.
        [b'0'..=b'9', ..] => None,
        text => Some((code, true, text)),
    }
}

/// Appends text up to [`MAXIMUM_TEXT`]; what is not UTF-8 is replaced, control characters become spaces.
fn push_text(kept: &mut String, text: &[u8]) {
    let room = MAXIMUM_TEXT.saturating_sub(kept.len());
    if room == 0 || text.is_empty() {
        return;
    }
    let lossy = String::from_utf8_lossy(text);
    if lossy.len() <= room && lossy.bytes().all(|byte| !byte.is_ascii_control() || byte == b'\n') {
        kept.push_str(&lossy);
        return;
    }
    for character in lossy.chars() {
        if kept.len() + character.len_utf8() > MAXIMUM_TEXT {
            return;
        }
        kept.push(if character.is_ascii_control() && character != '\n' { ' ' } else { character });
    }
}

/// The start of a line that is no reply, for the error.
fn quoted(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(80).collect()
}

#[cfg(test)]
mod tests;
