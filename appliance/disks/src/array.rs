//! The mirrored data volume: which partitions are put together to it, and what the kernel says about it.
//!
//! Linux counts on each half how often it was changed: the half that is behind is filled again from the other. Whatever has
//! the label of a half but the superblock of another array belongs to another box and is not touched.

use std::fs;
use std::io;
use std::path::Path;

use crate::MIRROR_LABEL;
use crate::partition::{Own, Partition, small};

/// What is to be done with the halves that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan<'a> {
    /// The box has one disk.
    OneDisk,
    /// No half was ever part of an array: the box starts for the first time.
    Blank(Vec<&'a Partition>),
    /// The array is there.
    Assemble {
        /// Its halves.
        members: Vec<&'a Partition>,
        /// New ones, of a disk that was put in the place of another; they are filled.
        blank: Vec<&'a Partition>,
        /// Halves of other arrays.
        strangers: Vec<&'a Partition>,
    },
}

/// What the kernel says about an array that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The kernel's name of it: `md127`.
    pub name: String,
    /// Its members by the kernel's names, and how they are: `in_sync`, `spare`, `faulty`.
    pub members: Vec<(String, String)>,
    /// How many halves are missing.
    pub degraded: u32,
    /// How much of what the kernel fills or compares is done, and of how much, in sectors.
    pub completed: Option<(u64, u64)>,
}

/// What is to be done with the disks of the box; the one that it was started from is believed before the other.
#[must_use]
pub fn plan(own: &Own) -> Plan<'_> {
    let halves: Vec<&Partition> = own.partitions.iter().filter(|one| one.label == MIRROR_LABEL).collect();
    let of_boot_disk = halves.iter().find(|half| half.disk == own.boot.disk).and_then(|half| half.array.as_ref());
    let Some(array) = of_boot_disk.or_else(|| halves.iter().find_map(|half| half.array.as_ref())) else {
        return if halves.is_empty() { Plan::OneDisk } else { Plan::Blank(halves) };
    };
    let (members, others): (Vec<_>, Vec<_>) = halves.into_iter().partition(|half| half.array.as_ref() == Some(array));
    let (strangers, blank) = others.into_iter().partition(|half| half.array.is_some());
    Plan::Assemble { members, blank, strangers }
}

impl Facts {
    /// The array of which a half of ours is a member; none where none runs.
    ///
    /// # Errors
    /// The kernel's list cannot be read.
    pub fn read(root: &Path, partitions: &[Partition]) -> io::Result<Option<Self>> {
        for entry in fs::read_dir(root.join("sys/class/block"))? {
            let entry = entry?;
            let folder = entry.path().join("md");
            let Ok(inside) = fs::read_dir(&folder) else { continue };
            let mut members = Vec::new();
            for member in inside.flatten() {
                let name = member.file_name().to_string_lossy().into_owned();
                if let Some(name) = name.strip_prefix("dev-") {
                    let state = small(&member.path().join("state")).unwrap_or_else(|_| "faulty".to_owned());
                    members.push((name.to_owned(), state.trim().to_owned()));
                }
            }
            members.sort();
            let is_half = |name: &str| partitions.iter().any(|one| one.name == name && one.label == MIRROR_LABEL);
            if !members.iter().any(|(name, _)| is_half(name)) {
                continue;
            }
            let told = |name: &str| small(&folder.join(name)).unwrap_or_default().trim().to_owned();
            return Ok(Some(Self {
                name: entry.file_name().to_string_lossy().into_owned(),
                members,
                degraded: told("degraded").parse().unwrap_or(0),
                completed: completed(&told("sync_completed")),
            }));
        }
        Ok(None)
    }

    /// Whether that partition is a member that works, or is being filled.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.states(name).is_some_and(|mut states| !states.any(|state| state == "faulty"))
    }

    /// Whether all data is on that partition.
    #[must_use]
    pub fn is_filled(&self, name: &str) -> bool {
        self.states(name).is_some_and(|mut states| states.any(|state| state == "in_sync"))
    }

    /// Whether a half is being filled. That the kernel would like to fill one is not enough: it also says so when there is none.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.members.iter().any(|(name, _)| self.has(name) && !self.is_filled(name))
    }

    fn states(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, state)| state.split(','))
    }
}

/// Whether a half was used without the other, by what `mdadm --examine` says of it: it then has what the other has not, and what
/// is the same is not known.
#[must_use]
pub fn was_alone(examined: &str) -> bool {
    // `   Array State : A. ('A' == active, '.' == missing, 'R' == replacing)`
    let states = examined.lines().find_map(|line| line.trim().strip_prefix("Array State :"));
    states.is_none_or(|states| states.split_whitespace().next().is_none_or(|states| states.contains('.')))
}

/// How often the half was changed, by what `mdadm --examine` says of it: the half that was changed more often knows more. 0, when
/// nothing is said.
#[must_use]
pub fn events(examined: &str) -> u64 {
    let told = examined.lines().find_map(|line| line.trim().strip_prefix("Events :"));
    told.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// `1024 / 4096`, or `none`.
fn completed(told: &str) -> Option<(u64, u64)> {
    let (done, of) = told.split_once('/')?;
    let pair = (done.trim().parse().ok()?, of.trim().parse().ok()?);
    (pair.1 > 0).then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BOOT_LABEL;
    use crate::partition::laid::partition;

    /// A disk of a box with two, its half a member of `array`.
    fn disk(letter: char, array: Option<&str>) -> [Partition; 2] {
        let mut half = partition(letter, 8, MIRROR_LABEL, "raid", "88");
        half.array = array.map(str::to_owned);
        let boot = format!("0a1b2c3d-0001-4002-8003-00000000000{letter}");
        [partition(letter, 1, BOOT_LABEL, "esp", &boot), half]
    }

    fn own(one: &[Partition; 2], other: &[Partition; 2]) -> Own {
        Own::of(&[one.clone(), other.clone()].concat(), &one[0])
    }

    #[test]
    fn a_box_with_one_disk_has_no_array() {
        let boot = partition('a', 1, BOOT_LABEL, "esp", "11");
        // A half on a disk that is not ours.
        let seen = [boot.clone(), partition('b', 8, MIRROR_LABEL, "raid", "88")];
        assert_eq!(plan(&Own::of(&seen, &boot)), Plan::OneDisk);
    }

    #[test]
    fn halves_are_put_together_by_what_their_superblocks_say() {
        let whole = own(&disk('a', Some("x")), &disk('b', Some("x")));
        let Plan::Assemble { members, blank, strangers } = plan(&whole) else { panic!() };
        assert_eq!((members.len(), blank.len(), strangers.len()), (2, 0, 0));

        let fresh = own(&disk('a', None), &disk('b', None));
        assert!(matches!(plan(&fresh), Plan::Blank(halves) if halves.len() == 2));

        let replaced = own(&disk('a', None), &disk('b', Some("x")));
        let Plan::Assemble { members, blank, .. } = plan(&replaced) else { panic!() };
        assert_eq!((&*members[0].name, &*blank[0].name), ("vdb8", "vda8"), "the new disk is filled, though it boots");
    }

    #[test]
    fn of_two_arrays_the_one_of_the_disk_that_was_started_from_is_ours() {
        let two = own(&disk('b', Some("y")), &disk('a', Some("x")));
        let Plan::Assemble { members, blank, strangers } = plan(&two) else { panic!() };
        assert_eq!((members.len(), &*members[0].name, blank.len(), &*strangers[0].name), (1, "vdb8", 0, "vda8"));
    }

    #[test]
    fn a_half_that_was_used_alone_is_known_by_its_superblock() {
        let told = |states: &str| format!("          Magic : a92b4efc\n   Array State : {states} ('A' == active)\n");
        assert!(!was_alone(&told("AA")));
        for states in ["A.", ".A"] {
            assert!(was_alone(&told(states)), "{states}");
        }
        // What does not say is not believed.
        assert!(was_alone("") && was_alone("   Array State :\n"));
    }

    #[test]
    fn how_often_a_half_was_changed_is_read_from_its_superblock() {
        assert_eq!(events("    Update Time : Fri Nov 27 2026\n         Events : 1734\n    Array State : AA\n"), 1734);
        assert_eq!((events(""), events("Events : many\n")), (0, 0));
    }

    #[test]
    fn the_kernel_s_word_about_the_array_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join("sys/class/block").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let partitions = disk('a', Some("x"));
        put("vda/size", "1");
        assert_eq!(Facts::read(folder.path(), &partitions).unwrap(), None);
        put("md5/md/dev-sdz1/state", "in_sync\n");
        put("md127/md/dev-vda8/state", "in_sync\n");
        put("md127/md/dev-vdb8/state", "faulty,blocked\n");
        put("md127/md/degraded", "1\n");
        put("md127/md/sync_completed", "1024 / 4096\n");
        let facts = Facts::read(folder.path(), &partitions).unwrap().unwrap();
        assert_eq!((&*facts.name, facts.degraded), ("md127", 1));
        assert_eq!(facts.completed, Some((1024, 4096)));
        assert!(facts.has("vda8") && !facts.has("vdb8") && !facts.has("sdz1"));
        assert!(facts.is_filled("vda8") && !facts.is_filled("vdb8") && !facts.is_filling());
        assert_eq!(completed("none"), None);
        assert_eq!(completed("0 / 0"), None);
    }
}
