//! What a reply means: whom it concerns, and what to do. The [`RuleBook`] knows the receivers'
//! texts; what fits none of its rules is judged by its codes alone.
//!
//! Principles: an answer about a source never speaks about a recipient; where one of the two codes
//! says "later" and the other "never", it is later (the message's own expiry bounds the wait); no
//! message bounces for what happened before its own transaction began; nobody is suppressed for words
//! that leave a doubt, whatever code stands with them.

pub mod class;
mod doubt;
pub mod named;
mod rulebook;

use std::sync::Arc;

use postkeep_configuration::units::Duration;
pub use postkeep_smtp::client::Stage;
use postkeep_smtp::reply::{EnhancedCode, Reply};
pub use rulebook::{Rule, RuleBook, RuleError, Subject, parse_reply};

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

impl Scope {
    const ALL: [Self; 7] =
        [Self::Recipient, Self::Message, Self::Stream, Self::SenderDomain, Self::Source, Self::Lane, Self::Site];

    /// The word for rules, records and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Stream => "stream",
            Self::SenderDomain => "sender-domain",
            Self::Source => "source",
            Self::Lane => "lane",
            Self::Site => "site",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What to do with whom it concerns. Where the scope is wider than the message, the message itself
/// is always tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Try again by the schedule.
    Retry,
    /// Return to the sender.
    Bounce,
    /// Return to the sender, and do not write to this recipient again.
    Suppress,
    /// Count a failure: enough of them slow the lane down.
    Slow,
    /// Stay away that long at once.
    Hold {
        /// How long.
        length: Duration,
    },
    /// Stay away that long, and tell a person: it will not mend itself.
    Alarm {
        /// How long.
        length: Duration,
    },
}

impl Reaction {
    /// The word for rules, records and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Bounce => "bounce",
            Self::Suppress => "suppress",
            Self::Slow => "slow",
            Self::Hold { .. } => "hold",
            Self::Alarm { .. } => "alarm",
        }
    }

    /// How long to stay away, if it says.
    pub fn length(self) -> Option<Duration> {
        match self {
            Self::Hold { length } | Self::Alarm { length } => Some(length),
            Self::Retry | Self::Bounce | Self::Suppress | Self::Slow => None,
        }
    }
}

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whom it concerns.
    pub scope: Scope,
    /// What to do.
    pub reaction: Reaction,
    /// A word for records, from [`class::CLASSES`].
    pub class: &'static str,
    /// The rule that it met; `None`: judged by its codes.
    pub rule: Option<Arc<str>>,
    /// What the rule has to say to a person.
    pub note: Option<Arc<str>>,
}

impl Verdict {
    fn by_codes(scope: Scope, reaction: Reaction, class: &'static str) -> Self {
        Self { scope, reaction, class, rule: None, note: None }
    }
}

/// A rule's word, held against what the codes and the stage allow.
fn settled(rule: &Rule, stage: Stage, reply: &Reply, fallback: Verdict) -> Verdict {
    let mut verdict = Verdict {
        scope: rule.scope,
        reaction: rule.reaction,
        class: rule.class,
        rule: Some(Arc::clone(&rule.name)),
        note: rule.note.clone(),
    };
    let ends_the_message = matches!(rule.reaction, Reaction::Bounce | Reaction::Suppress);
    // The message has not been mentioned, or the host says "later": it is not given up.
    if ends_the_message && (stage < Stage::Mail || is_later(stage, reply, enhanced_of(reply))) {
        (verdict.scope, verdict.reaction) = (fallback.scope, fallback.reaction);
    }
    // Only an answer to RCPT is about one recipient: at MAIL none has been named, after DATA all of them.
    if verdict.reaction == Reaction::Suppress && stage != Stage::Rcpt {
        (verdict.scope, verdict.reaction) = (Scope::Message, Reaction::Bounce);
    }
    let may_be_gone = may_mean_user(enhanced_of(reply)) || verdict.class == "mailbox-disabled";
    if verdict.reaction == Reaction::Suppress && !may_be_gone {
        verdict.reaction = Reaction::Bounce;
    }
    // 421 ends the session, whatever else it says (RFC 5321 §3.8).
    if reply.code == 421 && verdict.reaction == Reaction::Retry {
        (verdict.scope, verdict.reaction) = (Scope::Lane, Reaction::Slow);
    }
    verdict
}

/// Whether a status can stand with words about an unknown user: many hosts say "user unknown" under
/// codes of policy, content or the mailbox when they refuse for another reason.
pub fn may_mean_user(status: Option<EnhancedCode>) -> bool {
    status.is_none_or(|status| matches!(status.subject, 0 | 1 | 5))
}

/// Judges a reply by its codes alone; that suppresses nobody.
pub fn judge_by_codes(stage: Stage, reply: &Reply) -> Verdict {
    let enhanced = enhanced_of(reply);
    // RFC 5321 §3.8: the server closes the channel. Whatever else it says, the lane should slow down.
    if reply.code == 421 {
        return Verdict::by_codes(Scope::Lane, Reaction::Slow, "service-closing");
    }
    // The message has not been mentioned: it cannot be at fault, so it is never bounced here.
    if stage < Stage::Mail {
        let class = if reply.is_permanent() { "connection-refused" } else { "connection-deferred" };
        return Verdict::by_codes(Scope::Lane, Reaction::Slow, class);
    }
    let class = class_of(reply, enhanced);
    let scope = if stage == Stage::Rcpt { Scope::Recipient } else { Scope::Message };
    if is_later(stage, reply, enhanced) {
        // A policy answer to MAIL is about who connects, not about whom the mail is for.
        let about_the_lane = stage == Stage::Mail && enhanced.is_some_and(|code| matches!(code.subject, 3 | 4 | 7));
        if about_the_lane {
            return Verdict::by_codes(Scope::Lane, Reaction::Slow, class);
        }
        return Verdict::by_codes(scope, Reaction::Retry, class);
    }
    Verdict::by_codes(scope, Reaction::Bounce, class)
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
