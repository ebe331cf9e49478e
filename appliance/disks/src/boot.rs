//! Boot partitions that are the same. Of two, one is written: by the firmware and the boot loader, which count a version's
//! starts in it, by updates, by the owner's seed; the other is made the same as it afterwards.
//!
//! Each says how often it was changed while the other was not there ([`crate::MIRROR_MARK`]), so that a disk that comes
//! back after some time is not believed: the higher number is, of equal ones the partition that was started from. A file
//! is whole on the other partition or not there; what must go, goes last.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::MIRROR_MARK;
use crate::partition::small;

/// How often the other partition was changed alone, when it was seen last in this start.
pub const SEEN: &str = "/run/postkeep-disks/other-mark";
/// Written by the boot loader at each start, for one use.
const RANDOM_SEED: &str = "loader/random-seed";
/// What the boot loader is told.
const LOADER_CONFIGURATION: &str = "loader/loader.conf";
/// No menu, whatever is typed while the machine starts.
const WITHOUT_MENU: &str = "# Written by postkeep-disks at the end of the first boot.\ntimeout menu-disabled\n";
/// While it is there, the first boot is not over.
pub const FIRST_BOOT: &str = "postkeep/first-boot";
/// A boot partition has some boot files, a loader and a seed.
const MOST_FILES: usize = 256;
/// Folders in folders.
const DEEPEST: usize = 6;
/// Beside a file that is being written.
const HALF: &str = "half";
/// A number.
const LONGEST_MARK: u64 = 64;
/// Where boot files lie.
const BOOT_FILES: &str = "EFI/Linux";
const PIECE: usize = 1 << 20;

/// Which of two boot partitions is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// The one that was started from.
    Mounted,
    /// The other.
    Other,
}

/// What was changed to make one partition as another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Files that were written or removed, below the partition's root.
    pub files: Vec<PathBuf>,
    /// Boot files that were left out, since the disk has no slot with what they start.
    pub left_out: Vec<PathBuf>,
}

/// A boot partition could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {error}", path = path.display())]
pub struct BootError {
    verb: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl Changes {
    /// Whether the box would start otherwise than before: another version, or with another seed.
    #[must_use]
    pub fn matter_at_the_start(&self) -> bool {
        self.files.iter().any(|path| path.starts_with("EFI") || path.ends_with("seed"))
    }
}

/// What [`SEEN`] says on the box at `root`; 0 where it says nothing.
#[must_use]
pub fn seen_on_the_other(root: &Path) -> u64 {
    let text = small(&root.join(SEEN.trim_start_matches('/'))).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Takes the boot loader's menu away from the partition at `root`, once the first boot is over: until then somebody may enrol keys of
/// Secure Boot by it, afterwards it would start another version without the owner's word.
///
/// # Errors
/// The partition.
pub fn close_menu(root: &Path) -> Result<(), BootError> {
    let path = root.join(LOADER_CONFIGURATION);
    // Where no boot loader is, there is no boot partition either.
    let is_open = root.join(FIRST_BOOT).exists() || path.parent().is_none_or(|folder| !folder.is_dir());
    if is_open || small(&path).is_ok_and(|text| text == WITHOUT_MENU) {
        return Ok(());
    }
    postkeep_files::replace(&path, WITHOUT_MENU.as_bytes()).map_err(|error| BootError {
        verb: "write",
        path,
        error,
    })?;
    sync(root)
}

/// Which is believed, by how often each was changed alone.
#[must_use]
pub fn newer(mounted: u64, other: u64) -> Newer {
    if other > mounted { Newer::Other } else { Newer::Mounted }
}

/// How often the partition at `root` was changed alone; none where the box has one disk.
///
/// # Errors
/// It cannot be read. A mark that is no number counts as 0: such a partition is not believed.
pub fn mark(root: &Path) -> Result<Option<u64>, BootError> {
    let path = root.join(MIRROR_MARK);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(LONGEST_MARK).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text.trim().parse().unwrap_or(0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(0)),
        Err(error) => Err(BootError { verb: "read", path, error }),
    }
}

/// Says on the partition at `root` that it was changed alone once more. Durable on return. What the running box changes is newer
/// than what it has `seen` on the other partition, also where it could not take all of that over.
///
/// # Errors
/// The partition.
pub fn count_alone(root: &Path, seen: u64) -> Result<(), BootError> {
    let path = root.join(MIRROR_MARK);
    let number = mark(root)?.unwrap_or(0).max(seen).saturating_add(1);
    postkeep_files::replace(&path, format!("{number}\n").as_bytes()).map_err(|error| BootError {
        verb: "write",
        path,
        error,
    })?;
    sync(root)
}

/// Makes the older of two partitions the same as the newer, and says which was believed. `lacks` is asked whether the disk of the one
/// that is made the same has no slot for a boot file.
///
/// # Errors
/// As [`make_same`].
pub fn agree(
    mounted: &Path,
    other: &Path,
    lacks: impl Fn(Newer, &Path) -> bool,
) -> Result<(Newer, Changes), BootError> {
    // One without a mark was put there by hand; it is filled.
    let (ours, theirs) = (mark(mounted)?.unwrap_or(0), mark(other)?.unwrap_or(0));
    let believed = newer(ours, theirs);
    let (from, to) = match believed {
        Newer::Mounted => (mounted, other),
        Newer::Other => (other, mounted),
    };
    Ok((believed, make_same(from, to, |name| lacks(believed, name))?))
}

/// Makes the partition at `to` the same as the one at `from`, but for boot files that its disk `has_no_slot` for. Durable on
/// return. The mark comes last, and only when nothing was left out: until then `to` is not believed.
///
/// # Errors
/// Either partition. What was there can still be started, unless it was to go.
pub fn make_same(from: &Path, to: &Path, has_no_slot: impl Fn(&Path) -> bool) -> Result<Changes, BootError> {
    let (mut wanted, mut found) = (files(from)?, files(to)?);
    let mut changes = Changes::default();
    let mark = wanted.remove_entry(Path::new(MIRROR_MARK));
    let mark_found = found.remove(Path::new(MIRROR_MARK));
    // Brings a file over, unless it is there; says whether it was not.
    let bring = |name: &Path, length: u64, found: Option<u64>| -> Result<bool, BootError> {
        let (source, target) = (from.join(name), to.join(name));
        if found == Some(length) && same(&source, &target)? {
            return Ok(false);
        }
        copy(&source, &target)?;
        Ok(true)
    };
    let is_boot_file = |name: &Path| name.starts_with(BOOT_FILES);
    let left_out: Vec<PathBuf> =
        wanted.keys().filter(|name| is_boot_file(name) && has_no_slot(name)).cloned().collect();
    if !wanted.keys().any(|name| is_boot_file(name)) {
        let error = io::Error::other("there is no boot file: this is no boot partition of ours");
        return Err(BootError { verb: "copy", path: from.join(BOOT_FILES), error });
    }
    wanted.retain(|name, _| !left_out.contains(name));
    if !left_out.is_empty() {
        // Better an old version than none, should the other disk fail: what this disk can start stays, unless it is there under
        // another name, which says how it stands.
        let is_renamed = |name: &Path| wanted.keys().any(|other| version_of(other) == version_of(name));
        found.retain(|name, _| !is_boot_file(name) || has_no_slot(name) || is_renamed(name));
    }
    for (name, length) in &wanted {
        if bring(name, *length, found.get(name).copied())? {
            changes.files.push(name.clone());
        }
    }
    // First all that is new is on the disk.
    sync(to)?;
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        let path = to.join(name);
        fs::remove_file(&path).map_err(|error| BootError { verb: "remove", path, error })?;
        changes.files.push(name.clone());
    }
    sync(to)?;
    if let Some((name, length)) = mark.filter(|_| left_out.is_empty())
        && bring(&name, length, mark_found)?
    {
        sync(to)?;
        changes.files.push(name);
    }
    changes.left_out = left_out;
    Ok(changes)
}

/// `postkeep_1.2.0` of `EFI/Linux/postkeep_1.2.0+3-0.efi`: what the slot is labelled with.
#[must_use]
pub fn version_of(boot_file: &Path) -> &str {
    let name = boot_file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('+').next().unwrap_or_default()
}

/// All files below `root`, with their lengths.
fn files(root: &Path) -> Result<BTreeMap<PathBuf, u64>, BootError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let failed = |error| BootError { verb: "read", path: folder.clone(), error };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let path = entry.path();
            if kind.is_dir() && depth < DEEPEST {
                folders.push((path, depth + 1));
            } else if kind.is_file() && found.len() < MOST_FILES {
                let length = entry.metadata().map_err(failed)?.len();
                let name = path.strip_prefix(root).unwrap_or(&path);
                if name != Path::new(RANDOM_SEED) {
                    found.insert(name.to_owned(), length);
                }
            } else {
                return Err(failed(io::Error::other("this is no boot partition of ours: too much is in it")));
            }
        }
    }
    Ok(found)
}

fn same(one: &Path, other: &Path) -> Result<bool, BootError> {
    let open = |path: &Path| File::open(path).map_err(|error| BootError { verb: "open", path: path.to_owned(), error });
    let (mut left, mut right) = (open(one)?, open(other)?);
    let (mut wanted, mut found) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    loop {
        for (file, piece, path) in [(&mut left, &mut wanted, one), (&mut right, &mut found, other)] {
            piece.clear();
            let read = file.take(PIECE as u64).read_to_end(piece);
            read.map_err(|error| BootError { verb: "read", path: path.to_owned(), error })?;
        }
        if wanted != found {
            return Ok(false);
        }
        if wanted.is_empty() {
            return Ok(true);
        }
    }
}

/// Copies a file, whole or not at all.
fn copy(from: &Path, to: &Path) -> Result<(), BootError> {
    let failed = |verb, path: &Path, error| BootError { verb, path: path.to_owned(), error };
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|error| failed("make", folder, error))?;
    }
    let half = to.with_added_extension(HALF);
    let copied = File::open(from).and_then(|mut source| {
        let mut target = File::create(&half)?;
        io::copy(&mut source, &mut target)?;
        target.flush()?;
        target.sync_all()?;
        fs::rename(&half, to)
    });
    copied.map_err(|error| failed("copy to", to, error))
}

/// Everything of the file system at `root` onto the disk: this kind keeps no journal.
///
/// # Errors
/// The disk.
pub fn sync(root: &Path) -> Result<(), BootError> {
    let failed = |error| BootError { verb: "sync", path: root.to_owned(), error };
    let opened = File::open(root).map_err(failed)?;
    rustix::fs::syncfs(&opened).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lay(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn told(root: &Path) -> Vec<(String, String)> {
        let name = |path: &PathBuf| path.to_string_lossy().into_owned();
        files(root).unwrap().keys().map(|path| (name(path), fs::read_to_string(root.join(path)).unwrap())).collect()
    }

    #[test]
    fn the_other_partition_becomes_the_same_and_is_not_written_again() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay(from.path(), &[("EFI/Linux/postkeep_2.efi", "two"), ("postkeep/seed", "seed"), (MIRROR_MARK, "3\n")]);
        lay(to.path(), &[("EFI/Linux/postkeep_1.efi", "one"), ("postkeep/seed", "dees"), ("postkeep/first-boot", "")]);
        let changes = make_same(from.path(), to.path(), |_| false).unwrap();
        assert_eq!(changes.files.len(), 5, "{changes:?}");
        assert!(changes.matter_at_the_start());
        assert_eq!(told(to.path()), told(from.path()));
        assert_eq!(make_same(from.path(), to.path(), |_| false).unwrap(), Changes::default());
        // A half of a file that a loss of power left behind goes too.
        lay(to.path(), &[("postkeep/seed.half", "se"), (RANDOM_SEED, "once")]);
        let changes = make_same(from.path(), to.path(), |_| false).unwrap();
        assert_eq!(changes.files, [PathBuf::from("postkeep/seed.half")]);
        assert!(to.path().join(RANDOM_SEED).exists(), "it is the boot loader's");
        assert!(!changes.matter_at_the_start());
    }

    #[test]
    fn a_disk_without_the_slot_of_a_version_does_not_get_its_boot_file_and_is_not_believed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay(from.path(), &[("EFI/Linux/postkeep_2.efi", "2"), ("EFI/Linux/postkeep_3.efi", "3"), (MIRROR_MARK, "4\n")]);
        lay(to.path(), &[("EFI/Linux/postkeep_1.efi", "1"), ("EFI/Linux/postkeep_2.efi", "old"), (MIRROR_MARK, "1\n")]);
        let lacks = |versions: &'static [&str]| {
            move |name: &Path| versions.iter().any(|version| name.to_string_lossy().contains(version))
        };
        let changes = make_same(from.path(), to.path(), lacks(&["_3"])).unwrap();
        assert_eq!(changes.left_out, [PathBuf::from("EFI/Linux/postkeep_3.efi")]);
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        // What it can start stays, so that it starts at all.
        let kept =
            [file("EFI/Linux/postkeep_1.efi", "1"), file("EFI/Linux/postkeep_2.efi", "2"), file(MIRROR_MARK, "1\n")];
        assert_eq!(told(to.path()), kept);
        // But not under two names, of which one says that it is not to be started.
        fs::rename(from.path().join("EFI/Linux/postkeep_2.efi"), from.path().join("EFI/Linux/postkeep_2+0-1.efi"))
            .unwrap();
        make_same(from.path(), to.path(), lacks(&["_3"])).unwrap();
        let names: Vec<String> = told(to.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["EFI/Linux/postkeep_1.efi", "EFI/Linux/postkeep_2+0-1.efi", MIRROR_MARK]);
        make_same(from.path(), to.path(), lacks(&[])).unwrap();
        assert_eq!(told(to.path()), told(from.path()));
    }

    #[test]
    fn what_the_running_box_changes_is_newer_also_where_it_lacks_what_the_other_has() {
        let (mounted, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay(mounted.path(), &[("EFI/Linux/postkeep_1.efi", "1"), (MIRROR_MARK, "1\n")]);
        lay(
            other.path(),
            &[("EFI/Linux/postkeep_1.efi", "1"), ("EFI/Linux/postkeep_2.efi", "2"), (MIRROR_MARK, "8\n")],
        );
        let lacks = |believed, name: &Path| believed == Newer::Other && version_of(name) == "postkeep_2";
        let (believed, changes) = agree(mounted.path(), other.path(), lacks).unwrap();
        assert_eq!((believed, changes.files.len(), changes.left_out.len()), (Newer::Other, 0, 1));
        // An update of the box that runs from it.
        lay(mounted.path(), &[("EFI/Linux/postkeep_3+3-0.efi", "3")]);
        count_alone(mounted.path(), 8).unwrap();
        let (believed, _) = agree(mounted.path(), other.path(), lacks).unwrap();
        assert_eq!((believed, mark(other.path()).unwrap()), (Newer::Mounted, Some(9)));
        assert_eq!(told(other.path()), told(mounted.path()));
    }

    #[test]
    fn a_partition_that_was_used_alone_is_believed_before_one_that_was_away() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(mark(one.path()).unwrap(), None, "a box with one disk");
        for root in [&one, &other] {
            lay(root.path(), &[(MIRROR_MARK, "0\n")]);
        }
        count_alone(other.path(), 0).unwrap();
        let (mounted, away) = (mark(one.path()).unwrap().unwrap(), mark(other.path()).unwrap().unwrap());
        assert_eq!((mounted, away, newer(mounted, away)), (0, 1, Newer::Other));
        assert_eq!(newer(1, 1), Newer::Mounted, "both alike: the one that was started from");
        lay(one.path(), &[(MIRROR_MARK, "many\n")]);
        assert_eq!(mark(one.path()).unwrap(), Some(0));
        fs::write(one.path().join(MIRROR_MARK), [0xff, 0xfe]).unwrap();
        assert_eq!(mark(one.path()).unwrap(), Some(0));
    }

    #[test]
    fn the_menu_goes_when_the_first_boot_is_over() {
        let root = tempfile::tempdir().unwrap();
        let configuration = || fs::read_to_string(root.path().join(LOADER_CONFIGURATION)).unwrap();
        close_menu(root.path()).unwrap();
        assert!(told(root.path()).is_empty(), "nothing is written where no boot partition is");
        lay(root.path(), &[(LOADER_CONFIGURATION, "#timeout 3\n"), (FIRST_BOOT, "")]);
        close_menu(root.path()).unwrap();
        assert_eq!(configuration(), "#timeout 3\n");
        fs::remove_file(root.path().join(FIRST_BOOT)).unwrap();
        for before in ["#timeout 3\n", "timeout 30\ndefault old.efi\n", "", WITHOUT_MENU] {
            lay(root.path(), &[(LOADER_CONFIGURATION, before)]);
            close_menu(root.path()).unwrap();
            assert_eq!(configuration(), WITHOUT_MENU);
        }
        assert_eq!(told(root.path()).len(), 1, "no half is left");
    }

    #[test]
    fn what_is_no_boot_partition_is_left_alone() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay(from.path(), &[("a/b/c/d/e/f/g/h", "deep")]);
        lay(to.path(), &[("kept", "kept")]);
        assert!(make_same(from.path(), to.path(), |_| false).unwrap_err().to_string().contains("too much"));
        // An empty folder where a boot partition should be mounted.
        assert!(
            make_same(tempfile::tempdir().unwrap().path(), to.path(), |_| false)
                .unwrap_err()
                .to_string()
                .contains("no boot file")
        );
        let many: Vec<String> = (0..=MOST_FILES).map(|number| format!("f{number}")).collect();
        let wide = tempfile::tempdir().unwrap();
        lay(wide.path(), &many.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
        assert!(make_same(wide.path(), to.path(), |_| false).is_err());
        assert_eq!(told(to.path()), [("kept".to_owned(), "kept".to_owned())]);
    }

    proptest! {
        #[test]
        fn whatever_the_two_are_they_end_the_same(
            left in proptest::collection::btree_map("[ab]{1,2}(/[xy])?", "[a-c]{0,3}", 0..6),
            right in proptest::collection::btree_map("[cd]{1,2}(/[xy])?", "[a-c]{0,3}", 0..6),
        ) {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            for (root, laid) in [(&from, &left), (&to, &right)] {
                // A name cannot be a file and a folder.
                for (name, text) in laid.iter().filter(|(name, _)| name.contains('/') || !laid.keys().any(|other| other.starts_with(&format!("{name}/")))) {
                    lay(root.path(), &[(name, text)]);
                }
            }
            lay(from.path(), &[("EFI/Linux/postkeep_1.efi", "1")]);
            make_same(from.path(), to.path(), |_| false).unwrap();
            prop_assert_eq!(told(to.path()), told(from.path()));
        }
    }
}
