//! From counts to advice: what the owner should change, and what only looks
//! bad. One sentence for each finding, the most important first.

use crate::judge::Promise;
use crate::learnt::CameBack;
use crate::mailbox::Reason;
use crate::rulebook::{Certificate, Provider};
use crate::summary::{ProviderSummary, Summary};

/// A provider with everything that is said about it.
pub(crate) struct Finding<'a> {
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
pub(crate) fn verdict(summary: &Summary, findings: &[Finding<'_>]) -> Vec<String> {
    let mut sentences = Vec::new();
    tried(summary, &mut sentences);
    broken(summary, &mut sentences);
    returned(&summary.came_back, &mut sentences);
    for finding in findings {
        about(finding, &mut sentences);
    }
    if sentences.is_empty() {
        sentences.push(praise(findings));
    }
    sentences
}

/// What did not even become mail.
fn tried(summary: &Summary, sentences: &mut Vec<String>) {
    if summary.counts.accepted == 0 {
        sentences.push("nothing was tried: no recipient was accepted, and so nothing is known".to_owned());
    }
    if summary.refused_unexplained > 0 {
        sentences.push(format!(
            "{} recipients were refused at submission, for which the configuration gives no reason; see the samples",
            summary.refused_unexplained
        ));
    }
    let explained = summary.refused.saturating_sub(summary.refused_unexplained);
    if explained > 0 {
        sentences.push(format!("{explained} recipients were refused at submission, as the configuration says"));
    }
    if summary.uncertain > 0 {
        let when = if summary.ended_at_deadline { " before the deadline" } else { "" };
        sentences.push(format!(
            "{} recipients were handed over and not answered{when}: their mail may or may not be there",
            summary.uncertain
        ));
    }
}

fn broken(summary: &Summary, sentences: &mut Vec<String>) {
    let counts = &summary.counts;
    let untouched = counts.unaccounted.saturating_sub(summary.still_deferred);
    if untouched > 0 && summary.ended_at_deadline {
        sentences.push(format!(
            "{untouched} accepted recipients had no end and no deferral when the deadline came: not begun yet, or lost; a later deadline would tell"
        ));
    } else if untouched > 0 {
        sentences.push(format!(
            "{untouched} accepted recipients were lost: no delivery, no report, no deferral, and nothing more happened"
        ));
    }
    if summary.still_deferred > 0 {
        sentences.push(format!(
            "{} accepted recipients were deferred and had no end when the rehearsal ended: give it a later deadline",
            summary.still_deferred
        ));
    }
    for (count, what) in [
        (counts.unjustified_bounces, "recipients were returned to the sender although no receiver refused them"),
        (
            counts.unjustified_expiries,
            "recipients expired although no receiver put them off: forgotten, or more mail than your own limits let through before it expires",
        ),
        (counts.suppressed, "recipients were suppressed, of whom nothing could be known"),
        (counts.unasked_reports, "reports were sent though nobody wanted any (NOTIFY=NEVER)"),
        (counts.duplicates, "recipients or reports were served twice after the receiver had confirmed"),
        (counts.limit_violations, "times a limit of the configuration was exceeded at the receiver"),
        (counts.dkim_failures, "messages were not signed as configured"),
        (counts.corrupted, "messages arrived altered or where they should not"),
        (counts.policy_violations, "deliveries broke DANE or MTA-STS, or the TLS that the configuration demands"),
        (counts.wrong_sources, "messages came from an address that their stream's pool does not have"),
        (counts.protocol_faults, "times receivers saw the protocol breached"),
        (summary.unreadable_records, "lines of the records cannot be read"),
        (summary.missing_records, "recipients have the mail, and the records say nothing of it"),
    ] {
        if count > 0 {
            sentences.push(format!("{count} {what}"));
        }
    }
}

fn returned(back: &CameBack, sentences: &mut Vec<String>) {
    if back.refused + back.not_learnt + back.wrongly_suppressed > 0 {
        sentences.push(format!(
            "of what came back {} were not taken and {} not learnt; {} recipients were suppressed for an automatic reply",
            back.refused, back.not_learnt, back.wrongly_suppressed
        ));
    }
    if back.astray > 0 {
        sentences.push(format!(
            "{} recipients would have answered, but their mail had not the return path that [feedback] promises",
            back.astray
        ));
    }
    if back.astray_explained > 0 {
        sentences.push(format!(
            "{} recipients would have answered, but verp = false sends their answers past the box: nothing is learnt from them",
            back.astray_explained
        ));
    }
    if back.second_wave_suppressed < back.second_wave || back.second_wave_delivered > 0 {
        let of = [
            (back.second_wave_accepted, "accepted and not suppressed"),
            (back.second_wave_refused, "refused for another reason"),
            (back.second_wave_unanswered, "not answered"),
            (back.second_wave_delivered, "reached"),
        ];
        let parts: Vec<String> =
            of.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        sentences.push(format!(
            "written to once more, {} of {} recipients who bounced or complained were held back as suppressed; of the others: {}",
            back.second_wave_suppressed,
            back.second_wave,
            parts.join(", ")
        ));
    }
}

/// When there is nothing to say: who took the mail, and who did not.
fn praise(findings: &[Finding<'_>]) -> String {
    let written_to = || findings.iter().filter(|finding| finding.part.counts.accepted > 0);
    let none: Vec<&str> = written_to()
        .filter(|finding| finding.part.counts.delivered == 0)
        .map(|finding| finding.rules.name.as_str())
        .collect();
    match none.len() {
        0 => "nothing to change: every provider that was written to took mail at this pace".to_owned(),
        some if some == written_to().count() => {
            "nothing to change in the configuration, but no provider took any mail".to_owned()
        }
        _ => format!("nothing to change: every provider took mail at this pace but {}", none.join(", ")),
    }
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
    use crate::summary::Counts;
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
        let tried = Summary { counts: Counts { accepted: 1, ..Counts::default() }, ..Summary::default() };
        let sentences = verdict(&tried, &[finding]);
        assert_eq!(
            sentences,
            [
                "orange: 412 refusals because of too many connections (connections = 8 here, 2 allowed there): set connections to 2 in [provider.orange.lane]"
            ]
        );
    }

    #[test]
    fn nobody_is_said_to_have_taken_mail_who_did_not() {
        let book = RuleBook::shipped().unwrap();
        let part = |accepted, delivered| ProviderSummary {
            counts: Counts { accepted, delivered, expired: accepted - delivered, ..Counts::default() },
            ..ProviderSummary::default()
        };
        let said = |parts: &[ProviderSummary]| {
            let counts = Counts { accepted: 9, ..Counts::default() };
            let findings: Vec<Finding<'_>> = book
                .provider
                .iter()
                .zip(parts)
                .map(|(rules, part)| Finding { rules, part, promise: None, verified: false })
                .collect();
            verdict(&Summary { counts, ..Summary::default() }, &findings).remove(0)
        };
        assert_eq!(
            said(&[part(3, 0), part(0, 0)]),
            "nothing to change in the configuration, but no provider took any mail"
        );
        assert!(
            said(&[part(3, 0), part(3, 3)])
                .starts_with("nothing to change: every provider took mail at this pace but google")
        );
        assert!(said(&[part(3, 1), part(0, 0)]).contains("every provider that was written to took mail"));
        assert!(verdict(&Summary::default(), &[])[0].starts_with("nothing was tried"));
    }

    #[test]
    fn the_second_wave_says_what_became_of_each_who_was_not_suppressed() {
        let came_back = CameBack {
            second_wave: 10,
            second_wave_suppressed: 4,
            second_wave_accepted: 3,
            second_wave_refused: 2,
            second_wave_unanswered: 1,
            second_wave_delivered: 3,
            ..CameBack::default()
        };
        let counts = Counts { accepted: 9, ..Counts::default() };
        let sentence = verdict(&Summary { counts, came_back, ..Summary::default() }, &[]).remove(0);
        assert!(
            sentence.ends_with(
                "of the others: 3 accepted and not suppressed, 2 refused for another reason, 1 not answered, 3 reached"
            ),
            "{sentence}"
        );
    }
}
