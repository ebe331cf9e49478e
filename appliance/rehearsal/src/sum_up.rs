//! Draws the summary from the ledger, the judge, the verifier, the reports
//! and the records, when everything has ended.

use std::collections::BTreeMap;

use postkeep_configuration::{Configuration, OutboundTls};

use crate::account::{Accepted, Account, Fate, Handed};
use crate::internet::Internet;
use crate::judge::Promise;
use crate::learnt::CameBack;
use crate::mailbox::Reason;
use crate::rulebook::{NamesMood, Provider};
use crate::summary::{Counts, Dkim, ProviderSummary, Summary};
use crate::verdict::{Finding, verdict};
use crate::watch::{Watch, deferrals};

/// The summary, but for what only the caller knows (seed, times, notes).
pub(crate) fn sum_up(
    internet: &Internet,
    configuration: &Configuration,
    handed: &Handed,
    watch: &mut Watch,
    came_back: CameBack,
) -> Summary {
    let (account, converted, mut samples) = internet.with_ledger(|ledger| {
        watch.reports.update(ledger);
        let account =
            Account::of(handed, ledger, &watch.reports, &watch.records, |accepted| justified(internet, accepted));
        let samples: Vec<String> = ledger.corrupted_samples().iter().take(5).map(|(_, text)| text.clone()).collect();
        (account, ledger.converted_count(), samples)
    });
    let mut summary = Summary {
        messages: handed.messages(),
        messages_by_http: handed.by_http(),
        refused: handed.refused(),
        uncertain: handed.uncertain(),
        deferred: watch.records.deferrals(),
        still_deferred: account.open_deferred,
        delay_reports: watch.reports.delays(),
        converted,
        dns_questions: internet.questions(),
        seconds: watch.last_delivery.as_secs_f64(),
        ..Summary::default()
    };
    samples.extend(account.unexpected.iter().take(5).map(|(_, text)| text.clone()));
    samples.extend(account.unjustified_named.iter().take(5).cloned());
    let unprotected = unprotected(internet, configuration);
    samples.extend(unprotected.values().flatten().take(5).cloned());
    samples.extend(came_back.samples.iter().cloned());
    samples.extend(internet.verifier().samples().into_iter().take(5));
    samples
        .extend(account.open.iter().take(5).map(|recipient| format!("{recipient} has no end and was never deferred")));
    samples.extend(
        handed
            .refusals()
            .into_iter()
            .take(5)
            .map(|(text, times)| format!("refused {times} times at submission: {text}")),
    );
    summary.samples = samples;
    let home = internet.home();
    for (place, rules) in internet.providers().iter().enumerate() {
        let mut part = part(internet, &account, watch, place, rules);
        part.counts.policy_violations = unprotected.get(&place).map_or(0, |list| list.len() as u64);
        if let Some(faults) = part.reasons.get(&Reason::ProtocolFault) {
            summary.protocol_faults += faults;
        }
        summary.tls.sessions += part.tls_sessions;
        summary.tls.failed_handshakes += part.tls_failures;
        add(&mut summary.counts, &part.counts);
        summary.order.push(rules.name.clone());
        summary.providers.insert(rules.name.clone(), part);
    }
    // Reports sent twice and answers that contradict each other belong to nobody's site but home.
    let extra = Counts { duplicates: watch.reports.doubled(), corrupted: account.contradictions, ..Counts::default() };
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
    summary.kept = summary.counts.kept() && came_back.kept();
    summary.came_back = came_back;
    let promises: BTreeMap<usize, Promise> = internet
        .with_judge(|judge| (0..home).filter_map(|place| Some((place, judge.promise(place)?.clone()))).collect());
    let findings: Vec<Finding<'_>> = internet
        .providers()
        .iter()
        .take(home)
        .enumerate()
        .filter_map(|(place, rules)| {
            let own = rules.rules.as_ref().and_then(|name| configuration.provider.get(name)).and_then(|own| own.tls);
            Some(Finding {
                rules,
                part: summary.providers.get(&rules.name)?,
                promise: promises.get(&place),
                verified: own.unwrap_or(configuration.delivery.tls) == OutboundTls::Verified,
            })
        })
        .collect();
    summary.verdict = verdict(&summary, &findings);
    summary
}

fn part(internet: &Internet, account: &Account, watch: &Watch, place: usize, rules: &Provider) -> ProviderSummary {
    let count = |fate| account.count(place, fate);
    let fates = [Fate::Delivered, Fate::Bounced, Fate::Expired, Fate::Suppressed, Fate::Open];
    let tally = internet.with_judge(|judge| judge.tally(place));
    let duplicates = account.duplicates.get(&place).copied().unwrap_or_default();
    let unexpected = account.unexpected.iter().filter(|(provider, _)| *provider == place).count() as u64;
    let (tls_sessions, tls_failures) = internet.tls(place);
    ProviderSummary {
        counts: Counts {
            accepted: fates.into_iter().map(count).sum(),
            delivered: count(Fate::Delivered),
            bounced: count(Fate::Bounced),
            expired: count(Fate::Expired),
            unjustified_bounces: account.unjustified.get(&place).copied().unwrap_or_default(),
            suppressed: count(Fate::Suppressed),
            unaccounted: count(Fate::Open),
            duplicates: duplicates.avoidable,
            unavoidable_duplicates: duplicates.unavoidable,
            limit_violations: tally.violations,
            dkim_failures: internet.signatures(place).failed,
            policy_violations: 0,
            corrupted: internet.with_ledger(|ledger| ledger.corrupted_at(place)) + unexpected,
        },
        deferred: deferrals(rules, &watch.records),
        connections: tally.connections,
        most_connections: tally.most_open,
        transactions: tally.messages,
        tls_sessions,
        tls_failures,
        reasons: internet.with_mailboxes(place, |mailboxes| mailboxes.reasons().clone()).unwrap_or_default(),
    }
}

fn add(sum: &mut Counts, part: &Counts) {
    sum.accepted += part.accepted;
    sum.delivered += part.delivered;
    sum.bounced += part.bounced;
    sum.expired += part.expired;
    sum.unjustified_bounces += part.unjustified_bounces;
    sum.suppressed += part.suppressed;
    sum.unaccounted += part.unaccounted;
    sum.duplicates += part.duplicates;
    sum.unavoidable_duplicates += part.unavoidable_duplicates;
    sum.limit_violations += part.limit_violations;
    sum.dkim_failures += part.dkim_failures;
    sum.corrupted += part.corrupted;
    sum.policy_violations += part.policy_violations;
}

/// Deliveries that DANE or MTA-STS forbids, by provider, each as a sentence.
fn unprotected(internet: &Internet, configuration: &Configuration) -> BTreeMap<usize, Vec<String>> {
    let (dane, mta_sts) = (configuration.delivery.dane, configuration.mta_sts.enabled);
    let mut found: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    internet.with_ledger(|ledger| {
        for (id, recipient, acceptances) in ledger.all() {
            for acceptance in acceptances {
                let Some(site) =
                    internet.providers().get(acceptance.provider).and_then(|rules| rules.site_of(recipient))
                else {
                    continue;
                };
                let forbidden = !site.may_receive(&acceptance.host, dane, mta_sts);
                if forbidden || (!acceptance.tls && site.needs_tls(&acceptance.host, dane, mta_sts)) {
                    let how = if acceptance.tls { "by TLS" } else { "in the clear" };
                    found.entry(acceptance.provider).or_default().push(format!(
                        "message {id} for {recipient} was given to {} {how}, against DANE or MTA-STS",
                        acceptance.host
                    ));
                }
            }
        }
    });
    found
}

/// Octets that headers and signatures may add on the way.
const GROWTH: usize = 8192;

/// Whether a bounce has a reason: a receiver refused the recipient for good, nobody is there to
/// receive, or the hosts cannot take such a message.
fn justified(internet: &Internet, accepted: &Accepted) -> bool {
    let refused =
        internet.with_mailboxes(accepted.provider, |mailboxes| mailboxes.refused_for_good(&accepted.recipient));
    if refused == Some(true) {
        return true;
    }
    let Some(rules) = internet.providers().get(accepted.provider) else { return true };
    let site = rules.site_of(&accepted.recipient);
    if site.is_none_or(|site| matches!(site.names, NamesMood::NullMx | NamesMood::NoSuchDomain)) {
        return true;
    }
    let utf8 = rules.capabilities.iter().any(|word| word == "SMTPUTF8");
    let largest = rules.capabilities.iter().find_map(|word| word.strip_prefix("SIZE ")?.parse::<usize>().ok());
    (accepted.utf8 && !utf8) || largest.is_some_and(|largest| accepted.size + GROWTH > largest)
}
