use age::x25519::Identity;
use proptest::prelude::*;

use super::*;
use crate::challenge::respond;
use crate::{Answer, Custodian, Grade, Offer, Recipient, System};

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
        self.answer_to(&keeper.state(&[]).offer?, number, None)
    }

    /// To an open box: that custodian `number` wants this many to open it.
    fn change(&self, keeper: &Keeper, number: usize, threshold: u8) -> Option<Request> {
        self.answer_to(&keeper.state(&[]).changes?, number, Some(KeySet { threshold, ..self.token.key_set() }))
    }

    fn answer_to(&self, offer: &Offer, number: usize, change: Option<KeySet>) -> Option<Request> {
        let held = self.token.open_shares(None, &[&self.keys[number].1]).unwrap().remove(0);
        let (token, boot, reason) = (offer.token, offer.boot, "work".to_owned());
        let answer = Answer { token, boot, held, grade: Grade::A1, reason, change };
        Some(Request::Answer { answer: envelope::armour(&answer.seal(offer).unwrap()) })
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
    /// Wants so many to open it.
    Change(usize, u8),
    Opened,
    DidNotOpen,
    Changed,
    DidNotChange,
    DidNotSeal,
    Rubbish(String),
}

fn step(count: usize) -> impl Strategy<Value = Step> {
    let asked = || prop_oneof![Just(Asked::Seal), Just(Asked::Possession), Just(Asked::Restart)];
    prop_oneof![
        4 => (0..count).prop_map(Step::Answer),
        3 => (asked(), 0..count).prop_map(|(asked, who)| Step::Ask(asked, who)),
        3 => (asked(), 0..count).prop_map(|(asked, who)| Step::Respond(asked, who)),
        1 => (asked(), 0..count).prop_map(|(asked, who)| Step::Mistake(asked, who)),
        4 => (0..count, 1..=2_u8).prop_map(|(who, threshold)| Step::Change(who, threshold)),
        2 => Just(Step::Opened),
        1 => Just(Step::Changed),
        1 => Just(Step::DidNotChange),
        1 => Just(Step::DidNotOpen),
        1 => Just(Step::DidNotSeal),
        1 => any::<String>().prop_map(Step::Rubbish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: it opens to a quorum only, is given a new key set by a quorum only that wants the very same, and
    /// is sealed by one custodian only, and only when it is open; started anew by one only, and only when it is sealed.
    #[test]
    fn no_order_of_what_may_happen_breaks_the_seal(steps in proptest::collection::vec(step(3), 0..60)) {
        let mut house = custodians(2, 3);
        let mut keeper = house.keeper();
        let mut questions: Vec<(Asked, usize, String)> = Vec::new();
        let mut answered = std::collections::BTreeSet::new();
        let mut wanted = std::collections::BTreeMap::new();
        let mut is_changing = false;
        for step in &steps {
            let State { seal: before, changes: before_changes, offer: before_offer, .. } = keeper.state(&[]);
            let question = |asked: Asked, who: usize| {
                questions.iter().rev().find(|(kind, whose, _)| (*kind, *whose) == (asked, who)).map(|(_, _, file)| file.clone())
            };
            let handled = match step {
                Step::Answer(who) => house.answer(&keeper, *who).map(|request| handle(&mut keeper, &request)),
                Step::Ask(asked, who) => {
                    let handled = handle(&mut keeper, &Request::Ask { asked: *asked, name: house.keys[*who].0.clone() });
                    let may = match asked {
                            Asked::Seal => matches!(before, Seal::Open | Seal::Sealing),
                            Asked::Possession => before == Seal::Open && !is_changing,
                            Asked::Restart => before_offer.is_some(),
                        };
                        prop_assert_eq!(before_changes.is_some(), before == Seal::Open && !is_changing);
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
                        (Step::Mistake(..), Asked::Possession) => Asked::Restart,
                        (Step::Mistake(..), Asked::Restart) => Asked::Seal,
                        _ => *asked,
                    };
                    handle(&mut keeper, &Request::Respond { asked, name: house.keys[*who].0.clone(), response })
                }),
                Step::Change(who, threshold) => {
                    house.change(&keeper, *who, *threshold).map(|request| handle(&mut keeper, &request))
                }
                Step::Opened if before == Seal::Opening => { keeper.opened(&mut System); None }
                Step::Changed if is_changing => {
                    let set = KeySet { threshold: 2, ..house.token.key_set() };
                    house.token = Token::make(&set, &house.token.volume, house.token.epoch + 1, &mut System).unwrap().token;
                    keeper.changed("another note".to_owned(), house.token.clone(), &mut System);
                    (questions, is_changing) = (Vec::new(), false);
                    None
                }
                Step::DidNotChange if is_changing => {
                    keeper.did_not_change(&mut System);
                    is_changing = false;
                    None
                }
                Step::Changed | Step::DidNotChange => None,
                Step::DidNotOpen => {
                    keeper.did_not_open(&mut System);
                    None
                }
                Step::DidNotSeal => {
                    keeper.did_not_seal(&mut System);
                    keeper.did_not_restart(&mut System);
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
                Some(Act::Change(opening, set)) => {
                    let Step::Change(who, threshold) = step else { panic!("{step:?} changes") };
                    wanted.insert(*who, *threshold);
                    prop_assert_eq!(wanted.values().filter(|wanted| *wanted == threshold).count(), 2);
                    prop_assert_eq!((opening.witnesses.len(), set.threshold), (2, *threshold));
                    prop_assert_eq!((before, after), (Seal::Open, Seal::Open));
                    prop_assert!(keeper.state(&[]).changes.is_none());
                    is_changing = true;
                    wanted.clear();
                }
                Some(Act::Seal(_)) => {
                    prop_assert!(matches!(step, Step::Respond(Asked::Seal, _)));
                    prop_assert!(matches!(before, Seal::Open | Seal::Sealing));
                    prop_assert_eq!(after, Seal::Sealing);
                }
                Some(Act::Restart(_)) => {
                    prop_assert!(matches!(step, Step::Respond(Asked::Restart, _)));
                    prop_assert_eq!((before, after), (Seal::Sealed, Seal::Sealed));
                    prop_assert!(before_offer.is_some() && keeper.offer().is_none());
                    answered.clear();
                }
                Some(Act::Prove(_)) => {
                    prop_assert!(matches!(step, Step::Respond(Asked::Possession, _)));
                    prop_assert_eq!((before, after), (Seal::Open, Seal::Open));
                }
                None => {
                    if let (Step::Answer(who), Seal::Sealed, true) = (step, before, before_offer.is_some()) {
                        answered.insert(*who);
                        prop_assert!(answered.len() < 2);
                    }
                    if let (Step::Change(who, threshold), Some(Reply::Counted { progress })) = (step, handled.as_ref().map(|handled| &handled.reply)) {
                        wanted.insert(*who, *threshold);
                        let same = wanted.values().filter(|wanted| *wanted == threshold).count();
                        prop_assert!(same < 2);
                        prop_assert_eq!(usize::from(progress.count), same);
                    }
                    let may_change = matches!(
                        (step, before),
                        (Step::Opened | Step::DidNotOpen, Seal::Opening) | (Step::DidNotSeal, Seal::Sealing)
                    );
                    prop_assert!(before == after || may_change, "{:?}: {:?} became {:?}", step, before, after);
                }
            }
            // An offer for a new key set ends with the box being sealed; the next one has other keys.
            if after != Seal::Open {
                wanted.clear();
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
        Request::Quote { nonce: "5a".repeat(32).parse().unwrap() },
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
    keeper.opened(&mut System);
    assert_eq!(keeper.state(&[]).seal, Seal::Open);
}

#[test]
fn a_quorum_that_wants_the_very_same_key_set_has_it_made_and_what_was_asked_before_is_worth_nothing_then() {
    let mut house = custodians(2, 3);
    let mut keeper = house.keeper();
    // While it is sealed nobody changes who opens it, and while it is open nobody opens it.
    let sealed = keeper.state(&[]).offer.unwrap();
    let set = house.token.key_set();
    let early = house.answer_to(&sealed, 0, Some(set.clone())).unwrap();
    let refused = handle(&mut keeper, &early);
    assert!(refused.told.unwrap().contains("new key set of a box that is sealed"));
    for number in 0..2 {
        let answer = house.answer(&keeper, number).unwrap();
        handle(&mut keeper, &answer);
    }
    keeper.opened(&mut System);
    let state = keeper.state(&[]);
    let offer = state.changes.unwrap();
    assert_eq!((state.offer, offer.cause), (None, Cause::Change));
    let refused = handle(&mut keeper, &house.answer_to(&offer, 0, None).unwrap());
    assert!(refused.told.unwrap().contains("to open a box that is open"));

    // One wants this, one that; the third agrees with one of them, whose mind then changes.
    let counted = |keeper: &mut Keeper, request: &Request| match handle(keeper, request).reply {
        Reply::Counted { progress } => progress.count,
        reply => panic!("{reply:?}"),
    };
    let (first, other) = (house.change(&keeper, 0, 1).unwrap(), house.change(&keeper, 1, 2).unwrap());
    assert_eq!((counted(&mut keeper, &first), counted(&mut keeper, &other)), (1, 1));
    assert_eq!(keeper.state(&[]).progress[0].count, 1);
    let again = house.change(&keeper, 1, 3).unwrap();
    assert_eq!(counted(&mut keeper, &again), 1);
    assert_eq!(counted(&mut keeper, &again), 1);
    let last = house.change(&keeper, 0, 3).unwrap();
    let handled = handle(&mut keeper, &last);
    let Some(Act::Change(opening, wanted)) = handled.act else { panic!("{handled:?}") };
    assert_eq!((handled.reply, wanted.threshold, opening.witnesses.len()), (Reply::Changes, 3, 2));
    assert!(keeper.is_open() && keeper.state(&[]).changes.is_none());
    let refused = handle(&mut keeper, &last);
    assert_eq!(refused.reply, Reply::Refused);

    // Asked of somebody who holds no share any more when they answer.
    let name = house.keys[2].0.clone();
    let asked = |keeper: &mut Keeper| handle(keeper, &Request::Ask { asked: Asked::Seal, name: name.clone() });
    let Reply::Question { question } = asked(&mut keeper).reply else { panic!("it can be sealed meanwhile") };
    let set = KeySet { threshold: 2, custodians: set.custodians[..2].to_vec(), recovery: None };
    house.token = Token::make(&set, &house.token.volume, 2, &mut System).unwrap().token;
    keeper.changed("another note".to_owned(), house.token.clone(), &mut System);
    let (_, response) = respond(question.as_bytes(), Asked::Seal, &[&house.keys[2].1]).unwrap();
    let late = Request::Respond { asked: Asked::Seal, name: name.clone(), response };
    assert_eq!(handle(&mut keeper, &late).reply, Reply::Refused);
    assert_eq!(asked(&mut keeper).reply, Reply::Refused);
    let state = keeper.state(&[]);
    assert_eq!((state.seal, state.epoch, state.progress), (Seal::Open, 2, Vec::new()));
    assert_ne!(state.changes.unwrap().boot, offer.boot);
}

#[test]
fn a_box_that_is_sealed_while_its_key_set_is_exchanged_stays_sealed() {
    let house = custodians(1, 1);
    let mut keeper = Keeper::open("the note".to_owned(), house.token.clone(), &mut System);
    let change = house.change(&keeper, 0, 1).unwrap();
    assert!(matches!(handle(&mut keeper, &change).act, Some(Act::Change(..))));
    let name = house.keys[0].0.clone();
    let Reply::Question { question } =
        handle(&mut keeper, &Request::Ask { asked: Asked::Seal, name: name.clone() }).reply
    else {
        panic!("a question")
    };
    let (_, response) = respond(question.as_bytes(), Asked::Seal, &[&house.keys[0].1]).unwrap();
    let seal = Request::Respond { asked: Asked::Seal, name, response };
    assert!(matches!(handle(&mut keeper, &seal).act, Some(Act::Seal(_))));
    for done in [true, false] {
        if done {
            keeper.changed("the note".to_owned(), house.token.clone(), &mut System);
        } else {
            keeper.did_not_change(&mut System);
        }
        assert_eq!(keeper.state(&[]).seal, Seal::Sealing);
    }
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

#[test]
fn an_answer_for_a_change_that_has_lapsed_is_of_no_use_to_whoever_has_kept_it() {
    let house = custodians(2, 2);
    let mut keeper = Keeper::open("the note".to_owned(), house.token.clone(), &mut System);
    let kept = house.change(&keeper, 0, 1).unwrap();
    let offer = keeper.state(&[]).changes.unwrap();
    assert!(matches!(handle(&mut keeper, &kept).reply, Reply::Counted { .. }));
    let day = crate::unseal::GOOD_FOR;
    let again = keeper.handle(&kept, &[], day, &mut System);
    assert_eq!(again.reply, Reply::Refused);
    let state = keeper.state(&[]);
    assert!(state.progress.is_empty());
    assert_ne!(state.changes.unwrap().answer_to, offer.answer_to);
}
