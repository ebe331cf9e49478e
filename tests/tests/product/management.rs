//! The door for management: who gets in, by software that nobody here wrote (curl, openssl), and what strangers and
//! slow or greedy clients meet. The oracle of fingerprints and pins is openssl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode, SslVersion};
use postkeep_tests::daemon::{Said, run, run_with_input};
use postkeep_tests::ground::API_PORT;
use postkeep_tests::tools::program;
use postkeep_tests::{Daemon, Ground, Settings, wait_until};
use postkeep_trust::KeyAlone;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Longer than a handshake may take, and far shorter than for ever.
const CUT_OFF: Duration = Duration::from_secs(25);

/// A box with a manager, a reader, and a stranger whom it does not know.
struct House {
    // Before the ground, in which its log lies.
    daemon: Daemon,
    ground: Ground,
    settings: Settings,
    manager: PathBuf,
    reader: PathBuf,
    stranger: PathBuf,
    fingerprint: String,
}

fn openssl(arguments: &[&str]) -> String {
    run(Command::new("openssl").args(arguments)).done().out
}

/// The fingerprint of a certificate, by openssl.
fn fingerprint(file: &Path) -> String {
    let said = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in", file.to_str().unwrap()]);
    said.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
}

fn listed(name: &str, fingerprint: &str, role: &str) -> String {
    format!("[[api-client]]\nname = \"{name}\"\nfingerprint = \"{fingerprint}\"\nrole = \"{role}\"\n")
}

/// What `postkeep api identity new` makes, and prints as its fingerprint.
fn identity(ground: &Ground, name: &str) -> (PathBuf, String) {
    let file = ground.path(&format!("{name}.pem"));
    let said = run(Command::new(program("postkeep")).args(["api", "identity", "new", "--json", "--output"]).arg(&file));
    (file, said.done().json()["fingerprint"].as_str().unwrap().to_owned())
}

fn house() -> House {
    let ground = Ground::claim();
    let (certificate, key) = (ground.path("box.pem"), ground.path("box.key"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=box",
        "-days",
        "9",
        "-keyout",
        key.to_str().unwrap(),
        "-out",
        certificate.to_str().unwrap(),
    ]);
    let (manager, manager_sum) = identity(&ground, "manager");
    let (stranger, _) = identity(&ground, "stranger");
    // One that another tool made: Ed25519.
    let reader = ground.path("reader.pem");
    let reader_key = ground.path("reader.key");
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-subj",
        "/CN=reader",
        "-days",
        "9",
        "-keyout",
        reader_key.to_str().unwrap(),
        "-out",
        reader.to_str().unwrap(),
    ]);
    let both = std::fs::read_to_string(&reader).unwrap() + &std::fs::read_to_string(&reader_key).unwrap();
    std::fs::write(&reader, both).unwrap();
    std::fs::set_permissions(&reader, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = Settings::new(&ground).with(&format!(
        "[api]\naddress = \"{}\"\ncertificate = {certificate:?}\nkey = {key:?}\nconnections-per-address = 12\n{}{}",
        ground.at(1, API_PORT),
        listed("boss", &manager_sum, "admin"),
        listed("watch", &fingerprint(&reader), "read"),
    ));
    let daemon = Daemon::start(&ground, &settings);
    let fingerprint = fingerprint(&certificate);
    House { ground, daemon, settings, manager, reader, stranger, fingerprint }
}

impl House {
    fn door(&self) -> SocketAddr {
        self.ground.at(1, API_PORT)
    }

    fn postkeep_as(&self, identity: &Path, fingerprint: &str, arguments: &[&str]) -> Said {
        let mut command = Command::new(program("postkeep"));
        command.arg("--box").arg(self.door().to_string()).arg("--identity").arg(identity);
        run(command.args(["--box-fingerprint", fingerprint]).args(arguments))
    }

    fn postkeep(&self, arguments: &[&str]) -> Said {
        self.postkeep_as(&self.manager, &self.fingerprint, arguments)
    }

    /// Curl with the box's key pinned; its status line and body, or why it failed.
    fn curl(&self, identity: Option<&Path>, more: &[&str]) -> Said {
        let key = Command::new("openssl")
            .args(["x509", "-pubkey", "-noout", "-in"])
            .arg(self.ground.path("box.pem"))
            .output();
        let der = run_with_input(
            Command::new("openssl")
                .args(["pkey", "-pubin", "-outform", "der", "-out"])
                .arg(self.ground.path("box.der")),
            &key.unwrap().stdout,
        );
        der.done();
        let sum = Command::new("openssl")
            .args(["dgst", "-sha256", "-binary"])
            .arg(self.ground.path("box.der"))
            .output()
            .unwrap();
        let pin = format!("sha256//{}", openssl_base64(&sum.stdout));
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--insecure", "--pinnedpubkey", &pin]);
        command.args(["--write-out", "\n%{http_code}"]);
        if let Some(identity) = identity {
            command.arg("--cert").arg(identity).arg("--key").arg(identity);
        }
        let (more, path) = more.split_at(more.len() - 1);
        run(command.args(more).arg(format!("https://{}{}", self.door(), path[0])))
    }

    /// Openssl as a client of these versions of TLS; what it read until the end, or why it failed.
    fn openssl(&self, identity: Option<&Path>, most: SslVersion, request: &[u8]) -> Result<Vec<u8>, String> {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_min_proto_version(None).unwrap();
        connector.set_max_proto_version(Some(most)).unwrap();
        if let Some(identity) = identity {
            connector.set_certificate_file(identity, SslFiletype::PEM).unwrap();
            connector.set_private_key_file(identity, SslFiletype::PEM).unwrap();
        }
        let stream = TcpStream::connect(self.door()).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(CUT_OFF)).unwrap();
        let mut stream = connector.build().connect("box", stream).map_err(|error| error.to_string())?;
        stream.write_all(request).map_err(|error| error.to_string())?;
        let mut read = Vec::new();
        stream.read_to_end(&mut read).map_err(|error| error.to_string())?;
        Ok(read)
    }

    fn log(&self) -> String {
        self.daemon.tail(200)
    }
}

fn openssl_base64(octets: &[u8]) -> String {
    run_with_input(Command::new("openssl").args(["base64", "-A"]), octets).done().out
}

const STATUS: &[u8] = b"GET /v1/status HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n";

#[test]
fn every_verb_of_the_socket_works_over_the_network_for_a_manager() {
    let house = house();
    for verb in [&["status"][..], &["queue", "show"], &["events", "status"], &["suppression", "status"]] {
        let verb = [verb, &["--json"]].concat();
        let (here, there) = (house.daemon_says(&verb), house.postkeep(&verb).done().json());
        assert_eq!(here, there, "{verb:?}");
    }
    house.postkeep(&["queue", "pause", "--domain", "there.test"]).done();
    assert!(house.daemon_says(&["queue", "show", "--json"])["pauses"].to_string().contains("there.test"));
    house.postkeep(&["suppression", "add", "ann@there.test"]).done();
    assert_eq!(house.daemon.suppressions("ann@there.test"), ["manual all"]);
    // A file goes in piece by piece, and its refused lines come back.
    let list = house.ground.path("list.csv");
    let text: String = (0..20_000).map(|n| format!("person-{n}@there.test\n")).collect();
    std::fs::write(&list, format!("address\n{text}not an address\n")).unwrap();
    let report = house.postkeep(&[
        "suppression",
        "import",
        list.to_str().unwrap(),
        "--format",
        "postkeep",
        "--reason",
        "manual",
        "--json",
    ]);
    assert_eq!(report.status, 1, "one line is refused: {report:?}");
    let statistics = house.postkeep(&["suppression", "status", "--json"]).done().json();
    assert!(statistics.to_string().contains("20001"), "{statistics}");
    house.postkeep(&["reload"]).done();
    assert!(house.log().contains("queue: ") && house.log().contains("(client boss): pause"), "{}", house.log());
}

#[test]
fn curl_gets_in_with_a_listed_certificate_and_finds_the_pinned_box() {
    let house = house();
    let said = house.curl(Some(&house.manager), &["/v1/status"]).done();
    assert!(said.out.ends_with("\n200") && said.out.contains("\"version\""), "{said:?}");
    let said = house.curl(Some(&house.reader), &["/v1/queue"]).done();
    assert!(said.out.ends_with("\n200"), "{said:?}");
    let said = house.curl(Some(&house.manager), &["/v1/nothing"]).done();
    assert!(said.out.ends_with("\n404"), "{said:?}");
}

#[test]
fn strangers_learn_nothing_whatever_they_show() {
    let house = house();
    for identity in [None, Some(house.stranger.as_path())] {
        let said = house.curl(identity, &["/v1/status"]);
        assert!(said.status != 0 && said.out.trim() == "000", "{said:?}");
        let read = house.openssl(identity, SslVersion::TLS1_3, STATUS);
        assert!(read.is_err() || read.as_deref() == Ok(&[]), "{read:?}");
    }
    // The listed certificate is no secret: without its key it is worth nothing.
    let read = house.borrowed();
    assert!(read.is_err(), "{read:?}");
    // The log has the stranger's certificate once, and not at every knock.
    let sum = fingerprint(&house.stranger);
    let told = house.log().matches(&sum).count();
    assert!(told == 1, "told {told} times:\n{}", house.log());
}

#[test]
fn who_is_refused_reads_why_and_what_to_do() {
    let house = house();
    let said = house.postkeep_as(&house.stranger, &house.fingerprint, &["status"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(
        said.err.contains("does not let this identity in") && said.err.contains(&fingerprint(&house.stranger)),
        "{said:?}"
    );
    let said = house.postkeep_as(&house.manager, &"0a".repeat(32), &["status"]);
    assert!(
        said.status == 3 && said.err.contains("is not the box that is meant") && said.err.contains(&house.fingerprint),
        "{said:?}"
    );
    let said = run(Command::new(program("postkeep"))
        .args(["--box", "127.0.0.1:1", "--box-fingerprint", &house.fingerprint])
        .arg("--identity")
        .arg(&house.manager)
        .arg("status"));
    assert!(said.status == 3 && said.err.contains("127.0.0.1:1"), "{said:?}");
    let said = run(Command::new(program("postkeep")).args(["--box", "127.0.0.1:1", "status"]));
    assert!(said.status == 2 && said.err.contains("fingerprint"), "{said:?}");
}

#[test]
fn a_profile_and_the_environment_name_the_box() {
    let house = house();
    let profile = house.ground.path("box.toml");
    let text = format!(
        "address = \"{}\"\nfingerprint = \"{}\"\nidentity = \"manager.pem\"\n",
        house.door(),
        house.fingerprint
    );
    std::fs::write(&profile, text).unwrap();
    run(Command::new(program("postkeep")).arg("--box").arg(&profile).arg("status")).done();
    run(Command::new(program("postkeep")).env("POSTKEEP_BOX", &profile).arg("status")).done();
}

#[test]
fn a_reader_may_look_and_change_nothing() {
    let house = house();
    house.postkeep_as(&house.reader, &house.fingerprint, &["queue", "show"]).done();
    for verb in [
        &["queue", "pause", "--all"][..],
        &["suppression", "add", "ann@there.test"],
        &["suppression", "remove", "ann@there.test"],
        &["reload"],
    ] {
        let said = house.postkeep_as(&house.reader, &house.fingerprint, verb);
        assert!(said.status == 1 && said.err.contains("watch may only look"), "{verb:?}: {said:?}");
    }
    assert_eq!(house.daemon_says(&["queue", "show", "--json"])["pauses"].to_string(), "[]");
}

#[test]
fn whoever_is_taken_off_the_list_is_out_with_the_reload_also_on_an_open_connection() {
    let house = house();
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_certificate_file(&house.manager, SslFiletype::PEM).unwrap();
    connector.set_private_key_file(&house.manager, SslFiletype::PEM).unwrap();
    let stream = TcpStream::connect(house.door()).unwrap();
    stream.set_read_timeout(Some(CUT_OFF)).unwrap();
    let mut stream = connector.build().connect("box", stream).unwrap();
    let mut ask = || {
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: box\r\n\r\n").unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask().starts_with("HTTP/1.1 200"));
    let rest = listed("watch", &fingerprint(&house.reader), "read");
    house.daemon.write(&house.settings.clone().replacing("api-client", &rest));
    house.postkeep(&["reload"]).done();
    let answer = ask();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not listed any more"), "{answer}");
    assert_eq!(house.postkeep(&["status"]).status, 3);
    house.postkeep_as(&house.reader, &house.fingerprint, &["status"]).done();
}

#[test]
fn nothing_older_than_tls_1_3_is_spoken() {
    let house = house();
    for version in [SslVersion::TLS1, SslVersion::TLS1_1, SslVersion::TLS1_2] {
        let read = house.openssl(Some(&house.manager), version, STATUS);
        assert!(read.is_err(), "{version:?}: {read:?}");
    }
    let read = house.openssl(Some(&house.manager), SslVersion::TLS1_3, STATUS).unwrap();
    assert!(read.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&read));
    // Nor anything that is no TLS.
    let mut plain = TcpStream::connect(house.door()).unwrap();
    plain.set_read_timeout(Some(CUT_OFF)).unwrap();
    plain.write_all(STATUS).unwrap();
    let mut read = Vec::new();
    let _ = plain.read_to_end(&mut read);
    assert!(!String::from_utf8_lossy(&read).contains("HTTP"), "{read:?}");
}

#[test]
fn a_handshake_that_takes_too_long_is_cut_off_and_one_address_has_its_share() {
    let house = house();
    // One more than its share: the others have their places, the last is closed on at once.
    let slow: Vec<TcpStream> = (0..12).map(|_| TcpStream::connect(house.door()).unwrap()).collect();
    let mut late = TcpStream::connect(house.door()).unwrap();
    late.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!(late.read(&mut [0; 8]), Ok(0) | Err(_)), "the thirteenth connection is served");
    let begun = Instant::now();
    for mut stream in &slow {
        // Half a record: a handshake that never ends.
        stream.write_all(&[0x16, 0x03, 0x01, 0x02]).unwrap();
    }
    for mut stream in slow {
        stream.set_read_timeout(Some(CUT_OFF)).unwrap();
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0)), "it is not cut off");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    wait_until("the door to let people in again", Duration::from_secs(5), || house.postkeep(&["status"]).status == 0);
}

#[test]
fn headers_and_bodies_have_their_bounds() {
    let house = house();
    let large = format!("GET /v1/status HTTP/1.1\r\nHost: box\r\nX-Large: {}\r\n\r\n", "x".repeat(40_000));
    let read = house.openssl(Some(&house.manager), SslVersion::TLS1_3, large.as_bytes());
    // It is said, or the connection ends while the rest is still being sent.
    assert!(read.as_ref().map_or(true, |read| read.starts_with(b"HTTP/1.1 431")), "{read:?}");
    let many: String = (0..200).map(|n| format!("X-{n}: x\r\n")).collect();
    let read = house.openssl(
        Some(&house.manager),
        SslVersion::TLS1_3,
        format!("GET /v1/status HTTP/1.1\r\nHost: box\r\n{many}\r\n").as_bytes(),
    );
    assert!(read.as_ref().is_ok_and(|read| read.starts_with(b"HTTP/1.1 431")), "{read:?}");
    let body = house.ground.path("large.json");
    std::fs::write(&body, " ".repeat(100_000)).unwrap();
    let data = format!("@{}", body.display());
    let said = house.curl(
        Some(&house.manager),
        &["--header", "Content-Type: application/json", "--data-binary", &data, "/v1/queue"],
    );
    // The same: curl's 55 is that it could not send the rest.
    assert!(said.out.ends_with("\n413") || said.status == 55, "{said:?}");
    house.postkeep(&["status"]).done();
}

#[test]
fn the_box_tells_what_it_is_and_what_it_cannot_tell() {
    let house = house();
    let system = house.postkeep(&["system", "show", "--json"]).done().json();
    let kernel = run(Command::new("uname").arg("-r")).done().out;
    assert_eq!(system["kernel"].as_str(), Some(kernel.trim()));
    assert_eq!((&system["posture"], &system["history"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert!(system["unknown"].to_string().contains("posture of this start is not known"), "{system}");
    let text = house.postkeep(&["system", "show"]).done().out;
    assert!(text.contains("posture not known") && text.contains("bill of materials: none"), "{text}");
    let said = house.postkeep(&["system", "sbom", "--format", "spdx"]);
    assert!(said.status == 1 && said.err.contains("no bill of materials in the form spdx"), "{said:?}");
}

impl House {
    /// The same by the socket.
    fn daemon_says(&self, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(program("postkeep"));
        run(command.args(arguments).arg("--socket").arg(self.ground.path("control.sock"))).done().json()
    }
    /// What somebody reads who shows the manager's certificate and signs with the stranger's key.
    fn borrowed(&self) -> std::io::Result<Vec<u8>> {
        let certificate = CertificateDer::from_pem_file(&self.manager).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.stranger).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = KeyAlone::any(&provider);
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Borrowed(Arc::new(CertifiedKey::new(vec![certificate], key)))));
        let connection = rustls::ClientConnection::new(Arc::new(config), "box".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(self.door()).unwrap();
        stream.set_read_timeout(Some(CUT_OFF)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        stream.write_all(STATUS)?;
        let mut read = Vec::new();
        stream.read_to_end(&mut read).map(|_| read)
    }
}

#[derive(Debug)]
struct Borrowed(Arc<CertifiedKey>);

impl ResolvesClientCert for Borrowed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
