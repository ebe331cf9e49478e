//! DKIM signatures (RFC 6376, RFC 8301, RFC 8463), made at delivery with the keys that are
//! configured now: relaxed/relaxed, SHA-256, RSA and Ed25519.
//!
//! The body is hashed once for a message; each signature then costs a walk over the headers and
//! one private-key operation. Headers that a receiver acts on are *oversigned*: they are named
//! once more than they are present, so that none can be added on the way.
//!
//! Canonicalization is our own, because it has to agree with every verifier to the octet;
//! keys and the private-key operations are mail-auth's. So is the verifier that our own signatures are
//! held against.

mod canonical;
mod header;
mod key;
mod signer;
mod verifier;

pub use canonical::body_hash;
pub use key::{DkimError, Key};
pub use signer::{KeySelection, Signer, sign};
pub use verifier::{try_out, verify};

#[cfg(test)]
mod tests;
