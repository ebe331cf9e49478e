//! One step of the list's history, without the address: what journal, memory and index are made of.

use std::sync::Arc;

use postkeep_smtp::Address;

use crate::entry::{Origin, Reason};
use crate::secret::{KEY_LENGTH, Key};

/// Octets of what stands behind the key, in the journal and in the index: scope, reason, origin, time.
pub(crate) const REST_LENGTH: usize = 4 + 1 + 1 + 4;
/// Octets of a change in the journal.
pub(crate) const CHANGE_LENGTH: usize = 1 + KEY_LENGTH + REST_LENGTH;

/// A scope's number; names stand in the journal once. 0 is "all mail".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ScopeNumber(pub(crate) u32);

impl ScopeNumber {
    pub(crate) const ALL: Self = Self(0);
}

/// What one entry is told apart by; at most one entry for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) key: Key,
    pub(crate) scope: ScopeNumber,
    pub(crate) reason: Reason,
}

/// An entry comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) place: Place,
    pub(crate) is_added: bool,
    pub(crate) origin: Origin,
    /// Unix seconds.
    pub(crate) time: u32,
}

impl Change {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.is_added.into());
        out.extend_from_slice(&self.place.key.0);
        self.encode_rest(out);
    }

    /// What stands behind the key.
    pub(crate) fn encode_rest(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.place.scope.0.to_be_bytes());
        out.extend_from_slice(&[self.place.reason.code(), self.origin.code()]);
        out.extend_from_slice(&self.time.to_be_bytes());
    }

    /// `None`: a code that this build does not know.
    pub(crate) fn decode(octets: &[u8; CHANGE_LENGTH]) -> Option<Self> {
        let (is_added, rest) = octets.split_first()?;
        let (key, rest) = rest.split_first_chunk::<KEY_LENGTH>()?;
        let is_added = match is_added {
            0 => false,
            1 => true,
            _ => return None,
        };
        Self::decode_rest(Key(*key), is_added, rest)
    }

    /// A change of that key from what stands behind it.
    pub(crate) fn decode_rest(key: Key, is_added: bool, rest: &[u8]) -> Option<Self> {
        let (scope, rest) = rest.split_first_chunk::<4>()?;
        let ([reason, origin], rest) = rest.split_first_chunk::<2>()?;
        Some(Self {
            place: Place { key, scope: ScopeNumber(u32::from_be_bytes(*scope)), reason: Reason::from_code(*reason)? },
            is_added,
            origin: Origin::from_code(*origin)?,
            time: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// A change with what is sealed of it.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) change: Change,
    /// Absent when only its key came back.
    pub(crate) address: Option<Address>,
    pub(crate) note: Arc<str>,
}
