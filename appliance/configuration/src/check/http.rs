//! The HTTP doors and who may use them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{Report, doors, files};
use crate::load::Options;
use crate::name::shown;
use crate::path::KeyPath;
use crate::types::{Configuration, Service};

/// What a token's hash begins with.
const HASH_PREFIX: &str = "sha256:";

/// Whether a door for HTTP at `address` would stand where another one does: a listener of SMTP, the metrics, or one of `others`.
///
/// A door for HTTP at `[::]` takes IPv4 too; a listener of SMTP there does not.
pub(super) fn is_taken(
    configuration: &Configuration,
    address: SocketAddr,
    others: impl Iterator<Item = SocketAddr>,
) -> bool {
    let covers = |all: SocketAddr, takes_both: bool, one: SocketAddr| {
        all.port() == one.port()
            && (all.ip() == one.ip()
                || all.ip().is_unspecified() && (all.is_ipv6() == one.is_ipv6() || all.is_ipv6() && takes_both))
    };
    let is_smtp = |smtp: SocketAddr| covers(address, true, smtp) || covers(smtp, false, address);
    let is_http = |http: SocketAddr| covers(address, true, http) || covers(http, true, address);
    configuration.listener.iter().any(|listener| is_smtp(listener.address))
        || others.chain(configuration.metrics.as_ref().map(|metrics| metrics.address)).any(is_http)
}

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    for (index, door) in configuration.http.iter().enumerate() {
        let path = KeyPath::root().key("http").at(index);
        report.within(path.key("connections"), door.connections, 1, 100_000);
        report.within(path.key("connections-per-address"), door.connections_per_address, 1, 100_000);
        let earlier = configuration.http.iter().take(index).map(|earlier| earlier.address);
        let is_taken = is_taken(configuration, door.address, earlier);
        if door.address.port() == 0 {
            report.port_0(path.key("address"), door.address, "443, or one such as 8025");
        } else if is_taken {
            report.error(
                path.key("address"),
                format!("{} is the address of another door too", door.address),
                "give each door its own address or port",
            );
        }
        if door.serve.is_empty() {
            report.error(
                path.key("serve"),
                "this door would serve nothing",
                "leave the key out, or name what it serves",
            );
        }
        match (&door.certificate, &door.key) {
            (None, None) if door.acme => {}
            _ if door.acme => report.error(
                path.key("acme"),
                "there are two certificates: one by ACME and one in a file",
                "leave out certificate and key, or acme",
            ),
            (Some(certificate), Some(key)) => {
                files::certificate(path.key("certificate"), certificate, options, report);
                files::private_key(path.key("key"), key, files::KeyKind::Tls, options, report);
            }
            (None, None) if is_near(door.address.ip()) => {}
            (None, None) => report.error(
                path.key("address"),
                format!("{} would take tokens in plain text from strangers", door.address),
                "add certificate and key, or listen on a loopback or private address behind a proxy",
            ),
            _ => report.error(path, "certificate and key go together", "add the other one, or leave both out"),
        }
    }
    tokens(configuration, report);
}

fn tokens(configuration: &Configuration, report: &mut Report) {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    names.extend(configuration.credential.iter().map(|credential| (credential.name.as_str(), "credential")));
    names.extend(configuration.network.iter().map(|network| (network.name.as_str(), "network")));
    let mut hashes = BTreeMap::new();
    for (index, token) in configuration.token.iter().enumerate() {
        let path = KeyPath::root().key("token").at(index);
        report.name(path.key("name"), &token.name);
        if let Some(other) = names.insert(&token.name, "token") {
            report.error(
                path.key("name"),
                format!("there is another {other} {}", shown(&token.name)),
                "give each its own name",
            );
        }
        let digits = token.hash.strip_prefix(HASH_PREFIX).unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            // Not repeated here: it might be the token itself.
            report.error(
                path.key("hash"),
                "this is no hash of a token",
                "make both with `postkeep token new` and copy the line that begins with sha256:",
            );
        } else if hashes.insert(&token.hash, index).is_some() {
            report.error(
                path.key("hash"),
                "another token has this hash",
                "make each its own with `postkeep token new`",
            );
        }
        if token.may_suppress && !configuration.http.iter().any(|door| door.serve.contains(&Service::Suppressions)) {
            report.warn(
                path.key("may-suppress"),
                "no HTTP door serves `suppressions`",
                "add suppressions to the `serve` of an [[http]]",
            );
        }
        if token.may_suppress
            && token.stream.is_none()
            && configuration.token.len() + configuration.credential.len() > 1
        {
            report.warn(
                path.key("may-suppress"),
                "without `stream` its mail is of the stream `default`, as that of other senders may be: what it takes out holds for theirs",
                "give it a stream of its own",
            );
        }
        doors::sender(configuration, &path, &token.sender_domains, &token.stream, &token.may_choose_streams, report);
    }
    if configuration.http.is_empty() && !configuration.token.is_empty() {
        report.warn(
            KeyPath::root().key("token"),
            "there is no HTTP door that these tokens could be used at",
            "add [[http]] with address = \"127.0.0.1:8025\", or a certificate",
        );
    }
}

/// Nobody but this host or its own network can listen in.
pub(super) fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}
