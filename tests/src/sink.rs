//! A receiver that counts: an SMTP server with a script. It keeps every
//! transaction with its bytes, envelope, connection, source address and times,
//! and answers whatever its script says. What it offers and what it finds
//! faulty on the wire (a bare LF, an overlong line) is part of what it keeps.

mod session;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::ground::{Ground, MAIL_PORT};

/// Where in a session the script is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the greeting.
    Connect,
    /// EHLO or HELO.
    Ehlo,
    /// MAIL.
    Mail,
    /// One RCPT.
    Rcpt,
    /// DATA, before the data.
    Data,
    /// After the final dot or the last chunk.
    Final,
}

/// What the script may look at.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Where in the session.
    pub stage: Stage,
    /// Number of this connection, from 1.
    pub connection: u64,
    /// Who connects.
    pub source: SocketAddr,
    /// Number of the transaction on this connection, from 1; 0 before the first MAIL.
    pub transaction: u64,
    /// Sender, empty for `<>`.
    pub sender: &'a str,
    /// Recipient, at [`Stage::Rcpt`].
    pub recipient: &'a str,
    /// Recipients taken so far.
    pub recipients: &'a [Recipient],
    /// The message, at [`Stage::Final`].
    pub content: &'a [u8],
}

/// What the receiver does then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The usual positive reply.
    Accept,
    /// This reply; lines are separated by `\n`, each without its CRLF.
    Reply(String),
    /// This reply, and the connection is closed.
    ReplyAndClose(String),
    /// The connection is closed without a word.
    Drop,
    /// Wait, then do the other.
    Wait(Duration, Box<Act>),
}

impl Act {
    /// A reply.
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }

    /// A reply, then the end.
    pub fn close(text: &str) -> Self {
        Self::ReplyAndClose(text.to_owned())
    }

    /// Acceptance after a while.
    pub fn after(wait: Duration) -> Self {
        Self::Wait(wait, Box::new(Self::Accept))
    }
}

/// A recipient as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// What stood after it: `NOTIFY=… ORCPT=…`.
    pub parameters: String,
}

/// One mail transaction, from MAIL on.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Number of the connection.
    pub connection: u64,
    /// Number on the connection, from 1.
    pub number: u64,
    /// Who sent it.
    pub source: SocketAddr,
    /// EHLO name.
    pub helo: String,
    /// Protocol version, if the connection was encrypted.
    pub tls: Option<String>,
    /// Sender, empty for `<>`.
    pub sender: String,
    /// What stood after it: `SIZE=… BODY=…`.
    pub parameters: String,
    /// Recipients taken.
    pub recipients: Vec<Recipient>,
    /// The message as sent, dots unstuffed.
    pub content: Vec<u8>,
    /// Came by BDAT.
    pub chunked: bool,
    /// When MAIL came.
    pub mail_at: Instant,
    /// When the last byte of the message had come.
    pub content_at: Option<Instant>,
    /// When the final reply was about to be written.
    pub replied_at: Option<Instant>,
    /// Code of the final reply.
    pub reply: Option<u16>,
    /// What is wrong with the bytes, in words.
    pub faults: Vec<String>,
}

impl Transaction {
    /// Whether the receiver took responsibility.
    pub fn accepted(&self) -> bool {
        self.reply.is_some_and(|code| code / 100 == 2)
    }

    /// The addresses.
    pub fn addresses(&self) -> Vec<&str> {
        self.recipients.iter().map(|recipient| recipient.address.as_str()).collect()
    }
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its number, from 1.
    pub number: u64,
    /// Who connected.
    pub source: SocketAddr,
    /// When it was taken.
    pub opened_at: Instant,
    /// When the other side was gone or QUIT was heard.
    pub closed_at: Option<Instant>,
    /// Commands in order, at most 2,000.
    pub commands: Vec<String>,
}

type Script = Box<dyn FnMut(&Moment<'_>) -> Act + Send>;

struct Shared {
    capabilities: Mutex<Vec<String>>,
    tls: Mutex<Option<Arc<rustls::ServerConfig>>>,
    script: Mutex<Script>,
    transactions: Mutex<Vec<Transaction>>,
    connections: Mutex<Vec<Connection>>,
    sockets: Mutex<Vec<(u64, TcpStream)>>,
    next: AtomicU64,
    stopped: AtomicBool,
    name: String,
}

/// The receiver. It stops when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sink({})", self.address)
    }
}

impl Sink {
    /// A receiver at address `n` of the ground, at the port of all receivers, that accepts everything.
    pub fn at(ground: &Ground, n: u8) -> Self {
        Self::open(ground.at(n, MAIL_PORT))
    }

    /// A receiver at any address.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn open(address: SocketAddr) -> Self {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("cannot open a receiver at {address}: {error}"));
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            capabilities: Mutex::new(
                ["PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            tls: Mutex::new(None),
            script: Mutex::new(Box::new(|_| Act::Accept)),
            transactions: Mutex::default(),
            connections: Mutex::default(),
            sockets: Mutex::default(),
            next: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            name: "sink.test".to_owned(),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// The same, with a script.
    #[must_use]
    pub fn with_script(self, script: impl FnMut(&Moment<'_>) -> Act + Send + 'static) -> Self {
        self.script(script);
        self
    }

    /// The same, offering STARTTLS with this server.
    #[must_use]
    pub fn with_tls(self, server: Arc<rustls::ServerConfig>) -> Self {
        *lock(&self.shared.tls) = Some(server);
        self
    }

    /// The same, offering just these EHLO keywords (and STARTTLS if there is TLS).
    #[must_use]
    pub fn with_capabilities(self, capabilities: &[&str]) -> Self {
        *lock(&self.shared.capabilities) = capabilities.iter().map(|&keyword| keyword.to_owned()).collect();
        self
    }

    /// Changes the script; it counts from the next moment on.
    pub fn script(&self, script: impl FnMut(&Moment<'_>) -> Act + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every transaction so far, in the order of MAIL.
    pub fn transactions(&self) -> Vec<Transaction> {
        lock(&self.shared.transactions).clone()
    }

    /// Looks at every transaction without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&[Transaction]) -> T) -> T {
        look(&lock(&self.shared.transactions))
    }

    /// The transactions that were accepted.
    pub fn messages(&self) -> Vec<Transaction> {
        self.look(|all| all.iter().filter(|transaction| transaction.accepted()).cloned().collect())
    }

    /// How many transactions were accepted.
    pub fn count(&self) -> usize {
        self.look(|all| all.iter().filter(|transaction| transaction.accepted()).count())
    }

    /// Every connection so far.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.shared.connections).clone()
    }

    /// Closes every open connection without a word.
    pub fn hang_up(&self) {
        for (_, socket) in lock(&self.shared.sockets).iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Waits until `count` messages were accepted and gives them.
    ///
    /// # Panics
    /// After `limit`.
    #[track_caller]
    pub fn wait(&self, count: usize, limit: Duration) -> Vec<Transaction> {
        let end = Instant::now() + limit;
        while self.count() < count {
            assert!(
                Instant::now() < end,
                "the receiver at {} has {} of {count} messages after {limit:?}; its connections: {:?}",
                self.address,
                self.count(),
                self.connections().iter().rev().take(5).collect::<Vec<_>>(),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.messages()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.hang_up();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for socket in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let opened_at = Instant::now();
        let Ok(source) = socket.peer_addr() else { continue };
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let connection = Connection { number, source, opened_at, closed_at: None, commands: Vec::new() };
        lock(&shared.connections).push(connection);
        if let Ok(copy) = socket.try_clone() {
            lock(&shared.sockets).push((number, copy));
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = socket.set_nodelay(true);
            let _ = socket.set_read_timeout(Some(Duration::from_secs(120)));
            session::serve(socket, number, source, &shared);
            shared.close(number);
            lock(&shared.sockets).retain(|(other, _)| *other != number);
        });
    }
}

impl Shared {
    fn ask(&self, moment: &Moment<'_>) -> Act {
        (lock(&self.script))(moment)
    }

    fn close(&self, number: u64) {
        let mut connections = lock(&self.connections);
        if let Some(connection) = connections.iter_mut().rev().find(|connection| connection.number == number) {
            connection.closed_at.get_or_insert_with(Instant::now);
        }
    }

    fn command(&self, number: u64, line: &str) {
        let mut connections = lock(&self.connections);
        if let Some(connection) = connections.iter_mut().rev().find(|connection| connection.number == number)
            && connection.commands.len() < 2000
        {
            connection.commands.push(line.to_owned());
        }
    }
}

/// A test that failed while holding a lock has already said so.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
