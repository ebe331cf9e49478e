//! What a receiver looks at when it has taken a message: whose it is, whether
//! it is what was sent, and whether it came by the way that was promised.

use std::time::Duration;

use super::wire::Stream;
use super::{Door, Visit};
use crate::arrivals::{Arrival, seconds};
use crate::content::{self, header};
use crate::ledger::{Acceptance, Receipt};
use crate::mailbox::Final;

impl Visit {
    /// Tells the ledger what was accepted.
    pub(super) fn note(
        &self,
        door: &Door,
        end: &Final,
        message: &[u8],
        eight_bit: bool,
        now: Duration,
    ) -> Vec<Receipt> {
        let accepted = &end.accepted;
        let (head, body) = content::split(message);
        if self.shared.is_home(door.provider) {
            self.come_home(door, accepted, message, now);
            return Vec::new();
        }
        let Some(id) = header(head, content::ID_HEADER) else {
            self.shared.ledger().corrupted(
                door.provider,
                format!("a message for {} has no {}", accepted.join(", "), content::ID_HEADER),
            );
            return Vec::new();
        };
        let whole = header(head, content::BODY_HEADER).is_some_and(|sum| sum == content::sum(body));
        // A host without 8BITMIME gets another spelling of the same words.
        let converted = !whole
            && !eight_bit
            && header(head, content::MEANING_HEADER).is_some_and(|sum| sum == content::meaning(message));
        let stream = header(head, content::STREAM_HEADER).unwrap_or_default();
        let wrong = if !whole && !converted {
            Some("another body".to_owned())
        } else if !content::fields_are_whole(head, converted) {
            Some("other header fields".to_owned())
        } else {
            let sent = header(head, content::SENDER_HEADER).unwrap_or_default();
            let sent = sent.trim_start_matches('<').trim_end_matches('>');
            (!self.shared.may_come_from(&stream, sent, &end.sender))
                .then(|| format!("the return path <{}>", end.sender))
        };
        let mut ledger = self.shared.ledger();
        if converted {
            ledger.converted();
        }
        if let Some(what) = wrong {
            ledger.corrupted(door.provider, format!("message {id} for {} arrived with {what}", accepted.join(", ")));
        }
        if self.shared.streams.get(&stream).is_some_and(|promise| !promise.sources.contains(&self.source)) {
            ledger.astray(
                door.provider,
                format!(
                    "message {id} of the stream {stream} came from {}, which its pool does not have",
                    self.lane.source
                ),
            );
        }
        accepted
            .iter()
            .map(|recipient| {
                let acceptance = Acceptance {
                    provider: door.provider,
                    host: door.host.name.clone(),
                    tls: matches!(self.stream, Stream::Tls(_)),
                    at: now,
                    replied: None,
                };
                ledger.accept(&id, recipient, acceptance)
            })
            .collect()
    }

    /// What is written down of it.
    pub(super) fn arrival(&self, door: &Door, end: &Final, message: &[u8]) -> Arrival {
        let (head, _) = content::split(message);
        Arrival {
            time: seconds(),
            provider: self.shared.provider_name(door.provider),
            host: door.host.name.clone(),
            from: self.source,
            tls: matches!(self.stream, Stream::Tls(_)),
            answered: end.answer.reply.is_some(),
            sender: end.sender.clone(),
            recipients: end.accepted.clone(),
            id: header(head, content::ID_HEADER),
            message_id: header(head, "Message-ID"),
        }
    }

    /// A delivery report, or something that should not have come.
    fn come_home(&self, door: &Door, accepted: &[String], message: &[u8], now: Duration) {
        let reports = content::reports(message);
        let returned = || {
            let marker = format!("\n{}:", content::ID_HEADER);
            let place = memchr::memmem::find(message, marker.as_bytes())?;
            header(message.get(place + 1..)?, content::ID_HEADER)
        };
        // The return path names the message; the returned header says the same.
        let id = accepted
            .iter()
            .find_map(|address| Some(address.rsplit_once('@')?.0.split_once('+')?.1.to_owned()))
            .or_else(returned);
        let mut ledger = self.shared.ledger();
        match id {
            Some(id) if !reports.is_empty() => {
                for report in reports {
                    ledger.report(&id, report, now);
                }
            }
            _ => ledger.corrupted(door.provider, format!("what came to {} is no delivery report", accepted.join(", "))),
        }
    }
}
