//! What comes into the EFI partition: the seed, and on a box with two disks the mark that says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::fat::{Octets, Volume};
use crate::writing::forget;

/// Where the box looks for its seed.
pub const SEED_PATH: &str = "/postkeep/seed";

const FOLDER: &str = "postkeep";
const SEED: &str = "seed";
/// How often the box changed this partition while the other disk was away (docs/operate/image.md): never yet.
const MARK: (&str, &[u8]) = ("mirror", b"0\n");

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

/// Puts `seed`, and for a box with two disks the mark, into the FAT file system of `length` octets at `begin` of `disk`, and reads
/// them again.
pub(crate) fn place(disk: &File, begin: u64, length: u64, seed: &[u8], is_mirrored: bool) -> Result<(), EspError> {
    let window = Window { disk, begin, length };
    let marked = is_mirrored.then_some(MARK);
    let files = [(SEED, seed)].into_iter().chain(marked);
    files.into_iter().try_for_each(|(name, content)| put(&window, name, content)).map_err(EspError)
}

fn put(window: &Window<'_>, name: &str, content: &[u8]) -> io::Result<()> {
    Volume::open(window, window.length)?.add(FOLDER, name, content)?;
    window.disk.sync_all()?;
    forget(window.disk);
    match Volume::open(window, window.length)?.content(FOLDER, name)? {
        found if found == content => Ok(()),
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
