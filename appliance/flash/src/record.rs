//! The record of a flash: what to keep on paper and in a file, since the box itself shows little of it later.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use postkeep_release::{Release, Sha256};
use postkeep_seed::Seed;
use serde::Serialize;

use crate::inventory::Inventory;
use crate::posture::Posture;
use crate::{Disk, Source};

/// What was put where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// When the work was finished; for a plan, when it was made.
    pub at: Timestamp,
    /// Whether the disks were written; a plan has not written anything.
    pub written: bool,
    /// The version of the release.
    pub version: String,
    /// The sum of the image, as it is on the disk.
    pub image: Sha256,
    /// The root of the tree of hashes: what attestation shows later.
    pub root_hash: Sha256,
    /// The sum of the certificate that the firmware has to know.
    pub secure_boot_certificate: Sha256,
    /// The disks, with their serial numbers.
    pub disks: Vec<RecordedDisk>,
    /// The machine's serial number.
    pub serial: Option<String>,
    /// The addresses of its network cards.
    pub macs: Vec<String>,
    /// Whose the box is.
    pub owner: String,
    /// The sum of the seed, as it was signed.
    pub seed: Sha256,
    /// What it is called.
    pub hostname: Option<String>,
    /// How far it can be trusted, at best.
    pub posture: Posture,
}

/// A disk in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedDisk {
    /// Where the rescue system had it.
    pub path: PathBuf,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// How many octets it has.
    pub size: u64,
}

impl RecordedDisk {
    /// What is recorded of a disk.
    #[must_use]
    pub fn of(disk: &Disk) -> Self {
        Self { path: disk.path.clone(), serial: disk.serial.clone(), model: disk.model.clone(), size: disk.size }
    }
}

impl Record {
    /// The record of `source` of `release` and `seed`, signed as `note`, on `disks` of `machine`.
    #[must_use]
    pub fn new<'a>(
        release: &Release,
        source: &Source,
        (seed, note): (&Seed, &[u8]),
        (machine, posture): (&Inventory, &Posture),
        disks: impl Iterator<Item = &'a Disk>,
        at: Timestamp,
    ) -> Self {
        Self {
            at,
            written: false,
            version: release.version.to_string(),
            image: source.sha256(),
            root_hash: release.root_hash,
            secure_boot_certificate: release.secure_boot_certificate,
            disks: disks.map(RecordedDisk::of).collect(),
            serial: machine.serial.clone(),
            macs: machine.cards.iter().map(|card| card.mac.clone()).collect(),
            owner: seed.owner.to_string(),
            seed: Sha256::of(note),
            hostname: seed.hostname.clone(),
            posture: posture.clone(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".to_owned());
        writeln!(
            out,
            "{}",
            if self.written { "Flashed; keep this record." } else { "Nothing was written; this is the plan." }
        )?;
        writeln!(out, "at           {}", self.at)?;
        writeln!(out, "host         {}", told(&self.hostname))?;
        writeln!(out, "owner        {}", self.owner)?;
        writeln!(out, "version      {}", self.version)?;
        writeln!(out, "image        {}", self.image)?;
        writeln!(out, "root hash    {}", self.root_hash)?;
        writeln!(out, "certificate  {}", self.secure_boot_certificate)?;
        writeln!(out, "seed         {}", self.seed)?;
        writeln!(out, "machine      serial number {}", told(&self.serial))?;
        for disk in &self.disks {
            let (path, serial, model) = (disk.path.display(), told(&disk.serial), told(&disk.model));
            writeln!(out, "disk         {path}  serial {serial}  {model}  {} octets", disk.size)?;
        }
        for mac in &self.macs {
            writeln!(out, "card         {mac}")?;
        }
        writeln!(out, "posture      at best {:?}", self.posture.grade)?;
        self.posture.remarks.iter().try_for_each(|remark| writeln!(out, "             {remark}"))
    }
}
