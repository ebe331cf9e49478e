//! The way in: listeners, bounds of intake, credentials and networks.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Report, files};
use crate::access::DEFAULT;
use crate::load::Options;
use crate::name::{DomainPattern, domain_complaint, is_header_name, shown};
use crate::password;
use crate::path::KeyPath;
use crate::types::{Configuration, Listener, ListenerTls};
use crate::units::{ByteSize, Duration};

/// Headers that carry a message's own meaning and cannot name its stream.
const OWN_HEADERS: [&str; 15] = [
    "from",
    "to",
    "cc",
    "bcc",
    "sender",
    "reply-to",
    "date",
    "subject",
    "message-id",
    "received",
    "return-path",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "dkim-signature",
];

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    let root = KeyPath::root();
    if let Some(complaint) = domain_complaint(&configuration.hostname) {
        report.error(
            root.key("hostname"),
            format!("{} is not a full host name: {complaint}", shown(&configuration.hostname)),
            "write the name that the reverse DNS of this box gives, such as \"mail.example.com\"",
        );
    }
    listeners(configuration, options, report);
    intake(configuration, report);
    senders(configuration, report);
}

fn listeners(configuration: &Configuration, options: &Options, report: &mut Report) {
    let all = KeyPath::root().key("listener");
    if configuration.listener.is_empty() {
        report.error(
            all.clone(),
            "there is no listener: no mail could come in",
            "add [[listener]] with address = \"0.0.0.0:25\"",
        );
    }
    let mut seen = BTreeMap::new();
    for (index, listener) in configuration.listener.iter().enumerate() {
        let path = all.at(index);
        if listener.address.port() == 0 {
            report.port_0(path.key("address"), listener.address, "25, 465, 587 or a port of your choice");
        } else if let Some(first) = seen.insert(listener.address, index) {
            report.error(
                path.key("address"),
                format!("{} is the address of listener {} too", listener.address, first + 1),
                "give each listener its own address or port",
            );
        }
        listener_tls(&path, listener, options, report);
        for (position, network) in listener.proxy_protocol_from.iter().enumerate() {
            if is_wide(network) {
                report.error(
                    path.key("proxy-protocol-from").at(position),
                    format!("{network} is so wide that strangers could claim any client address"),
                    "list the addresses of your own proxies, such as \"192.0.2.7/32\"",
                );
            }
        }
    }
}

fn listener_tls(path: &KeyPath, listener: &Listener, options: &Options, report: &mut Report) {
    if listener.tls == ListenerTls::None {
        if listener.require_auth {
            report.error(
                path.key("require-auth"),
                "require-auth needs TLS: without it AUTH is not offered, so nobody could send",
                "set tls = \"starttls\" or \"implicit\", or leave require-auth out",
            );
        }
        let unused = [("certificate", &listener.certificate), ("key", &listener.key)];
        for (key, _) in unused.into_iter().filter(|(_, file)| file.is_some()) {
            report.warn(
                path.key(key),
                "this is not used with tls = \"none\"",
                "leave it out, or set tls = \"starttls\"",
            );
        }
        return;
    }
    if listener.tls == ListenerTls::Implicit && listener.address.port() == 25 {
        report.warn(
            path.key("tls"),
            "no client speaks TLS from the first byte on port 25",
            "set tls = \"starttls\" here, and \"implicit\" on port 465",
        );
    }
    match &listener.certificate {
        Some(certificate) => files::certificate(path.key("certificate"), certificate, options, report),
        None => report.error(
            path.key("certificate"),
            "a listener with TLS needs `certificate`, a PEM file with the chain",
            "add certificate = \"…/fullchain.pem\", or set tls = \"none\"",
        ),
    }
    match &listener.key {
        Some(key) => files::private_key(path.key("key"), key, files::KeyKind::Tls, options, report),
        None => report.error(
            path.key("key"),
            "a listener with TLS needs `key`, a PEM file with the private key",
            "add key = \"…/privkey.pem\", or set tls = \"none\"",
        ),
    }
}

fn intake(configuration: &Configuration, report: &mut Report) {
    let intake = &configuration.intake;
    let path = KeyPath::root().key("intake");
    report.within(path.key("connections"), intake.connections, 1, 1_000_000);
    report.within(path.key("connections-per-address"), intake.connections_per_address, 1, 1_000_000);
    report.at_least_one(path.key("idle-commands"), intake.idle_commands);
    report.at_least_one(path.key("errors"), intake.errors);
    report.at_least_one(path.key("auth-failures"), intake.auth_failures);
    report.within(path.key("recipients"), intake.recipients, 1, 65_535);
    if (1..100).contains(&intake.recipients) {
        report.warn(
            path.key("recipients"),
            "RFC 5321 §4.5.3.1.8 has clients expect 100 recipients at least",
            "write 100 or more, unless all your clients are known",
        );
    }
    report.within(path.key("message-size"), intake.message_size, ByteSize::kibibytes(64), ByteSize::mebibytes(1024));
    report.within(path.key("line-length"), intake.line_length, 1000, 1 << 20);
    report.timeout(path.key("command-timeout"), intake.command_timeout);
    report.timeout(path.key("data-timeout"), intake.data_timeout);
    report.within(
        path.key("session-timeout"),
        intake.session_timeout,
        Duration::from_secs(1),
        Duration::from_secs(7 * 86400),
    );
    report.within(path.key("hops"), intake.hops, 1, 1000);
    if !is_header_name(&intake.stream_header) {
        report.error(
            path.key("stream-header"),
            format!("{} is not the name of a header", shown(&intake.stream_header)),
            "write a name without colon and spaces, such as \"X-Postkeep-Stream\"",
        );
    } else if OWN_HEADERS.contains(&intake.stream_header.to_ascii_lowercase().as_str()) {
        report.error(
            path.key("stream-header"),
            format!("{} is a header that messages need; it would be removed from them", intake.stream_header),
            "write a name of your own, such as \"X-Postkeep-Stream\"",
        );
    }
}

fn senders(configuration: &Configuration, report: &mut Report) {
    if configuration.credential.is_empty() && configuration.network.is_empty() && configuration.token.is_empty() {
        report.warn(
            KeyPath::root().key("credential"),
            "there is neither a credential nor a network: nobody may send",
            "add [[credential]] or [[network]]",
        );
    }
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for (index, credential) in configuration.credential.iter().enumerate() {
        let path = KeyPath::root().key("credential").at(index);
        let name = credential.name.as_str();
        if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
            report.error(
                path.key("name"),
                format!("{} cannot be a user name", shown(name)),
                "write 1 to 255 characters without control characters",
            );
        } else if names.insert(name, "credential").is_some() {
            report.error(
                path.key("name"),
                format!("there is another credential {}", shown(name)),
                "give each its own name",
            );
        }
        match password::complaint(&credential.password_hash) {
            Some((complaint, true)) => report.error(
                path.key("password-hash"),
                complaint,
                "make one with `postkeep credential hash` and copy the whole line, $argon2id$…",
            ),
            Some((complaint, false)) => {
                report.warn(path.key("password-hash"), complaint, "make a new one with `postkeep credential hash`");
            }
            None => {}
        }
        sender(
            configuration,
            &path,
            &credential.sender_domains,
            &credential.stream,
            &credential.may_choose_streams,
            report,
        );
    }
    let mut covered: BTreeMap<IpNet, &str> = BTreeMap::new();
    for (index, network) in configuration.network.iter().enumerate() {
        let path = KeyPath::root().key("network").at(index);
        report.name(path.key("name"), &network.name);
        match names.insert(&network.name, "network") {
            Some("network") => {
                report.error(
                    path.key("name"),
                    format!("there is another network {}", shown(&network.name)),
                    "give each its own name",
                );
            }
            Some(_) => report.warn(
                path.key("name"),
                format!("a credential is called {} too; records cannot tell them apart", shown(&network.name)),
                "give the network another name",
            ),
            None => {}
        }
        if network.addresses.is_empty() {
            report.error(
                path.key("addresses"),
                "this network has no addresses",
                "write addresses = [\"192.0.2.0/24\"]",
            );
        }
        for (position, addresses) in network.addresses.iter().enumerate() {
            let path = path.key("addresses").at(position);
            if is_wide(addresses) {
                report.error(
                    path,
                    format!("{addresses} would make this box an open relay"),
                    "list your own networks, at most a /8 of IPv4 or a /32 of IPv6 each; let others authenticate",
                );
                continue;
            }
            if addresses.addr() != addresses.network() {
                report.warn(
                    path.clone(),
                    format!("{addresses} means all of {}", addresses.trunc()),
                    format!("write \"{}\"", addresses.trunc()),
                );
            }
            if let Some(other) = covered.insert(addresses.trunc(), &network.name) {
                report.warn(
                    path,
                    format!(
                        "{} is listed before, in network {}; the first one counts",
                        addresses.trunc(),
                        shown(other)
                    ),
                    "take it out of one of them",
                );
            }
        }
        sender(configuration, &path, &network.sender_domains, &network.stream, &network.may_choose_streams, report);
    }
}

/// What credentials, networks and tokens have in common.
pub(super) fn sender(
    configuration: &Configuration,
    path: &KeyPath,
    domains: &[String],
    stream: &Option<String>,
    may_choose: &[String],
    report: &mut Report,
) {
    if domains.is_empty() {
        report.error(
            path.key("sender-domains"),
            "without sender domains nothing may be sent",
            "name them: sender-domains = [\"example.com\"]; \"*\" is any",
        );
    }
    for (position, domain) in domains.iter().enumerate() {
        if let Err(error) = domain.parse::<DomainPattern>() {
            report.error(path.key("sender-domains").at(position), error.problem, format!("write {}", error.expected));
        }
    }
    let streams = configuration.stream.keys().map(String::as_str).chain([DEFAULT]);
    if let Some(stream) = stream {
        report.exists(path.key("stream"), "stream", stream, streams.clone());
    }
    for (position, stream) in may_choose.iter().enumerate().filter(|(_, stream)| *stream != "*") {
        report.exists(path.key("may-choose-streams").at(position), "stream", stream, streams.clone());
    }
}

/// Wider than a /8 of IPv4 or a /32 of IPv6: nobody's own network.
fn is_wide(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => match network.addr().to_ipv4_mapped() {
            // ::ffff:a.b.c.d/n is a network of IPv4.
            Some(_) if network.prefix_len() >= 96 => network.prefix_len() < 96 + 8,
            _ => network.prefix_len() < 32 || network.contains(&V4_MAPPED),
        },
    }
}

/// First address of ::ffff:0:0/96, through which all of IPv4 can be written.
const V4_MAPPED: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
