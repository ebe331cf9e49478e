//! `install`: the questions that the installer's medium asks at the screen of the machine and at its serial port. It has no
//! options of its own: what is checked, asked and written is what `write` checks, asks and writes.

use std::fs::File;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use postkeep_flash::Disk;
use postkeep_flash::inventory::{Inventory, addresses};
use postkeep_flash::posture::posture;
use postkeep_notes::VerifierKey;

use crate::arguments::Work;
use crate::outcome::{Failure, Outcome, bad, read, refused};
use crate::work;

/// After how many octets the disks are synced.
const SYNC_EVERY: u64 = 128 << 20;
/// Held by whoever writes.
const LOCK: &str = "/run/postkeep-install.lock";
const STATE: &str = "/run/postkeep-install.state";
/// A line that somebody types.
const LONGEST_LINE: u64 = 4096;

/// Where the installer finds what it installs.
pub(crate) struct Medium {
    /// The release, its image, and perhaps the seed.
    pub(crate) folder: PathBuf,
    /// Another stick, perhaps with the seed.
    pub(crate) stick: PathBuf,
    /// Whose releases are taken, a key on each line.
    pub(crate) release_keys: PathBuf,
}

/// Asks, writes, and waits until the person has taken the medium out.
pub(crate) fn install(root: &Path, medium: &Medium) -> Result<Outcome, Failure> {
    // Until this program ends, and the machine with it, nobody at the other terminal begins.
    let mut lock = None;
    let done = ask_and_write(root, medium, &mut lock);
    match &done {
        Ok(outcome) => {
            say(&outcome.text);
            ask("\nTake the medium out, then press Enter: the machine starts again. ")?;
        }
        Err(failure) => {
            say(&format!("\nerror: {}\n", failure.why));
            ask("Press Enter to begin again. ")?;
        }
    }
    done
}

fn ask_and_write(root: &Path, medium: &Medium, held: &mut Option<File>) -> Result<Outcome, Failure> {
    let machine = Inventory::read(root, &addresses());
    say(&format!("\nPostkeep installer\n\n{machine}"));
    // What cannot be at all is said now; what it is worth hangs on an answer, and stands in the record.
    posture(&machine, false).map_err(refused)?;
    let (image, seed) = (only_image(&medium.folder)?, seed(medium)?);
    let disks: Vec<Disk> = machine.disks.iter().filter(|disk| disk.check().is_ok()).cloned().collect();
    if disks.is_empty() {
        return Err(refused("this machine has no disk that could be written: see the list above"));
    }
    say("\nDisks that can be written, by serial number:\n");
    for disk in &disks {
        let model = disk.model.as_deref().unwrap_or("unknown model");
        say(&format!("  {}   {} ({model}, {} GB)\n", disk.identity, disk.path.display(), disk.size / 1_000_000_000));
    }
    let chosen = choose(&disks)?;
    let provider_netboot = is_netbooted()?;
    let options = Work {
        image,
        release: medium.folder.join("release.note"),
        release_key: keys(&medium.release_keys)?,
        disk: chosen.iter().map(|disk| disk.path.clone()).collect(),
        seed,
        owner_key: None,
        allow_older: false,
        provider_netboot,
    };
    let prepared = work::prepare(root, &options, false)?;
    say(&format!("\n{}\n", prepared.record));
    // What was typed above chose the disks; this confirms what is done with them, and for whom.
    let erased = chosen.iter().map(|disk| &*disk.identity).collect::<Vec<_>>().join(" ");
    let typed = ask(&format!("Everything on {erased} will be lost. Type yes to go on: "))?;
    if typed != "yes" {
        return Err(refused("nobody said yes; nothing was written"));
    }
    // At the screen and at the serial port the same is asked.
    let lock = File::create(LOCK).map_err(|error| refused(format!("cannot open {LOCK}: {error}")))?;
    lock.try_lock().map_err(|_| refused("somebody installs at the other terminal, or has done so"))?;
    *held = Some(lock);
    // The medium cannot be written: the state lives in memory, and an interrupted work begins anew.
    match std::fs::remove_file(STATE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(refused(format!("cannot remove {STATE}: {error}")));
        }
        _ => {}
    }
    work::write(root, prepared, Some(STATE.into()), None, SYNC_EVERY, false)
}

/// What nobody can see from inside, and what the posture must not be better than.
fn is_netbooted() -> Result<bool, Failure> {
    loop {
        let typed = ask("\nDoes this machine ask its provider's network boot first (as at OVH)? Type yes or no: ")?;
        match &*typed {
            "yes" => return Ok(true),
            "no" => return Ok(false),
            _ => {}
        }
    }
}

fn choose(disks: &[Disk]) -> Result<Vec<Disk>, Failure> {
    loop {
        let typed =
            ask("\nType the serial number of the disk to install to; of two, with a space between, for a mirror.\n> ")?;
        if let Some(named) = named(disks, &typed) {
            return Ok(named);
        }
        say("These are not the serial numbers of one or two of the disks above.\n");
    }
}

/// The disks of one serial number, or of two with a space between; a serial number may have spaces in it.
fn named(disks: &[Disk], typed: &str) -> Option<Vec<Disk>> {
    let one = |typed: &str| disks.iter().find(|disk| disk.identity == typed);
    if let Some(disk) = one(typed) {
        return Some(vec![disk.clone()]);
    }
    disks.iter().find_map(|first| {
        let second = one(typed.strip_prefix(&first.identity)?.strip_prefix(' ')?.trim_start())?;
        Some(vec![first.clone(), second.clone()])
    })
}

/// The one image of a whole disk on the medium.
fn only_image(folder: &Path) -> Result<PathBuf, Failure> {
    let entries = folder.read_dir().map_err(|error| bad(format!("cannot read {}: {error}", folder.display())))?;
    let mut images: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".raw.zst"))
        .collect();
    match (images.pop(), images.pop()) {
        (Some(image), None) => Ok(image),
        _ => Err(bad(format!("{} has not exactly one image (.raw.zst); make the medium again", folder.display()))),
    }
}

/// The seed: on the other stick, or on the medium.
fn seed(medium: &Medium) -> Result<PathBuf, Failure> {
    let places = [medium.stick.join("box.seed"), medium.folder.join("box.seed")];
    places.into_iter().find(|path| path.exists()).ok_or_else(|| {
        bad("there is no seed: put box.seed on a stick with a FAT file system of the name BOX_SEED and put it into \
             the machine, or make the medium with --seed")
    })
}

fn keys(path: &Path) -> Result<Vec<String>, Failure> {
    let octets = read(path)?;
    let keys = VerifierKey::of_lines(&String::from_utf8_lossy(&octets));
    let keys = keys.map_err(|error| bad(format!("{}: {error}", path.display())))?;
    Ok(keys.iter().map(ToString::to_string).collect())
}

/// Says `question` and returns what is typed, without the end of the line.
fn ask(question: &str) -> Result<String, Failure> {
    use std::io::Read as _;
    say(question);
    let mut typed = String::new();
    match std::io::stdin().lock().take(LONGEST_LINE).read_line(&mut typed) {
        Ok(0) => Err(refused("nobody is at this terminal")),
        Ok(_) => Ok(typed.trim().to_owned()),
        Err(error) => Err(refused(format!("this terminal cannot be read: {error}"))),
    }
}

/// The person reads standard output, which is the terminal.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disk_or_two_are_named_by_serial_numbers_which_may_have_spaces_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let disks: Vec<Disk> = ["S1", "WD 77 A"]
            .into_iter()
            .map(|name| {
                let path = folder.path().join(name);
                std::fs::write(&path, "").unwrap();
                Disk::at(Path::new("/"), &path).unwrap()
            })
            .collect();
        let told = |typed: &str| {
            let named = named(&disks, typed)?;
            Some(named.iter().map(|disk| disk.identity.to_owned()).collect::<Vec<_>>().join("+"))
        };
        assert_eq!(told("S1").as_deref(), Some("S1"));
        assert_eq!(told("WD 77 A").as_deref(), Some("WD 77 A"));
        assert_eq!(told("S1  WD 77 A").as_deref(), Some("S1+WD 77 A"));
        assert_eq!(told("WD 77 A S1").as_deref(), Some("WD 77 A+S1"));
        for typed in ["", "S", "S1 S2", "S1WD 77 A", "S1 WD 77 A S1", "/dev/sda"] {
            assert_eq!(told(typed), None, "{typed}");
        }
    }
}
