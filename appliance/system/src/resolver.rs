//! `/etc/resolv.conf`: the DNS servers of the network as it is now, from the seed, from DHCP or from a router, as
//! systemd-networkd tells of them. The image has no resolver of its own; chrony and the mail core ask these servers.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::{Failure, say};

/// More than this many nobody asks.
const MOST: usize = 8;
/// What networkd tells is a few lines.
const LONGEST_STATE: u64 = 64 * 1024;
/// Written beside it when the first server is known: `postkeep-names.path` waits for that.
const FIRST: &str = "first";
/// Between two looks: systemd could start a program at each change, but would miss those that come while it runs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Keeps `target` as networkd says in `state`, for ever.
pub(crate) fn follow(state: &Path, target: &Path) -> Result<Vec<String>, Failure> {
    let mut known: Option<Servers> = None;
    loop {
        let servers = Servers::of(&read(state)?);
        if known.as_ref() != Some(&servers) {
            servers.write(target).map_err(|error| format!("cannot write {}: {error}", target.display()))?;
            servers.told().iter().for_each(|line| say(line));
            if !servers.asked.is_empty()
                && known.is_some_and(|known| known.asked.is_empty())
                && let Err(error) = fs::write(target.with_file_name(FIRST), "")
            {
                say(&format!("chrony is not started anew ({error}); it finds its servers later"));
            }
            known = Some(servers);
        }
        sleep(LOOK_AGAIN);
    }
}

/// What networkd knows.
#[derive(Debug, PartialEq, Eq)]
struct Servers {
    asked: Vec<String>,
    /// Of one link only: networkd does not say of which.
    left_out: Vec<String>,
}

impl Servers {
    /// The servers in networkd's file of its state: `DNS=192.0.2.53 2001:db8::53`.
    fn of(state: &str) -> Self {
        let line = state.lines().find_map(|line| line.strip_prefix("DNS="));
        let words = line.unwrap_or_default().split_ascii_whitespace();
        let addresses = words.filter_map(|word| word.split('%').next()?.parse::<IpAddr>().ok());
        let is_of_a_link = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let (left_out, asked): (Vec<_>, Vec<_>) = addresses.partition(is_of_a_link);
        let texts = |addresses: Vec<IpAddr>| addresses.iter().take(MOST).map(ToString::to_string).collect();
        Self { asked: texts(asked), left_out: texts(left_out) }
    }

    fn write(&self, target: &Path) -> io::Result<()> {
        let mut text = String::from("# From the network: the seed, DHCP, or a router. Written by postkeep-system.\n");
        text.extend(self.asked.iter().map(|server| format!("nameserver {server}\n")));
        // Whoever reads it sees the old one or the new one.
        let half = target.with_extension("half");
        fs::write(&half, text)?;
        fs::rename(&half, target)
    }

    fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        if !self.left_out.is_empty() {
            let servers = self.left_out.join(" ");
            told.push(format!("DNS servers that count on one link are left out: {servers}; name others in the seed"));
        }
        told.push(match self.asked.len() {
            0 => "no DNS server is known; name some in the seed ([network] dns), or use DHCP".to_owned(),
            _ => format!("DNS servers: {}", self.asked.join(" ")),
        });
        told
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    match postkeep_files::beginning(path, LONGEST_STATE) {
        Ok(octets) => Ok(String::from_utf8_lossy(&octets).into_owned()),
        // networkd has not started yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("cannot read {}: {error}", path.display()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd 257's networkd wrote it, and words that it would not write.
    const STATE: &str = "# This is private data. Do not parse.\nOPER_STATE=routable\nCARRIER_STATE=carrier\n\
        ADDRESS_STATE=routable\nDNS=192.0.2.53 2001:db8::53 fe80::1 sdns:853#name evil;rm\nNTP=192.0.2.123\n";

    #[test]
    fn the_servers_of_the_network_become_resolv_conf() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("resolv.conf");
        let servers = Servers::of(STATE);
        servers.write(&target).unwrap();
        let text = fs::read_to_string(&target).unwrap();
        assert!(text.ends_with("nameserver 192.0.2.53\nnameserver 2001:db8::53\n"), "{text}");
        let told = servers.told();
        assert!(told[0].contains("are left out: fe80::1"), "{told:?}");
        assert_eq!(told[1], "DNS servers: 192.0.2.53 2001:db8::53");
    }

    #[test]
    fn before_there_is_a_network_there_is_a_file_without_servers() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("resolv.conf");
        let servers = Servers::of(&read(&folder.path().join("state")).unwrap());
        servers.write(&target).unwrap();
        assert!(servers.told()[0].contains("no DNS server is known"));
        assert!(!fs::read_to_string(&target).unwrap().contains("nameserver"));
    }
}
