//! How far the work is: a small file beside the image, so that what was interrupted can go on.

use std::io;
use std::path::{Path, PathBuf};

use postkeep_release::Sha256;
use serde::{Deserialize, Serialize};

use crate::Disk;

/// How far the work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The sum of what comes onto the disks.
    pub image: Sha256,
    /// How many octets of it are known to be on each disk.
    pub written: u64,
    /// The disks, by path, serial number and size.
    pub disks: Vec<(PathBuf, String, u64)>,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the state file {}: {why}; remove it to begin anew, or name another with --state", path.display())]
pub struct StateError {
    path: PathBuf,
    why: String,
}

impl State {
    /// Nothing is written yet of `image` to `disks`.
    #[must_use]
    pub fn begin<'a>(image: Sha256, disks: impl Iterator<Item = &'a Disk>) -> Self {
        let disks = disks.map(|disk| (disk.path.clone(), disk.identity.clone(), disk.size)).collect();
        Self { image, written: 0, disks }
    }

    /// This state, or where there is a file at `path` about the same image and disks, the one in it.
    ///
    /// # Errors
    /// The file is about other work: somebody should look before it is lost.
    pub fn resume(self, path: &Path) -> Result<Self, StateError> {
        let failed = |why: String| StateError { path: path.to_owned(), why };
        let octets = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self),
            other => other.map_err(|error| failed(error.to_string()))?,
        };
        let found: Self = serde_json::from_slice(&octets).map_err(|error| failed(error.to_string()))?;
        if (found.image, &found.disks) != (self.image, &self.disks) {
            return Err(failed("it is about another image or other disks".to_owned()));
        }
        Ok(found)
    }

    /// Keeps it at `path`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written there.
    pub fn save(&self, path: &Path) -> Result<(), StateError> {
        let saved =
            serde_json::to_vec(self).map_err(io::Error::from).and_then(|json| postkeep_files::replace(path, &json));
        saved.map_err(|error| StateError { path: path.to_owned(), why: error.to_string() })
    }
}
