//! The names that firmware gives to owners, formats and variables.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;

/// A GUID as it stands in memory: its first three parts with their bytes turned round.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// `SecureBoot`, `SetupMode`, `PK` and `KEK` are variables of this owner.
    pub const GLOBAL: Self = Self::new(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
    /// `db` and `dbx` are variables of this owner.
    pub const IMAGE_SECURITY: Self =
        Self::new(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);
    /// A list of X.509 certificates.
    pub const X509: Self = Self::new(0xa5c0_59a1, 0x94e4, 0x4aa7, [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72]);
    /// A list of SHA-256 digests of images.
    pub const SHA256: Self = Self::new(0xc1c4_1626, 0x504c, 0x4092, [0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28]);
    /// A signature in PKCS #7, in front of an authenticated variable.
    pub const PKCS7: Self = Self::new(0x4aaf_d29d, 0x68df, 0x49ee, [0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7]);
    /// Under which this project writes signature lists.
    pub const POSTKEEP: Self = Self::new(0xa3f0_c1de, 0x6f0b, 0x4c51, [0x9c, 0x3b, 0x6f, 0x6f, 0x73, 0x74, 0x6b, 0x70]);

    const fn new(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Self {
        let (one, two, three) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
        Self([
            one[0], one[1], one[2], one[3], two[0], two[1], three[0], three[1], rest[0], rest[1], rest[2], rest[3],
            rest[4], rest[5], rest[6], rest[7],
        ])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, f, g, h, rest @ ..]) = self;
        write!(formatter, "{d:02x}{c:02x}{b:02x}{a:02x}-{f:02x}{e:02x}-{h:02x}{g:02x}-")?;
        for (index, octet) in rest.iter().enumerate() {
            write!(formatter, "{}{octet:02x}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Not a GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a GUID is written like 8be4df61-93ca-11d2-aa0d-00e098032b8c")]
pub struct GuidError;

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let parts: Vec<&str> = text.split('-').collect();
        if !parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) {
            return Err(GuidError);
        }
        let octets = HEXLOWER_PERMISSIVE.decode(parts.concat().as_bytes()).map_err(|_| GuidError)?;
        let mut octets: [u8; 16] = octets.try_into().map_err(|_| GuidError)?;
        octets[..4].reverse();
        octets[4..6].reverse();
        octets[6..8].reverse();
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_written_and_read_as_efivars_names_it() {
        assert_eq!(Guid::GLOBAL.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
        assert_eq!("8BE4df61-93ca-11d2-aa0d-00e098032b8c".parse(), Ok(Guid::GLOBAL));
        for wrong in ["", "8be4df61", "8be4df61-93ca-11d2-aa0d-00e098032b8", "8be4df6-193ca-11d2-aa0d-00e098032b8c"] {
            assert!(wrong.parse::<Guid>().is_err());
        }
    }
}
