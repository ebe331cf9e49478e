//! `plan`, `write` and `replace`: everything is looked at and verified before anything is changed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use postkeep_flash::inventory::{Inventory, addresses};
use postkeep_flash::posture::posture;
use postkeep_flash::record::{Record, RecordedDisk};
use postkeep_flash::replacing::Survivor;
use postkeep_flash::writing::{Job, Stage, write as write_disks};
use postkeep_flash::{Disk, DiskError, HEAD, Layout, Source, State, is_same};
use postkeep_release::{Decision, MachineFacts, Release, Version, decide};
use postkeep_seed::Seed;
use serde_json::json;

use crate::arguments::Work;
use crate::outcome::{Failure, Outcome, bad, failed, public_key, public_keys, read, refused};

/// A flash that was checked in all its parts.
pub(crate) struct Prepared {
    pub(crate) source: Source,
    pub(crate) disks: Vec<Disk>,
    pub(crate) seed: Vec<u8>,
    pub(crate) record: Record,
    image: PathBuf,
}

/// Looks at the machine, and verifies the release, the seed, the disks and the image, in the order of what it costs.
pub(crate) fn prepare(root: &Path, options: &Work, quiet: bool) -> Result<Prepared, Failure> {
    let trusted = options.release_key.iter().map(|key| public_keys(key)).collect::<Result<Vec<_>, _>>()?.concat();
    let owner = options.owner_key.as_deref().map(public_key).transpose()?;
    let named = |path: &Path, why: String| bad(format!("{}: {why}", path.display()));
    let release = Release::open(&read(&options.release)?, &trusted)
        .map_err(|error| named(&options.release, error.to_string()))?;
    let source = Source::of(&release, &options.image).map_err(bad)?;
    let now = Timestamp::now();
    let note = read(&options.seed)?;
    let seed = Seed::open(&note, None, now).map_err(|error| named(&options.seed, error.to_string()))?;
    // Who has countersigned a seed that makes a box somebody else's is not its owner.
    if let Some(owner) = owner.filter(|owner| *owner != seed.owner) {
        let why = format!(
            "the seed makes the box one of {}, and --owner-key says {owner}; take the seed that names it",
            seed.owner
        );
        return Err(named(&options.seed, why));
    }

    let machine = Inventory::read(root, &addresses());
    let posture = posture(&machine, options.provider_netboot).map_err(refused)?;
    seed.check_machine(&machine.facts()).map_err(refused)?;
    let disks = chosen(root, &options.disk)?;
    for disk in &disks {
        let facts = MachineFacts {
            architecture: machine.architecture.clone(),
            disk: Some(disk.size),
            ..MachineFacts::default()
        };
        if let Decision::Refuse(refusal) = decide(None, &release, &facts) {
            return Err(refused(format!("{}: {refusal}", disk.path.display())));
        }
        if !options.allow_older
            && let Some(found) = installed(disk)
            && release.version < found
        {
            return Err(refused(format!(
                "{} has Postkeep {found}, and the release is {}, which is older; older versions have known faults. Take a newer \
                 release, or flash from a rescue system with --allow-older",
                disk.path.display(),
                release.version
            )));
        }
    }
    let bar = bar(source.stored_size(), "verifying the image", quiet);
    source.verify(|seen| bar.set_position(seen)).map_err(bad)?;
    bar.finish_and_clear();
    let record = Record::new(&release, &source, (&seed, &note), (&machine, &posture), disks.iter(), now);
    Ok(Prepared { source, disks, seed: note, record, image: options.image.clone() })
}

/// The newest version of ours on the disk, if there is one.
fn installed(disk: &Disk) -> Option<Version> {
    let mut head = [0; HEAD];
    File::open(&disk.path).and_then(|file| file.read_exact_at(&mut head, 0)).ok()?;
    Layout::read(&head).ok()?.newest_version()
}

fn chosen(root: &Path, paths: &[PathBuf]) -> Result<Vec<Disk>, Failure> {
    if paths.len() > 2 {
        return Err(bad("more than two disks were named; name one, or two for a mirror"));
    }
    let mut disks = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let disk = Disk::at(root, path).map_err(refused)?;
        disk.check().map_err(refused)?;
        // By what it is, since a disk has many names, and perhaps many paths to it.
        let is_known = |other: &Disk| disk.wwid.is_some() && other.wwid == disk.wwid;
        if paths.iter().take(number).any(|other| is_same(other, path)) || disks.iter().any(is_known) {
            return Err(bad(DiskError::Twice(path.clone())));
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// Has the serial number of each disk typed, unless it is among those that were told.
pub(crate) fn confirm(disks: &[Disk], told: &[String]) -> Result<(), String> {
    if let Some(stray) = told.iter().find(|serial| !disks.iter().any(|disk| disk.identity == **serial)) {
        return Err(format!(
            "--yes-erase {stray} is the serial number of none of the disks that were named; \
                            nothing was written"
        ));
    }
    for disk in disks.iter().filter(|disk| !told.iter().any(|serial| disk.identity == **serial)) {
        let (path, identity) = (disk.path.display(), &disk.identity);
        let model = disk.model.as_deref().unwrap_or("unknown model");
        let mut terminal = std::io::stderr().lock();
        let _ = write!(
            terminal,
            "{path} ({model}, {} GB) will be erased. Type its serial number, {identity}, to go on: ",
            disk.size / 1_000_000_000
        );
        let _ = terminal.flush();
        let mut typed = String::new();
        let read = std::io::stdin().lock().read_line(&mut typed);
        if read.is_err() || typed.trim() != identity {
            return Err(format!("the serial number of {path} was not typed; nothing was written"));
        }
    }
    Ok(())
}

/// Erases the disks and puts the image and the seed onto them.
pub(crate) fn write(
    root: &Path,
    prepared: Prepared,
    state_path: Option<PathBuf>,
    record_path: Option<PathBuf>,
    sync_every: u64,
    quiet: bool,
) -> Result<Outcome, Failure> {
    let Prepared { source, disks, seed, mut record, image } = prepared;
    let state_path = state_path.unwrap_or_else(|| {
        let mut name = image.file_name().unwrap_or_default().to_owned();
        name.push(".flash-state");
        image.with_file_name(name)
    });
    // What cannot be written is found out before a disk is. What an earlier record says stays until there is another.
    let state = State::begin(source.sha256(), disks.iter()).resume(&state_path).map_err(bad)?;
    state.save(&state_path).map_err(bad)?;
    let record_file = record_path
        .map(|path| {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let opened = opened.map_err(|error| bad(format!("cannot write {}: {error}", path.display())));
            opened.map(|file| (path, file))
        })
        .transpose()?;
    let targets = disks.into_iter().map(|disk| disk.open(root)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let job = Job { source: &source, targets: &targets, seed: &seed, state_path: &state_path, sync_every };
    let mut shown: Option<(Stage, ProgressBar)> = None;
    let written = write_disks(&job, state, |stage, done, total| {
        let text = match stage {
            Stage::Writing => "writing",
            Stage::ReadingBack => "reading back",
        };
        let (now, bar) = shown.get_or_insert_with(|| (stage, bar(total, text, quiet)));
        if *now != stage {
            bar.set_length(total);
            bar.set_message(text);
            *now = stage;
        }
        bar.set_position(done);
    });
    if let Some((_, bar)) = shown {
        bar.finish_and_clear();
    }
    written.map_err(|error| failed(format!("{error}. The disks do not boot; run the same command again to go on")))?;
    record.written = true;
    record.at = Timestamp::now();
    let outcome = Outcome::of_record(&record);
    if let Some((path, mut file)) = record_file
        && let Err(error) = file.set_len(0).and_then(|()| file.write_all(format!("{:#}\n", outcome.json).as_bytes()))
    {
        // The disks are done, and to go on would erase them: this is no failure of the flash.
        let _ = writeln!(std::io::stderr().lock(), "postkeep-flash: keep what is printed; {}: {error}", path.display());
    }
    Ok(outcome)
}

/// Puts the disk at `path` in the place of one that was lost; `left` is the other.
pub(crate) fn replace(
    root: &Path,
    left: &Path,
    path: &Path,
    yes_erase: &[String],
    quiet: bool,
) -> Result<Outcome, Failure> {
    let [new] = <[Disk; 1]>::try_from(chosen(root, &[path.to_owned()])?).map_err(|_| bad("one disk is named"))?;
    if is_same(left, path) {
        return Err(bad(DiskError::Twice(path.to_owned())));
    }
    let left = Disk::at(root, left).map_err(refused)?;
    let survivor = Survivor::open(&left).map_err(refused)?;
    survivor.fits(&new).map_err(refused)?;
    confirm(std::slice::from_ref(&new), yes_erase).map_err(refused)?;
    let named = RecordedDisk::of(&new);
    let target = new.open(root).map_err(refused)?;
    let bar = bar(0, "copying", quiet);
    let done = survivor.replace_with(&target, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done.map_err(|error| failed(format!("{error}. The new disk does not boot; run the same command again")))?;
    Ok(Outcome {
        text: format!(
            "{} is a disk of the box now. Start the box: it fills the disk with the data of the other, and says \
             `mirrored` at its console when that is done.\n",
            named.path.display()
        ),
        json: json!({"disk": named, "left": RecordedDisk::of(&left)}),
    })
}

fn bar(octets: u64, text: &'static str, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let form = "{msg:19} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go";
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(octets), target).with_style(style).with_message(text)
}
