//! What custodians and boxes send each other, and what lies beside a volume.

use age::x25519::Identity;
use postkeep_keys::export::Reader;
use postkeep_keys::keeper::Keeper;
use postkeep_keys::wire::{LONGEST_LINE, Request};
use postkeep_keys::{Answer, Cause, KeySet, Offer, Random, Token, combine, words};

/// The key of a custodian whom the seeds name, of the test vectors of age's specification: a secret of nobody.
pub(crate) const CUSTODIAN: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

/// Octets that are the same each time.
struct Counted(u8);

impl Random for Counted {
    fn fill(&mut self, octets: &mut [u8]) {
        for octet in octets {
            self.0 = self.0.wrapping_mul(5).wrapping_add(3);
            *octet = self.0;
        }
    }
}

/// Who opens a box. What is taken is written and read back the same, and no secret key is ever repeated.
pub(crate) fn key_set(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match KeySet::parse(text) {
        Ok(set) => {
            let again = KeySet::parse(&set.text().expect("what was read can be written")).expect("and read again");
            assert_eq!(again, set);
            assert!(set.threshold >= 1 && usize::from(set.threshold) <= set.custodians.len());
        }
        Err(error) => {
            let said = error.to_string().to_ascii_uppercase();
            let secret = text.to_ascii_uppercase();
            let begin = secret.find("AGE-SECRET-KEY-1").map(|at| &secret[at..]);
            let key = begin
                .and_then(|begin| begin.get(16..40))
                .filter(|key| key.bytes().all(|octet| octet.is_ascii_alphanumeric()));
            assert!(key.is_none_or(|key| !said.contains(key)), "{said}");
        }
    }
}

/// The token beside a volume, as a box that starts finds it: what opens of it is a share that it says it keeps, and it is kept as it was
/// read.
pub(crate) fn token(input: &[u8]) {
    let Ok(token) = Token::unverified(input) else { return };
    let again = Token::parse(token.text()).expect("what was read is read again");
    assert_eq!((again.sum(), &again), (token.sum(), &token));
    token.key_set().check().expect("its key set is one");
    let custodian: Identity = CUSTODIAN.parse().expect("a key");
    for held in token.open_shares(None, &[&custodian]).unwrap_or_default() {
        assert!(token.keeps(&held.name, held.purpose, &held.share));
    }
}

/// A file for custodians, read with the key of one. What is taken is whole: with an octet less, or one more, nothing is.
pub(crate) fn export(input: &[u8]) {
    let Ok(reader) = Reader::new(input, None) else { return };
    let custodian: Identity = CUSTODIAN.parse().expect("a key");
    for held in reader.head.token.open_shares(None, &[&custodian]).unwrap_or_default() {
        let Ok(secret) = combine(&[held.share], 1) else { return };
        let Ok(key) = reader.head.key(&secret, held.purpose) else { continue };
        let read = |file: &[u8]| {
            let mut content = Vec::new();
            Reader::new(file, None).and_then(|reader| reader.read_all(&key, &mut content, |_| ())).map(|_| content)
        };
        if let Ok(content) = read(input) {
            assert!(content.len() < input.len());
            assert!(read(&input[..input.len() - 1]).is_err());
            assert!(read(&[input, &[0]].concat()).is_err());
        }
    }
}

/// What comes through the door of a sealed box: no text opens it, whatever it is.
pub(crate) fn seal_request(input: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(&input[..input.len().min(LONGEST_LINE)]) else { return };
    let note = include_bytes!("../corpus/token/two_of_three");
    let token = Token::unverified(note).expect("the seed is a token");
    let note = String::from_utf8_lossy(note).into_owned();
    for mut keeper in [
        Keeper::sealed(note.clone(), token.clone(), Cause::Unknown, &mut Counted(1)),
        Keeper::open(note.clone(), token.clone(), &mut Counted(3)),
    ] {
        for _ in 0..2 {
            let handled = keeper.handle(&request, &[], std::time::Duration::ZERO, &mut Counted(2));
            assert_eq!(handled.act, None, "{request:?}");
        }
    }
    let answer_key: Identity = CUSTODIAN.parse().expect("a key");
    if let Request::Answer { answer } = &request {
        let _ = Answer::open(answer.as_bytes(), &answer_key);
    }
}

/// What people type: the words of a share, and the line of an offer. What is taken is written the same.
pub(crate) fn typed(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(share) = words::share(text) {
        let written = words::words(&share).join(" ");
        assert!(words::share(&written).is_ok_and(|again| words::words(&again).join(" ") == written));
    }
    if let Ok(offer) = text.parse::<Offer>() {
        assert_eq!(offer.to_string().parse::<Offer>().as_ref(), Ok(&offer));
    }
}
