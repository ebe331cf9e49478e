//! What the receivers remember: who accepted which message for whom, whether
//! the reply went out, and which reports came home. The ledger states facts;
//! what they mean is decided in `account`.

use std::collections::HashMap;

use crate::content::Report;
use crate::mailbox::Moment;

/// One acceptance of a message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// Place of the provider in the rule book.
    pub provider: usize,
    /// MX host.
    pub host: String,
    /// Whether it came through TLS.
    pub tls: bool,
    /// When the final dot was read.
    pub at: Moment,
    /// When the reply was given to the network; `None`: the connection was dropped or broke before.
    pub replied: Option<Moment>,
}

/// A report that came home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportHome {
    /// The message it is about.
    pub id: String,
    /// What it says.
    pub report: Report,
    /// When it came.
    pub at: Moment,
}

/// Place of an acceptance, to note its reply later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    id: String,
    recipient: String,
    place: usize,
}

/// The book of all receivers.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: HashMap<String, HashMap<String, Vec<Acceptance>>>,
    reports: Vec<ReportHome>,
    /// Messages whose body was not what the campaign sent, with a word on each of the first few.
    corrupted: Vec<(usize, String)>,
    corrupted_count: HashMap<usize, u64>,
    /// Messages that came from an address that is not of their stream's pool.
    astray: HashMap<usize, u64>,
    astray_samples: Vec<String>,
    converted: u64,
    distinct: HashMap<usize, u64>,
}

/// Most sentences kept about corrupted messages.
const SAMPLES: usize = 20;

impl Ledger {
    /// Notes an acceptance, before the reply.
    pub fn accept(&mut self, id: &str, recipient: &str, acceptance: Acceptance) -> Receipt {
        let provider = acceptance.provider;
        let list = self.accepted.entry(id.to_owned()).or_default().entry(recipient.to_owned()).or_default();
        if list.is_empty() {
            *self.distinct.entry(provider).or_default() += 1;
        }
        list.push(acceptance);
        Receipt { id: id.to_owned(), recipient: recipient.to_owned(), place: list.len() - 1 }
    }

    /// Notes that the reply to an acceptance went out.
    pub fn replied(&mut self, receipt: &Receipt, now: Moment) {
        if let Some(acceptance) = self
            .accepted
            .get_mut(&receipt.id)
            .and_then(|recipients| recipients.get_mut(&receipt.recipient))
            .and_then(|list| list.get_mut(receipt.place))
        {
            acceptance.replied = Some(now);
        }
    }

    /// Notes a report.
    pub fn report(&mut self, id: &str, report: Report, now: Moment) {
        self.reports.push(ReportHome { id: id.to_owned(), report, at: now });
    }

    /// Notes a message that is not what was sent.
    pub fn corrupted(&mut self, provider: usize, what: String) {
        *self.corrupted_count.entry(provider).or_default() += 1;
        if self.corrupted.len() < SAMPLES {
            self.corrupted.push((provider, what));
        }
    }

    /// Notes a message that came from a source that its stream does not have.
    pub fn astray(&mut self, provider: usize, what: String) {
        *self.astray.entry(provider).or_default() += 1;
        if self.astray_samples.len() < SAMPLES {
            self.astray_samples.push(what);
        }
    }

    /// Notes a message that was rightly re-encoded for a host without 8BITMIME.
    pub fn converted(&mut self) {
        self.converted += 1;
    }

    /// All acceptances of a message for a recipient, in order.
    pub fn acceptances(&self, id: &str, recipient: &str) -> &[Acceptance] {
        self.accepted.get(id).and_then(|recipients| recipients.get(recipient)).map_or(&[], Vec::as_slice)
    }

    /// Every (message, recipient) that somebody accepted.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &[Acceptance])> {
        self.accepted.iter().flat_map(|(id, recipients)| {
            recipients.iter().map(move |(recipient, list)| (id.as_str(), recipient.as_str(), list.as_slice()))
        })
    }

    /// Reports in the order in which they came.
    pub fn reports(&self) -> &[ReportHome] {
        &self.reports
    }

    /// Different (message, recipient) pairs accepted by a provider.
    pub fn delivered(&self, provider: usize) -> u64 {
        self.distinct.get(&provider).copied().unwrap_or_default()
    }

    /// Corrupted messages of a provider.
    pub fn corrupted_at(&self, provider: usize) -> u64 {
        self.corrupted_count.get(&provider).copied().unwrap_or_default()
    }

    /// Corrupted messages of all providers.
    pub fn corrupted_count(&self) -> u64 {
        self.corrupted_count.values().sum()
    }

    /// Messages that came to a provider from a source that their stream does not have.
    pub fn astray_at(&self, provider: usize) -> u64 {
        self.astray.get(&provider).copied().unwrap_or_default()
    }

    /// A sentence for each of the first of these.
    pub fn astray_samples(&self) -> &[String] {
        &self.astray_samples
    }

    /// Provider and a sentence for each of the first corrupted messages.
    pub fn corrupted_samples(&self) -> &[(usize, String)] {
        &self.corrupted
    }

    /// Messages re-encoded for a host without 8BITMIME.
    pub fn converted_count(&self) -> u64 {
        self.converted
    }
}
