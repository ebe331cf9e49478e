//! Whether what answers from afar is the box that it says it is, and runs what its owner let in: the word of its TPM, held against what
//! was known of the box before, and against the published measurements of releases.
//!
//! Pure, so that it runs on a laptop without a TPM. It is worth what the TPM is worth: one in the processor's firmware, or on wires that
//! somebody has opened, may say what is not true.

use std::collections::BTreeMap;
use std::fmt;

use crate::digest::Digest;
use crate::event_log::{EventLog, FIRMWARE_PCRS};
use crate::facts::{self, Ours};
use crate::posture::{self, Posture};
use crate::signature_list::{self, Entry};

mod key;
mod quote;

pub use self::key::{AttestationKey, KeyError};
pub use self::quote::{Quote, QuoteError, check};

/// The registers that are asked for: what firmware and boot loaders write, the system (11), what was added to it (12, 13), and whether
/// the data volume was open since the machine was started (15).
pub const REGISTERS: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, SYSTEM, ADDED, EXTENDED, OPENED];
/// Secure Boot: on or off, and whose keys.
pub const SECURE_BOOT: u32 = 7;
/// The boot file, and how far the start was.
pub const SYSTEM: u32 = 11;
/// Parameters and credentials that were added to the boot file.
const ADDED: u32 = 12;
/// Extensions of the initrd.
const EXTENDED: u32 = 13;
/// Extended when the data volume has been opened.
pub const OPENED: u32 = 15;
/// As systemd names the phase after which the system runs that the boot file names.
const AFTER_INITRD: &str = "enter-initrd:leave-initrd";

/// What a box hands over about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The word of the TPM, `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// The signature under it, `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// What the registers hold: those in [`REGISTERS`].
    pub registers: BTreeMap<u32, Digest>,
    /// The log of the boot, as firmware keeps it.
    pub log: Vec<u8>,
}

/// What was known of a box before.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The key of its TPM.
    pub key: &'a AttestationKey,
    /// PCR 7 as it was then.
    pub secure_boot: Digest,
}

/// A release whose measurements are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// What it is called.
    pub name: String,
    /// PCR 11 in each phase of its start.
    pub phases: BTreeMap<String, Digest>,
}

/// What the evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Which release runs.
    pub release: String,
    /// The data volume has not been open since the machine was started: nothing that takes mail has run there.
    pub is_fresh: bool,
    /// What the start of the box is worth. A program can be hidden in a log, since no register says which kind its events are; an A
    /// needs keys in PK, KEK and db that are the owner's only, by what firmware measures first, and those let no other program through.
    pub posture: Posture,
}

/// Something that keeps the evidence from being relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It is not the word of the TPM that is known.
    Quote(QuoteError),
    /// Registers are missing in what was handed over, or there are others.
    Registers,
    /// The log cannot be read.
    Log(String),
    /// The log does not lead to what this register holds.
    LogIsUntrue(u32),
    /// Secure Boot is off.
    SecureBootIsOff,
    /// Secure Boot is on, and not as it was: who may sign what starts, in words.
    OtherKeys(Vec<String>),
    /// What runs is no release that is known.
    OtherSystem {
        /// PCR 11.
        value: Digest,
        /// The releases that are.
        known: Vec<String>,
    },
    /// A release that is known, and its start has not come as far as the system: somebody asks out of the initrd.
    EarlyPhase {
        /// Which release.
        release: String,
    },
    /// Something was added to what the boot file says: this register is not empty.
    Added(u32),
}

impl fmt::Display for Doubt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quote(error) => error.fmt(out),
            Self::Registers => out.write_str("the box has not handed over the registers that were asked for"),
            Self::Log(why) => out.write_str(why),
            Self::LogIsUntrue(register) => {
                write!(
                    out,
                    "the log of the boot does not lead to what PCR {register} holds: somebody has changed one of them"
                )
            }
            Self::SecureBootIsOff => {
                out.write_str("Secure Boot is off: whoever can write to the disk of the box decides what it runs")
            }
            Self::OtherKeys(holders) if holders.is_empty() => out.write_str(
                "Secure Boot is not as it was when this box was made, and its log does not say whose keys decide now",
            ),
            Self::OtherKeys(holders) => write!(
                out,
                "Secure Boot is not as it was when this box was made; what starts may be signed by: {}",
                holders.join("; ")
            ),
            Self::OtherSystem { value, known } if known.is_empty() => {
                write!(out, "no release is known to hold what runs there against (PCR 11 is {value})")
            }
            Self::OtherSystem { value, known } => write!(
                out,
                "what runs there is none of the releases that are known ({}): another boot file, or another command line in it (PCR 11 is {value})",
                known.join(", ")
            ),
            Self::EarlyPhase { release } => write!(
                out,
                "the boot file is that of {release}, and its system has not started: whoever answers runs before it"
            ),
            Self::Added(register) => write!(
                out,
                "something was added to what the boot file says, a parameter, a credential or an extension (PCR {register} is not empty)"
            ),
        }
    }
}

/// What `evidence` says in answer to `question`. `ours` is what the owner says is theirs, for the posture.
///
/// # Errors
/// All that keeps it from being relied on; never an empty list.
pub fn judge(
    evidence: &Evidence,
    question: Digest,
    known: Known<'_>,
    releases: &[Measured],
    ours: &Ours,
) -> Result<Judged, Vec<Doubt>> {
    let Evidence { attest, signature, registers, log } = evidence;
    if !registers.keys().copied().eq(REGISTERS) {
        return Err(vec![Doubt::Registers]);
    }
    // What the TPM has not said is not worth a look.
    check(attest, signature, known.key, question, registers).map_err(|error| vec![Doubt::Quote(error)])?;
    let value = |register| registers.get(&register).copied().unwrap_or_default();
    let mut doubts = Vec::new();
    let log = match EventLog::read(log) {
        Ok(log) => {
            doubts.extend(log.compare(registers, &FIRMWARE_PCRS).iter().map(|one| Doubt::LogIsUntrue(one.pcr)));
            log
        }
        Err(error) => {
            doubts.push(Doubt::Log(error.to_string()));
            EventLog::default()
        }
    };
    // A log that is not true says nothing of this.
    let is_true = !doubts.iter().any(|doubt| matches!(doubt, Doubt::LogIsUntrue(SECURE_BOOT) | Doubt::Log(_)));
    let secure_boot = if is_true { log.secure_boot().map_err(|why| doubts.push(Doubt::Log(why))).ok() } else { None };
    if secure_boot.as_ref().is_some_and(|secure_boot| !secure_boot.is_on()) {
        // Also where it was off from the first day: what PCR 11 says could be written there by any program then.
        doubts.push(Doubt::SecureBootIsOff);
    } else if value(SECURE_BOOT) != known.secure_boot {
        let signers = secure_boot.as_ref().map(|secure_boot| signers(secure_boot.variable("db"))).unwrap_or_default();
        doubts.push(Doubt::OtherKeys(signers));
    }
    let release = match named(value(SYSTEM), releases) {
        Ok(release) => release,
        Err(doubt) => {
            doubts.push(doubt);
            String::new()
        }
    };
    doubts.extend([ADDED, EXTENDED].into_iter().filter(|register| value(*register) != Digest::ZERO).map(Doubt::Added));
    let Some(secure_boot) = secure_boot.filter(|_| doubts.is_empty()) else { return Err(doubts) };
    let posture = posture::judge(&facts::attested(&log, &secure_boot, registers, &release, ours));
    Ok(Judged { release, is_fresh: value(OPENED) == Digest::ZERO, posture })
}

/// The release that has `value` in PCR 11 once its system runs.
fn named(value: Digest, releases: &[Measured]) -> Result<String, Doubt> {
    let mut early = None;
    for release in releases {
        for (phase, _) in release.phases.iter().filter(|(_, known)| **known == value) {
            if phase.starts_with(AFTER_INITRD) {
                return Ok(release.name.clone());
            }
            early = Some(Doubt::EarlyPhase { release: release.name.clone() });
        }
    }
    let known = releases.iter().map(|release| release.name.clone()).collect();
    Err(early.unwrap_or(Doubt::OtherSystem { value, known }))
}

/// Who may sign what starts, in words, from the content of `db`.
fn signers(db: &[u8]) -> Vec<String> {
    match signature_list::read(db) {
        Ok(entries) => entries
            .into_iter()
            .map(|owned| match owned.entry {
                Entry::Certificate(certificate) => format!("{} ({})", certificate.subject, certificate.fingerprint),
                Entry::File(digest) => format!("the file {digest}"),
                Entry::Other(kind) => format!("an entry of kind {kind}"),
            })
            .collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[cfg(test)]
mod tests;
