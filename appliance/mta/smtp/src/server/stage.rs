//! Where in a session something was refused.

use std::fmt;

/// Where in a session something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the greeting: too many connections, a peer that is no listed proxy.
    Connect,
    /// A command that is not understood or out of order, or too many of them.
    Command,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS, or the handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA or BDAT, before or while the content is read.
    Data,
    /// The message: its content, its header or the spool.
    Message,
}

impl Stage {
    /// The word for records: `connect`, `command`, `hello`, `tls`, `auth`, `mail`, `rcpt`, `data`, `message`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Command => "command",
            Self::Hello => "hello",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Message => "message",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The stage of a command that could not be read.
pub(super) fn of_verb(verb: &[u8]) -> Stage {
    [
        (&b"EHLO"[..], Stage::Hello),
        (b"HELO", Stage::Hello),
        (b"STARTTLS", Stage::Tls),
        (b"AUTH", Stage::Auth),
        (b"MAIL", Stage::Mail),
        (b"RCPT", Stage::Rcpt),
        (b"DATA", Stage::Data),
        (b"BDAT", Stage::Data),
    ]
    .into_iter()
    .find_map(|(name, stage)| name.eq_ignore_ascii_case(verb).then_some(stage))
    .unwrap_or(Stage::Command)
}
