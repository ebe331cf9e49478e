//! The arguments of MAIL and RCPT: a path, then `KEYWORD` or `KEYWORD=value` (RFC 5321 §4.1.2).

use super::path::{Path, Side, split_path};
use super::{ForwardPath, Mail, Rcpt, bad_argument};
use crate::envelope::{BodyKind, Notify, Return};
use crate::reply::Reply;

/// Longest ENVID (RFC 3461 §4.4).
const MAXIMUM_ENVELOPE_ID: usize = 100;
/// Longest ORCPT (RFC 3461 §4.2).
const MAXIMUM_ORIGINAL: usize = 500;

pub(super) fn mail(argument: &str) -> Result<Mail, Reply> {
    let (path, rest) = split_path(argument, "FROM:", Side::Sender)?;
    let sender = match path {
        Path::Null => None,
        Path::Address(address) => Some(address),
        Path::Postmaster => {
            return Err(Reply::new(553, (5, 1, 7), "the sender address is refused: postmaster needs a domain here"));
        }
    };
    let mut mail = Mail { sender, ..Mail::default() };
    let mut seen = Seen::default();
    for (keyword, value) in parameters(rest) {
        mail.has_parameters = true;
        match (MailKeyword::find(keyword), value) {
            (Some(known), _) if !seen.first(known as u8) => return Err(twice(keyword)),
            (Some(MailKeyword::Size), Some(value)) => mail.size = Some(size(value)?),
            (Some(MailKeyword::Body), Some(value)) => mail.body = body(value)?,
            (Some(MailKeyword::SmtpUtf8), None) => mail.smtputf8 = true,
            (Some(MailKeyword::RequireTls), None) => mail.require_tls = true,
            (Some(MailKeyword::Ret), Some(value)) => mail.ret = Some(ret(value)?),
            (Some(MailKeyword::EnvId), Some(value)) if is_xtext(value) && value.len() <= MAXIMUM_ENVELOPE_ID => {
                mail.envelope_id = Some(value.into());
            }
            // RFC 4954 §5: who submitted it first. Nothing here trusts it.
            (Some(MailKeyword::Auth), Some(value)) if is_xtext(value) => {}
            (Some(_), _) => return Err(bad_value(keyword)),
            (None, _) => return Err(unknown(keyword)),
        }
    }
    Ok(mail)
}

pub(super) fn rcpt(argument: &str) -> Result<Rcpt, Reply> {
    let (path, rest) = split_path(argument, "TO:", Side::Recipient)?;
    let recipient = match path {
        Path::Address(address) => ForwardPath::Address(address),
        Path::Postmaster => ForwardPath::Postmaster,
        Path::Null => return Err(Reply::new(553, (5, 1, 3), "the recipient address is refused: it is empty")),
    };
    let mut rcpt = Rcpt { recipient, notify: None, original: None, has_parameters: false };
    for (keyword, value) in parameters(rest) {
        rcpt.has_parameters = true;
        if keyword.eq_ignore_ascii_case("NOTIFY") {
            if rcpt.notify.is_some() {
                return Err(twice(keyword));
            }
            rcpt.notify = Some(notify(value.unwrap_or_default())?);
        } else if keyword.eq_ignore_ascii_case("ORCPT") {
            if rcpt.original.is_some() {
                return Err(twice(keyword));
            }
            let value = value.filter(|value| is_original(value)).ok_or_else(|| bad_value(keyword))?;
            rcpt.original = Some(value.into());
        } else {
            return Err(unknown(keyword));
        }
    }
    Ok(rcpt)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MailKeyword {
    Size,
    Body,
    SmtpUtf8,
    Ret,
    EnvId,
    Auth,
    RequireTls,
}

impl MailKeyword {
    fn find(keyword: &str) -> Option<Self> {
        [
            ("SIZE", Self::Size),
            ("BODY", Self::Body),
            ("SMTPUTF8", Self::SmtpUtf8),
            ("RET", Self::Ret),
            ("ENVID", Self::EnvId),
            ("AUTH", Self::Auth),
            ("REQUIRETLS", Self::RequireTls),
        ]
        .into_iter()
        .find_map(|(name, known)| name.eq_ignore_ascii_case(keyword).then_some(known))
    }
}

/// Which keywords were there before.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn first(&mut self, keyword: u8) -> bool {
        let bit = 1u8 << (keyword & 7);
        let first = self.0 & bit == 0;
        self.0 |= bit;
        first
    }
}

fn parameters(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn twice(keyword: &str) -> Reply {
    bad_argument(format!("the parameter {} is given twice", shown(keyword)))
}

fn bad_value(keyword: &str) -> Reply {
    bad_argument(format!("the value of the parameter {} is not valid", shown(keyword)))
}

fn unknown(keyword: &str) -> Reply {
    Reply::new(555, (5, 5, 4), format!("the parameter {} is not recognised", shown(keyword)))
}

fn shown(keyword: &str) -> String {
    keyword.chars().take(40).filter(char::is_ascii_graphic).collect()
}

/// Up to 20 digits (RFC 1870 §3). A number beyond 64 bits is larger than every limit.
fn size(value: &str) -> Result<u64, Reply> {
    if value.is_empty() || value.len() > 20 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_value("SIZE"));
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Result<BodyKind, Reply> {
    if value.eq_ignore_ascii_case("7BIT") {
        Ok(BodyKind::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Ok(BodyKind::EightBitMime)
    } else {
        Err(bad_argument("BODY is 7BIT or 8BITMIME here; BINARYMIME is not offered"))
    }
}

fn ret(value: &str) -> Result<Return, Reply> {
    if value.eq_ignore_ascii_case("FULL") {
        Ok(Return::Full)
    } else if value.eq_ignore_ascii_case("HDRS") {
        Ok(Return::Headers)
    } else {
        Err(bad_value("RET"))
    }
}

fn notify(value: &str) -> Result<Notify, Reply> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::NEVER);
    }
    let mut notify = Notify::default();
    for word in value.split(',') {
        let wanted = if word.eq_ignore_ascii_case("SUCCESS") {
            &mut notify.success
        } else if word.eq_ignore_ascii_case("FAILURE") {
            &mut notify.failure
        } else if word.eq_ignore_ascii_case("DELAY") {
            &mut notify.delay
        } else {
            return Err(bad_argument("NOTIFY is NEVER, or any of SUCCESS, FAILURE and DELAY separated by commas"));
        };
        *wanted = true;
    }
    Ok(notify)
}

/// Printable ASCII without `+` and `=`, but for `+` and two upper-case hexadecimal digits (RFC 3461 §4).
fn is_xtext(value: &str) -> bool {
    let bytes = value.as_bytes();
    let is_hexadecimal = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    !bytes.is_empty()
        && bytes.iter().enumerate().all(|(position, byte)| match byte {
            b'+' => is_hexadecimal(bytes.get(position + 1)) && is_hexadecimal(bytes.get(position + 2)),
            b'=' => false,
            _ => (33..=126).contains(byte),
        })
}

/// `type;address`, the address in xtext, or with UTF-8 letters for type `utf-8` (RFC 6533 §3).
fn is_original(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else {
        return false;
    };
    let kind_is_atom = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let address_is_valid = if kind.eq_ignore_ascii_case("utf-8") {
        !address.is_empty() && address.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '=')
    } else {
        is_xtext(address)
    };
    value.len() <= MAXIMUM_ORIGINAL && kind_is_atom && address_is_valid
}
