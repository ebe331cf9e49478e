//! How a command ends: with something to print, or with a reason and a status.

use std::fmt;
use std::io::Read;
use std::path::Path;

use postkeep_flash::record::Record;
use postkeep_notes::{LARGEST_NOTE, VerifierKey};
use serde_json::{Value, json};

/// Something failed while the work was done.
pub(crate) const FAILED: u8 = 1;
/// Bad usage or bad input.
pub(crate) const BAD_INPUT: u8 = 2;
/// The machine or the disk cannot be used, or nobody confirmed.
pub(crate) const REFUSED: u8 = 3;

/// What is printed, for people and for programs.
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) why: String,
}

impl Outcome {
    pub(crate) fn of_record(record: &Record) -> Self {
        Self { text: record.to_string(), json: json!(record) }
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

/// For `map_err`: a reason with the status for what went wrong on the way.
pub(crate) fn failed(why: impl fmt::Display) -> Failure {
    Failure { code: FAILED, why: why.to_string() }
}

/// The octets of a file that is a note or smaller.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut octets = Vec::new();
    std::fs::File::open(path)
        // One more, so that whoever parses sees that it is too large.
        .and_then(|file| file.take(LARGEST_NOTE as u64 + 1).read_to_end(&mut octets))
        .map_err(|error| bad(format!("cannot read {}: {error}", path.display())))?;
    Ok(octets)
}

/// The public key that `given` is, or that the file of that name holds.
pub(crate) fn public_key(given: &str) -> Result<VerifierKey, Failure> {
    <[VerifierKey; 1]>::try_from(public_keys(given)?)
        .map(|[key]| key)
        .map_err(|keys| bad(format!("{given} holds {} keys, and one is wanted", keys.len())))
}

/// The public key that `given` is, or those that the file of that name holds, one on each line.
pub(crate) fn public_keys(given: &str) -> Result<Vec<VerifierKey>, Failure> {
    let wrong = match given.parse() {
        Ok(key) => return Ok(vec![key]),
        Err(error) => error,
    };
    let path = Path::new(given);
    if !path.exists() {
        return Err(bad(format!("{wrong}; there is no file of that name either")));
    }
    let octets = read(path)?;
    match VerifierKey::of_lines(&String::from_utf8_lossy(&octets)) {
        Ok(keys) if keys.is_empty() => Err(bad(format!("{}: there is no key in it", path.display()))),
        Ok(keys) => Ok(keys),
        Err(error) => Err(bad(format!("{}: {error}", path.display()))),
    }
}
