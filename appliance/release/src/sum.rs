//! SHA-256 sums: as a value, and taken while octets go by.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// A SHA-256 sum; 64 small hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

/// What was given is no sum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SHA-256 sum; it has 64 small hexadecimal digits")]
pub struct SumError(String);

impl Sha256 {
    /// The sum of `octets`.
    #[must_use]
    pub fn of(octets: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(octets);
        finish(context)
    }
}

fn finish(context: Context) -> Sha256 {
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    Sha256(sum)
}

impl fmt::Display for Sha256 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(out, "{octet:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Sha256 {
    type Err = SumError;

    fn from_str(text: &str) -> Result<Self, SumError> {
        let wrong = || SumError(text.chars().take(80).collect());
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(wrong()),
        };
        let mut sum = [0; 32];
        for (octet, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
            *octet = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Self(sum))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = SumError;

    fn try_from(text: String) -> Result<Self, SumError> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(sum: Sha256) -> Self {
        sum.to_string()
    }
}

/// Passes octets on to or from what it wraps, counts them, and takes their sum.
pub struct Summing<Inner> {
    inner: Inner,
    context: Context,
    octets: u64,
}

impl<Inner> Summing<Inner> {
    /// Sums what goes through `inner` from now on.
    pub fn new(inner: Inner) -> Self {
        Self { inner, context: Context::new(&SHA256), octets: 0 }
    }

    /// How many octets went by.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// What was wrapped, how many octets went by, and their sum.
    #[must_use]
    pub fn finish(self) -> (Inner, u64, Sha256) {
        (self.inner, self.octets, finish(self.context))
    }

    fn seen(&mut self, octets: &[u8]) {
        self.context.update(octets);
        self.octets += octets.len() as u64;
    }
}

impl<Inner: Read> Read for Summing<Inner> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.seen(&buffer[..read]);
        Ok(read)
    }
}

impl<Inner: Write> Write for Summing<Inner> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(octets)?;
        self.seen(&octets[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of no octets at all, as every tool has it.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_sum_is_read_and_written_in_small_hexadecimal_digits() {
        assert_eq!(Sha256::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Sha256::of(b"")));
        for text in ["", "e3", &EMPTY.to_uppercase(), &format!("{EMPTY}00"), &EMPTY.replace('e', "g")] {
            assert!(text.parse::<Sha256>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn octets_that_are_read_or_written_are_counted_and_summed() {
        let mut reading = Summing::new(&b"two parts"[..]);
        io::copy(&mut reading, &mut io::sink()).unwrap();
        let (_, octets, sum) = reading.finish();
        let mut writing = Summing::new(io::sink());
        writing.write_all(b"two ").unwrap();
        writing.write_all(b"parts").unwrap();
        assert_eq!(writing.octets(), 9);
        assert_eq!((octets, sum), (9, Sha256::of(b"two parts")));
        assert_eq!(writing.finish().2, sum);
    }
}
