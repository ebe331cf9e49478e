//! The way to a box's door: one call a connection. Who answers is told by the sum of its certificate, which a box makes anew at each
//! start, and which can be compared with its console. The answer key comes the same way: without that comparison (or a quote of a
//! TPM) whoever stands in between gets the share.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request as Call, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use postkeep_keys::Sum;
use postkeep_keys::wire::{LONGEST_LINE, Reply, Request};
use postkeep_trust::KeyAlone;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::outcome::{Failure, bad, refused};

const PATH: &str = "/v1/seal";
/// A box that does not answer within this time is not reached.
const PATIENCE: Duration = Duration::from_secs(20);

/// A box that is asked.
pub(crate) struct Client {
    address: String,
    /// The certificate that has to be shown, where somebody knows it; afterwards the one that was shown first.
    certificate: Arc<Mutex<Option<Sum>>>,
    tls: TlsConnector,
}

impl Client {
    /// The box at `address`, with the certificate `expected`, or any.
    pub(crate) fn new(address: &str, expected: Option<Sum>) -> Result<Self, Failure> {
        let certificate = Arc::new(Mutex::new(expected));
        let known = Arc::clone(&certificate);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = KeyAlone::judged(&provider, move |shown| {
            let shown = Sum::of(shown);
            // From the second call on the same box answers, or nothing is said to it.
            if *known.lock().get_or_insert(shown) == shown {
                Ok(())
            } else {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Self { address: address.to_owned(), certificate, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The certificate that the box has shown.
    pub(crate) fn certificate(&self) -> Option<Sum> {
        *self.certificate.lock()
    }

    /// What the box says to `request`.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(bad)?;
        let late = || bad(format!("the box at {} does not answer within {PATIENCE:?}", self.address));
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.call(request)).await.unwrap_or_else(|_| Err(late()))
        })
    }

    async fn call(&self, request: &Request) -> Result<Reply, Failure> {
        let unreached = |why: &dyn std::fmt::Display| {
            bad(format!(
                "cannot reach the box at {}: {why}; is the address right (HOST:8444), and is the box up?",
                self.address
            ))
        };
        let stream = TcpStream::connect(&self.address).await.map_err(|error| unreached(&error))?;
        let name = ServerName::IpAddress(stream.peer_addr().map_err(|error| unreached(&error))?.ip().into());
        let stream = self.tls.connect(name, stream).await.map_err(|error| {
            let is_other = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).is_some_and(|error| {
                matches!(error, rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            });
            if !is_other {
                return unreached(&error);
            }
            refused(format!(
                "who answers at {} shows another certificate than the one that is meant: the box has started again, or somebody is in \
                 between; compare with its console",
                self.address
            ))
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreached(&error))?;
        let connection = tokio::spawn(connection);
        let body = serde_json::to_vec(request).map_err(bad)?;
        let call = Call::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(HOST, &self.address)
            .body(Full::new(Bytes::from(body)))
            .map_err(bad)?;
        let response = sender.send_request(call).await.map_err(|error| unreached(&error))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), LONGEST_LINE).collect().await.map_err(|error| unreached(&error))?;
        connection.abort();
        match status {
            StatusCode::OK | StatusCode::FORBIDDEN => serde_json::from_slice(&body.to_bytes()).map_err(|_| {
                bad("the box says what this program does not understand: one of them is older than the other")
            }),
            StatusCode::SERVICE_UNAVAILABLE => {
                Err(bad("the door of the box is there, and what keeps its seal is not; look at its console"))
            }
            other => Err(bad(format!("the box answers {other}: is this the door of its seal?"))),
        }
    }
}
