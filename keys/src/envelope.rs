//! What is encrypted with age to one reader or more, and held in memory as a whole: shares, answers, challenges, the parts of exports.
//!
//! age says who can read, and never who wrote. What has to come from somebody says so inside, where a secret of theirs proves it.

use std::io::{Read as _, Write as _};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use zeroize::Zeroizing;

use crate::Recipient;

/// The largest that is looked at: the age crate itself reads headers of any size.
pub const LARGEST_ENVELOPE: usize = 64 << 10;
/// Of that, the header: two readers need some hundred octets. The age crate takes a time for it that grows with its square.
const LARGEST_HEADER: usize = 4 << 10;
/// Lines of it.
const MOST_LINES: usize = 64;
/// What goes into an envelope, in octets.
const LARGEST_CONTENT: usize = 16 << 10;
const HEADER_ENDS: &[u8] = b"\n---";
const ARMOUR_BEGINS: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// Why an envelope was not made or not opened. An envelope that is for others and one that is damaged look the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// See the text.
    #[error("it has {octets} octets, and {LARGEST_ENVELOPE} are read at most")]
    TooLarge {
        /// How many.
        octets: usize,
    },
    /// See the text.
    #[error("it is no age file, or was cut short or changed on its way")]
    Damaged,
    /// See the text.
    #[error("it is encrypted to others: none of the identities given opens it")]
    NotOurs,
    /// See the text.
    #[error("an identity could not be used: {why}")]
    Identity {
        /// What age or its plugin said.
        why: String,
    },
    /// See the text.
    #[error("cannot encrypt: {why}")]
    CannotSeal {
        /// What age said.
        why: String,
    },
}

/// `content`, for `readers` only.
///
/// # Errors
/// There are no readers, or they do not go together.
pub fn seal<'a>(content: &[u8], readers: impl Iterator<Item = &'a Recipient>) -> Result<Vec<u8>, EnvelopeError> {
    seal_parts(&[content], LARGEST_CONTENT, readers)
}

/// The same of `parts`, one behind the other, together `most` octets at most.
pub(crate) fn seal_parts<'a>(
    parts: &[&[u8]],
    most: usize,
    readers: impl Iterator<Item = &'a Recipient>,
) -> Result<Vec<u8>, EnvelopeError> {
    let failed = |why: String| EnvelopeError::CannotSeal { why };
    let size: usize = parts.iter().map(|part| part.len()).sum();
    if size > most {
        return Err(failed(format!("{size} octets are more than {most}")));
    }
    let readers = readers.map(|reader| reader as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(readers).map_err(|error| failed(error.to_string()))?;
    // What age adds: a header, and 16 octets for each 64 KiB.
    let mut file = Vec::with_capacity(size + size / 4096 + 1024);
    let mut writer = encryptor.wrap_output(&mut file).map_err(|error| failed(error.to_string()))?;
    let written = parts.iter().try_for_each(|part| writer.write_all(part));
    written.and_then(|()| writer.finish().map(drop)).map_err(|error| failed(error.to_string()))?;
    Ok(file)
}

/// What is in `file`, which may be armoured, if one of `identities` opens it.
///
/// # Errors
/// It is for others, damaged or too large.
pub fn open<'a>(
    file: &[u8],
    identities: impl Iterator<Item = &'a dyn age::Identity>,
) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    if file.len() > LARGEST_ENVELOPE {
        return Err(EnvelopeError::TooLarge { octets: file.len() });
    }
    open_up_to(&without_armour(file)?, LARGEST_ENVELOPE, identities)
}

/// The same of a file without armour, of `most` octets at most.
pub(crate) fn open_up_to<'a>(
    file: &[u8],
    most: usize,
    identities: impl Iterator<Item = &'a dyn age::Identity>,
) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    if file.len() > most {
        return Err(EnvelopeError::TooLarge { octets: file.len() });
    }
    let begin = &file[..file.len().min(LARGEST_HEADER + HEADER_ENDS.len())];
    let ends =
        begin.windows(HEADER_ENDS.len()).position(|window| window == HEADER_ENDS).ok_or(EnvelopeError::Damaged)?;
    if file[..ends].iter().filter(|octet| **octet == b'\n').count() > MOST_LINES {
        return Err(EnvelopeError::Damaged);
    }
    let decryptor = age::Decryptor::new_buffered(file).map_err(why)?;
    if decryptor.is_scrypt() {
        // Nobody asked for one, and its work could be chosen by whoever wrote it.
        return Err(EnvelopeError::Damaged);
    }
    let mut reader = decryptor.decrypt(identities).map_err(why)?;
    // Reading into a vector that grows would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(file.len()));
    reader.read_to_end(&mut content).map_err(|_| EnvelopeError::Damaged)?;
    Ok(content)
}

/// `file` as a text that survives mail, chat and a console.
#[must_use]
pub fn armour(file: &[u8]) -> String {
    let mut text = Vec::new();
    let written = ArmoredWriter::wrap_output(&mut text, Format::AsciiArmor)
        .and_then(|mut writer| writer.write_all(file).and_then(|()| writer.finish().map(drop)));
    debug_assert!(written.is_ok(), "a vector takes everything");
    String::from_utf8(text).unwrap_or_default()
}

fn without_armour(file: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    if !file.trim_ascii_start().starts_with(ARMOUR_BEGINS) {
        return Ok(file.to_vec());
    }
    let mut plain = Vec::new();
    ArmoredReader::new(file.trim_ascii()).read_to_end(&mut plain).map_err(|_| EnvelopeError::Damaged)?;
    Ok(plain)
}

fn why(error: age::DecryptError) -> EnvelopeError {
    match error {
        age::DecryptError::NoMatchingKeys => EnvelopeError::NotOurs,
        age::DecryptError::DecryptionFailed
        | age::DecryptError::InvalidHeader
        | age::DecryptError::InvalidMac
        | age::DecryptError::Io(_)
        | age::DecryptError::UnknownFormat => EnvelopeError::Damaged,
        // A device that is not there, a plugin that is missing.
        error => EnvelopeError::Identity { why: error.to_string() },
    }
}
