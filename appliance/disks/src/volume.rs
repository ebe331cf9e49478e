//! The data volume below its encryption: made at the first boot, put together at each other. Three steps, each a unit of its own
//! with the rights that it needs: [`halves`], [`assemble`], [`make`].

use std::cmp::Reverse;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use postkeep_disks::array::{Facts, Plan, events, plan, was_alone};
use postkeep_disks::partition::{Own, Partition};
use postkeep_disks::run::run;
use postkeep_disks::{ARRAY, boot};

use crate::{Failure, OTHER_APPEARS, say, settle, wait_for};

/// What systemd-repart is told (image/render).
const DEFINITIONS: &str = "/usr/lib/postkeep/repart.d";
const EFI: &str = "/efi";
/// PCR 7: these Secure Boot keys. PCR 15: before a data volume was opened. PCR 11 by the release's signature: our kernel and
/// initrd, and not later than the start of the system (docs/operate/secure-boot.md).
const TPM: [&str; 2] = ["--tpm2-device=auto", "--tpm2-pcrs=7+15"];
const DISKS: usize = 2;
/// Where the data begins in a half; before it, the superblock and the map of what is not the same yet.
const DATA_OFFSET: &str = "--data-offset=8M";
/// Cleared at both ends of a half, in octets: more than where the data begins.
const CLEARED: u64 = 16 << 20;

/// First boot of a box with two disks: makes the second slot and the half of the mirror on both.
pub(crate) fn halves() -> Result<(), Failure> {
    let own = Own::read(Path::new("/"))?;
    // Nothing is lost yet: better nothing is made than a mirror of which one half was never there.
    let both = wait_for(OTHER_APPEARS, |seen| Some(Own::of(seen, &own.boot)).filter(|own| own.disks.len() == DISKS))?;
    let Some(own) = both else {
        let told = if own.are_too_many() { "more than two are" } else { "the second is not" };
        return Err(format!(
            "the box was flashed onto two disks, and {told} there ({}); put that right and start again, or flash anew",
            own.disks.join(", ")
        )
        .into());
    };
    own.disks.iter().try_for_each(|disk| repart(&format!("/dev/{disk}"), "mirror", "refuse", &[]))
}

/// First boot: makes the data volume, to the end of the disk or of the mirror, and on one disk the second slot before it.
/// `anew`: also where there is one.
pub(crate) fn make(key_file: Option<&Path>, anew: bool) -> Result<(), Failure> {
    let (opens, mut more) = match key_file {
        None => ("tpm", TPM.map(str::to_owned).to_vec()),
        Some(file) => ("passphrase", vec![format!("--key-file={}", file.display())]),
    };
    // Said in any case: a variable of the firmware may ask for it.
    more.push(format!("--factory-reset={}", if anew { "yes" } else { "no" }));
    if boot::mark(Path::new(EFI))?.is_none() {
        let disk = Own::read(Path::new("/"))?.boot.disk;
        return repart(&format!("/dev/{disk}"), opens, "refuse", &more);
    }
    // The array's own table of partitions, with one partition: made, or there from a first boot that was cut short.
    repart(ARRAY, &format!("{opens}-mirror"), "allow", &more)
}

fn create(halves: &[&Partition]) -> Result<(), Failure> {
    // What an earlier box has left at the same places must not be found in the new array: its table of partitions, and its volume.
    for half in halves {
        clear_ends(half)?;
    }
    let mut command = Command::new("mdadm");
    // Nothing is on either half yet, and nothing is read that was not written before: there is nothing to make the same.
    command.args(["--create", ARRAY, "--run", "--level=1", "--metadata=1.2", "--bitmap=internal", "--assume-clean"]);
    command.args(["--homehost=any", "--name=postkeep", DATA_OFFSET, &*format!("--raid-devices={DISKS}")]);
    run(command.args(halves.iter().map(|half| half.device())))?;
    settle();
    Ok(())
}

fn clear_ends(half: &Partition) -> Result<(), Failure> {
    let device = half.device();
    let zeroes = vec![0; usize::try_from(CLEARED.min(half.size))?];
    let file = File::options()
        .write(true)
        .open(&device)
        .map_err(|error| format!("cannot open {}: {error}", device.display()))?;
    for at in [0, half.size.saturating_sub(CLEARED)] {
        file.write_all_at(&zeroes, at).map_err(|error| format!("cannot write to {}: {error}", device.display()))?;
    }
    file.sync_all()?;
    Ok(())
}

/// Puts the mirror together, if the box has one; with one half, if the other does not appear. At the first boot it is made.
pub(crate) fn assemble() -> Result<(), Failure> {
    let root = Path::new("/");
    let mut own = Own::read(root)?;
    if boot::mark(Path::new(EFI))?.is_some() && plan(&own) == Plan::OneDisk {
        // udev begins anew after the initrd, and has not come to the halves yet.
        let is_there = |seen: &[Partition]| Some(Own::of(seen, &own.boot)).filter(|own| plan(own) != Plan::OneDisk);
        let found = wait_for(OTHER_APPEARS, is_there)?;
        own = found
            .ok_or("the box has two disks, and neither has a half of the data volume; see whether both are well")?;
    }
    match plan(&own) {
        Plan::OneDisk => return Ok(()),
        Plan::Blank(halves) if Path::new(EFI).join(boot::FIRST_BOOT).exists() && halves.len() == DISKS => {
            return create(&halves);
        }
        _ => {}
    }
    let is_whole = |own: &Own| match plan(own) {
        Plan::Assemble { members, blank, .. } => members.len() + blank.len() >= DISKS,
        Plan::Blank(_) | Plan::OneDisk => false,
    };
    wait_for(OTHER_APPEARS, |seen| is_whole(&Own::of(seen, &own.boot)).then_some(()))?;
    let own = Own::read(root)?;
    let Plan::Assemble { members, blank, strangers } = plan(&own) else {
        return Err(
            "no half of the data volume's mirror was ever filled: this box has no data volume; flash it anew".into()
        );
    };
    for half in strangers {
        say(&format!("{} is a half of another mirror, and is left alone", half.name));
    }
    if Facts::read(root, &own.partitions)?.is_none() {
        start(&members)?;
    }
    settle();
    let facts = Facts::read(root, &own.partitions)?.ok_or("the mirror was put together, and is not there")?;
    if facts.degraded == 0 {
        return Ok(());
    }
    // A disk that was away for a while is behind, and a new one is empty: it is filled.
    for half in members.iter().chain(&blank).filter(|half| !facts.has(&half.name)).take(1) {
        match fill(half) {
            Ok(how) => say(&format!("{} {how}", half.name)),
            // The other has everything; the box starts with it.
            Err(error) => say(&format!("{} cannot be filled again: {error}", half.name)),
        }
    }
    Ok(())
}

/// Starts the array with all its halves, or with the one that can be read; of two, with the one that was changed more often.
fn start(members: &[&Partition]) -> Result<(), Failure> {
    let assemble = |halves: &[&Partition]| {
        let mut command = Command::new("mdadm");
        command.args(["--assemble", ARRAY, "--run", "--homehost=any"]);
        run(command.args(halves.iter().map(|half| half.device())))
    };
    let Err(error) = assemble(members) else { return Ok(()) };
    say(&format!("the mirror does not start with both halves, and is tried with each: {error}"));
    let mut members = members.to_vec();
    members.sort_by_cached_key(|half| Reverse(examine(half).map_or(0, |told| events(&told))));
    for half in members {
        // What a failed start has left behind.
        let _ = run(Command::new("mdadm").args(["--stop", ARRAY]));
        if assemble(&[half]).is_ok() {
            return Ok(());
        }
    }
    Err(error.into())
}

/// Has a half filled from the other: what it lacks, if all of what it has is known to the other, and otherwise all of it.
fn fill(half: &Partition) -> Result<&'static str, Failure> {
    let device = half.device();
    let is_behind = half.array.is_some() && examine(half).is_ok_and(|told| !was_alone(&told));
    if is_behind && run(Command::new("mdadm").args([ARRAY, "--re-add"]).arg(&device)).is_ok() {
        return Ok("is behind and is filled again");
    }
    if half.array.is_some() {
        run(Command::new("mdadm").arg("--zero-superblock").arg(&device))?;
    }
    run(Command::new("mdadm").args([ARRAY, "--add"]).arg(&device))?;
    Ok(if half.array.is_none() {
        "is new and is filled"
    } else {
        "was used without the other, or cannot say; what it alone had is given up, and it is filled as a new one"
    })
}

/// What the superblock of a half says.
fn examine(half: &Partition) -> Result<String, Failure> {
    Ok(run(Command::new("mdadm").arg("--examine").arg(half.device()))?)
}

fn repart(device: &str, definitions: &str, empty: &str, more: &[String]) -> Result<(), Failure> {
    let mut command = Command::new("systemd-repart");
    command.args([
        "--dry-run=no",
        &*format!("--empty={empty}"),
        &*format!("--definitions={DEFINITIONS}/{definitions}"),
    ]);
    run(command.args(more).arg(device))?;
    settle();
    Ok(())
}
