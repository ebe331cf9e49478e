//! The list itself, as everybody else uses it: ask, change, count.

mod opening;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use postkeep_configuration as configuration;
use postkeep_smtp::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::sync::{Semaphore, oneshot};

use crate::bucket::{Records, after};
use crate::change::Change;
use crate::entry::{Entry, Origin, Reason, Scope};
use crate::filter::Filter;
use crate::index::Index;
use crate::journal::{self, Disk, Files, Journal, Position};
use crate::keeper::{Keeper, Request};
use crate::passes::{Pass, Passes};
use crate::recent::Recent;
use crate::scopes::Scopes;
use crate::seal::SealError;
use crate::secret::{Key, Secret};
use crate::token::Tokens;

pub use opening::OpenError;
use opening::{CatchUpError, catch_up, lock, put_aside, recipients, secret};

/// Requests that may wait for the keeper; the next ones wait for a place.
const WAITING_REQUESTS: usize = 4096;
/// The file with the secret, in the list's folder.
pub const SECRET_FILE: &str = "secret";
/// The file with the box's own identity, in the list's folder, unless the journal is sealed to others.
pub const IDENTITY_FILE: &str = "identity.txt";

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// This address.
    Address(Address),
    /// The address of this key, which nobody has told: a report came back that hides it.
    Key(Key),
}

impl From<Address> for Who {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

/// An address comes into the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// Whom not to write to.
    pub who: Who,
    /// For which mail.
    pub scope: Scope,
    /// Why.
    pub reason: Reason,
    /// From where it is known.
    pub origin: Origin,
    /// Since when, Unix seconds.
    pub time: u32,
    /// Who or what said so; sealed with the address.
    pub note: Arc<str>,
}

/// An address goes out of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Who may be written to again.
    pub address: Address,
    /// Only entries of this scope.
    pub scope: Option<Scope>,
    /// Only entries with this reason.
    pub reason: Option<Reason>,
    /// Who or what did it.
    pub origin: Origin,
    /// When, Unix seconds.
    pub time: u32,
    /// Who or what said so; sealed with the address.
    pub note: Arc<str>,
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// In.
    Add(Addition),
    /// Out.
    Remove(Removal),
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// Entries that are new.
    pub added: u64,
    /// Entries that were there already.
    pub known: u64,
    /// Entries that are gone.
    pub removed: u64,
}

/// Why a change was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The journal.
    #[error("the change could not be made durable and does not hold: {0}")]
    NotDurable(String),
    /// The index.
    #[error("the index of the suppression list cannot be used: {0}; look at the disk, then restart: it is made anew")]
    Index(String),
    /// Every list has a number.
    #[error("there are more than a million streams and lists; remove entries of old lists with scope all instead")]
    TooManyScopes,
    /// The box is stopping.
    #[error("the suppression list is closed: the daemon is stopping; try again after its start")]
    Closed,
}

/// Why the list could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the suppression list cannot be read: {0}")]
pub struct CheckError(String);

/// Numbers about the list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Statistics {
    /// Entries by reason.
    pub entries: Vec<(Reason, u64)>,
    /// Octets of the filter in memory.
    pub filter_bytes: u64,
    /// Octets of the index on the disk.
    pub index_bytes: u64,
    /// Octets of the journal on the disk.
    pub journal_bytes: u64,
    /// Changes that are in the journal and not yet in the index.
    pub recent: u64,
}

/// Entries by reason.
#[derive(Default)]
pub(crate) struct Counts([AtomicU64; Reason::ALL.len()]);

impl Counts {
    pub(crate) fn count(&self, change: &Change) {
        let count = &self.0[usize::from(change.place.reason.code())];
        if change.is_added {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// What askers and the keeper share.
///
/// Askers read `recent` before `index`; the keeper empties `recent` only after the index has its
/// changes. So an asker that misses a change in one finds it in the other.
pub(crate) struct Shared {
    pub(crate) secret: Secret,
    pub(crate) filter: Filter,
    pub(crate) recent: RwLock<Recent>,
    pub(crate) index: Index,
    pub(crate) scopes: RwLock<Scopes>,
    pub(crate) counts: Counts,
}

/// What holds for each recipient of a pass, in order; `None`: nothing.
pub type Standings = SmallVec<[Option<Entry>; 2]>;

/// The open list. Clones share one.
#[derive(Clone)]
pub struct Suppression(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    passes: Arc<Passes>,
    tokens: Tokens,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    places: Arc<Semaphore>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    folder: PathBuf,
    /// Held while the list is open.
    _lock: File,
}

impl Suppression {
    /// Opens the list, makes it if there is none, and catches up with its journal. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(settings: &configuration::Suppression) -> Result<Self, OpenError> {
        Self::open_with(settings, Disk)
    }

    pub(crate) fn open_with(settings: &configuration::Suppression, files: impl Files) -> Result<Self, OpenError> {
        let folder = settings.directory.clone();
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Disk { path, error }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(disk(&folder))?;
        let lock = lock(&folder)?;
        let segments = journal::segments(&folder).map_err(disk(&folder))?;
        let secret = secret(&folder, !segments.is_empty())?;
        let recipients = recipients(&folder, &settings.seal_to)?;
        let next = segments.last().map_or(1, |(number, _)| number + 1);
        let end = Position { segment: next, offset: 0 };

        let (index, recovered) = match catch_up(&folder, settings.cache.bytes(), &secret, end) {
            Ok(opened) => opened,
            Err(CatchUpError::Index(error)) => {
                log::error!("suppression: the index is of no use ({error}); it is made anew from the journal");
                put_aside(&folder)?;
                catch_up(&folder, settings.cache.bytes(), &secret, end).map_err(|error| error.into_open(&folder))?
            }
            Err(other) => return Err(other.into_open(&folder)),
        };
        let tokens =
            Tokens::new(&secret).ok_or_else(|| SealError::Failed("AES-256-GCM-SIV is not available".to_owned()))?;
        let filter_capacity = recovered.filter_capacity;
        let shared = Arc::new(Shared {
            secret: secret.clone(),
            filter: recovered.filter,
            recent: RwLock::default(),
            index,
            scopes: RwLock::new(recovered.scopes),
            counts: recovered.counts,
        });
        let journal = Journal::new(files, folder.clone(), recipients, secret, settings.segment_size.bytes(), next);
        let (requests, asked) = mpsc::channel();
        let keeper = Keeper { shared: Arc::clone(&shared), journal, filter_capacity, recent_since: None };
        let keeper = std::thread::Builder::new()
            .name("suppression".into())
            .spawn(move || keeper.run(&asked))
            .map_err(disk(&folder))?;
        log::info!("suppression: {} entries", shared.counts.total());
        Ok(Self(Arc::new(Inner {
            shared,
            passes: Arc::new(Passes::new()),
            tokens,
            requests: Mutex::new(Some(requests)),
            places: Arc::new(Semaphore::new(WAITING_REQUESTS)),
            keeper: Mutex::new(Some(keeper)),
            folder,
            _lock: lock,
        })))
    }

    /// Whether mail of that stream and list may not go to the address, and why. Takes a microsecond or less
    /// for nearly every address that is not in the list.
    ///
    /// # Errors
    /// The index cannot be read: nobody knows, so the mail has to wait.
    pub fn check(&self, address: &Address, stream: &str, list: Option<&str>) -> Result<Option<Entry>, CheckError> {
        self.check_key(self.0.shared.secret.key(address), stream, list)
    }

    /// A pass to write to these recipients, and for each of them, in order, what [`Suppression::check`] says
    /// now. Hold the pass until the receiver can get nothing any more.
    ///
    /// # Errors
    /// As [`Suppression::check`].
    pub fn pass<'a>(
        &self,
        recipients: impl Iterator<Item = &'a Address>,
        stream: &str,
        list: Option<&str>,
    ) -> Result<(Pass, Standings), CheckError> {
        let keys = recipients.map(|address| self.0.shared.secret.key(address)).collect();
        // The pass first: see there.
        let pass = self.0.passes.take(keys);
        let entries = pass.keys().iter().map(|key| self.check_key(*key, stream, list)).collect::<Result<_, _>>()?;
        Ok((pass, entries))
    }

    fn check_key(&self, key: Key, stream: &str, list: Option<&str>) -> Result<Option<Entry>, CheckError> {
        if !self.0.shared.filter.may_contain(key) {
            return Ok(None);
        }
        let records = self.records(key)?;
        if records.is_empty() {
            return Ok(None);
        }
        let scopes = self.0.shared.scopes.read();
        Ok(records
            .iter()
            .filter(|record| record.place.reason.suppresses())
            .filter(|record| match scopes.scope(record.place.scope) {
                Scope::All => true,
                Scope::Stream(name) => &*name == stream,
                Scope::List(name) => list.is_some_and(|list| list.eq_ignore_ascii_case(&name)),
            })
            .min_by_key(|record| record.place.reason)
            .map(|record| entry(record, &scopes)))
    }

    /// All that is known about an address.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn find(&self, address: &Address) -> Result<Vec<Entry>, CheckError> {
        let records = self.records(self.0.shared.secret.key(address))?;
        let scopes = self.0.shared.scopes.read();
        let mut entries: Vec<Entry> = records.iter().map(|record| entry(record, &scopes)).collect();
        entries.sort_by(|a, b| (a.reason, &a.scope).cmp(&(b.reason, &b.scope)));
        Ok(entries)
    }

    fn records(&self, key: Key) -> Result<Records, CheckError> {
        let recent = self.0.shared.recent.read().of(key);
        let records = self.0.shared.index.records(key).map_err(|error| CheckError(error.to_string()))?;
        Ok(after(records, &recent))
    }

    /// Carries out steps. On return they are durable, everybody sees them, and no delivery to an address
    /// that was added is under way any more.
    ///
    /// # Errors
    /// None of the steps holds.
    pub async fn change(&self, steps: Vec<Step>) -> Result<Outcome, ChangeError> {
        let steps = self.keyed(steps);
        let keys = suppressed(&steps).collect();
        let outcome = self.record_keyed(steps).await?;
        self.0.passes.wait_for(keys).await;
        Ok(outcome)
    }

    /// As [`Suppression::change`], but deliveries that are under way are not waited for: nobody is told
    /// that the address is suppressed.
    ///
    /// # Errors
    /// None of the steps holds.
    pub async fn record(&self, steps: Vec<Step>) -> Result<Outcome, ChangeError> {
        self.record_keyed(self.keyed(steps)).await
    }

    async fn record_keyed(&self, steps: Vec<(Key, Step)>) -> Result<Outcome, ChangeError> {
        let place = Arc::clone(&self.0.places).acquire_owned().await.map_err(|_| ChangeError::Closed)?;
        self.ask(|done| Request::Change { steps, done, permit: Some(place) })?.await.map_err(|_| ChangeError::Closed)?
    }

    /// Hands steps in from a thread that may block; the answer comes through the receiver, deliveries under way
    /// are not waited for. At most a few of them may be out at a time.
    pub(crate) fn hand_in(
        &self,
        steps: Vec<(Key, Step)>,
    ) -> Result<oneshot::Receiver<Result<Outcome, ChangeError>>, ChangeError> {
        self.ask(|done| Request::Change { steps, done, permit: None })
    }

    /// The key of an address.
    pub(crate) fn key(&self, address: &Address) -> Key {
        self.0.shared.secret.key(address)
    }

    /// What mails carry, so that what comes back finds its recipient.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    fn keyed(&self, steps: Vec<Step>) -> Vec<(Key, Step)> {
        let key = |step: &Step| match step {
            Step::Add(Addition { who: Who::Key(key), .. }) => *key,
            Step::Add(Addition { who: Who::Address(address), .. }) | Step::Remove(Removal { address, .. }) => {
                self.key(address)
            }
        };
        steps.into_iter().map(|step| (key(&step), step)).collect()
    }

    /// Keeps the keys with a delivery under way.
    pub(crate) fn keep_under_way(&self, keys: &mut Vec<Key>) {
        self.0.passes.keep_out(keys);
    }

    pub(crate) async fn wait_for(&self, keys: Vec<Key>) {
        self.0.passes.wait_for(keys).await;
    }

    /// Writes into the index what is only in the journal, so that the next start is quick.
    ///
    /// # Errors
    /// The index cannot be written; nothing is lost.
    pub async fn flush(&self) -> Result<(), ChangeError> {
        self.ask(Request::Flush)?.await.map_err(|_| ChangeError::Closed)?
    }

    fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<oneshot::Receiver<T>, ChangeError> {
        let (done, answer) = oneshot::channel();
        let requests = self.0.requests.lock();
        let requests = requests.as_ref().ok_or(ChangeError::Closed)?;
        requests.send(request(done)).map_err(|_| ChangeError::Closed)?;
        Ok(answer)
    }

    /// Numbers for people and metrics.
    pub fn statistics(&self) -> Statistics {
        let shared = &self.0.shared;
        let counts = &shared.counts.0;
        let journal = journal::segments(&self.0.folder).unwrap_or_default();
        Statistics {
            entries: Reason::ALL
                .iter()
                .map(|reason| (*reason, counts[usize::from(reason.code())].load(Ordering::Relaxed)))
                .collect(),
            filter_bytes: shared.filter.size(),
            index_bytes: shared.index.size(),
            journal_bytes: journal
                .iter()
                .filter_map(|(_, path)| fs::metadata(path).ok())
                .map(|metadata| metadata.len())
                .sum(),
            recent: shared.recent.read().len() as u64,
        }
    }

    /// Where the list lives.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Answers what has been handed in, writes the index and stops. Blocks.
    pub fn close(&self) {
        drop(self.0.requests.lock().take());
        let keeper = self.0.keeper.lock().take();
        if let Some(keeper) = keeper {
            let _ = keeper.join();
        }
    }
}

/// Keys of what these steps suppress.
pub(crate) fn suppressed(steps: &[(Key, Step)]) -> impl Iterator<Item = Key> + '_ {
    steps
        .iter()
        .filter(|(_, step)| matches!(step, Step::Add(addition) if addition.reason.suppresses()))
        .map(|(key, _)| *key)
}

fn entry(record: &Change, scopes: &Scopes) -> Entry {
    Entry {
        reason: record.place.reason,
        scope: scopes.scope(record.place.scope),
        origin: record.origin,
        time: record.time,
    }
}

#[cfg(test)]
mod tests;
