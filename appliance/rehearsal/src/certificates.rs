//! Certificates of the simulated internet: an authority of its own that a
//! configuration can trust through `extra-roots`, good leaves, and the bad
//! ones that are met in the wild.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Error;
use crate::rulebook::Certificate;

/// The rehearsal's certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    /// Key of all its hosts, PEM; absent: each has one of its own.
    hosts: Option<String>,
}

/// A certificate with its key.
pub struct Leaf {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The same as PEM.
    pub certificate_pem: String,
    /// Its key, SubjectPublicKeyInfo DER.
    pub public_key: Vec<u8>,
    /// The secret key, PKCS#8 DER.
    pub key: Vec<u8>,
    /// The same as PEM.
    pub key_pem: String,
}

fn failed(error: rcgen::Error) -> Error {
    Error::Certificates(error.to_string())
}

/// The cryptography that all TLS of the rehearsal uses.
pub(crate) fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Authority {
    /// A new authority with a new key.
    pub fn new() -> Result<Self, Error> {
        Self::of(&Self::secret()?)
    }

    /// A new key, PEM.
    pub fn secret() -> Result<String, Error> {
        Ok(KeyPair::generate().map_err(failed)?.serialize_pem())
    }

    /// The authority with this key. Its certificate is written anew: the same name and key, which is all that counts
    /// to those who trust it.
    pub fn of(secret: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(secret).map_err(failed)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "Postkeep rehearsal authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            hosts: None,
            issuer: Issuer::new(parameters, key),
        })
    }

    /// From now on every host has this key (PEM), so that TLSA records that somebody remembers stay true.
    pub fn with_key_of_hosts(self, secret: &str) -> Self {
        Self { hosts: Some(secret.to_owned()), ..self }
    }

    fn key_of_host(&self) -> Result<KeyPair, Error> {
        self.hosts.as_deref().map_or_else(KeyPair::generate, KeyPair::from_pem).map_err(failed)
    }

    /// The authority's certificate as PEM, for `extra-roots`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate of some kind for a host. `Broken` and `None` get a good one that nobody will see.
    pub fn leaf(&self, host: &str, kind: Certificate) -> Result<Leaf, Error> {
        let name = if kind == Certificate::WrongName { "another-host.test" } else { host };
        let mut names = vec![name.to_owned()];
        if kind != Certificate::WrongName && host == "localhost" {
            names.push("127.0.0.1".to_owned());
        }
        let mut parameters = CertificateParams::new(names).map_err(failed)?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind == Certificate::Expired {
            parameters.not_before = date_time_ymd(2019, 1, 1);
            parameters.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = self.key_of_host()?;
        let certificate = if kind == Certificate::SelfSigned {
            parameters.self_signed(&key)
        } else {
            parameters.signed_by(&key, &self.issuer)
        }
        .map_err(failed)?;
        Ok(Leaf::of(&certificate, &key))
    }

    /// A good certificate for several hosts.
    pub fn leaf_of(&self, hosts: Vec<String>) -> Result<Leaf, Error> {
        let mut parameters = CertificateParams::new(hosts).map_err(failed)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Leaf::of(&certificate, &key))
    }
}

impl Leaf {
    fn of(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            public_key: key.subject_public_key_info(),
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }

    /// What TLSA records `3 1 1` say of it (RFC 6698 §2.1): the SHA-256 of its key.
    pub fn key_digest(&self) -> Vec<u8> {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.public_key).as_ref().to_vec()
    }

    /// What a host needs to speak TLS with it.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![self.certificate.clone()], key))
            .map(Arc::new)
            .map_err(|error| Error::Certificates(error.to_string()))
    }
}
