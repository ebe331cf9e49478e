//! TLS towards receivers of events: the roots that browsers trust, and the owner's own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// A client's configuration.
///
/// # Errors
/// The file with more roots cannot be read, or holds none.
pub(crate) fn configuration(extra_roots: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = extra_roots {
        let invalid =
            |error: &dyn std::fmt::Display| io::Error::other(format!("cannot use {}: {error}", file.display()));
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| invalid(&error))?;
        for certificate in certificates {
            roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(configuration))
}
