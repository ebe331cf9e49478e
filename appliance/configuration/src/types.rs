//! What a configuration file may say: one type for each table, in the order in
//! which a message meets them. Durations, sizes and rates carry their units.
//!
//! Everything has a default except `hostname`, at least one `[[listener]]`,
//! one `[source.NAME]` and one `[pool.NAME]`.

mod protection;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use protection::{Dnssec, MtaSts, TlsReports, TlsVersion};

use crate::units::{ByteSize, Duration, Rate};

mod acme;
mod api;
mod events;
mod unsubscribe;

pub use acme::{Acme, ExternalAccount};
pub use api::{Api, ApiClient, ApiRole};
pub use events::{Accounting, Amqp, From as EventsFrom, Kafka, KafkaKey, LocalPart, Nats, Webhook};
pub use unsubscribe::{OneClick, Unsubscribe, UnsubscribeScope};

/// One owner's whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Configuration {
    /// Name of this box, as its reverse DNS gives it: greeting, `Received`, `Message-ID`, and the EHLO name of sources that name none.
    pub hostname: String,
    /// Further files to read, relative to this one; `*` allowed in the last part.
    #[serde(default)]
    #[schemars(extend("x-type" = "list of paths"))]
    pub include: Vec<String>,
    /// The durable store of accepted mail.
    #[serde(default)]
    pub spool: Spool,
    /// Doors for SMTP, one table each; one at least.
    #[serde(default)]
    pub listener: Vec<Listener>,
    /// Bounds on what a client may do; each has its own reply code.
    #[serde(default)]
    pub intake: Intake,
    /// Who may submit after AUTH, one table each.
    #[serde(default)]
    pub credential: Vec<Credential>,
    /// Who may submit without AUTH, by address, one table each.
    #[serde(default)]
    pub network: Vec<Network>,
    /// Doors for HTTP, one table each.
    #[serde(default)]
    pub http: Vec<Http>,
    /// Who may use the HTTP doors, one table each.
    #[serde(default)]
    pub token: Vec<Token>,
    /// Certificates that the box gets and renews by itself (ACME, RFC 8555); absent: only those in files.
    #[serde(default)]
    pub acme: Option<Acme>,
    /// Kinds of mail, each with its pool, schedule and totals. The stream `default` always exists.
    #[serde(default)]
    pub stream: BTreeMap<String, Stream>,
    /// Sending addresses; one at least.
    #[serde(default)]
    pub source: BTreeMap<String, Source>,
    /// Weighted groups of sources; one at least.
    #[serde(default)]
    pub pool: BTreeMap<String, Pool>,
    /// Limits of every lane (source × site), unless something more specific says otherwise.
    #[serde(default)]
    pub lane: LaneLimits,
    /// Limits of one source at one site: the most specific word.
    #[serde(default)]
    pub lane_limit: Vec<LaneLimit>,
    /// Changes of the shipped provider rules, and providers of your own.
    #[serde(default)]
    pub provider: BTreeMap<String, ProviderOverride>,
    /// When a lane slows down, by how much, and how it recovers.
    #[serde(default)]
    pub backoff: Backoff,
    /// What receivers' replies mean, beyond what is shipped.
    #[serde(default)]
    pub replies: Replies,
    /// Whom not to write to.
    #[serde(default)]
    pub suppression: Suppression,
    /// Mail that comes back: return paths of the box's own; absent: return paths stay as they are handed in.
    #[serde(default)]
    pub feedback: Option<Feedback>,
    /// Links for one-click unsubscribe (RFC 8058); needed by streams with `unsubscribe = "add"`.
    #[serde(default)]
    pub unsubscribe: Option<Unsubscribe>,
    /// Signing keys, one table each. All keys that match a message sign it.
    #[serde(default)]
    pub dkim: Vec<DkimKey>,
    /// How mail leaves.
    #[serde(default)]
    pub delivery: Delivery,
    /// Fixed next hops instead of MX.
    #[serde(default)]
    pub route: Vec<Route>,
    /// Where to ask for names (DNS).
    #[serde(default)]
    pub resolver: Resolver,
    /// Policies by which domains say that their mail must be protected.
    #[serde(default)]
    pub mta_sts: MtaSts,
    /// Reports to domains about how connections to them were protected; absent: none are sent.
    #[serde(default)]
    pub tls_reports: Option<TlsReports>,
    /// The event log: one JSON line for each event.
    #[serde(default)]
    pub records: Records,
    /// Accounting files as PowerMTA writes them; absent: none.
    #[serde(default)]
    pub accounting: Option<Accounting>,
    /// Receivers of events by HTTP, one table each.
    #[serde(default)]
    pub webhook: Vec<Webhook>,
    /// Receivers of events by AMQP 0-9-1, one table each.
    #[serde(default)]
    pub amqp: Vec<Amqp>,
    /// Receivers of events by Kafka, one table each.
    #[serde(default)]
    pub kafka: Vec<Kafka>,
    /// Receivers of events by NATS JetStream, one table each.
    #[serde(default)]
    pub nats: Vec<Nats>,
    /// Where Prometheus reads `/metrics`; absent: nowhere.
    #[serde(default)]
    pub metrics: Option<Metrics>,
    /// The socket that `postkeep` talks to.
    #[serde(default)]
    pub control: Control,
    /// The door through which the box is managed over the network; absent: there is none.
    #[serde(default)]
    pub api: Option<Api>,
    /// Who may come in through `[api]`, one table each.
    // Not written when there are none: the box adds tables of this name to the text that it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_client: Vec<ApiClient>,
}

/// `[spool]`: the durable store of accepted mail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Spool {
    /// Folder of the segments, made if absent; on a local file system whose `fdatasync` can be trusted.
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
    /// Size of one segment, 1MiB to 1GiB; a message that is larger gets a larger one.
    pub segment_size: ByteSize,
    /// Intake answers 452 when the file system has less free space than this.
    pub minimum_free: ByteSize,
    /// Bodies kept in memory for their first attempt, 1MiB or more; beyond this they are read back from disk.
    pub memory: ByteSize,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/postkeep/spool"),
            segment_size: ByteSize::mebibytes(64),
            minimum_free: ByteSize::mebibytes(256),
            memory: ByteSize::mebibytes(64),
        }
    }
}

/// How a door speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerTls {
    /// No TLS and therefore no AUTH.
    None,
    /// STARTTLS is offered; AUTH appears after it.
    #[default]
    Starttls,
    /// TLS from the first byte (port 465, RFC 8314).
    Implicit,
}

/// `[[listener]]`: one SMTP door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Listener {
    /// Address and port, `"0.0.0.0:25"`, `"[::]:587"`.
    #[schemars(extend("x-type" = "address and port"))]
    pub address: SocketAddr,
    /// TLS at this door.
    #[serde(default)]
    pub tls: ListenerTls,
    /// PEM file with the certificate chain; needed unless `tls = "none"`.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key, not encrypted; needed unless `tls = "none"`.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub key: Option<PathBuf>,
    /// Refuse mail from networks that are listed but did not authenticate (submission doors). Needs TLS.
    #[serde(default)]
    pub require_auth: bool,
    /// Networks of proxies that must speak PROXY protocol v2 here; empty: nobody does.
    #[serde(default)]
    #[schemars(with = "Vec<String>", extend("x-type" = "list of networks"))]
    pub proxy_protocol_from: Vec<IpNet>,
}

/// What to do with a bare CR or LF inside a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum BareLineEnds {
    /// 550 5.6.0, the connection is closed.
    #[default]
    Refuse,
    /// Every bare CR or LF becomes CRLF; the end of data stays CRLF.CRLF only.
    Repair,
}

/// What to do when a needed header is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum MissingHeader {
    /// Write one.
    #[default]
    Add,
    /// Refuse the message.
    Refuse,
}

/// `[intake]`: bounds at the doors. Each has its own reply code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Intake {
    /// Open connections over all doors, 1 or more.
    pub connections: u32,
    /// Open connections from one address, 1 or more.
    pub connections_per_address: u32,
    /// Messages on one connection before 421; 0: no bound.
    pub messages_per_connection: u32,
    /// Commands other than those of a mail transaction, before 421.
    pub idle_commands: u32,
    /// Errors before 421.
    pub errors: u32,
    /// Failed AUTH attempts before 421.
    pub auth_failures: u32,
    /// Recipients in one message, 1 to 65535; RFC 5321 §4.5.3.1.8 has clients expect 100.
    pub recipients: u32,
    /// Largest message, as announced by SIZE, 64KiB to 1GiB.
    pub message_size: ByteSize,
    /// Longest line inside a message, CRLF included; 1000 (RFC 5321 §4.5.3.1.6) to 1048576.
    pub line_length: u32,
    /// Wait for a command (RFC 5321 §4.5.3.2.7).
    pub command_timeout: Duration,
    /// Wait for the next piece of a message.
    pub data_timeout: Duration,
    /// Longest life of a connection, up to 7d.
    pub session_timeout: Duration,
    /// `Received` headers that mean a loop, 1 to 1000.
    pub hops: u32,
    /// Bare CR and LF.
    pub bare_line_ends: BareLineEnds,
    /// No `Date`.
    pub missing_date: MissingHeader,
    /// No `Message-ID`.
    pub missing_message_id: MissingHeader,
    /// Header that names the stream, where the credential allows it. Removed before delivery.
    pub stream_header: String,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            connections: 1000,
            connections_per_address: 200,
            messages_per_connection: 0,
            idle_commands: 100,
            errors: 20,
            auth_failures: 3,
            recipients: 1000,
            message_size: ByteSize::mebibytes(25),
            line_length: 1000,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            session_timeout: Duration::from_secs(6 * 3600),
            hops: 30,
            bare_line_ends: BareLineEnds::Refuse,
            missing_date: MissingHeader::Add,
            missing_message_id: MissingHeader::Add,
            stream_header: "X-Postkeep-Stream".to_owned(),
        }
    }
}

/// `[[credential]]`: a sender that authenticates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Credential {
    /// User name of AUTH; unique.
    pub name: String,
    /// Argon2id hash in PHC form (`postkeep credential hash` makes one).
    pub password_hash: String,
    /// Domains allowed in MAIL FROM and From, one at least; `"*.example.com"` is everything below, `"*"` is any.
    #[schemars(extend("x-type" = "list of domain patterns"))]
    pub sender_domains: Vec<String>,
    /// Stream when the message names none; `default` when absent.
    #[serde(default)]
    #[schemars(extend("x-type" = "name"))]
    pub stream: Option<String>,
    /// Streams the message may choose by header; `"*"` is any.
    #[serde(default)]
    #[schemars(extend("x-type" = "list of names"))]
    pub may_choose_streams: Vec<String>,
    /// PowerMTA's `x-virtual-mta`, `x-job` and `x-envid` count in its mail and are removed: they choose a pool, name the job
    /// for records, set the envelope id.
    #[serde(default)]
    pub powermta_headers: bool,
}

/// `[[network]]`: senders known by address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Network {
    /// Name for records; unique.
    pub name: String,
    /// Networks, such as `"192.0.2.0/24"`; nothing wider than a /8 of IPv4 or a /32 of IPv6.
    #[schemars(with = "Vec<String>", extend("x-type" = "list of networks"))]
    pub addresses: Vec<IpNet>,
    /// As for a credential.
    #[schemars(extend("x-type" = "list of domain patterns"))]
    pub sender_domains: Vec<String>,
    /// As for a credential.
    #[serde(default)]
    #[schemars(extend("x-type" = "name"))]
    pub stream: Option<String>,
    /// As for a credential.
    #[serde(default)]
    #[schemars(extend("x-type" = "list of names"))]
    pub may_choose_streams: Vec<String>,
    /// As for a credential.
    #[serde(default)]
    pub powermta_headers: bool,
}

/// `[[http]]`: one HTTP door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Http {
    /// Address and port, `"0.0.0.0:443"`. Without a certificate only a loopback or private one.
    #[schemars(extend("x-type" = "address and port"))]
    pub address: SocketAddr,
    /// PEM file with the certificate chain; absent: plain HTTP, for a proxy on the same host or network.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key, not encrypted.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub key: Option<PathBuf>,
    /// Use the certificate of `[acme]` instead of files.
    #[serde(default)]
    pub acme: bool,
    /// Open connections, 1 to 100000.
    #[serde(default = "http_connections")]
    pub connections: u32,
    /// Open connections from one address, 1 to 100000; a proxy is one address.
    #[serde(default = "http_connections_per_address")]
    pub connections_per_address: u32,
    /// What is served here; anything else is not found. A door for strangers serves `unsubscribe` only.
    #[serde(default = "all_services")]
    pub serve: Vec<Service>,
}

/// What an HTTP door serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Calls that take mail.
    Messages,
    /// Calls about the suppression list.
    Suppressions,
    /// The pages behind `List-Unsubscribe`.
    Unsubscribe,
}

fn all_services() -> Vec<Service> {
    vec![Service::Messages, Service::Suppressions, Service::Unsubscribe]
}

const fn http_connections() -> u32 {
    500
}

const fn http_connections_per_address() -> u32 {
    100
}

/// `[[token]]`: a sender at the HTTP doors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    /// Name for records; unique among tokens, credentials and networks.
    pub name: String,
    /// `sha256:` and 64 hexadecimal digits (`postkeep token new` makes a token and this).
    pub hash: String,
    /// As for a credential.
    #[schemars(extend("x-type" = "list of domain patterns"))]
    pub sender_domains: Vec<String>,
    /// As for a credential.
    #[serde(default)]
    #[schemars(extend("x-type" = "name"))]
    pub stream: Option<String>,
    /// As for a credential.
    #[serde(default)]
    #[schemars(extend("x-type" = "list of names"))]
    pub may_choose_streams: Vec<String>,
    /// As for a credential.
    #[serde(default)]
    pub powermta_headers: bool,
    /// It may ask for suppressions and change them, as far as they hold for its own mail.
    #[serde(default)]
    pub may_suppress: bool,
}

/// `[stream.NAME]`: mail of one kind from one sender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Stream {
    /// Pool it leaves from; absent: the only pool, or the one named `default`.
    #[schemars(extend("x-type" = "name"))]
    pub pool: Option<String>,
    /// Waits between attempts, 1 to 100 of them, 1s to 7d each; the last one repeats.
    pub retry: Vec<Duration>,
    /// Share of each wait that is random, 0 to 0.9.
    pub retry_jitter: f64,
    /// After this long, up to 30d, an undelivered message is returned to its sender.
    pub expire_after: Duration,
    /// Age at which senders who asked for it (RFC 3461 NOTIFY=DELAY) get one delay notice.
    pub delay_notice_after: Duration,
    /// With `[feedback]`: each recipient gets a message of its own, with a return path and headers that find it
    /// again when something comes back (VERP).
    pub verp: bool,
    /// One-click unsubscribe (RFC 8058), which large receivers demand of bulk mail.
    pub unsubscribe: OneClick,
    /// Limits over all lanes together.
    pub total: TotalLimits,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            pool: None,
            retry: [300u64, 600, 1200, 2400, 3600, 7200, 14400].into_iter().map(Duration::from_secs).collect(),
            retry_jitter: 0.2,
            expire_after: Duration::from_secs(4 * 86400 + 12 * 3600),
            delay_notice_after: Duration::from_secs(4 * 3600),
            verp: true,
            unsubscribe: OneClick::Off,
            total: TotalLimits::default(),
        }
    }
}

/// `[source.NAME]`: one sending address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Source {
    /// IPv4 address to bind; at least one of the two is needed.
    #[serde(default)]
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// IPv6 address to bind.
    #[serde(default)]
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// EHLO name, which the reverse DNS of the address should give; absent: `hostname`.
    #[serde(default)]
    pub ehlo: Option<String>,
    /// Bind even while the address is not (yet) on an interface: IP_FREEBIND.
    #[serde(default)]
    pub freebind: bool,
}

/// `[pool.NAME]`: weighted sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pool {
    /// Source name to weight, 0 to 1000; 0 takes a source out.
    #[schemars(extend("x-type" = "table: name = weight"))]
    pub sources: BTreeMap<String, u32>,
}

/// Limits of a lane (source × site). Absent: the next more general word counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LaneLimits {
    /// Connections open at once, 1 or more.
    pub connections: Option<u32>,
    /// New connections in any stretch of that length.
    pub connection_rate: Option<Rate>,
    /// Messages on one connection before it is closed, 1 or more.
    pub messages_per_connection: Option<u32>,
    /// Messages (mail transactions) in any stretch of that length.
    pub message_rate: Option<Rate>,
    /// Recipients in one transaction, 1 or more.
    pub recipients_per_transaction: Option<u32>,
}

/// Limits over all lanes of a provider or of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TotalLimits {
    /// Connections open at once, 1 or more. A stream counts a connection while it carries its message.
    pub connections: Option<u32>,
    /// New connections in any stretch of that length; not for streams.
    pub connection_rate: Option<Rate>,
    /// Messages in any stretch of that length.
    pub message_rate: Option<Rate>,
}

/// `[[lane-limit]]`: one lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LaneLimit {
    /// Source name; absent: every source.
    #[serde(default)]
    #[schemars(extend("x-type" = "name"))]
    pub source: Option<String>,
    /// Site name as `postkeep queue show` prints it.
    pub site: String,
    /// The limits.
    pub limits: LaneLimits,
}

/// `[provider.NAME]`: what differs from the shipped rules, or a provider of your own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ProviderOverride {
    /// MX hosts that belong to it, by the end of their name: `"mx.example.net"`; needed for a provider that is not shipped.
    pub mx_suffix: Vec<String>,
    /// Limits of each lane to this provider.
    pub lane: LaneLimits,
    /// Limits over all lanes to this provider.
    pub total: TotalLimits,
    /// TLS to this provider; absent: `[delivery] tls`.
    pub tls: Option<OutboundTls>,
    /// Lowest version of TLS to this provider; absent: `[delivery] minimum-tls`.
    pub minimum_tls: Option<TlsVersion>,
    /// TLS to this provider through OpenSSL with everything that is out of date (TLS 1.0 and 1.1, RSA key exchange, CBC), for
    /// hosts that know nothing else; better than plain text, and no more than that.
    pub old_tls: bool,
}

/// `[backoff]`: when a lane slows down, by how much, and how it recovers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Backoff {
    /// Consecutive lane failures (421, refused or dropped connections) that start backing off, 1 or more.
    pub failures: u32,
    /// First pause.
    pub pause: Duration,
    /// Longest pause; each further failure doubles up to it.
    pub longest_pause: Duration,
    /// After a pause the lane runs at this share of its limits, 0.05 to 1.
    pub slow_share: f64,
    /// Deliveries in a row that double the share again until it is whole, 1 or more.
    pub successes: u32,
    /// How long a source that cannot be bound stays out.
    pub unbindable_pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            failures: 3,
            pause: Duration::from_secs(60),
            longest_pause: Duration::from_secs(3600),
            slow_share: 0.25,
            successes: 20,
            unbindable_pause: Duration::from_secs(300),
        }
    }
}

/// `[replies]`: what receivers' replies mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Replies {
    /// Files of your own rules; they are tried before the shipped ones (`postkeep reply check` tries them out).
    #[schemars(extend("x-type" = "list of paths"))]
    pub rules: Vec<PathBuf>,
    /// The times for which rules stay away are multiplied by this, 0.00001 to 10.
    pub hold_scale: f64,
}

impl Default for Replies {
    fn default() -> Self {
        Self { rules: Vec::new(), hold_scale: 1.0 }
    }
}

/// For which mail an address is suppressed that the box learns of by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum LearntScope {
    /// All mail.
    #[default]
    All,
    /// Mail of the stream that it happened to.
    Stream,
    /// None: it is only recorded.
    None,
}

/// `[suppression]`: whom not to write to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Suppression {
    /// Folder of journal and index, made if absent; readable for nobody else.
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
    /// Public keys (`age1…`) of those who can read the addresses of the journal. Empty: the box can, with an
    /// identity of its own in the folder; otherwise only they can, and the box cannot list addresses.
    pub seal_to: Vec<String>,
    /// What a mailbox that does not exist is suppressed for.
    pub hard_bounces: LearntScope,
    /// What a recipient who called mail spam is suppressed for.
    pub complaints: LearntScope,
    /// Memory for parts of the index, 1MiB or more; the filter comes on top, about two octets an entry.
    pub cache: ByteSize,
    /// A file of the journal is closed beyond this size, 1MiB to 64GiB.
    pub segment_size: ByteSize,
}

impl Default for Suppression {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/postkeep/suppression"),
            seal_to: Vec::new(),
            hard_bounces: LearntScope::All,
            complaints: LearntScope::All,
            cache: ByteSize::mebibytes(64),
            segment_size: ByteSize::mebibytes(256),
        }
    }
}

/// `[feedback]`: mail that comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Feedback {
    /// Domain of the box's own return paths. Its MX is this box, its SPF record names the box's sources, and DMARC
    /// wants it to be the From domain or below it.
    #[schemars(extend("x-type" = "domain"))]
    pub domain: String,
    /// Addresses that take complaints besides the return paths: what was given to feedback loops. The first one is
    /// also told to receivers in `CFBL-Address` (RFC 9477).
    #[serde(default)]
    pub report_addresses: Vec<String>,
    /// Networks whose reports are believed without one of the box's tokens in them: bounces of a relay of your own.
    #[serde(default)]
    #[schemars(with = "Vec<String>", extend("x-type" = "list of networks"))]
    pub trust_networks: Vec<IpNet>,
    /// Where mail goes that came back and is no report: answers of people, mail to `postmaster` and `abuse`. Absent: it is
    /// recorded and dropped.
    #[serde(default)]
    pub forward_to: Option<String>,
}

/// Kind of a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum DkimAlgorithm {
    /// RSA with SHA-256, 2048 bits or more.
    #[default]
    RsaSha256,
    /// Ed25519 (RFC 8463); beside an RSA key, never alone.
    Ed25519Sha256,
}

/// `[[dkim]]`: one key. All keys that match a message sign it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DkimKey {
    /// `d=`: signs mail whose From domain is this or below it.
    pub domain: String,
    /// `s=`: the key is published at `SELECTOR._domainkey.DOMAIN`.
    pub selector: String,
    /// PEM file with the private key (PKCS#8; RSA also PKCS#1), not encrypted.
    #[schemars(extend("x-type" = "path"))]
    pub key: PathBuf,
    /// Kind of key.
    #[serde(default)]
    pub algorithm: DkimAlgorithm,
    /// Streams it signs; empty: all that no other key of this domain and algorithm names.
    #[serde(default)]
    #[schemars(extend("x-type" = "list of names"))]
    pub streams: Vec<String>,
    /// Headers to sign beside the built-in list.
    #[serde(default)]
    pub extra_headers: Vec<String>,
    /// `x=`: signature life, 1h to 365d; absent: none.
    #[serde(default)]
    pub expire_after: Option<Duration>,
}

/// TLS towards receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OutboundTls {
    /// Never.
    None,
    /// When offered; any certificate; plain text when the handshake fails (RFC 7435). The result is recorded.
    #[default]
    Opportunistic,
    /// Needed; any certificate.
    Required,
    /// Needed, with a certificate that is valid for the MX host.
    Verified,
}

/// `[delivery]`: how mail leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Delivery {
    /// Port of receivers.
    pub port: u16,
    /// Use IPv6 where both ends have it.
    pub ipv6: bool,
    /// TLS towards receivers.
    pub tls: OutboundTls,
    /// Hold hosts to their TLSA records (DANE, RFC 7672), where DNSSEC vouches for them.
    pub dane: bool,
    /// Lowest version of TLS.
    pub minimum_tls: TlsVersion,
    /// PEM file with more trusted roots, for `verified` and for MTA-STS.
    #[schemars(extend("x-type" = "path"))]
    pub extra_roots: Option<PathBuf>,
    /// Connections over all lanes, 1 or more.
    pub connections: u32,
    /// How long an idle connection is kept for the next message.
    pub idle_timeout: Duration,
    /// TCP connect.
    pub connect_timeout: Duration,
    /// Banner, RFC 5321 §4.5.3.2.1.
    pub greeting_timeout: Duration,
    /// MAIL, §4.5.3.2.2.
    pub mail_timeout: Duration,
    /// RCPT, §4.5.3.2.3.
    pub rcpt_timeout: Duration,
    /// DATA, §4.5.3.2.4.
    pub data_timeout: Duration,
    /// Each block of data, §4.5.3.2.5.
    pub block_timeout: Duration,
    /// The reply after the final dot, §4.5.3.2.6.
    pub final_timeout: Duration,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            port: 25,
            ipv6: true,
            tls: OutboundTls::Opportunistic,
            dane: true,
            minimum_tls: TlsVersion::V1_2,
            extra_roots: None,
            connections: 2000,
            idle_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(30),
            greeting_timeout: Duration::from_secs(300),
            mail_timeout: Duration::from_secs(300),
            rcpt_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(120),
            block_timeout: Duration::from_secs(180),
            final_timeout: Duration::from_secs(600),
        }
    }
}

/// `[[route]]`: a fixed next hop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Route {
    /// Recipient domain; `"*.example.com"` is everything below, `"*"` is any. The narrowest route wins.
    #[schemars(extend("x-type" = "domain pattern"))]
    pub domain: String,
    /// Hosts in order of preference, up to 20: `"mx.example.com"`, `"mx.example.com:2525"`, `"192.0.2.1:25"`, `"[2001:db8::1]:25"`.
    #[schemars(extend("x-type" = "list of hosts"))]
    pub hosts: Vec<String>,
}

/// `[resolver]`: DNS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Resolver {
    /// Servers to ask, `"127.0.0.1:53"`; empty: those of `/etc/resolv.conf`.
    #[schemars(extend("x-type" = "list of addresses and ports"))]
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer, 50ms to 1m.
    pub timeout: Duration,
    /// Further tries, up to 10.
    pub attempts: u32,
    /// Answers kept, up to 10 million.
    pub cache_entries: u32,
    /// Whether answers are validated by their signatures, which DANE needs.
    pub dnssec: Dnssec,
    /// File with the DNSKEY records to start from, in the form of zone files; absent: the keys of the root that are built in.
    #[schemars(extend("x-type" = "path"))]
    pub trust_anchors: Option<PathBuf>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            cache_entries: 100_000,
            dnssec: Dnssec::Auto,
            trust_anchors: None,
        }
    }
}

/// `[records]`: one JSON line for each event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Records {
    /// Folder; made if absent.
    #[schemars(extend("x-type" = "path"))]
    pub directory: PathBuf,
    /// A file is closed at this size, 64KiB to 64GiB.
    pub rotate_size: ByteSize,
    /// And at this age, 1s or more.
    pub rotate_after: Duration,
    /// Closed files older than this are deleted.
    pub keep: Duration,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/postkeep/records"),
            rotate_size: ByteSize::mebibytes(256),
            rotate_after: Duration::from_secs(86400),
            keep: Duration::from_secs(30 * 86400),
        }
    }
}

/// `[metrics]`: where Prometheus reads `/metrics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metrics {
    /// Address and port; keep it on loopback or a management network.
    #[schemars(extend("x-type" = "address and port"))]
    pub address: SocketAddr,
}

/// `[control]`: the administration socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Control {
    /// Unix socket, mode 0660; at most 107 octets long.
    #[schemars(extend("x-type" = "path"))]
    pub socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/postkeep/control.sock") }
    }
}

/// An address of a source that fits the family of a destination.
impl Source {
    /// The address to bind towards `destination`, if this source has one of that family.
    pub fn address_for(&self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }
}
