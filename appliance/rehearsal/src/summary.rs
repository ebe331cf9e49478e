//! The summary: counts for machines, a table and sentences for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::judge::Violation;
use crate::learnt::CameBack;
use crate::mailbox::Reason;
use crate::reasons::Cause;

/// Counts of recipients and broken promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Counts {
    /// Recipients answered `250` at submission.
    pub accepted: u64,
    /// Recipients whose mail a receiver has.
    pub delivered: u64,
    /// Recipients returned to the sender.
    pub bounced: u64,
    /// Recipients returned because time ran out.
    pub expired: u64,
    /// Of the bounced: returned although no receiver refused them for good.
    pub unjustified_bounces: u64,
    /// Of the expired: returned although nothing kept the mail from its receiver.
    pub unjustified_expiries: u64,
    /// Recipients that the product would not write to, though the list was empty and nobody had been written to before.
    pub suppressed: u64,
    /// Accepted recipients of whom nothing final is known.
    pub unaccounted: u64,
    /// Accepted twice by a receiver that had said so, and reports sent twice.
    pub duplicates: u64,
    /// Accepted twice because a reply got lost.
    pub unavoidable_duplicates: u64,
    /// Limits that the configuration promises and the receivers saw broken.
    pub limit_violations: u64,
    /// Messages that should be signed and are not, or not well.
    pub dkim_failures: u64,
    /// Messages that arrived altered, unasked for, or against what the sender was told.
    pub corrupted: u64,
    /// Deliveries where DANE, MTA-STS or the configured TLS forbids them: to the wrong host, or in the clear.
    pub policy_violations: u64,
    /// Messages from an address that is not of their stream's pool.
    pub wrong_sources: u64,
    /// Reports that nobody wanted (`NOTIFY=NEVER`).
    pub unasked_reports: u64,
    /// Breaches of the protocol that the receivers saw.
    pub protocol_faults: u64,
}

impl Counts {
    /// Promises that broke.
    pub fn broken(&self) -> u64 {
        self.unaccounted
            + self.unjustified_bounces
            + self.unjustified_expiries
            + self.suppressed
            + self.duplicates
            + self.limit_violations
            + self.dkim_failures
            + self.corrupted
            + self.policy_violations
            + self.wrong_sources
            + self.unasked_reports
            + self.protocol_faults
    }
}

/// How connections and messages were protected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Handshakes that worked.
    pub sessions: u64,
    /// Handshakes that did not.
    pub failed_handshakes: u64,
    /// Deliveries under TLS.
    pub deliveries: u64,
    /// Deliveries in the clear.
    pub clear_deliveries: u64,
    /// Deliveries by `tls.policy` of the product's records; `clear`: without TLS.
    pub policies: BTreeMap<String, u64>,
    /// Recipients whose mail was put off because it could not be protected as DANE or MTA-STS demands.
    pub held_back: u64,
    /// MTA-STS policies that were fetched.
    pub policies_fetched: u64,
}

/// Signatures looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Dkim {
    /// Messages looked at.
    pub checked: u64,
    /// Messages well signed.
    pub passed: u64,
    /// RSA signatures that verified.
    pub rsa: u64,
    /// Ed25519 signatures that verified.
    pub ed25519: u64,
}

/// One provider's part.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ProviderSummary {
    /// The same counts as for all.
    #[serde(flatten)]
    pub counts: Counts,
    /// Deferrals in the product's records.
    pub deferred: u64,
    /// Connections made.
    pub connections: u64,
    /// Most connections open at once from one source at one site.
    pub most_connections: u32,
    /// Mail transactions.
    pub transactions: u64,
    /// TLS handshakes that worked and that did not.
    pub tls_sessions: u64,
    /// TLS handshakes that did not work.
    pub tls_failures: u64,
    /// How often the provider said no, by reason.
    pub reasons: BTreeMap<Reason, u64>,
}

/// What a rehearsal found out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Whether every promise was kept.
    pub kept: bool,
    /// Counts over all providers.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages accepted at submission.
    pub messages: u64,
    /// Of those: handed over by HTTP, the others by SMTP.
    pub messages_by_http: u64,
    /// Recipients refused at submission.
    pub refused: u64,
    /// Of those: refused although nothing in the configuration says so.
    pub refused_unexplained: u64,
    /// Recipients handed over without an answer.
    pub uncertain: u64,
    /// Deferrals in the product's records.
    pub deferred: u64,
    /// Of the unaccounted: were deferred, and may have been waiting still.
    pub still_deferred: u64,
    /// Why mail expired that had a reason to.
    pub expired_because: BTreeMap<Cause, u64>,
    /// The deadline came before every recipient had an end.
    pub ended_at_deadline: bool,
    /// Lines in the product's records that nobody can read.
    pub unreadable_records: u64,
    /// Recipients who have the mail, and whose provider said so, but of whom the product's records say nothing.
    pub missing_records: u64,
    /// Reports of delay that came home.
    pub delay_reports: u64,
    /// Messages rightly re-encoded for hosts without 8BITMIME.
    pub converted: u64,
    /// Protection on the way.
    pub tls: Tls,
    /// Signatures.
    pub dkim: Dkim,
    /// What came back and was learnt.
    pub came_back: CameBack,
    /// Questions that the simulated DNS was asked.
    pub dns_questions: u64,
    /// Length of the rehearsal, from the first submission to the last delivery.
    pub seconds: f64,
    /// Length of the submission.
    pub submission_seconds: f64,
    /// The seed.
    pub seed: u64,
    /// How much faster time ran.
    pub hurry: f64,
    /// By provider.
    pub providers: BTreeMap<String, ProviderSummary>,
    /// The first broken limits.
    pub violations: Vec<Violation>,
    /// Sentences about the first altered messages, failed signatures, open recipients and refusals.
    pub samples: Vec<String>,
    /// What the owner should change.
    pub verdict: Vec<String>,
    /// What was changed for the rehearsal.
    pub notes: Vec<String>,
    /// Providers in the order of the rule book.
    #[serde(skip)]
    pub order: Vec<String>,
}

impl Summary {
    /// Whether something was tried, and no promise broke.
    pub(crate) fn is_kept(&self) -> bool {
        self.counts.accepted > 0
            && self.counts.broken() == 0
            && self.uncertain + self.refused_unexplained + self.unreadable_records + self.missing_records == 0
            && self.came_back.kept()
    }

    /// As JSON, with a final line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
        text.push('\n');
        text
    }
}

const COLUMNS: [&str; 9] =
    ["accepted", "delivered", "bounced", "expired", "no end", "deferred", "connects", "at once", "broken"];
/// What a newcomer cannot know.
const LEGEND: &str = "\
bounced, expired  returned to the sender: refused for good, or not taken until its time was over
no end            accepted, and neither delivered nor returned
deferred          attempts that were put off
connects, at once connections made; most of them open at once from one source at one site
broken            promises broken
home              where the reports to the sender go";

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        write!(out, "\n{:<12}", "provider")?;
        for column in COLUMNS {
            write!(out, " {column:>9}")?;
        }
        writeln!(out)?;
        let named = self.order.iter().filter_map(|name| self.providers.get_key_value(name));
        let mut connections = 0;
        let mut most = 0;
        for (name, part) in named {
            connections += part.connections;
            most = most.max(part.most_connections);
            row(out, name, &part.counts, part.deferred, part.connections, part.most_connections)?;
        }
        row(out, "all", &self.counts, self.deferred, connections, most)?;
        writeln!(out, "\n{LEGEND}")?;
        let rate = self.counts.delivered as f64 / self.seconds.max(0.001);
        writeln!(
            out,
            "\n{} recipients in {} messages ({} by SMTP, {} by HTTP), seed {}, {:.1} s (submitted in {:.1} s), {rate:.0} deliveries/s over all",
            self.counts.accepted,
            self.messages,
            self.messages - self.messages_by_http,
            self.messages_by_http,
            self.seed,
            self.seconds,
            self.submission_seconds
        )?;
        writeln!(
            out,
            "signatures: {} RSA and {} Ed25519 good; {} of {} arrivals signed as configured (reports and second copies arrive too)",
            self.dkim.rsa, self.dkim.ed25519, self.dkim.passed, self.dkim.checked,
        )?;
        let policies: Vec<String> = self.tls.policies.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(
            out,
            "protection: {} of {} deliveries by TLS; by what the host had to prove: {}; {} TLS handshakes failed; mail for {} recipients kept back by DANE or MTA-STS",
            self.tls.deliveries,
            self.tls.deliveries + self.tls.clear_deliveries,
            if policies.is_empty() { "nothing".to_owned() } else { policies.join(", ") },
            self.tls.failed_handshakes,
            self.tls.held_back
        )?;
        for (cause, count) in &self.expired_because {
            writeln!(out, "expired: {count} {cause}")?;
        }
        came_back(out, &self.came_back)?;
        if self.refused + self.uncertain > 0 {
            writeln!(
                out,
                "at submission: {} recipients refused, {} of them for a reason that the configuration gives; {} without an answer",
                self.refused,
                self.refused - self.refused_unexplained,
                self.uncertain
            )?;
        }
        for violation in self.violations.iter().take(10) {
            let whose = violation.source.as_deref().unwrap_or("all sources");
            let Violation { limit, promised, seen, second, .. } = violation;
            writeln!(out, "limit broken at {second:.3} s by {whose}: {limit} promised {promised}, seen {seen}")?;
        }
        for sample in self.samples.iter().take(20) {
            writeln!(out, "seen: {sample}")?;
        }
        writeln!(out)?;
        for sentence in &self.verdict {
            writeln!(out, "- {sentence}")?;
        }
        let counts = &self.counts;
        let headline = match (self.kept, counts.accepted) {
            (true, _) => "Every promise was kept",
            (false, 0) => "Nothing was tried, so no promise was kept",
            (false, _) => "A promise was broken",
        };
        let back = &self.came_back;
        writeln!(
            out,
            "\n{headline}: {} unaccounted, {} returned without a reason, {} duplicates ({} more that SMTP cannot avoid), {} limits broken, {} bad signatures, {} corrupted, {} against a policy, {} from a wrong source, {} breaches of the protocol, {} not learnt, {} written to all the same, {} not in the records",
            counts.unaccounted + self.uncertain,
            counts.unjustified_bounces
                + counts.unjustified_expiries
                + counts.suppressed
                + counts.unasked_reports
                + self.refused_unexplained,
            counts.duplicates,
            counts.unavoidable_duplicates,
            counts.limit_violations,
            counts.dkim_failures,
            counts.corrupted + self.unreadable_records,
            counts.policy_violations,
            counts.wrong_sources,
            counts.protocol_faults,
            back.not_learnt + back.refused + back.astray + back.wrongly_suppressed,
            back.second_wave.saturating_sub(back.second_wave_suppressed),
            self.missing_records
        )
    }
}

fn came_back(out: &mut fmt::Formatter<'_>, back: &CameBack) -> fmt::Result {
    write!(
        out,
        "came back: {} bounces, {} complaints, {} automatic replies; {} were not taken",
        back.bounces, back.complaints, back.auto_replies, back.refused
    )?;
    match back.astray + back.astray_explained {
        0 => writeln!(out)?,
        astray => writeln!(out, "; {astray} more would have, but the return path is not one of [feedback]")?,
    }
    let reasons: Vec<String> = back.suppressions.iter().map(|(reason, count)| format!("{count} as {reason}")).collect();
    writeln!(
        out,
        "learnt from it: {} of {} bounces, {} of {} complaints; on the suppression list, also from refusals: {}",
        back.learnt_bounces,
        back.bounces,
        back.learnt_complaints,
        back.complaints,
        if reasons.is_empty() { "nobody".to_owned() } else { reasons.join(", ") }
    )?;
    writeln!(
        out,
        "second wave, to those who bounced or complained: {} of {} held back as suppressed",
        back.second_wave_suppressed, back.second_wave
    )
}

fn row(
    out: &mut fmt::Formatter<'_>,
    name: &str,
    counts: &Counts,
    deferred: u64,
    connections: u64,
    most: u32,
) -> fmt::Result {
    write!(out, "{name:<12}")?;
    for number in [
        counts.accepted,
        counts.delivered,
        counts.bounced,
        counts.expired,
        counts.unaccounted,
        deferred,
        connections,
        u64::from(most),
        counts.broken(),
    ] {
        write!(out, " {number:>9}")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        let counts = Counts { accepted: 3, delivered: 3, ..Counts::default() };
        Summary { counts, ..Summary::default() }
    }

    #[test]
    fn nothing_is_kept_where_nothing_was_tried_answered_or_readable() {
        assert!(good().is_kept());
        assert!(!Summary::default().is_kept());
        assert!(Summary::default().to_string().contains("\nNothing was tried"));
        assert!(!Summary { uncertain: 1, ..good() }.is_kept());
        assert!(!Summary { refused_unexplained: 1, ..good() }.is_kept());
        assert!(Summary { refused: 1, ..good() }.is_kept());
        assert!(!Summary { unreadable_records: 1, ..good() }.is_kept());
        assert!(!Summary { missing_records: 1, ..good() }.is_kept());
        assert!(!Summary { came_back: CameBack { astray: 1, ..CameBack::default() }, ..good() }.is_kept());
    }

    #[test]
    fn every_kind_of_broken_promise_counts() {
        let zero = serde_json::to_value(Counts::default()).unwrap();
        let harmless = ["accepted", "delivered", "bounced", "expired", "unavoidable_duplicates"];
        let mut names = Vec::new();
        for name in zero.as_object().unwrap().keys() {
            let mut one = zero.clone();
            one[name] = 1.into();
            let broken = serde_json::from_value::<Counts>(one).unwrap().broken();
            assert_eq!(broken, u64::from(!harmless.contains(&name.as_str())), "{name}");
            names.push(name.clone());
        }
        assert!(names.len() > 12, "{names:?}");
    }
}
