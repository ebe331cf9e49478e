//! C2SP's vectors of the age format (CCTV), all of them, through the age crate as exports use it and through envelopes as the
//! protocol does. What differs from the vectors is listed by name, with the reason; a list that is longer than the truth fails too.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use age::secrecy::SecretString;
use age::{armor::ArmoredReader, scrypt, x25519};
use aws_lc_rs::digest::{SHA256, digest};
use postkeep_keys::envelope::{self, EnvelopeError};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/age");
/// As many as the package has (cctv-age 0.2.0).
const COUNT: usize = 143;
const LARGEST_EXPANDED: u64 = 32 << 20;

/// Where the age crate differs from a vector.
const OF_THE_CRATE: &[(&str, &str)] = &[
    (
        "armor_whitespace_outside",
        "its reader of armour wants the first line first; `envelope::open` takes white space before it away",
    ),
    ("scrypt_bad_tag", WRONG_PASSPHRASE),
    ("scrypt_no_match", WRONG_PASSPHRASE),
    ("scrypt_work_factor_wrong", WRONG_PASSPHRASE),
    ("stanza_missing_body", LEGACY),
    ("stanza_missing_final_line", LEGACY),
];
/// Where envelopes differ: they are read by the crate.
const OF_ENVELOPES: &[(&str, &str)] = &[("stanza_missing_body", LEGACY), ("stanza_missing_final_line", LEGACY)];

const WRONG_PASSPHRASE: &str =
    "it says of a wrong passphrase that the key could not be decrypted, where the vectors have no match";
const LEGACY: &str = "it takes the bodies of stanzas that rage wrote before 0.6, without their last, empty line; the MAC is checked all the same";

struct Vector {
    expect: String,
    payload: Option<String>,
    identities: Vec<x25519::Identity>,
    /// Identities of a kind that the crate cannot have: it encrypts to hybrid recipients only.
    has_hybrid: bool,
    passphrases: Vec<String>,
    file: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    Refused(&'static str),
}

fn vectors() -> BTreeMap<String, Vector> {
    let entries = fs::read_dir(VECTORS).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_none())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), read(&path)))
        .collect()
}

fn read(path: &Path) -> Vector {
    let octets = fs::read(path).unwrap();
    let end = octets.windows(2).position(|two| two == b"\n\n").unwrap();
    let (head, file) = (std::str::from_utf8(&octets[..end]).unwrap(), octets[end + 2..].to_vec());
    let mut vector = Vector {
        expect: String::new(),
        payload: None,
        identities: Vec::new(),
        has_hybrid: false,
        passphrases: Vec::new(),
        file,
    };
    for line in head.lines() {
        let (key, value) = line.split_once(": ").unwrap();
        match key {
            "expect" => value.clone_into(&mut vector.expect),
            "payload" => vector.payload = Some(value.to_owned()),
            "identity" if value.starts_with("AGE-SECRET-KEY-PQ-") => vector.has_hybrid = true,
            "identity" => vector.identities.push(value.parse().unwrap()),
            "passphrase" => vector.passphrases.push(value.to_owned()),
            "compressed" => {
                assert_eq!(value, "zlib");
                let mut expanded = Vec::new();
                flate2::read::ZlibDecoder::new(&vector.file[..])
                    .take(LARGEST_EXPANDED)
                    .read_to_end(&mut expanded)
                    .unwrap();
                vector.file = expanded;
            }
            "file key" | "armored" | "comment" => {}
            other => panic!("{}: {other} is not known", path.display()),
        }
    }
    vector
}

/// As exports are read: whatever was given out before a failure counts.
fn by_the_crate(vector: &Vector) -> (Outcome, Vec<u8>) {
    let mut identities: Vec<Box<dyn age::Identity>> = Vec::new();
    for identity in &vector.identities {
        identities.push(Box::new(identity.clone()));
    }
    for passphrase in &vector.passphrases {
        let mut identity = scrypt::Identity::new(SecretString::from(passphrase.clone()));
        identity.set_max_work_factor(16);
        identities.push(Box::new(identity));
    }
    let reader = age::Decryptor::new_buffered(ArmoredReader::new(&vector.file[..]))
        .and_then(|decryptor| decryptor.decrypt(identities.iter().map(|identity| &**identity)));
    let mut payload = Vec::new();
    let outcome = match reader {
        Err(age::DecryptError::NoMatchingKeys) => Outcome::Refused("no match"),
        Err(age::DecryptError::InvalidMac) => Outcome::Refused("HMAC failure"),
        Err(_) => Outcome::Refused("failure"),
        Ok(mut reader) => match reader.read_to_end(&mut payload) {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Refused("payload failure"),
        },
    };
    (outcome, payload)
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn the_age_crate_gives_what_the_vectors_say() {
    let vectors = vectors();
    assert_eq!(vectors.len(), COUNT);
    let mut differ = Vec::new();
    for (name, vector) in vectors.iter().filter(|(_, vector)| !vector.has_hybrid) {
        let (outcome, payload) = by_the_crate(vector);
        let is_right = match (&*vector.expect, &outcome) {
            ("success", Outcome::Success) => true,
            ("success", _) | (_, Outcome::Success) => false,
            ("no match", outcome) => *outcome == Outcome::Refused("no match"),
            ("HMAC failure", outcome) => *outcome == Outcome::Refused("HMAC failure"),
            ("payload failure", outcome) => *outcome == Outcome::Refused("payload failure"),
            ("header failure" | "armor failure", Outcome::Refused(_)) => true,
            (other, _) => panic!("{name}: {other} is not known"),
        };
        let is_payload =
            vector.payload.as_ref().is_none_or(|sum| *sum == hexadecimal(digest(&SHA256, &payload).as_ref()));
        if !is_right || !is_payload {
            differ.push((
                name.as_str(),
                format!("expected {}, came to {outcome:?}; payload right: {is_payload}", vector.expect),
            ));
        }
    }
    let named: Vec<&str> = OF_THE_CRATE.iter().map(|(name, _)| *name).collect();
    let found: Vec<&str> = differ.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, named, "{differ:#?}");
}

#[test]
fn envelopes_open_what_they_should_and_nothing_else() {
    let mut differ = Vec::new();
    for (name, vector) in vectors() {
        let identities = vector.identities.iter().map(|identity| identity as &dyn age::Identity);
        let opened = envelope::open(&vector.file, identities);
        let is_ours =
            vector.passphrases.is_empty() && !vector.has_hybrid && vector.file.len() <= envelope::LARGEST_ENVELOPE;
        match (&*vector.expect, opened) {
            ("success", Ok(content)) if is_ours => {
                assert_eq!(Some(hexadecimal(digest(&SHA256, &content).as_ref())), vector.payload, "{name}");
            }
            // A passphrase is never tried, a large file never read.
            ("success", Err(_)) if !is_ours => {}
            ("no match", Err(error)) if is_ours => assert_eq!(error, EnvelopeError::NotOurs, "{name}"),
            ("success", _) | (_, Ok(_)) => differ.push(name),
            (_, Err(_)) => {}
        }
    }
    let named: Vec<&str> = OF_ENVELOPES.iter().map(|(name, _)| *name).collect();
    assert_eq!(differ, named);
}
