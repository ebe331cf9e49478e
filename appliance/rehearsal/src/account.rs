//! The account: what became of every recipient that the product accepted.
//! Said by the receivers' ledger and the reports that came home; by the
//! product's own records only where no report can exist. Nothing is derived
//! from a sum, so that nothing must come out even.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::handed::{Accepted, Handed};
use crate::ledger::Ledger;
use crate::mailbox::Moment;
use crate::reasons::Cause;
use crate::records::{Ended, RecordFacts};

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
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
pub(crate) struct Reports {
    failed: HashMap<String, HashMap<String, Failed>>,
    read: usize,
    delays: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failed {
    expired: bool,
    times: u64,
    said: String,
    /// When the first of them came.
    at: Moment,
}

impl Reports {
    /// Takes in what has come home since the last time.
    pub(crate) fn update(&mut self, ledger: &Ledger) {
        let reports = ledger.reports();
        for home in reports.get(self.read..).unwrap_or_default() {
            match home.report.action.as_str() {
                "failed" => {
                    // RFC 3463 §3.5: X.4.7, delivery time expired.
                    let expired = home.report.status.ends_with(".4.7");
                    let said = || format!("{} {}", home.report.status, home.report.diagnostic);
                    let first = || Failed { expired, times: 0, said: said(), at: home.at };
                    let of_message = self.failed.entry(home.id.clone()).or_default();
                    of_message.entry(home.report.recipient.clone()).or_insert_with(first).times += 1;
                }
                "delayed" => self.delays += 1,
                _ => {}
            }
        }
        self.read = reports.len();
    }

    /// Reports of delay.
    pub(crate) fn delays(&self) -> u64 {
        self.delays
    }

    /// Reports of failure beyond the first for the same recipient.
    pub(crate) fn doubled(&self) -> u64 {
        self.failed.values().flat_map(HashMap::values).map(|failed| failed.times.saturating_sub(1)).sum()
    }

    fn failed(&self, id: &str, recipient: &str) -> Option<&Failed> {
        self.failed.get(id)?.get(recipient)
    }
}

/// What became of one recipient.
pub(crate) fn fate(accepted: &Accepted, ledger: &Ledger, reports: &Reports, records: &RecordFacts) -> Fate {
    if !ledger.acceptances(&accepted.id, &accepted.recipient).is_empty() {
        return Fate::Delivered;
    }
    let recorded = records.ended(&accepted.recipient);
    if let Some(failed) = reports.failed(&accepted.id, &accepted.recipient) {
        return match recorded {
            Some(Ended::Suppressed) => Fate::Suppressed,
            Some(Ended::Expired) => Fate::Expired,
            _ if failed.expired => Fate::Expired,
            _ => Fate::Bounced,
        };
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
pub(crate) struct Duplicates {
    /// Accepted again after the sender had been told.
    pub avoidable: u64,
    /// Accepted again because the reply got lost (RFC 5321 §4.2.5, RFC 1047).
    pub unavoidable: u64,
}

/// Counts the duplicates of one recipient.
pub(crate) fn duplicates(acceptances: &[crate::ledger::Acceptance]) -> Duplicates {
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
pub(crate) struct Account {
    /// Fates by provider.
    pub fates: HashMap<(usize, Fate), u64>,
    /// Duplicates by provider.
    pub duplicates: HashMap<usize, Duplicates>,
    /// Delivered although the sender was told that it was not.
    pub contradictions: u64,
    /// Delivered although nobody was told that it was accepted.
    pub unexpected: Vec<(usize, String)>,
    /// Returned although no receiver refused for good, by provider.
    pub unjustified: HashMap<usize, u64>,
    /// Expired although nothing kept the mail from its receiver, by provider.
    pub unjustified_expiries: HashMap<usize, u64>,
    /// Why the others expired.
    pub causes: BTreeMap<Cause, u64>,
    /// Reports about recipients of whom none was wanted (`NOTIFY=NEVER`) or could be (null sender).
    pub unasked: u64,
    /// Sentences about the first of all these.
    pub named: Vec<String>,
    /// Of those of whom nothing final is known: were deferred, so that they may still be waiting.
    pub open_deferred: u64,
    /// The first recipients of whom nothing final is known and who were never deferred.
    pub open: Vec<String>,
    /// Deliveries by TLS and without.
    pub tls: (u64, u64),
}

/// Most recipients named in [`Account::open`], [`Account::named`] and [`Account::unexpected`].
const NAMED: usize = 20;

/// What the simulated internet knows of reasons.
pub(crate) trait Why {
    /// Whether something there bounces mail for the recipient.
    fn bounces(&self, accepted: &Accepted) -> bool;

    /// What kept mail for the recipient until it expired; `at`: when, if that is known.
    fn expires(&self, accepted: &Accepted, at: Option<Moment>) -> Option<Cause>;
}

impl Account {
    /// Draws up the account.
    pub(crate) fn of(
        handed: &Handed,
        ledger: &Ledger,
        reports: &Reports,
        records: &RecordFacts,
        reasons: &impl Why,
    ) -> Self {
        let mut account = Self::default();
        let mut known: HashSet<(&str, &str)> = HashSet::with_capacity(handed.accepted().len());
        for accepted in handed.accepted() {
            known.insert((&accepted.id, &accepted.recipient));
            let fate = fate(accepted, ledger, reports, records);
            *account.fates.entry((accepted.provider, fate)).or_default() += 1;
            let report = reports.failed(&accepted.id, &accepted.recipient);
            if accepted.silent && report.is_some() {
                account.unasked += 1;
                account.name(|| format!("a report about {} was sent, which nobody wanted", accepted.recipient));
            }
            let said = || report.map_or("", |report| &report.said);
            match fate {
                Fate::Open => {
                    let deferred = records.was_deferred(&accepted.recipient);
                    account.open_deferred += u64::from(deferred);
                    // Those that were never even deferred are the worse.
                    if account.open.len() < NAMED && !deferred {
                        account.open.push(accepted.recipient.clone());
                    }
                }
                Fate::Bounced if !reasons.bounces(accepted) => {
                    *account.unjustified.entry(accepted.provider).or_default() += 1;
                    account.name(|| {
                        format!("{} was returned, but no receiver refused it: {}", accepted.recipient, said())
                    });
                }
                Fate::Expired => match reasons.expires(accepted, report.map(|report| report.at)) {
                    Some(cause) => *account.causes.entry(cause).or_default() += 1,
                    None => {
                        *account.unjustified_expiries.entry(accepted.provider).or_default() += 1;
                        account
                            .name(|| format!("{} expired, but no receiver put it off: {}", accepted.recipient, said()));
                    }
                },
                Fate::Suppressed => {
                    account.name(|| format!("{} was suppressed, of whom nothing was known", accepted.recipient));
                }
                Fate::Delivered if report.is_some() => {
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
            if !known.contains(&(id, recipient)) && !handed.is_uncertain(id, recipient) {
                account.unexpected.push((
                    first.provider,
                    format!("message {id} arrived for {recipient}, for whom it was not accepted"),
                ));
            }
        }
        account
    }

    fn name(&mut self, sentence: impl FnOnce() -> String) {
        if self.named.len() < NAMED {
            self.named.push(sentence());
        }
    }

    /// Recipients of a provider with that fate.
    pub(crate) fn count(&self, provider: usize, fate: Fate) -> u64 {
        self.fates.get(&(provider, fate)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Report;
    use crate::ledger::Acceptance;
    use crate::records::Event;
    use std::time::Duration;

    fn acceptance(replied: bool) -> Acceptance {
        Acceptance {
            provider: 0,
            host: "mx".to_owned(),
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
            action: "failed".to_owned(),
            status: status.to_owned(),
            diagnostic: String::new(),
        }
    }

    /// Has the same answer to everything.
    struct Always(bool);

    impl Why for Always {
        fn bounces(&self, _: &Accepted) -> bool {
            self.0
        }

        fn expires(&self, _: &Accepted, at: Option<Moment>) -> Option<Cause> {
            assert_eq!(at, Some(Duration::from_secs(7)));
            self.0.then_some(Cause::PutOff)
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
        let handed =
            Handed::with(["lost@x.test", "twice@x.test", "both@x.test"].map(|name| accepted(name, false)).to_vec());
        let mut ledger = Ledger::default();
        for name in ["twice@x.test", "twice@x.test", "both@x.test", "stranger@x.test"] {
            let receipt = ledger.accept("r1", name, acceptance(false));
            ledger.replied(&receipt, Duration::ZERO);
        }
        ledger.report("r1", report("both@x.test", "5.0.0"), Duration::ZERO);
        let mut reports = Reports::default();
        reports.update(&ledger);
        let account = Account::of(&handed, &ledger, &reports, &RecordFacts::default(), &Always(true));
        assert_eq!((account.count(0, Fate::Delivered), account.count(0, Fate::Open)), (2, 1));
        assert_eq!(account.open, ["lost@x.test"]);
        assert_eq!(account.duplicates[&0], Duplicates { avoidable: 1, unavoidable: 0 });
        assert_eq!(account.contradictions, 1);
        assert_eq!(account.unexpected.len(), 1);
    }

    #[test]
    fn a_bounce_or_expiry_without_a_reason_and_a_report_that_nobody_wanted_are_found() {
        let handed = Handed::with(vec![
            accepted("bounced@x.test", false),
            accepted("expired@x.test", false),
            accepted("silent@x.test", true),
            accepted("suppressed@x.test", false),
        ]);
        let mut ledger = Ledger::default();
        for (name, status) in [("bounced", "5.1.2"), ("expired", "4.4.7"), ("silent", "5.1.1"), ("suppressed", "5.7.1")]
        {
            ledger.report("r1", report(&format!("{name}@x.test"), status), Duration::from_secs(7));
        }
        let mut reports = Reports::default();
        reports.update(&ledger);
        let mut records = RecordFacts::default();
        records.take(event("suppressed", "suppressed@x.test"));
        let of = |reasons| Account::of(&handed, &ledger, &reports, &records, &Always(reasons));
        let (good, bad) = (of(true), of(false));
        assert_eq!((good.count(0, Fate::Bounced), good.count(0, Fate::Expired)), (2, 1));
        assert_eq!((good.count(0, Fate::Suppressed), good.unasked), (1, 1));
        assert_eq!((good.unjustified.len(), good.unjustified_expiries.len()), (0, 0));
        assert_eq!(good.causes, BTreeMap::from([(Cause::PutOff, 1)]));
        assert_eq!((bad.unjustified[&0], bad.unjustified_expiries[&0]), (2, 1));
        assert!(bad.named[0].starts_with("bounced@x.test was returned"), "{:?}", bad.named);
        assert!(bad.named[1].starts_with("expired@x.test expired, but"), "{:?}", bad.named);
    }
}
