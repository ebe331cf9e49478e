//! A peer that does what a test tells it, word by word, over loopback.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use postkeep_configuration::{Delivery, OutboundTls, TlsVersion};
use postkeep_delivery::{Connection, Connector, OpenError, Outcome, Target, Timeouts, Transaction};
use postkeep_smtp::address::Address;
use postkeep_smtp::envelope::Recipient;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A stream of either kind.
pub(crate) trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

/// The peer's end of one connection.
pub(crate) struct Peer {
    pub(crate) stream: Box<dyn Octets>,
    buffer: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: impl Octets + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("the client is there");
        self.stream.flush().await.expect("the client is there");
    }

    async fn more(&mut self) -> bool {
        let before = self.buffer.len();
        self.buffer.reserve(65536);
        // A client that resets has gone like one that closes.
        let _ = self.stream.read_buf(&mut self.buffer).await;
        self.buffer.len() > before
    }

    /// The next line without its end; `None` when the client has gone.
    pub(crate) async fn try_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8(line).expect("UTF-8").trim_end().to_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn line(&mut self) -> String {
        self.try_line().await.expect("a line from the client")
    }

    /// Reads a command that begins like this and answers it.
    pub(crate) async fn answer(&mut self, command: &str, reply: &str) {
        let line = self.line().await;
        assert!(line.starts_with(command), "expected {command}, got {line}");
        self.say(reply).await;
    }

    /// Greeting and EHLO.
    pub(crate) async fn greet(&mut self, keywords: &str) {
        self.say("220 mx.example ESMTP\r\n").await;
        self.answer("EHLO client.example", &ehlo(keywords)).await;
    }

    /// So many octets.
    pub(crate) async fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await, "the client went away after {} of {count} octets", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// What DATA brings, as it was on the wire, without the final dot.
    pub(crate) async fn content(&mut self) -> Vec<u8> {
        if self.buffer.len() < 3 {
            assert!(self.more().await, "the client went away");
        }
        if self.buffer.starts_with(b".\r\n") {
            self.buffer.drain(..3);
            return Vec::new();
        }
        let mut searched = 0;
        loop {
            let from = searched;
            if let Some(end) = self.buffer[from..].windows(5).position(|five| five == b"\r\n.\r\n") {
                let mut content: Vec<u8> = self.buffer.drain(..from + end + 5).collect();
                content.truncate(content.len() - 3);
                return content;
            }
            searched = self.buffer.len().saturating_sub(4);
            assert!(self.more().await, "the client went away in mid-content");
        }
    }

    /// Whether the client has gone without another word.
    pub(crate) async fn is_left(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }

    /// What has arrived so far in one read.
    pub(crate) async fn arrived(&mut self) -> String {
        if self.buffer.is_empty() {
            self.more().await;
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }
}

/// An answer to EHLO with these keywords.
pub(crate) fn ehlo(keywords: &str) -> String {
    let mut text = "mx.example".to_owned();
    let mut out = String::new();
    for keyword in keywords.split_terminator(' ') {
        out.push_str(&format!("250-{text}\r\n"));
        text = keyword.replace('=', " ");
    }
    out + &format!("250 {text}\r\n")
}

/// Starts a peer for one connection.
pub(crate) async fn peer<F>(script: impl FnOnce(Peer) -> F + Send + 'static) -> (SocketAddr, JoinHandle<F::Output>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    raw_peer(move |stream| script(Peer::new(stream))).await
}

/// The same, with the bare socket.
pub(crate) async fn raw_peer<F>(
    script: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<F::Output>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        script(stream).await
    });
    (address, task)
}

pub(crate) fn target(address: SocketAddr) -> Target {
    Target {
        host: "mx.example".to_owned(),
        address,
        bind: None,
        freebind: false,
        ehlo: "client.example".to_owned(),
        tls: OutboundTls::Opportunistic,
        minimum: TlsVersion::V1_2,
        old_tls: false,
        tlsa: None,
        timeouts: Timeouts::from(&Delivery::default()),
    }
}

/// Every wait that short.
pub(crate) fn short(milliseconds: u64) -> Timeouts {
    let wait = Duration::from_millis(milliseconds);
    Timeouts { connect: wait, greeting: wait, mail: wait, rcpt: wait, data: wait, block: wait, last: wait }
}

pub(crate) async fn try_open(target: &Target) -> Result<Connection, OpenError> {
    Connector::new(&Delivery::default()).expect("a connector").open(target).await
}

pub(crate) async fn open(address: SocketAddr) -> Connection {
    try_open(&target(address)).await.expect("a connection")
}

/// A message to some recipients.
pub(crate) struct Message {
    pub(crate) sender: Address,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) parts: Vec<Bytes>,
    pub(crate) has_dot_lines: bool,
}

impl Message {
    pub(crate) fn new(content: impl Into<Bytes>, recipients: &[&str]) -> Self {
        let address = |text: &str| Address::parse(text).expect("an address");
        let content = content.into();
        Self {
            sender: address("a@example.com"),
            recipients: recipients.iter().map(|text| Recipient::new(address(text))).collect(),
            has_dot_lines: content.starts_with(b".") || content.windows(2).any(|two| two == b"\n."),
            parts: vec![content],
        }
    }

    pub(crate) fn transaction(&self) -> Transaction<'_> {
        Transaction {
            sender: Some(&self.sender),
            recipients: &self.recipients,
            parts: &self.parts,
            has_dot_lines: self.has_dot_lines,
            eight_bit: false,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            require_tls: false,
        }
    }
}

/// The outcome in a word: `delivered 250`, `refused rcpt 550`, `lost final`, `unsendable 554`.
pub(crate) fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered(reply) => format!("delivered {}", reply.code),
        Outcome::Refused { stage, reply } => format!("refused {stage} {}", reply.code),
        Outcome::Lost { stage, .. } => format!("lost {stage}"),
        Outcome::Unsendable { reply } => format!("unsendable {}", reply.code),
    }
}

pub(crate) fn words(outcomes: &[Outcome]) -> Vec<String> {
    outcomes.iter().map(word).collect()
}
