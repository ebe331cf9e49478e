//! Takes a seed over onto the data volume: once for each seed, and only from the box's owner.
//!
//! The first seed says whose the box is. A later one counts when that owner has signed it and it was issued after the one
//! that is in place: an old seed on the boot partition is no way back. What it replaces is kept beside, with `.before`.

use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use postkeep_notes::VerifierKey;
use postkeep_seed::Seed;

use crate::Failure;
use crate::keys::make_missing;

/// The seed that was taken over last, as it was signed.
const TAKEN: &str = "seed";
/// What `postkeepd` reads.
const CONFIGURATION: &str = "postkeep.toml";

/// Takes the seed over, when it is news; makes keys that are missing in any case.
pub(crate) fn settle(seed: &Path, folder: &Path, now: Timestamp) -> Result<Vec<String>, Failure> {
    let mut said = Vec::new();
    let taken = read(&folder.join(TAKEN))?.map(|octets| whose(&octets)).transpose()?;
    if let Some(octets) = read(seed)? {
        let owner = taken.as_ref().map(|taken| &taken.owner);
        match Seed::open(&octets, owner, now) {
            Ok(new) if taken.as_ref().is_some_and(|taken| new.issued <= taken.issued) => {}
            Ok(new) => {
                take(&new, folder, &mut said)?;
                // Last: a seed that was taken half is taken again.
                postkeep_files::replace(&folder.join(TAKEN), &octets)?;
            }
            // The box goes on with what its owner said before.
            Err(error) if taken.is_some() => said.push(format!("the seed on the boot partition is not taken: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    let configuration = folder.join(CONFIGURATION);
    if configuration.exists() {
        let files = postkeep_configuration::Options::without_files();
        let loaded = postkeep_configuration::load_with(&configuration, &files)?;
        let made = make_missing(&loaded.configuration, folder)?;
        let records: Vec<&str> = made.iter().filter_map(|line| line.strip_prefix("publish ")).collect();
        if !records.is_empty() {
            let path = folder.join("publish.txt");
            let before = read(&path)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&before).into_owned() + &records.join("\n") + "\n";
            postkeep_files::replace(&path, text.as_bytes())?;
        }
        said.extend(made);
    } else {
        said.push("no configuration of mail yet: the seed brings none".to_owned());
    }
    Ok(said)
}

fn take(seed: &Seed, folder: &Path, said: &mut Vec<String>) -> Result<(), Failure> {
    let Some(mail) = &seed.mail else {
        said.push(format!("seed of {} taken; it says nothing about mail", seed.owner.name()));
        return Ok(());
    };
    // Looked at before anything is replaced: a bad configuration leaves the running one, and what it names, in place.
    let files = postkeep_configuration::Options::without_files();
    postkeep_configuration::parse("the seed's mail.configuration", &mail.configuration, &files)?;
    for file in &mail.files {
        let path = folder.join(&file.name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        postkeep_files::replace(&path, file.content.as_bytes())?;
    }
    let path = folder.join(CONFIGURATION);
    if let Some(before) = read(&path)? {
        postkeep_files::replace(&folder.join("postkeep.toml.before"), &before)?;
    }
    postkeep_files::replace(&path, mail.configuration.as_bytes())?;
    said.push(format!("seed of {} issued at {} taken over", seed.owner.name(), seed.issued));
    Ok(())
}

/// What is asked of the seed that is in place.
struct Taken {
    owner: VerifierKey,
    issued: Timestamp,
}

fn whose(octets: &[u8]) -> Result<Taken, Failure> {
    // It was checked when it was taken; that it has expired since says nothing about whose the box is.
    let seed = Seed::open(octets, None, Timestamp::MIN)?;
    Ok(Taken { owner: seed.owner, issued: seed.issued })
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(octets) => Ok(Some(octets)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use postkeep_notes::SignerKey;

    use super::*;

    fn key(number: u8) -> SignerKey {
        SignerKey::from_seed(&[number; 32], "example.com/owner").unwrap()
    }

    struct Box {
        folder: tempfile::TempDir,
    }

    impl Box {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn etc(&self) -> PathBuf {
            self.folder.path().join("etc")
        }

        fn settle(&self, hostname: &str, issued: &str, owner: &SignerKey) -> Result<Vec<String>, String> {
            let etc = self.etc();
            fs::create_dir_all(&etc).unwrap();
            let configuration = format!(
                "hostname = \"{hostname}\"\n[[listener]]\naddress = \"0.0.0.0:25\"\ntls = \"starttls\"\n\
                 certificate = \"{0}/tls/a.pem\"\nkey = \"{0}/tls/a.key\"\n\
                 [source.a]\nipv4 = \"10.1.0.1\"\n[pool.default]\nsources = {{ a = 1 }}\n\
                 [[dkim]]\ndomain = \"example.test\"\nselector = \"s1\"\nkey = \"{0}/dkim/s1.pem\"\n",
                etc.display()
            );
            let draft = format!(
                "[mail]\nconfiguration = '''\n{configuration}'''\n\
                 [[mail.file]]\nname = \"extra/roots.pem\"\ncontent = \"of {hostname}\"\n"
            );
            let issued: Timestamp = issued.parse().unwrap();
            let seed = Seed::draft(&draft, owner.verifier(), issued).unwrap().sign(owner).unwrap();
            let path = self.folder.path().join("seed");
            fs::write(&path, seed).unwrap();
            settle(&path, &etc, issued).map_err(|error| error.to_string())
        }

        fn hostname(&self) -> String {
            let text = fs::read_to_string(self.etc().join("postkeep.toml")).unwrap();
            text.lines().next().unwrap().to_owned()
        }
    }

    #[test]
    fn the_first_seed_brings_the_configuration_and_keys_are_born_on_the_box() {
        let here = Box::new();
        let said = here.settle("a.example.test", "2026-11-01T00:00:00Z", &key(1)).unwrap();
        let record =
            said.iter().find(|line| line.starts_with("publish s1._domainkey.example.test TXT v=DKIM1; k=rsa; p=MII"));
        assert!(record.is_some(), "{said:?}");
        // What postkeepd will read is complete: its own check, with files.
        postkeep_configuration::load_with(
            here.etc().join("postkeep.toml"),
            &postkeep_configuration::Options::default(),
        )
        .unwrap();
        let first = fs::read(here.etc().join("dkim/s1.pem")).unwrap();
        assert_eq!(here.settle("a.example.test", "2026-11-01T00:00:00Z", &key(1)).unwrap(), Vec::<String>::new());
        assert_eq!(fs::read(here.etc().join("dkim/s1.pem")).unwrap(), first, "a key is made once");
    }

    #[test]
    fn a_later_seed_of_the_owner_counts_an_older_one_and_a_strangers_do_not() {
        let here = Box::new();
        here.settle("a.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        here.settle("old.example.test", "2026-11-01T00:00:00Z", &key(1)).unwrap();
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        let said = here.settle("stranger.example.test", "2026-11-03T00:00:00Z", &key(2)).unwrap();
        assert!(said[0].contains("not taken") && said[0].contains("has not signed this seed"), "{said:?}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        here.settle("b.example.test", "2026-11-03T00:00:00Z", &key(1)).unwrap();
        assert_eq!(here.hostname(), "hostname = \"b.example.test\"");
        assert!(fs::read_to_string(here.etc().join("postkeep.toml.before")).unwrap().contains("a.example.test"));
    }

    #[test]
    fn a_bad_configuration_leaves_the_one_in_place() {
        let here = Box::new();
        here.settle("a.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        let error = here.settle("not a host name", "2026-11-03T00:00:00Z", &key(1)).unwrap_err();
        assert!(error.contains("hostname"), "{error}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        let named = fs::read_to_string(here.etc().join("extra/roots.pem")).unwrap();
        assert_eq!(named, "of a.example.test", "files that the configuration names stay with it");
    }
}
