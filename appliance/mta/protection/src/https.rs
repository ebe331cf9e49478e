//! One HTTPS request to a host whose addresses are known: for policies, which must come from a host that proves its
//! name, and for reports. No redirects, no cookies, no more octets and no more time than the caller allows.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use postkeep_trust::RootsError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Addresses of a host that are tried.
const MOST_ADDRESSES: usize = 4;
/// Of the time for a request, the part in which one address must answer.
const ADDRESS_SHARE: u32 = 3;
/// Pieces of an answer that wait to be taken.
const PIECES_WAITING: usize = 8;

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Name of the host; its certificate must be valid for it.
    pub host: &'a str,
    /// Port, 443 as a rule.
    pub port: u16,
    /// Its addresses, in the order in which to try them.
    pub addresses: &'a [IpAddr],
    /// Path and query.
    pub path: &'a str,
    /// Media type and octets to POST; `None`: GET.
    pub post: Option<(&'a str, Bytes)>,
    /// Most octets of the answer.
    pub most: usize,
    /// Time for everything together.
    pub within: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpsError {
    /// No address can be connected to.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The host does not prove its name.
    #[error("TLS: {0}")]
    Tls(String),
    /// It answers with anything but success; redirects are not followed.
    #[error("the answer is {0}")]
    Status(u16),
    /// The answer is longer than allowed.
    #[error("the answer is longer than {0} octets")]
    TooLarge(usize),
    /// It does not speak HTTP.
    #[error("HTTP: {0}")]
    Http(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
}

impl Client {
    /// Trusts Mozilla's roots and those of a PEM file.
    ///
    /// # Errors
    /// The file.
    pub fn new(extra_roots: Option<&Path>) -> Result<Self, RootsError> {
        Ok(Self { tls: TlsConnector::from(postkeep_trust::client(extra_roots)?) })
    }

    /// Asks, and gives the body of a `200` (or of any success, for POST).
    ///
    /// # Errors
    /// See [`HttpsError`]. Cancel-safe: nothing is left behind but a closed connection.
    pub async fn request(&self, request: &Request<'_>) -> Result<Bytes, HttpsError> {
        let (pieces, mut waiting) = channel::<Bytes>(PIECES_WAITING);
        let gathering = async {
            let mut octets = BytesMut::new();
            while let Some(piece) = waiting.recv().await {
                octets.extend_from_slice(&piece);
            }
            octets.freeze()
        };
        let (fetched, octets) = tokio::join!(self.fetch(request, pieces), gathering);
        fetched.map(|()| octets)
    }

    /// Asks, and passes the body of a `200` on piece by piece, as fast as they are taken.
    ///
    /// # Errors
    /// See [`HttpsError`]; pieces that were passed on by then are part of nothing whole.
    pub async fn fetch(&self, request: &Request<'_>, pieces: Sender<Bytes>) -> Result<(), HttpsError> {
        timeout(request.within, self.ask(request, pieces)).await.unwrap_or(Err(HttpsError::Timeout(request.within)))
    }

    async fn ask(&self, request: &Request<'_>, pieces: Sender<Bytes>) -> Result<(), HttpsError> {
        let stream = connect(request).await?;
        let name = ServerName::try_from(request.host.to_owned()).map_err(|error| HttpsError::Tls(error.to_string()))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| HttpsError::Tls(error.to_string()))?;
        let http = |error: hyper::Error| HttpsError::Http(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let authority = match request.port {
            443 => request.host.to_owned(),
            port => format!("{}:{port}", request.host),
        };
        let mut builder =
            hyper::Request::builder().uri(request.path).header(HOST, authority).header(USER_AGENT, "Postkeep");
        let mut body = Bytes::new();
        if let Some((kind, octets)) = &request.post {
            builder = builder.method(Method::POST).header(CONTENT_TYPE, *kind);
            body = octets.clone();
        }
        let message = builder.body(Full::new(body)).map_err(|error| HttpsError::Http(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(message).await.map_err(http)?;
            let status = response.status();
            let is_good = if request.post.is_some() { status.is_success() } else { status == StatusCode::OK };
            if !is_good {
                return Err(HttpsError::Status(status.as_u16()));
            }
            let mut body = response.into_body();
            let mut octets = 0;
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(http)?.into_data() {
                    octets += data.len();
                    if octets > request.most {
                        return Err(HttpsError::TooLarge(request.most));
                    }
                    if pieces.send(data).await.is_err() {
                        return Err(HttpsError::Http("nobody takes the answer any more".to_owned()));
                    }
                }
            }
            Ok(())
        };
        // Serves the exchange. When it ends, what it has read is still to be taken, and the exchange ends too.
        let serving = async {
            if let Err(error) = connection.await {
                log::debug!("https: {}: {error}", request.host);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = exchange => answer,
            () = serving => Err(HttpsError::Http("the host closed the connection".to_owned())),
        }
    }
}

async fn connect(request: &Request<'_>) -> Result<TcpStream, HttpsError> {
    let mut failure = "it has no address".to_owned();
    for address in request.addresses.iter().take(MOST_ADDRESSES) {
        let address = SocketAddr::new(*address, request.port);
        match timeout(request.within / ADDRESS_SHARE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = format!("{address}: {error}"),
            Err(_) => failure = format!("{address}: no answer"),
        }
    }
    Err(HttpsError::Connect(failure))
}
