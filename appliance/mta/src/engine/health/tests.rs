//! An engine that examines itself, without doors: what it finds, and what it is not talked out of.

use arc_swap::ArcSwap;
use postkeep_configuration::Options;
use postkeep_suppression::Suppression;
use tempfile::TempDir;

use super::*;
use crate::engine::QueueAction;
use crate::selector::Selector;

/// For a message that will not come.
const SHORT: Duration = Duration::from_millis(300);
/// Keys for tests, of the room that signs.
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deliverability/src/dkim/test-keys");
const NOW: u64 = 1_795_000_000;

fn configured(folder: &Path, more: &str) -> Configuration {
    let folder = folder.display();
    let text = format!(
        "hostname = \"mail.example\"\n\
         [spool]\ndirectory = \"{folder}/spool\"\nsegment-size = \"1MiB\"\nminimum-free = \"2MiB\"\n\
         [suppression]\ndirectory = \"{folder}/suppression\"\n\
         [mta-sts]\ndirectory = \"{folder}/mta-sts\"\n\
         [records]\ndirectory = \"{folder}/records\"\n\
         [resolver]\nservers = [\"127.0.0.1:9\"]\n\
         [[listener]]\naddress = \"127.0.0.1:2525\"\ntls = \"none\"\n\
         [source.a]\nipv4 = \"127.0.0.1\"\n[source.b]\nipv4 = \"127.0.0.2\"\n\
         [pool.default]\nsources = {{ a = 1, b = 1 }}\n{more}"
    );
    let loaded = postkeep_configuration::parse("test", &text, &Options::without_files());
    loaded.unwrap_or_else(|errors| panic!("{errors}")).configuration
}

/// A key for example.com under the selector `s1`.
fn with_key(file: &str) -> String {
    format!("[[dkim]]\ndomain = \"example.com\"\nselector = \"s1\"\nkey = \"{KEYS}/{file}\"\n")
}

struct House {
    engine: Engine,
    folder: TempDir,
}

impl House {
    fn open(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = configured(folder.path(), more);
        let suppression = Suppression::open(&configuration.suppression).unwrap();
        let engine = Engine::start(Arc::new(ArcSwap::from_pointee(configuration)), suppression).unwrap();
        Self { engine, folder }
    }

    /// The same with a sink that can be connected to and takes nothing, as long as what is given back is kept.
    async fn with_a_deaf_sink(more: &str) -> (Self, TcpListener) {
        let house = Self::open(more);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addresses = vec![listener.local_addr().unwrap().to_string()];
        let sink = Sink { addresses, arrived: Mutex::default(), news: Notify::new() };
        assert!(house.engine.0.health.sink.set(Arc::new(sink)).is_ok());
        (house, listener)
    }

    async fn act(&self, selector: &Selector, action: QueueAction) {
        self.engine.act(selector.clone(), action, "a test").await.unwrap();
    }

    async fn message_arrives(&self, signing: &KeySelection, patience: Duration) -> Result<String, String> {
        self.engine.0.message_arrives(signing, patience).await
    }
}

fn stream(name: &str) -> Selector {
    Selector { stream: Some(name.to_owned()), ..Selector::default() }
}

fn domain(name: &str) -> Selector {
    Selector { domain: Some(name.to_owned()), ..Selector::default() }
}

fn site(name: &str) -> Selector {
    Selector { site: Some(name.to_owned()), ..Selector::default() }
}

fn source(name: &str) -> Selector {
    Selector { source: Some(name.to_owned()), ..Selector::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_well_finds_everything_well_and_leaves_nothing_in_its_spool() {
    let house = House::open(&with_key("rsa-2048.pem"));
    for _ in 0..2 {
        let checks = house.engine.examine().await;
        let names: Vec<&str> = checks.iter().map(|check| &*check.name).collect();
        assert_eq!(names, ["queue", "keys", "suppression", "message"]);
        assert!(checks.iter().all(|check| check.well), "{checks:?}");
        assert!(checks[3].detail.contains(", signed,"), "{checks:?}");
    }
    house.engine.0.spool_gives_back().await.unwrap();
    // The sink has answered before the delivery is on the disk.
    for _ in 0..200 {
        if house.engine.0.spool.statistics().messages == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{:?}", house.engine.0.spool.statistics());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppression_list_that_cannot_be_written_makes_it_unwell_and_is_named() {
    let house = House::open("");
    house.engine.0.suppression.close();
    let checks = house.engine.examine().await;
    let unwell: Vec<&str> = checks.iter().filter(|check| !check.well).map(|check| &*check.name).collect();
    assert_eq!(unwell, ["suppression"], "{checks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_other_mail_does_not_excuse_a_message_that_no_sink_took() {
    let (house, _deaf) = House::with_a_deaf_sink("[stream.news]\n").await;
    let unrelated = [
        domain("example.org"),
        stream("news"),
        site("mx.example.org"),
        // The other source of the pool could carry it.
        source("a"),
        // Its domain, and another stream than its own.
        Selector { domain: Some(DOMAIN.to_owned()), ..stream("news") },
    ];
    for pause in &unrelated {
        house.act(pause, QueueAction::Pause).await;
        let error = house.message_arrives(&KeySelection::default(), SHORT).await.unwrap_err();
        assert!(error.contains("did not reach a sink"), "{pause}: {error}");
        house.act(pause, QueueAction::Resume).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_holds_the_message_excuses_it_and_is_named() {
    let (house, deaf) = House::with_a_deaf_sink("").await;
    // Nobody knows the site before something was on its way there.
    house.message_arrives(&KeySelection::default(), SHORT).await.unwrap_err();
    let holding = [
        Selector::default(),
        stream("default"),
        domain(DOMAIN),
        site(&deaf.local_addr().unwrap().to_string()),
        source("a"),
    ];
    // With the other one, the last of them leaves no source.
    for (pause, further) in holding.iter().zip([None, None, None, None, Some(source("b"))]) {
        let pauses = [Some(pause.clone()), further];
        for pause in pauses.iter().flatten() {
            house.act(pause, QueueAction::Pause).await;
        }
        let detail = house.message_arrives(&KeySelection::default(), SHORT).await.unwrap();
        for pause in pauses.iter().flatten() {
            assert!(detail.contains(&pause.to_string()), "{pause}: {detail}");
            house.act(pause, QueueAction::Resume).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_other_machines_does_not_stop_the_message_to_this_one() {
    let house = House::open("[delivery]\ntls = \"verified\"\n");
    // Nobody listens there.
    house.act(&Selector::default(), QueueAction::Reroute { hosts: vec!["127.0.0.1:9".to_owned()] }).await;
    house.message_arrives(&KeySelection::default(), PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_counts_only_with_the_signature_of_the_key_that_must_have_made_it() {
    let house = House::open(&with_key("rsa-2048.pem"));
    let own = house.engine.0.signer.load().keys_for("example.com", STREAM);
    let found = house.message_arrives(&own, PATIENCE).await.unwrap();
    assert!(found.contains(", signed,"), "{found}");
    // The same name, and another key.
    let other = Signer::new(&configured(house.folder.path(), &with_key("rsa-3072.pem"))).unwrap();
    let error = house.message_arrives(&other.keys_for("example.com", STREAM), PATIENCE).await.unwrap_err();
    assert!(error.contains("the signature of example.com/s1 does not verify"), "{error}");
    let unsigned = House::open("");
    let error = unsigned.message_arrives(&own, PATIENCE).await.unwrap_err();
    assert!(error.contains("example.com/s1 does not verify: it is not there"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_takes_nothing_makes_the_queue_unwell() {
    let house = House::open("");
    house.engine.0.queue_works().await.unwrap();
    house.engine.0.spool.close();
    let error = house.engine.0.queue_works().await.unwrap_err();
    assert!(error.contains("the spool does not take a message"), "{error}");
}

#[test]
fn too_little_room_is_said_with_both_figures() {
    let minimum = ByteSize::mebibytes(256);
    assert_eq!(has_room(minimum.bytes(), minimum), Ok(()));
    let error = has_room(minimum.bytes() - 1, minimum).unwrap_err();
    assert!(error.contains("255 MiB left") && error.contains("minimum-free = 256MiB"), "{error}");
}

#[test]
fn every_key_that_the_configuration_names_is_used_and_one_that_is_not_open_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = configured(folder.path(), &with_key("rsa-2048.pem"));
    let signer = Signer::new(&configuration).unwrap();
    assert_eq!(
        keys_work(&configuration, &signer, NOW),
        Ok("1 keys for signing and 0 for TLS do their work".to_owned())
    );
    let error = keys_work(&configuration, &Signer::default(), NOW).unwrap_err();
    assert!(error.contains("example.com/s1 is not open"), "{error}");
}

#[test]
fn doors_with_tls_are_asked_for_their_keys_each_pair_once_and_one_that_has_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let listener = |port: u16, files: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\ntls = \"implicit\"\n\
             certificate = \"/nowhere/{files}.pem\"\nkey = \"/nowhere/{files}.key\"\n"
        )
    };
    let doors = [listener(465, "one"), listener(2465, "one"), listener(3465, "two")].concat();
    let configuration = configured(folder.path(), &doors);
    let ports: Vec<u16> = identities(&configuration).iter().map(|(address, _)| address.port()).collect();
    assert_eq!(ports, [465, 3465]);
    let error = keys_work(&configuration, &Signer::default(), NOW).unwrap_err();
    assert!(error.contains("127.0.0.1:465") && error.contains("127.0.0.1:3465"), "{error}");
}
