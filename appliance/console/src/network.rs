//! The files of systemd-networkd while another network is tried: put away, replaced, brought back.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use postkeep_seed::{Interface, Mac, Network, networkd_files, networkd_names};

use crate::deed::NetworkChange;

/// `network` with `change` in it. `mac` is the address of the card that is called like the change's interface; a VLAN has that of
/// its card too, and is known by its name.
pub(crate) fn merged(network: &Network, change: &NetworkChange, mac: Option<Mac>) -> Network {
    let mut network = network.clone();
    let is_of_card = |interface: &Interface| {
        interface.name.as_deref() == Some(&change.interface) || (mac.is_some() && interface.mac == mac)
    };
    let is_called = |interface: &Interface| interface.vlan.is_some_and(|id| format!("vlan{id}") == change.interface);
    let interfaces = &network.interfaces;
    let vlan = interfaces.iter().position(is_called);
    let card = || interfaces.iter().position(|interface| interface.vlan.is_none() && is_of_card(interface));
    let meant = match vlan.or_else(card) {
        Some(at) => network.interfaces.get_mut(at),
        None => {
            // A card that carries VLANs already is named as they name it: it has one file.
            let named = interfaces.iter().find(|interface| is_of_card(interface));
            let name = Some(change.interface.clone());
            let (mac, name) = named.map_or((None, name), |named| (named.mac, named.name.clone()));
            let new = Interface { mac, name, ..Interface::default() };
            network.interfaces.push(new);
            network.interfaces.last_mut()
        }
    };
    if let Some(interface) = meant {
        interface.dhcp = change.dhcp;
        interface.addresses.clone_from(&change.addresses);
        interface.gateways.clone_from(&change.gateways);
    }
    if !change.dns.is_empty() {
        network.dns.clone_from(&change.dns);
    }
    network
}

/// The folders that a trial needs.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    /// Where networkd reads.
    pub(crate) networkd: PathBuf,
    /// Where the files before a trial are kept; it is there as long as a trial is.
    pub(crate) before: PathBuf,
}

impl Folders {
    /// Puts the files of `network` into the place of ours, and ours away. Where the seed names no card (`is_open`), all that
    /// `network` does not name go on with DHCP.
    pub(crate) fn replace(&self, network: &Network, is_open: bool) -> io::Result<()> {
        // Named last: a folder of this name is complete.
        let half = self.before.with_extension("half");
        remove_folder(&half)?;
        fs::create_dir_all(&half)?;
        fs::create_dir_all(&self.networkd)?;
        for name in networkd_names(&self.networkd)? {
            fs::copy(self.networkd.join(&name), half.join(&name))?;
        }
        remove_folder(&self.before)?;
        fs::rename(&half, &self.before)?;
        let mut files = networkd_files(network);
        if is_open && !network.interfaces.is_empty() {
            // Its name comes after those of the cards that are named, and networkd takes the first that matches.
            files.extend(networkd_files(&Network { interfaces: Vec::new(), ..network.clone() }));
        }
        for name in networkd_names(&self.networkd)? {
            if !files.iter().any(|(new, _)| *new == name) {
                fs::remove_file(self.networkd.join(name))?;
            }
        }
        files.iter().try_for_each(|(name, text)| self.write(name, text.as_bytes()))
    }

    /// Brings the files back that were put away; says whether there were any. They stay put away until networkd has read what is
    /// there now: [`Self::keep`].
    pub(crate) fn bring_back(&self) -> io::Result<bool> {
        if !self.before.is_dir() {
            return Ok(false);
        }
        let old = networkd_names(&self.before)?;
        for name in networkd_names(&self.networkd)? {
            if !old.contains(&name) {
                fs::remove_file(self.networkd.join(name))?;
            }
        }
        for name in &old {
            self.write(name, &fs::read(self.before.join(name))?)?;
        }
        Ok(true)
    }

    /// Forgets the files that were put away: what is there now stays.
    pub(crate) fn keep(&self) -> io::Result<()> {
        remove_folder(&self.before)
    }

    fn write(&self, name: &str, octets: &[u8]) -> io::Result<()> {
        let half = self.networkd.join(format!(".{name}.half"));
        fs::write(&half, octets)?;
        // networkd is a user of its own, and nothing in these files is secret.
        fs::set_permissions(&half, fs::Permissions::from_mode(0o644))?;
        fs::rename(&half, self.networkd.join(name))
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        toml::from_str(text).unwrap()
    }

    fn change(interface: &str) -> NetworkChange {
        NetworkChange {
            interface: interface.into(),
            dhcp: false,
            addresses: vec!["192.0.2.7/24".parse().unwrap()],
            gateways: vec!["192.0.2.1".parse().unwrap()],
            dns: Vec::new(),
        }
    }

    #[test]
    fn a_change_finds_its_card_by_name_or_by_address_and_leaves_the_others() {
        let before = network(
            "dns = [\"192.0.2.53\"]\n[[interface]]\nmac = \"52:54:00:12:34:56\"\nmtu = 1400\naddresses = [\"203.0.113.5/32\"]\n\
             [[interface]]\nmac = \"52:54:00:12:34:56\"\nvlan = 7\naddresses = [\"10.7.0.1/24\"]\n",
        );
        let after = merged(&before, &change("eno1"), Some("52:54:00:12:34:56".parse().unwrap()));
        assert_eq!(after.interfaces.len(), 2);
        assert_eq!((after.interfaces[0].mtu, after.interfaces[0].name.clone()), (Some(1400), None));
        assert_eq!(after.interfaces[0].addresses, ["192.0.2.7/24".parse().unwrap()]);
        assert_eq!(after.interfaces[1], before.interfaces[1]);
        assert_eq!(after.dns, before.dns);
        let added = merged(&before, &change("eno2"), None);
        assert_eq!(added.interfaces[2].name.as_deref(), Some("eno2"));
    }

    #[test]
    fn a_change_of_a_vlan_leaves_its_card_and_one_of_its_card_leaves_the_vlan() {
        let mac = "52:54:00:12:34:56";
        let before = network(&format!(
            "[[interface]]\nmac = \"{mac}\"\naddresses = [\"203.0.113.5/32\"]\n\
             [[interface]]\nmac = \"{mac}\"\nvlan = 7\naddresses = [\"10.7.0.1/24\"]\n"
        ));
        // networkd tells the address of the card for its VLAN.
        let after = merged(&before, &change("vlan7"), Some(mac.parse().unwrap()));
        assert_eq!(after.interfaces[0], before.interfaces[0]);
        assert_eq!(after.interfaces[1].addresses, ["192.0.2.7/24".parse().unwrap()]);
        assert_eq!((after.interfaces.len(), after.interfaces[1].vlan), (2, Some(7)));

        let vlan = Network { interfaces: before.interfaces[1..].to_vec(), ..before };
        let after = merged(&vlan, &change("eno1"), Some(mac.parse().unwrap()));
        assert_eq!(after.interfaces[0], vlan.interfaces[0]);
        after.check().unwrap();
        let [(_, card), ..] = &networkd_files(&after)[..] else { panic!("no file") };
        assert!(card.contains("Address=192.0.2.7/24") && card.contains("VLAN=vlan7"), "{card}");
    }

    #[test]
    fn what_was_there_comes_back_whole_and_files_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { networkd: folder.path().join("network"), before: folder.path().join("before") };
        fs::create_dir(&folders.networkd).unwrap();
        let at = |name: &str| folders.networkd.join(name);
        fs::write(at("10-postkeep.network"), "old").unwrap();
        fs::write(at("99-other.network"), "other").unwrap();
        let new = merged(&Network::default(), &change("eno1"), None);
        folders.replace(&new, true).unwrap();
        let others = fs::read_to_string(at("10-postkeep.network")).unwrap();
        assert!(others.contains("DHCP=yes"), "cards that the seed does not name keep their network: {others}");
        let text = fs::read_to_string(at("10-postkeep-1.network")).unwrap();
        assert!(text.contains("Address=192.0.2.7/24"), "{text}");
        assert_eq!(fs::metadata(at("10-postkeep-1.network")).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(folders.bring_back().unwrap());
        assert_eq!(fs::read_to_string(at("10-postkeep.network")).unwrap(), "old");
        assert!(!at("10-postkeep-1.network").exists() && at("99-other.network").exists());
        folders.keep().unwrap();
        assert!(!folders.bring_back().unwrap(), "once networkd has read them");
        folders.replace(&new, false).unwrap();
        assert!(!at("10-postkeep.network").exists());
        folders.keep().unwrap();
        assert!(!folders.bring_back().unwrap() && at("10-postkeep-1.network").exists());
    }
}
