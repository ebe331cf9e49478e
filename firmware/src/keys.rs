//! The keys of a release and of its owner: where each lies, named in `keys.toml`, and what the tools that build
//! images must be told so that they find them. A key is a file, or it stays in a token and is named by PKCS #11.

pub mod enrol;
pub mod make;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::Digest;
use crate::signature_list::Certificate;

/// Where a key or a certificate lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A PEM file; relative to the folder of `keys.toml`.
    File(PathBuf),
    /// A PKCS #11 URI, whole: `pkcs11:token=postkeep;object=db`.
    Pkcs11(String),
}

/// Not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} says neither `file:` nor `pkcs11:`. Write file:db.key or pkcs11:token=postkeep;object=db")]
pub struct SourceError(pub String);

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let is_clean = !text.chars().any(|letter| letter.is_control() || letter == ' ');
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() && is_clean => Ok(Self::File(path.into())),
            Some(("pkcs11", rest)) if !rest.is_empty() && is_clean && !has_pin(rest) => {
                Ok(Self::Pkcs11(text.to_owned()))
            }
            _ => Err(SourceError(text.chars().take(100).collect())),
        }
    }
}

/// A PIN does not belong into a file that is passed around.
fn has_pin(uri: &str) -> bool {
    uri.split([';', '?', '&']).any(|part| part.starts_with("pin-value="))
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "file:{}", path.display()),
            Self::Pkcs11(uri) => formatter.write_str(uri),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Source {
    /// As the tools want it: the value, and what kind of value it is.
    fn argument(&self, folder: &Path) -> (String, &'static str) {
        match self {
            Self::File(path) => (folder.join(path).display().to_string(), "file"),
            Self::Pkcs11(uri) => (uri.clone(), "provider:pkcs11"),
        }
    }
}

/// A key with its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The private key.
    pub key: Source,
    /// Its certificate; a file, because it is public and everybody needs it.
    pub certificate: Source,
    /// SHA-256 of the certificate.
    pub fingerprint: Digest,
}

/// `keys.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Keys {
    /// PK: says who may change KEK. Used when keys are enrolled, then kept away.
    pub platform: Key,
    /// KEK: says who may change db and dbx.
    pub exchange: Key,
    /// db: signs boot loaders and boot files.
    pub signature: Key,
    /// Signs the root hash of a system.
    pub verity: Key,
    /// Signs the values of PCR 11 that open the disk.
    pub measurement: Key,
}

/// Why `keys.toml` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("keys.toml cannot be used: {0}")]
pub struct KeysError(pub String);

impl Keys {
    /// Reads `keys.toml`.
    ///
    /// # Errors
    /// It is not TOML, lacks a key, has one that is not known, or a certificate that is no file.
    pub fn read(text: &str) -> Result<Self, KeysError> {
        let keys: Self = toml::from_str(text).map_err(|error| KeysError(error.to_string()))?;
        for (name, key) in keys.all() {
            if let Source::Pkcs11(uri) = &key.certificate {
                return Err(KeysError(format!(
                    "the certificate of {name} is {uri}. It is public: export it and write file:{name}.crt"
                )));
            }
        }
        Ok(keys)
    }

    /// All of them, by the names of their tables.
    #[must_use]
    pub const fn all(&self) -> [(&'static str, &Key); 5] {
        [
            ("platform", &self.platform),
            ("exchange", &self.exchange),
            ("signature", &self.signature),
            ("verity", &self.verity),
            ("measurement", &self.measurement),
        ]
    }

    /// The lines of `[Validation]` by which mkosi finds these keys. `folder` is that of `keys.toml`.
    ///
    /// # Errors
    /// The keys `signature` and `measurement` are not in the same kind of place.
    pub fn mkosi(&self, folder: &Path) -> Result<Vec<String>, KeysError> {
        self.one_place()?;
        let roles = [("SecureBoot", &self.signature), ("Verity", &self.verity), ("SignExpectedPcr", &self.measurement)];
        let mut lines = Vec::new();
        for (role, key) in roles {
            for (what, source) in [("Key", &key.key), ("Certificate", &key.certificate)] {
                let (value, kind) = source.argument(folder);
                // mkosi reads a percent sign as the begin of a word of its own.
                lines.push(format!("{role}{what}={}", value.replace('%', "%%")));
                lines.push(format!("{role}{what}Source={kind}"));
            }
        }
        if matches!(self.signature.key, Source::Pkcs11(_)) {
            // sbsign knows engines only.
            lines.push("SecureBootSignTool=systemd-sbsign".to_owned());
        }
        Ok(lines)
    }

    /// ukify takes the key for boot files and the one for PCR 11 from one kind of place, and mkosi calls ukify.
    fn one_place(&self) -> Result<(), KeysError> {
        let is_file = |key: &Key| matches!(key.key, Source::File(_));
        if is_file(&self.signature) == is_file(&self.measurement) {
            return Ok(());
        }
        Err(KeysError(
            "ukify takes the keys `signature` and `measurement` from the same kind of place: both file:, or both pkcs11:".to_owned(),
        ))
    }

    /// The arguments by which `systemd-sbsign sign` finds the key for boot files.
    #[must_use]
    pub fn sbsign(&self, folder: &Path) -> Vec<String> {
        let (key, key_kind) = self.signature.key.argument(folder);
        let (certificate, certificate_kind) = self.signature.certificate.argument(folder);
        vec![
            format!("--private-key={key}"),
            format!("--private-key-source={key_kind}"),
            format!("--certificate={certificate}"),
            format!("--certificate-source={certificate_kind}"),
        ]
    }

    /// The arguments by which `ukify build` finds the keys for a boot file and for its PCR 11.
    ///
    /// # Errors
    /// One key is a file and the other in a token: ukify takes both from the same place.
    pub fn ukify(&self, folder: &Path) -> Result<Vec<String>, KeysError> {
        self.one_place()?;
        let (signature, signature_kind) = self.signature.key.argument(folder);
        let (measurement, _) = self.measurement.key.argument(folder);
        let (certificate, _) = self.signature.certificate.argument(folder);
        // ukify wants the public key alone, and with a provider the certificate.
        let (public, _) = self.measurement.certificate.argument(folder);
        let is_file = signature_kind == "file";
        let public = if is_file { Path::new(&public).with_extension("pub").display().to_string() } else { public };
        let mut arguments = vec![
            "--signtool=systemd-sbsign".to_owned(),
            format!("--secureboot-private-key={signature}"),
            format!("--secureboot-certificate={certificate}"),
            format!("--pcr-private-key={measurement}"),
            format!("--pcr-public-key={public}"),
        ];
        if !is_file {
            arguments.push("--signing-provider=pkcs11".to_owned());
        }
        Ok(arguments)
    }
}

/// The fingerprints of those that `file`, whose content is `octets`, says are its owner's: certificates (PEM, or one in DER), or those of
/// PK, KEK and db in a whole `keys.toml`.
///
/// # Errors
/// It is none of these; the sentence names the file.
pub fn own(file: &Path, octets: &[u8]) -> Result<Vec<Digest>, String> {
    let named = file.display();
    if file.extension().is_some_and(|extension| extension == "toml") {
        let keys = Keys::read(&String::from_utf8_lossy(octets)).map_err(|error| format!("{named}: {error}"))?;
        return Ok([&keys.platform, &keys.exchange, &keys.signature].map(|key| key.fingerprint).to_vec());
    }
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(octets) {
        found.push(der.map_err(|error| format!("{named}: {error}"))?);
    }
    if found.is_empty() {
        found.push(CertificateDer::from(octets));
    }
    let fingerprint = |der: &CertificateDer<'_>| {
        let certificate = Certificate::new(der);
        (certificate.subject != "?").then_some(certificate.fingerprint)
    };
    let fingerprints: Option<Vec<Digest>> = found.iter().map(fingerprint).collect();
    fingerprints.ok_or_else(|| format!("{named} is no certificate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_says_the_same_as_the_description_of_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("keys");
        let now = jiff::civil::date(2026, 2, 28).at(12, 0, 0, 0);
        make::make(&set, &make::Options { owner: "Example".into(), size: make::Size::Rsa2048, now }).unwrap();
        let octets = |name: &str| std::fs::read(set.join(name)).unwrap();
        let named = |name: &str| own(Path::new(name), &octets(name));
        let all = ["PK.crt", "KEK.crt", "db.crt"].map(octets).concat();
        assert_eq!(own(Path::new("own.crt"), &all), named("keys.toml"));
        assert_eq!(named("db.crt").unwrap(), named("db.cer").unwrap());
        let spoilt = String::from_utf8(octets("db.crt")).unwrap().replace('M', "!");
        assert!(own(Path::new("own.crt"), spoilt.as_bytes()).is_err());
        assert!(named("db.key").is_err());
    }

    fn keys(signature: &str) -> String {
        let entry = |name: &str, key: &str| {
            format!(
                "[{name}]\nkey = \"{key}\"\ncertificate = \"file:{name}.crt\"\nfingerprint = \"{}\"\n",
                Digest::ZERO
            )
        };
        ["platform", "exchange", "signature", "verity", "measurement"]
            .map(|name| entry(name, if name == "signature" { signature } else { "file:some.key" }))
            .concat()
    }

    #[test]
    fn files_and_tokens_are_told_to_the_tools() {
        let files = Keys::read(&keys("file:db.key")).unwrap();
        let lines = files.mkosi(Path::new("/keys")).unwrap();
        assert!(lines.contains(&"SecureBootKey=/keys/db.key".to_owned()), "{lines:?}");
        assert!(lines.contains(&"SecureBootKeySource=file".to_owned()));
        assert!(files.ukify(Path::new("/keys")).is_ok());
        let token = "pkcs11:token=postkeep;object=db";
        let mut both = Keys::read(&keys(token)).unwrap();
        both.measurement.key = token.parse().unwrap();
        let lines = both.mkosi(Path::new("/keys")).unwrap();
        for line in [
            "SecureBootKey=pkcs11:token=postkeep;object=db",
            "SecureBootKeySource=provider:pkcs11",
            "SecureBootCertificateSource=file",
            "SecureBootSignTool=systemd-sbsign",
        ] {
            assert!(lines.contains(&line.to_owned()), "{lines:?}");
        }
        assert_eq!(both.sbsign(Path::new("/keys"))[1], "--private-key-source=provider:pkcs11");
        let told = both.ukify(Path::new("/keys")).unwrap();
        assert_eq!(told[4..], ["--pcr-public-key=/keys/measurement.crt", "--signing-provider=pkcs11"]);
        assert_eq!(files.ukify(Path::new("/keys")).unwrap()[4], "--pcr-public-key=/keys/measurement.pub");
        both.signature.key = "pkcs11:id=%01".parse().unwrap();
        assert_eq!(both.mkosi(Path::new("/keys")).unwrap()[0], "SecureBootKey=pkcs11:id=%%01");
        both.signature.key = token.parse().unwrap();
        assert_eq!(Keys::read(&toml::to_string(&both).unwrap()), Ok(both));
        let one = Keys::read(&keys(token)).unwrap();
        let folder = Path::new("/keys");
        assert!(one.ukify(folder).is_err() && one.mkosi(folder).is_err(), "one in a token, one a file");
    }

    #[test]
    fn a_source_that_is_none_or_tells_the_pin_is_refused() {
        for wrong in ["", "db.key", "file:", "pkcs11:", "http:x", "pkcs11:object=db?pin-value=1234", "file:a\nB=c"] {
            assert!(wrong.parse::<Source>().is_err(), "{wrong:?}");
        }
        let error = Keys::read(&keys("db.key")).unwrap_err().to_string();
        assert!(error.contains("pkcs11:token=postkeep"), "{error}");
        let token = keys("file:db.key").replace("file:verity.crt", "pkcs11:object=verity");
        assert!(Keys::read(&token).unwrap_err().to_string().contains("export it"));
    }
}
