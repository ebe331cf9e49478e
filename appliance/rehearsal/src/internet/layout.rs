//! Where the hosts of a rule book live: addresses, ports, certificates, and
//! what the DNS says about them.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::Error;
use crate::block::Block;
use crate::certificates::Authority;
use crate::names::{LOOPBACK_V6, Zone};
use crate::policy_host::Policies;
use crate::rulebook::{Certificate, Host, NamesMood, RuleBook, Tlsa};

/// Tries to find a port that is free at every address.
const PORT_TRIES: u32 = 20;

/// One host with its place and addresses.
pub(super) struct Spot {
    pub(super) provider: usize,
    pub(super) site: usize,
    pub(super) host: Host,
    addresses: Vec<IpAddr>,
}

/// Gives every host its address and writes MX and address records.
pub(super) fn lay_out(book: &RuleBook, block: Block, zone: &mut Zone) -> Result<Vec<Spot>, Error> {
    let mut spots: Vec<Spot> = Vec::new();
    for (provider, entry) in book.provider.iter().enumerate() {
        for (site, set) in entry.site.iter().enumerate() {
            for domain in &set.domains {
                match set.names {
                    NamesMood::NoSuchDomain => continue,
                    NamesMood::NullMx => zone.mx(domain, 0, "")?,
                    // The host carries the domain's own name and so has its address.
                    NamesMood::AddressOnly => {}
                    NamesMood::Mx | NamesMood::FailsFirst | NamesMood::SilentFirst => {
                        for host in &set.host {
                            zone.mx(domain, host.preference, &host.name)?;
                        }
                        zone.mood(domain, set.names);
                    }
                }
            }
            for host in &set.host {
                let address = block
                    .host(spots.len())
                    .ok_or_else(|| Error::RuleBook(format!("{block} has no room for so many hosts")))?;
                let mut addresses = vec![IpAddr::V4(address)];
                // Only loopback has an IPv6 address that is surely here.
                if host.ipv6 && block.is_loopback() {
                    if spots.iter().any(|spot| spot.host.ipv6) {
                        return Err(Error::RuleBook(format!(
                            "{} asks for ipv6, but loopback has one IPv6 address, and another host has it",
                            host.name
                        )));
                    }
                    addresses.push(LOOPBACK_V6);
                }
                for address in &addresses {
                    zone.address(&host.name, *address);
                }
                spots.push(Spot { provider, site, host: host.clone(), addresses });
            }
        }
    }
    Ok(spots)
}

/// Writes the records of MTA-STS policies (RFC 8461 §3.1); the policies themselves.
pub(super) fn policies(book: &RuleBook, host: IpAddr, zone: &mut Zone) -> Policies {
    let mut policies = Policies::new();
    for site in book.provider.iter().flat_map(|provider| &provider.site) {
        let Some(policy) = &site.policy else { continue };
        for domain in &site.domains {
            zone.txt(&format!("_mta-sts.{domain}"), "v=STSv1; id=20261126T000000;");
            zone.address(&format!("mta-sts.{domain}"), host);
            policies.insert(domain.to_ascii_lowercase(), policy.text());
        }
    }
    policies
}

/// What a host needs to speak TLS (`None`: it does not, or only pretends to), and its TLSA records.
pub(super) fn identify(
    spot: &Spot,
    port: u16,
    authority: &Authority,
    zone: &mut Zone,
) -> Result<Option<Arc<ServerConfig>>, Error> {
    let leaf = authority.leaf(&spot.host.name, spot.host.certificate)?;
    match spot.host.tlsa {
        Tlsa::None => {}
        Tlsa::Matching => zone.tlsa(&spot.host.name, port, leaf.key_digest()),
        Tlsa::OtherKey => {
            // Of a key that is nobody's.
            let other = Authority::new()?.leaf(&spot.host.name, Certificate::Trusted)?;
            zone.tlsa(&spot.host.name, port, other.key_digest());
        }
    }
    match spot.host.certificate {
        Certificate::None | Certificate::Broken => Ok(None),
        _ => leaf.server().map(Some),
    }
}

/// Binds every living host at one port.
pub(super) async fn listen(hosts: &[Spot], port: u16) -> Result<(u16, Vec<(usize, TcpListener)>), Error> {
    let mut trouble = String::new();
    for _ in 0..if port == 0 { PORT_TRIES } else { 1 } {
        let mut taken = port;
        let mut listeners = Vec::new();
        let mut complete = true;
        'hosts: for (place, spot) in hosts.iter().enumerate().filter(|(_, spot)| !spot.host.dead) {
            for address in &spot.addresses {
                match TcpListener::bind((*address, taken)).await {
                    Ok(listener) => {
                        if taken == 0 {
                            taken = listener.local_addr().map_or(0, |address| address.port());
                        }
                        listeners.push((place, listener));
                    }
                    // A machine without IPv6 still rehearses.
                    Err(error) if address.is_ipv6() && error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                        log::warn!("{}: no IPv6 on this machine", spot.host.name);
                    }
                    Err(error) => {
                        trouble = format!("cannot listen at {address} port {taken}: {error}");
                        complete = false;
                        break 'hosts;
                    }
                }
            }
        }
        if complete {
            return Ok((taken, listeners));
        }
    }
    Err(Error::Io(format!("{trouble}; is another rehearsal running? Choose another port")))
}
