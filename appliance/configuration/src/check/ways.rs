//! The way out: streams, sources, pools, limits, providers and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Report;
use crate::access::DEFAULT;
use crate::load::Options;
use crate::name::{DomainPattern, RouteHost, domain_complaint, shown};
use crate::path::KeyPath;
use crate::types::{Configuration, LaneLimits, Source, Stream, TotalLimits};
use crate::units::Duration;

/// Most waits in a retry schedule.
const MOST_RETRIES: usize = 100;
/// Most next hops of one route.
const MOST_HOSTS: usize = 20;

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    sources(configuration, report);
    pools(configuration, report);
    streams(configuration, report);
    limits(configuration, report);
    providers(configuration, options, report);
    routes(configuration, report);
}

fn sources(configuration: &Configuration, report: &mut Report) {
    let all = KeyPath::root().key("source");
    if configuration.source.is_empty() {
        report.error(
            all.clone(),
            "there is no source: no mail could go out",
            "add [source.a] with ipv4 = \"192.0.2.10\", an address of this box",
        );
    }
    let pooled: BTreeSet<&str> =
        configuration.pool.values().flat_map(|pool| pool.sources.keys().map(String::as_str)).collect();
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, source) in &configuration.source {
        let path = all.key(name);
        report.name(path.clone(), name);
        let Source { ipv4, ipv6, ehlo, freebind: _ } = source;
        if ipv4.is_none() && ipv6.is_none() {
            report.error(path.clone(), "this source has no address", "add ipv4 = \"…\", ipv6 = \"…\" or both");
        }
        let addresses = [("ipv4", ipv4.map(IpAddr::V4)), ("ipv6", ipv6.map(IpAddr::V6))];
        for (key, address) in addresses.into_iter().filter_map(|(key, address)| Some((key, address?))) {
            let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            if address.is_unspecified() || address.is_multicast() || mapped {
                report.error(
                    path.key(key),
                    format!("{address} is not an address that mail can leave from"),
                    "write one address that this box has",
                );
            } else if let Some(other) = seen.insert(address, name) {
                report.warn(
                    path.key(key),
                    format!("{address} is the address of source {} too; receivers will see one sender, with the limits of two", shown(other)),
                    "give each source its own address",
                );
            }
        }
        if let Some(ehlo) = ehlo
            && let Some(complaint) = domain_complaint(ehlo)
        {
            report.error(
                path.key("ehlo"),
                format!("{} is not a full host name: {complaint}", shown(ehlo)),
                "write the name that the reverse DNS of this address gives, such as \"a.mail.example.com\"",
            );
        }
        if !pooled.contains(name.as_str()) {
            report.warn(
                path,
                "no pool has this source; nothing leaves from it",
                format!("add it to a pool: sources = {{ {name} = 100 }}"),
            );
        }
    }
}

fn pools(configuration: &Configuration, report: &mut Report) {
    let all = KeyPath::root().key("pool");
    if configuration.pool.is_empty() {
        report.error(
            all.clone(),
            "there is no pool: streams would have no sources",
            "add [pool.default] with sources = { a = 100 }",
        );
    }
    for (name, pool) in &configuration.pool {
        let path = all.key(name);
        report.name(path.clone(), name);
        let weights = path.key("sources");
        if pool.sources.is_empty() {
            report.error(
                weights.clone(),
                "this pool has no sources",
                "name some with their weights: sources = { a = 100 }",
            );
        } else if pool.sources.values().all(|weight| *weight == 0) {
            report.error(
                weights.clone(),
                "all weights of this pool are 0, so nothing could leave",
                "give one source a weight of 1 or more",
            );
        }
        for (source, weight) in &pool.sources {
            report.exists(weights.key(source), "source", source, configuration.source.keys().map(String::as_str));
            report.within(weights.key(source), *weight, 0, 1000);
        }
    }
}

fn streams(configuration: &Configuration, report: &mut Report) {
    let all = KeyPath::root().key("stream");
    for (name, stream) in &configuration.stream {
        report.name(all.key(name), name);
        schedule(&all.key(name), stream, report);
    }
    if configuration.pool.is_empty() {
        return;
    }
    for name in configuration.stream_names() {
        let path = all.key(name).key("pool");
        if let Some(pool) = &configuration.stream(name).pool {
            report.exists(path, "pool", pool, configuration.pool.keys().map(String::as_str));
        } else if configuration.pool_of(name).is_none() {
            // More than one pool, none of them the obvious one.
            let what = if name == DEFAULT && !configuration.stream.contains_key(DEFAULT) {
                "the stream `default`, which always exists, has no pool".to_owned()
            } else {
                format!("stream {} names no pool, and there are {}", shown(name), configuration.pool.len())
            };
            report.error(path, what, format!("write [stream.{name}] pool = \"…\", or call one of the pools `default`"));
        }
    }
}

fn schedule(path: &KeyPath, stream: &Stream, report: &mut Report) {
    let longest = Duration::from_secs(7 * 86400);
    if stream.retry.is_empty() {
        report.error(
            path.key("retry"),
            "without waits nothing is tried again",
            "write retry = [\"5m\", \"10m\", \"1h\"]",
        );
    }
    if stream.retry.len() > MOST_RETRIES {
        report.error(
            path.key("retry"),
            format!("{} waits are more than {MOST_RETRIES}", stream.retry.len()),
            "shorten the list; its last wait repeats",
        );
    }
    for (position, wait) in stream.retry.iter().enumerate().take(MOST_RETRIES) {
        report.within(path.key("retry").at(position), *wait, Duration::from_secs(1), longest);
    }
    report.within(path.key("retry-jitter"), stream.retry_jitter, 0.0, 0.9);
    report.within(
        path.key("expire-after"),
        stream.expire_after,
        Duration::from_secs(1),
        Duration::from_secs(30 * 86400),
    );
    if let Some(first) = stream.retry.first()
        && stream.expire_after <= *first
    {
        report.error(
            path.key("expire-after"),
            format!("mail would expire after {}, before its first retry at {first}", stream.expire_after),
            "make expire-after longer, or the first wait shorter",
        );
    }
    if stream.delay_notice_after.is_zero() {
        report.error(
            path.key("delay-notice-after"),
            "a delay notice after no time at all is no notice of a delay",
            "write \"4h\"",
        );
    }
    if stream.total.connection_rate.is_some() {
        report.error(
            path.key("total").key("connection-rate"),
            "a stream has no connections of its own, so their rate cannot be limited",
            "limit `connections` or `message-rate` here, and `connection-rate` in [lane] or [provider.NAME]",
        );
    }
    total_limits(&path.key("total"), &stream.total, report);
}

fn limits(configuration: &Configuration, report: &mut Report) {
    lane_limits(&KeyPath::root().key("lane"), &configuration.lane, report);
    let mut seen = BTreeSet::new();
    for (index, limit) in configuration.lane_limit.iter().enumerate() {
        let path = KeyPath::root().key("lane-limit").at(index);
        if let Some(source) = &limit.source {
            report.exists(path.key("source"), "source", source, configuration.source.keys().map(String::as_str));
        }
        if limit.site.is_empty()
            || limit.site.len() > 512
            || limit.site.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            report.error(
                path.key("site"),
                format!("{} is not the name of a site", shown(&limit.site)),
                "copy the name that `postkeep queue show` prints",
            );
        }
        if !seen.insert((&limit.source, limit.site.to_ascii_lowercase())) {
            report.error(
                path.key("site"),
                "this lane has limits already, in an earlier [[lane-limit]]",
                "put them together",
            );
        }
        if limit.limits == LaneLimits::default() {
            report.warn(path.key("limits"), "this limits nothing", "write limits = { connections = 2 }");
        }
        lane_limits(&path.key("limits"), &limit.limits, report);
    }
}

fn lane_limits(path: &KeyPath, limits: &LaneLimits, report: &mut Report) {
    let counts = [
        ("connections", limits.connections),
        ("messages-per-connection", limits.messages_per_connection),
        ("recipients-per-transaction", limits.recipients_per_transaction),
    ];
    for (key, count) in counts {
        if let Some(count) = count {
            report.at_least_one(path.key(key), count);
        }
    }
}

fn total_limits(path: &KeyPath, limits: &TotalLimits, report: &mut Report) {
    if let Some(connections) = limits.connections {
        report.at_least_one(path.key("connections"), connections);
    }
}

fn providers(configuration: &Configuration, options: &Options, report: &mut Report) {
    for (name, provider) in &configuration.provider {
        let path = KeyPath::root().key("provider").key(name);
        report.name(path.clone(), name);
        if let Some(shipped) = &options.shipped_providers
            && provider.mx_suffix.is_empty()
            && !shipped.contains(name)
        {
            let mut message = format!("no provider {} is shipped, and this one names no MX hosts", shown(name));
            if let Some(meant) = crate::suggest::nearest(name, shipped.iter().map(String::as_str)) {
                message.push_str(&format!("; did you mean \"{meant}\"?"));
            }
            report.error(path.clone(), message, "add mx-suffix = [\"mx.example.net\"], or name one that is shipped");
        }
        for (position, suffix) in provider.mx_suffix.iter().enumerate() {
            // A leading dot is how others write it; it means the same.
            if let Some(complaint) = domain_complaint(suffix.strip_prefix('.').unwrap_or(suffix)) {
                report.error(
                    path.key("mx-suffix").at(position),
                    format!("{} is not the end of an MX host's name: {complaint}", shown(suffix)),
                    "write a domain such as \"mx.example.net\"",
                );
            }
        }
        lane_limits(&path.key("lane"), &provider.lane, report);
        total_limits(&path.key("total"), &provider.total, report);
    }
}

fn routes(configuration: &Configuration, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (index, route) in configuration.route.iter().enumerate() {
        let path = KeyPath::root().key("route").at(index);
        match route.domain.parse::<DomainPattern>() {
            Ok(pattern) => {
                if !seen.insert(pattern) {
                    report.error(
                        path.key("domain"),
                        format!("there is another route for {}", shown(&route.domain)),
                        "keep one",
                    );
                }
            }
            Err(error) => report.error(path.key("domain"), error.problem, format!("write {}", error.expected)),
        }
        if route.hosts.is_empty() {
            report.error(path.key("hosts"), "this route leads nowhere", "write hosts = [\"mx.example.com\"]");
        }
        if route.hosts.len() > MOST_HOSTS {
            report.error(
                path.key("hosts"),
                format!("{} hosts are more than {MOST_HOSTS}", route.hosts.len()),
                "shorten the list",
            );
        }
        for (position, host) in route.hosts.iter().enumerate().take(MOST_HOSTS) {
            if let Err(error) = host.parse::<RouteHost>() {
                report.error(path.key("hosts").at(position), error.problem, format!("write {}", error.expected));
            }
        }
    }
}
