//! The door for management and who may come in.

use std::collections::BTreeMap;

use super::{Report, files, http};
use crate::load::Options;
use crate::name::shown;
use crate::path::KeyPath;
use crate::types::Configuration;

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    let root = KeyPath::root();
    clients(configuration, report);
    let Some(api) = &configuration.api else {
        if !configuration.api_client.is_empty() {
            report.warn(root.key("api-client"), "there is no [api] that these clients could come in by", "add [api]");
        }
        return;
    };
    let path = root.key("api");
    report.within(path.key("connections"), api.connections, 1, 10_000);
    report.within(path.key("connections-per-address"), api.connections_per_address, 1, 10_000);
    let is_taken = http::is_taken(configuration, api.address, configuration.http.iter().map(|door| door.address));
    if api.address.port() == 0 {
        report.port_0(path.key("address"), api.address, "8443, which the image lets through");
    } else if is_taken {
        report.error(
            path.key("address"),
            format!("{} is the address of another door too", api.address),
            "give each door its own address or port",
        );
    }
    files::certificate(path.key("certificate"), &api.certificate, options, report);
    files::private_key(path.key("key"), &api.key, files::KeyKind::Tls, options, report);
    if configuration.api_client.is_empty() {
        report.error(path, "nobody could come in", "list a client in [[api-client]], or leave out [api]");
    }
}

fn clients(configuration: &Configuration, report: &mut Report) {
    let (mut names, mut fingerprints) = (BTreeMap::new(), BTreeMap::new());
    for (index, client) in configuration.api_client.iter().enumerate() {
        let path = KeyPath::root().key("api-client").at(index);
        report.name(path.key("name"), &client.name);
        if names.insert(&client.name, index).is_some() {
            report.error(
                path.key("name"),
                format!("there is another client {}", shown(&client.name)),
                "give each its own name",
            );
        }
        let is_sum = client.fingerprint.len() == 64
            && client.fingerprint.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_sum {
            report.error(
                path.key("fingerprint"),
                format!("{} is no fingerprint", shown(&client.fingerprint)),
                "write the SHA-256 sum of the certificate in 64 small hexadecimal digits (postkeep api identity show)",
            );
        } else if fingerprints.insert(&client.fingerprint, index).is_some() {
            report.error(
                path.key("fingerprint"),
                "another client has this certificate",
                "give each its own: postkeep api identity new",
            );
        }
    }
}
