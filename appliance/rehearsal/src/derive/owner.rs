//! What a simulated internet must know about the owner: read off a
//! configuration that has been derived for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use postkeep_configuration::Configuration;

use super::promises::{promises, streams};
use crate::Error;
use crate::internet::Owner;
use crate::keys::Keyring;

/// The owner of a derived configuration; `keys` are the TXT records of its signing keys.
pub(crate) fn owner(configuration: &Configuration, keys: Vec<(String, String)>) -> Result<Owner, Error> {
    let domains = sender_domains(configuration).into_iter().chain([configuration.hostname.clone()]);
    let sources = configuration.source.iter().flat_map(|(name, source)| {
        let ehlo = source.ehlo.as_ref().unwrap_or(&configuration.hostname);
        let addresses = [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)];
        addresses.into_iter().flatten().map(|address| (address, name.clone(), ehlo.clone()))
    });
    Ok(Owner {
        return_domains: domains.collect::<BTreeSet<_>>().into_iter().collect(),
        keyring: Keyring::of(configuration),
        streams: streams(configuration),
        keys,
        sources: sources.collect(),
        feedback_domain: configuration.feedback.as_ref().map(|feedback| feedback.domain.clone()),
        promises: promises(configuration)?,
    })
}

/// Domains to send from: those that are signed, else those that credentials name, else the host's own.
pub(crate) fn sender_domains(configuration: &Configuration) -> Vec<String> {
    let signed: BTreeSet<String> = configuration.dkim.iter().map(|key| key.domain.to_ascii_lowercase()).collect();
    if !signed.is_empty() {
        return signed.into_iter().collect();
    }
    let named = configuration.credential.iter().flat_map(|credential| &credential.sender_domains);
    let listed = configuration.network.iter().flat_map(|network| &network.sender_domains);
    let domains: BTreeSet<String> = named
        .chain(listed)
        .filter(|domain| *domain != "*")
        .map(|domain| domain.strip_prefix("*.").map_or_else(|| domain.clone(), |below| format!("mail.{below}")))
        .collect();
    if domains.is_empty() { vec![configuration.hostname.clone()] } else { domains.into_iter().collect() }
}
