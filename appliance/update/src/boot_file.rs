//! The names of boot files in the boot partition, which carry the boot counter: `postkeep_1.2.0.efi` is good,
//! `postkeep_1.2.0+3-0.efi` has three tries left and none done, `+0-3` has none left and is bad (the Boot Loader
//! Specification's "boot counting"). systemd-boot counts by renaming, and takes bad ones last.

use std::fmt;
use std::str::FromStr;

use postkeep_release::{PRODUCT, Version};
use serde::{Deserialize, Serialize};

/// How many times a new version is started before the old one comes back.
pub const TRIES: u32 = 3;

/// What the name of a boot file says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It has proved itself, or was flashed.
    Good,
    /// It has still to prove itself.
    OnTrial {
        /// Starts left.
        left: u32,
        /// Starts made.
        done: u32,
    },
    /// It did not prove itself, or its owner went back from it.
    Bad,
}

impl fmt::Display for Standing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => out.write_str("good"),
            Self::OnTrial { left, .. } => write!(out, "on trial, {left} starts left"),
            Self::Bad => out.write_str("bad"),
        }
    }
}

/// A boot file of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootFile {
    /// Which version it starts.
    pub version: Version,
    /// Tries left and done, where the name counts.
    counter: Option<(u32, u32)>,
}

/// The name is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a boot file such as postkeep_1.2.0.efi")]
pub struct NotOurs(String);

impl BootFile {
    /// The file of `version`, without a counter.
    #[must_use]
    pub const fn good(version: Version) -> Self {
        Self { version, counter: None }
    }

    /// The same version with all its tries before it.
    #[must_use]
    pub const fn renewed(self) -> Self {
        Self { version: self.version, counter: Some((TRIES, 0)) }
    }

    /// The same version, not to be tried again.
    #[must_use]
    pub const fn condemned(self) -> Self {
        // At least one, so that no reader takes 0-0 for a file that never counted. And one more than it had on trial: under the
        // same number systemd-bless-boot would find it, and a look of the gate that is under way would make it good again.
        let done = match self.counter {
            Some((0, done)) if done > 0 => done,
            Some((_, done)) => done.saturating_add(1),
            None => 1,
        };
        Self { version: self.version, counter: Some((0, done)) }
    }

    /// Whether it had lost all its tries already when the boot loader started it under this name: that one counts on.
    #[must_use]
    pub const fn was_bad_before(self) -> bool {
        matches!(self.counter, Some((0, done)) if done > TRIES)
    }

    /// What its name says.
    #[must_use]
    pub const fn standing(self) -> Standing {
        match self.counter {
            None => Standing::Good,
            Some((0, _)) => Standing::Bad,
            Some((left, done)) => Standing::OnTrial { left, done },
        }
    }
}

impl fmt::Display for BootFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PRODUCT}_{}", self.version)?;
        if let Some((left, done)) = self.counter {
            write!(out, "+{left}-{done}")?;
        }
        out.write_str(".efi")
    }
}

impl FromStr for BootFile {
    type Err = NotOurs;

    fn from_str(name: &str) -> Result<Self, NotOurs> {
        let wrong = || NotOurs(name.chars().take(120).collect());
        let stem = name.strip_suffix(".efi").and_then(|name| name.strip_prefix(PRODUCT)).ok_or_else(wrong)?;
        let stem = stem.strip_prefix('_').ok_or_else(wrong)?;
        let (version, counter) = match stem.split_once('+') {
            None => (stem, None),
            // `+3` is what `+3-0` is.
            Some((version, counter)) => {
                let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
                let number = |text: &str| text.parse().map_err(|_| wrong());
                (version, Some((number(left)?, number(done)?)))
            }
        };
        Ok(Self { version: version.parse().map_err(|_| wrong())?, counter })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_systemd_boot_writes_them() {
        let standing = |name: &str| name.parse::<BootFile>().unwrap().standing();
        assert_eq!(standing("postkeep_1.2.0.efi"), Standing::Good);
        assert_eq!(standing("postkeep_1.2.0+3-0.efi"), Standing::OnTrial { left: 3, done: 0 });
        assert_eq!(standing("postkeep_1.2.0+3.efi"), Standing::OnTrial { left: 3, done: 0 });
        assert_eq!(standing("postkeep_1.2.0+1-2.efi"), Standing::OnTrial { left: 1, done: 2 });
        assert_eq!(standing("postkeep_1.2.0+0-3.efi"), Standing::Bad);
        for name in
            ["postkeep_1.2.efi", "other_1.2.0.efi", "postkeep_1.2.0", "postkeep_1.2.0+a.efi", "postkeep1.2.0.efi", ""]
        {
            assert!(name.parse::<BootFile>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_condemned_and_renewed_without_losing_its_version() {
        let file: BootFile = "postkeep_1.2.0+2-1.efi".parse().unwrap();
        assert_eq!(file.condemned().to_string(), "postkeep_1.2.0+0-2.efi");
        assert_eq!(file.condemned().condemned(), file.condemned());
        assert_eq!(BootFile::good(file.version).condemned().to_string(), "postkeep_1.2.0+0-1.efi");
        assert_eq!(file.condemned().renewed().to_string(), "postkeep_1.2.0+3-0.efi");
    }

    proptest! {
        #[test]
        fn every_name_is_read_as_it_is_written(major: u32, minor: u32, patch: u32, counter: Option<(u32, u32)>) {
            let file = BootFile { version: Version::new(major, minor, patch), counter };
            prop_assert_eq!(file.to_string().parse::<BootFile>().unwrap(), file);
        }

        #[test]
        fn no_name_makes_it_panic(name in "\\PC{0,60}") {
            let _ = name.parse::<BootFile>();
            let _ = format!("postkeep_{name}.efi").parse::<BootFile>();
        }
    }
}
