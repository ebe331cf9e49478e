//! Where the simulated domains publish their MTA-STS policies (RFC 8461):
//! one HTTPS server for all of them, which tells them apart by SNI.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::certificates::Authority;

/// Largest request that is read, in octets.
const LARGEST_REQUEST: usize = 8192;
/// Wait for a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Policies by the domain's name.
pub(crate) type Policies = HashMap<String, String>;

/// The running server. It ends when it is dropped.
pub(crate) struct PolicyHost {
    port: u16,
    fetched: Arc<AtomicU64>,
    task: AbortHandle,
}

impl PolicyHost {
    /// Serves policies, each at `mta-sts.` before its domain. Port 0 takes any that is free.
    pub(crate) async fn start(policies: Policies, at: SocketAddr, authority: &Authority) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Io(format!("cannot open the host of policies at {at}: {error}"));
        let names: Vec<String> = policies.keys().map(|domain| format!("mta-sts.{domain}")).collect();
        let leaf = authority.leaf_of(names)?;
        let acceptor = TlsAcceptor::from(leaf.server()?);
        let listener = TcpListener::bind(at).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let fetched = Arc::new(AtomicU64::new(0));
        let (policies, count) = (Arc::new(policies), Arc::clone(&fetched));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (acceptor, policies, count) = (acceptor.clone(), Arc::clone(&policies), Arc::clone(&count));
                tokio::spawn(async move {
                    match tokio::time::timeout(PATIENCE, answer(stream, acceptor, &policies)).await {
                        Ok(Ok(true)) => _ = count.fetch_add(1, Ordering::Relaxed),
                        Ok(Ok(false)) => log::debug!("something else than a policy was asked for"),
                        Ok(Err(error)) => log::debug!("a policy was not fetched: {error}"),
                        Err(_) => log::debug!("a policy was not fetched in time"),
                    }
                });
            }
        });
        Ok(Self { port, fetched, task: task.abort_handle() })
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Policies served so far.
    pub(crate) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
}

impl Drop for PolicyHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request for a connection; whether it got a policy.
async fn answer(stream: TcpStream, acceptor: TlsAcceptor, policies: &Policies) -> io::Result<bool> {
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while memchr::memmem::find(&request, b"\r\n\r\n").is_none() {
        if request.len() > LARGEST_REQUEST {
            return Err(io::Error::other("the request is too long"));
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let host = stream.get_ref().1.server_name().unwrap_or_default().to_ascii_lowercase();
    let policy = host.strip_prefix("mta-sts.").and_then(|domain| policies.get(domain));
    let policy = policy.filter(|_| request.starts_with(b"GET /.well-known/mta-sts.txt "));
    let (status, body) = policy.map_or(("404 Not Found", ""), |policy| ("200 OK", policy.as_str()));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(policy.is_some())
}
