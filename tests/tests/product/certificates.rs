//! Certificates by ACME, from Pebble, the test authority of Let's Encrypt's makers; curl judges what is served.

use std::process::Command;
use std::time::Duration;

use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::{Said, run};
use postkeep_tests::ground::HTTPS_PORT;
use postkeep_tests::tools::{self, Process, needs};
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message, wait_until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "mail.sender.test";
const OTHER: &str = "links.sender.test";
/// Ports of Pebble and of its management.
const PEBBLE_PORT: u16 = 14000;
const MANAGEMENT_PORT: u16 = 15000;
/// A key for external account binding; Pebble and the box are told it.
const SECRET: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

struct House {
    ground: Ground,
    _names: Names,
}

impl House {
    fn new() -> Self {
        let ground = Ground::claim();
        let names = Names::new(&ground);
        names.a(NAME, ground.ip(1)).a(OTHER, ground.ip(1)).domain("there.test", ground.ip(101));
        std::fs::write(ground.path("authority.pem"), ground.authority().pem()).expect("write the authority");
        Self { ground, _names: names }
    }

    /// Starts Pebble, which wants an account of ours to be bound when `bound`, and rejects some nonces, as authorities do.
    fn pebble(&self, bound: bool) -> Option<Process> {
        let program = needs(tools::find("pebble"))?;
        let (certificate, key, file) =
            (self.ground.path("pebble.pem"), self.ground.path("pebble-key.pem"), self.ground.path("pebble.json"));
        self.ground.authority().identity(&self.ground.ip(60).to_string(), Flaw::None).write(&certificate, &key);
        let config = json!({"pebble": {
            "listenAddress": self.ground.at(60, PEBBLE_PORT), "managementListenAddress": self.ground.at(60, MANAGEMENT_PORT),
            "certificate": certificate, "privateKey": key, "httpPort": 1, "tlsPort": HTTPS_PORT, "ocspResponderURL": "",
            "externalAccountBindingRequired": bound, "externalAccountMACKeys": {"kid-1": SECRET},
        }});
        std::fs::write(&file, config.to_string()).expect("write Pebble's configuration");
        let log = std::fs::File::create(self.ground.path("pebble.log")).expect("open Pebble's log");
        let process = Process::start(
            Command::new(program)
                .arg("-config")
                .arg(&file)
                .args(["-dnsserver", &self.ground.at(53, postkeep_tests::ground::NAMES_PORT).to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "5")
                .stdout(log.try_clone().expect("copy a handle"))
                .stderr(log),
        );
        let directory = format!("https://{}/dir", self.ground.at(60, PEBBLE_PORT));
        wait_until("Pebble", LIMIT, || self.fetch(&directory, "authority.pem").status == 0);
        let root =
            self.fetch(&format!("https://{}/roots/0", self.ground.at(60, MANAGEMENT_PORT)), "authority.pem").done();
        std::fs::write(self.ground.path("root.pem"), root.out).expect("write Pebble's root");
        Some(process)
    }

    fn fetch(&self, url: &str, roots: &str) -> Said {
        let resolve = |name: &str| format!("{name}:{HTTPS_PORT}:{}", self.ground.ip(1));
        run(Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--resolve",
                &resolve(NAME),
                "--resolve",
                &resolve(OTHER),
            ])
            .arg("--cacert")
            .arg(self.ground.path(roots))
            .arg(url))
    }

    /// Whether the door shows a certificate of Pebble's for that name, and a page behind it.
    fn serves(&self, name: &str) -> bool {
        let said = self.fetch(&format!("https://{name}:{HTTPS_PORT}/u/x"), "root.pem");
        said.status == 0 && said.out.contains("<h1>Not found</h1>")
    }

    fn settings(&self, names: &[&str], extra: &str) -> Settings {
        let ground = &self.ground;
        Settings::new(ground).with(&format!(
            "[[http]]\naddress = \"{}\"\nacme = true\nserve = [\"unsubscribe\"]\n\
             [acme]\nnames = {names:?}\nagree-to-terms = true\ncontact = [\"mailto:host@sender.test\"]\n\
             url = \"https://{}/dir\"\ndirectory = {:?}\nextra-roots = {:?}\n{extra}",
            ground.at(1, HTTPS_PORT),
            ground.at(60, PEBBLE_PORT),
            ground.path("acme"),
            ground.path("authority.pem"),
        ))
    }

    fn kept(&self, file: &str) -> String {
        std::fs::read_to_string(self.ground.path("acme").join(file)).unwrap_or_default()
    }
}

#[test]
fn a_certificate_is_got_served_used_again_and_replaced_when_names_change() {
    let house = House::new();
    let Some(mut pebble) = house.pebble(false) else { return };
    let mut daemon = Daemon::start(&house.ground, &house.settings(&[NAME], ""));
    wait_until("a certificate", LIMIT, || house.serves(NAME));
    let first = house.kept("certificate.pem");
    assert!(first.contains("PRIVATE KEY") && first.contains("BEGIN CERTIFICATE"), "{first:.40}");
    let accounts = || {
        let files = std::fs::read_dir(house.ground.path("acme")).expect("the folder").flatten();
        files.filter(|file| file.file_name().to_string_lossy().starts_with("account-")).count()
    };
    assert_eq!(accounts(), 1);

    // Without the authority it starts at once with what it has, also after a crash.
    pebble.kill();
    daemon.kill();
    daemon.run();
    assert!(house.serves(NAME), "{}", daemon.tail(20));
    assert_eq!(house.kept("certificate.pem"), first);

    // Another name: the old certificate serves until there is a new one. (This Pebble has another root and knows no account.)
    let old_root = std::fs::read(house.ground.path("root.pem")).expect("the root");
    std::fs::remove_file(house.ground.path("acme").join(account_file(&house))).expect("forget the account");
    daemon.kill();
    daemon.write(&house.settings(&[NAME, OTHER], ""));
    daemon.run();
    assert!(house.serves(NAME), "the old one serves on: {}", daemon.tail(20));
    wait_until("a failure is written down", LIMIT, || house.kept("renewal.json").contains("\"failures\":1"));
    std::fs::write(house.ground.path("old-root.pem"), old_root).expect("keep the root");
    // A restart does not ask sooner than it should.
    daemon.kill();
    daemon.run();
    std::thread::sleep(Duration::from_secs(2));
    assert!(house.kept("renewal.json").contains("\"failures\":1"), "{}", house.kept("renewal.json"));
    assert!(house.serves(NAME));
    // When the wait is over it gets one with both names.
    let Some(_pebble) = house.pebble(false) else { return };
    daemon.kill();
    std::fs::remove_file(house.ground.path("acme/renewal.json")).expect("end the wait");
    daemon.run();
    wait_until("both names", LIMIT, || house.serves(NAME) && house.serves(OTHER));
    assert_ne!(house.kept("certificate.pem"), first);
    assert!(house.kept("renewal.json").contains("\"failures\":0"));
}

fn account_file(house: &House) -> String {
    let files = std::fs::read_dir(house.ground.path("acme")).expect("the folder").flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.find(|name| name.starts_with("account-")).expect("an account")
}

#[test]
fn an_account_is_bound_to_one_that_the_authority_knows() {
    let house = House::new();
    let Some(_pebble) = house.pebble(true) else { return };
    let secret = house.ground.path("eab");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("write the secret");
    let external = format!("[acme.external-account]\nid = \"kid-1\"\nsecret = {secret:?}\n");
    let _daemon = Daemon::start(&house.ground, &house.settings(&[NAME], &external));
    wait_until("a certificate", LIMIT, || house.serves(NAME));
}

#[test]
fn without_an_authority_mail_goes_on_and_failures_say_why() {
    let house = House::new();
    let there = Sink::at(&house.ground, 101);
    let daemon = Daemon::start(&house.ground, &house.settings(&[NAME], ""));
    wait_until("a failure", LIMIT, || daemon.tail(50).contains("no certificate for mail.sender.test (try 1)"));
    assert!(daemon.tail(50).contains("the next try is in 1"), "{}", daemon.tail(50));
    daemon.submit("a@sender.test", &["b@there.test"], &message::simple("a@sender.test", "b@there.test", "x", "Hi\n"));
    there.wait(1, LIMIT);
}
