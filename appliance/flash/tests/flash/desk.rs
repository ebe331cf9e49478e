//! The operator's side.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::bench::{flasher, run};

#[test]
fn a_key_and_a_seed_are_made_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let flash = |arguments: &[&str]| run(flasher(folder.path()).args(arguments));
    let (key, seed, from) = (path("owner.pem"), path("box.seed"), path("box.toml"));
    let (code, public) = flash(&["key", "generate", "--name", "example.com/owner", "--out", &key]);
    assert_eq!(code, 0, "{public}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(flash(&["key", "show", &key]), (0, public.clone()));
    assert_eq!(flash(&["key", "generate", "--name", "b", "--out", &key]).0, 2);

    fs::write(&from, "hostname = 'mail-1.example.com'\n[[network.interface]]\nname = 'eno1'\ndhcp = true\n").unwrap();
    fs::write(path("postkeep.toml"), "[server]\n\tname = 'x'\n").unwrap();
    let make = ["seed", "make", "--from", &from, "--key", &key, "--mail", &path("postkeep.toml"), "--out", &seed];
    let (code, said) = flash(&make);
    assert_eq!(code, 0, "{said}");
    let (code, again) = flash(&["seed", "check", &seed, "--owner-key", public.trim()]);
    assert_eq!((code, &again), (0, &said));
    assert!(said.contains("mail-1.example.com") && said.contains("DHCP=yes"), "{said}");
    let (code, said) = flash(&["--json", "seed", "check", &seed]);
    assert_eq!(code, 0);
    assert!(said.contains(r#""hostname":"mail-1.example.com""#), "{said}");
    assert_eq!(flash(&make).0, 2, "a seed was overwritten");

    // What changes hands has the signatures of both, and says so to either.
    let (other, handed) = (path("other.pem"), path("handed.seed"));
    let (_, theirs) = flash(&["key", "generate", "--name", "example.net/owner", "--out", &other]);
    assert_eq!(flash(&["seed", "check", &seed, "--owner-key", theirs.trim()]).0, 2);
    let sign = ["seed", "sign", &seed, "--key", &other, "--out", &handed];
    assert_eq!(flash(&sign).0, 0);
    assert_eq!(flash(&sign).0, 2, "a seed was overwritten");
    for key in [&public, &theirs] {
        assert_eq!(flash(&["seed", "check", &handed, "--owner-key", key.trim()]).0, 0);
    }
    assert_eq!(flash(&["seed", "sign", &from, "--key", &other, "--out", &path("unsigned")]).0, 2);

    // Files that the configuration names stay with it.
    fs::write(&from, "[[mail.file]]\nname = 'events.secret'\ncontent = 'x'\n").unwrap();
    let with_file = path("with-file.seed");
    let mail = path("postkeep.toml");
    let (code, said) = flash(&["seed", "make", "--from", &from, "--key", &key, "--mail", &mail, "--out", &with_file]);
    assert!(
        code == 0 && said.contains("events.secret, 1 octets") && said.contains("mail         configured"),
        "{said}"
    );
    fs::write(&from, "[mail]\nconfiguration = ''\n").unwrap();
    let twice = flash(&["seed", "make", "--from", &from, "--key", &key, "--mail", &mail, "--out", &path("twice")]);
    assert!(twice.0 == 2 && twice.1.contains("another one beside it"), "{twice:?}");

    fs::write(&from, "host-name = 'a'\n").unwrap();
    let (code, said) = flash(&["seed", "make", "--from", &from, "--key", &key, "--out", &path("other")]);
    assert_eq!(code, 2);
    assert!(said.contains("box.toml") && said.contains("host-name"), "{said}");
}
