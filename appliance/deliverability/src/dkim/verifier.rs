//! Our own signatures, held against the public halves of our keys: what a receiver would find, without asking DNS.
//!
//! The verifier is mail-auth's, from its parser to the public-key operation, so that a slip in our own canonical forms
//! shows as it would outside. The record is the one that [`Key::dns_record`] says must be published.

use std::sync::Arc;

use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;

use super::canonical::body_hash;
use super::key::{DkimError, Key, algorithm_name};
use super::signer::{KeySelection, sign};

/// Holds a message, as it was sent, against all keys that must have signed it. That a signature has expired since is no
/// fault of the key.
///
/// # Errors
/// Names the first key whose signature is missing or does not verify.
pub fn verify(keys: &KeySelection, message: &[u8]) -> Result<(), DkimError> {
    let message = AuthenticatedMessage::parse(message);
    keys.keys().iter().try_for_each(|key| {
        let verified = match &message {
            Some(message) => verify_with(key, message),
            None => Err("the message has no header".to_owned()),
        };
        verified.map_err(|why| DkimError::Unverified {
            domain: key.domain.clone(),
            selector: key.selector.clone(),
            why,
        })
    })
}

/// Signs something with a key, and holds the signature against the public half of the key. `now`: seconds since the Unix
/// epoch.
///
/// # Errors
/// Names the key that does not sign, or whose signature does not verify.
pub fn try_out(key: &Arc<Key>, now: u64) -> Result<(), DkimError> {
    let keys = KeySelection::of(key);
    let header = format!("From: postkeep@{}\r\nSubject: a key is tried out\r\n\r\n", key.domain);
    let body = b"Nobody is sent this.\r\n";
    let mut message = Vec::new();
    sign(&keys, &[header.as_bytes()], &body_hash(body), now, &mut message)?;
    message.extend_from_slice(header.as_bytes());
    message.extend_from_slice(body);
    verify(&keys, &message)
}

fn verify_with(key: &Key, message: &AuthenticatedMessage<'_>) -> Result<(), String> {
    let field = message
        .dkim_headers
        .iter()
        .find(|field| {
            field.header.d.eq_ignore_ascii_case(&key.domain) && field.header.s.eq_ignore_ascii_case(&key.selector)
        })
        .ok_or("it is not there")?;
    let signature = &field.header;
    if signature.a.name() != algorithm_name(key) {
        return Err(format!("it is made with {}", signature.a.name()));
    }
    let hash = HashAlgorithm::from(signature.a);
    let is_of_body = message.body_hashes.iter().any(|(form, algorithm, length, digest)| {
        (*form, *algorithm, *length) == (signature.cb, hash, signature.l) && *digest == signature.bh
    });
    if !is_of_body {
        return Err("it is of another body".to_owned());
    }
    let record = DomainKey::parse(key.dns_record().as_bytes())
        .map_err(|error| format!("the record of the key cannot be read: {error}"))?;
    let value = without_signature(field.value);
    let mut headers = message.signed_headers(&signature.h, field.name, &value);
    record.p.verify(&mut headers, &signature.b, signature.ch, signature.a).map_err(|error| error.to_string())
}

/// The value of a signature's field as it was signed: with an empty `b=` and without its line end (RFC 6376 §3.7).
pub(super) fn without_signature(value: &[u8]) -> Vec<u8> {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let mut out = Vec::with_capacity(value.len());
    for (number, tag) in value.split(|octet| *octet == b';').enumerate() {
        if number > 0 {
            out.push(b';');
        }
        let kept = match memchr::memchr(b'=', tag).and_then(|at| tag.split_at_checked(at + 1)) {
            Some((name, _)) if name.trim_ascii().strip_suffix(b"=").is_some_and(|name| name.trim_ascii() == b"b") => {
                name
            }
            _ => tag,
        };
        out.extend_from_slice(kept);
    }
    out
}
