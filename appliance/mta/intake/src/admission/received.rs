//! The trace line and the date that this host writes (RFC 5321 §4.4, RFC 5322 §3.3).

use std::fmt::Write;
use std::net::IpAddr;

use bytes::BytesMut;
use jiff::Timestamp;
use jiff::fmt::StdFmtWrite;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

use super::Arrival;

/// `Received: from helo ([address]) by host with ESMTPSA id … (TLSv1.3 …); date`. No `for`:
/// the content is one for all recipients, who need not know of each other.
pub(super) fn write(out: &mut BytesMut, hostname: &str, arrival: &Arrival<'_>) {
    // Writing to a buffer that grows does not fail.
    let _ = match arrival.client {
        IpAddr::V4(address) => write!(out, "Received: from {} ([{address}])", arrival.helo),
        IpAddr::V6(address) => write!(out, "Received: from {} ([IPv6:{address}])", arrival.helo),
    };
    let _ = write!(out, "\r\n\tby {hostname} with {} id {}", protocol(arrival), arrival.id);
    if let Some(tls) = arrival.tls {
        let _ = write!(out, "\r\n\t({} {})", tls.version, tls.cipher);
    }
    out.extend_from_slice(b";\r\n\t");
    put_date(out, arrival.now);
}

/// `Date: …`.
pub(super) fn write_date(out: &mut BytesMut, now: Timestamp) {
    out.extend_from_slice(b"Date: ");
    put_date(out, now);
}

fn put_date(out: &mut BytesMut, now: Timestamp) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new();
    let _ = PRINTER.print_zoned_datetime(&now.to_zoned_datetime(TimeZone::UTC), StdFmtWrite(&mut *out));
    out.extend_from_slice(b"\r\n");
}

/// The keyword of the IANA registry (RFC 3848, RFC 6531 §4.3).
fn protocol(arrival: &Arrival<'_>) -> &'static str {
    if arrival.http {
        return if arrival.tls.is_some() { "HTTPS" } else { "HTTP" };
    }
    match (arrival.extended, arrival.smtputf8, arrival.tls.is_some(), arrival.authenticated) {
        (false, ..) => "SMTP",
        (_, false, false, false) => "ESMTP",
        (_, false, false, true) => "ESMTPA",
        (_, false, true, false) => "ESMTPS",
        (_, false, true, true) => "ESMTPSA",
        (_, true, false, false) => "UTF8SMTP",
        (_, true, false, true) => "UTF8SMTPA",
        (_, true, true, false) => "UTF8SMTPS",
        (_, true, true, true) => "UTF8SMTPSA",
    }
}
