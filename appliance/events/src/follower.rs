//! Where a reader of the record files stands, and where it goes on: a state machine over the files
//! that are seen, without any input or output of its own.
//!
//! Promises, as long as names of files only grow (see the records of `postkeep-mta`) and only the last
//! one is written to: every whole line is read once and in order; what lies further back than the
//! bound is skipped, and how much that was is told; a half line at the end of a file that is not the
//! last was torn by a crash and is left out.

use serde::{Deserialize, Serialize};

/// A place between two lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Position {
    /// Name of the file; empty is before the first.
    pub(crate) file: String,
    /// Octets before it in that file.
    pub(crate) offset: u64,
}

impl Position {
    /// Before every record.
    pub(crate) fn beginning() -> Self {
        Self { file: String::new(), offset: 0 }
    }
}

/// A file as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// Its name.
    pub(crate) name: String,
    /// Octets in it.
    pub(crate) size: u64,
}

/// What to read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// In this file.
    pub(crate) file: String,
    /// From here.
    pub(crate) from: u64,
    /// Nobody writes to it any more: its end is an end.
    pub(crate) finished: bool,
}

/// What is lost to a bound or to deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Parts of files that are still there: file, from, to.
    pub(crate) parts: Vec<(String, u64, u64)>,
    /// A file that went before it was read to its end.
    pub(crate) gone: Option<String>,
}

/// The reader's place, and whether its file was read to an end that is final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Follower {
    position: Position,
    is_done_with_file: bool,
    /// As whoever stood there before has seen it.
    was_at_end: bool,
}

impl Follower {
    /// A reader that stands there. `at_end`: nothing was behind it in its file when that was last looked at,
    /// so that nothing is lost if the file is gone now.
    pub(crate) fn at(position: Position, at_end: bool) -> Self {
        Self { position, is_done_with_file: false, was_at_end: at_end }
    }

    /// Whether nothing is behind it in its file, by the sizes of these files.
    pub(crate) fn is_at_end(&self, files: &[Seen]) -> bool {
        match files.iter().find(|file| file.name == self.position.file) {
            Some(file) => file.size <= self.position.offset,
            // What has gone has not grown.
            None => self.is_done_with_file || self.was_at_end,
        }
    }

    /// Where it stands.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Octets before it among these files, which are in the order of their names.
    pub(crate) fn lag(&self, files: &[Seen]) -> u64 {
        files
            .iter()
            .map(|file| match file.name.cmp(&self.position.file) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => file.size.saturating_sub(self.position.offset),
                std::cmp::Ordering::Greater => file.size,
            })
            .sum()
    }

    /// Skips what is further back than `bound` octets, and files that are gone. After it the reader
    /// may stand in the middle of a line: the caller moves it to the next one with [`Follower::moved`].
    ///
    /// An eighth of the bound is made free at a time, so that a reader that cannot keep up says so
    /// now and then and not with every line.
    pub(crate) fn catch_up(&mut self, files: &[Seen], bound: u64) -> Skipped {
        let mut skipped = Skipped::default();
        let is_there = files.iter().any(|file| file.name == self.position.file);
        if !is_there && !self.position.file.is_empty() && !self.is_done_with_file && !self.was_at_end {
            skipped.gone = Some(std::mem::take(&mut self.position.file));
            // Where it was is still the order of things.
            let next = files.iter().find(|file| Some(&file.name) > skipped.gone.as_ref());
            self.position = match (next, &skipped.gone) {
                (Some(next), _) => Position { file: next.name.clone(), offset: 0 },
                (None, Some(gone)) => {
                    self.is_done_with_file = true;
                    Position { file: gone.clone(), offset: self.position.offset }
                }
                (None, None) => Position::beginning(),
            };
        }
        let lag = self.lag(files);
        if lag <= bound {
            return skipped;
        }
        let mut surplus = lag - bound + bound / 8;
        let start = self.position.clone();
        for file in files.iter().filter(|file| file.name >= start.file) {
            let from = if file.name == start.file { start.offset } else { 0 };
            let available = file.size.saturating_sub(from);
            let part = available.min(surplus);
            if part > 0 {
                skipped.parts.push((file.name.clone(), from, from + part));
            }
            self.position = Position { file: file.name.clone(), offset: from + part };
            self.is_done_with_file = false;
            self.was_at_end = false;
            surplus -= part;
            if surplus == 0 {
                break;
            }
        }
        skipped
    }

    /// What to read next among these files, which are in the order of their names and were listed
    /// before the reading: a file with another behind it is finished.
    pub(crate) fn next(&mut self, files: &[Seen]) -> Option<Span> {
        let index = files.iter().position(|file| file.name == self.position.file);
        let index = match index {
            Some(index) if !self.is_done_with_file => index,
            _ => files.iter().position(|file| file.name > self.position.file)?,
        };
        let file = files.get(index)?;
        if file.name != self.position.file {
            self.position = Position { file: file.name.clone(), offset: 0 };
            self.is_done_with_file = false;
            self.was_at_end = false;
        }
        Some(Span { file: file.name.clone(), from: self.position.offset, finished: index + 1 < files.len() })
    }

    /// Whole lines were read up to `offset` of the file that [`Follower::next`] named.
    pub(crate) fn moved(&mut self, offset: u64) {
        self.was_at_end &= offset == self.position.offset;
        self.position.offset = offset;
    }

    /// The file that [`Follower::next`] called finished has no whole line left.
    pub(crate) fn done_with_file(&mut self) {
        self.is_done_with_file = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, u64)]) -> Vec<Seen> {
        files.iter().map(|(name, size)| Seen { name: (*name).to_owned(), size: *size }).collect()
    }

    fn at(file: &str, offset: u64) -> Follower {
        Follower::at(Position { file: file.to_owned(), offset }, false)
    }

    #[test]
    fn it_begins_with_the_first_file_and_goes_on_when_one_is_finished() {
        let mut follower = Follower::at(Position::beginning(), false);
        assert_eq!(follower.next(&[]), None);
        let files = seen(&[("a", 10), ("b", 5)]);
        assert_eq!(follower.next(&files), Some(Span { file: "a".into(), from: 0, finished: true }));
        follower.moved(10);
        assert_eq!(follower.next(&files).map(|span| span.from), Some(10));
        follower.done_with_file();
        assert_eq!(follower.next(&files), Some(Span { file: "b".into(), from: 0, finished: false }));
        follower.moved(5);
        assert_eq!(follower.next(&files), Some(Span { file: "b".into(), from: 5, finished: false }));
    }

    #[test]
    fn a_file_that_went_unread_is_told_and_one_that_was_read_is_not() {
        let mut follower = at("a", 3);
        let files = seen(&[("b", 5)]);
        assert_eq!(follower.catch_up(&files, 100).gone.as_deref(), Some("a"));
        assert_eq!(follower.position(), &Position { file: "b".into(), offset: 0 });

        let mut follower = at("a", 3);
        follower.done_with_file();
        assert_eq!(follower.catch_up(&files, 100), Skipped::default());
        assert_eq!(follower.next(&files).map(|span| span.file), Some("b".into()));

        let mut follower = at("a", 3);
        assert_eq!(follower.catch_up(&[], 100).gone.as_deref(), Some("a"));
        assert_eq!(follower.catch_up(&[], 100), Skipped::default(), "it is told once");
        assert_eq!(follower.next(&files).map(|span| span.file), Some("b".into()));

        // Another reader that goes on where one had seen the end.
        let mut follower = Follower::at(Position { file: "a".into(), offset: 3 }, true);
        assert_eq!(follower.catch_up(&files, 100), Skipped::default());
        assert!(follower.is_at_end(&files));
        assert_eq!(follower.next(&files).map(|span| span.file), Some("b".into()));
        assert!(!follower.is_at_end(&files));
    }

    #[test]
    fn what_is_further_back_than_the_bound_is_skipped_with_some_room_to_spare() {
        let files = seen(&[("a", 100), ("b", 50), ("c", 100)]);
        let mut follower = at("a", 20);
        assert_eq!(follower.lag(&files), 230);
        assert_eq!(follower.catch_up(&files, 230), Skipped::default());
        let skipped = follower.catch_up(&files, 120);
        // 230 - 120 + 15 = 125: 80 of a, 45 of b.
        assert_eq!(skipped.parts, [("a".to_owned(), 20, 100), ("b".to_owned(), 0, 45)]);
        assert_eq!(follower.position(), &Position { file: "b".into(), offset: 45 });
        assert_eq!(follower.lag(&files), 105);
    }
}
