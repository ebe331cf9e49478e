//! How far a machine can be trusted, at best, with Postkeep on it: a grade, and what is missing for a better one.

use serde::Serialize;

use crate::inventory::Inventory;

/// The sentence for the provider of a machine that cannot start Postkeep.
pub const ASK_FOR_UEFI: &str = "Please switch this server to UEFI boot (CSM/legacy off), with Secure Boot available and its \
keys in setup mode, and with the TPM 2.0 (fTPM/PTT) turned on; and start the rescue system by UEFI afterwards.";

/// The best that a machine can reach. Never more than is true of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Grade {
    /// The owner's keys in the firmware, and a TPM.
    A,
    /// As A, and the provider's network boot is in the chain.
    B,
    /// No TPM: what was started cannot be proven, and the data volume is not bound to the machine.
    C,
    /// No Secure Boot: anybody at the machine can start something else.
    D,
}

/// A grade and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Posture {
    /// The best that the machine can reach.
    pub grade: Grade,
    /// What is missing, and what has to be done.
    pub remarks: Vec<String>,
}

/// Why a machine cannot start Postkeep at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No UEFI.
    #[error(
        "this machine was started by a legacy BIOS, and Postkeep starts only by UEFI; nothing was written. Send to the \
         provider's support: \"{ASK_FOR_UEFI}\""
    )]
    LegacyBios,
}

/// The grade of `machine`; `netboot` says that its provider starts it over the network first.
///
/// # Errors
/// It cannot start Postkeep at all.
pub fn posture(machine: &Inventory, netboot: bool) -> Result<Posture, Unfit> {
    if !machine.uefi {
        return Err(Unfit::LegacyBios);
    }
    let (mut grade, mut remarks) = (Grade::A, Vec::new());
    let mut lower = |to: Grade, remark: &str| {
        grade = grade.max(to);
        remarks.push(remark.to_owned());
    };
    if netboot {
        lower(Grade::B, "the provider's network boot comes first in the chain, and could start something else");
    }
    match machine.tpm {
        Some(2..) => {}
        Some(_) => lower(Grade::C, "the TPM is older than 2.0 and is not used; ask the provider for fTPM or PTT"),
        None => lower(Grade::C, "there is no TPM, or it is turned off; ask the provider for fTPM or PTT"),
    }
    match (machine.secure_boot, machine.setup_mode) {
        (None, _) => lower(
            Grade::D,
            "nothing can be read about Secure Boot. Try `mount -t efivarfs efivarfs /sys/firmware/efi/efivars` and look again; if that is \
             there already, ask the provider whether the machine has it",
        ),
        (Some(_), Some(true)) => {}
        (Some(true), _) => lower(
            Grade::A,
            "Secure Boot is on with keys that may not be yours: the image starts only once your keys are enrolled, at \
             the console of the firmware",
        ),
        (Some(false), _) => lower(
            Grade::A,
            "Secure Boot is off: until your keys are enrolled, at the console of the firmware, the grade is D",
        ),
    }
    Ok(Posture { grade, remarks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Inventory {
        let (secure_boot, setup_mode) = (Some(false), Some(true));
        Inventory { uefi: true, secure_boot, setup_mode, tpm: Some(2), ..Inventory::default() }
    }

    #[test]
    fn a_legacy_bios_is_refused_with_the_sentence_for_support() {
        let error = posture(&Inventory::default(), false).unwrap_err().to_string();
        assert!(error.contains("Please switch this server to UEFI"), "{error}");
    }

    #[test]
    fn the_worst_part_makes_the_grade_and_each_says_what_is_missing() {
        let grade = |machine: &Inventory, netboot| posture(machine, netboot).unwrap();
        assert_eq!(grade(&machine(), false), Posture { grade: Grade::A, remarks: Vec::new() });
        assert_eq!(grade(&machine(), true).grade, Grade::B);
        for tpm in [None, Some(1)] {
            assert_eq!(grade(&Inventory { tpm, ..machine() }, true).grade, Grade::C);
        }
        let silent = Inventory { secure_boot: None, setup_mode: None, ..machine() };
        assert_eq!(grade(&silent, false).grade, Grade::D);
        let others = Inventory { secure_boot: Some(true), setup_mode: Some(false), ..machine() };
        assert!(grade(&others, false).remarks[0].contains("may not be yours"));
        let off = Inventory { setup_mode: Some(false), ..machine() };
        assert!(grade(&off, false).remarks[0].contains("until your keys are enrolled"));
    }
}
