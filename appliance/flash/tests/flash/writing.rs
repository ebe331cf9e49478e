//! What is on the disks afterwards.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postkeep_flash::writing::{Job, Stage, WriteError, write};
use postkeep_flash::{Disk, Source, State};
use postkeep_notes::SignerKey;
use serde_json::Value;

use crate::bench::{Bench, IMAGE, MIB, run};

#[test]
fn two_disks_get_the_same_image_and_a_third_is_not_touched() {
    let bench = Bench::new();
    let (one, two) = (bench.disk("one", 64 * MIB), bench.disk("two", 64 * MIB));
    let other = bench.disk("other", 2 * MIB);
    let record = bench.path("record.json");
    // Keys that are believed come in a file too, one on each line.
    let keys = bench.path("release.pub");
    let another = SignerKey::generate("other.example").unwrap();
    fs::write(&keys, format!("# ours\n{}\n{}\n", another.verifier(), bench.release_key.verifier())).unwrap();
    let write = |record: &Path| {
        let mut command = bench.write("postkeep.raw.zst", &["one", "two"], &["--json", "--provider-netboot"]);
        run(command.arg("--release-key").arg(&keys).arg("--record").arg(record))
    };
    let (code, said) = write(&bench.path("nowhere/record.json"));
    assert_eq!((code, fs::read(&one).unwrap()[..16].to_vec()), (2, vec![0xa5; 16]), "{said}");
    let (code, said) = write(&record);
    assert_eq!(code, 0, "{said}");
    let (one, two) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    bench.assert_flashed(&one);
    bench.assert_flashed(&two);
    let sectors = one.chunks(512).zip(two.chunks(512)).enumerate();
    let differ: Vec<usize> = sectors.filter(|(_, (one, two))| one != two).map(|(number, _)| number).collect();
    let last = 64 * MIB / 512 - 1;
    // Header and first entries of the table, which name the disk and its EFI partition, at both ends.
    assert_eq!(differ, [1, 2, last - 32, last], "the two disks differ elsewhere, or cannot be told apart");
    let marked = |disk: &[u8]| disk.chunks(512).any(|sector| sector.starts_with(b"0\n\0"));
    assert!(marked(&one) && marked(&two), "the box would not know that it has two disks");
    assert_eq!(fs::read(other).unwrap(), vec![0xa5; 2 * MIB]);
    assert!(!bench.path("postkeep.raw.zst.flash-state").exists());

    let printed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(printed, serde_json::from_slice::<Value>(&fs::read(record).unwrap()).unwrap());
    assert_eq!(printed["written"], true);
    assert_eq!(printed["version"], "0.3.0");
    assert_eq!(printed["serial"], "B5QM12");
    assert_eq!(printed["owner"], bench.owner.verifier().to_string());
    assert_eq!(printed["posture"]["grade"], "B");
    assert_eq!(printed["disks"].as_array().unwrap().len(), 2);
}

#[test]
fn a_disk_that_does_not_give_back_what_was_written_is_found_and_does_not_boot() {
    let bench = Bench::new();
    let path = bench.disk("one", 64 * MIB);
    let image = bench.path("postkeep.raw.zst");
    let source = Source::of(&bench.release(&fs::read(&image).unwrap()), &image).unwrap();
    source.verify(|_| ()).unwrap();
    let disk = Disk::at(&bench.path("root"), &path).unwrap();
    let state = State::begin(source.sha256(), [&disk].into_iter());
    let targets = [disk.open(Path::new("/")).unwrap()];
    let (seed, state_path) = (fs::read(bench.path("box.seed")).unwrap(), bench.path("state"));
    let job = Job { source: &source, targets: &targets, seed: &seed, state_path: &state_path, sync_every: u64::MAX };
    let failed = write(&job, state, |stage, done, total| {
        // Where nothing of the image is: the sum alone sees it.
        if stage == Stage::Writing && done == total {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[1], (IMAGE - MIB) as u64).unwrap();
        }
    });
    let error = failed.unwrap_err();
    assert!(matches!(error, WriteError::ReadBack { .. }), "{error}");
    assert!(fs::read(&path).unwrap()[..MIB].iter().all(|octet| *octet == 0), "it would boot");
}

#[test]
fn an_expanded_image_fits_a_disk_of_just_its_size() {
    let bench = Bench::new();
    let disk = bench.disk("one", IMAGE);
    let (code, said) = run(&mut bench.write("postkeep.raw", &["one"], &[]));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("keep this record") && said.contains("mail-1.example.com"), "{said}");
    bench.assert_flashed(&fs::read(disk).unwrap());
}

#[test]
fn the_serial_number_has_to_be_typed_and_a_plan_changes_nothing() {
    let bench = Bench::new();
    let disk = bench.disk("one", 64 * MIB);
    let untouched = vec![0xa5; 64 * MIB];
    let path = disk.to_str().unwrap().to_owned();
    let (code, said) = run(&mut bench.command("plan", "postkeep.raw.zst", &["--disk", &path]));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Nothing was written"), "{said}");
    let typed = |what: &str| {
        let mut child = bench
            .command("write", "postkeep.raw.zst", &["--disk", &path])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(what.as_bytes()).unwrap();
        child.wait().unwrap().code()
    };
    assert_eq!(typed("yes\n"), Some(3));
    assert_eq!(typed(""), Some(3));
    assert!(fs::read(&disk).unwrap() == untouched);
    let (code, _) = run(&mut bench.command("write", "postkeep.raw.zst", &["--disk", &path, "--yes-erase", "two"]));
    assert_eq!(code, 3);
    assert!(fs::read(&disk).unwrap() == untouched);
    assert_eq!(typed("one\n"), Some(0));
    bench.assert_flashed(&fs::read(&disk).unwrap());
}

/// A loop device over a file, taken away when dropped.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// None where nobody may make one.
    pub(crate) fn over(file: &std::path::Path, more: &[&str]) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).args(more).arg(file).output().ok()?;
        let name = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        (made.status.success() && name.starts_with("/dev/loop")).then(|| Self(name.into()))
    }

    pub(crate) fn name(&self) -> String {
        self.0.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_written_unless_it_is_in_use_or_has_larger_sectors() {
    let bench = Bench::new();
    let file = bench.disk("one", 64 * MIB);
    let Some(device) = Loop::over(&file, &[]) else {
        let _ = writeln!(std::io::stderr(), "not tried: no loop device can be made here");
        return;
    };
    let (path, name) = (device.0.to_str().unwrap().to_owned(), device.name());
    let options = ["--disk", path.as_str(), "--yes-erase", name.as_str()];
    // In the made-up machine it is mounted.
    let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
    let mounts = bench.path("root/proc/self/mountinfo");
    fs::create_dir_all(mounts.parent().unwrap()).unwrap();
    fs::write(&mounts, format!("1 1 {} / /data rw - ext4 {path} rw\n", numbers.trim())).unwrap();
    let (code, said) = run(&mut bench.command("write", "postkeep.raw.zst", &options));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is mounted at /data"), "{said}");
    assert!(fs::read(&file).unwrap() == vec![0xa5; 64 * MIB]);
    fs::remove_file(mounts).unwrap();
    let (code, said) = run(&mut bench.command("write", "postkeep.raw.zst", &options));
    assert_eq!(code, 0, "{said}");
    bench.assert_flashed(&fs::read(&device.0).unwrap());
    drop(device);
    if let Some(large) = Loop::over(&file, &["--sector-size", "4096"]) {
        let (path, name) = (large.0.to_str().unwrap().to_owned(), large.name());
        let options = ["--disk", path.as_str(), "--yes-erase", name.as_str()];
        let (code, said) = run(&mut bench.command("write", "postkeep.raw.zst", &options));
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("sectors of 4096"), "{said}");
    }
}
