//! A file with a line for each message that arrived and each of its
//! recipients, for whoever counts from outside what a box has delivered, and
//! how often: a box that was cut off from power, for example. A line is
//! written whole, and given to the system at once.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::Error;

/// A message that a host took.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Seconds since 1970.
    pub time: f64,
    /// Whose host took it.
    pub provider: String,
    /// That host.
    pub host: String,
    /// From which address it came.
    pub from: IpAddr,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Whether it was answered 250; otherwise the connection was dropped after the final dot, and it may come again.
    pub answered: bool,
    /// Return path.
    pub sender: String,
    /// Recipients that were accepted.
    pub recipients: Vec<String>,
    /// The campaign's mark, if it is of the campaign.
    pub id: Option<String>,
    /// The field Message-ID.
    pub message_id: Option<String>,
}

/// What its signatures are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Signed {
    /// Each key that must sign it has, and every signature is good.
    Verified,
    /// One is missing, bad, or of a key that is not for it.
    Failed,
    /// No key is for it, and it has no signature.
    Unsigned,
    /// Nobody looked.
    Unchecked,
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line<'a> {
    time: f64,
    provider: &'a str,
    host: &'a str,
    from: IpAddr,
    tls: bool,
    answered: bool,
    sender: &'a str,
    recipient: &'a str,
    id: Option<&'a str>,
    message_id: Option<&'a str>,
    dkim: Signed,
    #[serde(skip_serializing_if = "Option::is_none")]
    dkim_why: Option<&'a str>,
}

/// The open file.
pub(crate) struct Arrivals {
    path: PathBuf,
    file: Mutex<File>,
}

impl Arrivals {
    /// Goes on with a file, or begins it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| Error::Io(format!("cannot write {}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    /// Writes down an arrival, a line for each recipient.
    pub(crate) fn note(&self, arrival: &Arrival, dkim: Signed, why: Option<&str>) {
        let mut lines = Vec::new();
        for recipient in &arrival.recipients {
            let line = Line {
                time: arrival.time,
                provider: &arrival.provider,
                host: &arrival.host,
                from: arrival.from,
                tls: arrival.tls,
                answered: arrival.answered,
                sender: &arrival.sender,
                recipient,
                id: arrival.id.as_deref(),
                message_id: arrival.message_id.as_deref(),
                dkim,
                dkim_why: why,
            };
            if serde_json::to_writer(&mut lines, &line).is_ok() {
                lines.push(b'\n');
            }
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&lines) {
            // The rehearsal itself does not need the file; who does must hear of it.
            log::error!("an arrival is missing in {}: {error}", self.path.display());
        }
    }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Whole microseconds are exact in a float for centuries.
    now.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipient_of_every_arrival_has_a_line_and_a_file_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrivals.jsonl");
        let arrival = Arrival {
            time: seconds(),
            provider: "one".to_owned(),
            host: "mx.one.test".to_owned(),
            from: IpAddr::from([10, 1, 0, 1]),
            tls: true,
            answered: true,
            sender: String::new(),
            recipients: vec!["a@one.test".to_owned(), "b@one.test".to_owned()],
            id: None,
            message_id: Some("<1@sender.test>".to_owned()),
        };
        Arrivals::open(&path).unwrap().note(&arrival, Signed::Verified, None);
        Arrivals::open(&path).unwrap().note(&arrival, Signed::Failed, Some("s1: no signature"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said: Vec<_> = lines.iter().map(|line| (line["recipient"].as_str(), line["dkim"].as_str())).collect();
        let expected = [("a", "verified"), ("b", "verified"), ("a", "failed"), ("b", "failed")];
        let expected = expected.map(|(name, dkim)| (format!("{name}@one.test"), dkim));
        assert!(said.iter().zip(&expected).all(|(a, b)| *a == (Some(b.0.as_str()), Some(b.1))), "{said:?}");
        assert_eq!((lines.len(), lines[0]["from"].as_str()), (4, Some("10.1.0.1")));
        assert_eq!(lines[3]["dkim-why"].as_str(), Some("s1: no signature"));
    }
}
