//! `/etc/resolv.conf`: the DNS servers of the network as it is now, from the seed, from DHCP or from a router, as
//! systemd-networkd tells of them. The image has no resolver of its own; chrony and the mail core ask these servers.

use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use crate::Failure;

/// More than this many nobody asks.
const MOST: usize = 8;
/// What networkd tells is a few lines.
const LONGEST_STATE: u64 = 64 * 1024;

/// Writes `target` from what networkd says in `state`; says what it did.
pub(crate) fn write(state: &Path, target: &Path) -> Result<Vec<String>, Failure> {
    let said = match read(state) {
        Ok(said) => said,
        // networkd has not started yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("cannot read {}: {error}", state.display()).into()),
    };
    let servers = servers(&said);
    let mut text = String::from("# From the network: the seed, DHCP, or a router. Written by postkeep-system.\n");
    text.extend(servers.iter().map(|server| format!("nameserver {server}\n")));
    // Whoever reads it sees the old one or the new one.
    let half = target.with_extension("half");
    let written = fs::write(&half, text).and_then(|()| fs::rename(&half, target));
    written.map_err(|error| format!("cannot write {}: {error}", target.display()))?;
    Ok(vec![match servers.len() {
        0 => "no DNS server is known; name some in the seed ([network] dns), or use DHCP".to_owned(),
        _ => format!("DNS servers: {}", servers.join(" ")),
    }])
}

/// The servers in networkd's file of its state: `DNS=192.0.2.53 fe80::1%2`.
fn servers(state: &str) -> Vec<String> {
    let line = state.lines().find_map(|line| line.strip_prefix("DNS="));
    line.unwrap_or_default()
        .split_ascii_whitespace()
        .filter(|word| is_address(word))
        .take(MOST)
        .map(str::to_owned)
        .collect()
}

/// An address; one that counts on one link only says which.
fn is_address(word: &str) -> bool {
    let (address, link) = word.split_once('%').map_or((word, None), |(address, link)| (address, Some(link)));
    let is_link = |link: &str| {
        !link.is_empty() && link.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-_".contains(&octet))
    };
    match address.parse() {
        Ok(IpAddr::V4(_)) => link.is_none(),
        Ok(IpAddr::V6(_)) => link.is_none_or(is_link),
        Err(_) => false,
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut octets = Vec::new();
    fs::File::open(path)?.take(LONGEST_STATE).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd 257's networkd wrote it.
    const STATE: &str = "# This is private data. Do not parse.\nOPER_STATE=routable\nCARRIER_STATE=carrier\n\
        ADDRESS_STATE=routable\nDNS=192.0.2.53 2001:db8::53 fe80::1%eth0 sdns:853#name evil;rm\nNTP=192.0.2.123\n";

    #[test]
    fn the_servers_of_the_network_become_resolv_conf() {
        let folder = tempfile::tempdir().unwrap();
        let (state, target) = (folder.path().join("state"), folder.path().join("resolv.conf"));
        fs::write(&state, STATE).unwrap();
        let said = write(&state, &target).unwrap();
        assert_eq!(said, ["DNS servers: 192.0.2.53 2001:db8::53 fe80::1%eth0"]);
        let text = fs::read_to_string(&target).unwrap();
        assert!(text.ends_with("nameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n"), "{text}");

        fs::write(&state, "OPER_STATE=off\n").unwrap();
        assert!(write(&state, &target).unwrap()[0].contains("no DNS server is known"));
        assert!(!fs::read_to_string(&target).unwrap().contains("nameserver"));
    }

    #[test]
    fn before_there_is_a_network_there_is_a_file_without_servers() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("resolv.conf");
        write(&folder.path().join("state"), &target).unwrap();
        assert!(target.exists());
    }
}
