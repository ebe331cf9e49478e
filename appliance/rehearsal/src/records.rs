//! Reads the daemon's event log while it grows: `records-*.jsonl`, one JSON
//! object a line, and keeps what it says about recipients. A line that is
//! still being written is left for the next look.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Most octets read from one file in one look.
const GULP: u64 = 8 << 20;

/// One event, as far as the rehearsal looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Event {
    /// What happened.
    pub event: String,
    /// Recipient.
    #[serde(default)]
    pub recipient: Option<String>,
    /// Stage.
    #[serde(default)]
    pub stage: Option<String>,
    /// Own reason.
    #[serde(default)]
    pub reason: Option<String>,
    /// What protected a delivery.
    #[serde(default)]
    pub tls: Option<EventTls>,
}

/// Protection inside an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct EventTls {
    /// What the connection was held to.
    #[serde(default)]
    pub policy: Option<String>,
}

/// Follows the files of one folder.
#[derive(Debug)]
pub(crate) struct Tail {
    directory: PathBuf,
    read: BTreeMap<PathBuf, u64>,
    unreadable: u64,
}

impl Tail {
    /// Follows the files of `directory`, which need not exist yet.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read: BTreeMap::new(), unreadable: 0 }
    }

    /// Lines that were no event.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Tells everything that was written since the last look.
    pub(crate) fn look(&mut self, mut tell: impl FnMut(Event)) {
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

/// What the product's records say, by recipient (every campaign recipient has one message).
#[derive(Debug, Default)]
pub(crate) struct RecordFacts {
    ended: HashMap<String, Ended>,
    deferrals: HashMap<String, u64>,
    /// Deferrals by recipient domain.
    by_domain: HashMap<String, u64>,
    /// Deliveries by what their connections were held to; `clear`: without TLS.
    policies: BTreeMap<String, u64>,
    /// Recipients whose mail was put off because it could not be protected as it must be.
    held_back: HashSet<String>,
    /// Recipients whose mail was delivered.
    delivered: HashSet<String>,
}

/// How mail ended that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Bounced,
    Expired,
    Suppressed,
}

impl RecordFacts {
    /// Takes in an event.
    pub(crate) fn take(&mut self, event: Event) {
        let suppressed = event.reason.as_deref().is_some_and(|reason| reason.contains("suppress"));
        if event.event == "delivered" {
            let policy = event.tls.as_ref().map_or("clear", |tls| tls.policy.as_deref().unwrap_or("none"));
            *self.policies.entry(policy.to_owned()).or_default() += 1;
        }
        match (event.event.as_str(), event.recipient) {
            ("deferred", Some(recipient)) => {
                if let Some((_, domain)) = recipient.rsplit_once('@') {
                    *self.by_domain.entry(domain.to_ascii_lowercase()).or_default() += 1;
                }
                if event.stage.as_deref() == Some("policy") {
                    self.held_back.insert(recipient.clone());
                }
                *self.deferrals.entry(recipient).or_default() += 1;
            }
            ("delivered", Some(recipient)) => {
                self.delivered.insert(recipient);
            }
            ("bounced", Some(recipient)) => {
                self.ended.insert(recipient, if suppressed { Ended::Suppressed } else { Ended::Bounced });
            }
            ("expired", Some(recipient)) => {
                self.ended.insert(recipient, Ended::Expired);
            }
            ("suppressed", Some(recipient)) => {
                self.ended.insert(recipient, Ended::Suppressed);
            }
            ("removed", Some(recipient)) if suppressed => {
                self.ended.insert(recipient, Ended::Suppressed);
            }
            _ => {}
        }
    }

    /// Deliveries by what their connections were held to (`tls.policy`); `clear`: without TLS.
    pub(crate) fn policies(&self) -> &BTreeMap<String, u64> {
        &self.policies
    }

    /// Recipients whose mail was put off at least once because it could not be protected as it must be.
    pub(crate) fn held_back(&self) -> u64 {
        self.held_back.len() as u64
    }

    /// How mail for the recipient ended, if it has, and not by delivery.
    pub(crate) fn ended(&self, recipient: &str) -> Option<Ended> {
        self.ended.get(recipient).copied()
    }

    /// Whether the records know that the recipient has the mail.
    pub(crate) fn was_delivered(&self, recipient: &str) -> bool {
        self.delivered.contains(recipient)
    }

    /// Whether mail for the recipient ended as suppressed.
    pub(crate) fn was_suppressed(&self, recipient: &str) -> bool {
        self.ended.get(recipient) == Some(&Ended::Suppressed)
    }

    /// Deferrals so far.
    pub(crate) fn deferrals(&self) -> u64 {
        self.by_domain.values().sum()
    }

    /// Deferrals of a recipient domain.
    pub(crate) fn deferrals_of(&self, domain: &str) -> u64 {
        self.by_domain.get(domain).copied().unwrap_or_default()
    }

    /// Whether the recipient was deferred at least once.
    pub(crate) fn was_deferred(&self, recipient: &str) -> bool {
        self.deferrals.contains_key(recipient)
    }
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
