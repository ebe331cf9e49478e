//! The account: what became of every recipient that the product accepted.
//! Said by the receivers' ledger and the reports that came home; by the
//! product's own records only where no report can exist. Nothing is derived
//! from a sum, so that nothing must come out even.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::campaign::{Message, Way};
use crate::client::Answered;
use crate::ledger::Ledger;
use crate::records::Event;

/// A recipient the product has answered `250` for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The message's mark.
    pub id: String,
    /// The recipient.
    pub recipient: String,
    /// Place of the provider in the rule book.
    pub provider: usize,
    /// No report can come: null sender, or `NOTIFY=NEVER`.
    pub silent: bool,
    /// An address of the message needs SMTPUTF8.
    pub utf8: bool,
    /// Octets of the content as submitted.
    pub size: usize,
}

/// What the campaign knows about what it handed over.
#[derive(Debug, Default)]
pub struct Handed {
    accepted: Vec<Accepted>,
    messages: u64,
    by_http: u64,
    refused: u64,
    refusals: HashMap<String, u64>,
    /// Handed over without an answer: may or may not be there.
    uncertain: HashSet<(String, String)>,
}

/// Most different refusal texts kept; some name the recipient, and the second wave counts them all.
const TEXTS: usize = 100_000;

impl Handed {
    /// Notes an answer.
    pub fn answered(&mut self, message: Message, size: usize, answer: Answered) {
        let queued = answer.queued.is_some();
        self.messages += u64::from(queued);
        self.by_http += u64::from(queued && message.way == Way::Http);
        let null_sender = message.sender.is_none();
        for (to, answer) in message.to.into_iter().zip(answer.recipients) {
            match answer {
                Ok(()) if queued => self.accepted.push(Accepted {
                    id: message.id.clone(),
                    recipient: to.address,
                    provider: to.provider,
                    silent: null_sender || to.never_notify,
                    utf8: message.utf8,
                    size,
                }),
                Ok(()) => self.refused += 1,
                Err(text) => {
                    self.refused += 1;
                    if self.refusals.len() < TEXTS || self.refusals.contains_key(&text) {
                        *self.refusals.entry(text).or_default() += 1;
                    }
                }
            }
        }
    }

    /// Notes a message that got no answer.
    pub fn unanswered(&mut self, message: Message) {
        self.uncertain.extend(message.to.into_iter().map(|to| (message.id.clone(), to.address)));
    }

    /// Recipients accepted so far.
    pub fn accepted(&self) -> &[Accepted] {
        &self.accepted
    }

    /// Messages accepted.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Of the messages accepted: by HTTP.
    pub fn by_http(&self) -> u64 {
        self.by_http
    }

    /// Recipients refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Recipients without an answer.
    pub fn uncertain(&self) -> u64 {
        self.uncertain.len() as u64
    }

    /// Refusal texts with their counts, most frequent first.
    pub fn refusals(&self) -> Vec<(&str, u64)> {
        let mut list: Vec<_> = self.refusals.iter().map(|(text, count)| (text.as_str(), *count)).collect();
        list.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        list
    }
}

/// What the product's records say, by recipient (every campaign recipient has one message).
#[derive(Debug, Default)]
pub struct RecordFacts {
    ended: HashMap<String, Ended>,
    deferrals: HashMap<String, u64>,
    /// Deferrals by recipient domain.
    by_domain: HashMap<String, u64>,
    attempts_failed: u64,
    /// Deliveries by what their connections were held to; `clear`: without TLS.
    policies: BTreeMap<String, u64>,
    /// Recipients whose mail was put off because it could not be protected as it must be.
    held_back: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Bounced,
    Expired,
    Suppressed,
}

impl RecordFacts {
    /// Takes in an event.
    pub fn take(&mut self, event: Event) {
        let suppressed = event.reason.as_deref().is_some_and(|reason| reason.contains("suppress"));
        if event.event == "delivered" {
            let policy = event.tls.as_ref().map_or("clear", |tls| tls.policy.as_deref().unwrap_or("none"));
            *self.policies.entry(policy.to_owned()).or_default() += 1;
        }
        match (event.event.as_str(), event.recipient) {
            ("attempted", _) => self.attempts_failed += 1,
            ("deferred", Some(recipient)) => {
                if let Some((_, domain)) = recipient.rsplit_once('@') {
                    *self.by_domain.entry(domain.to_ascii_lowercase()).or_default() += 1;
                }
                if event.stage.as_deref() == Some("policy") {
                    self.held_back.insert(recipient.clone());
                }
                *self.deferrals.entry(recipient).or_default() += 1;
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
    pub fn policies(&self) -> &BTreeMap<String, u64> {
        &self.policies
    }

    /// Recipients whose mail was put off at least once because it could not be protected as it must be.
    pub fn held_back(&self) -> u64 {
        self.held_back.len() as u64
    }

    /// Whether mail for the recipient ended as suppressed.
    pub fn was_suppressed(&self, recipient: &str) -> bool {
        self.ended.get(recipient) == Some(&Ended::Suppressed)
    }

    /// Deferrals so far.
    pub fn deferrals(&self) -> u64 {
        self.by_domain.values().sum()
    }

    /// Deferrals of a recipient domain.
    pub fn deferrals_of(&self, domain: &str) -> u64 {
        self.by_domain.get(domain).copied().unwrap_or_default()
    }

    /// Whether the recipient was deferred at least once.
    pub fn was_deferred(&self, recipient: &str) -> bool {
        self.deferrals.contains_key(recipient)
    }

    /// Connection attempts that reached nobody.
    pub fn attempts_failed(&self) -> u64 {
        self.attempts_failed
    }
}

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// A receiver has it.
    Delivered,
    /// Returned with a report, or recorded as returned where no report may be sent.
    Bounced,
    /// The same, because time ran out.
    Expired,
    /// Not sent, because the owner must not.
    Suppressed,
    /// Nothing final is known.
    Open,
}

/// Reports that came home, by message and recipient.
#[derive(Debug, Default)]
pub struct Reports {
    failed: HashMap<(String, String), Failed>,
    read: usize,
    delays: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failed {
    expired: bool,
    times: u64,
    said: String,
}

impl Reports {
    /// Takes in what has come home since the last time.
    pub fn update(&mut self, ledger: &Ledger) {
        let reports = ledger.reports();
        for home in reports.get(self.read..).unwrap_or_default() {
            match home.report.action.as_str() {
                "failed" => {
                    // RFC 3463 §3.5: X.4.7, delivery time expired.
                    let expired = home.report.status.ends_with(".4.7");
                    let key = (home.id.clone(), home.report.recipient.clone());
                    let said = || format!("{} {}", home.report.status, home.report.diagnostic);
                    self.failed.entry(key).or_insert_with(|| Failed { expired, times: 0, said: said() }).times += 1;
                }
                "delayed" => self.delays += 1,
                _ => {}
            }
        }
        self.read = reports.len();
    }

    /// Reports of delay.
    pub fn delays(&self) -> u64 {
        self.delays
    }

    /// Reports of failure beyond the first for the same recipient.
    pub fn doubled(&self) -> u64 {
        self.failed.values().map(|failed| failed.times.saturating_sub(1)).sum()
    }

    fn failed(&self, id: &str, recipient: &str) -> Option<&Failed> {
        self.failed.get(&(id.to_owned(), recipient.to_owned()))
    }
}

/// What became of one recipient.
pub fn fate(accepted: &Accepted, ledger: &Ledger, reports: &Reports, records: &RecordFacts) -> Fate {
    if !ledger.acceptances(&accepted.id, &accepted.recipient).is_empty() {
        return Fate::Delivered;
    }
    let recorded = records.ended.get(&accepted.recipient).copied();
    if let Some(failed) = reports.failed(&accepted.id, &accepted.recipient) {
        return if failed.expired || recorded == Some(Ended::Expired) { Fate::Expired } else { Fate::Bounced };
    }
    match recorded {
        Some(Ended::Suppressed) => Fate::Suppressed,
        Some(Ended::Bounced) if accepted.silent => Fate::Bounced,
        Some(Ended::Expired) if accepted.silent => Fate::Expired,
        _ => Fate::Open,
    }
}

/// Duplicates, by whether SMTP could have avoided them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Accepted again after the sender had been told.
    pub avoidable: u64,
    /// Accepted again because the reply got lost (RFC 5321 §4.2.5, RFC 1047).
    pub unavoidable: u64,
}

/// Counts the duplicates of one recipient.
pub fn duplicates(acceptances: &[crate::ledger::Acceptance]) -> Duplicates {
    let mut found = Duplicates::default();
    let mut told = false;
    for (number, acceptance) in acceptances.iter().enumerate() {
        if told {
            found.avoidable += 1;
        } else if number > 0 {
            found.unavoidable += 1;
        }
        told |= acceptance.replied.is_some();
    }
    found
}

/// Everything that speaks about one campaign, put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Fates by provider.
    pub fates: HashMap<(usize, Fate), u64>,
    /// Duplicates by provider.
    pub duplicates: HashMap<usize, Duplicates>,
    /// Delivered although the sender was told that it was not.
    pub contradictions: u64,
    /// Delivered although nobody was told that it was accepted.
    pub unexpected: Vec<(usize, String)>,
    /// Returned although no receiver refused for good, by provider; with a sentence on the first few.
    pub unjustified: HashMap<usize, u64>,
    /// Those sentences.
    pub unjustified_named: Vec<String>,
    /// Of those of whom nothing final is known: were deferred, so that they may still be waiting.
    pub open_deferred: u64,
    /// The first recipients of whom nothing final is known and who were never deferred.
    pub open: Vec<String>,
    /// Deliveries by TLS and without.
    pub tls: (u64, u64),
}

/// Most recipients named in [`Account::open`] and [`Account::unexpected`].
const NAMED: usize = 20;

impl Account {
    /// Draws up the account. `justified` says whether a bounce of a recipient has a reason that the simulated internet knows of.
    pub fn of(
        handed: &Handed,
        ledger: &Ledger,
        reports: &Reports,
        records: &RecordFacts,
        justified: impl Fn(&Accepted) -> bool,
    ) -> Self {
        let mut account = Self::default();
        let mut known: HashSet<(&str, &str)> = HashSet::with_capacity(handed.accepted.len());
        for accepted in &handed.accepted {
            known.insert((&accepted.id, &accepted.recipient));
            let fate = fate(accepted, ledger, reports, records);
            *account.fates.entry((accepted.provider, fate)).or_default() += 1;
            match fate {
                Fate::Open => {
                    let deferred = records.was_deferred(&accepted.recipient);
                    account.open_deferred += u64::from(deferred);
                    // Those that were never even deferred are the worse.
                    if account.open.len() < NAMED && !deferred {
                        account.open.push(accepted.recipient.clone());
                    }
                }
                Fate::Bounced if !justified(accepted) => {
                    *account.unjustified.entry(accepted.provider).or_default() += 1;
                    if account.unjustified_named.len() < NAMED {
                        let said = reports.failed(&accepted.id, &accepted.recipient).map_or("", |failed| &failed.said);
                        account
                            .unjustified_named
                            .push(format!("{} was returned, but no receiver refused it: {said}", accepted.recipient));
                    }
                }
                Fate::Delivered if reports.failed(&accepted.id, &accepted.recipient).is_some() => {
                    // After a lost reply the sender may honestly believe that it failed.
                    let told = ledger
                        .acceptances(&accepted.id, &accepted.recipient)
                        .iter()
                        .any(|acceptance| acceptance.replied.is_some());
                    account.contradictions += u64::from(told);
                }
                _ => {}
            }
        }
        for (id, recipient, acceptances) in ledger.all() {
            let Some(first) = acceptances.first() else { continue };
            let found = duplicates(acceptances);
            let sum = account.duplicates.entry(first.provider).or_default();
            sum.avoidable += found.avoidable;
            sum.unavoidable += found.unavoidable;
            for acceptance in acceptances {
                if acceptance.tls { account.tls.0 += 1 } else { account.tls.1 += 1 }
            }
            let uncertain = handed.uncertain.contains(&(id.to_owned(), recipient.to_owned()));
            if !uncertain && !known.contains(&(id, recipient)) {
                account.unexpected.push((
                    first.provider,
                    format!("message {id} arrived for {recipient}, for whom it was not accepted"),
                ));
            }
        }
        account
    }

    /// Recipients of a provider with that fate.
    pub fn count(&self, provider: usize, fate: Fate) -> u64 {
        self.fates.get(&(provider, fate)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Report;
    use crate::ledger::Acceptance;
    use std::time::Duration;

    fn acceptance(replied: bool) -> Acceptance {
        Acceptance {
            provider: 0,
            host: "mx".to_owned(),
            source: [127, 1, 0, 1].into(),
            tls: true,
            at: Duration::ZERO,
            replied: replied.then_some(Duration::ZERO),
        }
    }

    fn accepted(recipient: &str, silent: bool) -> Accepted {
        Accepted { id: "r1".to_owned(), recipient: recipient.to_owned(), provider: 0, silent, utf8: false, size: 1000 }
    }

    fn report(recipient: &str, status: &str) -> Report {
        Report {
            recipient: recipient.to_owned(),
            original: None,
            action: "failed".to_owned(),
            status: status.to_owned(),
            diagnostic: String::new(),
        }
    }

    fn event(name: &str, recipient: &str) -> Event {
        serde_json::from_str(&format!("{{\"event\":\"{name}\",\"recipient\":\"{recipient}\"}}")).unwrap()
    }

    #[test]
    fn a_second_acceptance_is_the_senders_fault_only_after_it_was_told() {
        let count = |told: &[bool]| {
            let found = duplicates(&told.iter().map(|told| acceptance(*told)).collect::<Vec<_>>());
            (found.avoidable, found.unavoidable)
        };
        assert_eq!(count(&[true]), (0, 0));
        assert_eq!(count(&[false, true]), (0, 1));
        assert_eq!(count(&[true, true]), (1, 0));
        assert_eq!(count(&[false, false, true, true]), (1, 2));
    }

    #[test]
    fn only_receivers_and_reports_settle_a_recipient_and_records_only_where_no_report_may_come() {
        let mut ledger = Ledger::default();
        ledger.accept("r1", "there@x.test", acceptance(true));
        ledger.report("r1", report("back@x.test", "5.1.1"), Duration::ZERO);
        ledger.report("r1", report("late@x.test", "4.4.7"), Duration::ZERO);
        let mut reports = Reports::default();
        reports.update(&ledger);
        reports.update(&ledger);
        let mut records = RecordFacts::default();
        records.take(event("bounced", "claimed@x.test"));
        records.take(event("bounced", "silent@x.test"));
        records.take(event("deferred", "open@x.test"));
        let fate = |recipient, silent| fate(&accepted(recipient, silent), &ledger, &reports, &records);
        assert_eq!(fate("there@x.test", false), Fate::Delivered);
        assert_eq!(fate("back@x.test", false), Fate::Bounced);
        assert_eq!(fate("late@x.test", false), Fate::Expired);
        assert_eq!(fate("claimed@x.test", false), Fate::Open);
        assert_eq!(fate("silent@x.test", true), Fate::Bounced);
        assert_eq!(fate("open@x.test", false), Fate::Open);
        assert_eq!(reports.doubled(), 0);
    }

    #[test]
    fn lost_doubled_contradicted_and_unexpected_mail_shows_in_the_account() {
        let mut handed = Handed {
            accepted: ["lost@x.test", "twice@x.test", "both@x.test"].map(|name| accepted(name, false)).to_vec(),
            ..Handed::default()
        };
        handed.uncertain.insert(("r1".to_owned(), "perhaps@x.test".to_owned()));
        let mut ledger = Ledger::default();
        for name in ["twice@x.test", "twice@x.test", "both@x.test", "perhaps@x.test", "stranger@x.test"] {
            let receipt = ledger.accept("r1", name, acceptance(false));
            ledger.replied(&receipt, Duration::ZERO);
        }
        ledger.report("r1", report("both@x.test", "5.0.0"), Duration::ZERO);
        let mut reports = Reports::default();
        reports.update(&ledger);
        let account = Account::of(&handed, &ledger, &reports, &RecordFacts::default(), |_| true);
        assert_eq!((account.count(0, Fate::Delivered), account.count(0, Fate::Open)), (2, 1));
        assert_eq!(account.open, ["lost@x.test"]);
        assert_eq!(account.duplicates[&0], Duplicates { avoidable: 1, unavoidable: 0 });
        assert_eq!(account.contradictions, 1);
        assert_eq!(account.unexpected.len(), 1);
    }

    #[test]
    fn a_bounce_that_no_receiver_asked_for_is_not_justified() {
        let handed = Handed {
            accepted: ["asked@x.test", "unasked@x.test"].map(|name| accepted(name, false)).to_vec(),
            ..Handed::default()
        };
        let mut ledger = Ledger::default();
        for name in ["asked@x.test", "unasked@x.test"] {
            ledger.report("r1", report(name, "5.1.2"), Duration::ZERO);
        }
        let mut reports = Reports::default();
        reports.update(&ledger);
        let justified = |accepted: &Accepted| accepted.recipient == "asked@x.test";
        let account = Account::of(&handed, &ledger, &reports, &RecordFacts::default(), justified);
        assert_eq!(account.count(0, Fate::Bounced), 2);
        assert_eq!(account.unjustified[&0], 1);
        assert!(account.unjustified_named[0].starts_with("unasked@x.test was returned"));
    }
}
