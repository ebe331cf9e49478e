//! What goes to a recipient: the content as it came, or their own message rendered from a document.

use bytes::{Bytes, BytesMut};
use postkeep_composition::Document;
use postkeep_smtp::data::{BareLineEnds, Content, DataLimits};

use super::state::{Batch, Work};
use super::{Inner, unsubscribe};
use crate::clock;
use crate::message::Message;
use crate::queue::Taken;

/// A content with what the wire has to know of it.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) content: Bytes,
    /// Relaxed DKIM body hash, when it was computed at intake.
    pub(super) body_hash: Option<[u8; 32]>,
    pub(super) eight_bit: bool,
    pub(super) has_dot_lines: bool,
    pub(super) header_length: usize,
    /// The box writes the pair of one-click unsubscribe, with these URIs beside its link.
    pub(super) unsubscribe: Option<Box<str>>,
}

/// Rendered messages were held against the limits when they were taken in.
const NO_LIMITS: DataLimits =
    DataLimits { size: u64::MAX, line_length: usize::MAX, bare_line_ends: BareLineEnds::Repair };

/// The message of one recipient. Only reference counts move when it is the same for all.
pub(super) fn rendered(message: &Message, recipient: u16) -> Result<Rendered, String> {
    let metadata = &message.metadata;
    if !metadata.composed {
        return Ok(Rendered {
            content: message.content.clone(),
            body_hash: metadata.body_hash,
            eight_bit: metadata.eight_bit,
            has_dot_lines: metadata.has_dot_lines,
            header_length: metadata.header_length as usize,
            unsubscribe: metadata.unsubscribe.clone(),
        });
    }
    let octets = Document::from_octets(message.content.clone())
        .message(usize::from(recipient))
        .map_err(|error| error.to_string())?;
    let mut content =
        Content::whole(BytesMut::from(Bytes::from(octets)), &NO_LIMITS).map_err(|error| error.to_string())?;
    let unsubscribe = metadata.unsubscribe.as_ref().and_then(|_| unsubscribe::cut_pair(&mut content)).map(Into::into);
    Ok(Rendered {
        unsubscribe,
        body_hash: None,
        eight_bit: content.eight_bit,
        has_dot_lines: content.has_dot_lines,
        header_length: content.header_length,
        content: content.octets.freeze(),
    })
}

impl Inner {
    /// Leaves one recipient in a batch; the others go back to the front of their queue, untried.
    pub(super) fn one_only(&self, batch: &mut Batch) {
        if batch.entries.len() < 2 {
            return;
        }
        let others = batch.entries.drain(1..).collect();
        let mut work = Work::default();
        {
            let mut state = self.state.lock();
            state.queues.give_back(batch.queue, Taken { entries: others, message: batch.message.clone() });
            state.gained(vec![batch.queue], clock::now(), &mut work);
        }
        self.perform(work);
    }
}
