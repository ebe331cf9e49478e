//! What a host offers and cannot do, or that it does not answer, remembered for a
//! while, so that not every connection pays for finding it out again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Micros;

/// How long a host counts as one without TLS that works.
pub(crate) const TLS_MEMORY: Micros = 15 * 60 * 1_000_000;
/// How long a host counts as one that does not know BDAT.
pub(crate) const CHUNKING_MEMORY: Micros = 3600 * 1_000_000;
/// Faults remembered at most.
const MOST: usize = 10_000;

/// What does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// The TLS handshake after STARTTLS.
    Tls,
    /// BDAT.
    Chunking,
    /// It did not take a connection or did not want it: the other hosts go first.
    Connection,
}

impl Fault {
    /// How often it must have been seen. One dropped connection in a handshake is not yet a host without TLS.
    const fn times(self) -> u32 {
        match self {
            Self::Tls => 2,
            Self::Chunking | Self::Connection => 1,
        }
    }
}

#[derive(Debug)]
struct Seen {
    until: Micros,
    times: u32,
    what: Arc<str>,
}

/// The faults: when each is forgotten, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct HostFaults(Mutex<HashMap<(Box<str>, Fault), Seen>>);

impl HostFaults {
    /// What was seen, if this host is known to have the fault.
    pub(crate) fn find(&self, host: &str, fault: Fault, now: Micros) -> Option<Arc<str>> {
        let faults = self.0.lock();
        if faults.is_empty() {
            return None;
        }
        let seen = faults.get(&(host.into(), fault))?;
        (seen.until > now && seen.times >= fault.times()).then(|| Arc::clone(&seen.what))
    }

    /// The fault was seen at this host; it is remembered for `memory`.
    pub(crate) fn insert(&self, host: &str, fault: Fault, what: &str, now: Micros, memory: Micros) {
        let mut faults = self.0.lock();
        if faults.len() >= MOST {
            faults.retain(|_, seen| seen.until > now);
        }
        if faults.len() >= MOST {
            return;
        }
        let seen = faults.entry((host.into(), fault)).or_insert_with(|| Seen { until: 0, times: 0, what: "".into() });
        seen.times = if seen.until > now { seen.times.saturating_add(1) } else { 1 };
        seen.until = now + memory;
        seen.what = what.into();
    }

    /// It works after all.
    pub(crate) fn clear(&self, host: &str, fault: Fault) {
        let mut faults = self.0.lock();
        if !faults.is_empty() {
            faults.remove(&(host.into(), fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_forgotten_after_its_time_or_when_it_works_and_the_list_is_bounded() {
        let faults = HostFaults::default();
        let memory = CHUNKING_MEMORY;
        faults.insert("mx.example", Fault::Chunking, "what?", 0, memory);
        assert_eq!(faults.find("mx.example", Fault::Chunking, memory - 1).as_deref(), Some("what?"));
        assert_eq!(faults.find("mx.example", Fault::Tls, 1), None);
        assert_eq!(faults.find("mx.example", Fault::Chunking, memory), None);
        faults.clear("mx.example", Fault::Chunking);
        assert_eq!(faults.find("mx.example", Fault::Chunking, 1), None);
        for number in 0..2 * MOST {
            faults.insert(&number.to_string(), Fault::Chunking, "", memory, memory);
        }
        assert_eq!(faults.0.lock().len(), MOST);
    }

    #[test]
    fn one_failed_handshake_is_no_reason_to_go_without_tls_and_two_in_a_row_are() {
        let faults = HostFaults::default();
        let memory = TLS_MEMORY;
        faults.insert("mx.example", Fault::Tls, "closed", 0, memory);
        assert_eq!(faults.find("mx.example", Fault::Tls, 1), None);
        faults.insert("mx.example", Fault::Tls, "closed", memory + 1, memory);
        assert_eq!(faults.find("mx.example", Fault::Tls, memory + 2), None, "the first one was long ago");
        faults.insert("mx.example", Fault::Tls, "closed again", memory + 2, memory);
        assert_eq!(faults.find("mx.example", Fault::Tls, memory + 3).as_deref(), Some("closed again"));
    }
}
