//! MTA-STS: policies over HTTPS, kept over restarts, and each for its own domain only.

use postkeep_tests::certificates::{Authority, Flaw};
use postkeep_tests::ground::HTTPS_PORT;
use postkeep_tests::policy_host::{Page, PolicyHost};
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message};
use serde_json::Value;

use super::LIMIT;

struct House {
    daemon: Daemon,
    names: Names,
    hosts: Option<PolicyHost>,
    good: Sink,
    bad: Sink,
    ground: Ground,
}

fn policy(mode: &str, mx: &str) -> Page {
    Page::text(&format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 604800\r\n"))
}

/// Domains, whether their host has a good certificate, and the page of their policy.
fn open() -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    let authority = ground.authority();
    let domains: [(&str, bool, Page); 7] = [
        ("enforce.test", true, policy("enforce", "*.enforce.test")),
        ("strict.test", false, policy("enforce", "mx.strict.test")),
        ("othermx.test", true, policy("enforce", "mail.othermx.test")),
        ("testing.test", false, policy("testing", "mx.testing.test")),
        ("nopage.test", false, Page { status: 404, header: String::new(), body: String::new() }),
        (
            "redirect.test",
            false,
            Page {
                status: 302,
                header: "Location: https://mta-sts.strict.test/.well-known/mta-sts.txt\r\n".to_owned(),
                body: String::new(),
            },
        ),
        // Its policy host shows a certificate for another name.
        ("badhost.test", false, policy("enforce", "mx.badhost.test")),
    ];
    let mut pages = Vec::new();
    let mut policy_hosts = Vec::new();
    for (domain, is_good, page) in domains {
        names.domain(domain, ground.ip(if is_good { 101 } else { 102 }));
        names.txt(&format!("_mta-sts.{domain}"), "v=STSv1; id=1;");
        let host = format!("mta-sts.{domain}");
        names.a(&host, ground.ip(80));
        let of = if domain == "badhost.test" { "mta-sts.else.test" } else { &host };
        policy_hosts.push((host.clone(), authority.identity(of, Flaw::None), page));
    }
    for (host, identity, page) in &policy_hosts {
        pages.push((host.as_str(), identity.clone(), page.clone()));
    }
    // Two domains at one host, of which one wants it protected.
    names
        .mx("shared1.test", 10, "mx.shared.test")
        .mx("shared2.test", 10, "mx.shared.test")
        .a("mx.shared.test", ground.ip(102));
    names.txt("_mta-sts.shared1.test", "v=STSv1; id=1;").a("mta-sts.shared1.test", ground.ip(80));
    pages.push((
        "mta-sts.shared1.test",
        authority.identity("mta-sts.shared1.test", Flaw::None),
        policy("enforce", "mx.shared.test"),
    ));
    let hosts = PolicyHost::open(ground.at(80, HTTPS_PORT), pages);
    // One certificate for every good name.
    let good = Sink::at(&ground, 101).with_tls(authority.identity("mx.enforce.test", Flaw::None).server());
    let bad =
        Sink::at(&ground, 102).with_tls(Authority::new("nobody").identity("mx.strict.test", Flaw::SelfSigned).server());
    std::fs::write(ground.path("roots.pem"), authority.pem()).expect("write the roots");
    let settings = Settings::new(&ground).with(&format!(
        "[mta-sts]\nport = {HTTPS_PORT}\ntimeout = \"5s\"\n[delivery]\nextra-roots = {:?}\n",
        ground.path("roots.pem")
    ));
    let daemon = Daemon::start(&ground, &settings);
    House { daemon, names, hosts: Some(hosts), good, bad, ground }
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
        self.daemon.wait_record_of(&["delivered", "deferred"], LIMIT, |record| record["domain"] == domain)
    }

    fn is_delivered(&self, domain: &str, policy: &str) {
        let record = self.outcome(domain);
        assert_eq!((&record["event"], &record["tls"]["policy"]), (&"delivered".into(), &policy.into()), "{record}");
    }

    fn is_put_off(&self, domain: &str, because: &str) {
        let record = self.outcome(domain);
        assert_eq!((&record["event"], &record["stage"]), (&"deferred".into(), &"policy".into()), "{record}");
        assert!(record["detail"].as_str().is_some_and(|detail| detail.contains(because)), "{record}");
    }
}

#[test]
fn mail_goes_where_the_policy_says_with_a_certificate_that_is_valid_or_not_at_all() {
    let house = open();
    for domain in
        ["enforce.test", "strict.test", "othermx.test", "testing.test", "nopage.test", "redirect.test", "badhost.test"]
    {
        house.send(domain);
    }
    house.is_delivered("enforce.test", "mta-sts");
    house.is_put_off("strict.test", "certificate");
    house.is_put_off("othermx.test", "none of the hosts");
    house.is_delivered("testing.test", "mta-sts-testing");
    // What cannot be had from a host that proves its name, without a detour, is no policy (RFC 8461 §3.3, §5.1).
    for domain in ["nopage.test", "redirect.test", "badhost.test"] {
        house.is_delivered(domain, "opportunistic");
    }
    let to = |domain: &str| {
        house.bad.look(|all| all.iter().any(|one| one.addresses().iter().any(|address| address.ends_with(domain))))
    };
    assert!(!to("strict.test"), "nothing is said to a host that cannot prove its name");
    assert_eq!(house.good.count(), 1);
    let asked = house.hosts.as_ref().unwrap().asked();
    let count = |host: &str| asked.iter().filter(|asked| asked.host == host).count();
    assert_eq!(count("mta-sts.enforce.test"), 1, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.line == "GET /.well-known/mta-sts.txt HTTP/1.1"), "{asked:?}");
}

#[test]
fn a_policy_outlives_restart_record_and_web_server() {
    let mut house = open();
    house.send("strict.test");
    house.is_put_off("strict.test", "certificate");
    house.daemon.kill();
    // An attacker hides both, and the daemon has forgotten nothing.
    house.names.forget("_mta-sts.strict.test").forget("mta-sts.strict.test");
    house.hosts = None;
    house.daemon.run();
    house.send("strict.test");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(house.daemon.events("delivered").len(), 0);
    assert!(house.daemon.events("deferred").iter().all(|record| record["stage"] == "policy"));
    assert_eq!(house.bad.transactions().len(), 0);
    assert!(house.ground.path("mta-sts/strict.test.json").exists());
}

#[test]
fn the_policy_of_one_domain_delays_no_other_at_the_same_host() {
    let house = open();
    for _ in 0..5 {
        house.send("shared1.test");
        house.send("shared2.test");
    }
    let record = house.daemon.wait_record("deferred", LIMIT, |record| record["domain"] == "shared1.test");
    assert_eq!(record["stage"], "policy", "{record}");
    house.bad.wait(5, LIMIT);
    let all = house.bad.transactions();
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|one| one.addresses() == ["r@shared2.test"]), "{all:?}");
    let delivered = house.daemon.events("delivered");
    assert!(delivered.iter().all(|record| record["tls"]["policy"] == "opportunistic"), "{delivered:?}");
    assert_eq!(house.daemon.events("deferred").iter().filter(|record| record["domain"] == "shared2.test").count(), 0);
}

#[test]
fn a_sender_may_say_that_tls_is_not_required() {
    let house = open();
    let mut content = b"TLS-Required: No\r\n".to_vec();
    content.extend(message::simple("a@sender.test", "r@strict.test", "x", "Hi\n"));
    house.daemon.submit("a@sender.test", &["r@strict.test"], &content);
    house.is_delivered("strict.test", "opportunistic");
}
