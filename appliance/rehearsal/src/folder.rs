//! The folder between the two steps of rehearsing a box elsewhere. What the
//! box gets is in `box`; what decides, and so must be the same when the
//! simulated internet starts, is in `prepared.json`. Later come `records`, which
//! the box sends, and `arrivals.jsonl`, a line for each arrival.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use postkeep_configuration::Configuration;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::block::{Block, is_private};
use crate::certificates::Authority;
use crate::derive::{self, BOX_FOLDER, Elsewhere, Ready, Secrets, Setting, Surroundings};
use crate::internet::{Fixed, Owner};
use crate::list::ListAt;
use crate::names::ZoneKey;
use crate::rulebook::RuleBook;
use crate::scratch::Scratch;

/// Version of `prepared.json`.
const VERSION: u32 = 1;
const FACTS: &str = "prepared.json";
const BOX: &str = "box";

/// The ports at which the simulated internet waits for a box elsewhere.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ports {
    /// MX hosts.
    pub mail: u16,
    /// The name server.
    pub names: u16,
    /// The host of policies.
    pub policies: u16,
    /// The receiver of events.
    pub events: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { mail: 25, names: 53, policies: 443, events: 8443 }
    }
}

/// What decides.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Facts {
    version: u32,
    block: Block,
    r#box: Ipv4Addr,
    /// Addresses that the box must have: it sends from them.
    box_addresses: Vec<Ipv4Addr>,
    ports: Ports,
    seed: u64,
    hurry: f64,
    deadline_seconds: u64,
    host: String,
    user: String,
    password: String,
    token: String,
    events_secret: String,
    authority_key: String,
    /// Key of all MX hosts.
    hosts_key: String,
    names_key: String,
    /// TXT records of the signing keys.
    keys: Vec<(String, String)>,
    /// A box that has made keys of its own has a certificate of its own: whoever carries it over writes it here, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    box_certificate: Option<String>,
    /// The rule book, unless it is the shipped one.
    rules: Option<String>,
    notes: Vec<String>,
}

/// A folder that was prepared.
pub(crate) struct Folder {
    path: PathBuf,
    facts: Facts,
    pub(crate) configuration: Configuration,
    pub(crate) book: RuleBook,
}

/// What is to be prepared.
pub(crate) struct Wish<'a> {
    pub folder: &'a Path,
    pub at: Ipv4Addr,
    pub block: Block,
    pub ports: Ports,
    pub seed: u64,
    pub hurry: f64,
    pub deadline: Duration,
    /// Text of another rule book than the shipped one.
    pub rules: Option<String>,
}

impl Folder {
    /// Derives a configuration for a box elsewhere and fixes everything that decides.
    pub(crate) fn prepare(configuration: Configuration, wish: Wish<'_>) -> Result<Self, Error> {
        check(&wish)?;
        let book = book(wish.rules.as_deref())?;
        let scratch = Scratch::new(Some(wish.folder))?;
        let files = scratch.path.join(BOX);
        std::fs::create_dir(&files).map_err(|error| Error::Io(format!("cannot make {}: {error}", files.display())))?;
        let (authority_key, names_key) = (Authority::secret()?, ZoneKey::secret()?);
        let (authority, zone_key) = (Authority::of(&authority_key)?, ZoneKey::of(&names_key)?);
        let mut secret = [0u8; 32];
        aws_lc_rs::rand::fill(&mut secret)
            .map_err(|error| Error::Io(format!("the system gives no random numbers: {error}")))?;
        let encode = |octets: &[u8]| base64::engine::general_purpose::STANDARD.encode(octets);
        let events_secret = format!("whsec_{}", encode(&secret));
        let own = wish.block.own();
        let events = SocketAddr::from((own, wish.ports.events));
        let setting = Setting {
            folder: files,
            block: wish.block,
            hurry: wish.hurry,
            longest: wish.deadline.mul_f64(0.5),
            elsewhere: Some(Elsewhere { events, events_secret: events_secret.clone() }),
        };
        let mut prepared = derive::prepare(configuration, setting)?;
        book.is_free_of(&prepared.owner.return_domains)?;
        prepared.connect(&Surroundings {
            authority: &authority,
            port: wish.ports.mail,
            names: SocketAddr::from((own, wish.ports.names)),
            trust_anchor: zone_key.anchor(),
            policy_port: wish.ports.policies,
            back: wish.at.into(),
        })?;
        let (user, password) = prepared.credential;
        let facts = Facts {
            version: VERSION,
            block: wish.block,
            r#box: wish.at,
            box_addresses: prepared.configuration.source.values().filter_map(|source| source.ipv4).collect(),
            ports: wish.ports,
            seed: wish.seed,
            hurry: wish.hurry,
            deadline_seconds: wish.deadline.as_secs(),
            host: prepared.configuration.hostname.clone(),
            user,
            password,
            token: prepared.token,
            events_secret,
            authority_key,
            hosts_key: Authority::secret()?,
            names_key: encode(&names_key),
            keys: prepared.owner.keys,
            box_certificate: None,
            rules: wish.rules,
            notes: prepared.notes,
        };
        let text = serde_json::to_string_pretty(&facts)
            .map_err(|error| Error::Io(format!("cannot write down what was prepared: {error}")))?;
        derive::write(&scratch.path.join(FACTS), &text)?;
        // Read back as the next step will read it: what cannot be used is told now.
        Self::open(&scratch.path)
    }

    /// Reads a folder that was prepared.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let path =
            std::path::absolute(path).map_err(|error| Error::Io(format!("cannot use {}: {error}", path.display())))?;
        let file = path.join(FACTS);
        let wrong = |why: String| {
            Error::Configuration(format!("{}: {why}; prepare the folder anew with --prepare", file.display()))
        };
        let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
        let facts: Facts = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if facts.version != VERSION {
            return Err(wrong(format!("it has version {}, this program knows {VERSION}", facts.version)));
        }
        let options = postkeep_configuration::Options::without_files();
        let loaded = postkeep_configuration::load_with(path.join(BOX).join("postkeep.toml"), &options)
            .map_err(|errors| Error::Configuration(errors.to_string()))?;
        let book = book(facts.rules.as_deref())?;
        Ok(Self { path, facts, configuration: loaded.configuration, book })
    }

    /// The file that the box reads.
    pub(crate) fn file(&self) -> PathBuf {
        self.path.join(BOX).join("postkeep.toml")
    }

    /// Where the box's records go.
    pub(crate) fn records(&self) -> PathBuf {
        self.path.join("records")
    }

    /// The certificate of the authority.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.path.join(BOX).join("authority.pem")
    }

    pub(crate) fn block(&self) -> Block {
        self.facts.block
    }

    pub(crate) fn ports(&self) -> Ports {
        self.facts.ports
    }

    pub(crate) fn notes(&self) -> &[String] {
        &self.facts.notes
    }

    /// Seed, hurry and deadline.
    pub(crate) fn pace(&self) -> (u64, f64, Duration) {
        (self.facts.seed, self.facts.hurry, Duration::from_secs(self.facts.deadline_seconds))
    }

    /// What the box signs its events with.
    pub(crate) fn events_secret(&self) -> &str {
        &self.facts.events_secret
    }

    /// What the simulated internet must know of the owner.
    pub(crate) fn owner(&self) -> Result<Owner, Error> {
        derive::owner(&self.configuration, self.facts.keys.clone())
    }

    /// Domains the campaign sends from.
    pub(crate) fn domains(&self) -> Vec<String> {
        derive::sender_domains(&self.configuration)
    }

    /// What the simulated internet has from before.
    pub(crate) fn fixed(&self) -> Result<Fixed, Error> {
        let names_key = base64::engine::general_purpose::STANDARD.decode(&self.facts.names_key).map_err(|error| {
            Error::Configuration(format!("{}: names-key is no base64: {error}", self.path.join(FACTS).display()))
        })?;
        Ok(Fixed {
            authority: self.facts.authority_key.clone(),
            hosts: self.facts.hosts_key.clone(),
            names_key,
            policy_port: self.facts.ports.policies,
            back: self.facts.r#box.into(),
            arrivals: self.path.join("arrivals.jsonl"),
        })
    }

    /// The doors of the box, which are held against the authority, or against the certificate that the box has made.
    pub(crate) fn ready(&self, authority: &Authority) -> Result<Ready, Error> {
        let credential = (self.facts.user.clone(), self.facts.password.clone());
        let own = self.facts.box_certificate.as_ref().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
        let own = own.transpose().map_err(|error| {
            Error::Configuration(format!("{}: box-certificate is no PEM: {error}", self.path.join(FACTS).display()))
        })?;
        let authority = own.as_ref().unwrap_or(authority.certificate());
        let secrets = Secrets { credential: &credential, token: &self.facts.token, authority };
        let (submission, comebacks, http) = derive::doors(&self.configuration, &secrets, Some(self.facts.r#box))?;
        let list = ListAt::Door(http.clone());
        Ok(Ready { file: self.file(), submission, comebacks, http, records: self.records(), list })
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Facts { block, ports, notes, box_addresses, r#box, .. } = &self.facts;
        for note in notes {
            writeln!(out, "note: {note}")?;
        }
        let addresses: Vec<String> = box_addresses.iter().map(Ipv4Addr::to_string).collect();
        let own = block.own();
        writeln!(out, "box         {box}; it sends from {}", addresses.join(" "))?;
        writeln!(out, "config      {}", self.file().display())?;
        writeln!(out, "files       {} -> {BOX_FOLDER} on the box", self.path.join(BOX).display())?;
        writeln!(out, "here        {own} and {} must be addresses of this machine", block.hosts())?;
        writeln!(out, "route       to the box from {own}, such as: ip route add {box}/32 dev tap0 src {own}")?;
        writeln!(
            out,
            "ports       {own}: DNS {}, policies {}, events {}; MX hosts: {}",
            ports.names, ports.policies, ports.events, ports.mail
        )?;
        writeln!(out, "then        postkeep rehearse --prepared {}", self.path.display())
    }
}

fn check(wish: &Wish<'_>) -> Result<(), Error> {
    let wrong = |text: String| Err(Error::Configuration(text));
    if wish.block.is_loopback() {
        return wrong(format!(
            "a box elsewhere cannot reach {}; give --block one that is routed to it, such as 10.0.0.0/8",
            wish.block
        ));
    }
    if wish.at.is_loopback() || !is_private(wish.at) {
        return wrong(format!(
            "--box {} is loopback or public; a box that is rehearsed has a private address, such as {}",
            wish.at,
            wish.block.source(0).unwrap_or(Ipv4Addr::new(10, 1, 0, 1))
        ));
    }
    if wish.block.is_taken(wish.at) {
        return wrong(format!("--box {} is an address of the simulated internet; choose another", wish.at));
    }
    let Ports { mail, names, policies, events } = wish.ports;
    if [mail, names, policies, events].contains(&0) {
        return wrong("the box must know every port beforehand; 0 is none".to_owned());
    }
    if names == policies || names == events || policies == events {
        return wrong(format!(
            "DNS, policies and events are at one address and need ports of their own, not {names}, {policies}, {events}"
        ));
    }
    Ok(())
}

fn book(text: Option<&str>) -> Result<RuleBook, Error> {
    text.map_or_else(RuleBook::shipped, RuleBook::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> Configuration {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/postkeep.toml");
        let options = postkeep_configuration::Options::without_files();
        postkeep_configuration::load_with(path, &options).unwrap().configuration
    }

    fn wish<'a>(folder: &'a Path, block: &str, at: [u8; 4]) -> Wish<'a> {
        Wish {
            folder,
            at: at.into(),
            block: block.parse().unwrap(),
            ports: Ports::default(),
            seed: 7,
            hurry: 60.0,
            deadline: Duration::from_secs(600),
            rules: None,
        }
    }

    #[test]
    fn nothing_that_a_box_elsewhere_gets_points_outside_the_block_and_every_file_is_there() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("folder");
        let folder = Folder::prepare(owners(), wish(&path, "10.0.0.0/8", [10, 1, 0, 1])).unwrap();
        let configuration = &folder.configuration;
        let sources: Vec<_> = configuration.source.values().map(|source| (source.ipv4, source.ipv6)).collect();
        assert_eq!(sources, [1, 2].map(|last| (Some(Ipv4Addr::new(10, 1, 0, last)), None)));
        assert_eq!(configuration.resolver.servers, [SocketAddr::from(([10, 0, 0, 1], 53))]);
        assert_eq!((configuration.delivery.port, configuration.mta_sts.port), (25, 443));
        let listeners: Vec<String> =
            configuration.listener.iter().map(|listener| listener.address.to_string()).collect();
        assert_eq!(listeners, ["0.0.0.0:587", "0.0.0.0:25"]);
        assert_eq!(configuration.http[0].address.to_string(), "0.0.0.0:443");
        assert_eq!(configuration.webhook[0].url, "https://10.0.0.1:8443/");
        // What is the box's own stays the box's own.
        let owners = owners();
        assert_eq!(configuration.spool.directory, owners.spool.directory);
        assert_eq!(configuration.records.directory, owners.records.directory);
        assert_eq!(configuration.control.socket, owners.control.socket);
        let text = std::fs::read_to_string(folder.file()).unwrap();
        let named = text.split('"').filter_map(|word| word.strip_prefix(BOX_FOLDER)?.strip_prefix('/'));
        let named: std::collections::BTreeSet<&str> = named.collect();
        assert!(named.len() >= 8, "{named:?}");
        for name in named {
            assert!(path.join(BOX).join(name).is_file(), "{name} is missing");
        }
        assert!(!text.contains("192.0.2") && !text.contains("2001:db8"), "{text}");
    }

    #[test]
    fn a_folder_that_is_read_again_has_the_same_keys_and_doors() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("folder");
        let first = Folder::prepare(owners(), wish(&path, "192.168.0.0/16", [192, 168, 1, 1])).unwrap();
        let again = Folder::open(&path).unwrap();
        assert_eq!(again.pace(), (7, 60.0, Duration::from_secs(600)));
        let fixed = again.fixed().unwrap();
        assert_eq!(fixed.names_key, first.fixed().unwrap().names_key);
        let anchors = std::fs::read_to_string(path.join(BOX).join("trust-anchors")).unwrap();
        assert_eq!(ZoneKey::of(&fixed.names_key).unwrap().anchor(), anchors);
        let ready = again.ready(&Authority::of(&fixed.authority).unwrap()).unwrap();
        let doors = [ready.submission.address, ready.comebacks.address, ready.http.address];
        assert_eq!(doors.map(|door| door.to_string()), ["192.168.1.1:587", "192.168.1.1:25", "192.168.1.1:443"]);
        assert_eq!(again.owner().unwrap().sources.len(), 2);
    }

    #[test]
    fn what_cannot_be_rehearsed_elsewhere_is_refused_before_anything_is_written() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("folder");
        let refused = |wish: Wish<'_>| Folder::prepare(owners(), wish).err().unwrap().to_string();
        assert!(refused(wish(&path, "127.0.0.0/8", [127, 1, 0, 1])).contains("--block"));
        assert!(refused(wish(&path, "10.0.0.0/8", [8, 8, 8, 8])).contains("public"));
        assert!(refused(wish(&path, "10.0.0.0/8", [10, 2, 0, 1])).contains("simulated internet"));
        let ports = Ports { events: 443, ..Ports::default() };
        assert!(refused(Wish { ports, ..wish(&path, "10.0.0.0/8", [10, 1, 0, 1]) }).contains("ports of their own"));
        assert!(!path.exists());
        assert!(Folder::open(&path).err().unwrap().to_string().contains("--prepare"));
    }
}
