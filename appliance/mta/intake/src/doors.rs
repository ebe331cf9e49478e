//! The listeners: open, watched, reloaded while they run, closed with grace.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use postkeep_configuration::Configuration;
use postkeep_guests::Guests;
use rustls::server::ProducesTickets;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::Gatekeeper;
use crate::authentication::Authenticator;
use crate::connection::{self, Connection};
use crate::tables::{DoorKey, Tables, TablesError, door_keys};

/// Connections that the kernel keeps for each listener until they are accepted.
const BACKLOG: i32 = 1024;
/// Sockets beyond the limit, of clients that are told why they are not served; more wait in the kernel.
const REFUSED_AT_ONCE: usize = 64;
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Memory for the contents of messages that are being received, in KiB: 256 MiB.
const MEMORY: usize = 256 * 1024;

/// Why the doors cannot be opened or reloaded.
#[derive(Debug, thiserror::Error)]
pub enum DoorsError {
    /// A listener's address cannot be used.
    #[error(
        "cannot listen on {address}: {error}. Is another server there, is the address on this machine, may this user use ports below 1024?"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// A new listener's address is taken by a listener of ours that the new configuration lacks.
    #[error(
        "cannot listen on {address} while this daemon itself listens on {own}: take that listener out with one reload and add this one with the next, or restart"
    )]
    OwnListener {
        /// The address.
        address: SocketAddr,
        /// Where we listen.
        own: SocketAddr,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// No random numbers.
    #[error("cannot make random keys for TLS tickets and authentication: the cryptographic library failed")]
    Random,
}

/// How connections ended when the doors were closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseSummary {
    /// Ended by themselves within the grace.
    pub finished: usize,
    /// Cut off after it.
    pub aborted: usize,
}

/// What the doors are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// No new connections; those that are idle get 421.
    Closing,
    /// Every connection ends now.
    Aborting,
}

/// What all connections share.
pub(crate) struct Shared<G> {
    pub(crate) gatekeeper: Arc<G>,
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) guests: Arc<Guests>,
    pub(crate) authenticator: Authenticator,
    /// One permit for each KiB.
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Kept over reloads, so that clients can resume their TLS sessions.
    tickets: Arc<dyn ProducesTickets>,
}

/// The open listeners of one configuration.
pub struct Doors<G: Gatekeeper> {
    shared: Arc<Shared<G>>,
    phase: watch::Sender<Phase>,
    listeners: Mutex<Vec<OpenListener>>,
}

struct OpenListener {
    key: DoorKey,
    bound: SocketAddr,
    task: JoinHandle<()>,
}

impl<G: Gatekeeper> Doors<G> {
    /// Binds every configured listener and takes connections. Must be called inside a tokio runtime.
    /// Either all listeners are open afterwards, or none.
    pub fn open(configuration: &Configuration, gatekeeper: Arc<G>) -> Result<Self, DoorsError> {
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|_| DoorsError::Random)?;
        let tables = Tables::new(configuration, Some(&tickets))?;
        let (phase, watched) = watch::channel(Phase::Open);
        let shared = Arc::new(Shared {
            gatekeeper,
            tables: ArcSwap::from_pointee(tables),
            guests: Arc::default(),
            authenticator: Authenticator::new().map_err(|_| DoorsError::Random)?,
            memory: Arc::new(Semaphore::new(MEMORY)),
            phase: watched,
            tickets,
        });
        let doors = Self { shared, phase, listeners: Mutex::new(Vec::new()) };
        let bound = doors.bind_new(configuration)?;
        doors.replace_listeners(configuration, bound);
        Ok(doors)
    }

    /// The bound addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.lock().iter().map(|listener| listener.bound).collect()
    }

    /// Clients that are served now.
    pub fn connections(&self) -> usize {
        self.shared.guests.served()
    }

    /// Takes over a new configuration: limits, credentials, networks, certificates, listeners.
    /// Open connections see it from their next transaction on. On an error everything stays as it was.
    pub fn reload(&self, configuration: &Configuration) -> Result<(), DoorsError> {
        let tables = Tables::new(configuration, Some(&self.shared.tickets))?;
        let bound = self.bind_new(configuration)?;
        let tables = Arc::new(tables);
        self.shared.tables.store(Arc::clone(&tables));
        self.shared.authenticator.forget_others(&tables);
        self.replace_listeners(configuration, bound);
        Ok(())
    }

    /// Stops listening, lets transactions that are under way finish, cuts off what is left after `grace`.
    pub async fn close(&self, grace: Duration) -> CloseSummary {
        let before = self.connections();
        self.phase.send_replace(Phase::Closing);
        for listener in self.listeners.lock().drain(..) {
            listener.task.abort();
        }
        let guests = &self.shared.guests;
        let in_time = tokio::time::timeout(grace, guests.all_served()).await.is_ok();
        let aborted = if in_time { 0 } else { self.connections() };
        self.phase.send_replace(Phase::Aborting);
        // Cut off connections end at their next look; a second is plenty.
        let _ = tokio::time::timeout(Duration::from_secs(1), guests.fewer_sockets_than(1)).await;
        CloseSummary { finished: before.saturating_sub(aborted), aborted }
    }

    /// Binds the listeners that are not open yet.
    fn bind_new(&self, configuration: &Configuration) -> Result<HashMap<DoorKey, TcpListener>, DoorsError> {
        let open: Vec<DoorKey> = self.listeners.lock().iter().map(|listener| listener.key).collect();
        door_keys(configuration)
            .filter(|(key, _)| !open.contains(key))
            .map(|(key, _)| {
                let address = key.0;
                let listener = bind(address).map_err(|error| {
                    let in_the_way = |own: &&DoorKey| {
                        own.0.port() == address.port()
                            && own.0.is_ipv4() == address.is_ipv4()
                            && (own.0.ip().is_unspecified() || address.ip().is_unspecified())
                    };
                    match open.iter().find(in_the_way) {
                        Some(own) if error.kind() == io::ErrorKind::AddrInUse => {
                            DoorsError::OwnListener { address, own: own.0 }
                        }
                        _ => DoorsError::Listen { address, error },
                    }
                })?;
                Ok((key, listener))
            })
            .collect()
    }

    /// Starts the new listeners, stops those that are not configured any more.
    fn replace_listeners(&self, configuration: &Configuration, mut bound: HashMap<DoorKey, TcpListener>) {
        let mut listeners = self.listeners.lock();
        let mut before: HashMap<DoorKey, OpenListener> =
            listeners.drain(..).map(|listener| (listener.key, listener)).collect();
        for (key, _) in door_keys(configuration) {
            if let Some(listener) = before.remove(&key) {
                listeners.push(listener);
            } else if let Some(listener) = bound.remove(&key) {
                let address = listener.local_addr().unwrap_or(key.0);
                let task = tokio::spawn(accept(Arc::clone(&self.shared), key, address, listener));
                listeners.push(OpenListener { key, bound: address, task });
            }
        }
        for listener in before.into_values() {
            listener.task.abort();
        }
    }
}

impl<G: Gatekeeper> Drop for Doors<G> {
    fn drop(&mut self) {
        for listener in self.listeners.lock().drain(..) {
            listener.task.abort();
        }
        self.phase.send_replace(Phase::Aborting);
    }
}

/// Binds one address. An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` can stand side by side.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections of one listener until its task is aborted.
async fn accept<G: Gatekeeper>(shared: Arc<Shared<G>>, key: DoorKey, address: SocketAddr, listener: TcpListener) {
    loop {
        let limit = shared.tables.load().connections;
        shared.guests.fewer_sockets_than(limit.saturating_add(REFUSED_AT_ONCE)).await;
        match listener.accept().await {
            Ok((stream, peer)) => welcome(&shared, key, address, stream, peer),
            Err(error) => {
                log::warn!("cannot accept a connection on {address}: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn welcome<G: Gatekeeper>(
    shared: &Arc<Shared<G>>,
    key: DoorKey,
    address: SocketAddr,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let tables = shared.tables.load_full();
    let Some(door) = tables.doors.get(&key).map(Arc::clone) else {
        return;
    };
    let guest = shared.guests.enter();
    // Without it replies wait for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("cannot set TCP_NODELAY for {peer}: {error}");
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _guest = guest;
        let mut phase = shared.phase.clone();
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let connection = Connection::new(Arc::clone(&shared), tables, door, key, address, stream, peer);
        tokio::select! {
            biased;
            () = connection.run() => {}
            () = connection::reached(&mut phase, Phase::Aborting) => {}
        }
    });
}
