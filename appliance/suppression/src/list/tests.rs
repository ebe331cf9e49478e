//! The list as a whole: what it promises, over restarts, lost indexes, cut journals and disks that fail.
//! The oracle is a map in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use postkeep_configuration::units::ByteSize;
use proptest::prelude::*;

use super::*;
use crate::addresses::{addresses, restore_secret};
use crate::seal::Identity;

struct Ground {
    folder: tempfile::TempDir,
    settings: configuration::Suppression,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = configuration::Suppression {
            directory: folder.path().join("suppression"),
            cache: ByteSize::mebibytes(1),
            ..configuration::Suppression::default()
        };
        Self { folder, settings }
    }

    fn open(&self) -> Suppression {
        Suppression::open(&self.settings).unwrap()
    }

    fn list(&self) -> &Path {
        &self.settings.directory
    }

    fn last_segment(&self) -> PathBuf {
        journal::segments(self.list()).unwrap().pop().unwrap().1
    }
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn add(text: &str, scope: &str, reason: Reason) -> Step {
    Step::Add(Addition {
        who: address(text).into(),
        scope: scope.parse().unwrap(),
        reason,
        origin: Origin::Command,
        time: 1_700_000_000,
        note: "test".into(),
    })
}

fn remove(text: &str, scope: Option<&str>, reason: Option<Reason>) -> Step {
    Step::Remove(Removal {
        address: address(text),
        scope: scope.map(|scope| scope.parse().unwrap()),
        reason,
        origin: Origin::Command,
        time: 1_700_000_100,
        note: "test".into(),
    })
}

fn is_suppressed(list: &Suppression, text: &str, stream: &str, mailing_list: Option<&str>) -> Option<Reason> {
    list.check(&address(text), stream, mailing_list).unwrap().map(|entry| entry.reason)
}

#[tokio::test]
async fn an_entry_holds_for_its_scope_and_a_block_for_none() {
    let ground = Ground::new();
    let mut list = ground.open();
    let outcome = list
        .change(vec![
            add("Ann@example.org", "all", Reason::HardBounce),
            add("bob@example.org", "stream:news", Reason::Complaint),
            add("cid@example.org", "list:weekly.example.org", Reason::Unsubscribe),
            add("dan@example.org", "all", Reason::Block),
            add("ann@EXAMPLE.org", "all", Reason::HardBounce),
        ])
        .await
        .unwrap();
    assert_eq!((outcome.added, outcome.known), (4, 1));
    for _ in 0..2 {
        assert_eq!(is_suppressed(&list, "ann@example.org", "any", None), Some(Reason::HardBounce));
        assert_eq!(is_suppressed(&list, "bob@example.org", "news", None), Some(Reason::Complaint));
        assert_eq!(is_suppressed(&list, "bob@example.org", "invoices", None), None);
        assert_eq!(is_suppressed(&list, "cid@example.org", "x", Some("Weekly.example.org")), Some(Reason::Unsubscribe));
        assert_eq!(is_suppressed(&list, "cid@example.org", "x", Some("daily.example.org")), None);
        assert_eq!(is_suppressed(&list, "cid@example.org", "x", None), None);
        assert_eq!(is_suppressed(&list, "dan@example.org", "x", None), None);
        assert_eq!(list.find(&address("dan@example.org")).unwrap()[0].reason, Reason::Block);
        assert_eq!(is_suppressed(&list, "eve@example.org", "x", None), None);
        list.close();
        drop(list);
        list = ground.open();
    }
}

#[tokio::test]
async fn taking_out_one_reason_leaves_the_others() {
    let ground = Ground::new();
    let list = ground.open();
    let steps = [Reason::HardBounce, Reason::Unsubscribe].map(|reason| add("ann@example.org", "all", reason));
    list.change(steps.to_vec()).await.unwrap();
    let outcome = list.change(vec![remove("ann@example.org", None, Some(Reason::HardBounce))]).await.unwrap();
    assert_eq!(outcome.removed, 1);
    assert_eq!(is_suppressed(&list, "ann@example.org", "x", None), Some(Reason::Unsubscribe));
    let other = list.change(vec![remove("ann@example.org", Some("stream:x"), None)]).await.unwrap();
    assert_eq!(other.removed, 0);
    list.change(vec![remove("ann@example.org", Some("all"), None)]).await.unwrap();
    assert_eq!(is_suppressed(&list, "ann@example.org", "x", None), None);
    assert_eq!(list.statistics().entries.iter().map(|(_, count)| count).sum::<u64>(), 0);
}

#[tokio::test]
async fn no_address_lies_readable_on_the_disk_and_only_the_identity_lists_them() {
    let ground = Ground::new();
    let list = ground.open();
    list.change(vec![
        add("canary-4711@example.org", "all", Reason::Complaint),
        add("gone@example.org", "stream:news", Reason::HardBounce),
        remove("gone@example.org", None, None),
        add("back@example.org", "all", Reason::Manual),
        remove("back@example.org", None, None),
        add("back@example.org", "stream:news", Reason::Manual),
    ])
    .await
    .unwrap();
    list.close();
    drop(list);
    let mut seen = 0;
    let mut folders = vec![ground.list().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let octets = fs::read(&path).unwrap();
            seen += octets.len();
            for word in ["canary", "4711", "example.org"] {
                assert!(!octets.windows(word.len()).any(|window| window == word.as_bytes()), "{path:?} has {word}");
            }
        }
    }
    assert!(seen > 200);

    let mut found = Vec::new();
    let identity = Identity::read(&ground.list().join(IDENTITY_FILE)).unwrap();
    let read = addresses(ground.list(), &[identity], |detail, entry| {
        found.push(format!("{} {} {} {}", detail.address, entry.reason.as_str(), entry.scope, detail.note));
        Ok(())
    })
    .unwrap();
    assert_eq!(found, ["canary-4711@example.org complaint all test", "back@example.org manual stream:news test"]);
    assert_eq!((read.entries, read.locked), (2, 0));
    let read = addresses(ground.list(), &[Identity::generate()], |_, _| Err("no".to_owned())).unwrap();
    assert_eq!((read.entries, read.locked, read.locked_files.len()), (0, 2, 1));
}

#[tokio::test]
async fn a_lost_secret_comes_back_out_of_the_journal_and_another_one_is_refused() {
    let ground = Ground::new();
    let list = ground.open();
    list.change(vec![add("ann@example.org", "all", Reason::Manual)]).await.unwrap();
    list.close();
    drop(list);
    let path = ground.list().join(SECRET_FILE);
    let right = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(Suppression::open(&ground.settings), Err(OpenError::NoSecret(_))));
    fs::write(&path, [9; 32]).unwrap();
    assert!(matches!(Suppression::open(&ground.settings), Err(OpenError::OtherSecret(_))));
    fs::remove_dir_all(ground.list().join("index")).unwrap();
    assert!(matches!(Suppression::open(&ground.settings), Err(OpenError::OtherSecret(_))));
    let identity = Identity::read(&ground.list().join(IDENTITY_FILE)).unwrap();
    assert!(restore_secret(ground.list(), &[Identity::generate()]).is_err());
    restore_secret(ground.list(), &[identity]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), right);
    assert!(is_suppressed(&ground.open(), "ann@example.org", "x", None).is_some());
}

#[tokio::test]
async fn a_journal_cut_anywhere_in_its_last_frame_keeps_all_that_was_answered_before() {
    let ground = Ground::new();
    let list = ground.open();
    list.change(vec![add("first@example.org", "stream:news", Reason::Manual)]).await.unwrap();
    let answered = fs::metadata(ground.last_segment()).unwrap().len();
    list.change(vec![add("second@example.org", "all", Reason::Manual)]).await.unwrap();
    list.close();
    drop(list);
    let whole = fs::read(ground.last_segment()).unwrap();
    for length in (answered..whole.len() as u64).step_by(3) {
        fs::write(ground.last_segment(), &whole[..length as usize]).unwrap();
        fs::remove_dir_all(ground.list().join("index")).unwrap();
        let list = ground.open();
        assert!(is_suppressed(&list, "first@example.org", "news", None).is_some(), "{length}");
        assert!(is_suppressed(&list, "second@example.org", "news", None).is_none(), "{length}");
        list.close();
    }
    // A damage in the middle costs what is damaged and nothing else.
    let mut damaged = whole.clone();
    damaged[answered as usize - 20] ^= 1;
    fs::write(ground.last_segment(), &damaged).unwrap();
    fs::remove_dir_all(ground.list().join("index")).unwrap();
    let list = ground.open();
    assert!(is_suppressed(&list, "first@example.org", "news", None).is_none());
    assert!(is_suppressed(&list, "second@example.org", "news", None).is_some());
}

#[tokio::test]
async fn an_index_that_is_damaged_or_lost_is_made_anew_and_put_aside() {
    let ground = Ground::new();
    let list = ground.open();
    let many = |from: u32| (from..from + 500).map(|n| add(&format!("u{n}@example.org"), "all", Reason::Manual));
    list.change(many(0).collect()).await.unwrap();
    list.close();
    drop(list);
    // A database of sled, but with a bucket that holds what it cannot.
    {
        let database = sled::open(ground.list().join("index")).unwrap();
        database.open_tree("buckets").unwrap().insert([1, 2], &[7u8; 33][..]).unwrap();
        database.flush().unwrap();
    }
    let list = ground.open();
    assert!(ground.list().join("index.damaged-1").exists());
    assert!((0..500).all(|n| is_suppressed(&list, &format!("u{n}@example.org"), "x", None).is_some()));
    assert_eq!(list.statistics().entries.iter().map(|(_, count)| count).sum::<u64>(), 500);
    list.change(many(500).collect()).await.unwrap();
    list.close();
    drop(list);
    fs::remove_dir_all(ground.list().join("index")).unwrap();
    let list = ground.open();
    assert!((0..1000).all(|n| is_suppressed(&list, &format!("u{n}@example.org"), "x", None).is_some()));
}

/// A disk whose next calls fail.
#[derive(Clone, Default)]
struct Failing {
    sync: Arc<AtomicBool>,
    append: Arc<AtomicBool>,
    create: Arc<AtomicBool>,
    disk: Arc<Mutex<Disk>>,
}

impl Failing {
    fn fails(what: &AtomicBool) -> io::Result<()> {
        if what.load(Ordering::SeqCst) { Err(io::Error::other("the disk says no")) } else { Ok(()) }
    }
}

impl Files for Failing {
    type File = File;

    fn create(&mut self, path: &Path) -> io::Result<File> {
        Self::fails(&self.create)?;
        self.disk.lock().create(path)
    }

    fn append(&mut self, file: &mut File, octets: &[u8]) -> io::Result<()> {
        if Self::fails(&self.append).is_err() {
            // As a full disk does: a part of it is written.
            self.disk.lock().append(file, &octets[..octets.len() / 2])?;
        }
        Self::fails(&self.append)?;
        self.disk.lock().append(file, octets)
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        Self::fails(&self.sync)?;
        self.disk.lock().sync(file)
    }

    fn truncate(&mut self, file: &mut File, length: u64) -> io::Result<()> {
        self.disk.lock().truncate(file, length)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.disk.lock().remove(path)
    }
}

#[tokio::test]
async fn what_cannot_be_made_durable_does_not_hold_and_the_next_change_works() {
    let ground = Ground::new();
    let files = Failing::default();
    let list = Suppression::open_with(&ground.settings, files.clone()).unwrap();
    for (number, fault) in [&files.create, &files.append, &files.sync, &files.append].iter().enumerate() {
        let (bad, good) = (format!("bad{number}@example.org"), format!("good{number}@example.org"));
        fault.store(true, Ordering::SeqCst);
        let error = list.change(vec![add(&bad, &format!("stream:s{number}"), Reason::Manual)]).await.unwrap_err();
        assert!(matches!(&error, ChangeError::NotDurable(why) if why.contains("says no")), "{error}");
        assert_eq!(is_suppressed(&list, &bad, &format!("s{number}"), None), None);
        fault.store(false, Ordering::SeqCst);
        list.change(vec![add(&good, &format!("stream:s{number}"), Reason::Manual)]).await.unwrap();
    }
    list.close();
    drop(list);
    fs::remove_dir_all(ground.list().join("index")).unwrap();
    let list = ground.open();
    for number in 0..4 {
        let stream = format!("s{number}");
        assert!(is_suppressed(&list, &format!("good{number}@example.org"), &stream, None).is_some());
        assert!(is_suppressed(&list, &format!("bad{number}@example.org"), &stream, None).is_none());
    }
}

#[tokio::test]
async fn an_index_that_is_ahead_of_an_older_journal_is_made_anew() {
    let ground = Ground::new();
    let list = ground.open();
    list.change(vec![add("old@example.org", "all", Reason::Manual)]).await.unwrap();
    let older = fs::read(ground.last_segment()).unwrap();
    let path = ground.last_segment();
    list.change(vec![add("new@example.org", "all", Reason::Manual)]).await.unwrap();
    list.flush().await.unwrap();
    list.close();
    drop(list);
    // Somebody puts the backup of the journal back, and not that of the index.
    fs::write(&path, older).unwrap();
    let list = ground.open();
    assert!(ground.list().join("index.damaged-1").exists());
    assert!(is_suppressed(&list, "old@example.org", "x", None).is_some());
    list.change(vec![add("later@example.org", "all", Reason::Manual)]).await.unwrap();
    drop(list);
    // Killed: nothing was flushed.
    let mut copy =
        configuration::Suppression { directory: ground.folder.path().join("copy"), ..ground.settings.clone() };
    std::process::Command::new("cp").arg("-r").arg(ground.list()).arg(&copy.directory).status().unwrap();
    copy.cache = ByteSize::mebibytes(1);
    let list = Suppression::open(&copy).unwrap();
    assert!(is_suppressed(&list, "later@example.org", "x", None).is_some());
}

#[tokio::test]
async fn two_processes_cannot_have_one_list_and_a_closed_one_says_so() {
    let ground = Ground::new();
    let list = ground.open();
    assert!(matches!(Suppression::open(&ground.settings), Err(OpenError::InUse(_))));
    list.close();
    let error = list.change(vec![add("a@example.org", "all", Reason::Manual)]).await.unwrap_err();
    assert_eq!(error, ChangeError::Closed);
    assert!(ground.folder.path().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_the_acknowledgement_no_delivery_to_the_address_is_under_way_or_begins() {
    let ground = Ground::new();
    let list = ground.open();
    let names: Vec<String> = (0..200).map(|n| format!("u{n}@example.org")).collect();
    let acknowledged: Arc<Vec<AtomicBool>> = Arc::new((0..200).map(|_| AtomicBool::new(false)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..6u64)
        .map(|seed| {
            let (list, names, acknowledged, stop) =
                (list.clone(), names.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut deliveries, mut state) = (0u64, seed);
                while !stop.load(Ordering::SeqCst) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed + 1);
                    let number = (state >> 33) as usize % names.len();
                    let (pass, entries) = list.pass([address(&names[number])].iter(), "news", None).unwrap();
                    if entries[0].is_none() {
                        tokio::time::sleep(Duration::from_micros(state % 500)).await;
                        // This is where the receiver has it.
                        assert!(!acknowledged[number].load(Ordering::SeqCst), "{}", names[number]);
                        deliveries += 1;
                    }
                    drop(pass);
                    tokio::task::yield_now().await;
                }
                deliveries
            })
        })
        .collect();
    for (number, name) in names.iter().enumerate() {
        list.change(vec![add(name, "all", Reason::Unsubscribe)]).await.unwrap();
        acknowledged[number].store(true, Ordering::SeqCst);
    }
    stop.store(true, Ordering::SeqCst);
    let mut deliveries = 0;
    for worker in workers {
        deliveries += worker.await.unwrap();
    }
    assert!(deliveries > 100, "{deliveries} deliveries are no load");
}

#[derive(Debug, Clone)]
enum Act {
    Change(Vec<(bool, u8, u8, u8)>),
    Flush,
    Restart,
    LoseIndex,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => proptest::collection::vec((prop::bool::weighted(0.7), 0u8..12, 0u8..4, 0u8..5), 1..8).prop_map(Act::Change),
        1 => Just(Act::Flush),
        1 => Just(Act::Restart),
        1 => Just(Act::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_the_list_answers_as_a_map_would(acts in proptest::collection::vec(act(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ground = Ground::new();
        let mut list = ground.open();
        let mut map: BTreeMap<(u8, u8, u8), ()> = BTreeMap::new();
        let scope = |number: u8| ["all", "stream:a", "stream:b", "list:c"][usize::from(number)];
        let reason = |number: u8| Reason::from_code(number).unwrap();
        let name = |number: u8| format!("user{number}@example.org");
        for act in acts {
            match act {
                Act::Change(steps) => {
                    let asked = steps.iter().map(|(is_added, who, place, why)| match is_added {
                        true => add(&name(*who), scope(*place), reason(*why)),
                        false => remove(&name(*who), Some(scope(*place)), Some(reason(*why))),
                    });
                    let outcome = runtime.block_on(list.change(asked.collect())).unwrap();
                    let before = map.len() as u64;
                    for (is_added, who, place, why) in steps {
                        if is_added { map.insert((who, place, why), ()); } else { map.remove(&(who, place, why)); }
                    }
                    prop_assert_eq!(before + outcome.added - outcome.removed, map.len() as u64);
                }
                Act::Flush => runtime.block_on(list.flush()).unwrap(),
                Act::Restart | Act::LoseIndex => {
                    list.close();
                    drop(list);
                    if matches!(act, Act::LoseIndex) {
                        fs::remove_dir_all(ground.list().join("index")).unwrap();
                    }
                    list = ground.open();
                }
            }
            for who in 0..12 {
                let found: Vec<(u8, String)> = list.find(&address(&name(who))).unwrap().into_iter()
                    .map(|entry| (entry.reason.code(), entry.scope.to_string())).collect();
                let mut expected: Vec<(u8, String)> = map.keys().filter(|(known, ..)| *known == who)
                    .map(|(_, place, why)| (*why, scope(*place).to_owned())).collect();
                let mut sorted = found.clone();
                sorted.sort();
                expected.sort();
                prop_assert_eq!(sorted, expected);
                let is_suppressed = map.keys().any(|(known, place, why)|
                    *known == who && [0, 1].contains(place) && reason(*why).suppresses());
                prop_assert_eq!(list.check(&address(&name(who)), "a", None).unwrap().is_some(), is_suppressed);
            }
        }
        let total: u64 = list.statistics().entries.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(total, map.len() as u64);
    }
}
