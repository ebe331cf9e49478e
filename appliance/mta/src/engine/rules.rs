//! The engine's link to configuration and provider rules: which provider a
//! route belongs to, and which limits a lane gets.

use std::sync::Arc;

use postkeep_configuration::{Configuration, TotalLimits};
use postkeep_deliverability::Micros;
use postkeep_deliverability::governor::{Governor, LaneId};
use postkeep_deliverability::limits::{EffectiveLimits, Limits};
use postkeep_deliverability::provider::ProviderTable;
use postkeep_deliverability::site::SiteName;

use crate::routing::Route;

/// Rules as of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub configuration: Arc<Configuration>,
    pub providers: Arc<ProviderTable>,
}

impl Rules {
    /// Site name and provider of a route. Fixed routes are sites of their own.
    pub(crate) fn place(&self, route: &Route) -> (Arc<str>, Option<Arc<str>>) {
        let hosts: Vec<(u16, &str)> = route.hosts.iter().map(|host| (host.preference, &*host.name)).collect();
        let provider = self.providers.provider_for(&hosts).map(|provider| Arc::clone(&provider.name));
        let site = if route.fixed { None } else { SiteName::from_hosts(hosts.iter().map(|(_, host)| host)) };
        (site.map_or_else(|| route.fixed_name(), |site| site.as_str().into()), provider)
    }

    /// Limits of a lane, each with its origin.
    pub(crate) fn effective(&self, source: &str, site: &str, provider: Option<&str>) -> EffectiveLimits {
        EffectiveLimits::of(&self.configuration, source, site, provider.and_then(|name| self.providers.by_name(name)))
    }

    /// Registers a lane with the governor, or renews its limits.
    pub(crate) fn lane(
        &self,
        governor: &mut Governor,
        source: &str,
        site: &str,
        provider: Option<&str>,
        now: Micros,
    ) -> (LaneId, Limits) {
        let limits = self.effective(source, site, provider).limits();
        let provider = provider.map(|name| {
            let total =
                self.providers.by_name(name).map_or_else(TotalLimits::default, |provider| provider.total.clone());
            governor.provider_id(name, &total, now)
        });
        (governor.lane_id(source, site, provider, &limits, now), limits)
    }
}
