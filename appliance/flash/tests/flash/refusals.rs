//! Bad input, and machines that are of no use: each refused with its reason, before anything is written.

use std::fs;
use std::process::Command;

use jiff::Timestamp;
use postkeep_notes::SignerKey;
use postkeep_release::Version;
use postkeep_seed::Seed;

use crate::bench::{Bench, IMAGE, MIB, run};

/// Spoils something, and expects the status, the words, and a disk as it was.
fn refused(spoil: impl FnOnce(&Bench), more: &[&str], code: i32, words: &str) {
    let bench = Bench::new();
    let disk = bench.disk("one", 64 * MIB);
    spoil(&bench);
    let before = fs::read(&disk).unwrap();
    let (found, said) = run(&mut bench.write("postkeep.raw.zst", &["one"], more));
    assert!(said.contains(words), "{words}: {said}");
    assert_eq!(found, code, "{said}");
    assert!(fs::read(disk).unwrap() == before, "{words}: the disk was written");
}

#[test]
fn an_image_that_was_cut_changed_or_lengthened() {
    let image = |change: fn(&mut Vec<u8>)| {
        move |bench: &Bench| {
            let mut octets = fs::read(bench.path("postkeep.raw.zst")).unwrap();
            change(&mut octets);
            fs::write(bench.path("postkeep.raw.zst"), octets).unwrap();
        }
    };
    refused(image(|octets| octets.truncate(octets.len() / 2)), &[], 2, "was cut off on the way");
    refused(image(|octets| *octets.last_mut().unwrap() ^= 1), &[], 2, "is damaged: its sum is");
    refused(image(|octets| octets.push(0)), &[], 2, "is longer than");
    refused(|bench| fs::remove_file(bench.path("postkeep.raw.zst")).unwrap(), &[], 2, "cannot read the image");
}

#[test]
fn a_release_that_nobody_trusted_has_signed() {
    refused(
        |bench| {
            let note = fs::read_to_string(bench.path("release.note")).unwrap();
            fs::write(bench.path("release.note"), note.split_once("\n\n\u{2014}").unwrap().0).unwrap();
        },
        &[],
        2,
        "signatures",
    );
    refused(
        |bench| {
            let packed = fs::read(bench.path("postkeep.raw.zst")).unwrap();
            bench.sign_release(&bench.release(&packed), &SignerKey::generate("release.example").unwrap());
        },
        &[],
        2,
        "no key that is known here",
    );
    refused(
        |bench| {
            let note = fs::read_to_string(bench.path("release.note")).unwrap();
            fs::write(bench.path("release.note"), note.replace("0.3.0", "0.3.1")).unwrap();
        },
        &[],
        2,
        "was changed after it was signed",
    );
    refused(
        |bench| {
            let mut release = bench.release(&fs::read(bench.path("postkeep.raw.zst")).unwrap());
            release.architecture = "arm64".to_owned();
            bench.sign_release(&release, &bench.release_key);
        },
        &[],
        3,
        "this machine is x86-64",
    );
}

#[test]
fn a_release_that_is_older_than_what_is_on_the_disk() {
    let bench = Bench::new();
    let disk = bench.disk("one", 64 * MIB);
    assert_eq!(run(&mut bench.write("postkeep.raw.zst", &["one"], &[])).0, 0);
    let before = fs::read(&disk).unwrap();
    let mut release = bench.release(&fs::read(bench.path("postkeep.raw.zst")).unwrap());
    release.version = Version::new(0, 2, 9);
    bench.sign_release(&release, &bench.release_key);
    let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["one"], &[]));
    assert!(code == 3 && said.contains("has Postkeep 0.3.0") && said.contains("--allow-older"), "{code}: {said}");
    assert!(fs::read(&disk).unwrap() == before, "the disk was written");
    let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["one"], &["--allow-older"]));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn what_cannot_be_read_twice_or_kept_up_with_is_found_out_before_a_disk_is_touched() {
    refused(
        |bench| {
            let image = bench.path("postkeep.raw.zst");
            let whole = bench.path("whole");
            fs::rename(&image, &whole).unwrap();
            assert!(Command::new("mkfifo").arg(&image).status().unwrap().success());
            std::thread::spawn(move || fs::copy(whole, image));
        },
        &[],
        2,
        "is no file: it is read twice",
    );
    refused(|_| {}, &["--state", "/proc/none/state"], 2, "cannot use the state file");
    refused(|_| {}, &["--record", "/proc/none/record"], 2, "cannot write /proc/none/record");
}

#[test]
fn a_seed_that_is_for_another_machine_or_of_another_owner() {
    let seeded = |draft: &'static str| {
        move |bench: &Bench| {
            let seed = Seed::draft(draft, bench.owner.verifier(), Timestamp::UNIX_EPOCH).unwrap();
            fs::write(bench.path("box.seed"), seed.sign(&bench.owner).unwrap()).unwrap();
        }
    };
    refused(seeded("[machine]\nserial = 'OTHER'"), &[], 3, "serial number OTHER; here it is B5QM12");
    refused(seeded("expires = '2001-01-01T00:00:00Z'"), &[], 2, "expired");
    let other = SignerKey::generate("another").unwrap().verifier().to_string();
    refused(|_| {}, &["--owner-key", &other], 2, "--owner-key says another+");
    // Its owner has agreed to give the box away; that makes the seed no seed of its owner.
    let bench = Bench::new();
    bench.disk("one", 64 * MIB);
    let buyer = SignerKey::generate("buyer").unwrap();
    let seed = Seed::draft("hostname = 'a'", buyer.verifier(), Timestamp::UNIX_EPOCH).unwrap().sign(&buyer).unwrap();
    fs::write(bench.path("box.seed"), postkeep_notes::countersign(seed.as_bytes(), &bench.owner).unwrap()).unwrap();
    let owner = bench.owner.verifier().to_string();
    let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["one"], &["--owner-key", &owner]));
    assert!(code == 2 && said.contains("the seed makes the box one of buyer+"), "{code}: {said}");
    refused(|bench| fs::write(bench.path("box.seed"), "hostname = 'a'\n").unwrap(), &[], 2, "box.seed");
}

#[test]
fn a_disk_that_is_too_small_or_no_disk_and_a_machine_that_is_too_old() {
    refused(|bench| drop(bench.disk("one", IMAGE - 512)), &[], 3, "larger disk");
    refused(|_| {}, &["--disk", "/dev/null"], 3, "is no disk");
    refused(
        |bench| fs::remove_dir_all(bench.path("root/sys/firmware")).unwrap(),
        &[],
        3,
        "Please switch this server to UEFI",
    );
    let bench = Bench::new();
    bench.disk("one", 64 * MIB);
    let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["one", "one"], &[]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("named twice"), "{said}");
}
