//! From a recipient domain to the hosts that take its mail (RFC 5321 §5.1):
//! fixed routes, MX, null MX (RFC 7505), the fall-back to address records, and
//! the site that the MX set makes up.
//!
//! A [`Resolver`] answers from hickory-resolver's cache where it can. What it
//! returns is data; when to ask again is in it.

mod names;
mod servers;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use postkeep_configuration::{Configuration, DomainPattern};
use postkeep_dane::{Tlsa, Usable};
use postkeep_smtp::reply::Reply;
use thiserror::Error;

pub use self::names::ResolverError;
use self::names::{Found, Names};

/// A route is asked for again after this long at most, whatever its TTL says.
const LONGEST_LIFE: std::time::Duration = std::time::Duration::from_secs(3600);
/// And no sooner than this, so that a TTL of zero does not cost a query for each message.
const SHORTEST_LIFE: std::time::Duration = std::time::Duration::from_secs(30);
/// MX hosts looked at; RFC 5321 asks for at least two.
const MOST_HOSTS: usize = 20;

/// One host that takes mail for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name as MX gives it, lower case, no final dot; an address for literals.
    pub name: Box<str>,
    /// MX preference; equal ones are tried in random order.
    pub preference: u16,
    /// Port, when a fixed route names one.
    pub port: Option<u16>,
}

/// Where mail for a domain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Hosts by preference.
    pub hosts: Vec<Host>,
    /// Set by a `[[route]]` or an administrator, not by DNS.
    pub fixed: bool,
    /// DNSSEC vouches for the hosts.
    pub secure: bool,
    /// Ask again after this.
    pub valid_until: Instant,
}

/// Why there is no route.
#[derive(Debug, Clone, Error)]
pub enum RouteError {
    /// The domain takes no mail: return it to the sender with this reply.
    #[error("{}", .0.text)]
    Permanent(Reply),
    /// DNS did not answer: try later.
    #[error("{0}")]
    Temporary(String),
}

/// The addresses of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// In the order in which to try them.
    pub addresses: Vec<IpAddr>,
    /// DNSSEC vouches for them.
    pub secure: bool,
    /// The host's name at the end of aliases, when DNSSEC vouches for those.
    alias: Option<Box<str>>,
}

/// The TLSA records of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsaSet {
    /// One at least.
    pub records: Vec<Tlsa>,
    /// The TLSA base domain: the name that they stand at, less port and protocol (RFC 7672 §2.2.2).
    pub base: Box<str>,
}

impl TlsaSet {
    /// Whether one of the records can vouch for a certificate.
    pub fn authenticates(&self) -> bool {
        Usable::of(&self.records) == Usable::Authenticated
    }
}

/// Asks the DNS.
#[derive(Clone)]
pub struct Resolver {
    names: Arc<Names>,
    ipv6: bool,
    own: Arc<OwnNames>,
}

/// Names and addresses that are this box: mail is not sent to itself (RFC 5321 §5.1).
#[derive(Debug, Default)]
struct OwnNames {
    hosts: HashSet<Box<str>>,
    addresses: HashSet<IpAddr>,
}

impl OwnNames {
    fn new(configuration: &Configuration) -> Self {
        let sources = configuration.source.values();
        let names = sources.clone().filter_map(|source| source.ehlo.as_deref()).chain([&*configuration.hostname]);
        let bound = configuration.listener.iter().map(|listener| listener.address.ip());
        let sending =
            sources.flat_map(|source| source.ipv4.map(IpAddr::V4).into_iter().chain(source.ipv6.map(IpAddr::V6)));
        Self {
            hosts: names.map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()).collect(),
            addresses: bound.filter(|address| !address.is_unspecified()).chain(sending).collect(),
        }
    }
}

impl Resolver {
    /// A resolver as `[resolver]` says.
    ///
    /// # Errors
    /// The trust anchors cannot be read, or the resolver refuses its settings.
    pub fn new(configuration: &Configuration) -> Result<Self, ResolverError> {
        Ok(Self {
            names: Arc::new(Names::new(configuration)?),
            ipv6: configuration.delivery.ipv6,
            own: Arc::new(OwnNames::new(configuration)),
        })
    }

    /// The route of a domain by DNS or address literal.
    ///
    /// # Errors
    /// Permanent when the domain does not exist or refuses mail, temporary when DNS fails.
    pub async fn route(&self, domain: &str) -> Result<Route, RouteError> {
        if let Some(address) = literal(domain) {
            let host = Host { name: address.to_string().into(), preference: 0, port: None };
            let valid_until = Instant::now() + LONGEST_LIFE;
            return Ok(Route { hosts: vec![host], fixed: false, secure: false, valid_until });
        }
        let name = absolute(domain)
            .map_err(|_| RouteError::Permanent(Reply::new(550, (5, 1, 2), format!("{domain} is not a domain name"))))?;
        let answer = self
            .names
            .ask(name, RecordType::MX)
            .await
            .map_err(|error| RouteError::Temporary(format!("looking up MX of {domain}: {error}")))?;
        if answer.no_such_name {
            return Err(no_such_domain(domain));
        }
        let mut hosts: Vec<Host> = answer
            .records
            .iter()
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some(Host { name: host_name(&mx.exchange), preference: mx.preference, port: None }),
                _ => None,
            })
            .collect();
        if hosts.is_empty() {
            return self.implicit(domain, answer.secure).await;
        }
        // RFC 7505: a null MX stands alone. Beside others it is a mistake, and the others count.
        hosts.retain(|host| !host.name.is_empty());
        if hosts.is_empty() {
            let text = format!("{domain} does not accept mail (null MX)");
            return Err(RouteError::Permanent(Reply::new(556, (5, 1, 10), text)));
        }
        hosts.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
        hosts.dedup_by(|a, b| a.name == b.name);
        self.cut_loop(domain, &mut hosts)?;
        hosts.truncate(MOST_HOSTS);
        Ok(Route { hosts, fixed: false, secure: answer.secure, valid_until: life(answer.valid_until) })
    }

    /// The addresses of a host.
    ///
    /// # Errors
    /// Permanent when the host has none, temporary when DNS fails.
    pub async fn addresses(&self, host: &str) -> Result<Addresses, RouteError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Addresses { addresses: vec![address], secure: false, alias: None });
        }
        let name = absolute(host)
            .map_err(|_| RouteError::Permanent(Reply::new(550, (5, 4, 4), format!("{host} is not a host name"))))?;
        // Each family by itself: what one of them lacks must not hide that the other could not be asked.
        let (v6, v4) = tokio::join!(
            async {
                match self.ipv6 {
                    true => Some(self.names.ask(name.clone(), RecordType::AAAA).await),
                    false => None,
                }
            },
            self.names.ask(name.clone(), RecordType::A),
        );
        let v6 = v6.unwrap_or_else(|| Ok(Found::nothing()));
        let failed = |error: &NetError| RouteError::Temporary(format!("looking up the addresses of {host}: {error}"));
        let found = match (v6, v4) {
            (Ok(v6), Ok(v4)) => [v6, v4],
            // Half an answer is good enough to try, and nothing to give up on.
            (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.records.is_empty() => [some, Found::nothing()],
            (_, Err(error)) | (Err(error), _) => return Err(failed(&error)),
        };
        let with_records = || found.iter().filter(|found| !found.records.is_empty());
        if with_records().next().is_none() {
            return Err(RouteError::Permanent(Reply::new(550, (5, 4, 4), format!("host {host} has no address"))));
        }
        let secure = with_records().all(|found| found.secure);
        let alias = with_records().find_map(|found| found.alias.as_ref()).filter(|_| secure).map(host_name);
        let [first, second] = &found;
        Ok(Addresses {
            addresses: alternating(addresses_in(&first.records), addresses_in(&second.records)),
            secure,
            alias,
        })
    }

    /// The TLSA records by which a host that DNSSEC vouches for can be told from an impostor; `None`: it has none
    /// (RFC 7672 §2.2).
    ///
    /// # Errors
    /// The answer cannot be had or believed: nothing may be sent there now, or an attacker could switch DANE off.
    pub async fn tlsa(&self, host: &str, port: u16, addresses: &Addresses) -> Result<Option<TlsaSet>, String> {
        if !addresses.secure {
            return Ok(None);
        }
        for base in addresses.alias.as_deref().into_iter().chain([host]) {
            let Ok(name) = absolute(&format!("_{port}._tcp.{base}")) else { continue };
            let answer = self
                .names
                .ask(name, RecordType::TLSA)
                .await
                .map_err(|error| format!("looking up the TLSA records of {base}: {error}"))?;
            let records: Vec<Tlsa> = answer
                .records
                .iter()
                .filter_map(|record| match &record.data {
                    RData::TLSA(tlsa) => Some(Tlsa {
                        usage: tlsa.cert_usage.into(),
                        selector: tlsa.selector.into(),
                        matching: tlsa.matching.into(),
                        data: tlsa.cert_data.as_slice().into(),
                    }),
                    _ => None,
                })
                .collect();
            if answer.secure && !records.is_empty() {
                return Ok(Some(TlsaSet { records, base: base.into() }));
            }
        }
        Ok(None)
    }

    /// The TXT records at a name, each in one piece; none when there are none.
    ///
    /// # Errors
    /// DNS fails; in words.
    pub async fn texts(&self, name: &str) -> Result<Vec<Vec<u8>>, String> {
        let name = absolute(name).map_err(|error| error.to_string())?;
        let answer = self.names.ask(name, RecordType::TXT).await.map_err(|error| error.to_string())?;
        Ok(names::texts(&answer.records))
    }

    /// Whether an address is this box itself, or one where no mail server of somebody else can be. For a box
    /// that sends from loopback (a rehearsal), loopback is a network like any other.
    pub fn is_nowhere(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return !self.own.addresses.iter().any(IpAddr::is_loopback);
        }
        address.is_unspecified() || address.is_multicast() || self.own.addresses.contains(&address)
    }

    /// Takes this box and everything behind it out of the list (RFC 5321 §5.1).
    fn cut_loop(&self, domain: &str, hosts: &mut Vec<Host>) -> Result<(), RouteError> {
        let Some(mine) =
            hosts.iter().filter(|host| self.own.hosts.contains(&host.name)).map(|host| host.preference).min()
        else {
            return Ok(());
        };
        hosts.retain(|host| host.preference < mine);
        if hosts.is_empty() {
            return Err(RouteError::Permanent(Reply::new(
                554,
                (5, 4, 6),
                format!("the best MX of {domain} is this host itself, which takes no mail for it"),
            )));
        }
        Ok(())
    }

    /// No MX: the domain itself is the host, if it has an address (RFC 5321 §5.1).
    async fn implicit(&self, domain: &str, secure: bool) -> Result<Route, RouteError> {
        match self.addresses(domain).await {
            Ok(_) => {
                let host = Host { name: domain.into(), preference: 0, port: None };
                let valid_until = Instant::now() + SHORTEST_LIFE * 10;
                Ok(Route { hosts: vec![host], fixed: false, secure, valid_until })
            }
            Err(RouteError::Permanent(_)) => Err(RouteError::Permanent(Reply::new(
                550,
                (5, 1, 2),
                format!("{domain} has neither MX nor address records"),
            ))),
            Err(temporary) => Err(temporary),
        }
    }
}

/// The fixed route that a configuration gives a domain, most specific pattern first.
pub fn configured_route(configuration: &Configuration, domain: &str) -> Option<Route> {
    configuration
        .route
        .iter()
        .filter_map(|route| {
            let pattern: DomainPattern = route.domain.parse().ok()?;
            pattern.matches(domain).then_some((route.domain.trim_start_matches('*').len(), &route.hosts))
        })
        .max_by_key(|(length, _)| *length)
        .and_then(|(_, hosts)| fixed_route(hosts))
}

/// A route to hosts given as `host`, `host:port`, `192.0.2.1:25` or `[::1]:25`, in order.
pub fn fixed_route(hosts: &[String]) -> Option<Route> {
    let hosts: Vec<Host> =
        hosts.iter().enumerate().filter_map(|(place, host)| fixed_host(host, place as u16)).collect();
    (!hosts.is_empty()).then(|| Route { hosts, fixed: true, secure: false, valid_until: Instant::now() + LONGEST_LIFE })
}

fn fixed_host(text: &str, preference: u16) -> Option<Host> {
    let text = text.trim();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Host { name: address.ip().to_string().into(), preference, port: Some(address.port()) });
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Host { name: address.to_string().into(), preference, port: None });
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (text, None),
    };
    (!name.is_empty()).then(|| Host { name: name.trim_end_matches('.').to_ascii_lowercase().into(), preference, port })
}

impl Route {
    /// The name of the site for a fixed route: its hosts as written.
    pub fn fixed_name(&self) -> Arc<str> {
        let names: Vec<String> = self
            .hosts
            .iter()
            .map(|host| match host.port {
                Some(port) if host.name.contains(':') => format!("[{}]:{port}", host.name),
                Some(port) => format!("{}:{port}", host.name),
                None => host.name.to_string(),
            })
            .collect();
        names.join(",").into()
    }
}

fn addresses_in(records: &[Record]) -> Vec<IpAddr> {
    records
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect()
}

/// IPv6 first, then in turns, so that a few tries meet both families.
fn alternating(v6: Vec<IpAddr>, v4: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut out = Vec::with_capacity(v6.len() + v4.len());
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            return out;
        }
        out.extend(pair.into_iter().flatten());
    }
}

fn no_such_domain(domain: &str) -> RouteError {
    RouteError::Permanent(Reply::new(550, (5, 1, 2), format!("domain {domain} does not exist")))
}

fn absolute(domain: &str) -> Result<Name, hickory_resolver::proto::ProtoError> {
    let mut name = Name::from_utf8(domain)?;
    name.set_fqdn(true);
    Ok(name)
}

fn host_name(name: &Name) -> Box<str> {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase().into()
}

fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => inner[5..].parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6),
        _ => inner.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn life(until: Option<Instant>) -> Instant {
    let now = Instant::now();
    until.unwrap_or(now).clamp(now + SHORTEST_LIFE, now + LONGEST_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_hosts_are_read_in_all_their_forms() {
        let route = fixed_route(&[
            "mx.example:2525".into(),
            "192.0.2.1:25".into(),
            "[::1]:26".into(),
            "[::2]".into(),
            "Plain.Example.".into(),
        ])
        .unwrap();
        let hosts: Vec<_> = route.hosts.iter().map(|host| (&*host.name, host.port)).collect();
        assert_eq!(
            hosts,
            [
                ("mx.example", Some(2525)),
                ("192.0.2.1", Some(25)),
                ("::1", Some(26)),
                ("::2", None),
                ("plain.example", None)
            ]
        );
        assert_eq!(&*route.fixed_name(), "mx.example:2525,192.0.2.1:25,[::1]:26,::2,plain.example");
    }

    #[test]
    fn address_literals_of_rfc_5321_are_hosts() {
        assert_eq!(literal("[192.0.2.7]"), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(literal("[IPv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(literal("example.org"), None);
    }
}
