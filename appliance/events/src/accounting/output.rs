//! The files: named, appended to, cut back, closed, moved and forgotten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use postkeep_configuration as configuration;

use crate::cursor::Output;

/// Wait after a file could not be closed.
const BETWEEN_TRIES: Duration = Duration::from_secs(60);

/// The files of one folder.
pub(super) struct Files {
    directory: PathBuf,
    move_to: Option<PathBuf>,
    rotate_size: u64,
    rotate_after: Duration,
    keep: Duration,
    header: Vec<u8>,
    /// The file that is written to, and what of it counts.
    current: Option<(File, Output)>,
    /// The last name that was given; no name is given twice.
    last: String,
    /// When closing failed last, and why.
    unclosed: Option<(Instant, String)>,
}

impl Files {
    /// Goes on with the file of the cursor, if it is there and has the same columns.
    pub(super) fn open(
        settings: &configuration::Accounting,
        header: Vec<u8>,
        output: Option<&Output>,
    ) -> io::Result<Self> {
        for folder in std::iter::once(&settings.directory).chain(&settings.move_to) {
            fs::create_dir_all(folder)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", folder.display())))?;
        }
        if let Some(move_to) = &settings.move_to
            && fs::metadata(move_to)?.dev() != fs::metadata(&settings.directory)?.dev()
        {
            let (from, to) = (settings.directory.display(), move_to.display());
            return Err(io::Error::other(format!(
                "move-to {to} is on another file system than {from}: files could not be moved there in one step"
            )));
        }
        let mut files = Self {
            directory: settings.directory.clone(),
            move_to: settings.move_to.clone(),
            rotate_size: settings.rotate_size.bytes(),
            rotate_after: settings.rotate_after.as_std(),
            keep: settings.keep.as_std(),
            header,
            current: None,
            last: String::new(),
            unclosed: None,
        };
        if let Some(output) = output {
            files.last.clone_from(&output.file);
            let path = files.directory.join(&output.file);
            match OpenOptions::new().read(true).append(true).open(&path) {
                Ok(file) => {
                    files.current = Some((file, output.clone()));
                    files.settle()?;
                    if !files.has_header()? {
                        files.close()?;
                    }
                }
                // Closed and moved.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the current file has lived long enough.
    pub(super) fn is_due(&self) -> bool {
        self.current.as_ref().is_some_and(|(_, output)| {
            let age = Timestamp::now().as_second().saturating_sub(output.begun);
            output.length >= self.rotate_size || age >= 0 && age.unsigned_abs() >= self.rotate_after.as_secs()
        })
    }

    /// Closes the current file if it has lived long enough. When that fails it serves on.
    pub(super) fn close_when_due(&mut self) {
        if !self.is_due() || self.unclosed.as_ref().is_some_and(|(at, _)| at.elapsed() < BETWEEN_TRIES) {
            return;
        }
        self.unclosed = None;
        if let Err(error) = self.close() {
            let detail = format!("cannot close a file in {}: {error}", self.directory.display());
            log::error!("accounting: {detail}; trying again");
            self.unclosed = Some((Instant::now(), detail));
        }
    }

    /// Why a file that was due is not closed.
    pub(super) fn trouble(&self) -> Option<String> {
        self.unclosed.as_ref().filter(|_| self.current.is_some()).map(|(_, detail)| detail.clone())
    }

    /// Closes the current file and hands it on.
    fn close(&mut self) -> io::Result<()> {
        let Some((file, output)) = &self.current else { return Ok(()) };
        file.sync_all()?;
        let mut folders = vec![self.directory.clone()];
        if let Some(folder) = &self.move_to {
            let (from, to) = (self.directory.join(&output.file), folder.join(&output.file));
            let moved = if output.length == 0 { fs::remove_file(&from) } else { fs::rename(&from, &to) };
            match moved {
                // Whoever took it away has it; rows must not follow it there.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
                    log::error!("accounting: {} is gone before it was closed", from.display());
                }
                Err(error) => {
                    let detail = format!("cannot move {} to {}: {error}", from.display(), folder.display());
                    return Err(io::Error::new(error.kind(), detail));
                }
                Ok(()) => folders.push(folder.clone()),
            }
        }
        // Closed as soon as it is there: what is in the other folder does not change any more.
        self.current = None;
        if self.move_to.is_some() {
            for folder in folders.iter().rev() {
                File::open(folder)?.sync_all()?;
            }
        }
        self.forget_old();
        Ok(())
    }

    /// The next file, when there is none; it is made by the first append.
    pub(super) fn begin(&mut self) -> Option<Output> {
        if self.current.is_some() {
            return None;
        }
        let now = Timestamp::now();
        let date = format!("acct-{}-", now.strftime("%Y-%m-%d"));
        let number = |name: &str| name.strip_prefix(&date)?.strip_suffix(".csv")?.parse::<u64>().ok();
        let there = std::iter::once(&self.directory).chain(&self.move_to).flat_map(|folder| names(folder));
        let last = there.chain([self.last.clone()]).filter_map(|name| number(&name)).max();
        self.last = format!("{date}{:04}.csv", last.map_or(1, |last| last + 1));
        Some(Output { file: self.last.clone(), length: 0, begun: now.as_second() })
    }

    /// Writes lines behind what counts; durable on return. They do not count before [`Files::keep`].
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<Output> {
        if self.current.is_none() {
            let path = self.directory.join(&self.last);
            let file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
            file.set_len(0)?;
            File::open(&self.directory)?.sync_all()?;
            let output = Output { file: self.last.clone(), length: 0, begun: Timestamp::now().as_second() };
            self.current = Some((file, output));
        }
        self.settle()?;
        let Some((file, output)) = &mut self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let mut next = output.clone();
        let mut write = |octets: &[u8]| -> io::Result<()> {
            file.write_all(octets)?;
            next.length += octets.len() as u64;
            Ok(())
        };
        let mut written = if output.length == 0 { write(&self.header) } else { Ok(()) };
        written = written.and_then(|()| write(lines)).and_then(|()| file.sync_data());
        if let Err(error) = written {
            self.cut();
            return Err(error);
        }
        Ok(next)
    }

    /// Makes the current file as long as what counts of it. One that somebody has shortened is cut back to
    /// its last whole line, so that the next one is not glued to half a line.
    fn settle(&mut self) -> io::Result<()> {
        let Some((file, output)) = &mut self.current else { return Ok(()) };
        let there = file.metadata()?.len();
        if there < output.length {
            let path = self.directory.join(&output.file);
            let whole = whole_lines(File::open(&path)?)?;
            log::error!("accounting: {} has lost {} octets", path.display(), output.length - whole.min(there));
            output.length = whole.min(there);
        }
        if there > output.length {
            file.set_len(output.length)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// What was appended counts.
    pub(super) fn keep(&mut self, output: Output) {
        if let Some((_, current)) = &mut self.current {
            *current = output;
        }
    }

    /// Takes out what does not count.
    pub(super) fn cut(&mut self) {
        if let Some((file, output)) = &self.current
            && let Err(error) = file.set_len(output.length)
        {
            // The cursor knows the length; opening it again cuts it.
            log::error!("accounting: cannot shorten {}: {error}", output.file);
            let again = OpenOptions::new().read(true).append(true).open(self.directory.join(&output.file));
            if let Ok(again) = again
                && again.set_len(output.length).is_ok()
            {
                self.current = Some((again, output.clone()));
            }
        }
    }

    /// The current file's first line is the header of today's configuration, or it has none yet.
    fn has_header(&self) -> io::Result<bool> {
        let Some((_, output)) = self.current.as_ref().filter(|(_, output)| output.length > 0) else { return Ok(true) };
        let mut start = vec![0; self.header.len().min(usize::try_from(output.length).unwrap_or(usize::MAX))];
        File::open(self.directory.join(&output.file))?.read_exact(&mut start)?;
        Ok(start == self.header)
    }

    fn forget_old(&self) {
        for folder in std::iter::once(&self.directory).chain(&self.move_to) {
            for name in names(folder) {
                let path = folder.join(&name);
                let age = fs::metadata(&path).ok().and_then(|data| data.modified().ok()?.elapsed().ok());
                if age.is_some_and(|age| age > self.keep)
                    && let Err(error) = fs::remove_file(&path)
                {
                    log::warn!("accounting: cannot remove old {}: {error}", path.display());
                }
            }
        }
    }
}

/// Octets up to the end of the last whole line of CSV. A line feed in quotes ends none; a doubled quote opens
/// what it has just closed.
fn whole_lines(file: File) -> io::Result<u64> {
    let (mut end, mut at, mut quoted) = (0, 0, false);
    for octet in BufReader::new(file).bytes() {
        at += 1;
        match octet? {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => end = at,
            _ => {}
        }
    }
    Ok(end)
}

/// The accounting files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("acct-") && name.ends_with(".csv")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"type,detail\r\n";

    fn settings(folder: &Path) -> configuration::Accounting {
        configuration::Accounting {
            directory: folder.join("open"),
            move_to: Some(folder.join("closed")),
            ..configuration::Accounting::default()
        }
    }

    fn append(files: &mut Files, lines: &[u8]) -> Output {
        files.begin();
        let output = files.append(lines).expect("written");
        files.keep(output.clone());
        output
    }

    #[test]
    fn a_file_that_was_cut_in_the_middle_of_a_line_goes_on_behind_the_last_whole_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path());
        let open = |output| Files::open(&settings, HEADER.to_vec(), output).expect("files");
        let mut files = open(None);
        let rows = b"b,\"he said\r\n\"\"no\"\"\"\r\nb,\"in\r\ntwo lines\"\r\n";
        let output = append(&mut files, rows);
        let path = settings.directory.join(&output.file);
        let whole = [HEADER, b"b,\"he said\r\n\"\"no\"\"\"\r\n"].concat();
        let later = b"d,later\r\n";
        // Behind the line feed that is in the quotes of the second line; found at the start, and while it is open.
        let cut = whole.len() as u64 + 7;
        let shorten = || OpenOptions::new().write(true).open(&path).expect("the file").set_len(cut).expect("cut");
        shorten();
        let mut files = open(Some(&output));
        append(&mut files, later);
        assert_eq!(fs::read(&path).expect("lines"), [whole.as_slice(), later].concat());
        append(&mut files, rows);
        shorten();
        append(&mut files, later);
        assert_eq!(fs::read(&path).expect("lines"), [whole.as_slice(), later].concat());
        // Nothing of the header left: it is written again.
        OpenOptions::new().write(true).open(&path).expect("the file").set_len(3).expect("cut");
        append(&mut files, later);
        assert_eq!(fs::read(&path).expect("lines"), [HEADER, later].concat());
    }

    #[test]
    fn a_file_that_cannot_be_moved_serves_on_and_says_so_and_one_that_was_moved_gets_nothing_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = configuration::Accounting {
            rotate_after: postkeep_configuration::Duration::ZERO,
            ..settings(folder.path())
        };
        let mut files = Files::open(&settings, HEADER.to_vec(), None).expect("files");
        let first = append(&mut files, b"d,1\r\n");
        // A folder stands where the file would go.
        let moved = settings.move_to.as_ref().expect("a folder").join(&first.file);
        fs::create_dir_all(moved.join("x")).expect("a folder");
        files.close_when_due();
        assert!(files.trouble().is_some_and(|why| why.contains("cannot move")), "{:?}", files.trouble());
        append(&mut files, b"d,2\r\n");
        fs::remove_dir_all(&moved).expect("removed");
        files.unclosed = files.unclosed.take().map(|(at, why)| (at - 2 * BETWEEN_TRIES, why));
        files.close_when_due();
        assert_eq!(files.trouble(), None);
        let second = append(&mut files, b"d,3\r\n");
        assert_ne!(second.file, first.file);
        assert_eq!(fs::read(&moved).expect("lines"), [HEADER, b"d,1\r\nd,2\r\n"].concat());
        // Taken away while it is open: the next lines are not written into what nobody finds.
        fs::remove_file(settings.directory.join(&second.file)).expect("removed");
        files.close_when_due();
        let third = append(&mut files, b"d,4\r\n");
        assert_eq!(fs::read(settings.directory.join(third.file)).expect("lines"), [HEADER, b"d,4\r\n"].concat());
    }
}
