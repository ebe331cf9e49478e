//! The partitions that there are, as the kernel and udev tell of them.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A file of the kernel or of udev about one thing.
const LONGEST_FACT: u64 = 64 * 1024;
/// udev's words for what a superblock of a RAID says.
const RAID_MEMBER: &str = "linux_raid_member";

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The kernel's name: `vda2`.
    pub name: String,
    /// The kernel's name of its disk: `vda`.
    pub disk: String,
    /// Its numbers: `254:2`.
    pub numbers: String,
    /// Its label.
    pub label: String,
    /// The UUID of its type, in small letters.
    pub kind: String,
    /// Its own UUID, in small letters.
    pub uuid: String,
    /// How many octets it has.
    pub size: u64,
    /// The array that it is a member of, where its superblock says so.
    pub array: Option<String>,
}

impl Partition {
    /// Its device.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// All partitions of the box at `root` that udev knows, by name. What vanishes meanwhile is left out.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn partitions(root: &Path) -> io::Result<Vec<Partition>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("sys/class/block"))? {
        found.extend(partition(root, &entry?.path()));
    }
    found.sort_by(|one: &Partition, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The serial number of a disk, where it tells one.
#[must_use]
pub fn serial(root: &Path, disk: &str) -> Option<String> {
    let folder = root.join("sys/class/block").join(disk);
    let told = udev(root, &folder);
    let property = |name| told.as_deref().and_then(|text| property(text, name));
    let own = || small(&folder.join("serial")).ok().map(|text| text.trim().to_owned());
    property("ID_SERIAL_SHORT").or_else(|| property("ID_SERIAL")).or_else(own).filter(|serial| !serial.is_empty())
}

fn partition(root: &Path, folder: &Path) -> Option<Partition> {
    // Only partitions have this file.
    small(&folder.join("partition")).ok()?;
    let told = udev(root, folder)?;
    let property = |name| property(&told, name);
    let sectors: u64 = small(&folder.join("size")).ok()?.trim().parse().ok()?;
    let array = property("ID_FS_UUID").filter(|_| property("ID_FS_TYPE").as_deref() == Some(RAID_MEMBER));
    Some(Partition {
        name: folder.file_name()?.to_str()?.to_owned(),
        // In /sys a partition's folder lies in that of its disk.
        disk: fs::canonicalize(folder).ok()?.parent()?.file_name()?.to_str()?.to_owned(),
        numbers: small(&folder.join("dev")).ok()?.trim().to_owned(),
        label: plain(&property("ID_PART_ENTRY_NAME").unwrap_or_default()),
        kind: property("ID_PART_ENTRY_TYPE")?.to_lowercase(),
        uuid: property("ID_PART_ENTRY_UUID")?.to_lowercase(),
        // The kernel counts in 512 octets, whatever the disk does.
        size: sectors.checked_mul(512)?,
        array,
    })
}

/// What udev keeps about the device in that folder of /sys.
fn udev(root: &Path, folder: &Path) -> Option<String> {
    let numbers = small(&folder.join("dev")).ok()?;
    small(&root.join("run/udev/data").join(format!("b{}", numbers.trim()))).ok()
}

fn property(told: &str, name: &str) -> Option<String> {
    told.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

/// A text as it was before udev wrote unusual octets as `\x5f`.
fn plain(text: &str) -> String {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.strip_prefix(b"x").and_then(|after| after.get(..2)).filter(|_| first == b'\\');
        let octet = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        octets.push(octet.unwrap_or(first));
        rest = if octet.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// A small text file.
pub(crate) fn small(path: &Path) -> io::Result<String> {
    let mut octets = Vec::new();
    fs::File::open(path)?.take(LONGEST_FACT).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// Boxes in a folder, for tests.
pub mod laid {
    use std::os::unix::fs::symlink;

    use super::{Partition, fs, io};
    use std::path::Path;

    /// Lays `partitions` as the kernel and udev would tell of them, all of disks of virtio.
    ///
    /// # Errors
    /// The folder.
    pub fn lay(root: &Path, partitions: &[Partition]) -> io::Result<()> {
        let put = |path: String, text: String| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap_or(root))?;
            fs::write(path, text)
        };
        fs::create_dir_all(root.join("sys/class/block"))?;
        for Partition { name, disk, numbers, label, kind, uuid, size, array } in partitions {
            let folder = format!("sys/devices/{disk}/block/{disk}/{name}");
            let number = name.trim_start_matches(|letter: char| !letter.is_ascii_digit());
            put(format!("{folder}/dev"), format!("{numbers}\n"))?;
            put(format!("{folder}/partition"), format!("{number}\n"))?;
            put(format!("{folder}/size"), format!("{}\n", size / 512))?;
            symlink(root.join(&folder), root.join("sys/class/block").join(name))?;
            let label = label.replace('_', "\\x5f");
            let member =
                array.as_ref().map(|array| format!("E:ID_FS_TYPE={}\nE:ID_FS_UUID={array}\n", super::RAID_MEMBER));
            put(
                format!("run/udev/data/b{numbers}"),
                format!(
                    "I:1234\nE:ID_PART_ENTRY_NAME={label}\nE:ID_PART_ENTRY_TYPE={kind}\nE:ID_PART_ENTRY_UUID={uuid}\n{}",
                    member.unwrap_or_default()
                ),
            )?;
        }
        Ok(())
    }

    /// Partition `number` of the disk with that letter, 8 MiB large.
    #[must_use]
    pub fn partition(disk: char, number: u32, label: &str, kind: &str, uuid: &str) -> Partition {
        Partition {
            name: format!("vd{disk}{number}"),
            disk: format!("vd{disk}"),
            numbers: format!("254:{}", (u32::from(disk) - u32::from('a')) * 16 + number),
            label: label.to_owned(),
            kind: kind.to_owned(),
            uuid: uuid.to_owned(),
            size: 8 << 20,
            array: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::laid::{lay, partition as made};
    use super::*;

    #[test]
    fn partitions_are_read_as_the_kernel_and_udev_tell_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut boxes = vec![made('a', 1, "postkeep-esp", "c12a", "aa"), made('b', 3, "postkeep_1.2.0", "4f68", "bb")];
        boxes[1].array = Some("3a5c:01".to_owned());
        lay(folder.path(), &boxes).unwrap();
        assert_eq!(partitions(folder.path()).unwrap(), boxes);
        assert_eq!(serial(folder.path(), "vda"), None);
        // A disk that vanished between the list and the look.
        fs::remove_file(folder.path().join("run/udev/data/b254:1")).unwrap();
        assert_eq!(partitions(folder.path()).unwrap(), boxes[1..]);
    }

    #[test]
    fn what_udev_has_hidden_is_shown() {
        assert_eq!(plain("postkeep\\x5f1.2.0\\x2d\\x"), "postkeep_1.2.0-\\x");
        assert_eq!(plain("\\\\x5g"), "\\\\x5g");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\\\|x|[0-9a-g]|\\PC){0,30}") {
            let _ = (plain(&text), property(&text, "A"));
        }
    }
}
