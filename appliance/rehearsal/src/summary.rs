//! The summary: counts for machines, a table and sentences for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::judge::Violation;
use crate::learnt::CameBack;
use crate::mailbox::Reason;

/// Counts of recipients and broken promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
    /// Recipients that must not be written to.
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
    /// Deliveries where DANE or MTA-STS forbids them: to the wrong host, or in the clear.
    pub policy_violations: u64,
}

impl Counts {
    /// Whether no promise broke.
    pub fn kept(&self) -> bool {
        self.unaccounted == 0
            && self.unjustified_bounces == 0
            && self.duplicates == 0
            && self.limit_violations == 0
            && self.dkim_failures == 0
            && self.corrupted == 0
            && self.policy_violations == 0
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
    /// Recipients handed over without an answer.
    pub uncertain: u64,
    /// Deferrals in the product's records.
    pub deferred: u64,
    /// Of the unaccounted: were deferred, and may have been waiting still.
    pub still_deferred: u64,
    /// Reports of delay that came home.
    pub delay_reports: u64,
    /// Messages rightly re-encoded for hosts without 8BITMIME.
    pub converted: u64,
    /// Breaches of the protocol that the providers saw.
    pub protocol_faults: u64,
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
    /// As JSON, with a final line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
        text.push('\n');
        text
    }
}

const COLUMNS: [&str; 9] =
    ["accepted", "delivered", "bounced", "expired", "open", "deferred", "conns", "most", "broken"];

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
            "signatures: {} of {} messages good ({} RSA, {} Ed25519); TLS: {} of {} deliveries, {} failed handshakes",
            self.dkim.passed,
            self.dkim.checked,
            self.dkim.rsa,
            self.dkim.ed25519,
            self.tls.deliveries,
            self.tls.deliveries + self.tls.clear_deliveries,
            self.tls.failed_handshakes
        )?;
        let policies: Vec<String> = self.tls.policies.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(
            out,
            "held to: {}; {} recipients held back by DANE or MTA-STS",
            policies.join(", "),
            self.tls.held_back
        )?;
        came_back(out, &self.came_back)?;
        if self.refused + self.uncertain > 0 {
            writeln!(out, "at submission: {} recipients refused, {} without an answer", self.refused, self.uncertain)?;
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
        writeln!(
            out,
            "\n{}: {} unaccounted, {} returned without a reason, {} duplicates ({} more that SMTP cannot avoid), {} limits broken, {} bad signatures, {} corrupted, {} against a policy, {} not learnt, {} written to all the same",
            if self.kept { "Every promise was kept" } else { "A promise was broken" },
            counts.unaccounted,
            counts.unjustified_bounces,
            counts.duplicates,
            counts.unavoidable_duplicates,
            counts.limit_violations,
            counts.dkim_failures,
            counts.corrupted,
            counts.policy_violations,
            self.came_back.not_learnt + self.came_back.refused + self.came_back.wrongly_suppressed,
            self.came_back.second_wave - self.came_back.second_wave_suppressed.min(self.came_back.second_wave)
        )
    }
}

fn came_back(out: &mut fmt::Formatter<'_>, back: &CameBack) -> fmt::Result {
    writeln!(
        out,
        "came back: {} bounces, {} complaints, {} automatic replies, {} not taken",
        back.bounces, back.complaints, back.auto_replies, back.refused
    )?;
    let reasons: Vec<String> = back.suppressions.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    writeln!(
        out,
        "suppressions learnt: {} of {} bounces, {} of {} complaints; the list has {}; second wave: {} of {} suppressed",
        back.learnt_bounces,
        back.bounces,
        back.learnt_complaints,
        back.complaints,
        if reasons.is_empty() { "nothing".to_owned() } else { reasons.join(", ") },
        back.second_wave_suppressed,
        back.second_wave
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
    let broken = counts.duplicates
        + counts.limit_violations
        + counts.dkim_failures
        + counts.corrupted
        + counts.unaccounted
        + counts.unjustified_bounces
        + counts.policy_violations;
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
        broken,
    ] {
        write!(out, " {number:>9}")?;
    }
    writeln!(out)
}
