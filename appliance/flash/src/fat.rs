//! As much of FAT32 as it takes to put one small file into one folder, and to read it again.
//!
//! The names need no long form: they are short, and a bit says that they are written in small letters. What is there is
//! never changed, only added to.

use std::io;

/// A disk, or a part of one.
pub(crate) trait Octets {
    /// Fills `octets` with what is at `at`.
    fn read(&self, octets: &mut [u8], at: u64) -> io::Result<()>;
    /// Puts `octets` at `at`.
    fn write(&self, octets: &[u8], at: u64) -> io::Result<()>;
}

/// A name of up to eight letters, in the form that folders have it: capitals, filled up with spaces.
type Name = [u8; 11];

const ENTRY: usize = 32;
const IS_FOLDER: u8 = 0x10;
/// The name is shown in small letters.
const SMALL_LETTERS: u8 = 0x08;
/// The first of January 1980: the same seed gives the same octets.
const NO_DATE: u16 = 0x21;
const END: u32 = 0x0fff_ffff;
const MASK: u32 = 0x0fff_ffff;
/// A table for 64 GiB in pieces of 4 KiB: far more than an EFI partition has.
const LARGEST_TABLE: usize = 64 << 20;

/// A FAT32 file system, with its table in memory.
pub(crate) struct Volume<'a, Disk: Octets> {
    disk: &'a Disk,
    sector: u64,
    cluster: u64,
    table_at: u64,
    table_length: u64,
    tables: u64,
    data_at: u64,
    clusters: u32,
    root: u32,
    information_at: u64,
    table: Vec<u8>,
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl<'a, Disk: Octets> Volume<'a, Disk> {
    /// Reads the file system of `length` octets on `disk`.
    pub(crate) fn open(disk: &'a Disk, length: u64) -> io::Result<Self> {
        let mut boot = [0; 512];
        disk.read(&mut boot, 0)?;
        let number16 = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let number32 = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (sector, cluster) = (number16(11), number16(11) * u64::from(boot[13]));
        let (tables, table_length) = (u64::from(boot[16]), u64::from(number32(36)) * sector);
        if boot[510..] != [0x55, 0xaa] || !matches!(sector, 512 | 1024 | 2048 | 4096) || !boot[13].is_power_of_two() {
            return Err(wrong("there is no FAT file system in it"));
        }
        // FAT12 and FAT16 have a root folder of a fixed size, and tell the size of their table elsewhere.
        if number16(17) != 0 || number16(22) != 0 || !matches!(tables, 1 | 2) || number16(40) & 0x80 != 0 {
            return Err(wrong("its file system is not a plain FAT32"));
        }
        let table_at = number16(14) * sector;
        let data_at = table_at + tables * table_length;
        let room = (u64::from(number32(32)) * sector).min(length).saturating_sub(data_at) / cluster;
        let clusters = u32::try_from(room.min((table_length / 4).saturating_sub(2))).unwrap_or_default();
        let table_size = usize::try_from(table_length).unwrap_or(usize::MAX);
        if clusters == 0 || table_size > LARGEST_TABLE {
            return Err(wrong("the sizes in its file system cannot be"));
        }
        let mut table = vec![0; table_size];
        disk.read(&mut table, table_at)?;
        let (root, information_at) = (number32(44), number16(48) * sector);
        Ok(Self {
            disk,
            sector,
            cluster,
            table_at,
            table_length,
            tables,
            data_at,
            clusters,
            root,
            information_at,
            table,
        })
    }

    /// Puts `content` into the file `name` in the folder `folder` of the root. The folder is made where there is none;
    /// the file must not be there.
    pub(crate) fn add(&mut self, folder: &str, name: &str, content: &[u8]) -> io::Result<()> {
        let (folder, name) = (short(folder)?, short(name)?);
        let folder = match self.find(self.root, &folder)? {
            Some(found) if found[11] & IS_FOLDER != 0 => first_of(&found),
            Some(_) => return Err(wrong("a file has the name of the folder")),
            None => self.make_folder(folder)?,
        };
        if self.find(folder, &name)?.is_some() {
            return Err(wrong("the file is there already"));
        }
        let size = u32::try_from(content.len()).map_err(|_| wrong("the file is too large"))?;
        let chain = self.allocate(content.len())?;
        self.fill(&chain, content)?;
        self.enter(folder, &entry(&name, 0x20, chain.first().copied().unwrap_or_default(), size))?;
        self.write_table()
    }

    /// What the file `name` in the folder `folder` of the root holds.
    pub(crate) fn content(&self, folder: &str, name: &str) -> io::Result<Vec<u8>> {
        let absent = || io::Error::from(io::ErrorKind::NotFound);
        let folder = self.find(self.root, &short(folder)?)?.ok_or_else(absent)?;
        let file = self.find(first_of(&folder), &short(name)?)?.ok_or_else(absent)?;
        let size = u32::from_le_bytes([file[28], file[29], file[30], file[31]]) as usize;
        let mut content = if size == 0 { Vec::new() } else { self.octets(first_of(&file))? };
        if content.len() < size {
            return Err(wrong("a file is longer than its place"));
        }
        content.truncate(size);
        Ok(content)
    }

    fn make_folder(&mut self, name: Name) -> io::Result<u32> {
        let cluster = usize::try_from(self.cluster).unwrap_or_default();
        let chain = self.allocate(cluster)?;
        let own = chain.first().copied().unwrap_or_default();
        let mut content = vec![0; cluster];
        // Itself, and the folder that it is in: the root is named 0 there.
        content[..ENTRY].copy_from_slice(&entry(b".          ", IS_FOLDER, own, 0));
        content[ENTRY..2 * ENTRY].copy_from_slice(&entry(b"..         ", IS_FOLDER, 0, 0));
        self.fill(&chain, &content)?;
        self.enter(self.root, &entry(&name, IS_FOLDER, own, 0))?;
        Ok(own)
    }

    /// The entry of `name` in the folder that begins at `folder`.
    fn find(&self, folder: u32, name: &Name) -> io::Result<Option<[u8; ENTRY]>> {
        let octets = self.octets(folder)?;
        let (entries, _) = octets.as_chunks::<ENTRY>();
        let used = entries.iter().take_while(|entry| entry[0] != 0);
        // Parts of long names and the label of the volume are no files.
        Ok(used.filter(|entry| entry[11] & 0x08 == 0).find(|entry| entry[..11] == *name).copied())
    }

    /// Puts `entry` into the first free place of the folder that begins at `folder`, which grows where it has none.
    fn enter(&mut self, folder: u32, entry: &[u8; ENTRY]) -> io::Result<()> {
        let octets = self.octets(folder)?;
        let free = octets.as_chunks::<ENTRY>().0.iter().position(|entry| matches!(entry[0], 0 | 0xe5));
        let mut chain = self.chain(folder)?;
        let at = match free {
            Some(at) => at * ENTRY,
            None => {
                let more = self.allocate(ENTRY)?;
                let last = chain.last().copied().unwrap_or(folder);
                self.set(last, more.first().copied().unwrap_or(END));
                self.fill(&more, &[])?;
                chain.extend(more);
                octets.len()
            }
        };
        let (at, inside) = (at as u64 / self.cluster, at as u64 % self.cluster);
        let cluster =
            usize::try_from(at).ok().and_then(|at| chain.get(at)).ok_or_else(|| wrong("a folder is broken"))?;
        self.disk.write(entry, self.place(*cluster) + inside)
    }

    /// All that lies in the clusters from `first` on.
    fn octets(&self, first: u32) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.cluster).unwrap_or_default();
        let chain = self.chain(first)?;
        if chain.len().saturating_mul(size) > LARGEST_TABLE {
            return Err(wrong("a folder or the file is larger than it can be"));
        }
        let mut octets = vec![0; chain.len() * size];
        for (piece, cluster) in octets.chunks_exact_mut(size).zip(chain) {
            self.disk.read(piece, self.place(cluster))?;
        }
        Ok(octets)
    }

    /// The clusters from `first` on, one at least: whoever has none is not asked.
    fn chain(&self, first: u32) -> io::Result<Vec<u32>> {
        let (mut chain, mut at) = (Vec::new(), first);
        loop {
            // Longer than all clusters together: a ring.
            if !(2..self.clusters + 2).contains(&at) || chain.len() > self.clusters as usize {
                return Err(wrong("its table of clusters is broken"));
            }
            chain.push(at);
            at = self.get(at);
            if at >= 0x0fff_fff8 {
                return Ok(chain);
            }
        }
    }

    /// Takes as many free clusters as `octets` need, and chains them.
    fn allocate(&mut self, octets: usize) -> io::Result<Vec<u32>> {
        let wanted = usize::try_from((octets as u64).div_ceil(self.cluster)).unwrap_or(usize::MAX);
        let chain: Vec<u32> = (2..self.clusters + 2).filter(|at| self.get(*at) == 0).take(wanted).collect();
        if chain.len() < wanted {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for (at, cluster) in chain.iter().enumerate() {
            self.set(*cluster, chain.get(at + 1).copied().unwrap_or(END));
        }
        Ok(chain)
    }

    /// Puts `content` into the clusters of `chain`, and zeroes into what is left of them.
    fn fill(&self, chain: &[u32], content: &[u8]) -> io::Result<()> {
        let size = usize::try_from(self.cluster).unwrap_or_default();
        let mut pieces = content.chunks(size);
        for cluster in chain {
            let mut piece = pieces.next().unwrap_or_default().to_vec();
            piece.resize(size, 0);
            self.disk.write(&piece, self.place(*cluster))?;
        }
        Ok(())
    }

    fn place(&self, cluster: u32) -> u64 {
        self.data_at + u64::from(cluster - 2) * self.cluster
    }

    fn get(&self, cluster: u32) -> u32 {
        let at = cluster as usize * 4;
        let mut number = [0; 4];
        number.copy_from_slice(&self.table[at..at + 4]);
        u32::from_le_bytes(number) & MASK
    }

    fn set(&mut self, cluster: u32, value: u32) {
        let at = cluster as usize * 4;
        // The upper four bits belong to nobody, and stay.
        let kept = self.table[at + 3] & 0xf0;
        self.table[at..at + 4].copy_from_slice(&(value & MASK).to_le_bytes());
        self.table[at + 3] |= kept;
    }

    fn write_table(&self) -> io::Result<()> {
        for copy in 0..self.tables {
            self.disk.write(&self.table, self.table_at + copy * self.table_length)?;
        }
        // A hint of how much is free, for whoever mounts it.
        if self.information_at != 0 && self.information_at != 0xffff * self.sector {
            let mut signature = [0; 4];
            self.disk.read(&mut signature, self.information_at + 484)?;
            if &signature == b"rrAa" {
                let free = (2..self.clusters + 2).filter(|at| self.get(*at) == 0).count();
                let free = u32::try_from(free).unwrap_or(u32::MAX);
                self.disk.write(&free.to_le_bytes(), self.information_at + 488)?;
            }
        }
        Ok(())
    }
}

fn entry(name: &Name, attributes: u8, first: u32, size: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    entry[12] = if name[0] == b'.' { 0 } else { SMALL_LETTERS };
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&NO_DATE.to_le_bytes());
    }
    let [a, b, c, d] = first.to_le_bytes();
    (entry[20], entry[21], entry[26], entry[27]) = (c, d, a, b);
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

fn first_of(entry: &[u8; ENTRY]) -> u32 {
    u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]])
}

fn short(name: &str) -> io::Result<Name> {
    let mut filled = *b"           ";
    if name.is_empty() || name.len() > 8 || !name.bytes().all(|octet| octet.is_ascii_lowercase()) {
        return Err(wrong("a name needs one to eight small letters"));
    }
    filled[..name.len()].copy_from_slice(name.to_ascii_uppercase().as_bytes());
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Made by `mkfs.vfat`, with a file that `mcopy` put into it.
    const ESP: &[u8] = include_bytes!("../tests/fat/esp.zst");

    struct Memory(RefCell<Vec<u8>>);

    impl Memory {
        fn new() -> Self {
            Self(RefCell::new(zstd::decode_all(ESP).unwrap()))
        }

        fn length(&self) -> u64 {
            self.0.borrow().len() as u64
        }
    }

    impl Octets for Memory {
        fn read(&self, octets: &mut [u8], at: u64) -> io::Result<()> {
            let disk = self.0.borrow();
            let at = usize::try_from(at).map_err(|_| wrong("far"))?;
            let found = at.checked_add(octets.len()).and_then(|end| disk.get(at..end)).ok_or_else(|| wrong("end"))?;
            octets.copy_from_slice(found);
            Ok(())
        }

        fn write(&self, octets: &[u8], at: u64) -> io::Result<()> {
            let mut disk = self.0.borrow_mut();
            let at = usize::try_from(at).map_err(|_| wrong("far"))?;
            let found = at.checked_add(octets.len()).and_then(|end| disk.get_mut(at..end));
            found.ok_or_else(|| wrong("end"))?.copy_from_slice(octets);
            Ok(())
        }
    }

    #[test]
    fn a_file_is_added_and_the_checker_of_others_finds_no_fault() {
        for length in [0, 1, 512, 513, 200_000] {
            let (memory, content) = (Memory::new(), vec![0x5a; length]);
            let mut volume = Volume::open(&memory, memory.length()).unwrap();
            volume.add("postkeep", "seed", &content).unwrap();
            // More than the folder's first cluster holds.
            for name in ('a'..='z').map(String::from) {
                volume.add("postkeep", &name, b"more").unwrap();
            }
            let volume = Volume::open(&memory, memory.length()).unwrap();
            assert!(volume.content("postkeep", "seed").unwrap() == content);
            assert_eq!(volume.content("postkeep", "z").unwrap(), b"more");

            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &*memory.0.borrow()).unwrap();
            // Where it is not installed, the flasher's own reading has to do.
            if let Ok(checked) = Command::new("fsck.vfat").arg("-n").arg(file.path()).output() {
                assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
            }
        }
    }

    #[test]
    fn only_a_few_sectors_change() {
        let (before, memory) = (Memory::new(), Memory::new());
        Volume::open(&memory, memory.length()).unwrap().add("postkeep", "seed", &[1; 600]).unwrap();
        let (before, after) = (before.0.into_inner(), memory.0.into_inner());
        let changed = before.chunks(512).zip(after.chunks(512)).filter(|(old, new)| old != new).count();
        // The root, the folder, two of content, both tables (perhaps over a border), and the hint.
        assert!(changed <= 9, "{changed}");
    }

    #[test]
    fn what_is_there_is_not_overwritten_and_what_does_not_fit_is_refused() {
        let memory = Memory::new();
        let mut volume = Volume::open(&memory, memory.length()).unwrap();
        volume.add("postkeep", "seed", b"one").unwrap();
        assert!(volume.add("postkeep", "seed", b"two").is_err());
        assert!(volume.add("postkeep", "large", &vec![0; 40 << 20]).is_err());
        assert!(volume.add("long-name", "seed", b"").is_err());
        assert_eq!(volume.content("postkeep", "seed").unwrap(), b"one");
        assert!(Volume::open(&memory, 4096).is_err());
    }

    #[test]
    fn a_root_folder_that_begins_behind_all_clusters_is_an_error() {
        let memory = Memory::new();
        memory.0.borrow_mut()[44..48].copy_from_slice(&0x1000_0002_u32.to_le_bytes());
        let mut volume = Volume::open(&memory, memory.length()).unwrap();
        let said = volume.add("postkeep", "seed", b"x").unwrap_err();
        assert!(said.to_string().contains("broken"), "{said}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_broken_file_system_makes_an_error_and_no_panic(
            octets in proptest::collection::vec((0..512_usize, any::<u8>()), 1..12),
            entries in proptest::collection::vec((0..40_usize, any::<u32>()), 0..4),
        ) {
            let memory = Memory::new();
            for (at, octet) in octets {
                memory.0.borrow_mut()[at] = octet;
            }
            for (at, value) in entries {
                // Into the table of a volume whose beginning is as it was: 32 sectors are reserved.
                let at = 32 * 512 + at * 4;
                memory.0.borrow_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            if let Ok(mut volume) = Volume::open(&memory, memory.length()) {
                let _ = volume.add("postkeep", "seed", &[7; 2000]);
                let _ = volume.content("postkeep", "seed");
            }
        }
    }
}
