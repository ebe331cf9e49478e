//! Signing keys for a rehearsal: the owner's where they can be read, new ones
//! for the same domains where not, and the TXT records that go with them.

use base64::Engine as _;
use postkeep_configuration::DkimAlgorithm;
use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData};

use crate::Error;

/// A key with its DNS record.
#[derive(Clone)]
pub struct Key {
    /// PKCS#8 or PKCS#1 PEM.
    pub pem: String,
    /// DER of the same.
    pub der: Vec<u8>,
    /// What `selector._domainkey.domain` says.
    pub record: String,
}

/// A new key: RSA-2048 or Ed25519.
pub fn generate(algorithm: DkimAlgorithm) -> Result<Key, Error> {
    let kind = match algorithm {
        DkimAlgorithm::RsaSha256 => &PKCS_RSA_SHA256,
        DkimAlgorithm::Ed25519Sha256 => &PKCS_ED25519,
    };
    let pair =
        KeyPair::generate_for(kind).map_err(|error| Error::Certificates(format!("cannot make a key: {error}")))?;
    Ok(from_pair(&pair, algorithm))
}

/// A key from PEM, if it is of that kind.
pub fn read(pem: &str, algorithm: DkimAlgorithm) -> Option<Key> {
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
    Key { pem: pair.serialize_pem(), der: pair.serialize_der(), record }
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
}
