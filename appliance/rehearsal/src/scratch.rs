//! The folder that a rehearsal writes to, and no other.

use std::path::{Path, PathBuf};

use crate::Error;

/// The folder of a rehearsal.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    temporary: bool,
}

/// Marks a folder that a rehearsal may empty.
const MARK: &str = ".postkeep-rehearsal";

impl Scratch {
    /// An empty folder: the given one, or a temporary one that goes when this is dropped.
    pub(crate) fn new(given: Option<&Path>) -> Result<Self, Error> {
        let failed = |path: &Path, error: std::io::Error| Error::Io(format!("cannot use {}: {error}", path.display()));
        let (path, temporary) = match given {
            // The daemon reads its configuration from here, so the path must not depend on a folder.
            Some(path) => (std::path::absolute(path).map_err(|error| failed(path, error))?, false),
            None => (
                std::env::temp_dir().join(format!(
                    "postkeep-rehearsal-{}-{:08x}",
                    std::process::id(),
                    fastrand::u32(..)
                )),
                true,
            ),
        };
        if path.exists() {
            let mut entries = std::fs::read_dir(&path).map_err(|error| failed(&path, error))?;
            if entries.next().is_some() && !path.join(MARK).exists() {
                return Err(Error::Io(format!(
                    "{} holds files that no rehearsal made; name an empty folder",
                    path.display()
                )));
            }
            std::fs::remove_dir_all(&path).map_err(|error| failed(&path, error))?;
        }
        std::fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
        std::fs::write(path.join(MARK), "").map_err(|error| failed(&path, error))?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_somebody_elses_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "x").unwrap();
        assert!(Scratch::new(Some(folder.path())).is_err());
        assert!(folder.path().join("mine").exists());
        let own = folder.path().join("own");
        drop(Scratch::new(Some(&own)).unwrap());
        std::fs::write(own.join("left-over"), "x").unwrap();
        drop(Scratch::new(Some(&own)).unwrap());
        assert!(!own.join("left-over").exists() && own.exists());
    }
}
