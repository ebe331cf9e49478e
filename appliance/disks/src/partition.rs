//! The partitions that there are, as the kernel and udev tell of them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::BOOT_LABEL;

/// A file of the kernel or of udev about one thing.
const LONGEST_FACT: u64 = 64 * 1024;
/// The word of the initrd, for [`Own::read`].
const BOOT_WORD: &str = "run/postkeep-disks/boot-partition";
/// Letters of a boot partition's UUID that are the same on both disks of a box.
const BOX_ID: usize = 18;
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

/// The disks of this box: the one that it was started from, and the other, if it has two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The boot partition that this start came from, as it was then; its disk may have gone since.
    pub boot: Partition,
    /// The disk that this start came from and the other, as far as they are there. More than one other: somebody has put an old
    /// disk of the box back.
    pub disks: Vec<String>,
    /// All partitions of these disks.
    pub partitions: Vec<Partition>,
}

impl Own {
    /// Of all partitions `seen` those that belong to the box that was started from `boot`. The boot partitions of one box have
    /// UUIDs that begin the same and end differently (the flasher makes them): neither a copy of this disk nor a disk of
    /// another box is taken for one of ours.
    #[must_use]
    pub fn of(seen: &[Partition], boot: &Partition) -> Self {
        let is_other = |one: &Partition| {
            let same = one.uuid.get(..BOX_ID).is_some_and(|begin| boot.uuid.get(..BOX_ID) == Some(begin));
            one.label == BOOT_LABEL && same && one.uuid != boot.uuid
        };
        let mut disks: Vec<String> =
            seen.iter().filter(|one| one.name == boot.name).map(|one| one.disk.clone()).collect();
        disks.extend(seen.iter().filter(|one| is_other(one) && one.disk != boot.disk).map(|one| one.disk.clone()));
        let partitions = seen.iter().filter(|one| disks.contains(&one.disk)).cloned().collect();
        Self { boot: boot.clone(), disks, partitions }
    }

    /// Of the box at `root`, as the initrd has found it.
    ///
    /// # Errors
    /// The kernel's list cannot be read, or the initrd has left no word: this is no box that was flashed.
    pub fn read(root: &Path) -> io::Result<Self> {
        let told = small(&root.join(BOOT_WORD)).map_err(|error| {
            let help = "only a box that was started from its own disk has it";
            io::Error::new(error.kind(), format!("/{BOOT_WORD}: {error} ({help})"))
        })?;
        let mut words = told.split_ascii_whitespace().map(str::to_owned);
        let [Some(name), Some(disk), Some(uuid)] = [words.next(), words.next(), words.next()] else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("/{BOOT_WORD} is damaged")));
        };
        let seen = partitions(root)?;
        let found = seen.iter().find(|one| one.name == name && one.uuid == uuid).cloned();
        let gone = || Partition {
            name,
            disk,
            numbers: String::new(),
            label: BOOT_LABEL.to_owned(),
            kind: String::new(),
            uuid,
            size: 0,
            array: None,
        };
        Ok(Self::of(&seen, &found.unwrap_or_else(gone)))
    }

    /// Leaves word of it, for [`Self::read`].
    ///
    /// # Errors
    /// The folder.
    pub fn leave_word(&self, root: &Path) -> io::Result<()> {
        let path = root.join(BOOT_WORD);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder)?;
        fs::write(&path, format!("{} {} {}\n", self.boot.name, self.boot.disk, self.boot.uuid))?;
        // Whoever tells how the disks are is not root.
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        fs::set_permissions(path, Permissions::from_mode(0o644))
    }

    /// Whether the disk that this start came from is there.
    #[must_use]
    pub fn has_boot_disk(&self) -> bool {
        self.partitions.iter().any(|one| one.name == self.boot.name)
    }

    /// The boot partition of the other disk; none where there is none, or more than one.
    #[must_use]
    pub fn other_boot(&self) -> Option<&Partition> {
        let mut others = self.partitions.iter().filter(|one| one.label == BOOT_LABEL && one.disk != self.boot.disk);
        others.next().filter(|_| others.next().is_none())
    }

    /// Whether there are more disks of this box than a box has.
    #[must_use]
    pub fn are_too_many(&self) -> bool {
        self.disks.len() > 2
    }
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

/// A small text file; of a longer one the first 64 KiB.
///
/// # Errors
/// It cannot be read.
pub fn small(path: &Path) -> io::Result<String> {
    let octets = postkeep_files::beginning(path, LONGEST_FACT)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// Boxes in a folder, for tests.
pub mod laid {
    use std::os::unix::fs::symlink;

    use super::{Partition, fs, io};
    use std::path::Path;

    /// Lays `partitions` as the kernel and udev would tell of them, all of disks of virtio; the first is the boot partition that
    /// the box was started from.
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
        if let Some(boot) = partitions.first() {
            super::Own::of(partitions, boot).leave_word(root)?;
        }
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
    fn only_disks_of_the_same_box_are_its_own() {
        let id = "0a1b2c3d-0001-4002";
        let boot = |disk, uuid: &str| made(disk, 1, BOOT_LABEL, "c12a", uuid);
        let mine = boot('a', &format!("{id}-8003-000000000001"));
        let other = boot('b', &format!("{id}-9004-000000000002"));
        let strangers = [
            // A copy of this disk, the public image, a stick that only has the label, and a disk without one.
            boot('c', &mine.uuid),
            boot('d', "a7c2ff6c-6b43-4c6e-8f0c-4a0b8a2c8a11"),
            boot('e', ""),
            Partition { label: "data".to_owned(), ..boot('f', &other.uuid) },
        ];
        let seen = [vec![mine.clone(), other.clone()], strangers.to_vec()].concat();
        let own = Own::of(&seen, &mine);
        assert_eq!((own.disks.join(" "), own.partitions.len()), ("vda vdb".to_owned(), 2));
        assert_eq!(own.other_boot(), Some(&other));
        let folder = tempfile::tempdir().unwrap();
        lay(folder.path(), &seen).unwrap();
        assert_eq!(Own::read(folder.path()).unwrap(), own);
        // The disk that it was started from is pulled out.
        fs::remove_file(folder.path().join("sys/class/block/vda1")).unwrap();
        let left = Own::read(folder.path()).unwrap();
        assert!(!left.has_boot_disk() && left.disks == ["vdb"], "{left:?}");
        // An old disk of the box is put back beside the two.
        let old = boot('g', &format!("{id}-9004-000000000003"));
        let three = Own::of(&[mine.clone(), other, old], &mine);
        assert!(three.are_too_many() && three.other_boot().is_none());
        assert!(
            Own::read(tempfile::tempdir().unwrap().path())
                .unwrap_err()
                .to_string()
                .contains("started from its own disk")
        );
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
