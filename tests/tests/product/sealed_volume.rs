//! A volume in a file, its slots kept by the real cryptsetup: given to its custodians at the first boot, opened by a quorum of them, and by
//! nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use age::x25519::Identity;
use postkeep_keys::unseal::Opening;
use postkeep_keys::{
    Answer, Cause, Counts, Custodian, Grade, KeySet, Purpose, Quorum, Recipient, Secret, System, Token, Unseal,
    passphrase,
};
use postkeep_notes::SignerKey;
use postkeep_sealed::first::{FIRST_SLOT, GiveError, give, slot};
use postkeep_sealed::opener::TOKEN;
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
fn opened(house: &House, token: &Token, who: [usize; 2]) -> Opening {
    let mut opener = Unseal::begin(token.clone(), Cause::FirstStart, &mut System);
    let offer = opener.offer().clone();
    for at in who {
        let held = token.open_shares(None, &[&house.keys[at]]).unwrap().remove(0);
        let answer = Answer { token: offer.token, boot: offer.boot, held, grade: Grade::A1, reason: String::new() };
        if let Counts::Enough(opening) = opener.take(&answer.seal(&offer).unwrap(), Duration::ZERO).unwrap() {
            return opening;
        }
    }
    panic!("two of them are enough");
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
    let token = give(&volume, &first, &house.set, &box_key, folder.path(), keep).unwrap();
    assert!(kept);
    // The key that it was made with opens it no more, and its slot is gone.
    assert!(volume.is_opened_by(&first, FIRST_SLOT).is_err());
    assert!([1, 2].into_iter().all(|slot| !volume.is_opened_by(&first, slot).unwrap()));
    let note = fs::read(folder.path().join(TOKEN)).unwrap();
    assert_eq!(Token::open(&note, std::slice::from_ref(box_key.verifier())).unwrap(), token);
    assert_eq!(token.volume, volume.id().unwrap());

    for (who, purpose) in [([2, 0], Purpose::Opening), ([1, 2], Purpose::Opening), ([4, 3], Purpose::Recovery)] {
        let opening = opened(&house, &token, who);
        assert_eq!(opening.purpose, purpose);
        let right = passphrase(&opening.secret, None, purpose, &token.volume, token.epoch);
        assert!(volume.is_opened_by(&right, slot(purpose)).unwrap());
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
        give(&volume, key, &house().set, &box_key, folder.path(), keep).unwrap_err().to_string()
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
