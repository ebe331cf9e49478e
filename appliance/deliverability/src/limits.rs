//! What counts for one lane: of all the words that were said about it, the most specific one
//! wins, limit by limit, and each limit remembers whose word it was.
//!
//! From the most specific: `[[lane-limit]]` with the source, `[[lane-limit]]` for every source,
//! `[provider.NAME.lane]`, the shipped rules for the provider, `[lane]`, what is built in.

use std::fmt;
use std::sync::Arc;

use postkeep_configuration::units::Rate;
use postkeep_configuration::{Configuration, LaneLimits};

use crate::provider::Provider;

/// Limits of one lane, plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once.
    pub connections: u32,
    /// New connections per time.
    pub connection_rate: Option<Rate>,
    /// Messages on one connection, 1 or more.
    pub messages_per_connection: u32,
    /// Messages per time.
    pub message_rate: Option<Rate>,
    /// Recipients in one transaction, 1 or more.
    pub recipients_per_transaction: u32,
}

impl Default for Limits {
    /// What is built in.
    fn default() -> Self {
        Self {
            connections: 10,
            connection_rate: None,
            messages_per_connection: 100,
            message_rate: None,
            recipients_per_transaction: 100,
        }
    }
}

/// Whose word a limit is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A `[[lane-limit]]` of this source, or of every source.
    LaneLimit {
        /// The source it names, if it names one.
        source: Option<Arc<str>>,
    },
    /// `[provider.NAME.lane]`.
    ProviderLane {
        /// The provider.
        provider: Arc<str>,
    },
    /// The rules that come with this software.
    Shipped {
        /// The provider.
        provider: Arc<str>,
        /// Where the rule was found.
        source: Arc<str>,
        /// When that was last looked at, year-month-day.
        checked: Arc<str>,
    },
    /// `[lane]`.
    Lane,
    /// Nothing was said.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LaneLimit { source: Some(source) } => write!(f, "[[lane-limit]] for source {source}"),
            Self::LaneLimit { source: None } => f.write_str("[[lane-limit]] for every source"),
            Self::ProviderLane { provider } => write!(f, "[provider.{provider}.lane]"),
            Self::Shipped { provider, source, checked } => {
                write!(f, "shipped rules for {provider} (source {source}, checked {checked})")
            }
            Self::Lane => f.write_str("[lane]"),
            Self::BuiltIn => f.write_str("built in"),
        }
    }
}

/// A limit and whose word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained<T> {
    /// The limit.
    pub value: T,
    /// Whose word.
    pub origin: Origin,
}

/// Limits of one lane, each with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveLimits {
    /// Connections open at once.
    pub connections: Explained<u32>,
    /// New connections per time; `None`: no bound.
    pub connection_rate: Explained<Option<Rate>>,
    /// Messages on one connection.
    pub messages_per_connection: Explained<u32>,
    /// Messages per time; `None`: no bound.
    pub message_rate: Explained<Option<Rate>>,
    /// Recipients in one transaction.
    pub recipients_per_transaction: Explained<u32>,
}

impl EffectiveLimits {
    /// The limits of `source` at `site`, which belongs to `provider`.
    pub fn of(configuration: &Configuration, source: &str, site: &str, provider: Option<&Provider>) -> Self {
        let words = Words { configuration, source, site, provider };
        let built_in = Limits::default();
        Self {
            connections: words.pick(|lane| lane.connections, built_in.connections),
            connection_rate: words.pick(|lane| lane.connection_rate.map(Some), built_in.connection_rate),
            messages_per_connection: words
                .pick(|lane| lane.messages_per_connection.map(|n| n.max(1)), built_in.messages_per_connection),
            message_rate: words.pick(|lane| lane.message_rate.map(Some), built_in.message_rate),
            recipients_per_transaction: words
                .pick(|lane| lane.recipients_per_transaction.map(|n| n.max(1)), built_in.recipients_per_transaction),
        }
    }

    /// The limits without their origins.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.connections.value,
            connection_rate: self.connection_rate.value,
            messages_per_connection: self.messages_per_connection.value,
            message_rate: self.message_rate.value,
            recipients_per_transaction: self.recipients_per_transaction.value,
        }
    }
}

struct Words<'a> {
    configuration: &'a Configuration,
    source: &'a str,
    site: &'a str,
    provider: Option<&'a Provider>,
}

impl Words<'_> {
    fn pick<T>(&self, get: impl Fn(&LaneLimits) -> Option<T>, built_in: T) -> Explained<T> {
        let here = |named: bool| {
            self.configuration.lane_limit.iter().filter(move |limit| {
                limit.site.eq_ignore_ascii_case(self.site)
                    && if named { limit.source.as_deref() == Some(self.source) } else { limit.source.is_none() }
            })
        };
        for limit in here(true).chain(here(false)) {
            if let Some(value) = get(&limit.limits) {
                let source = limit.source.as_deref().map(Arc::from);
                return Explained { value, origin: Origin::LaneLimit { source } };
            }
        }
        if let Some(provider) = self.provider {
            if let Some(value) = get(&provider.configured) {
                return Explained { value, origin: Origin::ProviderLane { provider: provider.name.clone() } };
            }
            if let (Some(value), Some(shipped)) = (get(&provider.shipped), &provider.facts) {
                let origin = Origin::Shipped {
                    provider: provider.name.clone(),
                    source: shipped.source.clone(),
                    checked: shipped.checked.clone(),
                };
                return Explained { value, origin };
            }
        }
        if let Some(value) = get(&self.configuration.lane) {
            return Explained { value, origin: Origin::Lane };
        }
        Explained { value: built_in, origin: Origin::BuiltIn }
    }
}

#[cfg(test)]
mod tests;
