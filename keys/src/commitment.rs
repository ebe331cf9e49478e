//! What the box keeps of a share: its sum, by which a wrong share is named before it can spoil the secret, and by which a custodian
//! sees that theirs is the right one without sending it anywhere.
//!
//! There is no random value beside the share in the sum: a share is 256 bits that nobody can guess, so its sum tells nothing, and
//! a share that was written down on paper is enough to check it.

use aws_lc_rs::digest::{Context, SHA256};

use crate::{Name, Purpose, Recipient, Share, VolumeId, octets};

const LABEL: &[u8] = b"postkeep commitment 1";

/// SHA-256 of a share, of what it is a share of, and of whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitment([u8; 32]);

/// What a share is a share of, and whose.
#[derive(Debug, Clone, Copy)]
pub struct Belonging<'a> {
    /// What it opens.
    pub purpose: Purpose,
    /// Of which volume.
    pub volume: &'a VolumeId,
    /// Of which key set.
    pub epoch: u64,
    /// Whose.
    pub name: &'a Name,
    /// The keys that it was encrypted to: who is asked and believed by them later must be who was given the share.
    pub recipients: &'a [Recipient],
}

impl Commitment {
    /// That to `share`.
    #[must_use]
    pub fn to(share: &Share, belonging: Belonging<'_>) -> Self {
        let Belonging { purpose, volume, epoch, name, recipients } = belonging;
        let mut sum = Context::new(&SHA256);
        // Each part has a fixed length, but for the texts, which end with a zero that they cannot contain.
        sum.update(LABEL);
        sum.update(&[0]);
        for text in [purpose.name(), volume.as_str(), name.as_str()] {
            sum.update(text.as_bytes());
            sum.update(&[0]);
        }
        sum.update(&epoch.to_be_bytes());
        for recipient in recipients {
            sum.update(recipient.to_string().as_bytes());
            sum.update(&[0]);
        }
        sum.update(&[0, share.place.get()]);
        sum.update(share.values.expose());
        let mut octets = [0; 32];
        octets.copy_from_slice(sum.finish().as_ref());
        Self(octets)
    }
}

octets::as_hexadecimal!(Commitment, 32, "a commitment");
