//! A box's side of everything about its seal: who may be told what, what counts, and what has to be done. It has no socket, no disk
//! and no clock; whoever drives it does what it says ([`Act`]) and tells it how that went.

use std::time::Duration;

use crate::challenge::Asked;
use crate::possession::Proven;
use crate::standing::Standing;
use crate::unseal::{Counts, Opening, Unseal};
use crate::wire::{Reply, Request, Seal, State};
use crate::{Cause, Name, Progress, Purpose, Random, Token, envelope};

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
    Open,
    Sealing,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Open the volume; [`Keeper::opened`] or [`Keeper::did_not_open`] follows.
    Open(Opening),
    /// Seal the box: this custodian has asked for it.
    Seal(Name),
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
    #[must_use]
    pub fn open(note: String, token: Token) -> Self {
        Self { note, token, seal: Held::Open, standing: Standing::default(), cause: Cause::Unknown }
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Whether its volume is open, and nobody has asked to seal it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.seal, Held::Open)
    }

    /// Handles `request`. `now` counts from any moment, and never back; `possession` is what is known of it.
    pub fn handle(
        &mut self,
        request: &Request,
        possession: &[Proven],
        now: Duration,
        random: &mut dyn Random,
    ) -> Handled {
        if let Held::Sealed(unseal) = &mut self.seal {
            unseal.forget_old(now);
        }
        match request {
            Request::State => Handled::quiet(Reply::State(Box::new(self.state(possession)))),
            Request::Token => Handled::quiet(Reply::Token { note: self.note.clone() }),
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
                    Asked::Seal => {
                        self.seal = Held::Sealing;
                        Act::Seal(name.clone())
                    }
                };
                Handled { reply: Reply::Done, act: Some(act), told: None }
            }
        }
    }

    fn answer(&mut self, answer: &str, now: Duration) -> Handled {
        let Held::Sealed(unseal) = &mut self.seal else {
            return Handled::refused("an answer came, and the box is not sealed".to_owned());
        };
        match unseal.take(answer.as_bytes(), now) {
            Err(refusal) => Handled::refused(format!("an answer does not count: {refusal}")),
            Ok(Counts::Again(progress)) => Handled::quiet(Reply::Counted { progress }),
            Ok(Counts::Waiting(progress)) => {
                let last = progress.answered.last().map_or("", |name| name.as_str());
                let told = format!(
                    "{last} has answered for {}: {} of {}",
                    progress.purpose.name(),
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
        }
    }

    /// A question is of use only in the state for which it is: nobody seals a box that is sealed, or proves to one that cannot write
    /// it down.
    fn may_be_asked(&self, asked: Asked) -> Result<(), &'static str> {
        match (asked, &self.seal) {
            // Once more, where the first time has come to nothing.
            (_, Held::Open) | (Asked::Seal, Held::Sealing) => Ok(()),
            (Asked::Seal, _) => Err("somebody asks to seal a box that is not open"),
            (Asked::Possession, _) => Err("somebody asks to prove possession to a box that is not open"),
        }
    }

    /// The volume is open.
    pub fn opened(&mut self) {
        self.seal = Held::Open;
    }

    /// The volume did not open. The box is sealed, and offers itself anew: answers to the old offer are worth nothing, so that nobody
    /// opens it with them behind their custodians' backs.
    pub fn did_not_open(&mut self, random: &mut dyn Random) {
        if matches!(self.seal, Held::Opening) {
            self.seal = Held::Sealed(Box::new(Unseal::begin(self.token.clone(), self.cause, random)));
        }
    }

    /// The box could not be sealed: it is open, and may be sealed again.
    pub fn did_not_seal(&mut self) {
        if matches!(self.seal, Held::Sealing) {
            self.seal = Held::Open;
        }
    }

    fn state(&self, possession: &[Proven]) -> State {
        let (seal, waits) = match &self.seal {
            Held::Sealed(unseal) => (Seal::Sealed, Some(&**unseal)),
            Held::Opening => (Seal::Opening, None),
            Held::Open => (Seal::Open, None),
            Held::Sealing => (Seal::Sealing, None),
        };
        let progress = |unseal: &Unseal| -> Vec<Progress> {
            [Purpose::Opening, Purpose::Recovery].into_iter().filter_map(|purpose| unseal.progress(purpose)).collect()
        };
        State {
            volume: self.token.volume.clone(),
            epoch: self.token.epoch,
            seal,
            offer: waits.map(|unseal| unseal.offer().clone()),
            progress: waits.map(progress).unwrap_or_default(),
            possession: if seal == Seal::Open { possession.to_vec() } else { Vec::new() },
        }
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

/// Who opened, with their grades and reasons.
#[cfg(test)]
mod tests {
    use age::x25519::Identity;
    use proptest::prelude::*;

    use super::*;
    use crate::challenge::respond;
    use crate::{Answer, Custodian, Grade, KeySet, Recipient, System};

    struct Custodians {
        keys: Vec<(Name, Identity)>,
        token: Token,
    }

    fn custodians(threshold: u8, count: u8) -> Custodians {
        let keys: Vec<(Name, Identity)> =
            (1..=count).map(|number| (format!("c{number}").parse().unwrap(), Identity::generate())).collect();
        let custodian =
            |(name, key): &(Name, Identity)| Custodian { name: name.clone(), recipients: vec![Recipient::of(key)] };
        let set = KeySet { threshold, custodians: keys.iter().map(custodian).collect(), recovery: None };
        let volume = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
        let token = Token::make(&set, &volume, 1, &mut System).unwrap().token;
        Custodians { keys, token }
    }

    impl Custodians {
        fn keeper(&self) -> Keeper {
            Keeper::sealed("the note".to_owned(), self.token.clone(), Cause::Planned, &mut System)
        }

        fn answer(&self, keeper: &Keeper, number: usize) -> Option<Request> {
            let offer = keeper.state(&[]).offer?;
            let held = self.token.open_shares(None, &[&self.keys[number].1]).unwrap().remove(0);
            let answer =
                Answer { token: offer.token, boot: offer.boot, held, grade: Grade::A1, reason: "work".to_owned() };
            Some(Request::Answer { answer: envelope::armour(&answer.seal(&offer).unwrap()) })
        }
    }

    fn handle(keeper: &mut Keeper, request: &Request) -> Handled {
        keeper.handle(request, &[], Duration::ZERO, &mut System)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Answer(usize),
        Ask(Asked, usize),
        /// Answers what was asked last of this custodian for this.
        Respond(Asked, usize),
        /// With the answer to the other kind of question.
        Mistake(Asked, usize),
        Opened,
        DidNotOpen,
        DidNotSeal,
        Rubbish(String),
    }

    fn step(count: usize) -> impl Strategy<Value = Step> {
        let asked = || prop_oneof![Just(Asked::Seal), Just(Asked::Possession)];
        prop_oneof![
            4 => (0..count).prop_map(Step::Answer),
            3 => (asked(), 0..count).prop_map(|(asked, who)| Step::Ask(asked, who)),
            3 => (asked(), 0..count).prop_map(|(asked, who)| Step::Respond(asked, who)),
            1 => (asked(), 0..count).prop_map(|(asked, who)| Step::Mistake(asked, who)),
            2 => Just(Step::Opened),
            1 => Just(Step::DidNotOpen),
            1 => Just(Step::DidNotSeal),
            1 => any::<String>().prop_map(Step::Rubbish),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever comes in whatever order: it opens to a quorum only, it is sealed by one custodian only, and only when it is open.
        #[test]
        fn no_order_of_what_may_happen_breaks_the_seal(steps in proptest::collection::vec(step(3), 0..40)) {
            let house = custodians(2, 3);
            let mut keeper = house.keeper();
            let mut questions: Vec<(Asked, usize, String)> = Vec::new();
            let mut answered = std::collections::BTreeSet::new();
            for step in &steps {
                let before = keeper.state(&[]).seal;
                let question = |asked: Asked, who: usize| {
                    questions.iter().rev().find(|(kind, whose, _)| (*kind, *whose) == (asked, who)).map(|(_, _, file)| file.clone())
                };
                let handled = match step {
                    Step::Answer(who) => house.answer(&keeper, *who).map(|request| handle(&mut keeper, &request)),
                    Step::Ask(asked, who) => {
                        let handled = handle(&mut keeper, &Request::Ask { asked: *asked, name: house.keys[*who].0.clone() });
                        let may = before == Seal::Open || (before == Seal::Sealing && *asked == Asked::Seal);
                        prop_assert_eq!(matches!(handled.reply, Reply::Question { .. }), may);
                        if let Reply::Question { question } = &handled.reply {
                            questions.push((*asked, *who, question.clone()));
                        }
                        Some(handled)
                    }
                    Step::Respond(asked, who) | Step::Mistake(asked, who) => question(*asked, *who).map(|file| {
                        let (_, response) = respond(file.as_bytes(), *asked, &[&house.keys[*who].1]).unwrap();
                        let asked = match (step, asked) {
                            (Step::Mistake(..), Asked::Seal) => Asked::Possession,
                            (Step::Mistake(..), Asked::Possession) => Asked::Seal,
                            _ => *asked,
                        };
                        handle(&mut keeper, &Request::Respond { asked, name: house.keys[*who].0.clone(), response })
                    }),
                    Step::Opened if before == Seal::Opening => { keeper.opened(); None }
                    Step::DidNotOpen => {
                        keeper.did_not_open(&mut System);
                        None
                    }
                    Step::DidNotSeal => {
                        keeper.did_not_seal();
                        None
                    }
                    Step::Opened => None,
                    Step::Rubbish(text) => Some(handle(&mut keeper, &Request::Answer { answer: text.clone() })),
                };
                let after = keeper.state(&[]).seal;
                match handled.as_ref().and_then(|handled| handled.act.as_ref()) {
                    Some(Act::Open(opening)) => {
                        let Step::Answer(who) = step else { panic!("{step:?} opens") };
                        answered.insert(*who);
                        prop_assert_eq!(answered.len(), 2);
                        prop_assert_eq!(opening.witnesses.len(), 2);
                        prop_assert_eq!((before, after), (Seal::Sealed, Seal::Opening));
                        answered.clear();
                    }
                    Some(Act::Seal(_)) => {
                        prop_assert!(matches!(step, Step::Respond(Asked::Seal, _)));
                        prop_assert!(matches!(before, Seal::Open | Seal::Sealing));
                        prop_assert_eq!(after, Seal::Sealing);
                    }
                    Some(Act::Prove(_)) => {
                        prop_assert!(matches!(step, Step::Respond(Asked::Possession, _)));
                        prop_assert_eq!((before, after), (Seal::Open, Seal::Open));
                    }
                    None => {
                        if let (Step::Answer(who), Seal::Sealed) = (step, before) {
                            answered.insert(*who);
                            prop_assert!(answered.len() < 2);
                        }
                        let may_change = matches!(
                            (step, before),
                            (Step::Opened | Step::DidNotOpen, Seal::Opening) | (Step::DidNotSeal, Seal::Sealing)
                        );
                        prop_assert!(before == after || may_change, "{:?}: {:?} became {:?}", step, before, after);
                    }
                }
                if let Some(Handled { reply: Reply::Refused, told, act }) = &handled {
                    prop_assert!(told.is_some() && act.is_none());
                }
            }
        }
    }

    #[test]
    fn what_is_said_goes_over_the_wire_and_back() {
        let house = custodians(2, 3);
        let mut keeper = house.keeper();
        let answer = house.answer(&keeper, 0).unwrap();
        let requests = [
            Request::State,
            Request::Token,
            answer,
            Request::Ask { asked: Asked::Seal, name: "c1".parse().unwrap() },
            Request::Respond {
                asked: Asked::Seal,
                name: "c1".parse().unwrap(),
                response: "ab".repeat(32).parse().unwrap(),
            },
        ];
        for request in requests {
            let line = serde_json::to_string(&request).unwrap();
            assert!(line.len() < crate::wire::LONGEST_LINE && !line.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
            let reply = handle(&mut keeper, &request).reply;
            let line = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
        }
        for line in [
            r#"{"request":"open"}"#,
            r#"{"request":"ask","asked":"seal","name":"c1","more":1}"#,
            r#"{"request":"answer"}"#,
            "[]",
            "{",
        ] {
            assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_volume_that_did_not_open_is_offered_anew_and_old_answers_are_worth_nothing() {
        let house = custodians(2, 2);
        let mut keeper = house.keeper();
        let offer = keeper.state(&[]).offer.unwrap();
        let both = [house.answer(&keeper, 0).unwrap(), house.answer(&keeper, 1).unwrap()];
        handle(&mut keeper, &both[0]);
        assert!(matches!(handle(&mut keeper, &both[1]).act, Some(Act::Open(_))));
        assert_eq!(handle(&mut keeper, &both[0]).reply, Reply::Refused);
        keeper.did_not_open(&mut System);
        let state = keeper.state(&[]);
        let anew = state.offer.unwrap();
        assert_eq!((state.seal, anew.cause), (Seal::Sealed, offer.cause));
        assert_ne!((anew.boot, &anew.answer_to), (offer.boot, &offer.answer_to));
        assert!(both.iter().all(|answer| handle(&mut keeper, answer).reply == Reply::Refused));
        for number in 0..2 {
            let answer = house.answer(&keeper, number).unwrap();
            handle(&mut keeper, &answer);
        }
        keeper.opened();
        assert_eq!(keeper.state(&[]).seal, Seal::Open);
    }

    #[test]
    fn an_answer_is_forgotten_after_a_day() {
        let house = custodians(2, 2);
        let mut keeper = house.keeper();
        let (first, second) = (house.answer(&keeper, 0).unwrap(), house.answer(&keeper, 1).unwrap());
        let day = crate::unseal::GOOD_FOR;
        keeper.handle(&first, &[], Duration::ZERO, &mut System);
        let later = keeper.handle(&second, &[], day, &mut System);
        assert!(matches!(later.reply, Reply::Counted { .. }) && later.act.is_none(), "{later:?}");
        let again = keeper.handle(&first, &[], day, &mut System);
        assert!(matches!(again.act, Some(Act::Open(_))));
    }
}
