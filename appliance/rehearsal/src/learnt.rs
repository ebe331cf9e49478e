//! What the product has learnt from what came back: asked of its suppression
//! list, and tried with a second wave to those who must not be written to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postkeep_configuration::{Configuration, LearntScope};
use serde::Serialize;

use crate::Error;
use crate::campaign::{Campaign, Message};
use crate::chance::Chance;
use crate::comeback::{Kind, Returned};
use crate::handed::Handed;
use crate::inject::{Doors, inject};
use crate::internet::Internet;
use crate::list::{List, ListAt};
use crate::watch::Watch;

/// Wait for what is on its way back.
const COMING_BACK: Duration = Duration::from_secs(30);
/// Wait for the end of the second wave.
const SECOND_WAVE: Duration = Duration::from_secs(20);
/// Most sentences about what went wrong.
const SAMPLES: usize = 10;

/// What came back, what was learnt from it, and what became of the second wave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CameBack {
    /// Reports that nobody has the address, taken by the product.
    pub bounces: u64,
    /// Complaints, taken by the product.
    pub complaints: u64,
    /// Automatic replies, taken by the product.
    pub auto_replies: u64,
    /// Any of these that the product would not take, or had not taken when the wait for them was over.
    pub refused: u64,
    /// What would have come back, but the return path was not the product's, in streams whose mail has such.
    pub astray: u64,
    /// The same in streams with `verp = false`.
    pub astray_explained: u64,
    /// Recipients whose bounce is on the suppression list.
    pub learnt_bounces: u64,
    /// Recipients whose complaint is on the suppression list.
    pub learnt_complaints: u64,
    /// Recipients who bounced or complained and are not on the list for it.
    pub not_learnt: u64,
    /// Recipients who only replied automatically and are on the list.
    pub wrongly_suppressed: u64,
    /// All entries of the list, by reason.
    pub suppressions: BTreeMap<String, u64>,
    /// Recipients of the second wave: those who bounced or complained.
    pub second_wave: u64,
    /// Of those: refused at the door, or ended, as suppressed.
    pub second_wave_suppressed: u64,
    /// Of those: refused for another reason.
    pub second_wave_refused: u64,
    /// Of those: without an answer.
    pub second_wave_unanswered: u64,
    /// Of those: accepted, and not ended as suppressed.
    pub second_wave_accepted: u64,
    /// Of those: reached, which must not be.
    pub second_wave_delivered: u64,
    /// Sentences about what went wrong.
    #[serde(skip)]
    pub samples: Vec<String>,
}

impl CameBack {
    /// Whether everything was taken, learnt and kept to.
    pub fn kept(&self) -> bool {
        self.refused == 0
            && self.astray == 0
            && self.not_learnt == 0
            && self.wrongly_suppressed == 0
            && self.second_wave_delivered == 0
            && self.second_wave_suppressed == self.second_wave
    }

    fn say(&mut self, sentence: impl FnOnce() -> String) {
        if self.samples.len() < SAMPLES {
            self.samples.push(sentence());
        }
    }
}

/// The reason by which the list must know a recipient; `None`: it must not, or need not.
fn reason(kind: Kind, configuration: &Configuration) -> Option<&'static str> {
    let (reason, scope) = match kind {
        Kind::Bounce => ("hard-bounce", configuration.suppression.hard_bounces),
        Kind::Complaint => ("complaint", configuration.suppression.complaints),
        Kind::AutoReply => return None,
    };
    (scope != LearntScope::None).then_some(reason)
}

/// Asks the list about everybody who sent something back.
pub(crate) async fn learn(
    internet: &Internet,
    list: &ListAt,
    configuration: &Configuration,
) -> Result<(CameBack, Vec<Returned>), Error> {
    internet.comebacks_settled(COMING_BACK).await;
    let astray = internet.astray();
    let mut came_back = CameBack {
        astray: astray.unexplained,
        astray_explained: astray.explained,
        samples: astray.samples,
        refused: internet.comebacks_waiting(),
        ..CameBack::default()
    };
    if came_back.refused > 0 {
        let (count, seconds) = (came_back.refused, COMING_BACK.as_secs());
        came_back.say(|| format!("{count} that came back had not been taken after {seconds} s"));
    }
    let mut suppressed = Vec::new();
    let mut known = HashSet::new();
    let mut list = List::open(list).await?;
    for returned in internet.comebacks() {
        if let Err(said) = &returned.taken {
            came_back.refused += 1;
            came_back.say(|| format!("what {} sent back was not taken: {said}", returned.recipient));
            continue;
        }
        match returned.kind {
            Kind::Bounce => came_back.bounces += 1,
            Kind::Complaint => came_back.complaints += 1,
            Kind::AutoReply => came_back.auto_replies += 1,
        }
        // A message that came twice is answered twice.
        if !known.insert(returned.recipient.clone()) {
            continue;
        }
        let reasons = list.reasons(&returned.recipient).await?;
        match (returned.kind, reason(returned.kind, configuration)) {
            (Kind::AutoReply, _) => {
                if !reasons.is_empty() {
                    came_back.wrongly_suppressed += 1;
                    came_back.say(|| format!("{} is suppressed for an automatic reply", returned.recipient));
                }
            }
            (_, None) => {}
            (kind, Some(reason)) if reasons.iter().any(|known| known == reason) => {
                match kind {
                    Kind::Bounce => came_back.learnt_bounces += 1,
                    _ => came_back.learnt_complaints += 1,
                }
                suppressed.push(returned);
            }
            (_, Some(reason)) => {
                came_back.not_learnt += 1;
                came_back.say(|| format!("{} is not on the suppression list as {reason}", returned.recipient));
                suppressed.push(returned);
            }
        }
    }
    came_back.suppressions = list.counts().await?;
    Ok((came_back, suppressed))
}

/// The same mail again, to each who must not be written to any more.
pub(crate) fn second_wave(first: Campaign, seed: u64, suppressed: &[Returned]) -> Vec<Message> {
    let mut by_id: HashMap<&str, Vec<&Returned>> = HashMap::new();
    for returned in suppressed {
        by_id.entry(&returned.id).or_default().push(returned);
    }
    let mut messages = Vec::with_capacity(suppressed.len());
    for message in first {
        for returned in by_id.get(message.id.as_str()).into_iter().flatten() {
            if let Some(to) = message.to.iter().find(|to| to.address == returned.recipient) {
                messages.push(message.again(Chance::new(seed), messages.len(), to));
            }
        }
    }
    messages
}

/// Sends the second wave and sees how it ends. What has no answer after `patience` has none.
pub(crate) async fn send_again(
    came_back: &mut CameBack,
    messages: Vec<Message>,
    doors: Doors,
    patience: Duration,
    internet: &Internet,
    watch: &mut Watch,
) -> Result<(), Error> {
    let sent: Vec<(String, String)> =
        messages.iter().filter_map(|message| Some((message.id.clone(), message.to.first()?.address.clone()))).collect();
    came_back.second_wave = sent.len() as u64;
    let handed = Arc::new(Mutex::new(Handed::default()));
    let submission = inject(messages.into_iter(), doors, 2, Arc::clone(&handed));
    if let Ok(result) = tokio::time::timeout(patience.max(SECOND_WAVE), submission).await {
        result?;
    }
    let (accepted, suppressed) = {
        let handed = handed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut suppressed = 0;
        for (text, count) in handed.refusals() {
            if text.contains("suppressed") {
                suppressed += count;
            } else {
                came_back.second_wave_refused += count;
                came_back.say(|| format!("the second wave was refused {count} times: {text}"));
            }
        }
        (handed.accepted().to_vec(), suppressed)
    };
    let until = Instant::now() + SECOND_WAVE;
    let ended = loop {
        watch.read();
        let ended = accepted.iter().filter(|accepted| watch.records.was_suppressed(&accepted.recipient)).count();
        if ended == accepted.len() || Instant::now() > until {
            break ended as u64;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Time for anything that arrives all the same.
    tokio::time::sleep(Duration::from_millis(500)).await;
    came_back.second_wave_suppressed = suppressed + ended;
    came_back.second_wave_accepted = accepted.len() as u64 - ended;
    // Also those that the end of the wait has left without a try.
    came_back.second_wave_unanswered = came_back.second_wave.saturating_sub(
        came_back.second_wave_suppressed + came_back.second_wave_refused + came_back.second_wave_accepted,
    );
    let reached: Vec<&(String, String)> = internet.with_ledger(|ledger| {
        sent.iter().filter(|(id, recipient)| !ledger.acceptances(id, recipient).is_empty()).collect()
    });
    came_back.second_wave_delivered = reached.len() as u64;
    for (id, recipient) in reached {
        came_back.say(|| format!("message {id} reached {recipient}, who must not be written to"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_is_reached_or_not_learnt_breaks_a_promise() {
        let good = CameBack {
            bounces: 1,
            learnt_bounces: 1,
            second_wave: 1,
            second_wave_suppressed: 1,
            ..CameBack::default()
        };
        assert!(good.kept() && CameBack::default().kept());
        assert!(!CameBack { second_wave_delivered: 1, ..good.clone() }.kept());
        assert!(!CameBack { second_wave_suppressed: 0, ..good.clone() }.kept());
        assert!(!CameBack { not_learnt: 1, ..good.clone() }.kept());
        assert!(!CameBack { refused: 1, ..good.clone() }.kept());
        assert!(!CameBack { astray: 1, ..good.clone() }.kept());
        assert!(CameBack { astray_explained: 1, ..good.clone() }.kept());
        assert!(!CameBack { wrongly_suppressed: 1, ..good }.kept());
    }
}
