//! The files in `swtpm` are the oracle: swtpm 0.7.1, asked by tpm2-tools 5.7 (`tpm2_createprimary -C e -G ecc:ecdsa-sha256:null`,
//! `tpm2_pcrextend` of 0, 4, 7 and 11 by n + 1; `tpm2_quote -f tss` with the octets 0 to 31 as its question).
//! What a box may be made to say by somebody who has the key of a TPM, signs a TPM made of aws-lc here.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use proptest::prelude::*;

use super::*;
use crate::device_path::tests::from_disk;
use crate::event_log::kind;
use crate::event_log::tests::{Writer, good};
use crate::guid::Guid;
use crate::pcr::Variable;
use crate::posture::Grade;

const KEY: &[u8] = include_bytes!("swtpm/key.tpmt");
const ATTEST: &[u8] = include_bytes!("swtpm/quote.attest");
const SIGNATURE: &[u8] = include_bytes!("swtpm/quote.signature");
const VALUES: &[u8] = include_bytes!("swtpm/registers");

fn question() -> Digest {
    Digest(std::array::from_fn(|at| u8::try_from(at).unwrap()))
}

fn registers() -> BTreeMap<u32, Digest> {
    let values = VALUES.chunks_exact(32).map(|value| Digest(value.try_into().unwrap()));
    REGISTERS.into_iter().zip(values).collect()
}

#[test]
fn a_tpm_is_believed_on_what_it_has_signed() {
    let key = AttestationKey::read(KEY).unwrap();
    check(ATTEST, SIGNATURE, &key, question(), &registers()).unwrap();
    assert_eq!(registers()[&0], Digest::ZERO.extended(Digest(std::array::from_fn(|at| u8::from(at == 31)))));

    let error = |question, registers: &BTreeMap<_, _>| check(ATTEST, SIGNATURE, &key, question, registers).unwrap_err();
    assert_eq!(error(Digest::of(b"another"), &registers()), QuoteError::Question);
    let mut others = registers();
    others.insert(7, Digest::of(b"another"));
    assert_eq!(error(question(), &others), QuoteError::Registers);
    let mut fewer = registers();
    fewer.remove(&12);
    assert_eq!(error(question(), &fewer), QuoteError::Selection);
}

#[test]
fn a_key_that_signs_what_it_is_handed_is_not_taken() {
    let mut unrestricted = KEY.to_vec();
    unrestricted[5] &= !1;
    let error = AttestationKey::read(&unrestricted).unwrap_err().to_string();
    assert!(error.contains("for its own word only: its attributes are 0x40072"), "{error}");
}

proptest! {
    #[test]
    fn no_octet_of_it_may_be_another(at in 0..KEY.len() + ATTEST.len() + SIGNATURE.len(), flaw in 1_u8..) {
        let mut files = [KEY.to_vec(), ATTEST.to_vec(), SIGNATURE.to_vec()];
        let mut left = at;
        for file in &mut files {
            if left < file.len() {
                file[left] ^= flaw;
                break;
            }
            left -= file.len();
        }
        let [key, attest, signature] = files;
        let is_believed = AttestationKey::read(&key)
            .is_ok_and(|key| check(&attest, &signature, &key, question(), &registers()).is_ok());
        prop_assert!(!is_believed, "octet {}", at);
    }

    #[test]
    fn what_is_cut_or_has_something_behind_it_is_not_taken(
        cut in 0..SIGNATURE.len(), more in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let key = AttestationKey::read(KEY).unwrap();
        prop_assert!(check(ATTEST, &SIGNATURE[..cut], &key, question(), &registers()).is_err());
        prop_assert!(check(ATTEST, &[SIGNATURE, &more].concat(), &key, question(), &registers()).is_err());
        prop_assert!(AttestationKey::read(&KEY[..cut]).is_err());
        prop_assert!(AttestationKey::read(&[KEY, &more].concat()).is_err());
    }
}

/// A TPM that signs whatever it is told.
struct Liar {
    pair: EcdsaKeyPair,
    key: AttestationKey,
}

impl Liar {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let mut public = KEY[..KEY.len() - 68].to_vec();
        for coordinate in [&point[1..33], &point[33..]] {
            public.extend([0, 32]);
            public.extend(coordinate);
        }
        Self { key: AttestationKey::read(&public).unwrap(), pair }
    }

    fn sign(&self, attest: &[u8]) -> Vec<u8> {
        let fixed = self.pair.sign(&SystemRandom::new(), attest).unwrap();
        let (r, s) = fixed.as_ref().split_at(32);
        [&[0, 0x18, 0, 0x0b, 0, 32][..], r, &[0, 32], s].concat()
    }

    /// The word of a TPM whose registers hold `registers`.
    fn quote(&self, question: Digest, registers: &BTreeMap<u32, Digest>) -> (Vec<u8>, Vec<u8>) {
        let mut attest = ATTEST[..6].to_vec();
        for octets in [&self.key.qualified_name()[..], &question.0] {
            attest.extend(u16::try_from(octets.len()).unwrap().to_be_bytes());
            attest.extend(octets);
        }
        // What swtpm has said of its clock, its version, and which registers it was asked for.
        let rest = 6 + 2 + 34 + 2 + 32;
        attest.extend(&ATTEST[rest..ATTEST.len() - 32]);
        attest.extend(Digest::of_parts(registers.values().map(|value| &value.0[..])).0);
        let signature = self.sign(&attest);
        (attest, signature)
    }
}

/// A box, as its TPM and its log tell it.
struct Told {
    log: Vec<u8>,
    registers: BTreeMap<u32, Digest>,
}

impl Told {
    /// By a log, with `system` in PCR 11.
    fn by(log: &Writer, system: Digest) -> Self {
        let replayed = EventLog::read(&log.0).unwrap().replay();
        let mut registers: BTreeMap<u32, Digest> = REGISTERS
            .into_iter()
            .map(|register| (register, replayed.get(&register).copied().unwrap_or_default()))
            .collect();
        registers.insert(SYSTEM, system);
        Self { log: log.0.clone(), registers }
    }

    fn judged(&self, liar: &Liar, secure_boot: Digest) -> Result<Judged, Vec<Doubt>> {
        self.judged_by(liar, secure_boot, &Ours::default())
    }

    fn judged_by(&self, liar: &Liar, secure_boot: Digest, ours: &Ours) -> Result<Judged, Vec<Doubt>> {
        let (attest, signature) = liar.quote(question(), &self.registers);
        let evidence = Evidence { attest, signature, registers: self.registers.clone(), log: self.log.clone() };
        judge(&evidence, question(), Known { key: &liar.key, secure_boot }, &releases(), ours)
    }
}

/// What firmware measures of Secure Boot: PK, KEK and db.
fn configure(log: &mut Writer, is_on: u8, [platform, exchange, signature]: [&[u8]; 3]) {
    let on = [is_on];
    for (name, data) in [("SecureBoot", &on[..]), ("PK", platform), ("KEK", exchange), ("db", signature), ("dbx", b"")]
    {
        measure(log, kind::VARIABLE_DRIVER_CONFIG, name, data);
    }
}

fn measure(log: &mut Writer, kind: u32, name: &str, data: &[u8]) {
    let vendor = if name.starts_with("db") { Guid::IMAGE_SECURITY } else { Guid::GLOBAL };
    log.measured(7, kind, &Variable { vendor, name, data }.measured());
}

fn certificate(name: &str) -> Vec<u8> {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.der().to_vec()
}

/// What a variable holds that has this certificate alone, and what firmware measures when it let something through.
fn list(certificate: &[u8]) -> Vec<u8> {
    signature_list::of_certificate(Guid::POSTKEEP, certificate)
}

fn entry(certificate: &[u8]) -> Vec<u8> {
    [&Guid::POSTKEEP.0[..], certificate].concat()
}

fn system(phase: &str) -> Digest {
    Digest::of(phase.as_bytes())
}

const RUNNING: &str = "enter-initrd:leave-initrd:sysinit";

fn releases() -> Vec<Measured> {
    let phases = ["enter-initrd", RUNNING].map(|phase| (phase.to_owned(), system(phase)));
    vec![Measured { name: "0.1.0".to_owned(), phases: phases.into() }]
}

fn words(judged: Result<Judged, Vec<Doubt>>) -> String {
    judged.unwrap_err().iter().map(|doubt| format!("{doubt}\n")).collect()
}

#[test]
fn a_box_that_is_as_it_was_is_told_from_one_that_has_been_open() {
    let (liar, mut told) = (Liar::new(), Told::by(&good(), system(RUNNING)));
    let secure_boot = told.registers[&SECURE_BOOT];
    let said = |told: &Told| told.judged(&liar, secure_boot).map(|judged| (judged.release, judged.is_fresh));
    assert_eq!(said(&told), Ok(("0.1.0".to_owned(), true)));
    told.registers.insert(OPENED, Digest::of(b"opened"));
    assert_eq!(said(&told), Ok(("0.1.0".to_owned(), false)));
}

#[test]
fn the_posture_is_as_good_as_the_word_of_the_tpm_and_the_owners_make_it() {
    let liar = Liar::new();
    let (mine, strange) = (certificate("owner.example"), certificate("stranger.example"));
    let told = |platform_key: &[u8], signature_keys: &[u8]| {
        let mut log = Writer::new();
        configure(&mut log, 1, [platform_key, &list(&mine), signature_keys]);
        measure(&mut log, kind::VARIABLE_AUTHORITY, "db", &entry(&mine));
        log.program(Digest::of(b"loader"), &from_disk("\\EFI\\BOOT\\BOOTX64.EFI"));
        Told::by(&log, system(RUNNING))
    };
    let posture = |told: &Told, own: &[&[u8]]| {
        let ours = Ours { certificates: own.iter().map(|one| Digest::of(one)).collect(), files: Vec::new() };
        told.judged_by(&liar, told.registers[&SECURE_BOOT], &ours).unwrap().posture
    };
    let both = [list(&mine), list(&strange)].concat();
    for (platform_key, signature_keys, own, grade, reason) in [
        (&list(&mine)[..], &list(&mine)[..], &[&mine[..]][..], Grade::A, "Secure Boot is on."),
        (&list(&strange), &list(&mine), &[&mine], Grade::B, "PK holds keys that are not yours"),
        (&list(&mine), &both, &[&mine], Grade::B, "db holds keys that are not yours"),
        (&[], &list(&mine), &[&mine], Grade::D, "The firmware is in setup mode."),
        (b"no list", &list(&mine), &[&mine], Grade::D, "Who is in PK cannot be read"),
        (&list(&mine), &list(&mine), &[], Grade::D, "None of the 1 entries in db is a key that you named as yours."),
    ] {
        let posture = posture(&told(platform_key, signature_keys), own);
        assert_eq!(posture.grade, grade, "{posture:#?}");
        assert!(posture.sentences[0].seen.starts_with(reason), "{posture:#?}");
        assert!(posture.sentences.iter().any(|one| one.seen.starts_with("The boot file is that of 0.1.0")));
    }
}

#[test]
fn what_a_program_measures_behind_the_firmware_makes_nothing_better() {
    // A program of the provider's, let through by a key of theirs, writes the log as it likes and measures what it likes.
    let liar = Liar::new();
    let (mine, strange) = (certificate("owner.example"), certificate("stranger.example"));
    let ours = Ours { certificates: vec![Digest::of(&mine)], files: Vec::new() };
    let both = [list(&mine), list(&strange)].concat();
    let tampered = |is_on: u8, kind: u32| {
        let mut log = Writer::new();
        configure(&mut log, is_on, [&list(&mine), &list(&mine), &both]);
        measure(&mut log, kind, "db", &entry(&strange));
        measure(&mut log, kind::VARIABLE_DRIVER_CONFIG, "SecureBoot", &[1]);
        measure(&mut log, kind::VARIABLE_DRIVER_CONFIG, "db", &list(&mine));
        measure(&mut log, kind::VARIABLE_AUTHORITY, "db", &entry(&mine));
        log.program(Digest::of(b"loader"), &from_disk("\\EFI\\BOOT\\BOOTX64.EFI"));
        Told::by(&log, system(RUNNING))
    };
    for kind in [kind::VARIABLE_AUTHORITY, kind::SEPARATOR, kind::ACTION] {
        let told = tampered(1, kind);
        let posture = told.judged_by(&liar, told.registers[&SECURE_BOOT], &ours).unwrap().posture;
        assert_eq!(posture.grade, Grade::B, "{posture:#?}");
        for reason in ["db holds keys that are not yours", "A program was started"] {
            assert!(posture.sentences.iter().any(|one| one.seen.starts_with(reason)), "{reason}: {posture:#?}");
        }
        let told = tampered(0, kind);
        assert_eq!(told.judged_by(&liar, told.registers[&SECURE_BOOT], &ours), Err(vec![Doubt::SecureBootIsOff]));
    }
    // Nor does another order, another owner of a name, or a variable that is not there at all.
    for (name, vendor) in [("db", Guid::GLOBAL), ("KEK", Guid::IMAGE_SECURITY), ("PK", Guid::GLOBAL)] {
        let mut log = Writer::new();
        for (known, data) in [("SecureBoot", &[1][..]), ("PK", b""), ("KEK", b""), ("db", b""), ("dbx", b"")] {
            let own = if known.starts_with("db") { Guid::IMAGE_SECURITY } else { Guid::GLOBAL };
            let vendor = if known == name { vendor } else { own };
            if (known, name) != ("PK", "PK") {
                let variable = Variable { vendor, name: known, data };
                log.measured(7, kind::VARIABLE_DRIVER_CONFIG, &variable.measured());
            }
        }
        let told = Told::by(&log, system(RUNNING));
        let said = words(told.judged_by(&liar, told.registers[&SECURE_BOOT], &ours));
        assert!(said.contains(&format!("does not say {name} where firmware says it")), "{said}");
    }
}

#[test]
fn each_thing_that_is_not_as_it_was_is_named() {
    let liar = Liar::new();
    let secure_boot = Told::by(&good(), system(RUNNING)).registers[&SECURE_BOOT];
    let judged = |told: &Told| words(told.judged(&liar, secure_boot));

    let said = judged(&Told::by(&good(), Digest::of(b"another command line")));
    assert!(said.contains("none of the releases that are known (0.1.0)"), "{said}");
    let said = judged(&Told::by(&good(), system("enter-initrd")));
    assert!(said.contains("that of 0.1.0, and its system has not started"), "{said}");

    // The log says who may sign; a log that does not lead there says nothing.
    let secure = |flag: u8| {
        let mut log = Writer::new();
        let certificate = rcgen::generate_simple_self_signed(["stranger.example".to_owned()]).unwrap();
        let list = signature_list::of_certificate(Guid::POSTKEEP, certificate.cert.der());
        configure(&mut log, flag, [&[], &[], &list]);
        log
    };
    let said = judged(&Told::by(&secure(0), system(RUNNING)));
    assert!(said.contains("Secure Boot is off: "), "{said}");
    // From the first day on it was off: that is no better.
    let off = Told::by(&secure(0), system(RUNNING));
    assert_eq!(off.judged(&liar, off.registers[&SECURE_BOOT]), Err(vec![Doubt::SecureBootIsOff]));
    let said = judged(&Told::by(&secure(1), system(RUNNING)));
    assert!(said.contains("may be signed by: ") && said.contains("rcgen self signed cert"), "{said}");
    let mut untrue = Told::by(&secure(1), system(RUNNING));
    untrue.log = good().0;
    let said = judged(&untrue);
    assert!(said.contains("does not lead to what PCR 7 holds") && said.contains("does not say whose keys"), "{said}");

    let mut added = Told::by(&good(), system(RUNNING));
    added.registers.insert(ADDED, Digest::of(b"init=/bin/sh"));
    let said = judged(&added);
    assert!(said.contains("(PCR 12 is not empty)"), "{said}");
    let mut cut = Told::by(&good(), system(RUNNING));
    cut.log.pop();
    let said = judged(&cut);
    assert!(said.contains("is cut off in event"), "{said}");
    let mut fewer = Told::by(&good(), system(RUNNING));
    fewer.registers.remove(&ADDED);
    assert_eq!(fewer.judged(&liar, secure_boot), Err(vec![Doubt::Registers]));
}

#[test]
fn the_word_of_another_tpm_or_of_no_kind_that_was_asked_for_is_not_taken() {
    let (liar, other) = (Liar::new(), Liar::new());
    let told = Told::by(&good(), system(RUNNING));
    let (attest, signature) = liar.quote(question(), &told.registers);
    let asked =
        |attest: &[u8], signature: &[u8], liar: &Liar| check(attest, signature, &liar.key, question(), &told.registers);
    assert_eq!(asked(&attest, &signature, &liar), Ok(()));
    assert_eq!(asked(&attest, &signature, &other), Err(QuoteError::Signature));
    // Of the same key, and no word on registers: what "time" or "certify" are called.
    let mut time = attest.clone();
    time[5] = 0x19;
    assert_eq!(asked(&time, &liar.sign(&time), &liar), Err(QuoteError::Kind));
    // Another bank of registers, or more of them than are looked at.
    let bank = attest.len() - 2 - 32 - 3 - 1 - 2;
    for (at, octet) in [(bank + 1, 4), (bank - 1, 2)] {
        let mut other = attest.clone();
        other[at] = octet;
        assert_eq!(asked(&other, &liar.sign(&other), &liar), Err(QuoteError::Selection), "{at}");
    }
    let behind = [&attest[..], b"x"].concat();
    assert_eq!(asked(&behind, &liar.sign(&behind), &liar), Err(QuoteError::Kind));
}
