//! Names and numbers by which the parts of the protocol speak of one another. Nothing secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Random, octets};

/// What a set of shares opens, and so what a share may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The volume, day by day, together with the TPM where there is one.
    Opening,
    /// The volume, without the TPM: for a machine that is broken or was changed.
    Recovery,
}

impl Purpose {
    /// As in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Recovery => "recovery",
        }
    }
}

/// The UUID in the LUKS2 header of a data volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeId(String);

impl VolumeId {
    /// A new one, for what has no LUKS2 header: a random UUID (RFC 9562 §5.4).
    pub fn new(random: &mut dyn Random) -> Self {
        let mut octets = [0; 16];
        random.fill(&mut octets);
        octets[6] = octets[6] & 0x0f | 0x40;
        octets[8] = octets[8] & 0x3f | 0x80;
        let digits: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
        Self(parts.join("-"))
    }

    /// As cryptsetup writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('-').collect();
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let is_uuid = parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
            && parts.iter().all(|part| part.bytes().all(is_digit));
        if is_uuid {
            Ok(Self(text.to_owned()))
        } else {
            Err("a volume's UUID is 8-4-4-4-12 small hexadecimal digits".to_owned())
        }
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for VolumeId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VolumeId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One start of a box: made anew in its memory each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId([u8; 16]);

octets::as_hexadecimal!(BootId, 16, "a boot id");

impl BootId {
    /// That of a start that happens now.
    pub fn new(random: &mut dyn Random) -> Self {
        let mut octets = [0; 16];
        random.fill(&mut octets);
        Self(octets)
    }
}

/// A SHA-256 sum: of a token, of a TLS key, of what a register of a TPM has taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum([u8; 32]);

/// A sum that somebody else has made.
impl From<[u8; 32]> for Sum {
    fn from(octets: [u8; 32]) -> Self {
        Self(octets)
    }
}

octets::as_hexadecimal!(Sum, 32, "a SHA-256 sum");

impl Sum {
    /// That of `octets`.
    #[must_use]
    pub fn of(octets: &[u8]) -> Self {
        let mut sum = [0; 32];
        sum.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets).as_ref());
        Self(sum)
    }

    /// The octets of it.
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}
