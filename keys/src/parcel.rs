//! What shares, answers and challenges have in common inside their age files: a line that says what it is, a line of JSON that says which,
//! and the secret alone behind it, so that no parser makes copies of it.

use std::num::NonZeroU8;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::{SECRET, Secret, Share};

/// Octets of a share: its place and its values.
pub(crate) const SHARE: usize = 1 + SECRET;

/// The content of a file that begins with `begins`, with its `head` and the parts of its secret.
pub(crate) fn pack(begins: &[u8], head: &impl Serialize, secret: &[&[u8]]) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let head = serde_json::to_vec(head)?;
    let size = secret.iter().fold(begins.len() + head.len() + 1, |size, part| size + part.len());
    // Large enough from the start: a vector that grew would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(size));
    for part in [begins, &head, b"\n"].iter().chain(secret) {
        content.extend_from_slice(part);
    }
    Ok(content)
}

/// The head, and the last `N` octets, of what [`pack`] has made.
pub(crate) fn unpack<'a, T: DeserializeOwned, const N: usize>(
    begins: &[u8],
    content: &'a [u8],
) -> Option<(T, &'a [u8; N])> {
    let (head, secret) = content.strip_prefix(begins)?.split_last_chunk()?;
    Some((serde_json::from_slice(head.strip_suffix(b"\n")?).ok()?, secret))
}

/// The share in its octets; nothing, where its place is none.
pub(crate) fn share([place, values @ ..]: &[u8; SHARE]) -> Option<Share> {
    Some(Share { place: NonZeroU8::new(*place)?, values: Secret::fill(|to| *to = *values) })
}
