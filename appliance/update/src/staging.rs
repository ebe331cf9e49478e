//! Files of a release on their way in: each is unpacked while it is read, held against the signed manifest, and only
//! then gets the name under which systemd-sysupdate finds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use postkeep_notes::VerifierKey;
use postkeep_release::{File as Entry, FileError, LARGEST_MANIFEST, Release, ReleaseError, Role, Summing};

use crate::transfer::{PARTS, staged_name};

/// zstd's `--long` needs 128 MiB of memory; nobody needs more for an image.
const LARGEST_WINDOW: u32 = 27;
/// What is unpacked at a time; as much of zeros becomes a hole.
const BLOCK: usize = 256 * 1024;

/// The folder of the release that comes in.
#[derive(Debug, Clone)]
pub struct Staging {
    folder: PathBuf,
}

/// Why a file did not come in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// The disk, or whoever sends.
    #[error("cannot {verb} {path}: {error}", path = path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// No release was begun.
    #[error("no release is staged; begin with its manifest")]
    NoRelease,
    /// Its manifest.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// It is not one that an update needs.
    #[error("{0:?} is no file that an update to this release needs")]
    Unwanted(String),
    /// It is not the file that the manifest means.
    #[error(transparent)]
    Other(#[from] FileError),
    /// It is compressed and cannot be unpacked.
    #[error("{name} cannot be unpacked: {error}; fetch it again")]
    Unpack {
        /// Which.
        name: String,
        /// Why not.
        error: io::Error,
    },
}

impl Staging {
    /// In that folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder that systemd-sysupdate reads.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins with a release whose manifest was believed. What another one left is removed; what this one has is kept.
    ///
    /// # Errors
    /// The disk.
    pub fn begin(&self, note: &str, release: &Release) -> Result<(), StagingError> {
        let failed = |verb, path: &Path, error| StagingError::File { verb, path: path.to_owned(), error };
        fs::create_dir_all(&self.folder).map_err(|error| failed("make", &self.folder, error))?;
        for path in self.of_others(release).map_err(|error| failed("read", &self.folder, error))? {
            fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
        }
        let path = self.note();
        postkeep_files::replace(&path, note.as_bytes()).map_err(|error| failed("write", &path, error))
    }

    /// How many octets [`Self::begin`] with this release makes room for: parts of other releases, and what was half there when the
    /// power went.
    ///
    /// # Errors
    /// The disk.
    pub fn freed_by(&self, release: &Release) -> io::Result<u64> {
        let others = match self.of_others(release) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            others => others?,
        };
        // Without the holes.
        others.iter().map(|path| Ok(fs::metadata(path)?.blocks().saturating_mul(512))).sum()
    }

    /// What is there and is no checked part of this release.
    fn of_others(&self, release: &Release) -> io::Result<Vec<PathBuf>> {
        let kept: Vec<String> = release.files.iter().filter_map(|file| staged_name(file, release.version)).collect();
        let is_kept = |path: &Path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| kept.iter().any(|kept| kept == name))
        };
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !is_kept(&path) {
                others.push(path);
            }
        }
        Ok(others)
    }

    /// The release that comes in, believed anew.
    ///
    /// # Errors
    /// There is none, or nobody trusted has signed it.
    pub fn release(&self, trusted: &[VerifierKey]) -> Result<Release, StagingError> {
        let path = self.note();
        let mut octets = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(LARGEST_MANIFEST as u64 + 1).read_to_end(&mut octets),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StagingError::NoRelease),
            Err(error) => Err(error),
        }
        .map_err(|error| StagingError::File { verb: "read", path, error })?;
        Ok(Release::open(&octets, trusted)?)
    }

    /// Whether the file for `role` is here. It has this name only since it was checked.
    #[must_use]
    pub fn has(&self, release: &Release, role: Role) -> bool {
        let Some(file) = release.file(role) else { return false };
        let Some(name) = staged_name(file, release.version) else { return false };
        fs::metadata(self.folder.join(name)).is_ok_and(|data| data.len() == file.content_size())
    }

    /// Whether all parts are here.
    #[must_use]
    pub fn is_complete(&self, release: &Release) -> bool {
        PARTS.iter().all(|role| release.file(*role).is_none() || self.has(release, *role))
    }

    /// Takes one file in: reads `stored` to its end. Durable and checked on return; when it fails nothing stays of it.
    ///
    /// # Errors
    /// It is another file than the manifest means, or the disk.
    pub fn receive(&self, release: &Release, name: &str, stored: impl Read) -> Result<(), StagingError> {
        let unwanted = || StagingError::Unwanted(name.chars().take(120).collect());
        let file = release.files.iter().find(|file| file.name == name).ok_or_else(unwanted)?;
        let staged =
            Some(file).filter(|file| PARTS.contains(&file.role)).and_then(|file| staged_name(file, release.version));
        let path = self.folder.join(staged.ok_or_else(unwanted)?);
        let part = path.with_extension("part");
        let done = unpack(file, stored, &part).and_then(|()| {
            fs::rename(&part, &path)
                .and_then(|()| postkeep_files::sync_folder(&path))
                .map_err(|error| StagingError::File { verb: "rename", path: part.clone(), error })
        });
        if done.is_err() {
            // The error that matters is the one we have.
            let _ = fs::remove_file(&part);
        }
        done
    }

    /// Reads every part once more: what lay here for a day is still what was checked.
    ///
    /// # Errors
    /// It is not; it is removed then, so that it can come in again.
    pub fn recheck(&self, release: &Release) -> Result<(), StagingError> {
        for file in PARTS.iter().filter_map(|role| release.file(*role)) {
            let Some(name) = staged_name(file, release.version) else { continue };
            let path = self.folder.join(&name);
            let content = Entry { name, ..file.expanded() };
            let opened =
                File::open(&path).map_err(|error| StagingError::File { verb: "read", path: path.clone(), error })?;
            if let Err(error) = content.verify(opened, |_| {}) {
                let _ = fs::remove_file(&path);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Removes everything: it is installed, or not wanted any more.
    ///
    /// # Errors
    /// The disk.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn note(&self) -> PathBuf {
        self.folder.join("release.note")
    }
}

/// Unpacks `stored` into `part` and holds both what came and what comes out of it against the manifest.
fn unpack(file: &Entry, stored: impl Read, part: &Path) -> Result<(), StagingError> {
    let failed = |error| StagingError::File { verb: "write", path: part.to_owned(), error };
    let mut opened =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part).map_err(failed)?;
    // Never more than one octet too many.
    let mut came = Summing::new(stored.take(file.size.saturating_add(1)));
    let content = if file.is_compressed() {
        let unpacking = |error| StagingError::Unpack { name: file.name.clone(), error };
        let mut decoder = zstd::Decoder::new(&mut came).map_err(unpacking)?;
        decoder.window_log_max(LARGEST_WINDOW).map_err(unpacking)?;
        let mut content = Summing::new(decoder.take(file.content_size().saturating_add(1)));
        let copied = copy(&mut content, &mut opened).map_err(|error| match error {
            Copying::Read(error) => unpacking(error),
            Copying::Write(error) => failed(error),
        });
        let (_, octets, sum) = content.finish();
        // What came may be shorter or other than promised: then that is what is wrong, whatever the decoder says.
        match copied {
            Ok(()) => Some((octets, sum)),
            Err(error) => {
                held(file, came)?;
                return Err(error);
            }
        }
    } else {
        copy(&mut came, &mut opened).map_err(|error| match error {
            Copying::Read(error) => StagingError::File { verb: "receive", path: PathBuf::from(&file.name), error },
            Copying::Write(error) => failed(error),
        })?;
        None
    };
    held(file, came)?;
    if let Some((octets, sum)) = content {
        file.expanded().holds(octets, sum)?;
    }
    // A hole at the end.
    opened.set_len(file.content_size()).map_err(failed)?;
    opened.sync_all().map_err(failed)
}

/// Holds what came against the manifest; reads what is left of it.
fn held(file: &Entry, mut came: Summing<impl Read>) -> Result<(), StagingError> {
    io::copy(&mut came, &mut io::sink()).map_err(|error| StagingError::File {
        verb: "receive",
        path: PathBuf::from(&file.name),
        error,
    })?;
    let (_, octets, found) = came.finish();
    Ok(file.holds(octets, found)?)
}

enum Copying {
    Read(io::Error),
    Write(io::Error),
}

/// Copies to the end; blocks of zeros become holes.
fn copy(from: &mut impl Read, to: &mut File) -> Result<(), Copying> {
    let mut block = vec![0; BLOCK];
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match from.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Copying::Read(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        if block[..filled].iter().all(|octet| *octet == 0) {
            // A block is small.
            to.seek(SeekFrom::Current(filled as i64)).map_err(Copying::Write)?;
        } else {
            to.write_all(&block[..filled]).map_err(Copying::Write)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use postkeep_release::{Sha256, Version};

    use super::*;
    use crate::plan::tests::release;

    fn compressed(release: &mut Release, content: &[u8]) -> Vec<u8> {
        let stored = zstd::encode_all(content, 3).unwrap();
        let file = release.files.iter_mut().find(|file| file.role == Role::Root).unwrap();
        file.name.push_str(".zst");
        (file.expanded_size, file.expanded_sha256) = (Some(content.len() as u64), Some(Sha256::of(content)));
        (file.size, file.sha256) = (stored.len() as u64, Sha256::of(&stored));
        stored
    }

    #[test]
    fn a_file_comes_in_unpacked_with_its_holes_and_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(&folder.path().join("staged"));
        let mut content = vec![0; 8 << 20];
        content[..5].copy_from_slice(b"begin");
        let mut release = release(Version::new(1, 1, 0), &[(Role::Root, b"-"), (Role::Uki, b"boot file")]);
        let stored = compressed(&mut release, &content);
        staging.begin("note", &release).unwrap();
        assert!(!staging.is_complete(&release));
        staging.receive(&release, "postkeep_1.1.0.root.zst", &stored[..]).unwrap();
        staging.receive(&release, "postkeep_1.1.0.uki", &b"boot file"[..]).unwrap();
        assert!(staging.is_complete(&release));
        staging.recheck(&release).unwrap();
        let path = folder.path().join("staged/root-1.1.0_11111111-1111-1111-1111-111111111111.raw");
        assert_eq!(fs::read(&path).unwrap(), content);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20, "zeros take no room");
        assert_eq!(fs::read(folder.path().join("staged/postkeep_1.1.0.efi")).unwrap(), b"boot file");
        // The same release again: what came stays. Another one: it goes.
        staging.begin("note", &release).unwrap();
        assert!(staging.is_complete(&release));
        staging
            .begin("note", &super::super::plan::tests::release(Version::new(1, 2, 0), &[(Role::Uki, b"x")]))
            .unwrap();
        assert_eq!(fs::read_dir(staging.folder()).unwrap().count(), 1);
    }

    #[test]
    fn what_the_power_cut_short_makes_room_when_the_release_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(&folder.path().join("staged"));
        let mut release = release(Version::new(1, 1, 0), &[(Role::Root, b"-"), (Role::Uki, b"boot file")]);
        assert_eq!(staging.freed_by(&release).unwrap(), 0, "there is no folder yet");
        let stored = compressed(&mut release, &[1; 100]);
        staging.begin("note", &release).unwrap();
        let note = staging.freed_by(&release).unwrap();
        staging.receive(&release, "postkeep_1.1.0.root.zst", &stored[..]).unwrap();
        assert_eq!(staging.freed_by(&release).unwrap(), note, "what is checked is kept");
        let half = folder.path().join("staged/postkeep_1.1.0.part");
        fs::write(&half, vec![1; 1 << 20]).unwrap();
        assert!(staging.freed_by(&release).unwrap() >= note + (1 << 20));
        staging.begin("note", &release).unwrap();
        assert!(!half.exists() && staging.has(&release, Role::Root));
    }

    #[test]
    fn what_is_cut_longer_or_changed_is_refused_and_nothing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(folder.path());
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut release = release(Version::new(1, 1, 0), &[(Role::Root, b"-"), (Role::Uki, b"boot file")]);
        let stored = compressed(&mut release, &content);
        staging.begin("note", &release).unwrap();
        let name = "postkeep_1.1.0.root.zst";
        let mut flipped = stored.clone();
        flipped[stored.len() / 2] ^= 1;
        let longer = [&stored[..], b"x"].concat();
        for (octets, why) in [(&stored[..stored.len() - 1], "cut off"), (&flipped, "damaged"), (&longer, "longer")] {
            let error = staging.receive(&release, name, octets).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{why}");
        }
        assert!(matches!(staging.receive(&release, "../x", &b""[..]), Err(StagingError::Unwanted(_))));
        // The manifest is right about what is stored and wrong about what is in it.
        let file = release.files.iter_mut().find(|file| file.role == Role::Root).unwrap();
        file.expanded_size = Some(content.len() as u64 - 1);
        assert!(staging.receive(&release, name, &stored[..]).unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn what_changed_while_it_lay_there_is_found_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(folder.path());
        let release = release(Version::new(1, 1, 0), &[(Role::Uki, b"boot file")]);
        staging.begin("note", &release).unwrap();
        staging.receive(&release, "postkeep_1.1.0.uki", &b"boot file"[..]).unwrap();
        fs::write(folder.path().join("postkeep_1.1.0.efi"), "boot filf").unwrap();
        assert!(staging.recheck(&release).unwrap_err().to_string().contains("damaged"));
        assert!(!staging.has(&release, Role::Uki));
    }
}
