//! The manifest of a release: read strictly, written for the build.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use postkeep_notes::{NoteError, VerifierKey};
use serde::{Deserialize, Serialize};

use crate::{File, Role, Sha256, Version};

/// The only product whose releases are read here.
pub const PRODUCT: &str = "postkeep";
/// The only architecture there is an image for.
pub const ARCHITECTURE: &str = "x86-64";
/// A manifest of a dozen files has some 4 KiB.
pub const LARGEST_MANIFEST: usize = 256 * 1024;

const FORMAT: u32 = 1;
const MOST_FILES: usize = 64;
const LONGEST_NAME: usize = 128;
/// More than any disk of today; sums of sizes stay far from the end of their type.
const LARGEST_FILE: u64 = 1 << 50;

/// What a release is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Release {
    format: u32,
    /// Always [`PRODUCT`] in a release that may be installed; see [`crate::decide`].
    pub product: String,
    /// Which one it is.
    pub version: Version,
    /// When it was made.
    pub issued: Timestamp,
    /// What it runs on.
    pub architecture: String,
    /// The root of the tree of hashes over the root file system: names what runs, whole.
    pub root_hash: Sha256,
    /// The sum of the certificate, in DER, that the kernel image is signed with.
    pub secure_boot_certificate: Sha256,
    /// How it keeps data.
    pub data_format: DataFormat,
    /// The smallest disk of a box, in octets: both slots, and data with room for an update; none: as large as the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_disk: Option<u64>,
    /// What PCR 11 holds in each phase of the boot, for whoever checks quotes.
    #[serde(default, rename = "pcr-11", skip_serializing_if = "BTreeMap::is_empty")]
    pub pcr_11: BTreeMap<String, Sha256>,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<File>,
}

/// Which data on the disk a release can work with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFormat {
    /// The formats that it reads.
    pub reads: BTreeSet<u32>,
    /// The format that it writes.
    pub writes: u32,
}

impl DataFormat {
    /// How this version of the product keeps data: spool, suppression, records, certificates and the rest of the data
    /// volume, as one number. It changes when something is written that the version before cannot read; a version that
    /// reads the new number comes at least one release before the first that writes it, so that there is always a way
    /// back (see [`crate::decide`]).
    #[must_use]
    pub fn ours() -> Self {
        Self { reads: [1].into(), writes: 1 }
    }
}

/// Why a manifest is not believed, or is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The note around it.
    #[error("cannot use the manifest of the release: {0}")]
    Note(#[from] NoteError),
    /// Somebody trusted has signed something that is no manifest.
    #[error("the manifest of the release is signed and cannot be read: {0}; a newer tool may be needed")]
    Syntax(String),
    /// A field says what it may not say.
    #[error("the manifest of the release cannot be used: {0}")]
    Content(String),
}

impl Release {
    /// The release that the note in `octets` describes, signed by one of `trusted`.
    ///
    /// # Errors
    /// Nobody trusted has signed it, or it is no manifest.
    pub fn open(octets: &[u8], trusted: &[VerifierKey]) -> Result<Self, ReleaseError> {
        Self::open_signed(octets, trusted).map(|(release, _)| release)
    }

    /// The same, with those of `trusted` who have signed it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_signed<'a>(
        octets: &'a [u8],
        trusted: &'a [VerifierKey],
    ) -> Result<(Self, Vec<&'a VerifierKey>), ReleaseError> {
        if octets.len() > LARGEST_MANIFEST {
            return Err(NoteError::TooLarge { octets: octets.len(), limit: LARGEST_MANIFEST }.into());
        }
        let verified = postkeep_notes::open(octets, trusted)?;
        Ok((Self::from_toml(verified.text)?, verified.signers))
    }

    /// A release of ours, for the build, without files yet.
    #[must_use]
    pub fn new(
        version: Version,
        issued: Timestamp,
        root_hash: Sha256,
        secure_boot_certificate: Sha256,
        data_format: DataFormat,
    ) -> Self {
        Self {
            format: FORMAT,
            product: PRODUCT.to_owned(),
            version,
            issued,
            architecture: ARCHITECTURE.to_owned(),
            root_hash,
            secure_boot_certificate,
            data_format,
            smallest_disk: None,
            pcr_11: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    /// Reads the text of a manifest. Says nothing about who wrote it.
    ///
    /// # Errors
    /// It is no manifest.
    pub fn from_toml(text: &str) -> Result<Self, ReleaseError> {
        let syntax = |error: toml::de::Error| ReleaseError::Syntax(error.to_string().trim_end().to_owned());
        // First the format alone: a later one may well have fields that are unknown here.
        let FormatOnly { format } = toml::from_str(text).map_err(syntax)?;
        if format != FORMAT {
            let why = format!("its format is {format}, and this tool reads format {FORMAT}; take a newer tool");
            return Err(ReleaseError::Content(why));
        }
        let release: Self = toml::from_str(text).map_err(syntax)?;
        release.check().map_err(ReleaseError::Content)?;
        Ok(release)
    }

    /// The text of the manifest, ready to be signed.
    ///
    /// # Errors
    /// It says what a manifest may not say.
    pub fn to_toml(&self) -> Result<String, ReleaseError> {
        self.check().map_err(ReleaseError::Content)?;
        toml::to_string(self).map_err(|error| ReleaseError::Syntax(error.to_string()))
    }

    /// The file for `role`: there is at most one for each.
    #[must_use]
    pub fn file(&self, role: Role) -> Option<&File> {
        self.files.iter().find(|file| file.role == role)
    }

    fn check(&self) -> Result<(), String> {
        if self.data_format.reads.is_empty() || !self.data_format.reads.contains(&self.data_format.writes) {
            return Err("data-format: a release must read the format that it writes".to_owned());
        }
        if self.files.is_empty() || self.files.len() > MOST_FILES {
            return Err(format!("it names {} files; 1 to {MOST_FILES} are read", self.files.len()));
        }
        if let Some(phase) = self.pcr_11.keys().find(|phase| !is_phase(phase)) {
            return Err(format!("pcr-11: {phase:?} is not the name of a phase of the boot"));
        }
        let (mut names, mut roles) = (BTreeSet::new(), BTreeSet::new());
        for file in &self.files {
            check_file(file).map_err(|why| format!("file {:?}: {why}", file.name))?;
            if !names.insert(&file.name) {
                return Err(format!("file {:?} is named twice", file.name));
            }
            if !roles.insert(file.role) {
                return Err(format!("two files have the role {}", file.role));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn check_file(file: &File) -> Result<(), &'static str> {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"._-+~@".contains(&octet);
    if file.name.is_empty() || file.name.len() > LONGEST_NAME {
        return Err("a name has 1 to 128 characters");
    }
    if !file.name.bytes().all(plain) || file.name.starts_with(['.', '-']) {
        return Err("a name has letters, digits and . _ - + ~ @, no slash, and begins with neither a dot nor a dash");
    }
    if file.size == 0 || file.size > LARGEST_FILE || file.content_size() == 0 || file.content_size() > LARGEST_FILE {
        return Err("its size is out of bounds");
    }
    if file.expanded_size.is_some() != file.expanded_sha256.is_some() {
        return Err("expanded-size and expanded-sha256 stand together or not at all");
    }
    if file.name.ends_with(".zst") != file.is_compressed() {
        return Err("a name ends with .zst when, and only when, there is an expanded-size");
    }
    let in_partition = matches!(file.role, Role::Root | Role::RootVerity | Role::RootVeritySignature);
    match &file.partition_uuid {
        None if in_partition => Err("it goes into a partition and has no partition-uuid"),
        Some(_) if !in_partition => Err("it goes into no partition and has a partition-uuid"),
        Some(uuid) if !is_uuid(uuid) => Err("partition-uuid is not a UUID in small letters"),
        _ => Ok(()),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, octet)| match at {
            8 | 13 | 18 | 23 => octet == b'-',
            _ => matches!(octet, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// As in `enter-initrd:leave-initrd`.
fn is_phase(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-:".contains(&octet))
}

#[cfg(test)]
mod tests {
    use postkeep_notes::{SignerKey, sign};
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"format = 1
product = "postkeep"
version = "0.3.0"
issued = "2026-11-20T10:00:00Z"
architecture = "x86-64"
root-hash = "1111111111111111111111111111111111111111111111111111111111111111"
secure-boot-certificate = "2222222222222222222222222222222222222222222222222222222222222222"

[data-format]
reads = [1, 2]
writes = 2

[pcr-11]
enter-initrd = "3333333333333333333333333333333333333333333333333333333333333333"
"enter-initrd:leave-initrd" = "4444444444444444444444444444444444444444444444444444444444444444"

[[file]]
name = "postkeep_0.3.0.raw.zst"
role = "disk-image"
size = 150000000
sha256 = "5555555555555555555555555555555555555555555555555555555555555555"
expanded-size = 2300000256
expanded-sha256 = "6666666666666666666666666666666666666666666666666666666666666666"

[[file]]
name = "postkeep_0.3.0.root"
role = "root"
size = 130000000
sha256 = "7777777777777777777777777777777777777777777777777777777777777777"
partition-uuid = "8a4e2f5c-7c1e-4f0a-9f5e-0a1b2c3d4e5f"
"#;

    #[test]
    fn a_manifest_is_written_as_it_is_read() {
        let release = Release::from_toml(TEXT).unwrap();
        assert_eq!(release.version, Version::new(0, 3, 0));
        assert_eq!(release.file(Role::DiskImage).unwrap().content_size(), 2_300_000_256);
        assert_eq!(release.file(Role::Sbom), None);
        let written = release.to_toml().unwrap();
        assert_eq!(written, TEXT);
        assert_eq!(Release::from_toml(&written).unwrap(), release);
    }

    #[test]
    fn only_a_trusted_key_makes_a_manifest_a_release() {
        let key = SignerKey::generate("release.example").unwrap();
        let note = sign(TEXT, &[&key]).unwrap();
        let trusted = [key.verifier().clone()];
        assert_eq!(Release::open(note.as_bytes(), &trusted).unwrap(), Release::from_toml(TEXT).unwrap());
        let other = [SignerKey::generate("release.example").unwrap().verifier().clone()];
        let error = Release::open(note.as_bytes(), &other).unwrap_err();
        assert!(matches!(error, ReleaseError::Note(NoteError::UnknownKeys { .. })), "{error}");
        let error = Release::open(TEXT.as_bytes(), &trusted).unwrap_err();
        assert!(matches!(error, ReleaseError::Note(NoteError::Unsigned | NoteError::Damaged { .. })), "{error}");
        let error = Release::open(&vec![b' '; LARGEST_MANIFEST + 1], &trusted).unwrap_err();
        assert!(matches!(error, ReleaseError::Note(NoteError::TooLarge { .. })), "{error}");
    }

    #[test]
    fn each_field_is_held_to_its_rules_and_the_error_names_it() {
        for (old, new, named) in [
            ("format = 1", "format = 2", "newer tool"),
            ("format = 1\n", "", "format"),
            ("product = ", "produce = ", "produce"),
            ("\"0.3.0\"", "\"0.3\"", "three numbers"),
            ("2026-11-20T10:00:00Z", "yesterday", "issued"),
            ("root-hash = \"1111", "root-hash = \"11", "64 small hexadecimal"),
            ("writes = 2", "writes = 3", "data-format"),
            ("reads = [1, 2]", "reads = []", "data-format"),
            ("enter-initrd =", "\"a b\" =", "pcr-11"),
            ("role = \"root\"", "role = \"kernel\"", "kernel"),
            ("role = \"root\"", "role = \"disk-image\"", "no partition"),
            ("name = \"postkeep_0.3.0.root\"", "name = \"../root\"", "no slash"),
            ("name = \"postkeep_0.3.0.root\"", "name = \"a/root\"", "no slash"),
            ("name = \"postkeep_0.3.0.root\"", "name = \".root\"", "dot"),
            ("name = \"postkeep_0.3.0.root\"", "name = \"\"", "1 to 128"),
            ("name = \"postkeep_0.3.0.root\"", "name = \"root.zst\"", ".zst"),
            ("name = \"postkeep_0.3.0.raw.zst\"", "name = \"raw\"", ".zst"),
            ("size = 130000000", "size = 0", "out of bounds"),
            ("size = 130000000", "size = -1", "size"),
            ("size = 130000000", "size = 9000000000000000000", "out of bounds"),
            ("expanded-size = 2300000256\n", "", "stand together"),
            ("8a4e2f5c-", "8A4E2F5C-", "small letters"),
            ("partition-uuid", "# partition-uuid", "no partition-uuid"),
        ] {
            assert!(TEXT.contains(old), "{old}");
            let error = Release::from_toml(&TEXT.replacen(old, new, 1)).unwrap_err().to_string();
            assert!(error.contains(named), "{old} -> {new}: {error}");
        }
        let twice = format!("{TEXT}\n{}", TEXT.split_inclusive("\n\n").last().unwrap());
        assert!(Release::from_toml(&twice).unwrap_err().to_string().contains("twice"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", at in 0..TEXT.len(), put in "[\\PC\n]{0,3}") {
            let _ = Release::from_toml(&text);
            let _ = Release::from_toml(&format!("{}{put}{}", &TEXT[..at], &TEXT[at..]));
        }
    }
}
