//! The seed's place in the EFI partition.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// Where the box looks for its seed.
pub const SEED_PATH: &str = "/postkeep/seed";

const FOLDER: &str = "postkeep";
const NAME: &str = "seed";

/// Why the seed did not get into its place.
#[derive(Debug, thiserror::Error)]
#[error("cannot put the seed into the EFI partition: {0}; the image may be made wrongly, or the partition is full")]
pub struct EspError(io::Error);

/// A part of a disk.
struct Window<'a> {
    disk: &'a File,
    begin: u64,
    length: u64,
    at: u64,
}

/// Puts `seed` into the FAT file system of `length` octets at `begin` of `disk`, and reads it again.
pub(crate) fn place(disk: &File, begin: u64, length: u64, seed: &[u8]) -> Result<(), EspError> {
    let window = || Window { disk, begin, length, at: 0 };
    put(window(), seed).map_err(EspError)?;
    disk.sync_all().map_err(EspError)?;
    match get(window(), seed.len()).map_err(EspError)? {
        found if found == seed => Ok(()),
        _ => Err(EspError(io::Error::other("what is read is not what was written"))),
    }
}

fn put(window: Window<'_>, seed: &[u8]) -> io::Result<()> {
    let files = fatfs::FileSystem::new(window, fatfs::FsOptions::new())?;
    let mut file = files.root_dir().create_dir(FOLDER)?.create_file(NAME)?;
    file.truncate()?;
    file.write_all(seed)?;
    file.flush()?;
    drop(file);
    files.unmount()
}

fn get(window: Window<'_>, length: usize) -> io::Result<Vec<u8>> {
    let files = fatfs::FileSystem::new(window, fatfs::FsOptions::new())?;
    let mut found = Vec::new();
    files.root_dir().open_dir(FOLDER)?.open_file(NAME)?.take(length as u64 + 1).read_to_end(&mut found)?;
    Ok(found)
}

impl Window<'_> {
    /// As much of a buffer of `wanted` octets as lies inside.
    fn inside(&self, wanted: usize) -> usize {
        usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX).min(wanted)
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let inside = self.inside(buffer.len());
        let read = self.disk.read_at(&mut buffer[..inside], self.begin + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let inside = self.inside(octets.len());
        let written = self.disk.write_at(&octets[..inside], self.begin + self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
