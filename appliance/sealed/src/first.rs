//! The first boot: a volume that has just been made is given to its custodians. Until then a random key opens it that lies in memory
//! only; afterwards a quorum does, and nobody else.
//!
//! A cut before the token is written leaves a volume that nothing opens, and a first boot that begins again; a cut after it leaves a
//! sealed box like any other.

use std::io;
use std::path::{Path, PathBuf};

use postkeep_keys::{KeySet, Made, Purpose, Secret, System, Token, TokenError, VolumeId, passphrase};
use postkeep_notes::{NoteError, SignerKey};

use crate::opener::TOKEN;
use crate::volume::{Volume, VolumeError};

/// The slot of the random key that a volume is made with.
pub const FIRST_SLOT: u32 = 0;
/// The first epoch of a volume.
const EPOCH: u64 = 1;

/// The slot that belongs to `purpose`.
#[must_use]
pub fn slot(purpose: Purpose) -> u32 {
    match purpose {
        Purpose::Opening => 1,
        Purpose::Recovery => 2,
    }
}

/// Why a volume could not be given to its custodians.
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
}

/// Gives `volume`, which `first` opens, to those in `set`; the token goes to the boot partition at `boot`, signed with `box_key`. Durable on
/// return, and then `first` opens nothing any more.
///
/// # Errors
/// Nothing was given, or the last step failed: then the first key still opens the volume as well.
pub fn give(
    volume: &Volume,
    first: &Secret,
    set: &KeySet,
    box_key: &SignerKey,
    boot: &Path,
) -> Result<Token, GiveError> {
    let id: VolumeId = volume.id()?;
    let Made { token, opening, recovery } = Token::make(set, &id, EPOCH, &mut System)?;
    for (purpose, secret) in [(Purpose::Opening, Some(&opening)), (Purpose::Recovery, recovery.as_ref())] {
        if let Some(secret) = secret {
            let passphrase = passphrase(secret, None, purpose, &id, EPOCH);
            volume.add(first, &passphrase, slot(purpose))?;
            // Tried before the only other way in is taken away.
            if !volume.is_opened_by(&passphrase, slot(purpose))? {
                return Err(VolumeError::WrongPassphrase.into());
            }
        }
    }
    let path = boot.join(TOKEN);
    let note = token.sign(box_key)?;
    postkeep_files::replace(&path, note.as_bytes()).map_err(|error| GiveError::Write { path, error })?;
    volume.remove(FIRST_SLOT)?;
    Ok(token)
}
