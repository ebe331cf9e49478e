//! SSH keys of the kind Ed25519, for opening what the box has encrypted to them (age, `ssh-ed25519`). Of the kinds of SSH keys it is the only
//! one that a box encrypts to.

use age::secrecy::ExposeSecret as _;
use age::{DecryptError, Identity};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::primitives::{aead_decrypt, hkdf};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use ssh_key::PrivateKey;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::terminal::Terminal;

/// How such a file begins.
pub(crate) const BEGINS: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const NAME: &str = "ssh-ed25519";
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";

/// A key, on Curve25519, and its public half as it goes over the wire.
pub(crate) struct SshEd25519 {
    secret: StaticSecret,
    wire: Vec<u8>,
}

/// The key in the file `text`; its passphrase is asked for.
pub(crate) fn read(text: &str) -> Result<SshEd25519, String> {
    let damaged = |error: ssh_key::Error| format!("the SSH key cannot be read: {error}");
    let mut key = PrivateKey::from_openssh(text).map_err(damaged)?;
    if key.is_encrypted() {
        let passphrase = Terminal::secret("The passphrase of the SSH key")
            .ok_or("nobody can be asked for the passphrase of the SSH key: there is no terminal")?;
        key = key
            .decrypt(passphrase.expose_secret())
            .map_err(|_| "that is not the passphrase of the SSH key".to_owned())?;
    }
    let pair = key.key_data().ed25519().ok_or("only ssh-ed25519 is taken of the kinds of SSH keys")?;
    // RFC 8032, 5.1.5: the first half of the sum is the scalar; X25519 clamps it as Ed25519 does.
    let sum = Zeroizing::new(digest(&SHA512, pair.private.as_ref()).as_ref().to_vec());
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&sum[..32]);
    let wire = key.public_key().to_bytes().map_err(damaged)?;
    Ok(SshEd25519 { secret: StaticSecret::from(*scalar), wire })
}

impl SshEd25519 {
    /// The file key in a stanza that is for this key.
    fn unwrap(&self, stanza: &Stanza, share: &str) -> Result<FileKey, DecryptError> {
        let share = BASE64_STANDARD_NO_PAD.decode(share).map_err(|_| DecryptError::InvalidHeader)?;
        let share: [u8; 32] = share.try_into().map_err(|_| DecryptError::InvalidHeader)?;
        let exchanged = self.secret.diffie_hellman(&PublicKey::from(share));
        if !exchanged.was_contributory() {
            return Err(DecryptError::InvalidHeader);
        }
        let tweak = StaticSecret::from(hkdf(&self.wire, LABEL, &[]));
        let exchanged = tweak.diffie_hellman(&PublicKey::from(*exchanged.as_bytes()));
        let salt = [share, PublicKey::from(&self.secret).to_bytes()].concat();
        let wrapping = Zeroizing::new(hkdf(&salt, LABEL, exchanged.as_bytes()));
        let opened =
            aead_decrypt(&wrapping, FILE_KEY_BYTES, &stanza.body).map_err(|_| DecryptError::DecryptionFailed)?;
        let opened = Zeroizing::new(opened);
        Ok(FileKey::init_with_mut(|key| key.copy_from_slice(&opened)))
    }
}

impl Identity for SshEd25519 {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let [tag, share] = &stanza.args[..] else { return None };
        let own = BASE64_STANDARD_NO_PAD.encode(&digest(&SHA256, &self.wire).as_ref()[..4]);
        (stanza.tag == NAME && *tag == own).then(|| self.unwrap(stanza, share))
    }
}
