//! Octets that nobody may see: overwritten when they are dropped, compared in a time that tells nothing, and never printed.

use std::fmt;

use aws_lc_rs::constant_time;
use zeroize::Zeroizing;

use crate::Random;

/// The length of every secret here.
pub const SECRET: usize = 32;

/// 32 octets that are overwritten when they are dropped.
#[derive(Clone)]
pub struct Secret(Box<Zeroizing<[u8; SECRET]>>);

impl Secret {
    /// A new one.
    pub fn new(random: &mut dyn Random) -> Self {
        Self::fill(|octets| random.fill(octets))
    }

    /// One that `fill` writes, at the place where it stays: no copy is left behind on the way.
    pub fn fill(fill: impl FnOnce(&mut [u8; SECRET])) -> Self {
        let mut octets = Box::new(Zeroizing::new([0; SECRET]));
        fill(&mut octets);
        Self(octets)
    }

    /// The octets. Whoever takes a copy overwrites it.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0[..], &other.0[..]).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}
