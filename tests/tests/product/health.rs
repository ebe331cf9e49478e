//! `postkeep health`: the mail core examines itself, with a message that goes the whole way to a sink on the machine. What
//! the gate of a new version goes by.

use postkeep_tests::daemon::Said;
use postkeep_tests::{Daemon, Ground, Settings, oracle};

/// `well` or not, and the detail, of one line of the examination in JSON.
fn check(said: &Said, name: &str) -> (bool, String) {
    let checks = said.json();
    let one = checks.as_array().unwrap().iter().find(|check| check["name"] == name).expect(name);
    (one["well"].as_bool().unwrap(), one["detail"].as_str().unwrap().to_owned())
}

#[test]
fn a_daemon_that_is_well_says_so_and_its_message_bears_the_signature_of_the_configured_key() {
    let ground = Ground::claim();
    let key = ground.path("dkim.pem");
    oracle::rsa_key(&key).expect("openssl makes a key");
    let settings = Settings::new(&ground).with_submission(&ground).with(&format!(
        "[[dkim]]\ndomain = \"example.test\"\nselector = \"s1\"\nkey = {:?}\n",
        key.display().to_string()
    ));
    let daemon = Daemon::start(&ground, &settings);
    // More than once: the sink and its route stay.
    for _ in 0..2 {
        let said = daemon.postkeep(&["health"]);
        assert_eq!(said.status, 0, "{}{}", said.out, said.err);
        for name in ["queue", "keys", "suppression", "message"] {
            assert!(
                said.out.lines().any(|line| line.starts_with(name) && line.contains(" well ")),
                "{name}: {}",
                said.out
            );
        }
        assert!(said.out.contains("signed,"), "{}", said.out);
    }
    // What to publish for it, by OpenSSL's word.
    let public = std::process::Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(&key)
        .output()
        .expect("openssl tells the public half");
    let base64: String =
        std::str::from_utf8(&public.stdout).unwrap().lines().filter(|line| !line.starts_with("--")).collect();
    let told = daemon.postkeep(&["system", "show"]).done().out;
    let record = format!("publish s1._domainkey.example.test TXT v=DKIM1; k=rsa; p={base64}\n");
    assert!(!base64.is_empty() && told.contains(&record), "{told}");
    let said = daemon.postkeep(&["health", "--json"]);
    let used = "1 keys for signing and 1 for TLS do their work".to_owned();
    assert_eq!((said.status, check(&said, "keys")), (0, (true, used)));
    // The key of the doors is not the one of their certificate any more: the next start would fail.
    std::fs::copy(&key, ground.path("door.key")).expect("another key");
    let said = daemon.postkeep(&["health", "--json"]);
    let (well, why) = check(&said, "keys");
    assert!(said.status == 1 && !well && why.contains("certificate and key cannot be used"), "{}", said.out);
}

#[test]
fn a_source_that_is_not_on_the_machine_makes_it_unwell_and_only_a_pause_of_its_own_mail_excuses_that() {
    let ground = Ground::claim();
    // Nobody's address (RFC 5737): it cannot be bound.
    let settings = Settings::new(&ground).with("[source.one]\nipv4 = \"192.0.2.9\"\n");
    let daemon = Daemon::start(&ground, &settings);
    daemon.postkeep(&["queue", "pause", "--domain", "example.org"]).done();
    let said = daemon.postkeep(&["health", "--json"]);
    let (well, why) = check(&said, "message");
    assert_eq!((said.status, well), (1, false), "{}", said.out);
    assert!(why.contains("did not reach a sink"), "{why}");
    assert!(check(&said, "suppression").0, "{}", said.out);
    // No version could prove itself here.
    let said = daemon.postkeep(&["update", "apply", "release.note"]);
    assert!(said.status == 1 && said.err.contains("not well now") && said.err.contains("message:"), "{said:?}");
    let said = daemon.postkeep(&["update", "apply", "release.note", "--although-unwell"]);
    assert!(said.status == 2 && said.err.contains("cannot read release.note"), "{said:?}");
    let paused = daemon.postkeep(&["queue", "pause", "--all"]);
    assert_eq!(paused.status, 0, "{}", paused.err);
    let said = daemon.postkeep(&["health", "--json"]);
    let (well, why) = check(&said, "message");
    assert!(said.status == 0 && well && why.contains("the owner has paused everything"), "{}", said.out);
}
