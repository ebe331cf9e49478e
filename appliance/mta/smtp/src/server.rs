//! The server's side of an SMTP session, without sockets: lines and events go in,
//! replies are written to a buffer, and an [`Action`] says what the edge does next.
//!
//! Who may send what is asked of a [`Judge`]. STARTTLS forgets everything said
//! before it; AUTH exists only under TLS; a transaction is one envelope by
//! DATA or by BDAT. Every refusal has a code, an enhanced code and a reason, and is counted.

mod authentication;
mod stage;
mod transaction;

use bytes::BytesMut;

pub use authentication::{AuthResult, Password};
pub use stage::Stage;

use crate::address::Address;
use crate::command::{self, Command};
use crate::envelope::Envelope;
use crate::reply::Reply;
use authentication::AuthStep;
use transaction::Transaction;

/// Refused recipients of one message that count as one error together, for a client that may send.
const FREE_REFUSALS: u32 = 10_000;

/// Bounds and offers of the server. They may change between two lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Name in the greeting, the EHLO reply and for `<postmaster>`.
    pub hostname: String,
    /// Largest message in octets, as announced by SIZE.
    pub message_size: u64,
    /// Recipients in one message.
    pub recipients: u32,
    /// Messages before 421; 0: no bound.
    pub messages: u32,
    /// Commands outside of transactions, between two messages, before 421.
    pub idle_commands: u32,
    /// Errors between two messages before 421.
    pub errors: u32,
    /// Failed AUTH attempts before 421.
    pub auth_failures: u32,
    /// TLS can be started here.
    pub starttls: bool,
    /// There are credentials, so AUTH makes sense once TLS is on.
    pub auth: bool,
}

/// What the edge does after the replies are sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads the next line.
    Continue,
    /// Sends the replies and closes.
    Close,
    /// Sends the replies, throws away what was read beyond the line, starts TLS, calls [`Session::tls_started`].
    StartTls,
    /// Checks the password, calls [`Session::authenticated`].
    CheckPassword {
        /// User name.
        name: String,
        /// The password.
        password: Password,
    },
    /// Sends the replies and reads content up to the final dot; then [`Session::take_envelope`]
    /// and [`Session::finish_message`].
    ReadData,
    /// Reads a chunk; then [`Session::chunk_received`], or as for data when it was the last.
    ReadChunk {
        /// Octets of the chunk.
        size: u64,
        /// The message ends with it.
        last: bool,
    },
    /// Reads a chunk that is refused and throws it away, then says so (RFC 3030 §2: in this order).
    SkipChunk {
        /// Octets of the chunk.
        size: u64,
        /// The reply, to be sent when they are read.
        reply: BytesMut,
    },
}

/// Decides who may send what, and hears what was refused.
pub trait Judge {
    /// MAIL: whether this client may use this sender. `size` is what SIZE= announced.
    fn sender(&mut self, authenticated: Option<&str>, sender: Option<&Address>, size: Option<u64>)
    -> Result<(), Reply>;

    /// Whether the client is one that may send at all: its wrong recipients are its business,
    /// those of a stranger are guesses.
    fn is_known(&self, authenticated: Option<&str>) -> bool;

    /// RCPT: whether this client may send there.
    fn recipient(&mut self, authenticated: Option<&str>, recipient: &Address) -> Result<(), Reply>;

    /// DATA or the first BDAT: whether the content can be taken now.
    fn content(&mut self) -> Result<(), Reply> {
        Ok(())
    }

    /// Something was refused with that reply.
    fn refused(&mut self, refusal: Refusal<'_>);
}

/// A refusal, for records.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// When.
    pub stage: Stage,
    /// Sender of the transaction.
    pub sender: Option<&'a Address>,
    /// The recipient that was refused.
    pub recipient: Option<&'a Address>,
    /// Who is authenticated, or tried to be.
    pub credential: Option<&'a str>,
    /// The reply.
    pub reply: &'a Reply,
}

/// The state of one session.
#[derive(Debug, Default)]
pub struct Session {
    hello: String,
    extended: bool,
    tls: bool,
    authenticated: Option<String>,
    auth_step: AuthStep,
    transaction: Option<Transaction>,
    /// The last MAIL was put off: what a pipelining client sent behind it is no error.
    is_put_off: bool,
    messages: u32,
    idle_commands: u32,
    errors: u32,
    auth_failures: u32,
}

impl Session {
    /// A session before its greeting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `220`.
    pub fn greet(&self, rules: &Rules, out: &mut BytesMut) {
        Reply::plain(220, format!("{} ESMTP Postkeep", rules.hostname)).write_to(out);
    }

    /// What the client said in EHLO or HELO; empty before.
    pub fn hello(&self) -> &str {
        &self.hello
    }

    /// Whether the client said EHLO.
    pub const fn is_extended(&self) -> bool {
        self.extended
    }

    /// Whether TLS is on.
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Name of the credential after AUTH.
    pub fn credential(&self) -> Option<&str> {
        self.authenticated.as_deref()
    }

    /// Messages accepted so far.
    pub const fn messages(&self) -> u32 {
        self.messages
    }

    /// Whether a mail transaction is open: MAIL was accepted and the message is not finished.
    pub const fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// TLS is on now, by STARTTLS or from the first octet. Everything said before is forgotten (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        self.hello.clear();
        self.extended = false;
        self.tls = true;
        self.authenticated = None;
        self.auth_step = AuthStep::None;
        self.transaction = None;
    }

    /// One line, without its CRLF.
    pub fn line(&mut self, line: &[u8], rules: &Rules, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        if self.errors >= rules.errors {
            return self.too_many_errors(judge, out);
        }
        if !matches!(self.auth_step, AuthStep::None) {
            return self.auth_line(line, judge, out);
        }
        match command::parse(line) {
            Ok(command) => self.command(command, rules, judge, out),
            Err(reply) => {
                let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
                let stage = stage::of_verb(verb);
                if stage == Stage::Rcpt {
                    self.refuse_recipient(None, reply, judge, out);
                } else {
                    self.refuse(stage, None, reply, judge, out);
                }
                // After a BDAT that is not understood nobody knows what is content and what is command.
                if verb.eq_ignore_ascii_case(b"BDAT") { Action::Close } else { Action::Continue }
            }
        }
    }

    /// A line that the line reader refused; it has been taken off the buffer.
    #[must_use]
    pub fn bad_line(&mut self, reason: &str, rules: &Rules, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        if self.errors >= rules.errors {
            return self.too_many_errors(judge, out);
        }
        self.auth_step = AuthStep::None;
        self.refuse(Stage::Command, None, command::syntax(reason), judge, out);
        Action::Continue
    }

    /// Sender of the open transaction; `None` also for `<>`.
    pub fn sender(&self) -> Option<&Address> {
        self.transaction.as_ref().and_then(|transaction| transaction.envelope.sender.as_ref())
    }

    /// Size that the client announced for the open transaction (SIZE=), at most the limit.
    pub fn announced_size(&self) -> Option<u64> {
        self.transaction.as_ref().and_then(|transaction| transaction.announced_size)
    }

    /// Takes the envelope once the content is read. The transaction is over for the client
    /// when [`Session::finish_message`] has written its reply.
    pub fn take_envelope(&mut self) -> Option<Envelope> {
        self.transaction.take().map(|transaction| transaction.envelope)
    }

    /// The reply to the message as a whole. A positive one forgives earlier errors. `sender` is the
    /// envelope's, for the record of a refusal.
    pub fn finish_message(
        &mut self,
        reply: Reply,
        stage: Stage,
        sender: Option<&Address>,
        judge: &mut impl Judge,
        out: &mut BytesMut,
    ) {
        self.transaction = None;
        if reply.is_positive() {
            self.messages = self.messages.saturating_add(1);
            self.errors = 0;
            self.idle_commands = 0;
            reply.write_to(out);
            return;
        }
        self.count(&reply);
        let credential = self.authenticated.as_deref();
        judge.refused(Refusal { stage, sender, recipient: None, credential, reply: &reply });
        reply.write_to(out);
    }

    /// A chunk that is not the last has been read.
    pub fn chunk_received(&mut self, size: u64, out: &mut BytesMut) {
        Reply::new(250, (2, 0, 0), format!("{size} octets received")).write_to(out);
    }

    fn command(&mut self, command: Command<'_>, rules: &Rules, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        if matches!(
            command,
            Command::Ehlo(_)
                | Command::Helo(_)
                | Command::Rset
                | Command::Noop
                | Command::Vrfy
                | Command::Expn
                | Command::Help
        ) {
            self.idle_commands = self.idle_commands.saturating_add(1);
            if self.idle_commands > rules.idle_commands {
                let reply = Reply::new(421, (4, 7, 0), "too many commands without a message");
                return self.give_up(Stage::Command, reply, judge, out);
            }
        }
        match command {
            Command::Ehlo(name) => self.ehlo(name, rules, out),
            Command::Helo(name) => {
                self.set_hello(name, false);
                Reply::plain(250, rules.hostname.as_str()).write_to(out);
            }
            Command::Mail(mail) => return self.mail(mail, rules, judge, out),
            Command::Rcpt(rcpt) => self.rcpt(rcpt, rules, judge, out),
            Command::Data => return self.data(judge, out),
            Command::Bdat { size, last } => return self.bdat(size, last, judge),
            Command::Rset => {
                self.transaction = None;
                out.extend_from_slice(b"250 2.0.0 Ok\r\n");
            }
            Command::Noop => out.extend_from_slice(b"250 2.0.0 Ok\r\n"),
            Command::Vrfy => {
                out.extend_from_slice(b"252 2.0.0 Cannot verify, but will take mail for delivery\r\n");
            }
            Command::Expn => {
                let reply = Reply::new(502, (5, 5, 1), "EXPN is not implemented");
                self.refuse(Stage::Command, None, reply, judge, out);
            }
            Command::Help => out.extend_from_slice(
                b"214 2.0.0 RFC 5321; commands: EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT\r\n",
            ),
            Command::Quit => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                return Action::Close;
            }
            Command::StartTls => return self.starttls(rules, judge, out),
            Command::Auth { mechanism, initial } => return self.auth(mechanism, initial, rules, judge, out),
            Command::Foreign => {
                let reply = Reply::new(421, (4, 7, 0), "this is a mail server");
                return self.give_up(Stage::Command, reply, judge, out);
            }
        }
        Action::Continue
    }

    fn set_hello(&mut self, name: &str, extended: bool) {
        // A new greeting ends a transaction (RFC 5321 §4.1.4).
        self.transaction = None;
        self.is_put_off = false;
        self.hello.clear();
        self.hello.push_str(name);
        self.extended = extended;
    }

    fn ehlo(&mut self, name: &str, rules: &Rules, out: &mut BytesMut) {
        self.set_hello(name, true);
        let mut text = format!(
            "{}\nPIPELINING\nSIZE {}\n8BITMIME\nSMTPUTF8\nCHUNKING\nDSN\nENHANCEDSTATUSCODES",
            rules.hostname, rules.message_size
        );
        if rules.starttls && !self.tls {
            text.push_str("\nSTARTTLS");
        }
        if self.tls {
            text.push_str("\nREQUIRETLS");
        }
        if rules.auth && self.tls {
            text.push_str("\nAUTH PLAIN LOGIN");
        }
        Reply::plain(250, text).write_to(out);
    }

    fn starttls(&mut self, rules: &Rules, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        let reply = if self.tls {
            Reply::new(503, (5, 5, 1), "TLS is on already")
        } else if !rules.starttls {
            Reply::new(502, (5, 5, 1), "STARTTLS is not offered here")
        } else if self.transaction.is_some() {
            Reply::new(503, (5, 5, 1), "finish the mail transaction or send RSET before STARTTLS")
        } else {
            out.extend_from_slice(b"220 2.0.0 Ready to start TLS\r\n");
            return Action::StartTls;
        };
        self.refuse(Stage::Tls, None, reply, judge, out);
        Action::Continue
    }

    /// What is put off is not the client's error.
    fn count(&mut self, reply: &Reply) {
        if reply.is_permanent() && !(self.is_put_off && reply.code == 503) {
            self.errors = self.errors.saturating_add(1);
        }
    }

    /// Writes a refusal, counts it and has it recorded.
    fn refuse(
        &mut self,
        stage: Stage,
        recipient: Option<&Address>,
        reply: Reply,
        judge: &mut impl Judge,
        out: &mut BytesMut,
    ) {
        self.count(&reply);
        let sender = self.sender();
        judge.refused(Refusal { stage, sender, recipient, credential: self.authenticated.as_deref(), reply: &reply });
        reply.write_to(out);
    }

    /// A refused RCPT. A sender that may send is not sent away for a list with many bad addresses:
    /// they count as one error for each message.
    fn refuse_recipient(
        &mut self,
        recipient: Option<&Address>,
        reply: Reply,
        judge: &mut impl Judge,
        out: &mut BytesMut,
    ) {
        let errors = self.errors;
        let is_known = judge.is_known(self.authenticated.as_deref());
        let mut is_free = false;
        if let Some(transaction) = &mut self.transaction {
            transaction.refused = transaction.refused.saturating_add(1);
            is_free = is_known && (2..=FREE_REFUSALS).contains(&transaction.refused);
        }
        self.refuse(Stage::Rcpt, recipient, reply, judge, out);
        if is_free {
            self.errors = errors;
        }
    }

    fn too_many_errors(&mut self, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        let reply = Reply::new(421, (4, 7, 0), "too many errors on this connection");
        self.give_up(Stage::Command, reply, judge, out)
    }

    /// A refusal that ends the session.
    fn give_up(&mut self, stage: Stage, reply: Reply, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        self.refuse(stage, None, reply, judge, out);
        Action::Close
    }
}

#[cfg(test)]
mod tests;
