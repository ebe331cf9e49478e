//! `postkeep config explain RECIPIENT`: what a message to somebody would meet,
//! and whose word each part of it is. Asks the DNS, sends nothing.

use std::fmt;
use std::sync::Arc;

use postkeep_configuration::{Loaded, TotalLimits};
use postkeep_deliverability::limits::Explained;
use postkeep_smtp::address::Address;
use serde::Serialize;

use crate::engine::reload_parts;
use crate::routing::{self, RouteError};

/// The answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// Recipient as read.
    pub recipient: String,
    /// Stream assumed.
    pub stream: String,
    /// Pool, and why that one.
    pub pool: Reasoned<String>,
    /// Where it goes, or why nowhere.
    pub route: Destination,
    /// Provider by MX suffix.
    pub provider: Option<String>,
    /// One lane for each source of the pool.
    pub lanes: Vec<LaneExplanation>,
    /// Limits over all lanes of the provider.
    pub provider_total: Reasoned<TotalLimits>,
    /// Limits over all lanes of the stream.
    pub stream_total: Reasoned<TotalLimits>,
    /// TLS policy.
    pub tls: Reasoned<String>,
    /// Signatures, or the reason why there are none.
    pub signatures: Vec<Reasoned<String>>,
    /// Waits between attempts.
    pub retry: Reasoned<Vec<String>>,
    /// When it is given up.
    pub expire_after: Reasoned<String>,
}

/// A value with its reason.
#[derive(Debug, Clone, Serialize)]
pub struct Reasoned<T> {
    /// The value.
    pub value: T,
    /// Whose word it is, with file and line where there is one.
    pub because: String,
}

/// Hosts, or the reply that a sender would get.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Destination {
    /// Site name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Hosts by preference.
    pub hosts: Vec<String>,
    /// Whose word it is.
    pub because: String,
    /// What would happen instead of a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// One source at this site.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LaneExplanation {
    /// Source.
    pub source: String,
    /// Its share of the pool, per cent.
    pub share: u32,
    /// Address that it binds.
    pub addresses: Vec<String>,
    /// EHLO name.
    pub ehlo: String,
    /// Name, value and reason of each limit.
    pub limits: Vec<(String, Reasoned<String>)>,
}

/// Explains what mail from `sender` to `recipient` in `stream` would meet.
///
/// # Errors
/// The recipient is no address, the stream does not exist, or keys cannot be read.
pub async fn explain(
    loaded: &Loaded,
    recipient: &str,
    sender: Option<&str>,
    stream: Option<&str>,
) -> Result<Explanation, String> {
    let configuration = Arc::new(loaded.configuration.clone());
    let recipient = Address::parse(recipient).map_err(|error| format!("{recipient} is not an address: {error}"))?;
    let stream = stream.unwrap_or("default");
    if !configuration.has_stream(stream) {
        let known: Vec<&str> = configuration.stream_names().collect();
        return Err(format!("there is no stream {stream}; known: {}", known.join(", ")));
    }
    let (rules, signer, resolver) = reload_parts(&configuration).map_err(|error| error.to_string())?;
    let (pool_name, pool) = configuration.pool_of(stream).ok_or_else(|| format!("stream {stream} has no pool"))?;
    let domain = recipient.domain();

    let fixed = routing::configured_route(&configuration, domain);
    let by_route = fixed.is_some();
    let answer = match fixed {
        Some(route) => Ok(route),
        None => resolver.route(domain).await,
    };
    let because = if by_route {
        format!("a [[route]] for {domain}{}", place(loaded, "route"))
    } else if domain.starts_with('[') {
        "an address literal".to_owned()
    } else {
        "MX and address records in DNS".to_owned()
    };
    let (route, site, provider) = match answer {
        Ok(route) => {
            let (site, provider) = rules.place(&route);
            let hosts = route.hosts.iter().map(|host| format!("{} {}", host.preference, host.name)).collect();
            (Destination { site: Some(site.to_string()), hosts, because, failure: None }, Some(site), provider)
        }
        Err(RouteError::Permanent(reply)) => {
            let failure = format!(
                "it would bounce: {} {} {}",
                reply.code,
                reply.enhanced.map(|code| code.to_string()).unwrap_or_default(),
                reply.text
            );
            (Destination { site: None, hosts: Vec::new(), because, failure: Some(failure) }, None, None)
        }
        Err(RouteError::Temporary(detail)) => (
            Destination { site: None, hosts: Vec::new(), because, failure: Some(format!("it would wait: {detail}")) },
            None,
            None,
        ),
    };
    let provider = provider.as_deref();
    let total: u32 = pool.active().map(|(_, weight)| weight).sum();
    let lanes = pool
        .active()
        .filter_map(|(name, weight)| {
            let source = configuration.source.get(name)?;
            let limits = rules.effective(name, site.as_deref().unwrap_or(""), provider);
            let addresses = source
                .ipv4
                .iter()
                .map(ToString::to_string)
                .chain(source.ipv6.iter().map(ToString::to_string))
                .collect();
            Some(LaneExplanation {
                source: name.to_owned(),
                share: weight * 100 / total.max(1),
                addresses,
                ehlo: configuration.ehlo_of(name).to_owned(),
                limits: vec![
                    row("connections", &limits.connections, |value| value.to_string()),
                    row("connection-rate", &limits.connection_rate, |value| {
                        value.map_or("none".into(), |rate| rate.to_string())
                    }),
                    row("messages-per-connection", &limits.messages_per_connection, |value| value.to_string()),
                    row("message-rate", &limits.message_rate, |value| {
                        value.map_or("none".into(), |rate| rate.to_string())
                    }),
                    row("recipients-per-transaction", &limits.recipients_per_transaction, |value| value.to_string()),
                ],
            })
        })
        .collect();

    let provider_rules = provider.and_then(|name| configuration.provider.get(name));
    let tls = match (provider, provider_rules.and_then(|rules| rules.tls)) {
        (Some(name), Some(tls)) => reason(word(&tls), loaded, &format!("provider.{name}.tls"), "[provider] rules"),
        _ => reason(word(&configuration.delivery.tls), loaded, "delivery.tls", "the default of [delivery] tls"),
    };
    let provider_total = Reasoned {
        value: provider
            .and_then(|name| rules.providers.by_name(name))
            .map(|rules| rules.total.clone())
            .unwrap_or_default(),
        because: provider
            .map_or("no provider is known for this site".into(), |name| format!("[provider.{name}.total]")),
    };
    let settings = configuration.stream(stream);
    let sender_domain =
        sender.and_then(|sender| Address::parse(sender).ok()).map(|address| address.domain().to_owned());
    let signatures = signatures(&signer, sender_domain.as_deref(), stream, loaded);
    Ok(Explanation {
        recipient: recipient.to_string(),
        stream: stream.to_owned(),
        pool: reason(
            pool_name.to_owned(),
            loaded,
            &format!("stream.{stream}.pool"),
            "the only pool, or the one named default",
        ),
        route,
        provider: provider.map(str::to_owned),
        lanes,
        provider_total,
        stream_total: Reasoned { value: settings.total.clone(), because: format!("[stream.{stream}.total]") },
        tls,
        signatures,
        retry: reason(
            settings.retry.iter().map(ToString::to_string).collect(),
            loaded,
            &format!("stream.{stream}.retry"),
            "the default schedule",
        ),
        expire_after: reason(
            settings.expire_after.to_string(),
            loaded,
            &format!("stream.{stream}.expire-after"),
            "the default",
        ),
    })
}

fn signatures(
    signer: &postkeep_deliverability::dkim::Signer,
    from_domain: Option<&str>,
    stream: &str,
    loaded: &Loaded,
) -> Vec<Reasoned<String>> {
    let Some(from_domain) = from_domain else {
        return vec![Reasoned { value: "depends on the From header".into(), because: "no --sender was given".into() }];
    };
    let keys = signer.keys_for(from_domain, stream);
    if keys.is_empty() {
        return vec![Reasoned {
            value: "none".into(),
            because: format!("no [[dkim]] key is for {from_domain} or a domain above it"),
        }];
    }
    keys.keys()
        .iter()
        .map(|key| Reasoned {
            value: format!("{} s={} d={}", word(&key.algorithm()), key.selector(), key.domain()),
            because: format!("[[dkim]] for {}{}", key.domain(), place(loaded, "dkim")),
        })
        .collect()
}

fn row<T>(name: &str, limit: &Explained<T>, show: impl Fn(&T) -> String) -> (String, Reasoned<String>) {
    (name.to_owned(), Reasoned { value: show(&limit.value), because: limit.origin.to_string() })
}

fn reason<T>(value: T, loaded: &Loaded, key: &str, default: &str) -> Reasoned<T> {
    let because = loaded.place_of(key).map_or_else(|| default.to_owned(), |place| format!("{key} at {place}"));
    Reasoned { value, because }
}

fn place(loaded: &Loaded, key: &str) -> String {
    loaded.place_of(key).map_or_else(String::new, |place| format!(" ({place})"))
}

/// An enumerated value as the file writes it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} in stream {}", self.recipient, self.stream)?;
        line(f, "pool", &self.pool.value, &self.pool.because)?;
        if let Some(failure) = &self.route.failure {
            line(f, "route", failure, &self.route.because)?;
        } else {
            line(f, "site", self.route.site.as_deref().unwrap_or(""), &self.route.because)?;
            for host in &self.route.hosts {
                writeln!(f, "    {host}")?;
            }
        }
        line(f, "provider", self.provider.as_deref().unwrap_or("none"), "suffix of the MX hosts")?;
        line(f, "tls", &self.tls.value, &self.tls.because)?;
        for lane in &self.lanes {
            writeln!(f, "  source {} ({} %): {} as {}", lane.source, lane.share, lane.addresses.join(", "), lane.ehlo)?;
            for (name, limit) in &lane.limits {
                writeln!(f, "    {name:<27} {:<12} {}", limit.value, limit.because)?;
            }
        }
        for (name, total) in [("provider total", &self.provider_total), ("stream total", &self.stream_total)] {
            line(f, name, &show_total(&total.value), &total.because)?;
        }
        for signature in &self.signatures {
            line(f, "signature", &signature.value, &signature.because)?;
        }
        line(f, "retry after", &self.retry.value.join(", "), &self.retry.because)?;
        line(f, "expire after", &self.expire_after.value, &self.expire_after.because)
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str, because: &str) -> fmt::Result {
    writeln!(f, "  {name:<14} {value}\n  {:<14}   because: {because}", "")
}

fn show_total(total: &TotalLimits) -> String {
    let parts: Vec<String> = [
        total.connections.map(|count| format!("{count} connections")),
        total.connection_rate.map(|rate| format!("{rate} new connections")),
        total.message_rate.map(|rate| format!("{rate} messages")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "no bound".to_owned() } else { parts.join(", ") }
}
