//! The privileged part: makes challenges, checks the owner's answers, and only then asks systemd to do something. It
//! trusts nobody who speaks to it; whoever may open its socket can ask, and can keep a network that is being tried.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use postkeep_journal::{CONSOLE_DONE, CONSOLE_FAILED, CONSOLE_REFUSED, SEALED_AT_CONSOLE};
use postkeep_notes::VerifierKey;
use postkeep_seed::{Network, Seed};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore};

use crate::bus::Bus;
use crate::challenge::{Identity, VALID};
use crate::deed::{Deed, NetworkChange, TRIAL};
use crate::facts::mac_of;
use crate::guard::Guard;
use crate::network::{Folders, merged};
use crate::watch::{SEAL, small_file};
use crate::wire::{LONGEST_LINE, Reply, Request, Who};

/// Below `/run`: the opener of a box that has custodians.
const OPENER: &str = "postkeep-opener.socket";
/// Connections at a time; a console needs one, now and then two.
const MOST_CONNECTIONS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often networkd is asked to read the old network, before that is left to the next start of this program.
const RELOADS: u32 = 4;
const BETWEEN_RELOADS: Duration = Duration::from_secs(2);
/// How long the end waits for answers that are on their way.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where the privileged part finds what it needs.
#[derive(Debug, Clone)]
pub struct Places {
    /// The seed on the open data volume: it says whose the box is.
    pub taken_seed: PathBuf,
    /// The seed of this boot, for a box that is closed or new.
    pub boot_seed: PathBuf,
    /// `/run`.
    pub run: PathBuf,
    /// A folder of its own that outlives it, below `/run`.
    pub state: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/etc/machine-id`.
    pub machine_id: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            taken_seed: "/var/lib/postkeep/etc/seed".into(),
            boot_seed: "/run/postkeep-seed/seed".into(),
            run: "/run".into(),
            state: "/run/postkeep-act".into(),
            sys: "/sys".into(),
            proc: "/proc".into(),
            machine_id: "/etc/machine-id".into(),
        }
    }
}

/// The privileged part, at work.
pub(crate) struct Act {
    places: Places,
    folders: Folders,
    identity: Identity,
    /// A bus for tests; absent: that of the system, for each deed anew, since it may have been started again.
    bus: Option<Bus>,
    start: Instant,
    valid: Duration,
    changing: Mutex<Changing>,
}

/// What one request at a time may change.
struct Changing {
    guard: Guard,
    /// When a trial ends, and which one it is.
    trial: Option<(Instant, u64)>,
    trials: u64,
    /// The network that was tried last, until it is kept.
    tried: Option<Network>,
}

impl Changing {
    fn new(valid: Duration) -> Self {
        Self { guard: Guard::new(valid), trial: None, trials: 0, tried: None }
    }
}

/// Serves at `listener` until it is told to end (SIGTERM): whoever has asked by then gets an answer. Challenges can be
/// answered for `valid`, and for no longer than [`VALID`].
///
/// # Errors
/// What broke.
pub async fn serve(listener: UnixListener, places: Places, valid: Duration) -> Result<(), String> {
    let act = Arc::new(Act::new(places, None, valid)?);
    act.recover().await;
    let seats = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut end = signal(SignalKind::terminate()).map_err(|error| format!("cannot listen to signals: {error}"))?;
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            _ = end.recv() => break,
        };
        let (stream, _) = taken.map_err(|error| format!("cannot take a connection of the console: {error}"))?;
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return Ok(()) };
        let act = Arc::clone(&act);
        tokio::spawn(async move {
            act.talk(stream).await;
            drop(seat);
        });
    }
    // Sealing ends this program too, and the screen is to hear that it is under way.
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(1);
    let _ = tokio::time::timeout(LAST_WORDS, seats.acquire_many(all)).await;
    Ok(())
}

impl Act {
    pub(crate) fn new(places: Places, bus: Option<Bus>, valid: Duration) -> Result<Self, String> {
        let identity = Identity { machine: machine(&places)?, boot: boot(&places.proc)? };
        let folders =
            Folders { networkd: places.run.join("systemd/network"), before: places.state.join("network-before") };
        Ok(Self {
            places,
            folders,
            identity,
            bus,
            start: Instant::now(),
            valid: valid.min(VALID),
            changing: Mutex::new(Changing::new(valid)),
        })
    }

    /// A trial that this program did not live to end ends now.
    pub(crate) async fn recover(&self) {
        match self.folders.bring_back() {
            Ok(false) => {}
            Ok(true) => {
                say("a network was being tried when this program ended: the old one is back");
                self.read_what_is_back().await;
            }
            Err(error) => say(&format!("cannot bring the old network back: {error}")),
        }
    }

    async fn talk(self: Arc<Self>, stream: UnixStream) {
        let (from, mut to) = stream.into_split();
        let mut line = Vec::new();
        let mut from = BufReader::new(from.take(LONGEST_LINE));
        let read = tokio::time::timeout(PATIENCE, from.read_until(b'\n', &mut line)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return;
        }
        // Never cut short: half a change of the network would be one that nothing takes back.
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => self.do_what_is_asked(request).await,
            Err(error) => Reply::Refused(format!("the part that acts does not understand this: {error}")),
        };
        let mut line = serde_json::to_vec(&reply).unwrap_or_default();
        line.push(b'\n');
        // Whoever has gone away, or does not read, does not want to know.
        let _ = tokio::time::timeout(PATIENCE, to.write_all(&line)).await;
    }

    pub(crate) async fn do_what_is_asked(self: &Arc<Self>, request: Request) -> Reply {
        match request {
            Request::Who => self.who().await,
            Request::Ask(deed) => self.ask(deed).await,
            Request::Answer { challenge, answer } => self.answer(&challenge, &answer).await,
            Request::Keep => self.keep().await,
            Request::SealNow => self.seal_now().await,
        }
    }

    /// Only where a start does not open it again by itself.
    async fn seal_now(&self) -> Reply {
        if !self.places.run.join(OPENER).exists() {
            return Reply::Refused("no custodians open this box: the owner has to allow its sealing".to_owned());
        }
        match self.start_unit(SEAL, "The machine is being sealed. Its custodians have to open it again.").await {
            Ok(said) => {
                SEALED_AT_CONSOLE.tell(format_args!("somebody at the console has the box sealed"), [&"seal"]);
                Reply::Done(said)
            }
            Err(why) => Reply::Refused(why),
        }
    }

    async fn who(&self) -> Reply {
        let trial = self.changing.lock().await.trial.map(|(until, _)| until);
        let trial = trial.map(|until| until.saturating_duration_since(Instant::now()).as_secs().max(1));
        let (owner, why) = match self.seed() {
            Ok(seed) => (Some(seed.owner.name().to_owned()), None),
            Err(why) => (None, Some(why)),
        };
        Reply::Who(Who { machine: self.identity.fingerprint(), owner, why, trial })
    }

    async fn ask(&self, deed: Deed) -> Reply {
        let checked = match self.seed() {
            Ok(seed) => match deed.check() {
                Ok(()) => self.check_network(&deed, &seed).await,
                wrong => wrong,
            },
            Err(why) => Err(why),
        };
        if let Err(why) = checked {
            return Reply::Refused(why);
        }
        let mut nonce = [0; 10];
        if aws_lc_rs::rand::fill(&mut nonce).is_err() {
            return Reply::Refused("there are no random numbers; try again".to_owned());
        }
        let mut changing = self.changing.lock().await;
        let challenge = changing.guard.issue(deed, self.identity, nonce, self.start.elapsed(), Timestamp::now());
        say(&format!("asked at the console: {}", challenge.deed.lines().join(", ")));
        Reply::Challenge { code: challenge.to_code(), lines: challenge.deed.lines(), valid: self.valid.as_secs() }
    }

    async fn answer(self: &Arc<Self>, challenge: &str, answer: &str) -> Reply {
        // Asked now: a data volume that was opened since says whose the box is, whatever was said before.
        let owner: VerifierKey = match self.seed() {
            Ok(seed) => seed.owner,
            Err(why) => return Reply::Refused(why),
        };
        let mut changing = self.changing.lock().await;
        match changing.guard.judge(challenge, answer, self.identity, &owner, self.start.elapsed()) {
            Err(refusal) => {
                CONSOLE_REFUSED.tell(format_args!("an answer at the console was refused: {refusal}"), [&refusal]);
                Reply::Refused(refusal.to_string())
            }
            Ok(deed) => {
                say(&format!("allowed by {}: {}", owner.name(), deed.lines().join(", ")));
                let done = match &deed {
                    Deed::Reboot => self.start_unit("reboot.target", "The machine starts again.").await,
                    Deed::PowerOff => self.start_unit("poweroff.target", "The machine is being switched off.").await,
                    Deed::Seal => self.start_unit(SEAL, "The machine is being sealed.").await,
                    Deed::Network(change) => self.try_network(change, &mut changing).await,
                };
                let (name, what) = (owner.name(), deed.lines().join(", "));
                match done {
                    Ok(said) => {
                        CONSOLE_DONE.tell(format_args!("allowed by {name} at the console: {what}"), [&name, &what]);
                        Reply::Done(said)
                    }
                    Err(why) => {
                        CONSOLE_FAILED.tell(
                            format_args!("allowed by {name} at the console, and not done: {what}: {why}"),
                            [&name, &what, &why],
                        );
                        Reply::Refused(format!("allowed, and not done: {why}"))
                    }
                }
            }
        }
    }

    async fn start_unit(&self, unit: &str, said: &str) -> Result<String, String> {
        // What is on its way down is not called back by something that starts.
        let mode = if unit == SEAL { "replace" } else { "replace-irreversibly" };
        self.bus().await?.start(unit, mode).await.map(|()| said.to_owned())
    }

    async fn bus(&self) -> Result<Bus, String> {
        match &self.bus {
            Some(bus) => Ok(bus.clone()),
            None => Bus::system().await,
        }
    }

    /// The seed that says whose the box is.
    fn seed(&self) -> Result<Seed, String> {
        let octets = match small_file(&self.places.taken_seed)? {
            Some(octets) => octets,
            None => small_file(&self.places.boot_seed)?
                .ok_or("there is no seed, so nobody is known as the owner; flash the box with one")?,
        };
        // Both were checked when they were taken; that one has expired since says nothing about whose the box is.
        Seed::open(&octets, None, Timestamp::MIN).map_err(|error| format!("nobody is known as the owner: {error}"))
    }

    async fn changed(&self, change: &NetworkChange, seed: &Seed) -> Network {
        let mac = match self.bus().await {
            Ok(bus) => bus.describe_network().await.ok().and_then(|said| mac_of(&said, &change.interface)),
            Err(_) => None,
        };
        let kept = small_file(&self.kept()).ok().flatten();
        let now = kept.and_then(|octets| serde_json::from_slice(&octets).ok()).unwrap_or_else(|| seed.network.clone());
        merged(&now, change, mac)
    }

    async fn check_network(&self, deed: &Deed, seed: &Seed) -> Result<(), String> {
        match deed {
            Deed::Network(change) => self.changed(change, seed).await.check(),
            _ => Ok(()),
        }
    }

    async fn try_network(self: &Arc<Self>, change: &NetworkChange, changing: &mut Changing) -> Result<String, String> {
        if changing.trial.is_some() {
            return Err("another network is being tried; keep it or wait until it has gone back".to_owned());
        }
        let seed = self.seed()?;
        let network = self.changed(change, &seed).await;
        network.check()?;
        let is_open = seed.network.interfaces.is_empty();
        let replaced =
            self.folders.replace(&network, is_open).map_err(|error| format!("cannot write the new network: {error}"));
        let applied = match replaced {
            Ok(()) => match self.bus().await {
                Ok(bus) => bus.reload_network().await,
                Err(why) => Err(why),
            },
            Err(why) => Err(why),
        };
        if let Err(why) = applied {
            self.go_back().await;
            return Err(format!("{why}; the old network is back"));
        }
        changing.trials += 1;
        let number = changing.trials;
        changing.trial = Some((Instant::now() + TRIAL, number));
        changing.tried = Some(network);
        let act = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(TRIAL).await;
            act.end_trial(number).await;
        });
        Ok(format!(
            "The new network of {} is being tried: keep it within {} s, or it goes back.",
            change.interface,
            TRIAL.as_secs()
        ))
    }

    pub(crate) async fn end_trial(&self, number: u64) {
        let mut changing = self.changing.lock().await;
        if changing.trial.is_some_and(|(_, running)| running == number) {
            changing.trial = None;
            changing.tried = None;
            say("nobody has kept the new network: the old one goes back");
            self.go_back().await;
        }
    }

    async fn go_back(&self) {
        match self.folders.bring_back() {
            Ok(_) => self.read_what_is_back().await,
            // What was put away stays so, for the next start of this program.
            Err(error) => say(&format!("cannot bring the old network back: {error}")),
        }
    }

    /// Has networkd read the files that are back; only then are they no longer kept. Should it not do so, the next start of this
    /// program begins here ([`Self::recover`]).
    async fn read_what_is_back(&self) {
        for turn in 1..=RELOADS {
            let reloaded = match self.bus().await {
                Ok(bus) => bus.reload_network().await,
                Err(why) => Err(why),
            };
            match reloaded {
                Ok(()) => {
                    if let Err(error) = self.folders.keep() {
                        say(&format!("the files of the old network cannot be removed: {error}"));
                    }
                    return;
                }
                Err(why) => say(&format!("the old network is not in use yet (try {turn} of {RELOADS}): {why}")),
            }
            if turn < RELOADS {
                tokio::time::sleep(BETWEEN_RELOADS).await;
            }
        }
    }

    async fn keep(&self) -> Reply {
        let mut changing = self.changing.lock().await;
        if changing.trial.is_none() {
            return Reply::Refused("no network is being tried: it has gone back already, or was kept".to_owned());
        }
        if let Err(error) = self.folders.keep() {
            return Reply::Refused(format!("cannot keep the new network: {error}"));
        }
        changing.trial = None;
        if let Some(network) = changing.tried.take()
            && let Ok(octets) = serde_json::to_vec(&network)
            && let Err(error) = std::fs::write(self.kept(), octets)
        {
            say(&format!("the next change at the console will start from the seed's network: {error}"));
        }
        say("the new network is kept until the next start");
        Reply::Done("The new network is kept until the next start; put it into the seed to keep it longer.".to_owned())
    }

    fn kept(&self) -> PathBuf {
        self.places.state.join("network-kept")
    }
}

/// Which machine it is, by what its firmware says; by its machine-id where the firmware says nothing.
fn machine(places: &Places) -> Result<[u8; 16], String> {
    let told = |name: &str| {
        let octets = small_file(&places.sys.join("class/dmi/id").join(name)).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&octets).trim().to_owned()
    };
    let (uuid, serial) = (told("product_uuid"), told("product_serial"));
    let named = if uuid.is_empty() && serial.is_empty() {
        let octets = small_file(&places.machine_id)?.unwrap_or_default();
        format!("id {}", String::from_utf8_lossy(&octets).trim())
    } else {
        format!("uuid {uuid}\nserial {serial}")
    };
    let sum = digest(&SHA256, format!("Postkeep machine\n{named}\n").as_bytes());
    sum.as_ref()[..16].try_into().map_err(|_| "the machine has no fingerprint".to_owned())
}

fn boot(proc: &Path) -> Result<[u8; 16], String> {
    let path = proc.join("sys/kernel/random/boot_id");
    let wrong = || format!("{} does not say which boot this is; without it no answer can be asked for", path.display());
    let octets = small_file(&path)?.ok_or_else(wrong)?;
    let digits: String = String::from_utf8_lossy(&octets).trim().chars().filter(|digit| *digit != '-').collect();
    let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
    Ok(number.to_be_bytes())
}

/// The journal reads standard error; who speaks is said by the unit.
fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
#[path = "act_tests.rs"]
mod tests;
