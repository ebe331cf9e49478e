//! Receivers of events: accounting, webhooks, brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use super::http::is_near;
use super::{Report, files};
use crate::accounting::{all_columns, line_type};
use crate::load::Options;
use crate::name::shown;
use crate::path::KeyPath;
use crate::suggest::nearest;
use crate::types::{Accounting, Configuration};
use crate::units::{ByteSize, Duration};

/// The events of records, as `docs/operate/records.md` explains them.
pub const EVENTS: [&str; 15] = [
    "received",
    "refused",
    "attempted",
    "deferred",
    "delivered",
    "bounced",
    "expired",
    "suppressed",
    "removed",
    "remote-bounce",
    "remote-delay",
    "complaint",
    "auto-reply",
    "returned",
    "unsubscribed",
];
/// Words of a routing key or subject that stand for something of the event.
const PLACES: [&str; 3] = ["{event}", "{stream}", "{domain}"];
/// Kafka's own bound for names of topics.
const LONGEST_TOPIC: usize = 249;

pub(super) fn check(configuration: &Configuration, options: &Options, report: &mut Report) {
    let root = KeyPath::root();
    if let Some(accounting) = &configuration.accounting {
        check_accounting(configuration, accounting, report);
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut common = |path: &KeyPath, name, events: &[String], buffer, report: &mut Report| {
        report.name(path.key("name"), name);
        if !names.insert(name) {
            report.error(
                path.key("name"),
                format!("there is another receiver of events {}", shown(name)),
                "give each its own name",
            );
        }
        check_events(path.key("events"), events, report);
        check_buffer(path.key("buffer"), buffer, report);
    };
    for (index, webhook) in configuration.webhook.iter().enumerate() {
        let path = root.key("webhook").at(index);
        common(&path, &webhook.name, &webhook.events, webhook.buffer, report);
        url(path.key("url"), &webhook.url, "https", "http", report);
        files::webhook_secret(path.key("secret"), &webhook.secret, options, report);
        roots(path.key("extra-roots"), webhook.extra_roots.as_deref(), options, report);
        report.within(path.key("batch-events"), webhook.batch_events, 1, 1000);
        report.within(path.key("batch-age"), webhook.batch_age, Duration::ZERO, Duration::from_secs(60));
        report.within(path.key("timeout"), webhook.timeout, Duration::from_secs(1), Duration::from_secs(300));
        check_retry_for(path.key("retry-for"), webhook.retry_for, configuration, report);
    }
    for (index, amqp) in configuration.amqp.iter().enumerate() {
        let path = root.key("amqp").at(index);
        common(&path, &amqp.name, &amqp.events, amqp.buffer, report);
        url(path.key("url"), &amqp.url, "amqps", "amqp", report);
        if let Some(password) = &amqp.password {
            files::password(path.key("password"), password, options, report);
        }
        roots(path.key("extra-roots"), amqp.extra_roots.as_deref(), options, report);
        template(path.key("routing-key"), &amqp.routing_key, report);
        check_retry_for(path.key("retry-for"), amqp.retry_for, configuration, report);
        report.within(path.key("exchange"), amqp.exchange.len(), 0, 255);
    }
    for (index, kafka) in configuration.kafka.iter().enumerate() {
        let path = root.key("kafka").at(index);
        common(&path, &kafka.name, &kafka.events, kafka.buffer, report);
        if kafka.brokers.is_empty() {
            report.error(path.key("brokers"), "there is no broker", "name one, such as \"10.0.0.31:9092\"");
        }
        for (position, broker) in kafka.brokers.iter().enumerate() {
            let parts = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains([',', '/']));
            if parts.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                report.error(
                    path.key("brokers").at(position),
                    format!("{} is not a broker", shown(broker)),
                    "write HOST:PORT, such as \"10.0.0.31:9092\"",
                );
            } else if host_of(broker).is_some_and(|host| host.parse::<IpAddr>().is_ok_and(|address| !is_near(address)))
            {
                report.error(
                    path.key("brokers").at(position),
                    format!("{} would tell strangers whom you write to: Kafka is spoken in plain text", shown(broker)),
                    "name a broker at a loopback or private address, which may be the near end of a tunnel",
                );
            } else if !host_of(broker).is_some_and(is_nearby) {
                // Brokers go by name, and tell clients further names: here nobody can know where they lead.
                report.warn(
                    path.key("brokers").at(position),
                    format!("Kafka is spoken in plain text, and {} may lead out of your own network", shown(broker)),
                    "see to it that the name of every broker of the cluster leads to a private address",
                );
            }
        }
        check_retry_for(path.key("retry-for"), kafka.retry_for, configuration, report);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if kafka.topic.is_empty() || kafka.topic.len() > LONGEST_TOPIC || !kafka.topic.bytes().all(is_plain) {
            report.error(
                path.key("topic"),
                format!("{} is not a topic", shown(&kafka.topic)),
                "write letters, digits, dots, hyphens and underscores, such as \"mail-events\"",
            );
        }
    }
    for (index, nats) in configuration.nats.iter().enumerate() {
        let path = root.key("nats").at(index);
        common(&path, &nats.name, &nats.events, nats.buffer, report);
        if nats.servers.is_empty() {
            report.error(path.key("servers"), "there is no server", "name one, such as \"nats://127.0.0.1:4222\"");
        }
        for (position, server) in nats.servers.iter().enumerate() {
            url(path.key("servers").at(position), server, "tls", "nats", report);
        }
        if let Some(password) = &nats.password {
            files::password(path.key("password"), password, options, report);
        } else if nats.user.is_some() {
            report.error(path.key("user"), "a user without a password", "add password = FILE");
        }
        roots(path.key("extra-roots"), nats.extra_roots.as_deref(), options, report);
        template(path.key("subject"), &nats.subject, report);
        check_retry_for(path.key("retry-for"), nats.retry_for, configuration, report);
    }
}

fn check_accounting(configuration: &Configuration, accounting: &Accounting, report: &mut Report) {
    let path = KeyPath::root().key("accounting");
    if accounting.directory.as_os_str().is_empty() {
        report.error(
            path.key("directory"),
            "the folder has no name",
            "write directory = \"/var/lib/postkeep/accounting\"",
        );
    }
    let taken = [&configuration.records.directory, &configuration.spool.directory];
    for (key, folder) in [("directory", Some(&accounting.directory)), ("move-to", accounting.move_to.as_ref())] {
        if folder.is_some_and(|folder| taken.contains(&folder)) {
            report.error(path.key(key), "accounting cannot share a folder with records or spool", "give it its own");
        }
    }
    if accounting.move_to.as_ref() == Some(&accounting.directory) {
        report.error(path.key("move-to"), "closed files are there already", "name another folder, or leave it out");
    }
    if accounting.types.is_empty() {
        report.error(path.key("types"), "no type of lines is written", "name some, such as [\"d\", \"b\"]");
    }
    let remedy = "write d, b, t, tq, r, f, rb or rs, or their long names";
    for (position, name) in accounting.types.iter().enumerate() {
        if line_type(name).is_none() {
            report.error(path.key("types").at(position), format!("there is no type {}", shown(name)), remedy);
        }
    }
    let mut seen = BTreeMap::new();
    for (types, fields) in &accounting.record_fields {
        let path = path.key("record-fields").key(types);
        for name in types.split(',').map(str::trim) {
            match line_type(name) {
                None => report.error(path.clone(), format!("there is no type {}", shown(name)), remedy),
                Some(known) => {
                    if let Some(other) = seen.insert(known.short, types) {
                        report.error(
                            path.clone(),
                            format!("the columns of {name} are said under {} too", shown(other)),
                            "name each type once",
                        );
                    }
                }
            }
        }
        for (position, field) in fields.iter().enumerate() {
            let name = field.strip_prefix('!').unwrap_or(field);
            if field == "*" || field == "type" || all_columns().any(|column| column == name) {
                continue;
            }
            let mut message = format!("there is no column {}", shown(name));
            if let Some(meant) = nearest(name, all_columns()) {
                message.push_str(&format!("; did you mean \"{meant}\"?"));
            } else if name.starts_with("header_") {
                message.push_str("; records keep no headers of messages but Message-ID");
            }
            report.error(path.at(position), message, "events.md lists the columns");
        }
    }
    report.within(
        path.key("rotate-size"),
        accounting.rotate_size,
        ByteSize::kibibytes(64),
        ByteSize::mebibytes(64 << 10),
    );
    let year = Duration::from_secs(366 * 86400);
    report.within(path.key("rotate-after"), accounting.rotate_after, Duration::from_secs(1), year);
    check_buffer(path.key("buffer"), accounting.buffer, report);
}

fn check_events(path: KeyPath, events: &[String], report: &mut Report) {
    if events.is_empty() {
        report.error(path.clone(), "no event is sent", "name some, or leave the key out");
    }
    for (position, event) in events.iter().enumerate() {
        if event == "*" || EVENTS.contains(&event.as_str()) {
            continue;
        }
        let mut message = format!("there is no event {}", shown(event));
        if let Some(meant) = nearest(event, EVENTS) {
            message.push_str(&format!("; did you mean \"{meant}\"?"));
        }
        report.error(path.at(position), message, "records.md lists the events; \"*\" is all of them");
    }
}

fn check_buffer(path: KeyPath, buffer: ByteSize, report: &mut Report) {
    report.within(path, buffer, ByteSize::kibibytes(64), ByteSize::mebibytes(1 << 20));
}

fn check_retry_for(path: KeyPath, time: Duration, configuration: &Configuration, report: &mut Report) {
    report.within(path.clone(), time, Duration::ZERO, Duration::from_secs(30 * 86400));
    if time > configuration.records.keep {
        report.warn(
            path,
            format!("records are deleted after {}, before this time is up", configuration.records.keep),
            "keep them longer: [records] keep",
        );
    }
}

/// A PEM file with roots, if one is named.
fn roots(path: KeyPath, file: Option<&Path>, options: &Options, report: &mut Report) {
    if let Some(file) = file {
        files::certificate(path, file, options, report);
    }
}

/// A place in the network: the protected scheme anywhere, the plain one only nearby.
fn url(path: KeyPath, url: &str, protected: &str, plain: &str, report: &mut Report) {
    let remedy = format!("write one such as \"{protected}://host.example.com/…\"");
    let complaint = match url.split_once("://") {
        Some((scheme, rest)) if scheme == protected || scheme == plain => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
            let name = host_of(host);
            if user.contains(':') {
                Some("a password does not belong into a configuration file".to_owned())
            } else if name.is_none_or(str::is_empty) || url.bytes().any(|byte| !byte.is_ascii_graphic()) {
                Some(format!("{} names no host", shown(url)))
            } else if scheme == plain && !name.is_some_and(is_nearby) {
                Some(format!("{plain}:// would tell strangers whom you write to"))
            } else {
                None
            }
        }
        _ => Some(format!("{} is not a place that begins with {protected}://", shown(url))),
    };
    if let Some(complaint) = complaint {
        report.error(
            path,
            complaint,
            format!("{remedy}; {plain}:// is for loopback and private addresses, secrets go into files"),
        );
    }
}

/// A host that nobody is on the way to.
fn is_nearby(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_near)
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; `None`: none of these.
fn host_of(text: &str) -> Option<&str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, rest)| (host, rest.strip_prefix(':')))?,
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(host)
}

/// Where events go within a broker.
fn template(path: KeyPath, template: &str, report: &mut Report) {
    let mut rest = template.to_owned();
    for place in PLACES {
        rest = rest.replace(place, "");
    }
    let is_bad = |character: char| character.is_whitespace() || character.is_control() || "{}*>".contains(character);
    if template.is_empty() || template.len() > 200 || rest.contains(is_bad) {
        report.error(
            path,
            format!("{} cannot be used", shown(template)),
            "write words with dots between them, such as \"postkeep.{event}\"; {event}, {stream} and {domain} are filled in",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse;

    fn errors(table: &str) -> String {
        let text = format!(
            "hostname = \"mail.example.com\"\n[[listener]]\naddress = \"127.0.0.1:2525\"\ntls = \"none\"\n\
             [source.a]\nipv4 = \"192.0.2.1\"\n[pool.default]\nsources = {{ a = 1 }}\n{table}"
        );
        parse("test", &text, &Options::without_files()).map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    #[test]
    fn plain_text_goes_no_further_than_the_next_network() {
        let webhook = |url: &str| errors(&format!("[[webhook]]\nname = \"a\"\nsecret = \"/s\"\nurl = \"{url}\"\n"));
        for good in ["https://example.com/x", "http://127.0.0.1:8/x", "http://[::1]:8/", "http://10.1.2.3/"] {
            assert_eq!(webhook(good), "", "{good}");
        }
        for (bad, why) in [
            ("http://example.com/", "would tell strangers"),
            ("http://127.0.0.1@example.com/", "would tell strangers"),
            ("http://192.0.2.1/", "would tell strangers"),
            ("https://user:secret@example.com/", "a password does not belong"),
            ("https:///x", "names no host"),
            ("https://a b/", "names no host"),
            ("https://example.com:99999/", "names no host"),
            ("ftp://example.com/", "begins with https://"),
        ] {
            assert!(webhook(bad).contains(why), "{bad}: {}", webhook(bad));
        }
    }

    #[test]
    fn kafka_is_plain_text_and_stays_near() {
        let kafka = |broker: &str| {
            errors(&format!("[[kafka]]\nname = \"k\"\nbrokers = [\"{broker}\"]\ntopic = \"t\"\nretry-for = \"1d\"\n"))
        };
        for good in ["10.0.0.31:9092", "127.0.0.1:9092", "[fd00::1]:9092", "localhost:9092", "kafka.example.com:9092"] {
            assert_eq!(kafka(good), "", "{good}");
        }
        for bad in ["192.0.2.1:9092", "[2001:db8::1]:9092"] {
            assert!(kafka(bad).contains("would tell strangers"), "{bad}: {}", kafka(bad));
        }
    }

    #[test]
    fn names_of_events_types_and_columns_are_known_or_refused_with_what_was_meant() {
        let said = errors(
            "[accounting]\ntypes = [\"d\", \"x\"]\nrecord-fields = { \"d,b\" = [\"*\", \"!rcpt\", \"dnsDiag\"], d = [], r = [\"header_Subjekt\"] }\n\
             [[kafka]]\nname = \"k\"\nbrokers = [\"h\"]\ntopic = \"a b\"\nevents = [\"deliverd\"]\n",
        );
        for wanted in [
            "there is no type \"x\"",
            "did you mean \"dsnDiag\"",
            "name each type once",
            "header_Subject",
            "\"h\" is not a broker",
            "\"a b\" is not a topic",
            "did you mean \"delivered\"",
        ] {
            assert!(said.contains(wanted), "{wanted} is not in:\n{said}");
        }
    }

    #[test]
    fn record_fields_choose_columns_as_in_powermta() {
        let accounting = Accounting {
            record_fields: [("b,r".to_owned(), vec!["*".to_owned(), "!timeQueued".to_owned(), "user".to_owned()])]
                .into(),
            ..Accounting::default()
        };
        let columns = |name| line_type(name).map(|of| accounting.columns(of).expect("known columns")).expect("a type");
        assert_eq!(columns("r"), ["timeLogged", "orig", "srcType", "srcMta", "dlvSize", "jobId", "envId", "user"]);
        assert_eq!(columns("delivery").len(), 22);
        assert_eq!(columns("bounce").len(), 22);
    }
}
