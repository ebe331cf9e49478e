//! `postkeep-disks`: what units of the image do with the disks of the box, in the initrd and after it. Each verb looks, decides
//! in the library, and asks dmsetup, mdadm, systemd-repart or mount.

mod volume;
mod watch;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use postkeep_disks::boot::{self, BootError, Newer, SEEN, seen_on_the_other};
use postkeep_disks::partition::{Own, Partition, partitions};
use postkeep_disks::root::{self, Wanted};
use postkeep_disks::run::run;
use postkeep_disks::{BOOT_LABEL, DATA_LABEL, MIRROR_LABEL};

/// Between two looks at what there is.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Controllers of servers take their time.
const ROOT_APPEARS: Duration = Duration::from_secs(60);
/// One disk is there; so long the other one is waited for.
const OTHER_APPEARS: Duration = Duration::from_secs(15);
/// The boot partition that the box was started from, by a rule for udev that `root` writes.
const BOOT: &str = "postkeep-boot";
/// The link to the data volume below `/dev`; on two disks image/root/etc/udev/rules.d makes it.
const DATA: &str = "postkeep-data";
const LOCK: &str = "/run/postkeep-disks/lock";
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
    /// First boot of a box with two disks: makes the partitions that the image leaves out.
    Halves,
    /// First boot: makes the data volume.
    Make {
        /// Asks for this file's content when the data volume is opened; the TPM's, when none is named.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Also where there is one: it was made by a first boot that was cut short, and nothing opens it.
        #[arg(long, requires = "key_file")]
        anew: bool,
    },
    /// Puts the mirror below the data volume together, with one half if there is no other; makes it at the first boot.
    Assemble,
    /// Makes the boot partitions of two disks the same.
    Copy {
        /// Where the one that the box was started from is mounted.
        #[arg(long, value_name = "FOLDER", default_value = "/efi")]
        mounted: PathBuf,
        /// Where the other one is mounted meanwhile.
        #[arg(long, value_name = "FOLDER", default_value = "/run/postkeep-disks/other")]
        meanwhile: PathBuf,
    },
    /// Tells how the disks are, now and whenever that changes.
    Watch {
        /// Where it is written for others.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-disks-watch/status.json")]
        status: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Err(why) = postkeep_journal::start("postkeep-disks") {
        say(&why);
    }
    let done = match Arguments::parse().verb {
        Verb::Root => lay_root(),
        Verb::Halves => volume::halves(),
        Verb::Make { key_file, anew } => volume::make(key_file.as_deref(), anew),
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
    let loader = fs::read(LOADER).ok().map(|octets| loader_uuid(&octets));
    let own_disks = |seen: &[Partition]| own_disks(seen, &wanted, loader.as_deref());
    let found = wait_for(ROOT_APPEARS, |seen| own_disks(seen).map(drop))?;
    found.ok_or_else(|| {
        format!("no disk has a boot partition and the partitions {} and {} of the root", wanted.data, wanted.hashes)
    })?;
    settle();
    let complete = wait_for(OTHER_APPEARS, |seen| own_disks(seen).filter(|own| !root::expects_another(own)))?;
    if complete.is_none() {
        say("the other disk does not appear; the box starts with one");
    }
    let seen = partitions(Path::new("/"))?;
    let own = own_disks(&seen).ok_or("the disk with the root has vanished")?;
    if let Some(copy) = copy_in_use(&seen, &own.boot) {
        return Err(format!(
            "{} and {copy} are copies of one disk, and only one of them has what was accepted last: nothing says which. Take \
             the other one out",
            own.boot.disk
        )
        .into());
    }
    let legs = root::legs(&own.partitions, &wanted);
    let data = legs.iter().map(|leg| leg.data).collect();
    let hashes = legs.iter().map(|leg| leg.hashes).collect();
    for (name, sides) in [(root::DATA, data), (root::HASHES, hashes)] {
        let sides: Vec<&Partition> = sides;
        let table = root::table(&sides).ok_or("the disk with the root has vanished")?;
        run(Command::new("dmsetup").args(["create", name, "--readonly", "--table", &*table]))?;
    }
    own.leave_word(Path::new("/"))?;
    fs::create_dir_all(Path::new(RULE).parent().unwrap_or(Path::new("/")))?;
    let numbers = fs::read_to_string(Path::new("/sys/class/block").join(&own.boot.disk).join("dev"))?;
    fs::write(RULE, rules(&own.boot, numbers.trim()))?;
    Ok(())
}

/// The disks of this box, once one of them has the root. The boot loader says which boot partition this start came from; where it
/// says nothing of ours, as after a start over the network, it is one beside the root.
fn own_disks(seen: &[Partition], wanted: &Wanted, loader: Option<&str>) -> Option<Own> {
    let legs = root::legs(seen, wanted);
    let is_beside_root = |one: &&&Partition| legs.iter().any(|leg| leg.data.disk == one.disk);
    let boots: Vec<&Partition> = seen.iter().filter(|one| one.label == BOOT_LABEL).collect();
    let by_loader: Vec<&Partition> = boots.iter().filter(|one| Some(&*one.uuid) == loader).copied().collect();
    let candidates = if by_loader.is_empty() { &boots } else { &by_loader };
    // Of copies of one disk the one that is in use.
    let is_used = |one: &&&Partition| {
        let has_data = |part: &Partition| part.disk == one.disk && [DATA_LABEL, MIRROR_LABEL].contains(&&*part.label);
        is_beside_root(one) && seen.iter().any(has_data)
    };
    let boot = candidates.iter().find(is_used).or_else(|| candidates.iter().find(is_beside_root));
    let boot = boot.or_else(|| by_loader.first())?;
    let own = Own::of(seen, boot);
    (!root::legs(&own.partitions, wanted).is_empty()).then_some(own)
}

/// A disk whose boot partition is `boot` octet for octet, as far as names go, and that has data too.
fn copy_in_use<'a>(seen: &'a [Partition], boot: &Partition) -> Option<&'a str> {
    let has_data =
        |disk: &str| seen.iter().any(|part| part.disk == disk && [DATA_LABEL, MIRROR_LABEL].contains(&&*part.label));
    let is_copy = |one: &&Partition| one.label == BOOT_LABEL && one.uuid == boot.uuid && one.disk != boot.disk;
    seen.iter().find(|one| is_copy(one) && has_data(&one.disk)).map(|one| &*one.disk)
}

/// Links by which the rest of the system finds the boot partition and, on one disk, the data volume: labels say nothing about whose
/// a disk is. `numbers` are the kernel's of the boot partition's disk, `254:0`.
fn rules(boot: &Partition, numbers: &str) -> String {
    format!(
        "# Written by postkeep-disks: the boot partition that this start came from, and the data volume beside it.\n\
         SUBSYSTEM==\"block\", KERNEL==\"{}\", ENV{{ID_PART_ENTRY_UUID}}==\"{}\", SYMLINK+=\"{BOOT}\"\n\
         SUBSYSTEM==\"block\", ENV{{ID_PART_ENTRY_NAME}}==\"{DATA_LABEL}\", ENV{{ID_PART_ENTRY_DISK}}==\"{numbers}\", \
         SYMLINK+=\"{DATA}\"\n",
        boot.name, boot.uuid
    )
}

fn loader_uuid(variable: &[u8]) -> String {
    let units =
        variable.get(4..).unwrap_or_default().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units).map_while(Result::ok).take_while(|letter| *letter != '\0').collect();
    text.to_lowercase()
}

fn copy(mounted: &Path, meanwhile: &Path) -> Result<(), Failure> {
    // Asked for by the updater and by the start itself: one after the other.
    let lock = File::create(LOCK)?;
    lock.lock()?;
    if let Err(error) = boot::close_menu(mounted) {
        // What concerns the other disk goes on.
        say(&error.to_string());
    }
    // An update has just given slots other labels, of which udev hears afterwards.
    settle();
    let own = Own::read(Path::new("/"))?;
    let has_half = own.partitions.iter().any(|one| one.label == MIRROR_LABEL);
    if !has_half && boot::mark(mounted)?.is_none() {
        return Ok(());
    }
    if !own.has_boot_disk() {
        return Err(
            "the disk that the box was started from is gone; its boot partition is copied after the next start".into(),
        );
    }
    let device = fs::metadata(mounted)?.dev();
    if format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)) != own.boot.numbers {
        return Err(format!("the boot partition {} is not mounted at {}", own.boot.name, mounted.display()).into());
    }
    // What is changed from now on the other does not know.
    let alone = || boot::count_alone(mounted, seen_on_the_other(Path::new("/")));
    match own.other_boot() {
        Some(other) => copy_to(&own, mounted, other, meanwhile, alone),
        None if own.are_too_many() => {
            alone()?;
            Err(format!("more than two disks of this box are there ({}); take the old one out", own.disks.join(", "))
                .into())
        }
        None => Ok(alone()?),
    }
}

fn copy_to(
    own: &Own,
    mounted: &Path,
    other: &Partition,
    meanwhile: &Path,
    alone: impl Fn() -> Result<(), BootError>,
) -> Result<(), Failure> {
    fs::create_dir_all(meanwhile)?;
    let options = ["-t", "vfat", "-o", "umask=0077,nosuid,nodev,noexec,nosymfollow"];
    if let Err(error) = run(Command::new("mount").args(options).arg(other.device()).arg(meanwhile)) {
        alone()?;
        return Err(error.into());
    }
    let done = made_same(own, mounted, meanwhile, &other.disk, alone);
    let unmounted = run(Command::new("umount").arg(meanwhile));
    if done? {
        // What runs was taken from a disk that had been away.
        run(Command::new("systemctl").args(["--no-block", "reboot"]))?;
    }
    unmounted?;
    Ok(())
}

/// Makes the older of two the same as the newer; says whether the machine has to start again with what is newer.
fn made_same(
    own: &Own,
    mounted: &Path,
    other: &Path,
    disk: &str,
    alone: impl Fn() -> Result<(), BootError>,
) -> Result<bool, Failure> {
    let target = |believed| if believed == Newer::Mounted { disk } else { &*own.boot.disk };
    let lacks = |believed, name: &Path| {
        let has = |one: &Partition| one.disk == target(believed) && one.label == boot::version_of(name);
        !own.partitions.iter().any(has)
    };
    let theirs = boot::mark(other)?.unwrap_or(0);
    fs::write(SEEN, format!("{theirs}\n"))?;
    let (believed, changes) = match boot::agree(mounted, other, lacks) {
        Ok(agreed) => agreed,
        Err(error) => {
            // What could not be written to the other is on this one only.
            if boot::newer(boot::mark(mounted)?.unwrap_or(0), theirs) == Newer::Mounted {
                alone()?;
            }
            return Err(error.into());
        }
    };
    let target = target(believed);
    for name in &changes.left_out {
        let version = boot::version_of(name);
        say(&format!("{target} has no slot with {version}; it starts an older version until a newer one is installed"));
    }
    if changes.files.is_empty() {
        return Ok(false);
    }
    let count = changes.files.len();
    if believed == Newer::Mounted {
        say(&format!("the boot partition of {disk} is the same again ({count} files)"));
        return Ok(false);
    }
    // A disk without the slot would come to the same place again and again.
    let restart = changes.left_out.is_empty() && changes.matter_at_the_start();
    let then = if restart { ", and the machine starts again with it" } else { "" };
    say(&format!("{target} had been away; its boot partition is taken from {disk} ({count} files{then})"));
    Ok(restart)
}

/// Whatever is there is known after this. A disk that hangs must not keep the box from the other one.
fn settle() {
    if let Err(error) = run(Command::new("udevadm").args(["settle", "--timeout=30"])) {
        say(&format!("not all disks have answered: {error}"));
    }
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(disk: &str, label: &str, uuid: &str) -> Partition {
        let name = format!("{disk}-{label}");
        let kind = String::new();
        let (numbers, array) = ("254:1".to_owned(), None);
        Partition {
            name,
            disk: disk.to_owned(),
            numbers,
            label: label.to_owned(),
            kind,
            uuid: uuid.to_owned(),
            size: 0,
            array,
        }
    }

    #[test]
    fn a_copy_of_the_disk_that_has_data_too_is_found_and_a_fresh_image_or_the_other_half_is_none() {
        let disk = |name: &str, uuid: &str, data: &str| [partition(name, BOOT_LABEL, uuid), partition(name, data, "2")];
        let found = |other: [Partition; 2]| {
            let seen = [disk("vda", "1", DATA_LABEL), other].concat();
            copy_in_use(&seen, &seen[0]).map(str::to_owned)
        };
        assert_eq!(found(disk("vdb", "1", DATA_LABEL)).as_deref(), Some("vdb"));
        assert_eq!(found(disk("vdb", "1", MIRROR_LABEL)).as_deref(), Some("vdb"));
        assert_eq!(found(disk("vdb", "1", "")), None, "an image that nobody has used");
        assert_eq!(found(disk("vdb", "1-b", MIRROR_LABEL)), None);
    }

    #[test]
    fn what_the_system_finds_its_partitions_by_names_the_disk() {
        let rules = rules(&partition("vda", BOOT_LABEL, "ab-1"), "254:0");
        assert!(rules.contains("ENV{ID_PART_ENTRY_UUID}==\"ab-1\", SYMLINK+=\"postkeep-boot\"\n"), "{rules}");
        let data = "ENV{ID_PART_ENTRY_NAME}==\"postkeep-data\", ENV{ID_PART_ENTRY_DISK}==\"254:0\", SYMLINK+=\"postkeep-data\"\n";
        assert!(rules.contains(data), "{rules}");
    }

    #[test]
    fn the_boot_loader_s_word_is_read_in_small_letters() {
        let mut variable = vec![7, 0, 0, 0];
        variable.extend("AB12-cd\0".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(loader_uuid(&variable), "ab12-cd");
        assert_eq!(loader_uuid(&[7, 0]), "");
        assert_eq!(loader_uuid(&[7, 0, 0, 0, 0x00, 0xd8]), "");
    }
}
