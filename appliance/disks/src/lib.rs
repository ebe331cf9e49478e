//! Which disks the box starts from, one or two. With two, each holds all of it: the boot partition, both slots, a half of the
//! mirrored data volume; and the box runs on and starts again with either.
//!
//! The root lies over one disk or both ([`root`]), so that nothing else has to know how many there are. The data volume
//! is a RAID 1 of Linux ([`array`]), below the encryption. Boot partitions cannot be mirrored below their file system,
//! since the firmware and the boot loader write to one alone: they are copied, and numbers say which of two is newer
//! ([`boot`]). [`status`] is what others are told.

pub mod array;
pub mod boot;
pub mod partition;
pub mod root;
pub mod run;
pub mod status;

/// The label of boot partitions (image/layout.toml): what makes a disk one of the box's.
pub const BOOT_LABEL: &str = "postkeep-esp";
/// The label of the data volume: on the disk, or on the mirror of two.
pub const DATA_LABEL: &str = "postkeep-data";
/// The label of a half of the mirrored data volume.
pub const MIRROR_LABEL: &str = "postkeep-mirror";
/// On a boot partition: the box has two disks, and how often this one was alone ([`boot`]). The flasher writes the first.
pub const MIRROR_MARK: &str = "postkeep/mirror";
/// The mirrored data volume, when it is open.
pub const ARRAY: &str = "/dev/md/postkeep";
