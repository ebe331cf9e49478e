//! What can be wrong with a note or a key, and what to do about it.

use std::path::PathBuf;

/// Why a note is not believed, or cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// More octets than anybody's note has.
    #[error("the signed note has {octets} octets, and at most {limit} are read; this is some other file")]
    TooLarge {
        /// How many there are.
        octets: usize,
        /// How many are read.
        limit: usize,
    },
    /// The octets are no text.
    #[error("the signed note is not UTF-8 from octet {at} on; it is damaged, or some other file: fetch it again")]
    NotUtf8 {
        /// The first octet that is wrong.
        at: usize,
    },
    /// A text may hold no control characters but the line feed.
    #[error(
        "line {line} of the text has the control character {character:?}; a signed note may hold none but the line feed"
    )]
    ControlCharacter {
        /// Counted from 1.
        line: usize,
        /// The one that was met first.
        character: char,
    },
    /// A text to be signed that does not end with a line feed.
    #[error("the text to be signed does not end with a line feed; add one")]
    NoLineEnd,
    /// There is a text, and nothing that signs it.
    #[error(
        "no signatures follow the text: it is unsigned, or its end is missing; fetch it again, or ask whoever made it"
    )]
    Unsigned,
    /// A line behind the text that is no signature.
    #[error("line {line} is not a signature ({why}); the note is damaged: fetch it again")]
    Damaged {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More signatures than anybody wants to check.
    #[error("the note has more than {MOST} signatures; that is not a note of ours", MOST = crate::MOST_SIGNATURES)]
    TooManySignatures,
    /// A signature that claims to be by a key that we know, and is not.
    #[error("the signature by {key} is wrong: the text was changed after it was signed; do not use it, fetch it again")]
    WrongSignature {
        /// The key, in its text form.
        key: String,
    },
    /// Good or not, nobody here knows who signed.
    #[error("signed by {signers}, and by no key that is known here ({known}); check which key you trust")]
    UnknownKeys {
        /// Who claims to have signed: names and key ids.
        signers: String,
        /// The keys that would have been believed.
        known: String,
    },
    /// Nobody signs.
    #[error("nothing to sign with: no key was given")]
    NoSigner,
    /// The library of ciphers refused.
    #[error("the text cannot be signed with the key {key}")]
    CannotSign {
        /// The key, in its text form.
        key: String,
    },
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text form of a public key is not right.
    #[error("{text:?} is not a public key ({why}); it has the form name+8-hex-digits+base64, copy all of it")]
    Verifier {
        /// What was given, cut where it is long.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name that notes cannot carry.
    #[error(
        "{name:?} cannot be the name of a key: it needs 1 to {LONGEST} characters, none of them a space or a plus sign",
        LONGEST = crate::key::LONGEST_NAME
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// A file of a private key that does not hold one.
    #[error("cannot use the private key in {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No random numbers, or the library of ciphers refused.
    #[error("cannot make a key: the system's source of random numbers failed")]
    Generate,
}
