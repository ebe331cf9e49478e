//! The client's side of one mail transaction, without I/O: which commands to
//! write, in which groups, and what the replies mean for each recipient. Every
//! recipient gets exactly one [`Outcome`], whatever the peer says or fails to say.
//!
//! **DATA or BDAT.** With CHUNKING the content goes by BDAT, because no `354` has
//! to be awaited and no line to be searched for a dot. With PIPELINING too, a
//! content up to [`ONE_GROUP`] goes out together with MAIL and RCPT: one write,
//! one round trip. A larger one waits for the replies to RCPT first, so that
//! megabytes are not sent to a peer that wants none of the recipients. Without
//! CHUNKING it is DATA, pipelined behind the last RCPT where PIPELINING allows
//! (RFC 2920 §3.1); when the peer then says `354` although it refused every
//! recipient, a lone dot ends the transaction.

mod commands;
mod dialogue;

pub use dialogue::{Content, Dialogue, End, Step};

use std::fmt;

use crate::address::Address;
use crate::capabilities::Capabilities;
use crate::envelope::{Recipient, Return};
use crate::reply::Reply;

/// Largest content, in octets, that is sent by BDAT in one group with MAIL and RCPT.
pub const ONE_GROUP: u64 = 64 * 1024;

/// How far a connection or a transaction had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Binding to the source address.
    Bind,
    /// TCP connect.
    Connect,
    /// Waiting for the greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    Tls,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, up to the last octet before the end of the content.
    Data,
    /// After the final dot or the last chunk.
    Final,
}

impl Stage {
    /// The word for records: `bind`, `connect`, `greeting`, `ehlo`, `tls`, `mail`, `rcpt`, `data`, `final`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Tls => "tls",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Final => "final",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of one recipient in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The peer took responsibility.
    Delivered(Reply),
    /// The peer said no: for now (4xx) or for good (5xx).
    Refused {
        /// The command that was refused.
        stage: Stage,
        /// In the peer's words.
        reply: Reply,
    },
    /// No usable reply: the connection broke, a time-out, or the peer was out of step. Try again.
    /// At [`Stage::Final`] the peer may have the message all the same.
    Lost {
        /// The first command without a reply.
        stage: Stage,
        /// What happened, for the record.
        detail: String,
    },
    /// This peer cannot be given the message as it is; said by us. Nothing was sent for this recipient,
    /// or the peer did not understand it.
    Unsendable {
        /// Our own reply with its enhanced code: 5xx, or 4xx where another connection will do better.
        reply: Reply,
    },
}

/// What one transaction is to carry, as far as commands need to know it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Return path; `None` is `<>`.
    pub sender: Option<&'a Address>,
    /// At least one, in the order of the outcomes.
    pub recipients: &'a [Recipient],
    /// Octets of the content, dots not doubled.
    pub size: u64,
    /// The content has octets above 127.
    pub eight_bit: bool,
    /// The message's header has octets above 127 and the sender asked for SMTPUTF8.
    pub utf8_header: bool,
    /// RET of the sender; passed on where DSN is offered.
    pub ret: Option<Return>,
    /// ENVID of the sender as xtext; passed on where DSN is offered.
    pub envelope_id: Option<&'a str>,
    /// The sender said REQUIRETLS; passed on where it is offered.
    pub require_tls: bool,
}

impl Request<'_> {
    /// Whether an address or the header needs SMTPUTF8 when nothing is converted.
    fn has_utf8(&self) -> bool {
        self.utf8_header
            || self.sender.is_some_and(|sender| !sender.is_ascii())
            || self.recipients.iter().any(|recipient| {
                !recipient.address.is_ascii()
                    || recipient.original.as_deref().is_some_and(|original| !original.is_ascii())
            })
    }
}

/// Why a peer with these capabilities cannot be given this message at all, as
/// our own reply: too large (552 5.3.4), 8-bit content without 8BITMIME (554
/// 5.6.3), a UTF-8 header (554 5.6.9) or sender (553 5.6.7) without SMTPUTF8.
pub fn obstacle(request: &Request<'_>, capabilities: &Capabilities) -> Option<Reply> {
    if let Some(limit) = capabilities.size_limit
        && request.size > limit
    {
        let text = format!("message of {} octets is larger than the {limit} that the host accepts", request.size);
        return Some(Reply::new(552, (5, 3, 4), text));
    }
    if request.eight_bit && !capabilities.eight_bit_mime {
        let text = "message has 8-bit content and the host does not offer 8BITMIME";
        return Some(Reply::new(554, (5, 6, 3), text));
    }
    if capabilities.smtputf8 {
        return None;
    }
    if request.utf8_header {
        let text = "message has a UTF-8 header and the host does not offer SMTPUTF8";
        return Some(Reply::new(554, (5, 6, 9), text));
    }
    match request.sender {
        Some(sender) if !sender.is_ascii() => {
            let text = "sender address is not ASCII and the host does not offer SMTPUTF8";
            Some(Reply::new(553, (5, 6, 7), text))
        }
        _ => None,
    }
}

/// Why this recipient cannot be named to a peer with these capabilities: 553 5.6.7.
pub fn recipient_obstacle(recipient: &Address, capabilities: &Capabilities) -> Option<Reply> {
    (!capabilities.smtputf8 && !recipient.is_ascii()).then(|| {
        let text = "recipient address is not ASCII and the host does not offer SMTPUTF8";
        Reply::new(553, (5, 6, 7), text)
    })
}

#[cfg(test)]
mod tests;
