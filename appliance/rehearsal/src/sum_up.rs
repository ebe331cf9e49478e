//! Draws the summary from the ledger, the judge, the verifier, the reports
//! and the records, when everything has ended.

use std::collections::BTreeMap;

use postkeep_configuration::{Configuration, OutboundTls};

use crate::account::{Account, Fate};
use crate::handed::Handed;
use crate::internet::Internet;
use crate::judge::Promise;
use crate::learnt::CameBack;
use crate::ledger::Ledger;
use crate::mailbox::Reason;
use crate::reasons::{Demands, Reasons, unprotected};
use crate::records::RecordFacts;
use crate::rulebook::Provider;
use crate::summary::{Counts, Dkim, ProviderSummary, Summary};
use crate::verdict::{Finding, verdict};
use crate::watch::{Watch, deferrals};

/// Most sentences of one kind.
const SAMPLES: usize = 5;

/// The summary, but for what only the caller knows (seed, times, notes).
pub(crate) fn sum_up(
    internet: &Internet,
    configuration: &Configuration,
    handed: &Handed,
    watch: &mut Watch,
    came_back: CameBack,
    ended_at_deadline: bool,
) -> Summary {
    let reasons = Reasons::of(internet, configuration);
    let (account, converted, missing, mut samples) = internet.with_ledger(|ledger| {
        watch.reports.update(ledger);
        let account = Account::of(handed, ledger, &watch.reports, &watch.records, &reasons);
        let corrupted = ledger.corrupted_samples().iter().map(|(_, text)| text).take(SAMPLES);
        let samples: Vec<String> = corrupted.chain(ledger.astray_samples().iter().take(SAMPLES)).cloned().collect();
        (account, ledger.converted_count(), not_recorded(ledger, &watch.records), samples)
    });
    let mut summary = Summary {
        messages: handed.messages(),
        messages_by_http: handed.by_http(),
        refused: handed.refused(),
        refused_unexplained: handed.unexplained(),
        uncertain: handed.uncertain().count() as u64,
        deferred: watch.records.deferrals(),
        still_deferred: account.open_deferred,
        expired_because: account.causes.clone(),
        delay_reports: watch.reports.delays(),
        ended_at_deadline,
        unreadable_records: watch.unreadable_records(),
        missing_records: missing.len() as u64,
        converted,
        dns_questions: internet.questions(),
        seconds: watch.last_delivery.as_secs_f64(),
        ..Summary::default()
    };
    samples.extend(account.unexpected.iter().take(SAMPLES).map(|(_, text)| text.clone()));
    samples.extend(account.named.iter().take(2 * SAMPLES).cloned());
    let unprotected = unprotected(internet, configuration);
    samples.extend(unprotected.values().flatten().take(SAMPLES).cloned());
    samples.extend(came_back.samples.iter().cloned());
    samples.extend(internet.verifier().samples().into_iter().take(SAMPLES));
    let missing = missing.iter().take(SAMPLES);
    samples.extend(missing.map(|recipient| format!("{recipient} has the mail, and the records say nothing of it")));
    let open = account.open.iter().take(SAMPLES);
    samples.extend(open.map(|recipient| format!("{recipient} has no end and was never deferred")));
    let uncertain = handed.uncertain().take(SAMPLES);
    samples
        .extend(uncertain.map(|recipient| format!("the message for {recipient} was handed over and never answered")));
    let refusals = handed.refusals().into_iter().take(SAMPLES);
    samples.extend(refusals.map(|(text, times)| format!("refused {times} times at submission: {text}")));
    let home = internet.home();
    for (place, rules) in internet.providers().iter().enumerate() {
        let mut part = part(internet, &account, watch, place, rules);
        part.counts.policy_violations = unprotected.get(&place).map_or(0, |list| list.len() as u64);
        let faults = internet.with_mailboxes(place, |mailboxes| mailboxes.faults().to_vec()).unwrap_or_default();
        samples
            .extend(faults.iter().map(|fault| format!("{} was spoken to against the protocol: {fault}", rules.name)));
        summary.tls.sessions += part.tls_sessions;
        summary.tls.failed_handshakes += part.tls_failures;
        add(&mut summary.counts, &part.counts);
        summary.order.push(rules.name.clone());
        summary.providers.insert(rules.name.clone(), part);
    }
    // Reports sent twice and answers that contradict each other belong to nobody's site but home.
    let extra = Counts {
        duplicates: watch.reports.doubled(),
        corrupted: account.contradictions,
        unasked_reports: account.unasked,
        ..Counts::default()
    };
    summary.samples = samples;
    add(&mut summary.counts, &extra);
    if let Some(part) = internet.providers().get(home).and_then(|rules| summary.providers.get_mut(&rules.name)) {
        add(&mut part.counts, &extra);
    }
    (summary.tls.deliveries, summary.tls.clear_deliveries) = account.tls;
    let signatures = internet.verifier().total();
    summary.dkim = Dkim {
        checked: signatures.checked,
        passed: signatures.passed,
        rsa: signatures.rsa,
        ed25519: signatures.ed25519,
    };
    summary.violations = internet.with_judge(|judge| judge.violations().to_vec());
    summary.tls.policies = watch.records.policies().clone();
    summary.tls.held_back = watch.records.held_back();
    summary.tls.policies_fetched = internet.policies_fetched();
    summary.came_back = came_back;
    summary.kept = summary.is_kept();
    let promises: BTreeMap<usize, Promise> = internet
        .with_judge(|judge| (0..home).filter_map(|place| Some((place, judge.promise(place)?.clone()))).collect());
    let demands = Demands::of(configuration);
    let findings: Vec<Finding<'_>> = internet
        .providers()
        .iter()
        .take(home)
        .enumerate()
        .filter_map(|(place, rules)| {
            let mut hosts = rules.site.iter().flat_map(|site| &site.host);
            let verified = |host: &str| demands.tls(rules, host) == OutboundTls::Verified;
            Some(Finding {
                rules,
                part: summary.providers.get(&rules.name)?,
                promise: promises.get(&place),
                verified: hosts.any(|host| verified(&host.name)),
            })
        })
        .collect();
    summary.verdict = verdict(&summary, &findings);
    summary
}

/// Recipients whose provider has said that it has the mail, without a record of it.
fn not_recorded(ledger: &Ledger, records: &RecordFacts) -> Vec<String> {
    let answered = ledger.all().filter(|(_, _, list)| list.iter().any(|acceptance| acceptance.replied.is_some()));
    let recipients = answered.map(|(_, recipient, _)| recipient);
    recipients.filter(|recipient| !records.was_delivered(recipient)).map(str::to_owned).collect()
}

fn part(internet: &Internet, account: &Account, watch: &Watch, place: usize, rules: &Provider) -> ProviderSummary {
    let count = |fate| account.count(place, fate);
    let fates = [Fate::Delivered, Fate::Bounced, Fate::Expired, Fate::Suppressed, Fate::Open];
    let tally = internet.with_judge(|judge| judge.tally(place));
    let duplicates = account.duplicates.get(&place).copied().unwrap_or_default();
    let unexpected = account.unexpected.iter().filter(|(provider, _)| *provider == place).count() as u64;
    let (tls_sessions, tls_failures) = internet.tls(place);
    let reasons = internet.with_mailboxes(place, |mailboxes| mailboxes.reasons().clone()).unwrap_or_default();
    ProviderSummary {
        counts: Counts {
            accepted: fates.into_iter().map(count).sum(),
            delivered: count(Fate::Delivered),
            bounced: count(Fate::Bounced),
            expired: count(Fate::Expired),
            unjustified_bounces: account.unjustified.get(&place).copied().unwrap_or_default(),
            unjustified_expiries: account.unjustified_expiries.get(&place).copied().unwrap_or_default(),
            suppressed: count(Fate::Suppressed),
            unaccounted: count(Fate::Open),
            duplicates: duplicates.avoidable,
            unavoidable_duplicates: duplicates.unavoidable,
            limit_violations: tally.violations,
            dkim_failures: internet.signatures(place).failed,
            policy_violations: 0,
            wrong_sources: internet.with_ledger(|ledger| ledger.astray_at(place)),
            unasked_reports: 0,
            protocol_faults: reasons.get(&Reason::ProtocolFault).copied().unwrap_or_default(),
            corrupted: internet.with_ledger(|ledger| ledger.corrupted_at(place)) + unexpected,
        },
        deferred: deferrals(rules, &watch.records),
        connections: tally.connections,
        most_connections: tally.most_open,
        transactions: tally.messages,
        tls_sessions,
        tls_failures,
        reasons,
    }
}

fn add(sum: &mut Counts, part: &Counts) {
    sum.accepted += part.accepted;
    sum.delivered += part.delivered;
    sum.bounced += part.bounced;
    sum.expired += part.expired;
    sum.unjustified_bounces += part.unjustified_bounces;
    sum.unjustified_expiries += part.unjustified_expiries;
    sum.suppressed += part.suppressed;
    sum.unaccounted += part.unaccounted;
    sum.duplicates += part.duplicates;
    sum.unavoidable_duplicates += part.unavoidable_duplicates;
    sum.limit_violations += part.limit_violations;
    sum.dkim_failures += part.dkim_failures;
    sum.corrupted += part.corrupted;
    sum.policy_violations += part.policy_violations;
    sum.wrong_sources += part.wrong_sources;
    sum.unasked_reports += part.unasked_reports;
    sum.protocol_faults += part.protocol_faults;
}
