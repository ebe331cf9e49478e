//! From what happened to a recipient to what follows: completed, put off or
//! given up, with its report, its record and its counters.
//!
//! The order is the promise: first the outcome (and the report that it owes) is
//! durable, in one atomic batch; only then does the queue forget the recipient.
//! A crash in between tries again; it never loses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postkeep_configuration::OutboundTls;
use postkeep_delivery::TlsResult;
use postkeep_smtp::envelope::{BodyKind, Envelope, Recipient, TlsRequest};
use postkeep_smtp::reply::Reply;
use postkeep_spool::{MessageId, NewMessage, Operation, RetryState};
use postkeep_suppression::Standings;

use super::Inner;
use super::plan::StreamPlan;
use super::protection::Protection;
use super::rendering::{self, Rendered};
use super::state::LaneId;
use super::suppressed::Lesson;
use super::verdict::Judged;
use crate::clock::{self, Micros, seconds, timestamp_seconds};
use crate::dsn;
use crate::message::Message;
use crate::metadata::Metadata;
use crate::queue::{Entry, QueueId, StreamId};
use crate::records::{Event, Record, ReplyRecord, TlsRecord};

/// Wait before a recipient is looked at again whose report found no room in the spool.
const NO_ROOM_WAIT: Duration = Duration::from_secs(60);

/// What became of one recipient.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// The receiver took it. `will_report`: it speaks DSN and was told NOTIFY.
    Delivered { reply: Reply, will_report: bool },
    /// It never will be delivered.
    Failed { reply: Reply, stage: &'static str, judged: Option<Judged> },
    /// Not this time.
    Retry {
        reply: Option<Reply>,
        detail: Option<String>,
        stage: &'static str,
        at_least: Option<Micros>,
        judged: Option<Judged>,
    },
    /// It is not to be written to.
    Suppressed { reply: Reply },
    /// Time is up by order of an administrator.
    Expired { actor: String },
    /// Taken out by an administrator; nobody is told.
    Removed { actor: String },
}

impl Fate {
    /// Not this time, because of this reply.
    pub(crate) fn retry(reply: Reply, stage: &'static str) -> Self {
        Self::Retry { reply: Some(reply), detail: None, stage, at_least: None, judged: None }
    }

    /// Not this time, and there was no reply.
    pub(crate) fn retry_unanswered(detail: impl Into<String>, stage: &'static str) -> Self {
        Self::Retry { reply: None, detail: Some(detail.into()), stage, at_least: None, judged: None }
    }

    /// Never, because of this reply.
    pub(crate) fn failed(reply: Reply, stage: &'static str) -> Self {
        Self::Failed { reply, stage, judged: None }
    }

    fn judged(&self) -> Option<&Judged> {
        match self {
            Self::Failed { judged, .. } | Self::Retry { judged, .. } => judged.as_ref(),
            Self::Delivered { .. } | Self::Suppressed { .. } | Self::Expired { .. } | Self::Removed { .. } => None,
        }
    }
}

/// Where it happened; all absent when nothing was connected.
#[derive(Debug, Clone)]
pub(crate) struct Journey {
    pub lane: Option<LaneId>,
    pub host: Option<Arc<str>>,
    pub address: Option<std::net::SocketAddr>,
    /// What the handshake showed.
    pub tls: Option<Arc<TlsResult>>,
    /// What the connection was held to.
    pub protection: Protection,
    /// What the configuration alone would have held it to.
    pub configured: OutboundTls,
    /// Policies were not looked at, because a sender wanted the mail delivered in any case: it is of no use to others.
    pub indifferent: bool,
    /// Why there is no TLS although the host offered it.
    pub tls_failure: Option<Arc<str>>,
    /// From where.
    pub source_address: Option<std::net::IpAddr>,
    /// What the host offered in its answer to EHLO.
    pub keywords: Option<Arc<str>>,
    pub started: Micros,
}

impl Default for Journey {
    fn default() -> Self {
        Self {
            lane: None,
            host: None,
            address: None,
            tls: None,
            protection: Protection::Configured(OutboundTls::None),
            configured: OutboundTls::None,
            indifferent: false,
            source_address: None,
            keywords: None,
            tls_failure: None,
            started: 0,
        }
    }
}

/// Names of the journey for records, resolved under one lock.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub stream: Arc<str>,
    pub site: Option<Arc<str>>,
    pub provider: Option<Arc<str>>,
    pub source: Option<Arc<str>>,
}

/// One recipient, decided.
struct Decided<'a> {
    entry: Entry,
    recipient: &'a Recipient,
    fate: Fate,
    /// Put off to this state; `None`: finished.
    next: Option<Entry>,
    expired: bool,
    report: Option<dsn::Action>,
}

impl Inner {
    /// Settles recipients of one message. On return their outcome is durable
    /// and the queue has let go of them.
    pub(crate) async fn settle(
        &self,
        queue: QueueId,
        stream: StreamId,
        message: &Arc<Message>,
        journey: &Journey,
        fates: Vec<(Entry, Fate)>,
    ) {
        let now = clock::now();
        let (plan, names) = self.plan_and_names(stream, journey.lane);
        let mut decided: Vec<Decided<'_>> = fates
            .into_iter()
            .filter_map(|(entry, fate)| {
                let recipient = message.metadata.envelope.recipients.get(usize::from(entry.recipient))?;
                Some(decide(message, recipient, entry, fate, &plan, now))
            })
            .collect();

        // First whom not to write to again: lost in a crash, it would be learnt a second time; lost behind
        // the outcome, it never would.
        // Reports and forwarded mail teach nothing: they go to the owner's own people.
        if message.metadata.envelope.sender.is_some() {
            self.learn(message, lessons(&decided), now).await;
        }
        let mut reports = self.reports(message, &plan, journey, &decided, now);
        let operations = operations(message.id, &decided, &reports);
        if let Err(error) = self.spool.submit(operations).await {
            // Only a batch with a report is ever refused.
            log::warn!("queue: no room for a report about {}: {error}", message.id);
            reports.clear();
            let owed = without_reports(&mut decided);
            if !owed.is_empty() {
                self.settle_later(queue, stream, message.id, journey.clone(), owed);
            }
            if let Err(error) = self.spool.submit(operations_without_reports(message.id, &decided)).await {
                log::error!(
                    "queue: outcome of {} is not durable: {error}; it may be tried again after a restart",
                    message.id
                );
            }
        }

        self.write_records(message, &names, &plan.pool.name, journey, &decided, now);
        self.let_go(queue, &decided);
        for report in reports {
            let message = Message::new(report.id, report.received, report.metadata, Bytes::new(), report.content);
            // A report to a suppressed sender is stopped before its attempt.
            self.enqueue(message, &Standings::new());
        }
    }

    /// Their end is decided and its report is owed: both wait until the spool has room. The recipients
    /// stay taken meanwhile, so that nobody tries them again; after a restart they are tried anew.
    fn settle_later(
        &self,
        queue: QueueId,
        stream: StreamId,
        id: MessageId,
        journey: Journey,
        owed: Vec<(Entry, Fate)>,
    ) {
        let Some(engine) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            tokio::time::sleep(NO_ROOM_WAIT).await;
            match engine.read(id).await {
                // Boxed, because settling may come here again.
                Ok(message) => Box::pin(engine.settle(queue, stream, &message, &journey, owed)).await,
                Err(detail) => {
                    let entries: Vec<Entry> = owed.into_iter().map(|(entry, _)| entry).collect();
                    engine.unreadable(queue, &entries, &detail);
                }
            }
        });
    }

    fn let_go(&self, queue: QueueId, decided: &[Decided<'_>]) {
        let mut state = self.state.lock();
        let mut deferred = false;
        for one in decided {
            match one.next {
                Some(next) => {
                    deferred = true;
                    state.queues.defer(queue, next, Some(error_text(&one.fate).into()));
                }
                None => state.queues.finish(queue),
            }
        }
        drop(state);
        if deferred {
            self.wake.notify_one();
        }
    }

    pub(crate) fn plan_and_names(&self, stream: StreamId, lane: Option<LaneId>) -> (Arc<StreamPlan>, Names) {
        let state = self.state.lock();
        let (name, plan, _) = state.stream(stream);
        let mut names = Names { stream: Arc::clone(name), ..Names::default() };
        if let Some(lane) = lane {
            let lane = state.lane(lane);
            let site = state.site(lane.site);
            names.site = Some(Arc::clone(&site.name));
            names.provider.clone_from(&site.provider);
            names.source = Some(Arc::clone(&state.source(lane.source).name));
        }
        (Arc::clone(plan), names)
    }

    /// Reports that the decisions owe, one for each kind.
    fn reports(
        &self,
        message: &Message,
        plan: &StreamPlan,
        journey: &Journey,
        decided: &[Decided<'_>],
        now: Micros,
    ) -> Vec<Report> {
        let Some(sender) = &message.metadata.envelope.sender else { return Vec::new() };
        let hostname = self.configuration.load().hostname.clone();
        let mut reports = Vec::new();
        for action in [dsn::Action::Failed, dsn::Action::Delayed, dsn::Action::Relayed] {
            let replies: Vec<(&Decided<'_>, Reply, bool)> =
                decided.iter().filter(|one| one.report == Some(action)).map(|one| report_reply(one, journey)).collect();
            if replies.is_empty() {
                continue;
            }
            let statuses: Vec<dsn::Status<'_>> = replies
                .iter()
                .map(|(one, reply, remote)| dsn::Status {
                    recipient: one.recipient.address.as_str(),
                    original: one.recipient.original.as_deref(),
                    reply,
                    remote: journey.host.as_deref().filter(|_| *remote),
                    retry_until: (action == dsn::Action::Delayed).then(|| plan.expires(message.received)),
                })
                .collect();
            let rendered = match replies.first() {
                Some((one, ..)) => rendering::rendered(message, one.entry.recipient).unwrap_or_default(),
                None => Rendered::default(),
            };
            let subject = dsn::Subject {
                sender: sender.as_str(),
                envelope_id: message.metadata.envelope.envelope_id.as_deref(),
                ret: message.metadata.envelope.ret,
                received: message.received,
                prefix: &message.prefix,
                content: &rendered.content,
                header_length: rendered.header_length,
                utf8: message.metadata.envelope.smtputf8,
            };
            let id = self.spool.next_id();
            let built = dsn::build(&hostname, &id.to_string(), now, action, &subject, &statuses);
            let needs_utf8 = !sender.is_ascii() || statuses.iter().any(|status| !status.recipient.is_ascii());
            reports.push(Report {
                id,
                received: seconds(now),
                metadata: Metadata {
                    envelope: Envelope {
                        sender: None,
                        recipients: vec![Recipient { address: sender.clone(), notify: None, original: None }],
                        body: if built.eight_bit { BodyKind::EightBitMime } else { BodyKind::SevenBit },
                        smtputf8: needs_utf8,
                        ret: None,
                        envelope_id: None,
                        tls: TlsRequest::Unsaid,
                    },
                    stream: message.metadata.stream.clone(),
                    credential: "postkeep".into(),
                    from_domain: hostname.as_str().into(),
                    message_id: built.message_id.into(),
                    list: None,
                    unsubscribe: None,
                    pool: None,
                    job: None,
                    composed: false,
                    has_dot_lines: built.has_dot_lines,
                    eight_bit: built.eight_bit,
                    header_length: built.header_length as u32,
                    body_hash: None,
                },
                content: built.content,
            });
        }
        reports
    }

    fn write_records(
        &self,
        message: &Message,
        names: &Names,
        pool: &str,
        journey: &Journey,
        decided: &[Decided<'_>],
        now: Micros,
    ) {
        let id = message.id.to_string();
        let sender = message.metadata.envelope.sender.as_ref().map_or("", |sender| sender.as_str());
        let provider = names.provider.as_deref().unwrap_or("");
        let (peer, protocol) = message.submitter().unzip();
        for one in decided {
            let event = event(one);
            let ordered = ordered(one, now);
            let (reply, detail, stage, actor) = match &one.fate {
                Fate::Delivered { reply, .. } => (Some(reply), None, Some("final"), None),
                Fate::Failed { reply, stage, .. } => (Some(reply), None, Some(*stage), None),
                Fate::Retry { reply, detail, stage, .. } => (reply.as_ref(), detail.as_deref(), Some(*stage), None),
                Fate::Suppressed { reply } => (None, Some(&*reply.text), Some("local"), None),
                Fate::Expired { actor } | Fate::Removed { actor } => {
                    (None, ordered.as_deref(), Some("queue"), Some(actor.as_str()))
                }
            };
            let address = journey.address.map(|address| address.to_string());
            let judged = one.fate.judged();
            self.records.write(
                now,
                event,
                Record {
                    message: Some(&id),
                    recipient: Some(one.recipient.address.as_str()),
                    original_recipient: one.recipient.original.as_deref(),
                    sender: Some(sender),
                    envelope_id: message.metadata.envelope.envelope_id.as_deref(),
                    received: Some(timestamp_seconds(message.received)),
                    stream: Some(&names.stream),
                    job: message.metadata.job.as_deref(),
                    credential: Some(&message.metadata.credential),
                    peer: peer.map(str::to_owned),
                    protocol,
                    message_id: Some(&message.metadata.message_id),
                    size: Some(message.size()),
                    domain: Some(one.recipient.address.domain()),
                    site: names.site.as_deref(),
                    provider: names.provider.as_deref(),
                    source: names.source.as_deref(),
                    pool: Some(pool),
                    source_address: journey.source_address,
                    host: journey.host.as_deref(),
                    address,
                    keywords: journey.keywords.as_deref().filter(|keywords| !keywords.is_empty()),
                    stage,
                    attempt: journey.lane.map(|_| one.entry.tries() + 1),
                    reply: reply.map(ReplyRecord::from),
                    class: judged.map(|judged| judged.class),
                    scope: judged.map(|judged| judged.scope.as_str()),
                    rule: judged.and_then(|judged| judged.rule.as_deref()),
                    detail,
                    tls: journey.tls.as_ref().map(|tls| TlsRecord {
                        version: tls.version,
                        cipher: tls.cipher,
                        verified: Some(tls.verified),
                        policy: Some(journey.protection.as_str()),
                        tlsa: tls.dane.map(|matched| if matched.usage == 3 { "dane-ee" } else { "dane-ta" }),
                    }),
                    tls_failure: journey.tls_failure.as_deref(),
                    duration_ms: (journey.started > 0).then(|| now.saturating_sub(journey.started) / 1000),
                    next_attempt: one.next.map(|next| timestamp_seconds(next.due)),
                    actor,
                    ..Record::default()
                },
            );
            self.metrics.outcome(event, provider, names.source.as_deref().unwrap_or(""), &names.stream, 1);
            if event == Event::Delivered {
                self.metrics.delivered_after((now as f64 / 1e6 - f64::from(message.received)).max(0.0));
            }
        }
    }
}

/// A report on its way into the spool.
struct Report {
    id: MessageId,
    received: u32,
    metadata: Metadata,
    content: Bytes,
}

fn decide<'a>(
    message: &Message,
    recipient: &'a Recipient,
    entry: Entry,
    fate: Fate,
    plan: &StreamPlan,
    now: Micros,
) -> Decided<'a> {
    let can_report = message.metadata.envelope.sender.is_some();
    let notify = recipient.notify.unwrap_or_default();
    let wants_failure = can_report && notify.wants_failure();
    let mut next = None;
    let mut expired = false;
    let report = match &fate {
        Fate::Delivered { will_report, .. } => {
            (can_report && notify.success && !will_report).then_some(dsn::Action::Relayed)
        }
        Fate::Failed { .. } | Fate::Suppressed { .. } => wants_failure.then_some(dsn::Action::Failed),
        Fate::Expired { .. } => {
            expired = true;
            wants_failure.then_some(dsn::Action::Failed)
        }
        Fate::Removed { .. } => None,
        Fate::Retry { at_least, .. } => match plan.next_attempt(entry, now, fastrand::f64(), *at_least) {
            Some(mut later) => {
                let late = u64::from(seconds(now).saturating_sub(entry.received))
                    >= plan.settings.delay_notice_after.as_secs();
                let tell = can_report && notify.delay && late && later.attempts & Entry::DELAY_NOTIFIED == 0;
                if tell {
                    later.attempts |= Entry::DELAY_NOTIFIED;
                }
                next = Some(later);
                tell.then_some(dsn::Action::Delayed)
            }
            None => {
                expired = true;
                wants_failure.then_some(dsn::Action::Failed)
            }
        },
    };
    Decided { entry, recipient, fate, next, expired, report }
}

/// What ends have shown about addresses: who is not there, and whom mail did not reach for other reasons.
fn lessons<'a>(decided: &[Decided<'a>]) -> Vec<Lesson<'a>> {
    decided
        .iter()
        .filter(|one| one.next.is_none())
        .filter_map(|one| {
            let judged = one.fate.judged()?;
            let (Fate::Failed { reply, .. } | Fate::Retry { reply: Some(reply), .. }) = &one.fate else { return None };
            let is_gone = judged.suppress && matches!(one.fate, Fate::Failed { .. });
            Some(Lesson { recipient: one.recipient, is_gone, said: code_and_line(reply) })
        })
        .collect()
}

fn event(one: &Decided<'_>) -> Event {
    match (&one.fate, one.next) {
        (Fate::Delivered { .. }, _) => Event::Delivered,
        (Fate::Removed { .. }, _) => Event::Removed,
        (Fate::Suppressed { .. }, _) => Event::Suppressed,
        (_, Some(_)) => Event::Deferred,
        _ if one.expired => Event::Expired,
        _ => Event::Bounced,
    }
}

/// Why it ended by order: what the last try brought is not kept of every recipient, how much was tried is.
fn ordered(one: &Decided<'_>, now: Micros) -> Option<String> {
    let what = match one.fate {
        Fate::Expired { .. } => "delivery time expired",
        Fate::Removed { .. } => "removed",
        _ => return None,
    };
    let age = postkeep_configuration::Duration::from_secs(u64::from(seconds(now).saturating_sub(one.entry.received)));
    let tries = one.entry.tries();
    let attempts = if tries == 1 { "attempt" } else { "attempts" };
    Some(format!("{what} by order of an administrator, after {tries} {attempts} in {age}"))
}

/// The reply that a report quotes, and whether the receiver said it.
fn report_reply<'a, 'b>(one: &'a Decided<'b>, journey: &Journey) -> (&'a Decided<'b>, Reply, bool) {
    let (reply, remote) = match &one.fate {
        Fate::Delivered { reply, .. } => (reply.clone(), true),
        Fate::Failed { reply, stage, .. } => (reply.clone(), journey.host.is_some() && *stage != "local"),
        Fate::Retry { reply: Some(reply), stage, .. } if !one.expired => {
            (reply.clone(), journey.host.is_some() && *stage != "local")
        }
        // That its time is up is our word, whoever gave the last answer.
        Fate::Retry { reply: Some(reply), .. } => (
            Reply::new(
                554,
                (5, 4, 7),
                format!("delivery time expired; the last answer was: {} {}", reply.code, reply.text),
            ),
            false,
        ),
        Fate::Retry { reply: None, detail, .. } => {
            let detail = detail.as_deref().unwrap_or("no answer");
            let code = if one.expired { (5, 4, 7) } else { (4, 4, 1) };
            (
                Reply::new(
                    if one.expired { 554 } else { 451 },
                    code,
                    format!("{}{detail}", if one.expired { "delivery time expired: " } else { "" }),
                ),
                false,
            )
        }
        Fate::Suppressed { reply } => (reply.clone(), false),
        Fate::Expired { .. } => {
            (Reply::new(554, (5, 4, 7), "delivery time expired by order of the administrator"), false)
        }
        Fate::Removed { .. } => (Reply::new(554, (5, 3, 0), "removed"), false),
    };
    (one, reply, remote)
}

fn operations(id: MessageId, decided: &[Decided<'_>], reports: &[Report]) -> Vec<Operation> {
    let mut operations = Vec::with_capacity(decided.len() + reports.len());
    for report in reports {
        operations.push(Operation::Accept(NewMessage {
            id: report.id,
            received: report.received,
            metadata: report.metadata.encode(),
            body: [Bytes::new(), report.content.clone()],
            recipients: 1,
        }));
    }
    operations.extend(operations_without_reports(id, decided));
    operations
}

/// Nobody hears of these decisions now. Those whose report can be left out (a delivery, a delay: a
/// later notice will do) stand; the others are taken out and returned.
fn without_reports(decided: &mut Vec<Decided<'_>>) -> Vec<(Entry, Fate)> {
    let mut owed = Vec::new();
    decided.retain_mut(|one| {
        let is_final = !matches!(one.fate, Fate::Delivered { .. }) && one.next.is_none();
        match one.report.take() {
            Some(_) if is_final => {
                owed.push((one.entry, one.fate.clone()));
                false
            }
            Some(dsn::Action::Delayed) => {
                if let Some(next) = &mut one.next {
                    next.attempts &= !Entry::DELAY_NOTIFIED;
                }
                true
            }
            _ => true,
        }
    });
    owed
}

fn operations_without_reports(id: MessageId, decided: &[Decided<'_>]) -> Vec<Operation> {
    decided
        .iter()
        .map(|one| match one.next {
            Some(next) => Operation::Defer {
                id,
                recipient: one.entry.recipient,
                state: RetryState { attempts: next.attempts, due: next.due },
            },
            None => Operation::Complete { id, recipient: one.entry.recipient },
        })
        .collect()
}

/// A reply in short: its code and its first line.
pub(crate) fn code_and_line(reply: &Reply) -> String {
    format!("{} {}", reply.code, reply.text.lines().next().unwrap_or(""))
}

fn error_text(fate: &Fate) -> String {
    match fate {
        Fate::Retry { reply: Some(reply), .. }
        | Fate::Failed { reply, .. }
        | Fate::Suppressed { reply }
        | Fate::Delivered { reply, .. } => code_and_line(reply),
        Fate::Retry { detail, stage, .. } => format!("{stage}: {}", detail.as_deref().unwrap_or("no answer")),
        Fate::Expired { .. } | Fate::Removed { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use postkeep_smtp::envelope::Notify;
    use postkeep_smtp::{Address, Reply};

    use super::*;

    fn decided(recipient: &Recipient, fate: Fate, next: Option<Entry>, report: Option<dsn::Action>) -> Decided<'_> {
        let entry = Entry { message: 1, due: 0, received: 0, recipient: 0, attempts: 0 };
        Decided { entry, recipient, fate, next, expired: false, report }
    }

    #[test]
    fn a_delivery_stands_when_its_report_finds_no_room_and_a_bounce_waits_with_its_report() {
        let recipient = Recipient {
            address: "a@b.example".parse::<Address>().unwrap(),
            notify: Some(Notify::default()),
            original: None,
        };
        let late = Entry { message: 1, due: 9, received: 0, recipient: 0, attempts: 3 | Entry::DELAY_NOTIFIED };
        let reply = || Reply::new(550, (5, 1, 1), "no");
        let mut all = vec![
            decided(
                &recipient,
                Fate::Delivered { reply: reply(), will_report: false },
                None,
                Some(dsn::Action::Relayed),
            ),
            decided(&recipient, Fate::failed(reply(), "rcpt"), None, Some(dsn::Action::Failed)),
            decided(&recipient, Fate::retry(reply(), "rcpt"), Some(late), Some(dsn::Action::Delayed)),
            decided(&recipient, Fate::Removed { actor: "x".into() }, None, None),
        ];
        let owed = without_reports(&mut all);
        // Only the bounce is taken back; a second delivery of the first would be a copy a minute.
        assert!(matches!(owed[..], [(_, Fate::Failed { .. })]), "{owed:?}");
        assert_eq!(all.len(), 3);
        assert!(matches!(all[0].fate, Fate::Delivered { .. }) && all[0].next.is_none());
        // The notice of the delay is still to come.
        assert_eq!(all[1].next.map(|next| next.attempts), Some(3));
        assert!(all.iter().all(|one| one.report.is_none()));
    }
}
