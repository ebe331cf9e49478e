//! The first boot: a volume that has just been made is given to its custodians. Until then a random key opens it that lies in memory
//! only; afterwards a quorum does, and nobody else.
//!
//! A cut before the token is written leaves a volume that nothing opens, and a first boot that begins again; a cut after it leaves a
//! sealed box like any other.

use std::fs;
use std::path::Path;
use std::process::Command;

use postkeep_keys::tpm::Tpm;
use postkeep_keys::{KeySet, Purpose, Secret, Token, VolumeId};
use postkeep_notes::SignerKey;

use crate::slots::{FIRST_SLOT, GiveError, add_slots, lay, slot};
use crate::volume::Volume;

/// On the data volume: what belongs to its seal.
const FOLDER: &str = "keys";
/// On it too: the key by which custodians know the box.
pub(crate) const BOX_KEY: &str = "keys/box.key";
/// The first epoch of a volume.
const EPOCH: u64 = 1;

/// Gives `volume`, which `first` opens, to those in `set`; the token goes to the boot partition at `boot`, signed with `box_key`. Durable on
/// return, and then `first` opens nothing any more. `tpm` is the machine's, if it has one. `keep` is called when custodians could open it, and
/// before anybody relies on that: with what opens it, and the slot.
///
/// # Errors
/// Nothing was given, or the last step failed: then the first key still opens the volume as well.
pub fn give(
    volume: &Volume,
    first: &Secret,
    set: &KeySet,
    box_key: &SignerKey,
    boot: &Path,
    tpm: Option<Tpm>,
    keep: impl FnOnce(&VolumeId, &Secret, u32) -> Result<(), GiveError>,
) -> Result<Token, GiveError> {
    let id: VolumeId = volume.id()?;
    let (token, opens) = add_slots(volume, (first, FIRST_SLOT), set, &id, EPOCH, tpm)?;
    keep(&id, &opens, slot(Purpose::Opening, EPOCH))?;
    lay(&token.sign(box_key)?, boot)?;
    volume.remove(FIRST_SLOT)?;
    Ok(token)
}

/// Opens `volume`, which stays open, and keeps `box_key` on it; `mounted` is where it is mounted meanwhile. Durable on return.
///
/// # Errors
/// The volume does not open, or has no room.
pub fn open_and_keep(
    volume: &Volume,
    opened_by: (&VolumeId, &Secret, u32),
    box_key: &SignerKey,
    mounted: &Path,
) -> Result<(), GiveError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| GiveError::Keep(format!("{what}: {error}"));
    let (id, passphrase, slot) = opened_by;
    volume.open(id, passphrase, slot)?;
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed("mount", &String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(failed("mount", &error)),
    };
    fs::create_dir_all(mounted).map_err(|error| failed("a folder", &error))?;
    let device = volume.mapper.join(&volume.name);
    run(Command::new("mount").args(["-t", "ext4", "-o", "nosuid,nodev,noexec"]).arg(device).arg(mounted))?;
    let kept = keep_box_key(mounted, box_key);
    run(Command::new("umount").arg(mounted))?;
    kept
}

fn keep_box_key(mounted: &Path, box_key: &SignerKey) -> Result<(), GiveError> {
    let failed = |error: &dyn std::fmt::Display| GiveError::Keep(error.to_string());
    let folder = mounted.join(FOLDER);
    // Root's alone, by the mask of whoever runs this.
    fs::create_dir(&folder).map_err(|error| failed(&error))?;
    box_key.write(&mounted.join(BOX_KEY)).map_err(|error| failed(&error))?;
    postkeep_files::sync_folder(&folder)
        .and_then(|()| postkeep_files::sync_folder(mounted))
        .map_err(|error| failed(&error))
}
