//! A box that waits for its custodians, deciding: which answers count, and when they are enough. Without a socket, a clock or a disk.
//! A sealed one waits to be opened; an open one for a new key set.
//!
//! It promises that nothing but `threshold` right shares of one purpose, from as many custodians, given for this start of the box,
//! gives the secret, for a new key set only where all of them want the same; that an answer which does not count changes nothing; and
//! that shares are overwritten once they were used.

use std::time::Duration;

use age::x25519;
use serde::{Deserialize, Serialize};

use crate::answer::{Answer, AnswerError, Cause, Grade, Offer};
use crate::key_set::KeySet;
use crate::share::{Share, combine};
use crate::{BootId, Name, Purpose, Random, Recipient, Secret, Token};

/// How long an answer is good for: custodians live in many time zones, and one who has answered may think better of it.
pub const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);

/// A box that waits for its custodians.
pub struct Unseal {
    token: Token,
    offer: Offer,
    /// Where it lies it stays: each place that it would be moved from keeps a copy.
    answer_key: Box<x25519::Identity>,
    counted: Vec<Counted>,
}

struct Counted {
    witness: Witness,
    /// The key set that they want; none, where they open.
    change: Option<KeySet>,
    share: Share,
    /// When it came.
    since: Duration,
}

/// Who answered, for the records; nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Who.
    pub name: Name,
    /// Whose share of what.
    pub purpose: Purpose,
    /// What they could make sure of.
    pub grade: Grade,
    /// Why, in their words.
    pub reason: String,
}

/// How far the box is, for everybody to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Progress {
    /// What is being opened.
    pub purpose: Purpose,
    /// How many have answered.
    pub count: u8,
    /// Who has answered; told to those only who have answered themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<Name>,
    /// How many have to.
    pub threshold: u8,
}

/// What an answer that counts has led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Counts {
    /// More are needed.
    Waiting(Progress),
    /// This custodian had answered before; nothing has changed.
    Again(Progress),
    /// Enough have answered.
    Enough(Opening),
    /// Enough want this key set.
    Agreed(Opening, KeySet),
}

/// The secret, and who gave it.
#[derive(Debug, PartialEq, Eq)]
pub struct Opening {
    /// What it opens.
    pub purpose: Purpose,
    /// The secret.
    pub secret: Secret,
    /// Those whose shares it came from. The lowest of their grades is that of the opening.
    pub witnesses: Vec<Witness>,
}

/// Why an answer does not count. For the console and the journal: strangers are told the same whatever it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// See the text.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// See the text.
    #[error("somebody who calls themselves {name} has answered another start of the box; answer what it shows now")]
    OtherBoot {
        /// Who is said to have answered.
        name: Name,
    },
    /// See the text.
    #[error("somebody who calls themselves {name} has answered to another token than the one that the box has")]
    OtherToken {
        /// Who is said to have answered.
        name: Name,
    },
    /// See the text.
    #[error("somebody who calls themselves {name} wants {}", if *.is_change { "a new key set of a box that is sealed" } else { "to open a box that is open" })]
    OtherAim {
        /// Who is said to have answered.
        name: Name,
        /// Whether they want a new key set.
        is_change: bool,
    },
    /// See the text.
    #[error("somebody calls themselves {name}, and nobody of that name holds a share for {}", .purpose.name())]
    NoSuchHolder {
        /// Who is said to have answered.
        name: Name,
        /// For what.
        purpose: Purpose,
    },
    /// See the text.
    #[error("somebody who calls themselves {name} has sent a share that is not the one which {name} was given for {}", .purpose.name())]
    WrongShare {
        /// Whose.
        name: Name,
        /// For what.
        purpose: Purpose,
    },
}

impl Opening {
    /// Who gave it, with the grade of each and their reason.
    #[must_use]
    pub fn listed(&self) -> String {
        let one =
            |witness: &Witness| format!("{} ({:?}, \u{201c}{}\u{201d})", witness.name, witness.grade, witness.reason);
        self.witnesses.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Unseal {
    /// A box that has just started and found `token` beside its volume; or, with [`Cause::Change`], one that was opened.
    pub fn begin(token: Token, cause: Cause, random: &mut dyn Random) -> Self {
        let answer_key = Box::new(x25519::Identity::generate());
        let offer =
            Offer { token: token.sum(), boot: BootId::new(random), answer_to: Recipient::of(&answer_key), cause };
        Self { token, offer, answer_key, counted: Vec::new() }
    }

    /// What it shows.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The token that it asks the shares of.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// How far it is with `purpose`, and with the key set that most want; nothing, if it has no such shares.
    #[must_use]
    pub fn progress(&self, purpose: Purpose) -> Option<Progress> {
        let wanted = self.counted.iter().map(|counted| counted.change.as_ref());
        wanted
            .chain([None])
            .filter_map(|change| self.progress_to(purpose, change))
            .max_by_key(|progress| progress.count)
    }

    fn progress_to(&self, purpose: Purpose, change: Option<&KeySet>) -> Option<Progress> {
        let threshold = self.token.shares(purpose)?.threshold;
        let answered: Vec<Name> = self.of(purpose, change).map(|counted| counted.witness.name.clone()).collect();
        let count = u8::try_from(answered.len()).unwrap_or(u8::MAX);
        Some(Progress { purpose, count, answered, threshold })
    }

    /// Counts the answer in `file`, if it is one. `now` counts from any moment, and never back.
    ///
    /// # Errors
    /// It does not count, and nothing has changed.
    pub fn take(&mut self, file: &[u8], now: Duration) -> Result<Counts, Refusal> {
        self.forget_old(now);
        let Answer { token, boot, held, grade, reason, change } = Answer::open(file, &self.answer_key)?;
        let (name, purpose) = (held.name.clone(), held.purpose);
        if boot != self.offer.boot {
            return Err(Refusal::OtherBoot { name });
        }
        if token != self.offer.token {
            return Err(Refusal::OtherToken { name });
        }
        if change.is_some() != (self.offer.cause == Cause::Change) {
            return Err(Refusal::OtherAim { name, is_change: change.is_some() });
        }
        let shares =
            self.token.shares(purpose).filter(|shares| shares.holders.iter().any(|holder| holder.name == name));
        let Some(threshold) = shares.map(|shares| shares.threshold) else {
            return Err(Refusal::NoSuchHolder { name, purpose });
        };
        if !self.token.keeps(&name, purpose, &held.share) {
            return Err(Refusal::WrongShare { name, purpose });
        }
        let is_again = self.of(purpose, change.as_ref()).any(|counted| counted.witness.name == name);
        if !is_again {
            // Whoever wants another key set than they wanted before counts for what they said last.
            self.counted.retain(|counted| counted.witness.name != name || counted.witness.purpose != purpose);
            self.counted.push(Counted {
                witness: Witness { name, purpose, grade, reason },
                change: change.clone(),
                share: held.share,
                since: now,
            });
        }
        let progress = self.progress_to(purpose, change.as_ref()).ok_or(AnswerError::Form)?;
        if progress.answered.len() < usize::from(threshold) {
            return Ok(if is_again { Counts::Again(progress) } else { Counts::Waiting(progress) });
        }
        // Whatever comes of it, the shares are used up: should the volume not open, the custodians answer once more.
        let (used, kept) =
            std::mem::take(&mut self.counted).into_iter().partition(|one| one.is_of(purpose, change.as_ref()));
        self.counted = kept;
        let (witnesses, shares): (Vec<_>, Vec<_>) =
            Vec::into_iter(used).map(|one: Counted| (one.witness, one.share)).unzip();
        let secret = combine(&shares, threshold).map_err(|_| AnswerError::Form)?;
        let opening = Opening { purpose, secret, witnesses };
        Ok(match change {
            None => Counts::Enough(opening),
            Some(set) => Counts::Agreed(opening, set),
        })
    }

    /// Forgets answers that were given too long ago; says whether there were any.
    pub fn forget_old(&mut self, now: Duration) -> bool {
        let before = self.counted.len();
        self.counted.retain(|counted| now.saturating_sub(counted.since) < GOOD_FOR);
        self.counted.len() < before
    }

    fn of(&self, purpose: Purpose, change: Option<&KeySet>) -> impl Iterator<Item = &Counted> {
        self.counted.iter().filter(move |counted| counted.is_of(purpose, change))
    }
}

impl Counted {
    fn is_of(&self, purpose: Purpose, change: Option<&KeySet>) -> bool {
        self.witness.purpose == purpose && self.change.as_ref() == change
    }
}
