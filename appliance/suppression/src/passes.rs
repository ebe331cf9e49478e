//! Passes: who is being written to right now.
//!
//! A delivery takes a pass for its recipients *before* it asks whether they are suppressed, and gives
//! it back when the receiver can get nothing any more. Whoever suppresses an address makes that
//! visible first and then waits for the passes that are out. So either the delivery sees the suppression, or the
//! suppression is acknowledged after the delivery has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::secret::{Key, KeyMap};

/// Numbers of passes; mostly one.
type Numbers = SmallVec<[u64; 1]>;

/// Parts of the table, so that deliveries seldom meet.
const PARTS: usize = 64;

pub(crate) struct Passes {
    /// Numbers of the passes that are out, by key.
    parts: [Mutex<KeyMap<Numbers>>; PARTS],
    /// Number of the next pass.
    next: AtomicU64,
    /// Those who wait for a pass to come back.
    waiting: AtomicUsize,
    returned: Notify,
}

/// Recipients of a delivery under way. Dropping it gives it back.
#[must_use = "without it a suppression does not wait for the delivery"]
pub struct Pass {
    passes: Arc<Passes>,
    keys: SmallVec<[Key; 2]>,
    number: u64,
}

impl Pass {
    /// The keys, in the order of the recipients.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        for key in &self.keys {
            let mut part = self.passes.part(*key).lock();
            if let Some(numbers) = part.get_mut(key) {
                if let Some(place) = numbers.iter().position(|number| *number == self.number) {
                    numbers.swap_remove(place);
                }
                if numbers.is_empty() {
                    part.remove(key);
                }
            }
        }
        if self.passes.waiting.load(Ordering::SeqCst) > 0 {
            self.passes.returned.notify_waiters();
        }
    }
}

impl Passes {
    pub(crate) fn new() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            returned: Notify::new(),
        }
    }

    pub(crate) fn take(self: &Arc<Self>, keys: SmallVec<[Key; 2]>) -> Pass {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        for key in &keys {
            self.part(*key).lock().entry(*key).or_default().push(number);
        }
        Pass { passes: Arc::clone(self), keys, number }
    }

    /// Returns when none of the keys is in a pass that was out at the call.
    pub(crate) async fn wait_for(&self, mut keys: Vec<Key>) {
        // Who takes a pass from now on sees what was made visible before this call.
        // A change, not only a look: whoever counts on from it sees what came before it.
        let before = self.next.fetch_add(1, Ordering::SeqCst);
        self.drop_idle(&mut keys, before);
        if keys.is_empty() {
            return;
        }
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            // From here on no return is missed.
            returned.as_mut().enable();
            self.drop_idle(&mut keys, before);
            if keys.is_empty() {
                return;
            }
            returned.await;
        }
    }

    /// Keeps the keys with a pass out that is older than that number.
    fn drop_idle(&self, keys: &mut Vec<Key>, before: u64) {
        keys.retain(|key| {
            self.part(*key).lock().get(key).is_some_and(|numbers| numbers.iter().any(|number| *number < before))
        });
    }

    /// Keeps the keys with a pass out now.
    pub(crate) fn keep_out(&self, keys: &mut Vec<Key>) {
        self.drop_idle(keys, u64::MAX);
    }

    fn part(&self, key: Key) -> &Mutex<KeyMap<Numbers>> {
        let [.., last] = key.0;
        &self.parts[usize::from(last) % PARTS]
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(number: u8) -> Key {
        Key([number; crate::secret::KEY_LENGTH])
    }

    #[tokio::test]
    async fn whoever_suppresses_waits_for_the_passes_that_are_out_and_for_no_others() {
        let passes = Arc::new(Passes::new());
        let first = passes.take([key(1), key(2)].into_iter().collect());
        let second = passes.take([key(1)].into_iter().collect());
        passes.wait_for(vec![key(3)]).await;
        let theirs = Arc::clone(&passes);
        let waiting = tokio::spawn(async move { theirs.wait_for(vec![key(1), key(3)]).await });
        drop(first);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished(), "one pass is still out");
        // Whoever comes later is not waited for, or a busy address would never be done.
        let later = passes.take([key(1)].into_iter().collect());
        drop(second);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        drop(later);
        assert!(passes.parts.iter().all(|part| part.lock().is_empty()));
    }
}
