//! A client's verifier for servers whose certificates are not vouched for by authorities.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What is thought of a server's certificate.
type Judge = dyn Fn(&CertificateDer<'_>) -> Result<(), Error> + Send + Sync;

/// Whoever shows a certificate must have its key, and the judge must like it. Names, dates and issuers mean nothing here.
pub struct KeyAlone {
    algorithms: WebPkiSupportedAlgorithms,
    judge: Box<Judge>,
}

impl KeyAlone {
    /// Takes every certificate: its key is all that is asked for.
    #[must_use]
    pub fn any(provider: &CryptoProvider) -> Self {
        Self::judged(provider, |_| Ok(()))
    }

    /// Takes those that `judge` does not object to.
    pub fn judged(
        provider: &CryptoProvider,
        judge: impl Fn(&CertificateDer<'_>) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, judge: Box::new(judge) }
    }
}

impl fmt::Debug for KeyAlone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeyAlone").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for KeyAlone {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        (self.judge)(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
