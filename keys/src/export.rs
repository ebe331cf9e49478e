//! Exports: a file or a store of a box, for as many custodians as it takes to open the box. A head that says who they are, with a share for each;
//! behind it parts of some megabytes, each an age file of its own.
//!
//! Each export has a secret of its own, split as that of a volume is ([`Token`]), so that one custodian alone reads no more of an export than of the
//! box. From the secret come an age identity, to whose public half the parts are encrypted, and a mark that stands inside, where each part
//! begins: whoever knows the public half only can encrypt to it, and cannot write the mark. It is made of the head, the number of the part and whether
//! it is the last, so that none is left out, doubled, moved or cut off without being noticed, nor the head exchanged. The signature under the
//! head says who has begun the export. Its parts can be written by whoever knows the secret, which are later those who read it as well.

use std::io::{self, Read, Write};

use age::x25519::Identity;
use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bech32::{Bech32, Hrp};
use jiff::Timestamp;
use postkeep_notes::{Note, NoteError, SignerKey, VerifierKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::envelope::{self, EnvelopeError};
use crate::passphrase::derived;
use crate::{
    KeySet, LARGEST_TOKEN, Made, Purpose, Random, Recipient, SECRET, Secret, Sum, Token, TokenError, VolumeId,
};

/// The only form of exports there is so far.
pub const FORMAT: u32 = 1;
/// Octets of content in a part; the last has what is left.
pub const PART: usize = 4 << 20;
/// A part is no larger than this: what age adds is some octets for each 64 KiB, and a header.
const LARGEST_PART: usize = PART + (16 << 10);
/// A head is a token with some lines around it, and signatures.
const LARGEST_HEAD: usize = 2 * LARGEST_TOKEN;
/// What an export is called has at most this many octets.
pub const LONGEST_NAME: usize = 200;
/// How a file begins; the length of its head in four octets follows, big-endian, and the head, a signed note. Then each part: its length in four
/// octets, and the age file.
const BEGINS: &[u8] = b"postkeep export 1\n";
/// Exports have one key set for their life.
const EPOCH: u64 = 1;
/// Octets of a mark.
const MARK: usize = 32;

/// What an export says of itself. Nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What is in it, in words.
    pub name: String,
    /// When it was begun.
    pub made: Timestamp,
    /// Who reads it, with their shares. The volume of this token is the export.
    pub token: Token,
    /// Where there is a recovery set: the secret, encrypted to an identity that comes from theirs.
    recovery: Option<String>,
    /// As it is signed.
    text: String,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    name: String,
    made: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<String>,
    token: String,
}

/// What the parts of an export are written and read with. Comes from its secret, and so from a quorum.
pub struct Key {
    identity: Identity,
    recipient: Recipient,
    mark: hmac::Key,
    head: Sum,
}

/// Why an export cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// See the text.
    #[error("it is no export, or one of a form that this version does not know")]
    Form,
    /// See the text.
    #[error("its head cannot be used: {0}")]
    Head(String),
    /// The note around the head.
    #[error("its head cannot be used: {0}")]
    Note(#[from] NoteError),
    /// Its custodians, or their shares.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// See the text.
    #[error("part {number} cannot be opened: {error}")]
    Part {
        /// Which, from 1.
        number: u64,
        /// Why not.
        error: EnvelopeError,
    },
    /// See the text.
    #[error("part {number} was not written by whoever made the export, or stands at another place than there")]
    Mark {
        /// Which, from 1.
        number: u64,
    },
    /// See the text.
    #[error("it ends within part {number}, or before its last part: the file was cut off, fetch it again")]
    Cut {
        /// Which, from 1.
        number: u64,
    },
    /// See the text.
    #[error("something stands behind its last part")]
    Behind,
    /// See the text.
    #[error("part {number} says that it has {octets} octets, and {LARGEST_PART} are read at most")]
    Large {
        /// Which, from 1.
        number: u64,
        /// How many.
        octets: u64,
    },
    /// What is read, from the disk or from whoever sends.
    #[error("cannot read: {0}")]
    Read(io::Error),
    /// What is written.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

impl Head {
    /// A new export for those in `set`, and what its parts are written with.
    ///
    /// # Errors
    /// The key set cannot be used, or the name is longer than [`LONGEST_NAME`] or has control characters.
    pub fn make(
        set: &KeySet,
        name: &str,
        made: Timestamp,
        random: &mut dyn Random,
    ) -> Result<(Self, Key), ExportError> {
        let name = named(name.to_owned())?;
        let id = VolumeId::new(random);
        let Made { token, opening, recovery } = Token::make(set, &id, EPOCH, random)?;
        let sealed = |secret: Secret| {
            let reader = Recipient::of(&identity(&secret, &id)?);
            let file = envelope::seal(opening.expose(), [&reader].into_iter());
            file.map(|file| BASE64_STANDARD.encode(file)).map_err(|error| ExportError::Head(error.to_string()))
        };
        let recovery = recovery.map(sealed).transpose()?;
        let written = Written { format: FORMAT, name, made, recovery, token: token.text().to_owned() };
        let text = toml::to_string(&written).map_err(|error| ExportError::Head(error.to_string()))?;
        let Written { name, made, recovery, .. } = written;
        let head = Self { name, made, token, recovery, text };
        let key = Key::of(&opening, &id, head.sum())?;
        Ok((head, key))
    }

    /// The sum of what is signed: by it the parts know their head.
    fn sum(&self) -> Sum {
        Sum::of(self.text.as_bytes())
    }

    /// What its parts are read with, from the secret that the shares for `purpose` give.
    ///
    /// # Errors
    /// It has no recovery set, or the secret is not that of this export.
    pub fn key(&self, secret: &Secret, purpose: Purpose) -> Result<Key, ExportError> {
        if purpose == Purpose::Opening {
            return Key::of(secret, &self.token.volume, self.sum());
        }
        let damaged = || ExportError::Head("what is there for its recovery set cannot be read".to_owned());
        let file = self.recovery.as_ref().and_then(|file| BASE64_STANDARD.decode(file).ok()).ok_or_else(damaged)?;
        let theirs = identity(secret, &self.token.volume)?;
        let opened = envelope::open(&file, [&theirs as &dyn age::Identity].into_iter()).map_err(|_| damaged())?;
        let octets: &[u8; SECRET] = opened[..].try_into().map_err(|_| damaged())?;
        Key::of(&Secret::fill(|to| *to = *octets), &self.token.volume, self.sum())
    }

    /// The head as it stands in the file, signed by whoever makes the export.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, by: &SignerKey) -> Result<String, ExportError> {
        Ok(postkeep_notes::sign(&self.text, &[by])?)
    }

    /// The head in a note that one of `known` has signed; whoever signed it, where nobody is to be known.
    fn open(note: &[u8], known: Option<&[VerifierKey]>) -> Result<Self, ExportError> {
        let text = match known {
            None => Note::parse(note)?.unverified_text(),
            Some(known) => postkeep_notes::open(note, known)?.text,
        };
        let written: Written = toml::from_str(text).map_err(|error| ExportError::Head(error.to_string()))?;
        if written.format != FORMAT {
            return Err(ExportError::Form);
        }
        let Written { name, made, recovery, token, .. } = written;
        Ok(Self { name: named(name)?, made, token: Token::parse(&token)?, recovery, text: text.to_owned() })
    }
}

impl Key {
    fn of(secret: &Secret, id: &VolumeId, head: Sum) -> Result<Self, ExportError> {
        let identity = identity(secret, id)?;
        let mark = hmac::Key::new(hmac::HMAC_SHA256, derived(secret.expose(), id, "postkeep export 1, mark").expose());
        Ok(Self { recipient: Recipient::of(&identity), identity, mark, head })
    }

    /// The age identity that opens the parts, for any program that knows age. A mark of 32 octets stands before the content of each.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Part `number`, from 1, with `content`, at most [`PART`] octets.
    ///
    /// # Errors
    /// It is more.
    pub fn seal(&self, number: u64, is_last: bool, content: &[u8]) -> Result<Vec<u8>, ExportError> {
        let failed = |error| ExportError::Part { number, error };
        let mark = self.mark(number, is_last);
        envelope::seal_parts(&[&mark, content], MARK + PART, [&self.recipient].into_iter()).map_err(failed)
    }

    /// What is in part `number`, from 1, and whether it is the last.
    ///
    /// # Errors
    /// It is damaged, another part, or by somebody who does not know the secret.
    pub fn open(&self, number: u64, file: &[u8]) -> Result<(Zeroizing<Vec<u8>>, bool), ExportError> {
        let identities = [&self.identity as &dyn age::Identity].into_iter();
        let mut content = envelope::open_up_to(file, LARGEST_PART, identities)
            .map_err(|error| ExportError::Part { number, error })?;
        let is = |is_last| {
            let found = content.get(..MARK).unwrap_or_default();
            constant_time::verify_slices_are_equal(found, &self.mark(number, is_last)).is_ok()
        };
        let (more, last) = (is(false), is(true));
        if !more && !last {
            return Err(ExportError::Mark { number });
        }
        content.drain(..MARK);
        Ok((content, last))
    }

    fn mark(&self, number: u64, is_last: bool) -> [u8; MARK] {
        let said =
            format!("postkeep export part 1\n{}\n{number}\n{}\n", self.head, if is_last { "last" } else { "more" });
        let mut mark = [0; MARK];
        mark.copy_from_slice(hmac::sign(&self.mark, said.as_bytes()).as_ref());
        mark
    }
}

/// Writes an export.
pub struct Writer<W> {
    into: W,
    key: Key,
    parts: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with the signed head.
    ///
    /// # Errors
    /// `into` takes nothing.
    pub fn new(mut into: W, head: &str, key: Key) -> Result<Self, ExportError> {
        into.write_all(BEGINS).and_then(|()| framed(&mut into, head.as_bytes())).map_err(ExportError::Write)?;
        Ok(Self { into, key, parts: 0 })
    }

    /// Writes all that `content` gives, and the end; gives back what it was written into. `seen` hears how many octets have gone.
    ///
    /// # Errors
    /// `content` or `into`.
    pub fn write_all(mut self, content: &mut dyn Read, mut seen: impl FnMut(u64)) -> Result<W, ExportError> {
        let (mut part, mut next) = (Zeroizing::new(Vec::new()), Zeroizing::new(Vec::new()));
        let mut octets = 0;
        fill(content, &mut part).map_err(ExportError::Read)?;
        loop {
            // Only whoever looks further knows which is the last.
            fill(content, &mut next).map_err(ExportError::Read)?;
            let is_last = next.is_empty();
            self.parts += 1;
            let file = self.key.seal(self.parts, is_last, &part)?;
            framed(&mut self.into, &file).map_err(ExportError::Write)?;
            octets += part.len() as u64;
            seen(octets);
            if is_last {
                return Ok(self.into);
            }
            std::mem::swap(&mut part, &mut next);
        }
    }
}

/// Reads an export.
pub struct Reader<R> {
    from: R,
    /// What it says of itself.
    pub head: Head,
}

impl<R: Read> Reader<R> {
    /// Reads the head, which has to be signed by one of `known`; by anybody, where nothing is given.
    ///
    /// # Errors
    /// It is no export, or not theirs.
    pub fn new(mut from: R, known: Option<&[VerifierKey]>) -> Result<Self, ExportError> {
        let mut begins = [0; BEGINS.len()];
        match from.read_exact(&mut begins) {
            Ok(()) if begins == BEGINS => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(ExportError::Read(error)),
            _ => return Err(ExportError::Form),
        }
        match unframed(&mut from, LARGEST_HEAD).map_err(ExportError::Read)? {
            Frame::Whole(note) => Ok(Self { head: Head::open(&note, known)?, from }),
            Frame::End | Frame::Cut | Frame::Large(_) => Err(ExportError::Form),
        }
    }

    /// Writes all that is in it into `into`. What was written is not to be relied on before this has come to its end. `seen` hears how many
    /// octets of the export were read.
    ///
    /// # Errors
    /// It is damaged, cut off, or not by whoever made it; or `into`.
    pub fn read_all(mut self, key: &Key, into: &mut dyn Write, mut seen: impl FnMut(u64)) -> Result<Head, ExportError> {
        let (mut number, mut octets) = (0, 0);
        loop {
            number += 1;
            let file = match unframed(&mut self.from, LARGEST_PART).map_err(ExportError::Read)? {
                Frame::Whole(file) => file,
                Frame::End | Frame::Cut => return Err(ExportError::Cut { number }),
                Frame::Large(octets) => return Err(ExportError::Large { number, octets }),
            };
            let (content, is_last) = key.open(number, &file)?;
            into.write_all(&content).map_err(ExportError::Write)?;
            octets += file.len() as u64;
            seen(octets);
            if is_last {
                break;
            }
        }
        match unframed(&mut self.from, LARGEST_PART).map_err(ExportError::Read)? {
            Frame::End => Ok(self.head),
            _ => Err(ExportError::Behind),
        }
    }
}

/// A name that people can be shown.
fn named(name: String) -> Result<String, ExportError> {
    if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(ExportError::Head(format!(
            "its name has {} octets; at most {LONGEST_NAME} on one line: give it another (--name)",
            name.len()
        )));
    }
    Ok(name)
}

/// The age identity of the export `id`, from the secret that its custodians' shares give. The age crate takes one that was made elsewhere as a text only.
fn identity(secret: &Secret, id: &VolumeId) -> Result<Identity, ExportError> {
    let failed = || ExportError::Head("no identity can be made of its secret".to_owned());
    let name = Hrp::parse("age-secret-key-").map_err(|_| failed())?;
    let octets = derived(secret.expose(), id, "postkeep export 1, key");
    let text = Zeroizing::new(bech32::encode_upper::<Bech32>(name, octets.expose()).map_err(|_| failed())?);
    text.parse().map_err(|_| failed())
}

fn framed(into: &mut impl Write, octets: &[u8]) -> io::Result<()> {
    let length = u32::try_from(octets.len()).map_err(io::Error::other)?;
    into.write_all(&length.to_be_bytes())?;
    into.write_all(octets)
}

/// What [`framed`] has written.
enum Frame {
    Whole(Vec<u8>),
    /// Nothing comes any more.
    End,
    /// It breaks off.
    Cut,
    /// It says that it is larger than may be.
    Large(u64),
}

fn unframed(from: &mut impl Read, most: usize) -> io::Result<Frame> {
    let mut length = Vec::with_capacity(4);
    from.by_ref().take(4).read_to_end(&mut length)?;
    let Ok(length) = <[u8; 4]>::try_from(&length[..]) else {
        return Ok(if length.is_empty() { Frame::End } else { Frame::Cut });
    };
    let length = u32::from_be_bytes(length);
    if length as usize > most {
        return Ok(Frame::Large(length.into()));
    }
    let mut octets = Vec::with_capacity(length as usize);
    from.by_ref().take(length.into()).read_to_end(&mut octets)?;
    Ok(if octets.len() == length as usize { Frame::Whole(octets) } else { Frame::Cut })
}

/// Fills `part` with what comes next: [`PART`] octets, or what is left.
fn fill(content: &mut dyn Read, part: &mut Zeroizing<Vec<u8>>) -> io::Result<()> {
    part.clear();
    // At its full length from the start: a vector that grew would leave copies behind.
    part.reserve_exact(PART);
    content.take(PART as u64).read_to_end(part).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Custodian, Quorum, System, combine};

    fn set(people: &[(&str, &Identity)], threshold: u8) -> KeySet {
        let custodian = |(name, identity): &(&str, &Identity)| Custodian {
            name: name.parse().unwrap(),
            recipients: vec![Recipient::of(identity)],
        };
        KeySet { threshold, custodians: people.iter().map(custodian).collect(), recovery: None }
    }

    fn signer() -> SignerKey {
        SignerKey::generate("box.example").unwrap()
    }

    fn made() -> (Head, Key) {
        let anna = Identity::generate();
        Head::make(&set(&[("anna", &anna)], 1), "a list", Timestamp::UNIX_EPOCH, &mut System).unwrap()
    }

    fn written(content: &[u8]) -> (Vec<u8>, Key) {
        let (head, key) = made();
        let again = Key {
            identity: key.identity.clone(),
            recipient: key.recipient.clone(),
            mark: key.mark.clone(),
            head: key.head,
        };
        let note = head.sign(&signer()).unwrap();
        let file = Writer::new(Vec::new(), &note, key).unwrap().write_all(&mut &content[..], |_| ()).unwrap();
        (file, again)
    }

    fn read(file: &[u8], key: &Key) -> Result<Vec<u8>, ExportError> {
        let mut content = Vec::new();
        Reader::new(file, None)?.read_all(key, &mut content, |_| ())?;
        Ok(content)
    }

    /// Where each part begins, behind its length, and where it ends.
    fn parts(file: &[u8]) -> Vec<std::ops::Range<usize>> {
        let mut at = BEGINS.len();
        let mut found = Vec::new();
        while at < file.len() {
            let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
            found.push(at + 4..at + 4 + length);
            at += 4 + length;
        }
        found.split_off(1)
    }

    #[test]
    fn a_quorum_reads_what_was_exported_and_fewer_do_not() {
        let [anna, ben, cleo] = [(); 3].map(|()| Identity::generate());
        let set = set(&[("anna", &anna), ("ben", &ben), ("cleo", &cleo)], 2);
        let (head, key) = Head::make(&set, "the suppression list", Timestamp::UNIX_EPOCH, &mut System).unwrap();
        let by = signer();
        let note = head.sign(&by).unwrap();
        let content = vec![7; 3 * PART + 11];
        let mut told = Vec::new();
        let file =
            Writer::new(Vec::new(), &note, key).unwrap().write_all(&mut &content[..], |seen| told.push(seen)).unwrap();
        assert_eq!(told.last(), Some(&(content.len() as u64)));
        assert_eq!(parts(&file).len(), 4);

        assert!(Reader::new(&file[..], Some(&[signer().verifier().clone()])).is_err(), "somebody else has made it");
        assert!(Reader::new(&file[..], Some(&[])).is_err(), "nobody who is known has");
        let reader = Reader::new(&file[..], Some(&[by.verifier().clone()])).unwrap();
        assert_eq!(reader.head, head);
        let token = &reader.head.token;
        let share = |identity: &Identity| token.open_shares(None, &[identity]).unwrap().remove(0).share;
        let threshold = token.shares(Purpose::Opening).unwrap().threshold;
        assert!(combine(&[share(&ben)], threshold).is_err());
        let secret = combine(&[share(&cleo), share(&anna)], threshold).unwrap();
        let key = reader.head.key(&secret, Purpose::Opening).unwrap();
        let mut read = Vec::new();
        assert_eq!(reader.read_all(&key, &mut read, |_| ()).unwrap(), head);
        assert!(read == content);
    }

    #[test]
    fn those_who_recover_a_box_read_its_exports_too() {
        let [anna, vault] = [(); 2].map(|()| Identity::generate());
        let safe = set(&[("vault", &vault)], 1).custodians;
        let set = KeySet { recovery: Some(Quorum { threshold: 1, custodians: safe }), ..set(&[("anna", &anna)], 1) };
        let (head, key) = Head::make(&set, "a list", Timestamp::UNIX_EPOCH, &mut System).unwrap();
        let note = head.sign(&signer()).unwrap();
        let file = Writer::new(Vec::new(), &note, key).unwrap().write_all(&mut &b"content"[..], |_| ()).unwrap();
        let secret = |identity: &Identity, purpose| {
            let held = head.token.open_shares(None, &[identity]).unwrap().remove(0);
            assert_eq!(held.purpose, purpose);
            combine(&[held.share], 1).unwrap()
        };
        for (identity, purpose) in [(&anna, Purpose::Opening), (&vault, Purpose::Recovery)] {
            let reader = Reader::new(&file[..], None).unwrap();
            let key = reader.head.key(&secret(identity, purpose), purpose).unwrap();
            let mut content = Vec::new();
            reader.read_all(&key, &mut content, |_| ()).unwrap();
            assert_eq!(content, b"content");
        }
        assert!(head.key(&secret(&anna, Purpose::Opening), Purpose::Recovery).is_err());
    }

    #[test]
    fn each_part_is_an_age_file_that_its_identity_opens() {
        // Oracle: the age crate itself; `tests/tests/product/age_programs.rs` asks Go's program.
        let (file, key) = written(b"what others read as well");
        let [part] = &parts(&file)[..] else { panic!("one part") };
        let opened = envelope::open(&file[part.clone()], [&key.identity as &dyn age::Identity].into_iter()).unwrap();
        assert_eq!(&opened[MARK..], b"what others read as well");
    }

    #[test]
    fn what_is_empty_or_as_long_as_a_part_comes_back() {
        for length in [0, 1, PART - 1, PART, PART + 1, 2 * PART] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let (file, key) = written(&content);
            assert!(read(&file, &key).unwrap() == content, "{length}");
        }
    }

    #[test]
    fn parts_are_neither_left_out_nor_moved_nor_added_and_no_other_hand_writes_one() {
        let (file, key) = written(&vec![1; 2 * PART + 5]);
        let places = parts(&file);
        let framed = |range: &std::ops::Range<usize>| &file[range.start - 4..range.end];
        let head = &file[..places[0].start - 4];
        let of = |parts: &[&[u8]]| [&[head], parts].concat().concat();
        let [one, two, three] = [0, 1, 2].map(|at| framed(&places[at]));
        assert!(read(&of(&[one, two, three]), &key).is_ok());
        for (parts, why) in [
            (&[one, two][..], "ends within part 3"),
            (&[], "ends within part 1"),
            (&[two, one, three], "part 1 was not written"),
            (&[one, one, two, three], "part 2 was not written"),
            (&[one, three], "part 2 was not written"),
            (&[one, two, three, three], "stands behind its last part"),
            (&[one, two, &three[..three.len() - 1]], "ends within part 3"),
            (&[one, two, &three[..2]], "ends within part 3"),
        ] {
            assert!(read(&of(parts), &key).unwrap_err().to_string().contains(why), "{why}");
        }
        // Whoever reads the public half off somewhere can encrypt to it.
        let forged = envelope::seal(&[0; MARK + 3], [&key.recipient].into_iter()).unwrap();
        assert!(matches!(key.open(1, &forged), Err(ExportError::Mark { number: 1 })));
        let short = envelope::seal(b"short", [&key.recipient].into_iter()).unwrap();
        assert!(matches!(key.open(1, &short), Err(ExportError::Mark { number: 1 })));
        assert!(matches!(made().1.open(1, &file[places[0].clone()]), Err(ExportError::Part { number: 1, .. })));
        assert!(key.seal(1, true, &vec![0; PART + 1]).is_err());
    }

    #[test]
    fn the_secret_of_an_export_always_gives_the_same_key() {
        // Oracle: Python's hmac, and X25519 and bech32 by hand (RFC 5869, RFC 7748, BIP 173).
        let secret = Secret::fill(|octets| octets.fill(7));
        let id = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
        let key = Key::of(&secret, &id, Sum::of(b"a head")).unwrap();
        assert_eq!(key.recipient.to_string(), KNOWN_RECIPIENT);
        let mark: String = key.mark(3, true).iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(mark, KNOWN_MARK);
    }

    const KNOWN_RECIPIENT: &str = "age1jyl9kjavu5udlrv8hx4cdm62sekjmjqy5ff0cha20z2rqhnkayjsea7m5g";
    const KNOWN_MARK: &str = "4c2dc7327da733de5c1962d24201b01915d0ae96ec1162e817bd1ed99ed4e933";

    proptest! {
        #[test]
        fn no_octet_of_it_may_be_another(at: prop::sample::Index, flaw in 1_u8..) {
            let (file, key) = written(b"some content that nobody may change");
            let (mut changed, at) = (file.clone(), at.index(file.len()));
            changed[at] ^= flaw;
            // Also where nobody's signature is asked for. Only the signature itself may be another then.
            let of_head = |key: &Key| Key { identity: key.identity.clone(), recipient: key.recipient.clone(), mark: key.mark.clone(), head: Reader::new(&changed[..], None).map_or(key.head, |reader| reader.head.sum()) };
            if read(&changed, &of_head(&key)).is_ok() {
                let head = |file: &[u8]| Reader::new(file, None).unwrap().head;
                prop_assert_eq!(head(&changed), head(&file));
            }
        }

        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), whole: bool) {
            let file = if whole { [BEGINS, &octets].concat() } else { octets };
            prop_assert!(Reader::new(&file[..], None).is_err());
        }
    }
}
