//! Checks passwords. Argon2id is heavy by intent, so it runs beside the runtime, few at a
//! time; who was right a moment ago is remembered by a keyed sum. A name that does
//! not exist costs as much as a wrong password.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use aws_lc_rs::hmac;
use parking_lot::Mutex;
use postkeep_smtp::server::{AuthResult, Password};
use tokio::sync::Semaphore;

use crate::tables::Tables;

/// How long a right password is known without Argon2id.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Clients that may wait for their check; the next ones are told to come later.
const WAITING: usize = 64;

/// Checks and remembers.
pub(crate) struct Authenticator {
    /// Checks that run at once.
    running: Arc<Semaphore>,
    /// Checks that run or wait.
    admitted: Semaphore,
    key: hmac::Key,
    remembered: Mutex<HashMap<String, Remembered>>,
}

struct Remembered {
    sum: hmac::Tag,
    hash: Arc<str>,
    until: Instant,
}

impl Authenticator {
    pub(crate) fn new() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let at_once = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self {
            running: Arc::new(Semaphore::new(at_once)),
            admitted: Semaphore::new(at_once + WAITING),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new())?,
            remembered: Mutex::new(HashMap::new()),
        })
    }

    pub(crate) async fn check(&self, tables: &Tables, name: &str, password: Password) -> AuthResult {
        let known = tables.credentials.get(name).map(|credential| Arc::clone(&credential.hash));
        if let Some(hash) = &known
            && self.is_remembered(name, hash, &password)
        {
            return AuthResult::Accepted;
        }
        // For an unknown name some other hash is worked through and its result ignored.
        let Some(hash) = known.clone().or_else(|| tables.credentials.values().next().map(|any| Arc::clone(&any.hash)))
        else {
            return AuthResult::Rejected;
        };
        let Ok(_admitted) = self.admitted.try_acquire() else {
            return AuthResult::Unavailable;
        };
        let Ok(permit) = Arc::clone(&self.running).acquire_owned().await else {
            return AuthResult::Unavailable;
        };
        let (work_hash, work_password) = (Arc::clone(&hash), password.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let verified = verify(&work_hash, work_password.expose());
            drop(permit);
            verified
        })
        .await;
        match (verified, known) {
            (Ok(true), Some(hash)) => {
                self.remember(name, hash, &password);
                AuthResult::Accepted
            }
            (Ok(_), _) => AuthResult::Rejected,
            (Err(_), _) => AuthResult::Unavailable,
        }
    }

    fn is_remembered(&self, name: &str, hash: &Arc<str>, password: &Password) -> bool {
        let remembered = self.remembered.lock();
        remembered.get(name).is_some_and(|entry| {
            entry.hash == *hash
                && Instant::now() < entry.until
                && hmac::verify(&self.key, password.expose(), entry.sum.as_ref()).is_ok()
        })
    }

    /// Only names that exist are remembered, so there are never more entries than credentials ever were.
    fn remember(&self, name: &str, hash: Arc<str>, password: &Password) {
        let sum = hmac::sign(&self.key, password.expose());
        let until = Instant::now() + REMEMBERED;
        self.remembered.lock().insert(name.to_owned(), Remembered { sum, hash, until });
    }

    /// Forgets credentials that are gone or changed.
    pub(crate) fn forget_others(&self, tables: &Tables) {
        self.remembered
            .lock()
            .retain(|name, entry| tables.credentials.get(name).is_some_and(|credential| credential.hash == entry.hash));
    }
}

fn verify(phc: &str, password: &[u8]) -> bool {
    PasswordHash::new(phc).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}
