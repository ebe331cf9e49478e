//! The way to the authority: one HTTPS connection for each request, with a bound on time and size.

use std::error::Error as StdError;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A request and its answer take no longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer, in octets.
const LARGEST: usize = 1 << 20;

type Failure = Box<dyn StdError + Send + Sync>;

/// Speaks HTTPS to the authority.
#[derive(Clone)]
pub(crate) struct Client(TlsConnector);

impl Client {
    /// Trusts the public roots and those of a file.
    pub(crate) fn new(extra_roots: Option<&Path>) -> Result<Self, String> {
        let client = postkeep_trust::client(extra_roots).map_err(|error| format!("[acme] extra-roots: {error}"))?;
        Ok(Self(TlsConnector::from(client)))
    }

    async fn ask(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Failure> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        if uri.scheme_str() != Some("https") {
            return Err("the authority names a URL that is not https".into());
        }
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        request.headers_mut().insert(HOST, HeaderValue::from_str(&authority)?);
        *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        let stream = TcpStream::connect((&*host, uri.port_u16().unwrap_or(443))).await?;
        let stream = self.0.connect(ServerName::try_from(host)?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
        connection.abort();
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, place) = (self.clone(), request.uri().clone());
        Box::pin(async move {
            let failed = |why: String| Error::Other(format!("{place}: {why}").into());
            match tokio::time::timeout(PATIENCE, client.ask(request)).await {
                Ok(answer) => answer.map_err(|error| failed(error.to_string())),
                Err(_) => Err(failed(format!("no answer within {PATIENCE:?}"))),
            }
        })
    }
}
