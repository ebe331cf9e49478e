//! Reading one message back: where the index says it lies, both sums checked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::MessageId;
use crate::RetryState;
use crate::format::{FRAME_HEADER, FrameHeader, MessageRecord, Seed, Sums};
use crate::index::Entry;
use crate::log::Shared;
use crate::operation::{ReadError, Stored, StoredMetadata};
use crate::replay::segment_path;
use crate::scan::Frame;
use crate::state::from_units;
use crate::storage::Storage;

/// A frame's metadata is read with this much at once when the body is not wanted.
const METADATA_READ: u64 = 4096;
/// A message may be moved while it is being read; this often it is looked up anew.
const LOOK_UPS: usize = 8;

struct Place<F> {
    entry: Entry,
    seed: Seed,
    file: Arc<F>,
    outstanding: Vec<(u16, RetryState)>,
}

enum Failure {
    /// The segment went away meanwhile.
    Gone,
    Damaged(&'static str),
    Storage(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Storage(error)
    }
}

impl<S: Storage> Shared<S> {
    pub(crate) fn read(&self, id: MessageId) -> Result<Stored, ReadError> {
        self.look_up(id, |place| self.read_at(id, place))
    }

    pub(crate) fn read_metadata(&self, id: MessageId) -> Result<StoredMetadata, ReadError> {
        self.look_up(id, |place| {
            let (_, metadata) = self.read_frame(place, METADATA_READ)?;
            let (message, _) = metadata.message(id, place)?;
            Ok(StoredMetadata {
                received: message.received,
                metadata: metadata.bytes.slice_ref(message.metadata),
                body_length: u32::try_from(message.body_length()).unwrap_or(u32::MAX),
                outstanding: place.outstanding.clone(),
            })
        })
    }

    fn look_up<T>(&self, id: MessageId, read: impl Fn(&Place<S::File>) -> Result<T, Failure>) -> Result<T, ReadError> {
        let mut look_ups = 0;
        loop {
            look_ups += 1;
            let (entry, result) = match self.place(id)? {
                Ok(place) => (place.entry, read(&place)),
                Err((entry, failure)) => (entry, Err(failure)),
            };
            let failure = match result {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let is_still_there = self
                .state
                .lock()
                .index
                .get(id)
                .is_some_and(|now| (now.segment, now.offset) == (entry.segment, entry.offset));
            if !is_still_there && look_ups < LOOK_UPS {
                continue;
            }
            let path = segment_path(&self.directory, entry.segment);
            let offset = from_units(entry.offset);
            return Err(match failure {
                Failure::Gone => ReadError::Unknown(id),
                Failure::Damaged(what) => ReadError::Damaged { id, path, offset, what },
                Failure::Storage(source) => ReadError::Storage { id, path, source },
            });
        }
    }

    #[expect(clippy::type_complexity, reason = "used once, just above")]
    fn place(&self, id: MessageId) -> Result<Result<Place<S::File>, (Entry, Failure)>, ReadError> {
        let state = self.state.lock();
        let entry = state.index.get(id).ok_or(ReadError::Unknown(id))?;
        let outstanding = state.index.outstanding(&entry).into_iter().map(|one| (one.recipient, one.state)).collect();
        let Some(seed) = state.segments.get(&entry.segment).map(|segment| segment.seed) else {
            return Ok(Err((entry, Failure::Gone)));
        };
        let open = state.file(entry.segment);
        drop(state);
        let file = match open {
            Some(file) => Some(file),
            None => match self.storage.open(&segment_path(&self.directory, entry.segment)) {
                Ok(file) => self.state.lock().keep_file(entry.segment, file.into()),
                Err(error) => return Ok(Err((entry, error.into()))),
            },
        };
        Ok(match file {
            Some(file) => Ok(Place { entry, seed, file, outstanding }),
            None => Err((entry, Failure::Gone)),
        })
    }

    fn read_at(&self, id: MessageId, place: &Place<S::File>) -> Result<Stored, Failure> {
        let (header, frame) = self.read_frame(place, from_units(place.entry.length))?;
        let (message, body_offset) = frame.message(id, place)?;
        let body_length = message.body_length() as usize;
        let start = (body_offset - from_units(place.entry.offset)) as usize;
        let in_frame = FRAME_HEADER + header.metadata_length as usize;
        // The frame of one message was read whole; of several, the body has its own place.
        let body = if start >= in_frame && start + body_length <= frame.bytes.len() {
            frame.bytes.slice(start..start + body_length)
        } else {
            self.read_bytes(place, body_offset, body_length)?
        };
        if crc32c::crc32c(&body) != message.body_sum {
            return Err(Failure::Damaged("the body's sum is wrong"));
        }
        let prefix_length = message.prefix_length as usize;
        Ok(Stored {
            received: message.received,
            metadata: frame.bytes.slice_ref(message.metadata),
            prefix: body.slice(..prefix_length),
            content: body.slice(prefix_length..),
            outstanding: place.outstanding.clone(),
        })
    }

    /// The frame's bytes: its header and metadata whole and checked, and `hint` bytes at least
    /// where the file has them.
    fn read_frame(&self, place: &Place<S::File>, hint: u64) -> Result<(FrameHeader, FrameBytes), Failure> {
        let offset = from_units(place.entry.offset);
        let hint = usize::try_from(hint).unwrap_or(usize::MAX).max(FRAME_HEADER);
        let mut buffer = vec![0; hint];
        let filled = self.storage.read_at(&place.file, offset, &mut buffer)?;
        buffer.truncate(filled);
        let header = FrameHeader::decode(&buffer, place.seed, offset, Sums::Verify)
            .ok_or(Failure::Damaged("the frame's header is wrong"))?;
        let whole = FRAME_HEADER + header.metadata_length as usize;
        let bytes = if whole <= buffer.len() { Bytes::from(buffer) } else { self.read_bytes(place, offset, whole)? };
        let metadata = bytes.slice(FRAME_HEADER..whole);
        if FrameHeader::metadata_sum(&metadata, place.seed, offset) != header.metadata_sum {
            return Err(Failure::Damaged("the metadata's sum is wrong"));
        }
        let frame = FrameBytes { bytes, header, metadata_end: whole };
        Ok((header, frame))
    }

    fn read_bytes(&self, place: &Place<S::File>, offset: u64, length: usize) -> Result<Bytes, Failure> {
        let mut buffer = vec![0; length];
        let filled = self.storage.read_at(&place.file, offset, &mut buffer)?;
        if filled < length {
            return Err(Failure::Damaged("the segment is cut short"));
        }
        Ok(buffer.into())
    }
}

struct FrameBytes {
    bytes: Bytes,
    header: FrameHeader,
    metadata_end: usize,
}

impl FrameBytes {
    fn message<F>(&self, id: MessageId, place: &Place<F>) -> Result<(MessageRecord<'_>, u64), Failure> {
        let frame = Frame {
            offset: from_units(place.entry.offset),
            header: self.header,
            metadata: &self.bytes[FRAME_HEADER..self.metadata_end],
            is_body_whole: true,
        };
        frame
            .messages()
            .find(|(message, _)| message.id == id)
            .ok_or(Failure::Damaged("the frame does not hold the message"))
    }
}
