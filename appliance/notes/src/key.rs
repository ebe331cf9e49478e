//! The two halves of a key: what is told to everybody, and what stays with its owner.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use crate::KeyError;

/// Names are host names with a path; this is more than any of them needs.
pub(crate) const LONGEST_NAME: usize = 128;
/// What stands before the octets of an Ed25519 key.
const ED25519_KIND: u8 = 1;
/// A private key of ours has 119 octets; what `openssl` writes beside one is a few hundred.
const LARGEST_FILE: u64 = 16 * 1024;

/// A public key and its name: who may have signed. Its text form is `name+8-hex-digits+base64`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl VerifierKey {
    /// The key `public` of whoever is called `name`.
    ///
    /// # Errors
    /// The name is one that notes cannot carry.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name { name: name.chars().take(LONGEST_NAME).collect() });
        }
        Ok(Self { name: name.to_owned(), id: id_of(name, &public), public })
    }

    /// The keys of a file with one on each line; empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// One of them is damaged.
    pub fn of_lines(text: &str) -> Result<Vec<Self>, KeyError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::parse).collect()
    }

    /// Who it belongs to.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The four octets by which signatures name the key. Too few to trust it by.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The octets of the Ed25519 key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Whether `signature` is this key's, under `text`.
    pub(crate) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(text, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = [ED25519_KIND; 33];
        octets[1..].copy_from_slice(&self.public);
        write!(out, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id), BASE64_STANDARD.encode(octets))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let wrong = |why| KeyError::Verifier { text: text.chars().take(200).collect(), why };
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(octets)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("parts of it are missing"));
        };
        if id.len() != 8 || !id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong("its second part is not 8 small hexadecimal digits"));
        }
        let octets = BASE64_STANDARD.decode(octets).map_err(|_| wrong("its third part is not base64"))?;
        let Some((&kind, public)) = octets.split_first() else {
            return Err(wrong("its third part is empty"));
        };
        if kind != ED25519_KIND {
            return Err(wrong("it is of a kind other than Ed25519"));
        }
        let public = public.try_into().map_err(|_| wrong("an Ed25519 key has 32 octets"))?;
        let key = Self::new(name, public)?;
        if format!("{:08x}", u32::from_be_bytes(key.id)) != id {
            return Err(wrong("its second part does not fit the rest: a character was lost or changed"));
        }
        Ok(key)
    }
}

/// A private key and its name: who signs.
pub struct SignerKey {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
}

impl SignerKey {
    /// A new key for whoever is called `name`.
    ///
    /// # Errors
    /// The name is one that notes cannot carry, or there are no random numbers.
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        Self::of_pair(Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?, name)
    }

    /// The key whose secret is `seed`, as RFC 8032 means it.
    ///
    /// # Errors
    /// The name is one that notes cannot carry.
    pub fn from_seed(seed: &[u8; 32], name: &str) -> Result<Self, KeyError> {
        Self::of_pair(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Generate)?, name)
    }

    fn of_pair(pair: Ed25519KeyPair, name: &str) -> Result<Self, KeyError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Generate)?;
        Ok(Self { verifier: VerifierKey::new(name, public)?, pair })
    }

    /// Reads a file that [`Self::write`] wrote. In a file that another tool wrote (`openssl genpkey -algorithm ed25519`)
    /// no name stands; then `name` is taken. The name in the file is the one that counts.
    ///
    /// # Errors
    /// The file cannot be read, holds no Ed25519 key, or nobody says whose it is.
    pub fn read(path: &Path, name: Option<&str>) -> Result<Self, KeyError> {
        let failed = |why: String| KeyError::File { path: path.to_owned(), why };
        let octets = read_bounded(path).map_err(|error| failed(error.to_string()))?;
        let text = std::str::from_utf8(&octets).map_err(|_| failed("it is not a text".to_owned()))?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&octets)
            .map_err(|error| failed(format!("no PKCS#8 private key is in it ({error})")))?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|error| failed(format!("the key in it is not an Ed25519 key ({error})")))?;
        let written = text.lines().take_while(|line| !line.starts_with("-----")).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == "Name").then_some(value.trim())
        });
        let name = written.or(name).ok_or_else(|| failed("no name stands in it; say whose key it is".to_owned()))?;
        Self::of_pair(pair, name)
    }

    /// Writes the key into a new file that only its owner can read (0600): its name, and PKCS#8 in PEM.
    ///
    /// # Errors
    /// There is such a file already, or the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |why: String| KeyError::File { path: path.to_owned(), why };
        let der = self.pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        let mut text = format!("Name: {}\n-----BEGIN PRIVATE KEY-----\n", self.verifier.name);
        let encoded = BASE64_STANDARD.encode(der.as_ref());
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        // A key that is lost cannot be made again: never in the place of another.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(format!("{error}; keys are never overwritten, name a new file")))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| failed(error.to_string()))
    }

    /// The half that is told to everybody.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub(crate) fn sign(&self, text: &[u8]) -> Option<[u8; 64]> {
        self.pair.try_sign(text).ok()?.as_ref().try_into().ok()
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the private key of {}", self.verifier)
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut octets = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_FILE).read_to_end(&mut octets)?;
    Ok(octets)
}

/// Whether a note can carry `name`.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.chars().any(|character| character.is_whitespace() || character.is_control() || character == '+')
}

fn id_of(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let mut named = name.as_bytes().to_vec();
    named.extend_from_slice(&[b'\n', ED25519_KIND]);
    named.extend_from_slice(public);
    let sum = digest(&SHA256, &named);
    let mut id = [0; 4];
    id.copy_from_slice(&sum.as_ref()[..4]);
    id
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn the_text_form_of_a_key_is_that_of_other_tools() {
        let key: VerifierKey = PETER.parse().unwrap();
        assert_eq!(key.name(), "PeterNeumann");
        assert_eq!(key.id(), [0xc7, 0x4f, 0x20, 0xa3]);
        assert_eq!(key.to_string(), PETER);
    }

    #[test]
    fn any_change_or_cut_of_a_key_is_noticed() {
        for start in 0..PETER.len() {
            for end in start..=PETER.len() {
                if (start, end) != (0, PETER.len()) {
                    assert!(PETER[start..end].parse::<VerifierKey>().is_err(), "{}", &PETER[start..end]);
                }
            }
        }
        for at in 0..PETER.len() {
            let mut octets = PETER.as_bytes().to_vec();
            octets[at] += 1;
            let changed = String::from_utf8(octets).unwrap();
            assert!(changed.parse::<VerifierKey>().is_err(), "{changed}");
        }
        // Too long, and of another kind, each with the id that would fit.
        let too_long = "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==";
        let other_kind = "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert!(too_long.parse::<VerifierKey>().is_err());
        assert!(other_kind.parse::<VerifierKey>().unwrap_err().to_string().contains("Ed25519"));
    }

    #[test]
    fn a_key_comes_back_from_its_file_with_its_name_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("owner.pem");
        let key = SignerKey::generate("example.com/owner").unwrap();
        key.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = SignerKey::read(&path, Some("somebody-else")).unwrap();
        assert_eq!(read.verifier(), key.verifier());
        assert_eq!(read.sign(b"text"), key.sign(b"text"));
        let error = SignerKey::generate("another").unwrap().write(&path).unwrap_err().to_string();
        assert!(error.contains("never overwritten"), "{error}");
    }

    #[test]
    fn a_key_that_openssl_made_is_read_when_its_name_is_told() {
        // The test key of RFC 8410, section 10.3.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, pem).unwrap();
        assert!(SignerKey::read(&path, None).unwrap_err().to_string().contains("say whose key it is"));
        let key = SignerKey::read(&path, Some("rfc8410")).unwrap();
        assert_eq!(BASE64_STANDARD.encode(key.verifier().public()), "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        for content in [None, Some(&b""[..]), Some(b"no PEM"), Some(b"\xff\xfe"), Some(PETER.as_bytes())] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = SignerKey::read(&path, None).unwrap_err().to_string();
            assert!(error.contains("key.pem"), "{content:?}: {error}");
        }
    }

    #[test]
    fn names_that_a_note_cannot_carry_are_refused() {
        for name in ["", "a b", "a+b", "a\nb", "a\u{2003}b", &"n".repeat(LONGEST_NAME + 1)] {
            assert!(matches!(SignerKey::generate(name), Err(KeyError::Name { .. })), "{name:?}");
        }
    }
}
