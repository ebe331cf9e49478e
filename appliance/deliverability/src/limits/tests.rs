use postkeep_configuration::{LaneLimit, ProviderOverride};

use super::*;
use crate::provider::ProviderTable;

fn configuration() -> Configuration {
    toml_configuration("hostname = \"mail.example.com\"\n")
}

fn toml_configuration(text: &str) -> Configuration {
    toml::from_str(text).expect("configuration")
}

#[test]
fn without_a_word_the_built_in_limits_count() {
    let limits = EffectiveLimits::of(&configuration(), "a", "mx.example.net", None);
    assert_eq!(limits.limits(), Limits::default());
    assert_eq!(limits.connections.origin.to_string(), "built in");
}

#[test]
fn the_most_specific_word_wins_limit_by_limit() {
    let mut configuration = toml_configuration(
        r#"
        hostname = "mail.example.com"
        [lane]
        connections = 20
        message-rate = "900/1m"
        [provider.google.lane]
        messages-per-connection = 30
        [[lane-limit]]
        site = "SITE.google.com"
        limits = { connections = 3, message-rate = "60/1m" }
        [[lane-limit]]
        source = "a"
        site = "site.google.com"
        limits = { connections = 1 }
        "#,
    );
    let table = ProviderTable::new(&configuration).expect("table");
    let google = table.by_name("google");
    let site = "site.google.com";

    let a = EffectiveLimits::of(&configuration, "a", site, google);
    assert_eq!((a.connections.value, a.connections.origin.to_string()), (1, "[[lane-limit]] for source a".into()));
    assert_eq!(a.message_rate.value, Some("60/1m".parse().expect("rate")));
    assert_eq!(a.message_rate.origin.to_string(), "[[lane-limit]] for every source");
    assert_eq!(a.messages_per_connection.value, 30);
    assert_eq!(a.messages_per_connection.origin.to_string(), "[provider.google.lane]");
    assert_eq!(a.recipients_per_transaction.origin, Origin::BuiltIn);

    let b = EffectiveLimits::of(&configuration, "b", site, google);
    assert_eq!(b.connections.value, 3);

    let elsewhere = EffectiveLimits::of(&configuration, "b", "other.google.com", google);
    assert_eq!(elsewhere.connections.value, 5);
    assert_eq!(
        elsewhere.connections.origin.to_string(),
        "shipped rules for google (source Gmail's sender guidelines; figures by operators, checked 2026-11-23)"
    );
    assert_eq!(elsewhere.message_rate.origin, Origin::Lane);

    let unknown = EffectiveLimits::of(&configuration, "b", "mx.example.net", None);
    assert_eq!((unknown.connections.value, unknown.connections.origin), (20, Origin::Lane));

    configuration.provider.insert("google".into(), ProviderOverride::default());
    configuration.lane_limit.push(LaneLimit {
        source: Some("b".into()),
        site: site.into(),
        limits: LaneLimits { messages_per_connection: Some(0), ..LaneLimits::default() },
    });
    let b = EffectiveLimits::of(&configuration, "b", site, google);
    assert_eq!(b.messages_per_connection.value, 1, "a connection carries one message at least");
}
