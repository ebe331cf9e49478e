//! A box's side of everything about its seal: who may be told what, what counts, and what has to be done. It has no socket, no disk
//! and no clock; whoever drives it does what it says ([`Act`]) and tells it how that went.

use std::time::Duration;

use crate::challenge::Asked;
use crate::possession::Proven;
use crate::standing::Standing;
use crate::unseal::{Counts, Opening, Unseal};
use crate::wire::{Reply, Request, Seal, State};
use crate::{Cause, KeySet, Name, Offer, Progress, Purpose, Random, Token, envelope};

/// The keeper of a box's seal.
pub struct Keeper {
    /// The token, as it lies beside the volume.
    note: String,
    token: Token,
    seal: Held,
    standing: Standing,
    /// Why it was sealed.
    cause: Cause,
}

/// [`Seal`], with what belongs to it.
enum Held {
    Sealed(Box<Unseal>),
    /// Its shares are used up, and so is its answer key.
    Opening,
    /// Sealed, and about to be started anew: what comes now comes too late.
    Restarting,
    /// Open; custodians may want a new key set.
    Open(Box<Unseal>),
    /// Open, and its key set is being exchanged.
    Changing,
    Sealing {
        /// Whether its key set is being exchanged meanwhile.
        is_changing: bool,
    },
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Open the volume; [`Keeper::opened`] or [`Keeper::did_not_open`] follows.
    Open(Opening),
    /// Give the volume to those in this set; [`Keeper::changed`] or [`Keeper::did_not_change`] follows.
    Change(Opening, KeySet),
    /// Seal the box: this custodian has asked for it.
    Seal(Name),
    /// Start the machine anew: this custodian has asked for it.
    Restart(Name),
    /// Write down that this custodian has proved possession.
    Prove(Name),
}

/// What somebody is told, what has to be done, and what the journal is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Handled {
    /// The reply.
    pub reply: Reply,
    /// What to do.
    pub act: Option<Act>,
    /// What happened, in a sentence; nothing, where nothing did.
    pub told: Option<String>,
}

impl Keeper {
    /// Of a box that has just started, sealed. `note` is what holds `token`.
    pub fn sealed(note: String, token: Token, cause: Cause, random: &mut dyn Random) -> Self {
        let unseal = Unseal::begin(token.clone(), cause, random);
        Self { note, token, seal: Held::Sealed(Box::new(unseal)), standing: Standing::default(), cause }
    }

    /// Of a box whose volume is open: it has just made its token.
    pub fn open(note: String, token: Token, random: &mut dyn Random) -> Self {
        let seal = Held::open(&token, random);
        Self { note, token, seal, standing: Standing::default(), cause: Cause::Unknown }
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// What holds its token, as it lies beside the volume.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Whether its volume is open, and nobody has asked to seal it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.seal, Held::Open(_) | Held::Changing)
    }

    /// Handles `request`. `now` counts from any moment, and never back; `possession` is what is known of it.
    pub fn handle(
        &mut self,
        request: &Request,
        possession: &[Proven],
        now: Duration,
        random: &mut dyn Random,
    ) -> Handled {
        let has_lapsed = match &mut self.seal {
            Held::Sealed(unseal) | Held::Open(unseal) => unseal.forget_old(now),
            _ => false,
        };
        if has_lapsed && self.is_open() {
            // It offers for months: whoever has kept an answer that has lapsed must not be able to give it once more.
            self.seal = Held::open(&self.token, random);
        }
        match request {
            Request::State => Handled::quiet(Reply::State(Box::new(self.state(possession)))),
            Request::Token => Handled::quiet(Reply::Token { note: self.note.clone() }),
            // Whoever drives it asks the TPM, where there is one.
            Request::Quote { .. } => Handled::refused("somebody asks for the word of a TPM that nobody has".to_owned()),
            Request::Answer { answer } => self.answer(answer, now),
            Request::Ask { asked, name } => match self.may_be_asked(*asked) {
                Ok(()) => match self.standing.ask(*asked, name, &self.token, now, random) {
                    Ok(file) => Handled::quiet(Reply::Question { question: envelope::armour(file) }),
                    Err(error) => Handled::refused(error.to_string()),
                },
                Err(why) => Handled::refused(why.to_owned()),
            },
            Request::Respond { asked, name, response } => {
                if let Err(why) = self.may_be_asked(*asked) {
                    return Handled::refused(why.to_owned());
                }
                if let Err(error) = self.standing.answer(*asked, name, &self.token.volume, response, now) {
                    return Handled::refused(error.to_string());
                }
                let act = match asked {
                    Asked::Possession => Act::Prove(name.clone()),
                    Asked::Restart => {
                        self.seal = Held::Restarting;
                        Act::Restart(name.clone())
                    }
                    Asked::Seal => {
                        let is_changing = matches!(self.seal, Held::Changing | Held::Sealing { is_changing: true });
                        self.seal = Held::Sealing { is_changing };
                        Act::Seal(name.clone())
                    }
                };
                Handled { reply: Reply::Done, act: Some(act), told: None }
            }
        }
    }

    fn answer(&mut self, answer: &str, now: Duration) -> Handled {
        let (Held::Sealed(unseal) | Held::Open(unseal)) = &mut self.seal else {
            return Handled::refused("an answer came, and the box does what others have answered for".to_owned());
        };
        match unseal.take(answer.as_bytes(), now) {
            Err(refusal) => Handled::refused(format!("an answer does not count: {refusal}")),
            Ok(Counts::Again(progress)) => Handled::quiet(Reply::Counted { progress }),
            Ok(Counts::Waiting(progress)) => {
                let last = progress.answered.last().map_or("", |name| name.as_str());
                let told = format!(
                    "{last} has answered for {}{}: {} of {}",
                    progress.purpose.name(),
                    if unseal.offer().cause == Cause::Change { ", and wants a new key set" } else { "" },
                    progress.answered.len(),
                    progress.threshold
                );
                Handled { reply: Reply::Counted { progress }, act: None, told: Some(told) }
            }
            Ok(Counts::Enough(opening)) => {
                let told = format!("enough have answered for {}: {}", opening.purpose.name(), opening.listed());
                self.cause = unseal.offer().cause;
                self.seal = Held::Opening;
                Handled { reply: Reply::Opens, act: Some(Act::Open(opening)), told: Some(told) }
            }
            Ok(Counts::Agreed(opening, set)) => {
                let told = format!("enough want a new key set: {}", opening.listed());
                self.seal = Held::Changing;
                Handled { reply: Reply::Changes, act: Some(Act::Change(opening, set)), told: Some(told) }
            }
        }
    }

    /// A question is of use only in the state for which it is: nobody seals a box that is sealed, or proves to one that cannot write
    /// it down.
    fn may_be_asked(&self, asked: Asked) -> Result<(), &'static str> {
        match (asked, &self.seal) {
            (Asked::Restart, Held::Sealed(_)) => Ok(()),
            (Asked::Restart, _) => Err("somebody asks to start a box anew that is not sealed; have it sealed first"),
            // Once more, where the first time has come to nothing.
            (_, Held::Open(_)) | (Asked::Seal, Held::Sealing { .. } | Held::Changing) => Ok(()),
            (Asked::Seal, _) => Err("somebody asks to seal a box that is not open"),
            (Asked::Possession, _) => {
                Err("somebody asks to prove possession to a box that is not open, or is given a new key set")
            }
        }
    }

    /// The volume is open.
    pub fn opened(&mut self, random: &mut dyn Random) {
        self.seal = Held::open(&self.token, random);
    }

    /// The volume opens to those of `token`, which `note` holds, from now on. What was asked of others is asked no more.
    pub fn changed(&mut self, note: String, token: Token, random: &mut dyn Random) {
        (self.note, self.token, self.standing) = (note, token, Standing::default());
        self.did_not_change(random);
    }

    /// The key set is as it was; answers to the old offer are worth nothing.
    pub fn did_not_change(&mut self, random: &mut dyn Random) {
        match &mut self.seal {
            Held::Changing => self.seal = Held::open(&self.token, random),
            // Meanwhile somebody has had it sealed.
            Held::Sealing { is_changing } => *is_changing = false,
            _ => {}
        }
    }

    /// The volume did not open. The box is sealed, and offers itself anew: answers to the old offer are worth nothing, so that nobody
    /// opens it with them behind their custodians' backs.
    pub fn did_not_open(&mut self, random: &mut dyn Random) {
        if matches!(self.seal, Held::Opening) {
            self.seal = Held::Sealed(Box::new(Unseal::begin(self.token.clone(), self.cause, random)));
        }
    }

    /// The machine is not started anew: the box offers itself again, as another start would.
    pub fn did_not_restart(&mut self, random: &mut dyn Random) {
        if matches!(self.seal, Held::Restarting) {
            self.seal = Held::Sealed(Box::new(Unseal::begin(self.token.clone(), self.cause, random)));
        }
    }

    /// The box could not be sealed: it is open, and may be sealed again.
    pub fn did_not_seal(&mut self, random: &mut dyn Random) {
        match self.seal {
            Held::Sealing { is_changing: true } => self.seal = Held::Changing,
            Held::Sealing { is_changing: false } => self.seal = Held::open(&self.token, random),
            _ => {}
        }
    }

    /// What it offers now, to those who are to open it or who want a new key set.
    #[must_use]
    pub fn offer(&self) -> Option<&Offer> {
        match &self.seal {
            Held::Sealed(unseal) | Held::Open(unseal) => Some(unseal.offer()),
            Held::Opening | Held::Restarting | Held::Changing | Held::Sealing { .. } => None,
        }
    }

    fn state(&self, possession: &[Proven]) -> State {
        let (seal, waits) = match &self.seal {
            Held::Sealed(unseal) => (Seal::Sealed, Some(&**unseal)),
            Held::Restarting => (Seal::Sealed, None),
            Held::Opening => (Seal::Opening, None),
            Held::Open(unseal) => (Seal::Open, Some(&**unseal)),
            Held::Changing => (Seal::Open, None),
            Held::Sealing { .. } => (Seal::Sealing, None),
        };
        let offer = waits.map(|unseal| unseal.offer().clone());
        let (changes, offer) = if seal == Seal::Open { (offer, None) } else { (None, offer) };
        let progress = |unseal: &Unseal| -> Vec<Progress> {
            let all = [Purpose::Opening, Purpose::Recovery].into_iter().filter_map(|purpose| unseal.progress(purpose));
            // An open box waits for nobody, until one of them has begun.
            all.filter(|progress| seal != Seal::Open || progress.count > 0).collect()
        };
        State {
            volume: self.token.volume.clone(),
            epoch: self.token.epoch,
            seal,
            offer,
            changes,
            progress: waits.map(progress).unwrap_or_default(),
            possession: if seal == Seal::Open { possession.to_vec() } else { Vec::new() },
        }
    }
}

impl Held {
    /// Custodians may want a new key set, and answer for it as they do to open.
    fn open(token: &Token, random: &mut dyn Random) -> Self {
        Self::Open(Box::new(Unseal::begin(token.clone(), Cause::Change, random)))
    }
}

impl Handled {
    fn quiet(reply: Reply) -> Self {
        Self { reply, act: None, told: None }
    }

    fn refused(why: String) -> Self {
        Self { reply: Reply::Refused, act: None, told: Some(why) }
    }
}

#[cfg(test)]
mod tests;
