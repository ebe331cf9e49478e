//! Files of the keys room and of the `age` program (Go), each opened by the other: the share of a custodian can be read without us, and
//! what they write with age is read by the box.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postkeep_keys::envelope::{self, EnvelopeError};
use postkeep_keys::{Custodian, KeySet, Recipient, System, Token};

use postkeep_tests::tools::{self, needs};

/// `program` with `arguments`, fed with `input`: what it wrote.
fn run(program: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;

    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An identity in a file, and its recipient.
struct Identity {
    file: PathBuf,
    recipient: Recipient,
}

impl Identity {
    fn x25519(folder: &Path, name: &str, keygen: &Path) -> Self {
        let file = folder.join(name);
        run(keygen, &["-o", file.to_str().unwrap()], &[]);
        let recipient = String::from_utf8(run(keygen, &["-y", file.to_str().unwrap()], &[])).unwrap();
        Self { file, recipient: recipient.trim().parse().unwrap() }
    }

    fn ssh(folder: &Path, name: &str, keygen: &Path) -> Self {
        let file = folder.join(name);
        run(keygen, &["-q", "-t", "ed25519", "-N", "", "-C", "anna@laptop", "-f", file.to_str().unwrap()], &[]);
        let recipient = fs::read_to_string(file.with_extension("pub")).unwrap();
        Self { file, recipient: recipient.trim().parse().unwrap() }
    }

    /// What `age` makes of `file` with this identity.
    fn decrypt(&self, age: &Path, file: &[u8]) -> Vec<u8> {
        run(age, &["--decrypt", "--identity", self.file.to_str().unwrap()], file)
    }
}

#[test]
fn age_opens_what_we_seal_with_each_kind_of_key() {
    let Some(age) = needs(tools::find("age")) else { return };
    let Some(keygen) = needs(tools::find("age-keygen")) else { return };
    let Some(ssh_keygen) = needs(tools::find("ssh-keygen")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let identities = [
        Identity::x25519(folder.path(), "first", &keygen),
        Identity::ssh(folder.path(), "second", &ssh_keygen),
        Identity::x25519(folder.path(), "third", &keygen),
    ];
    let content = b"a share, or what stands for one".repeat(20);
    for pair in identities.windows(2) {
        let file = envelope::seal(&content, pair.iter().map(|identity| &identity.recipient)).unwrap();
        for identity in pair {
            assert_eq!(identity.decrypt(&age, &file), content);
            assert_eq!(identity.decrypt(&age, envelope::armour(&file).as_bytes()), content);
        }
    }
}

#[test]
fn we_open_what_age_seals_and_say_when_it_is_for_others() {
    let Some(age) = needs(tools::find("age")) else { return };
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let open = |file: &[u8]| envelope::open(file, [&identity as &dyn age::Identity].into_iter());
    for armour in [&["--armor"][..], &[]] {
        let mine = run(&age, &[&["--encrypt", "--recipient", &recipient], armour].concat(), b"an answer");
        assert_eq!(open(&mine).unwrap().as_slice(), b"an answer");
        let cut = &mine[..mine.len() - 40];
        assert_eq!(open(cut).unwrap_err(), EnvelopeError::Damaged);
    }
    let stranger = age::x25519::Identity::generate().to_public().to_string();
    let others = run(&age, &["--encrypt", "--recipient", &stranger], b"an answer");
    assert_eq!(open(&others).unwrap_err(), EnvelopeError::NotOurs);
}

#[test]
fn the_share_in_a_token_can_be_read_with_age_alone() {
    let Some(age) = needs(tools::find("age")) else { return };
    let Some(keygen) = needs(tools::find("age-keygen")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let identities = ["anna", "ben"].map(|name| (name, Identity::x25519(folder.path(), name, &keygen)));
    let custodians = identities.iter().map(|(name, identity)| Custodian {
        name: name.parse().unwrap(),
        recipients: vec![identity.recipient.clone()],
    });
    let set = KeySet { threshold: 2, custodians: custodians.collect(), recovery: None };
    let volume = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
    let token = Token::make(&set, &volume, 1, &mut System).unwrap().token;
    for ((name, identity), holder) in identities.iter().zip(&token.opening.holders) {
        use base64::Engine as _;
        let file = base64::prelude::BASE64_STANDARD.decode(&holder.share).unwrap();
        let content = identity.decrypt(&age, &file);
        // A line that says so, a line that says which, and the 33 octets of the share.
        let mut parts = content.splitn(3, |octet| *octet == b'\n');
        assert_eq!(parts.next().unwrap(), b"postkeep share 1");
        let head: serde_json::Value = serde_json::from_slice(parts.next().unwrap()).unwrap();
        assert_eq!((&head["name"], &head["epoch"]), (&(*name).into(), &1.into()));
        assert_eq!(parts.next().unwrap().len(), 33);
    }
}

#[test]
fn age_opens_each_part_of_an_export() {
    use age::secrecy::ExposeSecret as _;
    use postkeep_keys::export::{Head, PART, Writer};
    use postkeep_keys::{Purpose, Secret, combine};
    use postkeep_notes::SignerKey;

    let Some(age) = needs(tools::find("age")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let anna = age::x25519::Identity::generate();
    let custodian = Custodian { name: "anna".parse().unwrap(), recipients: vec![Recipient::of(&anna)] };
    let set = KeySet { threshold: 1, custodians: vec![custodian], recovery: None };
    let (head, key) = Head::make(&set, "two parts", jiff::Timestamp::UNIX_EPOCH, &mut System).unwrap();
    let note = head.sign(&SignerKey::generate("export.example").unwrap()).unwrap();
    let content: Vec<u8> = (0..PART + 1000).map(|at| (at % 253) as u8).collect();
    let file = Writer::new(Vec::new(), &note, key).unwrap().write_all(&mut &content[..], |_| ()).unwrap();
    // What a quorum makes of the shares.
    let held = head.token.open_shares(None, &[&anna]).unwrap().remove(0);
    let secret: Secret = combine(&[held.share], 1).unwrap();
    let key = head.key(&secret, Purpose::Opening).unwrap();
    let identity = folder.path().join("export.key");
    fs::write(&identity, key.identity().to_string().expose_secret()).unwrap();
    // As docs/develop/keys.md says: each behind its length in four octets, the head first.
    let mut at = b"postkeep export 1\n".len();
    let mut parts = Vec::new();
    while at < file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        parts.push(&file[at + 4..at + 4 + length]);
        at += 4 + length;
    }
    assert_eq!(parts.len(), 3);
    // Too large for a pipe that nobody reads yet.
    let sealed = folder.path().join("part");
    let opened = parts[1..].iter().flat_map(|part| {
        fs::write(&sealed, part).unwrap();
        let [key, sealed] = [&identity, &sealed].map(|file| file.to_str().unwrap());
        let said = Command::new(&age).args(["--decrypt", "--identity", key, sealed]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        said.stdout[32..].to_vec()
    });
    assert!(opened.collect::<Vec<u8>>() == content);
}
