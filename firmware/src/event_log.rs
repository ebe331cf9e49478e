//! The log of a measured boot, as firmware keeps it for the system (TCG PC Client, crypto-agile format): read, and
//! replayed to what the registers of the TPM must hold if it is true.
//!
//! The log is not protected; the registers are. So nothing in a log is worth anything before [`EventLog::compare`]
//! has said that it leads to the values that the TPM holds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bytes::{Cursor, Short};
use crate::device_path::{DevicePath, printable};
use crate::digest::Digest;
use crate::guid::Guid;

/// A log is a few ten thousand bytes long; one that is longer than this is none.
pub const LONGEST: usize = 8 * 1024 * 1024;
/// More events than a boot has.
const MOST_EVENTS: usize = 20_000;
/// More kinds of digests than a TPM has.
const MOST_ALGORITHMS: u32 = 16;
/// The name of SHA-256 among TPM algorithms.
const SHA256: u16 = 0x000b;
/// PCRs of a PC.
const PCRS: u32 = 24;

/// The PCRs that firmware and boot loaders write, so that the log alone must lead to their values.
pub const FIRMWARE_PCRS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The kinds of events that something here depends on.
pub mod kind {
    /// Not measured: it says something about the log.
    pub const NO_ACTION: u32 = 3;
    /// The end of what came before the operating system.
    pub const SEPARATOR: u32 = 4;
    /// What a boot loader measured.
    pub const IPL: u32 = 0xd;
    /// A variable of Secure Boot's configuration.
    pub const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    /// A program was loaded: a boot loader, a netboot program, a kernel.
    pub const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    /// A driver was loaded, from a card perhaps.
    pub const BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
    /// A driver that stays.
    pub const RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
    /// The firmware says what it does.
    pub const ACTION: u32 = 0x8000_0007;
    /// The entry of `db` by which something was let through.
    pub const VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
}

/// Why a log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It ends in the middle of an event.
    #[error("the log of the boot is cut off in event {event}: {short}. Read it again, as root, in one go")]
    Short {
        /// Which event, the first being 0.
        event: usize,
        /// Where.
        short: Short,
    },
    /// It is of the kind that a TPM 1.2 keeps, or something else.
    #[error(
        "the log of the boot is not in the crypto-agile format of TPM 2.0: {0}. Switch the TPM to 2.0 and SHA-256 in the firmware's setup"
    )]
    Other(String),
    /// It says something that cannot be.
    #[error("event {event} of the log of the boot makes no sense: {why}. Nothing in this log can be relied on")]
    Nonsense {
        /// Which event, the first being 0.
        event: usize,
        /// What is wrong.
        why: String,
    },
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The register it went into.
    pub pcr: u32,
    /// Its kind, see [`kind`].
    pub kind: u32,
    /// What went into the register.
    pub digest: Digest,
    /// What the firmware says it was. Covered by the digest for some kinds only.
    pub data: Vec<u8>,
}

/// A log, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventLog {
    /// What was measured, in order.
    pub events: Vec<Event>,
    /// The locality from which the machine was started; it stands in PCR 0 from the beginning.
    pub locality: u8,
}

/// A register that is not what the log leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Which.
    pub pcr: u32,
    /// What the log leads to.
    pub log: Digest,
    /// What the TPM holds; nothing: it was not read.
    pub tpm: Option<Digest>,
}

/// A program or driver that the firmware loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its Authenticode digest.
    pub digest: Digest,
    /// From where.
    pub path: DevicePath,
    /// A driver, not a program.
    pub is_driver: bool,
}

/// A variable in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedVariable {
    /// Whose name it is.
    pub vendor: Guid,
    /// Its name.
    pub name: String,
    /// Its content.
    pub data: Vec<u8>,
}

impl LoggedVariable {
    /// What was measured and is none.
    fn unknown() -> Self {
        Self { vendor: Guid([0; 16]), name: "?".to_owned(), data: Vec::new() }
    }
}

/// What firmware measures of Secure Boot, in this order, before it lets anything through.
const CONFIGURATION: [(&str, Guid); 5] = [
    ("SecureBoot", Guid::GLOBAL),
    ("PK", Guid::GLOBAL),
    ("KEK", Guid::GLOBAL),
    ("db", Guid::IMAGE_SECURITY),
    ("dbx", Guid::IMAGE_SECURITY),
];

/// How Secure Boot is, as PCR 7 proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecureBootLog {
    variables: Vec<LoggedVariable>,
    /// By what something was let through, and all else that was measured behind.
    pub authorities: Vec<LoggedVariable>,
}

impl SecureBootLog {
    /// The content of `SecureBoot`, `PK`, `KEK`, `db` or `dbx`; empty where there is none.
    #[must_use]
    pub fn variable(&self, name: &str) -> &[u8] {
        self.variables.iter().find(|variable| variable.name == name).map_or(&[], |variable| &variable.data)
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.variable("SecureBoot") == [1]
    }
}

impl EventLog {
    /// Reads a log, as `/sys/kernel/security/tpm0/binary_bios_measurements` gives it.
    ///
    /// # Errors
    /// It is too long, cut off, of another kind, has no SHA-256 digests, or makes no sense.
    pub fn read(octets: &[u8]) -> Result<Self, LogError> {
        if octets.len() > LONGEST {
            return Err(LogError::Other(format!("it has {} bytes, more than {LONGEST}", octets.len())));
        }
        let mut cursor = Cursor::new(octets);
        let sizes = header(&mut cursor)?;
        let mut log = Self::default();
        let mut number = 0;
        while !cursor.is_at_end() {
            number += 1;
            if number > MOST_EVENTS {
                return Err(LogError::Nonsense { event: number, why: format!("there are more than {MOST_EVENTS}") });
            }
            // Firmware fills what it reserved with zeros or ones; no event looks like that.
            if is_filling(cursor.rest()) {
                break;
            }
            let Some(event) = event(&mut cursor, &sizes, number)? else { continue };
            if event.kind == kind::NO_ACTION {
                if let Some(&[locality]) = event.data.strip_prefix(b"StartupLocality\0") {
                    log.locality = locality;
                }
                continue;
            }
            log.events.push(event);
        }
        Ok(log)
    }

    /// What the registers hold if the log is true; those that nothing was measured into are zero and not named.
    #[must_use]
    pub fn replay(&self) -> BTreeMap<u32, Digest> {
        let mut values = BTreeMap::new();
        for event in &self.events {
            let value = values.entry(event.pcr).or_insert_with(|| self.initial(event.pcr));
            *value = value.extended(event.digest);
        }
        values
    }

    fn initial(&self, pcr: u32) -> Digest {
        let mut value = Digest::ZERO;
        if pcr == 0 {
            value.0[31] = self.locality;
        }
        value
    }

    /// The registers among `asked` that are not what the log leads to. A register that was not read is one of them.
    #[must_use]
    pub fn compare(&self, tpm: &BTreeMap<u32, Digest>, asked: &[u32]) -> Vec<Mismatch> {
        let replayed = self.replay();
        let mismatch = |&pcr: &u32| {
            let log = replayed.get(&pcr).copied().unwrap_or_else(|| self.initial(pcr));
            let tpm = tpm.get(&pcr).copied();
            (tpm != Some(log)).then_some(Mismatch { pcr, log, tpm })
        };
        asked.iter().filter_map(mismatch).collect()
    }

    /// What the firmware loaded, in order: PCR 4 has boot loaders, PCR 2 what comes from cards.
    pub fn loaded(&self, pcr: u32) -> impl Iterator<Item = Loaded> + '_ {
        let is_load = |kind| {
            matches!(kind, kind::BOOT_SERVICES_APPLICATION | kind::BOOT_SERVICES_DRIVER | kind::RUNTIME_SERVICES_DRIVER)
        };
        self.events.iter().filter(move |event| event.pcr == pcr && is_load(event.kind)).map(|event| Loaded {
            digest: event.digest,
            path: load_path(&event.data),
            is_driver: event.kind != kind::BOOT_SERVICES_APPLICATION,
        })
    }

    /// The variables of Secure Boot's configuration whose data lead to their digests.
    pub fn variables(&self) -> impl Iterator<Item = LoggedVariable> + '_ {
        self.variables_of(kind::VARIABLE_DRIVER_CONFIG)
    }

    /// The entries by which something was let through: `EFI_SIGNATURE_DATA` from `db`, and what a boot loader adds.
    pub fn authorities(&self) -> impl Iterator<Item = LoggedVariable> + '_ {
        self.variables_of(kind::VARIABLE_AUTHORITY)
    }

    /// What a log that leads to PCR 7 says of Secure Boot to whoever only has that register. Which kind an event is stands in no register, so
    /// kinds are not asked: what counts is what firmware measures first, in the order of the specification (PC Client Platform Firmware Profile
    /// 1.06, 3.3.4.8). A program that runs later can measure whatever it likes behind that, and nothing before.
    ///
    /// # Errors
    /// The first five events are not `SecureBoot`, `PK`, `KEK`, `db` and `dbx`: a sentence.
    pub fn secure_boot(&self) -> Result<SecureBootLog, String> {
        let mut events = self.events.iter().filter(|event| event.pcr == 7 && event.kind != kind::NO_ACTION);
        let said = |event: &Event| (Digest::of(&event.data) == event.digest).then(|| variable(&event.data)).flatten();
        let mut variables = Vec::new();
        for (name, vendor) in CONFIGURATION {
            let found = events.next().and_then(said).filter(|found| found.name == name && found.vendor == vendor);
            variables.push(found.ok_or_else(|| {
                format!(
                    "the log of the boot does not say {name} where firmware says it: whose keys decide is not known"
                )
            })?);
        }
        // What is no separator let something through, or counts as if a stranger's key had.
        let behind = events.filter(|event| event.data != [0; 4] || Digest::of(&event.data) != event.digest);
        let authorities = behind.map(|event| said(event).unwrap_or_else(LoggedVariable::unknown)).collect();
        Ok(SecureBootLog { variables, authorities })
    }

    fn variables_of(&self, kind: u32) -> impl Iterator<Item = LoggedVariable> + '_ {
        let events = self.events.iter().filter(move |event| event.pcr == 7 && event.kind == kind);
        // Without this, the data could be anything: only the digest is in the TPM.
        events.filter(|event| Digest::of(&event.data) == event.digest).filter_map(|event| variable(&event.data))
    }
}

impl Event {
    /// What it is, in words for a list.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.kind {
            0 => "before the firmware".to_owned(),
            1 => "firmware code".to_owned(),
            kind::SEPARATOR => "separator".to_owned(),
            5 | kind::ACTION => format!("action: {}", printable(&self.data)),
            7 | 8 => "firmware version or code".to_owned(),
            kind::IPL => format!("boot loader: {}", text_of(&self.data)),
            kind::VARIABLE_DRIVER_CONFIG | kind::VARIABLE_AUTHORITY | 0x8000_0002 | 0x8000_000c => {
                let what = if self.kind == kind::VARIABLE_AUTHORITY { "let through by" } else { "variable" };
                match variable(&self.data) {
                    Some(variable) => {
                        format!("{what} {} ({} bytes)", printable(variable.name.as_bytes()), variable.data.len())
                    }
                    None => format!("{what} ?"),
                }
            }
            kind::BOOT_SERVICES_APPLICATION => format!("program: {}", load_path(&self.data).text),
            kind::BOOT_SERVICES_DRIVER | kind::RUNTIME_SERVICES_DRIVER => {
                format!("driver: {}", load_path(&self.data).text)
            }
            0x8000_0006 => "partition table".to_owned(),
            0x8000_0008 | 0x8000_000a => "firmware volume".to_owned(),
            0x8000_0009 | 0x8000_000b => "tables of the firmware".to_owned(),
            other => format!("event of kind {other:#x}"),
        }
    }
}

/// The first event says which digests the others have: algorithm and size.
fn header(cursor: &mut Cursor<'_>) -> Result<Vec<(u16, usize)>, LogError> {
    let short = |short| LogError::Short { event: 0, short };
    let other = |why: &str| LogError::Other(why.to_owned());
    if cursor.is_at_end() {
        return Err(other("it is empty"));
    }
    cursor.word().map_err(short)?;
    let kind = cursor.word().map_err(short)?;
    cursor.take(20).map_err(short)?;
    let size = cursor.length().map_err(short)?;
    let mut event = Cursor::new(cursor.take(size).map_err(short)?);
    if kind != kind::NO_ACTION || event.take(16).map_err(short)? != b"Spec ID Event03\0" {
        return Err(other("its first event is not Spec ID Event03"));
    }
    event.take(8).map_err(short)?;
    let count = event.word().map_err(short)?;
    if count > MOST_ALGORITHMS {
        return Err(LogError::Nonsense { event: 0, why: format!("it names {count} kinds of digests") });
    }
    let mut sizes = Vec::new();
    for _ in 0..count {
        sizes.push((event.short().map_err(short)?, usize::from(event.short().map_err(short)?)));
    }
    if !sizes.contains(&(SHA256, 32)) {
        return Err(other("it has no SHA-256 digests"));
    }
    Ok(sizes)
}

/// One event; nothing when it has no SHA-256 digest and is not measured.
fn event(cursor: &mut Cursor<'_>, sizes: &[(u16, usize)], number: usize) -> Result<Option<Event>, LogError> {
    let short = |short| LogError::Short { event: number, short };
    let nonsense = |why: String| LogError::Nonsense { event: number, why };
    let pcr = cursor.word().map_err(short)?;
    let kind = cursor.word().map_err(short)?;
    let count = cursor.word().map_err(short)?;
    if count > MOST_ALGORITHMS {
        return Err(nonsense(format!("it has {count} digests")));
    }
    let mut digest = None;
    for _ in 0..count {
        let algorithm = cursor.short().map_err(short)?;
        let Some(&(_, size)) = sizes.iter().find(|(known, _)| *known == algorithm) else {
            return Err(nonsense(format!("its digest is of kind {algorithm:#x}, which the head does not name")));
        };
        let value = cursor.take(size).map_err(short)?;
        if algorithm == SHA256 {
            let value: [u8; 32] = value.try_into().map_err(|_| nonsense("a SHA-256 digest has 32 bytes".to_owned()))?;
            if digest.replace(Digest(value)).is_some() {
                return Err(nonsense("it has two SHA-256 digests".to_owned()));
            }
        }
    }
    let size = cursor.length().map_err(short)?;
    let data = cursor.take(size).map_err(short)?.to_vec();
    match digest {
        _ if kind != kind::NO_ACTION && pcr >= PCRS => Err(nonsense(format!("there is no PCR {pcr}"))),
        Some(digest) => Ok(Some(Event { pcr, kind, digest, data })),
        None if kind == kind::NO_ACTION => Ok(None),
        None => Err(nonsense("it has no SHA-256 digest".to_owned())),
    }
}

fn is_filling(rest: &[u8]) -> bool {
    rest.iter().all(|&octet| octet == 0) || rest.iter().all(|&octet| octet == 0xff)
}

/// `UEFI_IMAGE_LOAD_EVENT`
fn load_path(data: &[u8]) -> DevicePath {
    let mut cursor = Cursor::new(data);
    let Ok(length) = cursor.take(24).and_then(|_| cursor.long()) else { return DevicePath::default() };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let rest = cursor.rest();
    DevicePath::read(&rest[..length.min(rest.len())])
}

/// `UEFI_VARIABLE_DATA`
fn variable(data: &[u8]) -> Option<LoggedVariable> {
    let mut cursor = Cursor::new(data);
    let vendor = Guid(cursor.array().ok()?);
    let letters = usize::try_from(cursor.long().ok()?).ok()?;
    let size = usize::try_from(cursor.long().ok()?).ok()?;
    let name = cursor.take(letters.checked_mul(2)?).ok()?;
    let data = cursor.take(size).ok()?.to_vec();
    let name: Vec<u16> = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Some(LoggedVariable { vendor, name: String::from_utf16_lossy(&name), data })
}

/// Boot loaders write both kinds of text.
fn text_of(data: &[u8]) -> String {
    let wide = data.len() > 3 && data.chunks_exact(2).take(4).all(|pair| pair[1] == 0);
    if wide {
        let letters = data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let letters: Vec<u16> = letters.take_while(|&letter| letter != 0).collect();
        return printable(String::from_utf16_lossy(&letters).as_bytes());
    }
    let end = data.iter().position(|&octet| octet == 0).unwrap_or(data.len());
    printable(&data[..end])
}

#[cfg(test)]
pub(crate) mod tests;
