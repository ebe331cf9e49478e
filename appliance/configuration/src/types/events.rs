//! Who is told what happened to mail: the accounting file, webhooks and brokers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Duration};

/// Where a receiver of events begins that has never been told anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// With what happens from now on.
    #[default]
    End,
    /// With the oldest record that is kept, as far as `buffer` reaches.
    Beginning,
}

/// What becomes of the part of an address before the `@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum LocalPart {
    /// As it is.
    #[default]
    Plain,
    /// `redacted`.
    Redacted,
    /// 32 hexadecimal digits of a BLAKE3 sum with a key of this box: the same address, the same digits.
    Hashed,
}

/// `[accounting]`: CSV files as PowerMTA's users read them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Accounting {
    /// Folder of the files, made if absent; nothing else may be in it.
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
    /// Types of lines: `d` delivered, `b` bounced here, `t` put off, `tq` connection failed, `r` received, `f` complaint, `rb` bounce that came back, `rs` delay that came back.
    pub types: Vec<String>,
    /// Columns of a type, or of several (`"d,b"`), in order: names, `"*"` for the usual ones, `"!name"` for all but that one.
    #[schemars(extend("x-type" = "table of lists of columns by type"))]
    pub record_fields: BTreeMap<String, Vec<String>>,
    /// A file is closed at this size, 64KiB to 64GiB.
    pub rotate_size: ByteSize,
    /// And at this age, 1s or more.
    pub rotate_after: Duration,
    /// Folder that closed files are moved to, on the same file system; absent: they stay.
    #[schemars(extend("x-type" = "path"))]
    pub move_to: Option<PathBuf>,
    /// Closed files older than this are deleted, wherever they are.
    pub keep: Duration,
    /// Times such as `2026-05-29 01:10:51+0000`; otherwise seconds since 1970.
    pub iso_times: bool,
    /// What becomes of the part of addresses before the `@`.
    pub local_part: LocalPart,
    /// Octets of records by which it may lag behind, 64KiB or more; what lies further back is dropped.
    pub buffer: ByteSize,
    /// Where it begins the first time.
    pub from: From,
}

impl Default for Accounting {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/postkeep/accounting"),
            types: ["d", "b", "t", "tq", "r", "f", "rb", "rs"].map(str::to_owned).to_vec(),
            record_fields: BTreeMap::new(),
            rotate_size: ByteSize::mebibytes(256),
            rotate_after: Duration::from_secs(3600),
            move_to: None,
            keep: Duration::from_secs(30 * 86400),
            iso_times: true,
            local_part: LocalPart::Plain,
            buffer: buffer(),
            from: From::End,
        }
    }
}

const fn buffer() -> ByteSize {
    ByteSize::mebibytes(1024)
}

/// Events that a receiver is told of when it names none: what ends a recipient's story, and what comes back.
fn final_events() -> Vec<String> {
    ["delivered", "bounced", "expired", "suppressed", "removed", "remote-bounce", "complaint"]
        .map(str::to_owned)
        .to_vec()
}

/// `[[webhook]]`: events by HTTP POST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Webhook {
    /// Name, unique among receivers of events.
    pub name: String,
    /// `https://…`; `http://…` only to a loopback or private address.
    pub url: String,
    /// File with the secret that signs: `whsec_` and base64, 24 to 64 octets.
    #[schemars(extend("x-type" = "path"))]
    pub secret: PathBuf,
    /// PEM file with more trusted roots for `https`.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub extra_roots: Option<PathBuf>,
    /// Events that it is told of; `"*"` is all.
    #[serde(default = "final_events")]
    pub events: Vec<String>,
    /// Events in one request, 1 to 1000.
    #[serde(default = "batch_events")]
    pub batch_events: u32,
    /// How long an event may wait for others, up to 1m.
    #[serde(default = "batch_age")]
    pub batch_age: Duration,
    /// Wait for the whole answer, 1s to 5m.
    #[serde(default = "webhook_timeout")]
    pub timeout: Duration,
    /// How long a request is tried again; then its events are dropped, and the log says so.
    #[serde(default = "retry_for")]
    pub retry_for: Duration,
    /// What becomes of the part of addresses before the `@`.
    #[serde(default)]
    pub local_part: LocalPart,
    /// Octets of records by which it may lag behind, 64KiB or more; what lies further back is dropped.
    #[serde(default = "buffer")]
    pub buffer: ByteSize,
    /// Where it begins the first time.
    #[serde(default)]
    pub from: From,
}

const fn batch_events() -> u32 {
    100
}

const fn batch_age() -> Duration {
    Duration::from_secs(1)
}

const fn webhook_timeout() -> Duration {
    Duration::from_secs(30)
}

const fn retry_for() -> Duration {
    Duration::from_secs(86400)
}

/// `[[amqp]]`: events to a broker that speaks AMQP 0-9-1, such as RabbitMQ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Amqp {
    /// Name, unique among receivers of events.
    pub name: String,
    /// `amqps://USER@HOST/VHOST`; `amqp://…` only to a loopback or private address. `%2f` is the virtual host `/`.
    pub url: String,
    /// File with the password; absent: `guest`.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub password: Option<PathBuf>,
    /// PEM file with more trusted roots for `amqps`.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub extra_roots: Option<PathBuf>,
    /// Exchange, which must exist; empty: the default one, where the routing key is the name of a queue.
    pub exchange: String,
    /// Routing key; `{event}`, `{stream}` and `{domain}` stand for the event's.
    #[serde(default = "topic")]
    pub routing_key: String,
    /// Events that it is told of; `"*"` is all.
    #[serde(default = "final_events")]
    pub events: Vec<String>,
    /// How long an event that is refused is sent again; then it is dropped, and the log says so. While nobody answers, events are kept.
    #[serde(default = "retry_for")]
    pub retry_for: Duration,
    /// What becomes of the part of addresses before the `@`.
    #[serde(default)]
    pub local_part: LocalPart,
    /// Octets of records by which it may lag behind, 64KiB or more; what lies further back is dropped.
    #[serde(default = "buffer")]
    pub buffer: ByteSize,
    /// Where it begins the first time.
    #[serde(default)]
    pub from: From,
}

fn topic() -> String {
    "postkeep.{event}".to_owned()
}

/// What keeps events of Kafka in order: those with the same key go to the same partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaKey {
    /// The message's queue id.
    #[default]
    Message,
    /// The recipient's domain.
    Domain,
    /// The stream.
    Stream,
}

/// `[[kafka]]`: events to Kafka.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kafka {
    /// Name, unique among receivers of events.
    pub name: String,
    /// Brokers to begin with, `"HOST:PORT"`, in your own network: it speaks plain text, and public addresses are refused.
    pub brokers: Vec<String>,
    /// Topic, which must exist or be made by the broker.
    pub topic: String,
    /// Key of the messages.
    #[serde(default)]
    pub key: KafkaKey,
    /// Events that it is told of; `"*"` is all.
    #[serde(default = "final_events")]
    pub events: Vec<String>,
    /// How long an event that is refused is sent again; then it is dropped, and the log says so. While nobody answers, events are kept.
    #[serde(default = "retry_for")]
    pub retry_for: Duration,
    /// What becomes of the part of addresses before the `@`.
    #[serde(default)]
    pub local_part: LocalPart,
    /// Octets of records by which it may lag behind, 64KiB or more; what lies further back is dropped.
    #[serde(default = "buffer")]
    pub buffer: ByteSize,
    /// Where it begins the first time.
    #[serde(default)]
    pub from: From,
}

/// `[[nats]]`: events to a stream of NATS JetStream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nats {
    /// Name, unique among receivers of events.
    pub name: String,
    /// Servers, `"tls://HOST:PORT"`; `"nats://HOST:PORT"` only at a loopback or private address.
    pub servers: Vec<String>,
    /// Subject, which a stream must take in; `{event}`, `{stream}` and `{domain}` stand for the event's.
    #[serde(default = "topic")]
    pub subject: String,
    /// User name.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the user's password, or without `user` an access token.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub password: Option<PathBuf>,
    /// PEM file with more trusted roots for `tls`.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub extra_roots: Option<PathBuf>,
    /// Events that it is told of; `"*"` is all.
    #[serde(default = "final_events")]
    pub events: Vec<String>,
    /// How long an event that is refused is sent again; then it is dropped, and the log says so. While nobody answers, events are kept.
    #[serde(default = "retry_for")]
    pub retry_for: Duration,
    /// What becomes of the part of addresses before the `@`.
    #[serde(default)]
    pub local_part: LocalPart,
    /// Octets of records by which it may lag behind, 64KiB or more; what lies further back is dropped.
    #[serde(default = "buffer")]
    pub buffer: ByteSize,
    /// Where it begins the first time.
    #[serde(default)]
    pub from: From,
}
