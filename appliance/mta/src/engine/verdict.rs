//! From a receiver's word to what follows: the message's fate, and what happens to
//! whom the word concerns: a lane, a site, a source, a sender's domain or a stream.
//!
//! What a receiver says about a sender's domain or a stream counts at the site that said it, and
//! nowhere else: one odd host must not stop a sender everywhere.

use std::sync::Arc;

use bytes::Bytes;
use postkeep_deliverability::reply::named::Parties;
use postkeep_deliverability::reply::{Reaction, RuleBook, Scope, Verdict};
use postkeep_delivery::{OpenError, Outcome, Stage};
use postkeep_spool::Operation;

use super::settle::{Fate, code_and_line};
use super::state::{LaneId, Suspension};
use super::{Inner, NOTE_SUSPENDED};
use crate::clock::{self, Micros};
use crate::queue::StreamId;

/// How a reply was judged, for records and for whoever keeps the list of recipients not to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// What it is about.
    pub class: &'static str,
    /// Whom it concerns.
    pub scope: Scope,
    /// The rule that said so.
    pub rule: Option<Arc<str>>,
    /// It proves that the recipient is not there.
    pub suppress: bool,
}

impl Judged {
    fn new(verdict: &Verdict) -> Self {
        Self {
            class: verdict.class,
            scope: verdict.scope,
            rule: verdict.rule.clone(),
            suppress: verdict.reaction == Reaction::Suppress,
        }
    }
}

/// Something is wrong with more than one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// With whom or what.
    pub scope: Scope,
    /// How long to stay away; `None`: a failure is counted.
    pub length: Option<Micros>,
    /// What the receiver said, or what happened.
    pub why: String,
    /// A person is to be told this.
    pub alarm: Option<Arc<str>>,
}

/// Whose message met the trouble.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whom<'a> {
    pub lane: LaneId,
    pub stream: StreamId,
    pub sender_domain: &'a str,
}

/// What an outcome means for the recipient, and for others if it concerns them.
pub(crate) fn fate(
    book: &RuleBook,
    outcome: Outcome,
    parties: &Parties<'_>,
    provider: Option<&str>,
    speaks_dsn: bool,
) -> (Fate, Option<Trouble>) {
    match outcome {
        Outcome::Delivered(reply) => (Fate::Delivered { reply, will_report: speaks_dsn }, None),
        Outcome::Unsendable { reply } if reply.is_transient() => (Fate::retry(reply, "local"), None),
        Outcome::Unsendable { reply } => (Fate::failed(reply, "local"), None),
        Outcome::Lost { stage, detail } => {
            let why = format!("connection lost at {}: {detail}", stage.as_str());
            let trouble = Trouble { scope: Scope::Lane, length: None, why, alarm: None };
            (Fate::retry_unanswered(detail, stage.as_str()), Some(trouble))
        }
        Outcome::Refused { stage, reply } => {
            let verdict = book.judge_for(parties, stage, &reply, provider);
            let (judged, stage) = (Some(Judged::new(&verdict)), stage.as_str());
            if matches!(verdict.reaction, Reaction::Bounce | Reaction::Suppress) {
                return (Fate::Failed { reply, stage, judged }, None);
            }
            let trouble = trouble(&verdict, || code_and_line(&reply));
            // What is held for itself waits at least that long.
            let at_least = match verdict.scope {
                Scope::Recipient | Scope::Message => verdict.reaction.length().map(|length| length.as_micros()),
                _ => None,
            };
            (Fate::Retry { reply: Some(reply), detail: None, stage, at_least, judged }, trouble)
        }
    }
}

/// What a verdict does to more than the message.
fn trouble(verdict: &Verdict, why: impl FnOnce() -> String) -> Option<Trouble> {
    let is_wider = !matches!(verdict.scope, Scope::Recipient | Scope::Message);
    let length = match verdict.reaction {
        Reaction::Slow => None,
        Reaction::Hold { length } | Reaction::Alarm { length } => Some(length.as_micros()),
        Reaction::Retry | Reaction::Bounce | Reaction::Suppress => return None,
    };
    let alarm = matches!(verdict.reaction, Reaction::Alarm { .. })
        .then(|| verdict.note.clone().unwrap_or_else(|| "see the rule book".into()));
    is_wider.then(|| Trouble { scope: verdict.scope, length, why: why(), alarm })
}

impl Inner {
    /// A connection could not be opened; what the host said, if it said something, is judged.
    pub(crate) fn connection_failed(
        &self,
        lane: LaneId,
        stream: Option<StreamId>,
        host: Option<&str>,
        error: &OpenError,
    ) -> Option<Judged> {
        let Some(reply) = &error.reply else {
            self.lane_trouble(lane, None, &format!("{}: {}", error.stage.as_str(), error.detail));
            return None;
        };
        let verdict = self.replies.load().judge(error.stage, reply, self.provider_of(host).as_deref());
        let mut trouble = trouble(&verdict, || code_and_line(reply)).unwrap_or_else(|| Trouble {
            scope: Scope::Lane,
            length: None,
            why: code_and_line(reply),
            alarm: None,
        });
        // Before MAIL nobody has been named.
        if error.stage < Stage::Mail && matches!(trouble.scope, Scope::SenderDomain | Scope::Stream) {
            trouble.scope = Scope::Lane;
        }
        self.trouble(Whom { lane, stream: stream.unwrap_or(StreamId(0)), sender_domain: "" }, &trouble);
        Some(Judged::new(&verdict))
    }

    /// Whose host it is that speaks. Not whose site it is: anybody can name a provider's host as
    /// first MX and their own as second.
    pub(crate) fn provider_of(&self, host: Option<&str>) -> Option<Arc<str>> {
        let state = self.state.lock();
        state.rules.providers.provider_of_host(host?).map(|provider| Arc::clone(&provider.name))
    }

    /// Does what a trouble asks for.
    pub(crate) fn trouble(&self, whom: Whom<'_>, trouble: &Trouble) {
        if let Some(advice) = &trouble.alarm {
            let lane = self.state.lock().describe_lane(whom.lane);
            let scope = trouble.scope.as_str();
            postkeep_journal::REPLY_ALARM.tell(
                format_args!("{lane}: {} ({scope}): {advice}", trouble.why),
                [&lane, &scope, &trouble.why, advice],
            );
        }
        match (trouble.scope, trouble.length) {
            (Scope::Site, length) => {
                let lanes = {
                    let state = self.state.lock();
                    state.site(state.lane(whom.lane).site).lanes.to_vec()
                };
                for lane in lanes {
                    self.lane_trouble(lane, length, &trouble.why);
                }
            }
            (Scope::Source | Scope::SenderDomain | Scope::Stream, Some(length)) => {
                self.suspend(whom, trouble.scope, length, &trouble.why);
            }
            (_, length) => self.lane_trouble(whom.lane, length, &trouble.why),
        }
    }

    /// Puts a source, or a sender's domain or stream at the site, out for a while; over restarts, too.
    fn suspend(&self, whom: Whom<'_>, scope: Scope, length: Micros, why: &str) {
        let now = clock::now();
        let note = {
            let mut state = self.state.lock();
            let lane = state.lane(whom.lane);
            let (source, site) = (lane.source, lane.site);
            let mut suspension = Suspension { until: now + length, why: why.to_owned(), ..Suspension::default() };
            match scope {
                Scope::Source => suspension.source = Some(state.source(source).name.to_string()),
                Scope::Stream => {
                    suspension.site = Some(state.site(site).name.to_string());
                    suspension.stream = Some(state.stream(whom.stream).0.to_string());
                }
                _ => {
                    suspension.site = Some(state.site(site).name.to_string());
                    suspension.sender_domain = Some(whom.sender_domain.to_owned());
                }
            }
            let is_news = state.suspend(suspension.clone(), now);
            is_news.then(|| (suspension, state.suspensions_as_note()))
        };
        if let Some((suspension, note)) = note {
            let named = |name: &Option<String>| name.clone().unwrap_or_default();
            postkeep_journal::SOURCE_SUSPENDED.tell(
                format_args!("{suspension}"),
                [
                    &scope.as_str(),
                    &named(&suspension.source),
                    &named(&suspension.site),
                    &named(&suspension.stream),
                    &named(&suspension.sender_domain),
                    &(length / 1_000_000),
                    &why,
                ],
            );
            self.keep_suspensions(note);
        }
    }

    /// Hands the list to the spool; it need not be waited for: what is lost in a crash is said again.
    pub(crate) fn keep_suspensions(&self, note: Vec<u8>) {
        drop(self.spool.submit([Operation::Note { key: Bytes::from_static(NOTE_SUSPENDED), value: note.into() }]));
    }

    /// Until when mail of this stream and sender is not to go out on this lane, and why.
    pub(crate) fn suspended(&self, lane: LaneId, stream: StreamId, sender_domain: &str) -> Option<(Micros, String)> {
        self.state.lock().suspended(lane, stream, sender_domain, clock::now())
    }
}

#[cfg(test)]
mod tests {
    use postkeep_deliverability::reply::parse_reply;

    use super::*;

    fn refused(stage: Stage, provider: Option<&str>, text: &str) -> (Fate, Option<Trouble>) {
        let book = RuleBook::shipped().unwrap();
        let parties = Parties { recipient: &["ann@there.example"], senders: &["news@sender.example"] };
        fate(&book, Outcome::Refused { stage, reply: parse_reply(text).unwrap() }, &parties, provider, false)
    }

    #[test]
    fn a_block_slows_the_lane_and_keeps_the_message_and_an_unknown_user_ends_only_itself() {
        let (fate, trouble) = refused(
            Stage::Rcpt,
            Some("outlook"),
            "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent (S3140).",
        );
        assert!(matches!(fate, Fate::Retry { .. }), "{fate:?}");
        let trouble = trouble.unwrap();
        assert_eq!((trouble.scope, trouble.length), (Scope::Lane, Some(12 * 3600 * 1_000_000)));
        assert!(trouble.alarm.is_some());
        let (fate, trouble) = refused(Stage::Rcpt, None, "550 5.1.1 no such user");
        assert!(matches!(&fate, Fate::Failed { judged: Some(judged), .. } if judged.class == "bad-mailbox"));
        assert_eq!(trouble, None);
    }

    #[test]
    fn a_word_about_the_senders_domain_does_not_stop_the_lane() {
        let (fate, trouble) = refused(Stage::Final, Some("google"), "550 5.7.26 This mail is unauthenticated");
        assert!(matches!(fate, Fate::Retry { .. }));
        assert_eq!(trouble.map(|trouble| trouble.scope), Some(Scope::SenderDomain));
    }
}
