//! What the box keeps of a share: its sum, by which a wrong share is named before it can spoil the secret, and by which a custodian
//! sees that theirs is the right one without sending it anywhere.
//!
//! There is no random value beside the share in the sum: a share is 256 bits that nobody can guess, so its sum tells nothing, and
//! a share that was written down on paper is enough to check it.

use aws_lc_rs::digest::{Context, SHA256};

use crate::{Purpose, Share, VolumeId, octets};

const LABEL: &[u8] = b"postkeep commitment 1";

/// SHA-256 of a share and of what it is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitment([u8; 32]);

impl Commitment {
    /// That to `share`, one of `purpose`'s of the volume in this epoch.
    #[must_use]
    pub fn to(share: &Share, purpose: Purpose, volume: &VolumeId, epoch: u64) -> Self {
        let mut sum = Context::new(&SHA256);
        // Each part has a fixed length, but for the names, which end with a zero that they cannot contain.
        for part in [LABEL, &[0], purpose.name().as_bytes(), &[0], volume.as_str().as_bytes(), &[0]] {
            sum.update(part);
        }
        sum.update(&epoch.to_be_bytes());
        sum.update(&[share.place.get()]);
        sum.update(share.values.expose());
        let mut octets = [0; 32];
        octets.copy_from_slice(sum.finish().as_ref());
        Self(octets)
    }

    /// Whether it is that to `share`.
    #[must_use]
    pub fn is_to(&self, share: &Share, purpose: Purpose, volume: &VolumeId, epoch: u64) -> bool {
        *self == Self::to(share, purpose, volume, epoch)
    }
}

octets::as_hexadecimal!(Commitment, 32, "a commitment");
