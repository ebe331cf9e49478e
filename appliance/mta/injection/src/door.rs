//! The HTTP doors: listening, TLS, limits, and closing with grace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use postkeep_certificates::{ACME_TLS, Certificates};
use postkeep_configuration::{Configuration, Http, Service};
use postkeep_guests::Guests;
use postkeep_intake::admission::ContentRules;
use postkeep_intake::{Gatekeeper, TablesError, TlsSummary, server_tls};
use postkeep_smtp::data::{BareLineEnds, DataLimits};
use postkeep_suppression::Suppression;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::access::Access;
use crate::asked::{is_mailgun, refuse};
use crate::body::{self, Memory};
use crate::leave::Leaving;
use crate::mailgun;
use crate::mailgun_suppressions;
use crate::messages::{self, Client};
use crate::openapi;
use crate::problem::Problem;
use crate::suppressions;
use crate::unsubscribe;

/// A handshake or a request's header takes no longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// A request takes no longer; its body has its own limit.
const REQUEST_PATIENCE: Duration = Duration::from_secs(330);
/// A client that reads nothing of its answer for so long is left.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(900);
/// Octets of a body beyond what base64 makes of the largest message.
const ROOM: u64 = 1 << 20;
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the HTTP doors cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An address cannot be used.
    #[error("cannot listen for HTTP on {address}: {error}; is another server there, is the address on this machine?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A certificate or key.
    #[error("[[http]]: {0}")]
    Tls(#[from] TablesError),
    /// A door with `acme = true`.
    #[error("[[http]] {address}: acme: {reason}")]
    Acme {
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// What the doors need of the configuration; a reload swaps it whole.
pub(crate) struct Tables {
    pub(crate) access: Access,
    pub(crate) rules: ContentRules,
    pub(crate) limits: DataLimits,
    pub(crate) hostname: String,
    pub(crate) stream_header: String,
    /// Largest body, in octets: base64 makes four of three, and JSON escapes make some more.
    largest: u64,
    /// The addresses of the suppression list are sealed to others.
    pub(crate) is_sealed: bool,
}

impl Tables {
    fn new(configuration: &Configuration) -> Self {
        let intake = &configuration.intake;
        Self {
            access: Access::new(configuration),
            rules: ContentRules::new(configuration),
            limits: DataLimits {
                size: intake.message_size.bytes(),
                line_length: intake.line_length as usize,
                // Over HTTP there is no other server that could read them differently.
                bare_line_ends: BareLineEnds::Repair,
            },
            hostname: configuration.hostname.clone(),
            stream_header: intake.stream_header.clone(),
            is_sealed: !configuration.suppression.seal_to.is_empty(),
            largest: intake.message_size.bytes().saturating_mul(2).saturating_add(ROOM),
        }
    }
}

/// What all requests share.
pub(crate) struct Shared<G> {
    pub(crate) gatekeeper: Arc<G>,
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) suppression: Suppression,
    /// Whoever lists addresses reads the whole journal: one at a time.
    pub(crate) listing: Arc<Semaphore>,
    memory: Arc<Memory>,
}

/// What the calls behind a guard have in common.
#[derive(Clone, Copy)]
enum Calls {
    /// Mail in: bodies as large as `[intake] message-size` makes them.
    Messages,
    /// The suppression list.
    Suppressions,
}

/// Before a body is read: whose is it, and is there room for it? Strangers are not listened to.
/// The handler behind it is told whose it is.
async fn guard<G: Gatekeeper>(
    State((shared, calls)): State<(Arc<Shared<G>>, Calls)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let token = if is_mailgun(&path) { mailgun::basic(&parts.headers) } else { messages::bearer(&parts.headers) };
    let Some(policy) = token.and_then(|token| shared.tables.load().access.policy(&token)) else {
        return refuse(&path, Problem::unauthorized());
    };
    let most = match calls {
        Calls::Messages => shared.tables.load().largest,
        Calls::Suppressions => suppressions::LARGEST_BODY,
    };
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most) {
        // Said before `100 Continue`, so that a client that waits for that need not send it.
        return refuse(&path, body::too_large(most));
    }
    // Held until the answer is there: what is parsed of the body lives as long.
    let mut room = shared.memory.room(policy.name());
    match body::read(body, most, &mut room).await {
        Ok(octets) => {
            parts.extensions.insert(policy);
            next.run(Request::from_parts(parts, Body::from(octets))).await
        }
        Err(problem) => refuse(&path, problem),
    }
}

/// The open HTTP doors of a configuration.
pub struct HttpDoors<G> {
    shared: Arc<Shared<G>>,
    closing: watch::Sender<bool>,
    addresses: Vec<SocketAddr>,
    /// TLS of each door, in the order of the configuration.
    acceptors: Vec<(SocketAddr, Acceptor)>,
    tasks: Vec<JoinHandle<()>>,
    /// Who is at each door.
    guests: Vec<Arc<Guests>>,
}

impl<G: Gatekeeper> HttpDoors<G> {
    /// Opens every `[[http]]`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// One of them cannot be opened; then none is.
    pub async fn open(
        configuration: &Configuration,
        gatekeeper: Arc<G>,
        suppression: Suppression,
        certificates: Option<&Certificates>,
    ) -> Result<Self, HttpError> {
        let shared = Arc::new(Shared {
            gatekeeper,
            tables: ArcSwap::from_pointee(Tables::new(configuration)),
            suppression,
            listing: Arc::new(Semaphore::new(1)),
            memory: Arc::default(),
        });
        let (closing, watched) = watch::channel(false);
        let mut bound = Vec::with_capacity(configuration.http.len());
        for door in &configuration.http {
            let tls = acceptor(door, certificates)?;
            let failed = |error| HttpError::Listen { address: door.address, error };
            let listener = TcpListener::bind(door.address).await.map_err(failed)?;
            bound.push((listener, tls, door));
        }
        let addresses = bound.iter().filter_map(|(listener, ..)| listener.local_addr().ok()).collect();
        let acceptors: Vec<(SocketAddr, Acceptor)> = configuration
            .http
            .iter()
            .zip(&bound)
            .map(|(door, (_, tls, _))| (door.address, Arc::new(ArcSwap::from_pointee(tls.clone()))))
            .collect();
        let guests: Vec<Arc<Guests>> = bound.iter().map(|_| Arc::default()).collect();
        let tasks = bound
            .into_iter()
            .zip(&guests)
            .zip(acceptors.iter().map(|(_, tls)| Arc::clone(tls)))
            .map(|(((listener, _, door), guests), tls)| {
                let house = House {
                    router: router(&shared, &door.serve),
                    tls,
                    places: Arc::new(Semaphore::new(door.connections as usize)),
                    guests: Arc::clone(guests),
                    share: door.connections_per_address,
                    closing: watched.clone(),
                };
                house.serve(listener)
            })
            .collect();
        Ok(Self { shared, closing, addresses, acceptors, tasks, guests })
    }

    /// Takes over tokens, streams, limits and certificates. Doors themselves need a restart.
    ///
    /// # Errors
    /// A certificate or key cannot be used; nothing has changed then.
    pub fn reload(&self, configuration: &Configuration) -> Result<(), HttpError> {
        let mut renewed = Vec::new();
        // Doors with a certificate by ACME have the newest one always.
        for door in configuration.http.iter().filter(|door| !door.acme) {
            if let Some((_, place)) = self.acceptors.iter().find(|(address, _)| *address == door.address) {
                renewed.push((place, acceptor(door, None)?));
            }
        }
        for (place, tls) in renewed {
            place.store(Arc::new(tls));
        }
        self.shared.tables.store(Arc::new(Tables::new(configuration)));
        Ok(())
    }

    /// Where they listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes nothing new; requests under way may finish within `grace`.
    pub async fn close(&self, grace: Duration) {
        self.closing.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        let all_served = async {
            for guests in &self.guests {
                guests.all_served().await;
            }
        };
        if tokio::time::timeout(grace, all_served).await.is_err() {
            log::warn!("http: requests that were under way were cut off; what was not answered 202 was not taken");
        }
    }
}

/// What a door serves.
fn router<G: Gatekeeper>(shared: &Arc<Shared<G>>, serve: &[Service]) -> Router {
    let guarded = |routes: Router<Arc<Shared<G>>>, calls: Calls| {
        routes.route_layer(middleware::from_fn_with_state((Arc::clone(shared), calls), guard::<G>))
    };
    let mut router = Router::new();
    if serve.contains(&Service::Messages) {
        let calls = Router::new()
            .route("/api/v1/messages", post(messages::post::<G>))
            .route("/v3/{domain}/messages", post(mailgun::messages::<G>))
            .route("/v3/{domain}/messages.mime", post(mailgun::mime::<G>));
        router = router.merge(guarded(calls, Calls::Messages));
    }
    if serve.contains(&Service::Suppressions) {
        let calls = Router::new()
            .route(suppressions::PATH, get(suppressions::list::<G>).post(suppressions::add::<G>))
            .route(
                suppressions::ADDRESS_PATH,
                get(suppressions::find::<G>)
                    .put(suppressions::add_one::<G>)
                    .post(suppressions::add_one::<G>)
                    .delete(suppressions::remove::<G>),
            )
            .route("/v3/{domain}/{table}", get(mailgun_suppressions::list::<G>).post(mailgun_suppressions::add::<G>))
            .route(
                "/v3/{domain}/{table}/{address}",
                get(mailgun_suppressions::find::<G>).delete(mailgun_suppressions::remove::<G>),
            );
        router = router.merge(guarded(calls, Calls::Suppressions));
    }
    if serve.contains(&Service::Unsubscribe) {
        let page = get(unsubscribe::ask::<G>).post(unsubscribe::unsubscribe::<G>).options(unsubscribe::options);
        router = router.route(unsubscribe::PATH, page);
    }
    if serve.iter().any(|service| *service != Service::Unsubscribe) {
        router = router.route(openapi::PATH, get(|| async { axum::Json(openapi::document()) }));
    }
    router
        .fallback(|uri: Uri| async move {
            let detail = "docs/operate/http.md has all that HTTP doors can serve; this one may serve less";
            refuse(uri.path(), Problem::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here", detail))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let detail = format!("{method} is not for this path; the Allow field has what is");
            let problem =
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "nothing was done", detail);
            refuse(uri.path(), problem)
        })
        // The guard has a limit that a reload can change.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(shared))
}

fn acceptor(door: &Http, certificates: Option<&Certificates>) -> Result<Option<TlsAcceptor>, HttpError> {
    if door.acme {
        let failed = |reason: String| HttpError::Acme { address: door.address, reason };
        let certificates = certificates.ok_or_else(|| failed("there is no [acme]".to_owned()))?;
        let config = certificates.server_tls(&[b"http/1.1"]).map_err(|error| failed(error.to_string()))?;
        return Ok(Some(TlsAcceptor::from(Arc::new(config))));
    }
    if door.certificate.is_none() && door.key.is_none() {
        return Ok(None);
    }
    let mut config = server_tls(door.address, (door.certificate.as_deref(), door.key.as_deref()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// TLS of a door, as it is now.
type Acceptor = Arc<ArcSwap<Option<TlsAcceptor>>>;

/// One door.
#[derive(Clone)]
struct House {
    router: Router,
    tls: Acceptor,
    places: Arc<Semaphore>,
    guests: Arc<Guests>,
    /// Connections of one address.
    share: u32,
    closing: watch::Receiver<bool>,
}

impl House {
    /// In a task of its own. No async function: those are compiled where they are awaited, in each program anew.
    fn serve(self, listener: TcpListener) -> JoinHandle<()> {
        tokio::spawn(self.receive(listener))
    }

    async fn receive(self, listener: TcpListener) {
        loop {
            // The kernel keeps those who come while every place is taken.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, address)) => {
                    // Whoever has their share is closed on at once, and takes nobody's place.
                    let Ok(seat) = self.guests.seat(address.ip(), usize::MAX, self.share) else { continue };
                    let house = self.clone();
                    tokio::spawn(async move {
                        house.welcome(stream, address).await;
                        drop((place, seat));
                    });
                }
                Err(error) => {
                    log::warn!("http: cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn welcome(&self, stream: TcpStream, address: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_PATIENCE));
        let stream = Box::pin(stream);
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let tls = self.tls.load_full();
        match &*tls {
            None => self.converse(TokioIo::new(Leaving::new(stream)), Client { address, tls: None }).await,
            Some(acceptor) => {
                // Whoever does not shake hands is not worth a line in the log.
                let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
                let (_, session) = stream.get_ref();
                if session.alpn_protocol() == Some(ACME_TLS) {
                    // The authority has seen the proof of a name, and wants nothing else (RFC 8737 §3).
                    return;
                }
                let tls =
                    session.protocol_version().zip(session.negotiated_cipher_suite()).and_then(|(version, suite)| {
                        Some(TlsSummary { version: version.as_str()?, cipher: suite.suite().as_str()? })
                    });
                self.converse(TokioIo::new(Leaving::new(stream)), Client { address, tls }).await;
            }
        }
    }

    async fn converse<S>(&self, stream: S, client: Client)
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(client.clone()));
            let mut router = router.clone();
            async move {
                use tower_service::Service as _;
                let answered = tokio::time::timeout(REQUEST_PATIENCE, router.call(request)).await;
                Ok::<_, Infallible>(match answered {
                    Ok(Ok(response)) => response,
                    Err(_) => Problem::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "timeout",
                        "the request took too long",
                        "send the body without pauses; with an Idempotency-Key it is safe to try again",
                    )
                    .into_response(),
                })
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(stream, service);
        tokio::pin!(connection);
        let mut closing = self.closing.clone();
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended { log::debug!("http: {error}"); }
                return;
            }
            _ = closing.wait_for(|closing| *closing) => {}
            // Also of clients that never read their answers.
            () = tokio::time::sleep(LIFE) => {}
        }
        // The request that is under way is answered; then the connection ends.
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(REQUEST_PATIENCE, connection).await;
    }
}
