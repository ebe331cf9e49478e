//! Reads the files that firmware starts (PE/COFF): their sections, their signatures, and the digest that is signed.
//!
//! The Authenticode digest leaves out what signing changes: the checksum, the place of the certificate table, and
//! the table. So it is the same before and after a signature, and it is what two people who built the same release
//! compare: the file without its signature, hashed by the rule by which firmware hashes it.

use std::ops::Range;

use crate::bytes::{Cursor, Short};
use crate::digest::Digest;

/// More sections than any boot file has.
const MOST_SECTIONS: u16 = 96;
/// More signatures than any boot file has.
const MOST_CERTIFICATES: usize = 16;
/// Index of the certificate table among the data directories.
const CERTIFICATE_DIRECTORY: usize = 4;
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`
const PKCS_SIGNED_DATA: u16 = 2;

/// Why bytes cannot be read as a boot file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// The file ends too early.
    #[error("the file is cut off in its {part}: {short}. Copy it again")]
    Short {
        /// What was being read.
        part: &'static str,
        /// Where.
        short: Short,
    },
    /// It is something else.
    #[error("this is not a boot file ({0}). Give it the .efi file that the build made")]
    Other(&'static str),
    /// It says something about itself that cannot be.
    #[error("the PE file contradicts itself: {0}. Do not boot it; build or copy it again")]
    Contradiction(String),
}

/// One section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, such as `.linux`.
    pub name: String,
    /// Where its bytes lie in the file.
    pub file: Range<usize>,
    /// How many bytes it has when it is loaded: what is measured. What the file lacks of them is zeros.
    pub memory_size: usize,
    /// Where it is loaded, counted from the beginning of the image.
    pub address: u32,
}

/// A signature in the attribute table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its type is PKCS #7 signed data, as Authenticode wants it.
    pub is_authenticode: bool,
    /// Where its bytes lie in the file, without the header of the entry.
    pub file: Range<usize>,
}

/// A boot file, taken apart.
#[derive(Debug, Clone)]
pub struct Pe<'a> {
    octets: &'a [u8],
    /// Its sections, in the order of the section table.
    pub sections: Vec<Section>,
    /// Its signatures.
    pub signatures: Vec<Attached>,
    checksum: Range<usize>,
    certificate_directory: Option<Range<usize>>,
    certificate_table: Range<usize>,
    headers: usize,
    /// Where each section's bytes lie on the disk, padding included.
    raw: Vec<Range<usize>>,
}

impl<'a> Pe<'a> {
    /// Takes a file apart.
    ///
    /// # Errors
    /// It is not a PE file, ends too early, or contradicts itself.
    pub fn read(octets: &'a [u8]) -> Result<Self, PeError> {
        let short = |part| move |short| PeError::Short { part, short };
        let mut dos = Cursor::new(octets);
        if dos.take(2).map_err(short("first header"))? != b"MZ" {
            return Err(PeError::Other("it does not begin with MZ"));
        }
        dos.take(58).map_err(short("first header"))?;
        let offset = dos.length().map_err(short("first header"))?;

        let mut header = Cursor::new(octets);
        header.take(offset).map_err(short("first header"))?;
        if header.take(4).map_err(short("file header"))? != b"PE\0\0" {
            return Err(PeError::Other("there is no PE header where the first header says"));
        }
        header.short().map_err(short("file header"))?;
        let count = header.short().map_err(short("file header"))?;
        if count > MOST_SECTIONS {
            return Err(PeError::Contradiction(format!("it claims {count} sections, more than {MOST_SECTIONS}")));
        }
        header.take(12).map_err(short("file header"))?;
        let optional_size = usize::from(header.short().map_err(short("file header"))?);
        header.short().map_err(short("file header"))?;
        let optional_at = header.position();
        let optional = header.take(optional_size).map_err(short("optional header"))?;
        let optional = Optional::read(optional, optional_at)?;

        let mut sections = Vec::new();
        let mut raw = Vec::new();
        for _ in 0..count {
            let (section, range) = section(&mut header, octets.len())?;
            sections.push(section);
            if !range.is_empty() {
                raw.push(range);
            }
        }
        if optional.headers < header.position() || optional.headers > octets.len() {
            return Err(PeError::Contradiction(format!(
                "its headers end at byte {}, but it says {}",
                header.position(),
                optional.headers
            )));
        }
        raw.sort_by_key(|range| range.start);
        let mut end = optional.headers;
        for range in &raw {
            // Firmware hashes them one behind the other: bytes that two sections share would be hashed twice.
            if range.start < end {
                return Err(PeError::Contradiction(format!("two parts share the bytes from {} on", range.start)));
            }
            end = range.end;
        }
        let table = optional.certificate_table;
        let table = match table.1 {
            0 => octets.len()..octets.len(),
            size => {
                let range = range_in(table.0, size, octets.len(), "certificate table")?;
                // A byte behind the signatures would be covered by none.
                if range.end != octets.len() || range.start < end {
                    return Err(PeError::Contradiction(
                        "its certificate table does not lie behind everything else".to_owned(),
                    ));
                }
                range
            }
        };
        let signatures = attached(octets, &table)?;
        Ok(Self {
            octets,
            sections,
            signatures,
            checksum: optional.checksum,
            certificate_directory: optional.certificate_directory,
            certificate_table: table,
            headers: optional.headers,
            raw,
        })
    }

    /// The section of that name, when there is one and only one.
    ///
    /// # Errors
    /// There are several: which one counts depends on who reads.
    pub fn section(&self, name: &str) -> Result<Option<&Section>, PeError> {
        let mut found = self.sections.iter().filter(|section| section.name == name);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(PeError::Contradiction(format!("it has several sections {name}"))),
            (one, None) => Ok(one),
        }
    }

    /// What of a section stands in the file: at most what it has in memory.
    #[must_use]
    pub fn content(&self, section: &Section) -> &'a [u8] {
        let content = self.octets.get(section.file.clone()).unwrap_or_default();
        &content[..content.len().min(section.memory_size)]
    }

    /// The Authenticode digest: the same with and without signatures.
    #[must_use]
    pub fn authenticode(&self) -> Digest {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.raw.len() + 5);
        let mut part = |range: Range<usize>| parts.push(self.octets.get(range).unwrap_or_default());
        part(0..self.checksum.start);
        match &self.certificate_directory {
            Some(directory) => {
                part(self.checksum.end..directory.start);
                part(directory.end..self.headers);
            }
            None => part(self.checksum.end..self.headers),
        }
        let mut hashed = self.headers;
        for range in &self.raw {
            hashed += range.len();
            part(range.clone());
        }
        // What stands behind the sections; counted, not pointed at, as the rule says.
        let end = self.certificate_table.start;
        if hashed < end {
            part(hashed..end);
        }
        // Signing tools fill up to the next eight bytes before they append the table.
        let unsigned = self.certificate_table.is_empty();
        parts.push(&[0; 8][..if unsigned { self.octets.len().wrapping_neg() % 8 } else { 0 }]);
        Digest::of_parts(parts)
    }

    /// The bytes of a signature: PKCS #7 in DER, with padding behind it.
    #[must_use]
    pub fn signature(&self, attached: &Attached) -> &'a [u8] {
        self.octets.get(attached.file.clone()).unwrap_or_default()
    }
}

/// What of the optional header matters here.
struct Optional {
    checksum: Range<usize>,
    headers: usize,
    certificate_directory: Option<Range<usize>>,
    /// Offset in the file and size.
    certificate_table: (usize, usize),
}

impl Optional {
    fn read(optional: &[u8], at: usize) -> Result<Self, PeError> {
        let short = |short| PeError::Short { part: "optional header", short };
        let mut cursor = Cursor::new(optional);
        // Up to the number of directories, both kinds differ only in the width of six fields.
        let before_count = match cursor.short().map_err(short)? {
            0x10b => 92,
            0x20b => 108,
            _ => return Err(PeError::Other("its optional header is neither PE32 nor PE32+")),
        };
        cursor.take(58).map_err(short)?;
        let headers = cursor.length().map_err(short)?;
        let checksum = at + cursor.position()..at + cursor.position() + 4;
        let mut cursor = Cursor::new(optional);
        cursor.take(before_count).map_err(short)?;
        let directories = cursor.length().map_err(short)?;
        if directories <= CERTIFICATE_DIRECTORY {
            return Ok(Self { checksum, headers, certificate_directory: None, certificate_table: (0, 0) });
        }
        cursor.take(CERTIFICATE_DIRECTORY * 8).map_err(short)?;
        let directory = at + cursor.position();
        let table = (cursor.length().map_err(short)?, cursor.length().map_err(short)?);
        Ok(Self { checksum, headers, certificate_directory: Some(directory..directory + 8), certificate_table: table })
    }
}

fn range_in(start: usize, size: usize, length: usize, part: &'static str) -> Result<Range<usize>, PeError> {
    match start.checked_add(size) {
        Some(end) if end <= length => Ok(start..end),
        _ => Err(PeError::Short { part, short: Short { end: length, wanted: size } }),
    }
}

fn section(header: &mut Cursor<'_>, length: usize) -> Result<(Section, Range<usize>), PeError> {
    let short = |short| PeError::Short { part: "section table", short };
    let name = header.array::<8>().map_err(short)?;
    let end = name.iter().position(|&octet| octet == 0).unwrap_or(name.len());
    let name = String::from_utf8_lossy(&name[..end]).into_owned();
    let memory_size = header.length().map_err(short)?;
    let address = header.word().map_err(short)?;
    let size = header.length().map_err(short)?;
    let start = header.length().map_err(short)?;
    header.take(16).map_err(short)?;
    // A section without bytes may point anywhere.
    let raw = if size == 0 { 0..0 } else { range_in(start, size, length, "sections")? };
    Ok((Section { name, file: raw.clone(), memory_size, address }, raw))
}

fn attached(octets: &[u8], table: &Range<usize>) -> Result<Vec<Attached>, PeError> {
    let short = |short| PeError::Short { part: "certificate table", short };
    let mut signatures = Vec::new();
    let mut cursor = Cursor::new(octets.get(table.clone()).unwrap_or_default());
    while !cursor.is_at_end() {
        if signatures.len() == MOST_CERTIFICATES {
            return Err(PeError::Contradiction(format!("it has more than {MOST_CERTIFICATES} signatures")));
        }
        let entry = table.start + cursor.position();
        let size = cursor.length().map_err(short)?;
        cursor.short().map_err(short)?;
        let kind = cursor.short().map_err(short)?;
        let Some(content) = size.checked_sub(8) else {
            return Err(PeError::Contradiction(format!("the signature at byte {entry} is shorter than its header")));
        };
        cursor.take(content).map_err(short)?;
        signatures.push(Attached { is_authenticode: kind == PKCS_SIGNED_DATA, file: entry + 8..entry + size });
        // Entries begin at multiples of eight; the last one's padding may be missing.
        let padding = (size.wrapping_neg() % 8).min(cursor.rest().len());
        cursor.take(padding).map_err(short)?;
    }
    Ok(signatures)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small boot file with these sections.
    pub(crate) fn file(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let headers = (64 + 24 + 240 + sections.len() * 40).next_multiple_of(512);
        let mut head = b"MZ".to_vec();
        head.resize(60, 0);
        head.extend(64_u32.to_le_bytes());
        head.extend(b"PE\0\0\x64\x86");
        head.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        head.extend([0; 12]);
        head.extend(240_u16.to_le_bytes());
        head.extend([0x22, 0]);
        let mut optional = vec![0x0b, 0x02];
        optional.resize(60, 0);
        optional.extend(u32::try_from(headers).unwrap().to_le_bytes());
        optional.resize(108, 0);
        optional.extend(16_u32.to_le_bytes());
        optional.resize(240, 0);
        head.extend(optional);
        let mut body = Vec::new();
        for (name, content) in sections {
            let mut label = name.as_bytes().to_vec();
            label.resize(8, 0);
            head.extend(label);
            let size = content.len().next_multiple_of(512);
            for number in [content.len(), 0x1000 + body.len(), size, headers + body.len()] {
                head.extend(u32::try_from(number).unwrap().to_le_bytes());
            }
            head.extend([0; 16]);
            body.extend_from_slice(content);
            body.resize(body.len() + size - content.len(), 0);
        }
        head.resize(headers, 0);
        head.extend(body);
        head
    }

    /// The file with something in the place of a signature.
    pub(crate) fn signed(mut file: Vec<u8>, signature: &[u8]) -> Vec<u8> {
        file.resize(file.len().next_multiple_of(8), 0);
        let entry = (signature.len() + 8).next_multiple_of(8);
        let directory = 64 + 24 + 112 + CERTIFICATE_DIRECTORY * 8;
        let place: Vec<u8> =
            [file.len(), entry].iter().flat_map(|&number| u32::try_from(number).unwrap().to_le_bytes()).collect();
        file[directory..directory + 8].copy_from_slice(&place);
        file[64 + 24 + 64] = 0x77;
        file.extend(u32::try_from(signature.len() + 8).unwrap().to_le_bytes());
        file.extend([0, 2, 2, 0]);
        file.extend(signature);
        file.resize(file.len().next_multiple_of(8), 0);
        file
    }

    #[test]
    fn sections_are_found_with_their_true_length() {
        let file = file(&[(".linux", b"kernel"), (".initrd", &[7; 600])]);
        let pe = Pe::read(&file).unwrap();
        let names: Vec<&str> = pe.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [".linux", ".initrd"]);
        let linux = pe.section(".linux").unwrap().unwrap();
        assert_eq!((pe.content(linux), linux.file.len()), (&b"kernel"[..], 512));
        assert_eq!(pe.section(".none").unwrap(), None);
    }

    #[test]
    fn a_signature_changes_the_file_and_not_its_digest() {
        let plain = file(&[(".text", b"code"), (".linux", b"kernel")]);
        let with = signed(plain.clone(), b"thirteen byte");
        let (one, other) = (Pe::read(&plain).unwrap(), Pe::read(&with).unwrap());
        assert_eq!(one.authenticode(), other.authenticode());
        assert!(one.signatures.is_empty());
        assert_eq!(other.signatures.len(), 1);
        assert_eq!(other.signature(&other.signatures[0]), b"thirteen byte");
        assert!(other.signatures[0].is_authenticode);
    }

    #[test]
    fn every_other_byte_changes_the_digest() {
        let with = signed(file(&[(".linux", b"kernel")]), b"signature");
        let pe = Pe::read(&with).unwrap();
        let (digest, table) = (pe.authenticode(), pe.certificate_table.start);
        let free = [pe.checksum.clone(), pe.certificate_directory.clone().unwrap()];
        for at in 0..table {
            if free.iter().any(|range| range.contains(&at)) {
                continue;
            }
            let mut other = with.clone();
            other[at] ^= 1;
            assert!(Pe::read(&other).map_or(true, |pe| pe.authenticode() != digest), "byte {at}");
        }
    }

    #[test]
    fn two_sections_of_one_name_are_refused_where_one_is_asked_for() {
        let file = file(&[(".linux", b"ours"), (".linux", b"theirs")]);
        assert!(Pe::read(&file).unwrap().section(".linux").is_err());
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_told_apart() {
        let file = file(&[(".linux", b"kernel")]);
        assert!(matches!(Pe::read(b"#!/bin/sh and some more"), Err(PeError::Other(_))));
        assert!(matches!(Pe::read(&file[..file.len() - 1]), Err(PeError::Short { part: "sections", .. })));
        assert!(matches!(Pe::read(&file[..70]), Err(PeError::Short { .. })));
        let mut behind = signed(file, b"signature");
        behind.push(0);
        assert!(matches!(Pe::read(&behind), Err(PeError::Contradiction(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(at in 0_usize..1100, octet: u8, length in 0_usize..1100) {
            let mut file = signed(file(&[(".linux", b"kernel")]), b"signature");
            let place = at % file.len();
            file[place] = octet;
            file.truncate(length.max(place));
            if let Ok(pe) = Pe::read(&file) {
                let _ = pe.authenticode();
                for section in &pe.sections {
                    prop_assert!(pe.content(section).len() <= file.len());
                }
            }
        }
    }
}
