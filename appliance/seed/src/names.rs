//! The shapes of the words that stand in a seed.

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
    fn interfaces_and_fingerprints_have_their_shapes() {
        assert!(is_interface("enp0s31f6") && is_interface("eth0.7"));
        for text in ["", "eth0 eth1", "e*", "a-name-of-16-lettrs", ".."] {
            assert!(!is_interface(text), "{text:?}");
        }
        assert!(is_fingerprint(&"0a".repeat(32)) && !is_fingerprint(&"0A".repeat(32)) && !is_fingerprint("0a"));
    }
}
