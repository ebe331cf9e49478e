//! The first boot: a volume that has just been made is given to its custodians. Until then a random key opens it that lies in memory
//! only; afterwards a quorum does, and nobody else.
//!
//! A cut before the token is written leaves a volume that nothing opens, and a first boot that begins again; a cut after it leaves a
//! sealed box like any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use postkeep_keys::{KeySet, Made, Purpose, Secret, System, Token, TokenError, VolumeId, passphrase};
use postkeep_notes::{NoteError, SignerKey};

use crate::opener::TOKEN;
use crate::volume::{Volume, VolumeError};

/// On the data volume: what belongs to its seal.
const FOLDER: &str = "keys";
/// In it: the key by which custodians know the box.
const BOX_KEY: &str = "box.key";
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
    /// See the text.
    #[error("cannot keep the key of the box on its volume: {0}")]
    Keep(String),
}

/// Gives `volume`, which `first` opens, to those in `set`; the token goes to the boot partition at `boot`, signed with `box_key`. Durable on
/// return, and then `first` opens nothing any more. `keep` is called when custodians could open it, and before anybody relies on that: with
/// what opens it, and the slot.
///
/// # Errors
/// Nothing was given, or the last step failed: then the first key still opens the volume as well.
pub fn give(
    volume: &Volume,
    first: &Secret,
    set: &KeySet,
    box_key: &SignerKey,
    boot: &Path,
    keep: impl FnOnce(&VolumeId, &Secret, u32) -> Result<(), GiveError>,
) -> Result<Token, GiveError> {
    let id: VolumeId = volume.id()?;
    let Made { token, opening, recovery } = Token::make(set, &id, EPOCH, &mut System)?;
    let opens = passphrase(&opening, None, Purpose::Opening, &id, EPOCH);
    let opening_slot = slot(Purpose::Opening);
    add(volume, (first, FIRST_SLOT), &opens, opening_slot)?;
    if let Some(secret) = recovery {
        let recovers = passphrase(&secret, None, Purpose::Recovery, &id, EPOCH);
        // Not by the first key: its slot is one that a passphrase of a person could have, and takes seconds each time.
        add(volume, (&opens, opening_slot), &recovers, slot(Purpose::Recovery))?;
    }
    keep(&id, &opens, opening_slot)?;
    let path = boot.join(TOKEN);
    let note = token.sign(box_key)?;
    postkeep_files::replace(&path, note.as_bytes()).map_err(|error| GiveError::Write { path, error })?;
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
    box_key.write(&folder.join(BOX_KEY)).map_err(|error| failed(&error))?;
    postkeep_files::sync_folder(&folder)
        .and_then(|()| postkeep_files::sync_folder(mounted))
        .map_err(|error| failed(&error))
}

/// Tried before the only other way in is taken away.
fn add(volume: &Volume, known: (&Secret, u32), new: &Secret, slot: u32) -> Result<(), VolumeError> {
    volume.add(known, new, slot)?;
    if volume.is_opened_by(new, slot)? { Ok(()) } else { Err(VolumeError::WrongPassphrase) }
}
