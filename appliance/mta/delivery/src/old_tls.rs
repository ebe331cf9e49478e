//! TLS through OpenSSL for hosts that speak nothing that rustls speaks: TLS 1.0 and 1.1, RSA key exchange, CBC.
//!
//! It keeps out who only listens, and nobody else. Used only where `old-tls` is set for a provider.

use std::pin::Pin;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::stream::Stream;
use crate::tls::Shaken;

/// Everything but suites without encryption or without a certificate. Level 0 lets in the keys and sums of
/// the time when these versions were new.
const CIPHERS: &str = "ALL:!aNULL:!eNULL:@SECLEVEL=0";

/// The configuration.
pub(crate) struct OldTls {
    connector: SslConnector,
}

impl OldTls {
    pub(crate) fn new() -> Result<Self, ErrorStack> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1))?;
        builder.set_cipher_list(CIPHERS)?;
        // The verdict is taken afterwards, as for every connection.
        builder.set_verify(SslVerifyMode::NONE);
        Ok(Self { connector: builder.build() })
    }

    /// The handshake, with whatever certificate.
    pub(crate) async fn connect(&self, stream: TcpStream, host: &str) -> Result<Shaken, String> {
        let library = |error: ErrorStack| error.to_string();
        let configuration = self.connector.configure().map_err(library)?.verify_hostname(false);
        let ssl = configuration.into_ssl(host).map_err(library)?;
        let mut stream = Box::new(SslStream::new(ssl, stream).map_err(library)?);
        Pin::new(stream.as_mut()).connect().await.map_err(|error| error.to_string())?;
        let ssl = stream.ssl();
        let version = match ssl.version2() {
            Some(SslVersion::TLS1_3) => "TLSv1.3",
            Some(SslVersion::TLS1_2) => "TLSv1.2",
            Some(SslVersion::TLS1_1) => "TLSv1.1",
            Some(SslVersion::TLS1) => "TLSv1",
            _ => "unknown",
        };
        let cipher = ssl.current_cipher().and_then(|cipher| cipher.standard_name()).unwrap_or("unknown");
        let certificates = ssl.peer_cert_chain().into_iter().flatten();
        let chain =
            certificates.filter_map(|certificate| certificate.to_der().ok()).map(CertificateDer::from).collect();
        Ok(Shaken { version, cipher, chain, stream: Stream::OldTls(stream) })
    }
}
