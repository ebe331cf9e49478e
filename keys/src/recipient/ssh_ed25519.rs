//! Recipients that are SSH keys of the kind Ed25519 (age, `ssh-ed25519`): encrypting only. The age crate's feature `ssh` has both
//! halves, and brings `rsa` 0.9 with them (RUSTSEC-2023-0071, without a remedy), also where no RSA key is ever used.
//!
//! The point of the signature key is taken to its place on Curve25519, and the exchange is as for X25519, with one multiplication
//! more by a number made of the key, so that a share cannot be passed on to whoever has another key with the same point.

use std::collections::HashSet;

use age_core::format::{FileKey, Stanza};
use age_core::primitives::{aead_encrypt, hkdf};
use age_core::secrecy::ExposeSecret as _;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use curve25519_dalek::edwards::CompressedEdwardsY;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize as _;

/// The name of the kind, in authorized_keys and in age's header.
pub(super) const NAME: &str = "ssh-ed25519";
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
/// RFC 8709, 4: two strings, each with its length before it.
const BEGINS: &[u8] = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20";

/// A key, as it goes over the wire and as a point of Curve25519.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SshEd25519 {
    wire: Vec<u8>,
    point: [u8; 32],
}

impl SshEd25519 {
    pub(super) fn parse(key: &str) -> Result<Self, &'static str> {
        let wire = BASE64_STANDARD.decode(key).map_err(|_| "it is not base64")?;
        let octets: [u8; 32] = wire
            .strip_prefix(BEGINS)
            .and_then(|octets| octets.try_into().ok())
            .ok_or("it is cut short, or of another kind than it says")?;
        let point = CompressedEdwardsY(octets).decompress().ok_or("it is no point of the curve")?;
        if point.is_small_order() {
            return Err("with it, everybody could read what is encrypted");
        }
        Ok(Self { wire, point: point.to_montgomery().to_bytes() })
    }

    pub(super) fn wrap_file_key(&self, key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let ephemeral = StaticSecret::random_from_rng(rand_core::OsRng);
        let public = PublicKey::from(&ephemeral);
        let tweak = StaticSecret::from(hkdf(&self.wire, LABEL, &[]));
        // With the tweak, which everybody knows, the first exchange is as good as the second: both are overwritten.
        let first = ephemeral.diffie_hellman(&PublicKey::from(self.point));
        let mut point = PublicKey::from(*first.as_bytes());
        let exchanged = tweak.diffie_hellman(&point);
        point.zeroize();
        let salt = [*public.as_bytes(), self.point].concat();
        let mut wrapping = hkdf(&salt, LABEL, exchanged.as_bytes());
        let body = aead_encrypt(&wrapping, key.expose_secret());
        wrapping.zeroize();
        let tag = digest(&SHA256, &self.wire);
        let args = [&tag.as_ref()[..4], public.as_bytes()].map(|octets| BASE64_STANDARD_NO_PAD.encode(octets)).to_vec();
        Ok((vec![Stanza { tag: NAME.to_owned(), args, body }], HashSet::new()))
    }
}
