//! An HTTPS server that serves what a test gives it and keeps what is posted to it: a host of MTA-STS policies, a
//! collector of reports.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificates::Identity;
use crate::sink::lock;

/// What it answers for one host.
#[derive(Debug, Clone)]
pub struct Page {
    /// Status.
    pub status: u16,
    /// Further header lines, each with its CRLF.
    pub header: String,
    /// Body.
    pub body: String,
}

impl Page {
    /// `200` with this text.
    pub fn text(body: &str) -> Self {
        Self { status: 200, header: "Content-Type: text/plain\r\n".to_owned(), body: body.to_owned() }
    }
}

/// Something that was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The host by SNI.
    pub host: String,
    /// Method and path.
    pub line: String,
    /// The body.
    pub body: Vec<u8>,
}

/// The server. It stops when dropped.
#[derive(Debug)]
pub struct PolicyHost {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Keys(BTreeMap<String, Arc<CertifiedKey>>);

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?).cloned()
    }
}

impl PolicyHost {
    /// Serves pages by host name, each with its certificate.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn open(address: SocketAddr, hosts: Vec<(&str, Identity, Page)>) -> Self {
        let keys = hosts.iter().map(|(host, identity, _)| ((*host).to_owned(), identity.certified()));
        let resolver = Arc::new(Keys(keys.collect()));
        let pages: BTreeMap<String, Page> = hosts.into_iter().map(|(host, _, page)| (host.to_owned(), page)).collect();
        let configuration = Arc::new(
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("TLS versions")
                .with_no_client_auth()
                .with_cert_resolver(resolver),
        );
        let listener = TcpListener::bind(address).expect("bind the policy host");
        let (asked, stopped) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(AtomicBool::new(false)));
        let (theirs, ended) = (Arc::clone(&asked), Arc::clone(&stopped));
        let pages = Arc::new(pages);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (configuration, pages, asked) =
                    (Arc::clone(&configuration), Arc::clone(&pages), Arc::clone(&theirs));
                std::thread::spawn(move || serve(stream, configuration, &pages, &asked));
            }
        });
        Self { address, asked, stopped }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }
}

impl Drop for PolicyHost {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: TcpStream,
    configuration: Arc<rustls::ServerConfig>,
    pages: &BTreeMap<String, Page>,
    asked: &Mutex<Vec<Asked>>,
) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let connection = rustls::ServerConnection::new(configuration).ok()?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut octets = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        octets.extend_from_slice(&piece[..count]);
    };
    let head = String::from_utf8_lossy(&octets[..end]).into_owned();
    let length: usize = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = octets.split_off(end);
    while body.len() < length {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        body.extend_from_slice(&piece[..count]);
    }
    let host = stream.conn.server_name().unwrap_or_default().to_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let page = pages.get(&host).cloned().unwrap_or(Page { status: 404, header: String::new(), body: String::new() });
    lock(asked).push(Asked { host, line, body });
    let answer = format!(
        "HTTP/1.1 {} x\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n{}",
        page.status,
        page.header,
        page.body.len(),
        page.body
    );
    stream.write_all(answer.as_bytes()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}
