//! A challenge names one deed on one machine in one boot, once; an answer is the owner's signature under its text.
//!
//! The challenge travels as groups of characters or as a QR code; both sides make the same text of it, and that text is
//! what the owner reads and what is signed (as a note, [`postkeep_notes`]).

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use postkeep_notes::{NoteError, SignerKey, VerifierKey};

use crate::code::{self, CodeError};
use crate::deed::Deed;

/// How long a challenge can be answered, at most.
pub const VALID: std::time::Duration = std::time::Duration::from_secs(600);
const FORMAT: u8 = 1;
const NONCE: usize = 10;
const SUM: usize = 3;
/// Octets before the deed: format, machine, boot, nonce, time.
const HEAD: usize = 1 + 16 + 16 + NONCE + 5;

/// Which machine it is, and which start of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The machine.
    pub machine: [u8; 16],
    /// The boot.
    pub boot: [u8; 16],
}

impl Identity {
    /// The machine as people see it: the fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        code::encode(&self.machine)
    }
}

/// What the owner is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Where.
    pub identity: Identity,
    /// So that no other challenge is like it.
    pub nonce: [u8; NONCE],
    /// Seconds since 1970, by the clock of the box.
    pub expires: u64,
    /// What.
    pub deed: Deed,
}

/// Why something is no challenge, or an answer does not fit it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    /// Mistyped.
    #[error("{what}: {error}")]
    Code {
        /// The challenge or the answer.
        what: &'static str,
        /// How.
        error: CodeError,
    },
    /// Well typed, and something else.
    #[error("this is no challenge of a Postkeep console of this version; type what stands under \"challenge\"")]
    NoChallenge,
    /// Of another length than a signature.
    #[error(
        "this is no answer to a challenge: an answer has 26 groups; type all that `postkeep console answer` prints"
    )]
    NoAnswer,
    /// The key does not sign.
    #[error("cannot sign the challenge: {0}")]
    Sign(NoteError),
    /// Somebody else's signature, or one under another text.
    #[error(
        "the answer is not the signature of {owner} under this challenge; answer the challenge that is shown now, with the owner's key"
    )]
    WrongSignature {
        /// Who was asked.
        owner: String,
    },
}

impl Challenge {
    /// A challenge for `deed`, made at `now` by the clock of the box, that can be answered for `valid`.
    #[must_use]
    pub fn new(identity: Identity, deed: Deed, nonce: [u8; NONCE], now: Timestamp, valid: std::time::Duration) -> Self {
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        // Forty bits are written.
        let expires = now.saturating_add(valid.as_secs()).min((1 << 40) - 1);
        Self { identity, nonce, expires, deed }
    }

    /// What the owner reads and signs. Ends with a line end.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "Postkeep console challenge, format 1\n".to_owned();
        for line in self.deed.lines() {
            text.push_str(&line);
            text.push('\n');
        }
        text.push_str(&format!("machine: {}\n", self.identity.fingerprint()));
        text.push_str(&format!("boot: {}\n", hexadecimal(&self.identity.boot)));
        text.push_str(&format!("nonce: {}\n", hexadecimal(&self.nonce)));
        text.push_str(&format!("expires: {} by the clock of the machine\n", self.expiry()));
        text
    }

    /// When it expires, as people write it.
    #[must_use]
    pub fn expiry(&self) -> String {
        match i64::try_from(self.expires).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
            Some(time) => time.to_string(),
            None => format!("{} s after 1970", self.expires),
        }
    }

    /// The challenge in groups of characters.
    #[must_use]
    pub fn to_code(&self) -> String {
        let mut octets = Vec::with_capacity(HEAD + 40);
        octets.push(FORMAT);
        octets.extend_from_slice(&self.identity.machine);
        octets.extend_from_slice(&self.identity.boot);
        octets.extend_from_slice(&self.nonce);
        octets.extend_from_slice(&self.expires.to_be_bytes()[3..]);
        self.deed.write(&mut octets);
        let sum = digest(&SHA256, &octets);
        octets.extend_from_slice(&sum.as_ref()[..SUM]);
        code::encode(&octets)
    }

    /// The challenge that was typed or scanned.
    ///
    /// # Errors
    /// It is mistyped, or no challenge.
    pub fn from_code(text: &str) -> Result<Self, ChallengeError> {
        let octets = code::decode(text).map_err(|error| ChallengeError::Code { what: "the challenge", error })?;
        let whole = octets.len().checked_sub(SUM).and_then(|split| octets.split_at_checked(split));
        let (said, sum) = whole.ok_or(ChallengeError::NoChallenge)?;
        if said.first() != Some(&FORMAT) || digest(&SHA256, said).as_ref()[..SUM] != *sum {
            return Err(ChallengeError::NoChallenge);
        }
        Self::of_octets(said).ok_or(ChallengeError::NoChallenge)
    }

    fn of_octets(said: &[u8]) -> Option<Self> {
        let (head, deed) = said.split_at_checked(HEAD)?;
        let mut seconds = [0; 8];
        seconds[3..].copy_from_slice(head.get(43..48)?);
        Some(Self {
            identity: Identity { machine: head.get(1..17)?.try_into().ok()?, boot: head.get(17..33)?.try_into().ok()? },
            nonce: head.get(33..43)?.try_into().ok()?,
            expires: u64::from_be_bytes(seconds),
            deed: Deed::read(deed)?,
        })
    }

    /// The answer of `owner`, in groups of characters.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn answer(&self, owner: &SignerKey) -> Result<String, ChallengeError> {
        let note = postkeep_notes::sign(&self.text(), &[owner]).map_err(ChallengeError::Sign)?;
        // The last word of the note: four octets that name the key, and the signature.
        let last = note.trim_end().rsplit(' ').next().unwrap_or_default();
        let octets = BASE64_STANDARD.decode(last).map_err(|_| ChallengeError::NoAnswer)?;
        let signature = octets.get(4..).filter(|signature| signature.len() == 64).ok_or(ChallengeError::NoAnswer)?;
        Ok(code::encode(signature))
    }

    /// Whether `answer` is the answer of `owner` to this challenge.
    ///
    /// # Errors
    /// It is mistyped, or not.
    pub fn verify(&self, answer: &str, owner: &VerifierKey) -> Result<(), ChallengeError> {
        let signature = code::decode(answer).map_err(|error| ChallengeError::Code { what: "the answer", error })?;
        if signature.len() != 64 {
            return Err(ChallengeError::NoAnswer);
        }
        let named = BASE64_STANDARD.encode([&owner.id()[..], &signature].concat());
        let note = format!("{}\n\u{2014} {} {named}\n", self.text(), owner.name());
        match postkeep_notes::open(note.as_bytes(), std::slice::from_ref(owner)) {
            Ok(opened) if opened.text == self.text() => Ok(()),
            _ => Err(ChallengeError::WrongSignature { owner: owner.name().to_owned() }),
        }
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::deed::NetworkChange;
    use crate::deed::tests::any_deed;

    fn owner() -> SignerKey {
        SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap()
    }

    fn challenge(deed: Deed) -> Challenge {
        let identity = Identity { machine: [1; 16], boot: [2; 16] };
        Challenge::new(identity, deed, [3; 10], "2026-11-27T05:00:00Z".parse().unwrap(), VALID)
    }

    #[test]
    fn the_owner_reads_exactly_what_will_be_done() {
        let change = NetworkChange {
            interface: "eno1".into(),
            dhcp: false,
            addresses: vec!["203.0.113.5/32".parse().unwrap(), "2001:db8::2/64".parse().unwrap()],
            gateways: vec!["203.0.113.1".parse().unwrap()],
            dns: Vec::new(),
        };
        let text = challenge(Deed::Network(change)).text();
        assert_eq!(
            text,
            "Postkeep console challenge, format 1\n\
             do: change the network of eno1 until the next start\n\
             dhcp: no\n\
             addresses: 203.0.113.5/32 2001:db8::2/64\n\
             gateways: 203.0.113.1\n\
             dns: as it is\n\
             machine: 0410G 20G4Z 10G2Y 0G40Y 0G200 G20Z7 0GF\n\
             boot: 02020202020202020202020202020202\n\
             nonce: 03030303030303030303\n\
             expires: 2026-11-27T05:10:00Z by the clock of the machine\n"
                .replace("0410G 20G4Z 10G2Y 0G40Y 0G200 G20Z7 0GF", &code::encode(&[1; 16]))
        );
    }

    #[test]
    fn only_the_owners_answer_to_this_very_challenge_fits() {
        let asked = challenge(Deed::Reboot);
        let answer = asked.answer(&owner()).unwrap();
        asked.verify(&answer, owner().verifier()).unwrap();
        asked.verify(&answer.to_lowercase().replace(' ', ""), owner().verifier()).unwrap();
        let stranger = SignerKey::from_seed(&[8; 32], "example.com/owner").unwrap();
        let forged = asked.answer(&stranger).unwrap();
        assert!(matches!(asked.verify(&forged, owner().verifier()), Err(ChallengeError::WrongSignature { .. })));
        let mut others = vec![challenge(Deed::PowerOff), asked.clone(), asked.clone(), asked.clone(), asked.clone()];
        others[1].nonce[9] ^= 1;
        others[2].identity.boot[0] ^= 1;
        others[3].identity.machine[0] ^= 1;
        others[4].expires += 1;
        for other in others {
            assert!(matches!(other.verify(&answer, owner().verifier()), Err(ChallengeError::WrongSignature { .. })));
        }
        assert!(matches!(asked.verify("0000", owner().verifier()), Err(ChallengeError::Code { .. })));
        let short = code::encode(&[0; 63]);
        assert!(matches!(asked.verify(&short, owner().verifier()), Err(ChallengeError::NoAnswer)));
    }

    #[test]
    fn a_challenge_to_start_again_fits_a_small_code() {
        // Alphanumeric, version 4, level L: 114 characters in 33 modules a side.
        assert!(challenge(Deed::Reboot).to_code().replace(' ', "").len() <= 114);
    }

    proptest! {
        #[test]
        fn a_challenge_comes_back(deed in any_deed(), machine: [u8; 16], boot: [u8; 16], nonce: [u8; 10], expires in 0..1_u64 << 40) {
            let made = Challenge { identity: Identity { machine, boot }, nonce, expires, deed };
            let read = Challenge::from_code(&made.to_code()).unwrap();
            prop_assert_eq!(read.text(), made.text());
            prop_assert_eq!(read, made);
        }

        #[test]
        fn different_deeds_have_different_texts(one in any_deed(), other in any_deed()) {
            prop_assume!(one != other);
            prop_assert_ne!(challenge(one).text(), challenge(other).text());
        }

        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 1..90), text in "\\PC{0,40}") {
            let _ = Challenge::from_code(&code::encode(&octets));
            let mut summed = [&[FORMAT][..], &octets].concat();
            let sum = digest(&SHA256, &summed);
            summed.extend_from_slice(&sum.as_ref()[..SUM]);
            let _ = Challenge::from_code(&code::encode(&summed));
            let _ = challenge(Deed::Seal).verify(&text, owner().verifier());
        }
    }
}
