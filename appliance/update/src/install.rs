//! What changes the box: systemd-sysupdate writes the other slot, boot files are renamed, the machine starts again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use postkeep_disks::boot::{self, BootError};
use postkeep_disks::run::{RunError, run};
use postkeep_release::{Release, Role, Version};

use crate::attempt::Attempt;
use crate::boot_file::{BootFile, Standing};
use crate::place::{Disk, Place, PlaceError};
use crate::slot::{self, SlotError};
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
    /// The slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
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
    /// udevadm.
    pub udevadm: PathBuf,
    /// Where definitions are written, below `/run`.
    pub definitions: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            sysupdate: "/usr/lib/systemd/systemd-sysupdate".into(),
            systemctl: "/usr/bin/systemctl".into(),
            udevadm: "/usr/bin/udevadm".into(),
            definitions: "/run/postkeep-update".into(),
        }
    }
}

/// Writes a staged release into the slot that does not run, on each disk; the boot file last, which makes it the one that starts
/// next. A boot file of the same version that had lost its tries gets them again.
///
/// # Errors
/// A disk or systemd-sysupdate; what runs is whole in any case, and starts next.
pub fn install(
    place: &Place,
    programs: &Programs,
    release: &Release,
    running: Version,
    staged: &Path,
    disks: &[Disk],
) -> Result<(), InstallError> {
    // It runs, and is the way back from what comes, also if it once did not prove itself or an older one was to take its place.
    make_good(place, running)?;
    // The slot that is written may belong to any other version: nobody shall start it, or go back to it, with half of it gone.
    let spared = proven(place, running)?;
    let others: Vec<BootFile> = place.boot_files()?.into_iter().filter(|file| file.version != running).collect();
    for file in &others {
        rename(place, file.version, BootFile::condemned)?;
    }
    let told = if disks.len() > 1 && !others.is_empty() { copy_boot(programs) } else { Ok(()) };
    let done = told
        .and_then(|()| write_slots(place, programs, release, running, staged, disks))
        .and_then(|()| rename(place, release.version, BootFile::renewed))
        // An older version is started only when the one that runs is not: of good ones and those on trial the newest is.
        .and_then(|()| if release.version < running { rename(place, running, BootFile::condemned) } else { Ok(()) });
    if done.is_err() {
        // That something else has failed is what is told.
        let _ = undo(place, programs, release.version, running, &spared);
    }
    done
}

/// Makes `running` start next again instead of `wanted`, and what is whole of what had proved itself the way back.
///
/// # Errors
/// The boot partition, or the disks.
pub fn undo(
    place: &Place,
    programs: &Programs,
    wanted: Version,
    running: Version,
    spared: &[Version],
) -> Result<(), InstallError> {
    if place.standing(wanted)?.is_some() {
        rename(place, wanted, BootFile::condemned)?;
    }
    make_good(place, running)?;
    restore(place, programs, spared)
}

fn make_good(place: &Place, running: Version) -> Result<(), InstallError> {
    match place.standing(running)? {
        Some(Standing::Bad) => rename(place, running, |file| BootFile::good(file.version)),
        _ => Ok(()),
    }
}

/// Makes good again what had proved itself before something else was to come into its slot, where the slot is whole still on the
/// disk that the box was started from: it is written last, and another one does not start what it has not (`copy_boot`).
///
/// # Errors
/// The disks cannot be read, or the boot partition.
pub fn restore(place: &Place, programs: &Programs, versions: &[Version]) -> Result<(), InstallError> {
    settle(programs);
    let disks = place.disks()?;
    let is_whole = |version: &&Version| disks.first().is_some_and(|disk| disk.part(Role::Root, **version).is_some());
    versions
        .iter()
        .filter(is_whole)
        .try_for_each(|version| rename(place, *version, |file| BootFile::good(file.version)))
}

/// udev hears of new labels a moment after they are written. If it does not answer, what it has heard has to do.
fn settle(programs: &Programs) {
    let _ = run(Command::new(&programs.udevadm).args(["settle", "--timeout=30"]));
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
    if let Some(entry) = release.file(Role::Uki) {
        for file in place.boot_files()?.into_iter().filter(|file| file.version == release.version) {
            slot::hold_boot_file(&folder.join(file.to_string()), entry)?;
        }
    }
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
        settle(programs);
        let written = place.disks()?.into_iter().find(|found| found.device == disk.device);
        for device in slot::hold(release, staged, written.as_ref().unwrap_or(disk))? {
            say(&format!(
                "{} held something else under the label of {version}, and was written again",
                device.display()
            ));
        }
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
    Ok(proven(place, running)?.pop())
}

/// The same for a version on trial that is not well: also the newer one that it came in the place of, as its owner wanted. That one
/// is not to be started for as long, and its slot is whole.
///
/// # Errors
/// The boot partition cannot be read.
pub fn way_back_from_trial(
    place: &Place,
    running: Version,
    attempt: Option<&Attempt>,
) -> Result<Option<Version>, PlaceError> {
    let newer = attempt.map(|attempt| attempt.from).filter(|from| *from > running);
    Ok(way_back(place, running)?.or(newer.filter(|newer| place.standing(*newer).is_ok_and(|found| found.is_some()))))
}

/// The versions that have proved themselves, but for `running`; the newest last.
///
/// # Errors
/// The boot partition cannot be read.
pub fn proven(place: &Place, running: Version) -> Result<Vec<Version>, PlaceError> {
    let others = place.boot_files()?.into_iter().filter(|file| file.version != running);
    Ok(others.filter(|file| file.standing() == Standing::Good).map(|file| file.version).collect())
}

/// Whether another start of `running`, which has not proved itself, is of use: it has tries left, or the boot loader would now
/// take another version. It takes the newest of those that are good or on trial, and only where there is none, of the bad ones.
///
/// # Errors
/// The boot partition cannot be read.
pub fn is_worth_a_start(place: &Place, running: Version) -> Result<bool, PlaceError> {
    match place.standing(running)? {
        Some(Standing::OnTrial { .. }) => Ok(true),
        // Also on its last try: the boot loader has counted it.
        Some(Standing::Bad) => {
            let goes_before = |file: &BootFile| file.standing() != Standing::Bad || file.version > running;
            Ok(place.boot_files()?.iter().any(|file| file.version != running && goes_before(file)))
        }
        Some(Standing::Good) => Ok(false),
        // The boot partition cannot be looked at; the boot loader has said what it has counted, and knows the others.
        None => Ok(place.started().is_some_and(|file| !file.was_bad_before())),
    }
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
    restart(programs)?;
    stopped?;
    copied
}

/// Starts the machine again.
///
/// # Errors
/// systemd does not do it.
pub fn restart(programs: &Programs) -> Result<(), InstallError> {
    run(Command::new(&programs.systemctl).args(["--no-block", "reboot"]))?;
    Ok(())
}

/// What systemd calls the state of a unit: `active`, `activating`, `failed`, `inactive`.
///
/// # Errors
/// systemd does not say.
pub fn state(programs: &Programs, unit: &str) -> Result<String, InstallError> {
    let told = run(Command::new(&programs.systemctl).args(["show", "--property=ActiveState", "--value", unit]))?;
    Ok(told.trim().to_owned())
}

/// Whether a unit has been active since the machine was started, also if it is not any more.
///
/// # Errors
/// systemd does not say.
pub fn has_been_active(programs: &Programs, unit: &str) -> Result<bool, InstallError> {
    let asked = ["show", "--property=ActiveEnterTimestampMonotonic", "--value", unit];
    let told = run(Command::new(&programs.systemctl).args(asked))?;
    Ok(!matches!(told.trim(), "" | "0"))
}

/// Stops a unit; does not wait for it.
///
/// # Errors
/// systemd does not do it.
pub fn stop(programs: &Programs, unit: &str) -> Result<(), InstallError> {
    run(Command::new(&programs.systemctl).args(["--no-block", "stop", unit]))?;
    Ok(())
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

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
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

    /// A box that runs 1.1.0, which has proved itself.
    fn with_1_1_0() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        lay(folder.path(), "1.1.0", SignerKey::generate("release.example").unwrap().verifier());
        let place = Place::new(folder.path());
        (folder, place)
    }

    #[test]
    fn boot_files_are_condemned_and_renewed_and_the_way_back_is_one_that_has_proved_itself() {
        let (folder, place) = with_1_1_0();
        let boot = folder.path().join("efi/EFI/Linux");
        for name in ["postkeep_1.0.0.efi", "postkeep_0.9.0+0-3.efi", "postkeep_1.2.0+3-0.efi"] {
            fs::write(boot.join(name), name).unwrap();
        }
        let (running, old) = (Version::new(1, 1, 0), Version::new(1, 0, 0));
        assert_eq!(way_back(&place, running).unwrap(), Some(old), "neither a bad one nor one on trial");
        assert_eq!(proven(&place, running).unwrap(), [old]);
        rename(&place, running, BootFile::condemned).unwrap();
        assert_eq!(place.standing(running).unwrap(), Some(Standing::Bad));
        rename(&place, running, BootFile::renewed).unwrap();
        assert_eq!(place.standing(running).unwrap(), Some(Standing::OnTrial { left: 3, done: 0 }));
        assert!(matches!(rename(&place, Version::new(3, 0, 0), BootFile::renewed), Err(InstallError::NoBootFile(_))));
    }

    #[test]
    fn what_has_not_proved_itself_is_started_again_as_long_as_that_leads_somewhere() {
        let (folder, place) = with_1_1_0();
        let boot = folder.path().join("efi/EFI/Linux");
        let is_of_use = |own: &str, other: Option<&str>| {
            for entry in fs::read_dir(&boot).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            for name in [Some(own), other].into_iter().flatten() {
                fs::write(boot.join(name), name).unwrap();
            }
            is_worth_a_start(&place, Version::new(1, 1, 0)).unwrap()
        };
        assert!(is_of_use("postkeep_1.1.0+2-1.efi", None));
        assert!(is_of_use("postkeep_1.1.0+0-3.efi", Some("postkeep_1.0.0.efi")), "the way back");
        assert!(is_of_use("postkeep_1.1.0+0-3.efi", Some("postkeep_1.0.0+3-0.efi")));
        // An older one came in the place of a newer one, and is no better.
        assert!(is_of_use("postkeep_1.1.0+0-3.efi", Some("postkeep_1.2.0+0-1.efi")));
        assert!(!is_of_use("postkeep_1.1.0+0-3.efi", Some("postkeep_1.0.0+0-1.efi")), "for ever");
        assert!(!is_of_use("postkeep_1.1.0+0-3.efi", None));
        assert!(!is_of_use("postkeep_1.1.0.efi", Some("postkeep_1.0.0.efi")), "it has proved itself before");

        // Where the boot partition is gone, the boot loader's own word is left.
        fs::remove_dir_all(&boot).unwrap();
        let said =
            folder.path().join("sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
        fs::create_dir_all(said.parent().unwrap()).unwrap();
        for (name, leads_somewhere) in
            [("postkeep_1.1.0+2-1.efi", true), ("postkeep_1.1.0+0-3.efi", true), ("postkeep_1.1.0+0-4.efi", false)]
        {
            let path = format!("\\EFI\\Linux\\{name}\0");
            let octets: Vec<u8> = [6, 0].into_iter().chain(path.encode_utf16()).flat_map(u16::to_le_bytes).collect();
            fs::write(&said, octets).unwrap();
            assert_eq!(is_worth_a_start(&place, Version::new(1, 1, 0)).unwrap(), leads_somewhere, "{name}");
        }
        fs::remove_file(&said).unwrap();
        assert!(!is_worth_a_start(&place, Version::new(1, 1, 0)).unwrap(), "no boot file that counts was started");
    }

    #[test]
    fn an_older_version_on_trial_goes_back_to_the_newer_one_that_it_replaced() {
        let (folder, place) = with_1_1_0();
        let (old, newer) = (Version::new(1, 0, 0), Version::new(1, 1, 0));
        fs::write(folder.path().join("efi/EFI/Linux/postkeep_1.0.0+2-1.efi"), "").unwrap();
        rename(&place, newer, BootFile::condemned).unwrap();
        let attempt = |from, to| Attempt {
            from,
            to,
            since: jiff::Timestamp::UNIX_EPOCH,
            stage: crate::attempt::Stage::Restarting,
            back: false,
            spared: Vec::new(),
            unwell: None,
        };
        assert_eq!(way_back_from_trial(&place, old, Some(&attempt(newer, old))).unwrap(), Some(newer));
        assert_eq!(way_back_from_trial(&place, old, None).unwrap(), None);
        let gone = Version::new(1, 2, 0);
        assert_eq!(way_back_from_trial(&place, old, Some(&attempt(gone, old))).unwrap(), None, "it has no boot file");
        assert_eq!(
            way_back_from_trial(&place, gone, Some(&attempt(newer, gone))).unwrap(),
            None,
            "it did not prove itself"
        );
    }

    #[test]
    fn what_was_good_before_an_update_that_was_cut_short_is_good_again_where_its_slot_is_whole() {
        let (folder, place) = with_1_1_0();
        let boot = folder.path().join("efi/EFI/Linux");
        fs::write(boot.join("postkeep_1.0.0+0-1.efi"), "").unwrap();
        // Its slot has been taken already.
        let (gone, there) = (Version::new(1, 0, 0), Version::new(1, 1, 0));
        let programs = Programs { udevadm: "true".into(), ..Programs::default() };
        restore(&place, &programs, &[gone]).unwrap();
        assert_eq!(place.standing(gone).unwrap(), Some(Standing::Bad));
        rename(&place, there, BootFile::condemned).unwrap();
        restore(&place, &programs, &[there]).unwrap();
        assert_eq!(place.standing(there).unwrap(), Some(Standing::Good));
    }
}
