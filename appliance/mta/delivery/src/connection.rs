//! A connection that has said EHLO: transactions, waiting between them, and the end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postkeep_smtp::address::Address;
use postkeep_smtp::capabilities::Capabilities;
use postkeep_smtp::client::{Content, Dialogue, Outcome, Request, Step};
use postkeep_smtp::envelope::{Recipient, Return};
use postkeep_smtp::reply::{Reply, ReplyReader};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connector::{Target, Timeouts};
use crate::content::{self, Form, Output};
use crate::stream::{Event, Stream};
use crate::tls::TlsResult;

/// How long a peer that stopped taking octets may still say why.
const LAST_WORDS: Duration = Duration::from_secs(5);
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
        Self { wire, timeouts, capabilities, tls: None, tls_failure: None, reset: false }
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
        };
        let mut dialogue = Dialogue::new(request, &self.capabilities, self.reset);
        let mut commands = std::mem::take(&mut self.wire.commands);
        let before = self.wire.written;
        loop {
            if dialogue.expects_nothing() {
                self.wire.hear_unasked(&mut dialogue).await;
            }
            commands.clear();
            match dialogue.step(&mut commands) {
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
                    let output = Output::new(&commands, transaction.parts, form);
                    self.wire.send(output, &mut dialogue, &self.timeouts).await;
                }
            }
        }
        self.wire.commands = commands;
        let (recipients, end) = dialogue.finish();
        self.reset = end.reset;
        TransactionResult { recipients, alive: end.alive, bytes: self.wire.written - before, end: end.reason }
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
            self.wire.stream.shutdown().await;
        })
        .await;
    }
}

/// The stream with its buffers: octets out, replies in.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    buffer: BytesMut,
    reader: ReplyReader,
    /// Kept between transactions for its memory.
    commands: BytesMut,
    written: u64,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), reader: ReplyReader::new(), commands: BytesMut::new(), written: 0 }
    }

    /// Forgets what was read and not used; how many octets that was.
    pub(crate) fn discard(&mut self) -> usize {
        let size = self.buffer.len();
        self.buffer.clear();
        self.reader = ReplyReader::new();
        size
    }

    /// One command and its reply.
    pub(crate) async fn ask(&mut self, command: &[u8], timeouts: &Timeouts, wait: Duration) -> Result<Reply, String> {
        let mut output = Output::new(command, &[], Form::None);
        let mut early = self.buffered_reply()?;
        if early.is_none() {
            let hear = |reply| {
                early = Some(reply);
                false
            };
            self.write(&mut output, timeouts.block, hear).await?;
        }
        match early {
            None => self.wait_reply(wait).await,
            Some(reply) if reply.code == 421 => Ok(reply),
            Some(reply) => Err(format!("the host said {reply} without being asked")),
        }
    }

    /// The next reply, whole, within that time.
    pub(crate) async fn wait_reply(&mut self, wait: Duration) -> Result<Reply, String> {
        match timeout(wait, self.next_reply()).await {
            Ok(result) => result,
            Err(_) => Err(format!("no reply within {wait:?}")),
        }
    }

    /// The next reply. Cancel-safe.
    async fn next_reply(&mut self) -> Result<Reply, String> {
        loop {
            if let Some(reply) = self.buffered_reply()? {
                return Ok(reply);
            }
            match self.stream.read(&mut self.buffer).await {
                Event::Read | Event::Wrote(_) => {}
                Event::Closed => return Err("the host closed the connection".to_owned()),
                Event::ReadFailed(error) | Event::WriteFailed(error) => return Err(broken(&error)),
            }
        }
    }

    fn buffered_reply(&mut self) -> Result<Option<Reply>, String> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        self.reader.read(&mut self.buffer).map_err(|error| error.to_string())
    }

    /// Gives the dialogue what the peer has said before it was asked anything: it
    /// must not be taken for the answer to what is asked next.
    async fn hear_unasked(&mut self, dialogue: &mut Dialogue<'_>) {
        let event = self.stream.read_now(&mut self.buffer).await;
        match self.buffered_reply() {
            Ok(Some(reply)) => dialogue.reply(reply),
            Err(detail) => dialogue.lost(&detail),
            Ok(None) => match event {
                None | Some(Event::Read | Event::Wrote(_)) => {}
                Some(Event::Closed) => dialogue.lost("the host closed the connection"),
                Some(Event::ReadFailed(error) | Event::WriteFailed(error)) => dialogue.lost(&broken(&error)),
            },
        }
    }

    /// Writes a group and gives the dialogue every reply that comes meanwhile, so
    /// that a peer that says no and hangs up is heard.
    async fn send(&mut self, mut output: Output<'_>, dialogue: &mut Dialogue<'_>, timeouts: &Timeouts) {
        let wrote = self
            .write(&mut output, timeouts.block, |reply| {
                dialogue.reply(reply);
                !dialogue.is_over()
            })
            .await;
        let Err(detail) = wrote else {
            dialogue.written();
            return;
        };
        // The peer takes nothing more. What it said before may still be on its way.
        let until = Instant::now() + LAST_WORDS;
        while !dialogue.is_over() {
            match timeout_at(until, self.next_reply()).await {
                Ok(Ok(reply)) => dialogue.reply(reply),
                Ok(Err(_)) | Err(_) => dialogue.lost(&detail),
            }
        }
    }

    /// Writes everything, reading meanwhile; stops early, with success, when `heard` returns false.
    async fn write(
        &mut self,
        output: &mut Output<'_>,
        block: Duration,
        mut heard: impl FnMut(Reply) -> bool,
    ) -> Result<(), String> {
        loop {
            let slices = output.slices();
            let flushing = slices.is_empty();
            if flushing && !self.stream.holds_back() {
                return Ok(());
            }
            let turn = async {
                if flushing {
                    self.stream.read_or_flush(&mut self.buffer).await
                } else {
                    self.stream.read_or_write(&mut self.buffer, slices).await
                }
            };
            let Ok(event) = timeout(block, turn).await else {
                return Err(format!("the host took no octets for {block:?}"));
            };
            match event {
                Event::Wrote(_) if flushing => return Ok(()),
                Event::Wrote(written) => {
                    self.written += written as u64;
                    output.advance(written);
                }
                Event::Read => {
                    while let Some(reply) = self.buffered_reply()? {
                        if !heard(reply) {
                            return Ok(());
                        }
                    }
                }
                Event::Closed => return Err("the host closed the connection".to_owned()),
                Event::ReadFailed(error) | Event::WriteFailed(error) => return Err(broken(&error)),
            }
        }
    }
}

fn broken(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return "the host closed the connection".to_owned();
    }
    format!("the connection broke: {error}")
}
