//! How far a receiver of events has got, on disk: a crash leaves the old place or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::follower::Position;

/// What is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    position: Position,
    /// The accounting file that belongs to this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<Output>,
}

/// How long an accounting file is that holds everything up to a place, and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    /// Its name.
    pub(crate) file: String,
    /// Octets; what is behind them does not count.
    pub(crate) length: u64,
    /// When it was begun, Unix seconds.
    pub(crate) begun: i64,
}

/// The cursor of one receiver.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    saved: Saved,
}

impl Cursor {
    /// Reads the cursor of a folder; where there is none yet, `first` says where to begin.
    ///
    /// # Errors
    /// The folder cannot be made or written, or the file there is no cursor.
    pub(crate) fn open(folder: &Path, first: impl FnOnce() -> io::Result<Position>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("cursor.json");
        match fs::read(&path) {
            Ok(text) => {
                let saved = serde_json::from_slice(&text).map_err(|error| {
                    let remedy = "remove it to begin anew, as `from` says";
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} is no cursor: {error}; {remedy}", path.display()),
                    )
                })?;
                Ok(Self { path, saved })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut cursor = Self { path, saved: Saved { position: first()?, output: None } };
                // On disk at once: after a crash it must not begin at a later end.
                cursor.write()?;
                Ok(cursor)
            }
            Err(error) => Err(error),
        }
    }

    /// Everything before it is dealt with.
    pub(crate) fn position(&self) -> &Position {
        &self.saved.position
    }

    /// The accounting file of that place.
    pub(crate) fn output(&self) -> Option<&Output> {
        self.saved.output.as_ref()
    }

    /// Another accounting file, at the same place. Durable on return.
    ///
    /// # Errors
    /// It cannot be written; the old one stands.
    pub(crate) fn set_output(&mut self, output: Output) -> io::Result<()> {
        let old = self.saved.output.replace(output);
        self.write().inspect_err(|_| self.saved.output = old)
    }

    /// Everything before `position` is dealt with. Durable on return.
    ///
    /// # Errors
    /// It cannot be written; the old place stands.
    pub(crate) fn advance(&mut self, position: Position) -> io::Result<()> {
        let old = std::mem::replace(&mut self.saved.position, position);
        self.write().inspect_err(|_| self.saved.position = old)
    }

    /// Both at once.
    ///
    /// # Errors
    /// It cannot be written; the old ones stand.
    pub(crate) fn advance_with(&mut self, position: Position, output: Output) -> io::Result<()> {
        let old = std::mem::replace(&mut self.saved, Saved { position, output: Some(output) });
        self.write().inspect_err(|_| self.saved = old)
    }

    fn write(&mut self) -> io::Result<()> {
        postkeep_files::replace(&self.path, &serde_json::to_vec(&self.saved)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_found_again_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |offset| Position { file: "records-1.jsonl".into(), offset };
        let mut cursor = Cursor::open(folder.path(), || Ok(place(7))).expect("a cursor");
        let again = || Cursor::open(folder.path(), || panic!("there is one"));
        assert_eq!(again().expect("it").position(), &place(7));
        let output = Output { file: "acct-1.csv".into(), length: 3, begun: 5 };
        cursor.advance_with(place(9), output.clone()).expect("written");
        let read = again().expect("it");
        assert_eq!((read.position(), read.output()), (&place(9), Some(&output)));
        fs::write(folder.path().join("cursor.json"), "{").expect("written");
        assert!(again().expect_err("damaged").to_string().contains("remove it to begin anew"));
    }
}
