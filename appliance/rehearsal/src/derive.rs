//! From the owner's configuration to the one that is rehearsed: everything
//! that decides how mail is paced, signed and retried stays; everything that
//! touches the world outside (addresses, files, DNS, port 25) is turned to
//! loopback and to a scratch folder. What was changed is said in notes.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postkeep_configuration::{
    Configuration, Dnssec, Feedback, LaneLimits, Listener, ListenerTls, Rate, TotalLimits, units,
};

use crate::Error;
use crate::client::Submission;
use crate::http::HttpDoor;
use crate::internet::{Internet, Owner};
use crate::keys::{self, Keyring};
use crate::names::{LOOPBACK_V6, loopback};

use self::doors::{credential, free_address, token};
use self::promises::{promises, streams};

mod doors;
mod promises;

/// Second octet of the sending addresses.
const SOURCES_BLOCK: u8 = 1;
/// Shortest wait that hurry leaves: less is no valid configuration.
const SHORTEST: units::Duration = units::Duration::from_secs(1);
/// Longest path of a Unix socket that every system takes.
const LONGEST_SOCKET: usize = 100;

/// An owner's configuration on its way to a rehearsal.
pub(crate) struct Prepared {
    /// With everything changed that can be before the simulated internet is up.
    pub configuration: Configuration,
    /// What the simulated internet must know.
    pub owner: Owner,
    /// Domains the campaign sends from.
    pub domains: Vec<String>,
    /// Name and password of the campaign's credential.
    pub credential: (String, String),
    /// The campaign's token for the HTTP door.
    pub token: String,
    /// What was changed, in sentences.
    pub notes: Vec<String>,
    scratch: PathBuf,
}

/// A configuration ready to run.
pub(crate) struct Ready {
    /// The file that `postkeepd` reads.
    pub file: PathBuf,
    /// Where the campaign submits.
    pub submission: Submission,
    /// Where mail that comes back goes in.
    pub comebacks: Submission,
    /// Where the campaign's other part goes in.
    pub http: HttpDoor,
    /// Where records appear.
    pub records: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The metrics endpoint, if there is one.
    pub metrics: Option<SocketAddr>,
}

/// Changes what can be changed before the simulated internet is up. Mail that has not arrived after `longest` expires.
pub(crate) fn prepare(
    mut configuration: Configuration,
    scratch: &Path,
    hurry: f64,
    longest: Duration,
) -> Result<Prepared, Error> {
    let mut notes = Vec::new();
    let mut owner = Owner::default();
    let domains = sender_domains(&configuration);
    owner.return_domains =
        domains.iter().cloned().chain([configuration.hostname.clone()]).collect::<BTreeSet<_>>().into_iter().collect();
    keys_of(&mut configuration, scratch, &mut owner, &mut notes)?;
    sources_of(&mut configuration, &mut owner, &mut notes);
    if configuration.acme.take().is_some() {
        notes.push("[acme] was left out: certificates are of the rehearsal's own authority".to_owned());
    }
    if !configuration.route.is_empty() {
        configuration.route.clear();
        notes.push("[[route]] was left out: mail goes by MX of the simulated DNS".to_owned());
    }
    leave_out_receivers(&mut configuration, &mut notes);
    feedback_of(&mut configuration, &domains, &mut owner, &mut notes);
    hurried(&mut configuration, hurry, longest, &mut notes);
    owner.promises = promises(&configuration)?;
    owner.streams = streams(&configuration);
    owner.keyring = Keyring::of(&configuration);
    let credential = credential(&mut configuration)?;
    let token = token(&mut configuration);
    configuration.include.clear();
    configuration.spool.directory = scratch.join("spool");
    configuration.records.directory = scratch.join("records");
    configuration.suppression.directory = scratch.join("suppression");
    configuration.mta_sts.directory = scratch.join("mta-sts");
    configuration.resolver.dnssec = Dnssec::Required;
    if let Some(reports) = &mut configuration.tls_reports {
        reports.directory = scratch.join("tls-reports");
    }
    configuration.control.socket = scratch.join("control.sock");
    if configuration.control.socket.as_os_str().len() > LONGEST_SOCKET {
        configuration.control.socket =
            std::env::temp_dir().join(format!("postkeep-rehearsal-{}.sock", std::process::id()));
    }
    Ok(Prepared { configuration, owner, domains, credential, token, notes, scratch: scratch.to_owned() })
}

/// Nobody outside is told of mail that never was.
fn leave_out_receivers(configuration: &mut Configuration, notes: &mut Vec<String>) {
    let had_accounting = configuration.accounting.take().is_some();
    let count =
        configuration.webhook.len() + configuration.amqp.len() + configuration.kafka.len() + configuration.nats.len();
    configuration.webhook.clear();
    configuration.amqp.clear();
    configuration.kafka.clear();
    configuration.nats.clear();
    if had_accounting || count > 0 {
        notes.push(
            "receivers of events were left out: [accounting], [[webhook]], [[amqp]], [[kafka]], [[nats]]".to_owned(),
        );
    }
}

impl Prepared {
    /// Points the configuration to a running simulated internet and writes it down.
    pub(crate) fn connect(&mut self, internet: &Internet) -> Result<Ready, Error> {
        let authority = internet.authority();
        let root = self.write("authority.pem", authority.pem())?;
        self.configuration.delivery.extra_roots = Some(root);
        self.configuration.delivery.port = internet.port();
        self.configuration.resolver.servers = vec![internet.names()];
        self.configuration.resolver.trust_anchors = Some(self.write("trust-anchors", internet.trust_anchor())?);
        self.configuration.mta_sts.port = internet.policy_port();
        let back = self.feedback_door(internet.port());
        let door = self.doors(authority, back)?;
        let comebacks = self.configuration.listener.get(back).cloned();
        let submission = |listener: &Listener, credential: Option<(String, String)>| Submission {
            address: listener.address,
            host: self.configuration.hostname.clone(),
            credential,
            implicit_tls: listener.tls == ListenerTls::Implicit,
            authority: (listener.tls != ListenerTls::None).then(|| authority.certificate().clone()),
        };
        let comebacks = comebacks.as_ref().unwrap_or(&door);
        let (submission, comebacks) = (submission(&door, Some(self.credential.clone())), submission(comebacks, None));
        let http = self.http_doors()?;
        let metrics = match &mut self.configuration.metrics {
            Some(metrics) => {
                metrics.address = free_address()?;
                Some(metrics.address)
            }
            None => None,
        };
        let text = postkeep_configuration::to_toml(&self.configuration)
            .map_err(|error| Error::Configuration(format!("the derived configuration cannot be written: {error}")))?;
        let file = self.write("postkeep.toml", &text)?;
        Ok(Ready {
            file,
            submission,
            comebacks,
            http: HttpDoor {
                address: http,
                host: self.configuration.hostname.clone(),
                token: self.token.clone(),
                authority: authority.certificate().clone(),
            },
            records: self.configuration.records.directory.clone(),
            control: self.configuration.control.socket.clone(),
            metrics,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        write(&self.scratch.join(name), text)
    }
}

fn write(path: &Path, text: &str) -> Result<PathBuf, Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // Keys and a password hash: nobody else's business.
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(path.to_owned()),
        Err(error) => Err(Error::Io(format!("cannot write {}: {error}", path.display()))),
    }
}

/// Domains to send from: those that are signed, else those that credentials name, else the host's own.
fn sender_domains(configuration: &Configuration) -> Vec<String> {
    let signed: BTreeSet<String> = configuration.dkim.iter().map(|key| key.domain.to_ascii_lowercase()).collect();
    if !signed.is_empty() {
        return signed.into_iter().collect();
    }
    let named = configuration.credential.iter().flat_map(|credential| &credential.sender_domains);
    let listed = configuration.network.iter().flat_map(|network| &network.sender_domains);
    let domains: BTreeSet<String> = named
        .chain(listed)
        .filter(|domain| *domain != "*")
        .map(|domain| domain.strip_prefix("*.").map_or_else(|| domain.clone(), |below| format!("mail.{below}")))
        .collect();
    if domains.is_empty() { vec![configuration.hostname.clone()] } else { domains.into_iter().collect() }
}

fn keys_of(
    configuration: &mut Configuration,
    scratch: &Path,
    owner: &mut Owner,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let mut generated = Vec::new();
    for (number, entry) in configuration.dkim.iter_mut().enumerate() {
        let own = fs::read_to_string(&entry.key).ok().and_then(|pem| keys::read(&pem, entry.algorithm));
        let key = match own {
            Some(key) => key,
            None => {
                let key = keys::generate(entry.algorithm)?;
                entry.key = write(&scratch.join(format!("dkim-{number}.pem")), &key.pem)?;
                generated.push(format!("{}._domainkey.{}", entry.selector, entry.domain));
                key
            }
        };
        owner.keys.push((format!("{}._domainkey.{}", entry.selector, entry.domain), key.record));
    }
    if !generated.is_empty() {
        notes.push(format!(
            "signing keys made for the rehearsal, because the configured files could not be read: {}",
            generated.join(", ")
        ));
    }
    Ok(())
}

fn sources_of(configuration: &mut Configuration, owner: &mut Owner, notes: &mut Vec<String>) {
    let mut v6_taken = false;
    let hostname = configuration.hostname.clone();
    let mut mapped = Vec::new();
    for (number, (name, source)) in configuration.source.iter_mut().enumerate() {
        let ehlo = source.ehlo.clone().unwrap_or_else(|| hostname.clone());
        let address = loopback(SOURCES_BLOCK, u16::try_from(number).unwrap_or(u16::MAX));
        source.ipv4 = Some(address);
        owner.sources.push((IpAddr::V4(address), name.clone(), ehlo.clone()));
        let mut text = format!("{name} = {address}");
        if source.ipv6.is_some() {
            source.ipv6 = (!v6_taken).then_some(std::net::Ipv6Addr::LOCALHOST);
            if v6_taken {
                text.push_str(" (without IPv6: loopback has one address)");
            } else {
                text.push_str(" and ::1");
                owner.sources.push((LOOPBACK_V6, name.clone(), ehlo));
                v6_taken = true;
            }
        }
        mapped.push(text);
    }
    notes.push(format!("sources on loopback: {}", mapped.join(", ")));
}

/// Mail comes back to the box itself, in the owner's way if there is one.
fn feedback_of(configuration: &mut Configuration, domains: &[String], owner: &mut Owner, notes: &mut Vec<String>) {
    let feedback = configuration.feedback.get_or_insert_with(|| {
        let domain = format!("bounce.{}", domains.first().unwrap_or(&configuration.hostname));
        notes.push(format!("[feedback] with the domain {domain} was added, so that mail can come back"));
        Feedback {
            report_addresses: vec![format!("complaints@{domain}")],
            domain,
            trust_networks: Vec::new(),
            forward_to: None,
        }
    });
    owner.feedback_domain = Some(feedback.domain.clone());
}

/// The longest time for which a shipped rule stays away.
const LONGEST_HOLD: Duration = Duration::from_secs(86_400);

/// Divides waits by `hurry`.
fn hurried(configuration: &mut Configuration, hurry: f64, longest: Duration, notes: &mut Vec<String>) {
    // The longest hold of the shipped rules is a day; it must end before the mail does that waits for it.
    let shortened = longest.as_micros() as f64 / 4.0 / LONGEST_HOLD.as_micros() as f64;
    let replies = &mut configuration.replies;
    replies.hold_scale = (replies.hold_scale / hurry.max(1.0)).min(shortened).clamp(0.000_01, 10.0);
    let divide = |length: units::Duration| {
        let micros = (length.as_micros() as f64 / hurry.max(1.0)) as u64;
        units::Duration::from_micros(micros).max(SHORTEST).min(length.max(SHORTEST))
    };
    let longest = units::Duration::from_millis(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
    let mut capped = Vec::new();
    // The default stream always exists; writing it down lets it be hurried too.
    configuration.stream.entry("default".to_owned()).or_default();
    for (name, stream) in &mut configuration.stream {
        for wait in &mut stream.retry {
            *wait = divide(*wait);
        }
        stream.expire_after = divide(stream.expire_after);
        stream.delay_notice_after = divide(stream.delay_notice_after);
        if stream.expire_after > longest {
            stream.expire_after = longest;
            // A wait that is longer than the life of mail is no valid configuration, and would try nothing twice.
            let half = units::Duration::from_micros(longest.as_micros() / 2).max(SHORTEST);
            stream.retry.iter_mut().for_each(|wait| *wait = (*wait).min(half));
            capped.push(name.clone());
        }
    }
    for pause in [
        &mut configuration.backoff.pause,
        &mut configuration.backoff.longest_pause,
        &mut configuration.backoff.unbindable_pause,
    ] {
        *pause = divide(*pause);
    }
    let window = |rate: &mut Option<Rate>| {
        if let Some(rate) = rate {
            let per = divide(rate.per).max(units::Duration::from_secs(1)).min(rate.per);
            *rate = Rate::new(rate.count, per).unwrap_or(*rate);
        }
    };
    let lane = |limits: &mut LaneLimits| {
        window(&mut limits.connection_rate);
        window(&mut limits.message_rate);
    };
    let total = |limits: &mut TotalLimits| {
        window(&mut limits.connection_rate);
        window(&mut limits.message_rate);
    };
    lane(&mut configuration.lane);
    configuration.lane_limit.iter_mut().for_each(|limit| lane(&mut limit.limits));
    for provider in configuration.provider.values_mut() {
        lane(&mut provider.lane);
        total(&mut provider.total);
    }
    configuration.stream.values_mut().for_each(|stream| total(&mut stream.total));
    if hurry > 1.0 {
        notes.push(format!(
            "time runs {hurry} times faster: waits between attempts, pauses, expiry and the stretches of rates are divided by it (none below 1s)"
        ));
    }
    if !capped.is_empty() {
        notes.push(format!(
            "mail of {} expires after {longest} and waits half of that at most, so that the rehearsal ends",
            capped.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postkeep_configuration::load::Options;

    const OWNER: &str = r#"
hostname = "box.example.test"
[[listener]]
address = "0.0.0.0:587"
certificate = "/nowhere/cert.pem"
key = "/nowhere/key.pem"
[source.a]
ipv4 = "192.0.2.1"
ipv6 = "2001:db8::1"
[source.b]
ipv6 = "2001:db8::2"
[pool.default]
sources = { a = 1, b = 1 }
[stream.news]
retry = ["5m", "1h"]
expire-after = "4d"
[lane]
connections = 7
[provider.orange.lane]
connections = 3
message-rate = "100/1h"
[[dkim]]
domain = "example.test"
selector = "s1"
key = "/nowhere/dkim.pem"
[accounting]
[[webhook]]
name = "shop"
url = "https://shop.example.com/"
secret = "/nowhere/secret"
[[amqp]]
name = "rabbit"
url = "amqps://broker.example.com/mail"
exchange = ""
[[kafka]]
name = "warehouse"
brokers = ["broker.example.com:9092"]
topic = "mail"
[[nats]]
name = "boxes"
servers = ["tls://nats.example.com"]
"#;

    fn prepared(hurry: f64) -> (tempfile::TempDir, Prepared) {
        let folder = tempfile::tempdir().unwrap();
        let loaded = postkeep_configuration::load::parse("test", OWNER, &Options::without_files()).unwrap();
        let prepared = prepare(loaded.configuration, folder.path(), hurry, Duration::from_secs(60)).unwrap();
        (folder, prepared)
    }

    #[test]
    fn nothing_of_a_rehearsed_configuration_points_outside() {
        let (folder, prepared) = prepared(1.0);
        let configuration = &prepared.configuration;
        assert!(configuration.source.values().all(|source| source.ipv4.unwrap().is_loopback()));
        assert_eq!(configuration.source["a"].ipv6, Some(std::net::Ipv6Addr::LOCALHOST));
        assert_eq!(configuration.source["b"].ipv6, None);
        assert!(configuration.spool.directory.starts_with(folder.path()));
        assert!(configuration.records.directory.starts_with(folder.path()));
        assert!(configuration.dkim[0].key.starts_with(folder.path()));
        let text = postkeep_configuration::to_toml(configuration).unwrap();
        assert!(configuration.accounting.is_none() && !text.contains("example.com"), "{text}");
        assert_eq!(prepared.owner.sources.len(), 3);
        assert_eq!(prepared.domains, ["example.test"]);
        assert!(prepared.notes.iter().any(|note| note.contains("s1._domainkey.example.test")));
    }

    #[test]
    fn what_comes_back_is_kept_as_it_is_and_added_where_there_is_none() {
        let (_folder, prepared) = prepared(1.0);
        let feedback = prepared.configuration.feedback.unwrap();
        assert_eq!(feedback.domain, "bounce.example.test");
        assert_eq!(prepared.owner.feedback_domain.as_deref(), Some("bounce.example.test"));
        assert!(prepared.notes.iter().any(|note| note.starts_with("[feedback]")));
        let own = format!(
            "{OWNER}[feedback]\ndomain = \"back.example.test\"\n[[listener]]\naddress = \"0.0.0.0:25\"\ntls = \"none\"\n"
        );
        let loaded = postkeep_configuration::load::parse("test", &own, &Options::without_files()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let prepared = prepare(loaded.configuration, folder.path(), 1.0, Duration::from_secs(60)).unwrap();
        assert_eq!(prepared.owner.feedback_domain.as_deref(), Some("back.example.test"));
        assert!(!prepared.notes.iter().any(|note| note.starts_with("[feedback]")));
    }

    #[test]
    fn hurry_divides_waits_and_stretches_and_says_so() {
        let (_folder, prepared) = prepared(60.0);
        let stream = &prepared.configuration.stream["news"];
        assert_eq!(stream.retry, [units::Duration::from_secs(5), units::Duration::from_secs(30)]);
        assert_eq!(stream.expire_after, units::Duration::from_secs(60));
        assert_eq!(prepared.configuration.provider["orange"].lane.message_rate, "100/1m".parse().ok());
        assert!(prepared.notes.iter().any(|note| note.contains("60 times faster")));
    }

    #[test]
    fn promises_follow_the_most_specific_word() {
        let (_folder, prepared) = prepared(1.0);
        let promise = |name: &str| prepared.owner.promises[name].lane.clone();
        assert_eq!(promise("orange").connections, Some(3));
        assert_eq!(promise("orange").messages_per_connection, Some(100));
        assert_eq!(promise("yahoo").messages_per_connection, Some(20));
        assert_eq!(promise("google").connections, Some(5));
        assert_eq!(promise("").connections, Some(7));
    }

    #[test]
    fn the_demonstration_is_a_valid_configuration_and_can_be_prepared() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/postkeep.toml");
        let loaded = postkeep_configuration::load_with(path, &Options::without_files()).unwrap();
        assert_eq!(loaded.warnings, []);
        let folder = tempfile::tempdir().unwrap();
        let prepared = prepare(loaded.configuration, folder.path(), 600.0, Duration::from_secs(100)).unwrap();
        assert_eq!(prepared.domains, ["harbour-news.example", "offers.harbour-news.example"]);
        assert_eq!(prepared.owner.keys.len(), 3);
        let text = postkeep_configuration::to_toml(&prepared.configuration).unwrap();
        let again = postkeep_configuration::parse("derived", &text, &Options::without_files()).unwrap();
        assert_eq!(again.configuration, prepared.configuration);
    }
}
