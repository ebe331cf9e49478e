use std::fs;

use age::x25519::Identity;
use postkeep_keys::challenge::{Asked, respond};
use postkeep_keys::wire::Seal;
use postkeep_keys::{Answer, Custodian, Grade, KeySet, Made, Recipient, envelope};
use postkeep_notes::SignerKey;

use super::*;

const VOLUME: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
const HEADER: &str = r#"{
    "keyslots": {"1": {"type": "luks2", "key_size": 64, "area": {"type": "raw", "encryption": "aes-xts-plain64", "key_size": 64}}},
    "segments": {"0": {"type": "crypt", "encryption": "aes-xts-plain64"}}
}"#;

struct Laid {
    folder: tempfile::TempDir,
    keys: Vec<Identity>,
    made: Made,
}

/// A box in a folder, with programs that write down what they are asked to do.
fn laid() -> (Laid, Arc<Opener>) {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
    let custodian = |(number, key): (usize, &Identity)| Custodian {
        name: format!("c{number}").parse().unwrap(),
        recipients: vec![Recipient::of(key)],
    };
    let set = KeySet { threshold: 2, custodians: keys.iter().enumerate().map(custodian).collect(), recovery: None };
    let volume = VOLUME.parse().unwrap();
    let made = Token::make(&set, &volume, 1, &mut System).unwrap();
    let box_key = SignerKey::generate("box.example").unwrap();
    fs::create_dir(folder.path().join("postkeep")).unwrap();
    fs::write(folder.path().join(TOKEN), made.token.sign(&box_key).unwrap()).unwrap();
    fs::create_dir_all(folder.path().join("data/keys")).unwrap();
    fs::write(folder.path().join("header"), HEADER).unwrap();
    for name in ["cryptsetup", "systemctl"] {
        let program = folder.path().join(name);
        let text = format!(
            "#!/bin/sh\necho \"$@\" >>{0}.asked\n\
             case $1 in luksDump) exec cat {1}/header;; luksUUID) echo {VOLUME}; exit;; open) cat >>{0}.input;; esac\n\
             ! cat {0}.status >&2 2>/dev/null || exit 2\n",
            program.display(),
            folder.path().display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let opener = Opener::start(place(folder.path())).unwrap().unwrap();
    (Laid { folder, keys, made }, opener)
}

fn place(folder: &Path) -> Place {
    let volume = Volume {
        device: "/dev/postkeep-data".into(),
        name: "postkeep-data".to_owned(),
        program: folder.join("cryptsetup"),
        mapper: folder.join("mapper"),
    };
    Place {
        boot: folder.to_owned(),
        data: folder.join("data"),
        volume,
        systemctl: folder.join("systemctl"),
        unopened: folder.join("unopened"),
        chip: None,
        certificate: folder.join("certificate"),
        unmarked: folder.join("unmarked"),
    }
}

fn state(opener: &Arc<Opener>) -> postkeep_keys::wire::State {
    let Reply::State(state) = opener.handle(&Request::State) else { panic!("a state") };
    *state
}

fn until(opener: &Arc<Opener>, seal: Seal) {
    for _ in 0..1000 {
        if state(opener).seal == seal {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it does not become {seal:?}");
}

impl Laid {
    fn answer(&self, opener: &Arc<Opener>, number: usize) -> Reply {
        let offer = state(opener).offer.unwrap();
        let held = self.made.token.open_shares(None, &[&self.keys[number]]).unwrap().remove(0);
        let answer = Answer {
            token: offer.token,
            boot: offer.boot,
            held,
            grade: Grade::A1,
            reason: "work".to_owned(),
            change: None,
        };
        opener.handle(&Request::Answer { answer: envelope::armour(&answer.seal(&offer).unwrap()) })
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).unwrap_or_default()
    }
}

#[test]
fn two_custodians_open_the_volume_with_what_their_shares_say() {
    let (laid, opener) = laid();
    assert!(matches!(laid.answer(&opener, 2), Reply::Counted { .. }));
    assert!(laid.file("cryptsetup.asked").is_empty());
    assert_eq!(laid.answer(&opener, 0), Reply::Opens);
    until(&opener, Seal::Open);
    let asked = String::from_utf8(laid.file("cryptsetup.asked")).unwrap();
    // Afterwards it looks for slots of nobody.
    let open = asked.lines().find(|line| line.starts_with("open ")).unwrap();
    assert!(open.starts_with("open --type=luks2") && open.ends_with("/dev/postkeep-data postkeep-data"), "{asked}");
    assert!(open.contains("--key-slot=1") && open.contains("--disable-external-tokens"), "{asked}");
    let wanted = passphrase(&laid.made.opening, None, postkeep_keys::Purpose::Opening, &laid.made.token.volume, 1);
    assert_eq!(laid.file("cryptsetup.input"), wanted.expose());
    assert_eq!(cause(laid.folder.path()), postkeep_keys::Cause::Unclean, "should its power go now");
}

#[test]
fn a_volume_that_does_not_open_waits_for_the_custodians_once_more() {
    let (laid, opener) = laid();
    fs::write(laid.folder.path().join("cryptsetup.status"), "No key available").unwrap();
    laid.answer(&opener, 0);
    assert_eq!(laid.answer(&opener, 1), Reply::Opens);
    until(&opener, Seal::Sealed);
    assert!(laid.folder.path().join("unopened").exists(), "whoever judges this start is told");
    assert!(state(&opener).progress[0].answered.is_empty());
    fs::remove_file(laid.folder.path().join("cryptsetup.status")).unwrap();
    laid.answer(&opener, 0);
    assert_eq!(laid.answer(&opener, 1), Reply::Opens);
    until(&opener, Seal::Open);
}

#[test]
fn one_custodian_proves_possession_and_seals() {
    let (laid, opener) = laid();
    laid.answer(&opener, 0);
    laid.answer(&opener, 1);
    until(&opener, Seal::Open);
    let name: Name = "c2".parse().unwrap();
    let done = |asked| {
        let Reply::Question { question } = opener.handle(&Request::Ask { asked, name: name.clone() }) else {
            panic!("a question")
        };
        let (_, response) = respond(question.as_bytes(), asked, &[&laid.keys[2]]).unwrap();
        opener.handle(&Request::Respond { asked, name: name.clone(), response })
    };
    assert!(state(&opener).possession.iter().all(|proven| proven.last.is_none()));
    assert_eq!(done(Asked::Possession), Reply::Done);
    let possession = state(&opener).possession;
    assert!(possession[2].last.is_some() && possession[1].last.is_none(), "{possession:?}");
    // What cannot be done is not said to be done, and can be tried again.
    fs::write(laid.folder.path().join("systemctl.status"), "no such unit").unwrap();
    assert_eq!(done(Asked::Seal), Reply::Failed);
    assert_eq!(state(&opener).seal, Seal::Open);
    fs::remove_file(laid.folder.path().join("systemctl.status")).unwrap();
    fs::rename(laid.folder.path().join("data"), laid.folder.path().join("away")).unwrap();
    assert_eq!(done(Asked::Possession), Reply::Failed);
    fs::rename(laid.folder.path().join("away"), laid.folder.path().join("data")).unwrap();
    for _ in 0..2 {
        assert_eq!(done(Asked::Seal), Reply::Done);
        assert_eq!(state(&opener).seal, Seal::Sealing);
    }
    let order = "--no-block start postkeep-seal.target\n";
    let wanted = format!("--no-block start multi-user.target\n{}", order.repeat(3));
    assert_eq!(String::from_utf8(laid.file("systemctl.asked")).unwrap(), wanted, "what needs the volume, then sealing");
}

#[test]
fn one_custodian_has_the_machine_started_anew_while_it_is_sealed_and_hears_so_before() {
    let (laid, opener) = laid();
    let name: Name = "c2".parse().unwrap();
    let ask = || opener.handle(&Request::Ask { asked: Asked::Restart, name: name.clone() });
    let Reply::Question { question } = ask() else { panic!("a question") };
    let (_, response) = respond(question.as_bytes(), Asked::Restart, &[&laid.keys[2]]).unwrap();
    let done = opener.handle(&Request::Respond { asked: Asked::Restart, name: name.clone(), response });
    assert_eq!(done, Reply::Done);
    assert!(laid.file("systemctl.asked").is_empty());
    let began = Instant::now();
    while laid.file("systemctl.asked").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody starts it");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(laid.file("systemctl.asked"), b"--no-block reboot\n");
    // Nothing is begun that the start would interrupt.
    assert_eq!((state(&opener).seal, state(&opener).offer), (Seal::Sealed, None));
    assert_eq!(ask(), Reply::Refused);
}

#[test]
fn a_box_that_cannot_be_started_anew_offers_itself_again() {
    let (laid, opener) = laid();
    fs::write(laid.folder.path().join("systemctl.status"), "not now").unwrap();
    let (name, before): (Name, _) = ("c2".parse().unwrap(), state(&opener).offer.unwrap());
    let question = opener.handle(&Request::Ask { asked: Asked::Restart, name: name.clone() });
    let Reply::Question { question } = question else { panic!("a question") };
    let (_, response) = respond(question.as_bytes(), Asked::Restart, &[&laid.keys[2]]).unwrap();
    opener.handle(&Request::Respond { asked: Asked::Restart, name, response });
    let began = Instant::now();
    let offer = loop {
        match state(&opener).offer {
            Some(offer) => break offer,
            None => assert!(began.elapsed() < Duration::from_secs(10), "it offers nothing"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_ne!(offer.boot, before.boot);
}

#[test]
fn a_quorum_gives_an_open_box_a_new_key_set_and_is_told_when_that_fails() {
    let (laid, opener) = laid();
    laid.answer(&opener, 0);
    laid.answer(&opener, 1);
    until(&opener, Seal::Open);
    let set = KeySet { threshold: 1, ..laid.made.token.key_set() };
    let want = |number: usize| {
        let offer = state(&opener).changes.unwrap();
        let held = laid.made.token.open_shares(None, &[&laid.keys[number]]).unwrap().remove(0);
        let (token, boot, reason) = (offer.token, offer.boot, "one is enough".to_owned());
        let answer = Answer { token, boot, held, grade: Grade::A1, reason, change: Some(set.clone()) };
        opener.handle(&Request::Answer { answer: envelope::armour(&answer.seal(&offer).unwrap()) })
    };
    let settled = || {
        let began = Instant::now();
        while state(&opener).changes.is_none() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        state(&opener)
    };
    // The key of the box is missing; nothing is touched, and the box offers itself anew.
    let offered = state(&opener).changes.unwrap().boot;
    assert!(matches!(want(2), Reply::Counted { .. }));
    assert_eq!(want(0), Reply::Changes);
    let failed = settled();
    assert_eq!((failed.epoch, failed.seal), (1, Seal::Open));
    assert_ne!(failed.changes.unwrap().boot, offered);
    assert!(!String::from_utf8(laid.file("cryptsetup.asked")).unwrap().contains("luksAddKey"));

    SignerKey::generate("box.example").unwrap().write(&laid.folder.path().join("data").join(BOX_KEY)).unwrap();
    let name: Name = "c2".parse().unwrap();
    opener.prove(&name).unwrap();
    assert!(state(&opener).possession.iter().any(|proven| proven.last.is_some()));
    assert!(matches!(want(0), Reply::Counted { .. }));
    assert_eq!(want(2), Reply::Changes);
    let changed = settled();
    assert_eq!((changed.epoch, changed.seal), (2, Seal::Open));
    assert!(changed.possession.iter().all(|proven| proven.last.is_none()), "new shares are proved anew");
    let Reply::Token { note } = opener.handle(&Request::Token) else { panic!("a token") };
    assert_eq!(note.as_bytes(), laid.file(TOKEN));
    let token = Token::unverified(note.as_bytes()).unwrap();
    assert_eq!(token.key_set(), set);
    // Made in the slot of the new epoch, and copied to the other disk; those before open it still.
    let asked = || String::from_utf8(laid.file("cryptsetup.asked")).unwrap();
    assert!(asked().contains("--key-slot=1 --new-key-slot=3") && !asked().contains("luksKillSlot"), "{}", asked());
    let copied = "start postkeep-boot-copy.service\n".repeat(2);
    assert!(String::from_utf8(laid.file("systemctl.asked")).unwrap().ends_with(&copied));
    let slot = "{\"type\": \"luks2\", \"key_size\": 64, \"area\": {}}";
    fs::write(
        laid.folder.path().join("header"),
        HEADER.replace("\"keyslots\": {", &format!("\"keyslots\": {{\"3\": {slot}, ")),
    )
    .unwrap();
    let enrolled = |within: Duration| {
        let asked_of = Request::Ask { asked: Asked::Possession, name: name.clone() };
        let Reply::Question { question } = opener.handle(&asked_of) else { panic!("a question") };
        let (_, response) = respond(question.as_bytes(), Asked::Possession, &[&laid.keys[2]]).unwrap();
        let done = opener.handle(&Request::Respond { asked: Asked::Possession, name: name.clone(), response });
        assert_eq!(done, Reply::Done);
        let began = Instant::now();
        while !asked().contains("luksKillSlot") && began.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // Another disk has brought the token before: nobody knows which holds, and both open it.
    fs::write(laid.folder.path().join(TOKEN), "the one before").unwrap();
    enrolled(Duration::from_millis(500));
    assert!(!asked().contains("luksKillSlot"));
    // One of the new set has shown that they can, which is as many as it takes, and both disks know of them.
    fs::write(laid.folder.path().join(TOKEN), &note).unwrap();
    enrolled(Duration::from_secs(10));
    assert!(asked().ends_with("luksKillSlot --batch-mode /dev/postkeep-data 1\n"), "{}", asked());
}

#[test]
fn what_a_first_boot_that_was_cut_has_left_is_taken_away_at_the_next_opening() {
    let (laid, opener) = laid();
    let slot = "{\"type\": \"luks2\", \"key_size\": 64, \"area\": {}}";
    let header = HEADER.replace("\"keyslots\": {", &format!("\"keyslots\": {{\"0\": {slot}, "));
    assert_ne!(header, HEADER);
    fs::write(laid.folder.path().join("header"), header).unwrap();
    laid.answer(&opener, 0);
    laid.answer(&opener, 1);
    until(&opener, Seal::Open);
    let began = Instant::now();
    while !String::from_utf8(laid.file("cryptsetup.asked"))
        .unwrap()
        .contains("luksKillSlot --batch-mode /dev/postkeep-data 0")
    {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_opener_that_fell_over_beside_an_open_volume_goes_on_where_it_was() {
    let (laid, opener) = laid();
    opener.go_on();
    assert!(laid.file("systemctl.asked").is_empty(), "nothing starts while it is sealed");
    fs::create_dir_all(laid.folder.path().join("mapper/postkeep-data")).unwrap();
    let again = Opener::start(place(laid.folder.path())).unwrap().unwrap();
    again.go_on();
    assert_eq!(state(&again).seal, Seal::Open);
    assert_eq!(laid.file("systemctl.asked"), b"--no-block start multi-user.target\n");
    assert_eq!(cause(laid.folder.path()), postkeep_keys::Cause::Unclean, "should its power go now");
}

#[test]
fn a_volume_that_somebody_has_exchanged_is_not_opened() {
    let (laid, opener) = laid();
    let header = HEADER.replace(
        "{\"type\": \"raw\", \"encryption\": \"aes-xts-plain64\"",
        "{\"type\": \"raw\", \"encryption\": \"cipher_null-ecb\"",
    );
    assert_ne!(header, HEADER);
    fs::write(laid.folder.path().join("header"), header).unwrap();
    laid.answer(&opener, 0);
    assert_eq!(laid.answer(&opener, 1), Reply::Opens);
    until(&opener, Seal::Sealed);
    assert!(!String::from_utf8(laid.file("cryptsetup.asked")).unwrap().contains("open --type"));
    assert!(laid.file("cryptsetup.input").is_empty(), "the passphrase was shown to nobody");
}

#[test]
fn an_opener_that_is_started_again_beside_an_open_volume_knows_that_it_is_open() {
    let (laid, _) = laid();
    fs::create_dir(laid.folder.path().join("mapper")).unwrap();
    fs::write(laid.folder.path().join("mapper/postkeep-data"), "").unwrap();
    let opener = Opener::start(place(laid.folder.path())).unwrap().unwrap();
    assert_eq!(state(&opener).seal, Seal::Open);
    assert!(state(&opener).offer.is_none());
}

#[test]
fn a_box_without_a_token_has_nothing_to_keep_and_a_damaged_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Opener::start(place(folder.path())).unwrap().is_none());
    fs::create_dir(folder.path().join("postkeep")).unwrap();
    for damaged in [&b""[..], b"rubbish", &[0xff; 100], &vec![b'a'; LARGEST_TOKEN + 10]] {
        fs::write(folder.path().join(TOKEN), damaged).unwrap();
        let error = Opener::start(place(folder.path())).err().unwrap().to_string();
        assert!(error.contains("postkeep/token") && error.contains("put back the newest copy"), "{error}");
    }
}
