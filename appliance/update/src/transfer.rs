//! What systemd-sysupdate is told: where the checked files of a release lie, and which partitions of which disk they go
//! to (sysupdate.d(5)). One set for each disk that the box starts from.

use std::fmt::Write as _;
use std::path::Path;

use postkeep_release::{File, PRODUCT, Release, Role, Version};

use crate::boot_file::TRIES;

/// What a slot consists of, in the order in which it is written; the boot file comes last, so that nothing is started
/// before all of it is there.
pub const PARTS: [Role; 4] = [Role::RootVerity, Role::RootVeritySignature, Role::Root, Role::Uki];

/// The name under which a checked file of a release waits for systemd-sysupdate; none for a file that goes to no slot.
#[must_use]
pub fn staged_name(file: &File, version: Version) -> Option<String> {
    if file.role == Role::Uki {
        return Some(format!("{PRODUCT}_{version}.efi"));
    }
    let uuid = file.partition_uuid.as_deref()?;
    Some(format!("{}-{version}_{uuid}.raw", file.role))
}

/// The type of partition for a part, as systemd names it, and as GPT does.
#[must_use]
pub const fn partition_type(role: Role) -> Option<(&'static str, &'static str)> {
    match role {
        Role::Root => Some(("root", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709")),
        Role::RootVerity => Some(("root-verity", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")),
        Role::RootVeritySignature => Some(("root-verity-sig", "41092b05-9fc8-4523-994f-2def0408b176")),
        _ => None,
    }
}

/// What systemd-sysupdate is told about one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Which part.
    pub role: Role,
    /// The name of its file; they are read in the order of their names.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The definitions for one disk.
#[must_use]
pub fn definitions(
    release: &Release,
    running: Version,
    staged: &Path,
    disk: &Path,
    boot_files: &Path,
) -> Vec<Definition> {
    let mut written = Vec::new();
    for (number, role) in PARTS.into_iter().enumerate() {
        if release.file(role).is_none() {
            continue;
        }
        let mut text = format!(
            "# Written by postkeep-update for release {}.\n[Transfer]\nProtectVersion={running}\n\
             # Every file was held against the signed manifest when it came in.\nVerify=no\n\n\
             [Source]\nType=regular-file\nPath={}\n",
            release.version,
            staged.display()
        );
        // Writing to a String cannot fail.
        let _ = match partition_type(role) {
            Some((kind, _)) => write!(
                text,
                "MatchPattern={role}-@v_@u.raw\n\n[Target]\nType=partition\nPath={}\nMatchPattern={PRODUCT}_@v\n\
                 MatchPartitionType={kind}\nReadOnly=yes\nInstancesMax=2\n",
                disk.display()
            ),
            None => write!(
                text,
                "MatchPattern={PRODUCT}_@v.efi\n\n[Target]\nType=regular-file\nPath={}\n\
                 MatchPattern={PRODUCT}_@v+@l-@d.efi {PRODUCT}_@v+@l.efi {PRODUCT}_@v.efi\n\
                 Mode=0444\nTriesLeft={TRIES}\nTriesDone=0\nInstancesMax=2\n",
                boot_files.display()
            ),
        };
        written.push(Definition { role, name: format!("{}0-{role}.transfer", number + 1), text });
    }
    written
}
