//! Which authorities the box believes when it is a TLS client: Mozilla's roots, and those in a PEM file of the owner.
//!
//! Every room that speaks TLS to somebody's server takes its roots from here, so that `extra-roots` means the same
//! wherever it stands in the configuration: more roots, never fewer. Where no authority is asked, [`KeyAlone`].

mod key_alone;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use self::key_alone::KeyAlone;

/// Why a file of roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the roots in {}: {why}", path.display())]
pub struct RootsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl From<RootsError> for io::Error {
    fn from(error: RootsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Mozilla's roots, and those in `extra`, a PEM file.
///
/// # Errors
/// The file cannot be read, holds no certificate, or one that cannot be a root.
pub fn roots(extra: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = extra {
        let failed = |why: String| RootsError { path: path.to_owned(), why };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(failed("there is no certificate in it".to_owned()));
        }
    }
    Ok(roots)
}

/// A client that believes [`roots`], speaks TLS 1.2 and 1.3, and shows no certificate of its own.
///
/// # Errors
/// See [`roots`].
pub fn client(extra: Option<&Path>) -> Result<Arc<ClientConfig>, RootsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = match builder.with_safe_default_protocol_versions() {
        Ok(builder) => builder,
        // The built-in provider has suites for both versions.
        Err(error) => unreachable!("{error}"),
    };
    Ok(Arc::new(builder.with_root_certificates(roots(extra)?).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_a_file_are_added_to_the_public_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let own = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        std::fs::write(&path, own.cert.pem()).unwrap();
        assert_eq!(roots(Some(&path)).unwrap().len(), webpki_roots::TLS_SERVER_ROOTS.len() + 1);
        assert!(client(Some(&path)).is_ok());
    }

    #[test]
    fn a_file_that_is_missing_empty_or_broken_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for content in [None, Some(""), Some("no PEM"), Some(broken)] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = roots(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("roots.pem"), "{content:?}: {error}");
        }
    }
}
