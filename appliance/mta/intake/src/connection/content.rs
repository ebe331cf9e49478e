//! From `354` or BDAT to the reply about the message: read, admit, hand over.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use jiff::Timestamp;
use postkeep_smtp::command::Line;
use postkeep_smtp::data::{ChunkReader, ChunkStep, Content, ContentError, DataReader, DataStep};
use postkeep_smtp::server::{Action, Stage};
use postkeep_smtp::{Address, Envelope, Reply};

use super::clerk::Clerk;
use super::reading::{ContentMemory, Fill};
use super::{Connection, End, Flow};
use crate::admission::{Arrival, content_reply};
use crate::{Gatekeeper, Returned, Submission};

/// Contents up to this size are copied out of the read buffer: each would hold all of it otherwise.
const SMALL: usize = 8 * 1024;

/// The content as it is kept.
fn kept(octets: BytesMut) -> Bytes {
    if octets.len() <= SMALL { Bytes::copy_from_slice(&octets) } else { octets.freeze() }
}

impl<G: Gatekeeper> Connection<G> {
    /// DATA: reads to the final dot.
    pub(super) async fn read_data(&mut self) -> Flow {
        let mut reader = DataReader::new(self.tables.data_limits);
        let mut memory = ContentMemory::new(Arc::clone(&self.shared.memory));
        let announced = self.session.announced_size();
        loop {
            match reader.read(&mut self.input) {
                DataStep::Done(result) => {
                    let flow = self.finish(result).await;
                    self.shrink();
                    return flow;
                }
                DataStep::Absurd => return self.too_much(),
                DataStep::More => {}
            }
            if reader.is_keeping() && !self.room_for_content(&mut memory, announced, 0) {
                reader.stop_keeping();
            }
            if !reader.is_keeping() {
                memory.give_back();
                self.shrink();
            }
            self.more_content().await?;
        }
    }

    /// BDAT: reads this chunk and those that follow, answering each.
    pub(super) async fn read_chunks(&mut self, size: u64, last: bool) -> Flow {
        let mut reader = ChunkReader::new(self.tables.data_limits);
        let mut memory = ContentMemory::new(Arc::clone(&self.shared.memory));
        let (mut size, mut last) = (size, last);
        loop {
            if !reader.begin(size) {
                return self.too_much();
            }
            while reader.read(&mut self.input) == ChunkStep::More {
                if reader.is_keeping() && !self.room_for_content(&mut memory, Some(size), reader.kept()) {
                    reader.stop_keeping();
                }
                if !reader.is_keeping() {
                    memory.give_back();
                }
                self.more_content().await?;
            }
            if last || reader.refusal().is_some() {
                // A refused chunk ends the transaction; those behind it are refused as out of order.
                let flow = self.finish(reader.finish()).await;
                self.shrink();
                return flow;
            }
            // Also what came whole with its command counts: many small chunks make a large message.
            if !memory.take(reader.kept()) {
                reader.stop_keeping();
                let flow = self.finish(reader.finish()).await;
                self.shrink();
                return flow;
            }
            self.session.chunk_received(size, &mut self.output);
            match self.next_chunk().await? {
                Some((next_size, next_last)) => (size, last) = (next_size, next_last),
                None => {
                    self.shrink();
                    return Ok(());
                }
            }
        }
    }

    /// Answers lines until the next chunk; `None` when the transaction has ended without it.
    async fn next_chunk(&mut self) -> Result<Option<(u64, bool)>, End> {
        loop {
            match self.lines.next(&mut self.input) {
                Line::Complete(length) => match self.answer(length) {
                    Action::ReadChunk { size, last } => return Ok(Some((size, last))),
                    Action::Continue if self.session.is_in_transaction() => {}
                    Action::Continue => return Ok(None),
                    // Nothing else leads on while chunks are expected.
                    _ => return Err(End::Closed),
                },
                Line::BareLineFeed => self.bad_line("a command line ends with CRLF, not with a bare LF")?,
                Line::TooLong => self.bad_line("the command line is too long")?,
                Line::Endless => return self.endless_line().map(|()| None),
                Line::Partial => match self.fill_line().await? {
                    Fill::Octets => {}
                    Fill::TimedOut => return self.say_goodbye((4, 4, 2), "no chunk came in time").map(|()| None),
                    Fill::Over => return self.say_goodbye((4, 4, 2), "the session has lasted too long").map(|()| None),
                    Fill::Ended | Fill::Closing => return Err(End::Closed),
                },
            }
        }
    }

    /// A chunk that was refused before it came: read, then answered.
    pub(super) async fn skip_chunk(&mut self, size: u64, reply: &[u8]) -> Flow {
        if size > self.tables.data_limits.swallowed() {
            return Err(End::Closed);
        }
        let mut remaining = size;
        loop {
            let here = usize::try_from(remaining).unwrap_or(usize::MAX).min(self.input.len());
            self.input.advance(here);
            remaining -= here as u64;
            if remaining == 0 {
                self.output.extend_from_slice(reply);
                return Ok(());
            }
            self.more_content().await?;
        }
    }

    async fn more_content(&mut self) -> Flow {
        match self.fill_content().await? {
            Fill::Octets => Ok(()),
            Fill::TimedOut => self.say_goodbye((4, 4, 2), "no more of the message came in time"),
            Fill::Over => self.say_goodbye((4, 4, 2), "the session has lasted too long"),
            Fill::Ended | Fill::Closing => Err(End::Closed),
        }
    }

    /// Far more than a message came.
    fn too_much(&mut self) -> Flow {
        let error = ContentError::TooLarge { limit: self.tables.data_limits.size };
        let sender = self.session.take_envelope().and_then(|envelope| envelope.sender);
        self.close_message(content_reply(&error), Stage::Data, sender.as_ref());
        Err(End::Closed)
    }

    /// The content is read: judges it, hands it over, writes the reply.
    async fn finish(&mut self, result: Result<Content, ContentError>) -> Flow {
        let Some(envelope) = self.session.take_envelope() else {
            let reply = Reply::new(503, (5, 5, 1), "no mail transaction is open");
            self.close_message(reply, Stage::Data, None);
            return Ok(());
        };
        let sender = envelope.sender.clone();
        // Whoever sends bare line ends may try to have two servers disagree; what follows is not heard.
        let is_suspect = matches!(result, Err(ContentError::BareLineEnd { .. }));
        let (reply, stage) = match result {
            Err(error) => (content_reply(&error), Stage::Data),
            Ok(content) => match self.kept_or_refused(envelope, content).await {
                Ok(said) => (Reply::new(250, (2, 0, 0), said), Stage::Message),
                Err(reply) => (reply, Stage::Message),
            },
        };
        // A server that says 421 closes (RFC 5321 §3.8).
        let is_last = is_suspect || reply.code == 421;
        self.close_message(reply, stage, sender.as_ref());
        if is_last { Err(End::Closed) } else { Ok(()) }
    }

    /// Hands a message over: as mail to be delivered, or as something that came back.
    async fn kept_or_refused(&self, envelope: Envelope, content: Content) -> Result<String, Reply> {
        // The clerk looks through the whole session and is gone before anybody waits.
        let coming_back = {
            let clerk = Clerk::new(&self.shared, &self.tables, &self.door, self.peer);
            envelope.recipients.iter().filter(|recipient| clerk.takes_back(&recipient.address).is_some()).count()
        };
        if coming_back == 0 {
            let submission = self.submission(envelope, content)?;
            return self.shared.gatekeeper.submit(submission).await.map(|id| format!("Ok: queued as {id}"));
        }
        if coming_back < envelope.recipients.len() {
            return Err(Reply::new(554, (5, 5, 1), "mail and reports cannot share a transaction: send them apart"));
        }
        let returned = Returned {
            recipients: envelope.recipients.into_iter().map(|recipient| recipient.address).collect(),
            sender: envelope.sender,
            peer: self.peer,
            helo: self.session.hello().to_owned(),
            has_dot_lines: content.has_dot_lines,
            eight_bit: content.eight_bit,
            header_length: content.header_length,
            content: kept(content.octets),
        };
        self.shared.gatekeeper.take_back(returned).await.map(|()| "Ok: taken".to_owned())
    }

    fn submission(&self, mut envelope: Envelope, mut content: Content) -> Result<Submission, Reply> {
        let authenticated = self.session.credential();
        let clerk = Clerk::new(&self.shared, &self.tables, &self.door, self.peer);
        let Some(policy) = clerk.policy(authenticated) else {
            return Err(Reply::new(554, (5, 7, 1), "relay access denied"));
        };
        let id = self.shared.gatekeeper.next_id();
        let arrival = Arrival {
            id: &id,
            now: Timestamp::now(),
            client: self.peer.ip(),
            helo: self.session.hello(),
            extended: self.session.is_extended(),
            authenticated: authenticated.is_some(),
            http: false,
            smtputf8: envelope.smtputf8,
            tls: self.tls.as_ref(),
        };
        let admitted = self.tables.content_rules.admit(&mut content, policy, &arrival)?;
        envelope.tls = admitted.tls_request(envelope.tls);
        envelope.envelope_id = envelope.envelope_id.or(admitted.envelope_id.map(Into::into));
        Ok(Submission {
            envelope,
            stream: admitted.stream,
            credential: policy.name().to_owned(),
            peer: self.peer,
            helo: self.session.hello().to_owned(),
            tls: self.tls.clone(),
            prefix: admitted.prefix,
            has_dot_lines: content.has_dot_lines,
            eight_bit: content.eight_bit,
            header_length: content.header_length,
            content: kept(content.octets),
            from_domain: admitted.from_domain,
            message_id: admitted.message_id,
            list: admitted.list,
            one_click: admitted.one_click,
            pool: admitted.pool,
            job: admitted.job,
            composed: false,
            id,
        })
    }

    fn close_message(&mut self, reply: Reply, stage: Stage, sender: Option<&Address>) {
        let mut clerk = Clerk::new(&self.shared, &self.tables, &self.door, self.peer);
        self.session.finish_message(reply, stage, sender, &mut clerk, &mut self.output);
    }
}
