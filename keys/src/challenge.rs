//! A question that only a custodian can answer: 32 random octets, encrypted to their recipients. Whoever answers holds the key now.
//! It proves possession once a quarter, and it is how one custodian alone seals the box.
//!
//! The question says inside what it is asked for, so that the answer to one kind is none to the other, and a tool that is asked to
//! prove possession does not seal a box. Any kind of identity answers, also one in a device behind a plugin.

use aws_lc_rs::{constant_time, hmac};
use serde::{Deserialize, Serialize};

use crate::envelope::{self, EnvelopeError};
use crate::{Name, Random, Recipient, SECRET, Secret, VolumeId, octets, parcel};

const BEGINS: &[u8] = b"postkeep challenge 1\n";

/// What a question is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// Whether the custodian still has their key.
    Possession,
    /// Whether the box is to be sealed now.
    Seal,
    /// Whether the machine of a sealed box is to be started anew, so that its TPM vouches for it again.
    Restart,
}

/// What a custodian's tool sees before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Question {
    /// What for.
    pub asked: Asked,
    /// By which box.
    pub volume: VolumeId,
    /// Of whom.
    pub name: Name,
}

/// A question that waits for its answer, on the side of the box.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    question: Question,
    secret: Secret,
    file: Vec<u8>,
}

/// The answer: worth nothing for any other question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response([u8; 32]);

octets::as_hexadecimal!(Response, 32, "a response");

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// See the text.
    #[error("the question cannot be opened: {0}")]
    Envelope(#[from] EnvelopeError),
    /// See the text.
    #[error("the question is not in a form that is known: the box is older or newer than this tool")]
    Form,
    /// See the text.
    #[error("the question is asked for something else ({}) than what was wanted ({}), and is not answered", .asked.name(), .wanted.name())]
    OtherThanWanted {
        /// What it is asked for.
        asked: Asked,
        /// What the tool was told to do.
        wanted: Asked,
    },
}

impl Asked {
    /// As in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Possession => "possession",
            Self::Seal => "seal",
            Self::Restart => "restart",
        }
    }
}

impl Challenge {
    /// Asks those who have one of `recipients`.
    ///
    /// # Errors
    /// Nothing can be encrypted to them.
    pub fn ask(question: Question, recipients: &[Recipient], random: &mut dyn Random) -> Result<Self, ChallengeError> {
        let secret = Secret::new(random);
        let content = parcel::pack(BEGINS, &question, &[secret.expose()]).map_err(|_| ChallengeError::Form)?;
        let file = envelope::seal(&content, recipients.iter())?;
        Ok(Self { question, secret, file })
    }

    /// The age file that the custodian is sent.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// What is asked.
    #[must_use]
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Whether `response` is the answer.
    #[must_use]
    pub fn is_answered_by(&self, response: &Response) -> bool {
        let right = response_to(&self.question, &self.secret);
        constant_time::verify_slices_are_equal(&right.0, &response.0).is_ok()
    }
}

/// Answers the question in `file`, if it is one that `wanted` wants answered.
///
/// # Errors
/// It is for others, or asked for something else.
pub fn respond(
    file: &[u8],
    wanted: Asked,
    identities: &[&dyn age::Identity],
) -> Result<(Question, Response), ChallengeError> {
    let content = envelope::open(file, identities.iter().copied())?;
    let (question, octets) = parcel::unpack::<Question, SECRET>(BEGINS, &content).ok_or(ChallengeError::Form)?;
    let secret = Secret::fill(|secret| *secret = *octets);
    if question.asked != wanted {
        return Err(ChallengeError::OtherThanWanted { asked: question.asked, wanted });
    }
    let response = response_to(&question, &secret);
    Ok((question, response))
}

fn response_to(question: &Question, secret: &Secret) -> Response {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let Question { asked, volume, name } = question;
    let said = format!("postkeep response 1\n{}\n{volume}\n{name}\n", asked.name());
    let mut octets = [0; 32];
    octets.copy_from_slice(hmac::sign(&key, said.as_bytes()).as_ref());
    Response(octets)
}

#[cfg(test)]
mod tests {
    use age::x25519::Identity;

    use super::*;
    use crate::System;

    fn question(asked: Asked) -> Question {
        Question {
            asked,
            volume: "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap(),
            name: "anna".parse().unwrap(),
        }
    }

    #[test]
    fn both_keys_of_a_custodian_answer_and_no_other() {
        let (key, spare, stranger) = (Identity::generate(), Identity::generate(), Identity::generate());
        let recipients = [Recipient::of(&key), Recipient::of(&spare)];
        let challenge = Challenge::ask(question(Asked::Possession), &recipients, &mut System).unwrap();
        for identity in [&key, &spare] {
            let (asked, response) = respond(challenge.file(), Asked::Possession, &[identity]).unwrap();
            assert_eq!(&asked, challenge.question());
            assert!(challenge.is_answered_by(&response));
            // As it travels.
            assert!(challenge.is_answered_by(&response.to_string().parse().unwrap()));
        }
        let error = respond(challenge.file(), Asked::Possession, &[&stranger]).unwrap_err();
        assert_eq!(error, ChallengeError::Envelope(EnvelopeError::NotOurs));
    }

    #[test]
    fn an_answer_is_worth_nothing_for_another_question() {
        let key = Identity::generate();
        let ask = |asked| Challenge::ask(question(asked), &[Recipient::of(&key)], &mut System).unwrap();
        let (first, second, seal) = (ask(Asked::Possession), ask(Asked::Possession), ask(Asked::Seal));
        let (_, response) = respond(first.file(), Asked::Possession, &[&key]).unwrap();
        assert!(first.is_answered_by(&response));
        assert!(!second.is_answered_by(&response) && !seal.is_answered_by(&response));
    }

    #[test]
    fn a_response_is_what_it_was() {
        // Computed with Python's hmac.
        let secret = Secret::fill(|octets| octets.fill(9));
        let response = response_to(&question(Asked::Seal), &secret).to_string();
        assert_eq!(response, "bacd508260fed39b1fa8adc3aab062b8d436ba1593eae5f29454c71fc6bc4858");
    }

    #[test]
    fn who_proves_possession_does_not_seal() {
        let key = Identity::generate();
        let challenge = Challenge::ask(question(Asked::Seal), &[Recipient::of(&key)], &mut System).unwrap();
        let error = respond(challenge.file(), Asked::Possession, &[&key]).unwrap_err();
        assert!(error.to_string().contains("asked for something else (seal)"), "{error}");
        // Nor does the answer that a tool would have given to the same octets under the other name.
        let as_possession = response_to(&question(Asked::Possession), &challenge.secret);
        assert!(!challenge.is_answered_by(&as_possession));
    }
}
