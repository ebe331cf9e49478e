//! Takes a seed over onto the data volume: once for each seed, and only from the box's owner.
//!
//! The first seed says whose the box is. A later one counts when that owner has signed it and it was issued after the one
//! that is in place: an old seed on the boot partition is no way back. What it replaces is kept beside, with `.before`.
//!
//! What a seed does not speak about stays as it is: one without `[mail]` leaves the configuration of mail, one without
//! `[api]` leaves those who may manage the box. The latter stand at the end of the configuration, behind [`MARK`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use postkeep_journal::{SEED_REFUSED, SEED_TAKEN};
use postkeep_notes::VerifierKey;
use postkeep_seed::{Api, Seed};

use crate::Failure;
use crate::keys::{box_fingerprint, make_missing};
use crate::network::MOST_READ;

/// The seed that was taken over last, as it was signed.
const TAKEN: &str = "seed";
/// What `postkeepd` reads.
const CONFIGURATION: &str = "postkeep.toml";
/// The line in it behind which the box has written what the seed's `[api]` says.
const MARK: &str = "# What follows is of the seed's [api]; the box writes it.\n";

/// Takes the seed over, when it is news; makes keys that are missing in any case.
/// `custody` is there when the data volume was given to custodians.
pub(crate) fn settle(
    seed: &Path,
    folder: &Path,
    fingerprint: &Path,
    custody: &Path,
    now: Timestamp,
) -> Result<Vec<String>, Failure> {
    let mut said = Vec::new();
    let standing = read(&folder.join(TAKEN), MOST_READ)?;
    let taken = standing.as_deref().map(whose).transpose()?;
    // The one that is in place is no news, also when it has expired since.
    if let Some(octets) = read(seed, MOST_READ)?.filter(|octets| standing.as_ref() != Some(octets)) {
        let owner = taken.as_ref().map(|taken| &taken.owner);
        match Seed::open(&octets, owner, now) {
            Ok(new) if taken.as_ref().is_some_and(|taken| new.issued <= taken.issued) => {
                let why = format!("it was issued at {}, and the one that is in place is not older", new.issued);
                SEED_REFUSED.tell(format_args!("the seed on the boot partition is not taken: {why}"), [&why]);
                said.push(format!("the seed on the boot partition is not taken: {why}"));
            }
            Ok(new) => match has_custody(&new, custody)
                .and_then(|()| take(&new, folder, &mut said))
                // Last: a seed that was taken half is taken again.
                .and_then(|()| Ok(postkeep_files::replace(&folder.join(TAKEN), &octets)?))
            {
                Ok(()) => {
                    let owner = new.owner.name();
                    let news = format_args!("seed of {owner} issued at {} taken over", new.issued);
                    SEED_TAKEN.tell(news, [&owner, &new.issued]);
                }
                Err(error) => refuse(error, taken.is_some(), &mut said)?,
            },
            Err(error) => refuse(error.into(), taken.is_some(), &mut said)?,
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
            let before = read(&path, u64::MAX)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&before).into_owned() + &records.join("\n") + "\n";
            postkeep_files::replace(&path, text.as_bytes())?;
        }
        said.extend(made);
        if let Some(sum) = box_fingerprint(&loaded.configuration)? {
            let address = loaded.configuration.api.map(|api| api.address.to_string()).unwrap_or_default();
            said.push(format!("the box answers to its managers at {address} with the fingerprint {sum}"));
            // For the console, which does not see the configuration; without the folder nobody asks.
            if fingerprint.parent().is_some_and(Path::exists) {
                fs::write(fingerprint, format!("{sum}\n"))
                    .and_then(|()| fs::set_permissions(fingerprint, fs::Permissions::from_mode(0o644)))
                    .map_err(|error| format!("cannot write {}: {error}", fingerprint.display()))?;
            }
        }
    } else {
        said.push("no configuration of mail yet: the seed brings none".to_owned());
    }
    Ok(said)
}

/// A box whose owner wants custodians takes no mail without them.
fn has_custody(seed: &Seed, custody: &Path) -> Result<(), Failure> {
    if seed.keys.is_none() || custody.exists() {
        return Ok(());
    }
    Err("its [keys] say that custodians open this box, and its data volume was made without them, by a seed that did not say so or \
         could not be read; flash the box anew with this seed, or leave its [keys] out"
        .into())
}

/// Tells why the seed is not taken. A box that has one goes on with what its owner said before.
fn refuse(error: Failure, has_one: bool, said: &mut Vec<String>) -> Result<(), Failure> {
    if has_one {
        SEED_REFUSED.tell(format_args!("the seed on the boot partition is not taken: {error}"), [&error]);
        said.push(format!("the seed on the boot partition is not taken: {error}"));
        return Ok(());
    }
    SEED_REFUSED.tell(format_args!("the first seed is not taken: {error}"), [&error]);
    Err(error)
}

fn take(seed: &Seed, folder: &Path, said: &mut Vec<String>) -> Result<(), Failure> {
    let path = folder.join(CONFIGURATION);
    let before = read(&path, u64::MAX)?;
    let standing = before.as_ref().map(|octets| String::from_utf8_lossy(octets).into_owned());
    let (standing, standing_api) = match standing.as_deref().map(|text| text.split_once(MARK).unwrap_or((text, ""))) {
        Some((text, api)) => (Some(text.to_owned()), api.to_owned()),
        None => (None, String::new()),
    };
    let text = match (&seed.mail, standing) {
        (Some(mail), _) => mail.configuration.clone(),
        // Only who may manage the box is new.
        (None, Some(standing)) if seed.api.is_some() => standing,
        (None, _) => {
            said.push(format!("seed of {} taken; it says nothing about mail", seed.owner.name()));
            return Ok(());
        }
    };
    let api = seed.api.as_ref().map_or(standing_api, api_tables);
    // Looked at before anything is replaced: a bad configuration leaves the running one, and what it names, in place.
    let files = postkeep_configuration::Options::without_files();
    let parsed = postkeep_configuration::parse("the seed's mail.configuration", &text, &files)?;
    let has_own = parsed.configuration.api.is_some() || !parsed.configuration.api_client.is_empty();
    let whole = match (has_own, seed.api.is_some()) {
        (true, true) => {
            let why = "the seed names those who may manage the box twice: in its [api] and in [api] of mail.configuration; \
                       leave one of them out and sign it again";
            return Err(why.into());
        }
        // What the configuration says itself takes the place of what an earlier seed said.
        (true, false) => text,
        (false, _) if api.is_empty() => text,
        (false, _) => format!("{}\n{MARK}{api}", text.trim_end_matches('\n')),
    };
    postkeep_configuration::parse("the seed's mail.configuration with its [api]", &whole, &files)?;
    for file in seed.mail.iter().flat_map(|mail| &mail.files) {
        let path = folder.join(&file.name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        postkeep_files::replace(&path, file.content.as_bytes())?;
    }
    if let Some(before) = before {
        postkeep_files::replace(&folder.join("postkeep.toml.before"), &before)?;
    }
    postkeep_files::replace(&path, whole.as_bytes())?;
    said.push(format!("seed of {} issued at {} taken over", seed.owner.name(), seed.issued));
    Ok(())
}

/// What the configuration says for the seed's `[api]`; nothing when nobody is listed.
fn api_tables(api: &Api) -> String {
    let mut tables = String::new();
    let listed = [("admin", &api.clients, "client"), ("read", &api.readers, "reader")];
    for (role, fingerprints, name) in listed {
        for (at, fingerprint) in fingerprints.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(
                tables,
                "[[api-client]]\nname = \"{name}-{}\"\nfingerprint = \"{fingerprint}\"\nrole = \"{role}\"\n",
                at + 1
            );
        }
    }
    if tables.is_empty() { tables } else { format!("[api]\n{tables}") }
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

/// What is there, `most` octets of it at most.
fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match postkeep_files::beginning(path, most) {
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
            self.settle_with(&self.mail(hostname), issued, owner)
        }

        fn mail(&self, hostname: &str) -> String {
            let etc = self.etc();
            let configuration = format!(
                "hostname = \"{hostname}\"\n[[listener]]\naddress = \"0.0.0.0:25\"\ntls = \"starttls\"\n\
                 certificate = \"{0}/tls/a.pem\"\nkey = \"{0}/tls/a.key\"\n\
                 [source.a]\nipv4 = \"10.1.0.1\"\n[pool.default]\nsources = {{ a = 1 }}\n\
                 [[dkim]]\ndomain = \"example.test\"\nselector = \"s1\"\nkey = \"{0}/dkim/s1.pem\"\n",
                etc.display()
            );
            format!(
                "[mail]\nconfiguration = '''\n{configuration}'''\n\
                 [[mail.file]]\nname = \"extra/roots.pem\"\ncontent = \"of {hostname}\"\n"
            )
        }

        fn settle_with(&self, draft: &str, issued: &str, owner: &SignerKey) -> Result<Vec<String>, String> {
            let etc = self.etc();
            fs::create_dir_all(&etc).unwrap();
            let issued: Timestamp = issued.parse().unwrap();
            let seed = Seed::draft(draft, owner.verifier(), issued).unwrap().sign(owner).unwrap();
            let path = self.folder.path().join("seed");
            fs::write(&path, seed).unwrap();
            self.settle_at(issued).map_err(|error| error.to_string())
        }

        fn settle_at(&self, now: Timestamp) -> Result<Vec<String>, Failure> {
            let at = |name: &str| self.folder.path().join(name);
            settle(&at("seed"), &self.etc(), &at("box-fingerprint"), &at("keys"), now)
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
        let said = here.settle("old.example.test", "2026-11-01T00:00:00Z", &key(1)).unwrap();
        assert!(said[0].contains("not taken: it was issued at 2026-11-01T00:00:00Z"), "{said:?}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        let said = here.settle("stranger.example.test", "2026-11-03T00:00:00Z", &key(2)).unwrap();
        assert!(said[0].contains("not taken") && said[0].contains("has not signed this seed"), "{said:?}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        here.settle("b.example.test", "2026-11-03T00:00:00Z", &key(1)).unwrap();
        assert_eq!(here.hostname(), "hostname = \"b.example.test\"");
        assert!(fs::read_to_string(here.etc().join("postkeep.toml.before")).unwrap().contains("a.example.test"));
    }

    #[test]
    fn the_seed_that_is_in_place_is_no_news_when_it_has_expired() {
        let here = Box::new();
        let draft = format!("expires = \"2026-12-01T00:00:00Z\"\n{}", here.mail("a.example.test"));
        here.settle_with(&draft, "2026-11-02T00:00:00Z", &key(1)).unwrap();
        assert_eq!(here.settle_at("2027-01-01T00:00:00Z".parse().unwrap()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_seed_with_custodians_is_not_taken_by_a_box_that_was_made_without_them() {
        let here = Box::new();
        let keys = "[keys]\nthreshold = 1\n[[keys.custodian]]\nname = \"anna\"\nrecipients = \
                    [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n";
        let draft = here.mail("a.example.test") + keys;
        let error = here.settle_with(&draft, "2026-11-02T00:00:00Z", &key(1)).unwrap_err();
        assert!(error.contains("flash the box anew") && !here.etc().join("postkeep.toml").exists(), "{error}");
        // Nor by one that runs, which goes on as it did.
        here.settle("a.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        let draft = here.mail("b.example.test") + keys;
        let said = here.settle_with(&draft, "2026-11-03T00:00:00Z", &key(1)).unwrap().join("\n");
        assert!(said.contains("flash the box anew"), "{said}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        fs::create_dir(here.folder.path().join("keys")).unwrap();
        here.settle_with(&draft, "2026-11-03T00:00:00Z", &key(1)).unwrap();
        assert_eq!(here.hostname(), "hostname = \"b.example.test\"");
    }

    #[test]
    fn a_bad_configuration_leaves_the_one_in_place() {
        let here = Box::new();
        here.settle("a.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        fs::remove_file(here.etc().join("dkim/s1.pem")).unwrap();
        let said = here.settle("not a host name", "2026-11-03T00:00:00Z", &key(1)).unwrap().join("\n");
        assert!(said.contains("is not taken") && said.contains("hostname"), "{said}");
        assert!(said.contains("publish s1._domainkey"), "the box goes on as it did: {said}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        let named = fs::read_to_string(here.etc().join("extra/roots.pem")).unwrap();
        assert_eq!(named, "of a.example.test", "files that the configuration names stay with it");
    }

    #[test]
    fn the_first_seed_with_a_bad_configuration_is_an_error() {
        let here = Box::new();
        let error = here.settle("not a host name", "2026-11-03T00:00:00Z", &key(1)).unwrap_err();
        assert!(error.contains("hostname"), "{error}");
        assert!(!here.etc().join("seed").exists());
    }

    #[test]
    fn a_certificate_that_a_power_cut_left_out_is_made_for_the_key_that_is_there() {
        let here = Box::new();
        here.settle("a.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        let (certificate, private) = (here.etc().join("tls/a.pem"), here.etc().join("tls/a.key"));
        let before = fs::read(&private).unwrap();
        fs::remove_file(&certificate).unwrap();
        here.settle("a.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        assert_eq!(fs::read(&private).unwrap(), before);
        // They fit: postkeepd's own check, with files.
        postkeep_configuration::load_with(
            here.etc().join("postkeep.toml"),
            &postkeep_configuration::Options::default(),
        )
        .unwrap();
    }

    fn clients(folder: &Path) -> Vec<(String, String)> {
        // As postkeepd would, with files: the key of the door has been made by then.
        let loaded = postkeep_configuration::load_with(
            folder.join("postkeep.toml"),
            &postkeep_configuration::Options::without_files(),
        );
        let listed = loaded.unwrap().configuration.api_client;
        listed.into_iter().map(|client| (client.name, client.fingerprint[..4].to_owned())).collect()
    }

    #[test]
    fn who_may_manage_the_box_is_what_the_last_seed_that_spoke_about_it_said() {
        let here = Box::new();
        let pair = |name: &str, sum: &str| (name.to_owned(), sum.repeat(2));
        let api = |field: &str, sum: &str| format!("[api]\n{field} = [\"{}\"]\n", sum.repeat(32));
        here.settle_with(&(here.mail("a.example.test") + &api("clients", "0a")), "2026-11-01T00:00:00Z", &key(1))
            .unwrap();
        assert_eq!(clients(&here.etc()), [pair("client-1", "0a")]);
        // A configuration alone, then clients alone: the other one stays.
        here.settle("b.example.test", "2026-11-02T00:00:00Z", &key(1)).unwrap();
        assert_eq!((here.hostname().contains("b.example"), clients(&here.etc())), (true, vec![pair("client-1", "0a")]));
        here.settle_with(&api("readers", "0b"), "2026-11-03T00:00:00Z", &key(1)).unwrap();
        assert_eq!((here.hostname().contains("b.example"), clients(&here.etc())), (true, vec![pair("reader-1", "0b")]));
        here.settle_with("[api]\nclients = []\n", "2026-11-04T00:00:00Z", &key(1)).unwrap();
        assert_eq!(clients(&here.etc()), []);
        let text = fs::read_to_string(here.etc().join("postkeep.toml")).unwrap();
        assert!(!text.contains("api"), "{text}");
    }

    #[test]
    fn a_seed_that_names_managers_in_two_places_is_not_taken() {
        let here = Box::new();
        here.settle("a.example.test", "2026-11-01T00:00:00Z", &key(1)).unwrap();
        let own = "[api]\n[[api-client]]\nname = \"me\"\nrole = \"admin\"\nfingerprint = \"FF\"\n";
        let own = own.replace("FF", &"0c".repeat(32));
        let mail = here.mail("b.example.test").replacen("'''\n[[mail.file]]", &format!("{own}'''\n[[mail.file]]"), 1);
        let both = format!("{mail}[api]\nclients = [\"{}\"]\n", "0a".repeat(32));
        let said = here.settle_with(&both, "2026-11-02T00:00:00Z", &key(1)).unwrap().join("\n");
        assert!(said.contains("twice"), "{said}");
        assert_eq!(here.hostname(), "hostname = \"a.example.test\"");
        here.settle_with(&mail, "2026-11-02T00:00:00Z", &key(1)).unwrap();
        assert_eq!(clients(&here.etc()), [("me".to_owned(), "0c0c".to_owned())]);
    }

    #[test]
    fn the_key_of_the_door_for_management_is_born_on_the_box_and_its_fingerprint_is_said_at_each_start() {
        let here = Box::new();
        let etc = here.etc().display().to_string();
        let own = format!(
            "[api]\ncertificate = \"{etc}/api/box.pem\"\nkey = \"{etc}/api/box.key\"\n\
             [[api-client]]\nname = \"me\"\nrole = \"admin\"\nfingerprint = \"{}\"\n",
            "0c".repeat(32)
        );
        let mail = here.mail("a.example.test").replacen("'''\n[[mail.file]]", &format!("{own}'''\n[[mail.file]]"), 1);
        let said = here.settle_with(&mail, "2026-11-01T00:00:00Z", &key(1)).unwrap();
        let sum = said.iter().find_map(|line| line.strip_prefix("publish box-fingerprint ")).unwrap().to_owned();
        let again = here.settle_with(&mail, "2026-11-01T00:00:00Z", &key(1)).unwrap();
        let told = format!("the box answers to its managers at [::]:8443 with the fingerprint {sum}");
        assert!(said.contains(&told));
        assert_eq!(again, [told]);
        assert_eq!(fs::read_to_string(here.folder.path().join("box-fingerprint")).unwrap().trim(), sum);
        // By another program than ours.
        let openssl = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(here.etc().join("api/box.pem"))
            .output()
            .unwrap();
        let openssl = String::from_utf8(openssl.stdout).unwrap().replace(':', "").to_lowercase();
        assert!(openssl.trim().ends_with(&sum), "{openssl}");
    }
}
