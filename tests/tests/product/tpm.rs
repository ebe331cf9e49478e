//! The opener and a TPM that nobody here wrote: swtpm, with what a start measures put into it by tpm2-tools. What it says is believed by a custodian's
//! laptop, or is not.

use std::collections::BTreeMap;

use postkeep_firmware::attestation::{AttestationKey, Doubt, Evidence, Judged, Known, Measured, QuoteError, judge};
use postkeep_firmware::digest::Digest;
use postkeep_firmware::facts::Ours;
use postkeep_keys::Sum;
use postkeep_keys::tpm::{Quoted, Tpm};
use postkeep_sealed::chip::{Chip, ChipError};
use postkeep_tests::tpm::Machine;

const RUNNING: &str = "enter-initrd:leave-initrd";

fn chip(machine: &Machine) -> Chip {
    Chip { tpm: machine.tpm(), log: machine.file("log") }
}

fn measure(machine: &Machine, register: u32, what: &str) {
    machine.measure(register, &Digest::of(what.as_bytes()).to_string());
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
    judge(&evidence, Digest(*question.octets()), known, &[release], &Ours::default())
}

#[test]
fn its_word_is_believed_on_what_was_started_and_on_nothing_else() {
    let Some(mut machine) = Machine::new() else { return };
    measure(&machine, 11, "one release");
    let tpm = chip(&machine).enrol().unwrap();
    let system = after(&["one release"]);
    let asked = |machine: &Machine| {
        let question = Sum::of(b"a nonce and an offer");
        judged(chip(machine).quote(question).unwrap(), question, &tpm, system)
    };
    let is_fresh = |machine: &Machine| asked(machine).map(|judged| judged.is_fresh);
    assert_eq!(is_fresh(&machine), Ok(true));
    chip(&machine).mark_opened().unwrap();
    assert_eq!(is_fresh(&machine), Ok(false));

    // The same key after each start.
    machine.start_again();
    measure(&machine, 11, "one release");
    assert_eq!(is_fresh(&machine), Ok(true));
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
    let chip = Chip { tpm: "device:/nowhere/tpm".to_owned(), log: "/nowhere/log".into() };
    assert!(matches!(chip.enrol(), Err(ChipError::Tpm(_))));
    assert!(matches!(chip.quote(Sum::of(b"")), Err(ChipError::Tpm(_))));
}
