//! The simulated DNS: an authoritative server on loopback, by UDP and TCP,
//! that knows the providers' MX hosts, the owner's signing keys and the way
//! home for reports. What it answers is a table; its moods are data. Who asks
//! for signatures (RFC 4035) gets them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_server::net::runtime::Time;
use hickory_server::proto::ProtoError;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_server::proto::rr::rdata::{A, AAAA, MX, PTR, SOA, TLSA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

pub(crate) use self::signing::ZoneKey;
use crate::Error;
use crate::rulebook::NamesMood;

mod signing;

/// Seconds for which answers may be kept.
const LIFE: u32 = 300;
/// Seconds for which "there is none" may be kept: short, because some names come later.
const NEGATIVE_LIFE: u32 = 2;
/// Questions that meet a bad mood before the good answers begin.
const BAD_QUESTIONS: u32 = 2;

/// What a name server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Records.
    Records(Vec<RData>),
    /// The name exists, without records of that type.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// Nothing at all.
    Silence,
}

/// Everything the simulated DNS knows. Names are in lower case, without the final dot.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    /// Names that exist, with the types that each has.
    names: HashMap<String, Vec<RecordType>>,
    moods: HashMap<String, (NamesMood, u32)>,
}

impl Zone {
    fn add(&mut self, name: &str, kind: RecordType, data: RData) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        // Every name above exists too (RFC 8020).
        let mut above = name.as_str();
        while let Some((_, parent)) = above.split_once('.') {
            self.names.entry(parent.to_owned()).or_default();
            above = parent;
        }
        let types = self.names.entry(name.clone()).or_default();
        if !types.contains(&kind) {
            types.push(kind);
        }
        let list = self.records.entry((name, kind)).or_default();
        if !list.contains(&data) {
            list.push(data);
        }
    }

    /// An address of a host.
    pub(crate) fn address(&mut self, name: &str, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.add(name, RecordType::A, RData::A(A(address))),
            IpAddr::V6(address) => self.add(name, RecordType::AAAA, RData::AAAA(AAAA(address))),
        }
    }

    /// An MX record; an empty host is the null MX of RFC 7505.
    pub(crate) fn mx(&mut self, domain: &str, preference: u16, host: &str) -> Result<(), Error> {
        let exchange = parse_name(if host.is_empty() { "." } else { host })?;
        self.add(domain, RecordType::MX, RData::MX(MX::new(preference, exchange)));
        Ok(())
    }

    /// A TXT record, cut into strings of 255 octets (RFC 1035 §3.3.14).
    pub(crate) fn txt(&mut self, name: &str, text: &str) {
        let strings = text.as_bytes().chunks(255).map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect();
        self.add(name, RecordType::TXT, RData::TXT(TXT::new(strings)));
    }

    /// A TLSA record `3 1 1` for a host at a port: the SHA-256 of its key (RFC 7672 §3.1.1).
    pub(crate) fn tlsa(&mut self, host: &str, port: u16, digest: Vec<u8>) {
        let data = TLSA::new(CertUsage::DaneEe, Selector::Spki, Matching::Sha256, digest);
        self.add(&format!("_{port}._tcp.{host}"), RecordType::TLSA, RData::TLSA(data));
    }

    /// The reverse name of a sending address.
    pub(crate) fn reverse(&mut self, address: IpAddr, host: &str) -> Result<(), Error> {
        let name = Name::from(address).to_ascii();
        self.add(&name, RecordType::PTR, RData::PTR(PTR(parse_name(host)?)));
        Ok(())
    }

    /// How questions about a name are met at first.
    pub(crate) fn mood(&mut self, name: &str, mood: NamesMood) {
        self.moods.insert(name.to_ascii_lowercase(), (mood, BAD_QUESTIONS));
    }

    /// The answer to a question; counts down bad moods.
    pub(crate) fn answer(&mut self, name: &str, kind: RecordType) -> Reply {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some((mood, left)) = self.moods.get_mut(&name)
            && *left > 0
        {
            match mood {
                NamesMood::FailsFirst => {
                    *left -= 1;
                    return Reply::Failure;
                }
                NamesMood::SilentFirst => {
                    *left -= 1;
                    return Reply::Silence;
                }
                _ => {}
            }
        }
        if let Some(records) = self.records.get(&(name.clone(), kind)) {
            Reply::Records(records.clone())
        } else if self.names.contains_key(&name) {
            Reply::NoData
        } else {
            Reply::NoSuchName
        }
    }
}

impl Zone {
    fn types(&self, name: &str) -> Vec<RecordType> {
        self.names.get(&name.trim_end_matches('.').to_ascii_lowercase()).cloned().unwrap_or_default()
    }
}

fn parse_name(text: &str) -> Result<Name, Error> {
    let mut name =
        Name::from_utf8(text).map_err(|error| Error::Names(format!("{text:?} is not a domain name: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}

/// A running name server.
pub(crate) struct Names {
    address: SocketAddr,
    shutdown: Box<dyn Fn() + Send + Sync>,
    questions: std::sync::Arc<AtomicU64>,
    anchor: String,
}

impl Names {
    /// Starts on `address`; port 0 takes any that is free for both UDP and TCP.
    pub(crate) async fn start(mut zone: Zone, address: SocketAddr, key: ZoneKey) -> Result<Self, Error> {
        let (udp, tcp) = bind_both(address).await?;
        let address = udp
            .local_addr()
            .map_err(|error| Error::Io(format!("cannot learn the address of the name server: {error}")))?;
        let questions = std::sync::Arc::new(AtomicU64::new(0));
        zone.add(".", RecordType::DNSKEY, key.record());
        let anchor = key.anchor().to_owned();
        let handler = Handler { key, zone: Mutex::new(zone), questions: std::sync::Arc::clone(&questions) };
        let mut server = hickory_server::Server::new(handler);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(10), 32);
        let token = server.shutdown_token().clone();
        tokio::spawn(async move {
            if let Err(error) = server.block_until_done().await {
                log::warn!("the simulated DNS stopped: {error}");
            }
        });
        Ok(Self { address, shutdown: Box::new(move || token.cancel()), questions, anchor })
    }

    /// Its key, as a file of trust anchors has it.
    pub(crate) fn anchor(&self) -> &str {
        &self.anchor
    }

    /// Where it answers, by UDP and TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    pub(crate) fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        (self.shutdown)();
    }
}

async fn bind_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let failed = |error: std::io::Error| {
        Error::Io(format!("cannot open the simulated DNS at {address}: {error}; choose another port"))
    };
    let mut last = None;
    for _ in 0..20 {
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let taken = udp.local_addr().map_err(failed)?;
        match TcpListener::bind(taken).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if address.port() == 0 => last = Some(error),
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(last.unwrap_or_else(|| std::io::Error::other("no free port"))))
}

struct Handler {
    key: ZoneKey,
    zone: Mutex<Zone>,
    questions: std::sync::Arc<AtomicU64>,
}

/// The sections of an answer.
#[derive(Default)]
struct Said {
    code: ResponseCode,
    answers: Vec<Record>,
    authority: Vec<Record>,
}

impl Handler {
    /// What to say to a question; `None`: nothing.
    fn say(&self, name: &Name, kind: RecordType, signed: bool) -> Result<Option<Said>, ProtoError> {
        let text = name.to_ascii();
        let (reply, types) = {
            let mut zone = self.zone.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            (zone.answer(&text, kind), zone.types(&text))
        };
        let mut said = Said::default();
        match reply {
            Reply::Records(list) => {
                said.answers = list.into_iter().map(|data| Record::from_rdata(name.clone(), LIFE, data)).collect();
                if signed {
                    self.key.sign(&mut said.answers)?;
                }
                return Ok(Some(said));
            }
            Reply::NoData => {}
            Reply::NoSuchName => said.code = ResponseCode::NXDomain,
            Reply::Failure => {
                said.code = ResponseCode::ServFail;
                return Ok(Some(said));
            }
            Reply::Silence => return Ok(None),
        }
        said.authority.push(start_of_authority());
        if signed {
            self.key.sign(&mut said.authority)?;
            said.authority.extend(match said.code {
                ResponseCode::NXDomain => self.key.no_such_name(NEGATIVE_LIFE)?,
                _ => self.key.no_data(name, types, NEGATIVE_LIFE)?,
            });
        }
        Ok(Some(said))
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        // Stub resolvers ask for recursion; saying yes keeps them content.
        metadata.recursion_available = true;
        let signed = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let said = match request.request_info() {
            Ok(info) => self.say(info.query.original().name(), info.query.original().query_type(), signed),
            Err(_) => Ok(Some(Said { code: ResponseCode::ServFail, ..Said::default() })),
        };
        let said = said.unwrap_or_else(|error| {
            log::warn!("the simulated DNS cannot sign: {error}");
            Some(Said { code: ResponseCode::ServFail, ..Said::default() })
        });
        let Some(Said { code, answers, authority }) = said else { return info_of(metadata) };
        metadata.response_code = code;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = hickory_server::proto::op::Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, 4096)).set_version(0);
            edns.set_dnssec_ok(signed);
            edns
        });
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let empty: &[Record] = &[];
        let response = builder.build(metadata, answers.iter(), authority.iter(), empty, empty);
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                log::debug!("the simulated DNS could not answer: {error}");
                metadata.response_code = ResponseCode::ServFail;
                info_of(metadata)
            }
        }
    }
}

fn info_of(metadata: Metadata) -> ResponseInfo {
    ResponseInfo::from(hickory_server::proto::op::Header { metadata, counts: Default::default() })
}

fn start_of_authority() -> Record {
    let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86400, NEGATIVE_LIFE);
    Record::from_rdata(Name::root(), NEGATIVE_LIFE, RData::SOA(soa))
}

/// The one IPv6 loopback address.
pub(crate) const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        zone.mx("gmail.test", 5, "gmail-smtp-in.l.google.com").unwrap();
        zone.address("gmail-smtp-in.l.google.com", "127.2.0.1".parse().unwrap());
        zone.address("gmail-smtp-in.l.google.com", LOOPBACK_V6);
        zone.mx("null.test", 0, "").unwrap();
        zone.txt("s1._domainkey.sender.test", &format!("v=DKIM1; k=rsa; p={}", "A".repeat(600)));
        zone
    }

    fn resolver(address: SocketAddr, tcp: bool) -> TokioResolver {
        let mut connection = if tcp { ConnectionConfig::tcp() } else { ConnectionConfig::udp() };
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, vec![], vec![server]),
            TokioRuntimeProvider::default(),
        )
        .build()
        .unwrap()
    }

    #[tokio::test]
    async fn hickory_resolver_reads_mx_addresses_and_long_keys_over_udp_and_tcp() {
        let names = Names::start(zone(), "127.0.0.1:0".parse().unwrap(), ZoneKey::new().unwrap()).await.unwrap();
        for tcp in [false, true] {
            let resolver = resolver(names.address(), tcp);
            let mx = resolver.mx_lookup("gmail.test.").await.unwrap();
            let RData::MX(record) = &mx.answers()[0].data else { panic!("not MX") };
            assert_eq!((record.preference, record.exchange.to_ascii()), (5, "gmail-smtp-in.l.google.com.".to_owned()));
            let addresses: Vec<_> =
                resolver.ipv4_lookup("gmail-smtp-in.l.google.com.").await.unwrap().answers().to_vec();
            assert_eq!(addresses[0].data, RData::A(A(Ipv4Addr::new(127, 2, 0, 1))));
            assert_eq!(resolver.ipv6_lookup("gmail-smtp-in.l.google.com.").await.unwrap().answers().len(), 1);
            let key = resolver.txt_lookup("s1._domainkey.sender.test.").await.unwrap();
            let RData::TXT(text) = &key.answers()[0].data else { panic!("not TXT") };
            assert_eq!(text.txt_data.iter().map(|string| string.len()).sum::<usize>(), 618);
            let null = resolver.mx_lookup("null.test.").await.unwrap();
            let RData::MX(record) = &null.answers()[0].data else { panic!("not MX") };
            assert!(record.exchange.is_root());
            let error = resolver.mx_lookup("nosuch.test.").await.unwrap_err();
            assert!(error.is_nx_domain(), "{error}");
            let error = resolver.ipv4_lookup("gmail.test.").await.unwrap_err();
            assert!(error.is_no_records_found() && !error.is_nx_domain(), "{error}");
        }
        assert!(names.questions() > 0);
    }

    /// The oracle is hickory's validator, with the zone's key as its only trust anchor.
    #[tokio::test]
    async fn a_validating_resolver_believes_records_no_data_and_no_such_name_and_nothing_of_another_key() {
        use hickory_resolver::net::{DnsError, NetError};
        use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
        let mut zone = zone();
        zone.tlsa("gmail-smtp-in.l.google.com", 25, vec![7; 32]);
        let names = Names::start(zone, "127.0.0.1:0".parse().unwrap(), ZoneKey::new().unwrap()).await.unwrap();
        let other =
            Names::start(Zone::default(), "127.0.0.1:0".parse().unwrap(), ZoneKey::new().unwrap()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let validating = |anchor: &str| {
            let file = folder.path().join("anchor");
            std::fs::write(&file, anchor).unwrap();
            let anchors = TrustAnchors::from_file(&file).unwrap();
            let mut connection = ConnectionConfig::udp();
            connection.port = names.address().port();
            let server = NameServerConfig::new(names.address().ip(), true, vec![connection]);
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, vec![], vec![server]),
                TokioRuntimeProvider::default(),
            )
            .with_trust_anchor(std::sync::Arc::new(anchors))
            .build()
            .unwrap()
        };
        let resolver = validating(names.anchor());
        for (name, kind) in [
            ("gmail.test.", RecordType::MX),
            ("gmail-smtp-in.l.google.com.", RecordType::A),
            ("_25._tcp.gmail-smtp-in.l.google.com.", RecordType::TLSA),
            (".", RecordType::DNSKEY),
        ] {
            let answer = resolver.lookup(name, kind).await.unwrap();
            let records = answer.answers().iter().filter(|record| record.record_type() == kind);
            assert!(
                records.clone().count() > 0 && records.clone().all(|record| record.proof == Proof::Secure),
                "{name}"
            );
        }
        for (name, exists) in
            [("gmail.test.", true), ("test.", true), ("nosuch.test.", false), ("_25._tcp.mx.nosuch.", false)]
        {
            let error = resolver.lookup(name, RecordType::TLSA).await.unwrap_err();
            let NetError::Dns(DnsError::NoRecordsFound(none)) = &error else { panic!("{name}: {error:?}") };
            assert_eq!(none.response_code == ResponseCode::NXDomain, !exists, "{name}");
            let denials = none.authorities.as_deref().unwrap_or_default();
            let denials = denials.iter().filter(|record| record.record_type() != RecordType::RRSIG);
            assert!(
                denials.clone().count() == 2 && denials.clone().all(|record| record.proof == Proof::Secure),
                "{name}"
            );
        }
        // The trust anchor of another zone: nothing is proven.
        let stranger = validating(other.anchor());
        let proven = stranger.lookup("gmail.test.", RecordType::MX).await;
        assert!(
            proven.is_err() || proven.is_ok_and(|answer| answer.answers().iter().all(|r| r.proof != Proof::Secure))
        );
    }

    #[test]
    fn moods_end_after_their_first_questions() {
        let mut zone = zone();
        zone.mood("gmail.test", NamesMood::FailsFirst);
        assert_eq!(zone.answer("GMAIL.test.", RecordType::MX), Reply::Failure);
        assert_eq!(zone.answer("gmail.test", RecordType::MX), Reply::Failure);
        assert!(matches!(zone.answer("gmail.test", RecordType::MX), Reply::Records(_)));
        assert_eq!(zone.answer("gmail.test", RecordType::A), Reply::NoData);
        assert_eq!(zone.answer("test", RecordType::A), Reply::NoData);
        assert_eq!(zone.answer("none.test", RecordType::A), Reply::NoSuchName);
    }
}
