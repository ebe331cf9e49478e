//! Who stands behind an MX host, and what is known about them. The facts are data
//! (`providers.toml`, each with its source, the day it was checked, and how well it is known);
//! `[provider.NAME]` of the configuration changes and adds.
//!
//! A host belongs to the provider with the longest suffix that is the host or ends it at a label:
//! `evil-google.com` is not google. An MX set belongs to a provider when all of its *most preferred*
//! hosts do: that is where the mail goes; a spare host elsewhere does not change whose limits count.
//! A set whose most preferred hosts disagree, or are partly unknown, belongs to nobody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use postkeep_configuration::units::{Duration, Rate};
use postkeep_configuration::{Configuration, LaneLimits, OutboundTls, TotalLimits};
use serde::Deserialize;

/// How well a figure is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Provenance {
    /// Stated by the receiver itself.
    #[serde(rename = "V")]
    Vendor,
    /// Experience of operators: a start, not a promise.
    #[serde(rename = "C")]
    Community,
    /// General knowledge that was not checked.
    #[serde(rename = "G")]
    General,
    /// A careful guess of ours.
    #[serde(rename = "P")]
    Proposal,
}

/// How well each shipped fact is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Marks {
    /// The MX suffixes.
    pub mx_suffix: Option<Provenance>,
    /// Connections.
    pub connections: Option<Provenance>,
    /// Messages on one connection.
    pub messages_per_connection: Option<Provenance>,
    /// New connections per time.
    pub connection_rate: Option<Provenance>,
    /// Messages per time.
    pub message_rate: Option<Provenance>,
    /// The wait after a block.
    pub on_block: Option<Provenance>,
}

/// Where the shipped rules come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where they were found.
    pub source: Arc<str>,
    /// When that was last looked at, year-month-day.
    pub checked: Arc<str>,
    /// What an operator should know.
    pub notes: Arc<str>,
    /// How well each figure is known.
    pub marks: Marks,
}

/// A group of sites with one rule book.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// Its name, as in `[provider.NAME]`.
    pub name: Arc<str>,
    /// MX host suffixes, lower case.
    pub mx_suffix: Vec<String>,
    /// Limits of each lane, as shipped.
    pub shipped: LaneLimits,
    /// Limits of each lane, as configured: these come first.
    pub configured: LaneLimits,
    /// Limits over all lanes together.
    pub total: TotalLimits,
    /// How long to stay away after a block, when the reply names no time.
    pub on_block: Option<Duration>,
    /// TLS, when configured.
    pub tls: Option<OutboundTls>,
    /// Where the shipped rules come from; `None` for a provider of the owner's own.
    pub facts: Option<Facts>,
}

/// Why the table of providers cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// A provider of the owner's own that no host can belong to.
    #[error("[provider.{name}] is not a shipped provider and has no mx-suffix; add mx-suffix = [\"example.net\"]")]
    NoSuffix {
        /// Its name.
        name: String,
    },
    /// Not the end of a host name.
    #[error("[provider.{name}] mx-suffix {suffix:?} is not the end of a host name; write it like \"example.net\"")]
    BadSuffix {
        /// The provider.
        name: String,
        /// What was written.
        suffix: String,
    },
    /// Two configured providers want the same hosts.
    #[error("[provider.{first}] and [provider.{second}] both have mx-suffix {suffix:?}; remove it from one")]
    SharedSuffix {
        /// The suffix.
        suffix: String,
        /// One provider.
        first: String,
        /// The other.
        second: String,
    },
    /// The table inside this program is damaged.
    #[error("the shipped providers.toml cannot be read: {0}; this is a fault of the program")]
    Shipped(String),
}

/// All providers, and who a host belongs to.
#[derive(Debug, Clone)]
pub struct ProviderTable {
    providers: Vec<Provider>,
    /// Suffix to position in `providers`.
    suffixes: HashMap<Box<str>, usize>,
    /// What is known about everybody else.
    fallback: Provider,
}

impl ProviderTable {
    /// The shipped rules with `[provider.NAME]` of this configuration on top.
    pub fn new(configuration: &Configuration) -> Result<Self, ProviderError> {
        let mut table = Self::shipped()?;
        // Suffixes that the configuration has claimed, and for whom.
        let mut claimed: BTreeMap<String, &str> = BTreeMap::new();
        for (name, changes) in &configuration.provider {
            let mut position = table.providers.iter().position(|provider| *provider.name == **name);
            if name == &*table.fallback.name {
                table.fallback.configured = changes.lane.clone();
                table.fallback.total = changes.total.clone();
                table.fallback.tls = changes.tls;
                if changes.mx_suffix.is_empty() {
                    continue;
                }
            }
            if position.is_none() && changes.mx_suffix.is_empty() {
                return Err(ProviderError::NoSuffix { name: name.clone() });
            }
            let index = *position.get_or_insert_with(|| {
                table.providers.push(Provider {
                    name: name.as_str().into(),
                    mx_suffix: Vec::new(),
                    shipped: LaneLimits::default(),
                    configured: LaneLimits::default(),
                    total: TotalLimits::default(),
                    on_block: None,
                    tls: None,
                    facts: None,
                });
                table.providers.len() - 1
            });
            for written in &changes.mx_suffix {
                let suffix = normalised_suffix(written)
                    .ok_or_else(|| ProviderError::BadSuffix { name: name.clone(), suffix: written.clone() })?;
                if let Some(first) = claimed.insert(suffix.clone(), name)
                    && first != name
                {
                    return Err(ProviderError::SharedSuffix { suffix, first: first.to_owned(), second: name.clone() });
                }
                table.give_suffix(index, suffix);
            }
            if let Some(provider) = table.providers.get_mut(index) {
                provider.configured = changes.lane.clone();
                provider.total = changes.total.clone();
                provider.tls = changes.tls;
            }
        }
        Ok(table)
    }

    /// All providers, shipped ones first.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// A provider by its name.
    pub fn by_name(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| &*provider.name == name)
    }

    /// How long to stay away after a block when neither the reply nor the provider says.
    pub fn usual_block(&self) -> Duration {
        self.fallback.on_block.unwrap_or(Duration::from_secs(1800))
    }

    /// Whose host this is.
    pub fn provider_of_host(&self, host: &str) -> Option<&Provider> {
        self.position_of_host(host).and_then(|position| self.providers.get(position))
    }

    /// Whose MX set this is, from (preference, host) in any order: all hosts of the lowest
    /// preference must belong to the same provider.
    pub fn provider_for<H: AsRef<str>>(&self, mx_hosts: &[(u16, H)]) -> Option<&Provider> {
        let best = mx_hosts.iter().map(|(preference, _)| *preference).min()?;
        let mut positions = mx_hosts
            .iter()
            .filter(|(preference, _)| *preference == best)
            .map(|(_, host)| self.position_of_host(host.as_ref()));
        let first = positions.next()??;
        positions.all(|position| position == Some(first)).then(|| self.providers.get(first)).flatten()
    }

    fn position_of_host(&self, host: &str) -> Option<usize> {
        let lower;
        let host = host.strip_suffix('.').unwrap_or(host);
        let mut rest = if host.bytes().any(|octet| octet.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        loop {
            if let Some(position) = self.suffixes.get(rest) {
                return Some(*position);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// Gives a suffix to a provider, taking it from whoever had it.
    fn give_suffix(&mut self, index: usize, suffix: String) {
        if let Some(former) = self.suffixes.insert(suffix.as_str().into(), index)
            && let Some(former) = self.providers.get_mut(former)
        {
            former.mx_suffix.retain(|other| *other != suffix);
        }
        if let Some(provider) = self.providers.get_mut(index) {
            provider.mx_suffix.push(suffix);
        }
    }

    /// The rules that come with this software, nothing changed. An error is a fault of the program.
    pub fn shipped() -> Result<Self, ProviderError> {
        let shipped: ShippedTable = toml::from_str(include_str!("../providers.toml"))
            .map_err(|error| ProviderError::Shipped(error.to_string()))?;
        let mut table = Self {
            providers: Vec::with_capacity(shipped.provider.len()),
            suffixes: HashMap::new(),
            fallback: shipped.default.into_provider(),
        };
        for entry in shipped.provider {
            let suffixes = entry.mx_suffix.clone();
            table.providers.push(Provider { mx_suffix: Vec::new(), ..entry.into_provider() });
            for suffix in suffixes {
                table.give_suffix(table.providers.len() - 1, suffix);
            }
        }
        Ok(table)
    }
}

/// `example.net` of `*.Example.NET`, `.example.net`, `example.net.`; `None` when no host ends so.
fn normalised_suffix(written: &str) -> Option<String> {
    let suffix = written.strip_prefix("*.").or_else(|| written.strip_prefix('.')).unwrap_or(written);
    let suffix = suffix.strip_suffix('.').unwrap_or(suffix).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    };
    (suffix.len() <= 253 && suffix.split('.').all(is_label)).then_some(suffix)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ShippedTable {
    default: ShippedProvider,
    provider: Vec<ShippedProvider>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ShippedProvider {
    name: String,
    #[serde(default)]
    mx_suffix: Vec<String>,
    connections: Option<u32>,
    messages_per_connection: Option<u32>,
    recipients_per_transaction: Option<u32>,
    connection_rate: Option<Rate>,
    message_rate: Option<Rate>,
    on_block: Option<Duration>,
    #[serde(default)]
    marks: Marks,
    source: String,
    checked: String,
    #[serde(default)]
    notes: String,
}

impl ShippedProvider {
    fn into_provider(self) -> Provider {
        Provider {
            name: self.name.into(),
            mx_suffix: self.mx_suffix,
            shipped: LaneLimits {
                connections: self.connections,
                connection_rate: self.connection_rate,
                messages_per_connection: self.messages_per_connection,
                message_rate: self.message_rate,
                recipients_per_transaction: self.recipients_per_transaction,
            },
            configured: LaneLimits::default(),
            total: TotalLimits::default(),
            on_block: self.on_block,
            tls: None,
            facts: Some(Facts {
                source: self.source.into(),
                checked: self.checked.into(),
                notes: self.notes.into(),
                marks: self.marks,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
