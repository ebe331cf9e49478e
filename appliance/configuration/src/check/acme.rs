//! Certificates by ACME: agreed to, with a door at which the names can be proved.

use super::unsubscribe::https_complaint;
use super::{Report, files};
use crate::load::Options;
use crate::name::{domain_complaint, shown};
use crate::path::KeyPath;
use crate::types::Configuration;

/// Names that authorities put into one certificate.
const MOST_NAMES: usize = 100;

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    let path = KeyPath::root().key("acme");
    let Some(acme) = &configuration.acme else {
        for (index, _) in configuration.http.iter().enumerate().filter(|(_, door)| door.acme) {
            report.error(
                KeyPath::root().key("http").at(index).key("acme"),
                "there is no [acme] that the certificate could come from",
                "add [acme] with names and agree-to-terms, or name certificate and key",
            );
        }
        return;
    };
    if !acme.agree_to_terms {
        report.error(
            path.key("agree-to-terms"),
            "no authority gives certificates to somebody who does not agree to its terms",
            "read them (the directory of the authority names them), then write agree-to-terms = true",
        );
    }
    if acme.names.is_empty() || acme.names.len() > MOST_NAMES {
        report.error(
            path.key("names"),
            format!("{} names are not 1 to {MOST_NAMES}", acme.names.len()),
            "write names = [\"mail.example.com\"]",
        );
    }
    for (position, name) in acme.names.iter().enumerate() {
        if let Some(complaint) = domain_complaint(name) {
            report.error(
                path.key("names").at(position),
                format!("{} is not a full host name: {complaint}", shown(name)),
                "write the name by which receivers reach the door; wildcards cannot be proved by TLS-ALPN-01",
            );
        }
    }
    if let Some(complaint) = https_complaint(&acme.url) {
        report.error(
            path.key("url"),
            format!("{} is no directory of an authority: {complaint}", shown(&acme.url)),
            "leave it out for Let's Encrypt, or write the URL that your authority names",
        );
    }
    for (position, contact) in acme.contact.iter().enumerate() {
        if !contact.strip_prefix("mailto:").is_some_and(|address| address.contains('@')) {
            report.error(
                path.key("contact").at(position),
                format!("{} is no contact", shown(contact)),
                "write \"mailto:hostmaster@example.com\"",
            );
        }
    }
    if acme.directory.as_os_str().is_empty() {
        report.error(path.key("directory"), "the folder has no name", "write directory = \"/var/lib/postkeep/acme\"");
    }
    if let Some(roots) = &acme.extra_roots {
        files::certificate(path.key("extra-roots"), roots, options, report);
    }
    if !configuration.http.iter().any(|door| door.acme) {
        report.warn(
            path,
            "no HTTP door uses the certificate, and none could prove the names",
            "write acme = true in an [[http]] that the authority reaches at port 443",
        );
    }
}
