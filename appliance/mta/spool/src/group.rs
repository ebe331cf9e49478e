//! Builds what one write and one sync make durable: frames one after the other, whose small
//! parts lie in one reused buffer and whose bodies are only referred to.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::format::{
    FRAME_ALIGNMENT, FRAME_HEADER, FrameHeader, GROUP_ALIGNMENT, MESSAGE_RECORD, NOTE_RECORD, SMALL_RECORD, Seed,
    align, put_accepted, put_complete, put_defer, put_note,
};
use crate::operation::{Batch, Operation, SubmitError};
use crate::scan::Frame;
use crate::{MessageId, NewMessage};

/// A batch on its way to the disk.
pub(crate) struct Pending {
    pub(crate) batch: Batch,
    /// The body sum of each accept, in order.
    pub(crate) sums: SmallVec<[u32; 1]>,
    pub(crate) answer: oneshot::Sender<Result<(), SubmitError>>,
    pub(crate) charge: Option<Charge>,
}

/// What an accept counts against the bound on waiting bytes, until it is answered.
pub(crate) struct Charge {
    bytes: u64,
    total: Arc<AtomicU64>,
}

impl Charge {
    /// Counts the bytes if they fit under the limit, or if nothing else waits.
    pub(crate) fn take(total: &Arc<AtomicU64>, bytes: u64, limit: u64) -> Option<Self> {
        total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting == 0 || waiting + bytes <= limit).then_some(waiting + bytes)
            })
            .ok()
            .map(|_| Self { bytes, total: total.clone() })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Pending {
    pub(crate) fn new(batch: Batch) -> (Self, oneshot::Receiver<Result<(), SubmitError>>) {
        let sums = batch
            .iter()
            .filter_map(|operation| match operation {
                Operation::Accept(message) => Some(body_sum(message)),
                _ => None,
            })
            .collect();
        let (answer, ticket) = oneshot::channel();
        let pending = Self { batch, sums, answer, charge: None };
        (pending, ticket)
    }

    pub(crate) fn has_accept(&self) -> bool {
        !self.sums.is_empty()
    }

    /// Bytes of its frame at most.
    pub(crate) fn size(&self) -> u64 {
        batch_size(&self.batch)
    }

    pub(crate) fn answer(mut self, answer: Result<(), SubmitError>) {
        // Before the answer: who has it may submit again.
        self.charge = None;
        // Nobody waits for it: that is the caller's choice.
        let _ = self.answer.send(answer);
    }
}

/// Bytes of the batch's frame at most.
pub(crate) fn batch_size(batch: &[Operation]) -> u64 {
    let records: u64 = batch
        .iter()
        .map(|operation| match operation {
            Operation::Accept(message) => {
                (MESSAGE_RECORD + message.metadata.len() + message.body[0].len() + message.body[1].len()) as u64
            }
            Operation::Complete { .. } | Operation::Defer { .. } => SMALL_RECORD as u64,
            Operation::Note { key, value } => (NOTE_RECORD + key.len() + value.len()) as u64,
        })
        .sum();
    align(FRAME_HEADER as u64 + records, FRAME_ALIGNMENT)
}

fn body_sum(message: &NewMessage) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&message.body[0]), &message.body[1])
}

enum Piece {
    Scratch(Range<usize>),
    Body(Bytes),
}

struct Placed {
    offset: u64,
    header: FrameHeader,
    metadata: Range<usize>,
}

/// A frame that small batches still join.
struct Joint {
    offset: u64,
    header_at: usize,
    records: u32,
}

/// No frame of joined batches grows beyond this much metadata.
const JOINT_LIMIT: usize = 64 << 10;

/// See the module.
#[derive(Default)]
pub(crate) struct Group {
    seed: u32,
    start: u64,
    /// Bytes of the finished frames.
    length: u64,
    scratch: Vec<u8>,
    pieces: Vec<Piece>,
    frames: Vec<Placed>,
    joint: Option<Joint>,
    pub(crate) batches: Vec<Pending>,
}

impl Group {
    /// Begins anew at `start` of the segment with the seed; buffers are kept.
    pub(crate) fn begin(&mut self, seed: Seed, start: u64) {
        self.seed = seed.0;
        self.start = start;
        self.length = 0;
        self.scratch.clear();
        self.pieces.clear();
        self.frames.clear();
        self.joint = None;
        self.batches.clear();
        // One huge group must not pin its buffer for ever.
        if self.scratch.capacity() > 4 << 20 {
            self.scratch = Vec::new();
        }
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        let joint = self
            .joint
            .as_ref()
            .map_or(0, |joint| align((self.scratch.len() - joint.header_at) as u64, FRAME_ALIGNMENT));
        self.length + joint
    }

    /// Adds a frame of its own.
    pub(crate) fn frame(
        &mut self,
        records: u32,
        put_records: impl FnOnce(&mut Vec<u8>),
        bodies: impl IntoIterator<Item = Bytes>,
    ) {
        self.finish_joint();
        let header_at = self.open_header();
        put_records(&mut self.scratch);
        self.close_frame(header_at, records, bodies);
    }

    /// Adds a batch; `locate` tells which segment holds a message.
    pub(crate) fn add(&mut self, pending: Pending, locate: &impl Fn(MessageId) -> u32) {
        if pending.has_accept() {
            self.finish_joint();
            let header_at = self.open_header();
            self.put_batch(&pending, locate);
            let bodies = pending.batch.iter().flat_map(|operation| match operation {
                Operation::Accept(message) => message.body.as_slice(),
                _ => &[],
            });
            self.close_frame(header_at, pending.batch.len() as u32, bodies.cloned());
        } else {
            if self.joint.as_ref().is_some_and(|joint| self.scratch.len() - joint.header_at > JOINT_LIMIT) {
                self.finish_joint();
            }
            if self.joint.is_none() {
                let offset = self.start + self.length;
                let header_at = self.open_header();
                self.joint = Some(Joint { offset, header_at, records: 0 });
            }
            self.put_batch(&pending, locate);
            if let Some(joint) = &mut self.joint {
                joint.records += pending.batch.len() as u32;
            }
        }
        self.batches.push(pending);
    }

    fn put_batch(&mut self, pending: &Pending, locate: &impl Fn(MessageId) -> u32) {
        let out = &mut self.scratch;
        let mut sums = pending.sums.iter();
        for operation in &pending.batch {
            match operation {
                Operation::Accept(message) => {
                    put_accepted(out, message, sums.next().copied().unwrap_or_default());
                }
                Operation::Complete { id, recipient } => {
                    put_complete(out, *id, *recipient, locate(*id));
                }
                Operation::Defer { id, recipient, state } => put_defer(out, *id, *recipient, *state),
                Operation::Note { key, value } => put_note(out, key, value),
            }
        }
    }

    fn open_header(&mut self) -> usize {
        let at = self.scratch.len();
        self.scratch.resize(at + FRAME_HEADER, 0);
        at
    }

    fn finish_joint(&mut self) {
        if let Some(joint) = self.joint.take() {
            debug_assert_eq!(joint.offset, self.start + self.length);
            self.close_frame(joint.header_at, joint.records, []);
        }
    }

    fn close_frame(&mut self, header_at: usize, records: u32, bodies: impl IntoIterator<Item = Bytes>) {
        let offset = self.start + self.length;
        let seed = Seed(self.seed);
        let metadata = header_at + FRAME_HEADER..self.scratch.len();
        self.push_scratch(header_at..metadata.end);
        let mut body_length = 0;
        for body in bodies {
            body_length += body.len() as u32;
            if !body.is_empty() {
                self.pieces.push(Piece::Body(body));
            }
        }
        let header = FrameHeader {
            group_start: self.start,
            records,
            metadata_length: metadata.len() as u32,
            body_length,
            metadata_sum: FrameHeader::metadata_sum(&self.scratch[metadata.clone()], seed, offset),
        };
        self.scratch[header_at..header_at + FRAME_HEADER].copy_from_slice(&header.encode(seed, offset));
        let used = FRAME_HEADER as u64 + metadata.len() as u64 + u64::from(body_length);
        self.push_zeros(header.frame_length() - used);
        self.length += header.frame_length();
        self.frames.push(Placed { offset, header, metadata });
    }

    fn push_scratch(&mut self, range: Range<usize>) {
        if let Some(Piece::Scratch(last)) = self.pieces.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        self.pieces.push(Piece::Scratch(range));
    }

    fn push_zeros(&mut self, count: u64) {
        if count > 0 {
            let at = self.scratch.len();
            self.scratch.resize(at + count as usize, 0);
            self.push_scratch(at..self.scratch.len());
        }
    }

    /// Ends the group: pads it, and returns what to write in order.
    pub(crate) fn finish(&mut self) -> Vec<IoSlice<'_>> {
        self.finish_joint();
        let end = self.start + self.length;
        self.push_zeros(align(end, GROUP_ALIGNMENT) - end);
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Scratch(range) => IoSlice::new(&self.scratch[range.clone()]),
                Piece::Body(body) => IoSlice::new(body),
            })
            .collect()
    }

    /// Where the last frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.length
    }

    /// Where the group begins.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The frames, once they are durable.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.frames.iter().map(|placed| Frame {
            offset: placed.offset,
            header: placed.header,
            metadata: &self.scratch[placed.metadata.clone()],
            is_body_whole: true,
        })
    }
}
