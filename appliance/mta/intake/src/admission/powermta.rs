//! PowerMTA's header fields, for senders whose policy says that they count: `x-virtual-mta` chooses the pool or
//! the source, `x-job` names the job for records, `x-envid` is the envelope id. They are taken out, as PowerMTA does.

use std::fmt::Write;
use std::ops::Range;

use postkeep_smtp::header;

/// Names of the fields.
pub const FIELDS: [&str; 3] = ["X-Virtual-MTA", "X-Job", "X-Envid"];
/// Longest name of a job, in octets.
const LONGEST_JOB: usize = 255;
/// Longest ENVID, in octets of xtext (RFC 3461 §4.4).
const LONGEST_ENVELOPE_ID: usize = 100;

/// What the fields ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) virtual_mta: Option<String>,
    pub(super) job: Option<String>,
    /// In xtext.
    pub(super) envelope_id: Option<String>,
    /// Where they stand in the block.
    pub(super) ranges: Vec<Range<usize>>,
}

/// Finds the fields. The error is the reason of a refusal.
pub(super) fn asked(block: &[u8]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut seen = [false; FIELDS.len()];
    for field in header::fields(block).map_while(Result::ok) {
        let Some(number) = FIELDS.iter().position(|name| field.is(name)) else { continue };
        if std::mem::replace(&mut seen[number], true) {
            return Err(format!("the {} field is there twice", FIELDS[number]));
        }
        let value = field.unfolded();
        let text = std::str::from_utf8(&value)
            .ok()
            .filter(|text| !text.chars().any(char::is_control) && text.len() <= LONGEST_JOB)
            .ok_or_else(|| {
                format!(
                    "the {} field is not a text of at most {LONGEST_JOB} octets without control characters",
                    FIELDS[number]
                )
            })?;
        asked.ranges.push(field.range.clone());
        // An empty one asks for nothing.
        let text = Some(text.to_owned()).filter(|text| !text.is_empty());
        match number {
            0 => asked.virtual_mta = text,
            1 => asked.job = text,
            _ => asked.envelope_id = text.map(|text| xtext(&text)).transpose()?,
        }
    }
    Ok(asked)
}

/// RFC 3461 §4: what is not printable ASCII, `+` and `=` are written as `+` and two digits.
fn xtext(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_graphic() && octet != b'+' && octet != b'=' {
            out.push(char::from(octet));
        } else {
            // Writing to a text does not fail.
            let _ = write!(out, "+{octet:02X}");
        }
    }
    if out.len() > LONGEST_ENVELOPE_ID {
        return Err(format!("the X-Envid field is longer than the {LONGEST_ENVELOPE_ID} octets of an envelope id"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_read_in_any_case_and_the_envelope_id_is_xtext() {
        let block = b"X-VIRTUAL-MTA: fast\r\nSubject: x\r\nx-job: week 7\r\nX-EnvId: a+b=c d\r\n\r\n";
        let found = asked(block).unwrap();
        assert_eq!(found.virtual_mta.as_deref(), Some("fast"));
        assert_eq!(found.job.as_deref(), Some("week 7"));
        assert_eq!(found.envelope_id.as_deref(), Some("a+2Bb+3Dc+20d"));
        assert_eq!(found.ranges.len(), 3);
        assert_eq!(asked(b"X-Job:\r\n\r\n").map(|asked| asked.job), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for block in [
            "X-Job: a\r\nx-job: b\r\n\r\n".to_owned(),
            format!("X-Job: {}\r\n\r\n", "x".repeat(256)),
            "X-Job: a\u{7f}b\r\n\r\n".to_owned(),
            format!("X-Envid: {}\r\n\r\n", "=".repeat(40)),
        ] {
            assert!(asked(block.as_bytes()).is_err(), "{block}");
        }
    }
}
