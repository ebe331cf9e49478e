//! The encrypted volume, by cryptsetup as a program: its slots, opening, closing. Passphrases go to it through a pipe, and are of 32
//! random octets: stretching them would only cost time at the moment when mail waits.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postkeep_keys::{SECRET, Secret, VolumeId};
use serde_json::Value;

/// cryptsetup(8): the passphrase is none of the volume's.
const WRONG_PASSPHRASE: i32 = 2;
/// The fewest that LUKS2 takes: what is stretched has 256 bits already.
const ITERATIONS: &str = "1000";
/// Opening takes less than a second.
const LONGEST_RUN: Duration = Duration::from_secs(60);
/// Between two looks at whether a program has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// LUKS2 On-Disk Format Specification 1.1.1, 2.2: no header is larger.
const LARGEST_OUTPUT: u64 = 4 << 20;
/// What of a program's words is told on.
const MOST_WORDS: usize = 300;

/// A volume, and the name under which it is opened.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its device.
    pub device: PathBuf,
    /// In the device-mapper.
    pub name: String,
    /// cryptsetup.
    pub program: PathBuf,
    /// Where open volumes appear: /dev/mapper.
    pub mapper: PathBuf,
}

/// Why a volume was not opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// See the text.
    #[error("none of the volume's slots takes this passphrase")]
    WrongPassphrase,
    /// See the text.
    #[error("cannot run {program}: {error}")]
    CannotRun {
        /// Which.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// See the text.
    #[error("cryptsetup failed: {0}")]
    Failed(String),
    /// See the text.
    #[error("the volume is not as this box made it, and is not opened: {0}; somebody may have exchanged it")]
    Strange(String),
}

/// How all volumes of a box are encrypted, and the slots that open them.
const CIPHER: &str = "aes-xts-plain64";
/// Octets of the key that CIPHER takes: AES-256, twice.
const KEY_SIZE: u64 = 64;

/// Says what is wrong with a header (LUKS2 On-Disk Format Specification 1.1.1, 3) that is to be opened by `slot`; or which slots it has.
fn check(json: &str, slot: u32) -> Result<Vec<u32>, String> {
    let header: Value = serde_json::from_str(json).map_err(|error| format!("its header cannot be read: {error}"))?;
    let all = |of: &str| header[of].as_object().cloned().unwrap_or_default();
    let is = |value: &Value, wanted: &str| value.as_str() == Some(wanted);
    let segments = all("segments");
    if segments.len() != 1 || !segments.values().all(|one| is(&one["type"], "crypt") && is(&one["encryption"], CIPHER))
    {
        return Err(format!("its content is not encrypted by {CIPHER} alone"));
    }
    let slots = &header["keyslots"];
    let Some(ours) = slots.get(slot.to_string()) else {
        return Err(format!(
            "it has no slot {slot} (the token may be an older one: put back the newest, with the highest key set)"
        ));
    };
    let is_ours = is(&ours["type"], "luks2")
        && ours["key_size"].as_u64() == Some(KEY_SIZE)
        && is(&ours["area"]["type"], "raw")
        && is(&ours["area"]["encryption"], CIPHER)
        && ours["area"]["key_size"].as_u64() == Some(KEY_SIZE);
    if !is_ours {
        return Err(format!("its slot {slot} is not kept by {CIPHER}"));
    }
    Ok(slots_of(&header))
}

/// The slots of a header.
fn slots_of(header: &Value) -> Vec<u32> {
    let slots = header["keyslots"].as_object().into_iter().flatten();
    slots.filter_map(|(slot, _)| slot.parse().ok()).collect()
}

impl Volume {
    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.mapper.join(&self.name).exists()
    }

    /// Its UUID.
    ///
    /// # Errors
    /// It has no LUKS2 header.
    pub fn id(&self) -> Result<VolumeId, VolumeError> {
        let told = self.run(&[OsStr::new("luksUUID"), self.device.as_os_str()], &[])?;
        told.trim().parse().map_err(VolumeError::Failed)
    }

    /// Whether `passphrase` opens its `slot`; nothing is opened.
    ///
    /// # Errors
    /// The volume is damaged, or has no such slot.
    pub fn is_opened_by(&self, passphrase: &Secret, slot: u32) -> Result<bool, VolumeError> {
        let slot = format!("--key-slot={slot}");
        let arguments =
            ["open", "--test-passphrase", "--type=luks2", &slot, "--key-file=-", "--keyfile-size=32"].map(OsStr::new);
        match self.run(&[&arguments[..], &[self.device.as_os_str()]].concat(), &[passphrase]) {
            Ok(_) => Ok(true),
            Err(VolumeError::WrongPassphrase) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens it with `passphrase`, which belongs to `slot`. Whoever has the disk may have written its header: one that any passphrase or
    /// a token of its own would open, or whose content would not be encrypted as ours is, is refused before. Says which slots it has.
    ///
    /// # Errors
    /// The passphrase is wrong, or the volume is damaged or not as it was made.
    pub fn open(&self, id: &VolumeId, passphrase: &Secret, slot: u32) -> Result<Vec<u32>, VolumeError> {
        let slots = check(&self.header()?, slot).map_err(VolumeError::Strange)?;
        if self.id()? != *id {
            return Err(VolumeError::Strange("its UUID is not the one in the token".to_owned()));
        }
        let slot = format!("--key-slot={slot}");
        let arguments = [
            "open",
            "--type=luks2",
            "--allow-discards",
            "--disable-external-tokens",
            &slot,
            "--key-file=-",
            "--keyfile-size=32",
        ]
        .map(OsStr::new);
        let operands = [self.device.as_os_str(), OsStr::new(&self.name)];
        self.run(&[&arguments[..], &operands].concat(), &[passphrase])?;
        Ok(slots)
    }

    /// Which slots it has.
    ///
    /// # Errors
    /// It has no LUKS2 header.
    pub fn slots(&self) -> Result<Vec<u32>, VolumeError> {
        let header = serde_json::from_str(&self.header()?);
        Ok(slots_of(&header.map_err(|error| VolumeError::Strange(format!("its header cannot be read: {error}")))?))
    }

    fn header(&self) -> Result<String, VolumeError> {
        let dump = ["luksDump", "--dump-json-metadata"].map(OsStr::new);
        self.run(&[&dump[..], &[self.device.as_os_str()]].concat(), &[])
    }

    /// Closes it. What is mounted from it has to be unmounted before.
    ///
    /// # Errors
    /// Somebody still uses it.
    pub fn close(&self) -> Result<(), VolumeError> {
        self.run(&[OsStr::new("close"), OsStr::new(&self.name)], &[]).map(drop)
    }

    /// Gives it one more slot, `slot`, that `new` opens; `known` opens the slot that is named beside it.
    ///
    /// # Errors
    /// `known` does not open it, or the slot is taken.
    pub fn add(&self, known: (&Secret, u32), new: &Secret, slot: u32) -> Result<(), VolumeError> {
        let (known, known_slot) = known;
        let iterations = format!("--pbkdf-force-iterations={ITERATIONS}");
        let (known_slot, slot) = (format!("--key-slot={known_slot}"), format!("--new-key-slot={slot}"));
        let arguments = [
            "luksAddKey",
            "--batch-mode",
            "--pbkdf=pbkdf2",
            &iterations,
            &known_slot,
            &slot,
            "--key-file=-",
            "--keyfile-size=32",
            "--new-keyfile=-",
            "--new-keyfile-size=32",
        ]
        .map(OsStr::new);
        self.run(&[&arguments[..], &[self.device.as_os_str()]].concat(), &[known, new]).map(drop)
    }

    /// Takes away a slot that nobody needs any more, without being asked for what opens it.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn remove(&self, slot: u32) -> Result<(), VolumeError> {
        let slot = slot.to_string();
        let arguments = ["luksKillSlot", "--batch-mode"].map(OsStr::new);
        self.run(&[&arguments[..], &[self.device.as_os_str(), OsStr::new(&slot)]].concat(), &[]).map(drop)
    }

    fn run(&self, arguments: &[&OsStr], secrets: &[&Secret]) -> Result<String, VolumeError> {
        let cannot_run = |error| VolumeError::CannotRun { program: self.program.clone(), error };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(if secrets.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot_run)?;
        if let Some(mut input) = child.stdin.take() {
            // Far less than a pipe holds. A program that has ended before it read says itself why.
            for secret in secrets {
                let _ = input.write_all(&secret.expose()[..SECRET]);
            }
        }
        let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
        // A disk that does not answer must not keep the box from being asked again.
        let status = within(LONGEST_RUN, &mut child).map_err(cannot_run)?;
        let Some(status) = status else { return Err(VolumeError::Failed("it does not come to an end".to_owned())) };
        let said = |told: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&told.join().unwrap_or_default()).into_owned();
        match status.code() {
            Some(0) => Ok(said(stdout)),
            Some(WRONG_PASSPHRASE) => Err(VolumeError::WrongPassphrase),
            _ => {
                let words: String = said(stderr).trim().chars().take(MOST_WORDS).collect();
                Err(VolumeError::Failed(format!("{status}: {words}")))
            }
        }
    }
}

/// What comes from a pipe until it is closed, and no more than what a header may have.
fn read_all(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut octets = Vec::new();
        let _ = from.map(|from| from.take(LARGEST_OUTPUT).read_to_end(&mut octets));
        octets
    })
}

/// How `child` ends; nothing, where it had to be killed.
fn within(time: Duration, child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= time {
            child.kill()?;
            // One that waits for a disk dies when the disk answers; it is not waited for.
            return Ok(None);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cryptsetup 2.7.5 writes it, shortened.
    const HEADER: &str = r#"{
        "keyslots": {"1": {"type": "luks2", "key_size": 64, "area": {"type": "raw", "encryption": "aes-xts-plain64", "key_size": 64}}},
        "tokens": {}, "digests": {},
        "segments": {"0": {"type": "crypt", "encryption": "aes-xts-plain64", "sector_size": 4096}}
    }"#;

    #[test]
    fn a_program_that_does_not_end_is_not_waited_for() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let began = Instant::now();
        assert_eq!(within(Duration::from_millis(100), &mut child).unwrap(), None);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(!child.wait().unwrap().success());
        let mut child = Command::new("true").spawn().unwrap();
        assert!(within(Duration::from_secs(10), &mut child).unwrap().unwrap().success());
    }

    #[test]
    fn a_header_that_somebody_else_has_written_is_refused() {
        assert_eq!(check(HEADER, 1).unwrap(), [1]);
        assert!(check(HEADER, 0).unwrap_err().contains("no slot 0"));
        for (from, to, said) in [
            (
                "\"encryption\": \"aes-xts-plain64\", \"key_size\"",
                "\"encryption\": \"cipher_null-ecb\", \"key_size\"",
                "slot 1",
            ),
            ("\"key_size\": 64, \"area\"", "\"key_size\": 32, \"area\"", "slot 1"),
            (
                "\"crypt\", \"encryption\": \"aes-xts-plain64\"",
                "\"crypt\", \"encryption\": \"cipher_null-ecb\"",
                "its content",
            ),
            ("\"crypt\"", "\"linear\"", "its content"),
            (
                "\"segments\": {",
                "\"segments\": {\"1\": {\"type\": \"crypt\", \"encryption\": \"aes-xts-plain64\"}, ",
                "its content",
            ),
        ] {
            let changed = HEADER.replacen(from, to, 1);
            assert_ne!(changed, HEADER, "{from}");
            let error = check(&changed, 1).unwrap_err();
            assert!(error.contains(said), "{to}: {error}");
        }
        for nonsense in ["", "[]", "{\"keyslots\":3}"] {
            assert!(check(nonsense, 1).is_err());
        }
    }
}
