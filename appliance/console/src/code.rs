//! Octets as groups of five characters that a person can read off a screen and type: Crockford's base32, four
//! characters of each group say something and the fifth checks them, so that a slip is told with its place.

/// Characters of a group that say something; one more checks them.
const SAYING: usize = 4;
const GROUP: usize = SAYING + 1;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// More than the longest challenge needs; nothing longer is looked at.
pub const LONGEST: usize = 1024;

/// Why typed groups are not what was shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// A character that no group has.
    #[error("group {group} has {character:?} in it, which no group has; look at it again")]
    Character {
        /// Which group, from 1.
        group: usize,
        /// The character.
        character: char,
    },
    /// The check of a group does not fit.
    #[error("group {group} ({typed}) is mistyped or in the wrong place; look at it again")]
    Group {
        /// Which group, from 1.
        group: usize,
        /// What was typed.
        typed: String,
    },
    /// Characters are missing at the end.
    #[error("it ends in the middle of group {group}; type the rest")]
    Cut {
        /// Which group, from 1.
        group: usize,
    },
    /// There is nothing.
    #[error("nothing was typed; type the groups of five characters")]
    Empty,
    /// More than any code has.
    #[error("it is longer than anything that is asked for here; type the groups of five characters and nothing else")]
    TooLong,
}

/// `octets` in groups of five, with spaces between them.
#[must_use]
pub fn encode(octets: &[u8]) -> String {
    let mut symbols = Vec::with_capacity(octets.len() * 8 / 5 + 1);
    let (mut kept, mut bits) = (0_u32, 0_u32);
    for octet in octets {
        kept = kept << 8 | u32::from(*octet);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            symbols.push((kept >> bits & 31) as u8);
        }
        kept &= (1 << bits) - 1;
    }
    if bits > 0 {
        symbols.push((kept << (5 - bits) & 31) as u8);
    }
    let mut text = String::with_capacity(symbols.len() * 3 / 2 + GROUP);
    for (at, group) in symbols.chunks(SAYING).enumerate() {
        if at > 0 {
            text.push(' ');
        }
        for symbol in group.iter().copied().chain([check(at, group)]) {
            text.push(char::from(ALPHABET[usize::from(symbol & 31)]));
        }
    }
    text
}

/// What [`encode`] was given. Spaces, dashes and line ends do not count; small letters are as good as large ones, and
/// O, I and L are read as the digits that they look like.
///
/// # Errors
/// A group is mistyped, or the end is missing.
pub fn decode(text: &str) -> Result<Vec<u8>, CodeError> {
    let symbols = symbols(text)?;
    let mut saying = Vec::with_capacity(symbols.len());
    for (at, group) in symbols.chunks(GROUP).enumerate() {
        let Some((last, data)) = group.split_last().filter(|(_, data)| !data.is_empty()) else {
            return Err(CodeError::Cut { group: at + 1 });
        };
        if check(at, data) != *last {
            return Err(fault(at, group, symbols.len()));
        }
        saying.extend_from_slice(data);
    }
    if saying.is_empty() {
        return Err(CodeError::Empty);
    }
    let mut octets = Vec::with_capacity(saying.len() * 5 / 8);
    let (mut kept, mut bits) = (0_u32, 0_u32);
    for symbol in &saying {
        kept = kept << 5 | u32::from(*symbol);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            octets.push((kept >> bits & 255) as u8);
            kept &= (1 << bits) - 1;
        }
    }
    // One text for one code: what is left over says nothing, and there is not more of it than there must be.
    if bits >= 5 || kept != 0 {
        return Err(CodeError::Cut { group: symbols.len().div_ceil(GROUP) });
    }
    Ok(octets)
}

/// The first complete group of a half-typed code that is wrong, so that it can be told at once.
#[must_use]
pub fn first_fault(text: &str) -> Option<CodeError> {
    let symbols = match symbols(text) {
        Ok(symbols) => symbols,
        Err(CodeError::Empty) => return None,
        Err(error) => return Some(error),
    };
    symbols.chunks_exact(GROUP).enumerate().find_map(|(at, group)| {
        let (last, data) = group.split_last()?;
        (check(at, data) != *last).then(|| fault(at, group, usize::MAX))
    })
}

/// What was typed so far, as it would be shown: in groups.
#[must_use]
pub fn grouped(text: &str) -> String {
    let mut shown = String::new();
    for (at, character) in text.chars().filter(|character| !is_separator(*character)).take(LONGEST).enumerate() {
        if at > 0 && at % GROUP == 0 {
            shown.push(' ');
        }
        shown.push(character.to_ascii_uppercase());
    }
    shown
}

/// Whether a character only separates groups.
#[must_use]
pub fn is_separator(character: char) -> bool {
    character.is_whitespace() || character == '-'
}

fn symbols(text: &str) -> Result<Vec<u8>, CodeError> {
    let mut symbols = Vec::new();
    for character in text.chars().filter(|character| !is_separator(*character)) {
        if symbols.len() == LONGEST {
            return Err(CodeError::TooLong);
        }
        let read = match character.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let symbol = ALPHABET.iter().position(|known| char::from(*known) == read);
        let Some(symbol) = symbol.and_then(|symbol| u8::try_from(symbol).ok()) else {
            return Err(CodeError::Character { group: symbols.len() / GROUP + 1, character });
        };
        symbols.push(symbol);
    }
    if symbols.is_empty() { Err(CodeError::Empty) } else { Ok(symbols) }
}

fn fault(at: usize, group: &[u8], whole: usize) -> CodeError {
    // A short group at the very end is more likely cut than wrong.
    if group.len() < GROUP && at * GROUP + group.len() == whole {
        return CodeError::Cut { group: at + 1 };
    }
    CodeError::Group {
        group: at + 1,
        typed: group.iter().map(|symbol| char::from(ALPHABET[usize::from(symbol & 31)])).collect(),
    }
}

/// The fifth character: a sum over GF(32) in which each place, and the place of the group, has a weight of its own, so
/// that one wrong character, two that changed places, and neighbouring groups that did are noticed.
fn check(at: usize, data: &[u8]) -> u8 {
    let place = power(at % 31);
    data.iter().enumerate().fold(place, |sum, (index, symbol)| sum ^ multiply(power(index + 1), *symbol))
}

fn power(exponent: usize) -> u8 {
    (0..exponent).fold(1, |value, _| multiply(value, 2))
}

/// In GF(32) with x⁵ + x² + 1.
fn multiply(left: u8, right: u8) -> u8 {
    let (mut left, mut right, mut product) = (left, right, 0);
    while right != 0 {
        if right & 1 == 1 {
            product ^= left;
        }
        left <<= 1;
        if left & 32 != 0 {
            left ^= 0b10_0101;
        }
        right >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signature_is_twenty_six_groups_the_last_of_four() {
        let text = encode(&[0xa5; 64]);
        let lengths: Vec<usize> = text.split(' ').map(str::len).collect();
        assert_eq!(lengths.len(), 26);
        assert!(lengths[..25].iter().all(|length| *length == 5) && lengths[25] == 4, "{text}");
    }

    #[test]
    fn what_looks_alike_is_read_alike() {
        let text = encode(&[0, 1, 2, 3, 0x08, 0x42, 0x10]);
        let sloppy = text.to_lowercase().replace('0', "o").replace('1', "l").replace(' ', "-");
        assert_eq!(decode(&sloppy), decode(&text));
        assert_eq!(decode(&text.replace('1', "i")), decode(&text));
    }

    #[test]
    fn the_error_names_the_group() {
        let text = encode(&[7; 20]);
        let mut groups: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let other = if groups[2].as_bytes()[1] == b'0' { "1" } else { "0" };
        groups[2].replace_range(1..2, other);
        let error = decode(&groups.join(" ")).unwrap_err();
        assert!(matches!(error, CodeError::Group { group: 3, .. }), "{error}");
        assert!(matches!(first_fault(&groups[..3].join("")), Some(CodeError::Group { group: 3, .. })));
        assert!(matches!(decode("0000U"), Err(CodeError::Character { group: 1, character: 'U' })));
        assert_eq!(decode(" - \n"), Err(CodeError::Empty));
        assert_eq!(decode(&"0".repeat(LONGEST + 1)), Err(CodeError::TooLong));
    }

    proptest! {
        #[test]
        fn octets_come_back(octets in proptest::collection::vec(any::<u8>(), 1..160)) {
            let text = encode(&octets);
            prop_assert_eq!(first_fault(&text), None);
            prop_assert_eq!(decode(&text).unwrap(), octets);
            prop_assert_eq!(grouped(&text.replace(' ', "")), text);
        }

        #[test]
        fn one_wrong_character_is_noticed_in_its_group(
            octets in proptest::collection::vec(any::<u8>(), 5..80), at in any::<prop::sample::Index>(), other in 0..32_usize,
        ) {
            let text = encode(&octets).replace(' ', "");
            let at = at.index(text.len());
            let mut wrong = text.clone().into_bytes();
            prop_assume!(wrong[at] != ALPHABET[other]);
            wrong[at] = ALPHABET[other];
            let error = decode(&String::from_utf8(wrong).unwrap()).unwrap_err();
            let named = match error {
                CodeError::Group { group, .. } | CodeError::Cut { group } | CodeError::Character { group, .. } => group,
                other => panic!("{other}"),
            };
            prop_assert_eq!(named, at / GROUP + 1);
        }

        #[test]
        fn two_neighbours_that_changed_places_are_noticed(octets in proptest::collection::vec(any::<u8>(), 5..80), at in any::<prop::sample::Index>()) {
            let mut text = encode(&octets).replace(' ', "").into_bytes();
            let at = at.index(text.len() - 1);
            prop_assume!(text[at] != text[at + 1]);
            text.swap(at, at + 1);
            prop_assert!(decode(&String::from_utf8(text).unwrap()).is_err());
        }

        #[test]
        fn a_cut_code_is_noticed_or_shorter(octets in proptest::collection::vec(any::<u8>(), 1..80), keep in any::<prop::sample::Index>()) {
            let text = encode(&octets);
            let cut: String = text.chars().take(keep.index(text.len())).collect();
            if let Ok(read) = decode(&cut) {
                prop_assert!(read.len() < octets.len());
            }
        }

        #[test]
        fn no_text_makes_it_panic_and_one_code_has_one_text(text in "\\PC{0,80}", plain in "[0-9A-Z]{0,40}") {
            let _ = (decode(&text), first_fault(&text), grouped(&text));
            if let Ok(octets) = decode(&plain) {
                let again = encode(&octets).replace(' ', "");
                prop_assert_eq!(again, plain.replace('O', "0").replace(['I', 'L'], "1"));
            }
        }
    }
}
