//! What the start of a machine is worth to its owner: a grade, and the sentences that it stands on.
//!
//! The grade is never better than what was seen. What could not be read counts as the worst it could be, and a
//! sentence says so. The form in JSON is stable: members are added, never renamed (`docs/operate/secure-boot.md`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event_log::Mismatch;
use crate::secure_boot::{Holder, Owner, Unread};

/// From best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grade {
    /// Own keys only, a TPM whose registers fit the log, nobody else's program before ours.
    A,
    /// Somebody else has a hand in the chain: his keys are let through too, or his program ran first.
    B,
    /// No TPM, or one whose record cannot be relied on: nothing can be proved from afar.
    C,
    /// Nothing keeps another system from starting.
    D,
}

impl fmt::Display for Grade {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentence {
    /// The best grade that is possible with it.
    pub at_best: Grade,
    /// What was seen, or could not be.
    pub seen: String,
    /// What that means for the owner.
    pub means: String,
}

/// The grade and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posture {
    /// The worst of what the sentences allow.
    pub grade: Grade,
    /// The worst first.
    pub sentences: Vec<Sentence>,
}

/// What was started before the system, and by whose leave, as the log of the boot tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Chain {
    /// Registers that are not what the log leads to; not empty: the log is not true.
    pub mismatches: Vec<Mismatch>,
    /// Secure Boot was on, by the log.
    pub secure_boot: Option<bool>,
    /// Programs that the firmware loaded, without its own.
    pub programs: Vec<Program>,
    /// By whose leave something was started.
    pub authorities: Vec<Holder>,
    /// How often something was added to the signed boot file: parameters, credentials (PCR 12).
    pub additions: usize,
}

/// A program that the firmware loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// From where, in words.
    pub from: String,
    /// It came over a network.
    pub is_network: bool,
    /// It hashes to a file of ours.
    pub is_known: bool,
}

/// What is known about a machine. What could not be read says why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// It was started by UEFI.
    pub uefi: bool,
    /// Secure Boot is on.
    pub secure_boot: Result<bool, Unread>,
    /// Anybody may put in keys.
    pub setup_mode: Result<bool, Unread>,
    /// Who may change everything.
    pub platform_key: Result<Vec<Holder>, Unread>,
    /// Who may change who may sign.
    pub exchange_keys: Result<Vec<Holder>, Unread>,
    /// Who may sign.
    pub signature_keys: Result<Vec<Holder>, Unread>,
    /// There is a TPM 2.0.
    pub tpm: Result<bool, Unread>,
    /// What was started.
    pub chain: Result<Chain, Unread>,
    /// What was started last.
    pub kernel: Kernel,
}

/// What is known of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// It was asked where it runs.
    Asked(Settings),
    /// It is that of this release, by what was measured of its boot file. Its settings follow from that, and cannot be seen from afar.
    Measured(String),
}

/// How far a kernel lets itself be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// How far the kernel is locked down: `none`, `integrity`, `confidentiality`.
    pub lockdown: Result<String, Unread>,
    /// `kernel.kptr_restrict`: 0 tells everybody where the kernel's parts lie.
    pub kptr_restrict: Result<u32, Unread>,
    /// `kernel.unprivileged_bpf_disabled`: 0 lets everybody load programs into the kernel.
    pub unprivileged_bpf_disabled: Result<u32, Unread>,
    /// The kernel's command line.
    pub command_line: Result<String, Unread>,
}

/// Words on the command line that open what Secure Boot closed.
const OPENERS: [&str; 9] = [
    "lockdown=none",
    "init=",
    "rdinit=",
    "rd.break",
    "systemd.debug_shell",
    "systemd.debug-shell",
    "systemd.unit=rescue.target",
    "systemd.unit=emergency.target",
    "module.sig_enforce=0",
];

/// The grade of these facts.
#[must_use]
pub fn judge(facts: &Facts) -> Posture {
    let mut sentences = Vec::new();
    let mut say = |at_best, seen: String, means: &str| {
        sentences.push(Sentence { at_best, seen, means: means.to_owned() });
    };
    start(facts, &mut say);
    if facts.uefi {
        keys(facts, &mut say);
    }
    measured(facts, &mut say);
    kernel(&facts.kernel, &mut say);
    let grade = sentences.iter().map(|sentence| sentence.at_best).max().unwrap_or(Grade::D);
    sentences.sort_by_key(|sentence| std::cmp::Reverse(sentence.at_best));
    Posture { grade, sentences }
}

type Say<'a> = &'a mut dyn FnMut(Grade, String, &str);

fn start(facts: &Facts, say: Say<'_>) {
    if !facts.uefi {
        say(
            Grade::D,
            "The machine was started by a legacy BIOS, or its UEFI cannot be seen.".to_owned(),
            "Whoever can write to its disk decides what it runs. Ask the provider to switch it to UEFI.",
        );
        return;
    }
    match &facts.secure_boot {
        Ok(true) => say(Grade::A, "Secure Boot is on.".to_owned(), "Only what is signed by a key below is started."),
        Ok(false) => say(
            Grade::D,
            "Secure Boot is off.".to_owned(),
            "Whoever can write to its disk decides what it runs. Enrol your keys and switch it on.",
        ),
        Err(why) => say(
            Grade::D,
            format!("Whether Secure Boot is on cannot be read: {why}."),
            "It counts as off. Read it as root, on the machine itself.",
        ),
    }
    match &facts.setup_mode {
        Ok(false) => {}
        Ok(true) => say(
            Grade::D,
            "The firmware is in setup mode.".to_owned(),
            "Any program may put in keys of its own. Enrol your platform key: that ends it.",
        ),
        Err(why) => say(
            Grade::D,
            format!("Whether the firmware is in setup mode cannot be read: {why}."),
            "It counts as open. Read it as root, on the machine itself.",
        ),
    }
}

fn keys(facts: &Facts, say: Say<'_>) {
    let lists = [
        ("PK", &facts.platform_key, "may change everything"),
        ("KEK", &facts.exchange_keys, "may change who may sign"),
        ("db", &facts.signature_keys, "may sign what is started"),
    ];
    for (name, holders, may) in lists {
        let holders = match holders {
            Ok(holders) => holders,
            Err(why) => {
                say(
                    Grade::D,
                    format!("Who is in {name} cannot be read: {why}."),
                    "It counts as anybody. Read it as root, on the machine itself.",
                );
                continue;
            }
        };
        let strangers: Vec<&Holder> = holders.iter().filter(|holder| holder.owner != Owner::Own).collect();
        if name == "db" && strangers.len() == holders.len() {
            say(
                Grade::D,
                format!("None of the {} entries in db is a key that you named as yours.", holders.len()),
                "Secure Boot guards somebody else's choice of systems. Enrol your keys, or name your certificates.",
            );
        } else if holders.is_empty() {
            say(Grade::B, format!("{name} is empty."), "Nobody is in the place that ought to be yours.");
        }
        if strangers.is_empty() {
            if !holders.is_empty() {
                say(Grade::A, format!("{name} holds your keys only."), &format!("Nobody else {may}."));
            }
            continue;
        }
        let names: Vec<String> = strangers
            .iter()
            .take(5)
            .map(|holder| match holder.owner {
                Owner::Microsoft => format!("Microsoft ({})", holder.name),
                _ => holder.name.clone(),
            })
            .collect();
        let more = if strangers.len() > names.len() { ", and others" } else { "" };
        say(
            Grade::B,
            format!("{name} holds keys that are not yours: {}{more}.", names.join("; ")),
            &format!(
                "Whoever has such a key {may}. It shows in PCR 7. Take it out if no card of the machine needs it."
            ),
        );
    }
}

fn measured(facts: &Facts, say: Say<'_>) {
    match &facts.tpm {
        Ok(true) => {}
        Ok(false) => {
            say(
                Grade::C,
                "There is no TPM 2.0.".to_owned(),
                "Nobody can check from afar what was started, and keys on the disk are bound to no machine. Switch the firmware's TPM on if it has one.",
            );
            return;
        }
        Err(why) => {
            say(
                Grade::C,
                format!("Whether there is a TPM cannot be read: {why}."),
                "It counts as missing. Read it as root, on the machine itself.",
            );
            return;
        }
    }
    let chain = match &facts.chain {
        Ok(chain) => chain,
        Err(why) => {
            say(
                Grade::C,
                format!("The log of the boot cannot be checked: {why}."),
                "The TPM holds sums that nobody can explain: what was started is unknown.",
            );
            return;
        }
    };
    if let Some(first) = chain.mismatches.first() {
        let numbers: Vec<String> = chain.mismatches.iter().map(|mismatch| mismatch.pcr.to_string()).collect();
        let lacking = if first.tpm.is_none() { " (not read)" } else { "" };
        say(
            Grade::C,
            format!("The log of the boot does not lead to what the TPM holds in PCR {}{lacking}.", numbers.join(", ")),
            "The log is not the whole truth, or was changed: what was started is unknown.",
        );
        return;
    }
    say(
        Grade::A,
        "There is a TPM, and the log of the boot leads to what it holds.".to_owned(),
        "What the firmware loaded is on record and cannot be taken back.",
    );
    if facts.secure_boot == Ok(true) && chain.secure_boot != Some(true) {
        say(
            Grade::D,
            "The variable says that Secure Boot is on, the log of the boot does not.".to_owned(),
            "The machine did not start under Secure Boot. Start it anew and look again.",
        );
    }
    programs(chain, say);
    if chain.additions > 0 {
        say(
            Grade::B,
            format!("{} measurements stand in PCR 12.", chain.additions),
            "Parameters or credentials were given to the system beside the signed file, by whoever can write to the boot partition or the firmware's tables.",
        );
    }
}

fn programs(chain: &Chain, say: Say<'_>) {
    let ours_only = chain.secure_boot == Some(true)
        && !chain.authorities.is_empty()
        && chain.authorities.iter().all(|authority| authority.owner == Owner::Own);
    if chain.programs.is_empty() {
        say(
            Grade::B,
            "The log of the boot names no boot loader.".to_owned(),
            "What ran between the firmware and the system is not known.",
        );
    }
    let (network, local): (Vec<&Program>, Vec<&Program>) =
        chain.programs.iter().partition(|program| program.is_network);
    let is_strange = |program: &&&Program| !program.is_known && !ours_only;
    if let Some(program) = network.iter().find(is_strange) {
        say(
            Grade::B,
            format!("Something was started over the network ({}) that is not yours.", program.from),
            "The provider's netboot is in the chain: it runs before your system and can start another one. It shows in PCR 4.",
        );
    } else if let Some(program) = network.first() {
        say(
            Grade::A,
            format!("Something of yours was started over the network ({}).", program.from),
            "The network can keep the machine from starting, and cannot make it start anything else.",
        );
    }
    if let Some(program) = local.iter().find(is_strange) {
        say(
            Grade::B,
            format!("A program was started ({}) that is not known as yours.", program.from),
            "It ran before your system. It shows in PCR 4. Name the digests of your boot files, or find out whose it is.",
        );
    }
    if !chain.programs.is_empty() && !chain.programs.iter().any(|program| is_strange(&&program)) {
        let why = if ours_only { "was let through by your keys" } else { "hashes to your files" };
        say(
            Grade::A,
            format!("Everything that was started before the system {why}."),
            "No program of the provider's is in the chain, as far as firmware measures it: its own code is not judged.",
        );
    }
}

fn kernel(kernel: &Kernel, say: Say<'_>) {
    let settings = match kernel {
        Kernel::Asked(settings) => settings,
        Kernel::Measured(release) => {
            say(
                Grade::A,
                format!("The boot file is that of {release}, and nothing was added to it."),
                "How far the kernel is locked down follows from that release.",
            );
            return;
        }
    };
    match settings.lockdown.as_deref() {
        Ok("integrity" | "confidentiality") => {}
        Ok(other) => say(
            Grade::B,
            format!("The kernel is not locked down ({other})."),
            "Whoever is root on the machine can change the running kernel, signed or not.",
        ),
        Err(why) => say(
            Grade::B,
            format!("Whether the kernel is locked down cannot be read: {why}."),
            "It counts as not locked down.",
        ),
    }
    for (setting, name, seen, means) in [
        (
            &settings.kptr_restrict,
            "kernel.kptr_restrict",
            "The kernel tells its addresses to everybody",
            "Whoever attacks the kernel from inside need not guess where its parts lie.",
        ),
        (
            &settings.unprivileged_bpf_disabled,
            "kernel.unprivileged_bpf_disabled",
            "Everybody may load BPF programs into the kernel",
            "A program without rights that was taken over has one way more into the kernel.",
        ),
    ] {
        match setting {
            Ok(0) => say(Grade::B, format!("{seen} ({name} is 0)."), means),
            Ok(_) => {}
            Err(why) => say(Grade::B, format!("{name} cannot be read: {why}."), "It counts as 0."),
        }
    }
    let line = match &settings.command_line {
        Ok(line) => line,
        Err(why) => {
            say(
                Grade::B,
                format!("The command line of the kernel cannot be read: {why}."),
                "It may ask for anything, a shell for instance.",
            );
            return;
        }
    };
    let opens = |word: &&str| {
        OPENERS.iter().any(|&opener| *word == opener || (opener.ends_with('=') && word.starts_with(opener)))
    };
    if let Some(word) = line.split_ascii_whitespace().find(opens) {
        say(
            Grade::B,
            format!("The command line of the kernel says {word}."),
            "It opens what Secure Boot closed. It is not the command line of a release.",
        );
    }
    if !line.split_ascii_whitespace().any(|word| word.starts_with("roothash=") || word.starts_with("usrhash=")) {
        say(
            Grade::B,
            "The command line of the kernel names no root hash.".to_owned(),
            "The boot file is signed, the system that it starts is not bound to it.",
        );
    }
}

/// The worst that a machine ever was: it does not become better by being repaired.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// The worst posture so far.
    pub worst: Option<Worst>,
}

/// A posture and when it was first that bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worst {
    /// The grade.
    pub grade: Grade,
    /// Seconds since 1970.
    pub since: u64,
    /// What it stood on then: the sentences that allowed no better.
    pub sentences: Vec<Sentence>,
}

impl History {
    /// Takes note of a posture. Whether it was worse than all before.
    pub fn observe(&mut self, posture: &Posture, now: u64) -> bool {
        if self.worst.as_ref().is_some_and(|worst| worst.grade >= posture.grade) {
            return false;
        }
        let sentences = posture.sentences.iter().filter(|sentence| sentence.at_best == posture.grade);
        self.worst = Some(Worst { grade: posture.grade, since: now, sentences: sentences.cloned().collect() });
        true
    }
}

#[cfg(test)]
mod tests;
