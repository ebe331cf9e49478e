//! The mail core examines itself: the queue, the keys, the suppression list, and a message that goes the whole way
//! through spool, queue, lane and signature to a sink.
//!
//! That the daemon runs proves nothing: what is written into the spool is read again, every key that the configuration
//! names is used, and the message that arrives is held against the public half of the key that must have signed it.
//!
//! The sink listens on the machine's own loopback for as long as the daemon lives, since a message that was late finds
//! it again. Its domain ends in `.invalid` (RFC 6761 §6.4): nobody's mail goes there.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use postkeep_configuration::{ByteSize, Configuration, ListenerTls};
use postkeep_deliverability::dkim::{self, KeySelection, Signer};
use postkeep_smtp::Address;
use postkeep_smtp::envelope::{BodyKind, Envelope, Recipient, TlsRequest};
use postkeep_spool::{NewMessage, Operation};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OnceCell, Semaphore};

use super::{Engine, Inner};
use crate::clock::{self, Micros, seconds};
use crate::metadata::Metadata;
use crate::routing::{Route, fixed_route};

/// Where the message of an examination goes: to this machine itself, whatever is asked of other machines.
pub(crate) const DOMAIN: &str = "postkeep-health.invalid";
/// The stream that it is counted under.
const STREAM: &str = "postkeep-health";
/// How long the message may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the spool may take to give back what it was given.
const SPOOL_PATIENCE: Duration = Duration::from_secs(10);
/// What the sink reads of a message, and how long it waits for it.
const LARGEST_MESSAGE: u64 = 64 * 1024;
const SINK_PATIENCE: Duration = Duration::from_secs(30);
/// Deliveries to the sink at a time.
const AT_ONCE: usize = 8;
/// Messages that came and that nobody asked for yet.
const MOST_ARRIVED: usize = 64;
/// The header field that tells one examination's message from another's.
const FIELD: &str = "X-Postkeep-Health";

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HealthCheck {
    /// `queue`, `keys`, `suppression` or `message`.
    pub name: String,
    /// Whether it is well.
    pub well: bool,
    /// What was found.
    pub detail: String,
    /// Of the suppression list: how many entries it has. A new version that finds none where there were some has not found the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
}

impl HealthCheck {
    fn new(name: &str, found: Result<String, String>) -> Self {
        let well = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        Self { name: name.to_owned(), well, detail, entries: None }
    }
}

/// What the engine has for it.
#[derive(Default)]
pub(super) struct Health {
    sink: OnceCell<Arc<Sink>>,
    /// One examination at a time: each costs a message.
    examining: tokio::sync::Mutex<()>,
}

impl Engine {
    /// Examines itself; takes as long as a message needs, half a minute at most.
    pub async fn examine(&self) -> Vec<HealthCheck> {
        let inner = &self.0;
        let _one_at_a_time = inner.health.examining.lock().await;
        let (configuration, signer) = (inner.configuration.load_full(), inner.signer.load_full());
        let signing = keys_of_message(&configuration, &signer);
        let answered = inner.suppression_answers().await;
        let entries = self.suppression().statistics().entries.iter().map(|(_, count)| count).sum::<u64>();
        let suppression = HealthCheck::new("suppression", answered.map(|()| format!("{entries} entries")));
        vec![
            HealthCheck::new("queue", inner.queue_works().await),
            HealthCheck::new("keys", keys_work_aside(configuration, signer).await),
            HealthCheck { entries: Some(entries), ..suppression },
            HealthCheck::new("message", inner.message_arrives(&signing, PATIENCE).await),
        ]
    }
}

impl Inner {
    /// The route of the domain of examinations; none for every other domain.
    pub(super) async fn route_to_sink(&self, domain: &str) -> Option<Route> {
        if domain != DOMAIN {
            return None;
        }
        match self.health.sink.get_or_try_init(Sink::open).await {
            Ok(sink) => fixed_route(&sink.addresses),
            Err(error) => {
                log::error!("health: the sink cannot be opened on loopback: {error}");
                None
            }
        }
    }

    /// The queue can be counted, the spool gives back what it is given, and there is room for more.
    async fn queue_works(self: &Arc<Self>) -> Result<String, String> {
        let (ready, waiting, under_way) = self.state.lock().queues.totals();
        let engine = Arc::clone(self);
        // In a task of its own: what was written is taken out again, also when nobody waits for the answer any more.
        let tried = tokio::spawn(async move { engine.spool_gives_back().await });
        let free = match tokio::time::timeout(SPOOL_PATIENCE, tried).await {
            Ok(Ok(free)) => free?,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                let patience = SPOOL_PATIENCE.as_secs();
                return Err(format!("the spool did not give back what it was given within {patience} seconds"));
            }
        };
        let queued = ready + waiting + under_way;
        Ok(format!(
            "{queued} recipients are queued; the spool gives back what it is given and has {} MiB left",
            free >> 20
        ))
    }

    /// Writes a message, reads it, and takes it out again, past the queue; the bytes that are left.
    async fn spool_gives_back(self: &Arc<Self>) -> Result<u64, String> {
        let engine = Arc::clone(self);
        let free = tokio::task::spawn_blocking(move || engine.spool.free_space()).await;
        let free = free
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("nobody knows how much room the spool has: {error}"))?;
        has_room(free, self.configuration.load().spool.minimum_free)?;
        let (id, now) = (self.spool.next_id(), clock::now());
        let Letter { metadata, content } = Letter::new(DOMAIN, &format!("{id}.{now}"), now)?;
        let accept = Operation::Accept(NewMessage {
            id,
            received: seconds(now),
            metadata: metadata.encode(),
            body: [Bytes::new(), content.clone()],
            recipients: 1,
        });
        self.spool.submit([accept]).await.map_err(|error| format!("the spool does not take a message: {error}"))?;
        let read = self.read(id).await;
        // Whatever came of it. If the power goes before, the next start finds the message, and the sink gets it.
        let removed = self.spool.submit([Operation::Complete { id, recipient: 0 }]).await;
        let read = read.map_err(|error| format!("what was just written into the spool cannot be read: {error}"))?;
        removed.map_err(|error| format!("the spool does not take note of a delivery: {error}"))?;
        if read.content != content || read.metadata != metadata {
            return Err(format!("the spool gave back something else than it was given: {id}"));
        }
        Ok(free)
    }

    /// The list answers, and what it has taken on is on the disk.
    async fn suppression_answers(&self) -> Result<(), String> {
        let address = address(&format!("nobody@{DOMAIN}"))?;
        self.suppression.check(&address, STREAM, None).map_err(|error| error.to_string())?;
        self.suppression.find(&address).map_err(|error| error.to_string())?;
        self.suppression.flush().await.map_err(|error| error.to_string())
    }

    /// A message reaches the sink, signed by these keys.
    async fn message_arrives(&self, signing: &KeySelection, patience: Duration) -> Result<String, String> {
        let sink = self.health.sink.get_or_try_init(Sink::open).await;
        let sink = sink.map_err(|error| format!("the sink cannot be opened on loopback: {error}"))?;
        let (id, now) = (self.spool.next_id(), clock::now());
        let token = format!("{id}.{now}");
        let domain = signing.keys().first().map_or(DOMAIN, |key| key.domain());
        let Letter { metadata, content } = Letter::new(domain, &token, now)?;
        // One examination at a time: what came for earlier ones was too late.
        sink.arrived.lock().clear();
        let begun = Instant::now();
        self.keep_own(id, now, metadata, Bytes::new(), content)
            .await
            .map_err(|error| format!("the spool does not take a message: {error}"))?;
        let Ok(arrived) = tokio::time::timeout(patience, sink.arrival(&token)).await else {
            return self.undelivered(patience);
        };
        dkim::verify(signing, arrived.as_bytes()).map_err(|error| format!("a message arrived, but {error}"))?;
        let signed = if signing.is_empty() { "" } else { ", signed," };
        Ok(format!("a message arrived{signed} after {} ms", begun.elapsed().as_millis()))
    }

    /// What it means that the message did not arrive.
    fn undelivered(&self, patience: Duration) -> Result<String, String> {
        let holding: Vec<String> = {
            let state = self.state.lock();
            state.pauses_that_hold(STREAM, DOMAIN).into_iter().map(ToString::to_string).collect()
        };
        // What the owner has stopped is no fault. A pause of other mail stops nothing here, and explains nothing.
        if !holding.is_empty() {
            return Ok(format!("no message was delivered, since the owner has paused {}", holding.join(" and ")));
        }
        Err(format!(
            "a message that was accepted did not reach a sink on this machine within {} seconds; see the records \
             of stream {STREAM}",
            patience.as_secs()
        ))
    }
}

/// A message of the box to itself.
struct Letter {
    metadata: Metadata,
    content: Bytes,
}

impl Letter {
    /// From a domain to the sink, told from others by its token.
    fn new(domain: &str, token: &str, now: Micros) -> Result<Self, String> {
        let time = Timestamp::from_microsecond(now as i64).unwrap_or_default();
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&time).unwrap_or_default();
        let header = format!(
            "Date: {date}\r\nFrom: postkeep-health@{domain}\r\nTo: sink@{DOMAIN}\r\nSubject: examination\r\n\
             Message-ID: <{token}@{DOMAIN}>\r\n{FIELD}: {token}\r\n\r\n"
        );
        let content = format!("{header}The mail core examines itself.\r\n");
        let metadata = Metadata {
            envelope: Envelope {
                // Nobody wants to hear of it.
                sender: None,
                recipients: vec![Recipient::new(address(&format!("sink@{DOMAIN}"))?)],
                body: BodyKind::SevenBit,
                smtputf8: false,
                ret: None,
                envelope_id: None,
                tls: TlsRequest::NotRequired,
            },
            stream: STREAM.into(),
            credential: "postkeep".into(),
            from_domain: domain.into(),
            message_id: format!("<{token}@{DOMAIN}>").into(),
            list: None,
            unsubscribe: None,
            pool: None,
            job: None,
            composed: false,
            has_dot_lines: false,
            eight_bit: false,
            header_length: header.len() as u32,
            body_hash: None,
        };
        Ok(Self { metadata, content: content.into() })
    }
}

/// The keys that sign the message of an examination: those of the first domain whose mail is signed whatever its stream.
fn keys_of_message(configuration: &Configuration, signer: &Signer) -> KeySelection {
    let mut selections = configuration.dkim.iter().map(|key| signer.keys_for(&key.domain, STREAM));
    selections.find(|keys| !keys.is_empty()).unwrap_or_default()
}

/// [`keys_work`], where reading files and private keys hold nobody up.
async fn keys_work_aside(configuration: Arc<Configuration>, signer: Arc<Signer>) -> Result<String, String> {
    tokio::task::spawn_blocking(move || keys_work(&configuration, &signer, clock::now() / 1_000_000))
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

/// Every key that the configuration names does its work: those for signing sign, those of doors shake hands. The
/// certificates of `[acme]` are no files of the owner's: whoever keeps them holds them against their key, and gets others
/// when they are of no use.
fn keys_work(configuration: &Configuration, signer: &Signer, now: u64) -> Result<String, String> {
    let mut faults = Vec::new();
    for named in &configuration.dkim {
        match signer.key(&named.domain, &named.selector) {
            Some(key) => faults.extend(dkim::try_out(key, now).err().map(|error| error.to_string())),
            None => faults.push(format!("[[dkim]] {}/{} is not open", named.domain, named.selector)),
        }
    }
    let identities = identities(configuration);
    for (address, files) in &identities {
        faults.extend(postkeep_intake::try_identity(*address, *files).err().map(|error| error.to_string()));
    }
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    Ok(format!("{} keys for signing and {} for TLS do their work", configuration.dkim.len(), identities.len()))
}

/// A door with the files of its certificate chain and key.
type Identity<'a> = (SocketAddr, (Option<&'a Path>, Option<&'a Path>));

/// The certificates with their keys that doors have in files, each pair once.
fn identities(configuration: &Configuration) -> Vec<Identity<'_>> {
    let listeners = configuration.listener.iter().filter(|listener| listener.tls != ListenerTls::None);
    let http =
        configuration.http.iter().filter(|door| !door.acme && (door.certificate.is_some() || door.key.is_some()));
    let mut identities: Vec<Identity<'_>> = listeners
        .map(|listener| (listener.address, (listener.certificate.as_deref(), listener.key.as_deref())))
        .chain(http.map(|door| (door.address, (door.certificate.as_deref(), door.key.as_deref()))))
        .chain(configuration.api.iter().map(|api| (api.address, (Some(&*api.certificate), Some(&*api.key)))))
        .collect();
    let mut seen = HashSet::new();
    identities.retain(|(_, files)| seen.insert(*files));
    identities
}

/// The spool has at least as much room as it is to keep free: below that it takes nothing.
fn has_room(free: u64, minimum: ByteSize) -> Result<(), String> {
    if free < minimum.bytes() {
        return Err(format!("the spool has {} MiB left, less than [spool] minimum-free = {minimum}", free >> 20));
    }
    Ok(())
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| format!("{text:?} is no address"))
}

/// Takes mail on loopback and forgets it, but for what an examination is about to ask for.
struct Sink {
    /// As routes have them.
    addresses: Vec<String>,
    /// What came, by its token.
    arrived: Mutex<HashMap<String, String>>,
    news: Notify,
}

impl Sink {
    async fn open() -> std::io::Result<Arc<Self>> {
        let mut listeners = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?];
        // For sources that have no IPv4 address; a machine without IPv6 has none of those.
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.ok());
        let addresses: Result<Vec<SocketAddr>, _> = listeners.iter().map(TcpListener::local_addr).collect();
        let addresses = addresses?.iter().map(ToString::to_string).collect();
        let sink = Arc::new(Self { addresses, arrived: Mutex::default(), news: Notify::new() });
        let seats = Arc::new(Semaphore::new(AT_ONCE));
        for listener in listeners {
            let (sink, seats) = (Arc::clone(&sink), Arc::clone(&seats));
            tokio::spawn(async move {
                loop {
                    let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                    let Ok((stream, _)) = listener.accept().await else {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    let sink = Arc::clone(&sink);
                    tokio::spawn(async move {
                        // Whoever breaks off, or says what nobody here says, has delivered nothing.
                        let _ = tokio::time::timeout(SINK_PATIENCE, sink.talk(stream)).await;
                        drop(seat);
                    });
                }
            });
        }
        Ok(sink)
    }

    /// The smallest server that RFC 5321 §4.5.1 knows, without VRFY.
    async fn talk(&self, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read.take(LARGEST_MESSAGE));
        write.write_all(format!("220 {DOMAIN} the sink of this machine\r\n").as_bytes()).await?;
        let mut line = String::new();
        loop {
            line.clear();
            // For each message anew: a connection carries more than one.
            lines.get_mut().set_limit(LARGEST_MESSAGE);
            if lines.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let verb = line.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            let reply = match &*verb {
                "EHLO" | "HELO" => format!("250 {DOMAIN}\r\n"),
                "MAIL" | "RCPT" | "RSET" | "NOOP" => "250 2.0.0 ok\r\n".to_owned(),
                "DATA" => {
                    write.write_all(b"354 go on\r\n").await?;
                    let mut content = String::new();
                    loop {
                        line.clear();
                        if lines.read_line(&mut line).await? == 0 {
                            return Ok(());
                        }
                        if line == ".\r\n" {
                            break;
                        }
                        // RFC 5321 §4.5.2.
                        content.push_str(line.strip_prefix('.').unwrap_or(&line));
                    }
                    self.take(content);
                    "250 2.0.0 taken and forgotten\r\n".to_owned()
                }
                "QUIT" => {
                    return write.write_all(b"221 2.0.0 bye\r\n").await;
                }
                _ => "502 5.5.1 not here\r\n".to_owned(),
            };
            write.write_all(reply.as_bytes()).await?;
        }
    }

    fn take(&self, content: String) {
        let token = content
            .lines()
            .take_while(|line| !line.is_empty())
            .find_map(|line| line.strip_prefix(FIELD)?.strip_prefix(':'))
            .map(|token| token.trim().to_owned());
        let Some(token) = token else { return };
        let mut arrived = self.arrived.lock();
        if arrived.len() < MOST_ARRIVED {
            arrived.insert(token, content);
        }
        drop(arrived);
        self.news.notify_waiters();
    }

    async fn arrival(&self, token: &str) -> String {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // Before looking, so that no arrival falls in between.
            news.as_mut().enable();
            if let Some(arrived) = self.arrived.lock().remove(token) {
                return arrived;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests;
