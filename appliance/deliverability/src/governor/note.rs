//! What is kept in the store about one lane, provider or stream: two horizons and a back-off state.
//! A note is read back whole or not at all.

use postkeep_configuration::units::{Duration, Rate};

use crate::backoff::Backoff;
use crate::pacer::Horizon;
use crate::{DAY, Micros};

/// Version octet of the stored form.
const VERSION: u8 = 1;
const CONNECTIONS: u8 = 1;
const MESSAGES: u8 = 2;

/// One note, read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// Horizon of the connection rate.
    pub connections: Option<Horizon>,
    /// Horizon of the message rate.
    pub messages: Option<Horizon>,
    /// The lane's back-off state; normal for providers and streams.
    pub backoff: Backoff,
}

impl Note {
    /// Reads a note; `None` when it is damaged, empty, or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, bytes) = bytes.split_first()?;
        let (flags, mut bytes) = bytes.split_first()?;
        if *version != VERSION || flags & !(CONNECTIONS | MESSAGES) != 0 {
            return None;
        }
        let connections = if flags & CONNECTIONS != 0 { Some(decode_horizon(&mut bytes)?) } else { None };
        let messages = if flags & MESSAGES != 0 { Some(decode_horizon(&mut bytes)?) } else { None };
        Some(Self { connections, messages, backoff: Backoff::decode(bytes)? })
    }

    /// Whether nothing in it matters any more.
    pub(super) fn is_forgettable(&self, now: Micros) -> bool {
        [self.connections, self.messages].into_iter().flatten().all(|horizon| horizon.until.saturating_add(DAY) <= now)
            && backoff_is_forgettable(&self.backoff, now)
    }
}

/// A lane that is slow, but has heard of no failure for a day, may begin anew.
pub(super) fn backoff_is_forgettable(backoff: &Backoff, now: Micros) -> bool {
    backoff.is_normal()
        || (backoff.may_connect(now) && backoff.last_failure().is_none_or(|(at, _)| at.saturating_add(DAY) <= now))
}

/// Appends the stored form; nothing when there is nothing to keep.
pub(super) fn encode(
    connections: Option<Horizon>,
    messages: Option<Horizon>,
    backoff: Option<&Backoff>,
    out: &mut Vec<u8>,
) {
    let flags = if connections.is_some() { CONNECTIONS } else { 0 } | if messages.is_some() { MESSAGES } else { 0 };
    out.extend_from_slice(&[VERSION, flags]);
    for horizon in [connections, messages].into_iter().flatten() {
        out.extend_from_slice(&horizon.until.to_le_bytes());
        out.extend_from_slice(&horizon.rate.count.to_le_bytes());
        out.extend_from_slice(&horizon.rate.per.as_micros().to_le_bytes());
        out.extend_from_slice(&horizon.finest.to_le_bytes());
    }
    if let Some(backoff) = backoff {
        backoff.encode(out);
    }
    if out.len() == 2 && flags == 0 {
        out.clear();
    }
}

fn decode_horizon(bytes: &mut &[u8]) -> Option<Horizon> {
    let (until, rest) = bytes.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (per, rest) = rest.split_first_chunk::<8>()?;
    let (finest, rest) = rest.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(Horizon {
        until: u64::from_le_bytes(*until),
        rate: Rate::new(u32::from_le_bytes(*count), Duration::from_micros(u64::from_le_bytes(*per)))?,
        finest: u64::from_le_bytes(*finest),
    })
}
