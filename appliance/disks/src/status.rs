//! What others are told about the disks: on the console, by the API, in the journal.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::MIRROR_LABEL;
use crate::array::Facts;
use crate::partition::{Own, serial, small};

/// Where it is written, by whoever watches.
pub const FILE: &str = "run/postkeep-disks-watch/status.json";

/// The disks of a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Those that are there.
    pub disks: Vec<Disk>,
    /// How the mirror is; absent: the box has one disk.
    pub mirror: Option<Mirror>,
}

/// A disk that the box starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// The kernel's name.
    pub name: String,
    /// Its serial number; absent: it tells none.
    pub serial: Option<String>,
    /// The running system can be read from it.
    pub system: bool,
    /// All data is on it: the data volume, or a half that is not behind.
    pub data: bool,
}

/// How the mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Mirror {
    /// All is on both.
    Whole,
    /// All data is on both, but the version that runs can be started from one alone: it was installed while the other disk
    /// was away.
    OneStarts,
    /// One is filled again from the other.
    Rebuilding {
        /// Hundredths, 0 to 100.
        percent: u8,
    },
    /// One is missing, or has failed.
    Degraded,
    /// Both are missing: the data volume is not open yet, or cannot be.
    Absent,
}

impl Status {
    /// Of the box at `root`.
    ///
    /// # Errors
    /// The kernel's lists cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let own = Own::read(root)?;
        let array = Facts::read(root, &own.partitions)?;
        let sides = sides_of_root(root)?;
        Ok(Self::of(&own, array.as_ref(), &sides, |disk| serial(root, disk)))
    }

    fn of(
        Own { disks: names, partitions, .. }: &Own,
        array: Option<&Facts>,
        sides: &[String],
        serial: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let half_of = |disk: &str| partitions.iter().find(|one| one.disk == disk && one.label == MIRROR_LABEL);
        let has_two = names.iter().any(|name| half_of(name).is_some());
        let of_disk = |disk: &String| {
            let is_side = |name: &String| partitions.iter().any(|one| one.disk == *disk && one.name == *name);
            let filled = half_of(disk).map(|half| array.is_some_and(|array| array.is_filled(&half.name)));
            Disk {
                name: disk.clone(),
                serial: serial(disk),
                system: sides.iter().any(is_side),
                data: filled.unwrap_or(!has_two),
            }
        };
        let disks: Vec<Disk> = names.iter().map(of_disk).collect();
        let mirror = has_two.then(|| match array {
            None => Mirror::Absent,
            Some(facts) if facts.is_filling() => {
                let percent = facts.completed.map_or(0, |(done, of)| done.saturating_mul(100) / of);
                Mirror::Rebuilding { percent: u8::try_from(percent.min(100)).unwrap_or(100) }
            }
            Some(Facts { degraded: 0, .. }) if disks.iter().all(|disk| disk.system) => Mirror::Whole,
            Some(Facts { degraded: 0, .. }) => Mirror::OneStarts,
            Some(_) => Mirror::Degraded,
        });
        Self { disks, mirror }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |disk: &Disk| match &disk.serial {
            Some(serial) => format!("{} (serial number {serial})", disk.name),
            None => disk.name.clone(),
        };
        let of = |want: fn(&Disk) -> bool| {
            let names: Vec<String> = self.disks.iter().filter(|disk| want(disk)).map(named).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        match self.mirror {
            None => write!(out, "one disk: {}", of(|_| true)),
            Some(Mirror::Whole) => write!(out, "mirrored: {}", of(|_| true)),
            Some(Mirror::OneStarts) => {
                write!(
                    out,
                    "the data is mirrored; this version starts from {} alone, until a newer one is installed",
                    of(|disk| disk.system)
                )
            }
            Some(Mirror::Rebuilding { percent }) => {
                write!(out, "one of two disks is being filled, {percent} %: {}", of(|_| true))
            }
            Some(Mirror::Degraded) => {
                write!(out, "ONE OF TWO DISKS IS MISSING OR HAS FAILED; left: {}", of(|disk| disk.data))
            }
            Some(Mirror::Absent) => write!(out, "the mirrored data volume is not there; disks: {}", of(|_| true)),
        }
    }
}

/// The partitions below the running root, as the kernel names them.
fn sides_of_root(root: &Path) -> io::Result<Vec<String>> {
    let folder = root.join("sys/class/block");
    let is_root = |path: &PathBuf| small(&path.join("dm/name")).is_ok_and(|name| name.trim() == crate::root::DATA);
    let devices: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    let Some(device) = devices.into_iter().find(is_root) else { return Ok(Vec::new()) };
    let slaves = fs::read_dir(device.join("slaves"))?.flatten();
    Ok(slaves.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BOOT_LABEL;
    use crate::partition::Partition;
    use crate::partition::laid::partition;

    fn disk(letter: char) -> [Partition; 3] {
        [
            partition(letter, 1, BOOT_LABEL, "esp", &format!("0a1b2c3d-0001-4002-8003-00000000000{letter}")),
            partition(letter, 2, "postkeep_1.0.0", "root", "22"),
            partition(letter, 8, MIRROR_LABEL, "raid", "88"),
        ]
    }

    fn array(members: &[(&str, &str)], degraded: u32) -> Facts {
        let members = members.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
        Facts { name: "md127".to_owned(), members, degraded, completed: Some((1, 3)) }
    }

    fn status(partitions: &[Partition], array: Option<&Facts>) -> Status {
        let sides = ["vda2".to_owned(), "vdb2".to_owned()];
        Status::of(&Own::of(partitions, &partitions[0]), array, &sides, |disk| {
            (disk == "vdb").then(|| "S-2".to_owned())
        })
    }

    #[test]
    fn each_state_is_told_in_one_sentence() {
        let (one, two) = (disk('a'), [disk('a'), disk('b')].concat());
        let told = |partitions: &[Partition], array: Option<&Facts>| status(partitions, array).to_string();
        assert_eq!(told(&one[..2], None), "one disk: vda");
        let both = [("vda8", "in_sync"), ("vdb8", "in_sync")];
        assert_eq!(told(&two, Some(&array(&both, 0))), "mirrored: vda, vdb (serial number S-2)");
        let two_alone = Own::of(&two, &two[0]);
        let alone = Status::of(&two_alone, Some(&array(&both, 0)), &["vda2".to_owned()], |_| None);
        assert!(alone.to_string().starts_with("the data is mirrored; this version starts from vda alone"), "{alone}");
        let failed = [("vda8", "faulty"), ("vdb8", "in_sync")];
        let degraded = "ONE OF TWO DISKS IS MISSING OR HAS FAILED; left: vdb (serial number S-2)";
        assert_eq!(told(&two, Some(&array(&failed, 1))), degraded);
        assert_eq!(told(&disk('b'), Some(&array(&failed[1..], 1))), degraded);
        let filling = [("vda8", "spare"), ("vdb8", "in_sync")];
        assert!(told(&two, Some(&array(&filling, 1))).starts_with("one of two disks is being filled, 33 %"));
        assert!(told(&two, None).starts_with("the mirrored data volume is not there"));
    }

    #[test]
    fn its_form_for_others_stays() {
        let both = [("vda8", "in_sync"), ("vdb8", "spare")];
        let two = [disk('a'), disk('b')].concat();
        let told = serde_json::to_string(&status(&two, Some(&array(&both, 1)))).unwrap();
        assert_eq!(
            told,
            r#"{"disks":[{"name":"vda","serial":null,"system":true,"data":true},{"name":"vdb","serial":"S-2","system":true,"data":false}],"mirror":{"state":"rebuilding","percent":33}}"#
        );
        assert_eq!(serde_json::from_str::<Status>(&told).unwrap().disks.len(), 2);
    }
}
