//! A connection that has said EHLO: transactions, waiting between them, and the end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postkeep_smtp::address::Address;
use postkeep_smtp::capabilities::Capabilities;
use postkeep_smtp::client::{Content, Dialogue, Outcome, Request, Step};
use postkeep_smtp::envelope::{Recipient, Return};
use postkeep_smtp::reply::Reply;
use tokio::time::timeout;

use crate::connector::{Target, Timeouts};
use crate::content::{self, Form, Output};
use crate::tls::TlsResult;
use crate::wire::Wire;

/// How long QUIT may take.
const QUIT: Duration = Duration::from_secs(1);

/// One message for some recipients.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    /// Return path; `None` is `<>`.
    pub sender: Option<&'a Address>,
    /// The order of the outcomes.
    pub recipients: &'a [Recipient],
    /// The message in order: signatures and prefix, content. CRLF only.
    pub parts: &'a [Bytes],
    /// Some line may begin with a dot.
    pub has_dot_lines: bool,
    /// There are octets above 127.
    pub eight_bit: bool,
    /// The sender asked for SMTPUTF8. It is used only where an address or the header needs it.
    pub smtputf8: bool,
    /// RET.
    pub ret: Option<Return>,
    /// ENVID, xtext.
    pub envelope_id: Option<&'a str>,
    /// The sender said REQUIRETLS.
    pub require_tls: bool,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionResult {
    /// One for each recipient, in their order.
    pub recipients: Vec<Outcome>,
    /// The connection may be used again.
    pub alive: bool,
    /// Octets that the socket took: commands and content.
    pub bytes: u64,
    /// Why the connection is not alive.
    pub end: Option<String>,
    /// The host offers CHUNKING and does not know BDAT, in its words: use [`Connection::avoid_chunking`] next time.
    pub chunking_fault: Option<String>,
}

/// Why an idle connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdleEnd {
    /// The peer said something, a 421 as a rule.
    Said(Reply),
    /// The peer closed, or the connection broke; in words.
    Closed(String),
}

/// An open connection.
pub struct Connection {
    wire: Wire,
    /// Kept between transactions for its memory.
    commands: BytesMut,
    timeouts: Timeouts,
    capabilities: Capabilities,
    pub(crate) tls: Option<TlsResult>,
    pub(crate) tls_failure: Option<String>,
    /// The last transaction ended half-way.
    reset: bool,
}

impl Connection {
    pub(crate) fn new(wire: Wire, target: &Target, capabilities: Capabilities) -> Self {
        let timeouts = target.timeouts.clone();
        Self { wire, commands: BytesMut::new(), timeouts, capabilities, tls: None, tls_failure: None, reset: false }
    }

    /// What the host offers, after TLS if there is TLS.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The TLS layer; `None` on plain text.
    pub fn tls(&self) -> Option<&TlsResult> {
        self.tls.as_ref()
    }

    /// Why there is no TLS although the host offered it and we asked.
    pub fn tls_failure(&self) -> Option<&str> {
        self.tls_failure.as_deref()
    }

    /// Uses DATA although the host offers CHUNKING.
    pub fn avoid_chunking(&mut self) {
        self.capabilities.chunking = false;
    }

    /// Carries one message. Every recipient gets an outcome; the future ends
    /// within the time-outs whatever the peer does. Not cancel-safe: drop the
    /// connection when the future was dropped.
    pub async fn transact(&mut self, transaction: &Transaction<'_>) -> TransactionResult {
        let request = Request {
            sender: transaction.sender,
            recipients: transaction.recipients,
            size: content::size(transaction.parts),
            eight_bit: transaction.eight_bit,
            utf8_header: transaction.smtputf8 && content::has_utf8_header(transaction.parts),
            ret: transaction.ret,
            envelope_id: transaction.envelope_id,
            require_tls: transaction.require_tls,
        };
        let mut dialogue = Dialogue::new(request, &self.capabilities, self.reset);
        let commands = &mut self.commands;
        let before = self.wire.written;
        loop {
            if dialogue.expects_nothing() {
                self.wire.hear_unasked(&mut dialogue).await;
            }
            commands.clear();
            match dialogue.step(commands) {
                Step::Done => break,
                Step::Await(stage) => match self.wire.wait_reply(self.timeouts.at(stage)).await {
                    Ok(reply) => dialogue.reply(reply),
                    Err(detail) => dialogue.lost(&detail),
                },
                Step::Write(content) => {
                    let form = match content {
                        Content::None => Form::None,
                        Content::Whole => Form::Whole,
                        Content::Stuffed => Form::Dotted { search: transaction.has_dot_lines },
                    };
                    let output = Output::new(commands, transaction.parts, form);
                    self.wire.send(output, &mut dialogue, &self.timeouts).await;
                }
            }
        }
        let (recipients, end) = dialogue.finish();
        self.reset = end.reset;
        TransactionResult {
            recipients,
            alive: end.alive,
            bytes: self.wire.written - before,
            end: end.reason,
            chunking_fault: end.chunking_fault,
        }
    }

    /// Resolves when the peer closes or says something while nothing is asked of
    /// it; the connection is of no more use then. Cancel-safe.
    pub async fn idle(&mut self) -> IdleEnd {
        match self.wire.next_reply().await {
            Ok(reply) => IdleEnd::Said(reply),
            Err(detail) => IdleEnd::Closed(detail),
        }
    }

    /// Says QUIT, waits up to a second for the answer, and closes.
    pub async fn quit(mut self) {
        // The peer's answer changes nothing any more.
        let _ = timeout(QUIT, async {
            let _ = self.wire.ask(b"QUIT\r\n", &self.timeouts, QUIT).await;
            self.wire.shutdown().await;
        })
        .await;
    }
}
