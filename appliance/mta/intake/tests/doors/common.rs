//! A gatekeeper that remembers, a configuration to change, a client that speaks lines.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::Mutex;
use postkeep_configuration::Configuration;
use postkeep_intake::{Doors, Gatekeeper, Refused, Submission};
use postkeep_smtp::Reply;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) const PASSWORD: &str = "correct horse";

#[derive(Default)]
pub(crate) struct TestGatekeeper {
    number: AtomicU64,
    pub(crate) submissions: Mutex<Vec<Submission>>,
    /// Stage, code, enhanced code, credential of every refusal.
    pub(crate) refusals: Mutex<Vec<(String, String, Option<String>)>>,
    pub(crate) answer: Mutex<Option<Reply>>,
    pub(crate) full: Mutex<Option<Reply>>,
    pub(crate) open: AtomicUsize,
    pub(crate) delay: Mutex<Duration>,
}

impl Gatekeeper for TestGatekeeper {
    fn next_id(&self) -> String {
        format!("{:016x}", self.number.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn submit(&self, submission: Submission) -> Result<String, Reply> {
        let delay = *self.delay.lock();
        tokio::time::sleep(delay).await;
        if let Some(reply) = self.answer.lock().clone() {
            return Err(reply);
        }
        let id = submission.id.clone();
        self.submissions.lock().push(submission);
        Ok(id)
    }

    fn may_accept(&self, _: u64) -> Result<(), Reply> {
        self.full.lock().clone().map_or(Ok(()), Err)
    }

    fn refused(&self, refused: Refused<'_>) {
        let code = refused.reply.enhanced.map(|code| format!("{} {code}", refused.reply.code)).unwrap_or_default();
        self.refusals.lock().push((refused.stage.to_string(), code, refused.credential.map(str::to_owned)));
    }

    fn connection_opened(&self, _: SocketAddr, _: SocketAddr) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    fn connection_closed(&self, _: SocketAddr, _: SocketAddr) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One plain door on loopback, from which `local` may send from example.com.
pub(crate) fn plain() -> Configuration {
    serde_json::from_value(serde_json::json!({
        "hostname": "mx.example.com",
        "listener": [{ "address": "127.0.0.1:0", "tls": "none" }],
        "network": [{ "name": "local", "addresses": ["127.0.0.0/8"], "sender-domains": ["example.com"] }],
        "stream": { "news": {} },
    }))
    .unwrap()
}

/// A submission door with STARTTLS and one with implicit TLS; `ann` may send from example.com.
pub(crate) fn with_tls(folder: &Path) -> (Configuration, CertificateDer<'static>) {
    let certificate = make_certificate(folder);
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    let configuration = serde_json::from_value(serde_json::json!({
        "hostname": "mx.example.com",
        "listener": [
            { "address": "127.0.0.1:0", "tls": "starttls", "certificate": chain, "key": key, "require-auth": true },
            { "address": "127.0.0.1:0", "tls": "implicit", "certificate": chain, "key": key, "require-auth": true },
        ],
        "network": [{ "name": "local", "addresses": ["127.0.0.0/8"], "sender-domains": ["example.com"] }],
        "credential": [{
            "name": "ann", "password-hash": hash(PASSWORD), "sender-domains": ["example.com"],
            "may-choose-streams": ["news"],
        }],
        "stream": { "news": {} },
    }))
    .unwrap();
    (configuration, certificate)
}

/// Argon2id with the least work, so that tests are quick.
pub(crate) fn hash(password: &str) -> String {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    let salt = SaltString::encode_b64(b"a salt for tests").unwrap();
    argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string()
}

/// A hash that takes some tens of milliseconds to check, as a real one does.
pub(crate) fn heavy_hash(password: &str) -> String {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19_456, 4, 1, None).unwrap());
    let salt = SaltString::encode_b64(b"a salt for tests").unwrap();
    argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string()
}

pub(crate) fn make_certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["mx.example.com".to_owned()]).unwrap();
    std::fs::write(folder.join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

pub(crate) fn open(configuration: &Configuration) -> (Doors<TestGatekeeper>, Arc<TestGatekeeper>) {
    let gatekeeper = Arc::new(TestGatekeeper::default());
    (Doors::open(configuration, Arc::clone(&gatekeeper)).unwrap(), gatekeeper)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client; every wait is bounded.
pub(crate) struct Client {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    read: Vec<u8>,
}

impl Client {
    /// Connects without reading the greeting.
    pub(crate) async fn connect_silently(address: SocketAddr) -> Self {
        Self::over(Box::new(TcpStream::connect(address).await.unwrap()))
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_silently(address).await;
        let greeting = client.reply().await;
        assert!(greeting.starts_with("220 mx.example.com"), "{greeting}");
        client
    }

    /// Connects and says EHLO.
    pub(crate) async fn greeted(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        assert!(client.say("EHLO client.example").await.starts_with("250-mx.example.com"));
        client
    }

    pub(crate) async fn over_tls(address: SocketAddr, certificate: &CertificateDer<'static>) -> Self {
        let stream: Box<dyn Stream> = Box::new(TcpStream::connect(address).await.unwrap());
        let mut client = Self::over(tls(stream, certificate).await);
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    /// After the `220` to STARTTLS.
    pub(crate) async fn start_tls(self, certificate: &CertificateDer<'static>) -> Self {
        Self::over(tls(self.reader.unsplit(self.writer), certificate).await)
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, octets: &[u8]) {
        let write = async {
            self.writer.write_all(octets).await?;
            self.writer.flush().await
        };
        tokio::time::timeout(Duration::from_secs(10), write).await.expect("write timed out").unwrap();
    }

    /// One whole reply with its line ends; empty at the end of the connection.
    pub(crate) async fn reply(&mut self) -> String {
        loop {
            let mut start = 0;
            while let Some(end) = self.read[start..].windows(2).position(|pair| pair == b"\r\n") {
                let line = &self.read[start..start + end];
                start += end + 2;
                if line.get(3) != Some(&b'-') {
                    let reply: Vec<u8> = self.read.drain(..start).collect();
                    return String::from_utf8(reply).unwrap();
                }
            }
            let read = self.reader.read_buf(&mut self.read);
            match tokio::time::timeout(Duration::from_secs(10), read).await.expect("no reply came") {
                Ok(0) | Err(_) => {
                    assert!(self.read.is_empty(), "cut off: {:?}", self.read);
                    return String::new();
                }
                Ok(_) => {}
            }
        }
    }

    pub(crate) async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Code and enhanced code of the reply to a line.
    pub(crate) async fn codes(&mut self, line: &str) -> String {
        codes(&self.say(line).await)
    }

    /// The codes of the next replies.
    pub(crate) async fn next_codes(&mut self, number: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..number {
            all.push(codes(&self.reply().await));
        }
        all
    }

    /// Opens a transaction up to `354`.
    pub(crate) async fn data(&mut self) {
        assert_eq!(self.codes("MAIL FROM:<ann@example.com>").await, "250 2.1.0");
        assert_eq!(self.codes("RCPT TO:<bob@example.net>").await, "250 2.1.5");
        assert!(self.say("DATA").await.starts_with("354 "));
    }

    /// Sends a whole message and gives the reply to it.
    pub(crate) async fn message(&mut self, content: &str) -> String {
        self.data().await;
        self.send(content.as_bytes()).await;
        self.say(".").await
    }
}

async fn tls(stream: Box<dyn Stream>, certificate: &CertificateDer<'static>) -> Box<dyn Stream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("mx.example.com").unwrap();
    Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
}

pub(crate) fn codes(reply: &str) -> String {
    reply.split([' ', '\r']).take(2).collect::<Vec<_>>().join(" ")
}

/// Base64 of an AUTH PLAIN response.
pub(crate) fn plain_response(name: &str, password: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("\0{name}\0{password}"))
}

pub(crate) const MESSAGE: &str = "From: Ann <ann@example.com>\r\nSubject: hello\r\n\r\nhello\r\n";
