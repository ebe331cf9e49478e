//! A share on paper: 26 words of the English list of BIP 39, in which no two words begin with the same four letters.
//!
//! The first 24 hold the share (264 bits), the last two a check sum of it (22 bits of its SHA-256). They can be typed in with four
//! letters of each. It is no phrase of a wallet: those have at most 24 words.

use std::num::NonZeroU8;

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use crate::{SECRET, Secret, Share};

/// How many words a share has.
pub const WORDS: usize = 26;

/// The English list of BIP 39 (bitcoin/bips, bip-0039/english.txt): 2,048 words, one on each line.
const LIST: &str = include_str!("words/english.txt");
const LABEL: &[u8] = b"postkeep paper 1";
const BITS: usize = 11;
/// The share, and what is left of the last word after 22 bits of sum: nothing, since 264 and 22 are multiples of 11.
const OCTETS: usize = 1 + SECRET;
const CHECKED: usize = OCTETS * 8 / BITS;
/// Words are told by this many letters, or by all that they have.
const LETTERS: usize = 4;
/// A whole sheet, with its picture.
const LONGEST_TEXT: usize = 64 << 10;

/// Why words are no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// See the text.
    #[error("a share has {WORDS} words, and {given} were given; type the words alone, or with their numbers")]
    Count {
        /// How many.
        given: usize,
    },
    /// See the text.
    #[error("a share is {WORDS} words, and this has {octets} octets: it is something else")]
    TooLong {
        /// How many.
        octets: usize,
    },
    /// See the text. The word itself is part of a secret and is not repeated.
    #[error("word {at} is not on the list; compare its first four letters with the paper")]
    Unknown {
        /// Which, from 1.
        at: usize,
    },
    /// See the text.
    #[error("each word is on the list, but they do not belong together: one was misread, or two have changed places")]
    Sum,
}

/// The words of `share`.
#[must_use]
pub fn words(share: &Share) -> Vec<&'static str> {
    let octets = octets_of(share);
    let list: Vec<&'static str> = LIST.lines().collect();
    let mut numbers = Zeroizing::new(Vec::with_capacity(WORDS));
    let (mut held, mut bits) = (Zeroizing::new(0_u32), 0);
    for octet in octets.iter() {
        *held = *held << 8 | u32::from(*octet);
        bits += 8;
        if bits >= BITS {
            bits -= BITS;
            numbers.push(*held >> bits & 0x7ff);
            *held &= (1 << bits) - 1;
        }
    }
    numbers.extend(sum_of(&octets));
    numbers.iter().map(|number| list[*number as usize]).collect()
}

/// The share that `text` says; capitals, line ends, and numbers before words do not matter. Where all words have their numbers, what stands
/// between them does not matter either: it may be the whole sheet.
///
/// # Errors
/// A word is missing or wrong.
pub fn share(text: &str) -> Result<Share, WordsError> {
    if text.len() > LONGEST_TEXT {
        return Err(WordsError::TooLong { octets: text.len() });
    }
    let given = numbered(text).unwrap_or_else(|| {
        text.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|word| !word.is_empty()).collect()
    });
    if given.len() != WORDS {
        return Err(WordsError::Count { given: given.len() });
    }
    let mut numbers = Zeroizing::new(Vec::with_capacity(WORDS));
    for (at, word) in given.iter().enumerate() {
        numbers.push(number(word).ok_or(WordsError::Unknown { at: at + 1 })?);
    }
    let mut octets = Zeroizing::new([0; OCTETS]);
    let (mut held, mut bits, mut at) = (Zeroizing::new(0_u32), 0, 0);
    for number in &numbers[..CHECKED] {
        *held = *held << BITS | number;
        bits += BITS;
        while bits >= 8 {
            bits -= 8;
            octets[at] = (*held >> bits) as u8;
            at += 1;
            *held &= (1 << bits) - 1;
        }
    }
    if numbers[CHECKED..] != sum_of(&octets) {
        return Err(WordsError::Sum);
    }
    // No share of ours lies at zero, and its words were written by somebody else.
    let place = NonZeroU8::new(octets[0]).ok_or(WordsError::Sum)?;
    Ok(Share { place, values: Secret::fill(|values| values.copy_from_slice(&octets[1..])) })
}

/// The words that have the numbers 1 to 26 before them, in that order, out of lines that have nothing else; nothing, unless each is
/// there once.
fn numbered(text: &str) -> Option<Vec<&str>> {
    let mut words = [""; WORDS];
    for line in text.lines() {
        for (place, word) in pairs(line).unwrap_or_default() {
            if !std::mem::replace(&mut words[place], word).is_empty() {
                return None;
            }
        }
    }
    words.iter().all(|word| !word.is_empty()).then(|| words.to_vec())
}

/// The places and words of a line such as `3 rural  10. olive`.
fn pairs(line: &str) -> Option<Vec<(usize, &str)>> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let (pairs, rest) = parts.as_chunks::<2>();
    let pair = |[number, word]: &[&'_ str; 2]| {
        let number: usize = number.trim_end_matches(['.', ':', ')']).parse().ok()?;
        let is_word = word.bytes().all(|letter| letter.is_ascii_alphabetic());
        Some(number.checked_sub(1)?).filter(|place| *place < WORDS && is_word)
    };
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|both| Some((pair(both)?, both[1]))).collect()
}

fn octets_of(share: &Share) -> Zeroizing<[u8; OCTETS]> {
    let mut octets = Zeroizing::new([0; OCTETS]);
    octets[0] = share.place.get();
    octets[1..].copy_from_slice(share.values.expose());
    octets
}

/// The last two words.
fn sum_of(octets: &[u8; OCTETS]) -> [u32; 2] {
    let mut sum = Context::new(&SHA256);
    sum.update(LABEL);
    sum.update(octets);
    let sum = sum.finish();
    let bits = sum.as_ref().iter().take(3).fold(0, |bits, octet| bits << 8 | u32::from(*octet)) >> 2;
    [bits >> BITS, bits & 0x7ff]
}

/// The place in the list of the one word that begins like this.
fn number(word: &str) -> Option<u32> {
    let word = Zeroizing::new(word.to_ascii_lowercase());
    let is_it = |listed: &str| match word.len() {
        // "act" is a word, and the beginning of two others.
        ..LETTERS => *listed == **word,
        _ => listed.starts_with(word.as_str()),
    };
    let mut found = (0..).zip(LIST.lines()).filter(|(_, listed)| is_it(listed));
    match (found.next(), found.next()) {
        (Some((number, _)), None) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share_of(place: u8, octets: [u8; SECRET]) -> Share {
        Share { place: NonZeroU8::new(place).unwrap(), values: Secret::fill(|values| *values = octets) }
    }

    #[test]
    fn the_list_is_that_of_bip_39() {
        let sum = crate::Sum::of(LIST.as_bytes()).to_string();
        assert_eq!(sum, "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda");
    }

    #[test]
    fn four_letters_tell_each_word_of_the_list() {
        for (number_of, word) in (0..).zip(LIST.lines()) {
            assert_eq!(number(word), Some(number_of), "{word}");
            assert_eq!(number(&word[..word.len().min(LETTERS)]), Some(number_of), "{word}");
        }
    }

    #[test]
    fn bits_are_in_the_order_of_bip_39() {
        // BIP 39's own vector for 0x80 thirty-two times begins with these words: 1024 is "letter", "advice" 32, "cage" 257, …;
        // the place of the share takes the first octet, and the rest follows as there.
        let all = words(&share_of(0x80, [0x80; SECRET]));
        assert_eq!(&all[..8], ["letter", "advice", "cage", "absurd", "amount", "doctor", "acoustic", "avoid"]);
    }

    proptest! {
        #[test]
        fn what_is_written_down_can_be_typed_in(place in 1..=255_u8, octets: [u8; SECRET]) {
            let whole = share_of(place, octets);
            let words = words(&whole);
            prop_assert_eq!(words.len(), WORDS);
            prop_assert_eq!(&share(&words.join(" ")).unwrap(), &whole);
            let sheet: String = words.iter().enumerate().map(|(at, word)| format!("{}. {:.4}\n", at + 1, word.to_uppercase())).collect();
            prop_assert_eq!(&share(&sheet).unwrap(), &whole);
        }

        #[test]
        fn what_stands_around_numbered_words_does_not_matter(place in 1..=255_u8, octets: [u8; SECRET], noise in "[a-z ]{0,40}") {
            let whole = share_of(place, octets);
            let words = words(&whole);
            let row = |row: usize| (0..4).filter_map(|column| words.get(column * 7 + row).map(|word| format!("{:>3} {word:<16}", column * 7 + row + 1))).collect::<String>();
            let sheet: String = (0..7).map(|at| format!("{}\n", row(at))).collect();
            prop_assert_eq!(&share(&format!("of anna, number 2 of 3\n{noise}\n\n{sheet}\n{noise}\n")).unwrap(), &whole);
        }

        #[test]
        fn a_misread_word_is_found(place in 1..=255_u8, octets: [u8; SECRET], at in 0..WORDS, other in 0..2048_usize) {
            let mut words = words(&share_of(place, octets));
            let other = LIST.lines().nth(other).unwrap();
            prop_assume!(words[at] != other);
            words[at] = other;
            // One in four million is not.
            prop_assert_eq!(share(&words.join(" ")), Err(WordsError::Sum));
        }

        #[test]
        fn no_text_makes_it_fall_over(text: String) {
            let _ = share(&text);
        }
    }

    #[test]
    fn what_is_wrong_with_words_is_said_without_repeating_them() {
        let words = words(&share_of(3, [0x5a; SECRET]));
        assert_eq!(share(&words[1..].join(" ")), Err(WordsError::Count { given: WORDS - 1 }));
        let mut misspelt = words.clone();
        misspelt[4] = "xyzzy";
        let error = share(&misspelt.join(" ")).unwrap_err();
        assert_eq!(error, WordsError::Unknown { at: 5 });
        assert!(!error.to_string().contains("xyzzy"));
        let mut swapped = words;
        swapped.swap(2, 3);
        assert_eq!(share(&swapped.join(" ")), Err(WordsError::Sum));
    }
}
