//! The files of systemd-networkd while another network is tried: put away, replaced, brought back.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use postkeep_seed::{Interface, Mac, Network, networkd_files, networkd_names};

use crate::deed::NetworkChange;

/// `network` with `change` in it. `mac` is the address of the card that is called like the change's interface.
pub(crate) fn merged(network: &Network, change: &NetworkChange, mac: Option<Mac>) -> Network {
    let mut network = network.clone();
    let is_meant = |interface: &Interface| {
        interface.vlan.is_none()
            && (interface.name.as_deref() == Some(&change.interface) || (mac.is_some() && interface.mac == mac))
    };
    let meant = match network.interfaces.iter_mut().position(|interface| is_meant(interface)) {
        Some(at) => network.interfaces.get_mut(at),
        None => {
            network.interfaces.push(Interface { name: Some(change.interface.clone()), ..Interface::default() });
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
    /// Puts the files of `network` into the place of ours, and ours away.
    pub(crate) fn replace(&self, network: &Network) -> io::Result<()> {
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
        let files = networkd_files(network);
        for name in networkd_names(&self.networkd)? {
            if !files.iter().any(|(new, _)| *new == name) {
                fs::remove_file(self.networkd.join(name))?;
            }
        }
        files.iter().try_for_each(|(name, text)| self.write(name, text.as_bytes()))
    }

    /// Brings the files back that were put away; says whether there were any.
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
        remove_folder(&self.before)?;
        Ok(true)
    }

    /// Forgets the files that were put away: the new ones stay.
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
    fn what_was_there_comes_back_whole_and_files_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { networkd: folder.path().join("network"), before: folder.path().join("before") };
        fs::create_dir(&folders.networkd).unwrap();
        let at = |name: &str| folders.networkd.join(name);
        fs::write(at("10-postkeep.network"), "old").unwrap();
        fs::write(at("99-other.network"), "other").unwrap();
        let new = merged(&Network::default(), &change("eno1"), None);
        folders.replace(&new).unwrap();
        assert!(!at("10-postkeep.network").exists());
        let text = fs::read_to_string(at("10-postkeep-1.network")).unwrap();
        assert!(text.contains("Address=192.0.2.7/24"), "{text}");
        assert_eq!(fs::metadata(at("10-postkeep-1.network")).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(folders.bring_back().unwrap());
        assert_eq!(fs::read_to_string(at("10-postkeep.network")).unwrap(), "old");
        assert!(!at("10-postkeep-1.network").exists() && at("99-other.network").exists());
        assert!(!folders.bring_back().unwrap(), "once");
        folders.replace(&new).unwrap();
        folders.keep().unwrap();
        assert!(!folders.bring_back().unwrap() && at("10-postkeep-1.network").exists());
    }
}
