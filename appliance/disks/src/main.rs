//! `postkeep-disks`: what units of the image do with the disks of the box, in the initrd and after it. Each verb looks, decides
//! in the library, and asks dmsetup, mdadm, systemd-repart or mount.

mod volume;
mod watch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use postkeep_disks::boot::{self, Newer};
use postkeep_disks::partition::{Partition, partitions};
use postkeep_disks::root::{self, Leg, Wanted};
use postkeep_disks::run::run;
use postkeep_disks::{BOOT_LABEL, MIRROR_MARK};

/// Between two looks at what there is.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Controllers of servers take their time.
const ROOT_APPEARS: Duration = Duration::from_secs(60);
/// One disk is there; so long the other one is waited for.
const OTHER_APPEARS: Duration = Duration::from_secs(15);
/// The boot partition that the box was started from, by a rule for udev that `root` writes.
const BOOT: &str = "postkeep-boot";
const RULE: &str = "/run/udev/rules.d/65-postkeep-boot.rules";
/// The partition that systemd-boot was read from: four octets of attributes, then a UUID in UTF-16.
const LOADER: &str = "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the box does with its disks.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-disks",
    version,
    after_help = "Exit codes: 0 done, or nothing to do; 1 failed; 2 bad usage.\n\n\
                  Run by units of the image, not by people; `postkeep system show` and the console tell how the disks are."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// In the initrd: makes the device from which the verified root is read, over one disk or two.
    Root,
    /// First boot: makes the partitions that the image leaves out, and the data volume.
    Make {
        /// Asks for this file's content when the data volume is opened; the TPM's, when none is named.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Puts the mirrored data volume together, with one half if there is no other.
    Assemble,
    /// Makes the boot partitions of two disks the same.
    Copy {
        /// Where the one that the box was started from is mounted.
        #[arg(long, value_name = "FOLDER", default_value = "/efi")]
        mounted: PathBuf,
        /// Where the other one is mounted meanwhile.
        #[arg(long, value_name = "FOLDER", default_value = "/run/postkeep-disks/boot")]
        meanwhile: PathBuf,
    },
    /// Tells how the disks are, now and whenever that changes.
    Watch {
        /// Where it is written for others.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-disks/status.json")]
        status: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Err(why) = postkeep_journal::start("postkeep-disks") {
        say(&why);
    }
    let done = match Arguments::parse().verb {
        Verb::Root => lay_root(),
        Verb::Make { key_file } => volume::make(key_file.as_deref()),
        Verb::Assemble => volume::assemble(),
        Verb::Copy { mounted, meanwhile } => copy(&mounted, &meanwhile),
        Verb::Watch { status } => watch::watch(&status),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Looks until `seen` has found something, or the time is up.
fn wait_for<T>(within: Duration, mut seen: impl FnMut(&[Partition]) -> Option<T>) -> io::Result<Option<T>> {
    let began = Instant::now();
    loop {
        let found = seen(&partitions(Path::new("/"))?);
        if found.is_some() || began.elapsed() > within {
            return Ok(found);
        }
        sleep(LOOK_AGAIN);
    }
}

fn lay_root() -> Result<(), Failure> {
    let wanted = Wanted::of_command_line(&fs::read_to_string("/proc/cmdline")?)?;
    let found = wait_for(ROOT_APPEARS, |seen| (!root::legs(seen, &wanted).is_empty()).then_some(()))?;
    found.ok_or_else(|| format!("no disk has the partitions {} and {} of the root", wanted.data, wanted.hashes))?;
    // Whatever is there now is known after this.
    run(Command::new("udevadm").args(["settle", "--timeout=30"]))?;
    let complete = wait_for(OTHER_APPEARS, |seen| {
        let legs = root::legs(seen, &wanted);
        (!legs.is_empty() && !root::expects_another(seen, &legs)).then_some(())
    })?;
    if complete.is_none() {
        say("the other disk does not appear; the box starts with one");
    }
    let seen = partitions(Path::new("/"))?;
    let legs = root::legs(&seen, &wanted);
    let data = legs.iter().map(|leg| leg.data).collect();
    let hashes = legs.iter().map(|leg| leg.hashes).collect();
    for (name, sides) in [(root::DATA, data), (root::HASHES, hashes)] {
        let sides: Vec<&Partition> = sides;
        let table = root::table(&sides).ok_or("the disk with the root has vanished")?;
        run(Command::new("dmsetup").args(["create", name, "--readonly", "--table", &*table]))?;
    }
    let boot = boot_uuid(&seen, &legs).ok_or("no disk with the root has a boot partition")?;
    fs::create_dir_all(Path::new(RULE).parent().unwrap_or(Path::new("/")))?;
    let rule = format!(
        "# Written by postkeep-disks: the boot partition that this start came from.\n\
         SUBSYSTEM==\"block\", ENV{{ID_PART_ENTRY_UUID}}==\"{boot}\", SYMLINK+=\"{BOOT}\"\n"
    );
    fs::write(RULE, rule)?;
    Ok(())
}

/// The boot partition that this start came from: as the boot loader says; where it says nothing of ours, as after a start over
/// the network, the one beside the root.
fn boot_uuid(seen: &[Partition], legs: &[Leg<'_>]) -> Option<String> {
    let told = fs::read(LOADER).ok().map(|octets| loader_uuid(&octets));
    let is_boot = |one: &&Partition| one.label == BOOT_LABEL;
    let by_loader = seen.iter().filter(is_boot).find(|one| Some(&one.uuid) == told.as_ref());
    let beside_root = || seen.iter().filter(is_boot).find(|one| legs.iter().any(|leg| leg.data.disk == one.disk));
    by_loader.or_else(beside_root).map(|one| one.uuid.clone())
}

fn loader_uuid(variable: &[u8]) -> String {
    let units =
        variable.get(4..).unwrap_or_default().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units).map_while(Result::ok).take_while(|letter| *letter != '\0').collect();
    text.to_lowercase()
}

/// The partition on which the folder lies.
fn partition_of<'a>(seen: &'a [Partition], folder: &Path) -> Result<&'a Partition, Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let device = fs::metadata(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?.dev();
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let found = seen.iter().find(|one| one.numbers == numbers && one.label == BOOT_LABEL);
    found.ok_or_else(|| format!("{} is not on a boot partition of ours", folder.display()).into())
}

fn copy(mounted: &Path, meanwhile: &Path) -> Result<(), Failure> {
    let Some(ours) = boot::mark(mounted)? else { return Ok(()) };
    let seen = partitions(Path::new("/"))?;
    let own = partition_of(&seen, mounted)?;
    let Some(other) = seen.iter().find(|one| one.label == BOOT_LABEL && one.disk != own.disk) else {
        boot::count_alone(mounted)?;
        return Ok(());
    };
    fs::create_dir_all(meanwhile)?;
    let (device, folder) = (other.device(), meanwhile.as_os_str());
    run(Command::new("mount")
        .args(["-t", "vfat", "-o", "umask=0077,nosuid,nodev,noexec,nosymfollow"])
        .arg(&device)
        .arg(folder))?;
    let done = made_same(mounted, ours, meanwhile, &other.disk);
    let unmounted = run(Command::new("umount").arg(folder));
    let restart = done?;
    unmounted?;
    if restart {
        // What runs was taken from a disk that had been away.
        run(Command::new("systemctl").args(["--no-block", "reboot"]))?;
    }
    Ok(())
}

/// Makes the older of two the same as the newer; says whether the machine has to start again with what is newer.
fn made_same(mounted: &Path, ours: u64, other: &Path, disk: &str) -> Result<bool, Failure> {
    // One without a mark was put there by hand; it is filled.
    let theirs = boot::mark(other)?.unwrap_or(0);
    match boot::newer(ours, theirs) {
        Newer::Mounted => {
            let changes = boot::make_same(mounted, other)?;
            if !changes.files.is_empty() {
                say(&format!("the boot partition of {disk} is the same again ({} files)", changes.files.len()));
            }
            Ok(false)
        }
        Newer::Other => {
            let changes = boot::make_same(other, mounted)?;
            let restart = changes.reach_boot_files();
            say(&format!(
                "this disk had been away; its boot partition is taken from {disk} ({} files{})",
                changes.files.len(),
                if restart { ", and the machine starts again with it" } else { "" }
            ));
            Ok(restart)
        }
    }
}

/// Whether the box was flashed onto two disks.
fn is_mirrored(mounted: &Path) -> bool {
    mounted.join(MIRROR_MARK).exists()
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_loader_s_word_is_read_in_small_letters() {
        let mut variable = vec![7, 0, 0, 0];
        variable.extend("AB12-cd\0".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(loader_uuid(&variable), "ab12-cd");
        assert_eq!(loader_uuid(&[7, 0]), "");
        assert_eq!(loader_uuid(&[7, 0, 0, 0, 0x00, 0xd8]), "");
    }
}
