//! Policies on disk: one file for each domain, so that a restart does not forget whom mail must be protected to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::CachedPolicy;
use super::policy::{LARGEST_POLICY, Policy};

/// Files that are read at the start.
const MOST: usize = 200_000;

/// The folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    domain: Box<str>,
    id: Box<str>,
    fetched: u64,
    #[serde(borrow)]
    policy: std::borrow::Cow<'a, str>,
}

impl Store {
    /// Opens the folder and makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", folder.display())))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Everything that is kept. A file that cannot be read is said in the log, and passed over.
    pub fn load(&self) -> Vec<CachedPolicy> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let files = entries.flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        files
            .take(MOST)
            .filter_map(|path| match read(&path) {
                Ok(policy) => Some(policy),
                Err(why) => {
                    log::warn!("mta-sts: {} is passed over: {why}", path.display());
                    None
                }
            })
            .collect()
    }

    /// Keeps a policy; durable when this returns.
    ///
    /// # Errors
    /// The disk.
    pub fn keep(&self, cached: &CachedPolicy) -> io::Result<()> {
        let Some(path) = self.path(&cached.domain) else { return Ok(()) };
        let kept = Kept {
            domain: cached.domain.clone(),
            id: cached.id.clone(),
            fetched: cached.fetched,
            policy: (&*cached.policy.text).into(),
        };
        postkeep_files::replace(&path, &serde_json::to_vec(&kept)?)
    }

    /// Forgets a policy.
    pub fn forget(&self, domain: &str) {
        if let Some(path) = self.path(domain) {
            // It has run out: whether the file is there or not changes nothing.
            let _ = fs::remove_file(path);
        }
    }

    /// `None`: a name that cannot be that of a file.
    fn path(&self, domain: &str) -> Option<PathBuf> {
        let is_name = !domain.is_empty()
            && domain.len() <= 240
            && !domain.starts_with('.')
            && domain.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'));
        is_name.then(|| self.folder.join(format!("{domain}.json")))
    }
}

fn read(path: &Path) -> Result<CachedPolicy, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > 2 * LARGEST_POLICY as u64 {
        return Err("it is too large".to_owned());
    }
    let octets = fs::read(path).map_err(|error| error.to_string())?;
    let kept: Kept<'_> = serde_json::from_slice(&octets).map_err(|error| error.to_string())?;
    let policy = Policy::parse(kept.policy.as_bytes()).map_err(|error| error.to_string())?;
    Ok(CachedPolicy { domain: kept.domain, id: kept.id, fetched: kept.fetched, policy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_survive_a_restart_and_damaged_files_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("sts")).unwrap();
        let policy =
            Policy::parse(b"version: STSv1\r\nmode: enforce\r\nmx: *.example.org\r\nmax_age: 86400\r\n").unwrap();
        let cached = CachedPolicy { domain: "example.org".into(), id: "7".into(), fetched: 1_790_000_000, policy };
        store.keep(&cached).unwrap();
        fs::write(folder.path().join("sts/broken.json"), b"{").unwrap();
        let again = Store::open(&folder.path().join("sts")).unwrap();
        assert_eq!(again.load(), std::slice::from_ref(&cached));
        again.forget("example.org");
        again.forget("../example.org");
        assert_eq!(again.load(), []);
    }
}
