//! Custodians with the program, at the door of a box on loopback: the real door, the real opener behind it, and a program in the place
//! of cryptsetup.

mod program;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postkeep_keys::wire::{Request, Seal, State};
use postkeep_keys::{KeySet, Sum, System, Token};
use postkeep_notes::SignerKey;
use postkeep_sealed::chip::Chip;
use postkeep_sealed::door::{Door, Identity};
use postkeep_sealed::line;
use postkeep_sealed::opener::{Opener, Place, TOKEN};
use postkeep_sealed::volume::Volume;
use postkeep_tests::tpm::Machine;
use tempfile::TempDir;

use program::{keys, refused, said};

const VOLUME: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
const HEADER: &str = r#"{
    "keyslots": {"1": {"type": "luks2", "key_size": 64, "area": {"type": "raw", "encryption": "aes-xts-plain64", "key_size": 64}}},
    "segments": {"0": {"type": "crypt", "encryption": "aes-xts-plain64"}}
}"#;
const NAMES: [&str; 3] = ["anna", "ben", "cleo"];

/// A sealed box on loopback, and the keys of those who open it.
struct House {
    folder: TempDir,
    opener: Arc<Opener>,
    address: SocketAddr,
    certificate: Sum,
    _runtime: tokio::runtime::Runtime,
}

impl House {
    fn new() -> Self {
        Self::with(None)
    }

    /// With a TPM.
    fn with(machine: Option<&Machine>) -> Self {
        let chip = machine.map(|machine| Chip { tpm: machine.tpm(), log: machine.file("log") });
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut set = "threshold = 2\n".to_owned();
        for name in NAMES {
            let output = keys(&["generate", "--out", path(&format!("{name}.key")).to_str().unwrap()]);
            set += &format!("[[custodian]]\nname = \"{name}\"\nrecipients = [\"{}\"]\n", said(&output).trim());
        }
        let volume = VOLUME.parse().unwrap();
        let mut token = Token::make(&KeySet::parse(&set).unwrap(), &volume, 1, &mut System).unwrap().token;
        if let Some(chip) = &chip {
            token = token.with_tpm(chip.enrol().unwrap()).unwrap();
        }
        fs::create_dir(path("postkeep")).unwrap();
        let box_key = SignerKey::generate("box.example").unwrap();
        fs::write(path(TOKEN), token.sign(&box_key).unwrap()).unwrap();
        fs::create_dir_all(path("data/keys")).unwrap();
        box_key.write(&path("data/keys/box.key")).unwrap();
        fs::write(path("header"), HEADER).unwrap();
        for name in ["cryptsetup", "systemctl"] {
            let text = format!(
                "#!/bin/sh\necho \"$@\" >>{0}.asked\n\
                 case $1 in luksDump) exec cat {1}/header;; luksUUID) echo {VOLUME}; exit;; open) cat >/dev/null;; esac\n",
                path(name).display(),
                folder.path().display()
            );
            fs::write(path(name), text).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let volume = Volume {
            device: "/dev/nowhere".into(),
            name: "nowhere".to_owned(),
            program: path("cryptsetup"),
            mapper: path("mapper"),
        };
        let place = Place {
            boot: folder.path().to_owned(),
            data: path("data"),
            volume,
            systemctl: path("systemctl"),
            unopened: path("unopened"),
            chip,
            certificate: path("certificate"),
            unmarked: path("unmarked"),
        };
        let opener = Opener::start(place).unwrap().unwrap();
        let socket = path("opener.socket");
        let (listener, behind) = (UnixListener::bind(&socket).unwrap(), Arc::clone(&opener));
        std::thread::spawn(move || line::serve(&listener, move |request| behind.handle(request)));
        let identity = Identity::new().unwrap();
        let certificate = Sum::of(identity.certificate());
        fs::write(path("certificate"), format!("{certificate}\n")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let door = Door::new(identity, socket).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(door.serve(listener));
        Self { folder, opener, address, certificate, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn at_the_box(&self, verb: &str, more: &[&str]) -> Output {
        keys(
            &[&[verb, "--box", &self.address.to_string(), "--certificate", &self.certificate.to_string()], more]
                .concat(),
        )
    }

    fn unseal(&self, name: &str) -> Output {
        self.unseal_with(name, &[])
    }

    fn unseal_with(&self, name: &str, more: &[&str]) -> Output {
        let (key, token) = (self.path(&format!("{name}.key")), self.path("box.token"));
        let files =
            ["--identity", key.to_str().unwrap(), "--token", token.to_str().unwrap(), "--reason", "planned work"];
        self.at_the_box("unseal", &[&files[..], more].concat())
    }

    fn state(&self) -> State {
        let postkeep_keys::wire::Reply::State(state) = self.opener.handle(&Request::State) else { panic!("a state") };
        *state
    }

    fn until(&self, seal: Seal) {
        let began = Instant::now();
        while self.state().seal != seal {
            assert!(began.elapsed() < Duration::from_secs(10), "it does not become {seal:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_box_is_opened_proved_and_sealed_from_elsewhere() {
    let house = House::new();
    let token = house.path("box.token");
    let text = said(&house.at_the_box("token", &["--out", token.to_str().unwrap()]));
    assert!(text.contains("key set 1") && text.contains("Compare the sum"), "{text}");
    let text = said(&house.at_the_box("state", &[]));
    assert!(text.contains("seal         sealed") && text.contains("opening      0 of 2 have answered"), "{text}");
    let key = house.path("cleo.key");
    let with_token = ["--token", token.to_str().unwrap()];
    let with_key = [&with_token[..], &["--identity", key.to_str().unwrap(), "--name", "cleo"]].concat();
    let error = refused(&house.at_the_box("seal", &with_key), 3);
    assert!(error.contains("the box is sealed, and asks nothing"), "{error}");

    // Without a terminal nobody can say that it is the right box.
    let asked = keys(
        &[
            &["unseal", "--box", &house.address.to_string(), "--identity", key.to_str().unwrap(), "--reason", "work"],
            &with_token[..],
        ]
        .concat(),
    );
    let error = refused(&asked, 3);
    assert!(error.contains("nobody can be asked whether this is your box"), "{error}");
    assert!(said(&house.unseal("cleo")).contains("1 of 2 (cleo)"));
    assert!(said(&house.unseal("cleo")).contains("1 of 2 (cleo)"));
    assert!(said(&house.unseal("anna")).contains("the box opens"));
    house.until(Seal::Open);
    let error = refused(&house.unseal("ben"), 3);
    assert!(error.contains("does not wait to be opened: it is open"), "{error}");

    assert!(said(&house.at_the_box("prove", &with_key)).contains("cleo holds their key"));
    let text = said(&house.at_the_box("state", &[]));
    assert!(text.contains("seal         open") && !text.contains("cleo"), "{text}");
    let proven: Vec<bool> = house.state().possession.iter().map(|proven| proven.last.is_some()).collect();
    assert_eq!(proven, [false, false, true]);
    let mallory = house.path("mallory.key");
    said(&keys(&["generate", "--out", mallory.to_str().unwrap()]));
    let error = refused(
        &house.at_the_box(
            "seal",
            &[&with_token[..], &["--identity", mallory.to_str().unwrap(), "--name", "cleo"]].concat(),
        ),
        2,
    );
    assert!(error.contains("encrypted to others"), "{error}");
    let stranger = [&with_token[..], &["--identity", mallory.to_str().unwrap(), "--name", "mallory"]].concat();
    let error = refused(&house.at_the_box("seal", &stranger), 2);
    assert!(error.contains("nobody called mallory is in the token"), "{error}");
    assert_eq!(house.state().seal, Seal::Open);
    // Enrolment is all of it: the token, whether the key opens a share, and the proof.
    let ben = house.path("ben.key");
    let enrol = |identity: &Path, out: &str| {
        let out = house.path(out);
        house.at_the_box("enrol", &["--identity", identity.to_str().unwrap(), "--out", out.to_str().unwrap()])
    };
    let text = said(&enrol(&ben, "ben.token"));
    assert!(text.contains("2 of 3 custodians open it") && text.contains("the share of ben for opening"), "{text}");
    assert!(text.contains("ben holds their key"), "{text}");
    assert!(house.state().possession.iter().any(|proven| proven.name.as_str() == "ben" && !proven.is_due));
    assert_eq!(fs::read(house.path("ben.token")).unwrap(), fs::read(&token).unwrap());
    refused(&enrol(&mallory, "mallory.token"), 2);
    assert!(!house.path("mallory.token").exists());
    let error = refused(&house.at_the_box("seal", &[&with_key[..], &["--wait", "1"]].concat()), 3);
    assert!(error.contains("does not say within 1 s that it is sealed"), "nobody seals here: {error}");
    // Once more, and not waited for.
    assert!(said(&house.at_the_box("seal", &[&with_key[..], &["--wait", "0"]].concat())).contains("mail stops"));
    assert_eq!(
        fs::read_to_string(house.path("systemctl.asked")).unwrap(),
        "--no-block start multi-user.target\n--no-block start postkeep-seal.target\n--no-block start postkeep-seal.target\n"
    );
}

#[test]
fn a_quorum_gives_an_open_box_a_new_key_set_and_whoever_has_gone_counts_no_more() {
    let house = House::new();
    let (token, set, new) = (house.path("box.token"), house.path("keys.toml"), house.path("new.token"));
    said(&house.at_the_box("token", &["--out", token.to_str().unwrap()]));
    let dora = said(&keys(&["generate", "--out", house.path("dora.key").to_str().unwrap()]));
    let recipient = |name: &str| said(&keys(&["recipient", house.path(&format!("{name}.key")).to_str().unwrap()]));
    let custodian =
        |name: &str, key: &str| format!("[[custodian]]\nname = \"{name}\"\nrecipients = [\"{}\"]\n", key.trim());
    let text = ["threshold = 2\n".to_owned(), custodian("anna", &recipient("anna")), custodian("dora", &dora)].concat();
    fs::write(&set, text).unwrap();
    let rotate = |name: &str, more: &[&str]| {
        let key = house.path(&format!("{name}.key"));
        let files = ["--identity", key.to_str().unwrap(), "--token", token.to_str().unwrap()];
        let wanted = ["--to", set.to_str().unwrap(), "--reason", "dora comes", "--out", new.to_str().unwrap()];
        house.at_the_box("rotate", &[&files[..], &wanted, more].concat())
    };
    let error = refused(&rotate("anna", &["--yes"]), 3);
    assert!(error.contains("the box is sealed; it takes a new key set only while it is open"), "{error}");
    said(&house.unseal("anna"));
    said(&house.unseal("cleo"));
    house.until(Seal::Open);

    // Whoever is not sure is shown what changes, and that one lost share will be the end.
    let error = refused(&rotate("anna", &[]), 3);
    for line in
        ["2 of 3 \u{2192} 2 of 2", "leaves       ben", "comes        dora", "one lost share is the loss of all data"]
    {
        assert!(error.contains(line), "{line}: {error}");
    }
    let offer = house.state().changes.unwrap().to_string();
    let key = house.path("anna.key");
    let open =
        ["--offer", &offer, "--identity", key.to_str().unwrap(), "--token", token.to_str().unwrap(), "--reason", "?"];
    let error = refused(&keys(&[&["unseal"], &open[..]].concat()), 3);
    assert!(error.contains("for a new key set"), "{error}");
    assert!(said(&rotate("anna", &["--yes"])).contains("1 of 2 want this key set"));
    assert!(!new.exists() && house.state().epoch == 1);
    // Another file is another wish.
    fs::write(&set, fs::read_to_string(&set).unwrap().replace("threshold = 2", "threshold = 1")).unwrap();
    assert!(said(&rotate("ben", &["--yes"])).contains("1 of 2 want this key set"));
    let text = said(&rotate("anna", &["--yes"]));
    assert!(
        text.contains("1 of 2 custodians open the box from now on") && text.contains("UNTIL 1 OF THEM HAVE ENROLLED"),
        "{text}"
    );
    assert_eq!(house.state().epoch, 2);
    assert_eq!(fs::read(&new).unwrap(), fs::read(house.path(TOKEN)).unwrap());
    assert!(said(&keys(&["show", new.to_str().unwrap()])).contains("dora"));
    // Who has gone is not asked, and what they know of is another token.
    let ben = house.path("ben.key");
    let seal = ["--identity", ben.to_str().unwrap(), "--name", "ben", "--token", token.to_str().unwrap()];
    let error = refused(&house.at_the_box("seal", &seal), 3);
    assert!(error.contains("it has another token than yours"), "{error}");
    fs::remove_file(&new).unwrap();
    let error = refused(&rotate("ben", &["--yes"]), 3);
    assert!(error.contains("asks for the shares of another token"), "{error}");
    let enrol =
        ["--identity", house.path("dora.key").to_str().unwrap(), "--out", new.to_str().unwrap()].map(str::to_owned);
    let enrol: Vec<&str> = enrol.iter().map(String::as_str).collect();
    assert!(said(&house.at_the_box("enrol", &enrol)).contains("the share of dora for opening"));
}

/// The manifest of a release whose system leaves `value` in PCR 11, and the key that it is signed with.
fn release(folder: &Path, name: &str, value: Sum) -> [String; 2] {
    let none = "0".repeat(64);
    let text = format!(
        "format = 1\nproduct = \"postkeep\"\nversion = \"0.1.0\"\nissued = \"2026-11-28T20:38:06Z\"\narchitecture = \"x86-64\"\n\
         root-hash = \"{none}\"\nsecure-boot-certificate = \"{none}\"\n[data-format]\nreads = [1]\nwrites = 1\n\
         [pcr-11]\n\"enter-initrd:leave-initrd\" = \"{value}\"\n\
         [[file]]\nname = \"postkeep.efi\"\nrole = \"uki\"\nsize = 1\nsha256 = \"{none}\"\n"
    );
    let key = SignerKey::generate("release.example").unwrap();
    let file = folder.join(name);
    fs::write(&file, postkeep_notes::sign(&text, &[&key]).unwrap()).unwrap();
    [file.to_str().unwrap().to_owned(), key.verifier().to_string()]
}

/// Oracle: swtpm.
#[test]
fn a_box_with_a_tpm_gets_shares_while_it_runs_a_release_that_is_known_and_no_others() {
    let Some(mut machine) = Machine::new() else { return };
    let system = "11".repeat(32);
    machine.measure(11, &system);
    let house = House::with(Some(&machine));
    let token = house.path("box.token");
    said(&house.at_the_box("token", &["--out", token.to_str().unwrap()]));
    let extended = |measured: &[u8]| Sum::of(&[&[0; 32][..], measured].concat());
    let [known, known_by] = release(house.folder.path(), "release.note", extended(&[0x11; 32]));
    let [other, other_by] = release(house.folder.path(), "other.note", extended(&[0x22; 32]));
    let vouching = ["--release", &known, "--release-key", &known_by];

    let error = refused(&house.unseal("anna"), 3);
    assert!(error.contains("has a TPM that can vouch for what runs there: say with --release"), "{error}");
    let error = refused(&house.unseal_with("anna", &["--release", &known, "--release-key", &other_by]), 2);
    assert!(error.contains("release.note"), "not signed by that key: {error}");
    let error = refused(&house.unseal_with("anna", &["--release", &other, "--release-key", &other_by]), 3);
    assert!(error.contains("none of the releases that are known (Postkeep 0.1.0)"), "{error}");
    let offer = house.state().offer.unwrap().to_string();
    let key = house.path("anna.key");
    let text =
        ["--offer", &offer, "--identity", key.to_str().unwrap(), "--token", token.to_str().unwrap(), "--reason", "?"];
    let error = refused(&keys(&[&["unseal"], &text[..]].concat()), 3);
    assert!(error.contains("carries no word of it") && error.contains("--unattested"), "{error}");
    said(&keys(&[&["unseal", "--unattested"], &text[..]].concat()));
    // Whoever stands in between shows another certificate than the one that the TPM vouches for.
    fs::write(house.path("certificate"), Sum::of(b"another").to_string()).unwrap();
    let error = refused(&house.unseal_with("anna", &vouching), 3);
    assert!(error.contains("somebody stands between you and the box"), "{error}");
    fs::write(house.path("certificate"), house.certificate.to_string()).unwrap();
    assert_eq!(house.state().progress[0].count, 0, "nobody's share was given");

    let outcome = said(&house.unseal_with("anna", &[&vouching[..], &["--json"]].concat()));
    let outcome: serde_json::Value = serde_json::from_str(&outcome).unwrap();
    assert_eq!(outcome["grade"], "A2", "{outcome}");
    // This machine has nobody's keys: its firmware is in setup mode.
    assert_eq!(outcome["posture"]["grade"], "D", "{outcome}");
    let error = refused(&house.unseal_with("anna", &[&vouching[..], &["--own", &known]].concat()), 2);
    assert!(error.contains("release.note is no certificate"), "{error}");
    // With the TPM's word nobody has to compare certificates.
    let address = house.address.to_string();
    let ben = house.path("ben.key");
    let files = ["--identity", ben.to_str().unwrap(), "--token", token.to_str().unwrap(), "--reason", "work"];
    let text = said(&keys(&[&["unseal", "--box", &address], &files[..], &vouching].concat()));
    assert!(text.contains("Its TPM vouches for it: Postkeep 0.1.0") && text.contains("the box opens"), "{text}");
    house.until(Seal::Open);

    // Where the TPM has not taken the mark of that, it is asked nothing.
    let unmarked = House::with(Some(&machine));
    fs::copy(unmarked.path(TOKEN), unmarked.path("box.token")).unwrap();
    fs::write(unmarked.path("unmarked"), "").unwrap();
    let error = refused(&unmarked.unseal_with("anna", &vouching), 3);
    assert!(error.contains("does not vouch for it: it gives no answer"), "{error}");
    // A machine that was open and only seems to start: its TPM knows.
    let again = House::with(Some(&machine));
    fs::copy(again.path(TOKEN), again.path("box.token")).unwrap();
    let error = refused(&again.unseal_with("anna", &vouching), 3);
    assert!(error.contains("its volume has been open since the machine was started"), "{error}");
    // Another command line.
    machine.start_again();
    machine.measure(11, &"33".repeat(32));
    let changed = House::with(Some(&machine));
    fs::copy(changed.path(TOKEN), changed.path("box.token")).unwrap();
    let error = refused(&changed.unseal_with("anna", &vouching), 3);
    assert!(error.contains("another boot file, or another command line in it"), "{error}");
}

#[test]
fn a_box_that_shows_another_certificate_is_told_nothing() {
    let house = House::new();
    let other = Sum::of(b"another").to_string();
    let address = house.address.to_string();
    let error = refused(&keys(&["state", "--box", &address, "--certificate", &other]), 3);
    assert!(error.contains("another certificate") && error.contains("compare with its console"), "{error}");
    let text = said(&keys(&["state", "--box", &address]));
    assert!(text.contains(&house.certificate.to_string()), "{text}");
    let error = refused(&keys(&["state", "--box", "127.0.0.1:1"]), 2);
    assert!(error.contains("cannot reach the box"), "{error}");
}

#[test]
fn what_counts_and_what_does_not_takes_the_same_time() {
    let house = House::new();
    let token = house.path("box.token");
    said(&house.at_the_box("token", &["--out", token.to_str().unwrap()]));
    let key = house.path("anna.key");
    let offer = house.state().offer.unwrap().to_string();
    let files = ["--identity", key.to_str().unwrap(), "--token", token.to_str().unwrap(), "--reason", "work"];
    let right = said(&keys(&[&["unseal", "--offer", &offer], &files[..]].concat()));
    let mut wrong = right.clone();
    wrong.replace_range(200..201, if &right[200..201] == "A" { "B" } else { "A" });
    let requests = [
        Request::Answer { answer: wrong },
        Request::Answer { answer: String::new() },
        Request::Ask { asked: postkeep_keys::challenge::Asked::Seal, name: "anna".parse().unwrap() },
        Request::Ask { asked: postkeep_keys::challenge::Asked::Seal, name: "nobody".parse().unwrap() },
        Request::Answer { answer: right },
    ];
    let mut replies = Vec::new();
    for request in requests {
        let began = Instant::now();
        let reply = call(house.address, "POST /v1/seal", &serde_json::to_vec(&request).unwrap());
        replies.push((reply, began.elapsed()));
    }
    let (counted, refusals) = replies.split_last().unwrap();
    assert!(counted.0.contains("\"counted\""), "{counted:?}");
    for (reply, took) in refusals {
        // Octet for octet the same, but for the date.
        let without_date =
            |reply: &str| reply.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n");
        assert_eq!(without_date(reply), without_date(&refusals[0].0));
        assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
        // Not before the end of the first slot of half a second, and at the end of the same.
        assert!(*took >= Duration::from_millis(500) && counted.1 >= Duration::from_millis(500), "{took:?}");
        assert_eq!(took.as_millis() / 500, counted.1.as_millis() / 500, "{took:?} against {:?}", counted.1);
    }
}

#[test]
fn greedy_and_silent_clients_are_bounded() {
    let house = House::new();
    let large = call(house.address, "POST /v1/seal", &vec![b' '; postkeep_sealed::door::LARGEST_REQUEST + 1]);
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    assert!(call(house.address, "POST /v1/seal", b"{}").starts_with("HTTP/1.1 400"));
    assert!(call(house.address, "GET /", b"").starts_with("HTTP/1.1 404"));
    assert!(call(house.address, "PUT /v1/seal", b"").starts_with("HTTP/1.1 405"));
    // Four connections an address: the silent ones have them until their handshakes' time is over.
    let mut all: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(house.address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let mut second = TcpStream::connect(house.address).unwrap();
    second.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(second.read(&mut [0; 1]).unwrap_or(0), 0, "closed on at once");
    let began = Instant::now();
    let mut silent = all.remove(0);
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(call(house.address, "GET /v1/seal", b"").starts_with("HTTP/1.1 200"));
}

/// A request by hand, and what came back.
fn call(address: SocketAddr, begin: &str, body: &[u8]) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = postkeep_trust::KeyAlone::any(&provider);
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let connection = rustls::ClientConnection::new(Arc::new(config), address.ip().into()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let head = format!("{begin} HTTP/1.1\r\nhost: box\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has refused by now reads no more.
    let _ = stream.write_all(body);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}
