//! Shares of a secret (Shamir, 1979): any `threshold` of them give it back, fewer say nothing about it. Over [`crate::field`],
//! octet by octet, in the form that Vault uses as well: the values, and the place where they were taken.
//!
//! Nothing in a share says whether it is right: a wrong one gives a wrong secret. That is what commitments are for
//! ([`crate::commitment`]); [`combine`] itself is only called with shares that kept theirs.

use std::num::NonZeroU8;

use zeroize::Zeroizing;

use crate::field::{inverse, multiply};
use crate::{Random, Secret};

/// More people than this have never opened one box together; a place has room for 255.
pub const MOST_SHARES: u8 = 32;

/// One person's part of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Where it was taken. Not zero: there lies the secret.
    pub place: NonZeroU8,
    /// The values there.
    pub values: Secret,
}

/// Why there are no shares, or no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// See the text.
    #[error(
        "{threshold} of {count} shares cannot be: at least 1 and at most all, and not more than {MOST_SHARES} shares"
    )]
    Threshold {
        /// How many are to open.
        threshold: u8,
        /// How many there are.
        count: u8,
    },
    /// See the text.
    #[error("a secret needs {threshold} shares, and {given} are there")]
    TooFew {
        /// How many open.
        threshold: u8,
        /// How many were given.
        given: usize,
    },
    /// See the text.
    #[error("share {place} is there twice")]
    Twice {
        /// Which.
        place: NonZeroU8,
    },
}

/// `count` shares of `secret`, of which any `threshold` give it back; at the places 1, 2, 3….
///
/// # Errors
/// The threshold is none.
pub fn split(secret: &Secret, threshold: u8, count: u8, random: &mut dyn Random) -> Result<Vec<Share>, ShareError> {
    if threshold == 0 || threshold > count || count > MOST_SHARES {
        return Err(ShareError::Threshold { threshold, count });
    }
    // All coefficients above the secret, also zero, with the same likelihood: without zero (`sharks`, RUSTSEC-2024-0398)
    // each share too few would rule out one value of the secret.
    let higher: Vec<Secret> = (1..threshold).map(|_| Secret::new(random)).collect();
    let at = |place: NonZeroU8| Share {
        place,
        values: Secret::fill(|values| {
            for coefficients in higher.iter().rev().chain([secret]) {
                for (value, coefficient) in values.iter_mut().zip(coefficients.expose()) {
                    *value = multiply(*value, place.get()) ^ coefficient;
                }
            }
        }),
    };
    Ok((1..=count).filter_map(NonZeroU8::new).map(at).collect())
}

/// The secret of which `shares` are `threshold` shares or more.
///
/// # Errors
/// There are too few, or one is there twice.
pub fn combine(shares: &[Share], threshold: u8) -> Result<Secret, ShareError> {
    if threshold == 0 || shares.len() < usize::from(threshold) {
        return Err(ShareError::TooFew { threshold, given: shares.len() });
    }
    for (at, share) in shares.iter().enumerate() {
        if shares[..at].iter().any(|other| other.place == share.place) {
            return Err(ShareError::Twice { place: share.place });
        }
    }
    // Lagrange's polynomials at zero; places are no secret, values are.
    let weight = |share: &Share| {
        let others = shares.iter().filter(|other| other.place != share.place).map(|other| other.place.get());
        others.fold(1, |weight, other| multiply(weight, multiply(other, inverse(other ^ share.place.get()))))
    };
    let weights: Zeroizing<Vec<u8>> = Zeroizing::new(shares.iter().map(weight).collect());
    Ok(Secret::fill(|secret| {
        for (share, weight) in shares.iter().zip(weights.iter()) {
            for (octet, value) in secret.iter_mut().zip(share.values.expose()) {
                *octet ^= multiply(*value, *weight);
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{SECRET, System};

    /// Octets that a test names; they begin again when they are at their end.
    struct Said(Vec<u8>, usize);

    impl Random for Said {
        fn fill(&mut self, octets: &mut [u8]) {
            for octet in octets {
                *octet = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
        }
    }

    fn secret(octet: u8) -> Secret {
        Secret::fill(|octets| octets.fill(octet))
    }

    proptest! {
        #[test]
        fn any_m_of_n_give_the_secret_back(octets: [u8; SECRET], m in 1..=6_u8, more in 0..=4_u8, order: u64) {
            let whole = Secret::fill(|to| *to = octets);
            let mut shares = split(&whole, m, m + more, &mut System).unwrap();
            // Which of them, and in which order.
            let mut turn = order;
            for at in (1..shares.len()).rev() {
                shares.swap(at, (turn % (at as u64 + 1)) as usize);
                turn = turn.rotate_right(7) ^ 0x9e37_79b9;
            }
            for given in usize::from(m)..=shares.len() {
                prop_assert_eq!(&combine(&shares[..given], m).unwrap(), &whole);
            }
            let few = usize::from(m) - 1;
            prop_assert_eq!(combine(&shares[..few], m), Err(ShareError::TooFew { threshold: m, given: few }));
        }
    }

    #[test]
    fn one_share_too_few_is_as_likely_for_each_secret() {
        // All coefficients that a 2 of 2 can have, against one share: each value of the share comes once, whatever the secret is.
        for whole in [0, 1, 0x53, 0xff] {
            let mut seen = [0_u32; 256];
            for coefficient in 0..=255 {
                let shares = split(&secret(whole), 2, 2, &mut Said(vec![coefficient], 0)).unwrap();
                seen[usize::from(shares[1].values.expose()[0])] += 1;
            }
            assert!(seen.iter().all(|count| *count == 1), "{whole}: {seen:?}");
        }
    }

    #[test]
    fn a_share_of_one_is_the_secret_itself() {
        let shares = split(&secret(7), 1, 3, &mut System).unwrap();
        assert!(shares.iter().all(|share| share.values == secret(7)));
    }

    #[test]
    fn a_share_that_is_there_twice_is_named() {
        let shares = split(&secret(7), 2, 3, &mut System).unwrap();
        let twice = [shares[2].clone(), shares[2].clone()];
        assert_eq!(combine(&twice, 2), Err(ShareError::Twice { place: shares[2].place }));
    }

    #[test]
    fn thresholds_that_cannot_be_are_refused() {
        for (threshold, count) in [(0, 0), (0, 3), (4, 3), (2, MOST_SHARES + 1)] {
            let error = split(&secret(7), threshold, count, &mut System).unwrap_err();
            assert_eq!(error, ShareError::Threshold { threshold, count });
        }
    }
}
