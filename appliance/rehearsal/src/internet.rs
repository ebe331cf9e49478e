//! The simulated internet, started and held together: names, hosts, their
//! providers, the ledger, the judge and the verifier. Everything lives in one
//! [`Block`] of addresses, on loopback unless said otherwise.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::AbortHandle;

use crate::Error;
use crate::arrivals::Arrivals;
use crate::block::Block;
use crate::certificates::Authority;
use crate::chance::Chance;
use crate::client::Submission;
use crate::comeback::{Astray, Comebacks, Returned};
use crate::judge::{Judge, Promise};
use crate::keys::Keyring;
use crate::ledger::Ledger;
use crate::mailbox::Mailboxes;
use crate::names::{Names, Zone, ZoneKey};
use crate::policy_host::PolicyHost;
use crate::receiver::{Door, TlsTally, serve};
use crate::rulebook::{Host, Limits, Mood, NamesMood, Provider, Replies, RuleBook, Site, Tlsa};
use crate::signature::{self, Verifier};

mod layout;
mod shared;

pub(crate) use shared::Shared;
use shared::{Floor, lock};

/// Name of the provider where the owner's reports come home.
pub(crate) const HOME: &str = "home";
/// Host of that provider.
const HOME_HOST: &str = "return.rehearsal.test";
/// Host that takes what comes back to the owner's `[feedback] domain`.
const FEEDBACK_HOST: &str = "mail-in.rehearsal.test";

/// What the simulated internet must know about the owner.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    /// Domains that reports go to.
    pub return_domains: Vec<String>,
    /// Keys that must sign.
    pub keyring: Keyring,
    /// What its streams promise, by name.
    pub streams: HashMap<String, StreamPromise>,
    /// TXT records: name and text.
    pub keys: Vec<(String, String)>,
    /// Sending addresses, each with the source's name and its EHLO name.
    pub sources: Vec<(IpAddr, String, String)>,
    /// Domain of the return paths that the product takes back itself.
    pub feedback_domain: Option<String>,
    /// What is promised, by the product's provider name; `""` is every other lane.
    pub promises: HashMap<String, Promise>,
}

/// What a receiver can see of a stream's promises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamPromise {
    /// Its mail has return paths of the product's own.
    pub verp: bool,
    /// The addresses that it leaves from.
    pub sources: HashSet<IpAddr>,
}

/// What a simulated internet has from before, because a box elsewhere knows it already.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// Key of the authority, PEM.
    pub authority: String,
    /// Key of the hosts, PEM.
    pub hosts: String,
    /// Key of the simulated DNS, PKCS#8 DER.
    pub names_key: Vec<u8>,
    /// Port of the host of policies.
    pub policy_port: u16,
    /// Where the box takes what comes back, at the port of all MX hosts.
    pub back: IpAddr,
    /// File for what arrives.
    pub arrivals: PathBuf,
}

/// How to start a simulated internet.
#[derive(Debug, Clone)]
pub struct InternetOptions {
    /// Decides every chance.
    pub seed: u64,
    /// The providers.
    pub book: RuleBook,
    /// Divides waits, 1 or more.
    pub hurry: f64,
    /// Where it lives.
    pub block: Block,
    /// Port of every MX host; 0 takes any that is free.
    pub port: u16,
    /// Port of the name server; 0 takes any that is free.
    pub names_port: u16,
    /// What is not to be made anew.
    pub fixed: Option<Fixed>,
    /// The owner.
    pub owner: Owner,
    /// Verify every so many-th message; 1: all.
    pub verify_every: u64,
}

impl InternetOptions {
    /// The shipped book, no hurry, free ports.
    pub fn new(seed: u64, owner: Owner) -> Result<Self, Error> {
        Ok(Self {
            seed,
            book: RuleBook::shipped()?,
            hurry: 1.0,
            block: Block::default(),
            port: 0,
            names_port: 0,
            fixed: None,
            owner,
            verify_every: 1,
        })
    }
}

/// A running simulated internet. It ends when it is dropped.
pub struct Internet {
    shared: Arc<Shared>,
    names: Names,
    authority: Authority,
    policy_host: PolicyHost,
    port: u16,
    tasks: Vec<AbortHandle>,
}

impl Internet {
    /// Starts names and hosts; returns when all of them answer.
    pub async fn start(options: InternetOptions) -> Result<Self, Error> {
        let mut book = options.book;
        let home = book.provider.len();
        book.provider.push(home_of(&options.owner));
        let fixed = options.fixed.as_ref();
        let authority = fixed.map_or_else(Authority::new, |fixed| {
            Ok(Authority::of(&fixed.authority)?.with_key_of_hosts(&fixed.hosts))
        })?;
        let names_key = fixed.map_or_else(ZoneKey::new, |fixed| ZoneKey::of(&fixed.names_key))?;
        let own = IpAddr::V4(options.block.own());
        let mut zone = Zone::default();
        for (name, text) in &options.owner.keys {
            zone.txt(name, text);
        }
        for (address, _, ehlo) in &options.owner.sources {
            zone.address(ehlo, *address);
            zone.reverse(*address, ehlo)?;
        }
        if let Some(domain) = options.owner.feedback_domain.as_ref().filter(|domain| {
            // Reports to the owner's own senders go home, whatever else comes to that domain.
            !options.owner.return_domains.iter().any(|home| home.eq_ignore_ascii_case(domain))
        }) {
            zone.mx(domain, 10, FEEDBACK_HOST)?;
            zone.address(FEEDBACK_HOST, fixed.map_or(IpAddr::V4(options.block.back()), |fixed| fixed.back));
        }
        let hosts = layout::lay_out(&book, options.block, &mut zone)?;
        let policies = layout::policies(&book, own, &mut zone);
        let policy_port = fixed.map_or(0, |fixed| fixed.policy_port);
        let policy_host = PolicyHost::start(policies, SocketAddr::new(own, policy_port), &authority).await?;
        let (port, listeners) = layout::listen(&hosts, options.port).await?;
        let mut identities = Vec::with_capacity(hosts.len());
        for spot in &hosts {
            identities.push(layout::identify(spot, port, &authority, &mut zone)?);
        }
        let names = Names::start(zone, SocketAddr::new(own, options.names_port), names_key).await?;
        let arrivals = fixed.map(|fixed| Arrivals::open(&fixed.arrivals)).transpose()?;
        let keyring = options.owner.keyring.clone();
        let verifier = Verifier::start(names.address(), keyring, options.verify_every, arrivals)?;
        let promises = book
            .provider
            .iter()
            .enumerate()
            .filter_map(|(place, provider)| {
                let promises = &options.owner.promises;
                let promise =
                    promises.get(provider.rules.as_deref().unwrap_or_default()).or_else(|| promises.get(""))?;
                Some((place, promise.clone()))
            })
            .collect();
        let providers: Vec<Arc<Provider>> = book.provider.into_iter().map(Arc::new).collect();
        let shared = Arc::new(Shared {
            start: Instant::now(),
            mailboxes: providers
                .iter()
                .map(|rules| Mutex::new(Mailboxes::new(Arc::clone(rules), options.seed, options.hurry)))
                .collect(),
            tls: providers.iter().map(|_| TlsTally::default()).collect(),
            providers,
            home,
            ledger: Mutex::default(),
            floor: Mutex::new(Floor { judge: Judge::new(promises), live: HashMap::new() }),
            verifier,
            sources: options.owner.sources.iter().map(|(address, name, _)| (*address, name.clone())).collect(),
            next: AtomicU64::new(1),
            comebacks: Comebacks::new(options.owner.feedback_domain.clone(), Chance::new(options.seed)),
            streams: options.owner.streams,
            feedback_domain: options.owner.feedback_domain,
        });
        let mut tasks = Vec::new();
        for (place, listener) in listeners {
            let (Some(spot), Some(tls)) = (hosts.get(place), identities.get(place)) else { continue };
            let door = Arc::new(Door {
                shared: Arc::clone(&shared),
                provider: spot.provider,
                site: spot.site,
                host: spot.host.clone(),
                tls: tls.clone(),
            });
            tasks.push(tokio::spawn(serve(listener, door)).abort_handle());
        }
        Ok(Self { shared, names, authority, policy_host, port, tasks })
    }

    /// Where the simulated DNS answers.
    pub fn names(&self) -> SocketAddr {
        self.names.address()
    }

    /// Questions that the simulated DNS was asked.
    pub fn questions(&self) -> u64 {
        self.names.questions()
    }

    /// The key of the simulated DNS, as a file of trust anchors has it.
    pub fn trust_anchor(&self) -> &str {
        self.names.anchor()
    }

    /// Port of the host of MTA-STS policies.
    pub fn policy_port(&self) -> u16 {
        self.policy_host.port()
    }

    /// MTA-STS policies that were fetched.
    pub fn policies_fetched(&self) -> u64 {
        self.policy_host.fetched()
    }

    /// From now on mailboxes send back what they send back, to the owner's door for it.
    pub fn open_comebacks(&mut self, door: Submission) {
        if let Some(task) = self.shared.comebacks.open(door) {
            self.tasks.push(task);
        }
    }

    /// Waits until everything that was to come back was taken or refused, for `patience` at most.
    pub async fn comebacks_settled(&self, patience: std::time::Duration) {
        let until = Instant::now() + patience;
        while self.shared.comebacks.waiting() > 0 && Instant::now() < until {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// What came back so far.
    pub fn comebacks(&self) -> Vec<Returned> {
        self.shared.comebacks.done()
    }

    /// What is on its way back still.
    pub fn comebacks_waiting(&self) -> u64 {
        self.shared.comebacks.waiting()
    }

    /// What would have come back, had the return path been one that the product takes back.
    pub fn astray(&self) -> Astray {
        self.shared.comebacks.astray()
    }

    /// Port of every MX host.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that signed the good certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The providers in order; the last one is where reports come home.
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.shared.providers
    }

    /// Place of the provider where reports come home.
    pub fn home(&self) -> usize {
        self.shared.home
    }

    /// Reads the ledger.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.shared.ledger())
    }

    /// Reads the judge's counts.
    pub fn with_judge<T>(&self, look: impl FnOnce(&Judge) -> T) -> T {
        look(&lock(&self.shared.floor).judge)
    }

    /// Reads a provider's state.
    pub fn with_mailboxes<T>(&self, provider: usize, look: impl FnOnce(&Mailboxes) -> T) -> Option<T> {
        self.shared.mailboxes.get(provider).map(|mailboxes| look(&lock(mailboxes)))
    }

    /// TLS sessions and failed handshakes of a provider.
    pub fn tls(&self, provider: usize) -> (u64, u64) {
        self.shared
            .tls
            .get(provider)
            .map_or((0, 0), |tally| (tally.sessions.load(Ordering::Relaxed), tally.failures.load(Ordering::Relaxed)))
    }

    /// Signatures of a provider's messages.
    pub fn signatures(&self, provider: usize) -> signature::Tally {
        self.shared.verifier.tally(provider)
    }

    /// The verifier, for totals and samples; `settle` waits for it.
    pub fn verifier(&self) -> &Verifier {
        &self.shared.verifier
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The host where reports come home: it takes everything.
fn home_of(owner: &Owner) -> Provider {
    Provider {
        name: HOME.to_owned(),
        rules: None,
        source: "the owner's own return host".to_owned(),
        checked: "2026-11-23".to_owned(),
        weight: 0,
        site: vec![Site {
            domains: owner.return_domains.clone(),
            names: NamesMood::Mx,
            policy: None,
            host: vec![Host {
                name: HOME_HOST.to_owned(),
                preference: 10,
                certificate: crate::rulebook::Certificate::Trusted,
                ipv6: false,
                dead: false,
                tlsa: Tlsa::None,
            }],
        }],
        limits: Limits::default(),
        mood: Mood::default(),
        replies: Replies::default(),
        capabilities: ["PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "SIZE 52428800"].map(str::to_owned).to_vec(),
    }
}
