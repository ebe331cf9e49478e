//! Who a client is at the door for management: a key and a certificate that it signed itself, in one PEM file that
//! nobody else can read. There is no authority: the box lists the certificate's fingerprint.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::fingerprint::Fingerprint;

/// A file of one key and one certificate is far smaller.
const LARGEST: u64 = 256 * 1024;
const LONGEST_NAME: usize = 64;

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Its file.
    #[error("cannot use the identity {path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// It could not be made.
    #[error("cannot make an identity: {0}")]
    Make(String),
}

/// A key and its certificate.
#[derive(Debug)]
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { certificates: self.certificates.clone(), key: self.key.clone_key(), fingerprint: self.fingerprint }
    }
}

impl Identity {
    /// Makes one (ECDSA with P-256) and writes it into a new file that only its owner can read. `name` stands in the
    /// certificate for people; the box does not read it.
    ///
    /// # Errors
    /// There is such a file already, or the disk refuses.
    pub fn make(path: &Path, name: &str) -> Result<Self, IdentityError> {
        let make = |error: &dyn std::fmt::Display| IdentityError::Make(error.to_string());
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(make(&format!("its name has to have 1 to {LONGEST_NAME} octets, without control characters")));
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| make(&error))?;
        let mut parameters = CertificateParams::new(Vec::<String>::new()).map_err(|error| make(&error))?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.self_signed(&pair).map_err(|error| make(&error))?;
        let text = certificate.pem() + &pair.serialize_pem();
        // A key that is lost cannot be made again: never in the place of another.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(|error| IdentityError::File {
                path: path.to_owned(),
                why: format!("{error}; identities are never overwritten, name a new file"),
            })?;
        Self::read(path)
    }

    /// Reads one that [`Self::make`] or another tool wrote: certificate and unencrypted key in PEM, in any order.
    ///
    /// # Errors
    /// It cannot be read, others can read it too, or one half is missing.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        let failed = |why: String| IdentityError::File { path: path.to_owned(), why };
        let mut octets = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let mode = file.metadata().map_err(|error| failed(error.to_string()))?.mode();
        if mode & 0o077 != 0 {
            return Err(failed(format!("others can read it; chmod 600 {}", path.display())));
        }
        file.take(LARGEST).read_to_end(&mut octets).map_err(|error| failed(error.to_string()))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&octets)
            .collect::<Result<_, _>>()
            .map_err(|error| failed(format!("it is no PEM file ({error})")))?;
        let Some(first) = certificates.first() else {
            return Err(failed("no certificate is in it; make one with: postkeep api identity new".to_owned()));
        };
        let fingerprint = Fingerprint::of(first);
        let key = PrivateKeyDer::from_pem_slice(&octets)
            .map_err(|error| failed(format!("no unencrypted private key is in it ({error})")))?;
        Ok(Self { certificates, key, fingerprint })
    }

    /// By what the box knows it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.certificates.clone(), self.key.clone_key())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_identity_is_its_owners_alone_and_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("me.pem");
        let made = Identity::make(&path, "me").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::read(&path).unwrap().fingerprint(), made.fingerprint());
        assert!(Identity::make(&path, "you").unwrap_err().to_string().contains("never overwritten"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Identity::read(&path).unwrap_err().to_string().contains("others can read it"));
    }

    #[test]
    fn a_file_without_both_halves_is_named_with_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("me.pem");
        Identity::make(&path, "me").unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let (certificate, key) = whole.split_at(whole.find("-----BEGIN PRIVATE").unwrap());
        for (text, lacks) in
            [("", "no certificate"), (key, "no certificate"), (certificate, "no unencrypted private key")]
        {
            std::fs::write(&path, text).unwrap();
            let error = Identity::read(&path).unwrap_err().to_string();
            assert!(error.contains(lacks) && error.contains("me.pem"), "{error}");
        }
        assert!(Identity::make(&folder.path().join("new"), "a\nb").unwrap_err().to_string().contains("name"));
    }
}
