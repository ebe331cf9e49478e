//! What a boot puts into the registers of the TPM, told in advance: PCR 11 of a signed boot file, PCR 4 of the
//! programs that firmware starts, PCR 7 of the variables of Secure Boot.
//!
//! PCR 11 is predicted as `systemd-measure calculate` does it: for each section, in the order that systemd-stub
//! knows, first its name with the NUL behind it, then its content; then the word of each phase of the boot.

use serde::Serialize;

use crate::digest::Digest;
use crate::guid::Guid;
use crate::pe::{Pe, PeError};

/// The sections that systemd-stub measures, in its order. `.pcrsig` is left out: it signs the result.
const MEASURED: [&str; 11] =
    [".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile"];

/// Sections among which the machine chooses when it boots, by what it is.
const CHOSEN: [&str; 3] = [".dtbauto", ".hwids", ".efifw"];

/// More zeros behind a section than any build leaves; they are hashed too.
const MOST_ZEROS: usize = 1024 * 1024;

/// The phases of a boot; each adds its word to PCR 11.
pub const PHASES: [&str; 4] = ["enter-initrd", "leave-initrd", "sysinit", "ready"];

/// PCR 11 at one point of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// The phases so far, with colons, as systemd writes them: `enter-initrd:leave-initrd`. Empty: before the first.
    pub phase: String,
    /// The value.
    pub value: Digest,
}

/// PCR 11 before the first phase and in each, for a signed boot file.
///
/// # Errors
/// The file has a section twice (profiles), or a choice of device trees (which is measured is decided at boot), or
/// a section that is far larger in memory than in the file, or nothing to boot.
pub fn predict_11(pe: &Pe<'_>) -> Result<Vec<Phase>, PeError> {
    if let Some(chosen) = pe.sections.iter().find(|section| CHOSEN.contains(&section.name.as_str())) {
        return Err(PeError::Contradiction(format!(
            "what it measures depends on the machine, because it has a section {}; build it without",
            chosen.name
        )));
    }
    let mut value = Digest::ZERO;
    for name in MEASURED {
        let Some(section) = pe.section(name)? else { continue };
        let content = pe.content(section);
        let zeros = section.memory_size.saturating_sub(content.len());
        if zeros > MOST_ZEROS {
            return Err(PeError::Contradiction(format!(
                "its section {name} is {zeros} bytes larger than the file has"
            )));
        }
        if section.memory_size == 0 {
            continue;
        }
        value = value.extended(Digest::of_parts([name.as_bytes(), b"\0"]));
        value = value.extended(Digest::of_parts([content, &vec![0; zeros]]));
    }
    if pe.section(".linux")?.is_none() {
        return Err(PeError::Other("it has no section .linux, so it is no signed boot file of a kernel"));
    }
    let mut phases = vec![Phase { phase: String::new(), value }];
    let mut path = String::new();
    for word in PHASES {
        if !path.is_empty() {
            path.push(':');
        }
        path.push_str(word);
        value = value.extended(Digest::of(word.as_bytes()));
        phases.push(Phase { phase: path.clone(), value });
    }
    Ok(phases)
}

/// PCR 4 after these programs were started, by their Authenticode digests in order: the boot loader, the signed
/// boot file. systemd-stub 257 starts the kernel in it without the firmware, so it does not stand there.
///
/// It holds for firmware that starts the first boot entry without detours, as the specification has it. Firmware
/// that tries others before, or a provider's netboot, gives another value: that is what PCR 4 is for.
#[must_use]
pub fn predict_4(programs: &[Digest]) -> Digest {
    let begin = [Digest::of(b"Calling EFI Application from Boot Option"), Digest::of(&[0; 4])];
    begin.iter().chain(programs).fold(Digest::ZERO, |value, &measured| value.extended(measured))
}

/// A variable as PCR 7 sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Whose name it is.
    pub vendor: Guid,
    /// Its name.
    pub name: &'a str,
    /// Its content; empty when there is none.
    pub data: &'a [u8],
}

impl Variable<'_> {
    /// What is measured of it: `UEFI_VARIABLE_DATA`.
    #[must_use]
    pub fn measured(&self) -> Vec<u8> {
        let letters: Vec<u16> = self.name.encode_utf16().collect();
        let mut octets = self.vendor.0.to_vec();
        octets.extend(u64::try_from(letters.len()).unwrap_or(u64::MAX).to_le_bytes());
        octets.extend(u64::try_from(self.data.len()).unwrap_or(u64::MAX).to_le_bytes());
        octets.extend(letters.into_iter().flat_map(u16::to_le_bytes));
        octets.extend_from_slice(self.data);
        octets
    }
}

/// PCR 7: `SecureBoot`, `PK`, `KEK`, `db`, `dbx` in that order, a separator, and then each entry of `db` by which
/// something was let through, once each, as `EFI_SIGNATURE_DATA` (owner, then certificate).
#[must_use]
pub fn predict_7(variables: &[Variable<'_>; 5], authorities: &[&[u8]]) -> Digest {
    let policy = variables.iter().map(|variable| Digest::of(&variable.measured()));
    let separator = std::iter::once(Digest::of(&[0; 4]));
    let authorities = authorities.iter().map(|data| {
        let authority = Variable { vendor: Guid::IMAGE_SECURITY, name: "db", data };
        Digest::of(&authority.measured())
    });
    policy.chain(separator).chain(authorities).fold(Digest::ZERO, Digest::extended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pe::tests::{file, signed};

    #[test]
    fn the_order_in_the_file_and_a_signature_change_nothing() {
        let one = file(&[(".text", b"code"), (".linux", b"kernel"), (".cmdline", b"quiet"), (".pcrsig", b"{}")]);
        let other = signed(file(&[(".pcrsig", b"{...}"), (".cmdline", b"quiet"), (".linux", b"kernel")]), b"signature");
        let (one, other) =
            (predict_11(&Pe::read(&one).unwrap()).unwrap(), predict_11(&Pe::read(&other).unwrap()).unwrap());
        assert_eq!(one, other);
        assert_eq!(one[2].phase, "enter-initrd:leave-initrd");
    }

    /// The values are those of `systemd-measure calculate --linux=linux --osrel=… --bank=sha256` of systemd 257
    /// for files that hold `content of NAME`, with a line end.
    #[test]
    fn systemd_measure_says_the_same() {
        let contents: Vec<(String, String)> =
            MEASURED.iter().rev().map(|&name| (name.to_owned(), format!("content of {}\n", &name[1..]))).collect();
        let sections: Vec<(&str, &[u8])> =
            contents.iter().map(|(name, content)| (name.as_str(), content.as_bytes())).collect();
        let file = file(&sections);
        let values: Vec<String> =
            predict_11(&Pe::read(&file).unwrap()).unwrap().iter().map(|phase| phase.value.to_string()).collect();
        assert_eq!(values[1..], SYSTEMD_MEASURE);
    }

    const SYSTEMD_MEASURE: [&str; 4] = [
        "23b5825909704b3addd025937ef1da2c05ca0e86dac40cfc041dd8922a2ee030",
        "0bccf6da0c8658247bb2bc2159b9d0c5a39eeab080715211873901b5aa677cd6",
        "9d9f0b4d7ceb28a6d22ee1ff638da60d09e728aaf9a3c550f03dda902fd1fa5b",
        "52a6b2b6c3f91d92e19a21b999a7bf6457ecdb18d424c986acbf31f02dcbee96",
    ];

    #[test]
    fn a_file_with_profiles_is_not_guessed_at() {
        let profiles = file(&[(".linux", b"kernel"), (".profile", b"ID=one"), (".profile", b"ID=two")]);
        let error = predict_11(&Pe::read(&profiles).unwrap()).unwrap_err().to_string();
        assert!(error.contains("several sections .profile"), "{error}");
        for other in [".text", ".hwids"] {
            assert!(predict_11(&Pe::read(&file(&[(".other", b""), (other, b"code")])).unwrap()).is_err());
        }
    }

    #[test]
    fn a_name_is_measured_in_two_bytes_a_letter_without_an_end() {
        let variable = Variable { vendor: Guid::GLOBAL, name: "PK", data: &[9] };
        let measured = variable.measured();
        assert_eq!(measured[16..], [2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'P', 0, b'K', 0, 9]);
    }
}
