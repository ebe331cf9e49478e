//! Waiting for something to become true, with an end.

use std::time::{Duration, Instant};

/// Polls `check` until it gives a value.
///
/// # Panics
/// After `limit`, saying `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Polls `check` until it is true.
///
/// # Panics
/// After `limit`, saying `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    wait_for(what, limit, || check().then_some(()));
}
