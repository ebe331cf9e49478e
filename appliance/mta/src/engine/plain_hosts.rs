//! Hosts whose TLS is broken, remembered for a while, so that opportunistic
//! delivery does not pay for a failed handshake with every connection.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::clock::Micros;

/// How long a host stays here; then TLS is tried again.
const REMEMBERED: Micros = 3600 * 1_000_000;
/// Hosts remembered at most.
const MOST: usize = 10_000;

/// The hosts, each with the time at which it is forgotten.
#[derive(Debug, Default)]
pub(crate) struct PlainHosts(Mutex<HashMap<Box<str>, Micros>>);

impl PlainHosts {
    /// Is TLS with this host known to fail?
    pub(crate) fn contains(&self, host: &str, now: Micros) -> bool {
        self.0.lock().get(host).is_some_and(|until| *until > now)
    }

    /// A handshake with this host has failed.
    pub(crate) fn insert(&self, host: &str, now: Micros) {
        let mut hosts = self.0.lock();
        if hosts.len() >= MOST {
            hosts.retain(|_, until| *until > now);
        }
        if hosts.len() < MOST {
            hosts.insert(host.into(), now + REMEMBERED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_forgotten_after_an_hour_and_the_list_is_bounded() {
        let hosts = PlainHosts::default();
        hosts.insert("mx.example", 0);
        assert!(hosts.contains("mx.example", REMEMBERED - 1));
        assert!(!hosts.contains("mx.example", REMEMBERED));
        for number in 0..2 * MOST {
            hosts.insert(&number.to_string(), REMEMBERED);
        }
        assert_eq!(hosts.0.lock().len(), MOST);
    }
}
