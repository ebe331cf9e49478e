//! From a secret to what opens the volume: HKDF-SHA-256 (RFC 5869), for one volume and one epoch only.
//!
//! What the TPM gives is mixed in, and does not stand for itself: a TPM that is broken open makes nothing weaker than the shares are.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::{Purpose, SECRET, Secret, VolumeId};

/// What goes into the slot of a volume for `purpose`, from the custodians' secret and, for opening on a machine with a TPM, its.
///
/// # Panics
/// Never: 32 octets are less than HKDF gives.
#[must_use]
pub fn passphrase(secret: &Secret, tpm: Option<&Secret>, purpose: Purpose, volume: &VolumeId, epoch: u64) -> Secret {
    let mut material = Zeroizing::new(Vec::with_capacity(2 * SECRET));
    material.extend_from_slice(secret.expose());
    if let Some(tpm) = tpm {
        material.extend_from_slice(tpm.expose());
    }
    let kind = if tpm.is_some() { "with TPM" } else { "alone" };
    let info = format!("postkeep volume 1, {}, {kind}, epoch {epoch}", purpose.name());
    derived(&material, volume, &info)
}

/// What HKDF-SHA-256 makes of `material` for `volume`, or an export, and for what `info` says.
pub(crate) fn derived(material: &[u8], volume: &VolumeId, info: &str) -> Secret {
    let key = Salt::new(HKDF_SHA256, volume.as_str().as_bytes()).extract(material);
    Secret::fill(|octets| {
        let info = [info.as_bytes()];
        let filled = key.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(octets));
        filled.expect("HKDF gives 32 octets");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_what_goes_in_changes_what_comes_out() {
        let secret = |octet| Secret::fill(|octets| octets.fill(octet));
        let volume: VolumeId = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
        let other: VolumeId = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bee".parse().unwrap();
        let all = [
            passphrase(&secret(1), None, Purpose::Opening, &volume, 1),
            passphrase(&secret(2), None, Purpose::Opening, &volume, 1),
            passphrase(&secret(1), Some(&secret(2)), Purpose::Opening, &volume, 1),
            passphrase(&secret(1), Some(&secret(0)), Purpose::Opening, &volume, 1),
            passphrase(&secret(1), None, Purpose::Recovery, &volume, 1),
            passphrase(&secret(1), None, Purpose::Opening, &other, 1),
            passphrase(&secret(1), None, Purpose::Opening, &volume, 2),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
