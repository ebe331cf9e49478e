//! The header block of a message (RFC 5322 §2.2): its fields in order, without a copy.
//!
//! Content is expected with CRLF line ends, as the data reader leaves it. A line
//! that is no field ends the walk with an error; nobody guesses what it meant.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;
use memchr::memmem;

/// Longest `Message-ID` that is taken, in octets: what fits a line of 998.
pub const MAXIMUM_MESSAGE_ID: usize = 900;

/// One header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name as written, printable ASCII.
    pub name: &'a str,
    /// All after the colon, folding included, without the final line end.
    pub value: &'a [u8],
    /// Where the field stands in the block, its line end included.
    pub range: Range<usize>,
}

impl Field<'_> {
    /// Whether this is the field of that name; names have no case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value on one line, without white space at its ends.
    pub fn unfolded(&self) -> Cow<'_, [u8]> {
        unfold(self.value)
    }
}

/// A line in the header block that is no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} of the header is not a field: write `Name: value`, with no space before the colon, and an empty line after the last field"
)]
pub struct HeaderError {
    /// Number of the line, from 1.
    pub line: usize,
}

/// Length of the header block with the empty line after it; all of `content` when there is none.
pub fn header_length(content: &[u8]) -> usize {
    if content.starts_with(b"\r\n") {
        return 2;
    }
    memmem::find(content, b"\r\n\r\n").map_or(content.len(), |position| position + 4)
}

/// The fields of a header block, in order. Stops at the empty line.
pub fn fields(block: &[u8]) -> Fields<'_> {
    Fields { block, position: 0, line: 1, ended: false }
}

/// The first field of that name; `None` too when a malformed line comes before it.
pub fn find<'a>(block: &'a [u8], name: &str) -> Option<Field<'a>> {
    fields(block).map_while(Result::ok).find(|field| field.is(name))
}

/// Number of `Received` fields: the hops so far.
pub fn count_received(block: &[u8]) -> usize {
    fields(block).map_while(Result::ok).filter(|field| field.is("Received")).count()
}

/// Takes the line ends out of a folded value and the white space off its ends.
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    let value = value.trim_ascii();
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect())
}

/// The identifier of a `Message-ID` value, angle brackets included: one `<left@right>` of
/// printable ASCII or UTF-8 without spaces, at most [`MAXIMUM_MESSAGE_ID`] octets.
pub fn message_id(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    let inside = text.strip_prefix('<')?.strip_suffix('>')?;
    let (left, right) = inside.rsplit_once('@')?;
    let sane = !left.is_empty()
        && !right.is_empty()
        && text.len() <= MAXIMUM_MESSAGE_ID
        && !inside.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>'));
    sane.then_some(text)
}

/// Walks over the fields of a header block.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    block: &'a [u8],
    position: usize,
    line: usize,
    ended: bool,
}

impl<'a> Fields<'a> {
    /// End of the line that starts at `start`, line end included.
    fn line_end(&self, start: usize) -> usize {
        self.block
            .get(start..)
            .and_then(|rest| memchr(b'\n', rest))
            .map_or(self.block.len(), |offset| start + offset + 1)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.position;
        let rest = self.block.get(start..).unwrap_or_default();
        if self.ended || rest.is_empty() || rest.starts_with(b"\r\n") {
            return None;
        }
        let first_line = self.line;
        let mut end = self.line_end(start);
        self.line += 1;
        while matches!(self.block.get(end), Some(b' ' | b'\t')) {
            end = self.line_end(end);
            self.line += 1;
        }
        self.position = end;
        let field = self.block.get(start..end).unwrap_or_default();
        let parsed = split_field(field).map(|(name, value)| Field { name, value, range: start..end });
        self.ended = parsed.is_none();
        Some(parsed.ok_or(HeaderError { line: first_line }))
    }
}

/// Name and value of one field with its line end.
fn split_field(field: &[u8]) -> Option<(&str, &[u8])> {
    let colon = memchr(b':', field)?;
    let (name, value) = field.split_at(colon);
    if name.is_empty() || !name.iter().all(|byte| (33..=126).contains(byte)) {
        return None;
    }
    let value = value.get(1..).unwrap_or_default();
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    Some((std::str::from_utf8(name).ok()?, value.strip_suffix(b"\r").unwrap_or(value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGE: &[u8] = b"Received: from a\r\n\tby b; date\r\nFrom: ann@example.com\r\nSUBJECT:hi\r\nX-Empty:\r\n\r\nBody: no field\r\n";

    #[test]
    fn fields_come_in_order_with_their_place_and_folding() {
        let block = &MESSAGE[..header_length(MESSAGE)];
        let all: Vec<_> = fields(block).map(Result::unwrap).collect();
        let names: Vec<_> = all.iter().map(|field| field.name).collect();
        assert_eq!(names, ["Received", "From", "SUBJECT", "X-Empty"]);
        assert_eq!(all[0].value, b" from a\r\n\tby b; date");
        assert_eq!(&*all[0].unfolded(), b"from a\tby b; date");
        assert_eq!(&block[all[1].range.clone()], b"From: ann@example.com\r\n");
        assert_eq!(all[2].value, b"hi");
        assert_eq!(all[3].value, b"");
        assert_eq!(count_received(block), 1);
        assert_eq!(find(MESSAGE, "subject").unwrap().value, b"hi");
        assert!(find(MESSAGE, "body").is_none());
    }

    #[test]
    fn the_header_ends_at_the_first_empty_line() {
        assert_eq!(header_length(b"\r\nbody"), 2);
        assert_eq!(header_length(b"A: b\r\n\r\nbody\r\n\r\n"), 8);
        assert_eq!(header_length(b"A: b\r\n"), 6);
        assert_eq!(header_length(b""), 0);
    }

    #[test]
    fn a_line_that_is_no_field_ends_the_walk_with_its_number() {
        for (block, line) in [
            (&b"A: b\r\n c\r\nno colon\r\nD: e\r\n"[..], 3),
            (b" starts folded: x\r\n", 1),
            (b"Name : value\r\n", 1),
            (b": value\r\n", 1),
            (b"N\xc3\xa4me: value\r\n", 1),
        ] {
            let mut walk = fields(block).skip_while(Result::is_ok);
            assert_eq!(walk.next(), Some(Err(HeaderError { line })));
            assert_eq!(walk.next(), None);
        }
    }

    #[test]
    fn a_message_id_is_one_identifier_in_angle_brackets() {
        assert_eq!(message_id(b" <a.b@example.com> "), Some("<a.b@example.com>"));
        for value in [&b"a@b"[..], b"<a@b", b"<ab>", b"<a b@c>", b"<a@b> <c@d>", b"<@b>", b"<a@>", b"", b"<\xff@b>"] {
            assert_eq!(message_id(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_walked_without_panic_and_ranges_are_adjacent(
            block in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'a'), any::<u8>()], 0..200)
        ) {
            let mut expected = 0;
            for field in fields(&block).map_while(Result::ok) {
                prop_assert_eq!(field.range.start, expected);
                expected = field.range.end;
            }
            prop_assert!(header_length(&block) <= block.len());
        }
    }
}
