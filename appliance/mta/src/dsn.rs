//! Delivery status notifications (RFC 3461, 3464): what the sender is told when
//! mail bounced, expired, is late, or was delivered and they asked to know.
//!
//! Pure: builds bytes from what it is given. The caller decides whether one is due.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use postkeep_smtp::envelope::Return;
use postkeep_smtp::reply::{EnhancedCode, Reply};

use crate::clock::{Micros, header_date};

/// Bytes of a returned message in full, at most; longer ones return headers only (RFC 3461 §4.3 lets us).
const MOST_RETURNED: usize = 100 * 1024;

/// What became of the recipients named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Will not be delivered.
    Failed,
    /// Not yet delivered, still being tried.
    Delayed,
    /// Handed to a host that does not speak DSN.
    Relayed,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
        }
    }
}

/// One recipient of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status<'a> {
    /// Address we delivered to.
    pub recipient: &'a str,
    /// ORCPT as the sender gave it: `rfc822;a@b`.
    pub original: Option<&'a str>,
    /// The reply that decided, the receiver's or our own.
    pub reply: &'a Reply,
    /// Host that replied; `None`: the reply is our own.
    pub remote: Option<&'a str>,
    /// Until when it will be tried, Unix seconds; for delays.
    pub retry_until: Option<u32>,
}

/// The message that the report is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Reverse path: where the report goes.
    pub sender: &'a str,
    /// ENVID as given.
    pub envelope_id: Option<&'a str>,
    /// RET as given.
    pub ret: Option<Return>,
    /// When it was accepted, Unix seconds.
    pub received: u32,
    /// Header lines that we put before it.
    pub prefix: &'a Bytes,
    /// Its header block and body.
    pub content: &'a Bytes,
    /// Where the body starts.
    pub header_length: usize,
    /// Its addresses or headers need UTF-8 (RFC 6533).
    pub utf8: bool,
}

/// A report ready for the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Headers and body, CRLF line ends.
    pub content: Bytes,
    /// Where its body starts.
    pub header_length: usize,
    /// Its Message-ID.
    pub message_id: String,
    /// Some line begins with a dot.
    pub has_dot_lines: bool,
    /// It holds 8-bit bytes.
    pub eight_bit: bool,
}

/// Builds one report from `hostname` about one or more recipients of one message.
/// `id` makes Message-ID and boundary unique.
pub fn build(
    hostname: &str,
    id: &str,
    now: Micros,
    action: Action,
    subject: &Subject<'_>,
    statuses: &[Status<'_>],
) -> Report {
    let message_id = format!("<{id}@{hostname}>");
    let boundary = format!("=_postkeep_{id}");
    let mut head = String::with_capacity(2048);
    // Writing to a String cannot fail.
    let _ = write!(
        head,
        "From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\n\
         To: <{}>\r\n\
         Subject: {}\r\n\
         Date: {}\r\n\
         Message-ID: {message_id}\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n",
        subject.sender,
        subject_line(action),
        header_date(now),
    );
    let utf8 = subject.utf8
        || statuses.iter().any(|status| !status.recipient.is_ascii() || !status.reply.text.is_ascii())
        || statuses.iter().any(|status| status.original.is_some_and(|original| !decode_xtext(original).is_ascii()))
        || subject.envelope_id.is_some_and(|id| !decode_xtext(id).is_ascii())
        || !subject.sender.is_ascii();
    if utf8 {
        head.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }
    head.push_str("\r\n");
    let header_length = head.len();
    let charset = if utf8 { "utf-8" } else { "us-ascii" };
    let _ = write!(head, "--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\n");
    if utf8 {
        head.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }
    head.push_str("\r\n");
    write_text(&mut head, hostname, action, statuses);
    let _ = write!(
        head,
        "\r\n--{boundary}\r\nContent-Type: message/{}delivery-status\r\n{}\r\n",
        if utf8 { "global-" } else { "" },
        if utf8 { "Content-Transfer-Encoding: 8bit\r\n" } else { "" }
    );
    write_machine_part(&mut head, hostname, action, subject, statuses, utf8);

    // RFC 3461 §4.3: the whole message only for failures, and only when asked; headers otherwise.
    let full = action == Action::Failed && subject.ret == Some(Return::Full) && subject.content.len() <= MOST_RETURNED;
    let returned = if full {
        &subject.content[..]
    } else {
        subject.content.get(..subject.header_length).unwrap_or(subject.content)
    };
    let eight_bit_return = !returned.is_ascii() || !subject.prefix.is_ascii();
    let kind = match (full, utf8 || eight_bit_return) {
        (true, false) => "message/rfc822",
        (true, true) => "message/global",
        (false, false) => "text/rfc822-headers",
        (false, true) => "message/global-headers",
    };
    let _ = write!(
        head,
        "\r\n--{boundary}\r\nContent-Type: {kind}\r\n{}\r\n",
        if eight_bit_return { "Content-Transfer-Encoding: 8bit\r\n" } else { "" }
    );

    let length = head.len() + subject.prefix.len() + returned.len() + boundary.len() + 16;
    let mut out = BytesMut::with_capacity(length);
    out.put_slice(head.as_bytes());
    // The sender may know the message only by the Message-ID that we gave it.
    out.put_slice(subject.prefix);
    out.put_slice(returned);
    if !returned.ends_with(b"\r\n") {
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n--");
    out.put_slice(boundary.as_bytes());
    out.put_slice(b"--\r\n");
    let content = out.freeze();
    let has_dot_lines = content.windows(3).any(|window| window == b"\r\n.");
    let eight_bit = !content.is_ascii();
    Report { content, header_length, message_id, has_dot_lines, eight_bit }
}

fn subject_line(action: Action) -> &'static str {
    match action {
        Action::Failed => "Undelivered mail returned to sender",
        Action::Delayed => "Delayed mail (still being retried)",
        Action::Relayed => "Successful mail delivery report",
    }
}

fn write_text(out: &mut String, hostname: &str, action: Action, statuses: &[Status<'_>]) {
    let _ = write!(out, "This is the mail system at {hostname}.\r\n\r\n");
    out.push_str(match action {
        Action::Failed => "Your message could not be delivered to the recipients below.\r\nIt will not be tried again.\r\n",
        Action::Delayed => "Your message has not been delivered yet to the recipients below.\r\nYou need not send it again: it is still being tried.\r\n",
        Action::Relayed => "Your message was handed to the next host for the recipients below,\r\nwhich sends no reports of its own.\r\n",
    });
    for status in statuses {
        let _ = write!(out, "\r\n<{}>: ", status.recipient);
        match status.remote {
            Some(host) => {
                let _ = write!(out, "host {host} said: ");
            }
            None => out.push_str("not sent: "),
        }
        let _ = write!(out, "{}\r\n", one_line(status.reply));
    }
}

fn write_machine_part(
    out: &mut String,
    hostname: &str,
    action: Action,
    subject: &Subject<'_>,
    statuses: &[Status<'_>],
    utf8: bool,
) {
    let _ = write!(out, "Reporting-MTA: dns; {hostname}\r\n");
    if let Some(id) = subject.envelope_id {
        let _ = write!(out, "Original-Envelope-Id: {}\r\n", decode_xtext(id));
    }
    let _ = write!(out, "Arrival-Date: {}\r\n", header_date(u64::from(subject.received) * 1_000_000));
    for status in statuses {
        out.push_str("\r\n");
        if let Some(original) = status.original {
            let _ = write!(out, "Original-Recipient: {}\r\n", decode_original(original));
        }
        let kind = if utf8 && !status.recipient.is_ascii() { "utf-8" } else { "rfc822" };
        let _ = write!(
            out,
            "Final-Recipient: {kind}; {}\r\nAction: {}\r\nStatus: {}\r\n",
            status.recipient,
            action.word(),
            code(action, status.reply)
        );
        if let Some(host) = status.remote {
            let _ = write!(out, "Remote-MTA: dns; {host}\r\n");
        }
        let _ = write!(
            out,
            "Diagnostic-Code: {}; {}\r\n",
            if status.remote.is_some() { "smtp" } else { "X-Postkeep" },
            one_line(status.reply)
        );
        if let Some(until) = status.retry_until {
            let _ = write!(out, "Will-Retry-Until: {}\r\n", header_date(u64::from(until) * 1_000_000));
        }
    }
}

/// The status of a report must fit its action, whatever the receiver's code was.
fn code(action: Action, reply: &Reply) -> EnhancedCode {
    let class = match action {
        Action::Failed => 5,
        Action::Delayed => 4,
        Action::Relayed => 2,
    };
    match reply.enhanced {
        Some(code) if code.class == class => code,
        Some(code) if class != 2 => EnhancedCode { class, ..code },
        _ => EnhancedCode { class, subject: 0, detail: 0 },
    }
}

/// A reply on one line, as Diagnostic-Code wants it.
fn one_line(reply: &Reply) -> String {
    let mut line = reply.code.to_string();
    if let Some(code) = reply.enhanced {
        let _ = write!(line, " {code}");
    }
    line.push(' ');
    line.extend(reply.text.chars().take(900).map(|c| if c.is_control() { ' ' } else { c }));
    line
}

/// RFC 3461 §4: `+XX` is a byte in hexadecimal. Control characters stay encoded.
fn decode_xtext(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = (bytes[at] == b'+')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|byte| *byte >= 0x20 && *byte != 0x7f);
        match decoded {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn decode_original(original: &str) -> String {
    match original.split_once(';') {
        Some((kind, address)) => format!("{kind}; {}", decode_xtext(address)),
        None => original.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(action: Action, ret: Option<Return>) -> String {
        let content = Bytes::from_static(b"From: a@b\r\nSubject: hi\r\n\r\nbody\r\n.dot\r\n");
        let reply = Reply::new(550, (5, 1, 1), "no such\nuser");
        let subject = Subject {
            sender: "bounces@sender.example",
            envelope_id: Some("QQ+2B1"),
            ret,
            received: 0,
            prefix: &Bytes::from_static(b"Received: from x\r\n"),
            content: &content,
            header_length: 26,
            utf8: false,
        };
        let status = Status {
            recipient: "u@example.org",
            original: Some("rfc822;U+2Bx@example.org"),
            reply: &reply,
            remote: Some("mx.example.org"),
            retry_until: None,
        };
        let report = build("mx1.sender.example", "0001", 1_000_000, action, &subject, &[status]);
        assert!(report.content[..report.header_length].ends_with(b"\r\n\r\n"));
        String::from_utf8(report.content.to_vec()).unwrap()
    }

    #[test]
    fn a_failure_names_recipient_status_and_diagnostic_as_rfc_3464_wants() {
        let text = report(Action::Failed, None);
        for line in [
            "Content-Type: multipart/report; report-type=delivery-status;",
            "Auto-Submitted: auto-replied",
            "Reporting-MTA: dns; mx1.sender.example",
            "Original-Envelope-Id: QQ+1",
            "Original-Recipient: rfc822; U+x@example.org",
            "Final-Recipient: rfc822; u@example.org",
            "Action: failed",
            "Status: 5.1.1",
            "Remote-MTA: dns; mx.example.org",
            "Diagnostic-Code: smtp; 550 5.1.1 no such user",
            "Content-Type: text/rfc822-headers",
        ] {
            assert!(text.contains(&format!("{line}\r\n")), "{line}\n{text}");
        }
        assert!(!text.contains("body\r\n"));
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    }

    #[test]
    fn the_whole_message_returns_only_for_failures_that_asked() {
        assert!(
            report(Action::Failed, Some(Return::Full))
                .contains("Content-Type: message/rfc822\r\n\r\nReceived: from x\r\nFrom: a@b\r\n")
        );
        assert!(!report(Action::Delayed, Some(Return::Full)).contains("body\r\n"));
        assert!(report(Action::Relayed, None).contains("Status: 2.0.0\r\n"));
        assert!(report(Action::Delayed, None).contains("Status: 4.1.1\r\n"));
    }

    #[test]
    fn xtext_decodes_but_never_into_control_characters() {
        assert_eq!(decode_xtext("a+2Bb+3D"), "a+b=");
        assert_eq!(decode_xtext("a+0D+0Ab+"), "a+0D+0Ab+");
    }
}
