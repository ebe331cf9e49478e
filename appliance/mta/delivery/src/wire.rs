//! A stream with its buffers: commands and content out, replies in, and a limit to every wait.

use std::time::Duration;

use bytes::BytesMut;
use postkeep_smtp::client::Dialogue;
use postkeep_smtp::reply::{Reply, ReplyReader};

use crate::alarm::Alarm;
use crate::connector::Timeouts;
use crate::content::{Form, Output};
use crate::stream::{Event, Stream};

/// How long a peer that takes nothing more may still say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One end of the connection.
pub(crate) struct Wire {
    inbox: Inbox,
    alarm: Alarm,
    /// Octets that the socket took so far.
    pub(crate) written: u64,
}

/// The reading side. The stream lives here because it is read at all times, also while it is written.
struct Inbox {
    stream: Stream,
    buffer: BytesMut,
    reader: ReplyReader,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        let inbox = Inbox { stream, buffer: BytesMut::new(), reader: ReplyReader::new() };
        Self { inbox, alarm: Alarm::default(), written: 0 }
    }

    /// The bare stream, and how many octets were read from it and not used.
    pub(crate) fn into_stream(self) -> (Stream, usize) {
        (self.inbox.stream, self.inbox.buffer.len())
    }

    /// One command and its reply.
    pub(crate) async fn ask(&mut self, command: &[u8], timeouts: &Timeouts, wait: Duration) -> Result<Reply, String> {
        let mut early = self.inbox.buffered_reply()?;
        if early.is_none() {
            let mut output = Output::new(command, &[], Form::None);
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
        match self.alarm.within(wait, self.inbox.next_reply()).await {
            Some(result) => result,
            None => Err(format!("no reply within {wait:?}")),
        }
    }

    /// The next reply, whenever it comes. Cancel-safe.
    pub(crate) async fn next_reply(&mut self) -> Result<Reply, String> {
        self.inbox.next_reply().await
    }

    /// Gives the dialogue what the peer has said before it was asked anything: it
    /// must not be taken for the answer to what is asked next.
    pub(crate) async fn hear_unasked(&mut self, dialogue: &mut Dialogue<'_>) {
        let event = self.inbox.stream.read_now(&mut self.inbox.buffer).await;
        match self.inbox.buffered_reply() {
            Ok(Some(reply)) => dialogue.reply(reply),
            Err(detail) => dialogue.lost(&detail),
            Ok(None) => {
                if let Some(Err(detail)) = event.map(read_result) {
                    dialogue.lost(&detail);
                }
            }
        }
    }

    /// Writes a group and gives the dialogue every reply that comes meanwhile, so
    /// that a peer that says no and hangs up is heard.
    pub(crate) async fn send(&mut self, mut output: Output<'_>, dialogue: &mut Dialogue<'_>, timeouts: &Timeouts) {
        let hear = |reply| {
            dialogue.reply(reply);
            !dialogue.is_over()
        };
        let Err(detail) = self.write(&mut output, timeouts.block, hear).await else {
            dialogue.written();
            return;
        };
        // The peer takes nothing more. What it said before may still be on its way.
        while !dialogue.is_over() {
            match self.wait_reply(LAST_WORDS.min(timeouts.block)).await {
                Ok(reply) => dialogue.reply(reply),
                Err(_) => dialogue.lost(&detail),
            }
        }
    }

    /// Tells the peer that nothing more will come.
    pub(crate) async fn shutdown(&mut self) {
        self.inbox.stream.shutdown().await;
    }

    /// Writes everything, reading meanwhile; stops early, with success, when `heard` returns false.
    async fn write(
        &mut self,
        output: &mut Output<'_>,
        block: Duration,
        mut heard: impl FnMut(Reply) -> bool,
    ) -> Result<(), String> {
        let inbox = &mut self.inbox;
        loop {
            let slices = output.slices();
            let flushing = slices.is_empty();
            if flushing && !inbox.stream.holds_back() {
                return Ok(());
            }
            let turn = async {
                if flushing {
                    inbox.stream.read_or_flush(&mut inbox.buffer).await
                } else {
                    inbox.stream.read_or_write(&mut inbox.buffer, slices).await
                }
            };
            match self.alarm.within(block, turn).await {
                None => return Err(format!("the host took no octets for {block:?}")),
                Some(Event::Wrote(_)) if flushing => return Ok(()),
                Some(Event::Wrote(written)) => {
                    self.written += written as u64;
                    output.advance(written);
                }
                Some(event) => {
                    read_result(event)?;
                    while let Some(reply) = inbox.buffered_reply()? {
                        if !heard(reply) {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

impl Inbox {
    async fn next_reply(&mut self) -> Result<Reply, String> {
        loop {
            if let Some(reply) = self.buffered_reply()? {
                return Ok(reply);
            }
            read_result(self.stream.read(&mut self.buffer).await)?;
        }
    }

    fn buffered_reply(&mut self) -> Result<Option<Reply>, String> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        self.reader.read(&mut self.buffer).map_err(|error| error.to_string())
    }
}

/// Why there will be nothing more to read or write.
fn read_result(event: Event) -> Result<(), String> {
    match event {
        Event::Read | Event::Wrote(_) => Ok(()),
        Event::Closed => Err("the host closed the connection".to_owned()),
        Event::ReadFailed(error) | Event::WriteFailed(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err("the host closed the connection".to_owned())
        }
        Event::ReadFailed(error) | Event::WriteFailed(error) => Err(format!("the connection broke: {error}")),
    }
}
