//! The life of one outgoing connection: it is opened for a batch, carries
//! message after message while its lane allows, waits a little for more, and
//! closes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postkeep_configuration::OutboundTls;
use postkeep_deliverability::governor::{ConnectionPermit, Wait};
use postkeep_deliverability::reply::{Reaction, judge};
use postkeep_delivery::{Connection, Connector, OpenError, Outcome, Stage, Target, Transaction, TransactionResult};
use postkeep_smtp::downgrade;
use postkeep_smtp::reply::Reply;

use super::Inner;
use super::settle::{Fate, Journey};
use super::state::{Batch, LaneId, Next, Work};
use crate::clock::{self, Micros};
use crate::message::Message;
use crate::records::{Event, Record, ReplyRecord};
use crate::routing::RouteError;

/// Hosts and addresses tried for one batch before it is put off.
const MOST_TRIES: usize = 6;
/// Wait after a message could not be read back from the spool.
const UNREADABLE_WAIT: Micros = 3_600_000_000;

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

/// An open connection and where it leads.
struct Opened {
    connection: Connection,
    journey: Journey,
}

/// Why no connection came about.
enum NotOpened {
    /// The source cannot be bound: not the receiver's doing.
    Source(String),
    /// A limit stands in the way of trying a further host.
    Held,
    /// The hosts have no addresses, for good.
    NoHost(Reply),
    /// Name look-ups failed.
    Names(String),
    /// Connections failed; the last failure counts.
    Failed { error: OpenError, journey: Journey },
}

/// Runs one connection from opening to close.
pub(crate) async fn run(engine: Arc<Inner>, permit: ConnectionPermit, batch: Batch) {
    let lane = batch.lane;
    let mut place = Place { engine: Arc::clone(&engine), lane, permit: Some(permit), retired: false };
    let mut job = Job { engine: Arc::clone(&engine), batch: Some(batch) };
    match open(&engine, &mut place, &job).await {
        Ok(mut opened) => {
            serve(&engine, &mut place, &mut opened, job).await;
            opened.connection.quit().await;
        }
        Err(NotOpened::Held) => drop(job),
        Err(NotOpened::Source(detail)) => {
            engine.source_failed(lane, &detail);
            drop(job);
        }
        Err(NotOpened::NoHost(reply)) => {
            if let Some(batch) = job.batch.take() {
                engine.settle_all(batch, &Journey::default(), Fate::Failed { reply, stage: "dns" }).await;
            }
        }
        Err(NotOpened::Names(detail)) => {
            if let Some(batch) = job.batch.take() {
                let fate = Fate::Retry { reply: None, detail: Some(detail), stage: "dns", at_least: None };
                engine.settle_all(batch, &Journey::default(), fate).await;
            }
        }
        Err(NotOpened::Failed { error, journey }) => {
            engine.lane_failed(lane, error.reply.as_ref(), error.stage, &error.detail);
            if let Some(batch) = job.batch.take() {
                let fate = Fate::Retry {
                    reply: error.reply,
                    detail: Some(error.detail),
                    stage: stage_name(error.stage),
                    at_least: None,
                };
                engine.settle_all(batch, &journey, fate).await;
            }
        }
    }
}

async fn open(engine: &Arc<Inner>, place: &mut Place, job: &Job) -> Result<Opened, NotOpened> {
    let Some(batch) = job.batch() else { return Err(NotOpened::Held) };
    let configuration = engine.configuration.load_full();
    let (source, provider) = engine.source_and_provider(place.lane);
    let tls = provider
        .as_deref()
        .and_then(|name| configuration.provider.get(name))
        .and_then(|rules| rules.tls)
        .unwrap_or(configuration.delivery.tls);
    let mut hosts = batch.route.hosts.clone();
    if !batch.route.fixed {
        // Equal preferences share the load (RFC 5321 §5.1).
        fastrand::shuffle(&mut hosts);
        hosts.sort_by_key(|host| host.preference);
    }
    let resolver = engine.resolver.load_full();
    let connector = engine.connector.load_full();
    let mut tries = 0;
    let mut failure: Option<NotOpened> = None;
    for host in &hosts {
        let addresses = match resolver.addresses(&host.name).await {
            Ok(addresses) => addresses,
            Err(RouteError::Permanent(reply)) => {
                failure.get_or_insert(NotOpened::NoHost(reply));
                continue;
            }
            Err(RouteError::Temporary(detail)) => {
                if !matches!(failure, Some(NotOpened::Failed { .. })) {
                    failure = Some(NotOpened::Names(detail));
                }
                continue;
            }
        };
        for address in addresses {
            if address.is_ipv6() && !configuration.delivery.ipv6 && !batch.route.fixed {
                continue;
            }
            let Some(bind) = source.settings.address_for(address) else { continue };
            if tries >= MOST_TRIES {
                break;
            }
            if tries > 0 && !engine.renew(place) {
                return Err(NotOpened::Held);
            }
            tries += 1;
            let broken_tls = tls == OutboundTls::Opportunistic && engine.plain_hosts.contains(&host.name, clock::now());
            let tls = if broken_tls { OutboundTls::None } else { tls };
            let mut target = target(&configuration, host, address, bind, &source, tls);
            let mut result = try_open(engine, &connector, place, batch, &target).await;
            if let Err(NotOpened::Failed { error, .. }) = &result
                && error.plain_text_may_do
            {
                // RFC 7435: some protection when possible, delivery in any case. The failure is on record.
                engine.plain_hosts.insert(&host.name, clock::now());
                if !engine.renew(place) {
                    return Err(NotOpened::Held);
                }
                target.tls = OutboundTls::None;
                result = try_open(engine, &connector, place, batch, &target).await;
            }
            match result {
                Err(NotOpened::Failed { error, journey }) => failure = Some(NotOpened::Failed { error, journey }),
                other => return other,
            }
        }
    }
    Err(failure.unwrap_or_else(|| {
        NotOpened::Source(format!(
            "it has no address of the family that {} needs",
            hosts.first().map_or("the route", |host| &*host.name)
        ))
    }))
}

/// One connection to one address; a failure is on record when this returns.
async fn try_open(
    engine: &Inner,
    connector: &Connector,
    place: &Place,
    batch: &Batch,
    target: &Target,
) -> Result<Opened, NotOpened> {
    let journey = Journey {
        lane: Some(place.lane),
        host: Some(target.host.as_str().into()),
        address: Some(target.address),
        tls: None,
        started: clock::now(),
    };
    match connector.open(target).await {
        Ok(connection) => {
            let tls = connection.tls().map(|tls| (tls.version.to_string(), tls.cipher.to_string(), tls.verified));
            Ok(Opened { connection, journey: Journey { tls, ..journey } })
        }
        Err(error) if error.stage == Stage::Bind => Err(NotOpened::Source(error.detail)),
        Err(error) => {
            engine.record_attempt(batch, &journey, &error);
            Err(NotOpened::Failed { error, journey })
        }
    }
}

fn target(
    configuration: &postkeep_configuration::Configuration,
    host: &crate::routing::Host,
    address: IpAddr,
    bind: IpAddr,
    source: &super::state::SourcePlan,
    tls: OutboundTls,
) -> Target {
    Target {
        host: host.name.to_string(),
        address: SocketAddr::new(address, host.port.unwrap_or(configuration.delivery.port)),
        bind: Some(bind),
        freebind: source.settings.freebind,
        ehlo: source.ehlo.to_string(),
        tls,
        timeouts: (&configuration.delivery).into(),
    }
}

/// Carries mail until the lane, the peer or the clock says stop.
async fn serve(engine: &Arc<Inner>, place: &mut Place, opened: &mut Opened, first: Job) {
    let mut next = Some(first);
    let mut carried = 0u32;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match wait_for_work(engine, place, &mut opened.connection).await {
                Some(job) => job,
                None => return,
            },
        };
        carried += 1;
        let alive = transmit(engine, opened, job).await;
        if !alive || carried >= engine.messages_per_connection(place.lane) {
            return;
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

/// Sends one batch and settles it; false when the connection is of no more use.
async fn transmit(engine: &Arc<Inner>, opened: &mut Opened, mut job: Job) -> bool {
    let Some(batch) = job.batch() else { return true };
    let (lane, stream) = (batch.lane, batch.stream);
    let message = match engine.load(batch).await {
        Ok(message) => message,
        Err(detail) => {
            engine.unreadable(&mut job.batch, &detail, UNREADABLE_WAIT).await;
            engine.message_done(lane, stream);
            return true;
        }
    };
    let started = clock::now();
    let result = send(engine, &mut opened.connection, batch, &message).await;
    engine.message_done(lane, stream);

    let provider = engine.source_and_provider(lane).1;
    let speaks_dsn = opened.connection.capabilities().dsn;
    let mut lane_trouble: Option<(Option<Micros>, String)> = None;
    let mut reached = false;
    let fates = batch
        .entries
        .iter()
        .zip(result.recipients)
        .map(|(entry, outcome)| {
            let (fate, trouble) = fate(outcome, provider.as_deref(), speaks_dsn);
            reached |= trouble.is_none();
            if let Some(trouble) = trouble {
                lane_trouble.get_or_insert(trouble);
            }
            (*entry, fate)
        })
        .collect();
    match lane_trouble {
        Some((length, why)) => engine.lane_trouble(lane, length, &why),
        None if reached => engine.lane_succeeded(lane),
        None => {}
    }
    let journey = Journey { started, ..opened.journey.clone() };
    if let Some(batch) = job.batch.take() {
        engine.settle(batch.queue, batch.stream, &message, &journey, fates).await;
    }
    result.alive
}

async fn send(engine: &Inner, connection: &mut Connection, batch: &Batch, message: &Message) -> TransactionResult {
    let metadata = &message.metadata;
    let capabilities = connection.capabilities();
    let mut content = message.content.clone();
    let mut body_hash = metadata.body_hash;
    let mut eight_bit = metadata.eight_bit;
    let mut has_dot_lines = metadata.has_dot_lines;
    let mut header_length = metadata.header_length as usize;
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
                return refused(batch, reply);
            }
        }
    }
    let signer = engine.signer.load();
    let keys = signer.keys_for(&metadata.from_domain, &metadata.stream);
    let mut head = BytesMut::with_capacity(message.prefix.len() + 1024);
    if !keys.is_empty() {
        let header = content.get(..header_length).unwrap_or(&content);
        let hash = body_hash.unwrap_or_else(|| {
            postkeep_deliverability::dkim::body_hash(content.get(header_length..).unwrap_or_default())
        });
        let mut signatures = Vec::with_capacity(1024);
        match postkeep_deliverability::dkim::sign(
            &keys,
            &[&message.prefix, header],
            &hash,
            clock::now() / 1_000_000,
            &mut signatures,
        ) {
            Ok(()) => head.put_slice(&signatures),
            Err(error) => {
                log::error!("signing {} for {}: {error}", message.id, metadata.from_domain);
                return put_off(batch, format!("cannot sign for {}: {error}", metadata.from_domain));
            }
        }
    }
    head.put_slice(&message.prefix);
    let parts: [Bytes; 2] = [head.freeze(), content];
    let recipients: Vec<_> = batch
        .entries
        .iter()
        .filter_map(|entry| metadata.envelope.recipients.get(usize::from(entry.recipient)).cloned())
        .collect();
    connection
        .transact(&Transaction {
            sender: metadata.envelope.sender.as_ref(),
            recipients: &recipients,
            parts: &parts,
            has_dot_lines,
            eight_bit,
            smtputf8: metadata.envelope.smtputf8,
            ret: metadata.envelope.ret,
            envelope_id: metadata.envelope.envelope_id.as_deref(),
        })
        .await
}

fn refused(batch: &Batch, reply: Reply) -> TransactionResult {
    let recipients = batch.entries.iter().map(|_| Outcome::Unsendable { reply: reply.clone() }).collect();
    TransactionResult { recipients, alive: true, bytes: 0, end: None }
}

fn put_off(batch: &Batch, detail: String) -> TransactionResult {
    let reply = Reply::new(451, (4, 7, 5), detail);
    let recipients = batch.entries.iter().map(|_| Outcome::Unsendable { reply: reply.clone() }).collect();
    TransactionResult { recipients, alive: true, bytes: 0, end: None }
}

/// What an outcome means for the recipient, and for the lane if it is in trouble: for how long, and why.
fn fate(outcome: Outcome, provider: Option<&str>, speaks_dsn: bool) -> (Fate, Option<(Option<Micros>, String)>) {
    match outcome {
        Outcome::Delivered(reply) => (Fate::Delivered { reply, will_report: speaks_dsn }, None),
        Outcome::Unsendable { reply } if reply.is_transient() => {
            (Fate::Retry { reply: Some(reply), detail: None, stage: "local", at_least: None }, None)
        }
        Outcome::Unsendable { reply } => (Fate::Failed { reply, stage: "local" }, None),
        Outcome::Lost { stage, detail } => {
            let why = format!("connection lost at {}: {detail}", stage_name(stage));
            (
                Fate::Retry { reply: None, detail: Some(detail), stage: stage_name(stage), at_least: None },
                Some((None, why)),
            )
        }
        Outcome::Refused { stage, reply } => {
            let verdict = judge(stage, &reply, provider);
            let why = || format!("{} {}", reply.code, reply.text.lines().next().unwrap_or(""));
            match verdict.reaction {
                Reaction::Bounce => (Fate::Failed { reply, stage: stage_name(stage) }, None),
                Reaction::Retry => {
                    (Fate::Retry { reply: Some(reply), detail: None, stage: stage_name(stage), at_least: None }, None)
                }
                Reaction::BackOff { .. } => {
                    let trouble = Some((back_off_length(verdict.reaction), why()));
                    (
                        Fate::Retry { reply: Some(reply), detail: None, stage: stage_name(stage), at_least: None },
                        trouble,
                    )
                }
            }
        }
    }
}

/// How long a verdict says to stay away, if it says.
pub(crate) fn back_off_length(reaction: Reaction) -> Option<Micros> {
    match reaction {
        Reaction::BackOff { length } => length.map(|length| length.as_micros()),
        Reaction::Retry | Reaction::Bounce => None,
    }
}

/// A stage as records name it.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Bind => "bind",
        Stage::Connect => "connect",
        Stage::Greeting => "greeting",
        Stage::Ehlo => "ehlo",
        Stage::Tls => "tls",
        Stage::Mail => "mail",
        Stage::Rcpt => "rcpt",
        Stage::Data => "data",
        Stage::Final => "final",
    }
}

impl Inner {
    /// One `attempted` record for a connection that failed before any recipient was named.
    fn record_attempt(&self, batch: &Batch, journey: &Journey, error: &OpenError) {
        let (_, names) = self.plan_and_names(batch.stream, journey.lane);
        let now = clock::now();
        let id = batch.entries.first().map(|entry| postkeep_spool::MessageId(entry.message).to_string());
        self.records.write(
            now,
            Event::Attempted,
            Record {
                message: id.as_deref(),
                stream: Some(&names.stream),
                site: names.site.as_deref(),
                provider: names.provider.as_deref(),
                source: names.source.as_deref(),
                host: journey.host.as_deref(),
                address: journey.address.map(|address| address.to_string()),
                stage: Some(stage_name(error.stage)),
                reply: error.reply.as_ref().map(ReplyRecord::from),
                detail: Some(&error.detail),
                duration_ms: Some(now.saturating_sub(journey.started) / 1000),
                ..Record::default()
            },
        );
        self.metrics.outcome(
            Event::Attempted,
            names.provider.as_deref().unwrap_or(""),
            names.source.as_deref().unwrap_or(""),
            &names.stream,
            1,
        );
    }

    fn renew(&self, place: &mut Place) -> bool {
        let Some(permit) = place.permit.take() else { return false };
        let mut work = Work::default();
        let mut state = self.state.lock();
        let (permit, hold) = state.exchange_permit(place.lane, permit, clock::now());
        work.horizons = hold.is_some_and(|hold| hold.until == Wait::Horizon);
        drop(state);
        place.permit = permit;
        self.perform_horizons(work.horizons);
        place.permit.is_some()
    }
}
