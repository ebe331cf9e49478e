//! Records: one JSON line for each thing that happened to a message.
//!
//! Lines are handed to a writer thread through a bounded buffer and written in
//! batches as soon as the thread is free, so that a killed process loses at
//! most what was being handed over. Mail never waits for records: when the disk
//! is stuck and the buffer full, lines are dropped, counted and logged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use postkeep_configuration as configuration;
use postkeep_feedback::Details;
use postkeep_smtp::reply::Reply;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::{Micros, timestamp};

/// Bytes of lines that may wait for the disk.
const BUFFER_LIMIT: usize = 32 * 1024 * 1024;
/// Wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Failed tries for one line in the log.
const TRIES_BETWEEN_COMPLAINTS: u64 = 300;
/// Failed tries before a stopping daemon gives up.
const TRIES_AT_THE_END: u64 = 5;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Accepted and durable.
    Received,
    /// Turned away at the door.
    Refused,
    /// A connection was tried for it and failed before any recipient was named.
    Attempted,
    /// Put off to a later attempt.
    Deferred,
    /// Accepted by the receiver.
    Delivered,
    /// Given up on, the sender told.
    Bounced,
    /// Given up on because its time ran out, the sender told.
    Expired,
    /// Not tried, because the recipient is in the suppression list; the sender told.
    Suppressed,
    /// Taken out by an administrator.
    Removed,
    /// A bounce came back after the receiver had accepted the mail.
    RemoteBounce,
    /// A notice of a delay came back.
    RemoteDelay,
    /// A recipient, or their provider, complained.
    Complaint,
    /// A machine answered in a recipient's name.
    AutoReply,
    /// Something else came back.
    Returned,
    /// A recipient used the link of one-click unsubscribe.
    Unsubscribed,
}

/// A reply as records carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplyRecord<'a> {
    /// Three digits.
    pub code: u16,
    /// RFC 3463, when the reply had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<String>,
    /// The rest.
    pub text: &'a str,
}

impl<'a> From<&'a Reply> for ReplyRecord<'a> {
    fn from(reply: &'a Reply) -> Self {
        Self { code: reply.code, enhanced: reply.enhanced.map(|code| code.to_string()), text: &reply.text }
    }
}

/// What protected a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsRecord<'a> {
    /// `TLSv1.3`.
    pub version: &'a str,
    /// Cipher suite.
    pub cipher: &'a str,
    /// The certificate was valid for the host; absent for mail coming in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// What the connection was held to: `dane`, `dane-encrypted`, `mta-sts`, `mta-sts-testing`, or the word of the
    /// configuration; absent for mail coming in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    /// Kind of the TLSA record that the certificate matches, `dane-ee` or `dane-ta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tlsa: Option<&'a str>,
}

/// One line. Absent values are left out.
#[derive(Debug, Clone, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the documented keys: docs/operate/records.md")]
pub struct Record<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_recipient: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keywords: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<&'a Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_failure: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<&'a str>,
}

/// The sink of records; cheap to clone.
#[derive(Clone)]
pub struct Records(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: AtomicU64,
    /// Counts writes, for those who follow the files.
    written: watch::Sender<u64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    closing: bool,
}

impl Records {
    /// Opens the folder and starts the writer.
    ///
    /// # Errors
    /// The folder cannot be made, or the first file cannot be opened.
    pub fn open(settings: &configuration::Records) -> io::Result<Self> {
        let mut files = Files::open(settings)?;
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            dropped: AtomicU64::new(0),
            written: watch::Sender::new(0),
            writer: Mutex::new(None),
        });
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("records".into()).spawn(move || theirs.write_all(&mut files))?;
        *shared.writer.lock() = Some(writer);
        Ok(Self(shared))
    }

    /// Writes one record, stamped `now`.
    pub fn write(&self, now: Micros, event: Event, mut record: Record<'_>) {
        record.time = Some(timestamp(now));
        record.event = Some(event);
        let mut waiting = self.0.waiting.lock();
        let start = waiting.lines.len();
        if start > BUFFER_LIMIT || serde_json::to_writer(&mut waiting.lines, &record).is_err() {
            waiting.lines.truncate(start);
            drop(waiting);
            if self.0.dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(10_000) {
                log::error!(
                    "records: the buffer is full, lines are being dropped; is the disk of [records] directory full or stuck?"
                );
            }
            return;
        }
        waiting.lines.push(b'\n');
        drop(waiting);
        if start == 0 {
            self.0.wake.notify_one();
        }
    }

    /// Records that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Changes whenever lines were written to a file.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.0.written.subscribe()
    }

    /// Writes out what waits and stops the writer.
    pub fn close(&self) {
        self.0.waiting.lock().closing = true;
        self.0.wake.notify_one();
        let writer = self.0.writer.lock().take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn write_all(&self, files: &mut Files) {
        let mut batch = Vec::new();
        loop {
            let closing = {
                let mut waiting = self.waiting.lock();
                while waiting.lines.is_empty() && !waiting.closing {
                    self.wake.wait(&mut waiting);
                }
                std::mem::swap(&mut batch, &mut waiting.lines);
                waiting.closing && batch.is_empty()
            };
            if closing {
                return;
            }
            let mut written = 0;
            let mut tries = 0u64;
            // The lines wait here for a disk that works, those behind them in the buffer.
            while let Err(error) = files.append(&batch, &mut written) {
                if tries.is_multiple_of(TRIES_BETWEEN_COMPLAINTS) {
                    let file = files.path.display();
                    postkeep_journal::RECORDS_UNWRITTEN
                        .tell(format_args!("records: cannot write {file}: {error}; trying again"), [&file, &error]);
                }
                tries += 1;
                if self.waiting.lock().closing && tries > TRIES_AT_THE_END {
                    let rest = batch.get(written..).unwrap_or_default();
                    let lines = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.dropped.fetch_add(lines, Ordering::Relaxed);
                    log::error!("records: stopping; {lines} lines could not be written");
                    return;
                }
                std::thread::sleep(RETRY);
            }
            self.written.send_modify(|count| *count += 1);
            batch.clear();
            if batch.capacity() > 4 * 1024 * 1024 {
                batch = Vec::new();
            }
        }
    }
}

/// The files, with their rotation.
struct Files {
    settings: configuration::Records,
    path: PathBuf,
    file: File,
    size: u64,
    opened: Timestamp,
}

impl Files {
    fn open(settings: &configuration::Records) -> io::Result<Self> {
        fs::create_dir_all(&settings.directory).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot make the records folder {}: {error}", settings.directory.display()),
            )
        })?;
        let opened = Timestamp::now();
        let (path, file) = new_file(&settings.directory, opened)?;
        Ok(Self { settings: settings.clone(), path, file, size: 0, opened })
    }

    /// Writes the lines from `written` on and moves it along, also when it fails half-way.
    fn append(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        let age = Timestamp::now().duration_since(self.opened).as_secs().max(0) as u64;
        if self.size > 0
            && *written == 0
            && (self.size >= self.settings.rotate_size.bytes() || age >= self.settings.rotate_after.as_secs())
        {
            // The old file serves on until another can be opened.
            if let Err(error) = self.rotate() {
                log::error!("records: cannot begin another file in {}: {error}", self.settings.directory.display());
            }
        }
        while let Some(rest) = lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *written += count;
                    self.size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let now = Timestamp::now();
        (self.path, self.file) = new_file(&self.settings.directory, now)?;
        self.opened = now;
        self.size = 0;
        self.forget_old();
        Ok(())
    }

    fn forget_old(&self) {
        let Ok(entries) = fs::read_dir(&self.settings.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|name| name.starts_with("records-") && name.ends_with(".jsonl"));
            let age = entry.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
            let is_old = age.is_some_and(|age| age.as_secs() > self.settings.keep.as_secs());
            if ours
                && is_old
                && entry.path() != self.path
                && let Err(error) = fs::remove_file(entry.path())
            {
                log::warn!("records: cannot remove old {}: {error}", entry.path().display());
            }
        }
    }
}

/// The next file. Its name is behind all others in the order of names, also when the clock was set
/// back: whoever follows the records goes by it.
fn new_file(directory: &Path, now: Timestamp) -> io::Result<(PathBuf, File)> {
    let names = fs::read_dir(directory)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let last = names.filter(|name| name.starts_with("records-") && name.ends_with(".jsonl")).max();
    let parts = last.as_deref().and_then(|name| name.get(8..)?.strip_suffix(".jsonl")?.split_once('-'));
    let (last_stamp, last_number) = parts.map_or(("", 0), |(stamp, number)| (stamp, number.parse().unwrap_or(0)));
    let now = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let (stamp, first) = if last_stamp < now.as_str() { (now.as_str(), 0) } else { (last_stamp, last_number + 1) };
    for number in first..1000 {
        let path = directory.join(format!("records-{stamp}-{number:03}.jsonl"));
        match OpenOptions::new().create_new(true).append(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("a thousand record files of {stamp} in {}", directory.display()),
    ))
}

#[cfg(test)]
mod tests {
    use postkeep_configuration::units::ByteSize;

    use super::*;

    fn lines(directory: &Path) -> Vec<String> {
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
            .iter()
            .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Every event; the compiler asks for what is new.
    fn after(event: Option<Event>) -> Option<Event> {
        match event {
            None => Some(Event::Received),
            Some(Event::Received) => Some(Event::Refused),
            Some(Event::Refused) => Some(Event::Attempted),
            Some(Event::Attempted) => Some(Event::Deferred),
            Some(Event::Deferred) => Some(Event::Delivered),
            Some(Event::Delivered) => Some(Event::Bounced),
            Some(Event::Bounced) => Some(Event::Expired),
            Some(Event::Expired) => Some(Event::Suppressed),
            Some(Event::Suppressed) => Some(Event::Removed),
            Some(Event::Removed) => Some(Event::RemoteBounce),
            Some(Event::RemoteBounce) => Some(Event::RemoteDelay),
            Some(Event::RemoteDelay) => Some(Event::Complaint),
            Some(Event::Complaint) => Some(Event::AutoReply),
            Some(Event::AutoReply) => Some(Event::Returned),
            Some(Event::Returned) => Some(Event::Unsubscribed),
            Some(Event::Unsubscribed) => None,
        }
    }

    #[test]
    fn every_event_is_documented_and_can_be_asked_for() {
        let written: Vec<String> = std::iter::successors(after(None), |event| after(Some(*event)))
            .map(|event| serde_json::to_string(&event).expect("JSON").trim_matches('"').to_owned())
            .collect();
        assert_eq!(written, configuration::EVENTS);
        let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/records.md");
        let manual = fs::read_to_string(manual).expect("the manual");
        let table = manual.split("## Events").nth(1).and_then(|rest| rest.split("## ").next()).expect("the events");
        // Names are in the first column; what explains them may name others.
        let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let documented: Vec<&str> = cells.flat_map(|cell| cell.trim_end_matches('`').split("`, `")).collect();
        assert_eq!(documented, written);
    }

    #[test]
    fn each_record_is_one_json_line_and_files_rotate_by_size() {
        let directory = tempfile::tempdir().unwrap();
        let settings = configuration::Records {
            directory: directory.path().to_owned(),
            rotate_size: ByteSize::from_bytes(200),
            ..configuration::Records::default()
        };
        let records = Records::open(&settings).unwrap();
        for number in 0..10u16 {
            records.write(
                1_000_000,
                Event::Deferred,
                Record { recipient: Some("a\n@b"), attempt: Some(number), ..Record::default() },
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        records.close();
        let lines = lines(directory.path());
        assert_eq!(lines.len(), 10);
        assert_eq!(
            lines[3],
            r#"{"time":"1970-01-01T00:00:01.000000Z","event":"deferred","recipient":"a\n@b","attempt":3}"#
        );
        assert!(fs::read_dir(directory.path()).unwrap().count() > 1);
    }

    #[test]
    fn a_new_file_is_the_last_by_name_even_when_the_clock_was_set_back() {
        let directory = tempfile::tempdir().unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let mut before = PathBuf::new();
        for seconds in [0, 0, 100, 50, 50, 101] {
            let (path, _) = new_file(directory.path(), at(seconds)).unwrap();
            assert!(path > before, "{path:?} is not behind {before:?}");
            before = path;
        }
    }
}
