//! A new key set for a volume in use: custodians come or go, the threshold changes, or shares are made anew. A quorum of the set before
//! has agreed, and what their shares give opens the volume once more, for its new slots to be made.
//!
//! Those before open the volume still, with the token before, until enough of the new set have shown that they can: a wrong key in the new
//! set is not the end of the data.
//!
//! | the power goes | then |
//! | --- | --- |
//! | before the new token is on the boot partition | the set before opens the volume; slots of the new one go at that opening |
//! | after it | the new set opens it; slots of the one before go at that opening |

use std::io;
use std::path::Path;

use postkeep_keys::tpm::Tpm;
use postkeep_keys::{KeySet, LARGEST_TOKEN, Secret, Token};
use postkeep_notes::SignerKey;

use crate::opener::TOKEN;
use crate::slots::{GiveError, add_slots, lay, slots_of};
use crate::volume::{Volume, VolumeError};

/// A new key set.
#[derive(Debug)]
pub struct Changed {
    /// Who opens the volume.
    pub token: Token,
    /// The token as it lies on the boot partition.
    pub note: String,
}

/// Gives `volume`, which `known` opens in the slot beside it, from those in `before` to those in `set`. `copy` sees to the other disk's boot
/// partition, when the new token lies on the one at `boot`. `tpm` is the machine's, if it has one.
///
/// # Errors
/// The volume is that of the set before.
pub fn change(
    volume: &Volume,
    known: (&Secret, u32),
    (before, set): (&Token, &KeySet),
    box_key: &SignerKey,
    boot: &Path,
    tpm: Option<Tpm>,
    copy: impl FnOnce() -> io::Result<()>,
) -> Result<Changed, GiveError> {
    // What lies there is what the next start asks for: its slots must not be taken for those of nobody.
    if !Token::unverified(&read(boot)).is_ok_and(|found| found == *before) {
        return Err(GiveError::OtherToken);
    }
    if !volume.is_opened_by(known.0, known.1)? {
        return Err(VolumeError::WrongPassphrase.into());
    }
    // What a change that was cut has left is in the way of this one.
    remove_all_but(volume, &slots_of(before))?;
    let (token, _) = add_slots(volume, known, set, &before.volume, before.epoch + 1, tpm)?;
    let note = token.sign(box_key)?;
    match lay(&note, boot) {
        // Written, and whether for good is not known: that is as good as laid, since both sets open the volume.
        Err(error) if read(boot) == note.as_bytes() => log::warn!("{error}; it is there all the same"),
        laid => laid?,
    }
    if let Err(error) = copy() {
        log::warn!("the boot partition of the other disk cannot be made the same: {error}");
    }
    // The other disk may have been taken for the one that is right.
    if read(boot) != note.as_bytes() {
        return Err(GiveError::OtherToken);
    }
    Ok(Changed { token, note })
}

/// Takes away each slot that is none of `ours`, the first of which has to be there.
///
/// # Errors
/// The volume has no LUKS2 header, is not opened by those whose slots are to stay, or a slot cannot be taken away.
pub fn remove_all_but(volume: &Volume, ours: &[u32]) -> Result<(), VolumeError> {
    let slots = volume.slots()?;
    if !ours.first().is_some_and(|first| slots.contains(first)) {
        return Err(VolumeError::Strange("it has no slot for those who are to open it".to_owned()));
    }
    slots.into_iter().filter(|slot| !ours.contains(slot)).try_for_each(|slot| {
        volume.remove(slot)?;
        log::info!("slot {slot} of the volume is gone; it belonged to nobody any more");
        Ok(())
    })
}

/// The note with the token on the boot partition; nothing, where there is none.
pub(crate) fn read(boot: &Path) -> Vec<u8> {
    postkeep_files::beginning(&boot.join(TOKEN), LARGEST_TOKEN as u64 + 1).unwrap_or_default()
}
