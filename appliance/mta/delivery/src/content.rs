//! The octets of one write, as slices of what is in memory already: commands,
//! the parts of the content, doubled dots, the end. Nothing is copied; a dot is
//! doubled by ending one slice with it and beginning the next one at it.

use std::io::IoSlice;

use bytes::Bytes;
use memchr::memchr;
use smallvec::SmallVec;

/// Most slices that are offered to one write. The kernel takes 1024.
const BATCH: usize = 256;

/// Octets of the content as it will be sent, the CRLF that is added at its end included, dots not doubled.
pub(crate) fn size(parts: &[Bytes]) -> u64 {
    let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
    size + missing_end(parts).len() as u64
}

/// CRLF, unless the content ends with one.
fn missing_end(parts: &[Bytes]) -> &'static [u8] {
    let mut last = parts.iter().rev().flat_map(|part| part.iter().rev());
    match (last.next(), last.next()) {
        (Some(b'\n'), Some(b'\r')) | (None, _) => b"",
        _ => b"\r\n",
    }
}

/// Whether the header, up to the first empty line, has octets above 127.
pub(crate) fn has_utf8_header(parts: &[Bytes]) -> bool {
    let mut at_line_start = true;
    for part in parts {
        let mut rest: &[u8] = part;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            if !line.is_ascii() {
                return true;
            }
            if matches!(line, b"\r\n" | b"\n") && at_line_start {
                return false;
            }
            at_line_start = true;
            rest = after;
        }
        if !rest.is_ascii() {
            return true;
        }
        at_line_start &= rest.is_empty();
    }
    false
}

/// How the content is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Commands only.
    None,
    /// As it is, for BDAT.
    Whole,
    /// With the final dot, for DATA; dots at line starts are doubled when `search` is set.
    Dotted {
        /// Some line may begin with a dot.
        search: bool,
    },
}

/// What is still to be written, in order.
pub(crate) struct Output<'a> {
    batch: SmallVec<[IoSlice<'a>; 8]>,
    /// Slices of the batch that are gone.
    done: usize,
    source: Source<'a>,
}

impl<'a> Output<'a> {
    /// Commands and then the content in that form.
    pub(crate) fn new(commands: &'a [u8], parts: &'a [Bytes], form: Form) -> Self {
        let source = Source {
            commands,
            parts: if form == Form::None { &[] } else { parts },
            offset: 0,
            search: form == Form::Dotted { search: true },
            line_start: true,
            tail: match (form, missing_end(parts)) {
                (Form::None, _) => b"",
                (Form::Whole, end) => end,
                (Form::Dotted { .. }, b"") => b".\r\n",
                (Form::Dotted { .. }, _) => b"\r\n.\r\n",
            },
        };
        let mut output = Self { batch: SmallVec::new(), done: 0, source };
        output.fill();
        output
    }

    /// The next slices; empty when everything is written.
    pub(crate) fn slices(&self) -> &[IoSlice<'a>] {
        self.batch.get(self.done..).unwrap_or_default()
    }

    /// So many octets were written.
    pub(crate) fn advance(&mut self, written: usize) {
        let mut left = written;
        while let Some(slice) = self.batch.get_mut(self.done) {
            if left < slice.len() {
                slice.advance(left);
                return;
            }
            left -= slice.len();
            self.done += 1;
        }
        self.fill();
    }

    fn fill(&mut self) {
        self.batch.clear();
        self.done = 0;
        while self.batch.len() < BATCH {
            let Some(slice) = self.source.next() else { break };
            self.batch.push(IoSlice::new(slice));
        }
    }
}

/// Cuts the whole into slices, none of them empty.
struct Source<'a> {
    commands: &'a [u8],
    parts: &'a [Bytes],
    /// Where in the first part the next slice begins.
    offset: usize,
    search: bool,
    /// The next octet begins a line and its dot has not been doubled.
    line_start: bool,
    tail: &'static [u8],
}

impl<'a> Iterator for Source<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if !self.commands.is_empty() {
            return Some(std::mem::take(&mut self.commands));
        }
        while let [part, others @ ..] = self.parts {
            let rest = part.get(self.offset..).unwrap_or_default();
            if rest.is_empty() {
                self.parts = others;
                self.offset = 0;
                continue;
            }
            if !self.search {
                self.parts = others;
                self.offset = 0;
                return Some(rest);
            }
            if self.line_start && rest.first() == Some(&b'.') {
                // This slice is the dot; the next one begins with the same dot.
                self.line_start = false;
                return rest.get(..1);
            }
            let end = next_dot(rest);
            self.offset += end;
            self.line_start = rest.get(..end).is_some_and(|slice| slice.last() == Some(&b'\n'));
            return rest.get(..end);
        }
        (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail))
    }
}

/// The place of the next dot at the start of a line, after the first octet; else the end.
fn next_dot(rest: &[u8]) -> usize {
    let mut from = 0;
    while let Some(found) = rest.get(from..).and_then(|rest| memchr(b'\n', rest)) {
        from += found + 1;
        if rest.get(from) == Some(&b'.') {
            return from;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(parts: &[Bytes], form: Form, step: usize) -> Vec<u8> {
        let mut output = Output::new(b"", parts, form);
        let mut all = Vec::new();
        loop {
            let mut left = step;
            for slice in output.slices() {
                let taken = left.min(slice.len());
                all.extend_from_slice(&slice[..taken]);
                left -= taken;
            }
            if left == step {
                return all;
            }
            output.advance(step - left);
        }
    }

    /// RFC 5321 §4.5.2 in the plainest way.
    fn stuffed(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if line.first() == Some(&b'.') {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        if !content.is_empty() && !content.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    #[test]
    fn a_content_without_an_end_of_line_gets_one() {
        let parts = [Bytes::from_static(b"a: b\r\n\r\n"), Bytes::from_static(b"text")];
        assert_eq!(size(&parts), 14);
        assert_eq!(written(&parts, Form::Whole, 100), b"a: b\r\n\r\ntext\r\n");
        assert_eq!(written(&parts, Form::Dotted { search: false }, 100), b"a: b\r\n\r\ntext\r\n.\r\n");
        let split = [Bytes::from_static(b"text\r"), Bytes::from_static(b"\n")];
        assert_eq!(size(&split), 6);
    }

    #[test]
    fn no_content_is_a_lone_dot_or_nothing() {
        assert_eq!(written(&[], Form::Dotted { search: true }, 9), b".\r\n");
        assert_eq!(written(&[], Form::Whole, 9), b"");
        assert_eq!(size(&[]), 0);
    }

    proptest! {
        #[test]
        fn dots_are_doubled_as_rfc_5321_says_however_the_content_is_cut(
            parts in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![Just(b"\r\n".to_vec()), Just(b".".to_vec()), Just(b"x".to_vec()), Just(b"\r\n.".to_vec())], 0..12
            ), 0..5),
            step in 1usize..30,
        ) {
            let parts: Vec<Bytes> = parts.into_iter().map(|pieces| Bytes::from(pieces.concat())).collect();
            let whole = parts.concat();
            prop_assert_eq!(written(&parts, Form::Dotted { search: true }, step), stuffed(&whole));
            let plain = written(&parts, Form::Whole, step);
            prop_assert_eq!(plain.len() as u64, size(&parts));
            prop_assert!(plain.starts_with(&whole));
        }
    }
}
