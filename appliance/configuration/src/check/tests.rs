use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::load::{Options, load, parse};
use crate::problem::Severity;

/// A good file; tests replace or append.
const GOOD: &str = r#"hostname = "mail.example.com"
[[listener]]
address = "127.0.0.1:25"
tls = "none"
[[credential]]
name = "app"
password-hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
sender-domains = ["example.com"]
[[network]]
name = "local"
addresses = ["127.0.0.0/8"]
sender-domains = ["*"]
[source.a]
ipv4 = "192.0.2.10"
[pool.default]
sources = { a = 100 }
"#;

/// Titles and messages of the errors and warnings of a text.
fn findings(text: &str) -> Vec<String> {
    let options = Options { shipped_providers: Some(vec!["google".to_owned()]), ..Options::without_files() };
    let problems = match parse("p.toml", text, &options) {
        Ok(loaded) => loaded.warnings,
        Err(errors) => errors.problems,
    };
    problems
        .iter()
        .map(|problem| {
            let kind = if problem.severity == Severity::Error { "error" } else { "warning" };
            let line = problem.place.as_ref().map_or(0, |place| place.line);
            format!("{kind} {line} {} {}", problem.key, problem.message)
        })
        .collect()
}

/// The only finding of GOOD with `extra` at its end.
fn appended(extra: &str) -> String {
    only(&format!("{GOOD}{extra}"))
}

/// The only finding of GOOD with one text replaced.
fn replaced(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    only(&GOOD.replacen(old, new, 1))
}

fn only(text: &str) -> String {
    let findings = findings(text);
    assert_eq!(findings.len(), 1, "{findings:#?}\n{text}");
    findings.concat()
}

#[track_caller]
fn says(found: &str, part: &str) {
    assert!(found.contains(part), "{part:?} is not in {found:?}");
}

#[test]
fn a_good_file_has_no_findings() {
    assert_eq!(findings(GOOD), Vec::<String>::new());
}

#[test]
fn the_host_name_is_a_real_domain_name() {
    for name in
        ["localhost", "mail.example.com.", "mail..example.com", "192.0.2.1", "", "mail_1.example.com", "-a.example.com"]
    {
        says(&replaced("mail.example.com", name), "error 1 hostname");
    }
    says(&replaced("mail.example.com", "bücher.example"), "its A-labels are \"xn--bcher-kva.example\"");
}

#[test]
fn a_box_without_door_source_or_pool_is_refused() {
    let found = findings("hostname = \"mail.example.com\"\n");
    for part in
        ["error 1 listener there is no listener", "error 1 source there is no source", "error 1 pool there is no pool"]
    {
        assert!(found.iter().any(|finding| finding.contains(part)), "{part}: {found:#?}");
    }
}

#[test]
fn nobody_becomes_an_open_relay() {
    for network in [
        "0.0.0.0/0",
        "::/0",
        "128.0.0.0/1",
        "10.0.0.0/7",
        "2000::/3",
        "::ffff:0:0/96",
        "::ffff:0.0.0.0/97",
        "::/32",
        "2001:db8::/31",
    ] {
        let text = format!("addresses = [\"{network}\"]");
        says(&replaced("addresses = [\"127.0.0.0/8\"]", &text), "error 11 network[0].addresses[0]");
        says(&replaced("addresses = [\"127.0.0.0/8\"]", &text), "would make this box an open relay");
    }
    for network in ["10.0.0.0/8", "2001:db8::/32", "::1/128", "::ffff:10.0.0.0/104"] {
        let text = GOOD.replace("127.0.0.0/8", network);
        assert_eq!(findings(&text), Vec::<String>::new(), "{network}");
    }
    says(&appended("[[network]]\nname = \"x\"\naddresses = []\nsender-domains = [\"*\"]\n"), "has no addresses");
}

#[test]
fn auth_is_only_under_tls_and_tls_needs_its_files() {
    says(
        &replaced("tls = \"none\"", "tls = \"none\"\nrequire-auth = true"),
        "error 5 listener[0].require-auth require-auth needs TLS",
    );
    let found = findings(&GOOD.replace("tls = \"none\"\n", ""));
    assert_eq!(found.len(), 2);
    says(&found[0], "error 2 listener[0].certificate a listener with TLS needs `certificate`");
    says(&found[1], "error 2 listener[0].key a listener with TLS needs `key`");
    says(&replaced("tls = \"none\"", "tls = \"none\"\nkey = \"k.pem\""), "warning 5 listener[0].key this is not used");
}

#[test]
fn listeners_have_their_own_addresses_and_near_proxies() {
    says(&replaced("127.0.0.1:25", "0.0.0.0:0"), "error 3 listener[0].address port 0 is no port");
    says(&replaced("127.0.0.1:25", "127.0.0.1:0"), "warning 3 listener[0].address port 0 lets the system choose");
    says(&appended("[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"none\"\n"), "the address of listener 1 too");
    says(&replaced("tls = \"none\"", "tls = \"none\"\nproxy-protocol-from = [\"0.0.0.0/0\"]"), "strangers could claim");
}

#[test]
fn a_credential_has_an_argon2id_hash_and_a_name_of_its_own() {
    says(&replaced("$argon2id", "$argon2i"), "is not Argon2id");
    says(&replaced("$argon2id$v=19$", "secret"), "not a password hash");
    says(&replaced("m=19456", "m=1024"), "warning 7 credential[0].password-hash");
    says(&replaced("name = \"app\"", "name = \"\""), "cannot be a user name");
    let second = &GOOD[GOOD.find("[[credential]]").expect("credential")..GOOD.find("[[network]]").expect("network")];
    says(&appended(second), "there is another credential \"app\"");
    says(
        &replaced("name = \"local\"", "name = \"app\""),
        "warning 10 network[0].name a credential is called \"app\" too",
    );
}

#[test]
fn senders_have_domains_and_streams_that_exist() {
    says(&replaced("sender-domains = [\"example.com\"]", "sender-domains = []"), "nothing may be sent");
    says(&replaced("[\"example.com\"]", "[\"@example.com\"]"), "error 8 credential[0].sender-domains[0]");
    says(
        &replaced("[\"example.com\"]", "[\"example.com\"]\nstream = \"defualt\""),
        "there is no stream \"defualt\"; did you mean \"default\"?",
    );
    says(
        &replaced("[\"*\"]", "[\"*\"]\nmay-choose-streams = [\"*\", \"news\"]"),
        "network[0].may-choose-streams[1] there is no stream \"news\"",
    );
}

#[test]
fn a_source_has_an_address_of_its_own() {
    says(&replaced("ipv4 = \"192.0.2.10\"\n", ""), "error 13 source.a this source has no address");
    says(&replaced("192.0.2.10", "0.0.0.0"), "not an address that mail can leave from");
    says(&replaced("192.0.2.10\"", "192.0.2.10\"\nehlo = \"localhost\""), "error 15 source.a.ehlo");
    let two = GOOD.replace("{ a = 100 }", "{ a = 1, b = 1 }") + "[source.b]\nipv4 = \"192.0.2.10\"\n";
    says(&only(&two), "warning 18 source.b.ipv4 192.0.2.10 is the address of source \"a\" too");
    says(&appended("[source.b]\nipv4 = \"192.0.2.11\"\n"), "warning 17 source.b no pool has this source");
}

#[test]
fn a_pool_has_sources_that_exist_and_weights_that_are_not_all_0() {
    says(&replaced("{ a = 100 }", "{ a = 0 }"), "all weights of this pool are 0");
    says(&replaced("{ a = 100 }", "{ a = 1001 }"), "1001 is not within 0 to 1000");
    says(&replaced("{ a = 100 }", "{ a = 1, aa = 1 }"), "error 16 pool.default.sources.aa there is no source \"aa\"");
    says(&appended("[pool.b]\nsources = {}\n"), "this pool has no sources");
    says(&appended("[pool.\"b c\"]\nsources = { a = 1 }\n"), "the name has other characters");
}

#[test]
fn every_stream_has_a_pool() {
    let two = GOOD.replace("[pool.default]", "[pool.b]\nsources = { a = 1 }\n[pool.a]");
    says(&only(&two), "the stream `default`, which always exists, has no pool");
    assert_eq!(findings(&format!("{two}[stream.default]\npool = \"b\"\n")), Vec::<String>::new());
    says(&appended("[stream.x]\npool = \"defaul\"\n"), "there is no pool \"defaul\"; did you mean \"default\"?");
}

#[test]
fn a_schedule_retries_before_it_expires() {
    for (keys, part) in [
        ("retry = []", "nothing is tried again"),
        ("retry = [\"0s\"]", "stream.x.retry[0] 0s is not within 1s to 7d"),
        ("retry-jitter = 0.95", "0.95 is not within 0 to 0.9"),
        ("retry-jitter = nan", "NaN is not within"),
        ("expire-after = \"5m\"", "before its first retry at 5m"),
        ("expire-after = \"31d\"", "31d is not within 1s to 30d"),
        ("total = { connections = 0 }", "0 would let nothing through"),
        ("total = { connection-rate = \"5/s\" }", "a stream has no connections of its own"),
    ] {
        says(&appended(&format!("[stream.x]\n{keys}\n")), part);
    }
}

#[test]
fn limits_name_lanes_that_can_exist() {
    says(&appended("[lane]\nconnections = 0\n"), "lane.connections 0 would let nothing through");
    says(
        &appended("[[lane-limit]]\nsource = \"b\"\nsite = \"mx\"\nlimits = { connections = 1 }\n"),
        "there is no source \"b\"",
    );
    says(
        &appended("[[lane-limit]]\nsite = \"mx\"\nlimits = {}\n"),
        "warning 19 lane-limit[0].limits this limits nothing",
    );
    let twice = "[[lane-limit]]\nsite = \"mx\"\nlimits = { connections = 1 }\n".repeat(2);
    says(&appended(&twice), "this lane has limits already");
}

#[test]
fn a_provider_is_shipped_or_names_its_mx_hosts() {
    says(&appended("[provider.gogle]\nlane = { connections = 1 }\n"), "did you mean \"google\"?");
    assert_eq!(findings(&format!("{GOOD}[provider.google]\nlane = {{ connections = 1 }}\n")), Vec::<String>::new());
    assert_eq!(findings(&format!("{GOOD}[provider.own]\nmx-suffix = [\".mx.example\"]\n")), Vec::<String>::new());
    says(&appended("[provider.own]\nmx-suffix = [\"com\"]\n"), "\"com\" is not the end of an MX host's name");
}

#[test]
fn routes_lead_somewhere() {
    says(&appended("[[route]]\ndomain = \"a.example\"\nhosts = []\n"), "leads nowhere");
    says(&appended("[[route]]\ndomain = \"a.example\"\nhosts = [\"mx:99999\"]\n"), "\"99999\" is not a port");
    says(&appended("[[route]]\ndomain = \"example\"\nhosts = [\"mx\"]\n"), "\"example\" is not a domain");
    let twice =
        "[[route]]\ndomain = \"a.example\"\nhosts = [\"mx\"]\n[[route]]\ndomain = \"A.example\"\nhosts = [\"mx\"]\n";
    says(&appended(twice), "there is another route");
}

#[test]
fn numbers_have_ranges() {
    for (text, key) in [
        ("[spool]\nsegment-size = \"2GiB\"\nminimum-free = \"4GiB\"", "spool.segment-size"),
        ("[intake]\nmessage-size = \"1KiB\"", "intake.message-size"),
        ("[intake]\nline-length = 100", "intake.line-length"),
        ("[intake]\ncommand-timeout = \"0s\"", "intake.command-timeout"),
        ("[intake]\nstream-header = \"Subject\"", "a header that messages need"),
        ("[intake]\nstream-header = \"X Y\"", "is not the name of a header"),
        ("[intake]\nrecipients = 50", "warning 18 intake.recipients"),
        ("[backoff]\nslow-share = 0.01", "backoff.slow-share"),
        ("[backoff]\npause = \"2h\"", "backoff.longest-pause"),
        ("[delivery]\nport = 0", "delivery.port"),
        ("[delivery]\nfinal-timeout = \"0s\"", "delivery.final-timeout"),
        ("[resolver]\nservers = [\"0.0.0.0:53\"]", "resolver.servers[0]"),
        ("[resolver]\nattempts = 11", "resolver.attempts"),
        ("[records]\nrotate-size = \"1KiB\"", "records.rotate-size"),
        ("[records]\ndirectory = \"/var/lib/postkeep/spool\"", "records and spool cannot share a folder"),
        ("[records]\nkeep = \"1h\"", "warning 18 records.keep"),
        ("[metrics]\naddress = \"0.0.0.0:9925\"", "warning 18 metrics.address"),
        ("[control]\nsocket = \"\"", "control.socket"),
    ] {
        says(&appended(&format!("{text}\n")), key);
    }
    let long = format!("[control]\nsocket = \"/{}\"\n", "x".repeat(107));
    says(&appended(&long), "the path of the socket has 108 octets");
}

#[test]
fn signing_keys_have_names_that_can_be_published() {
    let key = |domain: &str, selector: &str, more: &str| {
        format!("[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = \"k.pem\"\n{more}\n")
    };
    assert_eq!(findings(&format!("{GOOD}{}", key("example.com", "a.b_c-1", ""))), Vec::<String>::new());
    says(&appended(&key("example", "s", "")), "\"example\" is not a domain");
    says(&appended(&key("example.com", "s._domainkey.x-", "")), "is not a selector");
    says(&appended(&(key("example.com", "s", "") + &key("Example.com", "S", ""))), "is the name of key 1 too");
    says(&appended(&key("example.com", "s", "streams = [\"x\"]")), "there is no stream \"x\"");
    says(&appended(&key("example.com", "s", "extra-headers = [\"X-A:\"]")), "is not the name of a header");
    says(&appended(&key("example.com", "s", "expire-after = \"1m\"")), "1m is not within 1h to 365d");
    says(&appended(&key("example.com", "s", "algorithm = \"ed25519-sha256\"")), "warning 21 dkim[0].algorithm");
}

#[test]
fn named_files_exist_and_are_what_they_should_be() {
    let folder = tempfile::TempDir::new().expect("folder");
    let write = |name: &str, text: &str, mode: u32| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        path
    };
    let certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n";
    let check = || {
        let text = GOOD.replace("tls = \"none\"", "certificate = \"c.pem\"\nkey = \"k.pem\"")
            + "[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey = \"d.pem\"\n";
        let path = write("main.toml", &text, 0o600);
        match load(path) {
            Ok(loaded) => loaded.warnings,
            Err(errors) => errors.problems,
        }
        .iter()
        .map(|problem| problem.to_string())
        .collect::<Vec<_>>()
    };
    let found = check();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found.iter().all(|finding| finding.contains("cannot read") && finding.contains("No such file")),
        "{found:#?}"
    );

    write("c.pem", certificate, 0o644);
    write("k.pem", key, 0o600);
    write("d.pem", key, 0o600);
    assert_eq!(check(), Vec::<String>::new());

    write("c.pem", key, 0o644);
    write("k.pem", certificate, 0o600);
    write("d.pem", &key.replace("PRIVATE", "EC PRIVATE"), 0o600);
    let found = check();
    assert_eq!(found.len(), 3, "{found:#?}");
    says(&found[0], "holds a private key, where a certificate chain in PEM is needed");
    says(&found[1], "holds no private key that can be used here");
    says(&found[2], "openssl genpkey -algorithm RSA");

    write("c.pem", certificate, 0o644);
    write("k.pem", &key.replace("PRIVATE", "ENCRYPTED PRIVATE"), 0o600);
    write("d.pem", key, 0o644);
    let found = check();
    assert_eq!(found.len(), 2, "{found:#?}");
    says(&found[0], "is encrypted");
    says(&found[1], "everybody on this box can read");
}

const KEY: &str = "[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey = \"/d.pem\"\n";

#[test]
fn one_click_unsubscribe_needs_a_link_a_door_and_a_key() {
    let links = "[unsubscribe]\nurl = \"https://mail.example.com\"\n[[http]]\naddress = \"127.0.0.1:80\"\n";
    let add = "[stream.news]\nunsubscribe = \"add\"\n";
    assert_eq!(findings(&format!("{GOOD}{KEY}{links}{add}")), Vec::<String>::new());
    says(&appended(&format!("{KEY}{add}")), "where its links are to lead");
    says(&appended(&format!("{links}{add}")), "no [[dkim]] key signs mail of this stream");
    let other = KEY.to_owned() + "streams = [\"default\"]\n";
    says(&appended(&format!("{other}{links}{add}")), "no [[dkim]] key signs");
    says(&appended("[stream.news]\nunsubscribe = \"require\"\n"), "warning");
    says(&appended(&links.replace("127.0.0.1:80\"", "127.0.0.1:80\"\nserve = [\"messages\"]")), "lead nowhere");
    for url in [
        "http://a.example",
        "https://a.example/",
        "https://a",
        "https://a.example?x",
        "https://a.example:x",
        "https://",
    ] {
        says(&appended(&links.replace("https://mail.example.com", url)), "cannot stand in List-Unsubscribe");
    }
    for url in ["https://a.example:8443/mail", "https://127.0.0.1:443"] {
        assert_eq!(
            findings(&format!("{GOOD}{}", links.replace("https://mail.example.com", url))),
            Vec::<String>::new()
        );
    }
}

#[test]
fn acme_needs_consent_names_and_a_door() {
    let acme = "[acme]\nnames = [\"mail.example.com\"]\nagree-to-terms = true\n";
    let door = "[[http]]\naddress = \"192.0.2.10:443\"\nacme = true\nserve = [\"unsubscribe\"]\n";
    assert_eq!(findings(&format!("{GOOD}{acme}{door}")), Vec::<String>::new());
    says(&appended(acme), "no HTTP door uses the certificate");
    says(&appended(door), "there is no [acme]");
    says(&appended(&format!("{}{door}", acme.replace("true", "false"))), "agree to its terms");
    says(&appended(&format!("{}{door}", acme.replace("mail.example.com", "*.example.com"))), "not a full host name");
    says(&appended(&format!("{acme}contact = [\"me\"]\n{door}")), "no contact");
    says(&appended(&format!("{acme}url = \"http://ca.example\"\n{door}")), "no directory");
    says(&appended(&format!("{acme}{door}certificate = \"/c.pem\"\nkey = \"/k.pem\"\n")), "two certificates");
    says(&appended(&format!("{acme}{}", door.replace("[\"unsubscribe\"]", "[]"))), "would serve nothing");
}

#[test]
fn the_door_for_management_needs_clients_that_can_be_told_apart() {
    let door = "[api]\naddress = \"0.0.0.0:8443\"\n";
    let client = format!("[[api-client]]\nname = \"me\"\nfingerprint = \"{}\"\nrole = \"admin\"\n", "0a".repeat(32));
    assert_eq!(findings(&format!("{GOOD}{door}{client}")), Vec::<String>::new());
    says(&appended(door), "nobody could come in");
    says(&appended(&client), "there is no [api]");
    says(&appended(&format!("{door}{}", client.replace("0a0a", "0A0A"))), "is no fingerprint");
    says(&appended(&format!("{door}{}", client.replace("admin", "root"))), "role");
    says(&appended(&format!("{door}{client}{}", client.replace("\"me\"", "\"you\""))), "another client has this");
    says(&appended(&format!("{door}{client}{}", client.replace("0a0a", "0b0b"))), "another client \"me\"");
    says(&appended(&format!("{}{client}", door.replace("0.0.0.0:8443", "127.0.0.1:25"))), "another door too");
    // [::] takes IPv4 too, but for listeners of SMTP; 0.0.0.0 takes every address of IPv4.
    let metrics = |address: &str| format!("[metrics]\naddress = \"{address}\"\n{client}");
    let both = door.replace("0.0.0.0", "[::]");
    for (door, taken) in [(door, "127.0.0.1:8443"), (&*both, "127.0.0.1:8443"), (&*both, "[::1]:8443")] {
        says(&appended(&format!("{door}{}", metrics(taken))), "another door too");
    }
    for (door, free) in [(door, "[::1]:8443"), (&*both, "127.0.0.1:9925")] {
        assert_eq!(findings(&format!("{GOOD}{door}{}", metrics(free))), Vec::<String>::new(), "{door} {free}");
    }
    says(&appended(&format!("{door}connections = 0\n{client}")), "api.connections");
}
