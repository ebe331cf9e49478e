//! Who can read the addresses of the journal: whoever holds an age identity of a recipient that the
//! journal is sealed to.
//!
//! Each segment has a data key of its own. It stands in the segment's head as an age file, and in
//! memory only while the segment is written to; the segment's sealed parts are AES-256-GCM under it.

use std::io::Read;
use std::path::Path;

use age::x25519;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::secret::Secret;

/// Octets that sealing adds.
pub(crate) const TAG_LENGTH: usize = 16;
/// An age head for as many recipients as anybody has is far below this.
pub(crate) const LONGEST_HEAD: usize = 64 * 1024;
/// An identity file is a few lines.
const LONGEST_IDENTITY_FILE: u64 = 64 * 1024;

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A recipient of the configuration.
    #[error("{0:?} is no age recipient: write the public key that `age-keygen` prints, age1…")]
    Recipient(String),
    /// An identity file.
    #[error("{path}: {reason}; an age identity file has a line AGE-SECRET-KEY-1…, as `age-keygen` writes it")]
    Identity {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The journal is not sealed to that identity.
    #[error("this identity does not open the journal; use one of those that it was sealed to ([suppression] seal-to)")]
    NotOurs,
    /// It has been changed since it was written.
    #[error("the sealed part does not match its key: it is damaged")]
    Damaged,
    /// Something below failed.
    #[error("{0}")]
    Failed(String),
}

/// Those who can open what is written from now on; never empty.
#[derive(Clone)]
pub(crate) struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    pub(crate) fn parse(texts: &[String]) -> Result<Self, SealError> {
        texts
            .iter()
            .map(|text| text.trim().parse().map_err(|_| SealError::Recipient(text.chars().take(80).collect())))
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    pub(crate) fn of(identity: &Identity) -> Self {
        Self(vec![identity.0.to_public()])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn seal(&self, octets: &[u8]) -> Result<Vec<u8>, SealError> {
        let failed =
            |error: &dyn std::fmt::Display| SealError::Failed(format!("cannot seal to the recipients: {error}"));
        let encryptor =
            age::Encryptor::with_recipients(self.0.iter().map(|recipient| recipient as &dyn age::Recipient))
                .map_err(|error| failed(&error))?;
        let mut sealed = Vec::new();
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| failed(&error))?;
        std::io::Write::write_all(&mut writer, octets).map_err(|error| failed(&error))?;
        writer.finish().map_err(|error| failed(&error))?;
        Ok(sealed)
    }
}

/// What opens the journal: an age identity.
pub struct Identity(x25519::Identity);

impl Identity {
    pub(crate) fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Reads an identity file: comments, empty lines, and one `AGE-SECRET-KEY-1…`.
    ///
    /// # Errors
    /// It cannot be read or holds none.
    pub fn read(path: &Path) -> Result<Self, SealError> {
        let failed = |reason: String| SealError::Identity { path: path.display().to_string(), reason };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LONGEST_IDENTITY_FILE).read_to_string(&mut text))
            .map_err(|error| failed(error.to_string()))?;
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let line = line.ok_or_else(|| failed("it holds no identity".to_owned()))?;
        line.parse().map(Self).map_err(|error: &str| failed(error.to_owned()))
    }

    /// The file that [`Identity::read`] reads.
    pub(crate) fn to_file(&self) -> String {
        use age::secrecy::ExposeSecret;
        format!("# public key: {}\n{}\n", self.0.to_public(), self.0.to_string().expose_secret())
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let decryptor = age::Decryptor::new(sealed).map_err(|_| SealError::Damaged)?;
        let mut reader = decryptor
            .decrypt(std::iter::once(&self.0 as &dyn age::Identity))
            .map_err(|error| match error {
                age::DecryptError::NoMatchingKeys => SealError::NotOurs,
                _ => SealError::Damaged,
            })?
            .take(LONGEST_HEAD as u64);
        let mut octets = Vec::new();
        reader.read_to_end(&mut octets).map_err(|_| SealError::Damaged)?;
        Ok(octets)
    }
}

/// The key of one segment.
pub(crate) struct DataKey(LessSafeKey);

impl DataKey {
    /// A fresh key, and the head that gives it, with the box's secret, to the recipients.
    pub(crate) fn generate(recipients: &Recipients, secret: &Secret) -> Result<(Self, Vec<u8>), SealError> {
        let mut octets = [0; 32];
        random(&mut octets)?;
        // With the secret beside it, the owner can find addresses by key with nothing but the journal.
        let head = recipients.seal(&[octets, *secret.octets()].concat())?;
        Ok((Self::new(&octets)?, head))
    }

    /// Opens a head.
    pub(crate) fn open(identity: &Identity, head: &[u8]) -> Result<(Self, Secret), SealError> {
        let octets = identity.open(head)?;
        let (key, secret) = octets.split_first_chunk::<32>().ok_or(SealError::Damaged)?;
        Ok((Self::new(key)?, Secret::new(secret.try_into().map_err(|_| SealError::Damaged)?)))
    }

    fn new(octets: &[u8; 32]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, octets)
            .map_err(|_| SealError::Failed("AES-256-GCM is not available".to_owned()))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Seals what stands in `octets` from `start` on, bound to what stands before it. `number` is
    /// the frame's place in its segment and so never used twice under one key.
    pub(crate) fn seal(&self, number: u64, octets: &mut Vec<u8>, start: usize) -> Result<(), SealError> {
        let (clear, body) = octets.split_at_mut(start);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(number), Aad::from(&*clear), body)
            .map_err(|_| SealError::Failed("AES-256-GCM refused the frame".to_owned()))?;
        octets.extend_from_slice(tag.as_ref());
        Ok(())
    }

    pub(crate) fn unseal(&self, number: u64, clear: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut body = sealed.to_vec();
        let length =
            self.0.open_in_place(nonce(number), Aad::from(clear), &mut body).map_err(|_| SealError::Damaged)?.len();
        body.truncate(length);
        Ok(body)
    }
}

/// Fills with octets that nobody can guess.
pub(crate) fn random(octets: &mut [u8]) -> Result<(), SealError> {
    SystemRandom::new().fill(octets).map_err(|_| SealError::Failed("the system gives no random numbers".to_owned()))
}

fn nonce(number: u64) -> Nonce {
    let mut octets = [0; NONCE_LEN];
    octets[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recipient_opens_the_head_and_only_the_same_frame_opens() {
        let (ours, other) = (Identity::generate(), Identity::generate());
        let secret = Secret::new([3; 32]);
        let (key, head) = DataKey::generate(&Recipients::of(&ours), &secret).unwrap();
        let mut octets = b"clear|ann@example.org".to_vec();
        key.seal(5, &mut octets, 6).unwrap();
        assert!(!octets.windows(3).any(|three| three == b"ann"));

        assert_eq!(DataKey::open(&other, &head).err(), Some(SealError::NotOurs));
        let (opened, found) = DataKey::open(&ours, &head).unwrap();
        assert!(found == secret);
        assert_eq!(opened.unseal(5, &octets[..6], &octets[6..]).unwrap(), b"ann@example.org");
        assert_eq!(opened.unseal(6, &octets[..6], &octets[6..]), Err(SealError::Damaged));
        assert_eq!(opened.unseal(5, b"other|", &octets[6..]), Err(SealError::Damaged));
    }

    #[test]
    fn an_identity_file_reads_back_and_a_bad_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.txt");
        let identity = Identity::generate();
        std::fs::write(&path, identity.to_file()).unwrap();
        let read = Identity::read(&path).unwrap();
        assert_eq!(read.0.to_public().to_string(), identity.0.to_public().to_string());
        std::fs::write(&path, "# nothing\n").unwrap();
        let error = Identity::read(&path).err().unwrap().to_string();
        assert!(error.contains("identity.txt") && error.contains("no identity"), "{error}");
        assert!(matches!(Recipients::parse(&["age1x".to_owned()]), Err(SealError::Recipient(_))));
    }
}
