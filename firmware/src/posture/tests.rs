//! One machine as it should be, and what each fault makes of it.

use super::*;
use crate::digest::Digest;

fn holder(owner: Owner) -> Holder {
    Holder { owner, name: format!("CN={owner:?}"), fingerprint: Some(Digest::ZERO) }
}

fn good() -> Facts {
    let own = || Ok(vec![holder(Owner::Own)]);
    Facts {
        uefi: true,
        secure_boot: Ok(true),
        setup_mode: Ok(false),
        platform_key: own(),
        exchange_keys: own(),
        signature_keys: own(),
        tpm: Ok(true),
        chain: Ok(Chain {
            secure_boot: Some(true),
            programs: vec![program(false)],
            authorities: vec![holder(Owner::Own)],
            ..Chain::default()
        }),
        kernel: Kernel::Asked(settings()),
    }
}

fn settings() -> Settings {
    Settings {
        lockdown: Ok("integrity".to_owned()),
        kptr_restrict: Ok(2),
        unprivileged_bpf_disabled: Ok(1),
        command_line: Ok("roothash=00 quiet".to_owned()),
    }
}

fn program(is_network: bool) -> Program {
    let from = if is_network { "mac/ipv4" } else { "disk" };
    Program { from: from.to_owned(), is_network, is_known: false }
}

fn graded(change: impl FnOnce(&mut Facts)) -> Posture {
    let mut facts = good();
    change(&mut facts);
    judge(&facts)
}

fn kernel(change: impl FnOnce(&mut Settings)) -> Posture {
    let mut settings = settings();
    change(&mut settings);
    graded(|facts| facts.kernel = Kernel::Asked(settings))
}

fn chain(change: impl FnOnce(&mut Chain)) -> Posture {
    graded(|facts| change(facts.chain.as_mut().unwrap()))
}

fn unread<T>() -> Result<T, Unread> {
    Err("permission denied".to_owned())
}

#[test]
fn own_keys_a_tpm_and_a_true_log_are_an_a() {
    assert_eq!(judge(&good()).grade, Grade::A);
}

#[test]
fn what_cannot_be_read_counts_as_the_worst_it_could_be_and_is_said() {
    let cases: [(Posture, Grade); 11] = [
        (graded(|facts| facts.secure_boot = unread()), Grade::D),
        (graded(|facts| facts.setup_mode = unread()), Grade::D),
        (graded(|facts| facts.platform_key = unread()), Grade::D),
        (graded(|facts| facts.exchange_keys = unread()), Grade::D),
        (graded(|facts| facts.signature_keys = unread()), Grade::D),
        (graded(|facts| facts.tpm = unread()), Grade::C),
        (graded(|facts| facts.chain = unread()), Grade::C),
        (kernel(|settings| settings.lockdown = unread()), Grade::B),
        (kernel(|settings| settings.kptr_restrict = unread()), Grade::B),
        (kernel(|settings| settings.unprivileged_bpf_disabled = unread()), Grade::B),
        (kernel(|settings| settings.command_line = unread()), Grade::B),
    ];
    for (posture, grade) in cases {
        assert_eq!(posture.grade, grade, "{posture:?}");
        assert!(posture.sentences[0].seen.contains("cannot be") && posture.sentences[0].seen.contains("permission"));
    }
}

#[test]
fn without_secure_boot_nothing_else_helps() {
    assert_eq!(graded(|facts| facts.uefi = false).grade, Grade::D);
    assert_eq!(graded(|facts| facts.secure_boot = Ok(false)).grade, Grade::D);
    assert_eq!(graded(|facts| facts.setup_mode = Ok(true)).grade, Grade::D);
    assert_eq!(chain(|chain| chain.secure_boot = Some(false)).grade, Grade::D, "the log knows better");
}

#[test]
fn keys_of_others_lower_it_and_are_named() {
    for owner in [Owner::Microsoft, Owner::Vendor] {
        let posture = graded(|facts| facts.signature_keys = Ok(vec![holder(Owner::Own), holder(owner)]));
        assert_eq!(posture.grade, Grade::B);
        assert!(posture.sentences[0].seen.contains(&format!("CN={owner:?}")));
        assert_eq!(graded(|facts| facts.platform_key = Ok(vec![holder(owner)])).grade, Grade::B);
        assert_eq!(graded(|facts| facts.exchange_keys = Ok(vec![holder(owner)])).grade, Grade::B);
        assert_eq!(graded(|facts| facts.signature_keys = Ok(vec![holder(owner)])).grade, Grade::D, "none is ours");
    }
    assert_eq!(graded(|facts| facts.signature_keys = Ok(vec![])).grade, Grade::D);
}

#[test]
fn without_a_tpm_or_with_a_log_that_lies_nothing_is_proved() {
    assert_eq!(graded(|facts| facts.tpm = Ok(false)).grade, Grade::C);
    let posture = chain(|chain| {
        chain.mismatches = vec![Mismatch { pcr: 4, log: Digest::ZERO, tpm: Some(Digest::of(b"other")) }];
    });
    assert_eq!(posture.grade, Grade::C);
    assert!(posture.sentences[0].seen.contains("PCR 4"));
}

#[test]
fn a_netboot_of_the_providers_is_seen_and_one_of_ours_is_not_blamed() {
    let ours = chain(|chain| chain.programs.insert(0, program(true)));
    assert_eq!(ours.grade, Grade::A);
    assert!(ours.sentences.iter().any(|sentence| sentence.seen.contains("of yours was started over the network")));
    let providers = chain(|chain| {
        chain.programs.insert(0, program(true));
        chain.authorities.push(holder(Owner::Vendor));
    });
    assert_eq!(providers.grade, Grade::B);
    assert!(providers.sentences.iter().any(|sentence| sentence.means.contains("provider's netboot")));
}

#[test]
fn programs_are_ours_by_their_digest_when_no_key_speaks_for_them() {
    let by_digest = chain(|chain| {
        chain.authorities.clear();
        chain.programs[0].is_known = true;
    });
    assert_eq!(by_digest.grade, Grade::A);
    assert_eq!(chain(|chain| chain.authorities.clear()).grade, Grade::B);
    assert_eq!(chain(|chain| chain.programs.clear()).grade, Grade::B);
}

#[test]
fn what_was_added_to_the_signed_file_and_an_open_kernel_lower_it() {
    assert_eq!(chain(|chain| chain.additions = 1).grade, Grade::B);
    assert_eq!(kernel(|settings| settings.lockdown = Ok("none".to_owned())).grade, Grade::B);
    assert_eq!(kernel(|settings| settings.kptr_restrict = Ok(0)).grade, Grade::B);
    assert_eq!(kernel(|settings| settings.unprivileged_bpf_disabled = Ok(0)).grade, Grade::B);
    for line in ["quiet", "roothash=00 init=/bin/sh", "roothash=00 systemd.debug_shell"] {
        assert_eq!(kernel(|settings| settings.command_line = Ok(line.to_owned())).grade, Grade::B, "{line}");
    }
}

#[test]
fn the_worst_so_far_stays() {
    let mut history = History::default();
    let bad = graded(|facts| facts.secure_boot = Ok(false));
    assert!(history.observe(&judge(&good()), 1));
    assert!(history.observe(&bad, 2));
    assert!(!history.observe(&judge(&good()), 3));
    assert!(!history.observe(&bad, 4));
    let json = serde_json::to_string(&history).unwrap();
    assert_eq!(serde_json::from_str::<History>(&json).unwrap(), history);
    let worst = history.worst.unwrap();
    assert_eq!((worst.grade, worst.since), (Grade::D, 2));
    assert_eq!(worst.sentences[0].seen, "Secure Boot is off.");
}

#[test]
fn its_form_in_json_stays() {
    let posture = graded(|facts| facts.tpm = Ok(false));
    let json = serde_json::to_value(&posture).unwrap();
    assert_eq!(json["grade"], "C");
    assert_eq!(json["sentences"][0]["at_best"], "C");
    assert_eq!(json["sentences"][0]["seen"], "There is no TPM 2.0.");
    assert!(json["sentences"][0]["means"].is_string());
}
