//! The encrypted volume, by cryptsetup as a program: its slots, opening, closing. Passphrases go to it through a pipe, and are of 32
//! random octets: stretching them would only cost time at the moment when mail waits.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use postkeep_keys::{SECRET, Secret, VolumeId};

/// cryptsetup(8): the passphrase is none of the volume's.
const WRONG_PASSPHRASE: i32 = 2;
/// The fewest that LUKS2 takes: what is stretched has 256 bits already.
const ITERATIONS: &str = "1000";
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
}

impl Volume {
    /// Its UUID.
    ///
    /// # Errors
    /// It has no LUKS2 header.
    pub fn id(&self) -> Result<VolumeId, VolumeError> {
        let told = self.run(&[OsStr::new("luksUUID"), self.device.as_os_str()], &[])?;
        told.trim().parse().map_err(VolumeError::Failed)
    }

    /// Whether `passphrase` opens it; nothing is opened.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn is_opened_by(&self, passphrase: &Secret) -> Result<bool, VolumeError> {
        let arguments =
            ["open", "--test-passphrase", "--type=luks2", "--key-file=-", "--keyfile-size=32"].map(OsStr::new);
        match self.run(&[&arguments[..], &[self.device.as_os_str()]].concat(), &[passphrase]) {
            Ok(_) => Ok(true),
            Err(VolumeError::WrongPassphrase) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens it with `passphrase`.
    ///
    /// # Errors
    /// The passphrase is wrong, or the volume is damaged.
    pub fn open(&self, passphrase: &Secret) -> Result<(), VolumeError> {
        let arguments =
            ["open", "--type=luks2", "--allow-discards", "--key-file=-", "--keyfile-size=32"].map(OsStr::new);
        let operands = [self.device.as_os_str(), OsStr::new(&self.name)];
        self.run(&[&arguments[..], &operands].concat(), &[passphrase]).map(drop)
    }

    /// Closes it. What is mounted from it has to be unmounted before.
    ///
    /// # Errors
    /// Somebody still uses it.
    pub fn close(&self) -> Result<(), VolumeError> {
        self.run(&[OsStr::new("close"), OsStr::new(&self.name)], &[]).map(drop)
    }

    /// Gives it one more slot, `slot`, that `new` opens; `known` opens it already.
    ///
    /// # Errors
    /// `known` does not open it, or the slot is taken.
    pub fn add(&self, known: &Secret, new: &Secret, slot: u32) -> Result<(), VolumeError> {
        let (iterations, slot) = (format!("--pbkdf-force-iterations={ITERATIONS}"), format!("--new-key-slot={slot}"));
        let arguments = [
            "luksAddKey",
            "--batch-mode",
            "--pbkdf=pbkdf2",
            &iterations,
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
        let output = child.wait_with_output().map_err(cannot_run)?;
        match output.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Some(WRONG_PASSPHRASE) => Err(VolumeError::WrongPassphrase),
            _ => {
                let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(MOST_WORDS).collect();
                Err(VolumeError::Failed(format!("{}: {words}", output.status)))
            }
        }
    }
}
