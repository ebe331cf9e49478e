//! What is kept in the folder of `[acme]`: the account, the certificate with its key in one file so that they always
//! fit each other, and how renewal stands. Each file is replaced whole, after it is on the disk.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::renewal::Renewal;

/// Key and certificate chain, PEM.
pub(crate) const CERTIFICATE: &str = "certificate.pem";
/// How renewal stands, JSON.
const RENEWAL: &str = "renewal.json";
/// Largest file that is read, in octets.
const LARGEST: u64 = 1 << 20;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("[acme] directory: {path}: {error}; the user of postkeepd must be able to write there")]
pub struct StoreError {
    path: PathBuf,
    error: io::Error,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    account: String,
}

impl Store {
    /// Opens the folder, for the authority with that directory; makes it if it is not there.
    pub(crate) fn open(folder: &Path, authority: &str) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| StoreError { path: folder.to_owned(), error })?;
        // An account is known to one authority only.
        let sum = blake3::hash(authority.as_bytes()).to_hex();
        Ok(Self { folder: folder.to_owned(), account: format!("account-{}.json", &sum[..16]) })
    }

    pub(crate) fn account(&self) -> Result<Option<String>, StoreError> {
        self.read(&self.account)
    }

    pub(crate) fn keep_account(&self, text: &str) -> Result<(), StoreError> {
        self.write(&self.account, text)
    }

    pub(crate) fn certificate(&self) -> Result<Option<String>, StoreError> {
        self.read(CERTIFICATE)
    }

    pub(crate) fn keep_certificate(&self, pem: &str) -> Result<(), StoreError> {
        self.write(CERTIFICATE, pem)
    }

    /// How renewal stands; what cannot be read is as if nothing had failed.
    pub(crate) fn renewal(&self) -> Renewal {
        let text = self.read(RENEWAL).ok().flatten().unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn keep_renewal(&self, renewal: &Renewal) -> Result<(), StoreError> {
        self.write(RENEWAL, &serde_json::to_string(renewal).unwrap_or_default())
    }

    fn read(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.folder.join(name);
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(LARGEST).read_to_string(&mut text)) {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError { path, error }),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        postkeep_files::replace(&path, text.as_bytes()).map_err(|error| StoreError { path, error })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_for_nobody_else_and_accounts_of_authorities_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme");
        let one = Store::open(&path, "https://one.example/directory").unwrap();
        assert_eq!(one.account().unwrap(), None);
        one.keep_account("{}").unwrap();
        one.keep_certificate("first").unwrap();
        one.keep_certificate("second").unwrap();
        assert_eq!(one.certificate().unwrap().as_deref(), Some("second"));
        let other = Store::open(&path, "https://other.example/directory").unwrap();
        assert_eq!((other.account().unwrap(), one.account().unwrap().as_deref()), (None, Some("{}")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(CERTIFICATE))), (0o700, 0o600));
        assert!(fs::read_dir(&path).unwrap().flatten().all(|entry| entry.path().extension() != Some("half".as_ref())));
    }
}
