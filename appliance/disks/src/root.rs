//! The root over one disk or two: a device of the device-mapper for the data and one for the hashes, of which dm-verity reads.
//!
//! The root is never written, so there is nothing to keep the same: both sides of the mirror are taken as they are, and what
//! cannot be read on one is read on the other. What is read and is wrong is found by dm-verity, which lies above and does not
//! give it away; the other side is not asked then. Which partitions belong to it stands in the signed command line: their UUIDs are the two halves of the root's
//! hash (Discoverable Partitions Specification).

use std::fmt::Write as _;

use crate::MIRROR_LABEL;
use crate::partition::{Own, Partition};

/// The device of the data, by its name in the device-mapper; the command line of the boot file names it too.
pub const DATA: &str = "postkeep-root";
/// The device of the hashes.
pub const HASHES: &str = "postkeep-root-verity";

/// In sectors; the kernel counts what is the same on both sides in pieces of this.
const REGION: u64 = 1024;

/// Which partitions are the root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The UUID of the data's partition.
    pub data: String,
    /// The UUID of the partition with the hashes.
    pub hashes: String,
}

/// The root on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg<'a> {
    /// The data.
    pub data: &'a Partition,
    /// The hashes.
    pub hashes: &'a Partition,
}

/// The kernel's command line names no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's command line has no roothash= of 64 hexadecimal digits: this is no boot file of ours")]
pub struct NoRoot;

impl Wanted {
    /// What the kernel's command line says.
    ///
    /// # Errors
    /// It says nothing of a root, or nothing that could be one.
    pub fn of_command_line(text: &str) -> Result<Self, NoRoot> {
        let hash = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("roothash=")).ok_or(NoRoot)?;
        // Hexadecimal digits: what follows cuts between letters of one octet each.
        if hash.len() != 64 || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NoRoot);
        }
        let half = |from: usize| {
            let digits = hash[from..from + 32].to_lowercase();
            [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
        };
        Ok(Self { data: half(0), hashes: half(32) })
    }
}

/// The disks on which both partitions of the root are, and of the same sizes: at most two.
#[must_use]
pub fn legs<'a>(partitions: &'a [Partition], wanted: &Wanted) -> Vec<Leg<'a>> {
    let mut found: Vec<Leg<'a>> = Vec::new();
    for data in partitions.iter().filter(|one| one.uuid == wanted.data) {
        let hashes = partitions.iter().find(|one| one.disk == data.disk && one.uuid == wanted.hashes);
        let Some(hashes) = hashes else { continue };
        let fits = found.iter().all(|leg| (leg.data.size, leg.hashes.size) == (data.size, hashes.size));
        if fits && found.len() < 2 {
            found.push(Leg { data, hashes });
        }
    }
    found
}

/// Whether another disk may be expected: the box has two, and one is there.
#[must_use]
pub fn expects_another(own: &Own) -> bool {
    own.disks.len() == 1 && own.partitions.iter().any(|one| one.label == MIRROR_LABEL)
}

/// What dmsetup is told about `sides`, which have the same size; nothing of nothing.
#[must_use]
pub fn table(sides: &[&Partition]) -> Option<String> {
    let sectors = sides.first()?.size / 512;
    let [_, _, ..] = sides else {
        return Some(format!("0 {sectors} linear {} 0", sides.first()?.numbers));
    };
    let mut written = format!("0 {sectors} mirror core 2 {REGION} nosync {}", sides.len());
    for side in sides {
        // Writing to a String cannot fail.
        let _ = write!(written, " {} 0", side.numbers);
    }
    written.push_str(" 1 handle_errors");
    Some(written)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::BOOT_LABEL;
    use crate::partition::laid::partition;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789ABCDEF";

    fn wanted() -> Wanted {
        Wanted::of_command_line(&format!("console=tty0 roothash={HASH} quiet")).unwrap()
    }

    fn disk(letter: char) -> [Partition; 3] {
        let Wanted { data, hashes } = wanted();
        [
            partition(letter, 2, "postkeep_1.0.0", "root", &data),
            partition(letter, 3, "postkeep_1.0.0", "root-verity", &hashes),
            partition(letter, 5, "_empty", "root", "ffff"),
        ]
    }

    #[test]
    fn the_uuids_are_the_halves_of_the_hash() {
        assert_eq!(
            wanted(),
            Wanted {
                data: "00112233-4455-6677-8899-aabbccddeeff".to_owned(),
                hashes: "01234567-89ab-cdef-0123-456789abcdef".to_owned()
            }
        );
        for text in ["", "roothash=", "roothash=0011", &format!("roothash={HASH}0"), &format!("xroothash={HASH}")] {
            assert_eq!(Wanted::of_command_line(text), Err(NoRoot), "{text}");
        }
    }

    #[test]
    fn one_disk_is_taken_as_it_is_and_two_are_a_mirror() {
        let (one, two) = (disk('a'), [disk('a'), disk('b')].concat());
        let of_one = legs(&one, &wanted());
        assert_eq!(of_one.len(), 1);
        assert_eq!(table(&[of_one[0].data]).unwrap(), "0 16384 linear 254:2 0");
        let of_two = legs(&two, &wanted());
        assert_eq!(
            table(&[of_two[0].data, of_two[1].data]).unwrap(),
            "0 16384 mirror core 2 1024 nosync 2 254:2 0 254:18 0 1 handle_errors"
        );
        assert_eq!(table(&[]), None);
    }

    #[test]
    fn a_disk_with_half_a_root_or_of_another_size_is_no_side() {
        let mut two = [disk('a'), disk('b')].concat();
        two[4].uuid = "another".to_owned();
        assert_eq!(legs(&two, &wanted()).len(), 1, "the second has no hashes");
        let mut two = [disk('a'), disk('b')].concat();
        two[3].size *= 2;
        assert_eq!(legs(&two, &wanted()).len(), 1, "the second is larger");
    }

    #[test]
    fn another_disk_is_expected_where_the_box_has_two() {
        let boot = |disk, end: &str| partition(disk, 1, BOOT_LABEL, "esp", &format!("0a1b2c3d-0001-4002-8003-{end}"));
        let mut seen = vec![boot('a', "1")];
        assert!(!expects_another(&Own::of(&seen, &seen[0])), "flashed onto one disk");
        // A half of another box's mirror says nothing about ours.
        seen.push(partition('c', 8, MIRROR_LABEL, "raid", "77"));
        assert!(!expects_another(&Own::of(&seen, &seen[0])));
        seen.push(partition('a', 8, MIRROR_LABEL, "raid", "77"));
        assert!(expects_another(&Own::of(&seen, &seen[0])));
        seen.push(boot('b', "2"));
        assert!(!expects_another(&Own::of(&seen, &seen[0])), "both are there");
    }

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(text in "\\PC{0,90}") {
            let _ = Wanted::of_command_line(&text);
            let _ = Wanted::of_command_line(&format!("roothash={text}"));
        }
    }
}
