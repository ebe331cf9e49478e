//! The network of a seed as files for systemd-networkd: text in, text out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

use crate::{Interface, Network};

/// How the names of [`networkd_files`] begin.
const NETWORKD_PREFIX: &str = "10-postkeep";

/// Names of the files in `folder` that are of a seed, whatever is in them, in order.
///
/// # Errors
/// The folder cannot be read.
pub fn networkd_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.starts_with(NETWORKD_PREFIX)));
    }
    names.sort();
    Ok(names)
}

/// The files for networkd that make `network`: names, without a folder, and texts. Files of equal networks are equal.
#[must_use]
pub fn networkd_files(network: &Network) -> Vec<(String, String)> {
    if network.interfaces.is_empty() {
        let anything = Interface { dhcp: true, ..Interface::default() };
        let text = of_interface("Type=ether\nKind=!*\n", &anything, &[], &network.dns);
        return vec![("10-postkeep.network".to_owned(), text)];
    }
    // Where the resolvers are reached: not on a card for something else, if there is one with a way on.
    let leads_on = |interface: &Interface| interface.dhcp || !interface.gateways.is_empty();
    let nothing_leads_on = !network.interfaces.iter().any(leads_on);
    let dns_of = |interface: &Interface| match leads_on(interface) || nothing_leads_on {
        true => &*network.dns,
        false => &[],
    };
    // A card has one file, whatever else lies on it.
    let mut cards: BTreeMap<String, (Vec<u16>, Interface)> = BTreeMap::new();
    let mut order = Vec::new();
    for interface in &network.interfaces {
        let card = interface.card();
        let (vlans, untagged) = cards.entry(card.clone()).or_insert_with(|| {
            order.push(card);
            (Vec::new(), Interface { mac: interface.mac, name: interface.name.clone(), ..Interface::default() })
        });
        match interface.vlan {
            Some(id) => vlans.push(id),
            None => *untagged = interface.clone(),
        }
    }
    let mut files = Vec::new();
    for (at, card) in order.iter().enumerate() {
        let Some((vlans, interface)) = cards.get(card) else { continue };
        let matched = match interface.mac {
            // Its VLANs have the address of the card too: only what is no child of another matches.
            Some(mac) => format!("MACAddress={mac}\nKind=!*\n"),
            None => format!("Name={card}\n"),
        };
        let text = of_interface(&matched, interface, vlans, dns_of(interface));
        files.push((format!("10-postkeep-{}.network", at + 1), text));
    }
    for interface in &network.interfaces {
        let Some(id) = interface.vlan else { continue };
        files.push((
            format!("10-postkeep-vlan{id}.netdev"),
            format!("[NetDev]\nName=vlan{id}\nKind=vlan\n\n[VLAN]\nId={id}\n"),
        ));
        let text = of_interface(&format!("Name=vlan{id}\n"), interface, &[], dns_of(interface));
        files.push((format!("10-postkeep-vlan{id}.network"), text));
    }
    files
}

fn of_interface(matched: &str, interface: &Interface, vlans: &[u16], dns: &[IpAddr]) -> String {
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let mut text = format!("[Match]\n{matched}");
    if let Some(octets) = interface.mtu {
        put(&mut text, format_args!("\n[Link]\nMTUBytes={octets}\n"));
    }
    let automatic = yes(interface.dhcp);
    put(&mut text, format_args!("\n[Network]\nDHCP={automatic}\nIPv6AcceptRA={automatic}\n"));
    // A card that only carries VLANs stays silent itself.
    let carries = interface.dhcp || interface.addresses.iter().any(|own| own.addr().is_ipv6());
    put(&mut text, format_args!("LinkLocalAddressing={}\n", if carries { "ipv6" } else { "no" }));
    text.push_str("LLMNR=no\nMulticastDNS=no\nLLDP=no\n");
    for address in &interface.addresses {
        put(&mut text, format_args!("Address={address}\n"));
    }
    for address in dns {
        put(&mut text, format_args!("DNS={address}\n"));
    }
    for id in vlans {
        put(&mut text, format_args!("VLAN=vlan{id}\n"));
    }
    for gateway in &interface.gateways {
        put(&mut text, format_args!("\n[Route]\nGateway={gateway}\n"));
        if !is_on_link(interface, *gateway) {
            text.push_str("GatewayOnLink=yes\n");
        }
    }
    text
}

/// Whether the kernel knows without being told that `gateway` is on the other end of the cable.
fn is_on_link(interface: &Interface, gateway: IpAddr) -> bool {
    matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local())
        || interface.addresses.iter().any(|own| own.contains(&gateway))
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Vec<(String, String)> {
        let network: Network = toml::from_str(text).unwrap();
        network.check().unwrap();
        networkd_files(&network)
    }

    #[test]
    fn a_host_address_reaches_its_router_on_the_link() {
        let files = files(
            r#"
            dns = ["185.12.64.1", "2a01:4ff:ff00::add:1"]
            [[interface]]
            mac = "52:54:00:12:34:56"
            addresses = ["203.0.113.5/32", "2001:db8:7::2/64"]
            gateways = ["203.0.113.1", "fe80::1"]
            "#,
        );
        let text = "[Match]\nMACAddress=52:54:00:12:34:56\nKind=!*\n\n\
            [Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\nLLMNR=no\nMulticastDNS=no\nLLDP=no\n\
            Address=203.0.113.5/32\nAddress=2001:db8:7::2/64\nDNS=185.12.64.1\nDNS=2a01:4ff:ff00::add:1\n\n\
            [Route]\nGateway=203.0.113.1\nGatewayOnLink=yes\n\n[Route]\nGateway=fe80::1\n";
        assert_eq!(files, [("10-postkeep-1.network".to_owned(), text.to_owned())]);
    }

    #[test]
    fn a_router_in_the_network_of_an_address_needs_no_more_words() {
        let files = files(
            r#"
            [[interface]]
            name = "eno1"
            mtu = 1400
            addresses = ["198.51.100.7/24"]
            gateways = ["198.51.100.254"]
            "#,
        );
        let text = "[Match]\nName=eno1\n\n[Link]\nMTUBytes=1400\n\n\
            [Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nLLMNR=no\nMulticastDNS=no\nLLDP=no\n\
            Address=198.51.100.7/24\n\n[Route]\nGateway=198.51.100.254\n";
        assert_eq!(files, [("10-postkeep-1.network".to_owned(), text.to_owned())]);
    }

    #[test]
    fn a_vlan_hangs_on_its_card_and_the_addresses_on_the_vlan() {
        let files = files(
            r#"
            dns = ["192.0.2.53"]
            [[interface]]
            mac = "52:54:00:00:00:01"
            vlan = 4001
            mtu = 1400
            addresses = ["10.0.0.2/24"]
            [[interface]]
            mac = "52:54:00:00:00:01"
            dhcp = true
            "#,
        );
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["10-postkeep-1.network", "10-postkeep-vlan4001.netdev", "10-postkeep-vlan4001.network"]);
        assert_eq!(
            files[0].1,
            "[Match]\nMACAddress=52:54:00:00:00:01\nKind=!*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n\
             LinkLocalAddressing=ipv6\nLLMNR=no\nMulticastDNS=no\nLLDP=no\nDNS=192.0.2.53\nVLAN=vlan4001\n"
        );
        assert_eq!(files[1].1, "[NetDev]\nName=vlan4001\nKind=vlan\n\n[VLAN]\nId=4001\n");
        assert_eq!(
            files[2].1,
            "[Match]\nName=vlan4001\n\n[Link]\nMTUBytes=1400\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\n\
             LinkLocalAddressing=no\nLLMNR=no\nMulticastDNS=no\nLLDP=no\nAddress=10.0.0.2/24\n"
        );
    }

    #[test]
    fn resolvers_are_reached_where_a_card_leads_on_and_over_all_where_none_does() {
        let with_dns = |text: &str| {
            let files = files(&format!("dns = ['192.0.2.53']\n{text}"));
            files.iter().map(|(_, text)| text.contains("DNS=192.0.2.53")).collect::<Vec<_>>()
        };
        let (inside, outside) =
            ("[[interface]]\nname = 'a'\naddresses = ['10.0.0.2/24']\n", "[[interface]]\nname = 'b'\ndhcp = true\n");
        assert_eq!(with_dns(&format!("{inside}{outside}")), [false, true]);
        assert_eq!(with_dns(inside), [true]);
    }

    #[test]
    fn nothing_said_is_dhcp_on_every_card() {
        let files = files("dns = []");
        assert_eq!(files.len(), 1);
        assert!(files[0].1.starts_with("[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n"), "{}", files[0].1);
    }

    #[test]
    fn networks_that_cannot_be_are_refused_with_their_place() {
        for (text, named) in [
            ("dns = ['0.0.0.0']", "network.dns"),
            ("time-servers = ['192.0.2.1']\n[[interface]]", "interface 1"),
            ("time-servers = ['ntp']", "time-servers"),
            ("[[interface]]\nname = 'a b'\ndhcp = true", "cannot be the name"),
            ("[[interface]]\nname = 'a'", "no address"),
            ("[[interface]]\nname = 'a'\ndhcp = true\nmac = '52:54:00:00:00:01'", "keep one"),
            ("[[interface]]\nname = 'a'\ndhcp = true\nvlan = 4095", "4094"),
            ("[[interface]]\nname = 'a'\ndhcp = true\nmtu = 1000", "1280"),
            ("[[interface]]\nname = 'a'\naddresses = ['192.0.2.0/24']", "not the address of a host"),
            ("[[interface]]\nname = 'a'\naddresses = ['192.0.2.255/24']", "not the address of a host"),
            ("[[interface]]\nname = 'a'\naddresses = ['192.0.2.1/24']\ngateways = ['fe80::1']", "no address of that"),
            ("[[interface]]\nname = 'a'\naddresses = ['192.0.2.1/24']\ngateways = ['192.0.2.1']", "own address"),
            ("[[interface]]\nname = 'a'\ndhcp = true\ngateways = ['192.0.2.1', '192.0.2.2']", "more than one"),
            ("[[interface]]\nname = 'a'\ndhcp = true\n[[interface]]\nname = 'a'\ndhcp = true", "twice"),
            (
                "[[interface]]\nname = 'a'\ndhcp = true\nvlan = 7\n[[interface]]\nname = 'b'\ndhcp = true\nvlan = 7",
                "vlan7",
            ),
        ] {
            let network: Network = toml::from_str(text).unwrap();
            let error = network.check().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
