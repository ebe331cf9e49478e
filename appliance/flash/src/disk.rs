//! A disk: what the kernel says about it, and whether it may be written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::gpt::SECTOR;

/// A disk as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// What the kernel calls it.
    pub name: String,
    /// Where it is opened.
    pub path: PathBuf,
    /// How many octets it has.
    pub size: u64,
    /// Its model.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// The name that it has in all the world, whichever way leads to it.
    pub wwid: Option<String>,
    /// What has to be typed before it is erased: its serial number, with its name where another disk tells the same one (the
    /// namespaces of an NVMe drive do), or its name alone.
    pub identity: String,
    /// It turns.
    pub rotational: bool,
    /// It can be pulled out: often a stick.
    pub removable: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// The smallest piece that it reads and writes, in octets.
    pub logical_sector: u64,
    /// What it is used for at the moment; empty when for nothing.
    pub used_by: Vec<String>,
}

/// A disk that was named, and may be written.
#[derive(Debug)]
pub struct Target {
    /// Which one.
    pub disk: Disk,
    pub(crate) file: File,
}

/// Why a disk is not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The system.
    #[error("cannot open {}: {error}", path.display())]
    Open {
        /// The disk.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A part of a disk was named, or something else.
    #[error("{} is {what}; name a whole disk, as `postkeep-flash inventory` lists them", path.display())]
    NotADisk {
        /// What was named.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Somebody uses it.
    #[error("{} is in use ({}); unmount it, stop its RAID or swap, or name another disk", path.display(), by.join(", "))]
    InUse {
        /// The disk.
        path: PathBuf,
        /// For what.
        by: Vec<String>,
    },
    /// It cannot be written.
    #[error("{} can only be read; name another disk, or lift its write protection", .0.display())]
    ReadOnly(PathBuf),
    /// The image would be read differently from it.
    #[error(
        "{} has sectors of {found} octets, and the image is made for {SECTOR}; name another disk, or set it to \
         {SECTOR} with the tool of its maker (for NVMe: nvme format --lbaf)", path.display()
    )]
    SectorSize {
        /// The disk.
        path: PathBuf,
        /// What it has.
        found: u64,
    },
    /// The same disk was named twice.
    #[error("{} was named twice; a mirror needs two disks", .0.display())]
    Twice(PathBuf),
    /// Another one is there now.
    #[error("{} is not the disk any more that was looked at and confirmed; nothing was written: look again (inventory)", .0.display())]
    Changed(PathBuf),
}

impl Disk {
    /// The disk at `path`, as `/sys` and `/proc` below `root` describe it. A file counts as a disk that is idle.
    ///
    /// # Errors
    /// There is none, or it is no whole disk.
    pub fn at(root: &Path, path: &Path) -> Result<Self, DiskError> {
        let failed = |error| DiskError::Open { path: path.to_owned(), error };
        let found = fs::metadata(path).map_err(failed)?;
        if found.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Self {
                identity: name.clone(),
                name,
                path: path.to_owned(),
                size: found.len(),
                model: None,
                serial: None,
                wwid: None,
                rotational: false,
                removable: false,
                read_only: found.permissions().readonly(),
                logical_sector: SECTOR,
                used_by: Vec::new(),
            });
        }
        if !found.file_type().is_block_device() {
            return Err(DiskError::NotADisk { path: path.to_owned(), what: "no disk" });
        }
        let numbers = format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        let folder = fs::canonicalize(root.join("sys/dev/block").join(&numbers)).map_err(failed)?;
        if folder.join("partition").exists() {
            return Err(DiskError::NotADisk { path: path.to_owned(), what: "a partition" });
        }
        if !names(&folder.join("slaves")).is_empty() {
            return Err(DiskError::NotADisk { path: path.to_owned(), what: "put together from other disks" });
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut disk = Self { path: path.to_owned(), ..Self::of_folder(root, &folder, name) };
        if let Some(listed) = Self::all(root).into_iter().find(|other| other.name == disk.name) {
            disk.identity = listed.identity;
        }
        Ok(disk)
    }

    /// The disks of the machine.
    pub(crate) fn all(root: &Path) -> Vec<Self> {
        let made_up = ["loop", "ram", "zram", "sr", "dm-", "md", "fd", "nbd"];
        let mut disks: Vec<Self> = names(&root.join("sys/block"))
            .into_iter()
            .filter(|name| !made_up.iter().any(|kind| name.starts_with(kind)))
            // The single paths of an NVMe drive with several have no node to open.
            .filter(|name| text(&root.join("sys/block").join(name).join("hidden")).as_deref() != Some("1"))
            .map(|name| Self::of_folder(root, &root.join("sys/block").join(&name), name))
            .filter(|disk| disk.size > 0)
            .collect();
        disks.sort_by(|one, other| one.name.cmp(&other.name));
        let told: Vec<String> = disks.iter().map(|disk| disk.identity.clone()).collect();
        for disk in &mut disks {
            if told.iter().filter(|other| **other == disk.identity).count() > 1 {
                disk.identity = format!("{}/{}", disk.identity, disk.name);
            }
        }
        disks
    }

    /// Whether it may be written at all.
    ///
    /// # Errors
    /// It is in use, can only be read, or has sectors of another size.
    pub fn check(&self) -> Result<(), DiskError> {
        let path = self.path.clone();
        if !self.used_by.is_empty() {
            return Err(DiskError::InUse { path, by: self.used_by.clone() });
        }
        if self.read_only {
            return Err(DiskError::ReadOnly(path));
        }
        if self.logical_sector != SECTOR {
            return Err(DiskError::SectorSize { path, found: self.logical_sector });
        }
        Ok(())
    }

    /// Opens it, for nobody else to use in the meantime.
    ///
    /// # Errors
    /// It cannot be opened; a disk that has come into use cannot. Its name leads to another disk since it was looked at.
    pub fn open(self, root: &Path) -> Result<Target, DiskError> {
        self.check()?;
        let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
        let opened = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(&self.path);
        match opened {
            Ok(file) => {
                let found = Self::at(root, Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?;
                let is_file = file.metadata().is_ok_and(|found| found.is_file());
                let is_same = is_file || (&found.name, &found.identity) == (&self.name, &self.identity);
                if !is_same || (found.size, found.logical_sector) != (self.size, self.logical_sector) {
                    return Err(DiskError::Changed(self.path));
                }
                found.check()?;
                Ok(Target { disk: self, file })
            }
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                Err(DiskError::InUse { path: self.path, by: vec!["the kernel says so".to_owned()] })
            }
            Err(error) => Err(DiskError::Open { path: self.path, error }),
        }
    }

    fn of_folder(root: &Path, folder: &Path, name: String) -> Self {
        let flag = |of: &str| text(&folder.join(of)).as_deref() == Some("1");
        let number = |of: &str| text(&folder.join(of)).and_then(|text| text.parse::<u64>().ok());
        Self {
            path: Path::new("/dev").join(name.replace('!', "/")),
            // Always counted in 512, whatever the sectors are.
            size: number("size").unwrap_or_default().saturating_mul(512),
            model: text(&folder.join("device/model")),
            identity: serial(folder).unwrap_or_else(|| name.clone()),
            serial: serial(folder),
            wwid: text(&folder.join("wwid")).or_else(|| text(&folder.join("device/wwid"))),
            rotational: flag("queue/rotational"),
            removable: flag("removable"),
            read_only: flag("ro"),
            logical_sector: number("queue/logical_block_size").unwrap_or(SECTOR),
            used_by: uses(root, folder, &name),
            name,
        }
    }
}

/// Whether both are the same disk, which may have many names.
#[must_use]
pub fn is_same(one: &Path, other: &Path) -> bool {
    let own = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some(if found.is_file() { (found.dev(), found.ino()) } else { (found.rdev(), 0) })
    };
    own(one).is_some_and(|own_one| Some(own_one) == own(other))
}

/// Where each kind of disk tells its serial number.
fn serial(folder: &Path) -> Option<String> {
    let page = || {
        // Four octets of header, the last of them the length.
        let page = fs::read(folder.join("device/vpd_pg80")).ok()?;
        let number = page.get(4..4 + usize::from(*page.get(3)?))?;
        let number = String::from_utf8_lossy(number).trim_matches(['\0', ' ']).to_owned();
        (!number.is_empty()).then_some(number)
    };
    text(&folder.join("serial")).or_else(|| text(&folder.join("device/serial"))).or_else(page)
}

fn uses(root: &Path, folder: &Path, name: &str) -> Vec<String> {
    let mut parts = vec![(name.to_owned(), folder.to_owned())];
    for part in names(folder).into_iter().filter(|part| folder.join(part).join("partition").exists()) {
        parts.push((part.clone(), folder.join(part)));
    }
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let swaps = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    let mut found = Vec::new();
    for (part, folder) in parts {
        let (numbers, path) = (text(&folder.join("dev")), format!("/dev/{part}"));
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            // The source stands behind a dash; file systems over several disks have numbers that are nobody's.
            let source = line.split_once(" - ").and_then(|(_, behind)| behind.split(' ').nth(1));
            if (numbers.is_some() && fields.get(2).copied() == numbers.as_deref()) || source == Some(&path) {
                found.push(format!("{part} is mounted at {}", fields.get(4).unwrap_or(&"?")));
            }
        }
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&path)) {
            found.push(format!("{part} is swap"));
        }
        found.extend(names(&folder.join("holders")).into_iter().map(|holder| format!("{part} is part of {holder}")));
    }
    found
}

/// The one line in the file at `path`, when there is one and it says anything.
pub(crate) fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).trim_matches(['\0', ' ', '\n']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// The names in the folder at `path`, in order; none when there is no such folder.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
