//! TLS towards receivers: opportunistic takes any certificate and falls back,
//! `verified` takes a good one only, and the record says what happened.

use std::time::Duration;

use postkeep_tests::certificates::{Authority, Flaw};
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

/// Five hosts: a good certificate, an expired one, one for another name, one that signs itself, and none.
const HOSTS: [&str; 5] = ["good.test", "expired.test", "wrong.test", "selfsigned.test", "plain.test"];

struct House {
    daemon: Daemon,
    sinks: Vec<Sink>,
    _names: Names,
    ground: Ground,
}

fn open(policy: &str) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    let mut sinks = Vec::new();
    for (n, domain) in (101u8..).zip(HOSTS) {
        names.domain(domain, ground.ip(n));
        let authority = ground.authority();
        let host = format!("mx.{domain}");
        let sink = Sink::at(&ground, n);
        sinks.push(match domain {
            "good.test" => sink.with_tls(authority.identity(&host, Flaw::None).server()),
            "expired.test" => sink.with_tls(authority.identity(&host, Flaw::Expired).server()),
            "wrong.test" => sink.with_tls(authority.identity("other.test", Flaw::None).server()),
            "selfsigned.test" => sink.with_tls(Authority::new("nobody").identity(&host, Flaw::SelfSigned).server()),
            _ => sink,
        });
    }
    std::fs::write(ground.path("roots.pem"), ground.authority().pem()).expect("write the roots");
    let settings = Settings::new(&ground)
        .with(&format!("[delivery]\ntls = \"{policy}\"\nextra-roots = {:?}\n", ground.path("roots.pem")));
    let daemon = Daemon::start(&ground, &settings);
    for domain in HOSTS {
        let recipient = format!("r@{domain}");
        daemon.submit("a@sender.test", &[&recipient], &message::simple("a@sender.test", &recipient, domain, "Hi\n"));
    }
    House { daemon, sinks, _names: names, ground }
}

impl House {
    fn record(&self, event: &str, domain: &str) -> Value {
        self.daemon.wait_record(event, LIMIT, |record| record["domain"] == domain)
    }
}

#[test]
fn opportunistic_delivers_everywhere_and_records_what_it_found() {
    let house = open("opportunistic");
    for (domain, sink) in HOSTS.iter().zip(&house.sinks) {
        let arrived = sink.wait(1, LIMIT).remove(0);
        let record = house.record("delivered", domain);
        assert_eq!(arrived.tls.is_some(), *domain != "plain.test", "{domain}");
        assert_eq!(record["tls"].is_object(), *domain != "plain.test", "{record}");
        if record["tls"].is_object() {
            assert_eq!(record["tls"]["verified"], *domain == "good.test", "{record}");
            assert!(record["tls"]["version"].is_string() && record["tls"]["cipher"].is_string(), "{record}");
        }
    }
}

#[test]
fn required_takes_any_certificate_but_not_plain_text() {
    let house = open("required");
    for (domain, sink) in HOSTS.iter().zip(&house.sinks).filter(|(domain, _)| **domain != "plain.test") {
        assert!(sink.wait(1, LIMIT)[0].tls.is_some(), "{domain}");
    }
    let deferred = house.record("deferred", "plain.test");
    assert_eq!(deferred["stage"], "tls", "{deferred}");
    assert_eq!(house.sinks[4].transactions().len(), 0, "nothing was said in the clear");
}

#[test]
fn verified_takes_a_good_certificate_only() {
    let house = open("verified");
    assert!(house.sinks[0].wait(1, LIMIT)[0].tls.is_some());
    for (domain, sink) in HOSTS.iter().zip(&house.sinks).skip(1) {
        let deferred = house.record("deferred", domain);
        assert!(
            deferred["detail"].as_str().is_some_and(|detail| detail.len() > 10) || deferred["reply"].is_object(),
            "{deferred}"
        );
        assert_eq!(sink.transactions().len(), 0, "{domain}: nothing was said to a host that could not prove its name");
    }
    assert!(house.ground.folder().exists());
}

#[test]
fn a_broken_handshake_falls_back_to_plain_text_when_opportunistic() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("broken.test", ground.ip(101));
    // It offers STARTTLS and then refuses it; nothing else is wrong with it.
    let sink = Sink::at(&ground, 101).with_capabilities(&["PIPELINING", "STARTTLS", "8BITMIME"]);
    let daemon = Daemon::start(&ground, &Settings::new(&ground));
    daemon.submit("a@sender.test", &["r@broken.test"], &message::simple("a@sender.test", "r@broken.test", "x", "Hi\n"));
    let arrived = sink.wait(1, LIMIT).remove(0);
    assert!(arrived.tls.is_none());
    let record = daemon.wait_record("delivered", LIMIT, |_| true);
    assert!(record["tls"].is_null() && record["tls-failure"].is_string(), "{record}");
}

#[test]
fn a_provider_has_its_own_policy() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("strict.test", ground.ip(101)).domain("lax.test", ground.ip(102));
    let (strict, lax) = (Sink::at(&ground, 101), Sink::at(&ground, 102));
    let settings =
        Settings::new(&ground).with("[provider.strict]\nmx-suffix = [\"strict.test\"]\ntls = \"required\"\n");
    let daemon = Daemon::start(&ground, &settings);
    for domain in ["strict.test", "lax.test"] {
        let recipient = format!("r@{domain}");
        daemon.submit("a@sender.test", &[&recipient], &message::simple("a@sender.test", &recipient, domain, "Hi\n"));
    }
    lax.wait(1, LIMIT);
    let record = daemon.wait_record("deferred", LIMIT, |record| record["domain"] == "strict.test");
    assert_eq!(record["provider"], "strict", "{record}");
    assert_eq!(strict.transactions().len(), 0);
}
