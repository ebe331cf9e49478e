//! The ways to a daemon: its socket on this machine, or the door for management of a box. Over the network both ends know
//! each other by fingerprints; names, dates and authorities in certificates mean nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postkeep_trust::KeyAlone;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, OtherError};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::fingerprint::Fingerprint;
use crate::profile::BoxProfile;

/// A connection and its handshake take no longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A box that has not been heard of for so long is gone.
const GONE: Duration = Duration::from_secs(30);

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How a daemon is reached.
#[derive(Clone)]
pub(crate) enum Way {
    /// On this machine.
    Socket(PathBuf),
    /// Over the network.
    Box(Arc<BoxWay>),
}

/// How a box is reached.
pub(crate) struct BoxWay {
    profile: BoxProfile,
    tls: TlsConnector,
}

impl fmt::Debug for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(out, "{}", path.display()),
            Self::Box(way) => out.write_str(&way.profile.address),
        }
    }
}

impl Way {
    /// The way to a box.
    ///
    /// # Errors
    /// The key of the identity does not fit its certificate.
    pub(crate) fn to_box(profile: BoxProfile) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // The box with this fingerprint is the right one, and no other.
        let wanted = profile.fingerprint;
        let verifier = KeyAlone::judged(&provider, move |certificate| {
            let shown = Fingerprint::of(certificate);
            if shown == wanted {
                return Ok(());
            }
            Err(CertificateError::Other(OtherError(Arc::new(NotTheBox(shown)))).into())
        });
        let (certificates, key) = profile.identity.parts();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(certificates, key)
            .map_err(|error| format!("the identity cannot be used: {error}"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        // The name says nothing to whoever listens on the wire.
        config.enable_sni = false;
        Ok(Self::Box(Arc::new(BoxWay { profile, tls: TlsConnector::from(Arc::new(config)) })))
    }

    /// Connects. The error is a sentence.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| {
                    format!(
                        "cannot reach postkeepd at {}: {error}; is it running, and may you open its socket? (--socket PATH \
                         names another)",
                        path.display()
                    )
                })?;
                Ok(Box::new(stream))
            }
            Self::Box(way) => {
                let connected = tokio::time::timeout(PATIENCE, way.connect()).await;
                connected.unwrap_or_else(|_| {
                    Err(format!("cannot reach the box at {}: no answer within {PATIENCE:?}", way.profile.address))
                })
            }
        }
    }

    /// What it means that a request had no answer although the connection stood: a box says only then that it does not know us.
    pub(crate) fn hint(&self, error: &(dyn std::error::Error + 'static)) -> Option<String> {
        let Self::Box(way) = self else { return None };
        let alert = causes(error).find_map(|cause| match cause.downcast_ref::<Error>()? {
            Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        });
        let refusals = [
            AlertDescription::AccessDenied,
            AlertDescription::BadCertificate,
            AlertDescription::CertificateRequired,
            AlertDescription::CertificateUnknown,
        ];
        let (address, mine) = (&way.profile.address, way.profile.identity.fingerprint());
        if alert.is_some_and(|alert| refusals.contains(&alert)) {
            return Some(format!(
                "the box at {address} does not let this identity in; its fingerprint is {mine}: list it in the seed's [api], \
                 or in [[api-client]]"
            ));
        }
        // A network between us may have lost the alert.
        Some(format!(
            "the box at {address} closed the connection before it answered: {error}; does it list this identity, {mine}?"
        ))
    }
}

/// An error and what stands behind it, through the errors of I/O, which hide theirs.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let hidden = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match hidden {
            Some(hidden) => Some(hidden as &(dyn std::error::Error + 'static)),
            None => error.source(),
        }
    })
}

/// Asked whether it is still there, a box that says nothing for [`GONE`] is not.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(GONE / 2).with_interval(GONE / 6).with_retries(3)
}

impl BoxWay {
    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let address = &self.profile.address;
        let failed = |error: &std::io::Error| {
            format!(
                "cannot reach the box at {address}: {error}; is it up, and does it list somebody who may manage it?"
            )
        };
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        let peer = stream.peer_addr().map_err(|error| failed(&error))?;
        // Small requests; a failure costs milliseconds.
        let _ = stream.set_nodelay(true);
        // A box may take minutes to answer; one that is gone says nothing, and must not be waited for as long.
        let socket = SockRef::from(&stream);
        let watched = socket.set_tcp_keepalive(&keepalive()).and_then(|()| socket.set_tcp_user_timeout(Some(GONE)));
        watched.map_err(|error| failed(&error))?;
        let name = ServerName::IpAddress(peer.ip().into());
        match self.tls.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(causes(&error).find_map(|cause| other(cause)?.downcast_ref::<NotTheBox>()).map_or_else(
                || failed(&error),
                |NotTheBox(shown)| {
                    format!(
                        "who answers at {address} is not the box that is meant: its fingerprint is {shown}, not {}; \
                         somebody is in between, or the box was made anew: compare with its console",
                        self.profile.fingerprint
                    )
                },
            )),
        }
    }
}

fn other<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => Some(&**other),
        _ => None,
    }
}

/// Another certificate than the pinned one was shown.
#[derive(Debug)]
struct NotTheBox(Fingerprint);

impl fmt::Display for NotTheBox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the certificate {} is not the pinned one", self.0)
    }
}

impl std::error::Error for NotTheBox {}
