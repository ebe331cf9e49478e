//! Signing keys for a rehearsal: the owner's where they can be read, new ones
//! for the same domains where not, the TXT records that go with them, and
//! which of them a message must be signed with.

use base64::Engine as _;
use postkeep_configuration::{Configuration, DkimAlgorithm, DkimKey};
use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData};

use crate::Error;

/// A key with its DNS record.
#[derive(Clone)]
pub(crate) struct Key {
    /// PKCS#8 or PKCS#1 PEM.
    pub pem: String,
    /// DER of the same, for tests that sign.
    #[cfg(test)]
    pub der: Vec<u8>,
    /// What `selector._domainkey.domain` says.
    pub record: String,
}

/// A new key: RSA-2048 or Ed25519.
pub(crate) fn generate(algorithm: DkimAlgorithm) -> Result<Key, Error> {
    let kind = match algorithm {
        DkimAlgorithm::RsaSha256 => &PKCS_RSA_SHA256,
        DkimAlgorithm::Ed25519Sha256 => &PKCS_ED25519,
    };
    let pair =
        KeyPair::generate_for(kind).map_err(|error| Error::Certificates(format!("cannot make a key: {error}")))?;
    Ok(from_pair(&pair, algorithm))
}

/// A key from PEM, if it is of that kind.
pub(crate) fn read(pem: &str, algorithm: DkimAlgorithm) -> Option<Key> {
    let pair = KeyPair::from_pem(pem).ok()?;
    let ed25519 = pair.algorithm() == &PKCS_ED25519;
    (ed25519 == (algorithm == DkimAlgorithm::Ed25519Sha256)).then(|| from_pair(&pair, algorithm))
}

fn from_pair(pair: &KeyPair, algorithm: DkimAlgorithm) -> Key {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let record = match algorithm {
        DkimAlgorithm::RsaSha256 => format!("v=DKIM1; k=rsa; p={}", encode(&pair.subject_public_key_info())),
        // RFC 8463 §4: the bare 32 octets.
        DkimAlgorithm::Ed25519Sha256 => format!("v=DKIM1; k=ed25519; p={}", encode(pair.public_key_raw())),
    };
    Key {
        pem: pair.serialize_pem(),
        #[cfg(test)]
        der: pair.serialize_der(),
        record,
    }
}

/// The keys of a configuration, without their secrets: what `[[dkim]]` promises.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<DkimKey>,
}

impl Keyring {
    /// The keys of a configuration.
    pub fn of(configuration: &Configuration) -> Self {
        Self { keys: configuration.dkim.clone() }
    }

    /// The keys that must sign mail of a stream from a domain: those of the nearest domain at or above it that has any for
    /// the stream. For each algorithm, keys that name the stream stand before those that name none.
    pub fn matching(&self, domain: &str, stream: &str) -> Vec<&DkimKey> {
        let mut domain = Some(domain);
        while let Some(name) = domain {
            let here = || self.keys.iter().filter(|key| key.domain.eq_ignore_ascii_case(name));
            let names = |key: &DkimKey| key.streams.iter().any(|named| named == stream);
            let found: Vec<&DkimKey> = here()
                .filter(|key| {
                    let named = here().any(|other| other.algorithm == key.algorithm && names(other));
                    if named { names(key) } else { key.streams.is_empty() }
                })
                .collect();
            if !found.is_empty() {
                return found;
            }
            domain = name.split_once('.').map(|(_, above)| above);
        }
        Vec::new()
    }

    /// Streams that some key names.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().flat_map(|key| &key.streams).map(String::as_str)
    }

    /// Whether it is one of these keys.
    pub fn has(&self, domain: &str, selector: &str) -> bool {
        self.keys.iter().any(|key| key.domain.eq_ignore_ascii_case(domain) && key.selector == selector)
    }
}

#[cfg(test)]
pub(crate) fn ring(keys: &[(&str, &str, DkimAlgorithm, &[&str])]) -> Keyring {
    let keys = keys.iter().map(|(domain, selector, algorithm, streams)| DkimKey {
        domain: (*domain).to_owned(),
        selector: (*selector).to_owned(),
        key: std::path::PathBuf::new(),
        algorithm: *algorithm,
        streams: streams.iter().map(|stream| (*stream).to_owned()).collect(),
        extra_headers: Vec::new(),
        expire_after: None,
    });
    Keyring { keys: keys.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_the_public_half_in_the_form_of_each_algorithm() {
        let rsa = generate(DkimAlgorithm::RsaSha256).unwrap();
        // SubjectPublicKeyInfo of RSA-2048 always begins like this.
        assert!(rsa.record.starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"));
        assert_eq!(read(&rsa.pem, DkimAlgorithm::RsaSha256).unwrap().record, rsa.record);
        assert!(read(&rsa.pem, DkimAlgorithm::Ed25519Sha256).is_none());
        let ed25519 = generate(DkimAlgorithm::Ed25519Sha256).unwrap();
        assert_eq!(ed25519.record.len(), "v=DKIM1; k=ed25519; p=".len() + 44);
        assert!(read("nonsense", DkimAlgorithm::RsaSha256).is_none());
    }

    #[test]
    fn keys_that_name_a_stream_stand_before_others_of_their_kind_and_near_domains_before_those_above() {
        use DkimAlgorithm::{Ed25519Sha256, RsaSha256};
        let ring = ring(&[
            ("a.test", "rsa", RsaSha256, &[]),
            ("a.test", "news-rsa", RsaSha256, &["news"]),
            ("a.test", "ed", Ed25519Sha256, &[]),
            ("only.a.test", "ed", Ed25519Sha256, &["news"]),
        ]);
        let selectors = |domain: &str, stream: &str| -> Vec<String> {
            ring.matching(domain, stream).iter().map(|key| format!("{} {}", key.selector, key.domain)).collect()
        };
        assert_eq!(selectors("a.test", "default"), ["rsa a.test", "ed a.test"]);
        assert_eq!(selectors("x.a.test", "news"), ["news-rsa a.test", "ed a.test"]);
        assert_eq!(selectors("only.a.test", "news"), ["ed only.a.test"]);
        assert_eq!(selectors("only.a.test", "default"), ["rsa a.test", "ed a.test"]);
        assert!(selectors("b.test", "news").is_empty());
        assert!(ring.has("A.test", "ed") && !ring.has("a.test", "other"));
    }
}
