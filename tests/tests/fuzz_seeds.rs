//! The seeds of the fuzz targets, run as ordinary tests: what a fuzzer once found stays found, and
//! the targets keep compiling without a nightly compiler.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a file of the corpus").path())
        .collect();
    files.sort();
    files
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of that name");
    let seeds = seeds(name);
    assert!(seeds.len() >= 5, "{name} has only {} seeds", seeds.len());
    for seed in seeds {
        // The name shows in the output of a test that fails.
        eprintln!("{}", seed.display());
        let bytes = std::fs::read(&seed).expect("read a seed");
        target(&bytes);
        // And what a broken connection or a torn write leaves of it.
        for cut in 1..8 {
            target(&bytes[..bytes.len() * cut / 8]);
        }
    }
}

#[test]
fn every_target_has_a_folder_of_seeds_and_every_folder_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut folders: Vec<String> = std::fs::read_dir(corpus)
        .expect("the corpus")
        .map(|entry| entry.expect("a folder of the corpus").file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(folders, names);
}

#[test]
fn the_seeds_of_tls_reports_and_policies_keep_their_promises() {
    run("tls_report");
    run("mta_sts");
}

#[test]
fn the_seeds_of_what_lies_below_the_system_keep_their_promises() {
    run("boot_file");
    run("event_log");
    run("signature_list");
    run("quote");
}

#[test]
fn the_seeds_of_what_custodians_and_boxes_send_each_other_keep_their_promises() {
    run("key_set");
    run("token");
    run("export");
    run("seal_request");
    run("typed");
}

#[test]
fn the_seeds_of_the_smtp_server_keep_its_promises() {
    run("smtp_server");
}

#[test]
fn the_seeds_of_the_smtp_client_keep_its_promises() {
    run("smtp_client");
}

#[test]
fn the_seeds_of_the_header_path_keep_its_promises() {
    run("header");
}

#[test]
fn the_seeds_of_the_configuration_keep_its_promises() {
    run("configuration");
}

#[test]
fn the_seeds_of_the_spool_segment_keep_its_promises() {
    run("spool_segment");
}

#[test]
fn the_seeds_of_the_proxy_header_keep_its_promises() {
    run("proxy_header");
}

#[test]
fn the_seeds_of_mail_that_came_back_keep_its_promises() {
    run("feedback");
}

#[test]
fn the_seeds_of_suppression_files_keep_its_promises() {
    run("suppression_file");
}

#[test]
fn the_seeds_of_messages_by_http_keep_its_promises() {
    run("http_message");
}

#[test]
fn the_seeds_of_one_click_unsubscribe_keep_its_promises() {
    run("one_click");
}

/// Not a test: `cargo test -p postkeep-tests --test fuzz_seeds -- --ignored` after a change of the format.
#[test]
#[ignore = "writes the seeds of spool_segment anew"]
fn write_the_seeds_of_the_spool_segment() {
    use bytes::Bytes;
    use postkeep_spool::{Disk, NewMessage, Operation, RetryState, Settings, Spool};

    let accept = |id, recipients, size: usize| {
        Operation::Accept(NewMessage {
            id,
            received: 1_790_000_000,
            metadata: Bytes::from_static(b"an envelope"),
            body: [Bytes::from_static(b"Received: from here\r\n"), Bytes::from(vec![b'm'; size])],
            recipients,
        })
    };
    for (name, messages, size) in [("empty", 0, 0), ("one", 1, 100), ("several", 5, 700), ("many", 24, 3000)] {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings { segment_size: 64 << 10, minimum_free: 0, ..Settings::new(folder.path()) };
        let (spool, _) = Spool::open(settings, Disk, |_| ()).expect("a spool");
        for number in 0..messages {
            let id = spool.next_id();
            spool.submit([accept(id, 1 + number % 3, size)]).wait().expect("accepted");
            let state = RetryState { attempts: 1, due: 1_790_000_300 };
            match number % 4 {
                0 => spool.submit([Operation::Complete { id, recipient: 0 }]).wait().expect("completed"),
                1 => spool.submit([Operation::Defer { id, recipient: 0, state }]).wait().expect("deferred"),
                2 => {
                    let (key, value) = (Bytes::from_static(b"pause"), Bytes::from_static(b"stream news"));
                    spool.submit([Operation::Note { key, value }]).wait().expect("noted");
                }
                _ => {
                    let batch = (0..3).map(|_| accept(spool.next_id(), 2, 50)).collect::<Vec<_>>();
                    spool.submit(batch).wait().expect("accepted together");
                }
            }
        }
        spool.close();
        for (number, entry) in std::fs::read_dir(folder.path()).expect("segments").flatten().enumerate() {
            let bytes = std::fs::read(entry.path()).expect("a segment");
            // No longer than what the fuzzer makes itself.
            let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).min(16 << 10);
            if length > 0 {
                let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/spool_segment");
                std::fs::write(to.join(format!("{name}-{number}")), &bytes[..length]).expect("write a seed");
            }
        }
    }
}

/// Not a test: `cargo test -p postkeep-tests --test fuzz_seeds -- --ignored` after a change of the format.
#[test]
#[ignore = "writes the seeds of the keys anew"]
fn write_the_seeds_of_the_keys() {
    use age::x25519::Identity;
    use postkeep_keys::challenge::Asked;
    use postkeep_keys::wire::Request;
    use postkeep_keys::{
        Answer, Cause, Custodian, Grade, KeySet, Purpose, Quorum, Recipient, System, Token, Unseal, envelope, words,
    };
    use postkeep_notes::SignerKey;

    let write = |target: &str, name: &str, octets: &[u8]| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(name), octets).expect("write a seed");
    };
    let known: Identity = targets::keys::CUSTODIAN.parse().expect("a key");
    let custodian = |name: &str, keys: &[&Identity]| Custodian {
        name: name.parse().expect("a name"),
        recipients: keys.iter().map(|key| Recipient::of(key)).collect(),
    };
    let others: Vec<Identity> = (0..4).map(|_| Identity::generate()).collect();
    let three = || {
        vec![
            custodian("anna", &[&known]),
            custodian("ben", &[&others[0]]),
            custodian("cleo", &[&others[1], &others[2]]),
        ]
    };
    let recovery = || Some(Quorum { threshold: 1, custodians: vec![custodian("safe", &[&others[3]])] });
    let box_key = SignerKey::generate("box.example").expect("a key");
    let volume = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().expect("a volume");
    for (name, threshold, custodians, recovery) in [
        ("one_alone", 1, vec![custodian("anna", &[&known])], None),
        ("one_of_two", 1, vec![custodian("anna", &[&known]), custodian("ben", &[&others[0]])], None),
        ("two_of_three", 2, three(), None),
        ("with_recovery", 2, three(), recovery()),
        ("all_of_three", 3, three(), recovery()),
    ] {
        let set = KeySet { threshold, custodians, recovery };
        write("key_set", name, set.text().expect("a text").as_bytes());
        let made = Token::make(&set, &volume, 1, &mut System).expect("a token");
        write("token", name, made.token.sign(&box_key).expect("a note").as_bytes());
        let opener = Unseal::begin(made.token.clone(), Cause::Unclean, &mut System);
        let held = made.token.open_shares(None, &[&known]).expect("a share").remove(0);
        assert_eq!(held.purpose, Purpose::Opening);
        write("typed", &format!("share_{name}"), words::words(&held.share).join(" ").as_bytes());
        write("typed", &format!("offer_{name}"), opener.offer().to_string().as_bytes());
        let offer = opener.offer().clone();
        let answer = Answer {
            token: offer.token,
            boot: offer.boot,
            held,
            grade: Grade::A1,
            reason: "work".to_owned(),
            change: None,
        };
        let answer = envelope::armour(&answer.seal(&offer).expect("an answer"));
        let request = |request: &Request| serde_json::to_vec(request).expect("JSON");
        write("seal_request", &format!("answer_{name}"), &request(&Request::Answer { answer }));
    }
    for (name, request) in [
        ("state", Request::State),
        ("token", Request::Token),
        ("quote", Request::Quote { nonce: "5a".repeat(32).parse().expect("a nonce") }),
        ("ask_seal", Request::Ask { asked: Asked::Seal, name: "anna".parse().expect("a name") }),
        ("ask_possession", Request::Ask { asked: Asked::Possession, name: "ben".parse().expect("a name") }),
    ] {
        write("seal_request", name, &serde_json::to_vec(&request).expect("JSON"));
    }
}

/// A backup is read years later: what the first version wrote is what these files are, and they are not written anew.
#[test]
fn exports_of_the_first_version_are_read() {
    use postkeep_keys::combine;
    use postkeep_keys::export::Reader;

    let custodian: age::x25519::Identity = targets::keys::CUSTODIAN.parse().expect("a key");
    for (name, content) in [
        ("empty", &b""[..]),
        ("a_list", b"address,reason\nperson@example.com,manual\n"),
        ("a_page", &[b'x'; 3000]),
        ("for_recovery", b"what the recovery set reads"),
    ] {
        let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/export").join(name));
        let file = file.expect("read a seed");
        let reader = Reader::new(&file[..], None).expect(name);
        assert_eq!(reader.head.name, name);
        let held = reader.head.token.open_shares(None, &[&custodian]).expect(name).remove(0);
        let secret = combine(&[held.share], 1).expect(name);
        let key = reader.head.key(&secret, held.purpose).expect(name);
        let mut read = Vec::new();
        reader.read_all(&key, &mut read, |_| ()).expect(name);
        assert_eq!(read, content, "{name}");
    }
}

/// Not a test: `cargo test -p postkeep-tests --test fuzz_seeds -- --ignored` for a new form of exports.
#[test]
#[ignore = "writes the seeds of exports anew"]
fn write_the_seeds_of_exports() {
    use age::x25519::Identity;
    use postkeep_keys::export::{Head, Writer};
    use postkeep_keys::{Custodian, KeySet, Quorum, Recipient, System};
    use postkeep_notes::SignerKey;

    let custodian = |name: &str, key: &Identity| Custodian {
        name: name.parse().expect("a name"),
        recipients: vec![Recipient::of(key)],
    };
    let known: Identity = targets::keys::CUSTODIAN.parse().expect("a key");
    let other = Identity::generate();
    let one = |key: &Identity| KeySet { threshold: 1, custodians: vec![custodian("anna", key)], recovery: None };
    let safe = Quorum { threshold: 1, custodians: vec![custodian("safe", &known)] };
    let two =
        KeySet { threshold: 2, custodians: vec![custodian("anna", &known), custodian("ben", &other)], recovery: None };
    for (name, set, content) in [
        ("empty", one(&known), &b""[..]),
        ("a_list", one(&known), b"address,reason\nperson@example.com,manual\n"),
        ("a_page", one(&known), &[b'x'; 3000]),
        ("for_recovery", KeySet { recovery: Some(safe), ..one(&other) }, b"what the recovery set reads"),
        ("for_two", two, b"what nobody reads alone"),
        ("for_others", one(&other), b"what somebody else reads"),
    ] {
        let (head, key) = Head::make(&set, name, jiff::Timestamp::UNIX_EPOCH, &mut System).expect("an export");
        let note = head.sign(&SignerKey::generate("export.example").expect("a key")).expect("a note");
        let writer = Writer::new(Vec::new(), &note, key).expect("a vector takes all");
        let file = writer.write_all(&mut &content[..], |_| ()).expect("a vector takes all");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/export");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(name), file).expect("write a seed");
    }
}
