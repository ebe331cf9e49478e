//! Signing keys: which domain, selector and streams, and whether the key file is one.

use std::collections::BTreeMap;

use super::{Report, files};
use crate::access::DEFAULT;
use crate::load::Options;
use crate::name::{domain_complaint, is_header_name, shown};
use crate::path::KeyPath;
use crate::types::{Configuration, DkimAlgorithm};
use crate::units::Duration;

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    let mut seen = BTreeMap::new();
    let streams = configuration.stream.keys().map(String::as_str).chain([DEFAULT]);
    for (index, key) in configuration.dkim.iter().enumerate() {
        let path = KeyPath::root().key("dkim").at(index);
        if let Some(complaint) = domain_complaint(&key.domain) {
            report.error(
                path.key("domain"),
                format!("{} is not a domain: {complaint}", shown(&key.domain)),
                "write the domain of From, such as \"example.com\"",
            );
        }
        if !is_selector(&key.selector) {
            report.error(
                path.key("selector"),
                format!("{} is not a selector", shown(&key.selector)),
                "write letters, digits and hyphens, such as \"mail2026\"; the key is published at SELECTOR._domainkey.DOMAIN",
            );
        } else if let Some(first) =
            seen.insert((key.domain.to_ascii_lowercase(), key.selector.to_ascii_lowercase()), index)
        {
            report.error(
                path.key("selector"),
                format!(
                    "{}._domainkey.{} is the name of key {} too, and one name publishes one key",
                    key.selector,
                    key.domain,
                    first + 1
                ),
                "give each key its own selector, or list all its streams in one place",
            );
        }
        let kind = match key.algorithm {
            DkimAlgorithm::RsaSha256 => files::KeyKind::DkimRsa,
            DkimAlgorithm::Ed25519Sha256 => files::KeyKind::DkimEd25519,
        };
        files::private_key(path.key("key"), &key.key, kind, options, report);
        for (position, stream) in key.streams.iter().enumerate() {
            report.exists(path.key("streams").at(position), "stream", stream, streams.clone());
        }
        for (position, header) in key.extra_headers.iter().enumerate() {
            if !is_header_name(header) {
                report.error(
                    path.key("extra-headers").at(position),
                    format!("{} is not the name of a header", shown(header)),
                    "write a name without colon and spaces, such as \"X-Campaign\"",
                );
            }
        }
        if let Some(life) = key.expire_after {
            report.within(path.key("expire-after"), life, Duration::from_secs(3600), Duration::from_secs(365 * 86400));
        }
        let alone = key.algorithm == DkimAlgorithm::Ed25519Sha256
            && !configuration.dkim.iter().any(|other| {
                other.algorithm == DkimAlgorithm::RsaSha256 && other.domain.eq_ignore_ascii_case(&key.domain)
            });
        if alone {
            report.warn(
                path.key("algorithm"),
                format!("{} has no RSA key beside this; few receivers verify Ed25519", shown(&key.domain)),
                "add a key with algorithm = \"rsa-sha256\" for the same domain",
            );
        }
    }
}

/// RFC 6376 §3.1: labels of a domain, joined by dots.
fn is_selector(text: &str) -> bool {
    text.len() <= 200
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}
