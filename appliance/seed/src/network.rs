//! How a box reaches the network, as its seed says it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Mac;
use crate::names::{is_host, is_interface};

const MOST: usize = 64;

/// The network of a box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Network {
    /// The resolvers that the system asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Where the time comes from: names of servers that speak NTS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_servers: Vec<String>,
    /// The interfaces; none: DHCP on every card.
    #[serde(default, rename = "interface", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
}

/// An interface, or a VLAN on one. Named by its card's address, or by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The address of the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The name of the interface, where there is no `mac`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The VLAN on it that the rest is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The largest packet, in octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Addresses from the network, besides those below.
    #[serde(default)]
    pub dhcp: bool,
    /// Its addresses, each with the length of its network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// The routers to everywhere: at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
}

impl Interface {
    /// What it is called in messages, and what tells one card from another.
    pub(crate) fn card(&self) -> String {
        match (self.mac, &self.name) {
            (Some(mac), _) => mac.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => String::new(),
        }
    }

    fn check(&self) -> Result<(), String> {
        match (&self.mac, &self.name) {
            (Some(_), Some(_)) => return Err("it has a mac and a name; keep one of them".to_owned()),
            (None, None) => return Err("it has neither a mac nor a name".to_owned()),
            (None, Some(name)) if !is_interface(name) => return Err(format!("{name:?} cannot be the name of one")),
            _ => {}
        }
        if self.vlan.is_some_and(|id| !(1..=4094).contains(&id)) {
            return Err("a vlan is a number from 1 to 4094".to_owned());
        }
        if self.mtu.is_some_and(|octets| !(1280..=65_535).contains(&octets)) {
            return Err("an mtu is a number from 1280 (IPv6 needs that much) to 65535".to_owned());
        }
        if self.addresses.is_empty() && !self.dhcp && self.gateways.is_empty() {
            return Err("it gets no address; add addresses, or dhcp = true".to_owned());
        }
        if self.addresses.len() > MOST {
            return Err(format!("it has more than {MOST} addresses"));
        }
        for network in &self.addresses {
            let address = network.addr();
            let last = matches!(network, IpNet::V4(v4) if v4.prefix_len() < 31 && v4.addr() == v4.broadcast());
            let first = network.prefix_len() < network.max_prefix_len() - 1 && address == network.network();
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() || first || last {
                return Err(format!("{network} is not the address of a host; write it as in 192.0.2.5/24"));
            }
        }
        for gateway in &self.gateways {
            if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() {
                return Err(format!("{gateway} cannot be a router"));
            }
            if !self.dhcp && !self.addresses.iter().any(|own| own.addr().is_ipv4() == gateway.is_ipv4()) {
                return Err(format!("it has the router {gateway} and no address of that family"));
            }
            if self.addresses.iter().any(|own| own.addr() == *gateway) {
                return Err(format!("the router {gateway} is its own address"));
            }
        }
        if self.gateways.iter().filter(|gateway| gateway.is_ipv4()).count() > 1
            || self.gateways.iter().filter(|gateway| gateway.is_ipv6()).count() > 1
        {
            return Err("it has more than one router of a family".to_owned());
        }
        Ok(())
    }
}

impl Network {
    /// What is wrong with it; whoever makes a seed or changes a network asks before anything is written.
    ///
    /// # Errors
    /// The place and the rule.
    pub fn check(&self) -> Result<(), String> {
        if self.dns.len() > 8 || self.time_servers.len() > 16 || self.interfaces.len() > MOST {
            return Err("network: at most 8 dns, 16 time-servers and 64 interfaces are read".to_owned());
        }
        if let Some(address) = self.dns.iter().find(|address| address.is_unspecified() || address.is_multicast()) {
            return Err(format!("network.dns: {address} cannot be a resolver"));
        }
        if let Some(name) = self.time_servers.iter().find(|name| !is_host(name, true)) {
            let why = "is not the name of a host; NTS needs names, since it checks certificates";
            return Err(format!("network.time-servers: {name:?} {why}"));
        }
        let (mut seen, mut vlans, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (at, interface) in self.interfaces.iter().enumerate() {
            let failed = |why: String| format!("network.interface {} ({}): {why}", at + 1, interface.card());
            interface.check().map_err(failed)?;
            if !seen.insert((interface.card(), interface.vlan)) {
                return Err(failed("it is there twice; put its addresses together".to_owned()));
            }
            if let Some(id) = interface.vlan
                && !vlans.insert(id)
            {
                return Err(failed(format!("vlan {id} is there twice, and both would be called vlan{id}")));
            }
            if let Some(twice) = interface.addresses.iter().find(|own| !addresses.insert(own.addr())) {
                return Err(failed(format!("the address {} is there twice", twice.addr())));
            }
        }
        Ok(())
    }
}
