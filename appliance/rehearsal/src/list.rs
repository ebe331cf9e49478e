//! Asks a box about its suppression list: at its control socket, or, where
//! that is out of reach, at its HTTP door with the campaign's token.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::Error;
use crate::http::{HttpClient, HttpDoor, encoded};

/// Entries asked for at once.
const PAGE: usize = 1000;

/// Where the list can be asked.
#[derive(Debug, Clone)]
pub(crate) enum ListAt {
    /// The control socket.
    Control(PathBuf),
    /// The HTTP door.
    Door(HttpDoor),
}

impl std::fmt::Display for ListAt {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control(socket) => write!(out, "the control socket {}", socket.display()),
            Self::Door(door) => write!(out, "the HTTP door {}", door.address),
        }
    }
}

/// An open way to the list.
pub(crate) struct List<'a> {
    at: &'a ListAt,
    client: HttpClient,
}

/// What is known about an address.
#[derive(Deserialize)]
struct View {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    reason: String,
}

#[derive(Deserialize)]
struct Statistics {
    entries: Vec<(String, u64)>,
}

/// A page of the list.
#[derive(Deserialize)]
struct Page {
    entries: Vec<Entry>,
    #[serde(default)]
    next: Option<usize>,
}

impl<'a> List<'a> {
    pub(crate) async fn open(at: &'a ListAt) -> Result<Self, Error> {
        let client = match at {
            ListAt::Control(socket) => HttpClient::control(socket).await,
            ListAt::Door(door) => HttpClient::connect(door).await,
        };
        let client = client.map_err(|error| Error::Io(format!("cannot ask {at}: {error}")))?;
        Ok(Self { at, client })
    }

    /// The reasons for which an address is on the list.
    pub(crate) async fn reasons(&mut self, address: &str) -> Result<Vec<String>, Error> {
        let path = match self.at {
            ListAt::Control(_) => format!("/v1/suppressions?address={}", encoded(address)),
            ListAt::Door(_) => format!("/api/v1/suppressions/{}", encoded(address)),
        };
        let view: View = self.ask(&path).await?;
        Ok(view.entries.into_iter().map(|entry| entry.reason).collect())
    }

    /// Entries by reason.
    pub(crate) async fn counts(&mut self) -> Result<BTreeMap<String, u64>, Error> {
        if let ListAt::Control(_) = self.at {
            let statistics: Statistics = self.ask("/v1/suppressions/statistics").await?;
            return Ok(statistics.entries.into_iter().filter(|(_, count)| *count > 0).collect());
        }
        let (mut counts, mut page) = (BTreeMap::new(), None);
        loop {
            let from = page.map(|page| format!("&page={page}")).unwrap_or_default();
            let found: Page = self.ask(&format!("/api/v1/suppressions?limit={PAGE}{from}")).await?;
            for entry in found.entries {
                *counts.entry(entry.reason).or_default() += 1;
            }
            match found.next {
                Some(next) if Some(next) != page => page = Some(next),
                _ => return Ok(counts),
            }
        }
    }

    async fn ask<T: for<'b> Deserialize<'b>>(&mut self, path: &str) -> Result<T, Error> {
        let at = self.at;
        let failed = |why: String| Error::Io(format!("{at} does not answer {path}: {why}"));
        let (status, body) = self.client.get(path).await.map_err(|error| failed(error.to_string()))?;
        if status != 200 {
            return Err(failed(format!("{status} {}", String::from_utf8_lossy(&body))));
        }
        serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))
    }
}
