//! SHA-256 digests: made, extended as a TPM does it, written and read as 64 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{self, Context};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A SHA-256 digest, or the value of a PCR in that bank.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// What a PCR holds when the machine is switched on.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of some bytes.
    #[must_use]
    pub fn of(octets: &[u8]) -> Self {
        Self::of_parts([octets])
    }

    /// The digest of bytes that lie in several places.
    #[must_use]
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut value = [0; 32];
        // SHA-256 always fills them.
        value.copy_from_slice(context.finish().as_ref());
        Self(value)
    }

    /// The value of a PCR after `measured` went into it.
    #[must_use]
    pub fn extended(self, measured: Self) -> Self {
        Self::of_parts([&self.0[..], &measured.0[..]])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Not a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 hexadecimal digits (colons between them are fine), not {0:?}")]
pub struct DigestError(pub String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let failed = || DigestError(text.chars().take(100).collect());
        if text.len() > 256 {
            return Err(failed());
        }
        let digits: String = text.trim().chars().filter(|&letter| letter != ':').collect();
        let octets = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| failed())?;
        octets.try_into().map(Self).map_err(|_| failed())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_openssl_and_as_everybody_else_write_it() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let colons: Vec<String> = digest.0.iter().map(|octet| format!("{octet:02X}")).collect();
        assert_eq!(colons.join(":").parse(), Ok(digest));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in ["", "abc", "zz", &"a".repeat(66), &"é".repeat(64)] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
