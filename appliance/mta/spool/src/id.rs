//! The name of a message: what the intake answers after `queued as`, what every
//! record carries, and what the index is sorted by.

use std::fmt;
use std::str::FromStr;

/// A message's number. Shown and read as 16 lower-case hex digits. The spool gives
/// them out in rising order and never twice, across restarts too.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// The text is not 16 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a message id: 16 digits of 0-9 and a-f are expected")]
pub struct MessageIdError(String);

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 16 || !digits {
            return Err(MessageIdError(text.chars().take(40).collect()));
        }
        u64::from_str_radix(text, 16).map(MessageId).map_err(|_| MessageIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_and_read_as_sixteen_hex_digits() {
        let id = MessageId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "00abcdef01234567");
        assert_eq!("00abcdef01234567".parse(), Ok(id));
        for wrong in ["", "abc", "00ABCDEF01234567", "+0abcdef01234567", "00abcdef012345678"] {
            assert!(wrong.parse::<MessageId>().is_err(), "{wrong}");
        }
    }
}
