//! The data volume below its encryption: made at the first boot, put together at each other.

use std::path::Path;
use std::process::Command;

use postkeep_disks::array::{Facts, Plan, plan};
use postkeep_disks::partition::{Partition, partitions};
use postkeep_disks::run::run;
use postkeep_disks::{ARRAY, BOOT_LABEL};

use crate::{Failure, OTHER_APPEARS, is_mirrored, partition_of, say, wait_for};

/// What systemd-repart is told (image/render).
const DEFINITIONS: &str = "/usr/lib/postkeep/repart.d";
const EFI: &str = "/efi";
/// PCR 7: these Secure Boot keys. PCR 15: before a data volume was opened. PCR 11 by the release's signature: our kernel and
/// initrd, and not later than the start of the system (docs/operate/secure-boot.md).
const TPM: [&str; 2] = ["--tpm2-device=auto", "--tpm2-pcrs=7+15"];
const DISKS: usize = 2;

/// Makes what the image leaves out: the second slot, and the data volume to the end of the disk or of the mirror.
pub(crate) fn make(key_file: Option<&Path>) -> Result<(), Failure> {
    let (opens, key) = match key_file {
        None => ("tpm", TPM.map(str::to_owned).to_vec()),
        Some(file) => ("passphrase", vec![format!("--key-file={}", file.display())]),
    };
    let seen = partitions(Path::new("/"))?;
    let boot = partition_of(&seen, Path::new(EFI))?;
    if !is_mirrored(Path::new(EFI)) {
        return partition(&boot.disk, opens, &key);
    }
    let both = wait_for(OTHER_APPEARS, |seen| {
        let disks: Vec<String> =
            seen.iter().filter(|one| one.label == BOOT_LABEL).map(|one| one.disk.clone()).collect();
        (disks.len() == DISKS).then_some(disks)
    })?;
    let disks = both.unwrap_or_else(|| {
        say("the box was flashed onto two disks, and one is not there; the data volume is made on the other");
        vec![boot.disk.clone()]
    });
    for disk in &disks {
        partition(disk, "mirror", &[])?;
    }
    let seen = partitions(Path::new("/"))?;
    match plan(&seen, Some(&boot.disk)) {
        Plan::OneDisk => return Err("the partitions for the mirror were made, and are not there".into()),
        Plan::Blank(halves) => create(&halves)?,
        // A first boot that was cut short.
        Plan::Assemble { .. } => assemble()?,
    }
    settle()?;
    let definitions = format!("{opens}-mirror");
    // The array's own table of partitions, with one partition: made, or there from a first boot that was cut short.
    repart(ARRAY, &definitions, "allow", &key)?;
    settle()
}

fn create(halves: &[&Partition]) -> Result<(), Failure> {
    let mut command = Command::new("mdadm");
    // Nothing is on either half yet, and nothing is read that was not written before: there is nothing to make the same.
    command.args(["--create", ARRAY, "--run", "--level=1", "--metadata=1.2", "--bitmap=internal", "--assume-clean"]);
    command.args(["--homehost=any", "--name=postkeep", &*format!("--raid-devices={DISKS}")]);
    command.args(halves.iter().map(|half| half.device()));
    if halves.len() < DISKS {
        command.arg("missing");
    }
    run(&mut command)?;
    Ok(())
}

/// Puts the mirror together, if the box has one; with one half, if the other does not appear.
pub(crate) fn assemble() -> Result<(), Failure> {
    let seen = partitions(Path::new("/"))?;
    let boot = partition_of(&seen, Path::new(EFI))?.disk.clone();
    if plan(&seen, Some(&boot)) == Plan::OneDisk {
        return Ok(());
    }
    let is_whole = |plan: &Plan<'_>| match plan {
        Plan::Assemble { members, blank, .. } => members.len() + blank.len() >= DISKS,
        _ => false,
    };
    wait_for(OTHER_APPEARS, |seen| is_whole(&plan(seen, Some(&boot))).then_some(()))?;
    let seen = partitions(Path::new("/"))?;
    let (members, blank) = match plan(&seen, Some(&boot)) {
        Plan::Assemble { members, blank, strangers } => {
            for half in strangers {
                say(&format!("{} is a half of another box's mirror, and is left alone", half.name));
            }
            (members, blank)
        }
        // The first boot makes it.
        Plan::Blank(_) | Plan::OneDisk => return Ok(()),
    };
    if Facts::read(Path::new("/"), &seen)?.is_none() {
        let mut command = Command::new("mdadm");
        command.args(["--assemble", ARRAY, "--run", "--homehost=any"]).args(members.iter().map(|half| half.device()));
        run(&mut command)?;
    }
    settle()?;
    let facts = Facts::read(Path::new("/"), &seen)?.ok_or("the mirror was put together, and is not there")?;
    // A disk that was away for a while is behind, and a new one is empty: both are filled.
    for half in members.iter().chain(&blank).filter(|half| !facts.has(&half.name)) {
        let device = half.device();
        let again = run(Command::new("mdadm").args([ARRAY, "--re-add"]).arg(&device));
        if again.is_err() {
            run(Command::new("mdadm").args([ARRAY, "--add"]).arg(&device))?;
        }
        say(&format!("{} is behind and is filled again", half.name));
    }
    Ok(())
}

fn partition(disk: &str, definitions: &str, key: &[String]) -> Result<(), Failure> {
    repart(&format!("/dev/{disk}"), definitions, "refuse", key)?;
    settle()
}

fn repart(device: &str, definitions: &str, empty: &str, key: &[String]) -> Result<(), Failure> {
    let mut command = Command::new("systemd-repart");
    command.args([
        "--dry-run=no",
        &*format!("--empty={empty}"),
        &*format!("--definitions={DEFINITIONS}/{definitions}"),
    ]);
    run(command.args(key).arg(device))?;
    Ok(())
}

fn settle() -> Result<(), Failure> {
    run(Command::new("udevadm").args(["settle", "--timeout=30"]))?;
    Ok(())
}
