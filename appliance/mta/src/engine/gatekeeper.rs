//! What stands behind the doors: keeps admitted messages and hears of refusals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use postkeep_intake::{Click, Gatekeeper, NotKept, Once, Refused, Returned, Submission};
use postkeep_smtp::Address;
use postkeep_smtp::reply::Reply;
use postkeep_spool::{MessageId, NewMessage, Operation, SubmitError, Ticket};
use postkeep_suppression::Standings;

use super::repeats::{self, Reserved};
use super::unsubscribe::{self, Standing};
use super::{Engine, Inner};
use crate::clock::{self, Micros, seconds};
use crate::message::Message;
use crate::metadata::Metadata;
use crate::records::{Event, Record, ReplyRecord, TlsRecord};

/// How long a client waits for the disk. While a disk fails to sync, the spool
/// cannot say whether a message is on it until another segment works.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a message found no room, others are refused unread for this long; then one may try.
const FULL_FOR: Micros = 1_000_000;
/// The log is told of a full disk no more often.
const FULL_TOLD_EVERY: Micros = 600 * 1_000_000;

impl Engine {
    /// The client has been told that the message was not taken. Should it become
    /// durable after all, it is taken out again before anybody delivers it.
    /// Its key goes with it, and is not free before: another try must neither be told that it was sent, nor be kept
    /// beside it.
    fn withdraw(&self, id: MessageId, recipients: u16, ticket: Ticket, reserved: Option<Reserved>) {
        let engine = self.clone();
        tokio::spawn(async move {
            if ticket.await.is_ok() {
                let forget = reserved.as_ref().map(Reserved::forget);
                let out = (0..recipients).map(|recipient| Operation::Complete { id, recipient }).chain(forget);
                if let Err(error) = engine.0.spool.submit(out).await {
                    log::error!("spool: {id} was refused but could not be taken out: {error}");
                }
            }
        });
    }
}

impl Inner {
    /// Says that the disk is full, unless it was said a moment ago.
    fn tell_full(&self, why: &SubmitError) {
        let (now, told) = (clock::now(), self.full_told.load(Ordering::Relaxed));
        let is_news = told == 0 || now.saturating_sub(told) > FULL_TOLD_EVERY;
        // One of those who come at the same time says it.
        if is_news && self.full_told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let configuration = self.configuration.load();
            let directory = configuration.spool.directory.display();
            postkeep_journal::DISK_FULL.tell(
                format_args!("spool: mail is refused with 452: {directory} has no room ([spool] minimum-free): {why}"),
                [&directory, why],
            );
        }
    }
}

impl Engine {
    /// Keeps a message; with `reserved`, its key becomes durable in the same breath.
    async fn keep(&self, submission: Submission, reserved: Option<Reserved>) -> Result<String, Reply> {
        let engine = &self.0;
        let id: MessageId = submission
            .id
            .parse()
            .map_err(|_| Reply::new(451, (4, 3, 0), "internal error: the queue id is damaged; try again later"))?;
        let recipients = u16::try_from(submission.envelope.recipients.len())
            .map_err(|_| Reply::new(552, (5, 5, 3), "more recipients than one message can have (65535)"))?;
        let suppressed = engine.suppressed_at_admission(
            &submission.envelope.recipients,
            &submission.stream,
            submission.list.as_deref(),
        )?;
        let signs = !engine.signer.load().keys_for(&submission.from_domain, &submission.stream).is_empty();
        let (standing, lack) = match &submission.one_click {
            Some(one_click) => unsubscribe::judge(one_click, signs, submission.composed)
                .map(|(standing, lack)| (Some(standing), lack))?,
            None => (None, None),
        };
        let writes_pair = matches!(standing, Some(Standing::Added | Standing::Replaced));
        // What is rendered later has no body to hash now.
        let signed = !submission.composed && signs;
        let body = submission.content.get(submission.header_length..).unwrap_or_default();
        let metadata = Metadata {
            body_hash: signed.then(|| postkeep_deliverability::dkim::body_hash(body)),
            envelope: submission.envelope,
            stream: submission.stream.into(),
            credential: submission.credential.into(),
            from_domain: submission.from_domain.into(),
            message_id: submission.message_id.into(),
            list: submission.list.map(Into::into),
            unsubscribe: submission
                .one_click
                .filter(|_| writes_pair)
                // What is rendered later shows then what stands beside the link.
                .map(|one_click| if submission.composed { "".into() } else { one_click.pair.mailto.into() }),
            pool: submission.pool.map(Into::into),
            job: submission.job.map(Into::into),
            composed: submission.composed,
            has_dot_lines: submission.has_dot_lines,
            eight_bit: submission.eight_bit,
            header_length: submission.header_length as u32,
        };
        let now = clock::now();
        let accept = Operation::Accept(NewMessage {
            id,
            received: seconds(now),
            metadata: metadata.encode(),
            body: [submission.prefix.clone(), submission.content.clone()],
            recipients,
        });
        let note = reserved.as_ref().map(|reserved| reserved.note(id, recipients, seconds(now)));
        let mut ticket = engine.spool.submit([Some(accept), note].into_iter().flatten());
        match tokio::time::timeout(PATIENCE, &mut ticket).await {
            Ok(answer) => answer.map_err(|error| {
                if matches!(error, SubmitError::Full | SubmitError::Busy { .. }) {
                    engine.full_until.store(clock::now() + FULL_FOR, Ordering::Relaxed);
                }
                if matches!(error, SubmitError::Full) {
                    engine.tell_full(&error);
                }
                refusal(&error)
            })?,
            Err(_) => {
                self.withdraw(id, recipients, ticket, reserved);
                return Err(Reply::new(451, (4, 3, 0), "the disk does not answer; try again later"));
            }
        }
        if let Some(reserved) = reserved {
            reserved.kept(id, recipients, seconds(now));
        }
        let message = Message::new(id, seconds(now), metadata, submission.prefix, submission.content);
        engine.records.write(
            clock::now(),
            Event::Received,
            Record {
                message: Some(&submission.id),
                sender: Some(message.metadata.envelope.sender.as_ref().map_or("", |sender| sender.as_str())),
                envelope_id: message.metadata.envelope.envelope_id.as_deref(),
                stream: Some(&message.metadata.stream),
                credential: Some(&message.metadata.credential),
                peer: Some(submission.peer.to_string()),
                protocol: message.submitter().map(|(_, protocol)| protocol),
                message_id: Some(&message.metadata.message_id),
                job: message.metadata.job.as_deref(),
                pool: message.metadata.pool.as_deref(),
                unsubscribe: standing.map(Standing::as_str),
                detail: lack.as_deref(),
                size: Some(message.size()),
                recipients: Some(message.metadata.envelope.recipients.len()),
                tls: submission.tls.as_ref().map(|tls| TlsRecord {
                    version: tls.version,
                    cipher: tls.cipher,
                    verified: None,
                    policy: None,
                    tlsa: None,
                }),
                ..Record::default()
            },
        );
        engine.metrics.received(&message.metadata.stream);
        if standing == Some(Standing::Missing) {
            engine.metrics.without_one_click(&message.metadata.stream);
        }
        let taken = engine.enqueue(message, &suppressed);
        if !taken.is_empty() {
            // Answered already: nobody waits for it.
            let engine = Arc::clone(engine);
            tokio::spawn(async move { engine.settle_suppressed(id, taken, &suppressed).await });
        }
        Ok(submission.id)
    }
}

impl Inner {
    /// Keeps a message of the box's own for one recipient, and queues it.
    pub(super) async fn keep_own(
        &self,
        id: MessageId,
        now: Micros,
        metadata: Metadata,
        prefix: Bytes,
        content: Bytes,
    ) -> Result<(), SubmitError> {
        let accept = Operation::Accept(NewMessage {
            id,
            received: seconds(now),
            metadata: metadata.encode(),
            body: [prefix.clone(), content.clone()],
            recipients: 1,
        });
        self.spool.submit([accept]).await?;
        self.enqueue(Message::new(id, seconds(now), metadata, prefix, content), &Standings::new());
        Ok(())
    }
}

impl Gatekeeper for Engine {
    fn next_id(&self) -> String {
        self.0.spool.next_id().to_string()
    }

    async fn submit(&self, submission: Submission) -> Result<String, Reply> {
        self.keep(submission, None).await
    }

    async fn submit_once(&self, submission: Submission, once: Once) -> Result<(String, bool), NotKept> {
        let reserved = match self.0.repeats.reserve(once) {
            repeats::Standing::New(reserved) => reserved,
            repeats::Standing::Kept(id, _) => return Ok((id.to_string(), true)),
            repeats::Standing::Other => return Err(NotKept::OtherContent),
            repeats::Standing::InProgress => return Err(NotKept::InProgress),
        };
        let id = self.keep(submission, Some(reserved)).await.map_err(NotKept::Refused)?;
        Ok((id, false))
    }

    fn known(&self, once: Once) -> Option<Result<(String, usize), NotKept>> {
        match self.0.repeats.standing(once)? {
            repeats::Standing::Kept(id, recipients) => Some(Ok((id.to_string(), recipients as usize))),
            repeats::Standing::Other => Some(Err(NotKept::OtherContent)),
            repeats::Standing::InProgress => Some(Err(NotKept::InProgress)),
            repeats::Standing::New(_) => None,
        }
    }

    fn may_accept(&self, _size: u64) -> Result<(), Reply> {
        if self.0.full_until.load(Ordering::Relaxed) > clock::now() {
            return Err(refusal(&SubmitError::Full));
        }
        Ok(())
    }

    fn may_receive(&self, recipient: &Address) -> Result<(), Reply> {
        self.0.may_receive(recipient)
    }

    fn takes_back(&self, recipient: &Address) -> Option<Result<(), Reply>> {
        self.0.takes_back(recipient)
    }

    async fn take_back(&self, returned: Returned) -> Result<(), Reply> {
        self.0.take_back(returned).await
    }

    fn is_unsubscribe_token(&self, token: &str) -> bool {
        self.0.suppression.tokens().open_unsubscribe(token).is_some()
    }

    async fn unsubscribe(&self, token: &str, peer: SocketAddr) -> Result<Click, Reply> {
        self.0.unsubscribe(token, peer).await
    }

    fn refused(&self, refused: Refused<'_>) {
        self.0.metrics.refused(refused.reply.code);
        self.0.records.write(
            clock::now(),
            Event::Refused,
            Record {
                recipient: refused.recipient.map(|recipient| recipient.as_str()),
                sender: refused.sender.map(|sender| sender.as_str()),
                credential: refused.credential,
                peer: Some(refused.peer.to_string()),
                stage: Some(refused.stage.as_str()),
                reply: Some(ReplyRecord::from(refused.reply)),
                ..Record::default()
            },
        );
    }

    fn connection_opened(&self, _door: SocketAddr, _peer: SocketAddr) {
        self.0.metrics.connections_in.inc();
    }

    fn connection_closed(&self, _door: SocketAddr, _peer: SocketAddr) {
        self.0.metrics.connections_in.dec();
    }
}

/// What a client is told when the spool does not take its message.
pub(super) fn refusal(error: &SubmitError) -> Reply {
    match error {
        SubmitError::Full => Reply::new(452, (4, 3, 1), "insufficient system storage; try again later"),
        SubmitError::TooLarge { .. } => Reply::new(552, (5, 3, 4), error.to_string()),
        SubmitError::Closed => Reply::new(421, (4, 3, 2), "shutting down; try again later"),
        SubmitError::Busy { .. } => {
            Reply::new(452, (4, 3, 1), "too much mail is on its way to the disk; try again later")
        }
        other => {
            log::error!("spool: a message was refused: {other}");
            Reply::new(451, (4, 3, 0), "the message could not be stored; try again later")
        }
    }
}
