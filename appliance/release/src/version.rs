//! The version of a release: three numbers, in an order that has no exceptions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `major.minor.patch`. Nothing may follow them: two releases are never equal and never out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// Counts what the owner has to read about first.
    pub major: u32,
    /// Counts what is new.
    pub minor: u32,
    /// Counts what was mended.
    pub patch: u32,
}

/// What was given is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version; it has three numbers, as in 1.20.3")]
pub struct VersionError(String);

impl Version {
    /// The version of those three numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError(text.chars().take(40).collect());
        let number = |digits: &str| {
            // One way to write each: `+1` and `01` would be second ones.
            let plain = digits == "0" || !digits.starts_with('0');
            let digits_only = digits.bytes().all(|digit| digit.is_ascii_digit());
            if plain && digits_only { digits.parse().ok() } else { None }
        };
        let mut numbers = text.split('.').map(number);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => Ok(Self { major, minor, patch }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers_and_not_by_their_letters() {
        let ordered: Vec<Version> =
            ["0.9.9", "0.10.0", "1.0.0", "1.0.10", "1.2.0"].iter().map(|text| text.parse().unwrap()).collect();
        assert!(ordered.is_sorted());
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.x", "01.2.3", "+1.2.3", "1.2.3-rc1", "1.2.4294967296", " 1.2.3"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_version_is_read_as_it_is_written(major: u32, minor: u32, patch: u32) {
            let version = Version::new(major, minor, patch);
            prop_assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }
    }
}
