//! The campaign's own SMTP client: STARTTLS, AUTH PLAIN, PIPELINING, DATA and
//! BDAT. It is kept plain and shares nothing with the product, because an
//! independent client is the better witness of what was accepted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::BytesMut;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::campaign::Message;

/// Wait for a reply.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where and how to submit.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Address of the listener.
    pub address: SocketAddr,
    /// Name its certificate must bear.
    pub host: String,
    /// User and password, if AUTH is wanted.
    pub credential: Option<(String, String)>,
    /// Speak TLS from the first byte instead of STARTTLS.
    pub implicit_tls: bool,
    /// Trusted authority; `None`: no TLS at all.
    pub authority: Option<CertificateDer<'static>>,
}

/// What the server said to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// For each recipient in order: accepted, or the reply that refused it.
    pub recipients: Vec<Result<(), String>>,
    /// Text of the final 250, if any recipient was accepted.
    pub queued: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection ended before the message could be taken: it is not there, and may be sent again.
    #[error("{0}")]
    Before(String),
    /// It ended later: nobody knows.
    #[error("no reply to the content: {0}")]
    Uncertain(String),
}

enum Stream {
    Plain(BufWriter<TcpStream>),
    Tls(Box<BufWriter<TlsStream<TcpStream>>>),
}

/// An open submission connection.
pub struct Client {
    stream: Stream,
    input: BytesMut,
    chunking: bool,
    dsn: bool,
    eight_bit: bool,
    utf8: bool,
    /// The server has said 421 or hung up: nothing more can be sent here.
    over: bool,
}

/// A reply: code and text.
type Reply = (u16, String);

fn bad(what: &str, reply: &Reply) -> io::Error {
    io::Error::other(format!("{what}: {} {}", reply.0, reply.1))
}

impl Client {
    /// Connects, starts TLS, authenticates.
    pub async fn connect(to: &Submission) -> io::Result<Self> {
        let socket = TcpStream::connect(to.address).await?;
        socket.set_nodelay(true)?;
        let mut client = Self {
            stream: Stream::Plain(BufWriter::with_capacity(32 << 10, socket)),
            input: BytesMut::with_capacity(4096),
            chunking: false,
            dsn: false,
            eight_bit: false,
            utf8: false,
            over: false,
        };
        if to.implicit_tls {
            client = client.secure(to).await?;
        }
        let greeting = client.reply().await?;
        if greeting.0 != 220 {
            return Err(bad("greeting", &greeting));
        }
        client.hello().await?;
        if !to.implicit_tls && to.authority.is_some() {
            client.ask("STARTTLS", 220).await?;
            client = client.secure(to).await?;
            client.hello().await?;
        }
        if let Some((user, password)) = &to.credential {
            let secret = base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}"));
            client.ask(&format!("AUTH PLAIN {secret}"), 235).await?;
        }
        Ok(client)
    }

    async fn secure(self, to: &Submission) -> io::Result<Self> {
        let Stream::Plain(socket) = self.stream else { return Ok(self) };
        let (connector, name) = tls_connector(&to.host, to.authority.as_ref())?;
        let stream = connector.connect(name, socket.into_inner()).await?;
        Ok(Self {
            stream: Stream::Tls(Box::new(BufWriter::with_capacity(32 << 10, stream))),
            input: BytesMut::with_capacity(4096),
            ..self
        })
    }

    async fn hello(&mut self) -> io::Result<()> {
        let (code, text) = self.exchange("EHLO campaign.rehearsal.test").await?;
        if code != 250 {
            return Err(bad("EHLO", &(code, text)));
        }
        let offers =
            |word: &str| text.lines().any(|line| line.split(' ').next().is_some_and(|w| w.eq_ignore_ascii_case(word)));
        self.chunking = offers("CHUNKING");
        self.dsn = offers("DSN");
        self.eight_bit = offers("8BITMIME");
        self.utf8 = offers("SMTPUTF8");
        Ok(())
    }

    async fn exchange(&mut self, line: &str) -> io::Result<Reply> {
        self.write(line.as_bytes()).await?;
        self.write(b"\r\n").await?;
        self.flush().await?;
        self.reply().await
    }

    async fn ask(&mut self, line: &str, expected: u16) -> io::Result<()> {
        let reply = self.exchange(line).await?;
        let verb = line.split(' ').next().unwrap_or_default();
        if reply.0 == expected { Ok(()) } else { Err(bad(verb, &reply)) }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => stream.write_all(bytes).await,
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.flush().await,
            Stream::Tls(stream) => stream.flush().await,
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.input.reserve(4096);
        let read = match &mut self.stream {
            Stream::Plain(stream) => tokio::time::timeout(PATIENCE, stream.read_buf(&mut self.input)).await,
            Stream::Tls(stream) => tokio::time::timeout(PATIENCE, stream.read_buf(&mut self.input)).await,
        };
        match read {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        let mut text = String::new();
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.input) else {
                if self.input.len() > 8192 || text.len() > 65_536 {
                    return Err(io::Error::other("the reply is too long"));
                }
                self.fill().await?;
                continue;
            };
            let line = self.input.split_to(end + 1);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            let code = line.get(..3).and_then(|digits| digits.parse::<u16>().ok());
            let Some(code) = code else { return Err(io::Error::other(format!("not a reply: {line:?}"))) };
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(line.get(4..).unwrap_or_default());
            if line.as_bytes().get(3) != Some(&b'-') {
                // Whatever it answers, the connection closes (RFC 5321 §3.8).
                self.over |= code == 421;
                return Ok((code, text));
            }
        }
    }

    /// Whether the server has ended the connection, so that the next message needs another.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Sends one message and waits for its answer.
    pub async fn send(&mut self, message: &Message, content: &[u8]) -> Result<Answered, ClientError> {
        let before = |error: io::Error| ClientError::Before(error.to_string());
        if message.utf8 && !self.utf8 {
            let refusal = "the server offers no SMTPUTF8".to_owned();
            return Ok(Answered {
                recipients: message.to.iter().map(|_| Err(refusal.clone())).collect(),
                queued: None,
            });
        }
        let mut mail = format!("MAIL FROM:<{}> SIZE={}", message.sender.as_deref().unwrap_or_default(), content.len());
        if message.eight_bit() && self.eight_bit {
            mail.push_str(" BODY=8BITMIME");
        }
        if message.utf8 {
            mail.push_str(" SMTPUTF8");
        }
        mail.push_str("\r\n");
        for to in &message.to {
            let never = if to.never_notify && self.dsn { " NOTIFY=NEVER" } else { "" };
            mail.push_str(&format!("RCPT TO:<{}>{never}\r\n", to.address));
        }
        let chunked = message.chunking && self.chunking;
        if chunked {
            // With PIPELINING the chunk need not wait for the replies to RCPT. A server that refuses all recipients still has
            // to read it, and refuses it after that (RFC 3030 §2).
            mail.push_str(&format!("BDAT {} LAST\r\n", content.len()));
            self.write(mail.as_bytes()).await.map_err(before)?;
            self.write(content).await.map_err(before)?;
        } else {
            mail.push_str("DATA\r\n");
            self.write(mail.as_bytes()).await.map_err(before)?;
        }
        self.flush().await.map_err(before)?;
        // A server that has said nothing at all has taken nothing; nor has one that takes its leave at MAIL.
        let sender = self.reply().await.map_err(before)?;
        if sender.0 == 421 {
            return Err(ClientError::Before(format!("421 {}", sender.1)));
        }
        // With BDAT the server may have all of it from here on.
        let lost = |error: io::Error| match chunked {
            true => ClientError::Uncertain(error.to_string()),
            false => ClientError::Before(error.to_string()),
        };
        let mut recipients = Vec::with_capacity(message.to.len());
        for _ in &message.to {
            let reply = match self.reply().await {
                Ok(reply) => reply,
                Err(_) if sender.0 != 250 => break,
                Err(error) => return Err(lost(error)),
            };
            recipients.push(if reply.0 / 100 == 2 { Ok(()) } else { Err(format!("{} {}", reply.0, reply.1)) });
        }
        if sender.0 != 250 {
            recipients = message.to.iter().map(|_| Err(format!("{} {}", sender.0, sender.1))).collect();
        }
        let nobody = recipients.iter().all(Result::is_err);
        let end = if chunked { self.reply().await.map_err(lost) } else { self.data(content).await };
        let end = match end {
            Ok(end) => end,
            // Everybody was refused before: the server's last words are not needed to know that nothing was taken.
            Err(_) if nobody => {
                self.over = true;
                return Ok(Answered { recipients, queued: None });
            }
            Err(error) => return Err(error),
        };
        if end.0 != 250 {
            self.reset().await;
            let refusal = format!("{} {}", end.0, end.1);
            recipients.iter_mut().filter(|answer| answer.is_ok()).for_each(|answer| *answer = Err(refusal.clone()));
            return Ok(Answered { recipients, queued: None });
        }
        Ok(Answered { recipients, queued: Some(end.1) })
    }

    /// After DATA: the content, if it is wanted; the reply that settles it.
    async fn data(&mut self, content: &[u8]) -> Result<Reply, ClientError> {
        let go = self.reply().await.map_err(|error| ClientError::Before(error.to_string()))?;
        if go.0 != 354 {
            return Ok(go);
        }
        let unknown = |error: io::Error| ClientError::Uncertain(error.to_string());
        self.write(&stuffed(content)).await.map_err(unknown)?;
        self.flush().await.map_err(unknown)?;
        self.reply().await.map_err(unknown)
    }

    /// Sends content that is no message of the campaign to one recipient; the reply that settled it.
    pub async fn submit(&mut self, sender: &str, recipient: &str, content: &[u8]) -> io::Result<(u16, String)> {
        for line in [format!("MAIL FROM:<{sender}>"), format!("RCPT TO:<{recipient}>"), "DATA".to_owned()] {
            let reply = self.exchange(&line).await?;
            if reply.0 / 100 > 3 {
                self.reset().await;
                return Ok(reply);
            }
        }
        self.write(&stuffed(content)).await?;
        self.flush().await?;
        self.reply().await
    }

    /// MAIL was taken, so the transaction is open still, and another may follow. A server that has hung up after its
    /// answer has answered all the same.
    async fn reset(&mut self) {
        if !self.over && self.exchange("RSET").await.is_err() {
            self.over = true;
        }
    }

    /// Says goodbye.
    pub async fn quit(mut self) {
        if self.over {
            return;
        }
        let _ = self.exchange("QUIT").await;
    }
}

/// TLS for a connection to `host`, whose certificate `authority` has signed.
pub(crate) fn tls_connector(
    host: &str,
    authority: Option<&CertificateDer<'static>>,
) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let mut roots = RootCertStore::empty();
    if let Some(authority) = authority {
        roots.add(authority.clone()).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder_with_provider(crate::certificates::crypto())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Content with dots doubled at line starts and the final dot.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    if content.starts_with(b".") {
        out.push(b'.');
    }
    let mut rest = content;
    while let Some(place) = memchr::memmem::find(rest, b"\r\n.") {
        let (line, after) = rest.split_at(place + 2);
        out.extend_from_slice(line);
        out.push(b'.');
        out.push(b'.');
        rest = after.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    if !out.ends_with(b"\r\n") && !out.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_doubled_at_the_start_of_every_line() {
        assert_eq!(stuffed(b".a\r\n.\r\n..b\r\nc.\r\n"), b"..a\r\n..\r\n...b\r\nc.\r\n.\r\n");
    }
}
