//! What is asked of a box about its seal, and what it says: the same at its door on the network, where each is a call, and at the
//! socket of its opener, where each is a line of JSON.

use serde::{Deserialize, Serialize};

use crate::challenge::{Asked, Response};
use crate::possession::Proven;
use crate::tpm::{Nonce, Quoted};
use crate::{Name, Offer, Progress, VolumeId};

/// The longest line there is, in octets: an answer or a token, in JSON.
pub const LONGEST_LINE: usize = 512 << 10;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the box is.
    State,
    /// Its token, to keep and to compare.
    Token,
    /// What its TPM says of this start, and of what it offers.
    Quote {
        /// The custodian's.
        nonce: Nonce,
    },
    /// A custodian's answer to what the box offers, to open it or for a new key set, as an armoured age file.
    Answer {
        /// The file.
        answer: String,
    },
    /// A question that only this custodian can answer.
    Ask {
        /// What for.
        asked: Asked,
        /// Of whom.
        name: Name,
    },
    /// The answer to such a question.
    Respond {
        /// To which question.
        asked: Asked,
        /// Whose.
        name: Name,
        /// What was asked for.
        response: Response,
    },
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// How the box is.
    State(Box<State>),
    /// The note with its token.
    Token {
        /// The note.
        note: String,
    },
    /// The word of its TPM.
    Quoted(Box<Quoted>),
    /// The answer counts.
    Counted {
        /// How far the box is now.
        progress: Progress,
    },
    /// Enough custodians have answered: the volume is being opened.
    Opens,
    /// Enough custodians want the same key set: the volume is being given to those in it.
    Changes,
    /// The question, as an armoured age file.
    Question {
        /// The file.
        question: String,
    },
    /// The response was right, and what it was for is done.
    Done,
    /// It counts, and what it was for could not be done: nothing has changed. The box's journal says why.
    Failed,
    /// It does not count. Why is told to the box's journal, and to nobody who asks from outside.
    Refused,
}

/// How a box is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct State {
    /// Which volume it keeps.
    pub volume: VolumeId,
    /// The key set that opens it.
    pub epoch: u64,
    /// Whether it is open.
    pub seal: Seal,
    /// What it offers to those who are to open it; nothing, when it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,
    /// What it offers to those who want a new key set; nothing, when it is not open, or is being given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Offer>,
    /// How far it is with each set of shares.
    #[serde(default)]
    pub progress: Vec<Progress>,
    /// Who has proved lately that they hold their key. Known while it is open.
    #[serde(default)]
    pub possession: Vec<Proven>,
}

impl State {
    /// What anybody may know: how many have answered, and not who; and nothing of who holds their key still.
    #[must_use]
    pub fn for_strangers(mut self) -> Self {
        self.progress.iter_mut().for_each(|progress| progress.answered.clear());
        self.possession.clear();
        self
    }
}

/// Whether a box is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seal {
    /// Nobody can read what is in it.
    Sealed,
    /// Enough have answered, and its volume is being opened.
    Opening,
    /// Mail flows.
    Open,
    /// A custodian has had it sealed: it ends what it does.
    Sealing,
}
