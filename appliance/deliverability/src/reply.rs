//! What a reply means: whom it concerns, and what to do. This is the seam for a rule book that
//! knows each provider's texts; until then the verdict comes from codes alone.
//!
//! Principles: an answer about a source never speaks about a recipient; where one of the two codes
//! says "later" and the other "never", it is later (the message's own expiry bounds the wait); no
//! message bounces for what happened before its own transaction began.

use postkeep_configuration::units::Duration;
pub use postkeep_smtp::client::Stage;
use postkeep_smtp::reply::{EnhancedCode, Reply};

/// Whom a reply concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One recipient.
    Recipient,
    /// All recipients of this transaction.
    Message,
    /// All mail of the stream.
    Stream,
    /// All mail from the sender's domain.
    SenderDomain,
    /// The source, at every site.
    Source,
    /// The source at this site.
    Lane,
    /// The site, whatever the source.
    Site,
}

/// What to do with whom it concerns. Where the scope is wider than the message, the message itself
/// is always tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Try again by the schedule.
    Retry,
    /// Return to the sender.
    Bounce,
    /// Slow down. With a length: stay away that long at once; without: count a failure.
    BackOff {
        /// How long to stay away.
        length: Option<Duration>,
    },
}

/// What a reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Whom it concerns.
    pub scope: Scope,
    /// What to do.
    pub reaction: Reaction,
    /// A word for records: kebab-case.
    pub class: &'static str,
}

/// Judges a reply that refused something at this stage. `provider` is for the rule book to come.
pub fn judge(stage: Stage, reply: &Reply, provider: Option<&str>) -> Verdict {
    let _ = provider;
    let enhanced = enhanced_of(reply);
    // RFC 5321 §3.8: the server closes the channel. Whatever else it says, the lane should slow down.
    if reply.code == 421 {
        return Verdict { scope: Scope::Lane, reaction: Reaction::BackOff { length: None }, class: "service-closing" };
    }
    // The message has not been mentioned: it cannot be at fault, so it is never bounced here.
    if stage < Stage::Mail {
        let class = if reply.is_permanent() { "connection-refused" } else { "connection-deferred" };
        return Verdict { scope: Scope::Lane, reaction: Reaction::BackOff { length: None }, class };
    }
    let class = class_of(reply, enhanced);
    let scope = if stage == Stage::Rcpt { Scope::Recipient } else { Scope::Message };
    if is_later(stage, reply, enhanced) {
        // A policy answer to MAIL is about who connects, not about whom the mail is for.
        let about_the_lane = stage == Stage::Mail && enhanced.is_some_and(|code| matches!(code.subject, 3 | 4 | 7));
        if about_the_lane {
            return Verdict { scope: Scope::Lane, reaction: Reaction::BackOff { length: None }, class };
        }
        return Verdict { scope, reaction: Reaction::Retry, class };
    }
    Verdict { scope, reaction: Reaction::Bounce, class }
}

/// Judges a connection that failed or ended without a reply: the lane slows down, the message
/// and its other recipients are tried again.
pub fn lost(stage: Stage, provider: Option<&str>) -> Verdict {
    let _ = provider;
    match stage {
        // Our own address is missing; the receiver has nothing to do with it.
        Stage::Bind => {
            Verdict { scope: Scope::Source, reaction: Reaction::BackOff { length: None }, class: "source-unbindable" }
        }
        Stage::Connect => {
            Verdict { scope: Scope::Lane, reaction: Reaction::BackOff { length: None }, class: "no-connection" }
        }
        Stage::Tls => Verdict { scope: Scope::Lane, reaction: Reaction::BackOff { length: None }, class: "tls-failed" },
        _ => Verdict { scope: Scope::Lane, reaction: Reaction::BackOff { length: None }, class: "connection-lost" },
    }
}

/// The enhanced code, also one that disagrees with the reply code and was therefore left in the text.
fn enhanced_of(reply: &Reply) -> Option<EnhancedCode> {
    reply.enhanced.or_else(|| {
        let word = reply.text.split_ascii_whitespace().next()?;
        EnhancedCode::parse(word.trim_end_matches([':', ',', ';', '-']))
    })
}

fn is_later(stage: Stage, reply: &Reply, enhanced: Option<EnhancedCode>) -> bool {
    if !reply.is_permanent() {
        // 4xx; also a 2xx or 3xx in the wrong place, which says nothing final.
        return true;
    }
    match enhanced {
        Some(EnhancedCode { class: 4, .. }) => true,
        // A full mailbox may be emptied: every large receiver advises to retry.
        Some(EnhancedCode { subject: 2, detail: 2, .. }) => true,
        // RFC 5321 §4.5.3.1.10: 552 to RCPT means "too many recipients", to be taken as 452,
        // unless the enhanced code says that it is about the address, the size or policy.
        Some(EnhancedCode { subject, detail, .. }) => {
            reply.code == 552 && stage == Stage::Rcpt && !matches!((subject, detail), (1 | 2 | 7, _) | (3, 4))
        }
        None => reply.code == 552 && stage == Stage::Rcpt,
    }
}

/// A word from the enhanced code (RFC 3463 and its registry), else from the reply code.
fn class_of(reply: &Reply, enhanced: Option<EnhancedCode>) -> &'static str {
    let by_code = match reply.code {
        450 | 451 => "deferred",
        452 => "too-much",
        500..=504 => "protocol-error",
        530 | 535 => "authentication-needed",
        550 | 551 | 553 => "refused",
        552 => "too-much",
        554 | 556 => "refused",
        400..=499 => "deferred",
        _ => "refused",
    };
    let Some(code) = enhanced else { return by_code };
    match (code.subject, code.detail) {
        (1, 1 | 3 | 6) => "bad-mailbox",
        (1, 2 | 10) => "bad-domain",
        (1, 7 | 8) => "invalid-sender",
        (1, _) => "bad-address",
        (2, 1) => "mailbox-disabled",
        (2, 2) => "mailbox-full",
        (2, _) => "mailbox-status",
        (3, 4) => "message-too-big",
        (3, _) => "system-status",
        (4, _) => "routing-status",
        (5, 3) => "too-many-recipients",
        (5, _) => "protocol-error",
        (6, _) => "content-refused",
        (7, 20..=32 | 40 | 509 | 515) => "authentication-policy",
        (7, _) => "policy",
        _ => by_code,
    }
}

#[cfg(test)]
mod tests;
