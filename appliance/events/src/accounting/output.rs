//! The files: named, appended to, cut back, closed, moved and forgotten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
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
    /// When closing failed last.
    complained: Option<Instant>,
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
            complained: None,
        };
        if let Some(output) = output {
            files.last.clone_from(&output.file);
            let path = files.directory.join(&output.file);
            match OpenOptions::new().read(true).append(true).open(&path) {
                Ok(file) => {
                    let mut output = output.clone();
                    let there = file.metadata()?.len();
                    if there < output.length {
                        log::error!("accounting: {} has lost {} octets", path.display(), output.length - there);
                        output.length = there;
                    }
                    file.set_len(output.length)?;
                    file.sync_all()?;
                    files.current = Some((file, output));
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
        if !self.is_due() || self.complained.is_some_and(|at| at.elapsed() < BETWEEN_TRIES) {
            return;
        }
        self.complained = None;
        if let Err(error) = self.close() {
            log::error!("accounting: cannot close a file in {}, it serves on: {error}", self.directory.display());
            self.complained = Some(Instant::now());
        }
    }

    /// Closes the current file and hands it on.
    fn close(&mut self) -> io::Result<()> {
        let Some((file, output)) = &self.current else { return Ok(()) };
        file.sync_all()?;
        if let Some(folder) = &self.move_to {
            let (from, to) = (self.directory.join(&output.file), folder.join(&output.file));
            if output.length == 0 {
                fs::remove_file(&from)?;
            } else {
                fs::rename(&from, &to).map_err(|error| {
                    let detail = format!("cannot move {} to {}: {error}", from.display(), folder.display());
                    io::Error::new(error.kind(), detail)
                })?;
                File::open(folder)?.sync_all()?;
            }
            File::open(&self.directory)?.sync_all()?;
        }
        self.current = None;
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

/// The accounting files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("acct-") && name.ends_with(".csv")).collect()
}
