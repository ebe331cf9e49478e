//! Tokens: what the box puts into each mail so that whatever comes back finds its recipient, and nobody
//! else can make the box believe anything about anybody.
//!
//! A *short* token fits into the local part of a return path and names the message and the key of the
//! address. A *long* one stands in header fields and addresses of pages, where there is room for the address itself and
//! the stream. Both are AES-256-GCM-SIV under keys made from the list's secret: opaque, and only this box makes
//! them. They tell the reader of a mail nothing and are of no use with another address.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::{Encoding, Specification};
use postkeep_smtp::Address;

use crate::secret::{KEY_LENGTH, Key, Secret};

/// Octets that sealing adds.
const TAG_LENGTH: usize = 16;
/// Octets of a short token before it is written.
const SHORT_LENGTH: usize = KEY_LENGTH + 8 + 2;
/// What a return path begins with.
const PREFIX: char = 'b';
/// Longest long token, in octets of text.
const LONGEST: usize = 1024;

/// What a short token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortToken {
    /// The key of the address.
    pub key: Key,
    /// The message's number in the spool.
    pub message: u64,
    /// The recipient's place in its envelope.
    pub recipient: u16,
}

/// What a long token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongToken {
    /// Who was written to.
    pub address: Address,
    /// The message's number in the spool.
    pub message: u64,
    /// The recipient's place in its envelope.
    pub recipient: u16,
    /// When the message was accepted, Unix seconds.
    pub time: u32,
    /// Its stream.
    pub stream: Box<str>,
    /// Its list.
    pub list: Option<Box<str>>,
}

/// Makes and opens tokens.
pub struct Tokens {
    secret: Secret,
    short: LessSafeKey,
    long: LessSafeKey,
    unsubscribe: LessSafeKey,
    base32: Encoding,
}

impl Tokens {
    /// Tokens of a list with that secret; `None`: the cipher is not to be had.
    pub(crate) fn new(secret: &Secret) -> Option<Self> {
        let key = |context: &str| {
            let octets = blake3::derive_key(context, secret.octets());
            UnboundKey::new(&AES_256_GCM_SIV, &octets).ok().map(LessSafeKey::new)
        };
        // A return path may come back in another case, so it has digits and letters of one case only.
        let mut specification = Specification::new();
        specification.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
        specification.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUV");
        specification.translate.to.push_str("abcdefghijklmnopqrstuv");
        Some(Self {
            secret: secret.clone(),
            short: key("postkeep 2026-11 short token")?,
            long: key("postkeep 2026-11 long token")?,
            unsubscribe: key("postkeep 2026-11 unsubscribe token")?,
            base32: specification.encoding().ok()?,
        })
    }

    /// The local part of a return path, at most 62 octets.
    pub fn return_path(&self, address: &Address, message: u64, recipient: u16) -> String {
        let mut octets = Vec::with_capacity(SHORT_LENGTH + TAG_LENGTH);
        octets.extend_from_slice(&self.secret.key(address).0);
        octets.extend_from_slice(&message.to_be_bytes());
        octets.extend_from_slice(&recipient.to_be_bytes());
        format!("{PREFIX}{}", self.base32.encode(&sealed(&self.short, octets)))
    }

    /// What a return path of ours says; `None`: it is none.
    pub fn open_return_path(&self, local: &str) -> Option<ShortToken> {
        let text = local.strip_prefix([PREFIX, PREFIX.to_ascii_uppercase()])?;
        if text.len() > 64 {
            return None;
        }
        let octets = opened(&self.short, self.base32.decode(text.as_bytes()).ok()?)?;
        let octets: [u8; SHORT_LENGTH] = octets.try_into().ok()?;
        let (key, rest) = octets.split_first_chunk::<KEY_LENGTH>()?;
        let (message, recipient) = rest.split_first_chunk::<8>()?;
        Some(ShortToken {
            key: Key(*key),
            message: u64::from_be_bytes(*message),
            recipient: u16::from_be_bytes(recipient.try_into().ok()?),
        })
    }

    /// A long token: letters, digits, `-` and `_`.
    pub fn long(&self, token: &LongToken) -> String {
        written(&self.long, token)
    }

    /// What a long token says; `None`: it is none of ours.
    pub fn open_long(&self, text: &str) -> Option<LongToken> {
        read(&self.long, text)
    }

    /// The token of an unsubscribe link, like a long one. Under a key of its own: long tokens travel through feedback
    /// loops, and whoever sees one there must not be able to unsubscribe anybody.
    pub fn unsubscribe(&self, token: &LongToken) -> String {
        written(&self.unsubscribe, token)
    }

    /// What the token of an unsubscribe link says; `None`: it is none of ours.
    pub fn open_unsubscribe(&self, text: &str) -> Option<LongToken> {
        read(&self.unsubscribe, text)
    }

    /// The key of an address.
    pub fn key_of(&self, address: &Address) -> Key {
        self.secret.key(address)
    }

    /// Whether a key is that of an address.
    pub fn is_of(&self, key: Key, address: &Address) -> bool {
        self.secret.key(address) == key
    }
}

/// Writes a token under a key.
fn written(key: &LessSafeKey, token: &LongToken) -> String {
    let mut octets = Vec::with_capacity(64 + token.address.as_str().len());
    octets.extend_from_slice(&token.message.to_be_bytes());
    octets.extend_from_slice(&token.recipient.to_be_bytes());
    octets.extend_from_slice(&token.time.to_be_bytes());
    for text in [&*token.stream, token.list.as_deref().unwrap_or_default()] {
        // Names of streams and lists are no longer than that.
        let text = &text[..text.floor_char_boundary(255)];
        octets.push(text.len() as u8);
        octets.extend_from_slice(text.as_bytes());
    }
    octets.extend_from_slice(token.address.as_str().as_bytes());
    URL_SAFE_NO_PAD.encode(sealed(key, octets))
}

/// Reads a token under a key.
fn read(key: &LessSafeKey, text: &str) -> Option<LongToken> {
    if text.len() > LONGEST {
        return None;
    }
    let octets = opened(key, URL_SAFE_NO_PAD.decode(text).ok()?)?;
    let (message, rest) = octets.split_first_chunk::<8>()?;
    let (recipient, rest) = rest.split_first_chunk::<2>()?;
    let (time, mut rest) = rest.split_first_chunk::<4>()?;
    let mut text = || {
        let (length, after) = rest.split_first()?;
        let (text, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        std::str::from_utf8(text).ok()
    };
    let (stream, list) = (text()?, text()?);
    Some(LongToken {
        message: u64::from_be_bytes(*message),
        recipient: u16::from_be_bytes(*recipient),
        time: u32::from_be_bytes(*time),
        stream: stream.into(),
        list: (!list.is_empty()).then(|| list.into()),
        address: std::str::from_utf8(rest).ok()?.parse().ok()?,
    })
}

/// The same octets always give the same token: that tells whoever sees two of them no more than that.
fn sealed(key: &LessSafeKey, mut octets: Vec<u8>) -> Vec<u8> {
    match key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut octets) {
        Ok(()) => octets,
        // Only for gigabytes; an empty token is none.
        Err(_) => Vec::new(),
    }
}

fn opened(key: &LessSafeKey, mut octets: Vec<u8>) -> Option<Vec<u8>> {
    let length = key.open_in_place(nonce(), Aad::empty(), &mut octets).ok()?.len();
    octets.truncate(length);
    Some(octets)
}

/// SIV makes its own; RFC 8452 §9 allows one nonce for all where equal messages may look equal.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(octet: u8) -> Tokens {
        Tokens::new(&Secret::new([octet; 32])).unwrap()
    }

    #[test]
    fn a_return_path_fits_into_a_local_part_in_any_case_and_opens_only_here() {
        let address: Address = "Ann.Lee@example.org".parse().unwrap();
        let path = tokens(1).return_path(&address, u64::MAX, 65_535);
        assert!(
            path.len() <= 62 && path.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit()),
            "{path}"
        );
        assert!(format!("{path}@bounce.example.org").parse::<Address>().is_ok());
        for spelling in [path.clone(), path.to_uppercase()] {
            let token = tokens(1).open_return_path(&spelling).unwrap();
            assert_eq!((token.message, token.recipient), (u64::MAX, 65_535));
            assert!(
                tokens(1).is_of(token.key, &address)
                    && tokens(1).is_of(token.key, &"ann.lee@EXAMPLE.org".parse().unwrap())
            );
            assert!(!tokens(1).is_of(token.key, &"ann@example.org".parse().unwrap()));
        }
        assert_eq!(tokens(2).open_return_path(&path), None);
    }

    #[test]
    fn a_long_token_gives_back_what_went_in_and_hides_it() {
        let token = LongToken {
            address: "jürgen@example.org".parse().unwrap(),
            message: 7,
            recipient: 2,
            time: 1_790_000_000,
            stream: "news".into(),
            list: Some("weekly.example.org".into()),
        };
        let text = tokens(1).long(&token);
        assert_eq!(tokens(1).open_long(&text), Some(token.clone()));
        assert_eq!(tokens(2).open_long(&text), None);
        assert!(text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(&octet)), "{text}");
        assert!(text.len() < 150, "{text}");
        let bare = LongToken { list: None, ..token };
        assert_eq!(tokens(1).open_long(&tokens(1).long(&bare)), Some(bare));
    }

    #[test]
    fn the_token_of_a_link_and_that_of_a_header_cannot_stand_for_each_other() {
        let token = LongToken {
            address: "ann@example.org".parse().unwrap(),
            message: 7,
            recipient: 0,
            time: 1_790_000_000,
            stream: "news".into(),
            list: None,
        };
        let (link, header) = (tokens(1).unsubscribe(&token), tokens(1).long(&token));
        assert_eq!(tokens(1).open_unsubscribe(&link), Some(token.clone()));
        assert_eq!((tokens(1).open_unsubscribe(&header), tokens(1).open_long(&link)), (None, None));
        assert_eq!(tokens(2).open_unsubscribe(&link), None);
        // The longest list, address and URL together fit a line of 998 octets (RFC 5322 §2.1.1).
        let longest = LongToken {
            address: format!("{}@{}.example.org", "a".repeat(64), "b".repeat(60)).parse().unwrap(),
            stream: "s".repeat(64).into(),
            list: Some("l".repeat(255).into()),
            ..token
        };
        let text = tokens(1).unsubscribe(&longest);
        assert!(text.len() + 130 < 998, "{}", text.len());
        assert_eq!(tokens(1).open_unsubscribe(&text), Some(longest));
    }

    proptest! {
        #[test]
        fn a_token_that_was_touched_is_none(place in 0usize..61, other in "[0-9a-v]") {
            let tokens = tokens(1);
            let path = tokens.return_path(&"ann@example.org".parse().unwrap(), 5, 0);
            let mut touched = path.clone();
            touched.replace_range(place + 1..place + 2, &other);
            prop_assert_eq!(tokens.open_return_path(&touched).is_some(), touched == path);
        }

        #[test]
        fn no_text_makes_opening_panic(text in "\\PC{0,80}") {
            prop_assert_eq!(tokens(1).open_return_path(&text), None);
            prop_assert_eq!(tokens(1).open_long(&text), None);
        }
    }
}
