//! The box's secret, and the keys that stand for addresses.
//!
//! The index and the clear part of the journal know addresses only by a keyed BLAKE3 sum: whoever
//! has the disk but not the secret can neither read an address there nor try one out.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use postkeep_smtp::Address;

/// Octets of a key. 96 bits: among a hundred million entries a stranger's address is taken for
/// a suppressed one once in 10^20 looks.
pub(crate) const KEY_LENGTH: usize = 12;

/// What stands for an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub(crate) [u8; KEY_LENGTH]);

impl Key {
    /// The key as a number that the filter can work with.
    pub(crate) fn number(self) -> u64 {
        self.0.first_chunk().copied().map_or(0, u64::from_le_bytes)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.number());
    }
}

/// A map by key. Keys are keyed sums: nobody outside can choose them, so they need no further hashing.
pub(crate) type KeyMap<V> = std::collections::HashMap<Key, V, BuildHasherDefault<KeyHasher>>;

/// Takes a key for its own hash.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.0 = self.0.rotate_left(8) ^ u64::from(*octet));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Turns addresses into keys. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret of these octets.
    pub const fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    pub(crate) const fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells one secret from another without giving it away.
    pub(crate) fn check(&self) -> [u8; 8] {
        let mut check = [0; 8];
        check.copy_from_slice(&blake3::keyed_hash(&self.0, b"postkeep suppression secret").as_bytes()[..8]);
        check
    }

    /// The key of an address. Spellings that reach one mailbox nearly everywhere have one key: case
    /// does not count, and `"ann"@example.org` is `ann@example.org`. Dots and `+tags` count: receivers differ.
    pub fn key(&self, address: &Address) -> Key {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let local = address.local();
        let is_plain = local.bytes().all(|octet| octet.is_ascii() && octet != b'"');
        if is_plain {
            let mut small = [0u8; postkeep_smtp::address::MAXIMUM_LOCAL];
            // A local part is no longer than that.
            let length = local.len().min(small.len());
            small[..length].copy_from_slice(&local.as_bytes()[..length]);
            small[..length].make_ascii_lowercase();
            hasher.update(&small[..length]);
        } else {
            hasher.update(unquoted(local).to_lowercase().as_bytes());
        }
        hasher.update(b"@");
        hasher.update(address.domain().as_bytes());
        let mut key = [0; KEY_LENGTH];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..KEY_LENGTH]);
        Key(key)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A quoted local part without its quotes and backslashes (RFC 5321 §4.1.2).
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        out.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Secret::new([7; 32]).key(&text.parse().unwrap())
    }

    #[test]
    fn spellings_of_one_mailbox_have_one_key() {
        assert_eq!(key("Ann.Lee@Example.ORG"), key("ann.lee@example.org"));
        assert_eq!(key("\"ann.lee\"@example.org"), key("ann.lee@example.org"));
        assert_eq!(key("\"a\\nn\"@example.org"), key("ann@example.org"));
        assert_eq!(key("JÜRGEN@bücher.example"), key("jürgen@xn--bcher-kva.example"));
    }

    #[test]
    fn different_mailboxes_and_different_secrets_have_different_keys() {
        assert_ne!(key("ann.lee@example.org"), key("annlee@example.org"));
        assert_ne!(key("ann+news@example.org"), key("ann@example.org"));
        assert_ne!(key("ann@example.org"), key("ann@example.net"));
        let address = "ann@example.org".parse().unwrap();
        assert_ne!(Secret::new([1; 32]).key(&address), Secret::new([2; 32]).key(&address));
        assert_ne!(Secret::new([1; 32]).check(), Secret::new([2; 32]).check());
    }
}
