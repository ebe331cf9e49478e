//! Opening the list: its files, and bringing the index to the end of the journal.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Counts, IDENTITY_FILE, SECRET_FILE};
use crate::filter::{Filter, capacity_for};
use crate::index::{Index, IndexError};
use crate::journal::{self, Found, Position};
use crate::recent::Recent;
use crate::scopes::Scopes;
use crate::seal::{self, Identity, Recipients, SealError};
use crate::secret::Secret;

/// Changes held in memory while the journal is read back.
const REPLAYED_AT_ONCE: usize = 1 << 20;

/// Why the list could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file.
    #[error("suppression list: {path}: {error}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error("suppression list: another process uses {0}: stop it first")]
    InUse(PathBuf),
    /// Sealing.
    #[error("suppression list: {0}")]
    Seal(#[from] SealError),
    /// The index, after it was made anew.
    #[error("suppression list: the index in {path} cannot be used: {reason}")]
    Index {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The secret does not fit the journal.
    #[error(
        "suppression list: {0} is not the secret that the journal beside it was written with; put the right one back: without it no address can be found"
    )]
    OtherSecret(PathBuf),
    /// The secret is gone.
    #[error(
        "suppression list: {0} is missing, but there is a journal; put it back, or get it out of the journal with `postkeep suppression restore-secret --identity FILE`"
    )]
    NoSecret(PathBuf),
}

pub(super) fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let failed = |error| OpenError::Disk { path: path.clone(), error };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

pub(super) fn secret(folder: &Path, has_journal: bool) -> Result<Secret, OpenError> {
    let path = folder.join(SECRET_FILE);
    let failed = |error| OpenError::Disk { path: path.clone(), error };
    let mut octets = [0; 32];
    match File::open(&path) {
        Ok(mut file) => {
            file.read_exact(&mut octets).map_err(failed)?;
            Ok(Secret::new(octets))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_journal => Err(OpenError::NoSecret(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            seal::random(&mut octets)?;
            postkeep_files::replace(&path, &octets).map_err(failed)?;
            Ok(Secret::new(octets))
        }
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn recipients(folder: &Path, seal_to: &[String]) -> Result<Recipients, OpenError> {
    let others = Recipients::parse(seal_to)?;
    if !others.is_empty() {
        return Ok(others);
    }
    let path = folder.join(IDENTITY_FILE);
    if !path.exists() {
        let identity = Identity::generate();
        postkeep_files::replace(&path, identity.to_file().as_bytes())
            .map_err(|error| OpenError::Disk { path: path.clone(), error })?;
    }
    Ok(Recipients::of(&Identity::read(&path)?))
}

/// The index goes out of the way; nothing is deleted that might be of use.
pub(super) fn put_aside(folder: &Path) -> Result<(), OpenError> {
    let from = folder.join("index");
    let to = (1..1000).map(|number| folder.join(format!("index.damaged-{number}"))).find(|path| !path.exists());
    let to = to.unwrap_or_else(|| folder.join("index.damaged-0"));
    fs::rename(&from, to).map_err(|error| OpenError::Disk { path: from, error })
}

/// What is found when the list is opened.
pub(super) struct Recovered {
    pub(super) scopes: Scopes,
    pub(super) counts: Counts,
    pub(super) filter: Filter,
    pub(super) filter_capacity: usize,
}

pub(super) enum CatchUpError {
    Index(IndexError),
    Seal(SealError),
    Disk(io::Error),
    OtherSecret,
}

impl From<IndexError> for CatchUpError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<io::Error> for CatchUpError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<SealError> for CatchUpError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl CatchUpError {
    pub(super) fn into_open(self, folder: &Path) -> OpenError {
        match self {
            Self::Index(error) => OpenError::Index { path: folder.join("index"), reason: error.to_string() },
            Self::Seal(error) => OpenError::Seal(error),
            Self::Disk(error) => OpenError::Disk { path: folder.to_owned(), error },
            Self::OtherSecret => OpenError::OtherSecret(folder.join(SECRET_FILE)),
        }
    }
}

/// Opens the index and brings it to the end of the journal. sled panics over some kinds of damage, which is damage
/// like any other here.
pub(super) fn catch_up(
    folder: &Path,
    cache: u64,
    secret: &Secret,
    end: Position,
) -> Result<(Index, Recovered), CatchUpError> {
    std::panic::catch_unwind(|| catch_up_or_panic(folder, cache, secret, end))
        .unwrap_or_else(|_| Err(IndexError::Damaged("it is damaged in a way that sled does not survive").into()))
}

/// Whether the journal has all that lies before a position.
fn is_in_journal(folder: &Path, position: Position) -> io::Result<bool> {
    if position.offset == 0 {
        return Ok(true);
    }
    let segments = journal::segments(folder)?;
    let segment = segments.iter().find(|(number, _)| *number == position.segment);
    segment.map_or(Ok(false), |(_, path)| Ok(fs::metadata(path)?.len() >= position.offset))
}

fn catch_up_or_panic(
    folder: &Path,
    cache: u64,
    secret: &Secret,
    end: Position,
) -> Result<(Index, Recovered), CatchUpError> {
    let index = Index::open(&folder.join("index"), cache)?;
    if index.is_of_another(secret.check())? {
        return Err(CatchUpError::OtherSecret);
    }
    let from = index.position()?;
    if from > end || !is_in_journal(folder, from)? {
        // An older journal was put beside it. What it has and the journal has not cannot be proved.
        return Err(IndexError::Damaged("it is ahead of the journal").into());
    }
    let mut scopes = Scopes::default();
    for (number, name) in index.scopes()? {
        scopes.insert(number, &name);
    }
    let mut recent = Recent::default();
    let mut read = 0u64;
    journal::read(folder, from, &[], |found| {
        match found {
            Found::Segment { secret_check, .. } if secret_check != secret.check() => {
                return Err(CatchUpError::OtherSecret);
            }
            Found::Segment { .. } => {}
            Found::Scope(number, name) => {
                scopes.insert(number, name);
                recent.new_scopes.push((number, name.to_owned()));
            }
            Found::Changes(changes, _) => {
                read += changes.len() as u64;
                changes.iter().for_each(|change| recent.push(*change));
                if recent.len() >= REPLAYED_AT_ONCE {
                    // Read again from there after a crash: what is applied twice is the same as once.
                    index.apply(&recent.sorted(), &recent.new_scopes, from)?;
                    recent.clear();
                    log::info!("suppression: {read} changes of the journal read");
                }
            }
            Found::Cut { path, offset } => {
                log::info!("suppression: {}: a write was cut short at octet {offset}", path.display());
            }
            Found::Damage { path, offset, what } => {
                log::error!("suppression: {}: {what} at octet {offset}; reading goes on behind it", path.display());
            }
        }
        Ok(())
    })?;
    if !recent.is_empty() {
        index.apply(&recent.sorted(), &recent.new_scopes, end)?;
    }
    index.belongs_to(secret.check())?;
    let counts = Counts::default();
    index.scan(|change| counts.count(&change))?;
    let filter_capacity = capacity_for(counts.total() as usize);
    let filter = Filter::new(filter_capacity);
    index.scan(|change| filter.insert(std::iter::once(change.place.key)))?;
    Ok((index, Recovered { scopes, counts, filter, filter_capacity }))
}
