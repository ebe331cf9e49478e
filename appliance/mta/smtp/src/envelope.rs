//! The envelope of a message: who sends it, who gets it, and what either end asked for
//! (RFC 5321 §2.3.1, RFC 3461, RFC 6152, RFC 6531).

use std::fmt;

use crate::address::Address;

/// What the client said of the content (`BODY=`, RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BodyKind {
    /// 7BIT, also when nothing was said.
    #[default]
    SevenBit,
    /// 8BITMIME.
    EightBitMime,
}

/// When the sender wants a report about a recipient (`NOTIFY=`, RFC 3461 §4.1).
///
/// All `false` is "not specified": failures, and delays if the server sends such notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Notify {
    /// NEVER: no report whatever happens. Excludes the others.
    pub never: bool,
    /// SUCCESS: when delivered or handed to a server without DSN.
    pub success: bool,
    /// FAILURE: when given up.
    pub failure: bool,
    /// DELAY: when it takes long.
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self { never: true, success: false, failure: false, delay: false };

    /// Whether the client said anything.
    pub const fn specified(self) -> bool {
        self.never || self.success || self.failure || self.delay
    }

    /// Whether a failure is to be reported: asked for, or nothing said.
    pub const fn wants_failure(self) -> bool {
        self.failure || !self.specified()
    }
}

/// As it is written after `NOTIFY=`; nothing when not specified.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.never {
            return f.write_str("NEVER");
        }
        let mut separator = "";
        for (wanted, word) in [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")] {
            if wanted {
                write!(f, "{separator}{word}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

/// How much of the message a failure report carries (`RET=`, RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Return {
    /// FULL: the whole message.
    Full,
    /// HDRS: its header only.
    Headers,
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

/// What the sender says of TLS on the way (RFC 8689).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsRequest {
    /// Nothing: policies decide.
    #[default]
    Unsaid,
    /// REQUIRETLS: every hop must have it, with a host that proves its name, or the message goes back.
    Required,
    /// `TLS-Required: No`: deliver it even where policies would not.
    NotRequired,
}

/// One recipient with what was asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// Where it goes.
    pub address: Address,
    /// `NOTIFY=`; `None` when not given.
    pub notify: Option<Notify>,
    /// `ORCPT=` as given: address type, `;`, xtext.
    pub original: Option<Box<str>>,
}

impl Recipient {
    /// A recipient for whom nothing was asked.
    pub const fn new(address: Address) -> Self {
        Self { address, notify: None, original: None }
    }
}

/// Sender, recipients and the requests of the mail transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// Return path; `None` is `<>`.
    pub sender: Option<Address>,
    /// In the order given, each address once.
    pub recipients: Vec<Recipient>,
    /// `BODY=`.
    pub body: BodyKind,
    /// `SMTPUTF8` was said: addresses or headers may be UTF-8.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Return>,
    /// `ENVID=` as given, xtext.
    pub envelope_id: Option<Box<str>>,
    /// What is asked of TLS.
    pub tls: TlsRequest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_prints_as_rfc_3461_writes_it() {
        let notify = Notify { success: true, delay: true, ..Notify::default() };
        assert_eq!(notify.to_string(), "SUCCESS,DELAY");
        assert_eq!(Notify::NEVER.to_string(), "NEVER");
        assert_eq!(Notify::default().to_string(), "");
    }

    #[test]
    fn nothing_said_means_failures_and_delays() {
        assert!(Notify::default().wants_failure());
        assert!(!Notify::NEVER.wants_failure());
        let success = Notify { success: true, ..Notify::default() };
        assert!(!success.wants_failure());
    }
}
