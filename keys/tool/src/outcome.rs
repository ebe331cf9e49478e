//! How a command ends: with something to print, or with a reason and a status.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::Value;
use zeroize::Zeroizing;

/// A file could not be written.
pub(crate) const FAILED: u8 = 1;
/// Bad usage or bad input.
pub(crate) const BAD_INPUT: u8 = 2;
/// What was asked for is not safe, or not for this custodian.
pub(crate) const REFUSED: u8 = 3;

/// Keys, tokens and sheets are far smaller.
const LARGEST_FILE: u64 = 1 << 20;

/// What is printed, for people and for programs.
pub(crate) struct Outcome {
    pub(crate) text: Zeroizing<String>,
    pub(crate) json: Value,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) why: String,
}

impl Outcome {
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: Zeroizing::new(text.into()), json }
    }
}

/// For `map_err`: a reason with the status for bad input.
pub(crate) fn bad(why: impl fmt::Display) -> Failure {
    Failure { code: BAD_INPUT, why: why.to_string() }
}

/// For `map_err`: a reason with the status for a refusal.
pub(crate) fn refused(why: impl fmt::Display) -> Failure {
    Failure { code: REFUSED, why: why.to_string() }
}

/// The octets of a file, or of standard input where it is called `-`; overwritten when they are dropped.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: std::io::Error| bad(format!("cannot read {}: {error}", path.display()));
    // A vector that grew would leave parts of itself behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + 1));
    let most = LARGEST_FILE + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut octets)
    } else {
        std::fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut octets)
    };
    match read.map_err(failed)? {
        size if size as u64 > LARGEST_FILE => {
            Err(bad(format!("{} is larger than anything this reads", path.display())))
        }
        _ => Ok(octets),
    }
}

/// Makes sure that nothing is at `path`, before anybody types a passphrase or touches a device for what would have no place.
///
/// # Errors
/// A file is there.
pub(crate) fn must_be_new(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Err(bad(format!("{} is there already; name a new file, nothing is overwritten", path.display())));
    }
    Ok(())
}

/// Writes a file that was not there, for its owner's eyes only.
pub(crate) fn write_new(path: &Path, octets: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let remedy = if error.kind() == std::io::ErrorKind::AlreadyExists {
            "; name a new file, nothing is overwritten"
        } else {
            ""
        };
        Failure { code: FAILED, why: format!("cannot write {}: {error}{remedy}", path.display()) }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(octets).and_then(|()| file.sync_all()).map_err(failed)?;
    postkeep_files::sync_folder(path).map_err(failed)
}
