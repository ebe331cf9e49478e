//! What a rehearsal needs before the first message: the simulated internet
//! and a box with a configuration that points to it. The box is a `postkeepd`
//! that is started here, or one that runs elsewhere with a folder that was
//! prepared for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postkeep_configuration::Configuration;

use crate::Error;
use crate::block::Block;
use crate::client::{Client, Submission};
use crate::daemon::{self, Daemon};
use crate::derive::{self, Ready, Secrets, Setting, Surroundings};
use crate::events::Events;
use crate::excuses::Excuses;
use crate::folder::{Folder, Ports, Wish};
use crate::http::{HttpClient, HttpDoor};
use crate::inject::Doors;
use crate::internet::{Internet, InternetOptions};
use crate::list::ListAt;
use crate::rulebook::RuleBook;
use crate::run::Options;
use crate::scratch::Scratch;

/// Longest wait for one door of a box elsewhere, which may be slow.
const DOOR: Duration = Duration::from_secs(30);
/// Wait before it is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Where to talk to a rehearsal that is kept up.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Submission, with user and password.
    pub submission: Submission,
    /// The HTTP door, with a token.
    pub http: HttpDoor,
    /// PEM file of the authority that signed the certificates of the doors.
    pub authority: PathBuf,
    /// The simulated DNS, UDP and TCP.
    pub names: SocketAddr,
    /// Where the simulated internet lives.
    pub block: Block,
    /// Port of the simulated MX hosts.
    pub port: u16,
    /// The daemon's control socket, if it runs here.
    pub control: Option<PathBuf>,
    /// The daemon's metrics, if it runs here and has some.
    pub metrics: Option<SocketAddr>,
    /// The daemon's records.
    pub records: PathBuf,
    /// File of what arrives, if it is written.
    pub arrivals: Option<PathBuf>,
    /// The configuration that runs.
    pub configuration: PathBuf,
    /// Recipient domains that exist.
    pub domains: Vec<String>,
    /// What was changed.
    pub notes: Vec<String>,
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        let kind = if self.submission.implicit_tls { "implicit TLS" } else { "STARTTLS" };
        writeln!(out, "submit      {} ({kind}, certificate for {})", self.submission.address, self.submission.host)?;
        if let Some((user, password)) = &self.submission.credential {
            writeln!(out, "user        {user}\npassword    {password}")?;
        }
        writeln!(out, "HTTP        https://{} (certificate for {})", self.http.address, self.http.host)?;
        writeln!(out, "token       {}", self.http.token)?;
        writeln!(out, "authority   {}", self.authority.display())?;
        if let Some(control) = &self.control {
            writeln!(out, "control     {}", control.display())?;
        }
        if let Some(metrics) = self.metrics {
            writeln!(out, "metrics     http://{metrics}/metrics")?;
        }
        writeln!(out, "records     {}", self.records.display())?;
        if let Some(arrivals) = &self.arrivals {
            writeln!(out, "arrivals    {}", arrivals.display())?;
        }
        writeln!(out, "config      {}", self.configuration.display())?;
        writeln!(out, "DNS         {} (UDP and TCP)", self.names)?;
        let first = self.block.host(0).unwrap_or(Ipv4Addr::LOCALHOST);
        writeln!(out, "MX hosts    {first} and on, port {}", self.port)?;
        writeln!(out, "domains     {}", self.domains.join(" "))
    }
}

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) internet: Internet,
    /// Absent: the box runs elsewhere.
    pub(crate) daemon: Option<Daemon>,
    pub(crate) ready: Ready,
    pub(crate) configuration: Configuration,
    pub(crate) domains: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) book: RuleBook,
    block: Block,
    authority: PathBuf,
    arrivals: Option<PathBuf>,
    _events: Option<Events>,
    // Last, so that the folder outlives those who use it.
    pub(crate) scratch: Option<Scratch>,
}

impl Stage {
    pub(crate) fn doors(&self) -> Doors {
        Doors {
            submission: self.ready.submission.clone(),
            http: self.ready.http.clone(),
            stream_header: self.configuration.intake.stream_header.as_str().into(),
            excuses: Arc::new(Excuses::of(&self.configuration)),
        }
    }

    /// An error if the daemon has ended, which it must not.
    pub(crate) fn lives(&mut self) -> Result<(), Error> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let Some(status) = daemon.ended() else { return Ok(()) };
        Err(Error::Daemon(format!("postkeepd ended in mid-rehearsal ({status}):\n{}", daemon.log_tail())))
    }

    pub(crate) fn addresses(&self) -> Addresses {
        let control = match &self.ready.list {
            ListAt::Control(socket) => Some(socket.clone()),
            ListAt::Door(_) => None,
        };
        let sites = self.book.provider.iter().flat_map(|provider| &provider.site);
        Addresses {
            submission: self.ready.submission.clone(),
            http: self.ready.http.clone(),
            authority: self.authority.clone(),
            names: self.internet.names(),
            block: self.block,
            port: self.internet.port(),
            metrics: control.as_ref().and(self.configuration.metrics.as_ref()).map(|metrics| metrics.address),
            control,
            records: self.ready.records.clone(),
            arrivals: self.arrivals.clone(),
            configuration: self.ready.file.clone(),
            domains: sites.flat_map(|site| site.domains.clone()).collect(),
            notes: self.notes.clone(),
        }
    }

    /// Sets up what the options ask for. What a prepared folder has fixed stands in the options afterwards.
    pub(crate) async fn set_up(options: &mut Options) -> Result<Self, Error> {
        match options.prepared.clone() {
            None => here(options).await,
            Some(folder) => elsewhere(options, &folder).await,
        }
    }

    /// Waits until a box elsewhere answers at every door.
    pub(crate) async fn await_doors(&self, patience: Duration) -> Result<(), Error> {
        if self.daemon.is_some() {
            return Ok(());
        }
        let until = Instant::now() + patience;
        loop {
            match self.knock().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    return Err(Error::Daemon(format!(
                        "the box does not answer after {} s: {error}; see whether it runs with {}, has its addresses and a route here, or wait longer with --wait",
                        patience.as_secs(),
                        self.ready.file.display()
                    )));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn knock(&self) -> Result<(), String> {
        for door in [&self.ready.comebacks, &self.ready.submission] {
            within(door.address, Client::connect(door)).await?.quit().await;
        }
        within(self.ready.http.address, HttpClient::connect(&self.ready.http)).await.map(drop)
    }
}

async fn within<T>(at: SocketAddr, connect: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(DOOR, connect).await {
        Ok(Ok(open)) => Ok(open),
        Ok(Err(error)) => Err(format!("{at}: {error}")),
        Err(_) => Err(format!("{at}: no answer within {} s", DOOR.as_secs())),
    }
}

/// Derives a configuration for a box elsewhere and writes all that it needs to `folder`; what is to be done with it, in
/// words. Of the options count those that decide: configuration, seed, hurry, deadline, rules, block.
///
/// # Errors
/// The configuration is wrong, the addresses are not private, or the folder cannot be written.
pub fn prepare(options: &Options, at: Ipv4Addr, folder: &Path, ports: Ports) -> Result<String, Error> {
    let wish = Wish {
        folder,
        at,
        block: options.block,
        ports,
        seed: options.seed,
        hurry: options.hurry,
        deadline: options.deadline,
        rules: rules(options)?,
    };
    Ok(Folder::prepare(owners(options)?, wish)?.to_string())
}

/// The owner's configuration.
fn owners(options: &Options) -> Result<Configuration, Error> {
    // Files that the configuration names need not exist here: keys and certificates are replaced.
    let loading = postkeep_configuration::Options::without_files();
    postkeep_configuration::load_with(&options.configuration, &loading)
        .map(|loaded| loaded.configuration)
        .map_err(|errors| Error::Configuration(errors.to_string()))
}

/// The text of another rule book than the shipped one.
fn rules(options: &Options) -> Result<Option<String>, Error> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|error| Error::RuleBook(format!("cannot read {}: {error}", path.display())))
    };
    options.rules.as_ref().map(read).transpose()
}

/// A daemon on this machine.
async fn here(options: &Options) -> Result<Stage, Error> {
    let binary = daemon::find(options.daemon.as_deref())?;
    let owners = owners(options)?;
    let book = rules(options)?.as_deref().map_or_else(RuleBook::shipped, RuleBook::parse)?;
    let scratch = Scratch::new(options.scratch.as_deref())?;
    let setting = Setting {
        folder: scratch.path.clone(),
        block: options.block,
        hurry: options.hurry,
        longest: options.deadline.mul_f64(0.5),
        elsewhere: None,
    };
    let mut prepared = derive::prepare(owners, setting)?;
    book.is_free_of(&prepared.owner.return_domains)?;
    let mut internet = Internet::start(InternetOptions {
        seed: options.seed,
        book: book.clone(),
        hurry: options.hurry,
        block: options.block,
        port: options.port,
        names_port: 0,
        fixed: None,
        owner: prepared.owner.clone(),
        verify_every: options.verify_every,
    })
    .await?;
    let file = prepared.connect(&Surroundings {
        authority: internet.authority(),
        port: internet.port(),
        names: internet.names(),
        trust_anchor: internet.trust_anchor(),
        policy_port: internet.policy_port(),
        back: options.block.back().into(),
    })?;
    let authority = internet.authority().certificate();
    let secrets = Secrets { credential: &prepared.credential, token: &prepared.token, authority };
    let (submission, comebacks, http) = derive::doors(&prepared.configuration, &secrets, None)?;
    let ready = Ready {
        file,
        submission,
        comebacks,
        http,
        records: prepared.configuration.records.directory.clone(),
        list: ListAt::Control(prepared.configuration.control.socket.clone()),
    };
    internet.open_comebacks(ready.comebacks.clone());
    let daemon = Daemon::start(&binary, &ready.file, &scratch.path).await?;
    Ok(Stage {
        internet,
        daemon: Some(daemon),
        ready,
        configuration: prepared.configuration,
        domains: prepared.domains,
        notes: prepared.notes,
        book,
        block: options.block,
        authority: scratch.path.join("authority.pem"),
        arrivals: None,
        _events: None,
        scratch: Some(scratch),
    })
}

/// A box that somebody else runs.
async fn elsewhere(options: &mut Options, folder: &Path) -> Result<Stage, Error> {
    let folder = Folder::open(folder)?;
    (options.seed, options.hurry, options.deadline) = folder.pace();
    options.block = folder.block();
    let (ports, fixed) = (folder.ports(), folder.fixed()?);
    let arrivals = fixed.arrivals.clone();
    let mut internet = Internet::start(InternetOptions {
        seed: options.seed,
        book: folder.book.clone(),
        hurry: options.hurry,
        block: options.block,
        port: ports.mail,
        names_port: ports.names,
        fixed: Some(fixed),
        owner: folder.owner()?,
        verify_every: options.verify_every,
    })
    .await?;
    let authority = internet.authority();
    let ready = folder.ready(authority)?;
    let at = SocketAddr::from((options.block.own(), ports.events));
    let events = Events::start(at, folder.events_secret(), &folder.records(), authority).await?;
    internet.open_comebacks(ready.comebacks.clone());
    Ok(Stage {
        internet,
        daemon: None,
        ready,
        domains: folder.domains(),
        notes: folder.notes().to_vec(),
        block: options.block,
        authority: folder.authority_file(),
        arrivals: Some(arrivals),
        _events: Some(events),
        scratch: None,
        book: folder.book,
        configuration: folder.configuration,
    })
}
