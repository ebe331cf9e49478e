//! What is known about a suppressed address: why, for which mail, from where, since when.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest name of a stream or list, in octets.
const LONGEST_NAME: usize = 255;

/// Why an address is in the list. In the order in which one is shown when several hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The recipient called the mail spam.
    Complaint,
    /// The recipient asked for no more.
    Unsubscribe,
    /// The mailbox does not exist or never will take mail again.
    HardBounce,
    /// Somebody of the owner's people said so.
    Manual,
    /// Mail to it was turned away for a reason that is not the recipient's: kept for the record,
    /// it never suppresses.
    Block,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Complaint, Self::Unsubscribe, Self::HardBounce, Self::Manual, Self::Block];

    /// Whether mail is held back for it.
    pub const fn suppresses(self) -> bool {
        !matches!(self, Self::Block)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
            Self::HardBounce => "hard-bounce",
            Self::Manual => "manual",
            Self::Block => "block",
        }
    }

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// From where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A receiver's reply to a delivery.
    Reply,
    /// A bounce or complaint that came back as mail.
    Report,
    /// One click on `List-Unsubscribe` (RFC 8058).
    OneClick,
    /// A call of the API.
    Api,
    /// `postkeep suppression`.
    Command,
    /// A file of another service.
    Import,
}

impl Origin {
    const ALL: [Self; 6] = [Self::Reply, Self::Report, Self::OneClick, Self::Api, Self::Command, Self::Import];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Report => "report",
            Self::OneClick => "one-click",
            Self::Api => "api",
            Self::Command => "command",
            Self::Import => "import",
        }
    }

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// For which mail it holds. Written `all`, `stream:NAME` or `list:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All mail.
    All,
    /// Mail of one stream.
    Stream(Box<str>),
    /// Mail of one list, as its `List-Id` names it (RFC 2919).
    List(Box<str>),
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: write all, stream:NAME or list:NAME, the name 1 to {LONGEST_NAME} octets without spaces")]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let name = |name: &str| {
            let fits = (1..=LONGEST_NAME).contains(&name.len());
            let is_clean = !name.contains(|letter: char| letter.is_whitespace() || letter.is_control());
            (fits && is_clean).then(|| name.into()).ok_or_else(|| ScopeError(text.chars().take(300).collect()))
        };
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("stream", rest)) => name(rest).map(Self::Stream),
            // RFC 2919 §2: List-Id compares without regard to case.
            Some(("list", rest)) => name(&rest.to_lowercase()).map(Self::List),
            _ => Err(ScopeError(text.chars().take(300).collect())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Stream(name) => write!(f, "stream:{name}"),
            Self::List(name) => write!(f, "list:{name}"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Scope {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scope".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "For which mail: all, stream:NAME or list:NAME.",
            "type": "string",
            "pattern": "^(all|stream:\\S+|list:\\S+)$",
        })
    }
}

/// One reason in one scope for one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// Why.
    pub reason: Reason,
    /// For which mail.
    pub scope: Scope,
    /// From where it is known.
    pub origin: Origin,
    /// Since when, Unix seconds.
    pub time: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_as_it_is_written() {
        for text in ["all", "stream:news", "list:weekly.example.org"] {
            assert_eq!(text.parse::<Scope>().map(|scope| scope.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("list:Weekly.Example.ORG".parse(), Ok(Scope::List("weekly.example.org".into())));
        for text in ["", "stream", "stream:", "list:a b", "everything", "stream:\n"] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn codes_stay_what_they_are_on_disk() {
        assert_eq!(Reason::ALL.map(Reason::code), [0, 1, 2, 3, 4]);
        assert_eq!(Origin::ALL.map(Origin::code), [0, 1, 2, 3, 4, 5]);
        assert!(Reason::ALL.iter().all(|reason| Reason::from_code(reason.code()) == Some(*reason)));
        assert_eq!((Reason::from_code(5), Origin::from_code(6)), (None, None));
    }
}
