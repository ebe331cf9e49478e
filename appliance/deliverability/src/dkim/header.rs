//! Which headers are signed, and finding them in a message without copying it.

use super::canonical::relaxed_header;
use super::key::DkimError;

/// Headers that are signed, and whether they are signed once more than present. Those that a
/// receiver shows or acts on are; the others may be added by a forwarder without harm.
const BUILT_IN: [(&str, bool); 20] = [
    ("From", true),
    ("To", true),
    ("Cc", true),
    ("Subject", true),
    ("Date", true),
    ("Message-ID", true),
    ("Reply-To", true),
    ("Sender", true),
    ("MIME-Version", true),
    ("Content-Type", true),
    ("Content-Transfer-Encoding", false),
    ("In-Reply-To", true),
    ("References", true),
    ("List-Id", false),
    ("List-Unsubscribe", true),
    ("List-Unsubscribe-Post", true),
    ("Feedback-ID", false),
    // RFC 9477 §3.1.1 wants both signed.
    ("CFBL-Address", false),
    ("CFBL-Feedback-ID", false),
    ("X-Postkeep-Token", false),
];

/// Headers that change on the way, or are removed: signing them breaks the signature (RFC 6376 §5.4.1).
const NEVER: [&str; 5] = ["Return-Path", "Received", "Bcc", "DKIM-Signature", "Authentication-Results"];

/// Octets of one line of `h=`.
const LINE: usize = 74;

/// The names to sign, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeaderList {
    names: Vec<(Box<str>, bool)>,
}

impl HeaderList {
    /// The built-in list and these.
    pub(super) fn new(domain: &str, extra: &[String]) -> Result<Self, DkimError> {
        let mut names: Vec<(Box<str>, bool)> =
            BUILT_IN.iter().map(|(name, oversign)| (Box::from(*name), *oversign)).collect();
        for name in extra {
            let is_name = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b':' | b';'));
            if !is_name || NEVER.iter().any(|never| never.eq_ignore_ascii_case(name)) {
                return Err(DkimError::BadHeader { domain: domain.to_owned(), header: name.clone() });
            }
            if !names.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                names.push((name.as_str().into(), false));
            }
        }
        Ok(Self { names })
    }
}

/// One header field of the message that is signed.
struct Field<'a> {
    /// Its place in the list.
    place: usize,
    name: &'a [u8],
    value: &'a [u8],
}

/// The signed headers of one message: what `h=` says, and what is hashed.
pub(super) struct SignedHeaders {
    /// `h=` with its names, folded.
    pub(super) names: Vec<u8>,
    /// The relaxed forms in the order of `h=`.
    pub(super) canonical: Vec<u8>,
}

impl SignedHeaders {
    /// Finds the headers of `list` in the parts of a header block. Each part holds whole fields;
    /// an empty line ends the block. Fields of one name are signed from the bottom up (RFC 6376 §5.4.2).
    pub(super) fn find(list: &HeaderList, parts: &[&[u8]]) -> Self {
        let mut fields: Vec<Field<'_>> = Vec::with_capacity(32);
        for part in parts {
            let mut rest = *part;
            while let Some((field, after)) = next_field(rest) {
                rest = after;
                let Some(colon) = memchr::memchr(b':', field) else { continue };
                let (name, value) = field.split_at(colon);
                let trimmed = name.trim_ascii_end();
                let place = list.names.iter().position(|(known, _)| known.as_bytes().eq_ignore_ascii_case(trimmed));
                if let (Some(place), Some(value)) = (place, value.get(1..)) {
                    fields.push(Field { place, name, value });
                }
            }
        }
        let mut names = Vec::with_capacity(512);
        let mut canonical = Vec::with_capacity(2048);
        let mut column = 0;
        names.extend_from_slice(b"h=");
        column += 2;
        for (place, (name, oversign)) in list.names.iter().enumerate() {
            let mut write_name = || {
                if names.len() > 2 {
                    names.push(b':');
                    column += 1;
                }
                if column + name.len() >= LINE {
                    names.extend_from_slice(b"\r\n\t ");
                    column = 2;
                }
                names.extend_from_slice(name.as_bytes());
                column += name.len();
            };
            for field in fields.iter().rev().filter(|field| field.place == place) {
                relaxed_header(field.name, field.value, &mut canonical);
                write_name();
            }
            if *oversign {
                write_name();
            }
        }
        Self { names, canonical }
    }
}

/// The first field with its continuation lines, and what follows; `None` at the end of the block.
fn next_field(block: &[u8]) -> Option<(&[u8], &[u8])> {
    if block.is_empty() || block.starts_with(b"\r\n") || block.starts_with(b"\n") {
        return None;
    }
    let mut end = 0;
    loop {
        match memchr::memchr(b'\n', block.get(end..)?) {
            Some(at) => end += at + 1,
            None => end = block.len(),
        }
        if !matches!(block.get(end), Some(b' ' | b'\t')) {
            return Some(block.split_at(end));
        }
    }
}
