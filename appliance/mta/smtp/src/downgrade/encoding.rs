//! Quoted-printable and base64 as RFC 2045 §6.7 and §6.8 write them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest line without the `=` of a soft line break.
const LINE: usize = 75;
/// Octets that fill a base64 line of 76.
const GROUP: usize = 57;
const HEXADECIMAL: &[u8; 16] = b"0123456789ABCDEF";

/// Text: CRLF stays a line end, bare CR and LF are encoded like all that is not printable.
pub(super) fn quoted_printable(input: &[u8], out: &mut Vec<u8>) {
    let mut rest = input;
    loop {
        let (line, after) = match memchr::memmem::find(rest, b"\r\n") {
            Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 2..)),
            None => (rest, None),
        };
        quoted_printable_line(line, out);
        let Some(after) = after else { return };
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
}

fn quoted_printable_line(line: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    for (index, &octet) in line.iter().enumerate() {
        let last = index + 1 == line.len();
        let literal = match octet {
            b'=' => false,
            b' ' | b'\t' => !last,
            _ => octet.is_ascii_graphic(),
        };
        let width = if literal { 1 } else { 3 };
        if column + width > LINE {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        column += width;
        if literal {
            out.push(octet);
        } else {
            let digit = |value: u8| HEXADECIMAL[usize::from(value & 15)];
            out.extend_from_slice(&[b'=', digit(octet >> 4), digit(octet)]);
        }
    }
}

/// Lines of 76 characters, without a line end after the last one.
pub(super) fn base64(input: &[u8], out: &mut Vec<u8>) {
    let mut line = [0; GROUP / 3 * 4];
    for (index, group) in input.chunks(GROUP).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        // 57 octets always fit 76 characters.
        if let Ok(length) = STANDARD.encode_slice(group, &mut line) {
            out.extend_from_slice(line.get(..length).unwrap_or_default());
        }
    }
}
