//! Where the mail core meets the suppression list: at the doors, before each attempt, and when a
//! receiver says that somebody is not there.

use std::sync::Arc;

use postkeep_configuration::LearntScope;
use postkeep_smtp::envelope::Recipient;
use postkeep_smtp::{Address, Reply};
use postkeep_spool::MessageId;
use postkeep_suppression::{Addition, Entry as Suppression, Origin, Pass, Reason, Scope, Standings, Step};

use super::Inner;
use super::settle::{Fate, Journey};
use super::state::Batch;
use crate::clock::{Micros, seconds, timestamp_seconds};
use crate::message::Message;
use crate::queue::{Entry, QueueId, StreamId};

/// What a delivery has shown about an address.
pub(super) struct Lesson<'a> {
    pub(super) recipient: &'a Recipient,
    /// The receiver's word proves that the mailbox is not there; otherwise it only turned the mail away.
    pub(super) is_gone: bool,
    /// What the receiver said.
    pub(super) said: String,
}

impl Inner {
    /// RCPT: whether all mail to the address is suppressed. What holds for a stream or list only is looked at
    /// when those are known.
    pub(super) fn may_receive(&self, recipient: &Address) -> Result<(), Reply> {
        match self.suppression.check(recipient, "", None) {
            Ok(None) => Ok(()),
            Ok(Some(suppression)) => Err(refusal(&suppression)),
            Err(error) => {
                log::error!("{error}");
                Err(Reply::new(451, (4, 3, 0), "the suppression list cannot be read; try again later"))
            }
        }
    }

    /// The content is there, and with it stream and list: who of the recipients is not to be written to.
    /// When that is everybody, the message is refused.
    pub(super) fn suppressed_at_admission(
        &self,
        recipients: &[Recipient],
        stream: &str,
        list: Option<&str>,
    ) -> Result<Standings, Reply> {
        let mut standings = Standings::new();
        for recipient in recipients {
            let standing = self.suppression.check(&recipient.address, stream, list).map_err(|error| {
                log::error!("{error}");
                Reply::new(451, (4, 3, 0), "the suppression list cannot be read; try again later")
            })?;
            standings.push(standing);
        }
        match standings.iter().flatten().next() {
            Some(suppression) if standings.iter().all(Option::is_some) => Err(refusal(suppression)),
            _ => Ok(standings),
        }
    }

    /// The pass for an attempt. Who is suppressed meanwhile is taken out of the batch and settled; `None`:
    /// nobody is left. The pass must be held until the receiver has answered.
    pub(super) async fn pass(&self, batch: &mut Batch, message: &Arc<Message>) -> Option<Pass> {
        let metadata = &message.metadata;
        let recipient = |entry: &Entry| metadata.envelope.recipients.get(usize::from(entry.recipient));
        let addresses = batch.entries.iter().filter_map(recipient).map(|recipient| &recipient.address);
        let (pass, standings) = match self.suppression.pass(addresses, &metadata.stream, metadata.list.as_deref()) {
            Ok(asked) => asked,
            Err(error) => {
                log::error!("{error}; mail waits");
                let fate = Fate::retry_unanswered(error.to_string(), "local");
                let fates = batch.entries.drain(..).map(|entry| (entry, fate.clone())).collect();
                self.settle(batch.queue, batch.stream, message, &Journey::default(), fates).await;
                return None;
            }
        };
        if standings.iter().all(Option::is_none) {
            return Some(pass);
        }
        let (mut left, mut suppressed) = (Vec::new(), Vec::new());
        for (entry, standing) in batch.entries.drain(..).zip(standings) {
            match standing {
                None => left.push(entry),
                Some(suppression) => suppressed.push((entry, fate(&suppression))),
            }
        }
        batch.entries.extend(left);
        self.settle(batch.queue, batch.stream, message, &Journey::default(), suppressed).await;
        (!batch.entries.is_empty()).then_some(pass)
    }

    /// Ends what was suppressed when its message was admitted.
    pub(super) async fn settle_suppressed(
        &self,
        id: MessageId,
        taken: Vec<(QueueId, StreamId, Vec<Entry>)>,
        standings: &Standings,
    ) {
        for (queue, stream, entries) in taken {
            match self.read(id).await {
                Ok(message) => {
                    let fates = entries
                        .into_iter()
                        .filter_map(|entry| {
                            let suppression = standings.get(usize::from(entry.recipient))?.as_ref()?;
                            Some((entry, fate(suppression)))
                        })
                        .collect();
                    self.settle(queue, stream, &message, &Journey::default(), fates).await;
                }
                Err(detail) => self.unreadable(queue, &entries, &detail),
            }
        }
    }

    /// Puts into the list what deliveries have shown. A failure is logged: the next delivery shows it again.
    pub(super) async fn learn(&self, message: &Message, lessons: Vec<Lesson<'_>>, now: Micros) {
        let learnt = self.configuration.load().suppression.hard_bounces;
        let steps: Vec<Step> = lessons
            .into_iter()
            .filter_map(|lesson| {
                let (reason, scope) = match (lesson.is_gone, learnt) {
                    (false, _) => (Reason::Block, Scope::All),
                    (true, LearntScope::None) => return None,
                    (true, LearntScope::All) => (Reason::HardBounce, Scope::All),
                    (true, LearntScope::Stream) => (Reason::HardBounce, Scope::Stream(message.metadata.stream.clone())),
                };
                Some(Step::Add(Addition {
                    who: lesson.recipient.address.clone().into(),
                    scope,
                    reason,
                    origin: Origin::Reply,
                    time: seconds(now),
                    note: format!("{} ({})", lesson.said, message.id).into(),
                }))
            })
            .collect();
        if !steps.is_empty()
            && let Err(error) = self.suppression.record(steps).await
        {
            log::error!("{}: what its receivers said is not in the suppression list: {error}", message.id);
        }
    }
}

/// What becomes of mail to a suppressed address.
pub(super) fn fate(suppression: &Suppression) -> Fate {
    Fate::Suppressed { reply: refusal(suppression) }
}

/// The reply for a suppressed address.
fn refusal(suppression: &Suppression) -> Reply {
    Reply::new(
        550,
        (5, 7, 1),
        format!(
            "the recipient is suppressed: {}, {}, since {}",
            suppression.reason.as_str(),
            suppression.scope,
            timestamp_seconds(suppression.time)
        ),
    )
}
