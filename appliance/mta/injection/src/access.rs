//! Access tokens: 256 random bits, known here only by their SHA-256.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use postkeep_configuration::Configuration;
use postkeep_intake::admission::SenderPolicy;

/// What a token begins with, so that people and scanners of repositories know one when they see it.
pub const TOKEN_PREFIX: &str = "postkeep_";

/// The value for `hash` of a token. A token has too many bits to be guessed, so a quick sum is enough.
pub fn hash_of(token: &str) -> String {
    let sum = digest(&SHA256, token.as_bytes());
    sum.as_ref().iter().fold("sha256:".to_owned(), |text, octet| text + &format!("{octet:02x}"))
}

/// Policies by hash of the token.
#[derive(Default)]
pub(crate) struct Access(HashMap<String, Arc<SenderPolicy>>);

impl Access {
    pub(crate) fn new(configuration: &Configuration) -> Self {
        let policy = |token: &postkeep_configuration::Token| {
            SenderPolicy::new(&token.name, &token.sender_domains, token.stream.as_deref(), &token.may_choose_streams)
                .with_powermta_headers(token.powermta_headers)
                .with_suppression(token.may_suppress)
        };
        Self(configuration.token.iter().map(|token| (token.hash.clone(), Arc::new(policy(token)))).collect())
    }

    /// Who has that token. The look-up is by a sum that the caller cannot steer, so its time tells nothing.
    pub(crate) fn policy(&self, token: &str) -> Option<Arc<SenderPolicy>> {
        self.0.get(&hash_of(token)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle is `printf abc | sha256sum`.
    #[test]
    fn the_hash_is_that_of_sha256sum() {
        assert_eq!(hash_of("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
