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
    /// Nothing was behind the position in its file when that was looked at last: should the file be gone
    /// one day, nothing is lost with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    at_end: bool,
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
    /// The disk has an older place.
    unsaved: bool,
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
                Ok(Self { path, saved, unsaved: false })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let saved = Saved { position: first()?, at_end: false, output: None };
                let mut cursor = Self { path, saved, unsaved: true };
                // On disk at once: after a crash it must not begin at a later end.
                cursor.save()?;
                Ok(cursor)
            }
            Err(error) => Err(error),
        }
    }

    /// Everything before it is dealt with.
    pub(crate) fn position(&self) -> &Position {
        &self.saved.position
    }

    /// Nothing was behind it in its file when that was looked at last.
    pub(crate) fn is_at_end(&self) -> bool {
        self.saved.at_end
    }

    /// The disk has an older place, so that a crash now would send again what was taken since.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved
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
        self.save().inspect_err(|_| self.saved.output = old)
    }

    /// Everything before `position` is dealt with. It is so whether it can be written or not: what was taken is
    /// not sent again for the disk's sake. [`Cursor::save`] makes it durable.
    pub(crate) fn advance(&mut self, position: Position, at_end: bool) {
        if self.saved.position != position || self.saved.at_end != at_end {
            self.saved.position = position;
            self.saved.at_end = at_end;
            self.unsaved = true;
        }
    }

    /// Everything before `position` is dealt with, and is in the accounting file up to its length: both at
    /// once, or neither, since the file is cut to the length that the disk has. Durable on return.
    ///
    /// # Errors
    /// It cannot be written; the old ones stand.
    pub(crate) fn advance_with(&mut self, position: Position, output: Output) -> io::Result<()> {
        let next = Saved { position, at_end: false, output: Some(output) };
        let old = std::mem::replace(&mut self.saved, next);
        self.save().inspect_err(|_| self.saved = old)
    }

    /// Writes the place down. Durable on return.
    ///
    /// # Errors
    /// It cannot be written, and is still to be.
    pub(crate) fn save(&mut self) -> io::Result<()> {
        self.unsaved = true;
        postkeep_files::replace(&self.path, &serde_json::to_vec(&self.saved)?)?;
        self.unsaved = false;
        Ok(())
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

    #[test]
    fn what_was_taken_stays_taken_while_the_disk_refuses_it_but_lines_and_place_go_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |offset| Position { file: "records-1.jsonl".into(), offset };
        let mut cursor = Cursor::open(folder.path(), || Ok(place(7))).expect("a cursor");
        // The half that is written first finds a folder in its place.
        let half = folder.path().join("cursor.json.half");
        fs::create_dir(&half).expect("a folder");
        cursor.advance(place(8), false);
        assert!(cursor.is_unsaved());
        cursor.save().expect_err("no room");
        assert_eq!((cursor.position(), cursor.is_unsaved()), (&place(8), true));
        let output = Output { file: "acct-1.csv".into(), length: 3, begun: 5 };
        cursor.advance_with(place(9), output).expect_err("no room");
        assert_eq!((cursor.position(), cursor.output()), (&place(8), None));
        fs::remove_dir(&half).expect("removed");
        cursor.save().expect("written");
        let again = Cursor::open(folder.path(), || panic!("there is one")).expect("it");
        assert_eq!((again.position(), cursor.is_unsaved()), (&place(8), false));
    }
}
