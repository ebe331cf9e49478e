//! One file of a release, and how it is checked before anybody uses it.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::{Sha256, Summing};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// The whole disk, for the flasher.
    DiskImage,
    /// The unified kernel image, for the updater.
    Uki,
    /// The root file system of one slot.
    Root,
    /// Its tree of hashes.
    RootVerity,
    /// The signature of the tree's root.
    RootVeritySignature,
    /// What is in the image, with licences.
    Sbom,
    /// The list of packages.
    Packages,
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::DiskImage => "disk-image",
            Self::Uki => "uki",
            Self::Root => "root",
            Self::RootVerity => "root-verity",
            Self::RootVeritySignature => "root-verity-signature",
            Self::Sbom => "sbom",
            Self::Packages => "packages",
        })
    }
}

/// A file as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct File {
    /// Its name beside the manifest; never a path.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// How many octets it has, as it is stored.
    pub size: u64,
    /// Their sum.
    pub sha256: Sha256,
    /// Of a compressed file (`.zst`): how many octets come out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expanded_size: Option<u64>,
    /// Of a compressed file: the sum of what comes out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expanded_sha256: Option<Sha256>,
    /// Of what goes into a partition: the UUID that the partition gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_uuid: Option<String>,
}

/// A file is not the one that the manifest means.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The disk.
    #[error("cannot read {name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// Why not.
        error: io::Error,
    },
    /// It ends early.
    #[error("{name} ends after {octets} of {size} octets: it was cut off on the way; fetch it again")]
    Truncated {
        /// The file.
        name: String,
        /// How many there are.
        octets: u64,
        /// How many the manifest promises.
        size: u64,
    },
    /// It does not end where it should.
    #[error("{name} is longer than the {size} octets that its release names: it is another file; fetch it again")]
    TooLong {
        /// The file.
        name: String,
        /// How many the manifest promises.
        size: u64,
    },
    /// It is as long as it should be and differs.
    #[error("{name} is damaged: its sum is {found}, and the release names {wanted}; fetch it again")]
    Damaged {
        /// The file.
        name: String,
        /// The sum of what is there.
        found: Sha256,
        /// The sum that the manifest promises.
        wanted: Sha256,
    },
}

impl File {
    /// Whether it is stored compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.expanded_size.is_some()
    }

    /// How many octets it has once it is no longer compressed.
    #[must_use]
    pub fn content_size(&self) -> u64 {
        self.expanded_size.unwrap_or(self.size)
    }

    /// The sum of what it holds once it is no longer compressed.
    #[must_use]
    pub fn content_sha256(&self) -> Sha256 {
        self.expanded_sha256.unwrap_or(self.sha256)
    }

    /// The same file as it is once it is no longer compressed, under the same name.
    #[must_use]
    pub fn expanded(&self) -> Self {
        let (size, sha256) = (self.content_size(), self.content_sha256());
        Self { size, sha256, expanded_size: None, expanded_sha256: None, ..self.clone() }
    }

    /// Reads `stored` to its end and compares it with what the manifest says; `seen` is told how many octets were read so
    /// far. Never reads more than one octet too many.
    ///
    /// # Errors
    /// It cannot be read, or is another file.
    pub fn verify(&self, stored: impl Read, mut seen: impl FnMut(u64)) -> Result<(), FileError> {
        let mut stored = Summing::new(stored.take(self.size.saturating_add(1)));
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match stored.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => seen(stored.octets()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::Read { name: self.name.clone(), error }),
            }
        }
        let (_, octets, found) = stored.finish();
        self.holds(octets, found)
    }

    /// Whether a file of that many octets with that sum is the one that the manifest means.
    ///
    /// # Errors
    /// It is another one, and in what it differs.
    pub fn holds(&self, octets: u64, found: Sha256) -> Result<(), FileError> {
        let name = self.name.clone();
        if octets < self.size {
            return Err(FileError::Truncated { name, octets, size: self.size });
        }
        if octets > self.size {
            return Err(FileError::TooLong { name, size: self.size });
        }
        if found != self.sha256 {
            return Err(FileError::Damaged { name, found, wanted: self.sha256 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(octets: &[u8]) -> File {
        File {
            name: "postkeep.raw".to_owned(),
            role: Role::DiskImage,
            size: octets.len() as u64,
            sha256: Sha256::of(octets),
            expanded_size: None,
            expanded_sha256: None,
            partition_uuid: None,
        }
    }

    #[test]
    fn a_file_that_is_cut_longer_or_changed_is_told_apart() {
        let octets = vec![7; 300_000];
        let file = of(&octets);
        let mut last = 0;
        file.verify(&octets[..], |seen| last = seen).unwrap();
        assert_eq!(last, 300_000);
        assert!(matches!(file.verify(&octets[..299_999], |_| {}), Err(FileError::Truncated { octets: 299_999, .. })));
        assert!(matches!(file.verify(io::repeat(7), |_| {}), Err(FileError::TooLong { .. })));
        let mut flipped = octets;
        flipped[299_999] ^= 1;
        assert!(matches!(file.verify(&flipped[..], |_| {}), Err(FileError::Damaged { .. })));
    }
}
