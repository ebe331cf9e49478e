//! What the screen does, key by key.

use proptest::prelude::*;

use super::*;
use crate::custody::Custody;
use crate::facts::{Link, Posture, Sentence, Volume};

pub(crate) fn facts() -> Facts {
    let link = |name: &str, state: &str, addresses: &[&str]| Link {
        name: name.into(),
        state: state.into(),
        addresses: addresses.iter().map(|&address| address.into()).collect(),
        own: addresses.iter().map(|&address| address.into()).collect(),
        ..Link::default()
    };
    Facts {
        hostname: "mail-1.example.com".into(),
        version: "0.1.0".into(),
        clock: "2026-11-27 05:00:00 UTC".into(),
        synchronized: Some(true),
        volume: Volume::Open,
        posture: Some(Posture {
            grade: "C".into(),
            sentences: vec![Sentence { at_best: "C".into(), seen: "There is no TPM 2.0.".into() }],
        }),
        worst: None,
        api: None,
        custody: None,
        disks: None,
        links: vec![link("eno1", "routable", &["203.0.113.5/32", "2001:db8::2/64"]), link("eno2", "no-carrier", &[])],
        mail: "running, 12 recipients wait".into(),
        failed: Some(Vec::new()),
        can_seal: true,
        problems: Vec::new(),
    }
}

pub(crate) fn owned() -> Model {
    let mut model = Model::new(false);
    let who = Who {
        machine: "0410G 20G4Z 10G2Y 0G40Y 0G200 G20Z7 0GF".into(),
        owner: Some("example.com/owner".into()),
        ..Who::default()
    };
    model = update(model, Event::Reply(Ok(Reply::Who(who))), Duration::ZERO).0;
    update(model, Event::Facts(Box::new(facts())), Duration::ZERO).0
}

pub(crate) fn challenged() -> Model {
    let (model, actions) = update(owned(), Event::Key(Key::Char('r')), Duration::ZERO);
    assert_eq!(actions, [Action::Send(Request::Ask(Deed::Reboot))]);
    let challenge = crate::challenge::Challenge::new(
        crate::challenge::Identity { machine: [1; 16], boot: [2; 16] },
        Deed::Reboot,
        [3; 10],
        jiff::Timestamp::UNIX_EPOCH,
        crate::challenge::VALID,
    );
    let reply = Reply::Challenge { code: challenge.to_code(), lines: Deed::Reboot.lines(), valid: 600 };
    update(model, Event::Reply(Ok(reply)), Duration::ZERO).0
}

fn typed(mut model: Model, text: &str) -> Model {
    for character in text.chars() {
        model = update(model, Event::Key(Key::Char(character)), Duration::ZERO).0;
    }
    model
}

#[test]
fn without_an_owner_nothing_that_changes_the_machine_is_offered_and_it_says_why() {
    let who = Who { machine: "X".into(), why: Some("no seed was read".into()), ..Who::default() };
    let (model, _) = update(Model::new(false), Event::Reply(Ok(Reply::Who(who))), Duration::ZERO);
    assert_eq!(model.menu(), [Entry::Identity]);
    assert_eq!(model.why_no_changes().as_deref(), Some("no seed was read"));
    for letter in ['n', 'r', 'o', 's', 'k'] {
        let (after, actions) = update(model.clone(), Event::Key(Key::Char(letter)), Duration::ZERO);
        assert_eq!((after.screen, actions), (Screen::Status, Vec::new()));
    }
}

#[test]
fn an_answer_is_typed_checked_and_sent_once() {
    let model = challenged();
    let answer = code::encode(&[9; 64]);
    let model = typed(model, &answer[..answer.len() - 6]);
    let (model, actions) = update(model, Event::Key(Key::Enter), Duration::ZERO);
    assert!(actions.is_empty(), "a cut answer stays here");
    let model = typed(model, &answer[answer.len() - 6..]);
    let (model, actions) = update(model, Event::Key(Key::Enter), Duration::ZERO);
    assert!(matches!(&actions[..], [Action::Send(Request::Answer { answer: sent, .. })] if *sent == answer));
    let (model, actions) = update(model, Event::Key(Key::Enter), Duration::ZERO);
    assert!(actions.is_empty(), "one answer is on its way");
    let (model, _) = update(model, Event::Reply(Ok(Reply::Refused("wrong".into()))), Duration::ZERO);
    let Screen::Challenge(asked) = &model.screen else { panic!("{:?}", model.screen) };
    assert_eq!((asked.said.as_deref(), asked.waiting), (Some("wrong"), false));
    let (model, _) = update(model, Event::Reply(Ok(Reply::Done("It starts again.".into()))), Duration::ZERO);
    assert_eq!(model.screen, Screen::Notice("It starts again.".into()));
}

#[test]
fn a_mistyped_group_is_told_while_it_is_typed_and_a_pasted_answer_is_taken_as_it_is() {
    let answer = code::encode(&[9; 64]);
    let model = typed(challenged(), "00000");
    let Screen::Challenge(asked) = &model.screen else { panic!() };
    assert!(asked.said.as_deref().is_some_and(|said| said.contains("group 1")), "{asked:?}");
    let (model, _) = update(model, Event::Key(Key::Empty), Duration::ZERO);
    let pasted = answer.replacen(' ', "\r\n", 3);
    let (model, _) = update(model, Event::Paste(pasted), Duration::ZERO);
    let (_, actions) = update(model, Event::Key(Key::Enter), Duration::ZERO);
    assert_eq!(actions.len(), 1);
}

#[test]
fn a_challenge_ends_with_its_time() {
    let (model, _) = update(challenged(), Event::Tick, Duration::from_secs(599));
    assert!(matches!(model.screen, Screen::Challenge(_)));
    let (model, _) = update(model, Event::Tick, Duration::from_secs(600));
    assert!(matches!(model.screen, Screen::Notice(said) if said.contains("expired")));
}

#[test]
fn a_new_network_can_be_kept_while_it_is_tried() {
    let who = |trial| Reply::Who(Who { machine: "X".into(), owner: Some("o".into()), why: None, trial });
    let (model, _) = update(owned(), Event::Reply(Ok(who(Some(42)))), Duration::from_secs(10));
    assert_eq!(model.trial, Some(Duration::from_secs(52)));
    let (_, actions) = update(model.clone(), Event::Key(Key::Char('k')), Duration::from_secs(11));
    assert_eq!(actions, [Action::Send(Request::Keep)]);
    let (model, _) = update(model, Event::Tick, Duration::from_secs(52));
    assert_eq!(model.trial, None);
    let (_, actions) = update(model, Event::Key(Key::Char('k')), Duration::from_secs(53));
    assert!(actions.is_empty());
}

#[test]
fn the_form_asks_for_exactly_what_was_typed() {
    let (model, _) = update(owned(), Event::Key(Key::Char('n')), Duration::ZERO);
    let (model, _) = update(model, Event::Key(Key::Tab), Duration::ZERO);
    let (model, _) = update(model, Event::Key(Key::Char('y')), Duration::ZERO);
    let (model, actions) = update(model, Event::Key(Key::Enter), Duration::ZERO);
    let [Action::Send(Request::Ask(Deed::Network(change)))] = &actions[..] else { panic!("{actions:?}") };
    assert!(change.dhcp && change.interface == "eno1" && change.addresses.len() == 2);
    assert_eq!(model.screen, Screen::Asking);
    // An answer that comes after escape changes no screen.
    let (model, _) = update(model, Event::Key(Key::Escape), Duration::ZERO);
    let late = Reply::Challenge { code: "X".into(), lines: Vec::new(), valid: 600 };
    let (model, _) = update(model, Event::Reply(Ok(late)), Duration::ZERO);
    assert_eq!(model.screen, Screen::Status);
}

pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    let key = prop_oneof![
        any::<char>().prop_map(Key::Char),
        prop::sample::select(vec!['f', 'n', 'r', 'o', 's', 'u', 'k', 'y', '0', ' ']).prop_map(Key::Char),
        prop::sample::select(vec![
            Key::Enter,
            Key::Escape,
            Key::Tab,
            Key::BackTab,
            Key::Up,
            Key::Down,
            Key::Left,
            Key::Right,
            Key::Backspace,
            Key::Empty,
            Key::Redraw,
            Key::SealNow,
        ]),
    ];
    let text = || "(?s).{0,120}";
    let who = (text(), proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(any::<u64>()))
        .prop_map(|(machine, owner, why, trial)| Who { machine, owner, why, trial });
    let challenge = (text(), proptest::collection::vec(text(), 0..9), any::<u64>())
        .prop_map(|(code, lines, valid)| Reply::Challenge { code, lines, valid });
    let honest = (0..2000_u64).prop_map(|valid| Reply::Challenge {
        code: code::encode(&[5; 53]),
        lines: Deed::PowerOff.lines(),
        valid,
    });
    let reply = prop_oneof![challenge, honest, text().prop_map(Reply::Done), text().prop_map(Reply::Refused)];
    let facts =
        (text(), proptest::collection::vec(text(), 0..5), any::<bool>()).prop_map(|(word, list, can_seal)| Facts {
            hostname: word.clone(),
            mail: word.clone(),
            failed: Some(list.clone()),
            problems: list.clone(),
            links: vec![Link {
                name: word.clone(),
                state: word.clone(),
                addresses: list.clone(),
                own: list.clone(),
                ..Link::default()
            }],
            can_seal,
            custody: can_seal.then(|| Custody { told: word.clone(), offer: list.first().cloned(), door: None }),
            ..facts()
        });
    prop_oneof![
        6 => key.prop_map(Event::Key),
        1 => text().prop_map(Event::Paste),
        1 => Just(Event::Tick),
        1 => facts.prop_map(|facts| Event::Facts(Box::new(facts))),
        1 => text().prop_map(Event::Log),
        1 => proptest::result::maybe_ok(who, text()).prop_map(Event::Who),
        2 => proptest::result::maybe_ok(reply, text()).prop_map(Event::Reply),
        1 => proptest::result::maybe_ok(text(), text()).prop_map(Event::HandedOver),
    ]
}

proptest! {
    #[test]
    fn no_order_of_events_asks_for_a_deed_without_an_owner_or_answers_without_a_challenge(
        events in proptest::collection::vec((any_event(), 0..200_u64), 0..80),
    ) {
        let mut model = Model::new(false);
        let mut now = Duration::ZERO;
        for (event, wait) in events {
            now += Duration::from_secs(wait);
            let before = model.clone();
            let (after, actions) = update(model, event, now);
            for action in actions {
                match action {
                    Action::Send(Request::Ask(_)) => {
                        prop_assert!(before.menu().contains(&Entry::Reboot) || matches!(before.screen, Screen::Network(_)));
                    }
                    Action::Send(Request::Answer { .. }) => prop_assert!(matches!(before.screen, Screen::Challenge(_))),
                    Action::Send(Request::Keep) => prop_assert!(before.trial.is_some()),
                    Action::Send(Request::SealNow) => prop_assert!(before.can_seal_now() && before.screen == Screen::SealNow),
                    Action::Send(Request::Who) => prop_assert!(false, "the screen's edge asks that by itself"),
                    Action::HandOver(answer) => {
                        prop_assert!(matches!(before.screen, Screen::Custodians(_)));
                        prop_assert!(answer.starts_with("-----BEGIN"));
                    }
                    Action::Redraw => {}
                }
            }
            prop_assert!(after.log.len() <= LOG);
            prop_assert!(after.marked < after.menu().len());
            model = after;
        }
    }
}
