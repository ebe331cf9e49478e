//! The network from the seed: before the data volume is open, since whoever opens it may come over the network.
//!
//! The seed is believed when its own owner has signed it. Whether that owner is the box's, and whether the seed is older than the
//! one that was taken over, is asked when the volume is open ([`crate::settle`]); until then a stranger at the rack can do with it
//! what can be done with a cable too. Then the network is that of the seed that counts ([`Place::instead_of`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use postkeep_seed::{LARGEST_SEED, MachineFacts, Seed, SeedError, networkd_files};

/// Of a seed, in octets: one more than it may have, so that whoever opens it sees that it is too large.
pub(crate) const MOST_READ: u64 = LARGEST_SEED as u64 + 1;

/// Why the network was not set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The seed.
    #[error(
        "{0}; the box has no network until a good seed lies on its boot partition as postkeep/seed, or until its data \
         volume is open and has an earlier one"
    )]
    Seed(#[from] SeedError),
    /// A file.
    #[error("cannot {verb} {path}: {error}", path = path.display())]
    File { verb: &'static str, path: PathBuf, error: io::Error },
}

/// Where the seed lies and what it is written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The seed.
    pub(crate) seed: &'a Path,
    /// Where volatile files go.
    pub(crate) run: &'a Path,
    /// Where the kernel tells about the machine.
    pub(crate) sys: &'a Path,
    /// The time servers of a seed that names none, one on each line.
    pub(crate) time_servers: &'a Path,
    /// The seed that the network is from so far: nothing is done unless it is a stranger's, or older.
    pub(crate) instead_of: Option<&'a Path>,
}

/// Writes what the seed says about the network below `run`; says what it did.
pub(crate) fn apply(place: &Place<'_>) -> Result<Vec<String>, crate::Failure> {
    let Place { seed, run, sys, time_servers, instead_of } = *place;
    let octets = match postkeep_files::beginning(seed, MOST_READ) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(vec![
                "no seed on the boot partition: no network is set up (see postkeep-flash seed make --help)".to_owned(),
            ]);
        }
        Err(error) => return Err(NetworkError::File { verb: "read", path: seed.to_owned(), error }.into()),
    };
    // That it has expired since it was taken over must not cost the box its network; whoever takes it over asks.
    let parsed = Seed::open(&octets, None, Timestamp::MIN).map_err(NetworkError::from)?;
    if let Some(other) = instead_of {
        let other = postkeep_files::beginning(other, MOST_READ).ok();
        let other = other.and_then(|other| Seed::open(&other, Some(&parsed.owner), Timestamp::MIN).ok());
        // The owner's newer one stays, also where something else in it could not be taken over: the box may stand elsewhere now.
        if other.is_some_and(|other| other.issued >= parsed.issued) {
            return Ok(Vec::new());
        }
    }
    parsed.check_machine(&MachineFacts::read(sys)).map_err(NetworkError::from)?;
    let networkd = run.join("systemd/network");
    folder(&networkd)?;
    let texts = networkd_files(&parsed.network);
    let files = texts.len();
    remove_others(&networkd, &texts)?;
    for (name, text) in texts {
        write(&networkd.join(name), text.as_bytes())?;
    }
    let servers = run.join("chrony-servers");
    folder(&servers)?;
    let shipped = fs::read_to_string(time_servers).unwrap_or_default();
    let names: Vec<&str> = match &*parsed.network.time_servers {
        [] => shipped.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect(),
        named => named.iter().map(|name| &**name).collect(),
    };
    let sources: String = names.iter().map(|name| format!("server {name} nts iburst\n")).collect();
    write(&servers.join("seed.sources"), sources.as_bytes())?;
    if let Some(hostname) = &parsed.hostname {
        // systemd-sysctl, which comes after this, may write what we may not.
        let settings = run.join("sysctl.d");
        folder(&settings)?;
        write(
            &settings.join("95-postkeep-hostname.conf"),
            format!("kernel.hostname = {}\n", node(hostname)).as_bytes(),
        )?;
    }
    let copy = run.join("postkeep-seed");
    folder(&copy)?;
    write(&copy.join("seed"), &octets)?;
    // At the first boot the data volume is given to them (`postkeep-opener give`).
    let keys = copy.join("keys");
    match &parsed.keys {
        Some(set) => write(&keys, set.text()?.as_bytes())?,
        None => match fs::remove_file(&keys) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(NetworkError::File { verb: "remove", path: keys, error }.into());
            }
            _ => {}
        },
    }
    let owner = parsed.owner.name();
    postkeep_journal::NETWORK_SET.tell(
        format_args!("network set up from the seed of {owner} issued at {}", parsed.issued),
        [&owner, &parsed.issued, &files],
    );
    Ok(vec![format!("seed of {} issued at {}: {files} network files", parsed.owner.name(), parsed.issued)])
}

/// Removes what another seed has left there.
fn remove_others(networkd: &Path, texts: &[(String, String)]) -> Result<(), NetworkError> {
    let failed = |error| NetworkError::File { verb: "clear", path: networkd.to_owned(), error };
    for name in postkeep_seed::networkd_names(networkd).map_err(failed)? {
        if !texts.iter().any(|(own, _)| name == *own) {
            fs::remove_file(networkd.join(name)).map_err(failed)?;
        }
    }
    Ok(())
}

/// What the kernel can be called: it takes 64 octets (`__NEW_UTS_LEN`), of a longer name the first label.
fn node(hostname: &str) -> &str {
    match hostname.len() {
        0..=64 => hostname,
        _ => hostname.split('.').next().unwrap_or_default(),
    }
}

fn folder(path: &Path) -> Result<(), NetworkError> {
    fs::create_dir_all(path).map_err(|error| NetworkError::File { verb: "make", path: path.to_owned(), error })
}

fn write(path: &Path, octets: &[u8]) -> Result<(), NetworkError> {
    fs::write(path, octets).map_err(|error| NetworkError::File { verb: "write", path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use postkeep_notes::SignerKey;

    use super::*;

    const DRAFT: &str = r#"
        hostname = "mail-1.example.com"
        [machine]
        mac = ["52:54:00:70:6b:01"]
        [network]
        time-servers = ["nts.example.net"]
        [[network.interface]]
        mac = "52:54:00:70:6b:01"
        addresses = ["10.1.0.1/8"]
    "#;

    /// What `apply` is told in these tests; `folder` has a /sys and the shipped time servers.
    fn of<T>(folder: &tempfile::TempDir, seed: &Path, run: &Path, work: impl FnOnce(&Place<'_>) -> T) -> T {
        let (sys, time_servers) = (folder.path().join("sys"), folder.path().join("time-servers"));
        fs::write(&time_servers, "# Ours.\nnts.example.org\n\nnts.example.com\n").unwrap();
        work(&Place { seed, run, sys: &sys, time_servers: &time_servers, instead_of: None })
    }

    fn place(mac: &str) -> (tempfile::TempDir, PathBuf, Timestamp) {
        let now: Timestamp = "2026-11-27T05:00:00Z".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let owner = SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap();
        let seed = Seed::draft(DRAFT, owner.verifier(), now).unwrap().sign(&owner).unwrap();
        let path = folder.path().join("seed");
        fs::write(&path, seed).unwrap();
        let card = folder.path().join("sys/class/net/eth0");
        fs::create_dir_all(&card).unwrap();
        fs::write(card.join("address"), format!("{mac}\n")).unwrap();
        (folder, path, now)
    }

    #[test]
    fn a_seed_without_end_is_not_read_to_its_end() {
        let (folder, path, _) = place("52:54:00:12:34:56");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = of(&folder, &path, &folder.path().join("run"), apply).unwrap_err().to_string();
        assert!(error.contains(&(LARGEST_SEED + 1).to_string()), "{error}");
    }

    #[test]
    fn a_signed_seed_becomes_files_of_networkd_and_chrony() {
        let (folder, seed, _) = place("52:54:00:70:6b:01");
        let run = folder.path().join("run");
        of(&folder, &seed, &run, apply).unwrap();
        let file = fs::read_dir(run.join("systemd/network")).unwrap().next().unwrap().unwrap();
        assert!(fs::read_to_string(file.path()).unwrap().contains("Address=10.1.0.1/8"));
        let sources = fs::read_to_string(run.join("chrony-servers/seed.sources")).unwrap();
        assert_eq!(sources, "server nts.example.net nts iburst\n");
        let settings = fs::read_to_string(run.join("sysctl.d/95-postkeep-hostname.conf")).unwrap();
        assert_eq!(settings, "kernel.hostname = mail-1.example.com\n");
        assert_eq!(fs::read(run.join("postkeep-seed/seed")).unwrap(), fs::read(&seed).unwrap());
    }

    #[test]
    fn who_opens_the_box_is_left_for_the_first_boot_and_is_gone_with_a_seed_that_says_nothing() {
        let now: Timestamp = "2026-11-27T05:00:00Z".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let owner = SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap();
        let (path, run) = (folder.path().join("seed"), folder.path().join("run"));
        let set = "threshold = 1\n[[keys.custodian]]\nname = \"anna\"\nrecipients = \
                   [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n[keys.recovery]\nthreshold = 1\n\
                   [[keys.recovery.custodian]]\nname = \"safe\"\nrecipients = \
                   [\"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg\"]\n";
        let seed = |draft: &str| {
            let seed = Seed::draft(draft, owner.verifier(), now).unwrap();
            fs::write(&path, seed.sign(&owner).unwrap()).unwrap();
            of(&folder, &path, &run, apply).unwrap();
            seed.keys
        };
        let keys = seed(&format!("[keys]\n{set}")).unwrap();
        let left = fs::read_to_string(run.join("postkeep-seed/keys")).unwrap();
        // As the opener reads it.
        assert_eq!(left, keys.text().unwrap());
        assert!(left.contains("[recovery]") && left.contains("anna"), "{left}");
        seed("[network]\n");
        assert!(!run.join("postkeep-seed/keys").exists());
    }

    #[test]
    fn a_seed_without_time_servers_gets_those_of_the_image() {
        let now: Timestamp = "2026-11-27T05:00:00Z".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let owner = SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap();
        let seed = Seed::draft("[network]\n", owner.verifier(), now).unwrap().sign(&owner).unwrap();
        let path = folder.path().join("seed");
        fs::write(&path, seed).unwrap();
        let run = folder.path().join("run");
        of(&folder, &path, &run, apply).unwrap();
        let sources = fs::read_to_string(run.join("chrony-servers/seed.sources")).unwrap();
        assert_eq!(sources, "server nts.example.org nts iburst\nserver nts.example.com nts iburst\n");
    }

    #[test]
    fn a_seed_for_another_machine_or_with_one_wrong_octet_changes_nothing() {
        let (folder, seed, _) = place("52:54:00:00:00:09");
        let run = folder.path().join("run");
        let error = of(&folder, &seed, &run, apply).unwrap_err().to_string();
        assert!(error.contains("for another machine") && error.contains("52:54:00:00:00:09"), "{error}");
        assert!(!run.exists());

        let (folder, seed, _) = place("52:54:00:70:6b:01");
        let text = fs::read_to_string(&seed).unwrap().replace("10.1.0.1", "10.1.0.2");
        fs::write(&seed, text).unwrap();
        let run = folder.path().join("run");
        let error = of(&folder, &seed, &run, apply).unwrap_err().to_string();
        assert!(error.contains("no network until a good seed"), "{error}");
        assert!(!run.exists());
    }

    #[test]
    fn a_seed_that_has_expired_still_gives_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let owner = SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap();
        let long_ago: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        let draft = format!("expires = \"2020-02-01T00:00:00Z\"\n{DRAFT}");
        let draft = draft.replace("[machine]\n        mac = [\"52:54:00:70:6b:01\"]", "");
        let path = folder.path().join("seed");
        fs::write(&path, Seed::draft(&draft, owner.verifier(), long_ago).unwrap().sign(&owner).unwrap()).unwrap();
        let run = folder.path().join("run");
        of(&folder, &path, &run, apply).unwrap();
        assert!(run.join("systemd/network/10-postkeep-1.network").exists());
    }

    #[test]
    fn the_seed_that_counts_takes_the_place_of_another_ones_network() {
        let (folder, seed, now) = place("52:54:00:70:6b:01");
        let run = folder.path().join("run");
        // A stranger's, with two cards.
        let stranger = SignerKey::from_seed(&[8; 32], "example.net/stranger").unwrap();
        let draft = "[[network.interface]]\nname = 'a'\ndhcp = true\n[[network.interface]]\nname = 'b'\ndhcp = true\n";
        let other = folder.path().join("other");
        fs::write(&other, Seed::draft(draft, stranger.verifier(), now).unwrap().sign(&stranger).unwrap()).unwrap();
        of(&folder, &other, &run, apply).unwrap();
        fs::write(run.join("systemd/network/50-other.network"), "not ours").unwrap();
        let copy = run.join("postkeep-seed/seed");
        let said = of(&folder, &seed, &run, |place| apply(&Place { instead_of: Some(&copy), ..*place })).unwrap();
        assert_eq!(said.len(), 1);
        let mut names: Vec<_> =
            fs::read_dir(run.join("systemd/network")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["10-postkeep-1.network", "50-other.network"]);
        assert_eq!(fs::read(&copy).unwrap(), fs::read(&seed).unwrap());
        // It is in place now; and a newer one of the owner stays, whatever else is wrong with it.
        let said = of(&folder, &seed, &run, |place| apply(&Place { instead_of: Some(&copy), ..*place })).unwrap();
        assert!(said.is_empty(), "{said:?}");
        let owner = SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap();
        let later = "2026-12-24T00:00:00Z".parse().unwrap();
        fs::write(&copy, Seed::draft(draft, owner.verifier(), later).unwrap().sign(&owner).unwrap()).unwrap();
        let said = of(&folder, &seed, &run, |place| apply(&Place { instead_of: Some(&copy), ..*place })).unwrap();
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn the_kernel_gets_a_name_that_it_takes() {
        let long = format!("mail-1.{}.example.com", "x".repeat(63));
        assert_eq!((node("mail-1.example.com"), node(&long)), ("mail-1.example.com", "mail-1"));
    }

    #[test]
    fn a_box_without_a_seed_says_so_and_starts() {
        let folder = tempfile::tempdir().unwrap();
        let said = of(&folder, &folder.path().join("seed"), folder.path(), apply).unwrap();
        assert!(said[0].contains("no seed"), "{said:?}");
    }
}
