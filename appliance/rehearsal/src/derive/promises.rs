//! What a configuration promises, as far as receivers can see it: limits
//! towards each provider, and the sources and return paths of each stream.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use postkeep_configuration::{Configuration, LaneLimits, Rate, TotalLimits};
use postkeep_deliverability::provider::ProviderTable;

use crate::Error;
use crate::internet::StreamPromise;
use crate::judge::Promise;

/// What each stream promises, by its name. A pool that does not exist has no sources; the configuration was refused then.
pub(super) fn streams(configuration: &Configuration) -> HashMap<String, StreamPromise> {
    let only = || (configuration.pool.len() == 1).then(|| configuration.pool.values().next()).flatten();
    let promise = |stream: &postkeep_configuration::Stream| {
        let pool = match &stream.pool {
            Some(name) => configuration.pool.get(name),
            None => only().or_else(|| configuration.pool.get("default")),
        };
        let members = pool.into_iter().flat_map(|pool| &pool.sources).filter(|(_, weight)| **weight > 0);
        let sources: HashSet<IpAddr> = members
            .filter_map(|(name, _)| configuration.source.get(name))
            .flat_map(|source| [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)])
            .flatten()
            .collect();
        StreamPromise { verp: stream.verp && configuration.feedback.is_some(), sources }
    };
    configuration.stream.iter().map(|(name, stream)| (name.clone(), promise(stream))).collect()
}

/// What the configuration promises towards each provider, by its name; `""` is every other lane.
pub(super) fn promises(configuration: &Configuration) -> Result<HashMap<String, Promise>, Error> {
    let table = ProviderTable::new(configuration).map_err(|error| Error::Configuration(error.to_string()))?;
    let mut promises = HashMap::new();
    let silent = LaneLimits::default();
    for provider in table.providers() {
        let changed = configuration.provider.get(&*provider.name);
        let lane = lane_promise(configuration, [changed.map_or(&silent, |changed| &changed.lane), &provider.shipped]);
        let total = changed.map(|changed| changed.total.clone()).unwrap_or_default();
        promises.insert(provider.name.to_string(), Promise { lane, total });
    }
    promises.insert(
        String::new(),
        Promise { lane: lane_promise(configuration, [&silent, &silent]), total: TotalLimits::default() },
    );
    Ok(promises)
}

/// The most specific word for each limit: `words` in order, then `[lane]`, then what is built in.
/// A `[[lane-limit]]` names a site in the product's own way; where one exists, the judge allows the
/// looser of the two, and leaves rates alone, so as never to blame wrongly.
fn lane_promise(configuration: &Configuration, words: [&LaneLimits; 2]) -> LaneLimits {
    let said = |get: &dyn Fn(&LaneLimits) -> Option<u32>, built_in: u32| {
        let word = words.iter().find_map(|limits| get(limits)).or_else(|| get(&configuration.lane)).unwrap_or(built_in);
        let special = configuration.lane_limit.iter().filter_map(|limit| get(&limit.limits)).max();
        Some(special.map_or(word, |special| special.max(word)))
    };
    let rate = |get: &dyn Fn(&LaneLimits) -> Option<Rate>| {
        if configuration.lane_limit.iter().any(|limit| get(&limit.limits).is_some()) {
            return None;
        }
        words.iter().find_map(|limits| get(limits)).or_else(|| get(&configuration.lane))
    };
    LaneLimits {
        connections: said(&|limits| limits.connections, 10),
        messages_per_connection: said(&|limits| limits.messages_per_connection, 100),
        recipients_per_transaction: said(&|limits| limits.recipients_per_transaction, 100),
        connection_rate: rate(&|limits| limits.connection_rate),
        message_rate: rate(&|limits| limits.message_rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_leaves_from_the_sources_of_its_pool_that_carry_anything() {
        let text = "hostname = \"box.a.test\"\n[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"none\"\n\
            [source.a]\nipv4 = \"127.1.0.1\"\n[source.b]\nipv4 = \"127.1.0.2\"\n\
            [pool.default]\nsources = { a = 1, b = 0 }\n[pool.other]\nsources = { a = 1, b = 1 }\n\
            [stream.default]\n[stream.news]\npool = \"other\"\nverp = false\n\
            [feedback]\ndomain = \"back.a.test\"\n";
        let options = postkeep_configuration::load::Options::without_files();
        let loaded = postkeep_configuration::load::parse("test", text, &options).unwrap();
        let streams = streams(&loaded.configuration);
        assert_eq!((streams["default"].sources.len(), streams["default"].verp), (1, true));
        assert_eq!((streams["news"].sources.len(), streams["news"].verp), (2, false));
    }
}
