//! DANE: hosts are held to their TLSA records where DNSSEC vouches for them, and nowhere else.

use std::net::SocketAddr;
use std::process::Command;

use openssl::hash::{MessageDigest, hash};
use openssl::x509::X509;
use postkeep_tests::certificates::{Authority, Flaw, Identity};
use postkeep_tests::daemon::run_with_input;
use postkeep_tests::ground::MAIL_PORT;
use postkeep_tests::signed_names::{BOGUS, SignedNames, UNSIGNED};
use postkeep_tests::submitters::{Letter, Tls, smtplib};
use postkeep_tests::tools::{self, needs};
use postkeep_tests::{Daemon, Ground, Settings, Sink, message};
use serde_json::Value;

use super::LIMIT;

/// One host `mx.NAME.test` with its certificate and its TLSA records.
struct Host {
    name: &'static str,
    n: u8,
    identity: Option<Identity>,
    /// Without a TLSA record: none.
    tlsa: Option<String>,
    /// What becomes of mail: the `policy` of its record, or `None`: it is put off.
    policy: Option<&'static str>,
}

fn spki(certificate: &[u8]) -> String {
    let key = X509::from_der(certificate).unwrap().public_key().unwrap().public_key_to_der().unwrap();
    digest(&key)
}

fn digest(octets: &[u8]) -> String {
    hash(MessageDigest::sha256(), octets).unwrap().iter().map(|octet| format!("{octet:02x}")).collect()
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn hosts(authority: &Authority) -> Vec<Host> {
    let nobody = Authority::new("nobody");
    let own = |name: &str| nobody.identity(name, Flaw::SelfSigned);
    let issuer = openssl::x509::X509::from_pem(authority.pem().as_bytes()).unwrap().to_der().unwrap();
    let (ee, expired, wrong, unusable) = (
        own("mx.ee.test"),
        nobody.identity("other.example", Flaw::Expired),
        own("mx.wrong.test"),
        own("mx.unusable.test"),
    );
    let records = [
        Some(format!("3 1 1 {}", spki(ee.der()))),
        Some(format!("3 0 1 {}", digest(expired.der()))),
        Some(format!("2 0 0 {}", hexadecimal(&issuer))),
        Some(format!("2 0 0 {}", hexadecimal(&issuer))),
        Some(format!("3 1 1 {}", "ab".repeat(32))),
        Some(format!("3 1 1 {}", "cd".repeat(32))),
        Some(format!("1 1 1 {}", spki(unusable.der()))),
        None,
    ];
    let identities = [
        ("ee", Some(ee), Some("dane")),
        ("expired", Some(expired), Some("dane")),
        ("ta", Some(authority.identity("mx.ta.test", Flaw::None)), Some("dane")),
        ("taname", Some(authority.identity("mx.else.test", Flaw::None)), None),
        ("wrong", Some(wrong), None),
        ("nostarttls", None, None),
        ("unusable", Some(unusable), Some("dane-encrypted")),
        ("norecord", Some(own("mx.norecord.test")), Some("opportunistic")),
    ];
    identities
        .into_iter()
        .zip(records)
        .zip(101..)
        .map(|(((name, identity, policy), tlsa), n)| Host { name, n, identity, tlsa, policy })
        .collect()
}

/// `openssl s_client` on the same host and record.
fn second_opinion(address: SocketAddr, host: &str, tlsa: &str) -> bool {
    let openssl = tools::find("openssl").expect("openssl");
    run_with_input(
        Command::new(openssl)
            .args(["s_client", "-starttls", "smtp", "-connect", &address.to_string()])
            .args(["-dane_tlsa_domain", host, "-dane_tlsa_rrdata", tlsa])
            .args(["-dane_ee_no_namechecks", "-verify_return_error", "-brief"]),
        b"QUIT\r\n",
    )
    .status
        == 0
}

struct House {
    daemon: Daemon,
    sinks: Vec<Sink>,
    hosts: Vec<Host>,
    _names: SignedNames,
    ground: Ground,
}

fn open() -> Option<House> {
    let ground = Ground::claim();
    let hosts = hosts(ground.authority());
    let mut zone = String::new();
    let mut sinks = Vec::new();
    for host in &hosts {
        let name = host.name;
        zone += &format!("{name} IN MX 10 mx.{name}\nmx.{name} IN A {}\n", ground.ip(host.n));
        if let Some(tlsa) = &host.tlsa {
            zone += &format!("_{MAIL_PORT}._tcp.mx.{name} IN TLSA {tlsa}\n");
        }
        let sink = Sink::at(&ground, host.n);
        // One of them passes on what REQUIRETLS wants.
        let extras: &[&str] = if name == "ee" { &["REQUIRETLS"] } else { &[] };
        let offers: Vec<&str> = ["PIPELINING", "8BITMIME"].into_iter().chain(extras.iter().copied()).collect();
        sinks.push(match &host.identity {
            Some(identity) => sink.with_capabilities(&offers).with_tls(identity.server()),
            None => sink,
        });
    }
    // A record that is wrong, in a zone that nobody vouches for.
    let plain =
        format!("@ IN MX 10 mx\nmx IN A {}\n_{MAIL_PORT}._tcp.mx IN TLSA 3 1 1 {}\n", ground.ip(120), "ef".repeat(32));
    let bogus = format!("@ IN MX 10 mx\nmx IN A {}\n", ground.ip(121));
    let names = needs(SignedNames::start(&ground, &zone, &plain, &bogus))?;
    sinks.push(Sink::at(&ground, 120).with_tls(Authority::new("nobody").identity("x", Flaw::SelfSigned).server()));
    sinks.push(Sink::at(&ground, 121));
    let resolver = names.resolver();
    let settings = Settings::new(&ground).without("resolver").with(&resolver).with_submission(&ground);
    let daemon = Daemon::start(&ground, &settings);
    Some(House { daemon, sinks, hosts, _names: names, ground })
}

impl House {
    fn send(&self, domain: &str) {
        let recipient = format!("r@{domain}");
        self.daemon.submit(
            "a@sender.test",
            &[&recipient],
            &message::simple("a@sender.test", &recipient, domain, "Hi\n"),
        );
    }

    fn outcome(&self, domain: &str) -> Value {
        self.daemon.wait_record_of(&["delivered", "deferred", "bounced"], LIMIT, |record| record["domain"] == domain)
    }
}

#[test]
fn hosts_are_held_to_their_records_as_openssl_would_hold_them() {
    let Some(house) = open() else { return };
    for host in &house.hosts {
        house.send(&format!("{}.test", host.name));
    }
    for (host, sink) in house.hosts.iter().zip(&house.sinks) {
        let record = house.outcome(&format!("{}.test", host.name));
        let name = host.name;
        match host.policy {
            Some(policy) => {
                assert_eq!(record["event"], "delivered", "{name}: {record}");
                assert_eq!(record["tls"]["policy"], policy, "{name}: {record}");
                let kind = match policy {
                    "dane" if name.starts_with("ta") => "dane-ta",
                    "dane" => "dane-ee",
                    _ => "",
                };
                assert_eq!(record["tls"]["tlsa"].as_str().unwrap_or(""), kind, "{name}: {record}");
                assert!(sink.wait(1, LIMIT)[0].tls.is_some(), "{name}");
            }
            None => {
                assert_eq!(
                    (&record["event"], &record["stage"]),
                    (&"deferred".into(), &"policy".into()),
                    "{name}: {record}"
                );
                assert_eq!(
                    sink.transactions().len(),
                    0,
                    "{name}: nothing is said to a host that is not who it should be"
                );
            }
        }
        // A second opinion on every host that has a record that can be used.
        if let (Some(tlsa), Some(_)) = (&host.tlsa, &host.identity)
            && !tlsa.starts_with('1')
        {
            let address = house.ground.at(host.n, MAIL_PORT);
            let agrees = second_opinion(address, &format!("mx.{name}.test"), tlsa) == host.policy.is_some();
            assert!(agrees, "{name}: openssl s_client is of another opinion");
        }
    }
}

#[test]
fn records_that_nobody_vouches_for_bind_nobody_and_forged_answers_are_none() {
    let Some(house) = open() else { return };
    house.send(UNSIGNED);
    house.send(BOGUS);
    let record = house.outcome(UNSIGNED);
    assert_eq!(
        (&record["event"], &record["tls"]["policy"]),
        (&"delivered".into(), &"opportunistic".into()),
        "{record}"
    );
    let record = house.outcome(BOGUS);
    assert_eq!((&record["event"], &record["stage"]), (&"deferred".into(), &"dns".into()), "{record}");
    assert_eq!(house.sinks[house.sinks.len() - 1].transactions().len(), 0, "nothing goes where a forged answer leads");
}

#[test]
fn requiretls_goes_only_to_hosts_that_prove_their_name_and_promise_the_same() {
    let Some(house) = open() else { return };
    let content = message::simple("a@example.test", "r@ee.test", "x", "Hi\n");
    let letter = |recipient| Letter {
        sender: "a@example.test",
        recipients: recipient,
        content: &content,
        options: &["REQUIRETLS"],
    };
    let (good, silent, open) = (["r@ee.test"], ["r@ta.test"], ["r@norecord.test"]);
    let letters = [letter(&good), letter(&silent), letter(&open)];
    let Some(replies) = needs(smtplib(&house.ground, house.daemon.submission(), Tls::Starttls, &letters)) else {
        return;
    };
    assert!(replies.iter().all(|(code, _)| *code == 250), "{replies:?}");
    let arrived = house.sinks[0].wait(1, LIMIT).remove(0);
    assert!(arrived.parameters.contains("REQUIRETLS"), "{}", arrived.parameters);
    for (domain, code) in [("ta.test", "5.7.30"), ("norecord.test", "5.7.10")] {
        let record = house.daemon.wait_record("bounced", LIMIT, |record| record["domain"] == domain);
        assert_eq!(record["reply"]["enhanced"], code, "{record}");
    }
    assert!(house.sinks.iter().skip(1).all(|sink| sink.transactions().is_empty()));
    // Without TLS it is not there to be asked for.
    let mut client = house.daemon.client();
    assert!(!client.ehlo().expect("EHLO").offers("REQUIRETLS"));
    assert_eq!(client.command("MAIL FROM:<a@example.test> REQUIRETLS").expect("MAIL").code, 555);
}

#[test]
fn without_signatures_from_the_servers_mail_goes_on_and_with_required_it_waits() {
    let Some(house) = open() else { return };
    let House { daemon, ground, .. } = house;
    drop(daemon);
    // A server without signatures in front of the same hosts.
    let names = postkeep_tests::Names::new(&ground);
    names.domain("wrong.test", ground.ip(105));
    let mut daemon = Daemon::start(&ground, &Settings::new(&ground));
    let send = |daemon: &Daemon| {
        daemon.submit(
            "a@sender.test",
            &["r@wrong.test"],
            &message::simple("a@sender.test", "r@wrong.test", "x", "Hi\n"),
        );
    };
    send(&daemon);
    daemon.wait_record("delivered", LIMIT, |record| record["tls"]["policy"] == "opportunistic");
    daemon.terminate();
    daemon.write(&Settings::new(&ground).with("[resolver]\ndnssec = \"required\"\n"));
    daemon.run();
    send(&daemon);
    let record = daemon.wait_record("deferred", LIMIT, |record| record["domain"] == "wrong.test");
    assert_eq!(record["stage"], "dns", "{record}");
}
