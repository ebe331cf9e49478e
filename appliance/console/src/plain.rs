//! Text from outside, made fit for a screen that anybody can read: no control characters, no addresses, no end without
//! a limit.

/// At most `most` characters of `text`, on one line, with nothing in it that steers a terminal.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == most {
            // The last one says that there was more.
            shown.pop();
            shown.push('~');
            break;
        }
        shown.push(if is_steering(character) { ' ' } else { character });
    }
    shown
}

/// The same with every address of a person taken out: who is written to is nobody's business at the rack.
pub(crate) fn without_addresses(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    // systemd-cryptsetup@postkeep\x2ddata.service: how it writes what may not stand in a unit's name.
    let is_of_unit = |character: char| character.is_alphanumeric() || "-._\\".contains(character);
    while let Some(at) = rest.find('@') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let end = after.find(|character: char| !is_of_host(character)).unwrap_or(after.len());
        let end_of_unit = after.find(|character: char| !is_of_unit(character)).unwrap_or(after.len());
        let is_unit = [".service", ".socket", ".target", ".mount", ".device", ".slice", ".path", ".timer"]
            .iter()
            .any(|kind| after[..end_of_unit].ends_with(kind));
        if is_unit {
            shown.push_str(&rest[..=at + end_of_unit]);
            rest = &after[end_of_unit..];
            continue;
        }
        shown.push_str(&before[..start_of_local_part(before)]);
        shown.push_str("(address)");
        rest = &after[end..];
    }
    shown.push_str(rest);
    shown
}

fn start_of_local_part(before: &str) -> usize {
    // "two words"@example.com
    if let Some(quoted) = before.strip_suffix('"') {
        return quoted.rfind('"').unwrap_or(0);
    }
    let is_edge = |character: char| character.is_whitespace() || "<>(),;:\"[]".contains(character);
    before.char_indices().rev().find(|(_, character)| is_edge(*character)).map_or(0, |(at, edge)| at + edge.len_utf8())
}

fn is_of_host(character: char) -> bool {
    character.is_alphanumeric() || "-._:[]".contains(character)
}

/// Control characters, and those that Unicode has for turning the direction of text or joining it invisibly.
fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_steers_the_terminal_and_all_has_an_end() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}c\n", 80), "a [2Jb c ");
        assert_eq!(clean("abcdef", 4), "abc~");
        assert_eq!(clean("abcd", 4), "abcd");
    }

    #[test]
    fn whom_mail_goes_to_is_not_shown() {
        for (text, shown) in [
            ("to <a.b+c@example.com>: 550", "to <(address)>: 550"),
            ("\"a b\"@example.com, x@[192.0.2.1] and y@münchen.example", "(address), (address) and (address)"),
            ("rcpt=a@b@c.example!", "(address)(address)!"),
            ("Started postkeep-console@tty1.service - Console.", "Started postkeep-console@tty1.service - Console."),
            ("@", "(address)"),
            (
                "systemd-cryptsetup@postkeep\\x2ddata.service: exit",
                "systemd-cryptsetup@postkeep\\x2ddata.service: exit",
            ),
            ("a@b.example\\n", "(address)\\n"),
        ] {
            assert_eq!(without_addresses(text), shown);
        }
    }

    proptest! {
        #[test]
        fn what_is_left_is_short_and_plain(text in "(?s).{0,200}", most in 0..50_usize) {
            let shown = clean(&text, most);
            prop_assert!(shown.chars().count() <= most.max(1));
            prop_assert!(!shown.chars().any(char::is_control));
            let _ = without_addresses(&text);
        }
    }
}
