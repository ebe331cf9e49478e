//! Reading what arrives: the campaign's own marks, sums of bodies, and
//! delivery reports (RFC 3464, RFC 6533). A small MIME reader of its own,
//! bounded in depth and parts, so that the judge does not read with the
//! product's eyes.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;

/// Deepest nesting of multiparts that is looked at.
const DEPTH: usize = 8;
/// Most parts that are looked at.
const PARTS: usize = 200;

/// Header that names the message.
pub(crate) const ID_HEADER: &str = "X-Rehearsal-Id";
/// Header with the sum of the body's octets.
pub(crate) const BODY_HEADER: &str = "X-Rehearsal-Body";
/// Header with the sum of what the body says, whatever its transfer encoding.
pub(crate) const MEANING_HEADER: &str = "X-Rehearsal-Meaning";

/// Header that names the stream that the campaign chose.
pub(crate) const STREAM_HEADER: &str = "X-Rehearsal-Stream";
/// Header with the return path as submitted.
pub(crate) const SENDER_HEADER: &str = "X-Rehearsal-Sender";
/// Header with the names of the other header fields and the sums of what they were.
pub(crate) const FIELDS_HEADER: &str = "X-Rehearsal-Fields";

/// SHA-256 in hex, the first 32 digits.
pub(crate) fn sum(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// SHA-256 in hex.
pub(crate) fn whole_sum(bytes: &[u8]) -> String {
    hex_of(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    hex_of(bytes.get(..16).unwrap_or(bytes))
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Header block (with the last header's CRLF) and body of a message or part.
pub(crate) fn split(message: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = message.strip_prefix(b"\r\n") {
        return (&[], body);
    }
    match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(place) => message
            .split_at_checked(place + 2)
            .map_or((message, &[]), |(head, rest)| (head, rest.strip_prefix(b"\r\n").unwrap_or(rest))),
        None => (message, &[]),
    }
}

/// First header of that name, unfolded and trimmed.
pub(crate) fn header(head: &[u8], name: &str) -> Option<String> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).peekable();
    while let Some(line) = lines.next() {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (key, rest) = line.split_at(colon);
        if !key.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()) {
            continue;
        }
        let mut value = rest.get(1..).unwrap_or_default().to_vec();
        while let Some(next) = lines.next_if(|next| matches!(next.first(), Some(b' ' | b'\t'))) {
            value.extend_from_slice(next);
        }
        return Some(String::from_utf8_lossy(value.trim_ascii()).into_owned());
    }
    None
}

/// Every header field as it is written, with its lines; the name in lower case.
fn fields(head: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let mut end = 0;
        loop {
            end += memchr::memchr(b'\n', rest.get(end..)?)? + 1;
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (field, after) = rest.split_at(end);
        rest = after;
        let name = field.split(|byte| *byte == b':').next().unwrap_or_default();
        Some((String::from_utf8_lossy(name.trim_ascii_end()).to_ascii_lowercase(), field))
    })
}

/// What [`FIELDS_HEADER`] says of a header block: the names and the sum of the fields that nobody may touch, then of those
/// that change where a body is rightly re-encoded. `without`: a field that is for the server and does not arrive.
pub(crate) fn fields_mark(head: &[u8], without: &str) -> String {
    let mut groups = [const { Vec::new() }; 2];
    for (name, _) in fields(head).filter(|(name, _)| !name.eq_ignore_ascii_case(without)) {
        let [fixed, changing] = &mut groups;
        let group = if changes(&name) { changing } else { fixed };
        if !group.contains(&name) {
            group.push(name);
        }
    }
    groups.map(|names| format!("{}={}", names.join(":"), fields_sum(head, &names))).join(" ")
}

/// Whether a field belongs to the body's spelling.
fn changes(name: &str) -> bool {
    name.starts_with("content-") || name == "mime-version"
}

fn fields_sum<T: AsRef<str>>(head: &[u8], names: &[T]) -> String {
    let named = |name: &str| names.iter().any(|known| known.as_ref() == name);
    let bytes: Vec<&[u8]> = fields(head).filter(|(name, _)| named(name)).map(|(_, field)| field).collect();
    sum(&bytes.concat())
}

/// Whether the fields of a header block are those that its mark speaks of; `converted`: the body was rightly re-encoded.
pub(crate) fn fields_are_whole(head: &[u8], converted: bool) -> bool {
    let Some(mark) = header(head, FIELDS_HEADER) else { return false };
    let mut groups = mark.split(' ').filter_map(|group| group.split_once('='));
    let mut whole = |(names, sum): (&str, &str)| {
        let names: Vec<&str> = names.split(':').collect();
        fields_sum(head, &names) == sum
    };
    groups.next().is_some_and(&mut whole) && (converted || groups.next().is_some_and(&mut whole))
}

/// A parameter of a structured header such as `boundary` of Content-Type.
fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// A leaf of a MIME tree, decoded.
pub(crate) struct Leaf<'a> {
    /// Media type in lower case, without parameters.
    pub media: String,
    /// What it says.
    pub bytes: Cow<'a, [u8]>,
}

/// All leaves of a message in order, decoded by their transfer encoding.
pub(crate) fn leaves(message: &[u8]) -> Vec<Leaf<'_>> {
    let mut found = Vec::new();
    collect(message, 0, &mut found);
    found
}

fn collect<'a>(part: &'a [u8], depth: usize, found: &mut Vec<Leaf<'a>>) {
    if found.len() >= PARTS {
        return;
    }
    let (head, body) = split(part);
    let content_type = header(head, "Content-Type").unwrap_or_else(|| "text/plain".to_owned());
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.starts_with("multipart/")
        && depth < DEPTH
        && let Some(boundary) = parameter(&content_type, "boundary")
    {
        for piece in pieces(body, &boundary) {
            collect(piece, depth + 1, found);
        }
        return;
    }
    let encoding = header(head, "Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase();
    let bytes = match encoding.as_str() {
        "base64" => Cow::Owned(from_base64(body)),
        "quoted-printable" => Cow::Owned(from_quoted_printable(body)),
        _ => Cow::Borrowed(body),
    };
    found.push(Leaf { media, bytes });
}

/// Parts between boundary lines (RFC 2046 §5.1.1); the CRLF before a boundary belongs to it.
fn pieces<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}").into_bytes();
    let mut parts = Vec::new();
    let mut start = None;
    let mut place = 0;
    while place <= body.len() && parts.len() < PARTS {
        let rest = body.get(place..).unwrap_or_default();
        let length = memchr::memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let line = rest.get(..length).unwrap_or_default();
        if let Some(after) = line.strip_prefix(delimiter.as_slice())
            && matches!(after.trim_ascii_end(), b"" | b"--")
        {
            if let Some(start) = start {
                let end = place.saturating_sub(2).max(start);
                parts.push(body.get(start..end).unwrap_or_default());
            }
            if after.starts_with(b"--") {
                return parts;
            }
            start = Some((place + length + 2).min(body.len()));
        }
        place += length + 2;
    }
    if let Some(start) = start {
        parts.push(body.get(start..).unwrap_or_default());
    }
    parts
}

fn from_base64(body: &[u8]) -> Vec<u8> {
    let letters: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(&letters).unwrap_or(letters)
}

fn from_quoted_printable(body: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    let mut out = Vec::with_capacity(body.len());
    let mut place = 0;
    while let Some(byte) = body.get(place) {
        if *byte == b'=' {
            if body.get(place + 1..place + 3) == Some(b"\r\n") {
                place += 3;
                continue;
            }
            if let (Some(high), Some(low)) = (digit(body.get(place + 1)), digit(body.get(place + 2))) {
                out.push((high * 16 + low) as u8);
                place += 3;
                continue;
            }
        }
        out.push(*byte);
        place += 1;
    }
    out
}

/// Sum of what a message says: its leaves, decoded, each with its length.
pub(crate) fn meaning(message: &[u8]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for leaf in leaves(message) {
        context.update(&(leaf.bytes.len() as u64).to_be_bytes());
        context.update(&leaf.bytes);
    }
    hex(context.finish().as_ref())
}

/// One recipient's group of a delivery report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Final recipient, without its type.
    pub recipient: String,
    /// `failed`, `delayed`, `delivered`, `relayed` or `expanded`, in lower case.
    pub action: String,
    /// Enhanced status code.
    pub status: String,
    /// What the other side said.
    pub diagnostic: String,
}

/// Groups of a delivery report; empty when the message is none.
pub(crate) fn reports(message: &[u8]) -> Vec<Report> {
    let (head, _) = split(message);
    let kind = header(head, "Content-Type").unwrap_or_default().to_ascii_lowercase();
    if !kind.starts_with("multipart/report") {
        return Vec::new();
    }
    let status =
        |leaf: &Leaf<'_>| matches!(leaf.media.as_str(), "message/delivery-status" | "message/global-delivery-status");
    leaves(message).into_iter().filter(status).flat_map(|leaf| groups(&leaf.bytes)).collect()
}

fn groups(bytes: &[u8]) -> Vec<Report> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() && found.len() < PARTS * 10 {
        let end = memchr::memmem::find(rest, b"\r\n\r\n").map_or(rest.len(), |place| place + 2);
        let (group, after) = rest.split_at(end);
        rest = after.strip_prefix(b"\r\n").unwrap_or(after);
        let field = |name| header(group, name);
        let address = |value: String| {
            value.split_once(';').map_or_else(|| value.clone(), |(_, address)| address.trim().to_owned())
        };
        if let Some(recipient) = field("Final-Recipient") {
            found.push(Report {
                recipient: decode_address(&address(recipient)),
                action: field("Action").unwrap_or_default().to_ascii_lowercase(),
                status: field("Status").unwrap_or_default(),
                diagnostic: field("Diagnostic-Code").unwrap_or_default(),
            });
        }
    }
    found
}

/// Undoes xtext (`+2B`, RFC 3461) and `\x{E9}` (RFC 6533), whichever occurs.
fn decode_address(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some((code, after)) = rest.strip_prefix("\\x{").and_then(|inner| inner.split_once('}'))
            && let Some(decoded) = u32::from_str_radix(code, 16).ok().and_then(char::from_u32)
        {
            out.push(decoded);
            rest = after;
            continue;
        }
        out.push(character);
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_means_the_same_in_eight_bit_and_in_quoted_printable() {
        let eight =
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße=\r\n.x\r\n";
        let quoted = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=\r\n=9Fe=3D\r\n.x\r\n";
        assert_eq!(meaning(eight.as_bytes()), meaning(quoted.as_bytes()));
        assert_ne!(meaning(eight.as_bytes()), meaning(eight.replace(".x", "x").as_bytes()));
    }

    #[test]
    fn a_report_is_read_as_rfc_3464_appendix_e_writes_it() {
        // RFC 3464 appendix E.1, shortened to what is looked at.
        let text = "Date: Thu, 7 Jul 1994 17:16:05 -0400\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"RAA14128.773615765/CS.UTK.EDU\"\r\n\r\n--RAA14128.773615765/CS.UTK.EDU\r\n\r\nThe original message was received\r\n\r\n--RAA14128.773615765/CS.UTK.EDU\r\ncontent-type: message/delivery-status\r\n\r\nReporting-MTA: dns; cs.utk.edu\r\n\r\nOriginal-Recipient: rfc822;louisl@larry.slip.umd.edu\r\nFinal-Recipient: rfc822;louisl@larry.slip.umd.edu\r\nAction: failed\r\nStatus: 4.0.0\r\nDiagnostic-Code: smtp; 426 connection timed out\r\nLast-Attempt-Date: Thu, 7 Jul 1994 17:15:49 -0400\r\n\r\n--RAA14128.773615765/CS.UTK.EDU\r\ncontent-type: message/rfc822\r\n\r\n[original message goes here]\r\n\r\n--RAA14128.773615765/CS.UTK.EDU--\r\n";
        let found = reports(text.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].recipient, "louisl@larry.slip.umd.edu");
        assert_eq!((found[0].action.as_str(), found[0].status.as_str()), ("failed", "4.0.0"));
        assert!(found[0].diagnostic.contains("426"));
    }

    #[test]
    fn a_field_that_is_altered_doubled_or_lost_shows_and_those_that_were_added_do_not() {
        let head = b"X-Stream: news\r\nFrom: a@b.test\r\nSubject: one\r\n two\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n";
        let mark = fields_mark(head, "x-stream");
        let arrived = format!(
            "Received: from x\r\nDate: now\r\nFrom: a@b.test\r\nSubject: one\r\n two\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n{FIELDS_HEADER}: {mark}\r\n"
        );
        assert!(fields_are_whole(arrived.as_bytes(), false), "{mark}");
        for (what, with) in [("one", "eins"), ("From: a@b.test\r\n", ""), (" two", "\ttwo"), ("Date", "From")] {
            assert!(!fields_are_whole(arrived.replace(what, with).as_bytes(), true), "{what}");
        }
        let encoded = arrived.replace("text/plain", "text/plain\r\nContent-Transfer-Encoding: quoted-printable");
        assert!(fields_are_whole(encoded.as_bytes(), false), "a field that was not there is not summed");
        let other = arrived.replace("text/plain", "text/html");
        assert!(fields_are_whole(other.as_bytes(), true) && !fields_are_whole(other.as_bytes(), false));
        assert!(!fields_are_whole(b"From: a@b.test\r\n", true));
    }

    #[test]
    fn internationalised_recipients_of_reports_are_read() {
        assert_eq!(decode_address("j\\x{FC}rgen@gmx.test"), "jürgen@gmx.test");
        assert_eq!(decode_address("plain+tag@gmx.test"), "plain+tag@gmx.test");
    }

    #[test]
    fn folded_headers_are_unfolded_and_broken_mime_does_no_harm() {
        assert_eq!(header(b"A: 1\r\nSubject: x\r\n y\r\n", "subject").as_deref(), Some("x y"));
        assert_eq!(leaves(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n").len(), 1);
        assert_eq!(leaves(b"").len(), 1);
        assert!(reports(b"Content-Type: multipart/report; boundary=\"\"\r\n\r\n----\r\n").is_empty());
    }
}
