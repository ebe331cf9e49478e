//! What an owner can allow at the console: each deed with all that it does, so that it can be signed as a whole.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How long a new network is tried before it goes back by itself.
pub const TRIAL: std::time::Duration = std::time::Duration::from_secs(60);
/// Of addresses, routers and resolvers each; the seed has room for more.
pub const MOST: usize = 8;
const LONGEST_INTERFACE: usize = 15;

/// Something that changes the state of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Deed {
    /// Stops everything and starts the machine again.
    Reboot,
    /// Stops everything and switches the machine off.
    PowerOff,
    /// Stops mail and closes the data volume.
    Seal,
    /// Tries another network on one interface.
    Network(NetworkChange),
}

/// The network of one interface, until the next start of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetworkChange {
    /// The name of the interface.
    pub interface: String,
    /// Addresses from the network, besides those below.
    pub dhcp: bool,
    /// Its addresses, each with the length of its network.
    pub addresses: Vec<IpNet>,
    /// The routers to everywhere: at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// The resolvers of the box; none: as they are.
    pub dns: Vec<IpAddr>,
}

impl Deed {
    /// What it is called in a menu and in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reboot => "start again",
            Self::PowerOff => "power off",
            Self::Seal => "seal",
            Self::Network(_) => "change the network",
        }
    }

    /// All that it does, one fact a line; every line is signed.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Reboot => vec!["do: stop mail and start this machine again".to_owned()],
            Self::PowerOff => vec!["do: stop mail and switch this machine off".to_owned()],
            Self::Seal => vec!["do: stop mail and seal this machine (close its data volume)".to_owned()],
            Self::Network(change) => {
                let list = |parts: Vec<String>, none: &str| match parts.len() {
                    0 => none.to_owned(),
                    _ => parts.join(" "),
                };
                vec![
                    format!("do: change the network of {} until the next start", change.interface),
                    format!("dhcp: {}", if change.dhcp { "yes" } else { "no" }),
                    format!("addresses: {}", list(change.addresses.iter().map(ToString::to_string).collect(), "none")),
                    format!("gateways: {}", list(change.gateways.iter().map(ToString::to_string).collect(), "none")),
                    format!("dns: {}", list(change.dns.iter().map(ToString::to_string).collect(), "as it is")),
                ]
            }
        }
    }

    /// What is wrong with it, before anybody is asked to sign it.
    ///
    /// # Errors
    /// What, and the remedy.
    pub fn check(&self) -> Result<(), String> {
        let Self::Network(change) = self else { return Ok(()) };
        let name = &change.interface;
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        if name.is_empty() || name.len() > LONGEST_INTERFACE || !name.bytes().all(plain) || name == "." || name == ".."
        {
            let shown: String = name.chars().take(20).collect();
            return Err(format!(
                "{shown:?} cannot be the name of an interface; take one of those on the status screen"
            ));
        }
        if change.addresses.len() > MOST || change.gateways.len() > MOST || change.dns.len() > MOST {
            return Err(format!("at most {MOST} addresses, gateways and resolvers each can be typed here"));
        }
        if !change.dhcp && change.addresses.is_empty() {
            return Err("it gets no address; type one, or say yes to DHCP".to_owned());
        }
        Ok(())
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reboot => out.push(1),
            Self::PowerOff => out.push(2),
            Self::Seal => out.push(3),
            Self::Network(change) => {
                out.push(4);
                out.push(length(change.interface.len()));
                out.extend_from_slice(change.interface.as_bytes());
                out.push(u8::from(change.dhcp));
                out.push(length(change.addresses.len()));
                for address in &change.addresses {
                    write_address(out, address.addr());
                    out.push(address.prefix_len());
                }
                for list in [&change.gateways, &change.dns] {
                    out.push(length(list.len()));
                    list.iter().for_each(|address| write_address(out, *address));
                }
            }
        }
    }

    /// Reads what [`Self::write`] wrote; nothing may follow.
    pub(crate) fn read(octets: &[u8]) -> Option<Self> {
        let mut rest = octets;
        let deed = match take(&mut rest, 1)? {
            [1] => Self::Reboot,
            [2] => Self::PowerOff,
            [3] => Self::Seal,
            [4] => {
                let name = take_count(&mut rest, LONGEST_INTERFACE)?;
                let interface = std::str::from_utf8(take(&mut rest, name)?).ok()?.to_owned();
                let dhcp = match take(&mut rest, 1)? {
                    [0] => false,
                    [1] => true,
                    _ => return None,
                };
                let mut addresses = Vec::new();
                for _ in 0..take_count(&mut rest, MOST)? {
                    let address = take_address(&mut rest)?;
                    let [length] = take(&mut rest, 1)? else { return None };
                    addresses.push(IpNet::new(address, *length).ok()?);
                }
                let mut lists = [Vec::new(), Vec::new()];
                for list in &mut lists {
                    for _ in 0..take_count(&mut rest, MOST)? {
                        list.push(take_address(&mut rest)?);
                    }
                }
                let [gateways, dns] = lists;
                Self::Network(NetworkChange { interface, dhcp, addresses, gateways, dns })
            }
            _ => return None,
        };
        // A name with a line end in it would put words into the text that is signed.
        (rest.is_empty() && deed.check().is_ok()).then_some(deed)
    }
}

/// Lists are held to [`MOST`] and names to fifteen octets before they are written.
fn length(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn take_count(rest: &mut &[u8], most: usize) -> Option<usize> {
    let [count] = take(rest, 1)? else { return None };
    Some(usize::from(*count)).filter(|count| *count <= most)
}

fn take_address(rest: &mut &[u8]) -> Option<IpAddr> {
    match take(rest, 1)? {
        [4] => Some(IpAddr::from(<[u8; 4]>::try_from(take(rest, 4)?).ok()?)),
        [6] => Some(IpAddr::from(<[u8; 16]>::try_from(take(rest, 16)?).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_deed() -> impl Strategy<Value = Deed> {
        let address = || any::<IpAddr>();
        let network = any::<IpAddr>().prop_flat_map(|address| {
            let most: u8 = if address.is_ipv4() { 32 } else { 128 };
            (0..=most).prop_map(move |length| IpNet::new(address, length).unwrap())
        });
        let change = (
            "[a-z][a-z0-9._-]{0,14}",
            any::<bool>(),
            proptest::collection::vec(network, 1..4),
            proptest::collection::vec(address(), 0..3),
            proptest::collection::vec(address(), 0..3),
        )
            .prop_map(|(interface, dhcp, addresses, gateways, dns)| {
                Deed::Network(NetworkChange { interface, dhcp, addresses, gateways, dns })
            });
        prop_oneof![Just(Deed::Reboot), Just(Deed::PowerOff), Just(Deed::Seal), change]
    }

    #[test]
    fn a_network_that_cannot_be_meant_is_refused_with_a_remedy() {
        let good = NetworkChange {
            interface: "eno1".into(),
            dhcp: false,
            addresses: vec!["192.0.2.5/24".parse().unwrap()],
            gateways: Vec::new(),
            dns: Vec::new(),
        };
        assert_eq!(Deed::Network(good.clone()).check(), Ok(()));
        for name in ["", "eno1\ndo: power off", "a-name-of-16-lettrs", "..", "e*"] {
            let error = Deed::Network(NetworkChange { interface: name.into(), ..good.clone() }).check().unwrap_err();
            assert!(error.contains("name of an interface"), "{error}");
        }
        let silent = NetworkChange { addresses: Vec::new(), ..good };
        assert!(Deed::Network(silent).check().unwrap_err().contains("gets no address"));
    }

    proptest! {
        #[test]
        fn a_deed_comes_back(deed in any_deed()) {
            let mut octets = Vec::new();
            deed.write(&mut octets);
            prop_assert_eq!(Deed::read(&octets), Some(deed));
        }

        #[test]
        fn no_octets_make_it_panic_and_one_deed_has_one_form(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(deed) = Deed::read(&octets) {
                let mut again = Vec::new();
                deed.write(&mut again);
                prop_assert_eq!(again, octets);
            }
        }
    }
}
