//! The record files on the disk, line by line, by the word of the [`Follower`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::follower::{Follower, Position, Seen, Skipped};

/// Octets read at a time.
const CHUNK: usize = 256 * 1024;
/// A line that is longer is left out.
const LONGEST_LINE: usize = 1024 * 1024;

/// A line, and where the reader stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it begins.
    pub(crate) start: Position,
    /// Where the next one begins.
    pub(crate) end: u64,
    /// Without its line feed.
    pub(crate) text: Vec<u8>,
}

/// What was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Lines in parts that were skipped.
    pub(crate) events: u64,
    /// Octets of them.
    pub(crate) octets: u64,
    /// A file that was deleted before it was read to its end; how many lines were in it is not known.
    pub(crate) gone: Option<String>,
}

impl Loss {
    /// Nothing was lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.octets == 0 && self.gone.is_none()
    }
}

/// Reads the files of one folder.
#[derive(Debug)]
pub(crate) struct Reader {
    directory: PathBuf,
    follower: Follower,
    open: Option<(String, File)>,
    at_end: bool,
}

impl Reader {
    /// A reader at a place. `at_end`: the last one there had seen nothing behind it in its file.
    pub(crate) fn at(directory: &Path, position: Position, at_end: bool) -> Self {
        Self { directory: directory.to_owned(), follower: Follower::at(position, at_end), open: None, at_end }
    }

    /// The place behind the last whole line that there is.
    ///
    /// # Errors
    /// The folder or its last file cannot be read.
    pub(crate) fn end(directory: &Path) -> io::Result<Position> {
        let Some(last) = list(directory)?.pop() else { return Ok(Position::beginning()) };
        let mut file = File::open(directory.join(&last.name))?;
        let mut offset = last.size;
        // Back to the last line feed, at most one line.
        let window = offset.min(LONGEST_LINE as u64);
        file.seek(SeekFrom::Start(offset - window))?;
        let mut tail = Vec::new();
        file.take(window).read_to_end(&mut tail)?;
        offset = match tail.iter().rposition(|octet| *octet == b'\n') {
            Some(at) => offset - window + at as u64 + 1,
            None => offset - window,
        };
        Ok(Position { file: last.name, offset })
    }

    /// Where the reader stands.
    pub(crate) fn position(&self) -> &Position {
        self.follower.position()
    }

    /// Nothing was behind that place in its file when [`Reader::read`] was called last.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Octets that are still to be read.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub(crate) fn lag(&self) -> io::Result<u64> {
        Ok(self.follower.lag(&list(&self.directory)?))
    }

    /// Skips what is further back than `bound` octets and counts what it skips.
    ///
    /// # Errors
    /// The folder cannot be listed or a file not be read.
    pub(crate) fn catch_up(&mut self, bound: u64) -> io::Result<Loss> {
        let files = list(&self.directory)?;
        let Skipped { parts, gone } = self.follower.catch_up(&files, bound);
        let mut loss = Loss { gone, ..Loss::default() };
        for (index, (name, from, to)) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            let (lines, end) = count_lines(&self.directory.join(name), *from, *to, is_last)?;
            loss.events += lines;
            loss.octets += end - from;
            if is_last {
                self.follower.moved(end);
            }
        }
        Ok(loss)
    }

    /// Reads up to `most` lines into `into`; fewer when a chunk has no more, none when there are none.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn read(&mut self, most: usize, into: &mut Vec<Line>) -> io::Result<()> {
        // Listed before reading: what has a file behind it now gets nothing more.
        let files = list(&self.directory)?;
        let result = self.read_among(&files, most, into);
        self.at_end = self.follower.is_at_end(&files);
        result
    }

    fn read_among(&mut self, files: &[Seen], most: usize, into: &mut Vec<Line>) -> io::Result<()> {
        let mut want = CHUNK;
        while into.len() < most {
            let Some(span) = self.follower.next(files) else { return Ok(()) };
            let chunk = self.chunk(&span.file, span.from, want)?;
            let is_at_end = chunk.len() < want;
            let mut offset = span.from;
            let mut rest = chunk.as_slice();
            while let Some(length) = rest.iter().position(|octet| *octet == b'\n').filter(|_| into.len() < most) {
                let (text, after) = rest.split_at(length);
                let start = Position { file: span.file.clone(), offset };
                offset += length as u64 + 1;
                into.push(Line { start, end: offset, text: text.to_vec() });
                rest = after.get(1..).unwrap_or_default();
            }
            if offset > span.from {
                self.follower.moved(offset);
                want = CHUNK;
            } else if is_at_end {
                if !span.finished {
                    return Ok(());
                }
                if !rest.is_empty() {
                    log::warn!("events: {} ends in the middle of a line, which is left out", span.file);
                }
                self.open = None;
                self.follower.done_with_file();
            } else if want < LONGEST_LINE {
                want = LONGEST_LINE;
            } else {
                log::error!("events: {} has a line of more than {LONGEST_LINE} octets at {offset}", span.file);
                self.skip_line(&span.file, span.from)?;
            }
        }
        Ok(())
    }

    /// Moves to behind the next line feed, or to the end.
    fn skip_line(&mut self, name: &str, from: u64) -> io::Result<()> {
        let (_, end) = count_lines(&self.directory.join(name), from, from + LONGEST_LINE as u64, true)?;
        self.follower.moved(end);
        Ok(())
    }

    fn chunk(&mut self, name: &str, from: u64, want: usize) -> io::Result<Vec<u8>> {
        if self.open.as_ref().is_none_or(|(open, _)| open != name) {
            self.open = Some((name.to_owned(), File::open(self.directory.join(name))?));
        }
        let Some((_, file)) = &mut self.open else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(from))?;
        let mut chunk = Vec::new();
        file.take(want as u64).read_to_end(&mut chunk)?;
        Ok(chunk)
    }
}

/// The record files, in order.
fn list(directory: &Path) -> io::Result<Vec<Seen>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with("records-") || !name.ends_with(".jsonl") {
            continue;
        }
        match entry.metadata() {
            Ok(data) => files.push(Seen { name, size: data.len() }),
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    files.sort();
    Ok(files)
}

/// Line feeds between two places, and the end of the last line; with `whole` the line that goes on
/// behind the second place counts as well.
fn count_lines(path: &Path, from: u64, to: u64, whole: bool) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let (mut lines, mut at, mut last) = (0, from, b'\n');
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let bound = if at < to { (to - at).min(chunk.len() as u64) as usize } else { chunk.len() };
        if at >= to && (last == b'\n' || !whole) {
            return Ok((lines, at));
        }
        let Some(space) = chunk.get_mut(..bound) else { return Ok((lines, at)) };
        let length = file.read(space)?;
        let Some(read) = space.get(..length).filter(|read| !read.is_empty()) else { return Ok((lines, at)) };
        if at >= to {
            // Only to the end of this line.
            return match read.iter().position(|octet| *octet == b'\n') {
                Some(end) => Ok((lines + 1, at + end as u64 + 1)),
                None => {
                    at += length as u64;
                    continue;
                }
            };
        }
        lines += read.iter().filter(|octet| **octet == b'\n').count() as u64;
        last = read.last().copied().unwrap_or(last);
        at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(Vec<u8>),
        /// Half a line, which the next append goes on with.
        Half,
        Rotate,
        /// The writer was killed in the middle of a line and begins another file.
        Torn,
        Read(usize),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => prop::collection::vec(32u8..127, 0..40).prop_map(Step::Append),
            1 => Just(Step::Half),
            2 => Just(Step::Rotate),
            1 => Just(Step::Torn),
            4 => (1usize..6).prop_map(Step::Read),
            2 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The oracle is what was written: all whole lines, in order.
        #[test]
        fn every_line_is_read_once_and_in_order_over_rotations_and_restarts(steps in steps()) {
            let directory = tempfile::tempdir().expect("a folder");
            let mut number = 0;
            let name = |number: u32| format!("records-20260101T000000Z-{number:03}.jsonl");
            let open = |number: u32| File::create(directory.path().join(name(number))).expect("a file");
            let mut file = open(0);
            let mut reader = Reader::at(directory.path(), Position::beginning(), false);
            let (mut written, mut read) = (Vec::new(), Vec::new());
            let mut half = false;
            for step in steps.into_iter().chain([Step::Append(b"end".to_vec()), Step::Read(1000)]) {
                match step {
                    Step::Append(line) => {
                        file.write_all(&line).expect("write");
                        file.write_all(b"\n").expect("write");
                        written.push(if half { [b"half ".as_slice(), &line].concat() } else { line });
                        half = false;
                    }
                    Step::Half if !half => {
                        file.write_all(b"half ").expect("write");
                        half = true;
                    }
                    Step::Half => {}
                    Step::Rotate if half => {}
                    Step::Rotate => {
                        number += 1;
                        file = open(number);
                    }
                    Step::Torn => {
                        file.write_all(b"torn").expect("write");
                        half = false;
                        number += 1;
                        file = open(number);
                    }
                    Step::Read(most) => {
                        let mut lines = Vec::new();
                        reader.read(most, &mut lines).expect("read");
                        read.extend(lines.into_iter().map(|line| line.text));
                    }
                    Step::Restart => reader = Reader::at(directory.path(), reader.position().clone(), reader.is_at_end()),
                }
            }
            prop_assert_eq!(read, written);
        }
    }

    #[test]
    fn a_file_that_is_deleted_is_a_loss_only_if_something_in_it_was_not_read() {
        let directory = tempfile::tempdir().expect("a folder");
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("records-1.jsonl"), "a\nb\n").expect("write");
        let read = |reader: &mut Reader, most| {
            let mut lines = Vec::new();
            reader.read(most, &mut lines).expect("read");
            lines.len()
        };
        let mut half = Reader::at(directory.path(), Position::beginning(), false);
        assert_eq!((read(&mut half, 1), half.is_at_end()), (1, false));
        let mut whole = Reader::at(directory.path(), Position::beginning(), false);
        assert_eq!((read(&mut whole, 9), whole.is_at_end()), (2, true));
        std::fs::write(file("records-2.jsonl"), "c\n").expect("write");
        std::fs::remove_file(file("records-1.jsonl")).expect("removed");
        for (reader, lost) in [(half, true), (whole, false)] {
            // As each reading is done, and the first one after a restart.
            let mut again = Reader::at(directory.path(), reader.position().clone(), reader.is_at_end());
            assert_eq!(again.catch_up(1 << 20).expect("looked at").gone.is_some(), lost);
            assert_eq!(read(&mut again, 9), 1);
        }
    }

    #[test]
    fn what_is_skipped_is_counted_in_whole_lines() {
        let directory = tempfile::tempdir().expect("a folder");
        let write = |name: &str, lines: std::ops::Range<u32>| {
            let text: String = lines.map(|line| format!("line {line:04}\n")).collect();
            std::fs::write(directory.path().join(name), text).expect("write");
        };
        write("records-1.jsonl", 0..100);
        write("records-2.jsonl", 100..200);
        std::fs::write(directory.path().join("other"), b"x").expect("write");
        let mut reader = Reader::at(directory.path(), Position::beginning(), false);
        assert_eq!(reader.lag().expect("a lag"), 2000);
        // 2000 - 800 + 100 = 1300, which is line 130's beginning.
        let loss = reader.catch_up(800).expect("skipped");
        assert_eq!(loss, Loss { events: 130, octets: 1300, gone: None });
        let mut lines = Vec::new();
        reader.read(1000, &mut lines).expect("read");
        assert_eq!(lines.first().map(|line| line.text.as_slice()), Some(b"line 0130".as_slice()));
        assert_eq!(lines.len(), 70);
        // In the middle of a line: to its end.
        let mut reader = Reader::at(directory.path(), Position::beginning(), false);
        let loss = reader.catch_up(804).expect("skipped");
        assert_eq!(loss, Loss { events: 130, octets: 1300, gone: None });
        let end = Reader::end(directory.path()).expect("the end");
        assert_eq!(end, Position { file: "records-2.jsonl".into(), offset: 1000 });
    }
}
