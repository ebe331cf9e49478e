//! The door for management: the routes of the control socket over TLS 1.3, for those who are listed. A stranger sees
//! the box's certificate, which every TLS server has to show first, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use postkeep_configuration::{Api, ApiRole};
use postkeep_guests::Guests;
use postkeep_journal::{API_DENIED, API_REFUSED};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{CertificateError, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::api::Problem;
use crate::fingerprint::Fingerprint;
use crate::managers::{ListedOnly, Managers, NotListed};
use crate::server::{Peer, Refusal};

/// Connections that have not shown a certificate yet.
const STRANGERS: usize = 256;
/// A handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A request's header takes no longer, nor the pause between two requests.
const HEADER: Duration = Duration::from_secs(30);
/// Octets of a request's header.
const LARGEST_HEADER: usize = 16 * 1024;
/// Fields of it.
const MOST_FIELDS: usize = 64;
/// A client that reads nothing of its answer for so long is left.
const WRITE: Duration = Duration::from_secs(60);
/// Longest life of a connection; a file of millions takes its time.
const LIFE: Duration = Duration::from_secs(2 * 3600);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Whoever was turned away may take so long to close.
const FAREWELL: Duration = Duration::from_secs(1);
/// And is read so often meanwhile.
const FAREWELL_READS: usize = 64;
/// The log is told of strangers with certificates no more often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Why the door for management cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Its address.
    #[error(
        "cannot listen at [api] address {address}: {error}; is another server there, is the address on this machine?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Its certificate or key.
    #[error("[api]: cannot use {path}: {reason}; give the certificate and key as PEM files that belong together")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The open door.
#[derive(Clone)]
pub(crate) struct Door {
    router: Router,
    tls: TlsAcceptor,
    managers: Arc<Managers>,
    guests: Arc<Guests>,
    /// Places of those who are listed.
    places: Arc<Semaphore>,
    most: usize,
    /// Connections of one address.
    share: u32,
    strangers: Arc<Mutex<Strangers>>,
    closing: watch::Receiver<bool>,
}

/// Those that were turned away since it was told.
#[derive(Default)]
struct Strangers {
    told: Option<Instant>,
    count: u64,
}

impl Door {
    /// Makes the door ready and binds its address; [`Self::serve`] lets people in.
    pub(crate) async fn open(
        api: &Api,
        managers: Arc<Managers>,
        router: Router,
        closing: watch::Receiver<bool>,
    ) -> Result<(Self, TcpListener), DoorError> {
        let tls = TlsAcceptor::from(Arc::new(server_tls(api, &managers)?));
        let failed = |error| DoorError::Listen { address: api.address, error };
        let listener = TcpListener::bind(api.address).await.map_err(failed)?;
        let door = Self {
            router,
            tls,
            managers,
            guests: Arc::default(),
            places: Arc::new(Semaphore::new(api.connections as usize)),
            most: STRANGERS + api.connections as usize,
            share: api.connections_per_address,
            strangers: Arc::default(),
            closing,
        };
        Ok((door, listener))
    }

    /// For ever, in a task of its own. No async function: those are compiled where they are awaited, in each program anew.
    pub(crate) fn serve(self, listener: TcpListener) -> JoinHandle<()> {
        tokio::spawn(self.receive(listener))
    }

    async fn receive(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    // Whoever has their share is closed on at once.
                    let Ok(seat) = self.guests.seat(address.ip(), self.most, self.share) else { continue };
                    let door = self.clone();
                    tokio::spawn(async move {
                        door.welcome(stream, address).await;
                        drop(seat);
                    });
                }
                Err(error) => {
                    log::warn!("api: cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn welcome(&self, stream: TcpStream, address: SocketAddr) {
        // Small answers; a failure costs milliseconds.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE));
        let handshake = self.tls.accept(Box::pin(stream)).into_fallible();
        let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                self.turned_away(address, &error);
                return take_leave(stream).await;
            }
            Err(_) => return log::debug!("api: {address} did not finish its handshake in time"),
        };
        let Some(fingerprint) = fingerprint_of(&stream) else { return };
        // A listed client that has all places waits for one of its own.
        let Ok(Ok(place)) = tokio::time::timeout(HANDSHAKE, Arc::clone(&self.places).acquire_owned()).await else {
            return log::warn!("api: {address} was left standing: [api] connections are all taken");
        };
        self.converse(TokioIo::new(stream), fingerprint).await;
        drop(place);
    }

    async fn converse<S>(&self, stream: S, fingerprint: Fingerprint)
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (router, managers) = (self.router.clone(), Arc::clone(&self.managers));
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            let admitted = admit(&managers, &fingerprint, &mut request);
            let mut router = router.clone();
            async move {
                use tower_service::Service as _;
                Ok::<Response, Infallible>(match admitted {
                    Ok(()) => router.call(request).await.unwrap_or_else(|never| match never {}),
                    Err(refused) => *refused,
                })
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_headers(MOST_FIELDS)
            .max_header_size(LARGEST_HEADER)
            .serve_connection(stream, service);
        tokio::pin!(connection);
        let mut closing = self.closing.clone();
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended { log::debug!("api: {error}"); }
                return;
            }
            _ = closing.wait_for(|closing| *closing) => {}
            () = tokio::time::sleep(LIFE) => {}
        }
        // The request that is under way is answered; then the connection ends.
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(HEADER, connection).await;
    }

    /// A handshake has failed: who showed a certificate that is not listed is worth a word.
    fn turned_away(&self, address: SocketAddr, error: &std::io::Error) {
        let rustls_error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let shown = match rustls_error {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                other.0.downcast_ref::<NotListed>().map(|NotListed(shown)| *shown)
            }
            _ => None,
        };
        let Some(shown) = shown else { return log::debug!("api: {address}: {error}") };
        let mut strangers = self.strangers.lock();
        strangers.count += 1;
        if strangers.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            let count = std::mem::take(&mut strangers.count);
            strangers.told = Some(Instant::now());
            drop(strangers);
            API_REFUSED.tell(
                format_args!("api: {address} showed the certificate {shown}, which is not listed ({count} such)"),
                [&address, &shown, &count],
            );
        }
    }
}

/// Closes a connection so that the alert on it is read: with octets of the client still unread, the kernel would reset
/// the connection and take the alert with it.
async fn take_leave(mut stream: Pin<Box<TimeoutStream<TcpStream>>>) {
    let drained = async {
        let mut octets = [0; 1024];
        stream.shutdown().await?;
        for _ in 0..FAREWELL_READS {
            if stream.read(&mut octets).await? == 0 {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Whoever does not close in time is closed on.
    let _ = tokio::time::timeout(FAREWELL, drained).await;
}

/// Tells a request who asks, so that it may go on to its route; or what is answered because it may not.
fn admit(managers: &Managers, fingerprint: &Fingerprint, request: &mut Request) -> Result<(), Box<Response>> {
    let refused =
        |detail: String| Refusal(Problem { title: "nothing was done".into(), status: 403, detail }).into_response();
    // A reload may have taken it off the list since the handshake.
    let Some(manager) = managers.find(fingerprint) else {
        let mut response = refused("your certificate is not listed any more".to_owned());
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Err(Box::new(response));
    };
    if manager.role == ApiRole::Read && ![Method::GET, Method::HEAD].contains(request.method()) {
        API_DENIED.tell(
            format_args!("api: {} may only look: {} {}", manager.name, request.method(), request.uri().path()),
            [&manager.name, request.method(), &request.uri().path()],
        );
        return Err(Box::new(refused(format!(
            "{} may only look; list its certificate with role = \"admin\" if it is to change something",
            manager.name
        ))));
    }
    request.extensions_mut().insert(ConnectInfo(Peer::Manager(manager.name)));
    Ok(())
}

fn fingerprint_of<S>(stream: &TlsStream<S>) -> Option<Fingerprint> {
    stream.get_ref().1.peer_certificates()?.first().map(|certificate| Fingerprint::of(certificate))
}

fn server_tls(api: &Api, managers: &Arc<Managers>) -> Result<ServerConfig, DoorError> {
    fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> DoorError {
        DoorError::Identity { path: path.to_owned(), reason: reason.to_string() }
    }
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&api.certificate).and_then(|certificates| certificates.collect());
    let certificates = certificates.map_err(|error| unusable(&api.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&api.key).map_err(|error| unusable(&api.key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ListedOnly::new(Arc::clone(managers), provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&api.certificate, &error))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(certificates, key)
        .map_err(|error| unusable(&api.certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who is listed is asked at each connection: none is taken up again by a ticket.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
