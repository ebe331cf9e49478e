//! The keeper: the one thread that changes the list. It takes what has been handed in meanwhile as
//! one group, makes it durable with one sync, makes it visible, and only then answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::bucket::{Records, after};
use crate::change::{Change, Described, Place, ScopeNumber};
use crate::entry::Scope;
use crate::filter::capacity_for;
use crate::index::IndexError;
use crate::journal::{Files, Journal};
use crate::list::{ChangeError, Outcome, Shared, Step, Who};
use crate::secret::{Key, KeyMap};

/// Requests answered together.
const REQUESTS_AT_ONCE: usize = 1024;
/// Steps answered together; a request may have more.
const STEPS_AT_ONCE: usize = 1 << 18;
/// Changes in one frame of the journal.
const CHANGES_IN_FRAME: usize = 1 << 15;
/// The index is written when that many changes are not in it, or an eighth of what it holds.
const LEAST_RECENT: usize = 1 << 20;
/// The index is written when nothing has happened for so long.
const QUIET: Duration = Duration::from_secs(20);
/// The index is written after so long, however much goes on.
const LONGEST_RECENT: Duration = Duration::from_secs(300);
/// While the index cannot be written, changes are held in memory up to that many times the usual.
const MOST_TIMES_RECENT: usize = 8;

/// What the keeper is asked for.
pub(crate) enum Request {
    /// Carry out these steps.
    Change {
        steps: Vec<(Key, Step)>,
        done: Done,
        /// Its place among the requests that may wait.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// Write the index now.
    Flush(oneshot::Sender<Result<(), ChangeError>>),
}

pub(crate) struct Keeper<F: Files> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Journal<F>,
    /// Keys that the filter has room for.
    pub(crate) filter_capacity: usize,
    pub(crate) recent_since: Option<Instant>,
}

/// Where the answer to a change goes.
type Done = oneshot::Sender<Result<Outcome, ChangeError>>;

/// A request that the group has worked out but not answered.
struct Worked {
    changes: Vec<Described>,
    outcome: Outcome,
    done: Done,
}

impl<F: Files> Keeper<F> {
    /// Works until nobody can ask any more, then writes the index.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let first = match requests.recv_timeout(QUIET) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.flush_and_log();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut group = Vec::new();
            let mut steps = 0;
            let mut next = Some(first);
            let mut flushes = Vec::new();
            while let Some(request) = next.take() {
                match request {
                    Request::Change { steps: asked, done, permit } => {
                        steps += asked.len();
                        group.push((asked, done));
                        drop(permit);
                    }
                    Request::Flush(done) => flushes.push(done),
                }
                if group.len() < REQUESTS_AT_ONCE && steps < STEPS_AT_ONCE && flushes.is_empty() {
                    next = requests.try_recv().ok();
                }
            }
            self.work(group);
            if self.is_index_due() {
                self.flush_and_log();
            }
            for done in flushes {
                let _ = done.send(self.flush().map_err(|error| ChangeError::Index(error.to_string())));
            }
        }
        self.flush_and_log();
    }

    fn work(&mut self, group: Vec<(Vec<(Key, Step)>, Done)>) {
        if self.shared.recent.read().len() > MOST_TIMES_RECENT * self.recent_limit() {
            for (_, done) in group {
                let _ = done.send(Err(ChangeError::Index("it has not been written for too long".to_owned())));
            }
            return;
        }
        let mut standing = match self.standing(group.iter().flat_map(|(steps, _)| steps).map(|(key, _)| *key)) {
            Ok(standing) => standing,
            Err(error) => {
                for (_, done) in group {
                    let _ = done.send(Err(ChangeError::Index(error.to_string())));
                }
                return;
            }
        };
        let mut new_scopes = Vec::new();
        let mut worked = Vec::with_capacity(group.len());
        for (steps, done) in group {
            match self.resolve(steps, &mut standing, &mut new_scopes) {
                Ok((changes, outcome)) => worked.push(Worked { changes, outcome, done }),
                Err(error) => {
                    let _ = done.send(Err(error));
                }
            }
        }
        let frames: Vec<&[Described]> =
            worked.iter().flat_map(|request| request.changes.chunks(CHANGES_IN_FRAME)).collect();
        if !frames.is_empty() || !new_scopes.is_empty() {
            let now = worked.iter().flat_map(|request| &request.changes).map(|described| described.change.time).max();
            if let Err(error) = self.journal.write(now.unwrap_or(0), &new_scopes, &frames) {
                log::error!("suppression: {error}");
                self.forget_scopes(&new_scopes);
                for request in worked {
                    let _ = request.done.send(Err(ChangeError::NotDurable(error.to_string())));
                }
                return;
            }
        }
        self.make_visible(&worked, new_scopes);
        for request in worked {
            let _ = request.done.send(Ok(request.outcome));
        }
    }

    /// Entries of the addresses of these steps, as they stand. The addresses of a large import are
    /// looked up in the order of the index.
    fn standing(&self, keys: impl Iterator<Item = Key>) -> Result<KeyMap<Records>, IndexError> {
        let shared = &self.shared;
        let mut keys = shared.filter.candidates(keys);
        keys.sort_unstable();
        keys.dedup();
        let mut standing = KeyMap::default();
        let recent = shared.recent.read();
        shared.index.records_of(&keys, |key, records| {
            standing.insert(key, after(records, &recent.of(key)));
        })?;
        Ok(standing)
    }

    /// What steps change, given what stands.
    fn resolve(
        &self,
        steps: Vec<(Key, Step)>,
        standing: &mut KeyMap<Records>,
        new_scopes: &mut Vec<(ScopeNumber, String)>,
    ) -> Result<(Vec<Described>, Outcome), ChangeError> {
        // First what can fail: a request that is not carried out must leave nothing behind.
        let scopes: Vec<ScopeNumber> = steps
            .iter()
            .map(|(_, step)| match step {
                Step::Add(addition) => self.scope_number(&addition.scope, new_scopes),
                // Looked at when it is known that there is anything to remove.
                Step::Remove(_) => Ok(ScopeNumber::ALL),
            })
            .collect::<Result<_, _>>()?;
        let mut outcome = Outcome::default();
        let mut changes = Vec::with_capacity(steps.len());
        standing.reserve(steps.len());
        for ((key, step), scope) in steps.into_iter().zip(scopes) {
            match step {
                Step::Add(addition) => {
                    let place = Place { key, scope, reason: addition.reason };
                    let records = standing.entry(key).or_default();
                    if records.iter().any(|record| record.place == place) {
                        outcome.known += 1;
                        continue;
                    }
                    let change = Change { place, is_added: true, origin: addition.origin, time: addition.time };
                    records.push(change);
                    outcome.added += 1;
                    let address = match addition.who {
                        Who::Address(address) => Some(address),
                        Who::Key(_) => None,
                    };
                    changes.push(Described { change, address, note: addition.note });
                }
                Step::Remove(removal) => {
                    let Some(records) = standing.get_mut(&key) else { continue };
                    let scope = match &removal.scope {
                        None => None,
                        Some(scope) => match self.shared.scopes.read().number(scope) {
                            Some(number) => Some(number),
                            // Nothing was ever suppressed in it.
                            None => continue,
                        },
                    };
                    records.retain(|record| {
                        let is_meant = scope.is_none_or(|scope| scope == record.place.scope)
                            && removal.reason.is_none_or(|reason| reason == record.place.reason);
                        if is_meant {
                            let change = Change {
                                place: record.place,
                                is_added: false,
                                origin: removal.origin,
                                time: removal.time,
                            };
                            outcome.removed += 1;
                            let (address, note) = (Some(removal.address.clone()), Arc::clone(&removal.note));
                            changes.push(Described { change, address, note });
                        }
                        !is_meant
                    });
                }
            }
        }
        Ok((changes, outcome))
    }

    fn scope_number(
        &self,
        scope: &Scope,
        new_scopes: &mut Vec<(ScopeNumber, String)>,
    ) -> Result<ScopeNumber, ChangeError> {
        let mut scopes = self.shared.scopes.write();
        if let Some(number) = scopes.number(scope) {
            return Ok(number);
        }
        let number = scopes.next_number().ok_or(ChangeError::TooManyScopes)?;
        let name = scope.to_string();
        scopes.insert(number, &name);
        new_scopes.push((number, name));
        Ok(number)
    }

    fn forget_scopes(&self, new_scopes: &[(ScopeNumber, String)]) {
        let mut scopes = self.shared.scopes.write();
        new_scopes.iter().for_each(|(number, name)| scopes.remove(*number, name));
    }

    /// From here on everybody sees it.
    fn make_visible(&mut self, worked: &[Worked], new_scopes: Vec<(ScopeNumber, String)>) {
        let shared = &self.shared;
        let changes = || worked.iter().flat_map(|request| &request.changes).map(|described| &described.change);
        // First the filter: whoever passes it finds the change once the second step is done.
        shared.filter.insert(changes().filter(|change| change.is_added).map(|change| change.place.key));
        let mut recent = shared.recent.write();
        recent.new_scopes.extend(new_scopes);
        recent.reserve(worked.iter().map(|request| request.changes.len()).sum());
        for change in changes() {
            recent.push(*change);
            shared.counts.count(change);
        }
        let is_waiting = !recent.is_empty();
        drop(recent);
        if is_waiting {
            self.recent_since.get_or_insert_with(Instant::now);
        }
    }

    fn recent_limit(&self) -> usize {
        LEAST_RECENT.max(self.shared.counts.total() as usize / 8)
    }

    fn is_index_due(&self) -> bool {
        self.shared.recent.read().len() >= self.recent_limit()
            || self.recent_since.is_some_and(|since| since.elapsed() >= LONGEST_RECENT)
    }

    fn flush_and_log(&mut self) {
        if let Err(error) = self.flush() {
            log::error!(
                "suppression: the index cannot be written: {error}; the journal has everything, and the next start catches up"
            );
        }
    }

    /// Writes what is recent into the index, and makes the filter anew when it is full.
    fn flush(&mut self) -> Result<(), IndexError> {
        let shared = &self.shared;
        if !shared.recent.read().is_empty() {
            let (changes, scopes) = {
                let recent = shared.recent.read();
                (recent.sorted(), recent.new_scopes.clone())
            };
            // Meanwhile both have it, which does no harm: nobody else changes either.
            shared.index.apply(&changes, &scopes, self.journal.position())?;
            shared.recent.write().clear();
        }
        self.recent_since = None;
        let keys = shared.counts.total() as usize;
        if keys > self.filter_capacity {
            let capacity = capacity_for(keys);
            shared.filter.remake(capacity, |insert| shared.index.scan(|change| insert(change.place.key)))?;
            self.filter_capacity = capacity;
        }
        Ok(())
    }
}
