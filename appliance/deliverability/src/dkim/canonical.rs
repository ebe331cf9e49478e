//! The relaxed forms of bodies and headers, RFC 6376 §3.4.2 and §3.4.4.

use mail_auth::common::crypto::{HashContext, HashImpl, Sha256};
use mail_auth::common::headers::Writer;

/// SHA-256 of the body in its relaxed form: what goes into `bh=`. Lines end in CRLF; the last
/// one may lack it. The same for every recipient, attempt and key.
pub fn body_hash(body: &[u8]) -> [u8; 32] {
    let mut hasher = <Sha256 as HashImpl>::hasher();
    relaxed_body(body, |piece| hasher.write(piece));
    let digest = hasher.complete();
    // SHA-256 gives 32 octets.
    digest.as_ref().try_into().unwrap_or_default()
}

/// Gives the relaxed form of a body to `write`, in pieces as long as the body allows.
pub(super) fn relaxed_body(body: &[u8], mut write: impl FnMut(&[u8])) {
    // Lines at the end that are empty, or have nothing but white space, do not count; nor does
    // white space at the end of the last line that does.
    let Some(last) = body.iter().rposition(|octet| !matches!(octet, b' ' | b'\t' | b'\r' | b'\n')) else {
        return;
    };
    let mut rest = body.get(..=last).unwrap_or_default();
    // What needs no change is kept together, line ends included: `run` octets before `rest`.
    let mut run: &[u8] = &[];
    while !rest.is_empty() {
        let (line, end, after) = match memchr::memchr(b'\n', rest) {
            Some(at) => {
                let line = rest.get(..at).unwrap_or_default();
                let after = rest.get(at + 1..).unwrap_or_default();
                match line.strip_suffix(b"\r") {
                    Some(line) => (line, 2, after),
                    None => (line, 1, after),
                }
            }
            None => (rest, 0, &[][..]),
        };
        if end != 1 && is_relaxed(line) {
            // `run` and `rest` lie next to each other.
            if run.is_empty() {
                run = rest;
            }
        } else {
            write_run(run, rest, &mut write);
            run = &[];
            write_relaxed_line(line, &mut write);
            if end > 0 {
                write(b"\r\n");
            }
        }
        rest = after;
    }
    write(run);
    write(b"\r\n");
}

/// Writes the part of `run` that lies before `rest`, which is a tail of it.
fn write_run(run: &[u8], rest: &[u8], write: &mut impl FnMut(&[u8])) {
    let length = run.len().saturating_sub(rest.len());
    if let Some(piece) = run.get(..length)
        && !piece.is_empty()
    {
        write(piece);
    }
}

/// Whether a line is its own relaxed form: no tab, no two spaces in a row, none at its end.
fn is_relaxed(line: &[u8]) -> bool {
    // Without an early exit, so that the compiler can look at many octets at once.
    let doubled = line.iter().zip(line.iter().skip(1)).fold(false, |found, (a, b)| found | (*a == b' ' && *b == b' '));
    let tabs = line.iter().fold(false, |found, octet| found | (*octet == b'\t'));
    !doubled && !tabs && line.last() != Some(&b' ')
}

fn write_relaxed_line(line: &[u8], write: &mut impl FnMut(&[u8])) {
    let mut rest = line;
    while let Some(at) = memchr::memchr2(b' ', b'\t', rest) {
        let (word, after) = rest.split_at(at);
        let blank = after.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        if !word.is_empty() {
            write(word);
        }
        rest = after.get(blank..).unwrap_or_default();
        if !rest.is_empty() {
            write(b" ");
        }
    }
    if !rest.is_empty() {
        write(rest);
    }
}

/// Appends `name:value` in its relaxed form, with its CRLF.
pub(super) fn relaxed_header(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.iter().filter(|octet| !matches!(octet, b' ' | b'\t' | b'\r' | b'\n')).map(u8::to_ascii_lowercase));
    out.push(b':');
    relaxed_value(value, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a header value unfolded, with single spaces, without white space at either end.
pub(super) fn relaxed_value(value: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let mut blank = false;
    let mut rest = value;
    while let Some((octet, after)) = rest.split_first() {
        match octet {
            b' ' | b'\t' => {
                blank = true;
                rest = after;
            }
            b'\r' | b'\n' => rest = after,
            _ => {
                let length =
                    rest.iter().position(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n')).unwrap_or(rest.len());
                let (word, after) = rest.split_at(length);
                if blank && out.len() > start {
                    out.push(b' ');
                }
                blank = false;
                out.extend_from_slice(word);
                rest = after;
            }
        }
    }
}
