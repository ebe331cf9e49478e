//! A box fetches a release from an HTTPS mirror: Python's web server, releases made by `postkeep-release`, the real updater
//! behind the real mail core. The slot itself is not written here: that is what the image's tests are for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postkeep_disks::partition::Partition;
use postkeep_disks::partition::laid;
use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::Said;
use postkeep_tests::tools::{Process, program};
use postkeep_tests::{Daemon, Ground, Settings, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 8443;
const SERVER: &str = "
import functools, http.server, ssl, sys
address, port, folder, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
server = http.server.ThreadingHTTPServer((address, int(port)), handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";
/// Discoverable Partitions Specification, x86-64.
const KINDS: [&str; 3] = [
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "41092b05-9fc8-4523-994f-2def0408b176",
];

/// A program that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A box in a folder, its updater, and a mirror.
struct House {
    daemon: Daemon,
    mirror: String,
    release: PathBuf,
    root: PathBuf,
    _updater: Ended,
    _server: Process,
    _ground: Ground,
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A release of 9.9.9 in `folder`, and the key that signed it.
fn release(folder: &Path) -> (PathBuf, String) {
    let key = folder.join("release.key");
    let public = done(
        Command::new(program("postkeep-flash")).args(["key", "generate", "--name", "release.test", "--out"]).arg(&key),
    );
    let noise = |length: u32, from: u32| {
        (0..length).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(from) >> 13) as u8).collect::<Vec<_>>()
    };
    for (name, length) in
        [("root", 3 << 20), ("hashes", 65_536), ("signature", 4096), ("boot-file", 1 << 20), ("certificate", 800)]
    {
        fs::write(folder.join(name), noise(length, length)).unwrap();
    }
    let output = folder.join("mirror");
    let part = |role: &str, name: &str, number: u32| {
        format!("{role}={},1111111{number}-0000-4000-8000-000000000000", folder.join(name).display())
    };
    let mut command = Command::new(program("postkeep-release"));
    command.args(["make", "--version", "9.9.9", "--root-hash", &"1".repeat(64), "--level", "1", "--certificate"]);
    command.arg(folder.join("certificate")).arg("--key").arg(&key).arg("--output").arg(&output);
    command.arg(format!("uki={}", folder.join("boot-file").display()));
    command.args([
        part("root", "root", 1),
        part("root-verity", "hashes", 2),
        part("root-verity-signature", "signature", 3),
    ]);
    done(&mut command);
    (output, public)
}

/// The folder of a box that runs 0.1.0 and takes releases of `key`.
fn lay(root: &Path, key: &str) {
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("usr/lib/os-release", "ID=debian\nIMAGE_VERSION=\"0.1.0\"\n");
    put("usr/lib/postkeep/release-keys", key);
    put("efi/EFI/Linux/postkeep_0.1.0.efi", "boot file");
    fs::create_dir_all(root.join("var/lib/postkeep/update")).unwrap();
    fs::create_dir_all(root.join("run")).unwrap();
    let mut partitions = vec![laid::partition('a', 1, "postkeep-esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "e")];
    for (slot, label) in ["postkeep_0.1.0", "_empty"].into_iter().enumerate() {
        for (part, kind) in KINDS.into_iter().enumerate() {
            let number = u32::try_from(2 + 3 * slot + part).unwrap();
            partitions.push(laid::partition('a', number, label, kind, &number.to_string()));
        }
    }
    let large = |partition| Partition { size: 64 << 20, ..partition };
    laid::lay(root, &partitions.into_iter().map(large).collect::<Vec<_>>()).unwrap();
}

fn house() -> House {
    let ground = Ground::claim();
    let root = ground.path("box");
    let (release, key) = release(ground.folder());
    lay(&root, &key);
    let socket = UnixListener::bind(root.join("run/postkeep-update.socket")).unwrap();
    let updater = Command::new(program("postkeep-update"))
        .arg("--root")
        .arg(&root)
        .arg("serve")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
        .spawn()
        .unwrap();
    let address = ground.at(200, PORT);
    let (certificate, private) = (ground.path("mirror.pem"), ground.path("mirror.key"));
    ground.authority().identity(&address.ip().to_string(), Flaw::None).write(&certificate, &private);
    let server = Process::start(
        Command::new("python3")
            .args(["-c", SERVER, &address.ip().to_string(), &PORT.to_string()])
            .args([&release, &certificate, &private])
            .stderr(Stdio::null()),
    );
    wait_until("the mirror to answer", LIMIT, || std::net::TcpStream::connect(address).is_ok());
    let (roots, wrapper) = (ground.path("roots.pem"), ground.path("under-root"));
    fs::write(&roots, ground.authority().pem()).unwrap();
    fs::write(&wrapper, format!("#!/bin/sh\nexec \"$@\" --root {}\n", root.display())).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = Settings::new(&ground).with(&format!("[delivery]\nextra-roots = {roots:?}\n"));
    let daemon = Daemon::start_under(&ground, &settings, &[&wrapper]);
    House {
        daemon,
        mirror: format!("https://{address}/"),
        release,
        root,
        _updater: Ended(updater),
        _server: server,
        _ground: ground,
    }
}

impl House {
    fn update(&self, arguments: &[&str]) -> Said {
        self.daemon.postkeep(&[&["update"], arguments].concat())
    }

    /// Names of what has come in whole.
    fn staged(&self) -> Vec<String> {
        let folder = fs::read_dir(self.root.join("var/lib/postkeep/update/staged"));
        let mut names: Vec<String> =
            folder.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_release_is_fetched_from_a_mirror_held_against_its_manifest_and_handed_to_systemd_sysupdate() {
    let house = house();
    let plan = house.update(&["plan", &house.mirror, "--json"]).done().json();
    assert_eq!((&plan["version"], &plan["files"].as_array().unwrap().len()), (&"9.9.9".into(), &4), "{plan}");
    assert!(house.staged().is_empty(), "a plan changes nothing");
    let said = house.update(&["apply", &house.mirror, "--no-restart"]);
    // This machine is no box: there is no systemd-sysupdate that would write a slot.
    assert!(said.status == 1 && said.err.contains("sysupdate"), "{} {}", said.out, said.err);
    let root = house.staged().into_iter().find(|name| name.starts_with("root-9.9.9_")).expect("the root");
    let whole = fs::read(house.root.join("var/lib/postkeep/update/staged").join(root)).unwrap();
    assert!(whole == fs::read(house.release.parent().unwrap().join("root")).unwrap(), "not what was released");
    let status = house.update(&["status", "--json"]).done().json();
    assert_eq!(
        (&status["running"], &status["history"][0]["event"]),
        (&"0.1.0".into(), &"abandoned".into()),
        "{status}"
    );
}

#[test]
fn a_mirror_that_lies_breaks_off_or_is_not_believed_gets_nothing_installed() {
    let house = house();
    let name = "postkeep_9.9.9.efi";
    let file = fs::read_dir(&house.release)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with("boot-file"));
    let file = file.unwrap_or_else(|| panic!("no {name} in {}", house.release.display()));
    let octets = fs::read(&file).unwrap();
    let refused = |why: &str| {
        let said = house.update(&["apply", &house.mirror, "--no-restart"]);
        assert!(said.status != 0 && said.err.contains(why), "{why}: {} {}", said.out, said.err);
        assert!(!house.staged().iter().any(|staged| staged == name), "{why}: {:?}", house.staged());
        let status = house.update(&["status", "--json"]).done().json();
        assert!(status["history"].as_array().unwrap().is_empty(), "{status}");
    };
    let mut changed = octets.clone();
    changed[77] ^= 1;
    fs::write(&file, changed).unwrap();
    refused("sum");
    fs::write(&file, &octets[..octets.len() - 1]).unwrap();
    refused("cut off");
    fs::remove_file(&file).unwrap();
    refused("404");
    let note = house.release.join("release.note");
    let text = fs::read_to_string(&note).unwrap();
    fs::write(&note, text.replace("9.9.9", "9.9.8")).unwrap();
    refused("sign");
    // Another port: nobody is there. Another scheme: nobody would know who it is.
    for (mirror, why) in
        [(house.mirror.replace("8443", "8444"), "refused"), (house.mirror.replace("https", "http"), "https")]
    {
        let said = house.update(&["plan", &mirror]);
        assert!(said.status != 0 && said.err.contains(why), "{mirror}: {} {}", said.out, said.err);
    }
}
