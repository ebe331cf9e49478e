//! Shares for a volume that is none of a box: a disk with backups, a drill. The same token, the same papers, and `recover` to open it.

use std::path::Path;

use postkeep_keys::{KeySet, Made, Purpose, System, Token, VolumeId, passphrase};
use postkeep_notes::SignerKey;
use serde_json::json;

use crate::outcome::{Failure, Outcome, bad, must_be_new, read, write_new};

/// Such a volume has one key set for its life.
const EPOCH: u64 = 1;
/// Under the token. Its secret half is thrown away: nobody makes another token for the same volume in this name.
const SIGNER: &str = "postkeep-keys-split";

/// Where what is made goes.
pub(crate) struct Into<'a> {
    pub(crate) token: &'a Path,
    pub(crate) opening: &'a Path,
    pub(crate) recovery: Option<&'a Path>,
}

/// Who the custodians are, in a file.
pub(crate) fn key_set(file: &Path) -> Result<KeySet, Failure> {
    let text = read(file)?;
    let text = std::str::from_utf8(&text).map_err(|_| bad(format!("{}: no text", file.display())))?;
    KeySet::parse(text).map_err(|error| bad(format!("{}: {error}", file.display())))
}

pub(crate) fn split(keys: &Path, volume: &VolumeId, into: &Into<'_>) -> Result<Outcome, Failure> {
    let set = key_set(keys)?;
    if set.recovery.is_some() != into.recovery.is_some() {
        return Err(bad(if set.recovery.is_some() {
            "the key set has a recovery set: say with --recovery-key where its key goes"
        } else {
            "the key set has no recovery set: leave --recovery-key out"
        }));
    }
    for file in [Some(into.token), Some(into.opening), into.recovery].into_iter().flatten() {
        must_be_new(file)?;
    }
    let Made { token, opening, recovery } = Token::make(&set, volume, EPOCH, &mut System).map_err(bad)?;
    let signer = SignerKey::generate(SIGNER).map_err(bad)?;
    let note = token.sign(&signer).map_err(bad)?;
    let secrets = [(Purpose::Opening, Some(opening), Some(into.opening)), (Purpose::Recovery, recovery, into.recovery)];
    for (purpose, secret, file) in secrets {
        if let (Some(secret), Some(file)) = (secret, file) {
            write_new(file, passphrase(&secret, None, purpose, volume, EPOCH).expose())?;
        }
    }
    write_new(into.token, note.as_bytes())?;
    let mut said = format!(
        "{} holds the shares; its sum is {}. {} of {} custodians make the key again (`recover`).\n\
         The key itself is in {}, for nobody's eyes. On the machine where the volume is:\n  \
         cryptsetup luksAddKey --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --new-keyfile {} --new-keyfile-size 32 DEVICE\n\
         Then overwrite it and remove it (shred -u).\n",
        into.token.display(),
        token.sum(),
        set.threshold,
        set.custodians.len(),
        into.opening.display(),
        into.opening.display()
    );
    if let Some(file) = into.recovery {
        said += &format!("The same for the recovery set's, {}.\n", file.display());
    }
    for warning in set.warnings() {
        said += &format!("warning      {warning}\n");
    }
    let json = json!({
        "volume": volume, "token": token.sum(), "file": into.token, "key": into.opening, "recovery-key": into.recovery,
        "signed-by": signer.verifier().to_string(), "warnings": set.warnings(),
    });
    Ok(Outcome::new(said, json))
}
