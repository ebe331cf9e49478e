//! Decides whether an answer is the owner's: which challenges are open, which were used, and when wrong answers make it
//! deaf for a while. Pure: time and random numbers are handed in.

use std::time::Duration;

use jiff::Timestamp;
use postkeep_notes::VerifierKey;

use crate::challenge::{Challenge, ChallengeError, Identity, VALID};
use crate::deed::Deed;

/// Challenges that are remembered; the oldest is forgotten for a new one.
const MOST: usize = 16;
/// Wrong answers until it locks.
const TRIES: u32 = 3;
/// How long it then takes no answer.
pub const LOCK: Duration = Duration::from_secs(60);

/// Why an answer changes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many were wrong.
    #[error("three answers were wrong: no answer is taken for another {seconds} s")]
    Locked {
        /// How long.
        seconds: u64,
    },
    /// The challenge or the answer.
    #[error("{0}")]
    Challenge(#[from] ChallengeError),
    /// Of another machine.
    #[error("the challenge is of another machine ({other}); answer the one that is shown here")]
    OtherMachine {
        /// Its fingerprint.
        other: String,
    },
    /// Of an earlier start.
    #[error("the challenge is of an earlier start of this machine; ask again and answer the one that is shown now")]
    OtherBoot,
    /// Never given out, or forgotten.
    #[error(
        "this challenge was not given out here, or it is forgotten; ask again and answer the one that is shown now"
    )]
    Unknown,
    /// Answered before.
    #[error("this challenge was answered already, and counts once; ask again")]
    Used,
    /// Something else than was given out.
    #[error("this challenge is not the one that was given out: what it asks for was altered; ask again")]
    Altered,
    /// Too late.
    #[error("this challenge has expired; ask again and answer the new one in time")]
    Expired,
}

struct Issued {
    challenge: Challenge,
    until: Duration,
    used: bool,
}

/// The challenges of one boot.
pub struct Guard {
    valid: Duration,
    issued: Vec<Issued>,
    wrong: u32,
    locked_until: Option<Duration>,
}

impl Default for Guard {
    fn default() -> Self {
        Self::new(VALID)
    }
}

impl Guard {
    /// One whose challenges can be answered for `valid`, and for no longer than [`VALID`].
    #[must_use]
    pub fn new(valid: Duration) -> Self {
        Self { valid: valid.min(VALID), issued: Vec::new(), wrong: 0, locked_until: None }
    }

    /// A challenge for `deed`. `now` is a clock that nobody sets, `clock` the one that people see.
    pub fn issue(
        &mut self,
        deed: Deed,
        identity: Identity,
        nonce: [u8; 10],
        now: Duration,
        clock: Timestamp,
    ) -> Challenge {
        let challenge = Challenge::new(identity, deed, nonce, clock, self.valid);
        if self.issued.len() >= MOST {
            self.issued.remove(0);
        }
        self.issued.push(Issued { challenge: challenge.clone(), until: now + self.valid, used: false });
        challenge
    }

    /// The deed that `owner` allows with `answer`, once.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(
        &mut self,
        code: &str,
        answer: &str,
        identity: Identity,
        owner: &VerifierKey,
        now: Duration,
    ) -> Result<Deed, Refusal> {
        if let Some(until) = self.locked_until {
            if now < until {
                return Err(Refusal::Locked { seconds: (until - now).as_secs().max(1) });
            }
            self.locked_until = None;
        }
        let judged = self.find(code, answer, identity, owner, now);
        match &judged {
            Ok(_) => self.wrong = 0,
            // What came too late or twice was no guess.
            Err(Refusal::Challenge(_)) => {
                self.wrong += 1;
                if self.wrong >= TRIES {
                    self.wrong = 0;
                    self.locked_until = Some(now + LOCK);
                }
            }
            Err(_) => {}
        }
        judged
    }

    fn find(
        &mut self,
        code: &str,
        answer: &str,
        identity: Identity,
        owner: &VerifierKey,
        now: Duration,
    ) -> Result<Deed, Refusal> {
        let challenge = Challenge::from_code(code)?;
        if challenge.identity.machine != identity.machine {
            return Err(Refusal::OtherMachine { other: challenge.identity.fingerprint() });
        }
        if challenge.identity.boot != identity.boot {
            return Err(Refusal::OtherBoot);
        }
        let issued = self.issued.iter_mut().find(|issued| issued.challenge.nonce == challenge.nonce);
        let issued = issued.ok_or(Refusal::Unknown)?;
        if issued.challenge != challenge {
            return Err(Refusal::Altered);
        }
        if issued.used {
            return Err(Refusal::Used);
        }
        if now >= issued.until {
            return Err(Refusal::Expired);
        }
        challenge.verify(answer, owner)?;
        issued.used = true;
        Ok(challenge.deed)
    }
}

#[cfg(test)]
mod tests {
    use postkeep_notes::SignerKey;
    use proptest::prelude::*;

    use super::*;

    const HERE: Identity = Identity { machine: [1; 16], boot: [2; 16] };
    const START: Duration = Duration::from_secs(1000);

    fn owner() -> SignerKey {
        SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap()
    }

    fn asked(guard: &mut Guard, deed: Deed, nonce: u8) -> (Challenge, String) {
        let challenge = guard.issue(deed, HERE, [nonce; 10], START, Timestamp::UNIX_EPOCH);
        let answer = challenge.answer(&owner()).unwrap();
        (challenge, answer)
    }

    fn judge(guard: &mut Guard, challenge: &Challenge, answer: &str, now: Duration) -> Result<Deed, Refusal> {
        guard.judge(&challenge.to_code(), answer, HERE, owner().verifier(), now)
    }

    #[test]
    fn an_answer_counts_once() {
        let mut guard = Guard::default();
        let (challenge, answer) = asked(&mut guard, Deed::Reboot, 1);
        assert_eq!(judge(&mut guard, &challenge, &answer, START).unwrap(), Deed::Reboot);
        assert!(matches!(judge(&mut guard, &challenge, &answer, START), Err(Refusal::Used)));
    }

    #[test]
    fn another_machine_another_boot_another_deed_and_another_time_are_refused_with_the_reason() {
        let mut guard = Guard::default();
        let (challenge, answer) = asked(&mut guard, Deed::Reboot, 1);
        let code = challenge.to_code();
        let elsewhere = Identity { machine: [9; 16], ..HERE };
        let refused = guard.judge(&code, &answer, elsewhere, owner().verifier(), START);
        assert!(matches!(refused, Err(Refusal::OtherMachine { .. })));
        let later = Identity { boot: [9; 16], ..HERE };
        assert!(matches!(guard.judge(&code, &answer, later, owner().verifier(), START), Err(Refusal::OtherBoot)));

        let mut guard = Guard::default();
        let (challenge, answer) = asked(&mut guard, Deed::Reboot, 1);
        let altered = Challenge { deed: Deed::PowerOff, ..challenge.clone() };
        assert!(matches!(judge(&mut guard, &altered, &answer, START), Err(Refusal::Altered)));
        let signed = altered.answer(&owner()).unwrap();
        assert!(matches!(judge(&mut guard, &altered, &signed, START), Err(Refusal::Altered)));

        let mut guard = Guard::default();
        let (challenge, answer) = asked(&mut guard, Deed::Reboot, 1);
        assert!(matches!(judge(&mut guard, &challenge, &answer, START + VALID), Err(Refusal::Expired)));
        let other = Challenge::new(HERE, Deed::Reboot, [8; 10], Timestamp::UNIX_EPOCH, VALID);
        let signed = other.answer(&owner()).unwrap();
        assert!(matches!(judge(&mut guard, &other, &signed, START), Err(Refusal::Unknown)));
        assert_eq!(judge(&mut guard, &challenge, &answer, START + VALID / 2).unwrap(), Deed::Reboot);
    }

    #[test]
    fn three_wrong_answers_lock_for_a_minute_even_the_owner() {
        let mut guard = Guard::default();
        let (challenge, answer) = asked(&mut guard, Deed::Reboot, 1);
        let wrong = challenge.answer(&SignerKey::from_seed(&[8; 32], "example.com/owner").unwrap()).unwrap();
        for _ in 0..3 {
            assert!(matches!(judge(&mut guard, &challenge, &wrong, START), Err(Refusal::Challenge(_))));
        }
        assert!(matches!(judge(&mut guard, &challenge, &answer, START), Err(Refusal::Locked { seconds: 60 })));
        let late = START + LOCK - Duration::from_millis(1);
        assert!(matches!(judge(&mut guard, &challenge, &answer, late), Err(Refusal::Locked { seconds: 1 })));
        assert_eq!(judge(&mut guard, &challenge, &answer, START + LOCK).unwrap(), Deed::Reboot);
    }

    proptest! {
        /// Whatever happens in whatever order: a deed is done at most once for each of the owner's answers, and never
        /// without one.
        #[test]
        fn no_order_of_events_does_more_than_was_signed(events in proptest::collection::vec((0..6_u8, 0..5_u8, 0..400_u64), 1..60)) {
            let mut guard = Guard::default();
            let mut known: Vec<(Challenge, String)> = Vec::new();
            let mut done = std::collections::HashSet::new();
            let mut now = START;
            for (number, (kind, which, wait)) in events.into_iter().enumerate() {
                let chosen = known.get(usize::from(which)).cloned();
                match (kind, chosen) {
                    (0 | 1, _) => {
                        let nonce = [u8::try_from(number).unwrap(); 10];
                        let challenge = guard.issue(Deed::Reboot, HERE, nonce, now, Timestamp::UNIX_EPOCH);
                        let answer = challenge.answer(&owner()).unwrap();
                        known.insert(0, (challenge, answer));
                    }
                    (2, Some((challenge, answer))) => {
                        if judge(&mut guard, &challenge, &answer, now).is_ok() {
                            prop_assert!(done.insert(challenge.nonce), "done twice");
                        }
                    }
                    (3, Some((challenge, _))) => {
                        let forged = crate::code::encode(&[which; 64]);
                        prop_assert!(judge(&mut guard, &challenge, &forged, now).is_err());
                    }
                    (4, Some((challenge, answer))) => {
                        let altered = Challenge { deed: Deed::Seal, ..challenge };
                        prop_assert!(judge(&mut guard, &altered, &answer, now).is_err());
                    }
                    _ => now += Duration::from_secs(wait),
                }
            }
        }
    }
}
