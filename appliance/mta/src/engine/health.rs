//! The mail core examines itself: the queue, the keys, the suppression list, and a message that goes the whole way
//! through spool, queue, lane and signature to a sink.
//!
//! The sink listens on the machine's own loopback for as long as the daemon lives, since a message that was late finds
//! it again. Its domain ends in `.invalid` (RFC 6761 §6.4): nobody's mail goes there.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use postkeep_smtp::Address;
use postkeep_smtp::envelope::{BodyKind, Envelope, Recipient, TlsRequest};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OnceCell, Semaphore};

use super::{Engine, Inner};
use crate::clock;
use crate::metadata::Metadata;
use crate::routing::{Route, fixed_route};

/// Where the message of an examination goes.
const DOMAIN: &str = "postkeep-health.invalid";
/// The stream that it is counted under.
const STREAM: &str = "postkeep-health";
/// How long the message may take.
const PATIENCE: Duration = Duration::from_secs(20);
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
}

impl HealthCheck {
    fn new(name: &str, found: Result<String, String>) -> Self {
        let well = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        Self { name: name.to_owned(), well, detail }
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
        let queued = self.queued();
        let signer = inner.signer.load();
        let keys = inner.configuration.load().dkim.len();
        let from = inner
            .configuration
            .load()
            .dkim
            .iter()
            .find(|key| !signer.keys_for(&key.domain, STREAM).is_empty())
            .map(|key| key.domain.clone());
        let statistics = self.suppression().statistics();
        vec![
            // Whoever can be asked has opened both: without its spool or its keys the daemon does not start.
            HealthCheck::new("queue", Ok(format!("{queued} recipients are queued"))),
            HealthCheck::new("keys", Ok(format!("{keys} keys for signing are open"))),
            HealthCheck::new(
                "suppression",
                inner
                    .suppression_answers()
                    .await
                    .map(|()| format!("{} entries", statistics.entries.iter().map(|(_, count)| count).sum::<u64>())),
            ),
            HealthCheck::new("message", inner.message_arrives(from.as_deref()).await),
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

    /// The list answers, and what it has taken on is on the disk.
    async fn suppression_answers(&self) -> Result<(), String> {
        let address = address(&format!("nobody@{DOMAIN}"))?;
        self.suppression.check(&address, STREAM, None).map_err(|error| error.to_string())?;
        self.suppression.find(&address).map_err(|error| error.to_string())?;
        self.suppression.flush().await.map_err(|error| error.to_string())
    }

    async fn message_arrives(&self, from: Option<&str>) -> Result<String, String> {
        let sink = self.health.sink.get_or_try_init(Sink::open).await;
        let sink = sink.map_err(|error| format!("the sink cannot be opened on loopback: {error}"))?;
        let (id, now) = (self.spool.next_id(), clock::now());
        let token = format!("{id}.{now}");
        let domain = from.unwrap_or(DOMAIN);
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
        // One examination at a time: what came for earlier ones was too late.
        sink.arrived.lock().clear();
        let begun = std::time::Instant::now();
        self.keep_own(id, now, metadata, Bytes::new(), content.into())
            .await
            .map_err(|error| format!("the spool does not take a message: {error}"))?;
        match tokio::time::timeout(PATIENCE, sink.arrival(&token)).await {
            Ok(arrived) if from.is_some() && !arrived.signed => {
                Err(format!("a message arrived without the signature of {domain}"))
            }
            Ok(arrived) => Ok(format!(
                "a message arrived{} after {} ms",
                if arrived.signed { ", signed," } else { "" },
                begun.elapsed().as_millis()
            )),
            Err(_) => {
                let pauses = self.state.lock().paused.len();
                // What the owner has stopped is no fault.
                if pauses > 0 {
                    return Ok(format!("no message was delivered while {pauses} pauses are in force"));
                }
                Err(format!(
                    "a message that was accepted did not reach a sink on this machine within {} seconds; see the records \
                     of stream {STREAM}",
                    PATIENCE.as_secs()
                ))
            }
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| format!("{text:?} is no address"))
}

/// A message that came.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    signed: bool,
}

/// Takes mail on loopback and forgets it.
struct Sink {
    /// As routes have them.
    addresses: Vec<String>,
    arrived: Mutex<HashMap<String, Arrived>>,
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
                        content.push_str(&line);
                    }
                    self.take(&content);
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

    fn take(&self, content: &str) {
        let value = |name: &str| {
            content
                .lines()
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let Some(token) = value(FIELD) else { return };
        let signed = value("DKIM-Signature").is_some();
        let mut arrived = self.arrived.lock();
        if arrived.len() < MOST_ARRIVED {
            arrived.insert(token.trim().to_owned(), Arrived { signed });
        }
        drop(arrived);
        self.news.notify_waiters();
    }

    async fn arrival(&self, token: &str) -> Arrived {
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
