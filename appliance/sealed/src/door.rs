//! The door of a box's seal, on the network: TLS 1.3, one address, one kind of call. It is all that a sealed box offers, and it
//! holds nothing: no share, no key but that of its own TLS, no disk. What comes is handed to the opener, and what the opener says is
//! handed out.
//!
//! A client gets one request a connection, an address and a network have so many connections at a time, and whatever the reply is, it
//! comes at the same time after the request, so that nobody learns from the clock what they are not told.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request as Call, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use postkeep_guests::Guests;
use postkeep_keys::wire::{Reply, Request};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::line;

/// The one path there is.
pub const PATH: &str = "/v1/seal";
/// The largest request, in octets: far more than an answer has.
pub const LARGEST_REQUEST: usize = 64 << 10;
/// Replies come at the end of one of these after the request.
const SLOT: Duration = Duration::from_millis(500);
/// Connections in all.
const MOST: usize = 1024;
/// Connections of one address: custodians may sit behind one.
const SHARE: u32 = 4;
/// Of one network of a provider's customer: 48 bits of IPv6, 24 of IPv4.
const SHARE_OF_A_NETWORK: u32 = 16;
/// Requests that the opener is asked at the same time; it takes more, so that the console has room.
const ASKED_AT_ONCE: usize = 16;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The whole of a connection.
const LIFE: Duration = Duration::from_secs(20);
const LARGEST_HEADER: usize = 8 << 10;
const MOST_FIELDS: usize = 32;
/// The opener decides in milliseconds.
const ANSWER: Duration = Duration::from_secs(10);
/// After an accept that failed for want of memory or descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The certificate that a door shows, made anew at each start: nothing on the disk can be used to pose as the box.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// An open door.
pub struct Door {
    tls: TlsAcceptor,
    opener: PathBuf,
    guests: Arc<Guests>,
    /// The same guests, by the network that a provider gives to one machine.
    networks: Arc<Guests>,
    asking: Arc<Semaphore>,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// See the text.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// See the text.
    #[error("cannot use TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// A new one. Names in it say nothing: clients know it by its sum.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new() -> Result<Self, DoorError> {
        let made = rcgen::generate_simple_self_signed(["box.invalid".to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok(Self { certificate: made.cert.der().clone(), key })
    }

    /// The certificate, in DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

impl Door {
    /// A door that shows `identity`, to the opener behind the socket `opener`.
    ///
    /// # Errors
    /// TLS cannot be used.
    pub fn new(identity: Identity, opener: PathBuf) -> Result<Arc<Self>, DoorError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate], identity.key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let tls = TlsAcceptor::from(Arc::new(config));
        Ok(Arc::new(Self {
            tls,
            opener,
            guests: Arc::default(),
            networks: Arc::default(),
            asking: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
        }))
    }

    /// For ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    // Whoever has their share is closed on at once.
                    let Ok(seat) = self.guests.seat(address.ip(), MOST, SHARE) else { continue };
                    let Ok(network) = self.networks.seat(network(address.ip()), MOST, SHARE_OF_A_NETWORK) else {
                        continue;
                    };
                    let door = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _ = timeout(LIFE, door.welcome(stream, address)).await;
                        drop((seat, network));
                    });
                }
                Err(error) => {
                    log::warn!("the door of the seal cannot accept: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn welcome(&self, stream: TcpStream, address: SocketAddr) {
        let Ok(Ok(stream)) = timeout(HANDSHAKE, self.tls.accept(stream)).await else { return };
        let service = service_fn(|call| self.answer(call));
        let connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE)
            .max_headers(MOST_FIELDS)
            .max_header_size(LARGEST_HEADER)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            log::debug!("the door of the seal, {address}: {error}");
        }
    }

    async fn answer(&self, call: Call<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let began = Instant::now();
        let response = match request_of(call).await {
            Err(status) => said(status, Bytes::new()),
            Ok(request) => match self.ask(request).await {
                Some(reply) => {
                    let status = if reply == Reply::Refused { StatusCode::FORBIDDEN } else { StatusCode::OK };
                    said(status, serde_json::to_vec(&reply).unwrap_or_default().into())
                }
                None => said(StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
            },
        };
        let slots = began.elapsed().as_nanos() / SLOT.as_nanos() + 1;
        sleep_until(began + SLOT * u32::try_from(slots).unwrap_or(1)).await;
        Ok(response)
    }

    async fn ask(&self, request: Request) -> Option<Reply> {
        let turn = Arc::clone(&self.asking).acquire_owned().await.ok()?;
        let opener = self.opener.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let reply = line::ask(&opener, &request, ANSWER);
            // Also where whoever asked has gone meanwhile.
            drop(turn);
            reply
        });
        match asked.await {
            // Who has answered and who has not is nobody's business but the custodians'.
            Ok(Ok(Reply::State(state))) => Some(Reply::State(Box::new(state.for_strangers()))),
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                log::error!("{error}");
                None
            }
            Err(_) => None,
        }
    }
}

async fn request_of(call: Call<Incoming>) -> Result<Request, StatusCode> {
    if call.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *call.method() {
        Method::GET => Ok(Request::State),
        Method::POST => {
            let body = Limited::new(call.into_body(), LARGEST_REQUEST).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST }
            })?;
            serde_json::from_slice(&body.to_bytes()).map_err(|_| StatusCode::BAD_REQUEST)
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// The network of `address` that one customer of a provider has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !0xff)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 48))),
    }
}

fn said(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
