//! The seed's place in the EFI partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::fat::{Octets, Volume};

/// Where the box looks for its seed.
pub const SEED_PATH: &str = "/postkeep/seed";

const FOLDER: &str = "postkeep";
const NAME: &str = "seed";

/// Why the seed did not get into its place.
#[derive(Debug, thiserror::Error)]
#[error("cannot put the seed into the EFI partition: {0}; the image may be made wrongly, or the partition is full")]
pub struct EspError(io::Error);

/// A part of a disk; nothing outside it is reached.
struct Window<'a> {
    disk: &'a File,
    begin: u64,
    length: u64,
}

/// Puts `seed` into the FAT file system of `length` octets at `begin` of `disk`, and reads it again.
pub(crate) fn place(disk: &File, begin: u64, length: u64, seed: &[u8]) -> Result<(), EspError> {
    let window = Window { disk, begin, length };
    put(&window, seed).map_err(EspError)
}

fn put(window: &Window<'_>, seed: &[u8]) -> io::Result<()> {
    Volume::open(window, window.length)?.add(FOLDER, NAME, seed)?;
    window.disk.sync_all()?;
    match Volume::open(window, window.length)?.content(FOLDER, NAME)? {
        found if found == seed => Ok(()),
        _ => Err(io::Error::other("what is read is not what was written")),
    }
}

impl Window<'_> {
    fn place(&self, length: usize, at: u64) -> io::Result<u64> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.length);
        end.and_then(|_| self.begin.checked_add(at)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Octets for Window<'_> {
    fn read(&self, octets: &mut [u8], at: u64) -> io::Result<()> {
        self.disk.read_exact_at(octets, self.place(octets.len(), at)?)
    }

    fn write(&self, octets: &[u8], at: u64) -> io::Result<()> {
        self.disk.write_all_at(octets, self.place(octets.len(), at)?)
    }
}
