//! What earlier versions have written is read by this one: for each format of data that a release says it reads, there is
//! a data folder that a version of that format has left behind, and everything in it counts.
//!
//! `tests/data/format-N.tar.gz` was written by the first version of format N, and is never written anew: a change that
//! this test does not survive needs a new number (`DataFormat::ours`). And what this version writes is of the forms that its number stands for,
//! so that whoever changes one is told that the version before would not read it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use postkeep_mta::metadata::Metadata;
use postkeep_release::DataFormat;
use postkeep_spool::{Disk, Spool};
use postkeep_tests::daemon::run;
use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, message};

const LIMIT: Duration = Duration::from_secs(30);
/// Folders of data: spool, suppression list, records, policies.
const FOLDERS: [&str; 4] = ["spool", "suppression", "records", "mta-sts"];
const SENDER: &str = "a@sender.test";
const BODY: &str = "Kept since the beginning.\r\n.a line with a dot\r\n";
/// `tests/data/format-1.tar.gz`: queue ids of the message to two and of the message in the paused stream.
const IDS: [(u32, &str, &str); 1] = [(1, "0000000000000001", "0000000000000002")];

/// The forms that each number stands for: in which version segments of the spool are, in which one what is kept of a message, and how a segment
/// of the suppression list's journal begins. A version that writes another one is not read by those before it: it needs a new number, and a line here.
const FORMS: [(u32, u32, u8, &[u8]); 1] = [(1, 1, 3, b"PKSUPPR1")];

fn left_behind(format: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("data/format-{format}.tar.gz"))
}

fn settings(ground: &Ground) -> Settings {
    Settings::new(ground)
        .with("[stream.default]\nexpire-after = \"30d\"\n[stream.news]\nretry = [\"1s\"]\nexpire-after = \"30d\"\n")
}

/// A receiver who puts `later@` off until `open`, and names for it and for the sender.
fn internet(ground: &Ground, open: bool) -> (Names, Sink, Sink) {
    let names = Names::new(ground);
    names.domain("there.test", ground.ip(101));
    names.domain("sender.test", ground.ip(102));
    let there = Sink::at(ground, 101).with_script(move |moment| match (moment.stage, moment.recipient) {
        (Stage::Rcpt, "later@there.test") if !open => Act::reply("452 4.2.2 mailbox full"),
        (Stage::Rcpt, "gone@there.test") => Act::reply("550 5.1.1 <gone@there.test>: no such user here"),
        _ => Act::Accept,
    });
    (names, there, Sink::at(ground, 102))
}

/// What waits in the spool, whatever the clock says: ids, which recipients, and how often each was tried. Their bodies are right.
fn waiting(ground: &Ground) -> Vec<(String, Vec<(u16, bool)>)> {
    let settings = postkeep_spool::Settings { minimum_free: 0, ..postkeep_spool::Settings::new(ground.path("spool")) };
    let mut found = Vec::new();
    let (spool, _) = Spool::open(settings, Disk, |message| {
        let outstanding = message.outstanding.iter().map(|(recipient, state)| (*recipient, state.attempts > 0));
        found.push((message.id, outstanding.collect::<Vec<_>>()));
    })
    .expect("the spool opens");
    found.sort();
    let told = found.into_iter().map(|(id, outstanding)| {
        let stored = spool.read(id).expect("a message");
        assert!(message::ends_with(&stored.content, BODY.as_bytes()), "{}", String::from_utf8_lossy(&stored.content));
        // Written again it is the same, to the octet: the version before would read it.
        assert_eq!(Metadata::decode(&stored.metadata).expect("metadata").encode(), stored.metadata);
        (id.to_string(), outstanding)
    });
    let told = told.collect();
    spool.close();
    told
}

#[test]
fn what_versions_before_have_left_behind_is_read() {
    let formats = DataFormat::ours();
    assert_eq!(formats.reads.iter().copied().collect::<Vec<_>>(), IDS.map(|(format, ..)| format));
    for (format, later, held) in IDS {
        let ground = Ground::claim();
        let unpacked = run(Command::new("tar").arg("xzf").arg(left_behind(format)).arg("-C").arg(ground.folder()));
        assert_eq!(unpacked.status, 0, "{unpacked:?}");
        let expected = [(later.to_owned(), vec![(1, true)]), (held.to_owned(), vec![(0, false)])];
        assert_eq!(waiting(&ground), expected);
        let (_names, there, _home) = internet(&ground, true);
        let daemon = Daemon::start(&ground, &settings(&ground));

        // Whom not to write to: by hand, and learnt.
        assert_eq!(daemon.suppressions("hand@there.test"), ["manual all"]);
        assert_eq!(daemon.suppressions("gone@there.test"), ["hard-bounce all"]);
        // What was on its way ends, delivered or, when its time has passed, expired; the other recipient had it already.
        let ends = |recipient: &'static str| {
            daemon.wait_record_of(&["delivered", "expired"], LIMIT, move |record| record["recipient"] == recipient)
        };
        let end = ends("later@there.test");
        assert_eq!(end["message"], later, "{end}");
        // A pause of then holds.
        let status = daemon.postkeep(&["queue", "show", "--json"]).done().json();
        assert_eq!(status["pauses"].as_array().map(Vec::len), Some(1), "{status}");
        daemon.postkeep(&["queue", "resume", "--stream", "news"]).done();
        assert_eq!(ends("held@there.test")["message"], held);
        for transaction in there.messages() {
            assert!(
                message::ends_with(&transaction.content, BODY.as_bytes()),
                "{}",
                String::from_utf8_lossy(&transaction.content)
            );
            assert!(!transaction.addresses().contains(&"soon@there.test"), "a second time");
        }
    }
}

/// Writes the data of the format that this version writes, and says what to put into [`IDS`]: once for each new format.
#[test]
#[ignore = "writes tests/data/format-N.tar.gz, once for each new format of data"]
fn write_the_data_of_this_format() {
    let file = left_behind(DataFormat::ours().writes);
    assert!(!file.exists(), "{} is there, and is never written anew", file.display());
    let ground = Ground::claim();
    let (later, held) = leave_behind(&ground);
    let packed = run(Command::new("tar")
        .args(["--owner=0", "--group=0", "-czf"])
        .arg(&file)
        .arg("-C")
        .arg(ground.folder())
        .args(FOLDERS));
    assert_eq!(packed.status, 0, "{packed:?}");
    panic!("{} is written; its line in IDS is ({}, {later:?}, {held:?})", file.display(), DataFormat::ours().writes);
}

#[test]
fn what_this_version_writes_has_the_forms_that_its_number_stands_for() {
    let ours = DataFormat::ours().writes;
    let (_, spool, metadata, journal) =
        FORMS.into_iter().find(|(format, ..)| *format == ours).expect("a line in FORMS");
    let ground = Ground::claim();
    leave_behind(&ground);
    assert_eq!(waiting(&ground).len(), 2, "what is kept of messages can be read, and is written as it was");
    let begins = |folder: &str, suffix: &str| {
        let files = fs::read_dir(ground.path(folder)).expect("the folder").map(|file| file.expect("a file").path());
        let files: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
        assert!(!files.is_empty(), "{folder} has no {suffix}");
        files.into_iter().map(|path| fs::read(path).expect("its octets"))
    };
    for segment in begins("spool", ".segment") {
        assert_eq!(&segment[..16], b"Postkeep segment");
        assert_eq!(segment[16..20], spool.to_le_bytes(), "the version of segments");
    }
    for segment in begins("suppression", ".pks") {
        assert!(segment.starts_with(journal), "the journal of the suppression list");
    }
    let settings = postkeep_spool::Settings { minimum_free: 0, ..postkeep_spool::Settings::new(ground.path("spool")) };
    let mut ids = Vec::new();
    let (spool, _) = Spool::open(settings, Disk, |message| ids.push(message.id)).expect("the spool opens");
    for id in ids {
        assert_eq!(
            spool.read(id).expect("a message").metadata[0],
            metadata,
            "the version of what is kept of a message"
        );
    }
    spool.close();
}

/// Has this version leave data behind; the queue ids of the message to two and of the one in a paused stream.
fn leave_behind(ground: &Ground) -> (String, String) {
    let (_names, there, home) = internet(ground, false);
    let mut daemon = Daemon::start(ground, &settings(ground));
    daemon.postkeep(&["queue", "pause", "--stream", "news"]).done();
    daemon.postkeep(&["suppression", "add", "hand@there.test", "--reason", "manual"]).done();
    let later = daemon.submit(
        SENDER,
        &["soon@there.test", "later@there.test", "gone@there.test"],
        &message::simple(SENDER, "later@there.test", "two", BODY),
    );
    let news = format!(
        "X-Postkeep-Stream: news\r\n{}",
        String::from_utf8_lossy(&message::simple(SENDER, "held@there.test", "held", BODY))
    );
    let held = daemon.submit(SENDER, &["held@there.test"], news.as_bytes());
    there.wait(1, LIMIT);
    home.wait(1, LIMIT);
    daemon.wait_record("deferred", LIMIT, |record| record["recipient"] == "later@there.test");
    assert!(daemon.terminate().success());
    (later, held)
}
