//! What a handshake is given: the certificate, or the proof of a name when an authority asks for one (RFC 8737).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::renewal::Validity;

/// The protocol by which an authority asks for a proof.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The certificate and the proofs, as handshakes see them now.
#[derive(Default)]
pub(crate) struct Served {
    certificate: ArcSwapOption<CertifiedKey>,
    proofs: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Served")
    }
}

impl Served {
    /// From now on every handshake gets this certificate.
    pub(crate) fn store(&self, certificate: CertifiedKey) {
        self.certificate.store(Some(Arc::new(certificate)));
    }

    /// Has a proof of a name ready, until it is dropped.
    pub(crate) fn prove(self: &Arc<Self>, name: &str, digest: &[u8]) -> Result<Proof, String> {
        if digest.len() != 32 {
            return Err("the authority's digest is no SHA-256".to_owned());
        }
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|error| error.to_string())?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        let key =
            aws_lc_rs::default_provider().key_provider.load_private_key(private).map_err(|error| error.to_string())?;
        // Not held against its key, which was made just now: the check would stumble over the critical extension.
        let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
        let name = name.to_ascii_lowercase();
        self.proofs.lock().insert(name.clone(), Arc::new(certified));
        Ok(Proof { served: Arc::clone(self), name })
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asks_for_proof = hello.alpn().is_some_and(|mut protocols| protocols.any(|one| one == ACME_TLS));
        if asks_for_proof {
            return self.proofs.lock().get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        self.certificate.load_full()
    }
}

/// A proof that is ready for an authority.
pub(crate) struct Proof {
    served: Arc<Served>,
    name: String,
}

impl Drop for Proof {
    fn drop(&mut self) {
        self.served.proofs.lock().remove(&self.name);
    }
}

/// A certificate out of a file with its key and its chain; its validity, and whether it has all of these names.
pub(crate) fn read(pem: &str, names: &[String]) -> Result<(CertifiedKey, Validity, bool), String> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the chain cannot be read: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("the key cannot be read: {error}"))?;
    let leaf = chain.first().ok_or("there is no certificate")?;
    let (validity, has_names) = {
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| format!("it is no certificate: {error}"))?;
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let validity = Validity {
            from: seconds(leaf.validity().not_before.timestamp()),
            until: seconds(leaf.validity().not_after.timestamp()),
        };
        let alternatives = leaf.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let has = |name: &String| {
            alternatives.is_some_and(|all| {
                all.iter().any(|one| matches!(one, GeneralName::DNSName(other) if other.eq_ignore_ascii_case(name)))
            })
        };
        (validity, names.iter().all(has))
    };
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| format!("key and certificate do not fit each other: {error}"))?;
    Ok((certified, validity, has_names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_with_its_life_and_its_names() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["mail.example.com".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 4, 1));
        let certificate = params.self_signed(&key).unwrap();
        let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
        let (_, validity, has_names) = read(&pem, &["MAIL.example.com".to_owned()]).unwrap();
        assert_eq!((validity.from, validity.until), (1_767_225_600, 1_775_001_600));
        assert!(has_names);
        assert!(!read(&pem, &["mail.example.com".to_owned(), "other.example.com".to_owned()]).unwrap().2);
        let other = format!("{}{}", KeyPair::generate().unwrap().serialize_pem(), certificate.pem());
        for bad in [other.as_str(), "", &certificate.pem()] {
            assert!(read(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proof_is_there_until_it_is_dropped() {
        let served = Arc::new(Served::default());
        let proof = served.prove("Mail.example.com", &[7; 32]).unwrap();
        assert!(served.proofs.lock().contains_key("mail.example.com"));
        drop(proof);
        assert!(served.proofs.lock().is_empty());
        assert!(served.prove("mail.example.com", &[7; 31]).is_err());
    }
}
