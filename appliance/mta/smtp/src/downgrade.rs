//! Turning a message with 8-bit content into one of 7 bits, for a host without
//! 8BITMIME (RFC 6152 §3, RFC 2045 §6): leaves of the MIME structure that need it
//! become quoted-printable (text) or base64 (the rest). All else stays as it is,
//! octet by octet, and a message that cannot be changed without harm is refused.

mod encoding;
mod entity;

use entity::{Entity, MediaType, Multipart};

/// Deepest nesting that is followed.
pub const MAXIMUM_DEPTH: usize = 20;
/// Most parts that are looked at.
pub const MAXIMUM_PARTS: usize = 1000;

/// Why a message has to be returned with 5.6.3 (conversion required but not supported).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotDowngrade {
    /// Octets above 127 in the header of the message or of a part.
    #[error("a header has octets above 127")]
    Header,
    /// In `multipart/signed` the signature covers the encoding (RFC 1847 §2.1).
    #[error("an 8-bit part is inside multipart/signed, where a change breaks the signature")]
    Signed,
    /// `message/partial` and others that must be 7-bit and may not be encoded (RFC 2046 §5.2).
    #[error("an 8-bit part is of a message type that may not be encoded")]
    Message,
    /// A composite part with an encoding, a multipart without boundary, a leaf whose encoding its content contradicts.
    #[error("the MIME structure is broken: {0}")]
    Malformed(&'static str),
    /// More than [`MAXIMUM_DEPTH`] or [`MAXIMUM_PARTS`].
    #[error("the MIME structure has more than {MAXIMUM_DEPTH} levels or {MAXIMUM_PARTS} parts")]
    TooComplex,
}

/// What an entity is when it does not say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A message with a header of its own: `MIME-Version` belongs there.
    Message,
    /// A part of a multipart.
    Part,
    /// A part of `multipart/digest`: a message unless it says otherwise.
    DigestPart,
}

/// The message in 7 bits. A message that has only 7 bits comes back unchanged.
///
/// Content that no type describes gets `text/plain` with `utf-8` when it is
/// UTF-8 and `unknown-8bit` (RFC 1428) otherwise. In preamble and epilogue of a
/// multipart, which no reader shows, octets above 127 become `?`.
///
/// # Errors
/// [`CannotDowngrade`] when the content may not be changed or cannot be understood.
pub fn to_seven_bit(content: &[u8]) -> Result<Vec<u8>, CannotDowngrade> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 3 + 256);
    Walk { out: &mut out, parts: 0 }.entity(content, Role::Message, 0)?;
    Ok(out)
}

struct Walk<'a> {
    out: &'a mut Vec<u8>,
    parts: usize,
}

impl Walk<'_> {
    fn entity(&mut self, input: &[u8], role: Role, depth: usize) -> Result<(), CannotDowngrade> {
        if input.is_ascii() {
            self.out.extend_from_slice(input);
            return Ok(());
        }
        self.parts += 1;
        if depth > MAXIMUM_DEPTH || self.parts > MAXIMUM_PARTS {
            return Err(CannotDowngrade::TooComplex);
        }
        let entity = Entity::read(input);
        if !entity.header.is_ascii() {
            return Err(CannotDowngrade::Header);
        }
        let media = entity.media_type();
        match media.as_ref().map(|media| (media.kind.as_str(), media.subtype.as_str())) {
            None if role == Role::DigestPart => self.message(&entity, role, depth),
            None => self.untyped(&entity, role),
            Some(("multipart", "signed")) => Err(CannotDowngrade::Signed),
            Some(("multipart", subtype)) => {
                let inside = if subtype == "digest" { Role::DigestPart } else { Role::Part };
                self.multipart(&entity, role, media.as_ref(), inside, depth)
            }
            Some(("message", "rfc822")) => self.message(&entity, role, depth),
            // The types of RFC 6532 and 6533 may be encoded, unlike their elders.
            Some(("message", subtype)) if !subtype.starts_with("global") => Err(CannotDowngrade::Message),
            Some((kind, _)) => self.leaf(&entity, role, kind == "text"),
        }
    }

    fn multipart(
        &mut self,
        entity: &Entity<'_>,
        role: Role,
        media: Option<&MediaType>,
        inside: Role,
        depth: usize,
    ) -> Result<(), CannotDowngrade> {
        const NO_BOUNDARY: CannotDowngrade = CannotDowngrade::Malformed("a multipart without boundary");
        let boundary = media.and_then(|media| media.boundary.as_deref()).ok_or(NO_BOUNDARY)?;
        self.composite_header(entity, role)?;
        let mut walker = Multipart::new(entity.body, boundary);
        let preamble = walker.preamble().ok_or(NO_BOUNDARY)?;
        self.unseen(preamble);
        while let Some(part) = walker.next_part() {
            self.out.extend_from_slice(part.delimiter);
            self.entity(part.content, inside, depth + 1)?;
        }
        let (close, epilogue) = walker.end();
        self.out.extend_from_slice(close);
        self.unseen(epilogue);
        Ok(())
    }

    fn message(&mut self, entity: &Entity<'_>, role: Role, depth: usize) -> Result<(), CannotDowngrade> {
        self.composite_header(entity, role)?;
        self.entity(entity.body, Role::Message, depth + 1)
    }

    /// A composite may say 7bit, 8bit or binary and nothing else (RFC 2045 §6.4); now it is 7bit.
    fn composite_header(&mut self, entity: &Entity<'_>, role: Role) -> Result<(), CannotDowngrade> {
        match entity.transfer_encoding().as_deref() {
            None => entity.write_header(self.out, None, mime_version(entity, role), None),
            Some("7bit" | "8bit" | "binary") => {
                entity.write_header(self.out, Some("7bit"), mime_version(entity, role), None);
            }
            Some(_) => return Err(CannotDowngrade::Malformed("an encoding on a multipart or message")),
        }
        Ok(())
    }

    /// Content without a type.
    fn untyped(&mut self, entity: &Entity<'_>, role: Role) -> Result<(), CannotDowngrade> {
        check_leaf_encoding(entity)?;
        let charset = if std::str::from_utf8(entity.body).is_ok() { "utf-8" } else { "unknown-8bit" };
        entity.write_header(self.out, Some("quoted-printable"), mime_version(entity, role), Some(charset));
        encoding::quoted_printable(entity.body, self.out);
        Ok(())
    }

    fn leaf(&mut self, entity: &Entity<'_>, role: Role, text: bool) -> Result<(), CannotDowngrade> {
        check_leaf_encoding(entity)?;
        let encoding = if text { "quoted-printable" } else { "base64" };
        entity.write_header(self.out, Some(encoding), mime_version(entity, role), None);
        if text {
            encoding::quoted_printable(entity.body, self.out);
        } else {
            encoding::base64(entity.body, self.out);
            // Inside a multipart the last line end belongs to the delimiter that follows.
            if entity.body.ends_with(b"\n") && role == Role::Message {
                self.out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn unseen(&mut self, octets: &[u8]) {
        self.out.extend(octets.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' }));
    }
}

/// A message that gets a MIME field must say that it is MIME (RFC 2045 §4).
fn mime_version(entity: &Entity<'_>, role: Role) -> bool {
    role == Role::Message && !entity.has(b"mime-version")
}

fn check_leaf_encoding(entity: &Entity<'_>) -> Result<(), CannotDowngrade> {
    match entity.transfer_encoding().as_deref() {
        None | Some("7bit" | "8bit" | "binary") => Ok(()),
        Some(_) => Err(CannotDowngrade::Malformed("8-bit content under another encoding")),
    }
}

#[cfg(test)]
mod tests;
