//! One-click unsubscribe (RFC 8058): what a stream asks of its mail, and where the box's own links lead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a stream does about one-click unsubscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OneClick {
    /// Nothing: mail that nobody subscribed to, such as receipts.
    #[default]
    Off,
    /// Mail without a whole pair of `List-Unsubscribe` and `List-Unsubscribe-Post` goes, is counted, and its record says what it lacks.
    Warn,
    /// Mail without a whole pair, or without a signature over it, is refused with 550 5.7.1.
    Require,
    /// The box writes its own pair for each recipient at delivery; a whole pair of the sender's stays as it is. Needs `[unsubscribe]`.
    Add,
}

/// For which mail an address is suppressed that has unsubscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum UnsubscribeScope {
    /// Mail of the list that `List-Id` named; without one, mail of the stream.
    #[default]
    List,
    /// Mail of the stream.
    Stream,
    /// All mail.
    All,
}

/// `[unsubscribe]`: the box's own links for one-click unsubscribe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Unsubscribe {
    /// How receivers reach an HTTP door of the box that serves `unsubscribe`, `"https://mail.example.com"`; a link is this,
    /// `/u/` and a token.
    pub url: String,
    /// What an unsubscribed address is suppressed for.
    #[serde(default)]
    pub scope: UnsubscribeScope,
}
