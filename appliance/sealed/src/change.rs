//! A new key set for a volume in use: custodians come or go, the threshold changes, or shares are made anew. A quorum of the set before
//! has agreed, and what their shares give opens the volume once more, for its new slots to be made.
//!
//! | the power goes | then |
//! | --- | --- |
//! | before the new token is on the boot partition | the set before opens the volume; slots of the new one go at that opening |
//! | after it | the new set opens it; slots of the one before go at that opening |

use std::io;
use std::path::Path;

use postkeep_keys::{KeySet, Secret, Token};
use postkeep_notes::SignerKey;

use crate::slots::{GiveError, add_slots, lay, slots_of};
use crate::volume::{Volume, VolumeError};

/// A volume that those in `token` open, and nobody else.
#[derive(Debug)]
pub struct Changed {
    /// Who opens it.
    pub token: Token,
    /// The token as it lies on the boot partition.
    pub note: String,
    /// Why slots of the key set before are still there: whoever held its shares opens the volume with them and the token before. They are
    /// taken away at the next opening.
    pub left: Option<VolumeError>,
}

/// Gives `volume`, which `known` opens in the slot beside it, from those in `before` to those in `set`. `copied` is called when the new token
/// lies on the boot partition at `boot`, and before anything of the set before is taken away: it sees to the other disk's.
///
/// # Errors
/// The volume is that of the set before.
pub fn change(
    volume: &Volume,
    known: (&Secret, u32),
    (before, set): (&Token, &KeySet),
    box_key: &SignerKey,
    boot: &Path,
    copied: impl FnOnce() -> io::Result<()>,
) -> Result<Changed, GiveError> {
    if !volume.is_opened_by(known.0, known.1)? {
        return Err(VolumeError::WrongPassphrase.into());
    }
    // What a change that was cut has left is in the way of this one.
    remove_all_but(volume, &slots_of(before))?;
    let (token, _) = add_slots(volume, known, set, &before.volume, before.epoch + 1)?;
    let note = lay(&token, box_key, boot)?;
    let is_copied = copied().map_err(GiveError::OtherDisk);
    if let Err(error) = is_copied {
        // The other disk may be the one that the box starts from next, with the token before: both sets open the volume until then.
        log::warn!("{error}; the slots of the key set before stay until the volume is opened again");
        return Ok(Changed { token, note, left: Some(VolumeError::Failed(error.to_string())) });
    }
    let left = remove_all_but(volume, &slots_of(&token)).err();
    Ok(Changed { token, note, left })
}

/// Takes away each slot that is none of `ours`.
///
/// # Errors
/// The volume has no LUKS2 header, or a slot cannot be taken away.
pub fn remove_all_but(volume: &Volume, ours: &[u32]) -> Result<(), VolumeError> {
    volume.slots()?.into_iter().filter(|slot| !ours.contains(slot)).try_for_each(|slot| {
        volume.remove(slot)?;
        log::info!("slot {slot} of the volume is gone; it belonged to nobody any more");
        Ok(())
    })
}
