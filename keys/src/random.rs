//! Where random octets come from: handed in, so that a test can say which.

/// Fills octets with what nobody can foretell.
pub trait Random {
    /// Overwrites all of `octets`.
    fn fill(&mut self, octets: &mut [u8]);
}

/// The system's own (getrandom, through aws-lc).
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Random for System {
    fn fill(&mut self, octets: &mut [u8]) {
        // Fails only where the kernel has no getrandom, and then nothing secret can be made at all.
        aws_lc_rs::rand::fill(octets).expect("the kernel gives random octets");
    }
}
