//! Password hashes of credentials: Argon2id in PHC form, and nothing else.

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{Error, PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};

/// Memory of a new hash in KiB; with [`PASSES`] and [`LANES`] what OWASP's password storage
/// cheat sheet names as its first choice for Argon2id.
pub const MEMORY: u32 = 19_456;
/// Passes of a new hash.
pub const PASSES: u32 = 2;
/// Lanes of a new hash.
pub const LANES: u32 = 1;

/// Most memory that a hash in a configuration may ask for, in KiB: each AUTH attempt takes that much.
const MOST_MEMORY: u32 = 1 << 20;
/// Most passes that a hash in a configuration may ask for.
const MOST_PASSES: u32 = 64;

/// The PHC form of an Argon2id hash of `password` with a fresh salt, for `password-hash`.
/// Fails only when the system has no randomness or no memory, or the password is longer than 4 GiB.
pub fn hash_password(password: &str) -> Result<String, Error> {
    let parameters = Params::new(MEMORY, PASSES, LANES, None)?;
    let salt = SaltString::generate(&mut OsRng);
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    Ok(hasher.hash_password(password.as_bytes(), &salt)?.to_string())
}

/// What is wrong with a hash, as `(message, is_fatal)`; never repeats any of its text,
/// which might be a password somebody wrote in its place.
pub(crate) fn complaint(text: &str) -> Option<(&'static str, bool)> {
    let Ok(hash) = PasswordHash::new(text) else {
        return Some(("this is not a password hash in PHC form", true));
    };
    if hash.algorithm.as_str() != "argon2id" {
        return Some(("this hash is not Argon2id", true));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Some(("this hash lacks its salt or its sum", true));
    }
    let Ok(parameters) = Params::try_from(&hash) else {
        return Some(("this hash has parameters that Argon2id does not know", true));
    };
    if parameters.m_cost() > MOST_MEMORY || parameters.t_cost() > MOST_PASSES {
        return Some(("this hash asks for more than 1GiB of memory or 64 passes at each AUTH", true));
    }
    if parameters.m_cost() < 7 * 1024 {
        return Some(("this hash was made with less than 7MiB of memory and is cheap to guess", false));
    }
    None
}

#[cfg(test)]
mod tests {
    use argon2::PasswordVerifier;

    use super::*;

    #[test]
    fn a_new_hash_verifies_its_password_and_no_other() {
        let text = hash_password("correct horse").expect("hash");
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_ne!(text, hash_password("correct horse").expect("hash"), "the salt is fresh");
        assert_eq!(complaint(&text), None);
        let hash = PasswordHash::new(&text).expect("PHC");
        assert!(Argon2::default().verify_password(b"correct horse", &hash).is_ok());
        assert!(Argon2::default().verify_password(b"correct horsf", &hash).is_err());
    }

    #[test]
    fn other_hashes_and_plain_passwords_are_refused() {
        let fatal = |text| complaint(text).is_some_and(|(_, fatal)| fatal);
        assert!(fatal("hunter2"));
        assert!(fatal(""));
        assert!(fatal("$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW"));
        assert!(fatal("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA"));
        assert!(fatal("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ"));
        assert!(fatal("$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"));
        assert!(!fatal("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"));
    }
}
