//! What would be done to install a release, or why it may not be: decided before anything is written.

use postkeep_release::{
    ARCHITECTURE, DataFormat, Decision, MachineFacts, PRODUCT, Refusal, Release, Role, Version, decide,
};

use crate::api::{Plan, Wanted};
use crate::place::Disk;
use crate::transfer::PARTS;

/// What has to be known about the box.
#[derive(Debug, Clone)]
pub struct BoxFacts {
    /// What runs.
    pub running: Version,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Room for boot files, in octets.
    pub boot_room: u64,
    /// The format of the data on the disk; none when nothing says.
    pub data_format: Option<u32>,
    /// Versions that have a boot file.
    pub installed: Vec<Version>,
    /// Whether the firmware would start the release; why not.
    pub starts: Result<(), String>,
    /// Room on the data volume, in octets.
    pub room: u64,
}

/// Why a release is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The release is none for this box.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The firmware would not take it.
    #[error("{0}")]
    WouldNotStart(String),
    /// A second release of one version.
    #[error(
        "the slot that does not run holds another build of {0} than this release; a version is released once. Make a \
             new release with a higher version"
    )]
    OtherBuild(Version),
    /// Where its files would wait.
    #[error(
        "the release needs {needed} octets on the data volume while it is unpacked and there are {room}; let the queue \
             shrink, or flash the machine anew"
    )]
    NoRoom {
        /// Octets that are needed.
        needed: u64,
        /// Octets that there are.
        room: u64,
    },
}

/// What stays free on the data volume while a release is unpacked there: mail goes on meanwhile.
const SPARE: u64 = 256 << 20;

/// The plan for `release`, or why there is none. `staged` says which of its files are here already.
///
/// # Errors
/// It may not be installed.
pub fn plan(
    release: &Release,
    signed_by: Vec<String>,
    here: &BoxFacts,
    allow_older: bool,
    staged: impl Fn(Role) -> bool,
) -> Result<Plan, PlanError> {
    let mut slots = vec![(Role::Uki, here.boot_room)];
    for disk in &here.disks {
        slots.extend(disk.slots.iter().map(|slot| (slot.role, slot.size)));
    }
    let facts = MachineFacts {
        architecture: ARCHITECTURE.to_owned(),
        disk: None,
        slots,
        data_format: here.data_format,
        running_format: Some(DataFormat::ours()),
        rollback_allowed: allow_older,
    };
    if let Decision::Refuse(refusal) = decide(Some(here.running), release, &facts) {
        return Err(refusal.into());
    }
    here.starts.clone().map_err(PlanError::WouldNotStart)?;
    let label = format!("{PRODUCT}_{}", release.version);
    for slot in here.disks.iter().flat_map(|disk| &disk.slots).filter(|slot| slot.label == label) {
        let wanted = release.file(slot.role).and_then(|file| file.partition_uuid.as_deref());
        if wanted.is_some_and(|wanted| wanted != slot.uuid) {
            return Err(PlanError::OtherBuild(release.version));
        }
    }
    let files: Vec<_> = PARTS.iter().filter_map(|role| release.file(*role)).collect();
    let needed = files.iter().filter(|file| !staged(file.role)).map(|file| file.content_size()).sum::<u64>();
    if needed > 0 && here.room < needed.saturating_add(SPARE) {
        return Err(PlanError::NoRoom { needed: needed.saturating_add(SPARE), room: here.room });
    }
    Ok(Plan {
        running: here.running,
        version: release.version,
        issued: release.issued,
        signed_by,
        replaces: here.installed.iter().copied().find(|version| ![here.running, release.version].contains(version)),
        files: files
            .iter()
            .map(|file| Wanted { name: file.name.clone(), size: file.size, staged: staged(file.role) })
            .collect(),
        disks: here.disks.iter().map(|disk| disk.device.display().to_string()).collect(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use postkeep_release::{File, Sha256};

    use super::*;
    use crate::place::Slot;

    const UUID: &str = "11111111-1111-1111-1111-111111111111";

    /// A release of `version` whose parts have the contents that are given.
    pub(crate) fn release(version: Version, parts: &[(Role, &[u8])]) -> Release {
        let sum = Sha256::of(b"");
        let mut release = Release::new(version, Timestamp::UNIX_EPOCH, sum, sum, DataFormat::ours());
        for (role, content) in parts {
            release.files.push(File {
                name: format!("postkeep_{version}.{role}"),
                role: *role,
                size: content.len() as u64,
                sha256: Sha256::of(content),
                expanded_size: None,
                expanded_sha256: None,
                partition_uuid: (*role != Role::Uki).then(|| UUID.to_owned()),
            });
        }
        release
    }

    fn parts() -> [(Role, &'static [u8]); 4] {
        PARTS.map(|role| (role, &b"content"[..]))
    }

    fn here() -> BoxFacts {
        let slot = |role, label: &str| Slot {
            role,
            size: 100,
            label: label.to_owned(),
            uuid: UUID.to_owned(),
            device: "/dev/vda2".into(),
        };
        let slots = [Role::Root, Role::RootVerity, Role::RootVeritySignature]
            .into_iter()
            .flat_map(|role| [slot(role, "postkeep_1.0.0"), slot(role, "_empty")])
            .collect();
        BoxFacts {
            running: Version::new(1, 0, 0),
            disks: vec![Disk { device: "/dev/vda".into(), slots }],
            boot_room: 100,
            data_format: Some(1),
            installed: vec![Version::new(0, 9, 0), Version::new(1, 0, 0)],
            starts: Ok(()),
            room: 1 << 30,
        }
    }

    fn refused(release: &Release, here: &BoxFacts) -> String {
        plan(release, Vec::new(), here, false, |_| false).unwrap_err().to_string()
    }

    #[test]
    fn a_plan_says_what_is_written_where_and_what_is_lost() {
        let plan =
            plan(&release(Version::new(1, 1, 0), &parts()), Vec::new(), &here(), false, |role| role == Role::Uki)
                .unwrap();
        assert_eq!(plan.replaces, Some(Version::new(0, 9, 0)));
        assert_eq!(plan.disks, ["/dev/vda"]);
        assert_eq!(plan.files.iter().map(|file| file.staged).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn what_may_not_be_installed_is_refused_with_a_remedy() {
        let newer = Version::new(1, 1, 0);
        assert!(refused(&release(Version::new(0, 9, 0), &parts()), &here()).contains("roll back"));
        assert!(refused(&release(Version::new(1, 0, 0), &parts()), &here()).contains("runs already"));
        let large: [(Role, &[u8]); 4] = PARTS.map(|role| (role, &[7; 101][..]));
        assert!(refused(&release(newer, &large), &here()).contains("flash the machine anew"));
        assert!(refused(&release(newer, &parts()[..3]), &here()).contains("no file for uki"));
        let locked = BoxFacts { starts: Err("not in db".to_owned()), ..here() };
        assert_eq!(refused(&release(newer, &parts()), &locked), "not in db");
        let full = BoxFacts { room: SPARE, ..here() };
        assert!(refused(&release(newer, &parts()), &full).contains("data volume"));
    }

    #[test]
    fn a_second_build_of_one_version_is_refused() {
        let mut here = here();
        for slot in &mut here.disks[0].slots {
            if slot.label == "_empty" {
                slot.label = "postkeep_1.1.0".to_owned();
            }
        }
        let same = release(Version::new(1, 1, 0), &parts());
        assert!(plan(&same, Vec::new(), &here, false, |_| false).is_ok(), "the same build may be repaired");
        here.disks[0].slots[1].uuid = "22222222-2222-2222-2222-222222222222".to_owned();
        assert!(refused(&same, &here).contains("released once"));
    }
}
