//! Whether a release may be installed on a machine: a pure question with a reasoned answer.

use crate::{ARCHITECTURE, DataFormat, PRODUCT, Release, Role, Version};

/// What has to be known about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// The architecture of its processor, as manifests name it.
    pub architecture: String,
    /// How large the disk is that the disk image would go to, in octets; none when nothing is flashed.
    pub disk: Option<u64>,
    /// How large the partitions of the other slot are, in octets; none when nothing is updated.
    pub slots: Vec<(Role, u64)>,
    /// The format of the data on the disk; none when there is none yet.
    pub data_format: Option<u32>,
    /// How what runs keeps data: it must be able to go on if the release does not prove itself; none when nothing runs.
    pub running_format: Option<DataFormat>,
    /// The owner has said that an older version may come in the place of a newer one.
    pub rollback_allowed: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be installed.
    Accept,
    /// It may not.
    Refuse(Refusal),
}

/// Why a release may not be installed, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A trusted key has signed something else.
    #[error("this is a release of {0:?}, not of {PRODUCT}; fetch the right one")]
    Product(String),
    /// Another processor.
    #[error("the release is for {wanted} and this machine is {found}; fetch the release for {found}, if there is one")]
    Architecture {
        /// What the release is for.
        wanted: String,
        /// What the machine is.
        found: String,
    },
    /// It would lead back to known faults.
    #[error(
        "the release is {offered}, older than {running}, which runs; older versions have known faults. Take a newer \
             one, or say explicitly that you want to roll back"
    )]
    Older {
        /// The release's.
        offered: Version,
        /// What runs.
        running: Version,
    },
    /// There is nothing to do.
    #[error("version {0} runs already; there is nothing to install")]
    Same(Version),
    /// A file that is needed is not part of it.
    #[error("the release has no file for {0}; it is not complete, fetch another release")]
    Missing(Role),
    /// It does not fit.
    #[error("{role} of the release needs {needed} octets and there is room for {room}; {remedy}")]
    TooLarge {
        /// Which file.
        role: Role,
        /// How many octets it has when it is no longer compressed.
        needed: u64,
        /// How many there is room for.
        room: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// The image fits, and what the box makes behind it does not.
    #[error(
        "a box needs a disk of {needed} octets, for both slots and its data, and this one has {room}; take a larger one"
    )]
    SmallDisk {
        /// How many octets it takes.
        needed: u64,
        /// How many the disk has.
        room: u64,
    },
    /// The mail that is on the disk would be unreadable.
    #[error(
        "the data on this machine has format {found} and the release reads {reads}; install a version between them \
             first, or, on the way back, a newer one"
    )]
    DataFormat {
        /// What is on the disk.
        found: u32,
        /// What the release reads.
        reads: String,
    },
    /// What runs now could not go on with what the release has written.
    #[error(
        "the release writes data of format {writes}, which {running} cannot read: there would be no way back if it \
             failed. Install a version between them first, which reads {writes} and does not write it yet"
    )]
    NoWayBack {
        /// What the release writes.
        writes: u32,
        /// What runs.
        running: Version,
    },
}

/// Whether `release` may be installed where `running` runs (nothing, when a machine is flashed).
#[must_use]
pub fn decide(running: Option<Version>, release: &Release, machine: &MachineFacts) -> Decision {
    match refusal(running, release, machine) {
        Some(refusal) => Decision::Refuse(refusal),
        None => Decision::Accept,
    }
}

fn refusal(running: Option<Version>, release: &Release, machine: &MachineFacts) -> Option<Refusal> {
    if release.product != PRODUCT {
        return Some(Refusal::Product(release.product.clone()));
    }
    // A manifest for an architecture that nobody here knows is refused even by a machine that claims to be one.
    if release.architecture != machine.architecture || release.architecture != ARCHITECTURE {
        return Some(Refusal::Architecture {
            wanted: release.architecture.clone(),
            found: machine.architecture.clone(),
        });
    }
    if let Some(running) = running {
        if release.version == running {
            return Some(Refusal::Same(running));
        }
        if release.version < running && !machine.rollback_allowed {
            return Some(Refusal::Older { offered: release.version, running });
        }
    }
    if let Some(found) = machine.data_format
        && !release.data_format.reads.contains(&found)
    {
        let reads: Vec<String> = release.data_format.reads.iter().map(u32::to_string).collect();
        return Some(Refusal::DataFormat { found, reads: reads.join(", ") });
    }
    if let (Some(format), Some(running)) = (&machine.running_format, running)
        && !format.reads.contains(&release.data_format.writes)
    {
        return Some(Refusal::NoWayBack { writes: release.data_format.writes, running });
    }
    let disk = machine.disk.map(|room| (Role::DiskImage, room, "take a machine with a larger disk"));
    let slots = machine.slots.iter().map(|&(role, room)| {
        (role, room, "its slot cannot grow: flash the machine anew, with an image of the new version")
    });
    for (role, room, remedy) in disk.into_iter().chain(slots) {
        let Some(file) = release.file(role) else {
            return Some(Refusal::Missing(role));
        };
        if file.content_size() > room {
            return Some(Refusal::TooLarge { role, needed: file.content_size(), room, remedy });
        }
    }
    match (machine.disk, release.smallest_disk) {
        (Some(room), Some(needed)) if room < needed => Some(Refusal::SmallDisk { needed, room }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{File, Sha256};

    fn release() -> Release {
        let sum = Sha256::of(b"");
        let format = DataFormat { reads: [2, 3].into(), writes: 3 };
        let mut release = Release::new(Version::new(1, 2, 0), Timestamp::UNIX_EPOCH, sum, sum, format);
        for (role, size) in [(Role::DiskImage, 4000), (Role::Root, 1000)] {
            let (expanded_size, expanded_sha256, partition_uuid) = (None, None, None);
            let name = role.to_string();
            release.files.push(File { name, role, size, sha256: sum, expanded_size, expanded_sha256, partition_uuid });
        }
        release
    }

    fn machine() -> MachineFacts {
        MachineFacts {
            architecture: "x86-64".to_owned(),
            disk: Some(4000),
            slots: vec![(Role::Root, 1000)],
            data_format: Some(2),
            running_format: Some(DataFormat { reads: [2, 3].into(), writes: 2 }),
            rollback_allowed: false,
        }
    }

    fn refused(running: Option<Version>, release: &Release, machine: &MachineFacts) -> Refusal {
        match decide(running, release, machine) {
            Decision::Refuse(refusal) => refusal,
            Decision::Accept => panic!("accepted"),
        }
    }

    #[test]
    fn a_newer_version_that_fits_and_reads_the_data_is_accepted() {
        for running in [None, Some(Version::new(1, 1, 9))] {
            assert_eq!(decide(running, &release(), &machine()), Decision::Accept);
        }
        let fresh = MachineFacts { data_format: None, slots: Vec::new(), ..machine() };
        assert_eq!(decide(None, &release(), &fresh), Decision::Accept);
    }

    #[test]
    fn an_older_version_needs_the_owners_word_and_still_has_to_read_the_data() {
        let running = Some(Version::new(1, 3, 0));
        assert!(matches!(refused(running, &release(), &machine()), Refusal::Older { .. }));
        let allowed = MachineFacts { rollback_allowed: true, ..machine() };
        assert_eq!(decide(running, &release(), &allowed), Decision::Accept);
        let newer_data = MachineFacts { data_format: Some(4), ..allowed };
        assert!(matches!(refused(running, &release(), &newer_data), Refusal::DataFormat { found: 4, .. }));
        assert!(matches!(refused(Some(Version::new(1, 2, 0)), &release(), &machine()), Refusal::Same(_)));
    }

    #[test]
    fn a_release_that_what_runs_could_not_follow_is_refused() {
        let running = Some(Version::new(1, 1, 9));
        let older = MachineFacts { running_format: Some(DataFormat { reads: [1, 2].into(), writes: 2 }), ..machine() };
        let refusal = refused(running, &release(), &older);
        assert!(matches!(refusal, Refusal::NoWayBack { writes: 3, .. }), "{refusal}");
        assert!(refusal.to_string().contains("between them"), "{refusal}");
    }

    #[test]
    fn what_is_for_something_else_is_refused() {
        let (mut other, mut arm) = (release(), release());
        other.product = "other".to_owned();
        assert!(matches!(refused(None, &other, &machine()), Refusal::Product(_)));
        arm.architecture = "arm64".to_owned();
        assert!(matches!(refused(None, &arm, &machine()), Refusal::Architecture { .. }));
        let on_arm = MachineFacts { architecture: "arm64".to_owned(), ..machine() };
        assert!(matches!(refused(None, &release(), &on_arm), Refusal::Architecture { .. }));
        assert!(matches!(refused(None, &arm, &on_arm), Refusal::Architecture { .. }));
    }

    #[test]
    fn one_octet_too_many_is_refused_and_every_refusal_says_what_to_do() {
        let small_disk = MachineFacts { disk: Some(3999), ..machine() };
        let refusal = refused(None, &release(), &small_disk);
        assert!(refusal.to_string().contains("larger disk"), "{refusal}");
        let mut whole = release();
        whole.smallest_disk = Some(9000);
        let refusal = refused(None, &whole, &MachineFacts { disk: Some(8999), ..machine() });
        assert!(refusal.to_string().contains("a disk of 9000 octets, for both slots and its data"), "{refusal}");
        assert_eq!(decide(None, &whole, &MachineFacts { disk: Some(9000), ..machine() }), Decision::Accept);
        assert_eq!(decide(None, &whole, &MachineFacts { disk: None, ..machine() }), Decision::Accept, "an update");
        let small_slot = MachineFacts { slots: vec![(Role::Root, 999)], ..machine() };
        assert!(refused(None, &release(), &small_slot).to_string().contains("flash the machine anew"));
        let no_file = MachineFacts { slots: vec![(Role::Uki, 999)], ..machine() };
        assert_eq!(refused(None, &release(), &no_file), Refusal::Missing(Role::Uki));
    }
}
