//! Reads the daemon's event log while it grows: `records-*.jsonl`, one JSON
//! object a line. A line that is still being written is left for the next look.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Most octets read from one file in one look.
const GULP: u64 = 8 << 20;

/// One event, as far as the rehearsal looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// `received`, `refused`, `attempted`, `deferred`, `delivered`, `bounced`, `expired`, `removed`.
    pub event: String,
    /// Queue id.
    #[serde(default)]
    pub message: Option<String>,
    /// Recipient.
    #[serde(default)]
    pub recipient: Option<String>,
    /// Return path.
    #[serde(default)]
    pub sender: Option<String>,
    /// Message-ID.
    #[serde(default, rename = "message-id")]
    pub message_id: Option<String>,
    /// Domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Stage.
    #[serde(default)]
    pub stage: Option<String>,
    /// What the other side said.
    #[serde(default)]
    pub reply: Option<EventReply>,
    /// Own words.
    #[serde(default)]
    pub detail: Option<String>,
    /// Own reason.
    #[serde(default)]
    pub reason: Option<String>,
    /// What protected a delivery.
    #[serde(default)]
    pub tls: Option<EventTls>,
}

/// Protection inside an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EventTls {
    /// What the connection was held to.
    #[serde(default)]
    pub policy: Option<String>,
}

/// A reply inside an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EventReply {
    /// Code.
    #[serde(default)]
    pub code: u16,
    /// Text.
    #[serde(default)]
    pub text: String,
}

/// Follows the files of one folder.
#[derive(Debug)]
pub struct Tail {
    directory: PathBuf,
    read: BTreeMap<PathBuf, u64>,
    unreadable: u64,
}

impl Tail {
    /// Follows the files of `directory`, which need not exist yet.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read: BTreeMap::new(), unreadable: 0 }
    }

    /// Lines that were no event.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Tells everything that was written since the last look.
    pub fn look(&mut self, mut tell: impl FnMut(Event)) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with("records-") && name.ends_with(".jsonl"))
            })
            .collect();
        files.sort();
        for path in files {
            let offset = self.read.entry(path.clone()).or_default();
            while let Some((bytes, whole)) = gulp(&path, *offset) {
                for line in bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n') {
                    if line.is_empty() {
                        continue;
                    }
                    match serde_json::from_slice(line) {
                        Ok(event) => tell(event),
                        Err(_) => self.unreadable += 1,
                    }
                }
                *offset += whole as u64;
                if whole == 0 || (bytes.len() as u64) < GULP {
                    break;
                }
            }
        }
    }
}

/// Bytes from an offset on, and how many of them are whole lines.
fn gulp(path: &Path, offset: u64) -> Option<(Vec<u8>, usize)> {
    let mut file = File::open(path).ok()?;
    if file.metadata().ok()?.len() <= offset {
        return None;
    }
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut bytes = Vec::new();
    file.take(GULP).read_to_end(&mut bytes).ok()?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |place| place + 1);
    Some((bytes, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn half_a_line_is_left_for_the_next_look_and_files_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(&folder.path().join("later"));
        tail.look(|_| panic!("nothing is there"));
        tail = Tail::new(folder.path());
        let mut seen = Vec::new();
        let mut first = File::create(folder.path().join("records-20261123T000000Z-001.jsonl")).unwrap();
        write!(first, "{{\"event\":\"received\",\"message\":\"1\",\"new-key\":[1]}}\n{{\"event\":\"defer").unwrap();
        tail.look(|event| seen.push(event.event));
        assert_eq!(seen, ["received"]);
        writeln!(first, "red\",\"reply\":{{\"code\":421,\"text\":\"x\"}}}}\nnonsense").unwrap();
        let second = folder.path().join("records-20261123T000001Z-001.jsonl");
        std::fs::write(second, "{\"event\":\"delivered\"}\n").unwrap();
        tail.look(|event| seen.push(event.event));
        assert_eq!(seen, ["received", "deferred", "delivered"]);
        assert_eq!(tail.unreadable(), 1);
    }
}
