//! The seed itself: read strictly, believed only from its owner, written for the flasher.

use jiff::Timestamp;
use postkeep_keys::{KeySet, secret_line};
use postkeep_notes::{KeyError, Note, NoteError, SignerKey, VerifierKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::{is_fingerprint, is_host};
use crate::{Machine, MachineFacts, Network};

/// The only form of seeds there is so far.
pub const FORMAT: u32 = 1;
/// Room for a large configuration of mail, and far below what would fill the partition that it lies on.
pub const LARGEST_SEED: usize = 256 * 1024;

const MOST_CLIENTS: usize = 64;

/// What a box is told when it is flashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Always [`FORMAT`].
    pub format: u32,
    /// When it was written.
    pub issued: Timestamp,
    /// From when on nobody may use it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whose the box is: the key that has signed this seed, and signs the next ones.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub owner: VerifierKey,
    /// Who opens the box. Without it nobody holds a share: its TPM opens it, or a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeySet>,
    /// What the box is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The machine that it is for; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// How it reaches the network.
    #[serde(default)]
    pub network: Network,
    /// Who may speak to its interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// How it handles mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<Mail>,
}

/// Who may speak to the interface of the box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// The SHA-256 sums of the certificates of clients, in DER. These may do everything.
    #[serde(default)]
    pub clients: Vec<String>,
    /// The same of clients that may only look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
}

/// How the box handles mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The whole of `postkeep.toml`.
    pub configuration: String,
    /// Further files that it names, such as roots to trust.
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<MailFile>,
}

/// A file that the configuration of mail names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailFile {
    /// Its name below `/var/lib/postkeep/etc`, without `..`; folders are made.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// Why a seed is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The note around it.
    #[error("cannot use the seed: {0}")]
    Note(#[from] NoteError),
    /// It is no seed.
    #[error("the seed cannot be read: {0}")]
    Syntax(String),
    /// A field says what it may not say.
    #[error("the seed cannot be used: {0}; mend it and sign it again")]
    Content(String),
    /// The box belongs to somebody else.
    #[error("the box belongs to {current}, who has not signed this seed; only its owner can give it a new one")]
    NotTheOwner {
        /// The owner's key.
        current: String,
    },
    /// It was for a time that is over.
    #[error("the seed expired at {expires}, and it is {now}; have the owner sign a new one, or set the clock")]
    Expired {
        /// When.
        expires: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// It is for a machine that this is not.
    #[error("the seed is for another machine: it is for {0}; take the seed that was made for this one")]
    OtherMachine(String),
    /// Somebody else would sign it.
    #[error("the seed names {named} as its owner and would be signed by {signer}; sign it with the owner's key")]
    OtherSigner {
        /// The owner that stands in it.
        named: String,
        /// The key that was given.
        signer: String,
    },
}

impl Seed {
    /// The seed in `octets`, signed by the owner that it names and, where the box has an owner already, by `current`.
    ///
    /// # Errors
    /// Its owner has not signed it, it has expired, or it is no seed.
    pub fn open(octets: &[u8], current: Option<&VerifierKey>, now: Timestamp) -> Result<Self, SeedError> {
        if octets.len() > LARGEST_SEED {
            return Err(NoteError::TooLarge { octets: octets.len(), limit: LARGEST_SEED }.into());
        }
        let note = Note::parse(octets)?;
        // Whom to ask stands in the text itself: it is read, and believed only when that key has signed it. A box that
        // has an owner believes nobody else, so a new owner needs the signatures of both.
        let Claim { format, owner } =
            toml::from_str(note.unverified_text()).map_err(|error| syntax(note.unverified_text(), &error))?;
        if format != FORMAT {
            let why = format!("its format is {format}, and this version reads format {FORMAT}; update first");
            return Err(SeedError::Syntax(why));
        }
        note.verify(std::slice::from_ref(&owner))?;
        if let Some(current) = current {
            match note.verify(std::slice::from_ref(current)) {
                Err(NoteError::UnknownKeys { .. }) => {
                    return Err(SeedError::NotTheOwner { current: current.to_string() });
                }
                other => other?,
            };
        }
        let seed = Self::from_toml(note.unverified_text())?;
        match seed.expires {
            Some(expires) if now >= expires => Err(SeedError::Expired { expires, now }),
            _ => Ok(seed),
        }
    }

    /// A seed of `owner` that says nothing else yet.
    #[must_use]
    pub fn new(owner: VerifierKey, issued: Timestamp) -> Self {
        Self {
            format: FORMAT,
            issued,
            expires: None,
            owner,
            keys: None,
            hostname: None,
            machine: None,
            network: Network::default(),
            api: None,
            mail: None,
        }
    }

    /// What an operator wrote: a seed without the fields that can be told from elsewhere (`format`, `issued`, `owner`).
    ///
    /// # Errors
    /// It is no seed.
    pub fn draft(text: &str, owner: &VerifierKey, issued: Timestamp) -> Result<Self, SeedError> {
        Self::draft_with(text, None, owner, issued)
    }

    /// The same, with `configuration` as its configuration of mail.
    ///
    /// # Errors
    /// It is no seed, or has a configuration of its own.
    pub fn draft_with(
        text: &str,
        configuration: Option<String>,
        owner: &VerifierKey,
        issued: Timestamp,
    ) -> Result<Self, SeedError> {
        let mut fields: toml::Table = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        if let Some(configuration) = configuration {
            let mail = fields.entry("mail").or_insert_with(|| toml::Table::new().into());
            let before =
                mail.as_table_mut().and_then(|mail| mail.insert("configuration".to_owned(), configuration.into()));
            if before.is_some() {
                return Err(SeedError::Content(
                    "it has a configuration of mail in it and another one beside it".to_owned(),
                ));
            }
        }
        let mut absent = |name: &str, value: toml::Value| {
            fields.entry(name.to_owned()).or_insert(value);
        };
        absent("format", toml::Value::Integer(FORMAT.into()));
        absent("issued", toml::Value::String(issued.to_string()));
        absent("owner", toml::Value::String(owner.to_string()));
        let seed: Self = fields.try_into().map_err(|error| syntax(text, &error))?;
        seed.check()?;
        Ok(seed)
    }

    /// Reads the text of a seed. Says nothing about who wrote it.
    ///
    /// # Errors
    /// It is no seed.
    pub fn from_toml(text: &str) -> Result<Self, SeedError> {
        let seed: Self = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        seed.check()?;
        Ok(seed)
    }

    /// The text of the seed, ready to be signed.
    ///
    /// # Errors
    /// It says what a seed may not say.
    pub fn to_toml(&self) -> Result<String, SeedError> {
        self.check()?;
        toml::to_string(self).map_err(|error| SeedError::Syntax(error.to_string()))
    }

    /// The seed as the note that a box takes.
    ///
    /// # Errors
    /// It says what a seed may not say, is too large, or `owner` is not the owner that it names.
    pub fn sign(&self, owner: &SignerKey) -> Result<String, SeedError> {
        if *owner.verifier() != self.owner {
            let (named, signer) = (self.owner.to_string(), owner.verifier().to_string());
            return Err(SeedError::OtherSigner { named, signer });
        }
        not_too_large(postkeep_notes::sign(&self.to_toml()?, &[owner])?)
    }

    /// The seed in `octets` with the signature of `signer` too: a box changes hands with those of both owners.
    ///
    /// # Errors
    /// It is no seed that a box without an owner would take, or is too large.
    pub fn countersign(octets: &[u8], signer: &SignerKey, now: Timestamp) -> Result<String, SeedError> {
        Self::open(octets, None, now)?;
        not_too_large(postkeep_notes::countersign(octets, signer)?)
    }

    /// Whether the seed is for the machine `found`.
    ///
    /// # Errors
    /// It is for another one.
    pub fn check_machine(&self, found: &MachineFacts) -> Result<(), SeedError> {
        match self.machine.as_ref().and_then(|meant| meant.difference(found)) {
            Some(difference) => Err(SeedError::OtherMachine(difference)),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), SeedError> {
        self.fault().map_or(Ok(()), |why| Err(SeedError::Content(why)))
    }

    fn fault(&self) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("its format is {}, not {FORMAT}", self.format));
        }
        if self.expires.is_some_and(|expires| expires <= self.issued) {
            return Some("it expires before it is issued".to_owned());
        }
        if let Some(error) = self.keys.as_ref().and_then(|keys| keys.check().err()) {
            return Some(format!("keys: {error}"));
        }
        if let Some(name) = self.hostname.as_ref().filter(|name| !is_host(name, false)) {
            return Some(format!("hostname: {name:?} is not the name of a host"));
        }
        if let Err(why) = self.network.check() {
            return Some(why);
        }
        if let Some(api) = &self.api {
            for (name, listed) in [("clients", &api.clients), ("readers", &api.readers)] {
                if listed.len() > MOST_CLIENTS {
                    return Some(format!("api.{name}: there are more than {MOST_CLIENTS}"));
                }
                if let Some(at) = listed.iter().position(|client| !is_fingerprint(client)) {
                    let rule = "is not the SHA-256 sum of a certificate in 64 small hexadecimal digits";
                    return Some(format!("api.{name}: number {} {rule}", at + 1));
                }
            }
            // Which of the two would hold?
            if let Some(at) = api.readers.iter().position(|reader| api.clients.contains(reader)) {
                return Some(format!("api.readers: number {} is among api.clients too", at + 1));
            }
        }
        self.mail.as_ref().and_then(mail_fault)
    }
}

fn mail_fault(mail: &Mail) -> Option<String> {
    let secret = "holds a private key, and seeds can be read by anybody";
    if mail.configuration.contains("PRIVATE KEY") {
        return Some(format!("mail.configuration: it {secret}"));
    }
    for (at, file) in mail.files.iter().enumerate() {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|character| character.is_ascii_alphanumeric() || "._-".contains(character))
        };
        // What the box itself writes there is not the seed's, also not as a folder.
        let first = file.name.split('/').next().unwrap_or_default();
        let taken = ["seed", "postkeep.toml", "postkeep.toml.before", "publish.txt"].contains(&first);
        if taken || file.name.len() > 200 || !file.name.split('/').all(plain) {
            return Some(format!("mail.file: {:?} is no name of a file below the box's configuration", file.name));
        }
        if file.content.contains("PRIVATE KEY") {
            return Some(format!("mail.file: {} {secret}", file.name));
        }
        let is_within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        let clashes = |other: &&MailFile| {
            other.name == file.name || is_within(&file.name, &other.name) || is_within(&other.name, &file.name)
        };
        if let Some(other) = mail.files[..at].iter().find(clashes) {
            return Some(format!("mail.file: {} and {} cannot both be there", other.name, file.name));
        }
    }
    None
}

/// What has to be known before it can be asked who signed.
#[derive(Deserialize)]
struct Claim {
    format: u32,
    #[serde(deserialize_with = "read_key")]
    owner: VerifierKey,
}

fn not_too_large(note: String) -> Result<String, SeedError> {
    match note.len() {
        octets if octets > LARGEST_SEED => Err(NoteError::TooLarge { octets, limit: LARGEST_SEED }.into()),
        _ => Ok(note),
    }
}

/// Why `text` cannot be read. What TOML says repeats a line of it or a value: not where a secret key may be among them.
fn syntax(text: &str, error: &toml::de::Error) -> SeedError {
    match secret_line(text) {
        Some(line) => SeedError::Syntax(format!(
            "line {line} holds a secret key, and a seed lies where anybody can read it; give the public half, and make a new key \
             if this file was anywhere else"
        )),
        None => SeedError::Syntax(error.to_string().trim_end().to_owned()),
    }
}

fn write_key<S: Serializer>(key: &VerifierKey, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(key)
}

fn read_key<'de, D: Deserializer<'de>>(from: D) -> Result<VerifierKey, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|error: KeyError| serde::de::Error::custom(error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRAFT: &str = r#"
        hostname = "mail-1.example.com"
        expires = "2027-01-01T00:00:00Z"
        [keys]
        threshold = 1
        [[keys.custodian]]
        name = "anna"
        recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
        [machine]
        serial = "B5QM12"
        mac = ["52:54:00:12:34:56"]
        [network]
        dns = ["192.0.2.53"]
        time-servers = ["nts.example.net"]
        [[network.interface]]
        mac = "52:54:00:12:34:56"
        addresses = ["203.0.113.5/32"]
        gateways = ["203.0.113.1"]
        [api]
        clients = ["0000000000000000000000000000000000000000000000000000000000000000"]
        [mail]
        configuration = "[a]\n\tb = \"\"\"x\"\"\"\r\n# it's '''\n"
    "#;

    fn now() -> Timestamp {
        "2026-11-27T05:00:00Z".parse().unwrap()
    }

    fn owner() -> SignerKey {
        SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap()
    }

    fn seed() -> Seed {
        Seed::draft(DRAFT, owner().verifier(), now()).unwrap()
    }

    #[test]
    fn what_the_owner_signs_is_what_the_box_reads() {
        let note = seed().sign(&owner()).unwrap();
        assert_eq!(Seed::open(note.as_bytes(), None, now()).unwrap(), seed());
        assert_eq!(Seed::open(note.as_bytes(), Some(owner().verifier()), now()).unwrap(), seed());
        let bare = Seed::new(owner().verifier().clone(), now());
        assert_eq!(Seed::open(bare.sign(&owner()).unwrap().as_bytes(), None, now()).unwrap(), bare);
    }

    #[test]
    fn a_box_with_an_owner_takes_no_seed_of_another_and_changes_hands_only_with_both_signatures() {
        let thief = SignerKey::generate("thief").unwrap();
        let theirs = Seed::draft(DRAFT, thief.verifier(), now()).unwrap();
        let note = theirs.sign(&thief).unwrap();
        assert!(matches!(
            Seed::open(note.as_bytes(), Some(owner().verifier()), now()),
            Err(SeedError::NotTheOwner { .. })
        ));
        assert!(matches!(theirs.sign(&owner()), Err(SeedError::OtherSigner { .. })));
        let text = theirs.to_toml().unwrap();
        // Named as the owner, and has not signed: nobody can give a box to a key that nobody has.
        let given = postkeep_notes::sign(&text, &[&owner()]).unwrap();
        assert!(matches!(Seed::open(given.as_bytes(), Some(owner().verifier()), now()), Err(SeedError::Note(_))));
        let handed = Seed::countersign(note.as_bytes(), &owner(), now()).unwrap();
        assert_eq!(Seed::open(handed.as_bytes(), Some(owner().verifier()), now()).unwrap(), theirs);
    }

    #[test]
    fn a_seed_that_was_changed_cut_or_not_signed_is_refused() {
        let note = seed().sign(&owner()).unwrap();
        let opened = |text: &str| Seed::open(text.as_bytes(), None, now()).unwrap_err();
        let changed = opened(&note.replace("203.0.113.1\"", "203.0.113.9\""));
        assert!(matches!(changed, SeedError::Note(NoteError::WrongSignature { .. })), "{changed}");
        assert!(matches!(opened(&note[..note.len() - 2]), SeedError::Note(NoteError::Damaged { .. })));
        assert!(matches!(opened(&seed().to_toml().unwrap()), SeedError::Note(_)));
        assert!(matches!(opened(&"x".repeat(LARGEST_SEED + 1)), SeedError::Note(NoteError::TooLarge { .. })));
    }

    #[test]
    fn files_of_mail_do_not_lie_where_the_box_writes_or_in_each_others_way() {
        let named = |names: &[&str]| {
            let file = |name: &&str| MailFile { name: (*name).to_owned(), content: String::new() };
            mail_fault(&Mail { configuration: String::new(), files: names.iter().map(file).collect() })
        };
        assert_eq!(named(&["roots.pem", "keys/a.pem", "keys/b.pem", "roots.pem.old"]), None);
        for names in [&["seed"][..], &["seed/x"], &["postkeep.toml/x"], &["a", "a"], &["a/b", "a"], &["a", "a/b/c"]] {
            assert!(named(names).is_some(), "{names:?}");
        }
    }

    #[test]
    fn a_seed_ends_with_its_time_and_is_for_one_machine() {
        let note = seed().sign(&owner()).unwrap();
        let late = "2027-01-01T00:00:00Z".parse().unwrap();
        assert!(matches!(Seed::open(note.as_bytes(), None, late), Err(SeedError::Expired { .. })));
        let serial = Some("B5QM12".to_owned());
        let here = MachineFacts { serial, uuid: None, macs: vec!["52:54:00:12:34:56".parse().unwrap()] };
        seed().check_machine(&here).unwrap();
        let error = seed().check_machine(&MachineFacts::default()).unwrap_err().to_string();
        assert!(error.contains("for another machine") && error.contains("B5QM12"), "{error}");
    }

    #[test]
    fn each_field_is_held_to_its_rules_and_the_error_names_it() {
        for (old, new, named) in [
            ("hostname = \"mail-1", "hostname = \"mail_1", "hostname"),
            ("hostname", "host-name", "host-name"),
            ("age1ql3z", "age1ql3y", "is damaged"),
            ("age1ql3z7", "AGE-SECRET-KEY-1", "holds a secret key"),
            ("threshold = 1", "threshold = 2", "2 of 1 custodians cannot open"),
            ("name = \"anna\"", "name = \"Anna\"", "small letters"),
            ("2027-01-01", "2026-01-01", "expires before"),
            ("52:54:00:12:34:56", "52:54", "network card"),
            ("203.0.113.5/32", "203.0.113.5/33", "network.interface.addresses"),
            ("\"192.0.2.53\"", "\"dns.example\"", "dns"),
            ("\"0000", "\"sha256:0000", "api.clients: number 1"),
            ("[a]", "-----BEGIN PRIVATE KEY-----", "mail.configuration"),
        ] {
            assert!(DRAFT.contains(old), "{old}");
            let error = Seed::draft(&DRAFT.replacen(old, new, 1), owner().verifier(), now()).unwrap_err().to_string();
            assert!(error.contains(named), "{old} -> {new}: {error}");
        }
        for text in [
            "custodians = \"AGE-SECRET-KEY-1GFPYY\"",
            "AGE-SECRET-KEY-1GFPYY",
            "[network]\nage-secret-key-1gfpyy = 1",
            "-----BEGIN PRIVATE KEY-----\nGFPYY",
        ] {
            let error = Seed::draft(text, owner().verifier(), now()).unwrap_err().to_string();
            assert!(
                error.contains("holds a secret key") && !error.to_ascii_uppercase().contains("GFPYY"),
                "{text}: {error}"
            );
        }
        let later = Seed::draft("format = 2", owner().verifier(), now()).unwrap_err().to_string();
        assert!(later.contains("format"), "{later}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", at in 0..DRAFT.len(), put in "[\\PC\n]{0,3}") {
            let _ = Seed::from_toml(&text);
            let _ = Seed::draft(&format!("{}{put}{}", &DRAFT[..at], &DRAFT[at..]), owner().verifier(), now());
        }

        #[test]
        fn every_configuration_of_mail_comes_back(configuration in "([\\PC\t\r\n'\"\\\\]|\u{7f}){0,200}") {
            let mut seed = seed();
            seed.mail = Some(Mail { configuration, files: Vec::new() });
            let note = seed.sign(&owner()).unwrap();
            prop_assert_eq!(Seed::open(note.as_bytes(), None, now()).unwrap(), seed);
        }
    }
}
