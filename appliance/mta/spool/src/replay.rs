//! Reads a spool's directory and works out what its segments amount to. Changes nothing on the
//! disk: the start repairs afterwards what this found, and inspection only tells of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{FRAMES_START, Record, Seed, SegmentHeader, Sums, VERSION};
use crate::operation::OpenError;
use crate::scan::{Damage, Extent, FileReader, Frame, Window, scan};
use crate::state::{Segment, State, from_units};
use crate::storage::Storage;
use crate::{MessageId, RetryState};

/// One thing that was wrong at start, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// A crash came in the middle of a write; what had been written of it was cut off.
    /// None of it had been answered.
    TornTail {
        /// The segment's file.
        path: PathBuf,
        /// Where it ends now.
        end: u64,
    },
    /// Durable bytes cannot be read as what was written. Messages may be lost, or complete ones
    /// come back. The file is kept, under the ending `damaged`, when nothing needs it any more.
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// The unreadable bytes.
        damage: Damage,
    },
    /// A message's body is not what was written; reading it will say so.
    BodyDamaged {
        /// The segment's file.
        path: PathBuf,
        /// The message.
        id: MessageId,
    },
    /// The segment's header is unreadable and no other segment knows its key: none of its
    /// frames can be told from noise. The file was renamed, with the ending `damaged`.
    HeaderDamaged {
        /// The segment's file, by its earlier name.
        path: PathBuf,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { path, end } => write!(
                formatter,
                "{}: a write was cut short by a crash; nothing of it had been answered; the segment ends at {end} now",
                path.display()
            ),
            Self::Damaged { path, damage } => write!(
                formatter,
                "{}: {} bytes at {} are unreadable; messages in them are lost; the file will be kept aside",
                path.display(),
                damage.to - damage.from,
                damage.from
            ),
            Self::BodyDamaged { path, id } => {
                write!(formatter, "{}: the body of message {id} is damaged", path.display())
            }
            Self::HeaderDamaged { path } => write!(
                formatter,
                "{}: the header is unreadable, and with it the segment; the file is kept aside",
                path.display()
            ),
        }
    }
}

/// A message found at start.
#[derive(Debug)]
pub struct Recovered<'a> {
    /// Its id.
    pub id: MessageId,
    /// When it was received, in Unix seconds.
    pub received: u32,
    /// The encoded envelope.
    pub metadata: Bytes,
    /// Octets of prefix and content together.
    pub body_length: u32,
    /// Recipients that are not complete, in rising order.
    pub outstanding: &'a [(u16, RetryState)],
}

/// Where the newest durable bytes of an unsealed segment lie.
#[derive(Copy, Clone, Debug)]
pub(crate) struct OpenTail {
    pub(crate) number: u32,
    pub(crate) last_group: u64,
    pub(crate) end: u64,
}

/// What a directory holds.
pub(crate) struct Replay<F> {
    pub(crate) state: State<F>,
    pub(crate) repairs: Vec<Repair>,
    /// Segments that no roster seals.
    pub(crate) tails: Vec<OpenTail>,
    /// Segments without a readable header, to be renamed.
    pub(crate) unreadable: Vec<u32>,
    /// Files left from a preparation or a removal that was interrupted.
    pub(crate) left_over: Vec<String>,
    /// The highest number in use.
    pub(crate) highest: u32,
}

/// The name of a segment's file.
pub(crate) fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08x}.segment"))
}

/// The name of a segment that is being prepared.
pub(crate) fn new_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08x}.new"))
}

/// The name of a segment that nothing needs any more.
pub(crate) fn old_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08x}.old"))
}

/// The name of a damaged segment that is kept for a person to look at.
pub(crate) fn damaged_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08x}.damaged"))
}

fn number_of(name: &str, ending: &str) -> Option<u32> {
    let digits = name.strip_suffix(ending)?;
    let is_ours = digits.len() == 8 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// Wraps an error of the storage.
pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Storage { doing, path, source }
}

/// Reads all segments of the directory.
pub(crate) fn replay<S: Storage>(storage: &S, directory: &Path) -> Result<Replay<S::File>, OpenError> {
    let mut result = Replay {
        state: State::default(),
        repairs: Vec::new(),
        tails: Vec::new(),
        unreadable: Vec::new(),
        left_over: Vec::new(),
        highest: 0,
    };
    let mut found = BTreeMap::new();
    for name in storage.list(directory).map_err(failed("list", directory))? {
        if let Some(number) = number_of(&name, ".segment") {
            found.insert(number, read_header(storage, directory, number)?);
            result.highest = result.highest.max(number);
        } else if let Some(number) = number_of(&name, ".new").or_else(|| number_of(&name, ".old")) {
            result.highest = result.highest.max(number);
            result.left_over.push(name);
        } else if let Some(number) = number_of(&name, ".damaged") {
            result.highest = result.highest.max(number);
        }
    }
    let roster = newest_roster(storage, directory, &found)?;
    let mut extents = Vec::new();
    for (number, header) in found {
        let sealed = roster.get(&number);
        let Some(seed) = header.seed.or(sealed.map(|(seed, _)| *seed)) else {
            result.unreadable.push(number);
            result.repairs.push(Repair::HeaderDamaged { path: segment_path(directory, number) });
            continue;
        };
        let segment = Segment::new(seed, header.length, FRAMES_START);
        result.state.segments.insert(number, segment);
        let extent = sealed.map_or(Extent::Open, |(_, end)| Extent::Sealed(*end));
        extents.push((number, extent));
    }
    for (number, extent) in extents {
        scan_into(storage, directory, number, extent, &mut result)?;
    }
    Ok(result)
}

struct FoundHeader {
    seed: Option<Seed>,
    length: u64,
}

fn read_header<S: Storage>(storage: &S, directory: &Path, number: u32) -> Result<FoundHeader, OpenError> {
    let path = segment_path(directory, number);
    let file = storage.open(&path).map_err(failed("open", &path))?;
    let length = storage.length(&file).map_err(failed("find the length of", &path))?;
    let mut block = [0; FRAMES_START as usize];
    let filled = storage.read_at(&file, 0, &mut block).map_err(failed("read", &path))?;
    let header = SegmentHeader::decode(block.get(..filled).unwrap_or_default());
    if let Some(header) = header
        && header.version > VERSION
    {
        return Err(OpenError::NewerVersion { path, found: header.version, known: VERSION });
    }
    Ok(FoundHeader { seed: header.filter(|header| header.number == number).map(|header| header.seed()), length })
}

type Roster = HashMap<u32, (Seed, u64)>;

/// The ends of segments as the newest segment with a readable roster knows them.
fn newest_roster<S: Storage>(
    storage: &S,
    directory: &Path,
    found: &BTreeMap<u32, FoundHeader>,
) -> Result<Roster, OpenError> {
    for (number, header) in found.iter().rev() {
        let Some(seed) = header.seed else { continue };
        let path = segment_path(directory, *number);
        let file = storage.open(&path).map_err(failed("open", &path))?;
        let reader = FileReader { storage, file: &file };
        let mut window = Window::new(&reader, header.length);
        let frame = window.frame(FRAMES_START, seed, Sums::Verify).map_err(failed("read", &path))?;
        if let Some(frame) = frame
            && let Some(Record::Roster(roster)) = frame.records().next()
        {
            return Ok(roster.entries().map(|entry| (entry.number, (entry.seed, entry.end))).collect());
        }
    }
    Ok(Roster::new())
}

fn scan_into<S: Storage>(
    storage: &S,
    directory: &Path,
    number: u32,
    extent: Extent,
    result: &mut Replay<S::File>,
) -> Result<(), OpenError> {
    let path = segment_path(directory, number);
    let Some((seed, size)) = result.state.segments.get(&number).map(|segment| (segment.seed, segment.size)) else {
        return Ok(());
    };
    let file = storage.open(&path).map_err(failed("open", &path))?;
    let reader = FileReader { storage, file: &file };
    let state = &mut result.state;
    let repairs = &mut result.repairs;
    let end = scan(&reader, size, seed, extent, Sums::Verify, &mut |frame| {
        state.apply(number, frame);
        if !frame.is_body_whole {
            for (message, _) in frame.messages() {
                repairs.push(Repair::BodyDamaged { path: path.clone(), id: message.id });
            }
        }
    })
    .map_err(failed("read", &path))?;
    if let Some(segment) = state.segments.get_mut(&number) {
        segment.end = end.end;
        segment.damages = end.damages.len();
    }
    for damage in end.damages {
        repairs.push(Repair::Damaged { path: path.clone(), damage });
    }
    if end.has_torn_tail {
        repairs.push(Repair::TornTail { path: path.clone(), end: end.end });
    }
    if extent == Extent::Open {
        result.tails.push(OpenTail { number, last_group: end.last_group, end: end.end });
    }
    state.keep_file(number, Arc::new(file));
    Ok(())
}

/// Tells of every message that is not complete, in the order of the segments.
pub(crate) fn tell<S: Storage>(
    storage: &S,
    directory: &Path,
    state: &State<S::File>,
    on_message: &mut impl FnMut(Recovered<'_>),
) -> Result<(), OpenError> {
    for (number, segment) in &state.segments {
        if segment.messages == 0 {
            continue;
        }
        let path = segment_path(directory, *number);
        let file = match state.file(*number) {
            Some(file) => file,
            None => Arc::new(storage.open(&path).map_err(failed("open", &path))?),
        };
        let reader = FileReader { storage, file: &*file };
        let extent = Extent::Sealed(segment.end);
        let mut visit = |frame: &Frame<'_>| tell_frame(state, *number, frame, on_message);
        scan(&reader, segment.size, segment.seed, extent, Sums::Verify, &mut visit).map_err(failed("read", &path))?;
    }
    Ok(())
}

fn tell_frame<F>(state: &State<F>, number: u32, frame: &Frame<'_>, on_message: &mut impl FnMut(Recovered<'_>)) {
    for (message, _) in frame.messages() {
        let Some(entry) = state.index.get(message.id) else {
            continue;
        };
        if entry.segment != number || from_units(entry.offset) != frame.offset {
            continue;
        }
        let outstanding: Vec<_> =
            state.index.outstanding(&entry).into_iter().map(|one| (one.recipient, one.state)).collect();
        on_message(Recovered {
            id: message.id,
            received: message.received,
            metadata: Bytes::copy_from_slice(message.metadata),
            body_length: u32::try_from(message.body_length()).unwrap_or(u32::MAX),
            outstanding: &outstanding,
        });
    }
}
