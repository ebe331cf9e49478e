//! Who may come in at the door for management, and what they may do: a list of certificates, asked at each handshake and
//! again at each request, so that a reload counts at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postkeep_configuration::{ApiClient, ApiRole, Configuration};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
};

use crate::fingerprint::Fingerprint;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: Arc<str>,
    pub(crate) role: ApiRole,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Managers(ArcSwap<HashMap<Fingerprint, Manager>>);

impl Managers {
    /// Those that the configuration lists.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Self {
        Self(ArcSwap::from_pointee(table(&configuration.api_client)))
    }

    /// Takes over the list of another configuration.
    pub fn reload(&self, configuration: &Configuration) {
        self.0.store(Arc::new(table(&configuration.api_client)));
    }

    /// Who has that certificate.
    pub(crate) fn find(&self, fingerprint: &Fingerprint) -> Option<Manager> {
        self.0.load().get(fingerprint).cloned()
    }
}

fn table(clients: &[ApiClient]) -> HashMap<Fingerprint, Manager> {
    let listed = clients.iter().filter_map(|client| {
        // The check of the configuration lets nothing else through.
        let fingerprint = client.fingerprint.parse().ok()?;
        Some((fingerprint, Manager { name: client.name.as_str().into(), role: client.role }))
    });
    listed.collect()
}

/// A certificate that was shown and is not listed.
#[derive(Debug)]
pub(crate) struct NotListed(pub(crate) Fingerprint);

impl fmt::Display for NotListed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the certificate {} is not listed", self.0)
    }
}

impl std::error::Error for NotListed {}

/// Lets those in that are listed and have the key to what they show. Dates and names in certificates mean nothing:
/// a certificate counts for as long as it is listed.
#[derive(Debug)]
pub(crate) struct ListedOnly {
    managers: Arc<Managers>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ListedOnly {
    pub(crate) fn new(managers: Arc<Managers>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { managers, algorithms }
    }
}

impl ClientCertVerifier for ListedOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let fingerprint = Fingerprint::of(end_entity);
        match self.managers.find(&fingerprint) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::Other(OtherError(Arc::new(NotListed(fingerprint)))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
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
