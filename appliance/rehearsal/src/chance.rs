//! Chance that repeats: every decision of the simulated internet is a pure
//! function of the seed and of what is being decided, never of the order in
//! which connections happen to arrive.

/// A source of repeatable decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    seed: u64,
}

impl Chance {
    /// Decisions for this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A number that depends on all four and on the seed, evenly spread over `u64`.
    pub fn number(self, provider: &str, recipient: &str, purpose: &str, attempt: u32) -> u64 {
        let mut state = mix(self.seed ^ 0x5bd1_e995_9e37_79b9);
        for text in [provider, recipient, purpose] {
            state = absorb(state, text.as_bytes());
        }
        mix(state ^ u64::from(attempt))
    }

    /// The same as a share, 0 (included) to 1 (not included).
    pub fn share(self, provider: &str, recipient: &str, purpose: &str, attempt: u32) -> f64 {
        // 53 bits fill the mantissa exactly.
        (self.number(provider, recipient, purpose, attempt) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The finaliser of splitmix64.
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn absorb(mut state: u64, bytes: &[u8]) -> u64 {
    for chunk in bytes.chunks(8) {
        let mut word = [0u8; 8];
        for (place, byte) in word.iter_mut().zip(chunk) {
            *place = *byte;
        }
        state = mix(state ^ u64::from_le_bytes(word));
    }
    // The length, so that "ab","c" and "a","bc" differ.
    mix(state ^ (bytes.len() as u64).rotate_left(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_question_gets_the_same_answer_and_another_seed_another() {
        let one = Chance::new(1);
        assert_eq!(one.number("a", "b", "c", 1), Chance::new(1).number("a", "b", "c", 1));
        assert_ne!(one.number("a", "b", "c", 1), Chance::new(2).number("a", "b", "c", 1));
        assert_ne!(one.number("a", "b", "c", 1), one.number("a", "b", "c", 2));
        assert_ne!(one.number("ab", "c", "", 1), one.number("a", "bc", "", 1));
    }

    #[test]
    fn shares_are_spread_evenly() {
        let chance = Chance::new(7);
        let below = (0..10_000)
            .filter(|n| chance.share("google", &format!("person-{n}@gmail.test"), "unknown", 0) < 0.1)
            .count();
        assert!((900..1100).contains(&below), "{below} of 10000 fell below a tenth");
    }
}
