//! Which slots of a volume belong to which shares, and how they are made: a slot for each set of shares of the token, and no other.

use std::io;
use std::path::{Path, PathBuf};

use postkeep_keys::tpm::Tpm;
use postkeep_keys::{KeySet, Made, Purpose, Secret, System, Token, TokenError, VolumeId, passphrase};
use postkeep_notes::NoteError;

use crate::chip::ChipError;
use crate::opener::TOKEN;
use crate::volume::{Volume, VolumeError};

/// The slot of the random key that a volume is made with.
pub const FIRST_SLOT: u32 = 0;

/// The slot that belongs to `purpose` in `epoch`: two for each set of shares, so that a new key set has its own while the one before opens
/// the volume still, and the one after that takes their places.
#[must_use]
pub fn slot(purpose: Purpose, epoch: u64) -> u32 {
    let first = if epoch % 2 == 1 { 1 } else { 3 };
    match purpose {
        Purpose::Opening => first,
        Purpose::Recovery => first + 1,
    }
}

/// The slots that belong to what `token` says.
#[must_use]
pub fn slots_of(token: &Token) -> Vec<u32> {
    let purposes = [Purpose::Opening, Purpose::Recovery].into_iter().filter(|purpose| token.shares(*purpose).is_some());
    purposes.map(|purpose| slot(purpose, token.epoch)).collect()
}

/// Why a volume could not be given to custodians.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// The shares.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The token's signature.
    #[error("cannot sign the token: {0}")]
    Sign(#[from] NoteError),
    /// The boot partition.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// See the text.
    #[error("cannot keep the key of the box on its volume: {0}")]
    Keep(String),
    /// See the text.
    #[error(transparent)]
    Chip(#[from] ChipError),
    /// See the text.
    #[error("cannot read the key of the box: {0}")]
    BoxKey(String),
    /// See the text.
    #[error(
        "the boot partition does not have the token that it should: another disk was taken for the one that is right, or somebody changed it; \
         start the box again"
    )]
    OtherToken,
}

/// New secrets for those in `set`, and a slot for each, made with `known` and the slot that it opens; the token names the TPM of the
/// machine, if it has one. Says who they are, and what opens the volume to them.
///
/// # Errors
/// The key set cannot be used, `known` does not open the volume, or it has no room for slots.
pub(crate) fn add_slots(
    volume: &Volume,
    known: (&Secret, u32),
    set: &KeySet,
    id: &VolumeId,
    epoch: u64,
    tpm: Option<Tpm>,
) -> Result<(Token, Secret), GiveError> {
    let Made { mut token, opening, recovery } = Token::make(set, id, epoch, &mut System)?;
    if let Some(tpm) = tpm {
        token = token.with_tpm(tpm)?;
    }
    let opens = passphrase(&opening, None, Purpose::Opening, id, epoch);
    let opening_slot = slot(Purpose::Opening, epoch);
    add(volume, known, &opens, opening_slot)?;
    if let Some(secret) = recovery {
        let recovers = passphrase(&secret, None, Purpose::Recovery, id, epoch);
        // Not by what was known: in a first boot its slot is one that a passphrase of a person could have, and takes seconds each time.
        add(volume, (&opens, opening_slot), &recovers, slot(Purpose::Recovery, epoch))?;
    }
    Ok((token, opens))
}

/// Lays the note with a token onto the boot partition at `boot`, in the place of one that may be there. Durable on return.
///
/// # Errors
/// It cannot be written, or not for good.
pub(crate) fn lay(note: &str, boot: &Path) -> Result<(), GiveError> {
    let path = boot.join(TOKEN);
    postkeep_files::replace(&path, note.as_bytes()).map_err(|error| GiveError::Write { path, error })
}

/// Tried before another way in is taken away.
fn add(volume: &Volume, known: (&Secret, u32), new: &Secret, slot: u32) -> Result<(), VolumeError> {
    volume.add(known, new, slot)?;
    if volume.is_opened_by(new, slot)? { Ok(()) } else { Err(VolumeError::WrongPassphrase) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_key_sets_that_follow_each_other_have_no_slot_in_common_and_none_is_the_first() {
        let all = |epoch| [Purpose::Opening, Purpose::Recovery].map(|purpose| slot(purpose, epoch));
        assert_eq!((all(1), all(2), all(3)), ([1, 2], [3, 4], [1, 2]));
        for epoch in 1..100 {
            assert!(!all(epoch).iter().any(|slot| all(epoch + 1).contains(slot) || *slot == FIRST_SLOT));
        }
    }
}
