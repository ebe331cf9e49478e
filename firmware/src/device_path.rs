//! Where firmware loaded a program from: a device path, told in words, and whether a network stands in it.

use crate::bytes::Cursor;

/// More parts than any device path has.
const MOST_NODES: usize = 64;
/// Longer texts say nothing more.
const LONGEST_TEXT: usize = 300;

/// A device path, as far as it says where something came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicePath {
    /// In words: `mac/ipv4/uri(http://…)`, `disk/\EFI\BOOT\BOOTX64.EFI`. Empty: the firmware gave none.
    pub text: String,
    /// A network card, an address or a URI stands in it: what was loaded came over a network.
    pub is_network: bool,
    /// It lies in the firmware itself: its setup, its shell, its boot menu.
    pub is_firmware: bool,
}

impl DevicePath {
    /// Reads as much as can be read; what is cut off or unknown is called `?`.
    #[must_use]
    pub fn read(octets: &[u8]) -> Self {
        let mut path = Self::default();
        let mut cursor = Cursor::new(octets);
        let mut parts: Vec<String> = Vec::new();
        for _ in 0..MOST_NODES {
            if cursor.is_at_end() {
                break;
            }
            let (Ok(kind), Ok(subtype), Ok(length)) = (cursor.byte(), cursor.byte(), cursor.short()) else {
                parts.push("?".to_owned());
                break;
            };
            if kind == 0x7f {
                break;
            }
            let Some(Ok(content)) = usize::from(length).checked_sub(4).map(|length| cursor.take(length)) else {
                parts.push("?".to_owned());
                break;
            };
            let part = match (kind, subtype) {
                // Buses: how to get there, not where.
                (1 | 2, _) => continue,
                (3, 11) => network(&mut path, "mac"),
                (3, 12) => network(&mut path, "ipv4"),
                (3, 13) => network(&mut path, "ipv6"),
                (3, 19) => network(&mut path, "iscsi"),
                (3, 24) => format!("{}({})", network(&mut path, "uri"), printable(content)),
                (3, 28) => network(&mut path, "wireless"),
                (3, 31) => network(&mut path, "dns"),
                (3, _) => "disk".to_owned(),
                (4, 1) => "partition".to_owned(),
                (4, 2) => "cdrom".to_owned(),
                (4, 4) => file(content),
                (4, 6 | 7) => {
                    path.is_firmware = true;
                    "firmware".to_owned()
                }
                _ => "?".to_owned(),
            };
            parts.push(part);
        }
        path.text = parts.join("/").chars().take(LONGEST_TEXT).collect();
        path
    }
}

fn network(path: &mut DevicePath, name: &str) -> String {
    path.is_network = true;
    name.to_owned()
}

fn file(content: &[u8]) -> String {
    let letters = content.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let letters: Vec<u16> = letters.take_while(|&letter| letter != 0).collect();
    printable(String::from_utf16_lossy(&letters).as_bytes())
}

/// Text that a screen can be shown: the firmware is not trusted with it.
pub(crate) fn printable(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    text.chars().take(LONGEST_TEXT).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(kind: u8, subtype: u8, content: &[u8]) -> Vec<u8> {
        let mut octets = vec![kind, subtype];
        octets.extend(u16::try_from(content.len() + 4).unwrap().to_le_bytes());
        octets.extend_from_slice(content);
        octets
    }

    pub(crate) fn from_disk(name: &str) -> Vec<u8> {
        let letters: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        [node(2, 1, &[0; 8]), node(4, 1, &[0; 38]), node(4, 4, &letters), node(0x7f, 0xff, &[])].concat()
    }

    pub(crate) fn from_network() -> Vec<u8> {
        let parts = [node(2, 1, &[0; 8]), node(3, 11, &[0; 33]), node(3, 12, &[0; 23]), node(0x7f, 0xff, &[])];
        parts.concat()
    }

    #[test]
    fn a_network_in_the_path_is_seen() {
        let disk = DevicePath::read(&from_disk("\\EFI\\BOOT\\BOOTX64.EFI"));
        assert_eq!((disk.text.as_str(), disk.is_network), ("partition/\\EFI\\BOOT\\BOOTX64.EFI", false));
        let network = DevicePath::read(&from_network());
        assert_eq!((network.text.as_str(), network.is_network), ("mac/ipv4", true));
        let uri = [node(3, 11, &[0; 33]), node(3, 24, b"http://boot.example/\x1b[2J")].concat();
        assert_eq!(DevicePath::read(&uri).text, "mac/uri(http://boot.example/?[2J)");
    }

    #[test]
    fn a_path_that_is_cut_off_or_turns_in_circles_ends() {
        assert_eq!(DevicePath::read(&[3, 11, 200, 0, 1]).text, "?");
        assert_eq!(DevicePath::read(&[3, 11, 0, 0]).text, "?");
        assert_eq!(DevicePath::read(&[]), DevicePath::default());
        assert_eq!(DevicePath::read(&[3, 1, 4, 0].repeat(500)).text.len(), LONGEST_TEXT);
    }
}
