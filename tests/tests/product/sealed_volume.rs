//! A volume in a file, its slots kept by the real cryptsetup: given to its custodians at the first boot, opened by a quorum of them, and by
//! nothing else; and given to others later, with the power cut at each step of that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use age::x25519::Identity;
use postkeep_keys::unseal::Opening;
use postkeep_keys::{
    Answer, Cause, Counts, Custodian, Grade, KeySet, Purpose, Quorum, Recipient, Secret, System, Token, Unseal,
    passphrase,
};
use postkeep_notes::SignerKey;
use postkeep_sealed::change::{Changed, change, remove_all_but};
use postkeep_sealed::first::give;
use postkeep_sealed::opener::TOKEN;
use postkeep_sealed::slots::{FIRST_SLOT, GiveError, slot, slots_of};
use postkeep_sealed::volume::{Volume, VolumeError};

use postkeep_tests::tools::{self, needs};

const SIZE: u64 = 32 << 20;

/// A volume as the first boot makes it: one slot, opened by random octets.
fn new_volume(folder: &Path, program: &Path) -> (Volume, Secret) {
    use std::io::Write as _;

    let first = Secret::new(&mut System);
    let device = folder.join("volume");
    File::create(&device).unwrap().set_len(SIZE).unwrap();
    let mut child = Command::new(program)
        .args([
            "luksFormat",
            "--batch-mode",
            "--type=luks2",
            "--pbkdf=pbkdf2",
            "--pbkdf-force-iterations=1000",
            "--key-file=-",
        ])
        .arg(&device)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(first.expose()).unwrap();
    assert!(child.wait().unwrap().success());
    (
        Volume { device, name: "never-opened".to_owned(), program: program.to_owned(), mapper: folder.join("mapper") },
        first,
    )
}

struct House {
    keys: Vec<Identity>,
    set: KeySet,
}

fn house() -> House {
    let keys: Vec<Identity> = (0..5).map(|_| Identity::generate()).collect();
    let custodian =
        |at: usize| Custodian { name: format!("c{at}").parse().unwrap(), recipients: vec![Recipient::of(&keys[at])] };
    let recovery = Some(Quorum { threshold: 2, custodians: vec![custodian(3), custodian(4)] });
    let set = KeySet { threshold: 2, custodians: (0..3).map(custodian).collect(), recovery };
    House { keys, set }
}

/// What custodians with these keys open, by their answers to a box that has just started.
fn opened(house: &House, token: &Token, who: &[usize]) -> Opening {
    let mut opener = Unseal::begin(token.clone(), Cause::FirstStart, &mut System);
    let offer = opener.offer().clone();
    for at in who {
        let held = token.open_shares(None, &[&house.keys[*at]]).unwrap().remove(0);
        let answer = Answer {
            token: offer.token,
            boot: offer.boot,
            held,
            grade: Grade::A1,
            reason: String::new(),
            change: None,
        };
        if let Counts::Enough(opening) = opener.take(&answer.seal(&offer).unwrap(), Duration::ZERO).unwrap() {
            return opening;
        }
    }
    panic!("they are enough");
}

#[test]
fn a_new_volume_is_given_to_its_custodians_and_opened_by_a_quorum_only() {
    let Some(program) = needs(tools::find("cryptsetup")) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("postkeep")).unwrap();
    let (volume, first) = new_volume(folder.path(), &program);
    assert!(volume.is_opened_by(&first, FIRST_SLOT).unwrap());
    let (house, box_key) = (house(), SignerKey::generate("box.example").unwrap());
    let mut kept = false;
    let keep = |id: &_, opens: &_, slot| {
        // Custodians could open it by now, and nobody was told so yet.
        assert_eq!(*id, volume.id().unwrap());
        assert!(volume.is_opened_by(opens, slot).unwrap() && !folder.path().join(TOKEN).exists());
        kept = true;
        Ok(())
    };
    let token = give(&volume, &first, &house.set, &box_key, folder.path(), None, keep).unwrap();
    assert!(kept);
    // The key that it was made with opens it no more, and its slot is gone.
    assert!(volume.is_opened_by(&first, FIRST_SLOT).is_err());
    assert!([1, 2].into_iter().all(|slot| !volume.is_opened_by(&first, slot).unwrap()));
    let note = fs::read(folder.path().join(TOKEN)).unwrap();
    assert_eq!(Token::open(&note, std::slice::from_ref(box_key.verifier())).unwrap(), token);
    assert_eq!(token.volume, volume.id().unwrap());

    for (who, purpose) in [([2, 0], Purpose::Opening), ([1, 2], Purpose::Opening), ([4, 3], Purpose::Recovery)] {
        let opening = opened(&house, &token, &who);
        assert_eq!(opening.purpose, purpose);
        let right = passphrase(&opening.secret, None, purpose, &token.volume, token.epoch);
        assert!(volume.is_opened_by(&right, slot(purpose, token.epoch)).unwrap());
        // What a share too few, another epoch, or the other purpose would come to.
        let other = if purpose == Purpose::Opening { Purpose::Recovery } else { Purpose::Opening };
        for wrong in [
            passphrase(&opening.secret, None, purpose, &token.volume, token.epoch + 1),
            passphrase(&opening.secret, None, other, &token.volume, token.epoch),
            passphrase(&opening.secret, Some(&Secret::new(&mut System)), purpose, &token.volume, token.epoch),
            passphrase(&Secret::new(&mut System), None, purpose, &token.volume, token.epoch),
        ] {
            assert!([1, 2].into_iter().all(|slot| !volume.is_opened_by(&wrong, slot).unwrap()));
        }
    }
}

#[test]
fn nothing_is_given_where_the_first_key_is_not_the_volume_s() {
    let Some(program) = needs(tools::find("cryptsetup")) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("postkeep")).unwrap();
    let (volume, first) = new_volume(folder.path(), &program);
    let box_key = SignerKey::generate("box.example").unwrap();
    let give = |key: &Secret, why: Option<&str>| {
        let keep = |_: &_, _: &_, _| why.map_or(Ok(()), |why| Err(GiveError::Keep(why.to_owned())));
        give(&volume, key, &house().set, &box_key, folder.path(), None, keep).unwrap_err().to_string()
    };
    let error = give(&Secret::new(&mut System), None);
    assert!(error.contains("none of the volume's slots"), "{error}");
    assert!(!folder.path().join(TOKEN).exists());
    // Without the key of the box nobody could tell its token from another.
    let error = give(&first, Some("no room"));
    assert!(error.contains("no room"), "{error}");
    assert!(!folder.path().join(TOKEN).exists());
    assert!(volume.is_opened_by(&first, FIRST_SLOT).unwrap());
    fs::write(&volume.device, "no volume").unwrap();
    assert!(matches!(volume.id(), Err(VolumeError::Failed(_))));
}

/// Those who open it in a box that is `house`'s, and those who are to open it from now on: c1 goes, c4 comes from the recovery set, and there is none.
fn other_set(house: &House) -> KeySet {
    let all = [&house.set.custodians[..], &house.set.recovery.as_ref().unwrap().custodians[..]].concat();
    KeySet { threshold: 3, custodians: vec![all[0].clone(), all[2].clone(), all[4].clone()], recovery: None }
}

/// The key of `token` to these custodians, and its slot.
fn key(house: &House, token: &Token, who: &[usize]) -> (Secret, u32) {
    let Opening { purpose, secret, .. } = opened(house, token, who);
    (passphrase(&secret, None, purpose, &token.volume, token.epoch), slot(purpose, token.epoch))
}

#[test]
fn a_volume_in_use_is_given_to_others_and_those_before_open_it_no_more() {
    let Some(program) = needs(tools::find("cryptsetup")) else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("postkeep")).unwrap();
    let (volume, first) = new_volume(folder.path(), &program);
    let (house, box_key) = (house(), SignerKey::generate("box.example").unwrap());
    let mut token = give(&volume, &first, &house.set, &box_key, folder.path(), None, |_, _, _| Ok(())).unwrap();
    // There and back: the third key set has the slots of the first one.
    for (who, set, after) in [
        (&[0, 1][..], other_set(&house), &[4, 0, 2][..]),
        (&[0, 2, 4], house.set.clone(), &[1, 2]),
        // By those of the recovery set: custodians who are gone are exchanged without them.
        (&[3, 4], house.set.clone(), &[0, 1]),
    ] {
        let (opens, at) = key(&house, &token, who);
        let seen = fs::read(folder.path().join(TOKEN)).unwrap();
        let mut copied = false;
        let copy = || {
            // The other disk is given the new token.
            assert_ne!(fs::read(folder.path().join(TOKEN)).unwrap(), seen);
            copied = true;
            Ok(())
        };
        let changed = change(&volume, (&opens, at), (&token, &set), &box_key, folder.path(), None, copy).unwrap();
        let Changed { token: new, note } = changed;
        assert!(copied);
        assert_eq!(fs::read_to_string(folder.path().join(TOKEN)).unwrap(), note);
        assert_eq!(Token::open(note.as_bytes(), std::slice::from_ref(box_key.verifier())).unwrap(), new);
        assert_eq!((new.key_set(), new.epoch, &new.volume), (set, token.epoch + 1, &token.volume));
        // Both open it, until those of the new set have shown that they can.
        let (later, later_at) = key(&house, &new, after);
        assert!(volume.is_opened_by(&opens, at).unwrap() && volume.is_opened_by(&later, later_at).unwrap());
        remove_all_but(&volume, &slots_of(&new)).unwrap();
        let mut slots = volume.slots().unwrap();
        slots.sort_unstable();
        assert_eq!(slots, slots_of(&new));
        for slot in slots {
            assert!(!volume.is_opened_by(&opens, slot).unwrap(), "the key before opens slot {slot}");
        }
        assert!(volume.is_opened_by(&later, later_at).unwrap());
        token = new;
    }
    let slots = volume.slots().unwrap();
    let wrong = (&Secret::new(&mut System), slot(Purpose::Opening, token.epoch));
    let error = change(&volume, wrong, (&token, &house.set), &box_key, folder.path(), None, || Ok(())).unwrap_err();
    assert!(error.to_string().contains("none of the volume's slots"), "{error}");
    // Those whose slots are to stay have none: nothing is taken away.
    let error = remove_all_but(&volume, &[9]).unwrap_err();
    assert!(error.to_string().contains("no slot for those who are to open it"), "{error}");
    assert_eq!(volume.slots().unwrap(), slots);
    // Another disk was taken for the one that is right, and has brought the token before back: that holds, and its slots are there.
    let (opens, at) = key(&house, &token, &[0, 1]);
    let note = fs::read(folder.path().join(TOKEN)).unwrap();
    let back = || fs::write(folder.path().join(TOKEN), &note);
    let error = change(&volume, (&opens, at), (&token, &house.set), &box_key, folder.path(), None, back).unwrap_err();
    assert!(matches!(error, GiveError::OtherToken), "{error}");
    assert!(volume.is_opened_by(&opens, at).unwrap());
    // What lies there is not what the box asks for: its slots are nobody's to take.
    fs::write(folder.path().join(TOKEN), "another").unwrap();
    let error =
        change(&volume, (&opens, at), (&token, &house.set), &box_key, folder.path(), None, || Ok(())).unwrap_err();
    assert!(matches!(error, GiveError::OtherToken), "{error}");
    fs::write(folder.path().join(TOKEN), &note).unwrap();
    let other_disk = || Err(std::io::Error::other("it does not answer"));
    change(&volume, (&opens, at), (&token, &house.set), &box_key, folder.path(), None, other_disk).unwrap();
    assert!(volume.is_opened_by(&opens, at).unwrap(), "the other disk has the token before");
}

/// cryptsetup that has no power from its `alive`th call on, or from the middle of it, when `after` says so: then that call is carried out.
fn mortal(folder: &Path, program: &Path, alive: usize, after: bool) -> PathBuf {
    let (path, count) = (folder.join("mortal"), folder.join("calls"));
    fs::write(&count, "0").unwrap();
    let text = format!(
        "#!/bin/sh\nn=$(($(cat {count}) + 1)); echo $n >{count}\n[ $n -lt {alive} ] && exec {program} \"$@\"\n\
         [ $n -eq {alive} ] && {after} && {program} \"$@\" >/dev/null\necho 'the power is gone' >&2; exit 1\n",
        count = count.display(),
        program = program.display(),
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn wherever_the_power_goes_those_in_the_token_open_the_volume_and_a_second_try_gets_through() {
    let Some(program) = needs(tools::find("cryptsetup")) else { return };
    let (house, box_key) = (house(), SignerKey::generate("box.example").unwrap());
    let set = other_set(&house);
    let mut both = [0, 0];
    for (alive, after) in (1..).flat_map(|alive| [(alive, false), (alive, true)]) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("postkeep")).unwrap();
        let (volume, first) = new_volume(folder.path(), &program);
        let before = give(&volume, &first, &house.set, &box_key, folder.path(), None, |_, _, _| Ok(())).unwrap();
        let (opens, at) = key(&house, &before, &[0, 2]);
        let dying = Volume { program: mortal(folder.path(), &program, alive, after), ..volume.clone() };
        let went = change(&dying, (&opens, at), (&before, &set), &box_key, folder.path(), None, || Ok(()));
        let is_through = went.is_ok();
        // The next start: what lies on the boot partition says who opens the volume, and only they do.
        let found = Token::unverified(&fs::read(folder.path().join(TOKEN)).unwrap()).unwrap();
        let is_new = found.key_set() == set;
        assert!(is_new || found == before);
        both[usize::from(is_new)] += 1;
        let (opens, at) = key(&house, &found, if is_new { &[0, 2, 4] } else { &[1, 2] });
        assert!(volume.is_opened_by(&opens, at).unwrap(), "cut at call {alive}");
        remove_all_but(&volume, &slots_of(&found)).unwrap();
        let mut slots = volume.slots().unwrap();
        slots.sort_unstable();
        assert_eq!(slots, slots_of(&found));
        let again = change(&volume, (&opens, at), (&found, &set), &box_key, folder.path(), None, || Ok(())).unwrap();
        let (opens, at) = key(&house, &again.token, &[0, 2, 4]);
        assert!(volume.is_opened_by(&opens, at).unwrap());
        if is_through {
            break;
        }
    }
    assert!(both[0] > 6 && both[1] > 0, "cut before and after the token was written: {both:?}");
}
