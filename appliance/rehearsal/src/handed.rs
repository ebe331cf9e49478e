//! What the campaign knows about what it handed over: whom the product has
//! accepted, whom it has refused and why, and who got no answer at all.

use std::collections::{BTreeMap, HashMap};

use crate::campaign::{Message, Way};
use crate::client::Answered;

/// A recipient the product has answered `250` for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The message's mark.
    pub id: String,
    /// The recipient.
    pub recipient: String,
    /// Place of the provider in the rule book.
    pub provider: usize,
    /// No report can come: null sender, or `NOTIFY=NEVER`.
    pub silent: bool,
    /// An address of the message needs SMTPUTF8.
    pub utf8: bool,
    /// Octets of the content as submitted.
    pub size: usize,
}

/// What was handed over, and what was said to it.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    accepted: Vec<Accepted>,
    messages: u64,
    by_http: u64,
    refused: u64,
    unexplained: u64,
    refusals: HashMap<String, u64>,
    /// Recipients of messages that have no answer, by mark: they may or may not be there.
    open: BTreeMap<String, Vec<String>>,
}

/// Most different refusal texts kept; some name the recipient, and the second wave counts them all.
const TEXTS: usize = 100_000;

impl Handed {
    #[cfg(test)]
    pub(crate) fn with(accepted: Vec<Accepted>) -> Self {
        Self { accepted, ..Self::default() }
    }

    /// Notes a message that is about to be handed over. Until its answer is noted it counts as unanswered, so that one
    /// that is cut off needs nobody to say so.
    pub(crate) fn begin(&mut self, message: &Message) {
        self.open.insert(message.id.clone(), message.to.iter().map(|to| to.address.clone()).collect());
    }

    /// Notes an answer. `excused`: the owner's configuration itself refuses such a message.
    pub(crate) fn answered(&mut self, message: Message, size: usize, answer: Answered, excused: bool) {
        self.open.remove(&message.id);
        let queued = answer.queued.is_some();
        self.messages += u64::from(queued);
        self.by_http += u64::from(queued && message.way == Way::Http);
        let null_sender = message.sender.is_none();
        for (to, answer) in message.to.into_iter().zip(answer.recipients) {
            match answer {
                Ok(()) if queued => self.accepted.push(Accepted {
                    id: message.id.clone(),
                    recipient: to.address,
                    provider: to.provider,
                    silent: null_sender || to.never_notify,
                    utf8: message.utf8,
                    size,
                }),
                answer => {
                    self.refused += 1;
                    self.unexplained += u64::from(!excused);
                    let text = answer.err().unwrap_or_default();
                    if self.refusals.len() < TEXTS || self.refusals.contains_key(&text) {
                        *self.refusals.entry(text).or_default() += 1;
                    }
                }
            }
        }
    }

    /// Recipients accepted so far.
    pub(crate) fn accepted(&self) -> &[Accepted] {
        &self.accepted
    }

    /// Messages accepted.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Of the messages accepted: by HTTP.
    pub(crate) fn by_http(&self) -> u64 {
        self.by_http
    }

    /// Recipients refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Of those: refused although nothing in the configuration says so.
    pub(crate) fn unexplained(&self) -> u64 {
        self.unexplained
    }

    /// Whether this recipient of this message has no answer.
    pub(crate) fn is_uncertain(&self, id: &str, recipient: &str) -> bool {
        self.open.get(id).is_some_and(|recipients| recipients.iter().any(|open| open == recipient))
    }

    /// Recipients without an answer.
    pub(crate) fn uncertain(&self) -> impl Iterator<Item = &str> {
        self.open.values().flatten().map(String::as_str)
    }

    /// Refusal texts with their counts, most frequent first.
    pub(crate) fn refusals(&self) -> Vec<(&str, u64)> {
        let mut list: Vec<_> = self.refusals.iter().map(|(text, count)| (text.as_str(), *count)).collect();
        list.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{Campaign, Plan};
    use crate::rulebook::RuleBook;

    #[test]
    fn a_message_is_uncertain_until_it_is_answered_and_refusals_count_unless_they_are_excused() {
        let plan = Plan {
            seed: 1,
            recipients: 4,
            domains: vec!["sender.test".to_owned()],
            stream_header: "X-Stream".to_owned(),
            streams: vec![None],
            recipients_per_message: 1,
            largest_body: 1024,
        };
        let messages: Vec<_> = Campaign::new(plan, &RuleBook::shipped().unwrap()).collect();
        let mut handed = Handed::default();
        messages.iter().for_each(|message| handed.begin(message));
        assert_eq!(handed.uncertain().count(), 4);
        let said = |answer: Result<(), &str>, queued: Option<&str>| Answered {
            recipients: vec![answer.map_err(str::to_owned)],
            queued: queued.map(str::to_owned),
        };
        handed.answered(messages[0].clone(), 10, said(Ok(()), Some("1")), false);
        handed.answered(messages[1].clone(), 10, said(Err("550 no Date"), None), true);
        handed.answered(messages[2].clone(), 10, said(Err("452 full"), None), false);
        assert_eq!((handed.accepted().len(), handed.refused(), handed.unexplained()), (1, 2, 1));
        let left = &messages[3];
        assert_eq!(handed.uncertain().collect::<Vec<_>>(), [left.to[0].address.as_str()]);
        assert!(handed.is_uncertain(&left.id, &left.to[0].address));
        assert!(!handed.is_uncertain(&messages[0].id, &messages[0].to[0].address));
    }
}
