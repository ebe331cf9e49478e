//! What is looked at again and again while a rehearsal runs: new records, new
//! reports, and which accepted recipients have come to an end.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::account::{Fate, Reports, fate};
use crate::handed::{Accepted, Handed};
use crate::internet::Internet;
use crate::progress::{Line, Progress, Watching};
use crate::records::{RecordFacts, Tail};
use crate::rulebook::Provider;

/// Records that come from elsewhere have come when there was none for so long.
const QUIET: Duration = Duration::from_secs(3);
/// Longest wait for that.
const LONGEST_UNQUIET: Duration = Duration::from_secs(60);

/// What is looked at again and again while the rehearsal runs.
pub(crate) struct Watch {
    tail: Tail,
    pub(crate) records: RecordFacts,
    pub(crate) reports: Reports,
    /// Accepted recipients whose end is not known yet, in order of acceptance.
    pub(crate) open: Vec<Accepted>,
    taken: usize,
    accepted: Vec<u64>,
    ended: Vec<u64>,
    pub(crate) progress: Progress,
    pub(crate) last_delivery: Duration,
    delivered: u64,
    events: u64,
    /// When anything last happened, since the start.
    pub(crate) last_event: Duration,
}

impl Watch {
    pub(crate) fn new(watching: Watching, records: &std::path::Path, internet: &Internet) -> Self {
        let providers = internet.providers().len();
        Self {
            tail: Tail::new(records),
            records: RecordFacts::default(),
            reports: Reports::default(),
            open: Vec::new(),
            taken: 0,
            accepted: vec![0; providers],
            ended: vec![0; providers],
            progress: Progress::new(watching, providers - 1),
            last_delivery: Duration::ZERO,
            delivered: 0,
            events: 0,
            last_event: Duration::ZERO,
        }
    }

    pub(crate) fn read(&mut self) {
        let Self { records, events, .. } = self;
        self.tail.look(|event| {
            *events += 1;
            records.take(event);
        });
    }

    /// Waits until no record has come for a while.
    pub(crate) async fn quiet(&mut self) {
        let end = Instant::now() + LONGEST_UNQUIET;
        let mut last = Instant::now();
        while last.elapsed() < QUIET && Instant::now() < end {
            let before = self.events;
            self.read();
            if self.events > before {
                last = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lines of the records that were no event.
    pub(crate) fn unreadable_records(&self) -> u64 {
        self.tail.unreadable()
    }

    pub(crate) fn look(&mut self, internet: &Internet, handed: &Mutex<Handed>, started: Instant) {
        let before = (self.events, self.delivered);
        self.read();
        {
            let handed = handed.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = handed.accepted().get(self.taken..).unwrap_or_default();
            for accepted in fresh {
                if let Some(count) = self.accepted.get_mut(accepted.provider) {
                    *count += 1;
                }
            }
            self.open.extend_from_slice(fresh);
            self.taken = handed.accepted().len();
        }
        let Self { open, reports, records, ended, .. } = self;
        internet.with_ledger(|ledger| {
            reports.update(ledger);
            open.retain(|accepted| {
                let end = fate(accepted, ledger, reports, records);
                if matches!(end, Fate::Bounced | Fate::Expired | Fate::Suppressed)
                    && let Some(count) = ended.get_mut(accepted.provider)
                {
                    *count += 1;
                }
                end == Fate::Open
            });
        });
        let home = internet.home();
        let delivered: Vec<u64> =
            internet.with_ledger(|ledger| (0..home).map(|provider| ledger.delivered(provider)).collect());
        let sum = delivered.iter().sum();
        if sum != self.delivered {
            self.delivered = sum;
            self.last_delivery = started.elapsed();
        }
        if before != (self.events, self.delivered) {
            self.last_event = started.elapsed();
        }
        if self.progress.due() {
            let lines: Vec<Line> = internet
                .providers()
                .iter()
                .take(home)
                .enumerate()
                .map(|(place, provider)| {
                    let get = |list: &[u64]| list.get(place).copied().unwrap_or_default();
                    Line {
                        name: provider.name.clone(),
                        queued: get(&self.accepted).saturating_sub(get(&delivered) + get(&self.ended)),
                        delivered: get(&delivered),
                        deferred: deferrals(provider, &self.records),
                        returned: get(&self.ended),
                        connections: internet.with_judge(|judge| judge.tally(place).open),
                    }
                })
                .collect();
            self.progress.show(started.elapsed(), self.taken as u64, &lines);
        }
    }
}

/// Deferrals of all domains of a provider.
pub(crate) fn deferrals(provider: &Provider, records: &RecordFacts) -> u64 {
    provider.site.iter().flat_map(|site| &site.domains).map(|domain| records.deferrals_of(domain)).sum()
}
