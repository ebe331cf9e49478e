//! One-click unsubscribe: links that lead somewhere, and signatures over them.

use super::Report;
use crate::name::{domain_complaint, shown};
use crate::path::KeyPath;
use crate::types::{Configuration, OneClick, Service};

pub(super) fn check(configuration: &Configuration, report: &mut Report) {
    let root = KeyPath::root();
    if let Some(unsubscribe) = &configuration.unsubscribe {
        let path = root.key("unsubscribe").key("url");
        if let Some(complaint) = https_complaint(&unsubscribe.url) {
            report.error(
                path,
                format!("{} cannot stand in List-Unsubscribe: {complaint}", shown(&unsubscribe.url)),
                "write how receivers reach an HTTP door of this box, such as \"https://mail.example.com\"",
            );
        } else if !configuration.http.iter().any(|door| door.serve.contains(&Service::Unsubscribe)) {
            report.warn(
                path,
                "no HTTP door of this box serves `unsubscribe`: the links would lead nowhere",
                "add [[http]], with unsubscribe in its `serve`",
            );
        }
    }
    for (name, stream) in &configuration.stream {
        let path = root.key("stream").key(name).key("unsubscribe");
        if stream.unsubscribe == OneClick::Add && configuration.unsubscribe.is_none() {
            report.error(
                path.clone(),
                "the box does not know where its links are to lead",
                "add [unsubscribe] with url = \"https://mail.example.com\"",
            );
        }
        let signs = configuration.dkim.iter().any(|key| key.streams.is_empty() || key.streams.contains(name));
        match stream.unsubscribe {
            OneClick::Add if !signs => report.error(
                path,
                "no [[dkim]] key signs mail of this stream, and receivers heed only signed links (RFC 8058 §4)",
                "add a key for the domain of From",
            ),
            OneClick::Require if !signs => report.warn(
                path,
                "no [[dkim]] key signs mail of this stream: only mail that is signed already would be taken",
                "add a key for the domain of From",
            ),
            _ => {}
        }
    }
}

/// Why a text is no base of https URLs; `None`: it is one.
pub(super) fn https_complaint(url: &str) -> Option<String> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Some("it does not begin with https://".to_owned());
    };
    if url.len() > 100 {
        return Some("it is longer than 100 octets".to_owned());
    }
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Some("its port is none".to_owned());
    }
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if literal.parse::<std::net::IpAddr>().is_err()
        && let Some(complaint) = domain_complaint(host)
    {
        return Some(complaint.to_string());
    }
    let is_clean = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~/%".contains(&octet);
    if !path.bytes().all(is_clean) || url.ends_with('/') {
        return Some("it has a slash at its end, or more than a host, a port and a path".to_owned());
    }
    None
}
