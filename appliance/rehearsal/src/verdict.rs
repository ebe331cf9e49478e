//! From counts to advice: what the owner should change, and what only looks
//! bad. One sentence for each finding, the most important first.

use crate::judge::Promise;
use crate::mailbox::Reason;
use crate::rulebook::{Certificate, Provider};
use crate::summary::{ProviderSummary, Summary};

/// A provider with everything that is said about it.
pub struct Finding<'a> {
    /// Its rules.
    pub rules: &'a Provider,
    /// What it saw.
    pub part: &'a ProviderSummary,
    /// What the configuration promises.
    pub promise: Option<&'a Promise>,
    /// Whether the configuration demands valid certificates there.
    pub verified: bool,
}

/// The sentences.
pub fn verdict(summary: &Summary, findings: &[Finding<'_>]) -> Vec<String> {
    let mut sentences = Vec::new();
    let counts = &summary.counts;
    let lost = counts.unaccounted.saturating_sub(summary.still_deferred);
    if lost > 0 {
        sentences.push(format!(
            "{lost} accepted recipients have no end and were never deferred: their mail, or the report about it, was lost, or never begun before the deadline"
        ));
    }
    if summary.still_deferred > 0 {
        sentences.push(format!(
            "{} accepted recipients were deferred and had no end when the rehearsal ended: give it a later deadline",
            summary.still_deferred
        ));
    }
    if counts.unjustified_bounces > 0 {
        sentences.push(format!(
            "{} recipients were returned to the sender although no receiver refused them",
            counts.unjustified_bounces
        ));
    }
    if counts.duplicates > 0 {
        sentences.push(format!(
            "{} recipients or reports were served twice after the receiver had confirmed",
            counts.duplicates
        ));
    }
    if counts.limit_violations > 0 {
        sentences.push(format!(
            "{} times a limit of the configuration was exceeded at the receiver",
            counts.limit_violations
        ));
    }
    if counts.dkim_failures > 0 {
        sentences.push(format!("{} messages were not signed as configured", counts.dkim_failures));
    }
    if counts.corrupted > 0 {
        sentences.push(format!("{} messages arrived altered or where they should not", counts.corrupted));
    }
    if counts.policy_violations > 0 {
        sentences.push(format!("{} deliveries broke DANE or MTA-STS", counts.policy_violations));
    }
    let back = &summary.came_back;
    if back.refused + back.not_learnt + back.wrongly_suppressed > 0 {
        sentences.push(format!(
            "of what came back {} were not taken and {} not learnt; {} recipients were suppressed for an automatic reply",
            back.refused, back.not_learnt, back.wrongly_suppressed
        ));
    }
    if back.second_wave_suppressed < back.second_wave || back.second_wave_delivered > 0 {
        sentences.push(format!(
            "{} recipients who bounced or complained were written to again, {} of them reached",
            back.second_wave.saturating_sub(back.second_wave_suppressed),
            back.second_wave_delivered
        ));
    }
    for finding in findings {
        about(finding, &mut sentences);
    }
    if summary.protocol_faults > 0 {
        sentences.push(format!("receivers saw {} breaches of the protocol", summary.protocol_faults));
    }
    if summary.refused > 0 {
        sentences.push(format!("{} recipients were refused at submission; see the samples", summary.refused));
    }
    if sentences.is_empty() {
        sentences.push("nothing to change: every provider of the rule book took the mail at this pace".to_owned());
    }
    sentences
}

fn about(finding: &Finding<'_>, sentences: &mut Vec<String>) {
    let Finding { rules, part, promise, verified } = finding;
    let name = &rules.name;
    let table = rules.rules.as_ref().map_or_else(|| "[lane]".to_owned(), |rules| format!("[provider.{rules}.lane]"));
    let count = |reason| part.reasons.get(&reason).copied().unwrap_or_default();
    let limits = &rules.limits;
    let lane = promise.map(|promise| &promise.lane);
    let mut say = |reason: Reason, what: &str, key: &str, allowed: Option<String>, set: Option<String>| {
        let times = count(reason);
        let Some(allowed) = allowed.filter(|_| times > 0) else { return };
        let now = set.map_or_else(|| "no limit".to_owned(), |set| format!("{key} = {set}"));
        sentences.push(format!("{name}: {times} refusals because of {what} ({now} here, {allowed} allowed there): set {key} to {allowed} in {table}"));
    };
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let rate = |value: Option<postkeep_configuration::Rate>| value.map(|value| format!("\"{value}\""));
    say(
        Reason::TooManyConnections,
        "too many connections",
        "connections",
        number(limits.connections),
        number(lane.and_then(|lane| lane.connections)),
    );
    say(
        Reason::TooManyMessages,
        "too many messages on a connection",
        "messages-per-connection",
        number(limits.messages_per_connection),
        number(lane.and_then(|lane| lane.messages_per_connection)),
    );
    say(
        Reason::TooManyRecipients,
        "too many recipients in a transaction",
        "recipients-per-transaction",
        number(limits.recipients_per_transaction),
        number(lane.and_then(|lane| lane.recipients_per_transaction)),
    );
    say(
        Reason::ConnectionRate,
        "connections opened too fast",
        "connection-rate",
        rate(limits.connection_rate),
        rate(lane.and_then(|lane| lane.connection_rate)),
    );
    say(
        Reason::MessageRate,
        "messages sent too fast",
        "message-rate",
        rate(limits.message_rate),
        rate(lane.and_then(|lane| lane.message_rate)),
    );
    if count(Reason::UnknownSource) > 0 {
        sentences.push(format!(
            "{name}: new sources are refused at the greeting until their operator has written to the postmaster ({} refusals here): write before the first mailing",
            count(Reason::UnknownSource)
        ));
    }
    let bad_certificate = rules.site.iter().flat_map(|site| &site.host).any(|host| {
        matches!(
            host.certificate,
            Certificate::SelfSigned | Certificate::Expired | Certificate::WrongName | Certificate::None
        )
    });
    if *verified && bad_certificate && part.counts.delivered < part.counts.accepted {
        sentences.push(format!(
            "{name}: its hosts have no valid certificate; with tls = \"verified\" their mail waits until it expires"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rulebook::RuleBook;
    use postkeep_configuration::LaneLimits;
    use std::collections::BTreeMap;

    #[test]
    fn advice_names_the_table_the_key_and_the_number() {
        let book = RuleBook::shipped().unwrap();
        let rules = book.provider.iter().find(|provider| provider.name == "orange").unwrap();
        let part = ProviderSummary {
            reasons: BTreeMap::from([(Reason::TooManyConnections, 412)]),
            ..ProviderSummary::default()
        };
        let promise =
            Promise { lane: LaneLimits { connections: Some(8), ..LaneLimits::default() }, ..Promise::default() };
        let finding = Finding { rules, part: &part, promise: Some(&promise), verified: false };
        let sentences = verdict(&Summary::default(), &[finding]);
        assert_eq!(
            sentences,
            [
                "orange: 412 refusals because of too many connections (connections = 8 here, 2 allowed there): set connections to 2 in [provider.orange.lane]"
            ]
        );
        assert!(verdict(&Summary::default(), &[])[0].starts_with("nothing to change"));
    }
}
