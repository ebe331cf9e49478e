//! What opens a volume without its box: when the machine is gone and its disk is not. Custodians come to one desk with their keys or their
//! papers; what they make there is the volume's passphrase itself.

use std::path::{Path, PathBuf};

use postkeep_keys::{Held, Name, Purpose, Secret, Share, Token, combine, passphrase};
use serde_json::json;

use crate::arguments::Trust;
use crate::outcome::{Failure, Outcome, bad, must_be_new, refused, write_new};
use crate::work;

/// Whose shares are brought.
pub(crate) struct Brought<'a> {
    pub(crate) identities: &'a [PathBuf],
    pub(crate) papers: &'a [PathBuf],
    pub(crate) purpose: Purpose,
}

pub(crate) fn recover(file: &Path, trust: &Trust, brought: &Brought<'_>, out: &Path) -> Result<Outcome, Failure> {
    // Said before devices are touched and passphrases typed.
    must_be_new(out)?;
    let (token, _) = work::token(file, trust)?;
    let purpose = brought.purpose;
    let (secret, names) = secret_of(&token, brought)?;
    let opens = passphrase(&secret, None, purpose, &token.volume, token.epoch);
    write_new(out, opens.expose())?;
    let said = format!(
        "{} opens the volume {}: whoever has it and the disk has everything. On the machine where the disk is:\n  \
         cryptsetup open --type luks2 --key-file {} --keyfile-size 32 DEVICE NAME\n\
         Then overwrite it and remove it (shred -u).\n",
        out.display(),
        token.volume,
        out.display()
    );
    Ok(Outcome::new(said, json!({"file": out, "volume": token.volume, "purpose": purpose, "custodians": names})))
}

/// What the shares that were brought give, and whose they are.
pub(crate) fn secret_of(token: &Token, brought: &Brought<'_>) -> Result<(Secret, Vec<Name>), Failure> {
    let shares = token
        .shares(brought.purpose)
        .ok_or_else(|| refused("there is no recovery set; leave --recovery out, and take the shares for opening"))?;
    let held = held(token, brought)?;
    let names: Vec<Name> = held.iter().map(|held| held.name.clone()).collect();
    let (count, threshold) = (held.len(), usize::from(shares.threshold));
    if count < threshold {
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        return Err(refused(format!(
            "it takes {threshold} shares, and these are {count} ({}): one more for each that is missing",
            names.join(", ")
        )));
    }
    let given: Vec<Share> = held.into_iter().map(|held| held.share).collect();
    Ok((combine(&given, shares.threshold).map_err(bad)?, names))
}

/// The shares, each once, however often it was brought.
fn held(token: &Token, brought: &Brought<'_>) -> Result<Vec<Held>, Failure> {
    let mut all: Vec<Held> = Vec::new();
    for identity in brought.identities {
        let mine = work::shares_of(token, identity, None, brought.purpose)?;
        if mine.is_empty() {
            return Err(refused(format!(
                "{} opens no share for {} of this token",
                identity.display(),
                brought.purpose.name()
            )));
        }
        all.extend(mine);
    }
    for paper in brought.papers {
        all.push(work::from_paper(token, paper, brought.purpose)?);
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all.dedup_by(|one, other| one.name == other.name);
    Ok(all)
}
