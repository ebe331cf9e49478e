//! Signing keys: reading them, refusing what is too weak or of the wrong kind, and the DNS record
//! that belongs to each.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_auth::common::crypto::{DkimKey as PrivateKey, Ed25519Key, RsaKey, Sha256, SigningKey as _};
use postkeep_configuration::{DkimAlgorithm, DkimKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::header::HeaderList;

/// Fewest bits of an RSA key that any verifier accepts (RFC 8301 §3.2).
const FEWEST_BITS: usize = 1024;
/// Bits of an RSA key that are advised, and the fewest that the cryptographic library signs with.
const ADVISED_BITS: usize = 2048;
/// Largest key file that is read.
const LARGEST_KEY_FILE: u64 = 64 * 1024;
/// `AlgorithmIdentifier` of RSA: rsaEncryption, no parameters (RFC 3279 §2.3.1).
const RSA_IDENTIFIER: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Why keys cannot be used, or a message not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkimError {
    /// The file cannot be read.
    #[error("[[dkim]] {domain}/{selector}: cannot read the key {path}: {why}", path = path.display())]
    Unreadable {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file holds no key that can be used.
    #[error("[[dkim]] {domain}/{selector}: {path} {why}", path = path.display())]
    BadKey {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// `d=` or `s=` is not a name.
    #[error("[[dkim]] {domain}/{selector}: {what} is not a DNS name; write it like \"{example}\"")]
    BadName {
        /// `d=` as configured.
        domain: String,
        /// `s=` as configured.
        selector: String,
        /// Which of the two.
        what: &'static str,
        /// A good one.
        example: &'static str,
    },
    /// A header that cannot be signed.
    #[error(
        "[[dkim]] {domain}: extra-headers has {header:?}, which is no header name or changes on the way; remove it"
    )]
    BadHeader {
        /// `d=`.
        domain: String,
        /// The header.
        header: String,
    },
    /// Two keys with one name in DNS.
    #[error(
        "[[dkim]] {domain}/{selector} is configured twice; each key needs a selector of its own (for more streams, list them in one)"
    )]
    SameSelector {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
    },
    /// The private-key operation failed.
    #[error("signing with {domain}/{selector} failed: {why}")]
    Failed {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
        /// What the library said.
        why: String,
    },
    /// A signature that should be there is not, or no receiver would believe it.
    #[error("the signature of {domain}/{selector} does not verify: {why}")]
    Unverified {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
        /// What is wrong.
        why: String,
    },
}

/// One key, ready to sign.
pub struct Key {
    pub(super) domain: String,
    pub(super) selector: String,
    pub(super) private: PrivateKey,
    pub(super) headers: Arc<HeaderList>,
    /// Seconds; 0: never.
    pub(super) expire_after: u64,
    pub(super) public: Vec<u8>,
    algorithm: DkimAlgorithm,
    bits: usize,
}

impl Key {
    /// Reads the file that the configuration names and takes the key from it.
    pub fn load(configured: &DkimKey) -> Result<Self, DkimError> {
        let pem = read_key_file(&configured.key).map_err(|error| DkimError::Unreadable {
            domain: configured.domain.clone(),
            selector: configured.selector.clone(),
            path: configured.key.clone(),
            why: error.to_string(),
        })?;
        Self::from_pem(configured, &pem)
    }

    /// A key from the octets of a PEM file: PKCS#8, or PKCS#1 for RSA.
    pub fn from_pem(configured: &DkimKey, pem: &[u8]) -> Result<Self, DkimError> {
        let bad = |why: String| DkimError::BadKey {
            domain: configured.domain.clone(),
            selector: configured.selector.clone(),
            path: configured.key.clone(),
            why,
        };
        let bad_name = |what, example| DkimError::BadName {
            domain: configured.domain.clone(),
            selector: configured.selector.clone(),
            what,
            example,
        };
        let domain = ascii_name(&configured.domain).ok_or_else(|| bad_name("domain", "example.com"))?;
        let selector = ascii_name(&configured.selector).ok_or_else(|| bad_name("selector", "news-2026a"))?;
        let headers = Arc::new(HeaderList::new(&configured.domain, &configured.extra_headers)?);
        let der = private_key(pem).map_err(bad)?;
        let (private, public, bits) = match configured.algorithm {
            DkimAlgorithm::RsaSha256 => rsa(der).map_err(bad)?,
            DkimAlgorithm::Ed25519Sha256 => ed25519(der).map_err(bad)?,
        };
        Ok(Self {
            domain,
            selector,
            private,
            headers,
            expire_after: configured.expire_after.map_or(0, |life| life.as_secs().max(1)),
            algorithm: configured.algorithm,
            bits,
            public,
        })
    }

    /// `d=`, as A-labels.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `s=`.
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// Kind of key.
    pub fn algorithm(&self) -> DkimAlgorithm {
        self.algorithm
    }

    /// Bits of the modulus; 256 for Ed25519.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Where the public half must be published: `selector._domainkey.domain`.
    pub fn dns_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// What must be published there, as one text (a TXT record splits it into strings of 255 octets).
    pub fn dns_record(&self) -> String {
        match self.algorithm {
            DkimAlgorithm::RsaSha256 => {
                format!("v=DKIM1; k=rsa; p={}", BASE64.encode(subject_public_key_info(&self.public)))
            }
            DkimAlgorithm::Ed25519Sha256 => format!("v=DKIM1; k=ed25519; p={}", BASE64.encode(&self.public)),
        }
    }
}

impl fmt::Debug for Key {
    /// Never the private half.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("domain", &self.domain)
            .field("selector", &self.selector)
            .field("algorithm", &self.algorithm)
            .field("bits", &self.bits)
            .finish_non_exhaustive()
    }
}

/// The only thing in this package that touches a file.
fn read_key_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_KEY_FILE).read_to_end(&mut pem)?;
    Ok(pem)
}

/// A host-like name in A-labels and lower case; selectors may have several labels too.
pub(super) fn ascii_name(name: &str) -> Option<String> {
    let name = idna::domain_to_ascii(name.strip_suffix('.').unwrap_or(name)).ok()?;
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let text = String::from_utf8_lossy(pem);
        if text.contains("ENCRYPTED") {
            "is encrypted; store it without a passphrase, readable by postkeepd alone".to_owned()
        } else if text.contains("BEGIN PUBLIC KEY") {
            "holds the public half; the private one is needed here".to_owned()
        } else {
            format!("holds no private key in PEM form ({error}); make one with `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`")
        }
    })
}

fn rsa(der: PrivateKeyDer<'static>) -> Result<(PrivateKey, Vec<u8>, usize), String> {
    match RsaKey::<Sha256>::from_key_der(der.clone_key()) {
        Ok(key) => {
            let public = key.public_key();
            let bits = modulus_bits(&public).unwrap_or_default();
            Ok((PrivateKey::Rsa(key), public, bits))
        }
        Err(_) if ed25519(der.clone_key()).is_ok() => {
            Err("holds an Ed25519 key; set algorithm = \"ed25519-sha256\" or give an RSA key".to_owned())
        }
        Err(error) => {
            let bits = private_modulus_bits(&der);
            Err(match bits {
                Some(bits) if bits < FEWEST_BITS => {
                    format!(
                        "holds an RSA key of {bits} bits, which no receiver accepts (RFC 8301); make one of {ADVISED_BITS} bits"
                    )
                }
                Some(bits) if bits < ADVISED_BITS => format!(
                    "holds an RSA key of {bits} bits; {ADVISED_BITS} is the least that can sign here (RFC 8301 advises it); make a new one under a new selector"
                ),
                _ => format!("holds no RSA key that can be used ({error}); make one of {ADVISED_BITS} bits"),
            })
        }
    }
}

fn ed25519(der: PrivateKeyDer<'static>) -> Result<(PrivateKey, Vec<u8>, usize), String> {
    let is_rsa = |der: &PrivateKeyDer<'static>| {
        matches!(der, PrivateKeyDer::Pkcs1(_)) || RsaKey::<Sha256>::from_key_der(der.clone_key()).is_ok()
    };
    let PrivateKeyDer::Pkcs8(pkcs8) = &der else {
        return Err(if is_rsa(&der) {
            "holds an RSA key; set algorithm = \"rsa-sha256\" or give an Ed25519 key".to_owned()
        } else {
            "is not in PKCS#8 form; make the key with `openssl genpkey -algorithm ED25519`".to_owned()
        });
    };
    match Ed25519Key::from_pkcs8_maybe_unchecked_der(pkcs8.secret_pkcs8_der()) {
        Ok(key) => {
            let public = key.public_key();
            Ok((PrivateKey::Ed25519(key), public, 256))
        }
        Err(_) if is_rsa(&der) => {
            Err("holds an RSA key; set algorithm = \"rsa-sha256\" or give an Ed25519 key".to_owned())
        }
        Err(error) => {
            Err(format!("holds no Ed25519 key ({error}); make one with `openssl genpkey -algorithm ED25519`"))
        }
    }
}

/// Bits of the modulus in an `RSAPublicKey` (RFC 8017 §A.1.1).
fn modulus_bits(public: &[u8]) -> Option<usize> {
    let (sequence, _) = element(public, 0x30)?;
    integer_bits(sequence)
}

/// Bits of the modulus of a private RSA key, for a better error than the library's.
fn private_modulus_bits(der: &PrivateKeyDer<'static>) -> Option<usize> {
    let pkcs1 = match der {
        PrivateKeyDer::Pkcs1(der) => der.secret_pkcs1_der(),
        PrivateKeyDer::Pkcs8(der) => {
            let (info, _) = element(der.secret_pkcs8_der(), 0x30)?;
            let (_, rest) = element(info, 0x02)?;
            let (identifier, rest) = element(rest, 0x30)?;
            // The object identifier of rsaEncryption, and nothing else.
            if !identifier.starts_with(RSA_IDENTIFIER.get(2..13)?) {
                return None;
            }
            element(rest, 0x04)?.0
        }
        _ => return None,
    };
    let (sequence, _) = element(pkcs1, 0x30)?;
    let (_, rest) = element(sequence, 0x02)?;
    integer_bits(rest)
}

/// Bits of the integer at the front.
fn integer_bits(der: &[u8]) -> Option<usize> {
    let (integer, _) = element(der, 0x02)?;
    let start = integer.iter().position(|octet| *octet != 0)?;
    let digits = integer.get(start..)?;
    Some(digits.len() * 8 - digits.first()?.leading_zeros() as usize)
}

/// The content of the DER element at the front if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, rest) = if first & 0x80 == 0 {
        (usize::from(*first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (length, rest) = rest.split_at_checked(count)?;
        (length.iter().fold(0, |sum, octet| (sum << 8) | usize::from(*octet)), rest)
    };
    rest.split_at_checked(length)
}

/// `SubjectPublicKeyInfo` around an `RSAPublicKey`: what verifiers expect in `p=`.
fn subject_public_key_info(rsa_public_key: &[u8]) -> Vec<u8> {
    let mut bits = Vec::with_capacity(rsa_public_key.len() + 1);
    bits.push(0);
    bits.extend_from_slice(rsa_public_key);
    let mut content = RSA_IDENTIFIER.to_vec();
    push_element(0x03, &bits, &mut content);
    let mut info = Vec::with_capacity(content.len() + 6);
    push_element(0x30, &content, &mut info);
    info
}

fn push_element(tag: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    let start = length.iter().position(|octet| *octet != 0).unwrap_or(length.len() - 1);
    let digits = length.get(start..).unwrap_or_default();
    if content.len() >= 0x80 {
        // At most 8 octets of length.
        out.push(0x80 | digits.len() as u8);
    }
    out.extend_from_slice(digits);
    out.extend_from_slice(content);
}

/// Asserts at compile time that keys may be shared between threads.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Key>();
};

/// The name of an algorithm in `a=`.
pub(super) fn algorithm_name(key: &Key) -> &'static str {
    key.private.algorithm().name()
}
