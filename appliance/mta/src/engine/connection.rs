//! The life of one outgoing connection: it is opened for a batch, carries
//! message after message while its lane allows, waits a little for more, and
//! closes.

mod opening;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postkeep_deliverability::governor::ConnectionPermit;
use postkeep_deliverability::reply::named::Parties;
use postkeep_delivery::{Connection, Outcome, Stage, Transaction, TransactionResult};
use postkeep_smtp::address::Address;
use postkeep_smtp::downgrade;
use postkeep_smtp::envelope::TlsRequest;
use postkeep_smtp::reply::Reply;

use self::opening::{NotOpened, Opened};
use super::Inner;
use super::feedback::MailTokens;
use super::host_faults::{CHUNKING_MEMORY, Fault};
use super::rendering::{self, Rendered};
use super::settle::{Fate, Journey};
use super::state::{Batch, LaneId, Next};
use super::verdict::{self, Trouble, Whom};
use crate::clock;
use crate::message::Message;

/// A batch in work. If its task dies before it is settled, the mail goes back
/// to its queue instead of being forgotten until the next start.
struct Job {
    engine: Arc<Inner>,
    batch: Option<Batch>,
}

impl Job {
    fn batch(&self) -> Option<&Batch> {
        self.batch.as_ref()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.engine.give_back(batch);
        }
    }
}

/// The connection's place in its lane's limits, given back when it goes.
struct Place {
    engine: Arc<Inner>,
    lane: LaneId,
    permit: Option<ConnectionPermit>,
    /// It was told to close.
    retired: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.engine.connection_closed(self.lane, self.permit.take(), self.retired);
    }
}

/// Runs one connection from opening to close.
pub(crate) async fn run(engine: Arc<Inner>, permit: ConnectionPermit, batch: Batch) {
    let lane = batch.lane;
    let mut place = Place { engine: Arc::clone(&engine), lane, permit: Some(permit), retired: false };
    let mut job = Job { engine: Arc::clone(&engine), batch: Some(batch) };
    let opened = loop {
        let mut opened = match job.batch() {
            Some(batch) => match opening::open(&engine, &mut place, batch).await {
                Ok(opened) => opened,
                Err(why) => break why,
            },
            None => return,
        };
        let left = serve(&engine, &mut place, &mut opened, job).await;
        opened.connection.quit().await;
        // This mail is to be protected in a way that the connection was not: it gets another one.
        match left {
            Some(left) if engine.renew(&mut place) => job = left,
            _ => return,
        }
    };
    match opened {
        NotOpened::Source(detail) => {
            engine.source_failed(lane, &detail);
            drop(job);
        }
        NotOpened::NoHost(reply) => {
            if let Some(batch) = job.batch.take() {
                engine.settle_all(batch, &Journey::default(), Fate::failed(reply, "dns")).await;
            }
        }
        NotOpened::Policy { detail, journey } => {
            if let Some(batch) = job.batch.take() {
                let fate = Fate::retry_unanswered(detail, "policy");
                engine.settle_all(batch, &journey, fate).await;
            }
        }
        NotOpened::Names(detail) => {
            if let Some(batch) = job.batch.take() {
                let fate = Fate::retry_unanswered(detail, "dns");
                engine.settle_all(batch, &Journey::default(), fate).await;
            }
        }
        NotOpened::Family(detail) => {
            if let Some(batch) = job.batch.take() {
                let fate = Fate::retry_unanswered(detail, "bind");
                engine.settle_all(batch, &Journey::default(), fate).await;
            }
        }
        NotOpened::Failed { error, journey } => {
            let judged =
                engine.connection_failed(lane, job.batch().map(|batch| batch.stream), journey.host.as_deref(), &error);
            if let Some(batch) = job.batch.take() {
                let fate = Fate::Retry {
                    reply: error.reply,
                    detail: Some(error.detail),
                    stage: error.stage.as_str(),
                    at_least: None,
                    judged,
                };
                engine.settle_all(batch, &journey, fate).await;
            }
        }
    }
}

/// Carries mail until the lane, the peer or the clock says stop. What it gives back needs another connection.
async fn serve(engine: &Arc<Inner>, place: &mut Place, opened: &mut Opened, first: Job) -> Option<Job> {
    let mut next = Some(first);
    let mut carried = 0u32;
    let mut is_first = true;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match wait_for_work(engine, place, &mut opened.connection).await {
                Some(job) => job,
                None => return None,
            },
        };
        if !is_first && !engine.is_good_for(opened, &job) {
            return Some(job);
        }
        is_first = false;
        let alive = match transmit(engine, opened, job, carried > 0).await {
            Sent::Nothing => true,
            Sent::Alive => {
                carried += 1;
                true
            }
            Sent::Dead => false,
        };
        if !alive || carried >= engine.messages_per_connection(place.lane) {
            return None;
        }
    }
}

async fn wait_for_work(engine: &Arc<Inner>, place: &mut Place, connection: &mut Connection) -> Option<Job> {
    let lane = place.lane;
    let idle_timeout = engine.configuration.load().delivery.idle_timeout.as_std();
    loop {
        match engine.next(lane) {
            Next::Send(batch) => return Some(Job { engine: Arc::clone(engine), batch: Some(batch) }),
            Next::Retire => {
                place.retired = true;
                return None;
            }
            Next::Wait(until) => {
                let wait = Duration::from_micros(until.saturating_sub(clock::now()));
                if wait > idle_timeout {
                    engine.wake_lane_at(lane, until);
                    return None;
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = connection.idle() => return None,
                }
            }
            Next::Idle(token, wake) => {
                let closed = tokio::select! {
                    () = wake.notified() => false,
                    () = tokio::time::sleep(idle_timeout) => true,
                    _ = connection.idle() => true,
                };
                // If it was woken in the same moment, the mail that it was woken
                // for is served by whoever takes this connection's place.
                if closed {
                    engine.stop_idling(lane, token);
                    return None;
                }
            }
        }
    }
}

impl Inner {
    /// Whether the connection protects the mail of a job as its domain wants it. Counts a session for the domain, when its
    /// mail comes here for the first time; and says in the journey what protects it.
    fn is_good_for(&self, opened: &mut Opened, job: &Job) -> bool {
        let Some(batch) = job.batch() else { return true };
        if opened.journey.indifferent {
            return false;
        }
        // What was found when it was opened, or for the first mail of the queue, holds for the life of the connection.
        if let Some((_, protection)) = opened.good_for.iter().find(|(queue, _)| *queue == batch.queue) {
            opened.journey.protection = *protection;
            return true;
        }
        match self.protection_on(&opened.journey, &opened.connection, batch) {
            Ok(protection) => {
                opened.journey.protection = protection;
                opened.good_for.push((batch.queue, protection));
                self.count_another(&opened.journey, &opened.connection, batch, &opened.applied);
                true
            }
            Err(why) => {
                log::debug!("{why}; another connection is tried");
                false
            }
        }
    }
}

/// What became of the connection.
enum Sent {
    /// Nothing was said on it.
    Nothing,
    /// It carried mail and may carry more.
    Alive,
    /// It is of no more use.
    Dead,
}

/// Sends one batch and settles it. `is_used`: the connection has carried mail before.
async fn transmit(engine: &Arc<Inner>, opened: &mut Opened, mut job: Job, is_used: bool) -> Sent {
    let Some(batch) = job.batch() else { return Sent::Nothing };
    let (lane, stream) = (batch.lane, batch.stream);
    let message = match engine.load(batch).await {
        Ok(message) => message,
        Err(detail) => {
            if let Some(batch) = job.batch.take() {
                engine.unreadable(batch.queue, &batch.entries, &detail);
            }
            engine.message_done(lane, stream);
            return Sent::Nothing;
        }
    };
    if let Some((until, why)) = engine.suspended(lane, stream, &message.metadata.from_domain) {
        engine.message_done(lane, stream);
        // Spread, so that not everything comes back in the same second.
        let wait = until.saturating_sub(clock::now());
        let at_least = Some(wait + fastrand::u64(0..=wait / 8));
        let fate = Fate::Retry { reply: None, detail: Some(why), stage: "local", at_least, judged: None };
        if let Some(batch) = job.batch.take() {
            let fates = batch.entries.iter().map(|entry| (*entry, fate.clone())).collect();
            engine.settle(batch.queue, batch.stream, &message, &Journey::default(), fates).await;
        }
        return Sent::Nothing;
    }
    if message.metadata.composed || message.metadata.unsubscribe.is_some() {
        // Each has a message of their own; the others are next.
        if let Some(batch) = job.batch.as_mut() {
            engine.one_only(batch);
        }
    }
    // Held until the receiver has answered: whoever suppresses one of them waits for that.
    let pass = match job.batch.as_mut() {
        Some(batch) => engine.pass(batch, &message).await,
        None => None,
    };
    let (Some(pass), Some(batch)) = (pass, job.batch()) else {
        job.batch.take();
        engine.message_done(lane, stream);
        return Sent::Nothing;
    };
    let started = clock::now();
    let tokens = engine.tokens_for(batch, &message);
    let required = engine.require_tls(&message, batch, &opened.journey, &opened.connection);
    let result = if let Err(reply) = required {
        unsendable(batch, &reply)
    } else {
        send(engine, &mut opened.connection, batch, &message, tokens.as_ref()).await
    };
    drop(pass);
    if is_used && !result.alive && result.recipients.iter().all(is_end_of_session) {
        // The host has had enough of this connection, not of this message: another one will do.
        log::debug!("{:?}: {}", opened.journey.host, result.end.as_deref().unwrap_or("closed"));
        drop(job);
        return Sent::Dead;
    }
    engine.message_done(lane, stream);
    if let (Some(fault), Some(host)) = (&result.chunking_fault, &opened.journey.host) {
        log::warn!("{host}: {fault}; it gets DATA for an hour");
        engine.host_faults.insert(host, Fault::Chunking, fault, clock::now(), CHUNKING_MEMORY);
    }

    // Only a refusal is judged.
    let is_refused = result.recipients.iter().any(|outcome| matches!(outcome, Outcome::Refused { .. }));
    let provider = is_refused.then(|| engine.provider_of(opened.journey.host.as_deref())).flatten();
    // Whoever reports to our own return path does not report to the sender.
    let speaks_dsn = opened.connection.capabilities().dsn && tokens.is_none();
    let book = engine.replies.load_full();
    let envelope = &message.metadata.envelope;
    // A refusal that names the sender is none of a recipient's.
    let senders = [envelope.sender.as_ref().map_or("", Address::as_str), &*message.metadata.from_domain];
    let mut troubles: Vec<Trouble> = Vec::new();
    let mut delivered = false;
    let fates = batch
        .entries
        .iter()
        .zip(result.recipients)
        .map(|(entry, outcome)| {
            let recipient =
                envelope.recipients.get(usize::from(entry.recipient)).map(|recipient| recipient.address.as_str());
            let parties = Parties { recipient: recipient.as_slice(), senders: &senders };
            let (fate, trouble) = verdict::fate(&book, outcome, &parties, provider.as_deref(), speaks_dsn);
            delivered |= matches!(fate, Fate::Delivered { .. });
            // Recipients that were refused together are one trouble.
            if let Some(trouble) = trouble
                && !troubles.iter().any(|known| known.scope == trouble.scope)
            {
                troubles.push(trouble);
            }
            (*entry, fate)
        })
        .collect();
    if troubles.is_empty() {
        // A refusal is no sign of a lane that has recovered.
        if delivered {
            engine.lane_succeeded(lane);
        }
    } else {
        let subject = Whom { lane, stream, sender_domain: &message.metadata.from_domain };
        for trouble in &troubles {
            engine.trouble(subject, trouble);
        }
    }
    let journey = Journey { started, ..opened.journey.clone() };
    if let Some(batch) = job.batch.take() {
        engine.settle(batch.queue, batch.stream, &message, &journey, fates).await;
    }
    if result.alive { Sent::Alive } else { Sent::Dead }
}

async fn send(
    engine: &Inner,
    connection: &mut Connection,
    batch: &Batch,
    message: &Message,
    tokens: Option<&MailTokens>,
) -> TransactionResult {
    let metadata = &message.metadata;
    let capabilities = connection.capabilities();
    let number = batch.entries.first().map_or(0, |entry| entry.recipient);
    let Rendered { mut content, mut body_hash, mut eight_bit, mut has_dot_lines, mut header_length, unsubscribe } =
        match rendering::rendered(message, number) {
            Ok(rendered) => rendered,
            Err(detail) => return unsendable(batch, &Reply::new(554, (5, 6, 0), detail)),
        };
    if eight_bit && !capabilities.eight_bit_mime {
        match downgrade::to_seven_bit(&content) {
            Ok(converted) => {
                header_length = postkeep_smtp::header::header_length(&converted);
                has_dot_lines = converted.starts_with(b".") || memchr::memmem::find(&converted, b"\r\n.").is_some();
                content = converted.into();
                body_hash = None;
                eight_bit = false;
            }
            Err(reason) => {
                let reply = Reply::new(554, (5, 6, 3), format!("the receiver takes 7-bit mail only, and {reason}"));
                return unsendable(batch, &reply);
            }
        }
    }
    let pair = unsubscribe.map(|beside| engine.pair_for(message, number, &beside)).unwrap_or_default();
    let token_headers = [tokens.map_or("", |tokens| &*tokens.headers), &pair].concat();
    let signer = engine.signer.load();
    let keys = signer.keys_for(&metadata.from_domain, &metadata.stream);
    let mut head = BytesMut::with_capacity(message.prefix.len() + token_headers.len() + 1024);
    if !keys.is_empty() {
        let header = content.get(..header_length).unwrap_or(&content);
        let hash = body_hash.unwrap_or_else(|| {
            postkeep_deliverability::dkim::body_hash(content.get(header_length..).unwrap_or_default())
        });
        let mut signatures = Vec::with_capacity(1024);
        match postkeep_deliverability::dkim::sign(
            &keys,
            &[token_headers.as_bytes(), &message.prefix, header],
            &hash,
            clock::now() / 1_000_000,
            &mut signatures,
        ) {
            Ok(()) => head.put_slice(&signatures),
            Err(error) => {
                log::error!("signing {} for {}: {error}", message.id, metadata.from_domain);
                let reply = Reply::new(451, (4, 7, 5), format!("cannot sign for {}: {error}", metadata.from_domain));
                return unsendable(batch, &reply);
            }
        }
    }
    head.put_slice(token_headers.as_bytes());
    head.put_slice(&message.prefix);
    let parts: [Bytes; 2] = [head.freeze(), content];
    let mut recipients: Vec<_> = batch
        .entries
        .iter()
        .filter_map(|entry| metadata.envelope.recipients.get(usize::from(entry.recipient)).cloned())
        .collect();
    if tokens.is_some() {
        // Reports come to us now, and it is failures that we want to hear of; the sender is told of successes by us.
        recipients.iter_mut().for_each(|recipient| recipient.notify = None);
    }
    connection
        .transact(&Transaction {
            sender: tokens.map(|tokens| &tokens.return_path).or(metadata.envelope.sender.as_ref()),
            recipients: &recipients,
            parts: &parts,
            has_dot_lines,
            eight_bit,
            smtputf8: metadata.envelope.smtputf8,
            ret: metadata.envelope.ret,
            envelope_id: metadata.envelope.envelope_id.as_deref(),
            require_tls: metadata.envelope.tls == TlsRequest::Required,
        })
        .await
}

/// The host ended the connection where the next message was to begin, and knows nothing of it.
fn is_end_of_session(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Lost { stage, .. } => *stage == Stage::Mail,
        Outcome::Refused { stage, reply } => *stage == Stage::Mail && reply.code == 421,
        Outcome::Delivered(_) | Outcome::Unsendable { .. } => false,
    }
}

/// Our own decision, before anything is said to the receiver.
fn unsendable(batch: &Batch, reply: &Reply) -> TransactionResult {
    let recipients = batch.entries.iter().map(|_| Outcome::Unsendable { reply: reply.clone() }).collect();
    TransactionResult { recipients, alive: true, bytes: 0, end: None, chunking_fault: None }
}
