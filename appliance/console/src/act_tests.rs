//! The privileged part against a systemd and a networkd that write down what they are asked.

use std::fs;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Mutex as StdMutex;

use postkeep_notes::SignerKey;
use zbus::OwnedObjectPath;

use super::*;
use crate::challenge::Challenge;

type Asked = Arc<StdMutex<Vec<String>>>;

struct FakeManager(Asked);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl FakeManager {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::fdo::Result<OwnedObjectPath> {
        if name == SEAL {
            return Err(zbus::fdo::Error::Failed("no such unit".into()));
        }
        self.0.lock().unwrap().push(format!("start {name} {mode}"));
        Ok(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap())
    }
}

struct FakeNetworks(Asked);

#[zbus::interface(name = "org.freedesktop.network1.Manager")]
impl FakeNetworks {
    fn describe(&self) -> String {
        r#"{"Interfaces":[{"Name":"eno1","HardwareAddress":[82,84,0,18,52,86]}]}"#.to_owned()
    }

    fn reload(&self) {
        self.0.lock().unwrap().push("reload".to_owned());
    }
}

struct Place {
    folder: tempfile::TempDir,
    asked: Asked,
    act: Arc<Act>,
    _server: zbus::Connection,
}

fn owner() -> SignerKey {
    SignerKey::from_seed(&[7; 32], "example.com/owner").unwrap()
}

fn seed(key: &SignerKey) -> String {
    let draft = "[[network.interface]]\nmac = \"52:54:00:12:34:56\"\naddresses = [\"203.0.113.5/24\"]\n";
    Seed::draft(draft, key.verifier(), Timestamp::UNIX_EPOCH).unwrap().sign(key).unwrap()
}

fn places(folder: &Path) -> Places {
    let at = |name: &str| folder.join(name);
    Places {
        taken_seed: at("taken"),
        boot_seed: at("seed"),
        run: at("run"),
        state: at("state"),
        sys: at("sys"),
        proc: at("proc"),
        machine_id: at("machine-id"),
    }
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("proc/sys/kernel/random")).unwrap();
    let boot = folder.path().join("proc/sys/kernel/random/boot_id");
    fs::write(boot, "6f0f3f2e-8a5c-4c3b-9d7e-0123456789ab\n").unwrap();
    fs::write(folder.path().join("machine-id"), "0123456789abcdef\n").unwrap();
    fs::write(folder.path().join("seed"), seed(&owner())).unwrap();
    fs::create_dir_all(folder.path().join("run/systemd/network")).unwrap();
    fs::create_dir_all(folder.path().join("state")).unwrap();
    fs::write(folder.path().join("run/systemd/network/10-postkeep-1.network"), "old").unwrap();

    let asked = Asked::default();
    let (here, there) = StdStream::pair().unwrap();
    let server = zbus::connection::Builder::unix_stream(there)
        .server(zbus::Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/systemd1", FakeManager(Arc::clone(&asked)))
        .serve_at("/org/freedesktop/network1", FakeNetworks(Arc::clone(&asked)))
        .build();
    let client = zbus::connection::Builder::unix_stream(here).p2p().build();
    let (server, client) = tokio::try_join!(server, client).unwrap();
    let act = Act::new(places(folder.path()), Some(Bus::over(client)), VALID).unwrap();
    Place { folder, asked, act: Arc::new(act), _server: server }
}

impl Place {
    async fn challenge(&self, deed: Deed) -> Challenge {
        match self.act.do_what_is_asked(Request::Ask(deed)).await {
            Reply::Challenge { code, .. } => Challenge::from_code(&code).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, challenge: &Challenge, key: &SignerKey) -> Reply {
        let answer = challenge.answer(key).unwrap();
        self.act.do_what_is_asked(Request::Answer { challenge: challenge.to_code(), answer }).await
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn file(&self) -> String {
        fs::read_to_string(self.folder.path().join("run/systemd/network/10-postkeep-1.network")).unwrap()
    }
}

fn change(address: &str) -> Deed {
    Deed::Network(NetworkChange {
        interface: "eno1".into(),
        dhcp: false,
        addresses: vec![address.parse().unwrap()],
        gateways: Vec::new(),
        dns: Vec::new(),
    })
}

fn is_done(reply: &Reply, word: &str) -> bool {
    matches!(reply, Reply::Done(said) if said.contains(word))
}

fn is_refused(reply: &Reply, word: &str) -> bool {
    matches!(reply, Reply::Refused(why) if why.contains(word))
}

#[tokio::test]
async fn systemd_is_asked_for_what_the_owner_signed_and_for_nothing_else() {
    let place = place().await;
    let challenge = place.challenge(Deed::Reboot).await;
    let stranger = SignerKey::from_seed(&[8; 32], "example.com/owner").unwrap();
    let reply = place.answer(&challenge, &stranger).await;
    assert!(is_refused(&reply, "not the signature of example.com/owner"), "{reply:?}");
    assert!(place.asked().is_empty());
    assert!(is_done(&place.answer(&challenge, &owner()).await, "starts again"));
    assert_eq!(place.asked(), ["start reboot.target replace-irreversibly"]);
    assert!(is_refused(&place.answer(&challenge, &owner()).await, "answered already"));
    let off = place.challenge(Deed::PowerOff).await;
    assert!(is_done(&place.answer(&off, &owner()).await, "switched off"));
    assert_eq!(place.asked().len(), 2);
    let seal = place.challenge(Deed::Seal).await;
    assert!(is_refused(
        &place.answer(&seal, &owner()).await,
        "allowed, and not done: systemd does not start postkeep-seal"
    ));
}

#[tokio::test]
async fn only_a_box_that_custodians_open_is_sealed_without_the_owner() {
    let place = place().await;
    let reply = place.act.do_what_is_asked(Request::SealNow).await;
    assert!(is_refused(&reply, "no custodians open this box") && place.asked().is_empty(), "{reply:?}");
    fs::write(place.folder.path().join("run/postkeep-opener.socket"), "").unwrap();
    let reply = place.act.do_what_is_asked(Request::SealNow).await;
    // The fake systemd has no such unit; it was asked for.
    assert!(is_refused(&reply, "systemd does not start postkeep-seal"), "{reply:?}");
}

#[tokio::test]
async fn the_seed_on_the_open_volume_says_whose_the_box_is() {
    let place = place().await;
    let challenge = place.challenge(Deed::Reboot).await;
    let other = SignerKey::from_seed(&[9; 32], "other").unwrap();
    fs::write(place.folder.path().join("taken"), seed(&other)).unwrap();
    assert!(is_refused(&place.answer(&challenge, &owner()).await, "not the signature of other"));
    assert!(is_done(&place.answer(&challenge, &other).await, "starts again"));
    // A seed that cannot be read is no reason to believe the one that anybody can put onto the boot partition.
    fs::write(place.folder.path().join("taken"), "damaged").unwrap();
    let reply = place.act.do_what_is_asked(Request::Who).await;
    assert!(
        matches!(&reply, Reply::Who(Who { owner: None, why: Some(why), .. }) if why.contains("nobody is known")),
        "{reply:?}"
    );
    assert!(is_refused(&place.act.do_what_is_asked(Request::Ask(Deed::Reboot)).await, "nobody is known"));
}

#[tokio::test]
async fn a_network_that_nobody_keeps_goes_back() {
    let place = place().await;
    let challenge = place.challenge(change("192.0.2.7/24")).await;
    assert!(is_done(&place.answer(&challenge, &owner()).await, "being tried"));
    assert!(place.file().contains("MACAddress=52:54:00:12:34:56") && place.file().contains("Address=192.0.2.7/24"));
    assert_eq!(place.asked(), ["reload"]);
    let reply = place.act.do_what_is_asked(Request::Who).await;
    assert!(matches!(&reply, Reply::Who(Who { trial: Some(58..=60), .. })), "{reply:?}");
    place.act.end_trial(1).await;
    assert_eq!((place.file().as_str(), place.asked().len()), ("old", 2));
    assert!(is_refused(&place.act.do_what_is_asked(Request::Keep).await, "gone back already"));
}

#[tokio::test]
async fn a_network_that_is_kept_stays_and_the_next_change_starts_from_it() {
    let place = place().await;
    let challenge = place.challenge(change("192.0.2.7/24")).await;
    place.answer(&challenge, &owner()).await;
    let second = place.challenge(change("192.0.2.8/24")).await;
    assert!(is_refused(&place.answer(&second, &owner()).await, "another network is being tried"));
    assert!(is_done(&place.act.do_what_is_asked(Request::Keep).await, "kept until the next start"));
    place.act.end_trial(1).await;
    assert!(place.file().contains("Address=192.0.2.7/24"));
    let other = Deed::Network(NetworkChange {
        interface: "eno2".into(),
        dhcp: true,
        addresses: Vec::new(),
        gateways: Vec::new(),
        dns: Vec::new(),
    });
    let challenge = place.challenge(other).await;
    assert!(is_done(&place.answer(&challenge, &owner()).await, "eno2"));
    assert!(place.file().contains("Address=192.0.2.7/24"), "{}", place.file());
}

#[tokio::test]
async fn a_trial_that_the_program_did_not_outlive_ends_at_its_next_start() {
    let place = place().await;
    let challenge = place.challenge(change("192.0.2.7/24")).await;
    place.answer(&challenge, &owner()).await;
    let again = Act::new(places(place.folder.path()), place.act.bus.clone(), VALID).unwrap();
    again.recover().await;
    assert_eq!(place.file(), "old");
}

#[tokio::test]
async fn a_network_that_cannot_work_is_refused_before_anybody_signs_it() {
    let place = place().await;
    let reply = place.act.do_what_is_asked(Request::Ask(change("192.0.2.0/24"))).await;
    assert!(is_refused(&reply, "is not the address of a host"), "{reply:?}");
}

#[tokio::test]
async fn over_the_socket_nonsense_is_refused_and_a_question_is_answered() {
    let place = place().await;
    let socket = place.folder.path().join("act.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let served = tokio::spawn(serve(listener, places(place.folder.path()), VALID));
    let reply = crate::wire::ask(&socket, &Request::Who).await.unwrap();
    assert!(matches!(&reply, Reply::Who(who) if who.owner.as_deref() == Some("example.com/owner")), "{reply:?}");
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(b"{\"reboot\":true}\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("refused"), "{text}");
    served.abort();
}
