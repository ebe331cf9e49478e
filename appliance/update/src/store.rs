//! What the updater keeps on the data volume: the attempt under way, what happened, the format of the data, and which
//! formats each version that ran here reads. Each file is on the disk whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use postkeep_release::{DataFormat, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Dated;
use crate::attempt::{Attempt, Event};

/// Where it lies on a box.
pub const FOLDER: &str = "var/lib/postkeep/update";
/// So many events are kept; there are a few in a month.
const MOST_EVENTS: usize = 200;

/// The folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {error}", path = path.display())]
pub struct StoreError {
    verb: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// What is known about data on this box.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Formats {
    /// The newest format that was ever written.
    pub written: Option<u32>,
    /// What each version that ran here reads and writes.
    pub versions: BTreeMap<String, DataFormat>,
}

impl Store {
    /// In that folder, which exists.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The attempt under way.
    ///
    /// # Errors
    /// The disk, or what somebody else wrote.
    pub fn attempt(&self) -> Result<Option<Attempt>, StoreError> {
        self.read("attempt.json")
    }

    /// Durable on return.
    ///
    /// # Errors
    /// The disk.
    pub fn begin(&self, attempt: &Attempt) -> Result<(), StoreError> {
        self.write("attempt.json", attempt)
    }

    /// Notes how an attempt ended, then forgets it. What happens twice because the power went in between is noted once.
    ///
    /// # Errors
    /// The disk.
    pub fn end(&self, event: Event, now: Timestamp) -> Result<(), StoreError> {
        self.note(event, now)?;
        let path = self.folder.join("attempt.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError { verb: "remove", path, error }),
            _ => postkeep_files::sync_folder(&path).map_err(|error| StoreError { verb: "sync", path, error }),
        }
    }

    /// Notes what happened; durable on return.
    ///
    /// # Errors
    /// The disk.
    pub fn note(&self, event: Event, now: Timestamp) -> Result<(), StoreError> {
        let mut history = self.entries()?;
        if history.last().and_then(known).is_some_and(|last| last.event == event) {
            return Ok(());
        }
        event.tell();
        let path = || self.folder.join("history.json");
        let entry = serde_json::to_value(Dated { time: now, event });
        history.push(entry.map_err(|error| StoreError { verb: "write", path: path(), error: error.into() })?);
        let old = history.len().saturating_sub(MOST_EVENTS);
        history.drain(..old);
        self.write("history.json", &history)
    }

    /// What happened, the newest last; without what only a later version, which ran here in between, has a name for.
    ///
    /// # Errors
    /// The disk, or what somebody else wrote.
    pub fn history(&self) -> Result<Vec<Dated>, StoreError> {
        Ok(self.entries()?.iter().filter_map(known).collect())
    }

    /// As they were written: what is not known here stays for who knows it.
    fn entries(&self) -> Result<Vec<Value>, StoreError> {
        Ok(self.read("history.json")?.unwrap_or_default())
    }

    /// What is known about data here.
    ///
    /// # Errors
    /// The disk, or what somebody else wrote.
    pub fn formats(&self) -> Result<Formats, StoreError> {
        Ok(self.read("formats.json")?.unwrap_or_default())
    }

    /// How many entries the suppression list had at the last good start.
    ///
    /// # Errors
    /// The disk, or what somebody else wrote.
    pub fn suppressed(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.read("suppressed.json")?.unwrap_or_default())
    }

    /// Notes how many they are at this start.
    ///
    /// # Errors
    /// The disk.
    pub fn found(&self, suppressed: Option<u64>) -> Result<(), StoreError> {
        if suppressed == self.suppressed()? { Ok(()) } else { self.write("suppressed.json", &suppressed) }
    }

    /// Notes that `version`, which keeps data in `format`, runs on this data from now on.
    ///
    /// # Errors
    /// The disk.
    pub fn runs(&self, version: Version, format: DataFormat) -> Result<(), StoreError> {
        let before = self.formats()?;
        let mut formats = before.clone();
        formats.written = formats.written.max(Some(format.writes));
        formats.versions.insert(version.to_string(), format);
        if formats == before { Ok(()) } else { self.write("formats.json", &formats) }
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let path = self.folder.join(name);
        let failed = |error| StoreError { verb: "read", path: path.clone(), error };
        match fs::read(&path) {
            Ok(octets) => serde_json::from_slice(&octets).map(Some).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        let octets = serde_json::to_vec_pretty(value).map_err(io::Error::from);
        octets.and_then(|octets| postkeep_files::replace(&path, &octets)).map_err(|error| StoreError {
            verb: "write",
            path,
            error,
        })
    }
}

fn known(entry: &Value) -> Option<Dated> {
    Dated::deserialize(entry).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Stage;

    /// As the first version wrote them. They are read for as long as format 1 is: nothing here is ever changed.
    const FIRST: [(&str, &str); 4] = [
        (
            "attempt.json",
            r#"{"from":"0.1.0","to":"0.1.1","since":"2026-11-29T10:00:00Z","stage":"written","back":false,"spared":[],"unwell":null}"#,
        ),
        (
            "history.json",
            r#"[{"time":"2026-11-29T10:00:00Z","event":"installed","from":"0.1.0","to":"0.1.1"},{"time":"2026-11-29T10:05:00Z","event":"taken","from":"0.1.0","to":"0.1.1"}]"#,
        ),
        ("formats.json", r#"{"written":1,"versions":{"0.1.0":{"reads":[1],"writes":1}}}"#),
        ("suppressed.json", "7"),
    ];

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        let store = Store::new(folder.path());
        (folder, store)
    }

    #[test]
    fn what_the_first_version_wrote_is_read() {
        let (_folder, store) = written(&FIRST);
        let attempt = store.attempt().unwrap().unwrap();
        assert_eq!((attempt.from, attempt.to), (Version::new(0, 1, 0), Version::new(0, 1, 1)));
        assert_eq!(store.history().unwrap().len(), 2);
        assert_eq!((store.formats().unwrap().written, store.suppressed().unwrap()), (Some(1), Some(7)));
    }

    #[test]
    fn what_a_later_version_notes_does_not_keep_this_one_from_noting_and_is_kept_for_it() {
        let (folder, store) = written(&FIRST);
        let later = FIRST[1].1.replace("\"taken\"", "\"dreamt\"");
        fs::write(folder.path().join("history.json"), later).unwrap();
        assert_eq!(store.history().unwrap().len(), 1);
        let event = Event::FellBack {
            from: Version::new(0, 1, 1),
            to: Version::new(0, 1, 0),
            reason: "the queue does not open".to_owned(),
        };
        store.note(event, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(store.history().unwrap().len(), 2);
        assert!(fs::read_to_string(folder.path().join("history.json")).unwrap().contains("dreamt"));
    }

    #[test]
    fn what_is_kept_is_read_again_and_an_event_is_noted_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert_eq!((store.attempt().unwrap(), store.history().unwrap()), (None, Vec::new()));
        let (from, to) = (Version::new(1, 0, 0), Version::new(1, 1, 0));
        let now = Timestamp::UNIX_EPOCH;
        let attempt =
            Attempt { from, to, since: now, stage: Stage::Writing, back: false, spared: Vec::new(), unwell: None };
        store.begin(&attempt).unwrap();
        assert_eq!(store.attempt().unwrap(), Some(attempt.clone()));
        for _ in 0..2 {
            store.end(Event::Taken { from, to }, now).unwrap();
            // The power went before the attempt was forgotten.
            assert_eq!(store.attempt().unwrap(), None);
            store.begin(&attempt).unwrap();
        }
        assert_eq!(store.history().unwrap(), [Dated { time: now, event: Event::Taken { from, to } }]);
        let again = Event::FellBack { from: to, to: from, reason: "the queue does not open".to_owned() };
        store.note(again, now).unwrap();
        assert_eq!(store.history().unwrap().len(), 2);
        assert_eq!(store.suppressed().unwrap(), None);
        store.found(Some(7)).unwrap();
        assert_eq!(store.suppressed().unwrap(), Some(7));
    }

    #[test]
    fn the_newest_format_that_was_written_is_remembered_on_the_way_back_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let (old, new) =
            (DataFormat { reads: [1, 2].into(), writes: 1 }, DataFormat { reads: [1, 2].into(), writes: 2 });
        store.runs(Version::new(1, 0, 0), old.clone()).unwrap();
        store.runs(Version::new(1, 1, 0), new).unwrap();
        store.runs(Version::new(1, 0, 0), old.clone()).unwrap();
        let formats = store.formats().unwrap();
        assert_eq!(formats.written, Some(2));
        assert_eq!(formats.versions["1.0.0"], old);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("attempt.json"), "{").unwrap();
        let error = Store::new(folder.path()).attempt().unwrap_err().to_string();
        assert!(error.contains("attempt.json"), "{error}");
    }
}
