//! The fingerprint of a certificate: SHA-256 over its DER, as `openssl x509 -fingerprint -sha256` shows it.

use std::fmt;
use std::str::FromStr;

use postkeep_firmware::digest::Digest;

/// By what the two ends of the door for management know each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(Digest);

/// A text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint: it has 64 hexadecimal digits, with or without colons between two and two")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Digest::of(der))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let wrong = || FingerprintError(text.chars().take(100).collect());
        // Colons stand between all pairs, or nowhere.
        let has_form = match text.len() {
            95 => text.as_bytes().split(|octet| *octet == b':').map(<[u8]>::len).eq([2; 32]),
            length => length == 64,
        };
        if !has_form {
            return Err(wrong());
        }
        text.parse().map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_of_writing_it_are_read_and_one_is_written() {
        // FIPS 180-4's example.
        let sum = Fingerprint::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum.to_string(), text);
        assert_eq!(text.parse(), Ok(sum));
        let pairs: Vec<String> =
            text.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase()).collect();
        assert_eq!(pairs.join(":").parse(), Ok(sum));
        for wrong in ["", &text[1..], &text.replace('b', "g"), &pairs[1..].join(":"), &pairs.join("-")] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{60,100}") {
            let _ = text.parse::<Fingerprint>();
        }
    }
}
