//! What the owner's configuration itself refuses: a refusal at submission
//! that is not among these is a fault.

use std::collections::HashSet;

use postkeep_configuration::{Configuration, MissingHeader, OneClick};

use crate::campaign::Message;
use crate::content::{header, split};
use crate::keys::Keyring;

/// The demands of a configuration that some messages of the campaign do not meet.
#[derive(Debug, Default)]
pub(crate) struct Excuses {
    date: bool,
    message_id: bool,
    /// Streams whose mail must bring its own pair of one-click unsubscribe (RFC 8058); the campaign's has none.
    pair: HashSet<String>,
    /// Streams that write such a pair, which they can only where a key signs.
    signature: HashSet<String>,
    keys: Keyring,
}

impl Excuses {
    pub(crate) fn of(configuration: &Configuration) -> Self {
        let streams = |policy| {
            let asks = configuration.stream.iter().filter(move |(_, stream)| stream.unsubscribe == policy);
            asks.map(|(name, _)| name.clone()).collect()
        };
        Self {
            date: configuration.intake.missing_date == MissingHeader::Refuse,
            message_id: configuration.intake.missing_message_id == MissingHeader::Refuse,
            pair: streams(OneClick::Require),
            signature: streams(OneClick::Add),
            keys: Keyring::of(configuration),
        }
    }

    /// Whether the configuration refuses such a message.
    pub(crate) fn explain(&self, message: &Message, content: &[u8]) -> bool {
        let (head, _) = split(content);
        let lacks = |name| header(head, name).is_none();
        let stream = message.stream_name();
        let domain = message.from.rsplit_once('@').map_or("", |(_, domain)| domain);
        (self.date && lacks("Date"))
            || (self.message_id && lacks("Message-ID"))
            || self.pair.contains(stream)
            || (self.signature.contains(stream) && self.keys.matching(domain, stream).is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{Campaign, Plan};
    use crate::rulebook::RuleBook;

    #[test]
    fn only_messages_that_lack_what_is_demanded_are_excused() {
        let plan = Plan {
            seed: 1,
            recipients: 200,
            domains: vec!["sender.test".to_owned()],
            stream_header: "X-Stream".to_owned(),
            streams: vec![None, Some("news".to_owned())],
            recipients_per_message: 1,
            largest_body: 1024,
        };
        let strict = Excuses { date: true, ..Excuses::default() };
        let news = Excuses { signature: HashSet::from(["news".to_owned()]), ..Excuses::default() };
        let mut without_date = 0;
        for message in Campaign::new(plan, &RuleBook::shipped().unwrap()) {
            let content = message.content("X-Stream");
            let lacks = !String::from_utf8_lossy(&content).contains("\r\nDate: ");
            without_date += u32::from(lacks);
            assert_eq!(strict.explain(&message, &content), lacks);
            assert_eq!(news.explain(&message, &content), message.stream.is_some());
            assert!(!Excuses::default().explain(&message, &content));
        }
        assert!((5..60).contains(&without_date), "{without_date}");
    }
}
