//! The key with which a TPM signs what it says of its registers. It is restricted: it signs nothing that somebody has handed in and that
//! looks like the word of a TPM, so whatever it has signed and looks like that was said by the TPM.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::bytes::{Cursor, Short};
use crate::digest::Digest;

/// Octets of a coordinate on P-256.
const COORDINATE: usize = 32;
/// More than a `TPMT_PUBLIC` of this form has.
const LARGEST: usize = 256;
const ECC: u16 = 0x0023;
const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;
const ECDSA: u16 = 0x0018;
const P256: u16 = 0x0003;
/// `TPM_RH_ENDORSEMENT`, in whose hierarchy the key is.
const ENDORSEMENT: [u8; 4] = [0x40, 0, 0, 0x0b];

mod attribute {
    pub(super) const FIXED_TPM: u32 = 1 << 1;
    pub(super) const FIXED_PARENT: u32 = 1 << 4;
    pub(super) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub(super) const USER_WITH_AUTH: u32 = 1 << 6;
    pub(super) const NO_DICTIONARY_ATTACK: u32 = 1 << 10;
    pub(super) const RESTRICTED: u32 = 1 << 16;
    pub(super) const SIGN: u32 = 1 << 18;
}

/// Made by the TPM, never outside of it, and for nothing but its own word.
const WANTED: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::RESTRICTED
    | attribute::SIGN;
/// Says nothing of what the key signs.
const WHATEVER: u32 = attribute::USER_WITH_AUTH | attribute::NO_DICTIONARY_ATTACK;

/// Why something is not taken for such a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// See the text.
    #[error("the key of the TPM cannot be read: {0}")]
    Short(#[from] Short),
    /// See the text.
    #[error("the key of the TPM is none for its own word only: {0}")]
    Kind(String),
}

/// The public half of such a key: ECDSA on P-256 with SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    /// `TPMT_PUBLIC`, as the TPM has it.
    public: Vec<u8>,
    /// The point, uncompressed (SEC 1, 2.3.3).
    point: [u8; 1 + 2 * COORDINATE],
}

impl AttestationKey {
    /// The key in a `TPMT_PUBLIC` (TPM 2.0 Library, part 2, 12.2.4).
    ///
    /// # Errors
    /// It is no key of this kind, or one that signs other things as well.
    pub fn read(public: &[u8]) -> Result<Self, KeyError> {
        let kind = |why: &str| KeyError::Kind(why.to_owned());
        if public.len() > LARGEST {
            return Err(kind("it is too long"));
        }
        let mut cursor = Cursor::new(public);
        if (cursor.tpm_short()?, cursor.tpm_short()?) != (ECC, SHA256) {
            return Err(kind("it is not one of elliptic curves that is named by SHA-256"));
        }
        let attributes = cursor.tpm_word()?;
        if attributes & !WHATEVER != WANTED {
            return Err(KeyError::Kind(format!("its attributes are {attributes:#x}")));
        }
        cursor.tpm_sized()?;
        let (symmetric, scheme, hash) = (cursor.tpm_short()?, cursor.tpm_short()?, cursor.tpm_short()?);
        let (curve, derivation) = (cursor.tpm_short()?, cursor.tpm_short()?);
        if (symmetric, scheme, hash, curve, derivation) != (NULL, ECDSA, SHA256, P256, NULL) {
            return Err(kind("it does not sign by ECDSA on P-256 with SHA-256"));
        }
        let (x, y) = (cursor.tpm_sized()?, cursor.tpm_sized()?);
        if !cursor.is_at_end() {
            return Err(kind("something stands behind it"));
        }
        let mut point = [4; 1 + 2 * COORDINATE];
        let (to_x, to_y) = point[1..].split_at_mut(COORDINATE);
        if !(padded(x, to_x) && padded(y, to_y)) {
            return Err(kind("its point is none of P-256"));
        }
        Ok(Self { public: public.to_vec(), point })
    }

    /// As [`Self::read`] reads it.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// By which a TPM names it: the sum of its public half (part 1, 16).
    #[must_use]
    pub fn name(&self) -> Digest {
        Digest::of(&self.public)
    }

    /// By which a TPM names what has signed: with the hierarchy that it is in.
    pub(super) fn qualified_name(&self) -> Vec<u8> {
        let kind = SHA256.to_be_bytes();
        let digest = Digest::of_parts([&ENDORSEMENT[..], &kind, &self.name().0]);
        [&kind[..], &digest.0].concat()
    }

    /// Whether `signature`, a `TPMT_SIGNATURE` (part 2, 11.3.4), is the key's under `message`.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        fixed(signature).is_some_and(|signature| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).verify(message, &signature).is_ok()
        })
    }
}

/// The two numbers of a signature, one behind the other.
fn fixed(signature: &[u8]) -> Option<[u8; 2 * COORDINATE]> {
    let mut cursor = Cursor::new(signature);
    if (cursor.tpm_short().ok()?, cursor.tpm_short().ok()?) != (ECDSA, SHA256) {
        return None;
    }
    let (r, s) = (cursor.tpm_sized().ok()?, cursor.tpm_sized().ok()?);
    let mut fixed = [0; 2 * COORDINATE];
    let (to_r, to_s) = fixed.split_at_mut(COORDINATE);
    (cursor.is_at_end() && padded(r, to_r) && padded(s, to_s)).then_some(fixed)
}

/// A number with as many zeros in front as it needs; false, where it is too large or missing.
fn padded(number: &[u8], to: &mut [u8]) -> bool {
    if number.is_empty() || number.len() > to.len() {
        return false;
    }
    let (zeros, rest) = to.split_at_mut(to.len() - number.len());
    zeros.fill(0);
    rest.copy_from_slice(number);
    true
}
