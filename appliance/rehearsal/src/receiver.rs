//! The thin edge of a simulated MX host: sockets, TLS and the framing of
//! data. Every decision is asked of `mailbox`; every fact is told to the
//! ledger, the judge and the verifier.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::wire::{Stream, unstuff, write_reply};
use crate::internet::Shared;
use crate::judge::LaneKey;
use crate::mailbox::{Answer, Session, Then};
use crate::rulebook::{Certificate, Host};

mod arrival;
mod wire;

/// Longest command line (RFC 5321 §4.5.3.1.4, with room for extensions).
const LONGEST_COMMAND: usize = 4096;
/// Most octets of one message that are kept, whatever a provider announces.
const LARGEST_MESSAGE: usize = 64 << 20;
/// Wait for a sender that says nothing.
const PATIENCE: Duration = Duration::from_secs(300);
/// Wait for a sender to hang up after the last reply.
const FAREWELL: Duration = Duration::from_millis(500);

/// TLS counts of one provider.
#[derive(Debug, Default)]
pub(crate) struct TlsTally {
    pub(crate) sessions: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// One MX host as the edge needs it.
pub(crate) struct Door {
    pub(crate) shared: Arc<Shared>,
    pub(crate) provider: usize,
    pub(crate) site: usize,
    pub(crate) host: Host,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// Accepts connections until the task is ended.
pub(crate) async fn serve(listener: TcpListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let visit = Visit::enter(&door, &stream, peer);
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    let mut visit = visit;
                    if let Err(error) = visit.run(&door, stream).await {
                        log::debug!("{}: connection from {peer} ended: {error}", door.host.name);
                    }
                });
            }
            Err(error) => {
                log::warn!("{}: cannot accept a connection: {error}", door.host.name);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection, from accept to close. Dropping it tells the judge that it is over.
struct Visit {
    shared: Arc<Shared>,
    id: u64,
    lane: LaneKey,
    source: IpAddr,
    open: u32,
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    chunks: Vec<u8>,
    pipelined: bool,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.shared.left(self.id, &self.lane);
    }
}

/// How reading a message ended.
enum Read {
    Whole(Vec<u8>),
    Dropped,
}

impl Visit {
    fn enter(door: &Door, stream: &TcpStream, peer: SocketAddr) -> Self {
        let shared = Arc::clone(&door.shared);
        let source = peer.ip();
        let lane = LaneKey { source: shared.source_name(source), provider: door.provider, site: door.site };
        let handle: Option<OwnedFd> = stream.as_fd().try_clone_to_owned().ok();
        let (id, open) = shared.entered(lane.clone(), handle);
        Self {
            shared,
            id,
            lane,
            source,
            open,
            stream: Stream::Gone,
            input: BytesMut::with_capacity(4096),
            output: BytesMut::new(),
            chunks: Vec::new(),
            pipelined: false,
        }
    }

    async fn run(&mut self, door: &Door, stream: TcpStream) -> io::Result<()> {
        self.stream = Stream::Plain(stream);
        let mut session = Session::new(door.site, door.host.clone(), self.source);
        let greeting = {
            let mut mailboxes = self.shared.mailboxes(door.provider);
            mailboxes.connect(door.site, &door.host.name, self.source, self.open, self.shared.now())
        };
        let mut then = self.answer(greeting).await?;
        loop {
            match then {
                Then::Continue => {
                    let Some(line) = self.line().await? else { return Ok(()) };
                    let answer = self.command(door, &mut session, &line);
                    then = self.answer(answer).await?;
                }
                Then::StartTls => {
                    if !self.start_tls(door).await? {
                        return Ok(());
                    }
                    session.tls_started();
                    then = Then::Continue;
                }
                Then::ReadData { drop_after } => match self.data(drop_after).await? {
                    Read::Whole(message) => then = self.finish(door, &mut session, message).await?,
                    Read::Dropped => return Ok(()),
                },
                Then::ReadChunk { size, last, drop_after } => {
                    if !self.chunk(size, drop_after).await? {
                        return Ok(());
                    }
                    if last {
                        let message = std::mem::take(&mut self.chunks);
                        then = self.finish(door, &mut session, message).await?;
                    } else {
                        let answer = session.chunk(size);
                        then = self.answer(answer).await?;
                    }
                }
                Then::Close => return self.farewell().await,
                Then::Drop => return Ok(()),
            }
        }
    }

    fn command(&mut self, door: &Door, session: &mut Session, line: &[u8]) -> Answer {
        let now = self.shared.now();
        let mut mailboxes = self.shared.mailboxes(door.provider);
        let chunk = line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"));
        if !chunk {
            self.chunks.clear();
            let offered = mailboxes.rules().capabilities.iter().any(|word| word == "PIPELINING");
            if !offered && !self.input.is_empty() && !self.pipelined {
                self.pipelined = true;
                session.protocol_fault(&mut mailboxes, "commands were sent ahead to a host without PIPELINING");
            }
        }
        let before = session.counts();
        let answer = session.command(&mut mailboxes, line, now);
        drop(mailboxes);
        let after = session.counts();
        if after.messages > before.messages {
            self.shared.judged(|judge| judge.message(&self.lane, after.messages, now));
        }
        if after.recipients > before.recipients {
            self.shared.judged(|judge| judge.recipient(&self.lane, after.recipients, now));
        }
        answer
    }

    /// Writes a reply; what is pipelined is answered in one piece.
    async fn answer(&mut self, answer: Answer) -> io::Result<Then> {
        if !answer.delay.is_zero() {
            self.flush().await?;
            tokio::time::sleep(answer.delay).await;
        }
        if let Some(text) = &answer.reply {
            write_reply(&mut self.output, text);
        }
        let more = answer.then == Then::Continue && memchr::memchr(b'\n', &self.input).is_some();
        if !more {
            self.flush().await?;
        }
        Ok(answer.then)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.input.reserve(16 << 10);
        match tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await {
            Ok(read) => read,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// A command line without its line end; `None` at the end of the connection.
    async fn line(&mut self) -> io::Result<Option<BytesMut>> {
        loop {
            if let Some(place) = memchr::memchr(b'\n', &self.input) {
                let mut line = self.input.split_to(place + 1);
                line.truncate(place);
                if line.last() == Some(&b'\r') {
                    line.truncate(place - 1);
                }
                return Ok(Some(line));
            }
            if self.input.len() > LONGEST_COMMAND {
                return Err(io::Error::other("command line too long"));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether TLS is up.
    async fn start_tls(&mut self, door: &Door) -> io::Result<bool> {
        // Whatever was sent ahead in the clear must not count (RFC 3207 §4.2).
        self.input.clear();
        let tally = self.shared.tls(door.provider);
        let Some(config) = &door.tls else {
            if door.host.certificate == Certificate::Broken {
                tally.failures.fetch_add(1, Ordering::Relaxed);
                self.stream.write_all(b"\x15\x03\x01 this is not TLS\r\n").await?;
            }
            return Ok(false);
        };
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else { return Ok(false) };
        let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
        match tokio::time::timeout(Duration::from_secs(30), handshake).await {
            Ok(Ok(stream)) => {
                tally.sessions.fetch_add(1, Ordering::Relaxed);
                self.stream = Stream::Tls(Box::new(stream));
                Ok(true)
            }
            Ok(Err(error)) => {
                tally.failures.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
            Err(_) => {
                tally.failures.fetch_add(1, Ordering::Relaxed);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Reads up to the final dot and undoes dot-stuffing (RFC 5321 §4.5.2).
    async fn data(&mut self, drop_after: Option<usize>) -> io::Result<Read> {
        let mut searched = 0;
        loop {
            if self.input.starts_with(b".\r\n") {
                self.input.advance(3);
                return Ok(Read::Whole(Vec::new()));
            }
            let from = searched.min(self.input.len());
            let window = self.input.get(from..).unwrap_or_default();
            if let Some(place) = memchr::memmem::find(window, b"\r\n.\r\n") {
                let raw = self.input.split_to(from + place + 2);
                self.input.advance(3);
                if drop_after.is_some() {
                    return Ok(Read::Dropped);
                }
                return Ok(Read::Whole(unstuff(&raw)));
            }
            searched = self.input.len().saturating_sub(4);
            if drop_after.is_some_and(|limit| self.input.len() >= limit) {
                return Ok(Read::Dropped);
            }
            if self.input.len() > LARGEST_MESSAGE {
                return Err(io::Error::other("message too large"));
            }
            if self.fill().await? == 0 {
                return Ok(Read::Dropped);
            }
        }
    }

    /// Reads one chunk; `false` when the connection is over.
    async fn chunk(&mut self, size: usize, drop_after: Option<usize>) -> io::Result<bool> {
        if self.chunks.len().saturating_add(size) > LARGEST_MESSAGE {
            return Err(io::Error::other("message too large"));
        }
        while self.input.len() < size {
            if drop_after.is_some_and(|limit| self.input.len() >= limit) {
                return Ok(false);
            }
            if self.fill().await? == 0 {
                return Ok(false);
            }
        }
        if drop_after.is_some() {
            return Ok(false);
        }
        self.chunks.extend_from_slice(&self.input.split_to(size));
        Ok(true)
    }

    async fn finish(&mut self, door: &Door, session: &mut Session, message: Vec<u8>) -> io::Result<Then> {
        let now = self.shared.now();
        let (end, eight_bit) = {
            let mut mailboxes = self.shared.mailboxes(door.provider);
            let rules = Arc::clone(mailboxes.rules());
            let eight_bit = session.eight_bit(&rules);
            if !eight_bit && !message.is_ascii() {
                session.protocol_fault(&mut mailboxes, "8-bit content was sent to a host without 8BITMIME");
            }
            (session.finish(&mut mailboxes, message.len()), eight_bit)
        };
        let mut receipts = Vec::new();
        let message = Bytes::from(message);
        if !end.accepted.is_empty() {
            receipts = self.note(door, &end, &message, eight_bit, now);
            let arrival = self.shared.keeps_arrivals().then(|| self.arrival(door, &end, &message));
            self.shared.verify(door.provider, message.clone(), arrival).await;
        }
        let replied = end.answer.reply.is_some();
        let then = self.answer(end.answer).await?;
        self.flush().await?;
        if replied && !receipts.is_empty() {
            self.shared.replied(&receipts);
            self.shared.come_back(door.provider, &end.accepted, &end.sender, &message).await;
        }
        Ok(then)
    }

    /// Says nothing more, and gives the other side time to read the last reply.
    async fn farewell(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await?;
        // From here on the connection is over as far as we are concerned.
        self.shared.left(self.id, &self.lane);
        let mut rest = [0u8; 1024];
        let drain = async {
            while self.stream.read(&mut rest).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        let _ = tokio::time::timeout(FAREWELL, drain).await;
        Ok(())
    }
}
