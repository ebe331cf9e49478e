//! AUTH PLAIN (RFC 4616) and AUTH LOGIN, up to the point where a name and a password are there.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;

use super::{Action, Judge, Refusal, Rules, Session, Stage};
use crate::command::Mechanism;
use crate::reply::Reply;

/// Longest name or password in octets.
const MAXIMUM_SECRET: usize = 255;

/// A password on its way to the check; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

impl Password {
    /// The octets, as the client sent them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What the check of a password came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthResult {
    /// Name and password belong together.
    Accepted,
    /// They do not, or there is no such name.
    Rejected,
    /// It could not be checked now.
    Unavailable,
}

/// What the next line answers, when it is no command.
#[derive(Default)]
pub(super) enum AuthStep {
    #[default]
    None,
    Plain,
    LoginName,
    LoginPassword(String),
}

impl fmt::Debug for AuthStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Plain => "Plain",
            Self::LoginName => "LoginName",
            Self::LoginPassword(_) => "LoginPassword",
        })
    }
}

impl Session {
    pub(super) fn auth(
        &mut self,
        mechanism: Mechanism,
        initial: Option<&str>,
        rules: &Rules,
        judge: &mut impl Judge,
        out: &mut BytesMut,
    ) -> Action {
        let refusal = if !rules.auth {
            Some(Reply::new(502, (5, 5, 1), "AUTH is not offered here"))
        } else if !self.tls {
            Some(Reply::new(538, (5, 7, 11), "AUTH needs TLS: use STARTTLS first"))
        } else if self.hello.is_empty() || !self.extended {
            Some(Reply::new(503, (5, 5, 1), "say EHLO first"))
        } else if self.authenticated.is_some() {
            Some(Reply::new(503, (5, 5, 1), "you are authenticated already"))
        } else if self.transaction.is_some() {
            Some(Reply::new(503, (5, 5, 1), "AUTH is not allowed during a mail transaction"))
        } else {
            None
        };
        if let Some(reply) = refusal {
            self.refuse(Stage::Auth, None, reply, judge, out);
            return Action::Continue;
        }
        self.auth_step = match mechanism {
            Mechanism::Plain => AuthStep::Plain,
            Mechanism::Login => AuthStep::LoginName,
        };
        match initial {
            // RFC 4954 §4: a single `=` is an empty response.
            Some("=") => self.auth_line(b"", judge, out),
            Some(initial) => self.auth_line(initial.as_bytes(), judge, out),
            None => {
                self.prompt(out);
                Action::Continue
            }
        }
    }

    fn prompt(&self, out: &mut BytesMut) {
        out.extend_from_slice(match self.auth_step {
            AuthStep::LoginName => b"334 VXNlcm5hbWU6\r\n",
            AuthStep::LoginPassword(_) => b"334 UGFzc3dvcmQ6\r\n",
            AuthStep::Plain | AuthStep::None => b"334 \r\n",
        });
    }

    /// A line that answers a `334`.
    pub(super) fn auth_line(&mut self, line: &[u8], judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        let step = std::mem::take(&mut self.auth_step);
        if line == b"*" {
            let reply = Reply::new(501, (5, 7, 0), "authentication cancelled");
            self.refuse(Stage::Auth, None, reply, judge, out);
            return Action::Continue;
        }
        let Ok(response) = STANDARD.decode(line) else {
            let reply = Reply::new(501, (5, 5, 2), "the response is not valid base64");
            self.refuse(Stage::Auth, None, reply, judge, out);
            return Action::Continue;
        };
        let pair = match step {
            AuthStep::None => None,
            AuthStep::Plain => split_plain(&response),
            AuthStep::LoginName => match checked_name(&response) {
                Some(name) => {
                    self.auth_step = AuthStep::LoginPassword(name);
                    self.prompt(out);
                    return Action::Continue;
                }
                None => None,
            },
            AuthStep::LoginPassword(name) => checked_password(&response).map(|password| (name, password)),
        };
        match pair {
            Some((name, password)) => Action::CheckPassword { name, password },
            None => {
                let reply = Reply::new(501, (5, 5, 2), "the response has no valid name and password");
                self.refuse(Stage::Auth, None, reply, judge, out);
                Action::Continue
            }
        }
    }

    /// What the check of the password came to.
    pub fn authenticated(
        &mut self,
        name: &str,
        result: AuthResult,
        rules: &Rules,
        judge: &mut impl Judge,
        out: &mut BytesMut,
    ) -> Action {
        let reply = match result {
            AuthResult::Accepted => {
                self.authenticated = Some(name.to_owned());
                out.extend_from_slice(b"235 2.7.0 Authentication succeeded\r\n");
                return Action::Continue;
            }
            AuthResult::Rejected => {
                self.auth_failures = self.auth_failures.saturating_add(1);
                Reply::new(535, (5, 7, 8), "the user name or password is not right")
            }
            AuthResult::Unavailable => Reply::new(454, (4, 7, 0), "too many authentications at once; try again later"),
        };
        self.errors = self.errors.saturating_add(1);
        judge.refused(Refusal {
            stage: Stage::Auth,
            sender: None,
            recipient: None,
            credential: Some(name),
            reply: &reply,
        });
        reply.write_to(out);
        if self.auth_failures < rules.auth_failures {
            return Action::Continue;
        }
        let reply = Reply::new(421, (4, 7, 0), "too many failed authentications on this connection");
        reply.write_to(out);
        Action::Close
    }
}

/// `[authzid] NUL authcid NUL passwd`; acting for somebody else is not possible.
fn split_plain(response: &[u8]) -> Option<(String, Password)> {
    let mut parts = response.split(|byte| *byte == 0);
    let (authorize, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(authorize.is_empty() || authorize == name) {
        return None;
    }
    Some((checked_name(name)?, checked_password(password)?))
}

fn checked_name(octets: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(octets).ok()?;
    let sane = !name.is_empty() && name.len() <= MAXIMUM_SECRET && !name.chars().any(char::is_control);
    sane.then(|| name.to_owned())
}

fn checked_password(octets: &[u8]) -> Option<Password> {
    (!octets.is_empty() && octets.len() <= MAXIMUM_SECRET).then(|| Password(octets.into()))
}
