//! TLS towards receivers: rustls and aws-lc-rs, and the verdict on what the host showed.
//!
//! A handshake takes any certificate; what it proves is judged right after it, before a word is said: whether it is valid
//! for the MX host, and whether it is what the host's TLSA records promise. So a session that is resumed is judged like
//! any other, and every connection is known for what it is, whatever was asked of it.

use std::path::Path;
use std::sync::Arc;

use postkeep_configuration::TlsVersion;
use postkeep_dane::{Fault as DaneFault, Match, Usable, Verifier};
use postkeep_trust::KeyAlone;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ProtocolVersion, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::connector::{ConnectorError, Target, TlsFault};
use crate::old_tls::OldTls;
use crate::stream::Stream;

/// Hosts whose TLS sessions are kept for resumption.
const RESUMED_HOSTS: usize = 1024;

/// What is known of the TLS layer of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsResult {
    /// `TLSv1.3` or `TLSv1.2`; with old TLS also `TLSv1.1` and `TLSv1`.
    pub version: &'static str,
    /// Cipher suite by its IANA name, `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The certificate is valid for the MX host: chain, dates and name.
    pub verified: bool,
    /// The TLSA record that it matches; `None`: there is none, or none that can be used.
    pub dane: Option<Match>,
    /// It matches through the domain of the mail and not through the host's own name: good for that domain only.
    pub by_mail_domain: bool,
    /// Why it is not valid for the MX host.
    pub error: Option<String>,
    /// What kind of fault that is.
    pub fault: Option<TlsFault>,
}

/// A handshake that ended, and who spoke.
pub(crate) struct Shaken {
    pub(crate) stream: Stream,
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    /// The chain, the host's own first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// A handshake, or the verdict on it, that ends the connection.
pub(crate) struct Refused {
    pub(crate) detail: String,
    pub(crate) fault: TlsFault,
}

/// The configurations and what they share.
pub(crate) struct Tls {
    from_1_2: Arc<ClientConfig>,
    only_1_3: Arc<ClientConfig>,
    verifier: Arc<WebPkiServerVerifier>,
    dane: Verifier,
    old: OldTls,
}

impl Tls {
    /// Loads the built-in roots of Mozilla and those in `extra_roots`, a PEM file.
    pub(crate) fn new(extra_roots: Option<&Path>) -> Result<Self, ConnectorError> {
        let roots = postkeep_trust::roots(extra_roots)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| ConnectorError::Tls(error.to_string()))?;
        Ok(Self {
            from_1_2: configuration(&provider, rustls::DEFAULT_VERSIONS)?,
            only_1_3: configuration(&provider, &[&rustls::version::TLS13])?,
            verifier,
            dane: Verifier::new().map_err(|error| ConnectorError::Tls(error.to_string()))?,
            old: OldTls::new().map_err(|error| ConnectorError::Tls(error.to_string()))?,
        })
    }

    /// The handshake and the verdict. With `insist` a certificate that is valid for the host is needed, by DANE or by an
    /// authority; where there are TLSA records, they decide.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        target: &Target,
        insist: bool,
    ) -> Result<(Stream, TlsResult), Refused> {
        let host = target.host.trim_end_matches('.');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string());
        if insist && name.is_err() {
            return Err(Refused {
                detail: format!("no certificate can be valid for {host:?}: it is no host name"),
                fault: TlsFault::HostMismatch,
            });
        }
        let shaken = if target.old_tls {
            self.old.connect(stream, host).await
        } else {
            // Without a usable name there is no SNI, and nothing to verify.
            // A host that has TLSA records is called by the name that they stand at (RFC 7672 §3.3.1).
            let base = target.tlsa.as_ref().and_then(|tlsa| ServerName::try_from(tlsa.names.first()?.to_string()).ok());
            let sent = base
                .map_or_else(|| name.clone(), Ok)
                .unwrap_or_else(|_| ServerName::IpAddress(target.address.ip().into()));
            self.shake(stream, target.minimum, sent).await
        }
        .map_err(|detail| Refused {
            detail: format!("TLS handshake with {host} failed: {detail}"),
            fault: TlsFault::Handshake,
        })?;
        let verdict = match name {
            Ok(name) => self.verify(&shaken.chain, &name),
            Err(error) => Err((error, TlsFault::HostMismatch)),
        };
        let (dane, by_mail_domain) = self.match_tlsa(&shaken.chain, target, host)?;
        if let (true, None, Err((error, fault))) = (insist, dane, &verdict) {
            return Err(Refused { detail: format!("the certificate of {host} is not valid: {error}"), fault: *fault });
        }
        let (error, fault) = verdict.err().unzip();
        let Shaken { stream, version, cipher, .. } = shaken;
        Ok((stream, TlsResult { version, cipher, verified: error.is_none(), dane, by_mail_domain, error, fault }))
    }

    async fn shake(&self, stream: TcpStream, minimum: TlsVersion, name: ServerName<'static>) -> Result<Shaken, String> {
        let configuration = match minimum {
            TlsVersion::V1_2 => &self.from_1_2,
            TlsVersion::V1_3 => &self.only_1_3,
        };
        let connector = TlsConnector::from(Arc::clone(configuration));
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let (_, session) = stream.get_ref();
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        };
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let cipher = suite.map_or("unknown", iana_name);
        let chain = session.peer_certificates().unwrap_or_default().to_vec();
        Ok(Shaken { stream: Stream::Tls(Box::new(stream)), version, cipher, chain })
    }

    /// What the host's TLSA records say of its certificates. Unlike with authorities, a certificate that
    /// matches no record that can be used ends the connection, whatever was asked for (RFC 7672 §2.2).
    fn match_tlsa(
        &self,
        chain: &[CertificateDer<'_>],
        target: &Target,
        host: &str,
    ) -> Result<(Option<Match>, bool), Refused> {
        let Some(tlsa) = &target.tlsa else { return Ok((None, false)) };
        if Usable::of(&tlsa.records) == Usable::EncryptedOnly {
            return Ok((None, false));
        }
        let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let names: Vec<&str> = tlsa.names.iter().map(AsRef::as_ref).collect();
        let base = names.get(..1).unwrap_or_default();
        let verdict = match self.dane.verify(&tlsa.records, base, &chain) {
            Err(rejected) if rejected.kind == DaneFault::HostMismatch && names.len() > 1 => {
                self.dane.verify(&tlsa.records, &names, &chain).map(|matched| (Some(matched), true))
            }
            other => other.map(|matched| (Some(matched), false)),
        };
        verdict.map_err(|rejected| Refused {
            detail: format!("the certificate of {host} is not what its TLSA records promise: {rejected}"),
            fault: match rejected.kind {
                DaneFault::HostMismatch => TlsFault::HostMismatch,
                DaneFault::Expired => TlsFault::Expired,
                DaneFault::NoMatch => TlsFault::TlsaMismatch,
                DaneFault::Other => TlsFault::Other,
            },
        })
    }

    /// Why the certificates are not valid for this name.
    fn verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), (String, TlsFault)> {
        let [leaf, intermediates @ ..] = chain else {
            return Err(("the host showed no certificate".to_owned(), TlsFault::Other));
        };
        self.verifier.verify_server_cert(leaf, intermediates, name, &[], UnixTime::now()).map(|_| ()).map_err(|error| {
            let fault = match &error {
                rustls::Error::InvalidCertificate(error) => match error {
                    CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                        TlsFault::HostMismatch
                    }
                    CertificateError::UnknownIssuer => TlsFault::NotTrusted,
                    _ => TlsFault::Other,
                },
                _ => TlsFault::Other,
            };
            (error.to_string(), fault)
        })
    }
}

fn configuration(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, ConnectorError> {
    // Every certificate (RFC 7435: some protection is better than none), but whoever shows it must have its key, so that
    // the verdict taken afterwards means something.
    let any = KeyAlone::any(provider);
    let mut configuration = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| ConnectorError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(any))
        .with_no_client_auth();
    configuration.resumption = Resumption::in_memory_sessions(RESUMED_HOSTS);
    Ok(Arc::new(configuration))
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
