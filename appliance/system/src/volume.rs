//! Opens the data volume, as /etc/crypttab says, with one thing more: on a machine with a TPM nobody is asked for a passphrase.
//!
//! A volume that a passphrase opens would be opened by whoever brings it along. On a machine without a TPM the passphrase is the
//! owner's. And where custodians have opened it so far, and their token is gone from the boot partition, nobody is asked for what nobody has.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::Failure;

/// LUKS2 On-Disk Format Specification 1.1.1, 2.1 and 2.2: magic, version, and the size of the header with its JSON.
const MAGIC: [u8; 8] = *b"LUKS\xba\xbe\0\x02";
const JSON_BEGINS: u64 = 4096;
const LARGEST_HEADER: u64 = 4 << 20;
/// systemd's name of a key that the TPM gives.
const BY_TPM: &str = "systemd-tpm2";

/// The slots that custodians open (`sealed::slots::slot`), by a secret that needs no stretching; what people choose is stretched by Argon2.
const CUSTODIANS: [&str; 2] = ["1", "3"];
const STRETCHED_ONCE: &str = "pbkdf2";

const CRYPTSETUP: &str = "/usr/lib/systemd/systemd-cryptsetup";
/// By its name in the device-mapper.
const NAME: &str = "postkeep-data";
/// As in /etc/crypttab: its key is measured, and the passphrase is asked for until it is right.
const OPTIONS: &str = "luks,tpm2-device=auto,tpm2-measure-pcr=yes,discard,tries=0";
/// What does not open without a person does not open.
const WITHOUT_A_PERSON: &str = ",headless=yes";

/// Becomes systemd-cryptsetup, which opens `volume`; comes back only with what speaks against it.
pub(crate) fn open(volume: &Path, chip: &Path) -> Result<Vec<String>, Failure> {
    check(volume, chip)?;
    let options = format!("{OPTIONS}{}", if chip.exists() { WITHOUT_A_PERSON } else { "" });
    let error = Command::new(CRYPTSETUP).args(["attach", NAME]).arg(volume).args(["none", &*options]).exec();
    Err(format!("cannot run {CRYPTSETUP}: {error}").into())
}

/// Refuses a volume that custodians open, and one that no TPM opens where there is one, and says so more plainly than systemd-cryptsetup would.
fn check(volume: &Path, chip: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error: io::Error| format!("cannot read the data volume's header: {error}");
    let header = header(&mut File::open(volume).map_err(failed)?).map_err(failed)?;
    let Some(header) = header else {
        return Err("the data volume has no LUKS2 header: it was not made by this machine, or is damaged".into());
    };
    let is_by_custodians = CUSTODIANS.iter().any(|slot| header["keyslots"][slot]["kdf"]["type"] == STRETCHED_ONCE);
    if is_by_custodians && header["tokens"].as_object().is_none_or(serde_json::Map::is_empty) {
        return Err("custodians open this data volume, and their token is gone from the boot partition: put the newest copy back as postkeep/token \
                    (each custodian has one; the highest key set holds); nothing on the volume is lost"
            .into());
    }
    if !chip.exists() {
        return Ok(Vec::new());
    }
    if header["tokens"].as_object().is_some_and(|tokens| tokens.values().any(|token| token["type"] == BY_TPM)) {
        return Ok(Vec::new());
    }
    Err("the data volume is not sealed to a TPM, and this machine has one: the volume was not made here, or the TPM was \
         off when it was; switch it off again, or flash the disk anew"
        .into())
}

/// What the header says; nothing, if there is none.
fn header(file: &mut File) -> io::Result<Option<serde_json::Value>> {
    let mut begin = [0; 16];
    file.read_exact(&mut begin)?;
    let (magic, size) = begin.split_at(MAGIC.len());
    let size = size.iter().fold(0, |size, octet| size << 8 | u64::from(*octet));
    if magic != MAGIC || !(JSON_BEGINS..=LARGEST_HEADER).contains(&size) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(JSON_BEGINS))?;
    let mut octets = Vec::new();
    file.take(size - JSON_BEGINS).read_to_end(&mut octets)?;
    let end = octets.iter().position(|octet| *octet == 0).unwrap_or(octets.len());
    Ok(octets.get(..end).and_then(|json| serde_json::from_slice(json).ok()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A header as `cryptsetup luksFormat` begins it, with these tokens.
    fn volume(folder: &Path, json: &str) -> std::path::PathBuf {
        let mut octets = MAGIC.to_vec();
        octets.extend(16_384_u64.to_be_bytes());
        octets.resize(4096, 0xaa);
        octets.extend(json.as_bytes());
        octets.resize(16_384, 0);
        let path = folder.join("volume");
        fs::write(&path, octets).unwrap();
        path
    }

    #[test]
    fn with_a_tpm_only_a_volume_that_a_tpm_opens_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let chip = folder.path().join("tpmrm0");
        fs::write(&chip, "").unwrap();
        let sealed =
            volume(folder.path(), r#"{"keyslots":{},"tokens":{"0":{"type":"systemd-tpm2","keyslots":["0"]}}}"#);
        check(&sealed, &chip).unwrap();
        for tokens in ["{}", r#"{"tokens":{}}"#, r#"{"tokens":{"0":{"type":"systemd-fido2"}}}"#] {
            let error = check(&volume(folder.path(), tokens), &chip).unwrap_err().to_string();
            assert!(error.contains("not sealed to a TPM") && error.contains("flash the disk anew"), "{error}");
        }
        for nonsense in ["", "[", "{\"tokens\":"] {
            let error = check(&volume(folder.path(), nonsense), &chip).unwrap_err().to_string();
            assert!(error.contains("no LUKS2 header"), "{nonsense}: {error}");
        }
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (chip, path) = (folder.path().join("tpmrm0"), folder.path().join("volume"));
        fs::write(&chip, "").unwrap();
        fs::write(&path, "short").unwrap();
        assert!(check(&path, &chip).unwrap_err().to_string().contains("cannot read"));
        fs::write(&path, [0; 8192]).unwrap();
        assert!(check(&path, &chip).unwrap_err().to_string().contains("no LUKS2 header"));
    }

    #[test]
    fn a_volume_of_custodians_whose_token_is_gone_is_not_asked_about() {
        let folder = tempfile::tempdir().unwrap();
        let chip = folder.path().join("tpmrm0");
        // As cryptsetup writes it.
        let theirs = r#"{"keyslots":{"1":{"type":"luks2","kdf":{"type":"pbkdf2"}},"2":{"type":"luks2","kdf":{"type":"pbkdf2"}}},"tokens":{}}"#;
        // A second key set has the slots behind those of the first.
        let second = theirs.replace("\"1\":", "\"3\":").replace("\"2\":", "\"4\":");
        for header in [theirs, &second] {
            let theirs = volume(folder.path(), header);
            for has_chip in [false, true] {
                if has_chip {
                    fs::write(&chip, "").unwrap();
                }
                let error = check(&theirs, &chip).unwrap_err().to_string();
                assert!(
                    error.contains("put the newest copy back as postkeep/token")
                        && error.contains("nothing on the volume is lost"),
                    "{error}"
                );
            }
            fs::remove_file(&chip).unwrap();
        }
    }

    #[test]
    fn a_machine_without_a_tpm_asks_for_the_passphrase_of_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let chosen =
            volume(folder.path(), r#"{"keyslots":{"0":{"type":"luks2","kdf":{"type":"argon2id"}}},"tokens":{}}"#);
        check(&chosen, &folder.path().join("nowhere")).unwrap();
    }
}
