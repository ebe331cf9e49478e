//! Three custodians with the program, and a box that asks them: from new keys to an open volume, and everything that somebody may get
//! wrong on the way.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use postkeep_keys::{Cause, Counts, KeySet, Made, Purpose, Refusal, System, Token, Unseal, passphrase};
use postkeep_notes::SignerKey;
use tempfile::TempDir;

use program::{keys, keys_fed, refused, said};

const VOLUME: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
const NAMES: [&str; 3] = ["anna", "ben", "cleo"];

/// A desk with the keys of three custodians, and the token of a box that two of them open.
struct Desk {
    folder: TempDir,
    made: Made,
    box_key: String,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut set = "threshold = 2\n".to_owned();
        for name in NAMES {
            let output = keys(&["generate", "--out", path(&folder, &format!("{name}.key")).to_str().unwrap()]);
            let recipient = said(&output);
            set += &format!("[[custodian]]\nname = \"{name}\"\nrecipients = [\"{}\"]\n", recipient.trim());
        }
        fs::write(path(&folder, "set.toml"), &set).unwrap();
        let made = Token::make(&KeySet::parse(&set).unwrap(), &VOLUME.parse().unwrap(), 1, &mut System).unwrap();
        let key = SignerKey::generate("box.example").unwrap();
        fs::write(path(&folder, "box.token"), made.token.sign(&key).unwrap()).unwrap();
        Self { folder, made, box_key: key.verifier().to_string() }
    }

    fn path(&self, name: &str) -> PathBuf {
        path(&self.folder, name)
    }

    /// The command, with the token and the key of `name`.
    fn keys(&self, verb: &str, name: &str, more: &[&str]) -> Output {
        let (token, key) = (self.path("box.token"), self.path(&format!("{name}.key")));
        let mut arguments = vec![verb, "--token", token.to_str().unwrap(), "--box-key", &self.box_key];
        arguments.extend(["--identity", key.to_str().unwrap()]);
        arguments.extend(more);
        keys(&arguments)
    }
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[test]
fn two_of_three_open_a_box_by_texts_that_are_carried_to_it() {
    let desk = Desk::new();
    let mut opener = Unseal::begin(desk.made.token.clone(), Cause::Unclean, &mut System);
    let offer = opener.offer().to_string();
    let answer = |name: &str| said(&desk.keys("unseal", name, &["--offer", &offer, "--reason", "power went"]));
    let first = answer("cleo");
    assert!(first.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{first}");
    assert!(matches!(opener.take(first.as_bytes(), Duration::ZERO), Ok(Counts::Waiting(_))));
    assert!(matches!(opener.take(first.as_bytes(), Duration::ZERO), Ok(Counts::Again(_))));
    let Ok(Counts::Enough(opening)) = opener.take(answer("anna").as_bytes(), Duration::ZERO) else {
        panic!("two of two")
    };
    assert_eq!(opening.secret, desk.made.opening);
    assert!(opening.witnesses.iter().all(|witness| witness.reason == "power went"));
    // The same texts at the next start.
    let mut later = Unseal::begin(desk.made.token.clone(), Cause::Planned, &mut System);
    assert!(matches!(later.take(first.as_bytes(), Duration::ZERO), Err(Refusal::Answer(_))));
}

#[test]
fn a_volume_without_its_machine_is_opened_by_a_quorum_at_one_desk() {
    let desk = Desk::new();
    let (token, out) = (desk.path("box.token"), desk.path("volume.key"));
    let (token, out) = (token.to_str().unwrap(), out.to_str().unwrap());
    let key = |name: &str| desk.path(&format!("{name}.key")).to_str().unwrap().to_owned();
    let recover = |more: &[&str]| {
        keys(&[&["recover", "--token", token, "--box-key", &desk.box_key, "--out", out], more].concat())
    };
    // One is too few, also when they come twice.
    let error = refused(&recover(&["--identity", &key("anna"), "--identity", &key("anna")]), 3);
    assert!(error.contains("it takes 2 shares, and these are 1 (anna)"), "{error}");
    let error = refused(&recover(&["--recovery", "--identity", &key("anna")]), 3);
    assert!(error.contains("there is no recovery set"), "{error}");
    assert!(!Path::new(out).exists());
    let share = desk.made.token.open_shares(None, &[&identity(&key("cleo"))]).unwrap().remove(0).share;
    let typed = desk.path("typed.txt");
    fs::write(&typed, postkeep_keys::words::words(&share).join(" ")).unwrap();
    let text = said(&recover(&["--identity", &key("ben"), "--paper", typed.to_str().unwrap()]));
    assert!(text.contains(VOLUME) && text.contains("cryptsetup open"), "{text}");
    // What the box computes of the same shares (`sealed_volume.rs` opens a volume with it).
    let token = &desk.made.token;
    let wanted = passphrase(&desk.made.opening, None, Purpose::Opening, &token.volume, token.epoch);
    assert_eq!(fs::read(out).unwrap(), wanted.expose());
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(out).unwrap()) & 0o777, 0o600);
    let error = refused(&recover(&["--identity", &key("ben"), "--identity", &key("anna")]), 2);
    assert!(error.contains("nothing is overwritten"), "{error}");
}

#[test]
fn a_volume_that_is_none_of_a_box_is_split_and_its_key_made_again() {
    let desk = Desk::new();
    let path = |name: &str| desk.path(name).to_str().unwrap().to_owned();
    let split = |more: &[&str]| {
        let files = ["--keys", &path("set.toml"), "--out", &path("disk.token"), "--key", &path("disk.key")];
        keys(&[&["split", "--volume", VOLUME], &files[..], more].concat())
    };
    let error = refused(&split(&["--recovery-key", &path("recovery.key")]), 2);
    assert!(error.contains("has no recovery set"), "{error}");
    assert!(!desk.path("disk.token").exists() && !desk.path("disk.key").exists());
    let text = said(&split(&[]));
    assert!(text.contains("2 of 3 custodians make the key again") && text.contains("luksAddKey"), "{text}");
    let error = refused(&split(&[]), 2);
    assert!(error.contains("is there already"), "{error}");
    let (ben, cleo, again) = (path("ben.key"), path("cleo.key"), path("again.key"));
    let who = ["--identity", &ben, "--identity", &cleo, "--out", &again];
    said(&keys(&[&["recover", "--token", &path("disk.token")], &who[..]].concat()));
    let key = fs::read(desk.path("disk.key")).unwrap();
    assert_eq!((key.len(), fs::read(&again).unwrap()), (32, key));
}

#[test]
fn a_file_for_custodians_is_read_by_a_quorum_at_one_desk_and_whole_or_not_at_all() {
    let desk = Desk::new();
    let path = |name: &str| desk.path(name).to_str().unwrap().to_owned();
    // Three parts; what cannot be told from other octets finds what is lost.
    let content: Vec<u8> = (0..9_000_000_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
    fs::write(path("list.csv"), &content).unwrap();
    let export = |more: &[&str]| {
        let (set, from, out) = (path("set.toml"), path("list.csv"), path("list.postkeep"));
        keys(&[&["export", "--keys", &set, "--in", &from, "--out", &out], more].concat())
    };
    let made: serde_json::Value = serde_json::from_str(&said(&export(&["--json"]))).unwrap();
    assert_eq!((&made["name"], &made["octets"]), (&"list.csv".into(), &content.len().into()), "{made}");
    assert!(refused(&export(&[]), 2).contains("is there already"));
    let key = made["signed-by"].as_str().unwrap();

    let import = |from: &str, names: &[&str], more: &[&str]| {
        let files: Vec<String> = names.iter().map(|name| path(&format!("{name}.key"))).collect();
        let mut arguments = vec!["import", "--in", from, "--out"];
        let out = path("again.csv");
        arguments.push(&out);
        arguments.extend(files.iter().flat_map(|file| ["--identity", file]));
        arguments.extend(more);
        keys(&arguments)
    };
    let from = path("list.postkeep");
    let error = refused(&import(&from, &["ben"], &[]), 3);
    assert!(error.contains("it takes 2 shares, and these are 1 (ben)"), "{error}");
    let error = refused(&import(&from, &["ben", "cleo"], &["--box-key", &desk.box_key]), 2);
    assert!(error.contains("and by no key that is known here"), "{error}");
    fs::write(path("nobody"), "# no key\n").unwrap();
    let error = refused(&import(&from, &["ben", "cleo"], &["--box-key", &path("nobody")]), 2);
    assert!(error.contains("there is no key in it"), "{error}");
    let error = refused(&import(&from, &["ben", "cleo"], &["--recovery"]), 3);
    assert!(error.contains("there is no recovery set; leave --recovery out"), "{error}");
    // Changed, or cut off: nothing is there that somebody could take for the whole.
    let whole = fs::read(&from).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (octets, why) in
        [(&changed[..], "part 3 cannot be opened"), (&whole[..whole.len() - 300_000], "ends within part 3")]
    {
        fs::write(path("bad.postkeep"), octets).unwrap();
        let error = refused(&import(&path("bad.postkeep"), &["ben", "cleo"], &[]), 2);
        assert!(error.contains(why), "{error}");
        let left: Vec<_> = fs::read_dir(desk.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        let is_left = |name: &std::ffi::OsString| {
            let name = name.to_string_lossy();
            name.starts_with("again.csv") || name.ends_with(".unfinished")
        };
        assert!(!left.iter().any(is_left), "{left:?}");
    }
    let text = said(&import(&from, &["cleo", "anna"], &["--box-key", key]));
    assert!(text.contains("is \"list.csv\", exported at"), "{text}");
    assert!(fs::read(path("again.csv")).unwrap() == content);
    let mode = |name: &str| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path(name)).unwrap()) & 0o777;
    assert_eq!((mode("again.csv"), mode("list.postkeep")), (0o600, 0o600));
    assert!(refused(&import(&from, &["cleo", "anna"], &[]), 2).contains("is there already"));
}

#[test]
fn what_comes_by_a_pipe_is_exported_too_and_is_there_or_refused() {
    let desk = Desk::new();
    let path = |name: &str| desk.path(name).to_str().unwrap().to_owned();
    let (set, out) = (path("set.toml"), path("out.postkeep"));
    let export = ["export", "--keys", &set, "--in", "-", "--out", &out];
    let error = refused(&keys_fed(&export, b""), 3);
    assert!(error.contains("nothing came from standard input"), "{error}");
    assert!(!desk.path("out.postkeep").exists());
    let text = said(&keys_fed(&[&export[..], &["--name", "from a pipe"]].concat(), b"content"));
    assert!(text.contains("holds \"from a pipe\", 7 octets, for 2 of 3 custodians"), "{text}");
    let long = "x".repeat(201);
    let other = path("other.postkeep");
    let export = ["export", "--keys", &set, "--in", &set, "--out", &other, "--name", &long];
    let error = refused(&keys(&export), 2);
    assert!(error.contains("--name"), "{error}");
    let folder = desk.folder.path().to_str().unwrap();
    let error = refused(&keys(&["export", "--keys", &set, "--in", folder, "--out", &other]), 2);
    assert!(error.contains("is a folder: pack it first"), "{error}");
    let nowhere = path("nowhere/out.postkeep");
    let error = refused(&keys(&["export", "--keys", &set, "--in", &set, "--out", &nowhere]), 1);
    assert!(error.contains("cannot write") && error.contains("nowhere"), "{error}");
}

fn identity(file: &str) -> age::x25519::Identity {
    let text = fs::read_to_string(file).unwrap();
    text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap().parse().unwrap()
}

#[test]
fn a_share_on_paper_opens_as_well_as_the_key() {
    let desk = Desk::new();
    let sheet = desk.path("sheet.txt");
    let text = said(&desk.keys("paper", "ben", &["--out", sheet.to_str().unwrap()]));
    assert!(text.contains("ben's share"), "{text}");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&sheet).unwrap()) & 0o777, 0o600);
    let sheet = fs::read_to_string(sheet).unwrap();
    assert!(sheet.contains("number 2 of 3") && sheet.contains(VOLUME), "{sheet}");
    // Typed off the sheet, row by row, four letters each, with the numbers.
    let rows: Vec<&str> =
        sheet.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(rows.len(), 7, "{sheet}");
    let mut words: Vec<(usize, &str)> = rows
        .iter()
        .flat_map(|row| {
            row.split_whitespace()
                .collect::<Vec<_>>()
                .chunks(2)
                .map(|pair| (pair[0].parse().unwrap(), pair[1]))
                .collect::<Vec<_>>()
        })
        .collect();
    words.sort_unstable();
    let typed: String = words
        .iter()
        .map(|(number, word)| format!("{number} {}\n", word.chars().take(4).collect::<String>().to_uppercase()))
        .collect();
    let typed_in = desk.path("typed.txt");
    fs::write(&typed_in, typed).unwrap();
    let token = desk.path("box.token");
    let with_paper = |verb: &[&str]| keys(&[verb, &["--token", token.to_str().unwrap()]].concat());
    let text = said(&with_paper(&["paper", "--check", typed_in.to_str().unwrap()]));
    assert!(text.contains("ben's share for opening of key set 1"), "{text}");

    // The whole sheet as well, as somebody checks it before they print it.
    let whole = desk.path("sheet.txt");
    assert!(said(&with_paper(&["paper", "--check", whole.to_str().unwrap()])).contains("ben's share"));

    let mut opener = Unseal::begin(desk.made.token.clone(), Cause::Unclean, &mut System);
    let offer = opener.offer().to_string();
    let answer = said(&with_paper(&[
        "unseal",
        "--paper",
        typed_in.to_str().unwrap(),
        "--offer",
        &offer,
        "--reason",
        "the laptop burnt",
    ]));
    opener.take(answer.as_bytes(), Duration::ZERO).unwrap();
    let answer = said(&desk.keys("unseal", "anna", &["--offer", &offer, "--reason", "ben has only paper"]));
    let Ok(Counts::Enough(opening)) = opener.take(answer.as_bytes(), Duration::ZERO) else { panic!("two of two") };
    assert_eq!(opening.secret, desk.made.opening);
}

#[test]
fn a_key_is_never_overwritten_and_is_for_its_owners_eyes() {
    let desk = Desk::new();
    let key = desk.path("anna.key");
    let before = fs::read(&key).unwrap();
    let error = refused(&keys(&["generate", "--out", key.to_str().unwrap()]), 2);
    assert!(error.contains("nothing is overwritten"), "{error}");
    assert_eq!(fs::read(&key).unwrap(), before);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&key).unwrap()) & 0o777, 0o600);
    let recipient = said(&keys(&["recipient", key.to_str().unwrap()]));
    assert!(String::from_utf8(before).unwrap().contains(recipient.trim()));
}

#[test]
fn a_token_of_another_box_or_a_changed_one_gets_no_answer() {
    let desk = Desk::new();
    let other = Token::make(&desk.made.token.key_set(), &VOLUME.parse().unwrap(), 2, &mut System).unwrap().token;
    let offer = Unseal::begin(other, Cause::Planned, &mut System).offer().to_string();
    let error = refused(&desk.keys("unseal", "anna", &["--offer", &offer, "--reason", "work"]), 3);
    assert!(error.contains("another token") && error.contains("only looks like yours"), "{error}");

    let token = desk.path("box.token");
    let text = fs::read_to_string(&token).unwrap();
    fs::write(&token, text.replacen("threshold = 2", "threshold = 1", 1)).unwrap();
    let offer = Unseal::begin(desk.made.token.clone(), Cause::Planned, &mut System).offer().to_string();
    let error = refused(&desk.keys("unseal", "anna", &["--offer", &offer, "--reason", "work"]), 2);
    assert!(error.contains("the text was changed after it was signed"), "{error}");
    // Without the key of the box the change is seen all the same: its sum is not the one that the box names.
    let key = desk.path("anna.key");
    let arguments = [
        "unseal",
        "--token",
        token.to_str().unwrap(),
        "--identity",
        key.to_str().unwrap(),
        "--offer",
        &offer,
        "--reason",
        "work",
    ];
    let error = refused(&keys(&arguments), 3);
    assert!(error.contains("another token"), "{error}");
    let shown = said(&keys(&["show", token.to_str().unwrap()]));
    assert!(shown.contains("not checked") && shown.contains("opened by    1 of 3"), "{shown}");
}

#[test]
fn bad_input_is_named_with_a_way_out() {
    let desk = Desk::new();
    let offer = Unseal::begin(desk.made.token.clone(), Cause::Planned, &mut System).offer().to_string();
    let stranger = desk.path("stranger.key");
    said(&keys(&["generate", "--out", stranger.to_str().unwrap()]));
    let error = refused(&desk.keys("unseal", "stranger", &["--offer", &offer, "--reason", "work"]), 2);
    assert!(error.contains("none of the identities given") && error.contains("anna, ben, cleo"), "{error}");
    let error = refused(&desk.keys("unseal", "anna", &["--offer", &offer, "--reason", "work", "--recovery"]), 3);
    assert!(error.contains("no share of the recovery set"), "{error}");
    let error = refused(&desk.keys("unseal", "anna", &["--offer", &offer, "--reason", "work", "--name", "ben"]), 2);
    assert!(error.contains("none of the identities given"), "{error}");
    let error = refused(&desk.keys("unseal", "anna", &["--offer", &offer[..offer.len() - 9], "--reason", "work"]), 2);
    assert!(error.contains("the offer cannot be read"), "{error}");
    let error = refused(&desk.keys("unseal", "anna", &["--offer", &offer, "--reason", &"long ".repeat(100)]), 2);
    assert!(error.contains("longer than 300"), "{error}");
    let error = refused(&desk.keys("unseal", "nobody", &["--offer", &offer, "--reason", "work"]), 2);
    assert!(error.contains("cannot read") && error.contains("nobody.key"), "{error}");
    fs::copy(desk.path("box.token"), desk.path("swapped.key")).unwrap();
    let error = refused(&desk.keys("unseal", "swapped", &["--offer", &offer, "--reason", "work"]), 2);
    assert!(error.contains("non-identity data on line 1"), "{error}");
    let error = refused(&keys(&["show", "/dev/zero"]), 2);
    assert!(error.contains("larger than anything"), "{error}");
    let error = refused(&keys(&["show", desk.path("anna.key").to_str().unwrap()]), 2);
    assert!(error.contains("a secret key in line 3"), "{error}");
    assert!(!error.contains("AGE-SECRET-KEY-1"), "{error}");
    let set = said(&keys(&["show", desk.path("set.toml").to_str().unwrap()]));
    assert!(set.contains("opened by    2 of 3") && set.contains("there is no recovery set"), "{set}");
}

#[test]
fn programs_get_one_json_object_whatever_happens() {
    let desk = Desk::new();
    let output = desk.keys("show", "anna", &[]);
    // `show` takes no identity: wrong usage is clap's, on standard error.
    assert_eq!(output.status.code(), Some(2));
    let token = desk.path("box.token");
    let shown = said(&keys(&["--json", "show", token.to_str().unwrap(), "--box-key", &desk.box_key]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["epoch"], &shown["signature-checked"]), (&1.into(), &true.into()));
    assert_eq!(shown["key-set"]["custodian"][2]["name"], "cleo");
    let output = keys(&["--json", "show", Path::new("/nowhere").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 2);
}

/// The program that cargo has built beside ours, found by age on the path.
fn with_drawer(folder: &TempDir, program: &Path, arguments: &[&str]) -> Output {
    let examples = Path::new(env!("CARGO_BIN_EXE_postkeep-keys")).with_file_name("examples");
    Command::new(program)
        .args(arguments)
        .env("PATH", examples)
        .env("POSTKEEP_TEST_DRAWER", folder.path())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_key_that_a_plugin_guards_opens_only_with_its_device() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Path::new(env!("CARGO_BIN_EXE_postkeep-keys"));
    let plugin = ours.with_file_name("examples/age-plugin-drawer");
    assert!(plugin.exists(), "{} is built by `cargo build --workspace --examples`", plugin.display());
    let device = path(&folder, "device.txt");
    fs::write(&device, with_drawer(&folder, &plugin, &[]).stdout).unwrap();
    let key = path(&folder, "anna.key");
    let generate = ["generate", "--guard", device.to_str().unwrap(), "--out", key.to_str().unwrap()];
    let recipient = said(&with_drawer(&folder, ours, &generate)).trim().to_owned();
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.contains("# guard: AGE-PLUGIN-DRAWER-1") && !text.contains("AGE-SECRET-KEY-"), "{text}");
    // Its public half is told without the device.
    assert_eq!(said(&keys(&["recipient", key.to_str().unwrap()])).trim(), recipient);

    let set = format!("threshold = 1\n[[custodian]]\nname = \"anna\"\nrecipients = [\"{recipient}\"]\n");
    let made = Token::make(&KeySet::parse(&set).unwrap(), &VOLUME.parse().unwrap(), 1, &mut System).unwrap();
    let token = path(&folder, "box.token");
    fs::write(&token, made.token.sign(&SignerKey::generate("box.example").unwrap()).unwrap()).unwrap();
    let mut opener = Unseal::begin(made.token.clone(), Cause::Planned, &mut System);
    let offer = opener.offer().to_string();
    let unseal = [
        "unseal",
        "--token",
        token.to_str().unwrap(),
        "--identity",
        key.to_str().unwrap(),
        "--offer",
        &offer,
        "--reason",
        "work",
    ];
    let answer = said(&with_drawer(&folder, ours, &unseal));
    assert!(matches!(opener.take(answer.as_bytes(), Duration::ZERO), Ok(Counts::Enough(_))));

    fs::rename(path(&folder, "key"), path(&folder, "elsewhere")).unwrap();
    let error = refused(&with_drawer(&folder, ours, &unseal), 2);
    assert!(error.contains("put the key into the drawer") && error.contains("the drawer is empty"), "{error}");
    // Nor is a plain key a guard: it would lie open beside what it guards.
    let plain = path(&folder, "plain.key");
    said(&keys(&["generate", "--out", plain.to_str().unwrap()]));
    let another = path(&folder, "another.key");
    let error =
        refused(&keys(&["generate", "--guard", plain.to_str().unwrap(), "--out", another.to_str().unwrap()]), 3);
    assert!(error.contains("identity file of a plugin") && !another.exists(), "{error}");
}

#[test]
fn an_ssh_key_opens_what_the_box_encrypted_to_it() {
    // Made with `ssh-keygen -t ed25519 -N ''` for this test, and used nowhere else.
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ssh_ed25519");
    let recipient = fs::read_to_string(format!("{files}.pub")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let set = format!("threshold = 1\n[[custodian]]\nname = \"anna\"\nrecipients = [\"{}\"]\n", recipient.trim());
    let made = Token::make(&KeySet::parse(&set).unwrap(), &VOLUME.parse().unwrap(), 1, &mut System).unwrap();
    let token = path(&folder, "box.token");
    fs::write(&token, made.token.sign(&SignerKey::generate("box.example").unwrap()).unwrap()).unwrap();
    let mut opener = Unseal::begin(made.token.clone(), Cause::Planned, &mut System);
    let offer = opener.offer().to_string();
    let unseal = |key: &str| {
        keys(&["unseal", "--token", token.to_str().unwrap(), "--identity", key, "--offer", &offer, "--reason", "work"])
    };
    let answer = said(&unseal(files));
    assert!(matches!(opener.take(answer.as_bytes(), Duration::ZERO), Ok(Counts::Enough(_))));
    let damaged = path(&folder, "damaged");
    fs::write(&damaged, &fs::read_to_string(files).unwrap()[..200]).unwrap();
    let error = refused(&unseal(damaged.to_str().unwrap()), 2);
    assert!(error.contains("the SSH key cannot be read"), "{error}");
}
