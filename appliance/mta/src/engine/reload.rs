//! Taking over a new configuration while running: everything that can fail is
//! made first; only then is anything exchanged.

use std::sync::Arc;

use arc_swap::ArcSwap;
use postkeep_configuration::Configuration;
use postkeep_deliverability::dkim::Signer;
use postkeep_deliverability::provider::ProviderTable;
use postkeep_deliverability::reply::RuleBook;
use postkeep_delivery::Connector;
use thiserror::Error;

use super::Engine;
use super::rules::Rules;
use crate::clock;
use crate::routing::Resolver;

/// Why a configuration cannot be used although it reads well.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// Provider rules.
    #[error("{0}")]
    Providers(String),
    /// A signing key.
    #[error("{0}")]
    Keys(String),
    /// Rules for replies.
    #[error("[replies] {0}")]
    Replies(String),
    /// TLS for delivery.
    #[error("{0}")]
    Tls(String),
    /// DNS.
    #[error("the resolver cannot be set up: {0}; check [resolver]")]
    Resolver(String),
}

/// What is built from a configuration.
pub(crate) struct Parts {
    pub providers: Arc<ProviderTable>,
    pub signer: Signer,
    pub replies: RuleBook,
    pub connector: Connector,
    pub resolver: Resolver,
    pub https: postkeep_protection::https::Client,
}

impl Parts {
    pub(crate) fn new(configuration: &Configuration) -> Result<Self, ReloadError> {
        Ok(Self {
            providers: Arc::new(
                ProviderTable::new(configuration).map_err(|error| ReloadError::Providers(error.to_string()))?,
            ),
            signer: Signer::new(configuration).map_err(|error| ReloadError::Keys(error.to_string()))?,
            replies: RuleBook::with_files(&configuration.replies.rules, configuration.replies.hold_scale)
                .map_err(|error| ReloadError::Replies(error.to_string()))?,
            connector: Connector::new(&configuration.delivery).map_err(|error| ReloadError::Tls(error.to_string()))?,
            resolver: Resolver::new(configuration).map_err(|error| ReloadError::Resolver(error.to_string()))?,
            https: postkeep_protection::https::Client::new(configuration.delivery.extra_roots.as_deref())
                .map_err(|error| ReloadError::Tls(error.to_string()))?,
        })
    }
}

/// Makes all that a configuration refers to (provider rules, keys, roots) and throws it away.
///
/// # Errors
/// What `postkeepd` would say at its start.
pub fn try_out(configuration: &Configuration) -> Result<(), ReloadError> {
    Parts::new(configuration).map(|_| ())
}

/// Rules, keys and resolver of a configuration, for explaining it without running it.
pub(crate) fn reload_parts(configuration: &Arc<Configuration>) -> Result<(Rules, Signer, Resolver), ReloadError> {
    let parts = Parts::new(configuration)?;
    Ok((Rules { configuration: Arc::clone(configuration), providers: parts.providers }, parts.signer, parts.resolver))
}

impl Parts {
    /// Says what an operator should look at.
    pub(crate) fn warn(&self) {
        for warning in self.signer.warnings() {
            log::warn!("{warning}");
        }
    }
}

impl Engine {
    /// Takes over a configuration that has been checked. On an error the running one stays in place.
    ///
    /// # Errors
    /// A key, a certificate or a rule that the configuration refers to cannot be used.
    pub fn reload(&self, configuration: Arc<Configuration>) -> Result<(), ReloadError> {
        let parts = Parts::new(&configuration)?;
        parts.warn();
        let engine = &self.0;
        let resolver_changed = {
            let old = engine.configuration.load();
            old.resolver != configuration.resolver
                || old.delivery.ipv6 != configuration.delivery.ipv6
                // Which names and addresses are our own.
                || old.hostname != configuration.hostname
                || old.source != configuration.source
                || old.listener != configuration.listener
        };
        engine.budget.set_limit(configuration.spool.memory.bytes());
        store(&engine.signer, parts.signer);
        store(&engine.replies, parts.replies);
        store(&engine.connector, parts.connector);
        engine.policies.set_client(parts.https);
        if resolver_changed {
            store(&engine.resolver, parts.resolver);
        }
        engine.configuration.store(Arc::clone(&configuration));
        {
            // Last, so that nobody finds a route by what was in force before.
            let mut state = engine.state.lock();
            state.configure(&configuration, Arc::clone(&parts.providers), clock::now());
            // Providers may have changed hands, and routes may be new.
            state.forget_all_routes();
        }
        engine.look_again();
        Ok(())
    }
}

fn store<T>(place: &ArcSwap<T>, value: T) {
    place.store(Arc::new(value));
}
