//! The screens as text.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::tests::{any_event, challenged, owned};
use crate::model::{Event, Key, update};
use crate::wire::{Reply, Who};

fn logged() -> Model {
    let mut model = owned();
    for line in [
        "04:59:58 systemd: Reached target multi-user.target - Multi-User System.",
        "05:00:00 postkeepd: ready: 0.0.0.0:25",
    ] {
        model = update(model, Event::Log(line.into()), Duration::ZERO).0;
    }
    model
}

fn pressed(model: Model, key: Key) -> Model {
    update(model, Event::Key(key), Duration::ZERO).0
}

#[test]
fn the_status_at_the_size_of_a_plain_terminal() {
    let expected = "\u{20}Postkeep 0.1.0  mail-1.example.com               OPEN  2026-11-27 05:00:00 UTC
Machine   0410G 20G4Z 10G2Y 0G40Y 0G200 G20Z7 0GF
State     open: the data volume is mounted
Posture   C: nothing can be proved from afar. There is no TPM 2.0.
Network   eno1 routable 203.0.113.5/32 2001:db8::2/64
          eno2 no-carrier
Mail      running, 12 recipients wait
Failed    nothing
Owner     example.com/owner
-- Log -------------------------------------------------------------------------
04:59:58 systemd: Reached target multi-user.target - Multi-User System.
05:00:00 postkeepd: ready: 0.0.0.0:25











[f] fingerprint  [n] network  [r] start again  [o] power off  [s] seal
";
    assert_eq!(to_text(&logged(), 80, 24), expected);
}

#[test]
fn what_the_machine_once_was_and_how_its_managers_know_it_are_on_the_screen() {
    let mut model = logged();
    let reason = "Secure Boot is off.".to_owned();
    model.facts.worst = Some(crate::facts::Worst { grade: "D".into(), since: "2026-11-02".into(), reason });
    model.facts.api = Some("5f".repeat(32));
    let text = to_text(&model, 80, 24);
    assert!(text.contains("\n          It was D on 2026-11-02, and that stays: Secure Boot is off.\n"), "{text}");
    assert!(text.contains(&format!("\nBox       {}\n", "5f".repeat(32))), "{text}");
}

#[test]
fn the_challenge_names_the_deed_and_has_its_code_beside_it() {
    let text = to_text(&challenged(), 80, 24);
    assert!(text.contains("do: stop mail and start this machine again"), "{text}");
    assert!(text.contains("Answer:") && text.contains('\u{2584}') && text.contains("600 s left"), "{text}");
    let Screen::Challenge(asked) = challenged().screen else { panic!() };
    let shown: String = text.chars().filter(|character| character.is_ascii_alphanumeric()).collect();
    for group in asked.code.split(' ') {
        assert!(shown.contains(group), "{group} is not in\n{text}");
    }
}

#[test]
fn a_plain_terminal_gets_plain_characters() {
    let mut model = challenged();
    model.plain = true;
    model.facts.hostname = "m\u{fc}nchen".into();
    for picture in [false, true] {
        assert!(to_text(&model, 80, 24).is_ascii());
        if !picture {
            model = pressed(model, Key::Tab);
        }
    }
}

#[test]
fn the_fingerprint_is_a_picture_too() {
    let text = to_text(&pressed(owned(), Key::Char('f')), 80, 24);
    assert!(text.contains("The fingerprint of this machine:") && text.contains('\u{2588}'), "{text}");
}

#[test]
fn a_box_without_an_owner_shows_no_entry_that_changes_it_and_says_why() {
    let who = Who { machine: "X".into(), why: Some("there is no seed".into()), ..Who::default() };
    let model = update(owned(), Event::Reply(Ok(Reply::Who(who))), Duration::ZERO).0;
    let text = to_text(&model, 80, 24);
    assert!(text.contains("nothing can be changed here: there is no seed"), "{text}");
    assert!(!text.contains("[r]") && !text.contains("[n]"), "{text}");
}

#[test]
fn a_sealed_box_says_what_its_custodians_need_and_shows_an_answer_arrive() {
    let offer = format!("postkeep-offer-1:unclean:{}:{}:age1{}", "0b".repeat(16), "5e".repeat(32), "q".repeat(58));
    let door = "5f".repeat(32);
    let told = "waits for its custodians (unclean): for opening 1 of 2 have answered".to_owned();
    let mut facts = crate::model::tests::facts();
    facts.volume = Volume::Sealed;
    facts.custody = Some(Custody { told, offer: Some(offer.clone()), door: Some(door.clone()) });
    let model = update(owned(), Event::Facts(Box::new(facts)), Duration::ZERO).0;
    let text = to_text(&model, 80, 24);
    assert!(text.contains("Seal      waits for its custodians (unclean): for opening 1 of 2 have answered"), "{text}");
    assert!(text.contains(&format!("Door      {door}")) && text.contains("[u] unseal"), "{text}");

    let mut model = pressed(model, Key::Char('u'));
    let shown = |model: &Model| to_text(model, 80, 24);
    let whole: String = shown(&model).chars().filter(|character| !character.is_whitespace()).collect();
    assert!(whole.contains(&offer) && whole.contains(&door), "{whole}");
    assert!(shown(&model).contains("Nothing has come yet."));
    // A serial line sends what is pasted as keys.
    for character in "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n".chars() {
        model = pressed(model, if character == '\n' { Key::Enter } else { Key::Char(character) });
    }
    assert!(shown(&model).contains("2 lines of an answer have come"), "{}", shown(&model));
    let (model, actions) = update(model, Event::Paste("-----END AGE ENCRYPTED FILE-----\n".to_owned()), Duration::ZERO);
    let answer = "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n";
    assert_eq!(actions, [crate::model::Action::HandOver(answer.to_owned())]);
    let said = Event::HandedOver(Ok("It counts: 2 of 3 have answered.".to_owned()));
    assert!(shown(&update(model.clone(), said, Duration::ZERO).0).contains("It counts: 2 of 3"));
    // Large enough, it is a picture.
    let picture = to_text(&pressed(model, Key::Tab), 128, 48);
    assert!(picture.contains('\u{2588}') && !picture.contains("too small"), "{picture}");
}

#[test]
fn an_open_box_with_custodians_is_sealed_by_a_chord_pressed_twice_and_another_is_not() {
    assert_eq!(pressed(owned(), Key::SealNow).screen, Screen::Status, "a start would open it again");
    let mut facts = crate::model::tests::facts();
    facts.custody = Some(Custody { told: "opened by its custodians".to_owned(), ..Custody::default() });
    let model = update(owned(), Event::Facts(Box::new(facts)), Duration::ZERO).0;
    let asked = pressed(pressed(model, Key::Char('f')), Key::SealNow);
    let text = to_text(&asked, 80, 24);
    assert!(text.contains("Seal this box now?") && text.contains("[Ctrl-X] once more"), "{text}");
    assert_eq!(pressed(asked.clone(), Key::Escape).screen, Screen::Status);
    let (after, actions) = update(asked, Event::Key(Key::SealNow), Duration::ZERO);
    assert_eq!(actions, [crate::model::Action::Send(crate::wire::Request::SealNow)]);
    assert!(to_text(&after, 80, 24).contains("waiting for the answer"));
}

#[test]
fn a_network_that_is_tried_says_how_to_keep_it() {
    let who = Who { machine: "X".into(), owner: Some("o".into()), why: None, trial: Some(42) };
    let model = update(owned(), Event::Reply(Ok(Reply::Who(who))), Duration::ZERO).0;
    let text = to_text(&model, 80, 24);
    assert!(text.contains("Press k to keep it; otherwise the old one is back\nin 42 s."), "{text}");
    assert!(text.contains("[k] keep it") && text.contains("[s] seal\n"), "{text}");
}

#[test]
fn text_is_broken_between_words_and_long_words_anywhere() {
    assert_eq!(wrap("aa bb  cc", 5), ["aa bb", "cc"]);
    assert_eq!(wrap("abcdefg", 3), ["abc", "def", "g"]);
    assert_eq!(wrap("", 0), [""]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_size_and_no_state_makes_it_panic_or_lets_a_control_character_through(
        events in proptest::collection::vec(any_event(), 0..40), width in 0..140_u16, height in 0..50_u16, plain: bool,
    ) {
        let mut model = owned();
        model.plain = plain;
        for event in events {
            model = update(model, event, Duration::ZERO).0;
            let text = to_text(&model, width, height);
            prop_assert!(!text.chars().any(|character| character.is_control() && character != '\n'));
            prop_assert!(!plain || text.is_ascii());
        }
    }
}

#[test]
fn a_clock_that_no_time_server_has_set_is_told_of() {
    let mut model = logged();
    assert!(!to_text(&model, 80, 24).contains("Time "));
    model.facts.synchronized = Some(false);
    assert!(to_text(&model, 80, 24).contains("Time      the clock has not been set by a time server"));
}
