//! What changes the box: systemd-sysupdate writes the other slot, boot files are renamed, the machine starts again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use postkeep_disks::boot::{self, BootError};
use postkeep_disks::run::{RunError, run};
use postkeep_release::{PRODUCT, Release, Role, Version};

use crate::boot_file::{BootFile, Standing};
use crate::place::{Disk, Place, PlaceError};
use crate::transfer::{Definition, definitions};

/// Why the box could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A file.
    #[error("cannot {verb} {path}: {error}", path = path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A program of systemd.
    #[error(transparent)]
    Program(#[from] RunError),
    /// The box.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The boot partition.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Nothing to rename.
    #[error("there is no boot file of {0} in the boot partition")]
    NoBootFile(Version),
}

/// The programs of systemd, which tests put something else in the place of.
#[derive(Debug, Clone)]
pub struct Programs {
    /// systemd-sysupdate.
    pub sysupdate: PathBuf,
    /// systemctl.
    pub systemctl: PathBuf,
    /// Where definitions are written, below `/run`.
    pub definitions: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            sysupdate: "/usr/lib/systemd/systemd-sysupdate".into(),
            systemctl: "/usr/bin/systemctl".into(),
            definitions: "/run/postkeep-update".into(),
        }
    }
}

/// Writes a staged release into the slot that does not run, on each disk; the boot file last. A boot file of the same
/// version that had lost its tries gets them again.
///
/// # Errors
/// A disk or systemd-sysupdate; what runs is whole in any case.
pub fn install(
    place: &Place,
    programs: &Programs,
    release: &Release,
    running: Version,
    staged: &Path,
    disks: &[Disk],
) -> Result<(), InstallError> {
    // The slot that is written may belong to any other version: nobody shall start it, or go back to it, with half of it gone.
    let others: Vec<BootFile> = place.boot_files()?.into_iter().filter(|file| file.version != running).collect();
    for file in &others {
        rename(place, file.version, BootFile::condemned)?;
    }
    let told = if disks.len() > 1 && !others.is_empty() { copy_boot(programs) } else { Ok(()) };
    let written = told.and_then(|()| write_slots(place, programs, release, running, staged, disks));
    if written.is_err() {
        // A version whose slot is whole still is the way back. That something else has failed is what is told.
        let is_whole = |version| place.disks().is_ok_and(|disks| disks.iter().all(|disk| has_root(disk, version)));
        for file in others.iter().filter(|file| file.standing() == Standing::Good && is_whole(file.version)) {
            let _ = rename(place, file.version, |file| BootFile::good(file.version));
        }
    }
    written?;
    rename(place, release.version, BootFile::renewed)
}

/// Whether a slot of the disk is labelled with that version.
fn has_root(disk: &Disk, version: Version) -> bool {
    let label = format!("{PRODUCT}_{version}");
    disk.slots.iter().any(|slot| slot.role == Role::Root && slot.label == label)
}

/// Writes the slot that does not run on each disk, and the boot file.
fn write_slots(
    place: &Place,
    programs: &Programs,
    release: &Release,
    running: Version,
    staged: &Path,
    disks: &[Disk],
) -> Result<(), InstallError> {
    let folder = place.boot_files_folder();
    // The first disk last: its boot partition is the one that is mounted, and the boot file makes the slot count.
    for (number, disk) in disks.iter().enumerate().rev() {
        let target = programs.definitions.join(number.to_string());
        clear(&target)?;
        for Definition { role, name, text } in definitions(release, running, staged, &disk.device, &folder) {
            if number > 0 && role == Role::Uki {
                continue;
            }
            let path = target.join(name);
            fs::write(&path, text).map_err(|error| InstallError::File { verb: "write", path, error })?;
        }
        let definitions = format!("--definitions={}", target.display());
        let version = release.version.to_string();
        run(Command::new(&programs.sysupdate).args([&*definitions, "update", &*version]))?;
    }
    Ok(())
}

/// Renames the boot files of `version` as `how` says; durable on return. Of two, one stays.
///
/// # Errors
/// There is none, or the boot partition.
pub fn rename(place: &Place, version: Version, how: fn(BootFile) -> BootFile) -> Result<(), InstallError> {
    let folder = place.boot_files_folder();
    // Until it is copied, this boot partition is the newer of two (`copy_boot`).
    let partition = place.path("efi");
    if boot::mark(&partition)?.is_some() {
        boot::count_alone(&partition, boot::seen_on_the_other(&place.path("")))?;
    }
    let mut renamed = false;
    for file in place.boot_files()?.into_iter().filter(|file| file.version == version) {
        let (from, to) = (folder.join(file.to_string()), folder.join(how(file).to_string()));
        if from != to {
            fs::rename(&from, &to).map_err(|error| InstallError::File { verb: "rename", path: from, error })?;
        }
        renamed = true;
    }
    if !renamed {
        return Err(InstallError::NoBootFile(version));
    }
    boot::sync(&folder)?;
    Ok(())
}

/// The newest other version that could be started instead of `running`: one that has proved itself.
///
/// # Errors
/// The boot partition cannot be read.
pub fn way_back(place: &Place, running: Version) -> Result<Option<Version>, PlaceError> {
    let files = place.boot_files()?;
    let good = files.iter().rev().find(|file| file.version != running && file.standing() == Standing::Good);
    Ok(good.map(|file| file.version))
}

/// Stops the mail core in order (doors close, transactions under way end), makes the boot partitions of two disks the same,
/// then starts the machine again.
///
/// # Errors
/// systemd does not do it, or a boot partition could not be copied; the machine starts again in any case.
pub fn drain_and_restart(programs: &Programs) -> Result<(), InstallError> {
    // It may have failed already; the machine starts again all the same.
    let stopped = run(Command::new(&programs.systemctl).args(["stop", "postkeepd.service"]));
    let copied = copy_boot(programs);
    run(Command::new(&programs.systemctl).args(["--no-block", "reboot"]))?;
    stopped?;
    copied
}

/// Makes the boot partition of the other disk the same, on a box with two.
///
/// # Errors
/// It could not be done: that disk would start what it started before.
pub fn copy_boot(programs: &Programs) -> Result<(), InstallError> {
    run(Command::new(&programs.systemctl).args(["start", "postkeep-boot-copy.service"]))?;
    Ok(())
}

/// What systemd says of the mail core when it has failed for good: its own word, or that it ends again and again.
#[must_use]
pub fn failed(programs: &Programs) -> Option<String> {
    /// It is started again every two seconds; what ends so often does not come up.
    const MOST_STARTS: u32 = 5;
    let mut command = Command::new(&programs.systemctl);
    command.args(["show", "--property=ActiveState,Result,NRestarts,StatusText", "postkeepd.service"]);
    let told = run(&mut command).ok()?;
    let value =
        |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    let starts: u32 = value("NRestarts").parse().unwrap_or(0);
    if value("ActiveState") == "failed" {
        return Some(format!("its unit has failed ({}); see the journal", value("Result")));
    }
    (starts >= MOST_STARTS && value("ActiveState") != "active")
        .then(|| format!("it has ended {starts} times since the start ({}); see the journal", value("Result")))
}

fn clear(folder: &Path) -> Result<(), InstallError> {
    let failed = |verb, error| InstallError::File { verb, path: folder.to_owned(), error };
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(|error| failed("make", error))
}

#[cfg(test)]
mod tests {
    use postkeep_notes::SignerKey;

    use super::*;
    use crate::place::tests::lay;

    #[test]
    fn boot_files_are_condemned_and_renewed_and_the_way_back_is_one_that_has_proved_itself() {
        let folder = tempfile::tempdir().unwrap();
        lay(folder.path(), "1.1.0", SignerKey::generate("release.example").unwrap().verifier());
        let place = Place::new(folder.path());
        let boot = folder.path().join("efi/EFI/Linux");
        for name in ["postkeep_1.0.0.efi", "postkeep_0.9.0+0-3.efi", "postkeep_1.2.0+3-0.efi"] {
            fs::write(boot.join(name), name).unwrap();
        }
        let (running, old) = (Version::new(1, 1, 0), Version::new(1, 0, 0));
        assert_eq!(way_back(&place, running).unwrap(), Some(old), "neither a bad one nor one on trial");
        rename(&place, running, BootFile::condemned).unwrap();
        assert_eq!(place.standing(running).unwrap(), Some(Standing::Bad));
        rename(&place, running, BootFile::renewed).unwrap();
        assert_eq!(place.standing(running).unwrap(), Some(Standing::OnTrial { left: 3, done: 0 }));
        assert!(matches!(rename(&place, Version::new(3, 0, 0), BootFile::renewed), Err(InstallError::NoBootFile(_))));
    }
}
