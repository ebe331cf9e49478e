//! Which servers are asked: those of the settings, or those that the system names in `/etc/resolv.conf`.
//!
//! The system's change when its network does, perhaps long after the start: the file is looked at again every few seconds. As long
//! as it names none, the last ones are asked; before there were any, mail waits.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::system_conf::parse_resolv_conf;
use postkeep_configuration::{Dnssec, Resolver as Settings};

use super::names::{ResolverError, VALIDATES};

const SYSTEM: &str = "/etc/resolv.conf";
/// The system's file is looked at again no sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// More is in no such file.
const LONGEST_FILE: u64 = 64 * 1024;

/// The servers, as they are now.
pub(super) struct Servers {
    settings: Settings,
    anchors: Option<Arc<TrustAnchors>>,
    current: ArcSwapOption<Asked>,
    system: Option<System>,
}

/// Who asks one set of servers.
pub(super) struct Asked {
    /// Takes answers as they come.
    pub(super) plain: TokioResolver,
    /// Takes answers whose signatures are right.
    pub(super) validating: Option<TokioResolver>,
    /// What is known of the servers.
    pub(super) probe: Probe,
}

/// What is known of the servers, for `dnssec = "auto"`.
#[derive(Default)]
pub(super) struct Probe {
    /// Whether they pass signatures on; 0: nobody has asked.
    pub(super) verdict: AtomicU8,
    /// When to ask again.
    pub(super) again: AtomicU64,
    /// Held by whoever asks; the others wait for what is found.
    pub(super) asking: tokio::sync::Mutex<()>,
}

struct System {
    path: PathBuf,
    /// When this began, by a clock that nobody sets.
    begun: Instant,
    /// When to look again, in milliseconds since then.
    again: AtomicU64,
    /// Guards what the file said last, and who may act on it: two that see a change make one set of servers of it.
    seen: Mutex<Option<Vec<u8>>>,
}

impl Servers {
    pub(super) fn new(settings: &Settings) -> Result<Self, ResolverError> {
        Self::of(settings, Path::new(SYSTEM))
    }

    fn of(settings: &Settings, system: &Path) -> Result<Self, ResolverError> {
        let anchors = match settings.dnssec {
            Dnssec::Off => None,
            Dnssec::Auto | Dnssec::Required => {
                let anchors = settings.trust_anchors.as_deref().map(read_anchors).transpose()?;
                Some(Arc::new(anchors.unwrap_or_default()))
            }
        };
        let mut servers = Self { settings: settings.clone(), anchors, current: ArcSwapOption::empty(), system: None };
        if settings.servers.is_empty() {
            let (begun, again, seen) = (Instant::now(), AtomicU64::new(0), Mutex::new(None));
            let system = System { path: system.to_owned(), begun, again, seen };
            // Now, and not when the first names are asked for all at once.
            servers.follow(&system);
            servers.system = Some(system);
        } else {
            let named = settings.servers.iter().map(|address| name_server(*address)).collect();
            servers.current.store(Some(Arc::new(servers.build(&ResolverConfig::from_name_servers(named))?)));
        }
        Ok(servers)
    }

    /// Who is to be asked now.
    ///
    /// # Errors
    /// No servers are known.
    pub(super) fn asked(&self) -> Result<Arc<Asked>, NetError> {
        if let Some(system) = &self.system {
            self.follow(system);
        }
        self.current.load_full().ok_or(NetError::Message(
            "no DNS servers are known: /etc/resolv.conf names none, and [resolver] servers is empty",
        ))
    }

    /// Takes what the system's file says, if that is something else than it said before.
    fn follow(&self, system: &System) {
        let now = system.begun.elapsed();
        if now.as_millis() < u128::from(system.again.load(Ordering::Relaxed)) {
            return;
        }
        let again = u64::try_from((now + LOOK_AGAIN).as_millis()).unwrap_or(u64::MAX);
        system.again.store(again, Ordering::Relaxed);
        let said = postkeep_files::beginning(&system.path, LONGEST_FILE).unwrap_or_default();
        let mut seen = system.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref() == Some(&said) {
            return;
        }
        match parse_resolv_conf(&said).and_then(|(config, _)| self.build(&config)) {
            Ok(asked) => {
                // Whoever brings servers that pass no signatures on may delay mail, not redirect it.
                let before = self.current.load();
                if before.as_ref().is_some_and(|before| before.probe.verdict.load(Ordering::Relaxed) == VALIDATES) {
                    asked.probe.verdict.store(VALIDATES, Ordering::Relaxed);
                }
                self.current.store(Some(Arc::new(asked)));
                if seen.is_some() {
                    log::info!("dns: the servers of {} are asked from now on", system.path.display());
                }
            }
            Err(error) => log::warn!(
                "dns: {} names no servers that could be asked ({error}); {}",
                system.path.display(),
                if self.current.load().is_some() { "those before are asked" } else { "mail waits until it does" }
            ),
        }
        *seen = Some(said);
    }

    fn build(&self, config: &ResolverConfig) -> Result<Asked, NetError> {
        let build = |anchors: Option<Arc<TrustAnchors>>| {
            let mut builder = TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default());
            let options = builder.options_mut();
            options.timeout = self.settings.timeout.as_std();
            options.attempts = self.settings.attempts as usize;
            options.cache_size = self.settings.cache_entries.into();
            options.edns0 = true;
            match anchors {
                Some(anchors) => builder.with_trust_anchor(anchors).build(),
                None => builder.build(),
            }
        };
        let validating = self.anchors.clone().map(|anchors| build(Some(anchors))).transpose()?;
        Ok(Asked { plain: build(None)?, validating, probe: Probe::default() })
    }
}

fn read_anchors(path: &Path) -> Result<TrustAnchors, ResolverError> {
    let failed = |why: String| ResolverError::TrustAnchors { path: path.display().to_string(), why };
    let anchors = TrustAnchors::from_file(path).map_err(|error| failed(error.to_string()))?;
    if anchors.is_empty() {
        return Err(failed("there is no key in it".to_owned()));
    }
    Ok(anchors)
}

fn name_server(address: std::net::SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Lets the next look happen now.
    fn look_again(servers: &Servers) {
        servers.system.as_ref().unwrap().again.store(0, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn servers_that_the_system_learns_of_later_are_asked_then_and_kept_when_it_forgets_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let servers = Servers::of(&Settings::default(), &file).unwrap();
        let why = servers.asked().err().unwrap().to_string();
        assert!(why.contains("no DNS servers are known"), "{why}");

        fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
        assert!(servers.asked().is_err(), "not looked at again so soon");
        look_again(&servers);
        let first = servers.asked().unwrap();
        look_again(&servers);
        assert!(Arc::ptr_eq(&first, &servers.asked().unwrap()), "nothing has changed, and the answers are kept");

        fs::write(&file, "# the network is down\n").unwrap();
        look_again(&servers);
        assert!(Arc::ptr_eq(&first, &servers.asked().unwrap()));

        fs::write(&file, "nameserver 192.0.2.54\nnameserver 2001:db8::53\n").unwrap();
        look_again(&servers);
        assert!(!Arc::ptr_eq(&first, &servers.asked().unwrap()));
    }

    #[tokio::test]
    async fn other_servers_do_not_take_back_that_answers_are_validated() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
        let servers = Servers::of(&Settings::default(), &file).unwrap();
        servers.asked().unwrap().probe.verdict.store(VALIDATES, Ordering::Relaxed);
        fs::write(&file, "nameserver 192.0.2.66\n").unwrap();
        look_again(&servers);
        assert_eq!(servers.asked().unwrap().probe.verdict.load(Ordering::Relaxed), VALIDATES);
    }

    #[tokio::test]
    async fn servers_of_the_settings_are_asked_whatever_the_system_says() {
        let settings = Settings { servers: vec!["192.0.2.53:53".parse().unwrap()], ..Settings::default() };
        let servers = Servers::of(&settings, Path::new("/nonexistent/resolv.conf")).unwrap();
        assert!(servers.system.is_none() && servers.asked().is_ok());
    }
}
