//! The octets of MAIL, RCPT and BDAT, with the parameters that a peer offers and no others.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};

use super::Request;
use crate::capabilities::Capabilities;
use crate::envelope::Recipient;

/// `MAIL FROM:<…>` with SIZE, BODY, SMTPUTF8, RET and ENVID where offered and needed.
pub(super) fn write_mail(out: &mut BytesMut, request: &Request<'_>, capabilities: &Capabilities) {
    out.put_slice(b"MAIL FROM:<");
    if let Some(sender) = request.sender {
        out.put_slice(sender.as_str().as_bytes());
    }
    out.put_slice(b">");
    if capabilities.size {
        put(out, format_args!(" SIZE={}", request.size));
    }
    if request.eight_bit && capabilities.eight_bit_mime {
        out.put_slice(b" BODY=8BITMIME");
    }
    if capabilities.smtputf8 && request.has_utf8() {
        out.put_slice(b" SMTPUTF8");
    }
    if request.require_tls && capabilities.require_tls {
        out.put_slice(b" REQUIRETLS");
    }
    if capabilities.dsn {
        if let Some(ret) = request.ret {
            put(out, format_args!(" RET={ret}"));
        }
        if let Some(id) = request.envelope_id.filter(|id| is_parameter(id, false)) {
            put(out, format_args!(" ENVID={id}"));
        }
    }
    out.put_slice(b"\r\n");
}

/// `RCPT TO:<…>` with NOTIFY and ORCPT where DSN is offered.
pub(super) fn write_rcpt(out: &mut BytesMut, recipient: &Recipient, capabilities: &Capabilities) {
    out.put_slice(b"RCPT TO:<");
    // An address that does not fit never comes here; if it did, it would be the peer's to refuse.
    out.put_slice(recipient.address.as_str().as_bytes());
    out.put_slice(b">");
    if capabilities.dsn {
        if let Some(notify) = recipient.notify.filter(|notify| notify.specified()) {
            put(out, format_args!(" NOTIFY={notify}"));
        }
        let original = recipient.original.as_deref();
        if let Some(original) = original.filter(|original| is_parameter(original, capabilities.smtputf8)) {
            put(out, format_args!(" ORCPT={original}"));
        }
    }
    out.put_slice(b"\r\n");
}

/// `BDAT n LAST`.
pub(super) fn write_bdat(out: &mut BytesMut, size: u64) {
    put(out, format_args!("BDAT {size} LAST\r\n"));
}

/// Whether a parameter value may stand in a command line: no space, no control, and ASCII unless `utf8`.
fn is_parameter(value: &str, utf8: bool) -> bool {
    let allowed = |character: char| character.is_ascii_graphic() || (utf8 && !character.is_ascii());
    !value.is_empty() && value.len() <= 500 && value.chars().all(allowed)
}

fn put(out: &mut BytesMut, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory that grows does not fail.
    let _ = out.write_fmt(arguments);
}
