//! The fields of a header that admission looks at, found in one walk.

use std::ops::Range;

use postkeep_smtp::header::{self, Field};

/// Fields that may stand once (RFC 5322 §3.6).
const ONCE: [&str; 11] =
    ["From", "Date", "Message-ID", "Subject", "Sender", "Reply-To", "To", "Cc", "Bcc", "In-Reply-To", "References"];

/// The fields that matter.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) from: Option<Field<'a>>,
    pub(super) date: Option<Field<'a>>,
    pub(super) message_id: Option<Field<'a>>,
    pub(super) stream: Option<Field<'a>>,
    pub(super) list: Option<Field<'a>>,
    /// Where `Bcc` and `Resent-Bcc` stand.
    pub(super) blind: Vec<Range<usize>>,
    pub(super) received: usize,
    /// `TLS-Required: No` (RFC 8689 §5).
    pub(super) tls_not_required: bool,
}

impl<'a> Fields<'a> {
    /// Walks once over the block. The error is the reason of a refusal.
    pub(super) fn collect(block: &'a [u8], stream_header: &str) -> Result<Self, String> {
        let mut found = Self::default();
        let mut seen = 0u16;
        for field in header::fields(block) {
            let field = field.map_err(|error| error.to_string())?;
            if field.is("Received") {
                found.received += 1;
                continue;
            }
            if field.is("Bcc") || field.is("Resent-Bcc") {
                found.blind.push(field.range.clone());
            }
            if let Some(number) = ONCE.iter().position(|name| field.is(name)) {
                if seen & (1 << number) != 0 {
                    return Err(twice(ONCE.get(number).copied().unwrap_or_default()));
                }
                seen |= 1 << number;
                match number {
                    0 => found.from = Some(field),
                    1 => found.date = Some(field),
                    2 => found.message_id = Some(field),
                    _ => {}
                }
            } else if field.is("List-Id") {
                // Twice is against RFC 2919 §3, but harmless: the first one counts.
                found.list.get_or_insert(field);
            } else if field.is("TLS-Required") {
                found.tls_not_required = field.unfolded().trim_ascii().eq_ignore_ascii_case(b"No");
            } else if field.is(stream_header) && found.stream.replace(field).is_some() {
                return Err(twice(stream_header));
            }
        }
        Ok(found)
    }
}

fn twice(name: &str) -> String {
    format!("the {name} field is there twice")
}
