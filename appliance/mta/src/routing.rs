//! From a recipient domain to the hosts that take its mail (RFC 5321 §5.1):
//! fixed routes, MX, null MX (RFC 7505), the fall-back to address records, and
//! the site that the MX set makes up.
//!
//! A [`Resolver`] answers from hickory-resolver's cache where it can. What it
//! returns is data; when to ask again is in it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, Record};
use postkeep_configuration::{Configuration, DomainPattern};
use postkeep_smtp::reply::Reply;
use thiserror::Error;

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

/// Asks the DNS.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
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
    /// `/etc/resolv.conf` cannot be read, or the resolver refuses its settings.
    pub fn new(configuration: &Configuration) -> Result<Self, NetError> {
        let settings = &configuration.resolver;
        let mut builder = if settings.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = settings.servers.iter().map(|address| name_server(*address)).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                TokioRuntimeProvider::default(),
            )
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.timeout = settings.timeout.as_std();
        options.attempts = settings.attempts as usize;
        options.cache_size = settings.cache_entries.into();
        options.edns0 = true;
        Ok(Self {
            inner: builder.build()?,
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
            return Ok(Route { hosts: vec![host], fixed: false, valid_until: Instant::now() + LONGEST_LIFE });
        }
        let name = absolute(domain)
            .map_err(|_| RouteError::Permanent(Reply::new(550, (5, 1, 2), format!("{domain} is not a domain name"))))?;
        match self.inner.mx_lookup(name).await {
            Ok(answer) => {
                let mut hosts: Vec<Host> = answer
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::MX(mx) => {
                            Some(Host { name: host_name(&mx.exchange), preference: mx.preference, port: None })
                        }
                        _ => None,
                    })
                    .collect();
                if hosts.is_empty() {
                    return self.implicit(domain).await;
                }
                // RFC 7505: a null MX stands alone. Beside others it is a mistake, and the others count.
                hosts.retain(|host| !host.name.is_empty());
                if hosts.is_empty() {
                    return Err(RouteError::Permanent(Reply::new(
                        556,
                        (5, 1, 10),
                        format!("{domain} does not accept mail (null MX)"),
                    )));
                }
                hosts.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
                hosts.dedup_by(|a, b| a.name == b.name);
                self.cut_loop(domain, &mut hosts)?;
                hosts.truncate(MOST_HOSTS);
                Ok(Route { hosts, fixed: false, valid_until: life(answer.valid_until()) })
            }
            Err(error) if error.is_nx_domain() => Err(no_such_domain(domain)),
            Err(error) if no_data(&error) => self.implicit(domain).await,
            Err(error) => Err(RouteError::Temporary(format!("looking up MX of {domain}: {error}"))),
        }
    }

    /// The addresses of a host, in the order in which to try them.
    ///
    /// # Errors
    /// Permanent when the host has none, temporary when DNS fails.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, RouteError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let name = absolute(host)
            .map_err(|_| RouteError::Permanent(Reply::new(550, (5, 4, 4), format!("{host} is not a host name"))))?;
        // Each family by itself: what one of them lacks must not hide that the other could not be asked.
        let (v6, v4) = tokio::join!(
            async {
                match self.ipv6 {
                    true => {
                        found(self.inner.ipv6_lookup(name.clone()).await.map(|answer| addresses_in(answer.answers())))
                    }
                    false => Ok(Vec::new()),
                }
            },
            async { found(self.inner.ipv4_lookup(name.clone()).await.map(|answer| addresses_in(answer.answers()))) },
        );
        match (v6, v4) {
            (Ok(v6), Ok(v4)) if v6.is_empty() && v4.is_empty() => {
                Err(RouteError::Permanent(Reply::new(550, (5, 4, 4), format!("host {host} has no address"))))
            }
            (Ok(v6), Ok(v4)) => Ok(alternating(v6, v4)),
            // Half an answer is good enough to try, and nothing to give up on.
            (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => Ok(some),
            (_, Err(error)) | (Err(error), _) => {
                Err(RouteError::Temporary(format!("looking up the addresses of {host}: {error}")))
            }
        }
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
    async fn implicit(&self, domain: &str) -> Result<Route, RouteError> {
        match self.addresses(domain).await {
            Ok(_) => {
                let host = Host { name: domain.into(), preference: 0, port: None };
                Ok(Route { hosts: vec![host], fixed: false, valid_until: Instant::now() + SHORTEST_LIFE * 10 })
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
    (!hosts.is_empty()).then(|| Route { hosts, fixed: true, valid_until: Instant::now() + LONGEST_LIFE })
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

/// What an address look-up found: nothing, when the name or the kind of record does not exist.
fn found(answer: Result<Vec<IpAddr>, NetError>) -> Result<Vec<IpAddr>, NetError> {
    match answer {
        Err(error) if error.is_nx_domain() || no_data(&error) => Ok(Vec::new()),
        other => other,
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

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = address.port();
    }
    server
}

fn no_data(error: &NetError) -> bool {
    error.is_no_records_found() || matches!(error, NetError::Dns(DnsError::Nsec { .. }))
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

fn life(until: Instant) -> Instant {
    let now = Instant::now();
    until.clamp(now + SHORTEST_LIFE, now + LONGEST_LIFE)
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
