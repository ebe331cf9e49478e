//! TLSA records as they stand in the DNS (RFC 6698 §2.1), and which of them count for SMTP.

use std::fmt;

/// One TLSA record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tlsa {
    /// Certificate usage: 2 is DANE-TA, 3 is DANE-EE.
    pub usage: u8,
    /// Selector: 0 is the whole certificate, 1 its public key.
    pub selector: u8,
    /// Matching type: 0 is the data itself, 1 its SHA-256, 2 its SHA-512.
    pub matching: u8,
    /// The certificate association data.
    pub data: Box<[u8]>,
}

impl Tlsa {
    /// Whether the record can vouch for a mail host (RFC 7672 §3.1): usages 0 and 1 lean on public authorities, which mean nothing
    /// for a name that was found in the DNS; digests have the length of their kind.
    pub fn is_usable(&self) -> bool {
        let length = self.data.len();
        matches!(self.usage, 2 | 3)
            && matches!(self.selector, 0 | 1)
            && match self.matching {
                0 => length > 0,
                1 => length == 32,
                2 => length == 64,
                _ => false,
            }
    }
}

/// As zone files write it: `3 1 1 d2abde…`.
impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// What a set of TLSA records asks of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// Some record can vouch for a certificate: it must match.
    Authenticated,
    /// There are records and none can be used: TLS is needed, with any certificate (RFC 7672 §2.2).
    EncryptedOnly,
}

impl Usable {
    /// Of a set that is not empty.
    pub fn of(records: &[Tlsa]) -> Self {
        if records.iter().any(Tlsa::is_usable) { Self::Authenticated } else { Self::EncryptedOnly }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(usage: u8, selector: u8, matching: u8, length: usize) -> Tlsa {
        Tlsa { usage, selector, matching, data: vec![0xab; length].into() }
    }

    #[test]
    fn only_the_two_dane_usages_with_whole_digests_count() {
        assert!(record(3, 1, 1, 32).is_usable() && record(2, 0, 2, 64).is_usable() && record(3, 0, 0, 5).is_usable());
        for (usage, selector, matching, length) in
            [(0, 1, 1, 32), (1, 1, 1, 32), (4, 1, 1, 32), (3, 2, 1, 32), (3, 1, 3, 32), (3, 1, 1, 31), (3, 1, 0, 0)]
        {
            assert!(!record(usage, selector, matching, length).is_usable(), "{usage} {selector} {matching} {length}");
        }
        assert_eq!(Usable::of(&[record(1, 1, 1, 32)]), Usable::EncryptedOnly);
        assert_eq!(Usable::of(&[record(1, 1, 1, 32), record(3, 1, 1, 32)]), Usable::Authenticated);
    }

    #[test]
    fn a_record_prints_as_zone_files_write_it() {
        assert_eq!(record(3, 1, 1, 2).to_string(), "3 1 1 abab");
    }
}
