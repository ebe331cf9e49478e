//! The shapes of the words that stand in a seed.

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;

/// Whether `text` is the name of a host, with at least one dot when `qualified`.
pub(crate) fn is_host(text: &str, qualified: bool) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label) && (!qualified || text.contains('.'))
}

/// Whether `text` is a public key of age, of the X25519 kind.
pub(crate) fn is_age_recipient(text: &str) -> bool {
    text.starts_with("age1")
        && CheckedHrpstring::new::<Bech32>(text)
            .is_ok_and(|checked| checked.hrp().as_str() == "age" && checked.byte_iter().len() == 32)
}

/// Whether `text` is a SHA-256 sum in small hexadecimal digits.
pub(crate) fn is_fingerprint(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether Linux can call a network interface `text`, and nothing in it has a meaning in a unit file.
pub(crate) fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet))
        && text != "."
        && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_told_from_other_words() {
        assert!(is_host("mail-1.example.com", true) && is_host("mail", false));
        for text in ["mail", "", "-a.example", "a-.example", "a..example", "a b.example", "a.example.", "ä.example"] {
            assert!(!is_host(text, true), "{text:?}");
        }
    }

    #[test]
    fn a_recipient_of_age_is_told_from_one_with_a_slip_and_from_other_kinds() {
        let good = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        assert!(is_age_recipient(good));
        for text in [
            "",
            "age1",
            &good[..60],
            &good.replace('z', "y"),
            &good.to_uppercase(),
            "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX",
            "ssh-ed25519 AAAA",
        ] {
            assert!(!is_age_recipient(text), "{text:?}");
        }
    }

    #[test]
    fn interfaces_and_fingerprints_have_their_shapes() {
        assert!(is_interface("enp0s31f6") && is_interface("eth0.7"));
        for text in ["", "eth0 eth1", "e*", "a-name-of-16-lettrs", ".."] {
            assert!(!is_interface(text), "{text:?}");
        }
        assert!(is_fingerprint(&"0a".repeat(32)) && !is_fingerprint(&"0A".repeat(32)) && !is_fingerprint("0a"));
    }
}
