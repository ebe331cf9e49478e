//! The addresses of the list, for those whom the journal is sealed to. Reads the journal's files and
//! nothing else, so that it works on a copy, on another machine, and beside a running daemon.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::change::Place;
use crate::entry::Entry;
use crate::journal::{self, Detail, Found, Position};
use crate::list::SECRET_FILE;
use crate::scopes::Scopes;
use crate::seal::{Identity, SealError};

/// Why addresses could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// A file.
    #[error("cannot read the suppression journal in {folder}: {error}")]
    Disk {
        /// Where.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// There is no journal.
    #[error("there is no suppression journal in {0}: name the [suppression] directory")]
    NoJournal(PathBuf),
    /// Whoever takes the addresses has had enough.
    #[error("{0}")]
    Stopped(String),
}

impl From<io::Error> for AddressesError {
    fn from(error: io::Error) -> Self {
        Self::Disk { folder: PathBuf::new(), error }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// Entries handed over.
    pub entries: u64,
    /// Entries of which only the key is known: the report that brought them hid the address.
    pub unnamed: u64,
    /// Entries in files that no identity opens.
    pub locked: u64,
    /// Files that no identity opens.
    pub locked_files: Vec<PathBuf>,
    /// Damages met: file, octet and what.
    pub damages: Vec<String>,
}

/// Hands over every entry that stands, with its address, oldest first.
///
/// # Errors
/// See [`AddressesError`]; files that no identity opens are counted, not an error.
pub fn addresses(
    folder: &Path,
    identities: &[Identity],
    mut found: impl FnMut(&Detail, &Entry) -> Result<(), String>,
) -> Result<Read, AddressesError> {
    let in_folder = |error| match error {
        AddressesError::Disk { error, .. } => AddressesError::Disk { folder: folder.to_owned(), error },
        other => other,
    };
    if journal::segments(folder).map_err(|error| in_folder(error.into()))?.is_empty() {
        return Err(AddressesError::NoJournal(folder.to_owned()));
    }
    // First, which entries were taken out, and up to which change: those are few.
    let mut taken_out: HashMap<Place, u64> = HashMap::new();
    let mut number = 0u64;
    journal::read(folder, Position::default(), &[], |event| {
        if let Found::Changes(changes, _) = event {
            for change in changes {
                if !change.is_added {
                    taken_out.insert(change.place, number);
                }
                number += 1;
            }
        }
        Ok::<(), AddressesError>(())
    })
    .map_err(in_folder)?;

    let (mut read, mut scopes, mut number) = (Read::default(), Scopes::default(), 0u64);
    journal::read(folder, Position::default(), identities, |event| {
        match event {
            Found::Segment { path, secret: None, .. } => read.locked_files.push(path.to_owned()),
            Found::Segment { .. } | Found::Cut { .. } => {}
            Found::Scope(number, name) => scopes.insert(number, name),
            Found::Damage { path, offset, what } => {
                read.damages.push(format!("{}: {what} at octet {offset}", path.display()));
            }
            Found::Changes(changes, details) => {
                for (position, change) in changes.iter().enumerate() {
                    let at = number + position as u64;
                    if !change.is_added || taken_out.get(&change.place).is_some_and(|out| *out > at) {
                        continue;
                    }
                    match details.as_ref().and_then(|details| details.get(position)) {
                        None => read.locked += 1,
                        Some(detail) if detail.address.is_empty() => read.unnamed += 1,
                        Some(detail) => {
                            let entry = Entry {
                                reason: change.place.reason,
                                scope: scopes.scope(change.place.scope),
                                origin: change.origin,
                                time: change.time,
                            };
                            read.entries += 1;
                            found(detail, &entry).map_err(AddressesError::Stopped)?;
                        }
                    }
                }
                number += changes.len() as u64;
            }
        }
        Ok(())
    })
    .map_err(in_folder)?;
    Ok(read)
}

/// Writes the secret file anew from what the journal holds for its recipients.
///
/// # Errors
/// No identity opens a file of the journal, or the secret cannot be written.
pub fn restore_secret(folder: &Path, identities: &[Identity]) -> Result<PathBuf, AddressesError> {
    let mut known = None;
    journal::read(folder, Position::default(), identities, |event| {
        if let Found::Segment { secret: Some(secret), .. } = event {
            known = Some(secret);
        }
        Ok::<(), AddressesError>(())
    })?;
    let secret = known.ok_or(SealError::NotOurs)?;
    let path = folder.join(SECRET_FILE);
    postkeep_files::replace(&path, secret.octets())?;
    Ok(path)
}
