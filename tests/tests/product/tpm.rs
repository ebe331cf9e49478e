//! The opener and a TPM that nobody here wrote: swtpm, with what a start measures put into it by tpm2-tools. It keeps a secret for starts that are as
//! they should be, and what it says of them is believed by a custodian's laptop, or is not.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use postkeep_firmware::attestation::{AttestationKey, Doubt, Evidence, Judged, Known, Measured, QuoteError, judge};
use postkeep_firmware::digest::Digest;
use postkeep_firmware::signed_policy::policy_of_11;
use postkeep_keys::tpm::{Quoted, Tpm};
use postkeep_keys::{Secret, Sum, System};
use postkeep_sealed::chip::{Chip, ChipError};
use postkeep_tests::tpm::Machine;

const RUNNING: &str = "enter-initrd:leave-initrd";

fn chip(machine: &Machine) -> Chip {
    Chip {
        tpm: machine.tpm(),
        log: machine.file("log"),
        signed: machine.file("signed.json"),
        signer: machine.file("signer.pem"),
    }
}

fn measure(machine: &Machine, register: u32, what: &str) {
    machine.measure(register, &Digest::of(what.as_bytes()).to_string());
}

/// Who builds the machine's boot files signs these values of PCR 11.
fn sign(machine: &Machine, signer: &Rsa<Private>, values: &[Digest]) {
    let key = PKey::from_rsa(signer.clone()).unwrap();
    let entries: Vec<String> = values
        .iter()
        .map(|value| {
            let policy = policy_of_11(*value);
            let mut sign = Signer::new(MessageDigest::sha256(), &key).unwrap();
            let signature = BASE64_STANDARD.encode(sign.sign_oneshot_to_vec(&policy.0).unwrap());
            format!(r#"{{"pcrs":[11],"pkfp":"{policy}","pol":"{policy}","sig":"{signature}"}}"#)
        })
        .collect();
    fs::write(machine.file("signed.json"), format!(r#"{{"sha256":[{}]}}"#, entries.join(","))).unwrap();
    fs::write(machine.file("signer.pem"), key.public_key_to_pem().unwrap()).unwrap();
}

fn after(measured: &[&str]) -> Digest {
    measured.iter().fold(Digest::ZERO, |value, what| value.extended(Digest::of(what.as_bytes())))
}

fn judged(quoted: Quoted, question: Sum, tpm: &Tpm, system: Digest) -> Result<Judged, Vec<Doubt>> {
    let registers: BTreeMap<u32, Digest> =
        quoted.registers.into_iter().map(|register| (register.number, Digest(*register.value.octets()))).collect();
    let evidence = Evidence { attest: quoted.attest.0, signature: quoted.signature.0, registers, log: quoted.log.0 };
    let release = Measured { name: "0.1.0".to_owned(), phases: [(RUNNING.to_owned(), system)].into() };
    let key = AttestationKey::read(&tpm.key.0).unwrap();
    let known = Known { key: &key, secure_boot: Digest(*tpm.secure_boot.octets()) };
    judge(&evidence, Digest(*question.octets()), known, &[release])
}

#[test]
fn it_gives_its_secret_to_each_start_that_its_builder_has_signed_and_to_no_other() {
    let Some(mut machine) = Machine::new() else { return };
    let (builder, other) = (Rsa::generate(2048).unwrap(), Rsa::generate(2048).unwrap());
    let secret = Secret::new(&mut System);
    measure(&machine, 11, "one release");
    sign(&machine, &builder, &[after(&["another"]), after(&["one release"])]);
    let sealed = chip(&machine).enrol(Some(&secret)).unwrap().sealed.unwrap();
    assert_eq!(chip(&machine).unseal(&sealed).unwrap(), secret);
    // The mark that the volume was open is for custodians, and keeps nothing back.
    chip(&machine).mark_opened().unwrap();
    assert_eq!(chip(&machine).unseal(&sealed).unwrap(), secret);

    // And nobody gets it once the system's services have begun; another secret can be sealed then, for the next start.
    measure(&machine, 11, "ready");
    assert!(matches!(chip(&machine).unseal(&sealed).unwrap_err(), ChipError::NotSigned(_)));
    let second = Secret::new(&mut System);
    let later = chip(&machine).enrol(Some(&second)).unwrap().sealed.unwrap();
    machine.start_again();
    measure(&machine, 11, "one release");
    assert_eq!(chip(&machine).unseal(&later).unwrap(), second);

    // An update, signed with the same key.
    machine.start_again();
    measure(&machine, 11, "the next release");
    sign(&machine, &builder, &[after(&["the next release"])]);
    assert_eq!(chip(&machine).unseal(&sealed).unwrap(), secret);

    let mut refused = |register: u32, measured: &str, signer: &Rsa<_>, signed: &str| {
        machine.start_again();
        measure(&machine, register, measured);
        sign(&machine, signer, &[if signed.is_empty() { Digest::ZERO } else { after(&[signed]) }]);
        chip(&machine).unseal(&sealed).unwrap_err()
    };
    // Another command line; somebody else's signature; Secure Boot off, or with others' keys.
    assert!(matches!(refused(11, "changed", &builder, "one release"), ChipError::NotSigned(_)));
    assert!(matches!(refused(11, "one release", &other, "one release"), ChipError::Tpm(_)));
    assert!(matches!(refused(7, "other keys", &builder, ""), ChipError::Tpm(_)));
    // Somebody else's signature in the builder's name: the TPM looks for itself.
    machine.start_again();
    measure(&machine, 11, "changed");
    sign(&machine, &other, &[after(&["changed"])]);
    fs::write(machine.file("signer.pem"), builder.public_key_to_pem().unwrap()).unwrap();
    assert!(matches!(chip(&machine).unseal(&sealed).unwrap_err(), ChipError::Tpm(_)));
    // Another machine.
    let another = Machine::new().unwrap();
    measure(&another, 11, "one release");
    sign(&another, &builder, &[after(&["one release"])]);
    assert!(matches!(chip(&another).unseal(&sealed).unwrap_err(), ChipError::Tpm(_)));
}

#[test]
fn its_word_is_believed_on_what_was_started_and_on_nothing_else() {
    let Some(mut machine) = Machine::new() else { return };
    measure(&machine, 11, "one release");
    let tpm = chip(&machine).enrol(None).unwrap();
    assert_eq!(tpm.sealed, None);
    let system = after(&["one release"]);
    let asked = |machine: &Machine| {
        let question = Sum::of(b"a nonce and an offer");
        judged(chip(machine).quote(question).unwrap(), question, &tpm, system)
    };
    let fresh = Judged { release: "0.1.0".to_owned(), is_fresh: true };
    assert_eq!(asked(&machine), Ok(fresh.clone()));
    chip(&machine).mark_opened().unwrap();
    assert_eq!(asked(&machine), Ok(Judged { is_fresh: false, ..fresh.clone() }));

    // The same key after each start.
    machine.start_again();
    measure(&machine, 11, "one release");
    assert_eq!(asked(&machine), Ok(fresh));
    let old = chip(&machine).quote(Sum::of(b"asked yesterday")).unwrap();
    let now = Sum::of(b"asked today");
    assert_eq!(judged(old, now, &tpm, system), Err(vec![Doubt::Quote(QuoteError::Question)]));

    machine.start_again();
    measure(&machine, 11, "changed");
    measure(&machine, 12, "init=/bin/sh");
    let doubts = asked(&machine).unwrap_err();
    let known = vec!["0.1.0".to_owned()];
    assert_eq!(doubts, [Doubt::OtherSystem { value: after(&["changed"]), known }, Doubt::Added(12)]);

    machine.start_again();
    measure(&machine, 11, "one release");
    measure(&machine, 7, "off");
    // The log says nothing of it, and is found out.
    assert_eq!(asked(&machine).unwrap_err(), [Doubt::LogIsUntrue(7), Doubt::OtherKeys(Vec::new())]);

    let another = Machine::new().unwrap();
    measure(&another, 11, "one release");
    assert_eq!(asked(&another), Err(vec![Doubt::Quote(QuoteError::Signature)]));
}

#[test]
fn a_machine_whose_tpm_does_not_answer_says_so() {
    let chip = Chip {
        tpm: "device:/nowhere/tpm".to_owned(),
        log: "/nowhere/log".into(),
        signed: "/nowhere/signed".into(),
        signer: "/nowhere/signer".into(),
    };
    assert!(matches!(chip.enrol(None), Err(ChipError::Tpm(_))));
    assert!(matches!(chip.quote(Sum::of(b"")), Err(ChipError::Tpm(_))));
}
