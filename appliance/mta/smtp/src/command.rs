//! One command line of a client, read strictly (RFC 5321 §4.1 and its extensions).
//!
//! Extensions: SIZE (RFC 1870), STARTTLS (RFC 3207), CHUNKING (RFC 3030), DSN
//! (RFC 3461), AUTH (RFC 4954), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531). What is
//! not in the grammar is refused with the reply that says why. Policy: no white
//! space between `FROM:` or `TO:` and the path; source routes are taken off.

mod line;
mod parameters;
mod path;

use std::str;

pub use line::{Line, LineReader, MAXIMUM_COMMAND_LINE, MAXIMUM_SKIPPED};

use crate::address::Address;
use crate::envelope::{BodyKind, Notify, Return};
use crate::reply::Reply;

/// A command with its arguments, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO name`.
    Ehlo(&'a str),
    /// `HELO name`.
    Helo(&'a str),
    /// `MAIL FROM:<path> …`.
    Mail(Mail),
    /// `RCPT TO:<path> …`.
    Rcpt(Rcpt),
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]`.
    Bdat {
        /// Octets that follow the line.
        size: u64,
        /// The message ends with them.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY`.
    Vrfy,
    /// `EXPN`.
    Expn,
    /// `HELP`.
    Help,
    /// `STARTTLS`.
    StartTls,
    /// `AUTH mechanism [initial-response]`.
    Auth {
        /// What is asked for.
        mechanism: Mechanism,
        /// Base64 as given; `=` stands for an empty one.
        initial: Option<&'a str>,
    },
    /// A browser or a proxy speaks here: `GET`, `POST`, `CONNECT` and the like.
    Foreign,
}

/// Mechanisms of AUTH that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The old LOGIN, two prompts.
    Login,
}

/// What MAIL says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mail {
    /// Return path; `None` is `<>`.
    pub sender: Option<Address>,
    /// `SIZE=` in octets; too many digits read as the largest number.
    pub size: Option<u64>,
    /// `BODY=`.
    pub body: BodyKind,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `REQUIRETLS`.
    pub require_tls: bool,
    /// `RET=`.
    pub ret: Option<Return>,
    /// `ENVID=` as given, xtext.
    pub envelope_id: Option<Box<str>>,
    /// Whether any parameter was given.
    pub has_parameters: bool,
}

/// Whom RCPT names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardPath {
    /// An address.
    Address(Address),
    /// `<postmaster>` without a domain: this host's (RFC 5321 §4.5.1).
    Postmaster,
}

/// What RCPT says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rcpt {
    /// Whom.
    pub recipient: ForwardPath,
    /// `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=` as given.
    pub original: Option<Box<str>>,
    /// Whether any parameter was given.
    pub has_parameters: bool,
}

/// Reads one line without its line end. The error is the reply to give.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Reply> {
    if line.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
        return Err(syntax("the command has a control character"));
    }
    let line = str::from_utf8(line).map_err(|_| syntax("the command is not valid UTF-8"))?.trim_end_matches(' ');
    let (verb, argument) = match line.split_once(' ') {
        Some((verb, argument)) => (verb, argument.trim_start_matches(' ')),
        None => (line, ""),
    };
    let mut upper = [0u8; 8];
    let Some(upper) = upper.get_mut(..verb.len()) else {
        return Err(unknown());
    };
    upper.copy_from_slice(verb.as_bytes());
    upper.make_ascii_uppercase();
    match &*upper {
        b"EHLO" => hello(argument).map(Command::Ehlo),
        b"HELO" => hello(argument).map(Command::Helo),
        b"MAIL" => parameters::mail(argument).map(Command::Mail),
        b"RCPT" => parameters::rcpt(argument).map(Command::Rcpt),
        b"DATA" => alone(argument, Command::Data),
        b"BDAT" => bdat(argument),
        b"RSET" => alone(argument, Command::Rset),
        b"NOOP" => Ok(Command::Noop),
        b"QUIT" => alone(argument, Command::Quit),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"HELP" => Ok(Command::Help),
        b"STARTTLS" => alone(argument, Command::StartTls),
        b"AUTH" => auth(argument),
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"CONNECT" | b"OPTIONS" | b"HOST:" => Ok(Command::Foreign),
        b"SEND" | b"SOML" | b"SAML" | b"TURN" | b"ETRN" | b"ATRN" | b"BURL" => {
            Err(Reply::new(502, (5, 5, 1), "this command is not implemented"))
        }
        _ => Err(unknown()),
    }
}

/// 500 5.5.2: the line is no command.
pub(crate) fn syntax(reason: &str) -> Reply {
    Reply::new(500, (5, 5, 2), reason)
}

fn unknown() -> Reply {
    syntax("this command is not recognised")
}

/// 501 5.5.4: the command is known, its argument is wrong.
fn bad_argument(reason: impl Into<String>) -> Reply {
    Reply::new(501, (5, 5, 4), reason)
}

fn alone<'a>(argument: &str, command: Command<'a>) -> Result<Command<'a>, Reply> {
    if argument.is_empty() { Ok(command) } else { Err(bad_argument("this command takes no argument")) }
}

/// A host name or address literal; underscores are taken because many clients have them.
/// It stands in `Received`, so nothing that could change the meaning there is taken.
fn hello(name: &str) -> Result<&str, Reply> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if name.is_empty() || name.len() > 255 || !name.bytes().all(sane) {
        return Err(bad_argument("give your host name or address literal: EHLO mail.example.com or EHLO [192.0.2.1]"));
    }
    Ok(name)
}

fn bdat(argument: &str) -> Result<Command<'static>, Reply> {
    let (size, last) = match argument.split_once(' ') {
        None => (argument, false),
        Some((size, word)) if word.trim_start().eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return Err(bad_argument("write BDAT size or BDAT size LAST")),
    };
    if size.is_empty() || size.len() > 20 || !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_argument("the chunk size of BDAT is not a number"));
    }
    let size = size.parse().map_err(|_| bad_argument("the chunk size of BDAT is not a number"))?;
    Ok(Command::Bdat { size, last })
}

fn auth(argument: &str) -> Result<Command<'_>, Reply> {
    let (mechanism, initial) = match argument.split_once(' ') {
        None => (argument, None),
        Some((mechanism, initial)) => (mechanism, Some(initial.trim_start_matches(' '))),
    };
    let mechanism = if mechanism.eq_ignore_ascii_case("PLAIN") {
        Mechanism::Plain
    } else if mechanism.eq_ignore_ascii_case("LOGIN") {
        Mechanism::Login
    } else if mechanism.is_empty() {
        return Err(bad_argument("name a mechanism: AUTH PLAIN or AUTH LOGIN"));
    } else {
        return Err(Reply::new(504, (5, 5, 4), "this mechanism is not offered: use PLAIN or LOGIN"));
    };
    if initial.is_some_and(|text| text.contains(' ')) {
        return Err(bad_argument("AUTH takes a mechanism and at most one initial response"));
    }
    Ok(Command::Auth { mechanism, initial })
}

#[cfg(test)]
mod tests;
