//! A custodian's answer: their share, and for which start of which box they give it, readable by nobody but that start of the box.

use std::fmt;
use std::str::FromStr;

use age::x25519;
use serde::{Deserialize, Serialize};

use crate::envelope::{self, EnvelopeError};
use crate::parcel::{self, SHARE};
use crate::{BootId, Held, KeySet, KeySetError, Name, Purpose, Recipient, RecipientError, Sum};

/// Why somebody opens a box is written into its records; this is room for a sentence or two, in octets.
pub const LONGEST_REASON: usize = 300;

const BEGINS: &[u8] = b"postkeep answer 1\n";

/// What a box shows to those who have shares: a sealed one to have itself opened, an open one for a new key set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Offer {
    /// Which token it asks the shares of.
    pub token: Sum,
    /// This start of the box.
    pub boot: BootId,
    /// The key that answers are encrypted to: made in its memory at this start.
    pub answer_to: Recipient,
    /// Why it asks.
    pub cause: Cause,
}

/// How an offer's text begins.
const OFFER_BEGINS: &str = "postkeep-offer-1";

/// As it stands on the console and in its picture: one line, that can be copied from a photograph.
impl fmt::Display for Offer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, boot, answer_to, cause } = self;
        write!(out, "{OFFER_BEGINS}:{}:{boot}:{token}:{answer_to}", cause.name())
    }
}

impl FromStr for Offer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [OFFER_BEGINS, cause, boot, token, answer_to] = parts[..] else {
            return Err(format!(
                "an offer is one line that begins with {OFFER_BEGINS} and has five parts; copy all of it"
            ));
        };
        Ok(Self {
            cause: Cause::ALL
                .into_iter()
                .find(|known| known.name() == cause)
                .ok_or("why the box asks cannot be read")?,
            boot: boot.parse()?,
            token: token.parse()?,
            answer_to: answer_to.parse().map_err(|error: RecipientError| error.to_string())?,
        })
    }
}

/// Why a box asks for shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It starts for the first time since its key set was made.
    FirstStart,
    /// It was sealed by a custodian, or started again by its owner.
    Planned,
    /// It had not been shut down: its power went, or it crashed.
    Unclean,
    /// What happened before is not known.
    Unknown,
    /// It is not sealed: it takes answers that give it a new key set, and no others.
    Change,
}

impl Cause {
    const ALL: [Self; 5] = [Self::FirstStart, Self::Planned, Self::Unclean, Self::Unknown, Self::Change];

    /// As in offers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstStart => "first-start",
            Self::Planned => "planned",
            Self::Unclean => "unclean",
            Self::Unknown => "unknown",
            Self::Change => "change",
        }
    }
}

/// How much the custodian's tool could make sure of before it gave the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grade {
    /// Typed in at the console: whoever stands there was believed.
    A0,
    /// Sealed to the answer key, without a word of a TPM on what runs there.
    A1,
    /// A quote of the TPM that was enrolled, on a release that is known.
    A2,
    /// The same, with the maker's certificate of that TPM, under Secure Boot keys of the owner's own.
    A3,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// To which token.
    pub token: Sum,
    /// To which start.
    pub boot: BootId,
    /// Whose share, what it opens, and the share.
    pub held: Held,
    /// What the custodian's tool made sure of. The box writes it down; it cannot check it.
    pub grade: Grade,
    /// Why they open the box or change who does, in their words.
    pub reason: String,
    /// Who is to open the box from now on. An answer that opens it has none; one to [`Cause::Change`] has to have one.
    pub change: Option<KeySet>,
}

/// Why an answer cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// See the text.
    #[error("the answer cannot be opened: {0}")]
    Envelope(#[from] EnvelopeError),
    /// See the text.
    #[error("the answer is not in a form that is known: the tool that made it is older or newer than the box")]
    Form,
    /// See the text.
    #[error("the reason is longer than {LONGEST_REASON} octets, or has control characters in it")]
    Reason,
    /// See the text.
    #[error("the new key set that it asks for cannot be: {0}")]
    KeySet(#[from] KeySetError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Head {
    token: Sum,
    boot: BootId,
    name: Name,
    purpose: Purpose,
    grade: Grade,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    change: Option<KeySet>,
}

impl Answer {
    /// The answer, encrypted to the start of the box that made `offer`.
    ///
    /// # Errors
    /// The reason is none that a record takes.
    pub fn seal(&self, offer: &Offer) -> Result<Vec<u8>, AnswerError> {
        check(&self.reason)?;
        let Held { name, purpose, share } = &self.held;
        let head = Head {
            token: self.token,
            boot: self.boot,
            name: name.clone(),
            purpose: *purpose,
            grade: self.grade,
            reason: self.reason.clone(),
            change: self.change.clone(),
        };
        let secret = [&[share.place.get()][..], share.values.expose()];
        let content = parcel::pack(BEGINS, &head, &secret).map_err(|_| AnswerError::Form)?;
        Ok(envelope::seal(&content, [&offer.answer_to].into_iter())?)
    }

    /// The answer in `file`.
    ///
    /// # Errors
    /// It is for another start, damaged, or no answer.
    pub fn open(file: &[u8], answer_key: &x25519::Identity) -> Result<Self, AnswerError> {
        let content = envelope::open(file, [answer_key as &dyn age::Identity].into_iter())?;
        Self::read(&content)
    }

    fn read(content: &[u8]) -> Result<Self, AnswerError> {
        let (head, octets) = parcel::unpack::<Head, SHARE>(BEGINS, content).ok_or(AnswerError::Form)?;
        check(&head.reason)?;
        head.change.iter().try_for_each(KeySet::check)?;
        let share = parcel::share(octets).ok_or(AnswerError::Form)?;
        let held = Held { name: head.name.clone(), purpose: head.purpose, share };
        let Head { token, boot, grade, reason, change, .. } = head;
        Ok(Self { token, boot, held, grade, reason, change })
    }
}

fn check(reason: &str) -> Result<(), AnswerError> {
    let is_fit = reason.len() <= LONGEST_REASON && !reason.chars().any(char::is_control);
    if is_fit { Ok(()) } else { Err(AnswerError::Reason) }
}
