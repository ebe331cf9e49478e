//! The word of a TPM on its registers: a `TPMS_ATTEST` of the kind "quote" (TPM 2.0 Library, part 2, 10.12.12), in the one form that is
//! asked for here.

use std::collections::BTreeMap;

use crate::attestation::AttestationKey;
use crate::bytes::{Cursor, Short};
use crate::digest::Digest;

/// What the TPM's own words begin with; its restricted keys sign nothing of others that begins like that.
const MAGIC: u32 = 0xff54_4347;
const QUOTE: u16 = 0x8018;
const SHA256: u16 = 0x000b;
/// Octets of a selection of registers.
const SELECTION: usize = 3;
/// Clock, counts of resets and restarts, whether the clock is safe.
const CLOCK: usize = 8 + 4 + 4 + 1;
const FIRMWARE_VERSION: usize = 8;
/// More than such a word has.
const LARGEST: usize = 1024;

/// Why something is not taken for the word of a TPM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// See the text.
    #[error("the word of the TPM cannot be read: {0}")]
    Short(#[from] Short),
    /// See the text.
    #[error("what was handed over is no word of a TPM on its registers")]
    Kind,
    /// See the text.
    #[error("the word of the TPM is not signed with the key that it should be")]
    Signature,
    /// See the text.
    #[error(
        "the word of the TPM answers another question than the one that was asked: it is an old one, or that of another box"
    )]
    Question,
    /// See the text.
    #[error("the word of the TPM is not on the registers that were asked for")]
    Selection,
    /// See the text.
    #[error("the registers that were handed over are not those that the TPM has signed")]
    Registers,
}

/// The selection of `registers`, as a TPM writes it.
fn selection(registers: impl IntoIterator<Item = u32>) -> [u8; SELECTION] {
    let mut bits = 0_u32;
    for register in registers {
        bits |= 1_u32.checked_shl(register).unwrap_or(0);
    }
    let [first, second, third, _] = bits.to_le_bytes();
    [first, second, third]
}

/// What such a word says. Whoever has signed it is another matter ([`check`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote<'a> {
    /// The qualified name of the key that has signed it.
    pub signer: &'a [u8],
    /// What was asked.
    pub question: &'a [u8],
    /// The registers that it is on, a bit for each.
    pub selection: &'a [u8],
    /// The digest of what they hold.
    pub values: &'a [u8],
}

impl<'a> Quote<'a> {
    /// The word in `attest`.
    ///
    /// # Errors
    /// It is of another kind, on other banks of registers than SHA-256, cut off, or has something behind it.
    pub fn read(attest: &'a [u8]) -> Result<Self, QuoteError> {
        if attest.len() > LARGEST {
            return Err(QuoteError::Kind);
        }
        let mut cursor = Cursor::new(attest);
        if (cursor.tpm_word()?, cursor.tpm_short()?) != (MAGIC, QUOTE) {
            return Err(QuoteError::Kind);
        }
        let (signer, question) = (cursor.tpm_sized()?, cursor.tpm_sized()?);
        cursor.take(CLOCK + FIRMWARE_VERSION)?;
        let (selections, hash, size) = (cursor.tpm_word()?, cursor.tpm_short()?, usize::from(cursor.byte()?));
        if (selections, hash, size) != (1, SHA256, SELECTION) {
            return Err(QuoteError::Selection);
        }
        let (selection, values) = (cursor.take(SELECTION)?, cursor.tpm_sized()?);
        if !cursor.is_at_end() {
            return Err(QuoteError::Kind);
        }
        Ok(Self { signer, question, selection, values })
    }
}

/// Makes sure that `attest` is the word of the TPM that has `key`, in answer to `question`, and that its registers hold `values`.
///
/// # Errors
/// It is not.
pub fn check(
    attest: &[u8],
    signature: &[u8],
    key: &AttestationKey,
    question: Digest,
    values: &BTreeMap<u32, Digest>,
) -> Result<(), QuoteError> {
    // First of all: nothing of what somebody else wrote is looked at.
    if !key.has_signed(attest, signature) {
        return Err(QuoteError::Signature);
    }
    let quote = Quote::read(attest)?;
    if quote.signer != key.qualified_name() {
        return Err(QuoteError::Signature);
    }
    if quote.question != question.0 {
        return Err(QuoteError::Question);
    }
    if quote.selection != selection(values.keys().copied()) {
        return Err(QuoteError::Selection);
    }
    if quote.values != Digest::of_parts(values.values().map(|value| &value.0[..])).0 {
        return Err(QuoteError::Registers);
    }
    Ok(())
}
