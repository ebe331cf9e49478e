//! Collects what a running machine says about its start. The one place that reads `/sys` and `/proc`; under a
//! prefix, so that a test or a rescue system can give it a copy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::digest::Digest;
use crate::event_log::{self, EventLog, FIRMWARE_PCRS, LoggedVariable, SecureBootLog};
use crate::posture::{Chain, Facts, Kernel, Program, Settings};
use crate::secure_boot::{self, Holder, LONGEST_VARIABLE, Unread, VARIABLES};

/// What the owner says is his.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// SHA-256 fingerprints of his certificates.
    pub certificates: Vec<Digest>,
    /// Authenticode digests of his boot files.
    pub files: Vec<Digest>,
}

/// Reads everything under `root`; what cannot be read says why.
#[must_use]
pub fn gather(root: &Path, ours: &Ours) -> Facts {
    let list = |name| variable(root, name).and_then(|content| holders(name, &content, ours));
    let flag = |name| variable(root, name).and_then(|content| secure_boot::flag(name, &content));
    let tpm = tpm(root);
    let chain = match tpm {
        Ok(true) => log(root).map(|log| chain(&log, &registers(root), ours)),
        _ => Err("there is no TPM".to_owned()),
    };
    Facts {
        uefi: root.join("sys/firmware/efi").is_dir(),
        secure_boot: flag("SecureBoot"),
        setup_mode: flag("SetupMode"),
        platform_key: list("PK"),
        exchange_keys: list("KEK"),
        signature_keys: list("db"),
        tpm,
        chain,
        kernel: Kernel::Asked(Settings {
            lockdown: text(&root.join("sys/kernel/security/lockdown")).and_then(|text| chosen(&text)),
            kptr_restrict: number(&root.join("proc/sys/kernel/kptr_restrict")),
            unprivileged_bpf_disabled: number(&root.join("proc/sys/kernel/unprivileged_bpf_disabled")),
            command_line: text(&root.join("proc/cmdline")).map(|line| line.trim().to_owned()),
        }),
    }
}

/// What a TPM's word says from afar: `registers` and the `log` that leads to them, with what that says of Secure Boot, on a machine that runs
/// `release`.
#[must_use]
pub fn attested(
    log: &EventLog,
    secure_boot: &SecureBootLog,
    registers: &BTreeMap<u32, Digest>,
    release: &str,
    ours: &Ours,
) -> Facts {
    let list = |name| holders(name, secure_boot.variable(name), ours);
    let authority = |variable: &LoggedVariable| {
        secure_boot::authority(&variable.name, &variable.data, &ours.certificates, &ours.files)
    };
    // Without what the log calls an authority: the kinds of its events prove nothing here.
    let chain = Chain {
        secure_boot: Some(secure_boot.is_on()),
        authorities: secure_boot.authorities.iter().map(authority).collect(),
        ..chain(log, registers, ours)
    };
    Facts {
        // Others keep no such log.
        uefi: true,
        secure_boot: secure_boot::flag("SecureBoot", secure_boot.variable("SecureBoot")),
        // UEFI Specification 2.10, 32.3: a platform key ends setup mode, and there is no other end of it.
        setup_mode: Ok(secure_boot.variable("PK").is_empty()),
        platform_key: list("PK"),
        exchange_keys: list("KEK"),
        signature_keys: list("db"),
        tpm: Ok(true),
        chain: Ok(chain),
        kernel: Kernel::Measured(release.to_owned()),
    }
}

/// What a log means for the grade.
#[must_use]
pub fn chain(log: &EventLog, registers: &BTreeMap<u32, Digest>, ours: &Ours) -> Chain {
    let secure_boot = log.variables().find(|variable| variable.name == "SecureBoot");
    let programs = log.loaded(4).filter(|loaded| !loaded.path.is_firmware).map(|loaded| Program {
        from: if loaded.path.text.is_empty() {
            "from where, the firmware does not say".into()
        } else {
            loaded.path.text
        },
        is_network: loaded.path.is_network,
        is_known: ours.files.contains(&loaded.digest),
    });
    let authorities = log
        .authorities()
        .map(|variable| secure_boot::authority(&variable.name, &variable.data, &ours.certificates, &ours.files));
    Chain {
        mismatches: log.compare(registers, &FIRMWARE_PCRS),
        secure_boot: secure_boot.map(|variable| variable.data == [1]),
        programs: programs.collect(),
        authorities: authorities.collect(),
        additions: log.events.iter().filter(|event| event.pcr == 12).count(),
    }
}

/// The registers of the SHA-256 bank that could be read.
#[must_use]
pub fn registers(root: &Path) -> BTreeMap<u32, Digest> {
    let read = |pcr: u32| {
        let text = text(&root.join(format!("sys/class/tpm/tpm0/pcr-sha256/{pcr}"))).ok()?;
        Some((pcr, text.trim().parse().ok()?))
    };
    (0..24).filter_map(read).collect()
}

/// The log of the boot.
///
/// # Errors
/// It is not there or cannot be read.
pub fn log(root: &Path) -> Result<EventLog, Unread> {
    let path = root.join("sys/kernel/security/tpm0/binary_bios_measurements");
    let octets = octets(&path, event_log::LONGEST as u64)?;
    EventLog::read(&octets).map_err(|error| error.to_string())
}

fn tpm(root: &Path) -> Result<bool, Unread> {
    let folder = root.join("sys/class/tpm/tpm0");
    match folder.try_exists() {
        Ok(false) => return Ok(false),
        Ok(true) => {}
        Err(error) => return Err(format!("{}: {error}", folder.display())),
    }
    // A TPM 1.2 is none: nothing here can use it.
    text(&folder.join("tpm_version_major")).map(|version| version.trim() == "2")
}

fn variable(root: &Path, name: &str) -> Result<Vec<u8>, Unread> {
    let Some((_, vendor)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
        return Err(format!("{name} is no variable of Secure Boot"));
    };
    let path = root.join("sys/firmware/efi/efivars").join(secure_boot::file_name(name, *vendor));
    match octets(&path, LONGEST_VARIABLE) {
        // Efivars has a file for each variable that is not empty; but without efivars there is none for any.
        Err(_) if is_missing(&path) && matches!(name, "PK" | "KEK" | "db") && has_others(&path) => Ok(Vec::new()),
        file => secure_boot::content(name, &file?).map(<[u8]>::to_vec),
    }
}

fn is_missing(path: &Path) -> bool {
    path.try_exists().is_ok_and(|exists| !exists)
}

fn has_others(path: &Path) -> bool {
    path.parent().and_then(|folder| folder.read_dir().ok()).is_some_and(|mut entries| entries.next().is_some())
}

fn holders(name: &str, content: &[u8], ours: &Ours) -> Result<Vec<Holder>, Unread> {
    secure_boot::holders(name, content, &ours.certificates, &ours.files)
}

/// The word in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> Result<String, Unread> {
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map(|(word, _)| word.to_owned()).ok_or_else(|| "the file lockdown marks no word".to_owned())
}

/// A setting of the kernel.
fn number(path: &Path) -> Result<u32, Unread> {
    let text = text(path)?;
    text.trim().parse().map_err(|_| format!("{}: {:?} is no number", path.display(), text.trim()))
}

fn text(path: &Path) -> Result<String, Unread> {
    octets(path, 64 * 1024).map(|octets| String::from_utf8_lossy(&octets).into_owned())
}

fn octets(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut octets = Vec::new();
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => failed(&"it is not there"),
        _ => failed(&error),
    })?;
    file.take(most + 1).read_to_end(&mut octets).map_err(|error| failed(&error))?;
    if octets.len() as u64 > most {
        return Err(failed(&format_args!("it is longer than {most} bytes")));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::event_log::tests::good;
    use crate::guid::Guid;
    use crate::posture::{Grade, judge};
    use crate::signature_list::of_certificate;

    /// A machine in a folder.
    fn machine(own: &[u8]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, octets: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, octets).unwrap();
        };
        let list = of_certificate(Guid::POSTKEEP, own);
        for (name, vendor) in VARIABLES {
            let content = match name {
                "SecureBoot" => vec![1],
                "SetupMode" => vec![0],
                "dbx" => continue,
                _ => list.clone(),
            };
            let file = [&[6, 0, 0, 0][..], &content].concat();
            put(&format!("sys/firmware/efi/efivars/{}", secure_boot::file_name(name, vendor)), &file);
        }
        put("sys/kernel/security/lockdown", b"none [integrity] confidentiality\n");
        put("proc/sys/kernel/kptr_restrict", b"2\n");
        put("proc/sys/kernel/unprivileged_bpf_disabled", b"1\n");
        put("proc/cmdline", b"roothash=00 quiet\n");
        put("sys/class/tpm/tpm0/tpm_version_major", b"2\n");
        let octets = good().0;
        put("sys/kernel/security/tpm0/binary_bios_measurements", &octets);
        let values = EventLog::read(&octets).unwrap().replay();
        for pcr in FIRMWARE_PCRS {
            let value = values.get(&pcr).copied().unwrap_or_default();
            put(&format!("sys/class/tpm/tpm0/pcr-sha256/{pcr}"), value.to_string().to_uppercase().as_bytes());
        }
        root
    }

    #[test]
    fn a_machine_is_read_and_graded() {
        let own = rcgen::generate_simple_self_signed(["owner.example".to_owned()]).unwrap();
        let root = machine(own.cert.der());
        let ours = Ours { certificates: vec![Digest::of(own.cert.der())], files: vec![Digest::of(b"loader")] };
        let posture = judge(&gather(root.path(), &ours));
        assert_eq!(posture.grade, Grade::A, "{posture:#?}");

        let strangers = judge(&gather(root.path(), &Ours::default()));
        assert_eq!(strangers.grade, Grade::D, "nobody named a key as his");
        fs::write(root.path().join("sys/class/tpm/tpm0/pcr-sha256/4"), Digest::of(b"else").to_string()).unwrap();
        assert_eq!(judge(&gather(root.path(), &ours)).grade, Grade::C);
        fs::remove_dir_all(root.path().join("sys/class/tpm")).unwrap();
        assert_eq!(judge(&gather(root.path(), &ours)).grade, Grade::C);
        fs::remove_dir_all(root.path().join("sys/firmware/efi/efivars")).unwrap();
        assert_eq!(judge(&gather(root.path(), &ours)).grade, Grade::D);
    }

    #[test]
    fn a_folder_without_anything_is_the_worst_machine_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        let facts = gather(root.path(), &Ours::default());
        assert_eq!(judge(&facts).grade, Grade::D);
        assert!(facts.secure_boot.unwrap_err().contains("it is not there"));
    }
}
