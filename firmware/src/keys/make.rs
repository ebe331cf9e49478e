//! Makes a set of keys as files: for Secure Boot, for the root hash, for PCR 11.
//!
//! By rcgen on aws-lc, not by calling `openssl`: the program runs where there is none (a rescue system, the owner's
//! laptop), private keys pass through no arguments and no temporary files, and there is one library of ciphers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};

use super::enrol::{Signer, authenticated};
use super::{Key, Keys, Source};
use crate::digest::Digest;
use crate::guid::Guid;
use crate::signature_list::of_certificate;

/// How long certificates are valid. Firmware does not look; people do.
const YEARS: i16 = 20;
/// X.500 allows no longer common name.
const LONGEST_NAME: usize = 64;

/// How large the keys for Secure Boot are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Size {
    /// What every firmware with Secure Boot must know.
    #[default]
    Rsa2048,
    /// Stronger; some firmware does not take it. Try it on the machine first.
    Rsa3072,
}

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose keys: in the names of the certificates.
    pub owner: String,
    /// How large.
    pub size: Size,
    /// Now, in UTC.
    pub now: DateTime,
}

/// Why no keys were made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The owner's name cannot stand in a certificate.
    #[error(
        "the owner's name must have 1 to {LONGEST_NAME} letters with what is put behind it, and no control characters: {0:?}"
    )]
    Owner(String),
    /// There is something already.
    #[error("{} is not empty. Keys are never overwritten: name a new folder, or move the old one away", .0.display())]
    NotEmpty(PathBuf),
    /// The disk.
    #[error("cannot write {}: {why}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// The library of ciphers.
    #[error("cannot make the key {name}: {why}")]
    Key {
        /// Which.
        name: &'static str,
        /// Why.
        why: String,
    },
}

/// A key in memory.
struct Made {
    name: &'static str,
    private: Vec<u8>,
    private_pem: String,
    public_pem: String,
    certificate: Vec<u8>,
    certificate_pem: String,
}

impl Made {
    fn new(name: &'static str, what: &str, options: &Options) -> Result<Self, MakeError> {
        let failed = |why: rcgen::Error| MakeError::Key { name, why: why.to_string() };
        let size = match options.size {
            Size::Rsa2048 => RsaKeySize::_2048,
            Size::Rsa3072 => RsaKeySize::_3072,
        };
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size).map_err(failed)?;
        let mut parameters = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, format!("{} {what}", options.owner));
        parameters.distinguished_name = subject;
        let day = |year: i16| {
            rcgen::date_time_ymd(
                year.into(),
                options.now.month().unsigned_abs(),
                options.now.day().unsigned_abs().min(28),
            )
        };
        parameters.not_before = day(options.now.year());
        parameters.not_after = day(options.now.year().saturating_add(YEARS));
        let certificate = parameters.self_signed(&pair).map_err(failed)?;
        Ok(Self {
            name,
            private: pair.serialize_der(),
            private_pem: pair.serialize_pem(),
            public_pem: pem("PUBLIC KEY", &pair.subject_public_key_info()),
            certificate: certificate.der().to_vec(),
            certificate_pem: certificate.pem(),
        })
    }

    fn described(&self) -> Key {
        Key {
            key: Source::File(format!("{}.key", self.name).into()),
            certificate: Source::File(format!("{}.crt", self.name).into()),
            fingerprint: Digest::of(&self.certificate),
        }
    }

    fn signer(&self) -> Signer<'_> {
        Signer { key: &self.private, certificate: &self.certificate }
    }
}

/// Makes all keys in `folder`, which must be new or empty: for each `NAME.key` (readable by its owner only),
/// `NAME.crt`; for PK, KEK and db also `NAME.cer`, `NAME.esl` and `NAME.auth`; `pcr.pub`; and `keys.toml`.
///
/// # Errors
/// The folder has something in it, the name cannot be used, the disk.
pub fn make(folder: &Path, options: &Options) -> Result<Keys, MakeError> {
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |why| MakeError::Disk { path, why }
    };
    let is_bad = options.owner.trim().is_empty() || options.owner.chars().any(char::is_control);
    if is_bad || options.owner.chars().count() > LONGEST_NAME - 24 {
        return Err(MakeError::Owner(options.owner.chars().take(100).collect()));
    }
    fs::create_dir_all(folder).map_err(disk(folder))?;
    if fs::read_dir(folder).map_err(disk(folder))?.next().is_some() {
        return Err(MakeError::NotEmpty(folder.to_owned()));
    }
    let platform = Made::new("PK", "platform key", options)?;
    let exchange = Made::new("KEK", "key exchange key", options)?;
    let signature = Made::new("db", "boot signature", options)?;
    let verity = Made::new("verity", "root hash", options)?;
    let measurement = Made::new("pcr", "measurements", options)?;

    let put = |name: String, octets: &[u8]| {
        let path = folder.join(name);
        postkeep_files::replace(&path, octets).map_err(disk(&path))
    };
    for made in [&platform, &exchange, &signature, &verity, &measurement] {
        put(format!("{}.key", made.name), made.private_pem.as_bytes())?;
        put(format!("{}.crt", made.name), made.certificate_pem.as_bytes())?;
    }
    put("pcr.pub".to_owned(), measurement.public_pem.as_bytes())?;
    let variables = [
        (&platform, Guid::GLOBAL, &platform),
        (&exchange, Guid::GLOBAL, &platform),
        (&signature, Guid::IMAGE_SECURITY, &exchange),
    ];
    for (made, vendor, signer) in variables {
        let list = of_certificate(Guid::POSTKEEP, &made.certificate);
        let signed = authenticated(made.name, vendor, &list, options.now, signer.signer())
            .map_err(|error| MakeError::Key { name: made.name, why: error.to_string() })?;
        put(format!("{}.cer", made.name), &made.certificate)?;
        put(format!("{}.esl", made.name), &list)?;
        put(format!("{}.auth", made.name), &signed)?;
    }
    let keys = Keys {
        platform: platform.described(),
        exchange: exchange.described(),
        signature: signature.described(),
        verity: verity.described(),
        measurement: measurement.described(),
    };
    let text = toml::to_string(&keys).map_err(|why| MakeError::Key { name: "keys.toml", why: why.to_string() })?;
    put("keys.toml".to_owned(), text.as_bytes())?;
    Ok(keys)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        // Into a string: it does not fail.
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(pem, "-----END {label}-----");
    pem
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::secure_boot::{Owner, holders};

    fn options() -> Options {
        let now = jiff::civil::date(2026, 2, 28).at(12, 0, 0, 0);
        Options { owner: "Example Mail".to_owned(), size: Size::Rsa2048, now }
    }

    #[test]
    fn a_set_is_made_once_described_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let keys = make(folder.path(), &options()).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(Keys::read(&String::from_utf8(read("keys.toml")).unwrap()), Ok(keys.clone()));
        let mode = fs::metadata(folder.path().join("PK.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let own = holders("db", &read("db.esl"), &[keys.signature.fingerprint], &[]).unwrap();
        assert_eq!((own.len(), own[0].owner), (1, Owner::Own));
        assert_eq!(own[0].name, "CN=Example Mail boot signature");
        let auth = read("db.auth");
        assert!(auth.ends_with(&read("db.esl")));
        assert_eq!(auth[..7], [0xea, 0x07, 2, 28, 12, 0, 0]);
        assert!(matches!(make(folder.path(), &options()), Err(MakeError::NotEmpty(_))));
    }

    #[test]
    fn a_name_that_fits_no_certificate_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for owner in ["", "two\nlines", &"x".repeat(60)] {
            let options = Options { owner: owner.to_owned(), ..options() };
            assert!(matches!(make(&folder.path().join("keys"), &options), Err(MakeError::Owner(_))));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
