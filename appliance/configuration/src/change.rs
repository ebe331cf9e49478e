//! What differs between the running configuration and a new one, and whether a reload is
//! enough; the daemon logs it, so that nobody waits for a change that needs a restart.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::path::KeyPath;
use crate::types::Configuration;

/// When a change counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakesEffect {
    /// With the reload.
    Now,
    /// After `systemctl restart postkeepd`; the running daemon keeps the old value.
    Restart,
}

/// Keys whose change needs a restart: what is opened once, when the daemon starts.
pub const RESTART: [&str; 20] = [
    "spool.directory",
    "spool.segment-size",
    "spool.minimum-free",
    "suppression.directory",
    "suppression.seal-to",
    "suppression.cache",
    "suppression.segment-size",
    "http",
    "mta-sts.directory",
    "tls-reports.directory",
    "acme",
    "records",
    "accounting",
    "webhook",
    "amqp",
    "kafka",
    "nats",
    "metrics",
    "control.socket",
    "api",
];

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Key path; elements of arrays of tables stand under what tells them apart:
    /// `listener."0.0.0.0:25".tls`, `credential.app.stream`.
    pub key: KeyPath,
    /// Before; absent when it was not there. Password hashes are never shown.
    pub from: Option<String>,
    /// After; absent when it is gone.
    pub to: Option<String>,
    /// Whether a reload is enough.
    pub takes_effect: TakesEffect,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(out, "{}: {from} → {to}", self.key)?,
            (None, Some(to)) => write!(out, "{}: new: {to}", self.key)?,
            (Some(from), None) => write!(out, "{}: gone: {from}", self.key)?,
            (None, None) => write!(out, "{}", self.key)?,
        }
        if self.takes_effect == TakesEffect::Restart {
            out.write_str(" (needs a restart)")?;
        }
        Ok(())
    }
}

/// All that differs, in the order of the keys.
pub fn changes(old: &Configuration, new: &Configuration) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&KeyPath::root(), &tree_of(old), &tree_of(new), &mut changes);
    changes
}

/// Whether a change of that key, written without names (`listener.address`), needs a restart.
pub(crate) fn needs_restart(key: &str) -> bool {
    RESTART.iter().any(|known| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The configuration as JSON, arrays of tables as tables by what tells their elements apart.
fn tree_of(configuration: &Configuration) -> Value {
    let Ok(Value::Object(mut root)) = serde_json::to_value(configuration) else {
        // Only a path that is not UTF-8 cannot be written; such a path cannot be read either.
        return Value::Null;
    };
    for (array, identity) in [
        ("listener", &["address"][..]),
        ("credential", &["name"]),
        ("network", &["name"]),
        ("http", &["address"]),
        ("token", &["name"]),
        ("api-client", &["name"]),
        ("lane-limit", &["source", "site"]),
        ("dkim", &["selector", "domain"]),
        ("route", &["domain"]),
        ("webhook", &["name"]),
        ("amqp", &["name"]),
        ("kafka", &["name"]),
        ("nats", &["name"]),
    ] {
        let Some(Value::Array(elements)) = root.remove(array) else { continue };
        let named: BTreeMap<String, Value> = elements
            .into_iter()
            .map(|element| {
                let parts: Vec<&str> = identity.iter().map(|key| element[*key].as_str().unwrap_or("*")).collect();
                (parts.join(if array == "dkim" { "._domainkey." } else { " " }), element)
            })
            .collect();
        root.insert(array.to_owned(), Value::Object(named.into_iter().collect()));
    }
    Value::Object(root)
}

fn compare(path: &KeyPath, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let (old, new) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
            compare(&path.key(key), old, new, changes);
        }
        return;
    }
    changes.push(Change {
        key: path.clone(),
        from: written(path, old),
        to: written(path, new),
        takes_effect: effect(path),
    });
}

fn effect(path: &KeyPath) -> TakesEffect {
    if needs_restart(&path.to_string()) { TakesEffect::Restart } else { TakesEffect::Now }
}

/// A value as the log shows it; `None` when it is absent.
fn written(path: &KeyPath, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    if matches!(path.last_key(), Some("password-hash" | "hash")) {
        return Some("(not shown)".to_owned());
    }
    let mut value = value.clone();
    if let Value::Object(table) = &mut value {
        table.remove("password-hash");
        table.remove("hash");
        table.retain(|_, value| !value.is_null());
    }
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Options, parse};

    const OLD: &str = r#"
        hostname = "mail.example.com"
        [[listener]]
        address = "127.0.0.1:2525"
        tls = "none"
        [[credential]]
        name = "app"
        password-hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
        sender-domains = ["example.com"]
        [source.a]
        ipv4 = "192.0.2.10"
        [pool.default]
        sources = { a = 1 }
    "#;

    fn diff(old: &str, new: &str) -> Vec<String> {
        let read = |text| parse("text", text, &Options::without_files()).expect("good").configuration;
        changes(&read(old), &read(new)).iter().map(Change::to_string).collect()
    }

    #[test]
    fn the_same_configuration_has_no_changes() {
        assert!(diff(OLD, OLD).is_empty());
    }

    #[test]
    fn each_changed_key_is_named_with_both_values() {
        let new = OLD.replace("a = 1", "a = 7") + "[lane]\nconnections = 3\n[backoff]\npause = \"2m\"";
        assert_eq!(
            diff(OLD, &new),
            ["backoff.pause: \"1m\" → \"2m\"", "lane.connections: new: 3", "pool.default.sources.a: 1 → 7"]
        );
    }

    #[test]
    fn what_is_opened_at_the_start_needs_a_restart() {
        let new = OLD.to_owned() + "[metrics]\naddress = \"127.0.0.1:9925\"\n[spool]\ndirectory = \"/spool\"";
        let changes = diff(OLD, &new);
        assert_eq!(changes.len(), 2);
        assert!(changes.iter().all(|change| change.ends_with("(needs a restart)")), "{changes:#?}");
    }

    #[test]
    fn a_door_that_comes_or_goes_does_so_at_once() {
        let changes = diff(OLD, &OLD.replace("127.0.0.1:2525", "127.0.0.1:2526"));
        assert_eq!(changes.len(), 2);
        assert!(changes.iter().all(|change| !change.ends_with("(needs a restart)")), "{changes:#?}");
    }

    #[test]
    fn a_password_hash_is_never_shown() {
        let changed = OLD.replace("c29tZXNhbHQ", "b3RoZXJzYWx0");
        assert_eq!(diff(OLD, &changed), ["credential.app.password-hash: (not shown) → (not shown)"]);
        let other = OLD.replace("\"app\"", "\"other\"");
        assert!(!diff(OLD, &other).concat().contains("argon2"));
    }
}
