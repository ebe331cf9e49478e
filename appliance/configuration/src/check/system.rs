//! What the box needs beside mail: spool, back-off, delivery, DNS, records, metrics, control.

use std::os::unix::ffi::OsStrExt;

use super::{Report, http};
use crate::name::{domain_complaint, shown};
use crate::path::KeyPath;
use crate::types::{Configuration, Source};
use crate::units::{ByteSize, Duration};

/// A path of a Unix socket has 108 octets on Linux, with the NUL at its end.
const LONGEST_SOCKET: usize = 107;

pub(super) fn check(configuration: &Configuration, report: &mut Report) {
    spool(configuration, report);
    backoff(configuration, report);
    delivery(configuration, report);
    resolver(configuration, report);
    protection(configuration, report);
    suppression(configuration, report);
    feedback(configuration, report);
    records(configuration, report);
    doors_of_the_house(configuration, report);
}

fn spool(configuration: &Configuration, report: &mut Report) {
    let spool = &configuration.spool;
    let path = KeyPath::root().key("spool");
    if spool.directory.as_os_str().is_empty() {
        report.error(path.key("directory"), "the folder has no name", "write directory = \"/var/lib/postkeep/spool\"");
    }
    report.within(path.key("segment-size"), spool.segment_size, ByteSize::mebibytes(1), ByteSize::mebibytes(1024));
    report.within(path.key("memory"), spool.memory, ByteSize::mebibytes(1), ByteSize::mebibytes(1 << 20));
    if spool.minimum_free < spool.segment_size {
        report.warn(
            path.key("minimum-free"),
            format!("{} is less than one segment of {}", spool.minimum_free, spool.segment_size),
            "keep room for two segments at least, so that compaction can work on a full disk",
        );
    }
}

fn backoff(configuration: &Configuration, report: &mut Report) {
    let backoff = &configuration.backoff;
    let path = KeyPath::root().key("backoff");
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(7 * 86400));
    report.at_least_one(path.key("failures"), backoff.failures);
    report.within(path.key("pause"), backoff.pause, least, most);
    report.within(path.key("longest-pause"), backoff.longest_pause, least, most);
    if backoff.longest_pause < backoff.pause {
        report.error(
            path.key("longest-pause"),
            format!("the longest pause, {}, is shorter than the first, {}", backoff.longest_pause, backoff.pause),
            "make longest-pause at least as long as pause",
        );
    }
    report.within(path.key("slow-share"), backoff.slow_share, 0.05, 1.0);
    let replies = &configuration.replies;
    report.within(KeyPath::root().key("replies").key("hold-scale"), replies.hold_scale, 0.000_01, 10.0);
    report.at_least_one(path.key("successes"), backoff.successes);
    report.within(path.key("unbindable-pause"), backoff.unbindable_pause, least, most);
}

fn delivery(configuration: &Configuration, report: &mut Report) {
    let delivery = &configuration.delivery;
    let path = KeyPath::root().key("delivery");
    if delivery.port == 0 {
        report.error(path.key("port"), "port 0 is no port", "write 25");
    }
    report.within(path.key("connections"), delivery.connections, 1, 1_000_000);
    // 0s is of use: close at once.
    report.within(path.key("idle-timeout"), delivery.idle_timeout, Duration::ZERO, Duration::from_secs(3600));
    for (key, value) in [
        ("connect-timeout", delivery.connect_timeout),
        ("greeting-timeout", delivery.greeting_timeout),
        ("mail-timeout", delivery.mail_timeout),
        ("rcpt-timeout", delivery.rcpt_timeout),
        ("data-timeout", delivery.data_timeout),
        ("block-timeout", delivery.block_timeout),
        ("final-timeout", delivery.final_timeout),
    ] {
        report.timeout(path.key(key), value);
    }
    let any = |family: fn(&Source) -> bool| configuration.source.values().any(family);
    if any(|source| source.ipv6.is_some()) && !any(|source| source.ipv4.is_some()) {
        report.warn(
            KeyPath::root().key("source"),
            "no source has an IPv4 address; most receivers have nothing else",
            "add ipv4 to a source",
        );
    }
    if !delivery.ipv6 && configuration.source.values().any(|source| source.ipv4.is_none() && source.ipv6.is_some()) {
        report.warn(
            path.key("ipv6"),
            "a source has only an IPv6 address and cannot be used",
            "set ipv6 = true, or give the source an ipv4",
        );
    }
}

fn resolver(configuration: &Configuration, report: &mut Report) {
    let resolver = &configuration.resolver;
    let path = KeyPath::root().key("resolver");
    for (position, server) in resolver.servers.iter().enumerate() {
        if server.port() == 0 || server.ip().is_unspecified() {
            report.error(
                path.key("servers").at(position),
                format!("{server} is no server"),
                "write one such as \"127.0.0.1:53\"",
            );
        }
    }
    report.within(path.key("timeout"), resolver.timeout, Duration::from_millis(50), Duration::from_secs(60));
    report.within(path.key("attempts"), resolver.attempts, 0, 10);
    report.within(path.key("cache-entries"), resolver.cache_entries, 0, 10_000_000);
}

fn protection(configuration: &Configuration, report: &mut Report) {
    let (sts, path) = (&configuration.mta_sts, KeyPath::root().key("mta-sts"));
    if sts.directory.as_os_str().is_empty() {
        report.error(
            path.key("directory"),
            "the folder has no name",
            "write directory = \"/var/lib/postkeep/mta-sts\"",
        );
    }
    if sts.port == 0 {
        report.error(path.key("port"), "port 0 is no port", "write 443");
    }
    report.within(path.key("timeout"), sts.timeout, Duration::from_secs(1), Duration::from_secs(300));
    let Some(reports) = &configuration.tls_reports else { return };
    let path = KeyPath::root().key("tls-reports");
    for (key, address) in [("from", Some(&reports.from)), ("contact", reports.contact.as_ref())] {
        let Some(address) = address else { continue };
        let domain = address.rsplit_once('@').filter(|(local, _)| !local.is_empty()).map(|(_, domain)| domain);
        if domain.is_none_or(|domain| domain_complaint(domain).is_some()) {
            report.error(
                path.key(key),
                format!("{} is not an address", shown(address)),
                "write one such as \"tls-reports@example.com\"",
            );
        }
    }
    if reports.organization.trim().is_empty() || reports.organization.len() > 200 {
        report.error(path.key("organization"), "an organisation has a name of 1 to 200 octets", "write its name");
    }
    if let Some(stream) = &reports.stream
        && stream != "default"
        && !configuration.stream.contains_key(stream)
    {
        report.error(
            path.key("stream"),
            format!("there is no stream {}", shown(stream)),
            "name one of the [stream.NAME] tables, or leave it out",
        );
    }
    let domain = reports.from.rsplit_once('@').map_or("", |(_, domain)| domain);
    let signs = |key: &str| {
        domain.eq_ignore_ascii_case(key)
            || domain.to_ascii_lowercase().ends_with(&format!(".{}", key.to_ascii_lowercase()))
    };
    if !configuration.dkim.iter().any(|key| signs(&key.domain)) {
        report.warn(
            path.key("from"),
            format!("no [[dkim]] key signs for {}; receivers pass over reports without a signature", shown(domain)),
            "add a key, or send from a domain that has one",
        );
    }
}

fn suppression(configuration: &Configuration, report: &mut Report) {
    let suppression = &configuration.suppression;
    let path = KeyPath::root().key("suppression");
    if suppression.directory.as_os_str().is_empty() {
        report.error(
            path.key("directory"),
            "the folder has no name",
            "write directory = \"/var/lib/postkeep/suppression\"",
        );
    } else if [&configuration.spool.directory, &configuration.records.directory].contains(&&suppression.directory) {
        report.error(
            path.key("directory"),
            "the suppression list cannot share a folder with spool or records",
            "give each its own",
        );
    }
    report.within(path.key("cache"), suppression.cache, ByteSize::mebibytes(1), ByteSize::mebibytes(1 << 20));
    report.within(
        path.key("segment-size"),
        suppression.segment_size,
        ByteSize::mebibytes(1),
        ByteSize::mebibytes(64 << 10),
    );
    for (position, recipient) in suppression.seal_to.iter().enumerate() {
        if !recipient.starts_with("age1") {
            report.error(
                path.key("seal-to").at(position),
                "this is no age recipient",
                "write the public key that age-keygen prints, age1…",
            );
        }
    }
}

fn feedback(configuration: &Configuration, report: &mut Report) {
    let Some(feedback) = &configuration.feedback else { return };
    let path = KeyPath::root().key("feedback");
    if let Some(complaint) = domain_complaint(&feedback.domain) {
        report.error(
            path.key("domain"),
            format!("{} is not a domain: {complaint}", shown(&feedback.domain)),
            "write one that only this box uses, such as \"bounce.example.com\"",
        );
    }
    let mut address = |path: KeyPath, address: &str| {
        let domain = address.rsplit_once('@').filter(|(local, _)| !local.is_empty()).map(|(_, domain)| domain);
        if domain.is_none_or(|domain| domain_complaint(domain).is_some()) {
            report.error(
                path,
                format!("{} is not an address", shown(address)),
                "write one such as \"fbl@example.com\"",
            );
        }
    };
    for (position, text) in feedback.report_addresses.iter().enumerate() {
        address(path.key("report-addresses").at(position), text);
    }
    if let Some(text) = &feedback.forward_to {
        address(path.key("forward-to"), text);
        if text.rsplit_once('@').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(&feedback.domain))
            || feedback.report_addresses.iter().any(|other| other.eq_ignore_ascii_case(text))
        {
            report.error(
                path.key("forward-to"),
                "what is forwarded there comes back here",
                "write an address of a mailbox that people read",
            );
        }
    }
    if !configuration.listener.iter().any(|listener| !listener.require_auth) {
        report.warn(
            path,
            "no listener takes mail from strangers, so nothing comes back",
            "add a [[listener]] at port 25 without require-auth",
        );
    }
}

fn records(configuration: &Configuration, report: &mut Report) {
    let records = &configuration.records;
    let path = KeyPath::root().key("records");
    if records.directory.as_os_str().is_empty() {
        report.error(
            path.key("directory"),
            "the folder has no name",
            "write directory = \"/var/lib/postkeep/records\"",
        );
    } else if records.directory == configuration.spool.directory {
        report.error(path.key("directory"), "records and spool cannot share a folder", "give each its own");
    }
    report.within(path.key("rotate-size"), records.rotate_size, ByteSize::kibibytes(64), ByteSize::mebibytes(64 << 10));
    report.within(
        path.key("rotate-after"),
        records.rotate_after,
        Duration::from_secs(1),
        Duration::from_secs(366 * 86400),
    );
    if records.keep < records.rotate_after {
        report.warn(
            path.key("keep"),
            format!(
                "records are deleted after {}, but a file is only closed after {}",
                records.keep, records.rotate_after
            ),
            "keep them longer, or rotate sooner",
        );
    }
}

fn doors_of_the_house(configuration: &Configuration, report: &mut Report) {
    let root = KeyPath::root();
    if let Some(metrics) = &configuration.metrics {
        let path = root.key("metrics").key("address");
        if metrics.address.port() == 0 {
            report.port_0(path.clone(), metrics.address, "one such as 9925");
        }
        if !http::is_near(metrics.address.ip()) {
            report.warn(
                path,
                format!(
                    "metrics at {} can be read by strangers; they name your receivers and volumes",
                    metrics.address
                ),
                "use a loopback or private address",
            );
        }
    }
    let socket = root.key("control").key("socket");
    let length = configuration.control.socket.as_os_str().as_bytes().len();
    if length == 0 || length > LONGEST_SOCKET {
        report.error(
            socket,
            format!("the path of the socket has {length} octets"),
            format!("write a path of 1 to {LONGEST_SOCKET} octets, such as \"/run/postkeep/control.sock\""),
        );
    }
}
