//! Knot DNS with a signed root, a signed zone `test` and zones below it that are not signed, or wrongly: a small internet
//! with DNSSEC.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::daemon::run;
use crate::ground::{Ground, NAMES_PORT};
use crate::tools::{self, Missing, Process};
use crate::wait::wait_until;

/// Domain whose zone is not signed, as its parent says.
pub const UNSIGNED: &str = "plain.test";
/// Domain whose parent promises a signature that its zone does not have.
pub const BOGUS: &str = "bogus.test";

/// The running server. It stops when dropped.
#[derive(Debug)]
pub struct SignedNames {
    address: SocketAddr,
    anchors: PathBuf,
    _server: Process,
}

impl SignedNames {
    /// Serves these records (zone file lines with names relative to the zone) at address 54 of the ground.
    ///
    /// # Panics
    /// When Knot does not start.
    pub fn start(ground: &Ground, test: &str, unsigned: &str, bogus: &str) -> Result<Self, Missing> {
        let (knotd, keymgr) = (tools::find("knotd")?, tools::find("keymgr")?);
        let folder = ground.path("knot");
        for name in ["zones", "kasp", "run"] {
            std::fs::create_dir_all(folder.join(name)).expect("make a folder");
        }
        let address = ground.at(54, NAMES_PORT);
        let configuration = folder.join("knot.conf");
        std::fs::write(&configuration, text(&folder, address)).expect("write knot.conf");
        let key = |zone: &str| {
            run(Command::new(&keymgr).arg("-c").arg(&configuration).args([
                zone,
                "generate",
                "algorithm=ecdsap256sha256",
                "ksk=yes",
                "zsk=yes",
            ]))
            .done();
        };
        key(".");
        key("test.");
        let ask =
            |arguments: &[&str]| run(Command::new(&keymgr).arg("-c").arg(&configuration).args(arguments)).done().out;
        let delegation = ask(&["test.", "ds"]);
        let head = |zone: &str| {
            format!("$TTL 60\n@ IN SOA ns.{zone} hostmaster.{zone} 1 3600 600 86400 1\n@ IN NS ns.test.\n")
        };
        let glue = format!("ns IN A {}\n", address.ip());
        // A digest of no key there is.
        let broken = format!("bogus IN DS 1 13 2 {}\n", "00".repeat(32));
        let zones = folder.join("zones");
        for (name, content) in [
            ("root.zone", format!("{}test. IN NS ns.test.\n{delegation}\nns.test. IN A {}\n", head(""), address.ip())),
            ("test.zone", format!("{}{glue}plain IN NS ns.test.\nbogus IN NS ns.test.\n{broken}{test}", head("test."))),
            ("plain.zone", format!("{}{unsigned}", head("plain.test."))),
            ("bogus.zone", format!("{}{bogus}", head("bogus.test."))),
        ] {
            std::fs::write(zones.join(name), content).expect("write a zone");
        }
        let anchors = folder.join("anchors");
        let dnskey = ask(&[".", "dnskey"]);
        let records = dnskey
            .lines()
            .filter(|line| line.contains("DNSKEY"))
            .map(|line| line.replacen("DNSKEY", "3600 IN DNSKEY", 1));
        std::fs::write(&anchors, records.collect::<Vec<_>>().join("\n") + "\n").expect("write the anchors");
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let server = Process::start(
            Command::new(knotd).arg("-c").arg(&configuration).stdout(log.try_clone().expect("a log")).stderr(log),
        );
        wait_until("Knot answers", Duration::from_secs(20), || TcpStream::connect(address).is_ok());
        Ok(Self { address, anchors, _server: server })
    }

    /// TOML that makes a daemon ask it and believe its root.
    pub fn resolver(&self) -> String {
        format!(
            "[resolver]\nservers = [\"{}\"]\ntrust-anchors = {:?}\ndnssec = \"auto\"\ntimeout = \"2s\"\n",
            self.address, self.anchors
        )
    }
}

fn text(folder: &Path, address: SocketAddr) -> String {
    let folder = folder.display();
    let zone = |domain: &str, file: &str, signed: bool| {
        let signing = if signed { "    dnssec-signing: on\n    dnssec-policy: test\n" } else { "" };
        format!("  - domain: \"{domain}\"\n    file: {file}\n{signing}")
    };
    format!(
        "server:\n    rundir: {folder}/run\n    listen: {}@{}\ndatabase:\n    storage: {folder}/kasp\n\
         log:\n  - target: stderr\n    any: warning\n\
         policy:\n  - id: test\n    algorithm: ecdsap256sha256\n    single-type-signing: on\n\
         template:\n  - id: default\n    storage: {folder}/zones\n    zonefile-sync: -1\n    \
         zonefile-load: difference-no-serial\n    journal-content: all\n    semantic-checks: off\nzone:\n{}{}{}{}",
        address.ip(),
        address.port(),
        zone(".", "root.zone", true),
        zone("test.", "test.zone", true),
        zone("plain.test.", "plain.zone", false),
        zone("bogus.test.", "bogus.zone", false),
    )
}
