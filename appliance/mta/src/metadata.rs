//! What the spool keeps of a message beside its bytes: the envelope and what
//! intake found out, in one compact, versioned form.
//!
//! Decoding never panics; a record that does not decode is reported with the
//! reason and left in the spool.

use bytes::{BufMut, Bytes, BytesMut};
use postkeep_smtp::address::Address;
use postkeep_smtp::envelope::{BodyKind, Envelope, Notify, Recipient, Return, TlsRequest};
use thiserror::Error;

/// First byte of the encoded form.
const VERSION: u8 = 3;
/// Before there were lists.
const WITHOUT_LIST: u8 = 1;

/// Everything about a message but its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// Sender, recipients and ESMTP parameters.
    pub envelope: Envelope,
    /// Stream it belongs to.
    pub stream: Box<str>,
    /// Credential or network that handed it in; `postkeep` for reports of our own.
    pub credential: Box<str>,
    /// Domain of the From header: whose key signs.
    pub from_domain: Box<str>,
    /// `Message-ID` with its angle brackets.
    pub message_id: Box<str>,
    /// The list that `List-Id` names, lower case, without brackets.
    pub list: Option<Box<str>>,
    /// The box writes the pair of one-click unsubscribe for each recipient, and these URIs, `<mailto:…>` each and folded,
    /// stand beside its link.
    pub unsubscribe: Option<Box<str>>,
    /// The pool or source that the message chose instead of its stream's pool.
    pub pool: Option<Box<str>>,
    /// The sender's name for the job that it belongs to.
    pub job: Option<Box<str>>,
    /// The content is a document of parts; each recipient's message is rendered at delivery.
    pub composed: bool,
    /// Some line begins with a dot.
    pub has_dot_lines: bool,
    /// Some byte has its high bit set.
    pub eight_bit: bool,
    /// Where the body starts in the content, just after the empty line.
    pub header_length: u32,
    /// Relaxed DKIM body hash, computed once at intake when a key will sign.
    pub body_hash: Option<[u8; 32]>,
}

/// Why a metadata record could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MetadataError {
    /// Shorter than it says.
    #[error("message metadata ends early")]
    Truncated,
    /// Written by a newer Postkeep.
    #[error(
        "message metadata has version {0}, this build reads version {VERSION}; run the newer build, or drain the spool with it first"
    )]
    Version(u8),
    /// A field holds what it cannot.
    #[error("message metadata has an unreadable {0}")]
    Field(&'static str),
}

impl Metadata {
    /// The compact form that the spool keeps.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(160 + 48 * self.envelope.recipients.len());
        out.put_u8(VERSION);
        let envelope = &self.envelope;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(
            flag(self.has_dot_lines, 1)
                | flag(self.eight_bit, 2)
                | flag(self.body_hash.is_some(), 4)
                | flag(envelope.sender.is_some(), 8)
                | flag(envelope.body == BodyKind::EightBitMime, 16)
                | flag(envelope.smtputf8, 32)
                | flag(envelope.ret.is_some(), 64)
                | flag(matches!(envelope.ret, Some(Return::Full)), 128),
        );
        out.put_u8(
            flag(self.composed, 1)
                | flag(self.unsubscribe.is_some(), 2)
                | flag(self.pool.is_some(), 4)
                | flag(self.job.is_some(), 8)
                | flag(envelope.tls == TlsRequest::Required, 16)
                | flag(envelope.tls == TlsRequest::NotRequired, 32),
        );
        out.put_u32(self.header_length);
        if let Some(hash) = &self.body_hash {
            out.put_slice(hash);
        }
        for text in [&self.stream, &self.credential, &self.from_domain, &self.message_id] {
            put_text(&mut out, text);
        }
        put_text(&mut out, self.list.as_deref().unwrap_or(""));
        if let Some(sender) = &envelope.sender {
            put_text(&mut out, sender.as_str());
        }
        put_text(&mut out, envelope.envelope_id.as_deref().unwrap_or(""));
        out.put_u16(envelope.recipients.len() as u16);
        for recipient in &envelope.recipients {
            out.put_u8(notify_bits(recipient.notify) | flag(recipient.original.is_some(), 32));
            put_text(&mut out, recipient.address.as_str());
            if let Some(original) = &recipient.original {
                put_text(&mut out, original);
            }
        }
        for text in [&self.unsubscribe, &self.pool, &self.job].into_iter().flatten() {
            put_text(&mut out, text);
        }
        out.freeze()
    }

    /// Reads the compact form back.
    ///
    /// # Errors
    /// A short, newer or damaged record.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut reader = Reader(bytes);
        let version = reader.byte()?;
        if !(WITHOUT_LIST..=VERSION).contains(&version) {
            return Err(MetadataError::Version(version));
        }
        let flags = reader.byte()?;
        let more = if version == WITHOUT_LIST { 0 } else { reader.byte()? };
        let header_length = u32::from_be_bytes(reader.array()?);
        let body_hash = if flags & 4 != 0 { Some(reader.array()?) } else { None };
        let stream = reader.text("stream")?.into();
        let credential = reader.text("credential")?.into();
        let from_domain = reader.text("From domain")?.into();
        let message_id = reader.text("Message-ID")?.into();
        let list = if version == WITHOUT_LIST { None } else { reader.optional("list")? };
        let sender = if flags & 8 != 0 { Some(reader.address("sender")?) } else { None };
        let envelope_id = reader.optional("envelope id")?;
        let count = u16::from_be_bytes(reader.array()?);
        let mut recipients = Vec::with_capacity(count.min(1024) as usize);
        for _ in 0..count {
            let bits = reader.byte()?;
            let address = reader.address("recipient")?;
            let original = if bits & 32 != 0 { Some(reader.text("original recipient")?.into()) } else { None };
            recipients.push(Recipient { address, notify: notify_from(bits), original });
        }
        // Records from before there were any have none of these bits.
        let mut some = |bit: u8, field| match more & bit {
            0 => Ok(None),
            _ => reader.text(field).map(|text| Some(text.into())),
        };
        let (unsubscribe, pool, job) = (some(2, "unsubscribe")?, some(4, "pool")?, some(8, "job")?);
        Ok(Self {
            envelope: Envelope {
                sender,
                recipients,
                body: if flags & 16 != 0 { BodyKind::EightBitMime } else { BodyKind::SevenBit },
                smtputf8: flags & 32 != 0,
                ret: (flags & 64 != 0).then_some(if flags & 128 != 0 { Return::Full } else { Return::Headers }),
                envelope_id,
                tls: match (more & 16 != 0, more & 32 != 0) {
                    (true, _) => TlsRequest::Required,
                    (false, true) => TlsRequest::NotRequired,
                    (false, false) => TlsRequest::Unsaid,
                },
            },
            stream,
            credential,
            from_domain,
            message_id,
            list,
            unsubscribe,
            pool,
            job,
            composed: more & 1 != 0,
            has_dot_lines: flags & 1 != 0,
            eight_bit: flags & 2 != 0,
            header_length,
            body_hash,
        })
    }
}

fn notify_bits(notify: Option<Notify>) -> u8 {
    notify.map_or(0, |notify| {
        16 | u8::from(notify.never)
            | u8::from(notify.success) << 1
            | u8::from(notify.failure) << 2
            | u8::from(notify.delay) << 3
    })
}

fn notify_from(bits: u8) -> Option<Notify> {
    (bits & 16 != 0).then_some(Notify {
        never: bits & 1 != 0,
        success: bits & 2 != 0,
        failure: bits & 4 != 0,
        delay: bits & 8 != 0,
    })
}

fn put_text(out: &mut BytesMut, text: &str) {
    // Every text here came through intake, whose line limit is far below 64 KiB.
    let bytes = &text.as_bytes()[..text.len().min(u16::MAX as usize)];
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], MetadataError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(MetadataError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, MetadataError> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetadataError> {
        self.take(N)?.try_into().map_err(|_| MetadataError::Truncated)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, MetadataError> {
        let length = u16::from_be_bytes(self.array()?);
        std::str::from_utf8(self.take(length as usize)?).map_err(|_| MetadataError::Field(field))
    }

    /// A text that is absent when it is empty.
    fn optional(&mut self, field: &'static str) -> Result<Option<Box<str>>, MetadataError> {
        Ok(Some(self.text(field)?).filter(|text| !text.is_empty()).map(Into::into))
    }

    fn address(&mut self, field: &'static str) -> Result<Address, MetadataError> {
        Address::parse(self.text(field)?).map_err(|_| MetadataError::Field(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Metadata {
        let recipient = |address: &str, notify, original: Option<&str>| Recipient {
            address: Address::parse(address).unwrap(),
            notify,
            original: original.map(Into::into),
        };
        Metadata {
            envelope: Envelope {
                sender: Some(Address::parse("bounces@sender.example").unwrap()),
                recipients: vec![
                    recipient("one@example.org", None, None),
                    recipient(
                        "two@example.net",
                        Some(Notify { never: false, success: true, failure: true, delay: false }),
                        Some("rfc822;two@example.net"),
                    ),
                ],
                body: BodyKind::EightBitMime,
                smtputf8: false,
                ret: Some(Return::Headers),
                envelope_id: Some("QQ314159".into()),
                tls: TlsRequest::Required,
            },
            stream: "news".into(),
            credential: "shop".into(),
            from_domain: "sender.example".into(),
            message_id: "<1@sender.example>".into(),
            list: Some("weekly.sender.example".into()),
            unsubscribe: Some("<mailto:leave@sender.example>".into()),
            pool: Some("fast".into()),
            job: Some("week 7".into()),
            composed: true,
            has_dot_lines: true,
            eight_bit: true,
            header_length: 321,
            body_hash: Some([7; 32]),
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let message = example();
        assert_eq!(Metadata::decode(&message.encode()), Ok(message));
        let mut bare = example();
        bare.envelope.sender = None;
        bare.list = None;
        (bare.unsubscribe, bare.pool, bare.job) = (Some("".into()), None, None);
        bare.envelope.ret = None;
        bare.envelope.envelope_id = None;
        bare.body_hash = None;
        bare.envelope.tls = TlsRequest::NotRequired;
        assert_eq!(Metadata::decode(&bare.encode()), Ok(bare));
    }

    #[test]
    fn a_record_from_before_there_were_lists_still_reads() {
        let mut message = example();
        let list = message.list.take().unwrap();
        message.composed = false;
        message.envelope.tls = TlsRequest::Unsaid;
        (message.unsubscribe, message.pool, message.job) = (None, None, None);
        let mut old = message.encode().to_vec();
        // Where the empty list stands: after the Message-ID.
        let place = old.windows(18).position(|window| window == b"<1@sender.example>").unwrap() + 18;
        old.drain(place..place + 2);
        old.remove(2);
        old[0] = 1;
        assert_eq!(Metadata::decode(&old), Ok(message));
        assert_eq!(&*list, "weekly.sender.example");
    }

    #[test]
    fn a_record_of_the_version_before_still_reads() {
        let mut message = example();
        (message.unsubscribe, message.pool, message.job) = (None, None, None);
        let mut old = message.encode().to_vec();
        old[0] = 2;
        assert_eq!(Metadata::decode(&old), Ok(message));
    }

    #[test]
    fn every_shorter_record_is_refused_without_panic() {
        let bytes = example().encode();
        for length in 0..bytes.len() {
            assert!(Metadata::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert_eq!(Metadata::decode(&[9]), Err(MetadataError::Version(9)));
    }
}
