//! TLS towards receivers with rustls and aws-lc-rs. Two configurations: one that
//! takes any certificate and only notes whether it is valid for the host, and one that insists.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connector::{ConnectorError, Target};

/// Hosts whose TLS sessions are kept for resumption.
const RESUMED_HOSTS: usize = 1024;

/// What is known of the TLS layer of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsResult {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// Cipher suite by its IANA name, `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The certificate is valid for the MX host: chain, dates and name.
    pub verified: bool,
    /// Why it is not.
    pub error: Option<String>,
}

/// The two configurations and what they share.
pub(crate) struct Tls {
    any_certificate: Arc<ClientConfig>,
    verified: Arc<ClientConfig>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Tls {
    /// Loads the built-in roots of Mozilla and those in `extra_roots`, a PEM file.
    pub(crate) fn new(extra_roots: Option<&Path>) -> Result<Self, ConnectorError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = extra_roots {
            add_roots(&mut roots, path)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| ConnectorError::Tls(error.to_string()))?;
        let any = Arc::new(AnyCertificate { algorithms: provider.signature_verification_algorithms });
        Ok(Self {
            any_certificate: configuration(&provider, any)?,
            verified: configuration(&provider, Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)?,
            verifier,
        })
    }

    /// The handshake. With `insist` only a certificate that is valid for the host will do.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        target: &Target,
        insist: bool,
    ) -> Result<(Box<TlsStream<TcpStream>>, TlsResult), String> {
        let host = target.host.trim_end_matches('.');
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if insist => {
                return Err(format!("no certificate can be valid for {host:?}: it is no host name"));
            }
            // Without a usable name there is no SNI, and nothing to verify.
            Err(error) => Err(error.to_string()),
        };
        let sent = name.clone().unwrap_or_else(|_| ServerName::IpAddress(target.address.ip().into()));
        let configuration = if insist { &self.verified } else { &self.any_certificate };
        let stream = TlsConnector::from(Arc::clone(configuration))
            .connect(sent, stream)
            .await
            .map_err(|error| format!("TLS handshake with {host} failed: {error}"))?;
        let (_, session) = stream.get_ref();
        let error = match name {
            _ if insist => None,
            Ok(name) => self.verify(session.peer_certificates(), &name),
            Err(error) => Some(error),
        };
        let result = TlsResult {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: session
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .map_or("unknown", iana_name),
            verified: error.is_none(),
            error,
        };
        Ok((Box::new(stream), result))
    }

    /// Why the certificates are not valid for this name; `None` when they are.
    fn verify(&self, certificates: Option<&[CertificateDer<'_>]>, name: &ServerName<'_>) -> Option<String> {
        let Some([leaf, intermediates @ ..]) = certificates else {
            return Some("the host showed no certificate".to_owned());
        };
        self.verifier
            .verify_server_cert(leaf, intermediates, name, &[], UnixTime::now())
            .err()
            .map(|error| error.to_string())
    }
}

fn configuration(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, ConnectorError> {
    let mut configuration = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectorError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    configuration.resumption = Resumption::in_memory_sessions(RESUMED_HOSTS);
    Ok(Arc::new(configuration))
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), ConnectorError> {
    let failed = |why: String| ConnectorError::ExtraRoots { path: path.to_owned(), why };
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(())
}

/// rustls calls the suites of TLS 1.3 `TLS13_…`; the registry does not.
fn iana_name(name: &'static str) -> &'static str {
    match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}

/// Takes every certificate (RFC 7435: some protection is better than none), but
/// checks that the peer has its key, so that the verdict taken afterwards means something.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
