//! The questions that a box has asked and that wait for an answer. Anybody may have a question asked, so there are three at most for each
//! custodian and purpose: whoever asks again is given the same, and costs nothing.

use std::time::Duration;

use crate::challenge::{Asked, Challenge, ChallengeError, Question, Response};
use crate::{Name, Purpose, Random, Recipient, Token, VolumeId};

/// How long a question stands.
pub const STANDS: Duration = Duration::from_secs(60 * 60);
/// How old a question may be that is given out again: whoever gets it has the rest, time enough to fetch a key from a safe.
const GIVEN_OUT: Duration = Duration::from_secs(30 * 60);

/// Questions that wait.
#[derive(Debug, Default)]
pub struct Standing(Vec<(Duration, Challenge)>);

/// Why a response does not count. For the journal: strangers are told the same whatever it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// See the text.
    #[error("nobody called {0} holds a share")]
    NoSuchHolder(Name),
    /// See the text.
    #[error("{0} was asked nothing, or too long ago; ask again")]
    NotAsked(Name),
    /// See the text.
    #[error("the response is not the one to what {0} was asked")]
    Wrong(Name),
    /// See the text.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
}

impl Standing {
    /// The question to `name`, as an age file; a new one, if none stands. `now` counts from any moment, and never back.
    ///
    /// # Errors
    /// There is no such custodian.
    pub fn ask(
        &mut self,
        asked: Asked,
        name: &Name,
        token: &Token,
        now: Duration,
        random: &mut dyn Random,
    ) -> Result<&[u8], Unanswered> {
        let recipients = recipients(token, name).ok_or_else(|| Unanswered::NoSuchHolder(name.clone()))?;
        let question = Question { asked, volume: token.volume.clone(), name: name.clone() };
        self.0.retain(|(since, _)| now.saturating_sub(*since) < STANDS);
        let is_new = |since: Duration| now.saturating_sub(since) < GIVEN_OUT;
        let stands = self.0.iter().position(|(since, challenge)| *challenge.question() == question && is_new(*since));
        let at = match stands {
            Some(at) => at,
            None => {
                self.0.push((now, Challenge::ask(question, recipients, random)?));
                self.0.len() - 1
            }
        };
        Ok(self.0[at].1.file())
    }

    /// Takes the response of `name`. The question is used up by the right one, and by no other.
    ///
    /// # Errors
    /// It is not the right one.
    pub fn answer(
        &mut self,
        asked: Asked,
        name: &Name,
        volume: &VolumeId,
        response: &Response,
        now: Duration,
    ) -> Result<(), Unanswered> {
        self.0.retain(|(since, _)| now.saturating_sub(*since) < STANDS);
        let question = Question { asked, volume: volume.clone(), name: name.clone() };
        let is_asked = |challenge: &Challenge| *challenge.question() == question;
        if !self.0.iter().any(|(_, challenge)| is_asked(challenge)) {
            return Err(Unanswered::NotAsked(name.clone()));
        }
        let right = |(_, challenge): &(Duration, Challenge)| is_asked(challenge) && challenge.is_answered_by(response);
        let at = self.0.iter().position(right).ok_or_else(|| Unanswered::Wrong(name.clone()))?;
        self.0.swap_remove(at);
        Ok(())
    }
}

/// The keys of `name`, who opens the box or recovers it.
fn recipients<'a>(token: &'a Token, name: &Name) -> Option<&'a [Recipient]> {
    let sets = [Purpose::Opening, Purpose::Recovery].into_iter().filter_map(|purpose| token.shares(purpose));
    let holder = sets.flat_map(|shares| &shares.holders).find(|holder| holder.name == *name)?;
    Some(&holder.recipients)
}

#[cfg(test)]
mod tests {
    use age::x25519::Identity;

    use super::*;
    use crate::challenge::respond;
    use crate::{Custodian, KeySet, System};

    fn token() -> (Token, Identity) {
        let identity = Identity::generate();
        let custodian = |name: &str, recipient| Custodian { name: name.parse().unwrap(), recipients: vec![recipient] };
        let set = KeySet {
            threshold: 2,
            custodians: vec![
                custodian("anna", Recipient::of(&identity)),
                custodian("ben", Recipient::of(&Identity::generate())),
            ],
            recovery: None,
        };
        let volume = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
        (Token::make(&set, &volume, 1, &mut System).unwrap().token, identity)
    }

    #[test]
    fn one_question_for_each_custodian_however_often_it_is_asked_for() {
        let (token, identity) = token();
        let (anna, mut standing) = ("anna".parse().unwrap(), Standing::default());
        let first = standing.ask(Asked::Seal, &anna, &token, Duration::ZERO, &mut System).unwrap().to_vec();
        for second in 1..1_800 {
            let again = standing.ask(Asked::Seal, &anna, &token, Duration::from_secs(second), &mut System).unwrap();
            assert_eq!(again, first);
        }
        // Who asks later gets a new one, and the first is good for as long as was said.
        let second = standing.ask(Asked::Seal, &anna, &token, GIVEN_OUT, &mut System).unwrap().to_vec();
        assert_ne!(second, first);
        let (_, response) = respond(&first, Asked::Seal, &[&identity]).unwrap();
        assert_eq!(standing.answer(Asked::Seal, &anna, &token.volume, &response, STANDS - GIVEN_OUT / 9), Ok(()));
        for (name, asked) in [("anna", Asked::Possession), ("ben", Asked::Seal), ("ben", Asked::Possession)] {
            standing.ask(asked, &name.parse().unwrap(), &token, Duration::ZERO, &mut System).unwrap();
        }
        assert_eq!(standing.0.len(), 4);
        let stranger: Name = "otto".parse().unwrap();
        let error = standing.ask(Asked::Seal, &stranger, &token, Duration::ZERO, &mut System).unwrap_err();
        assert_eq!(error, Unanswered::NoSuchHolder(stranger));
        standing.ask(Asked::Seal, &anna, &token, 2 * STANDS, &mut System).unwrap();
        assert_eq!(standing.0.len(), 1);
    }

    #[test]
    fn the_right_answer_counts_once_and_in_time_and_a_wrong_one_changes_nothing() {
        let (token, identity) = token();
        let (anna, mut standing) = ("anna".parse().unwrap(), Standing::default());
        let file = standing.ask(Asked::Seal, &anna, &token, Duration::ZERO, &mut System).unwrap();
        let (_, response) = respond(file, Asked::Seal, &[&identity]).unwrap();
        let wrong: Response = "00".repeat(32).parse().unwrap();
        let mut answer = |asked, response: &Response, now| standing.answer(asked, &anna, &token.volume, response, now);
        assert_eq!(answer(Asked::Seal, &wrong, Duration::ZERO), Err(Unanswered::Wrong(anna.clone())));
        assert_eq!(answer(Asked::Possession, &response, Duration::ZERO), Err(Unanswered::NotAsked(anna.clone())));
        let late = STANDS - Duration::from_nanos(1);
        assert_eq!(answer(Asked::Seal, &response, late), Ok(()));
        assert_eq!(answer(Asked::Seal, &response, late), Err(Unanswered::NotAsked(anna.clone())));
        let file = standing.ask(Asked::Seal, &anna, &token, Duration::ZERO, &mut System).unwrap();
        let (_, response) = respond(file, Asked::Seal, &[&identity]).unwrap();
        let too_late = standing.answer(Asked::Seal, &anna, &token.volume, &response, STANDS);
        assert_eq!(too_late, Err(Unanswered::NotAsked(anna)));
    }
}
