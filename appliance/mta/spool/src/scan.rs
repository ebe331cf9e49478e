//! Finds the frames of a segment, and says what lies between them: the end, a torn tail or
//! damage. Reads bytes that a crash or a dying disk left behind, so nothing in them can make
//! it fail, loop or reserve memory without limit.

use std::io;

use crc32c::crc32c_append;

use crate::format::{
    FRAME_ALIGNMENT, FRAME_HEADER, FRAMES_START, FrameHeader, GROUP_ALIGNMENT, MessageRecord, Record, Records, Seed,
    SegmentHeader, Sums, align, looks_like_frame,
};
use crate::storage::Storage;

/// Where a scan reads from.
pub(crate) trait ReadAt {
    /// Fills the buffer; fewer bytes only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A file of a storage.
pub(crate) struct FileReader<'a, S: Storage> {
    pub(crate) storage: &'a S,
    pub(crate) file: &'a S::File,
}

impl<S: Storage> ReadAt for FileReader<'_, S> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.storage.read_at(self.file, offset, buffer)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

/// A stretch of bytes that holds no readable frame and should.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First byte.
    pub from: u64,
    /// Byte after the last.
    pub to: u64,
}

/// How a scan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanEnd {
    /// Where the last frame ends.
    pub(crate) end: u64,
    /// Where the last group begins; nothing proves that it was durable.
    pub(crate) last_group: u64,
    /// Unreadable stretches before the end.
    pub(crate) damages: Vec<Damage>,
    /// Frames after the end that a crash left half written.
    pub(crate) has_torn_tail: bool,
}

/// A frame that was found.
pub(crate) struct Frame<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    pub(crate) metadata: &'a [u8],
    /// False when a body was checked and is not what was written.
    pub(crate) is_body_whole: bool,
}

impl<'a> Frame<'a> {
    pub(crate) fn records(&self) -> Records<'a> {
        Records::new(self.metadata, self.header.records)
    }

    /// The messages with the offset of each body in the segment.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (MessageRecord<'a>, u64)> + use<'a> {
        let mut body = self.offset + FRAME_HEADER as u64 + u64::from(self.header.metadata_length);
        self.records().filter_map(move |record| match record {
            Record::Message(message) => {
                let at = body;
                body += message.body_length();
                Some((message, at))
            }
            _ => None,
        })
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.header.frame_length()
    }
}

/// How far a scan can trust the segment.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A later segment says that all before this was durable: what is unreadable is damage.
    Sealed(u64),
    /// The end is to be found; bodies are checked.
    Open,
}

const NEAR: usize = 128 << 10;
const FAR: usize = 8 << 10;

/// A moving window over the segment.
pub(crate) struct Window<'r, R> {
    source: &'r R,
    limit: u64,
    start: u64,
    buffer: Vec<u8>,
    filled: usize,
}

impl<'r, R: ReadAt> Window<'r, R> {
    pub(crate) fn new(source: &'r R, limit: u64) -> Self {
        Self { source, limit, start: 0, buffer: Vec::new(), filled: 0 }
    }

    /// The bytes at `offset`, or `None` beyond the end.
    pub(crate) fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let window_end = self.start + self.filled as u64;
        let wanted_end = match offset.checked_add(length as u64) {
            Some(end) if end <= self.limit => end,
            _ => return Ok(None),
        };
        if offset < self.start || wanted_end > window_end {
            // After a jump over a body the next header is likely followed by another body.
            let is_near = offset >= self.start && offset <= window_end + NEAR as u64 / 4;
            let ahead = if is_near { NEAR } else { FAR };
            let room = usize::try_from(self.limit - offset).unwrap_or(usize::MAX);
            let wanted = length.max(ahead).min(room);
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            self.filled = 0;
            self.start = offset;
            self.filled = self.source.read_at(offset, &mut self.buffer[..wanted])?;
            if self.filled < length {
                return Ok(None);
            }
        }
        let from = (offset - self.start) as usize;
        Ok(self.buffer.get(from..from + length))
    }

    /// The frame at `offset`, its metadata checked and its records parsed once.
    pub(crate) fn frame(&mut self, offset: u64, seed: Seed, sums: Sums) -> io::Result<Option<Frame<'_>>> {
        let Some(bytes) = self.get(offset, FRAME_HEADER)? else {
            return Ok(None);
        };
        let Some(header) = FrameHeader::decode(bytes, seed, offset, sums) else {
            return Ok(None);
        };
        let fits = offset.checked_add(header.frame_length()).is_some_and(|end| end <= self.limit);
        if !fits {
            return Ok(None);
        }
        let whole = FRAME_HEADER + header.metadata_length as usize;
        let Some(bytes) = self.get(offset, whole)? else {
            return Ok(None);
        };
        let metadata = &bytes[FRAME_HEADER..];
        let is_right = sums == Sums::Ignore || FrameHeader::metadata_sum(metadata, seed, offset) == header.metadata_sum;
        if !is_right || !Records::new(metadata, header.records).are_whole(header.body_length) {
            return Ok(None);
        }
        Ok(Some(Frame { offset, header, metadata, is_body_whole: true }))
    }

    /// The frame that follows `position`: there, or at the next group. Also says whether
    /// something unreadable lies between.
    fn locate(&mut self, position: u64, seed: Seed, sums: Sums) -> io::Result<Option<(u64, bool)>> {
        let next_group = align(position, GROUP_ALIGNMENT);
        let padding_end = next_group.min(self.limit);
        let is_between_groups = position == next_group || self.is_zero(position, padding_end)?;
        if !is_between_groups && self.frame(position, seed, sums)?.is_some() {
            return Ok(Some((position, false)));
        }
        let starts_group = self
            .frame(next_group, seed, sums)?
            .is_some_and(|frame| position == next_group || frame.header.group_start == next_group);
        Ok(starts_group.then_some((next_group, !is_between_groups)))
    }

    /// The next frame of a segment whose frames are known to reach the window's limit, and
    /// whether unreadable bytes lie before it. `None` and true when the rest is unreadable.
    pub(crate) fn next_sealed(&mut self, position: u64, seed: Seed) -> io::Result<(Option<u64>, bool)> {
        if position >= self.limit {
            return Ok((None, false));
        }
        if let Some((offset, is_damage)) = self.locate(position, seed, Sums::Verify)? {
            return Ok((Some(offset), is_damage));
        }
        let from = align(position + 1, FRAME_ALIGNMENT);
        let found = search(self, from, seed, Sums::Verify, &mut |_| true)?;
        Ok((found.map(|found| found.offset), true))
    }

    fn sum(&mut self, offset: u64, length: u64) -> io::Result<Option<u32>> {
        let mut sum = 0;
        let mut position = offset;
        let end = offset + length;
        while position < end {
            let step = (end - position).min(NEAR as u64) as usize;
            let Some(bytes) = self.get(position, step)? else {
                return Ok(None);
            };
            sum = crc32c_append(sum, bytes);
            position += step as u64;
        }
        Ok(Some(sum))
    }

    fn is_zero(&mut self, from: u64, to: u64) -> io::Result<bool> {
        Ok(self.get(from, (to - from) as usize)?.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0)))
    }
}

/// What a search found.
struct Found {
    offset: u64,
    group_start: u64,
}

/// Calls `visit` for each frame in order.
pub(crate) fn scan<R: ReadAt>(
    source: &R,
    length: u64,
    seed: Seed,
    extent: Extent,
    sums: Sums,
    visit: &mut impl FnMut(&Frame<'_>),
) -> io::Result<ScanEnd> {
    let limit = match extent {
        Extent::Sealed(end) => end.min(length),
        Extent::Open => length,
    };
    let mut window = Window::new(source, limit);
    let mut result = ScanEnd { end: FRAMES_START, last_group: FRAMES_START, damages: Vec::new(), has_torn_tail: false };
    let mut bodies: Vec<(u64, u64, u32)> = Vec::new();
    let mut position = FRAMES_START;
    loop {
        let found = window.locate(position, seed, sums)?;
        let Some((offset, is_damage)) = found else {
            let resumed = resume(&mut window, position, seed, extent, sums, &mut result)?;
            match resumed {
                Some(offset) => {
                    result.damages.push(Damage { from: position, to: offset });
                    position = offset;
                    continue;
                }
                None => break,
            }
        };
        if is_damage {
            result.damages.push(Damage { from: position, to: offset });
        }
        let mut is_body_whole = true;
        if extent == Extent::Open {
            bodies.clear();
            if let Some(frame) = window.frame(offset, seed, sums)? {
                bodies.extend(frame.messages().map(|(message, at)| (at, message.body_length(), message.body_sum)));
            }
            for (at, length, expected) in &bodies {
                is_body_whole &= window.sum(*at, *length)?.is_some_and(|sum| sum == *expected || sums == Sums::Ignore);
            }
        }
        let Some(frame) = window.frame(offset, seed, sums)? else {
            break;
        };
        let end = frame.end();
        let group_start = frame.header.group_start;
        if !is_body_whole {
            let proof = search(&mut window, end, seed, sums, &mut |found| found.group_start > offset)?;
            if proof.is_none() {
                result.has_torn_tail = true;
                break;
            }
        }
        if let Some(mut frame) = window.frame(offset, seed, sums)? {
            frame.is_body_whole = is_body_whole;
            visit(&frame);
        }
        result.last_group = group_start;
        position = end;
        result.end = end;
    }
    if let Extent::Sealed(end) = extent {
        if result.end < end {
            result.damages.push(Damage { from: result.end, to: end });
        }
        result.end = end;
    }
    Ok(result)
}

/// Where to go on after unreadable bytes; `None` when the frames end here.
fn resume<R: ReadAt>(
    window: &mut Window<'_, R>,
    position: u64,
    seed: Seed,
    extent: Extent,
    sums: Sums,
    result: &mut ScanEnd,
) -> io::Result<Option<u64>> {
    let from = align(position + 1, FRAME_ALIGNMENT);
    if extent == Extent::Open {
        // Only a group that began after the hole proves that the hole was once durable.
        let hole = align(position, GROUP_ALIGNMENT);
        let mut has_frames = false;
        if window
            .get(position, FRAME_HEADER)?
            .is_some_and(|bytes| sums == Sums::Verify && FrameHeader::decode(bytes, seed, position, sums).is_some())
        {
            has_frames = true;
        }
        let proof = search(window, from, seed, sums, &mut |found| {
            has_frames = true;
            found.group_start > hole
        })?;
        if proof.is_none() {
            result.has_torn_tail = has_frames;
            return Ok(None);
        }
    }
    Ok(search(window, from, seed, sums, &mut |_| true)?.map(|found| found.offset))
}

/// The first whole frame from `from` on that satisfies the condition.
fn search<R: ReadAt>(
    window: &mut Window<'_, R>,
    from: u64,
    seed: Seed,
    sums: Sums,
    accept: &mut impl FnMut(&Found) -> bool,
) -> io::Result<Option<Found>> {
    const WORD: u64 = FRAME_ALIGNMENT;
    let mut position = align(from, WORD);
    while position + (FRAME_HEADER as u64) <= window.limit {
        let step = (window.limit - position).min(NEAR as u64) as usize;
        let Some(bytes) = window.get(position, step)? else {
            return Ok(None);
        };
        let hit =
            bytes.chunks_exact(WORD as usize).position(looks_like_frame).map(|index| position + index as u64 * WORD);
        let Some(offset) = hit else {
            position += (step as u64 / WORD * WORD).max(WORD);
            continue;
        };
        match window.frame(offset, seed, sums)? {
            Some(frame) => {
                let end = frame.end();
                let found = Found { offset, group_start: frame.header.group_start };
                if accept(&found) {
                    return Ok(Some(found));
                }
                position = end;
            }
            None => position = offset + WORD,
        }
    }
    Ok(None)
}

/// One thing that [`scan_segment`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A frame: offset, its length, and how many records it holds.
    Frame {
        /// Where it begins.
        offset: u64,
        /// Bytes to the next.
        length: u64,
        /// Records in it.
        records: u32,
    },
    /// A message: its id, its metadata's length and its body's.
    Message {
        /// The id.
        id: crate::MessageId,
        /// Octets of metadata.
        metadata: u32,
        /// Octets of the body.
        body: u64,
    },
    /// Unreadable bytes.
    Damage(Damage),
    /// Where the frames end.
    End(u64),
}

/// Scans the bytes of one unsealed segment; for inspection and for fuzzing. Never panics.
/// Says nothing when the bytes have no segment header.
pub fn scan_segment(bytes: &[u8], sums: Sums, mut visit: impl FnMut(Finding)) {
    let Some(header) = SegmentHeader::decode(bytes) else {
        return;
    };
    let end = scan(&bytes, bytes.len() as u64, header.seed(), Extent::Open, sums, &mut |frame| {
        visit(Finding::Frame {
            offset: frame.offset,
            length: frame.header.frame_length(),
            records: frame.header.records,
        });
        for record in frame.records() {
            if let Record::Message(message) = record {
                if let Some(moved) = message.moved {
                    moved.outstanding().for_each(drop);
                }
                visit(Finding::Message {
                    id: message.id,
                    metadata: message.metadata.len() as u32,
                    body: message.body_length(),
                });
            } else if let Record::Roster(roster) = record {
                roster.entries().for_each(drop);
            }
        }
    });
    // Reading from memory cannot fail.
    if let Ok(end) = end {
        for damage in end.damages {
            visit(Finding::Damage(damage));
        }
        visit(Finding::End(end.end));
    }
}
