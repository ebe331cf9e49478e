//! From the owner's configuration to the one that is rehearsed: everything
//! that decides how mail is paced, signed and retried stays; everything that
//! touches the world outside (addresses, files, DNS, port 25) is turned to
//! loopback and to a scratch folder, or, for a box that runs elsewhere, to a
//! private block and to files that are carried there. What was changed is said
//! in notes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postkeep_configuration::{
    Configuration, Dnssec, Feedback, LaneLimits, LocalPart, Rate, TotalLimits, Webhook, units,
};

use crate::Error;
use crate::block::Block;
use crate::certificates::Authority;
use crate::internet::Owner;
use crate::keys;

use self::doors::{credential, free_address, token};

mod doors;
mod owner;
mod promises;
mod ready;

pub(crate) use self::owner::{owner, sender_domains};
pub(crate) use self::ready::{Ready, Secrets, doors};

/// Where a box elsewhere finds the files of its rehearsal.
pub(crate) const BOX_FOLDER: &str = "/var/lib/postkeep/etc/rehearsal";
/// Shortest wait that hurry leaves: less is no valid configuration.
const SHORTEST: units::Duration = units::Duration::from_secs(1);
/// Longest path of a Unix socket that every system takes.
const LONGEST_SOCKET: usize = 100;

/// How and where a configuration is rehearsed.
pub(crate) struct Setting {
    /// Where files are written.
    pub folder: PathBuf,
    /// Where the simulated internet lives.
    pub block: Block,
    /// How many times faster waits pass.
    pub hurry: f64,
    /// Mail that has not arrived after so long expires.
    pub longest: Duration,
    /// The box runs there, not here.
    pub elsewhere: Option<Elsewhere>,
}

/// A box that runs elsewhere.
pub(crate) struct Elsewhere {
    /// Where it takes records to.
    pub events: SocketAddr,
    /// The secret that it signs them with.
    pub events_secret: String,
}

/// An owner's configuration on its way to a rehearsal.
pub(crate) struct Prepared {
    /// With everything changed that can be before the simulated internet is known.
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
    setting: Setting,
}

/// What a configuration must know of the simulated internet.
pub(crate) struct Surroundings<'a> {
    pub authority: &'a Authority,
    /// Of all MX hosts.
    pub port: u16,
    pub names: SocketAddr,
    pub trust_anchor: &'a str,
    pub policy_port: u16,
    /// Where the simulated DNS sends what comes back.
    pub back: IpAddr,
}

/// Changes what can be changed before the simulated internet is known.
pub(crate) fn prepare(mut configuration: Configuration, setting: Setting) -> Result<Prepared, Error> {
    let mut notes = Vec::new();
    let domains = sender_domains(&configuration);
    let keys = keys_of(&mut configuration, &setting, &mut notes)?;
    sources_of(&mut configuration, setting.block, &mut notes)?;
    if configuration.acme.take().is_some() {
        notes.push("[acme] was left out: certificates are of the rehearsal's own authority".to_owned());
    }
    if !configuration.route.is_empty() {
        configuration.route.clear();
        notes.push("[[route]] was left out: mail goes by MX of the simulated DNS".to_owned());
    }
    leave_out_receivers(&mut configuration, &mut notes);
    feedback_of(&mut configuration, &domains, &mut notes);
    hurried(&mut configuration, setting.hurry, setting.longest, &mut notes);
    configuration.include.clear();
    configuration.resolver.dnssec = Dnssec::Required;
    if setting.elsewhere.is_none() {
        keep_here(&mut configuration, &setting.folder);
    }
    let owner = owner(&configuration, keys)?;
    let credential = credential(&mut configuration)?;
    let token = token(&mut configuration, setting.elsewhere.is_some());
    Ok(Prepared { configuration, owner, domains, credential, token, notes, setting })
}

/// Everything that a box on this machine writes goes to one folder.
fn keep_here(configuration: &mut Configuration, folder: &Path) {
    configuration.spool.directory = folder.join("spool");
    configuration.records.directory = folder.join("records");
    configuration.suppression.directory = folder.join("suppression");
    configuration.mta_sts.directory = folder.join("mta-sts");
    if let Some(reports) = &mut configuration.tls_reports {
        reports.directory = folder.join("tls-reports");
    }
    configuration.control.socket = folder.join("control.sock");
    if configuration.control.socket.as_os_str().len() > LONGEST_SOCKET {
        configuration.control.socket =
            std::env::temp_dir().join(format!("postkeep-rehearsal-{}.sock", std::process::id()));
    }
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
    /// Points the configuration to a simulated internet and writes it down; the file.
    pub(crate) fn connect(&mut self, around: &Surroundings<'_>) -> Result<PathBuf, Error> {
        let root = self.write("authority.pem", around.authority.pem())?;
        self.configuration.delivery.extra_roots = Some(root.clone());
        self.configuration.delivery.port = around.port;
        self.configuration.resolver.servers = vec![around.names];
        self.configuration.resolver.trust_anchors = Some(self.write("trust-anchors", around.trust_anchor)?);
        self.configuration.mta_sts.port = around.policy_port;
        self.move_doors(around)?;
        match &self.setting.elsewhere {
            Some(elsewhere) => {
                let secret = self.write("events.secret", &elsewhere.events_secret)?;
                self.configuration.webhook.push(events_to(elsewhere.events, secret, root));
            }
            None => {
                if let Some(metrics) = &mut self.configuration.metrics {
                    metrics.address = free_address()?;
                }
            }
        }
        let text = postkeep_configuration::to_toml(&self.configuration)
            .map_err(|error| Error::Configuration(format!("the derived configuration cannot be written: {error}")))?;
        let file = self.setting.folder.join("postkeep.toml");
        write(&file, &text)
    }

    /// Writes a file that the box needs; where the box finds it.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        self.setting.write(name, text)
    }

    fn shown(&self, name: &str) -> PathBuf {
        self.setting.shown(name)
    }
}

impl Setting {
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        write(&self.folder.join(name), text)?;
        Ok(self.shown(name))
    }

    /// Where the box finds a file.
    fn shown(&self, name: &str) -> PathBuf {
        if self.elsewhere.is_some() { Path::new(BOX_FOLDER).join(name) } else { self.folder.join(name) }
    }
}

/// All records, as soon as they are written, for as long as a rehearsal may last.
fn events_to(address: SocketAddr, secret: PathBuf, root: PathBuf) -> Webhook {
    Webhook {
        name: "rehearsal".to_owned(),
        url: format!("https://{address}/"),
        secret,
        extra_roots: Some(root),
        events: vec!["*".to_owned()],
        batch_events: 500,
        batch_age: units::Duration::from_millis(200),
        timeout: units::Duration::from_secs(30),
        retry_for: units::Duration::from_secs(86_400),
        local_part: LocalPart::Plain,
        buffer: units::ByteSize::mebibytes(4096),
        from: postkeep_configuration::EventsFrom::Beginning,
    }
}

/// Writes a file that is nobody else's business: some hold keys, one a password hash.
pub(crate) fn write(path: &Path, text: &str) -> Result<PathBuf, Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(path.to_owned()),
        Err(error) => Err(Error::Io(format!("cannot write {}: {error}", path.display()))),
    }
}

/// The TXT records of the signing keys, which are made where the owner's are not to be had.
fn keys_of(
    configuration: &mut Configuration,
    setting: &Setting,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, String)>, Error> {
    let (mut records, mut generated) = (Vec::new(), Vec::new());
    for (number, entry) in configuration.dkim.iter_mut().enumerate() {
        let name = format!("{}._domainkey.{}", entry.selector, entry.domain);
        // Keys of the owner are not carried about.
        let own = setting.elsewhere.is_none().then(|| fs::read_to_string(&entry.key).ok()).flatten();
        let key = match own.and_then(|pem| keys::read(&pem, entry.algorithm)) {
            Some(key) => key,
            None => {
                let key = keys::generate(entry.algorithm)?;
                entry.key = setting.write(&format!("dkim-{number}.pem"), &key.pem)?;
                generated.push(name.clone());
                key
            }
        };
        records.push((name, key.record));
    }
    if !generated.is_empty() {
        let why = match setting.elsewhere {
            Some(_) => "the owner's stay where they are",
            None => "the configured files could not be read",
        };
        notes.push(format!("signing keys made for the rehearsal, because {why}: {}", generated.join(", ")));
    }
    Ok(records)
}

fn sources_of(configuration: &mut Configuration, block: Block, notes: &mut Vec<String>) -> Result<(), Error> {
    let mut v6_taken = false;
    let mut mapped = Vec::new();
    for (number, (name, source)) in configuration.source.iter_mut().enumerate() {
        let address: Ipv4Addr = block
            .source(number)
            .ok_or_else(|| Error::Configuration(format!("{block} has no room for so many sources")))?;
        source.ipv4 = Some(address);
        let mut text = format!("{name} = {address}");
        if source.ipv6.is_some() {
            let here = block.is_loopback() && !v6_taken;
            source.ipv6 = here.then_some(std::net::Ipv6Addr::LOCALHOST);
            text.push_str(match (here, block.is_loopback()) {
                (true, _) => " and ::1",
                (false, true) => " (without IPv6: loopback has one address)",
                (false, false) => " (without IPv6: only loopback has it)",
            });
            v6_taken |= here;
        }
        mapped.push(text);
    }
    let place = if block.is_loopback() { "loopback".to_owned() } else { block.to_string() };
    notes.push(format!("sources on {place}: {}", mapped.join(", ")));
    Ok(())
}

/// Mail comes back to the box itself, in the owner's way if there is one.
fn feedback_of(configuration: &mut Configuration, domains: &[String], notes: &mut Vec<String>) {
    configuration.feedback.get_or_insert_with(|| {
        let domain = format!("bounce.{}", domains.first().unwrap_or(&configuration.hostname));
        notes.push(format!("[feedback] with the domain {domain} was added, so that mail can come back"));
        Feedback {
            report_addresses: vec![format!("complaints@{domain}")],
            domain,
            trust_networks: Vec::new(),
            forward_to: None,
        }
    });
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
        let prepared = prepare(loaded.configuration, setting(folder.path(), hurry)).unwrap();
        (folder, prepared)
    }

    fn setting(folder: &Path, hurry: f64) -> Setting {
        let longest = Duration::from_secs(60);
        Setting { folder: folder.to_owned(), block: Block::default(), hurry, longest, elsewhere: None }
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
        let prepared = prepare(loaded.configuration, setting(folder.path(), 1.0)).unwrap();
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
        let prepared = prepare(loaded.configuration, setting(folder.path(), 600.0)).unwrap();
        assert_eq!(prepared.domains, ["harbour-news.example", "offers.harbour-news.example"]);
        assert_eq!(prepared.owner.keys.len(), 3);
        let text = postkeep_configuration::to_toml(&prepared.configuration).unwrap();
        let again = postkeep_configuration::parse("derived", &text, &Options::without_files()).unwrap();
        assert_eq!(again.configuration, prepared.configuration);
    }
}
