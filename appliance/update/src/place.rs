//! What the box is, read at the moment: which version runs, what lies in the boot partition, which disks it starts
//! from. Everything under one root, so that a test can give it a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use postkeep_disks::partition::{self, Own, Partition};
use postkeep_firmware::digest::Digest;
use postkeep_firmware::facts::{self, Ours};
use postkeep_firmware::secure_boot;
use postkeep_notes::VerifierKey;
use postkeep_release::{PRODUCT, Role, Sha256, Version};

use crate::boot_file::{BootFile, Standing};
use crate::transfer::partition_type;

const BOOT_COUNT_PATH: &str = "sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Why the box is not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A file.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What it says.
    #[error("{path}: {why}", path = path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel does not tell, or this is no box that was flashed.
    #[error("cannot tell which disks are this box's: {0}; updates are for boxes that were flashed")]
    Disks(io::Error),
    /// It was pulled out, or has failed.
    #[error(
        "the disk that this box was started from is gone, and its boot partition with it; start the box again, then update"
    )]
    BootDiskGone,
}

/// A box, or a folder that looks like one.
#[derive(Debug, Clone)]
pub struct Place {
    root: PathBuf,
}

/// A disk that the box starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its device.
    pub device: PathBuf,
    /// Its partitions that belong to slots.
    pub slots: Vec<Slot>,
}

/// A partition of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// What goes there.
    pub role: Role,
    /// Octets.
    pub size: u64,
    /// Its label: `postkeep_1.2.0`, or `_empty`.
    pub label: String,
    /// Its UUID, in small letters.
    pub uuid: String,
    /// Its device.
    pub device: PathBuf,
}

/// The label of what a version has in a slot.
#[must_use]
pub fn label(version: Version) -> String {
    format!("{PRODUCT}_{version}")
}

impl Disk {
    /// The device that is labelled as that part of `version`.
    #[must_use]
    pub fn part(&self, role: Role, version: Version) -> Option<&Path> {
        let label = label(version);
        let slot = self.slots.iter().find(|slot| slot.role == role && slot.label == label)?;
        Some(&slot.device)
    }
}

impl Place {
    /// The box under `root`, `/` but in tests.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A path of the box.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Where boot files lie.
    #[must_use]
    pub fn boot_files_folder(&self) -> PathBuf {
        self.path("efi/EFI/Linux")
    }

    /// The version that runs: `IMAGE_VERSION` of the image's os-release(5).
    ///
    /// # Errors
    /// The image does not say.
    pub fn running(&self) -> Result<Version, PlaceError> {
        let path = self.path("usr/lib/os-release");
        let text = small(&path)?;
        match image_version(&text).map(str::parse::<Version>) {
            Some(Ok(version)) => Ok(version),
            Some(Err(error)) => Err(PlaceError::Content { path, why: format!("IMAGE_VERSION: {error}") }),
            None => {
                Err(PlaceError::Content { path, why: "it has no IMAGE_VERSION; this is no image of ours".to_owned() })
            }
        }
    }

    /// Whose releases this box takes: one key on each line, `#` begins a comment.
    ///
    /// # Errors
    /// There is none, or one is damaged.
    pub fn release_keys(&self) -> Result<Vec<VerifierKey>, PlaceError> {
        let path = self.path("usr/lib/postkeep/release-keys");
        let text = small(&path)?;
        let keys = VerifierKey::of_lines(&text);
        let keys = keys.map_err(|error| PlaceError::Content { path: path.clone(), why: error.to_string() })?;
        if keys.is_empty() {
            return Err(PlaceError::Content { path, why: "no key is in it; this image takes no updates".to_owned() });
        }
        Ok(keys)
    }

    /// The boot files of ours, the newest version last; none where there is no folder for them, as in a container.
    ///
    /// # Errors
    /// The boot partition cannot be read.
    pub fn boot_files(&self) -> Result<Vec<BootFile>, PlaceError> {
        let path = self.boot_files_folder();
        let failed = |error| PlaceError::Read { path: path.clone(), error };
        let mut files = Vec::new();
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            files.extend(name.to_str().and_then(|name| name.parse::<BootFile>().ok()));
        }
        files.sort_by_key(|file| file.version);
        Ok(files)
    }

    /// The boot file of ours that the machine was started with, under the name that the boot loader gave it then; none where
    /// that does not count.
    #[must_use]
    pub fn started(&self) -> Option<BootFile> {
        // `LoaderBootCountPath` of the boot loader interface: four octets of attributes, then UTF-16.
        let octets = fs::read(self.path(BOOT_COUNT_PATH)).ok()?;
        let units = octets.get(4..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let path: String = char::decode_utf16(units.take_while(|unit| *unit != 0)).collect::<Result<_, _>>().ok()?;
        path.rsplit('\\').next()?.parse().ok()
    }

    /// What the boot file of `version` says; none when there is none. Of two (a rename that a loss of power cut in half)
    /// the worse counts.
    ///
    /// # Errors
    /// The boot partition cannot be read.
    pub fn standing(&self, version: Version) -> Result<Option<Standing>, PlaceError> {
        let weight = |standing: &Standing| match standing {
            Standing::Good => 2,
            Standing::OnTrial { .. } => 1,
            Standing::Bad => 0,
        };
        let files = self.boot_files()?.into_iter().filter(|file| file.version == version);
        Ok(files.map(BootFile::standing).min_by_key(weight))
    }

    /// Room for boot files once the one that does not run is gone, in octets.
    ///
    /// # Errors
    /// The boot partition cannot be read.
    pub fn boot_room(&self, running: Version) -> Result<u64, PlaceError> {
        let path = self.boot_files_folder();
        let failed = |error: io::Error| PlaceError::Read { path: path.clone(), error };
        let system = rustix::fs::statvfs(&path).map_err(|error| failed(error.into()))?;
        let mut room = system.f_bavail.saturating_mul(system.f_frsize);
        for file in self.boot_files()?.into_iter().filter(|file| file.version != running) {
            room += fs::metadata(path.join(file.to_string())).map_or(0, |data| data.len());
        }
        Ok(room)
    }

    /// Whether the firmware would start what is signed with the certificate of that sum; `Ok` too where Secure Boot is off.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub fn starts(&self, certificate: Sha256) -> Result<(), String> {
        let ours = Ours { certificates: vec![Digest(certificate.0)], files: Vec::new() };
        let facts = facts::gather(&self.root, &ours);
        match (facts.secure_boot, facts.signature_keys) {
            // Not on, or not there: nobody asks for a signature.
            (Ok(false) | Err(_), _) => Ok(()),
            (Ok(true), Ok(holders)) if holders.iter().any(|holder| holder.owner == secure_boot::Owner::Own) => Ok(()),
            (Ok(true), Ok(_)) => Err(format!(
                "the boot file of the release is signed with the certificate {certificate}, which is not in this machine's \
                 Secure Boot db: it would not start. Have the release signed with a key that is: to enrol \
                 another one would close the data volume for good (docs/operate/secure-boot.md)"
            )),
            (Ok(true), Err(error)) => Err(format!("cannot tell whether the machine would start the release: {error}")),
        }
    }

    /// The disks of the box, the one that it was started from first.
    ///
    /// # Errors
    /// That one is gone, or the kernel's list cannot be read.
    pub fn disks(&self) -> Result<Vec<Disk>, PlaceError> {
        let own = Own::read(&self.root).map_err(PlaceError::Disks)?;
        if !own.has_boot_disk() {
            return Err(PlaceError::BootDiskGone);
        }
        let mut disks: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
        let at = |name: &str| self.path("dev").join(name);
        for Partition { name, disk, label, kind, uuid, size, .. } in own.partitions {
            let slots = disks.entry(disk).or_default();
            let mut roles = [Role::Root, Role::RootVerity, Role::RootVeritySignature].into_iter();
            let role = roles.find(|role| partition_type(*role).is_some_and(|(_, uuid)| uuid == kind));
            slots.extend(role.map(|role| Slot { role, size, label, uuid, device: at(&name) }));
        }
        let mut ours: Vec<Disk> = disks.into_iter().map(|(name, slots)| Disk { device: at(&name), slots }).collect();
        ours.sort_by_key(|disk| !disk.device.ends_with(&own.boot.disk));
        Ok(ours)
    }
}

/// Which image an os-release(5) is of; none where it is no image.
#[must_use]
pub fn image_version(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?;
    Some(value.trim_matches('"'))
}

/// A small text file.
fn small(path: &Path) -> Result<String, PlaceError> {
    partition::small(path).map_err(|error| PlaceError::Read { path: path.to_owned(), error })
}

/// A box in a folder, for tests of this room.
#[cfg(test)]
pub(crate) mod tests {
    use postkeep_disks::BOOT_LABEL;
    use postkeep_disks::partition::laid;

    use super::*;

    /// Lays a box of one disk with two slots: A has `running`, B is empty.
    pub(crate) fn lay(root: &Path, running: &str, key: &VerifierKey) {
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("usr/lib/os-release", &format!("ID=debian\nIMAGE_VERSION=\"{running}\"\n"));
        put("usr/lib/postkeep/release-keys", &format!("# whose releases\n{key}\n"));
        put(&format!("efi/EFI/Linux/postkeep_{running}.efi"), "boot file");
        let label = format!("postkeep_{running}");
        let uuid = |number: u32| format!("0000000{number}-0000-0000-0000-000000000000");
        let kind = |role| partition_type(role).unwrap().1;
        let rows = [
            (BOOT_LABEL, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", 2 << 30),
            (label.as_str(), kind(Role::Root), 8 << 20),
            (label.as_str(), kind(Role::RootVerity), 2 << 20),
            (label.as_str(), kind(Role::RootVeritySignature), 16 << 10),
            ("_empty", kind(Role::Root), 8 << 20),
            ("_empty", kind(Role::RootVerity), 2 << 20),
            ("_empty", kind(Role::RootVeritySignature), 16 << 10),
        ];
        let partitions: Vec<Partition> = (1..)
            .zip(rows)
            .map(|(number, (label, kind, size))| Partition {
                size,
                ..laid::partition('a', number, label, kind, &uuid(number))
            })
            .collect();
        laid::lay(root, &partitions).unwrap();
    }

    #[test]
    fn a_box_is_read_from_what_the_kernel_and_udev_say() {
        let folder = tempfile::tempdir().unwrap();
        let key = postkeep_notes::SignerKey::generate("release.example").unwrap();
        lay(folder.path(), "1.0.0", key.verifier());
        let place = Place::new(folder.path());
        assert_eq!(place.running().unwrap(), Version::new(1, 0, 0));
        assert_eq!(place.release_keys().unwrap(), [key.verifier().clone()]);
        assert_eq!(place.standing(Version::new(1, 0, 0)).unwrap(), Some(Standing::Good));
        assert_eq!(place.standing(Version::new(1, 1, 0)).unwrap(), None);
        let disks = place.disks().unwrap();
        assert_eq!(disks.len(), 1);
        assert_eq!(disks[0].device, folder.path().join("dev/vda"));
        assert_eq!(disks[0].slots.len(), 6);
        let root = disks[0].slots.iter().find(|slot| slot.role == Role::Root).unwrap();
        assert_eq!((root.size, root.label.as_str()), (8 << 20, "postkeep_1.0.0"));
        // Of a rename that was cut in half the worse name counts.
        fs::write(folder.path().join("efi/EFI/Linux/postkeep_1.0.0+0-1.efi"), "boot file").unwrap();
        assert_eq!(place.standing(Version::new(1, 0, 0)).unwrap(), Some(Standing::Bad));
    }

    #[test]
    fn a_folder_that_is_no_box_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        assert!(place.running().unwrap_err().to_string().contains("os-release"));
        fs::create_dir_all(folder.path().join("sys/class/block")).unwrap();
        assert!(place.disks().unwrap_err().to_string().contains("boxes that were flashed"));
    }
}
