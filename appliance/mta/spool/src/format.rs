//! The bytes of a segment: its header, frames, and the records in a frame. Only this file
//! knows the layout; `docs/develop/spool.md` has it as a table.
//!
//! Sums of headers and metadata begin from the segment's random nonce and the frame's offset,
//! so that no frame of another segment, of an earlier use of the same blocks, or inside
//! somebody's mail is ever taken for a frame of this one.

use bytes::BufMut;
use crc32c::{crc32c, crc32c_append};

use crate::{MessageId, RetryState};

/// The newest format that this program reads, and the one it writes.
pub(crate) const VERSION: u32 = 1;
/// Where the first frame begins. The header lies twice before it, in two sectors.
pub(crate) const FRAMES_START: u64 = 1024;
/// Every group begins at a multiple of this, so that no sector holds bytes of two groups
/// and a torn write cannot touch what was durable.
pub(crate) const GROUP_ALIGNMENT: u64 = 512;
/// Every frame begins at a multiple of this.
pub(crate) const FRAME_ALIGNMENT: u64 = 8;
/// Fixed part of a frame.
pub(crate) const FRAME_HEADER: usize = 32;
/// Metadata and bodies of one batch together may not be longer.
pub(crate) const BATCH_LIMIT: u64 = 2 << 30;

const SEGMENT_MAGIC: [u8; 16] = *b"Postkeep segment";
const FRAME_MAGIC: [u8; 4] = *b"PkFr";
const HEADER_LENGTH: usize = 40;
const SECOND_HEADER: usize = 512;

/// The next multiple of `alignment`, a power of two.
pub(crate) const fn align(value: u64, alignment: u64) -> u64 {
    (value + alignment - 1) & !(alignment - 1)
}

/// What binds frames to their segment.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u32);

impl Seed {
    pub(crate) fn new(number: u32, nonce: u64) -> Self {
        Self(crc32c_append(crc32c(&nonce.to_le_bytes()), &number.to_le_bytes()))
    }

    fn at(self, offset: u64) -> u32 {
        crc32c_append(self.0, &offset.to_le_bytes())
    }
}

/// The first bytes of a segment.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) number: u32,
    pub(crate) nonce: u64,
}

impl SegmentHeader {
    /// Both copies, as they lie before the first frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut one = Vec::with_capacity(HEADER_LENGTH);
        one.put_slice(&SEGMENT_MAGIC);
        one.put_u32_le(self.version);
        one.put_u32_le(self.number);
        one.put_u64_le(self.nonce);
        one.put_u32_le(0);
        one.put_u32_le(crc32c(&one));
        let mut block = vec![0; FRAMES_START as usize];
        block[..HEADER_LENGTH].copy_from_slice(&one);
        block[SECOND_HEADER..SECOND_HEADER + HEADER_LENGTH].copy_from_slice(&one);
        block
    }

    /// The first copy that is whole.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        [0, SECOND_HEADER].into_iter().find_map(|start| Self::decode_copy(block.get(start..start + HEADER_LENGTH)?))
    }

    fn decode_copy(copy: &[u8]) -> Option<Self> {
        let mut reader = Reader(copy);
        if reader.take(SEGMENT_MAGIC.len())? != SEGMENT_MAGIC {
            return None;
        }
        let header = Self { version: reader.u32()?, number: reader.u32()?, nonce: reader.u64()? };
        reader.u32()?;
        (reader.u32()? == crc32c(&copy[..HEADER_LENGTH - 4])).then_some(header)
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::new(self.number, self.nonce)
    }
}

/// Whether sums are checked. Fuzzing passes over them to reach what lies behind.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Sums {
    /// As in earnest.
    Verify,
    /// Take every sum for right.
    Ignore,
}

/// The fixed part of a frame.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Where the frame's group begins. Its existence proves that all before was durable.
    pub(crate) group_start: u64,
    pub(crate) records: u32,
    pub(crate) metadata_length: u32,
    pub(crate) body_length: u32,
    pub(crate) metadata_sum: u32,
}

impl FrameHeader {
    /// Bytes to the next frame.
    pub(crate) fn frame_length(&self) -> u64 {
        align(FRAME_HEADER as u64 + u64::from(self.metadata_length) + u64::from(self.body_length), FRAME_ALIGNMENT)
    }

    pub(crate) fn encode(&self, seed: Seed, offset: u64) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[8..12].copy_from_slice(&self.metadata_sum.to_le_bytes());
        let group = (self.group_start / GROUP_ALIGNMENT) as u32;
        bytes[12..16].copy_from_slice(&group.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.records.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.metadata_length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_length.to_le_bytes());
        let sum = crc32c_append(seed.at(offset), &bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` when these bytes are not the header of a frame at this offset of this segment.
    pub(crate) fn decode(bytes: &[u8], seed: Seed, offset: u64, sums: Sums) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        let mut reader = Reader(bytes);
        if reader.take(4)? != FRAME_MAGIC {
            return None;
        }
        let sum = reader.u32()?;
        if sums == Sums::Verify && sum != crc32c_append(seed.at(offset), &bytes[8..]) {
            return None;
        }
        let header = Self {
            metadata_sum: reader.u32()?,
            group_start: u64::from(reader.u32()?) * GROUP_ALIGNMENT,
            records: reader.u32()?,
            metadata_length: reader.u32()?,
            body_length: reader.u32()?,
        };
        (header.group_start <= offset).then_some(header)
    }

    /// The sum that `metadata` must have.
    pub(crate) fn metadata_sum(metadata: &[u8], seed: Seed, offset: u64) -> u32 {
        crc32c_append(seed.at(offset), metadata)
    }
}

/// Whether these 8 bytes can begin a frame; cheap, for searching.
pub(crate) fn looks_like_frame(word: &[u8]) -> bool {
    word.starts_with(&FRAME_MAGIC)
}

/// A message in a frame: its fields, and where its body lies in the frame's body part.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageRecord<'a> {
    pub(crate) id: MessageId,
    pub(crate) received: u32,
    pub(crate) recipients: u16,
    pub(crate) prefix_length: u32,
    pub(crate) content_length: u32,
    pub(crate) body_sum: u32,
    pub(crate) metadata: &'a [u8],
    /// For a message that reclaim has moved: where from, and what is outstanding.
    pub(crate) moved: Option<MovedState<'a>>,
}

impl MessageRecord<'_> {
    pub(crate) fn body_length(&self) -> u64 {
        u64::from(self.prefix_length) + u64::from(self.content_length)
    }
}

/// The state that a moved message carries along.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovedState<'a> {
    pub(crate) from: u32,
    outstanding: &'a [u8],
}

const OUTSTANDING_LENGTH: usize = 8;

impl<'a> MovedState<'a> {
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (u16, RetryState)> + use<'a> {
        self.outstanding.as_chunks::<OUTSTANDING_LENGTH>().0.iter().map(|[r0, r1, a0, a1, d0, d1, d2, d3]| {
            let state =
                RetryState { attempts: u16::from_le_bytes([*a0, *a1]), due: u32::from_le_bytes([*d0, *d1, *d2, *d3]) };
            (u16::from_le_bytes([*r0, *r1]), state)
        })
    }
}

/// Where a segment's frames end, as a later segment remembers it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct RosterEntry {
    pub(crate) number: u32,
    pub(crate) seed: Seed,
    pub(crate) end: u64,
}

const ROSTER_ENTRY_LENGTH: usize = 16;

/// The first record of a segment: all segments that exist, and where each ends.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roster<'a> {
    /// Ids below this may have been given out.
    pub(crate) next_id: u64,
    entries: &'a [u8],
}

impl<'a> Roster<'a> {
    pub(crate) fn entries(&self) -> impl Iterator<Item = RosterEntry> + use<'a> {
        self.entries.as_chunks::<ROSTER_ENTRY_LENGTH>().0.iter().filter_map(|entry| {
            let mut reader = Reader(entry);
            Some(RosterEntry { number: reader.u32()?, seed: Seed(reader.u32()?), end: reader.u64()? })
        })
    }
}

/// One record of a frame.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Message(MessageRecord<'a>),
    /// `target` is the segment that held the message when this was written.
    Complete {
        id: MessageId,
        recipient: u16,
        target: u32,
    },
    /// The copy of the message in segment `target` counts no more; another one may.
    Superseded {
        id: MessageId,
        target: u32,
    },
    Defer {
        id: MessageId,
        recipient: u16,
        state: RetryState,
    },
    Note {
        key: &'a [u8],
        value: &'a [u8],
    },
    Roster(Roster<'a>),
}

const ACCEPTED: u8 = 1;
const MOVED: u8 = 2;
const COMPLETE: u8 = 3;
const SUPERSEDED: u8 = 4;
const DEFER: u8 = 5;
const NOTE: u8 = 6;
const ROSTER: u8 = 7;

/// Bytes of a message record beside its metadata.
pub(crate) const MESSAGE_RECORD: usize = 1 + 8 + 4 + 2 + 4 + 4 + 4 + 4;
/// At most this many bytes has a completion, a retry state or a supersession.
pub(crate) const SMALL_RECORD: usize = 17;
/// Bytes of a note beside key and value.
pub(crate) const NOTE_RECORD: usize = 9;

#[expect(clippy::too_many_arguments, reason = "one field of the record each")]
fn put_message_fields(
    out: &mut Vec<u8>,
    kind: u8,
    id: MessageId,
    received: u32,
    recipients: u16,
    metadata: &[u8],
    prefix_length: usize,
    content_length: usize,
    body_sum: u32,
) {
    out.put_u8(kind);
    out.put_u64_le(id.0);
    out.put_u32_le(received);
    out.put_u16_le(recipients);
    out.put_u32_le(metadata.len() as u32);
    out.put_u32_le(prefix_length as u32);
    out.put_u32_le(content_length as u32);
    out.put_u32_le(body_sum);
}

pub(crate) fn put_accepted(out: &mut Vec<u8>, message: &crate::NewMessage, body_sum: u32) {
    put_message_fields(
        out,
        ACCEPTED,
        message.id,
        message.received,
        message.recipients,
        &message.metadata,
        message.body[0].len(),
        message.body[1].len(),
        body_sum,
    );
    out.put_slice(&message.metadata);
}

/// A message on the move: the record as it was read, with the state of now.
pub(crate) fn put_moved(out: &mut Vec<u8>, message: &MessageRecord<'_>, from: u32, outstanding: &[(u16, RetryState)]) {
    put_message_fields(
        out,
        MOVED,
        message.id,
        message.received,
        message.recipients,
        message.metadata,
        message.prefix_length as usize,
        message.content_length as usize,
        message.body_sum,
    );
    out.put_u32_le(from);
    out.put_u16_le(outstanding.len() as u16);
    for (recipient, state) in outstanding {
        out.put_u16_le(*recipient);
        out.put_u16_le(state.attempts);
        out.put_u32_le(state.due);
    }
    out.put_slice(message.metadata);
}

pub(crate) fn put_complete(out: &mut Vec<u8>, id: MessageId, recipient: u16, target: u32) {
    out.put_u8(COMPLETE);
    out.put_u64_le(id.0);
    out.put_u16_le(recipient);
    out.put_u32_le(target);
}

pub(crate) fn put_superseded(out: &mut Vec<u8>, id: MessageId, target: u32) {
    out.put_u8(SUPERSEDED);
    out.put_u64_le(id.0);
    out.put_u32_le(target);
}

pub(crate) fn put_defer(out: &mut Vec<u8>, id: MessageId, recipient: u16, state: RetryState) {
    out.put_u8(DEFER);
    out.put_u64_le(id.0);
    out.put_u16_le(recipient);
    out.put_u16_le(state.attempts);
    out.put_u32_le(state.due);
}

pub(crate) fn put_note(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.put_u8(NOTE);
    out.put_u32_le(key.len() as u32);
    out.put_u32_le(value.len() as u32);
    out.put_slice(key);
    out.put_slice(value);
}

pub(crate) fn put_roster(out: &mut Vec<u8>, next_id: u64, entries: impl ExactSizeIterator<Item = RosterEntry>) {
    out.put_u8(ROSTER);
    out.put_u64_le(next_id);
    out.put_u32_le(entries.len() as u32);
    for entry in entries {
        out.put_u32_le(entry.number);
        out.put_u32_le(entry.seed.0);
        out.put_u64_le(entry.end);
    }
}

/// Walks the records of a frame's metadata part; ends early where they do not parse.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Records<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Records<'a> {
    pub(crate) fn new(metadata: &'a [u8], records: u32) -> Self {
        Self { reader: Reader(metadata), left: records }
    }

    /// Whether exactly the announced records fill the metadata, and their bodies the body part.
    pub(crate) fn are_whole(mut self, body_length: u32) -> bool {
        let mut bodies = 0_u64;
        for record in self.by_ref() {
            if let Record::Message(message) = record {
                bodies += message.body_length();
            }
        }
        self.left == 0 && self.reader.0.is_empty() && bodies == u64::from(body_length)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.left == 0 {
            return None;
        }
        let record = self.reader.record()?;
        self.left -= 1;
        Some(record)
    }
}

/// Takes little-endian fields from the front of a slice.
#[derive(Copy, Clone, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<MessageId> {
        self.u64().map(MessageId)
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let record = match self.u8()? {
            kind @ (ACCEPTED | MOVED) => Record::Message(self.message(kind == MOVED)?),
            COMPLETE => Record::Complete { id: self.id()?, recipient: self.u16()?, target: self.u32()? },
            SUPERSEDED => Record::Superseded { id: self.id()?, target: self.u32()? },
            DEFER => Record::Defer {
                id: self.id()?,
                recipient: self.u16()?,
                state: RetryState { attempts: self.u16()?, due: self.u32()? },
            },
            NOTE => {
                let key_length = self.u32()? as usize;
                let value_length = self.u32()? as usize;
                Record::Note { key: self.take(key_length)?, value: self.take(value_length)? }
            }
            ROSTER => {
                let next_id = self.u64()?;
                let entries = self.u32()? as usize;
                Record::Roster(Roster { next_id, entries: self.take(entries.checked_mul(ROSTER_ENTRY_LENGTH)?)? })
            }
            _ => return None,
        };
        Some(record)
    }

    fn message(&mut self, is_moved: bool) -> Option<MessageRecord<'a>> {
        let id = self.id()?;
        let received = self.u32()?;
        let recipients = self.u16()?;
        let metadata_length = self.u32()? as usize;
        let prefix_length = self.u32()?;
        let content_length = self.u32()?;
        let body_sum = self.u32()?;
        let moved = if is_moved {
            let from = self.u32()?;
            let outstanding = usize::from(self.u16()?);
            Some(MovedState { from, outstanding: self.take(outstanding * OUTSTANDING_LENGTH)? })
        } else {
            None
        };
        Some(MessageRecord {
            id,
            received,
            recipients,
            prefix_length,
            content_length,
            body_sum,
            metadata: self.take(metadata_length)?,
            moved,
        })
    }
}
