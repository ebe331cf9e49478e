//! The table of partitions (GPT) of the image, fitted to the disk it is put on: octets in, octets out.
//!
//! The image ends where its own table says the disk ends. On a larger disk the copy of the table has to lie in the last
//! sectors, and both headers have to say so; the partitions stay where they are.

use postkeep_release::{PRODUCT, Version};

/// The only size of sector that images are made for.
pub(crate) const SECTOR: u64 = 512;

const SIGNATURE: &[u8] = b"EFI PART";
/// Sectors of a table of 128 entries.
const TABLE_SECTORS: u64 = 32;
/// What [`Layout::read`] wants to see of a disk, in octets.
pub const HEAD: usize = (2 + TABLE_SECTORS as usize) * SECTOR as usize;
const LINUX_RAID: [u8; 16] =
    [0x0f, 0x88, 0x9d, 0xa1, 0xfc, 0x05, 0x3b, 0x4d, 0xa0, 0x06, 0x74, 0x3f, 0x0f, 0x84, 0x91, 0x1e];
/// `postkeep-mirror` and the end of it, in UTF-16.
const MIRROR_LABEL: [u8; 32] = *b"p\0o\0s\0t\0k\0e\0e\0p\0-\0m\0i\0r\0r\0o\0r\0\0\0";
const EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// Why a table is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the table of partitions in the image cannot be used: {0}; it is not an image of ours, or was made wrongly")]
pub struct GptError(&'static str);

/// A table of partitions, as it lies at the beginning of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    boot_sector: [u8; SECTOR as usize],
    header: [u8; 92],
    table: Vec<u8>,
}

/// A table fitted to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fitted {
    /// The first 34 sectors of the disk.
    pub(crate) head: Vec<u8>,
    /// The last 33.
    pub(crate) tail: Vec<u8>,
}

impl Layout {
    /// Reads the table in `head`, the beginning of an image; at least its first 34 sectors.
    ///
    /// # Errors
    /// There is none, it is damaged, or it is of a form that images of ours do not have.
    pub fn read(head: &[u8]) -> Result<Self, GptError> {
        let sectors = head.get(..HEAD).ok_or(GptError("it is cut off"))?;
        let (boot_sector, rest) = sectors.split_first_chunk().ok_or(GptError("it is cut off"))?;
        let header: &[u8; 92] = rest.first_chunk().ok_or(GptError("it is cut off"))?;
        let table = &rest[SECTOR as usize..];
        if !header.starts_with(SIGNATURE) {
            return Err(GptError("there is none in sector 1"));
        }
        if boot_sector[510..] != [0x55, 0xaa] || boot_sector[450] != 0xee {
            return Err(GptError("sector 0 does not protect it"));
        }
        if number32(header, 8) != 0x0001_0000 || number32(header, 12) != 92 {
            return Err(GptError("its version is not 1.0"));
        }
        if number32(header, 16) != sum_of_header(header) {
            return Err(GptError("the sum of its header is wrong"));
        }
        if number64(header, 24) != 1 || number64(header, 72) != 2 {
            return Err(GptError("it does not begin in sector 1"));
        }
        if (number32(header, 80), number32(header, 84)) != (128, 128) {
            return Err(GptError("it has not 128 entries of 128 octets"));
        }
        if number32(header, 88) != crc32fast::hash(table) {
            return Err(GptError("the sum of its entries is wrong"));
        }
        Ok(Self { boot_sector: *boot_sector, header: *header, table: table.to_vec() })
    }

    /// The octet at which the EFI partition begins, and how many octets it has.
    ///
    /// # Errors
    /// There is none.
    pub fn efi_partition(&self) -> Result<(u64, u64), GptError> {
        let entry = self.entries().find(|entry| entry[..16] == EFI_SYSTEM);
        let entry = entry.ok_or(GptError("it has no EFI partition"))?;
        let (first, last) = (number64(entry, 32), number64(entry, 40));
        let wrong = GptError("its EFI partition lies nowhere");
        let sectors = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1)).ok_or(wrong.clone())?;
        let octets = |sectors: u64| sectors.checked_mul(SECTOR).ok_or(wrong.clone());
        Ok((octets(first)?, octets(sectors)?))
    }

    /// Where the half of a mirrored data volume begins, in octets, and how many it has; none on a box with one disk.
    pub(crate) fn half_of_mirror(&self) -> Option<(u64, u64)> {
        let entry = self.entries().find(|entry| entry[..16] == LINUX_RAID && entry[56..].starts_with(&MIRROR_LABEL))?;
        let (first, last) = (number64(entry, 32), number64(entry, 40));
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        let (begin, length) = (first.checked_mul(SECTOR)?, sectors.checked_mul(SECTOR)?);
        // Nothing else lies behind it: what is before it is what has to be copied.
        let is_last = self.entries().all(|other| number64(other, 40) <= last);
        (is_last && first >= 2 + TABLE_SECTORS).then_some((begin, length))
    }

    /// The newest version of ours that lies in one of its slots, by the labels of the partitions.
    #[must_use]
    pub fn newest_version(&self) -> Option<Version> {
        let label = |entry: &[u8]| {
            let units = entry[56..].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>())
        };
        let version = |label: String| label.strip_prefix(PRODUCT)?.strip_prefix('_')?.parse().ok();
        self.entries().filter_map(|entry| version(label(entry))).max()
    }

    /// How many octets a disk needs for these partitions and the copy of the table.
    pub(crate) fn smallest_disk(&self) -> u64 {
        let used = self.entries().map(|entry| number64(entry, 40)).max().unwrap_or_default();
        used.saturating_add(TABLE_SECTORS + 2).saturating_mul(SECTOR)
    }

    /// The UUID of the EFI partition, as it is stored.
    pub(crate) fn efi_uuid(&self) -> Option<[u8; 16]> {
        self.entries().find(|entry| entry[..16] == EFI_SYSTEM)?[16..].first_chunk().copied()
    }

    /// The same for one disk of a box: the disk and its EFI partition have UUIDs of their own. That of the EFI partition begins with
    /// `of_box`, on both disks of a box: the box takes no other disk for its own (docs/operate/image.md). The other partitions
    /// are what they are by their content.
    ///
    /// # Errors
    /// It has no EFI partition.
    pub(crate) fn of_disk(&self, of_box: [u8; 8], chance: [u8; 32]) -> Result<Self, GptError> {
        let mut second = self.clone();
        let (disk, partition) = chance.split_at(16);
        second.header[56..72].copy_from_slice(disk);
        let mut entries = second.table.chunks_exact_mut(128);
        let entry = entries.find(|entry| entry[..16] == EFI_SYSTEM).ok_or(GptError("it has no EFI partition"))?;
        entry[16..24].copy_from_slice(&of_box);
        entry[24..32].copy_from_slice(&partition[8..]);
        // A random UUID (RFC 9562 §5.4), as GPT stores it: the first three fields begin with their last octet.
        for uuid in [&mut second.header[56..72], &mut entry[16..32]] {
            uuid[7] = uuid[7] & 0x0f | 0x40;
            uuid[8] = uuid[8] & 0x3f | 0x80;
        }
        let sum = crc32fast::hash(&second.table);
        second.header[88..92].copy_from_slice(&sum.to_le_bytes());
        Ok(second)
    }

    /// The table for a disk of `sectors`.
    ///
    /// # Errors
    /// The partitions do not fit onto it.
    pub(crate) fn fitted(&self, sectors: u64) -> Result<Fitted, GptError> {
        let small = GptError("its partitions do not fit onto the disk");
        let last = sectors.checked_sub(1).ok_or(small.clone())?;
        let last_usable = last.checked_sub(TABLE_SECTORS + 1).ok_or(small.clone())?;
        let used = self.entries().map(|entry| number64(entry, 40)).max().unwrap_or_default();
        if used > last_usable || number64(&self.header, 40) > last_usable {
            return Err(small);
        }
        let mut boot_sector = self.boot_sector;
        // The one entry that protects the whole disk, as far as 32 bits reach; cylinders and heads reach nowhere.
        boot_sector[451..454].fill(0xff);
        boot_sector[458..462].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
        let header = |own: u64, other: u64, table: u64| {
            let mut header = self.header;
            header[24..32].copy_from_slice(&own.to_le_bytes());
            header[32..40].copy_from_slice(&other.to_le_bytes());
            header[48..56].copy_from_slice(&last_usable.to_le_bytes());
            header[72..80].copy_from_slice(&table.to_le_bytes());
            let sum = sum_of_header(&header);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            let mut sector = header.to_vec();
            sector.resize(SECTOR as usize, 0);
            sector
        };
        Ok(Fitted {
            head: [&boot_sector[..], &header(1, last, 2), &self.table].concat(),
            tail: [&self.table[..], &header(last, 1, last_usable + 1)].concat(),
        })
    }

    fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.table.chunks_exact(128).filter(|entry| entry[..16] != [0; 16])
    }
}

fn sum_of_header(header: &[u8; 92]) -> u32 {
    let mut unsummed = *header;
    unsummed[16..20].fill(0);
    crc32fast::hash(&unsummed)
}

fn number32(octets: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&octets[at..at + 4]);
    u32::from_le_bytes(number)
}

fn number64(octets: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&octets[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `sgdisk` made on 8 MiB, and what it and `sfdisk` made of that when the disk had become 12 MiB: each the
    /// first 34 and the last 33 sectors.
    const BEFORE: &[u8] = include_bytes!("../tests/gpt/before.zst");
    const SGDISK: &[u8] = include_bytes!("../tests/gpt/sgdisk.zst");
    const SFDISK: &[u8] = include_bytes!("../tests/gpt/sfdisk.zst");

    fn ends(packed: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut head = zstd::decode_all(packed).unwrap();
        let tail = head.split_off(HEAD);
        (head, tail)
    }

    #[test]
    fn on_a_larger_disk_the_table_is_what_other_tools_make_of_it() {
        let layout = Layout::read(&ends(BEFORE).0).unwrap();
        let fitted = layout.fitted((12 << 20) / SECTOR).unwrap();
        assert_eq!((fitted.head.clone(), fitted.tail.clone()), ends(SFDISK));
        // The other tool still counts cylinders.
        let (mut head, tail) = ends(SGDISK);
        head[451..454].fill(0xff);
        assert_eq!((fitted.head, fitted.tail), (head, tail));
        assert_eq!(layout.efi_partition(), Ok((1 << 20, 2 << 20)));
    }

    #[test]
    fn on_a_disk_of_the_images_size_nothing_changes() {
        let (mut head, tail) = ends(BEFORE);
        head[451..454].fill(0xff);
        let fitted = Layout::read(&head).unwrap().fitted((8 << 20) / SECTOR).unwrap();
        assert_eq!((fitted.head, fitted.tail), (head, tail));
    }

    #[test]
    fn partitions_that_do_not_fit_are_refused() {
        let layout = Layout::read(&ends(BEFORE).0).unwrap();
        // The last partition ends with sector 8191, and the copy needs 33 more.
        for sectors in [0, 1, 33, 34, 8224] {
            assert!(layout.fitted(sectors).is_err(), "{sectors}");
        }
        assert!(layout.fitted(8225).is_ok());
    }

    #[test]
    fn what_is_no_table_or_a_damaged_one_is_refused() {
        let (head, _) = ends(BEFORE);
        assert!(Layout::read(&[]).is_err());
        assert!(Layout::read(&vec![0; HEAD]).is_err());
        assert!(Layout::read(&head[..HEAD - 1]).is_err());
        for at in [510, 512, 530, 600, 1024, HEAD - 1] {
            let mut damaged = head.clone();
            damaged[at] ^= 1;
            // The rest of the header's sector counts for nothing, and stays behind.
            assert_eq!(Layout::read(&damaged).is_err(), !(512 + 92..1024).contains(&at), "{at}");
        }
    }

    #[test]
    fn disks_of_a_box_have_names_of_their_own_and_something_in_common() {
        let layout = Layout::read(&ends(BEFORE).0).unwrap();
        let second = layout.of_disk([0xee; 8], [0xff; 32]).unwrap();
        let first = layout.of_disk([0xee; 8], [0x11; 32]).unwrap();
        let (one, two) = (first.efi_uuid().unwrap(), second.efi_uuid().unwrap());
        assert!(one[..8] == two[..8] && one[8..] != two[8..], "{one:?} {two:?}");
        let fitted = second.fitted((12 << 20) / SECTOR).unwrap();
        assert_eq!(Layout::read(&fitted.head).unwrap().efi_partition(), layout.efi_partition());
        let uuids = |layout: &Layout| -> (Vec<u8>, Vec<Vec<u8>>) {
            (layout.header[56..72].to_vec(), layout.entries().map(|entry| entry[16..32].to_vec()).collect())
        };
        let ((disk, partitions), (other_disk, other_partitions)) = (uuids(&layout), uuids(&second));
        assert_ne!(disk, other_disk);
        // Version 4, variant 10.
        assert_eq!((other_disk[7] >> 4, other_disk[8] >> 6), (4, 2));
        let changed = partitions.iter().zip(&other_partitions).filter(|(one, other)| one != other).count();
        assert_eq!(changed, 1, "only the EFI partition");
        assert_eq!(layout.of_disk([0xee; 8], [0xff; 32]).unwrap(), second, "the same when the work goes on");
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec((0..HEAD, any::<u8>()), 0..20), sectors: u64) {
            let (mut head, _) = ends(BEFORE);
            for (at, octet) in octets {
                head[at] = octet;
            }
            let table = crc32fast::hash(&head[1024..]);
            head[600..604].copy_from_slice(&table.to_le_bytes());
            let sum = sum_of_header(head[512..604].try_into().unwrap());
            head[528..532].copy_from_slice(&sum.to_le_bytes());
            if let Ok(layout) = Layout::read(&head) {
                let _ = layout.efi_partition();
                let _ = layout.fitted(sectors);
            }
        }
    }
}
