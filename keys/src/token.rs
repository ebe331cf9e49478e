//! The token: what lies beside an encrypted volume and says who opens it. For each custodian an age file with their share, and the
//! commitment to it. Everybody may read it; the box signs it, so that a custodian sees whether it is the one that they know.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use postkeep_notes::{Note, NoteError, SignerKey, VerifierKey};
use serde::{Deserialize, Serialize};

use crate::commitment::{Belonging, Commitment};
use crate::envelope::{self, EnvelopeError};
use crate::key_set::{Custodian, KeySet, KeySetError, Name};
use crate::parcel::{self, SHARE};
use crate::share::{ShareError, split};
use crate::tpm::Tpm;
use crate::{Purpose, Random, Recipient, Secret, Share, Sum, VolumeId};

/// The only form of tokens there is so far.
pub const FORMAT: u32 = 1;
/// 64 custodians with two recipients each stay below this.
pub const LARGEST_TOKEN: usize = 256 << 10;

/// How the content of a share's age file begins; a line of JSON and the share itself follow.
const BEGINS: &[u8] = b"postkeep share 1\n";

/// Who opens a volume, with their shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Of which volume.
    pub volume: VolumeId,
    /// Counts the key sets of the volume, from 1. Shares of an earlier one do not open it.
    pub epoch: u64,
    /// Who opens it day by day.
    pub opening: Shares,
    /// Who opens it without its TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Shares>,
    /// What is known of its TPM; nothing: the box has none that can be relied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// As it was read or written first: another version of a library may write the same in other words.
    #[serde(skip)]
    text: String,
}

/// The shares of one secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// How many give it back.
    pub threshold: u8,
    /// In the order of their places: the first has place 1.
    #[serde(rename = "holder")]
    pub holders: Vec<Holder>,
}

/// One custodian's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Whose.
    pub name: Name,
    /// To whom it is encrypted; the same are asked for proofs of possession and believed when they seal.
    pub recipients: Vec<Recipient>,
    /// By which it is known to be right.
    pub commitment: Commitment,
    /// The age file with the share, in base64.
    pub share: String,
}

/// What was made for a new key set. The secrets go into slots of the volume, and are dropped.
#[derive(Debug)]
pub struct Made {
    /// To be signed, and laid beside the volume.
    pub token: Token,
    /// What the custodians' shares give.
    pub opening: Secret,
    /// What those of the recovery set give.
    pub recovery: Option<Secret>,
}

/// A share that was taken out of its age file and kept its commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whose.
    pub name: Name,
    /// What it opens.
    pub purpose: Purpose,
    /// The share.
    pub share: Share,
}

/// Why a token is not used, or gives no share.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("the token cannot be read: {0}")]
    Syntax(String),
    /// The note around it.
    #[error("cannot use the token: {0}")]
    Note(#[from] NoteError),
    /// Its custodians cannot be.
    #[error("the token cannot be used: {0}")]
    KeySet(#[from] KeySetError),
    /// The shares cannot be made.
    #[error("cannot make shares: {0}")]
    Share(#[from] ShareError),
    /// An age file was not made or not opened.
    #[error("the share of {name}: {error}")]
    Envelope {
        /// Whose.
        name: Name,
        /// What is wrong.
        error: EnvelopeError,
    },
    /// See the text.
    #[error("nobody called {name} holds a share; the token names {known}")]
    NoSuchHolder {
        /// Who was asked for.
        name: Name,
        /// Who is there.
        known: String,
    },
    /// See the text.
    #[error("none of the identities given opens a share of this token; it is for {known}")]
    NotOurs {
        /// Who is there.
        known: String,
    },
    /// See the text.
    #[error(
        "the share of {name} is not the one that the token was made with: the token was changed, or put together from two"
    )]
    Commitment {
        /// Whose.
        name: Name,
    },
}

/// What stands before a share in its age file: which one it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    volume: VolumeId,
    epoch: u64,
    purpose: Purpose,
    name: Name,
}

impl Token {
    /// New secrets for `volume`, and their shares for those in `set`.
    ///
    /// # Errors
    /// The key set cannot be used.
    pub fn make(set: &KeySet, volume: &VolumeId, epoch: u64, random: &mut dyn Random) -> Result<Made, TokenError> {
        set.check()?;
        let mut made = |purpose, threshold, custodians: &[Custodian]| {
            let secret = Secret::new(random);
            let shares = shares_of(&secret, purpose, threshold, custodians, volume, epoch, random)?;
            Ok::<_, TokenError>((secret, shares))
        };
        let (opening_secret, opening) = made(Purpose::Opening, set.threshold, &set.custodians)?;
        let recovered = set.recovery.as_ref().map(|set| made(Purpose::Recovery, set.threshold, &set.custodians));
        let (recovery_secret, recovery) = recovered.transpose()?.unzip();
        let token =
            Self { format: FORMAT, volume: volume.clone(), epoch, opening, recovery, tpm: None, text: String::new() };
        Ok(Made { token: token.written()?, opening: opening_secret, recovery: recovery_secret })
    }

    /// The same, of a box whose TPM is this.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn with_tpm(self, tpm: Tpm) -> Result<Self, TokenError> {
        Self { tpm: Some(tpm), ..self }.written()
    }

    fn written(mut self) -> Result<Self, TokenError> {
        self.text = toml::to_string(&self).map_err(|error| TokenError::Syntax(error.to_string()))?;
        Ok(self)
    }

    /// The token that a text says, for instance one out of a note that was verified.
    ///
    /// # Errors
    /// It is no token, or one that cannot be used.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > LARGEST_TOKEN {
            return Err(TokenError::Syntax(format!(
                "it has {} octets, and {LARGEST_TOKEN} are read at most",
                text.len()
            )));
        }
        let mut token: Self = toml::from_str(text).map_err(|error| TokenError::Syntax(error.to_string()))?;
        text.clone_into(&mut token.text);
        if token.format != FORMAT {
            let why =
                format!("its format is {}, and this version reads format {FORMAT}; take a newer one", token.format);
            return Err(TokenError::Syntax(why));
        }
        token.key_set().check()?;
        for holder in token.all().map(|(_, holder)| holder) {
            holder.file()?;
        }
        Ok(token)
    }

    /// The text that [`Token::parse`] reads, and that is signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The token as it lies beside the volume: a note, signed with the key of the box.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, box_key: &SignerKey) -> Result<String, NoteError> {
        postkeep_notes::sign(self.text(), &[box_key])
    }

    /// The token in a note that one of `known` signed.
    ///
    /// # Errors
    /// Nobody known signed it, or it is no token.
    pub fn open(note: &[u8], known: &[VerifierKey]) -> Result<Self, TokenError> {
        Self::parse(postkeep_notes::open(note, known)?.text)
    }

    /// The token in a note, whoever signed it: for a box, whose volume says whether it is the right one, and for looking at it.
    ///
    /// # Errors
    /// It is no note or no token.
    pub fn unverified(note: &[u8]) -> Result<Self, TokenError> {
        Self::parse(Note::parse(note)?.unverified_text())
    }

    /// By which quotes and answers name it: the sum of its text, without the signatures under it.
    #[must_use]
    pub fn sum(&self) -> Sum {
        Sum::of(self.text().as_bytes())
    }

    /// Who opens the volume, without their shares.
    #[must_use]
    pub fn key_set(&self) -> KeySet {
        let custodians = |shares: &Shares| {
            let custodian =
                |holder: &Holder| Custodian { name: holder.name.clone(), recipients: holder.recipients.clone() };
            shares.holders.iter().map(custodian).collect()
        };
        let recovery = self.recovery.as_ref();
        KeySet {
            threshold: self.opening.threshold,
            custodians: custodians(&self.opening),
            recovery: recovery
                .map(|shares| crate::Quorum { threshold: shares.threshold, custodians: custodians(shares) }),
        }
    }

    /// The shares of `purpose`.
    #[must_use]
    pub fn shares(&self, purpose: Purpose) -> Option<&Shares> {
        match purpose {
            Purpose::Opening => Some(&self.opening),
            Purpose::Recovery => self.recovery.as_ref(),
        }
    }

    /// Whether `share` is the one that the custodian `name` was given.
    #[must_use]
    pub fn keeps(&self, name: &Name, purpose: Purpose, share: &Share) -> bool {
        let holders = self.shares(purpose).map_or(&[][..], |shares| &shares.holders);
        let holder = holders.get(usize::from(share.place.get()) - 1).filter(|holder| holder.name == *name);
        holder.is_some_and(|holder| {
            let Holder { name, recipients, .. } = holder;
            let belonging = Belonging { purpose, volume: &self.volume, epoch: self.epoch, name, recipients };
            holder.commitment == Commitment::to(share, belonging)
        })
    }

    /// The shares that `identities` open; only that of `name`, if a name is given: a key in a device may ask for a touch each time.
    ///
    /// # Errors
    /// None of them opens one, or one is not what it should be.
    pub fn open_shares(&self, name: Option<&Name>, identities: &[&dyn age::Identity]) -> Result<Vec<Held>, TokenError> {
        let (mut held, mut first_fault) = (Vec::new(), None);
        for (purpose, holder) in self.all().filter(|(_, holder)| name.is_none_or(|name| *name == holder.name)) {
            match self.open_share(purpose, holder, identities) {
                Ok(share) => held.extend(share.map(|share| Held { name: holder.name.clone(), purpose, share })),
                // What is wrong with somebody else's is not this custodian's business.
                Err(error) => first_fault = first_fault.or(Some(error)),
            }
        }
        if let (true, Some(error)) = (held.is_empty(), first_fault) {
            return Err(error);
        }
        if held.is_empty() {
            let names: Vec<&str> = self.all().map(|(_, holder)| holder.name.as_str()).collect();
            let known = names.join(", ");
            return Err(match name.filter(|name| !names.contains(&name.as_str())) {
                Some(name) => TokenError::NoSuchHolder { name: name.clone(), known },
                None => TokenError::NotOurs { known },
            });
        }
        Ok(held)
    }

    /// The share of `holder`; nothing, if it is for others.
    fn open_share(
        &self,
        purpose: Purpose,
        holder: &Holder,
        identities: &[&dyn age::Identity],
    ) -> Result<Option<Share>, TokenError> {
        let failed = |error| TokenError::Envelope { name: holder.name.clone(), error };
        let content = match envelope::open(&holder.file()?, identities.iter().copied()) {
            Ok(content) => content,
            Err(EnvelopeError::NotOurs) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let (head, share) = parcel::unpack::<Head, SHARE>(BEGINS, &content)
            .and_then(|(head, octets)| Some((head, parcel::share(octets)?)))
            .ok_or_else(|| failed(EnvelopeError::Damaged))?;
        let is_ours = head.volume == self.volume
            && head.epoch == self.epoch
            && head.purpose == purpose
            && head.name == holder.name
            && self.keeps(&holder.name, purpose, &share);
        if is_ours { Ok(Some(share)) } else { Err(TokenError::Commitment { name: holder.name.clone() }) }
    }

    fn all(&self) -> impl Iterator<Item = (Purpose, &Holder)> {
        let of = |purpose| {
            self.shares(purpose)
                .into_iter()
                .flat_map(move |shares| shares.holders.iter().map(move |holder| (purpose, holder)))
        };
        [Purpose::Opening, Purpose::Recovery].into_iter().flat_map(of)
    }
}

impl Holder {
    fn file(&self) -> Result<Vec<u8>, TokenError> {
        let damaged = |_| TokenError::Envelope { name: self.name.clone(), error: EnvelopeError::Damaged };
        BASE64_STANDARD.decode(&self.share).map_err(damaged)
    }
}

fn shares_of(
    secret: &Secret,
    purpose: Purpose,
    threshold: u8,
    custodians: &[Custodian],
    volume: &VolumeId,
    epoch: u64,
    random: &mut dyn Random,
) -> Result<Shares, TokenError> {
    let count = u8::try_from(custodians.len()).unwrap_or(u8::MAX);
    let shares = split(secret, threshold, count, random)?;
    let holder = |(custodian, share): (&Custodian, &Share)| {
        let name = custodian.name.clone();
        let head = Head { volume: volume.clone(), epoch, purpose, name: name.clone() };
        let secret = [&[share.place.get()][..], share.values.expose()];
        let content = parcel::pack(BEGINS, &head, &secret).map_err(|error| TokenError::Syntax(error.to_string()))?;
        let file = envelope::seal(&content, custodian.recipients.iter())
            .map_err(|error| TokenError::Envelope { name: name.clone(), error })?;
        let belonging = Belonging { purpose, volume, epoch, name: &name, recipients: &custodian.recipients };
        let commitment = Commitment::to(share, belonging);
        Ok::<_, TokenError>(Holder {
            name,
            recipients: custodian.recipients.clone(),
            commitment,
            share: BASE64_STANDARD.encode(file),
        })
    };
    let holders = custodians.iter().zip(&shares).map(holder).collect::<Result<_, _>>()?;
    Ok(Shares { threshold, holders })
}
