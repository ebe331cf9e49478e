//! A note: taken apart, verified, signed.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::key::is_name;
use crate::{NoteError, SignerKey, VerifierKey};

/// A release lists a dozen files and a seed may hold a configuration; neither comes near.
pub const LARGEST_NOTE: usize = 1024 * 1024;
/// A checkpoint with all its witnesses has some dozens.
pub const MOST_SIGNATURES: usize = 100;

/// How each line of a signature begins: a dash, which no key's name can be.
const DASH: &str = "\u{2014} ";

/// A note that was read and not verified yet: what stands in it is a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<Signature<'a>>,
}

/// One line of signature, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Who is said to have signed.
    pub name: &'a str,
    /// The four octets that say with which of their keys.
    pub id: [u8; 4],
    octets: Vec<u8>,
}

/// A text, and who signed it: what [`open`] gives for a note that it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<'a> {
    /// What was signed, with its last line feed.
    pub text: &'a str,
    /// The known keys whose signatures were found and are right; at least one.
    pub signers: Vec<&'a VerifierKey>,
}

/// The text of the note in `octets`, when one of `known` signed it and none of their signatures is wrong.
///
/// # Errors
/// It is no note, nobody known signed it, or a signature is wrong.
pub fn open<'a>(octets: &'a [u8], known: &'a [VerifierKey]) -> Result<Verified<'a>, NoteError> {
    Note::parse(octets)?.verify(known)
}

/// The note that says `text` with a signature of each of `signers`, in their order.
///
/// # Errors
/// The text is one that notes cannot hold, or there is nobody to sign it.
pub fn sign(text: &str, signers: &[&SignerKey]) -> Result<String, NoteError> {
    if signers.is_empty() {
        return Err(NoteError::NoSigner);
    }
    if signers.len() > MOST_SIGNATURES {
        return Err(NoteError::TooManySignatures);
    }
    if !text.ends_with('\n') {
        return Err(NoteError::NoLineEnd);
    }
    control_free(text)?;
    let mut note = format!("{text}\n");
    for signer in signers {
        note.push_str(&signed_line(text, signer)?);
    }
    not_too_large(note)
}

/// The note in `octets` with a signature of `signer` after those that it has. Nothing is verified by that.
///
/// # Errors
/// It is no note, or has as many signatures as a note can have.
pub fn countersign(octets: &[u8], signer: &SignerKey) -> Result<String, NoteError> {
    let note = Note::parse(octets)?;
    if note.signatures.len() == MOST_SIGNATURES {
        return Err(NoteError::TooManySignatures);
    }
    let line = signed_line(note.text, signer)?;
    not_too_large(String::from_utf8_lossy(octets).into_owned() + &line)
}

impl<'a> Note<'a> {
    /// Takes the note in `octets` apart. Nothing is verified by that.
    ///
    /// # Errors
    /// It is no note.
    pub fn parse(octets: &'a [u8]) -> Result<Self, NoteError> {
        if octets.len() > LARGEST_NOTE {
            return Err(NoteError::TooLarge { octets: octets.len(), limit: LARGEST_NOTE });
        }
        let whole = std::str::from_utf8(octets).map_err(|error| NoteError::NotUtf8 { at: error.valid_up_to() })?;
        control_free(whole)?;
        // The signatures are what follows the last empty line.
        let Some(split) = whole.rfind("\n\n") else {
            return Err(NoteError::Unsigned);
        };
        let (text, lines) = (&whole[..=split], &whole[split + 2..]);
        if lines.is_empty() || !lines.contains(DASH) {
            return Err(NoteError::Unsigned);
        }
        let first = text.matches('\n').count() + 2;
        let Some(lines) = lines.strip_suffix('\n') else {
            let line = first + lines.matches('\n').count();
            return Err(NoteError::Damaged { line, why: "its end is missing" });
        };
        let mut signatures = Vec::new();
        for (at, line) in lines.split('\n').enumerate() {
            if signatures.len() == MOST_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let signature = Signature::parse(line).map_err(|why| NoteError::Damaged { line: first + at, why })?;
            signatures.push(signature);
        }
        Ok(Self { text, signatures })
    }

    /// What the note says, before anybody has verified who said it.
    #[must_use]
    pub fn unverified_text(&self) -> &'a str {
        self.text
    }

    /// The lines of signature, in their order.
    #[must_use]
    pub fn signatures(&self) -> &[Signature<'a>] {
        &self.signatures
    }

    /// The text, when one of `known` signed it and none of their signatures is wrong. Signatures of others do not count.
    ///
    /// # Errors
    /// Nobody known signed it, or a signature is wrong.
    pub fn verify(&self, known: &'a [VerifierKey]) -> Result<Verified<'a>, NoteError> {
        let mut signers: Vec<&VerifierKey> = Vec::new();
        for signature in &self.signatures {
            for key in known.iter().filter(|key| key.name() == signature.name && key.id() == signature.id) {
                if !key.verifies(self.text.as_bytes(), &signature.octets) {
                    return Err(NoteError::WrongSignature { key: key.to_string() });
                }
                if !signers.contains(&key) {
                    signers.push(key);
                }
            }
        }
        if signers.is_empty() {
            let said = |name: &str, id: [u8; 4]| format!("{name}+{:08x}", u32::from_be_bytes(id));
            let listed = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(NoteError::UnknownKeys {
                signers: listed(self.signatures.iter().map(|signed| said(signed.name, signed.id)).collect()),
                known: listed(known.iter().map(|key| said(key.name(), key.id())).collect()),
            });
        }
        Ok(Verified { text: self.text, signers })
    }
}

impl<'a> Signature<'a> {
    fn parse(line: &'a str) -> Result<Self, &'static str> {
        let line = line.strip_prefix(DASH).ok_or("it does not begin with a dash and a space")?;
        let (name, encoded) = line.split_once(' ').ok_or("it has no name or no signature")?;
        if !is_name(name) {
            return Err("its name is not one that a key can have");
        }
        let octets = BASE64_STANDARD.decode(encoded).map_err(|_| "it is not base64")?;
        match octets.split_first_chunk() {
            Some((id, octets)) if !octets.is_empty() => Ok(Self { name, id: *id, octets: octets.to_vec() }),
            _ => Err("it is too short"),
        }
    }
}

/// What `signer` says to `text`.
fn signed_line(text: &str, signer: &SignerKey) -> Result<String, NoteError> {
    let key = signer.verifier();
    let signature = signer.sign(text.as_bytes()).ok_or_else(|| NoteError::CannotSign { key: key.to_string() })?;
    let named = [&key.id()[..], &signature].concat();
    Ok(format!("{DASH}{} {}\n", key.name(), BASE64_STANDARD.encode(named)))
}

fn not_too_large(note: String) -> Result<String, NoteError> {
    match note.len() {
        octets if octets > LARGEST_NOTE => Err(NoteError::TooLarge { octets, limit: LARGEST_NOTE }),
        _ => Ok(note),
    }
}

fn control_free(text: &str) -> Result<(), NoteError> {
    for (at, line) in text.split('\n').enumerate() {
        if let Some(character) = line.chars().find(|character| *character < ' ') {
            return Err(NoteError::ControlCharacter { line: at + 1, character });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the documentation of Go's `golang.org/x/mod/sumdb/note`.
    const TEXT: &str =
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const SIGNATURE: &str = "\u{2014} PeterNeumann \
        x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SIGNER: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

    fn peter() -> SignerKey {
        let octets = BASE64_STANDARD.decode(SIGNER).unwrap();
        SignerKey::from_seed(octets[1..].try_into().unwrap(), "PeterNeumann").unwrap()
    }

    fn known() -> Vec<VerifierKey> {
        vec![VERIFIER.parse().unwrap()]
    }

    #[test]
    fn a_note_that_another_tool_signed_opens() {
        let (note, known) = (format!("{TEXT}\n{SIGNATURE}"), known());
        let opened = open(note.as_bytes(), &known).unwrap();
        assert_eq!(opened.text, TEXT);
        assert_eq!(opened.signers, [&known[0]]);
    }

    #[test]
    fn we_sign_octet_for_octet_what_another_tool_signs() {
        assert_eq!(peter().verifier().to_string(), VERIFIER);
        assert_eq!(sign(TEXT, &[&peter()]).unwrap(), format!("{TEXT}\n{SIGNATURE}"));
    }

    #[test]
    fn one_known_signature_among_strangers_is_enough_and_a_wrong_one_of_a_known_key_is_too_much() {
        let stranger = SignerKey::generate("stranger").unwrap();
        let known = [known()[0].clone(), SignerKey::generate("absent").unwrap().verifier().clone()];
        let note = sign(TEXT, &[&stranger, &peter()]).unwrap();
        assert_eq!(open(note.as_bytes(), &known).unwrap().signers, [&known[0]]);
        let both = [stranger.verifier().clone(), known[0].clone()];
        assert_eq!(open(note.as_bytes(), &both).unwrap().signers, [&both[0], &both[1]]);
        let forged = note.replace("cryptography", "telegraphy");
        assert!(matches!(open(forged.as_bytes(), &known), Err(NoteError::WrongSignature { .. })));
    }

    #[test]
    fn a_note_of_strangers_says_who_signed_and_who_would_be_believed() {
        let note = sign(TEXT, &[&peter()]).unwrap();
        let other = [SignerKey::generate("release.example").unwrap().verifier().clone()];
        let error = open(note.as_bytes(), &other).unwrap_err().to_string();
        assert!(error.contains("PeterNeumann+c74f20a3") && error.contains("release.example+"), "{error}");
        assert!(open(note.as_bytes(), &[]).unwrap_err().to_string().contains("(none)"));
    }

    #[test]
    fn a_text_may_hold_empty_lines_and_lines_that_look_like_signatures() {
        let text = format!("first\n\n{SIGNATURE}\n\nlast\n");
        let note = sign(&text, &[&peter()]).unwrap();
        assert_eq!(open(note.as_bytes(), &known()).unwrap().text, text);
    }

    #[test]
    fn what_is_no_note_is_told_apart() {
        let note = format!("{TEXT}\n{SIGNATURE}");
        let opened = |octets: &[u8]| open(octets, &known()).map(|opened| opened.text.to_owned());
        assert_eq!(opened(b""), Err(NoteError::Unsigned));
        assert_eq!(opened(TEXT.as_bytes()), Err(NoteError::Unsigned));
        assert_eq!(opened(format!("{TEXT}\n").as_bytes()), Err(NoteError::Unsigned));
        assert_eq!(opened(b"text\n\xff"), Err(NoteError::NotUtf8 { at: 5 }));
        assert!(matches!(
            opened(note.replace('\n', "\r\n").as_bytes()),
            Err(NoteError::ControlCharacter { line: 1, character: '\r' })
        ));
        assert!(matches!(opened(note.trim_end().as_bytes()), Err(NoteError::Damaged { line: 4, .. })));
        assert!(matches!(opened(format!("{note}more\n").as_bytes()), Err(NoteError::Damaged { line: 5, .. })));
        assert!(matches!(opened(note.replace("x08go", "x0-go").as_bytes()), Err(NoteError::Damaged { .. })));
        let many = format!("{TEXT}\n{}", SIGNATURE.repeat(MOST_SIGNATURES + 1));
        assert_eq!(opened(many.as_bytes()), Err(NoteError::TooManySignatures));
        let large = vec![b'a'; LARGEST_NOTE + 1];
        assert!(matches!(opened(&large), Err(NoteError::TooLarge { .. })));
    }

    #[test]
    fn what_a_note_cannot_hold_is_not_signed() {
        assert_eq!(sign("no end", &[&peter()]), Err(NoteError::NoLineEnd));
        assert_eq!(sign("text\n", &[]), Err(NoteError::NoSigner));
        assert!(matches!(sign("one\ntwo\t\n", &[&peter()]), Err(NoteError::ControlCharacter { line: 2, .. })));
    }

    proptest! {
        #[test]
        fn every_text_that_is_signed_comes_back(text in "([^\\x00-\\x1f]|\\n){0,200}") {
            let text = format!("{text}\n");
            let note = sign(&text, &[&peter()]).unwrap();
            let known = known();
            prop_assert_eq!(open(note.as_bytes(), &known).unwrap().text, text);
        }

        #[test]
        fn one_flipped_bit_is_noticed(at in 0..(TEXT.len() + 1 + SIGNATURE.len()), bit in 0..8_u8) {
            let mut octets = format!("{TEXT}\n{SIGNATURE}").into_bytes();
            octets[at] ^= 1 << bit;
            prop_assert!(open(&octets, &known()).is_err());
        }

        #[test]
        fn a_cut_note_is_noticed(length in 0..(TEXT.len() + 1 + SIGNATURE.len())) {
            let octets = format!("{TEXT}\n{SIGNATURE}").into_bytes();
            prop_assert!(open(&octets[..length], &known()).is_err());
        }

        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..300), text in "(\\PC|\\n|\u{2014} ){0,80}") {
            let _ = open(&octets, &known());
            let _ = open(text.as_bytes(), &known());
            let _ = text.parse::<VerifierKey>();
        }
    }
}
