//! One connection: reads, hands lines and content to the pure parts, writes the replies.
//!
//! All complete commands in the buffer are answered before anything is written, so a
//! pipelined group costs one write. Content is cut out of the read buffer, not copied.

mod clerk;
mod content;
mod reading;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use postkeep_guests::{NoSeat, Seat};
use postkeep_smtp::Reply;
use postkeep_smtp::command::{Line, LineReader};
use postkeep_smtp::proxy;
use postkeep_smtp::server::{Action, Session, Stage};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::doors::{Phase, Shared};
use crate::tables::{Door, DoorKey, Tables};
use crate::transport::Transport;
use crate::{Gatekeeper, Refused, TlsSummary};
use clerk::Clerk;
use reading::Fill;

/// How long a proxy may take for its header.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last words may take to be sent, and the client to close.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Octets of a client that goes on speaking that are read and dropped, so that it gets the last words.
const MAXIMUM_DRAINED: usize = 256 * 1024;
/// Clients being turned away at one time from which on each gets its last words and no more.
const CROWD: usize = 32;
/// How long these words may take.
const CROWD_TIMEOUT: Duration = Duration::from_millis(50);
/// How long a TLS handshake may take; less when the command time-out is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Replies are written before there are more than this many octets of them.
const MAXIMUM_OUTPUT: usize = 32 * 1024;

/// Whether the connection goes on.
type Flow = Result<(), End>;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// Replies that are written already, or are in the output, are the last.
    Closed,
    /// The client went away, or the socket failed.
    Lost(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// One client.
pub(crate) struct Connection<G: Gatekeeper> {
    shared: Arc<Shared<G>>,
    tables: Arc<Tables>,
    door: Arc<Door>,
    key: DoorKey,
    /// The local address, for counters.
    address: SocketAddr,
    /// The client; behind a proxy, the one that it names.
    peer: SocketAddr,
    transport: Transport,
    tls: Option<TlsSummary>,
    session: Session,
    lines: LineReader,
    input: BytesMut,
    /// The buffer under `input` is too large to be kept.
    has_grown: bool,
    output: BytesMut,
    phase: watch::Receiver<Phase>,
    /// The end of its life.
    deadline: Instant,
}

impl<G: Gatekeeper> Connection<G> {
    pub(crate) fn new(
        shared: Arc<Shared<G>>,
        tables: Arc<Tables>,
        door: Arc<Door>,
        key: DoorKey,
        address: SocketAddr,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Self {
        let phase = shared.phase.clone();
        let deadline = Instant::now() + tables.session_timeout;
        Self {
            shared,
            tables,
            door,
            key,
            address,
            peer,
            transport: Transport::Plain(stream),
            tls: None,
            session: Session::new(),
            lines: LineReader::default(),
            input: BytesMut::new(),
            has_grown: false,
            output: BytesMut::new(),
            phase,
            deadline,
        }
    }

    /// Serves the client to the end.
    pub(crate) async fn run(mut self) {
        let seat = match self.admit().await {
            Ok(seat) => seat,
            Err(end) => {
                log::debug!("connection from {} ended before its greeting: {end:?}", self.peer);
                return;
            }
        };
        let (address, peer) = (self.address, self.peer);
        let shared = Arc::clone(&self.shared);
        shared.gatekeeper.connection_opened(address, peer);
        // Also when the task is cut off in the middle.
        let farewell = Farewell { gatekeeper: &*shared.gatekeeper, address, peer, _seat: seat };
        let served = self.serve().await;
        drop(farewell);
        match served {
            Ok(()) | Err(End::Closed) => self.part().await,
            Err(End::Lost(error)) => log::debug!("connection from {peer} lost: {error}"),
        }
    }

    /// Before the greeting: proxy, limits, implicit TLS.
    async fn admit(&mut self) -> Result<Seat, End> {
        if !self.door.proxies.is_empty() {
            let ip = self.peer.ip();
            if !self.door.proxies.iter().any(|network| network.contains(&ip)) {
                return self.turn_away(554, (5, 7, 1), "this door is for listed proxies only".to_owned()).await;
            }
            match timeout(PROXY_TIMEOUT, self.proxy_header()).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return self.turn_away(554, (5, 7, 1), reason).await,
                Err(_) => return self.turn_away(421, (4, 4, 2), "no PROXY header came in time".to_owned()).await,
            }
        }
        let (limit, share) = (self.tables.connections, self.tables.connections_per_address);
        let seat = match self.shared.guests.seat(self.peer.ip(), limit, share) {
            Ok(seat) => seat,
            Err(NoSeat::Full) => {
                return self.turn_away(421, (4, 7, 0), format!("too many connections: {limit} are open")).await;
            }
            Err(NoSeat::AddressFull) => {
                let text = format!("too many connections from your address: {share} are open");
                return self.turn_away(421, (4, 7, 0), text).await;
            }
        };
        if self.door.implicit_tls {
            self.start_tls().await?;
        }
        Ok(seat)
    }

    /// Says why nobody serves here, as far as it can be said: under implicit TLS it cannot.
    async fn turn_away<T>(&mut self, code: u16, enhanced: (u8, u16, u16), text: String) -> Result<T, End> {
        let reply = Reply::new(code, enhanced, text);
        self.shared.gatekeeper.refused(Refused {
            peer: self.peer,
            stage: Stage::Connect,
            sender: None,
            recipient: None,
            credential: None,
            reply: &reply,
        });
        if !self.door.implicit_tls {
            reply.write_to(&mut self.output);
            // In a crowd nobody is waited for: those who linger would keep everybody else out.
            if self.shared.guests.not_served() < CROWD {
                self.part().await;
            } else {
                let _ = timeout(CROWD_TIMEOUT, self.transport.write(&self.output)).await;
            }
        }
        Err(End::Closed)
    }

    /// Writes the last words and waits a moment for the client to close: a socket that is closed with
    /// octets unread is reset, and the client may lose what it was told.
    async fn part(&mut self) {
        let _ = timeout(GOODBYE_TIMEOUT, async {
            if !self.output.is_empty() && self.transport.write(&self.output).await.is_err() {
                return;
            }
            self.transport.shut_down().await;
            let mut drained = 0;
            while drained < MAXIMUM_DRAINED {
                self.input.clear();
                self.input.reserve(4096);
                match self.transport.read(&mut self.input).await {
                    Ok(count) if count > 0 => drained += count,
                    _ => return,
                }
            }
        })
        .await;
    }

    /// Reads the PROXY header, not one octet more: what follows may be TLS.
    async fn proxy_header(&mut self) -> Result<(), String> {
        let Transport::Plain(stream) = &mut self.transport else {
            return Err("TLS came before the PROXY header".to_owned());
        };
        let mut octets = vec![0u8; 16];
        let failed = |error: io::Error| format!("the PROXY header could not be read: {error}");
        stream.read_exact(&mut octets).await.map_err(failed)?;
        let mut header = proxy::parse(&octets).map_err(|error| error.to_string())?;
        if header.is_none() {
            let length = octets.get(14..16).map_or(0, |length| usize::from(length[0]) << 8 | usize::from(length[1]));
            octets.resize(16 + length, 0);
            stream.read_exact(octets.get_mut(16..).unwrap_or_default()).await.map_err(failed)?;
            header = proxy::parse(&octets).map_err(|error| error.to_string())?;
        }
        match header {
            Some(header) if header.is_local => {}
            Some(proxy::ProxyHeader { addresses: Some((client, _)), .. }) => self.peer = client,
            // It must not be taken for the proxy, which may be in a network that may send.
            _ => return Err("the PROXY header names no client with an IP address".to_owned()),
        }
        Ok(())
    }

    async fn start_tls(&mut self) -> Flow {
        let Some(acceptor) = self.door.tls.clone() else {
            return Err(End::Closed);
        };
        let limit = HANDSHAKE_TIMEOUT.min(self.tables.command_timeout);
        match timeout(limit, self.transport.start_tls(&acceptor)).await {
            Ok(Ok(summary)) => {
                self.tls = Some(summary);
                self.session.tls_started();
                Ok(())
            }
            Ok(Err(error)) => Err(End::Lost(error)),
            Err(_) => Err(End::Lost(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn serve(&mut self) -> Flow {
        self.session.greet(&self.door.rules, &mut self.output);
        loop {
            self.answer_all().await?;
            self.refresh();
            match self.fill_line().await? {
                Fill::Octets => {}
                Fill::Ended => return Ok(()),
                Fill::TimedOut => return self.say_goodbye((4, 4, 2), "no command came in time"),
                Fill::Over => return self.say_goodbye((4, 4, 2), "the session has lasted too long; connect again"),
                Fill::Closing => return self.say_goodbye((4, 3, 2), "this server is shutting down; try again later"),
            }
        }
    }

    /// Answers every complete line that is in the buffer.
    async fn answer_all(&mut self) -> Flow {
        loop {
            match self.lines.next(&mut self.input) {
                Line::Partial => return Ok(()),
                Line::Complete(length) => {
                    let action = self.answer(length);
                    self.act(action).await?;
                }
                Line::BareLineFeed => self.bad_line("a command line ends with CRLF, not with a bare LF")?,
                Line::TooLong => self.bad_line("the command line is too long")?,
                Line::Endless => return self.endless_line(),
            }
            if self.output.len() > MAXIMUM_OUTPUT {
                self.flush().await?;
            }
        }
    }

    fn answer(&mut self, length: usize) -> Action {
        let mut clerk = Clerk::new(&self.shared, &self.tables, &self.door, self.peer);
        let line = self.input.get(..length).unwrap_or_default();
        let action = self.session.line(line, &self.door.rules, &mut clerk, &mut self.output);
        self.input.advance((length + 2).min(self.input.len()));
        action
    }

    fn bad_line(&mut self, reason: &str) -> Flow {
        let mut clerk = Clerk::new(&self.shared, &self.tables, &self.door, self.peer);
        match self.session.bad_line(reason, &self.door.rules, &mut clerk, &mut self.output) {
            Action::Continue => Ok(()),
            _ => Err(End::Closed),
        }
    }

    fn endless_line(&mut self) -> Flow {
        self.bad_line("the command line has no end")?;
        Err(End::Closed)
    }

    async fn act(&mut self, action: Action) -> Flow {
        match action {
            Action::Continue => Ok(()),
            Action::Close => Err(End::Closed),
            Action::StartTls => {
                // What came in plain text after STARTTLS was not said under TLS (CVE-2011-0411).
                self.input.clear();
                self.lines = LineReader::default();
                self.flush().await?;
                self.start_tls().await
            }
            Action::CheckPassword { name, password } => {
                let tables = self.shared.tables.load_full();
                let result = self.shared.authenticator.check(&tables, &name, password).await;
                let mut clerk = Clerk::new(&self.shared, &self.tables, &self.door, self.peer);
                let action = self.session.authenticated(&name, result, &self.door.rules, &mut clerk, &mut self.output);
                if action == Action::Continue { Ok(()) } else { Err(End::Closed) }
            }
            Action::ReadData => self.read_data().await,
            Action::ReadChunk { size, last } => self.read_chunks(size, last).await,
            Action::SkipChunk { size, reply } => self.skip_chunk(size, &reply).await,
        }
    }

    /// Between transactions a reloaded configuration is taken over.
    fn refresh(&mut self) {
        if self.session.is_in_transaction() {
            return;
        }
        let tables = self.shared.tables.load();
        if !Arc::ptr_eq(&tables, &self.tables) {
            // A door that is not configured any more serves those who are in by its old rules.
            if let Some(door) = tables.doors.get(&self.key) {
                self.door = Arc::clone(door);
            }
            self.tables = Arc::clone(&tables);
        }
    }

    /// The last words of this side, unasked.
    fn say_goodbye(&mut self, enhanced: (u8, u16, u16), text: &str) -> Flow {
        let reply = Reply::new(421, enhanced, format!("{} {text}", self.door.rules.hostname));
        if self.session.is_in_transaction() {
            self.shared.gatekeeper.refused(Refused {
                peer: self.peer,
                stage: Stage::Command,
                sender: self.session.sender(),
                recipient: None,
                credential: self.session.credential(),
                reply: &reply,
            });
        }
        reply.write_to(&mut self.output);
        Err(End::Closed)
    }
}

/// Waits until the doors are in that phase or beyond.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // The sender is gone only when the doors are.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

/// Tells the gatekeeper that the connection has ended, however it did.
struct Farewell<'a, G: Gatekeeper> {
    gatekeeper: &'a G,
    address: SocketAddr,
    peer: SocketAddr,
    _seat: Seat,
}

impl<G: Gatekeeper> Drop for Farewell<'_, G> {
    fn drop(&mut self) {
        self.gatekeeper.connection_closed(self.address, self.peer);
    }
}
