//! Small files that are on the disk whole or not at all: written beside, synced, renamed, and the folder synced.
//!
//! Whoever reads one sees the old content or the new, after a crash or a loss of power too. And the beginnings of files of
//! others, however long they are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Puts `octets` in the place of whatever is at `path`, readable by nobody but its owner (0600). Durable on return.
///
/// Two writers of one path must not work at the same time: the later one might rename the other's half.
///
/// # Errors
/// The disk; what was at `path` is still there, and the half beside it is removed as far as that is possible.
pub fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    let half = half_of(path);
    let written = write(&half, octets).and_then(|file| fs::rename(&half, path).map(|()| file));
    if written.is_err() {
        // The error that matters is the one we have.
        let _ = fs::remove_file(&half);
    }
    let file = written?;
    sync_folder(path)?;
    // FAT keeps in the folder where a file lies and how long it is, and writes that when the file is written: after the rename the new
    // name would still have what the old file had, or nothing.
    file.sync_all()
}

/// The first `most` octets of a file.
///
/// # Errors
/// The disk.
pub fn beginning(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut octets)?;
    Ok(octets)
}

/// Makes names that were made, renamed or removed in the folder of `path` durable.
///
/// # Errors
/// The disk.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// `name.half`, beside the file.
fn half_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".half");
    path.with_file_name(name)
}

fn write(half: &Path, octets: &[u8]) -> io::Result<File> {
    // One that a crash left behind may have other rights.
    match fs::remove_file(half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(half)?;
    file.write_all(octets)?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_new_content_takes_the_place_of_the_old_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("days.json");
        fs::write(folder.path().join("days.json.half"), "what a crash left behind, and longer than what comes")
            .unwrap();
        for content in ["first", "second"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn where_it_cannot_be_written_the_old_content_stays() {
        let folder = tempfile::tempdir().unwrap();
        // A folder in the place of the file: the rename fails, after the half is written.
        let path = folder.path().join("days.json");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "kept").unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read_to_string(path.join("inside")).unwrap(), "kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
