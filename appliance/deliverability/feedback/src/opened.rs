//! A message opened: its header, its parts in reading order, and the message that it returns.

use std::borrow::Cow;

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

use crate::address::addresses;

/// Nesting of messages that is followed.
const DEPTH: usize = 4;
/// Parts looked at.
const MOST_PARTS: usize = 200;
/// Octets of one part's text that are looked at.
const LONGEST_TEXT: usize = 256 << 10;
/// What some editors put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a part is, as far as reports know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Words for people.
    Text,
    /// `message/delivery-status`, and its international twin.
    DeliveryStatus,
    /// `message/feedback-report`.
    FeedbackReport,
    /// A returned message, or its header.
    Returned,
}

/// One part with its text, decoded, line ends LF.
#[derive(Debug)]
pub(crate) struct Part {
    pub kind: PartKind,
    pub text: String,
}

/// The opened message.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Header fields in order: lower-case name, unfolded value; the subject is decoded.
    headers: Vec<(String, String)>,
    pub parts: Vec<Part>,
    /// `Content-Type` of the whole, lower case, with its parameters.
    pub content_type: String,
    /// The own header of the message that came back, where it is attached as a message.
    attached: Option<String>,
    /// The return path of the envelope, where whoever took the message in knows it.
    envelope_path: Option<String>,
}

impl Opened {
    /// `None` when there is no header to speak of.
    pub(crate) fn new(octets: &[u8], envelope_path: Option<&str>) -> Option<Self> {
        let octets = unix_line_ends(octets);
        let octets = without_envelope_line(octets.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&octets));
        let message = MessageParser::default().parse(octets)?;
        let headers = fields(&message);
        if headers.is_empty() {
            return None;
        }
        let content_type = headers
            .iter()
            .find(|(name, _)| name == "content-type")
            .map(|(_, value)| value.to_ascii_lowercase())
            .unwrap_or_default();
        let mut parts = Vec::new();
        collect(&message, 0, &mut parts);
        Some(Self {
            headers,
            parts,
            content_type,
            attached: attached_header(&message),
            envelope_path: envelope_path.map(str::to_owned),
        })
    }

    /// The first field of that name; lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Every field of that name.
    pub(crate) fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.headers.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The names of the fields that a test is true of; lower case.
    pub(crate) fn headers_named(&self, test: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(name, _)| name.as_str()).filter(move |name| test(name))
    }

    /// The return path as the envelope says, else as the header; absent: nobody knows.
    pub(crate) fn return_path(&self) -> Option<&str> {
        self.envelope_path.as_deref().or_else(|| self.header("return-path"))
    }

    /// The addresses of who wrote what came back.
    pub(crate) fn senders(&self) -> Vec<String> {
        let returned = ["return-path", "from", "sender"].iter().filter_map(|name| self.attached_header(name));
        let own = ["to", "delivered-to"].iter().flat_map(|name| self.headers(name)).map(str::to_owned);
        returned.chain(own).flat_map(|value| addresses(&value)).collect()
    }

    /// The parts of that kind.
    pub(crate) fn of(&self, kind: PartKind) -> impl Iterator<Item = &str> + '_ {
        self.parts.iter().filter(move |part| part.kind == kind).map(|part| part.text.as_str())
    }

    /// A field of the own header of the message that came back, not of what carries it.
    pub(crate) fn attached_header(&self, name: &str) -> Option<String> {
        match &self.attached {
            Some(header) => field_in(header, name),
            None => self.returned_header(name),
        }
    }

    /// A field of the returned message's header; what stands in its body is none.
    pub(crate) fn returned_header(&self, name: &str) -> Option<String> {
        self.of(PartKind::Returned).find_map(|text| {
            let header = text.trim_start_matches('\n').split("\n\n").next().unwrap_or_default();
            field_in(header, name)
        })
    }
}

/// The first field of that name (lower case) in a block of text that begins with a header.
pub(crate) fn field_in(text: &str, name: &str) -> Option<String> {
    let mut found: Option<String> = None;
    for line in text.lines() {
        if line.trim().is_empty() {
            if found.is_some() {
                break;
            }
            continue;
        }
        if let Some(value) = &mut found {
            if line.starts_with([' ', '\t']) {
                value.push(' ');
                value.push_str(line.trim());
                continue;
            }
            break;
        }
        if let Some((own, value)) = line.split_once(':')
            && own.trim().eq_ignore_ascii_case(name)
        {
            found = Some(value.trim().to_owned());
        }
    }
    found
}

/// The header of the first message that is attached as one and is no report.
fn attached_header(message: &Message<'_>) -> Option<String> {
    message.parts.iter().find_map(|part| {
        let PartType::Message(inner) = &part.body else { return None };
        let kind = part.content_type().and_then(|kind| kind.subtype()).unwrap_or_default();
        let is_report = ["delivery-status", "feedback-report"].iter().any(|report| kind.ends_with(report));
        let text = String::from_utf8_lossy(inner.raw_message());
        let header = text.split("\n\n").next().unwrap_or_default();
        (!is_report).then(|| header.get(..header.floor_char_boundary(LONGEST_TEXT)).unwrap_or_default().to_owned())
    })
}

fn fields(message: &Message<'_>) -> Vec<(String, String)> {
    message
        .headers_raw()
        .map(|(name, value)| {
            let unfolded = value.lines().map(str::trim).collect::<Vec<_>>().join(" ");
            let name = name.trim().to_ascii_lowercase();
            // Addresses stay as they are: decoded, a display name could pass for one.
            let is_encoded = name == "subject" && unfolded.contains("=?");
            let value = if is_encoded { message.subject().unwrap_or(&unfolded) } else { &unfolded };
            (name, value.trim().to_owned())
        })
        .collect()
}

fn collect(message: &Message<'_>, depth: usize, out: &mut Vec<Part>) {
    for part in &message.parts {
        if out.len() >= MOST_PARTS {
            return;
        }
        let kind = part
            .content_type()
            .map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()).to_ascii_lowercase())
            .unwrap_or_default();
        let special = match kind.as_str() {
            "message/delivery-status" | "message/global-delivery-status" => Some(PartKind::DeliveryStatus),
            "message/feedback-report" => Some(PartKind::FeedbackReport),
            "text/rfc822-headers" | "message/global-headers" | "message/rfc822-headers" | "text/rfc822" => {
                Some(PartKind::Returned)
            }
            _ => None,
        };
        match (&part.body, special) {
            (PartType::Message(inner), special) => {
                // What claims to be a report and is parsed as a message is read as it stands.
                let raw = String::from_utf8_lossy(inner.raw_message());
                push(out, special.unwrap_or(PartKind::Returned), &raw);
            }
            // A boundary that is not said, or never comes: what is there is read as it stands.
            (PartType::Multipart(parts), _) if parts.is_empty() => {
                push(out, PartKind::Text, &String::from_utf8_lossy(part.contents()));
            }
            (PartType::Multipart(_), _) => {}
            (_, Some(kind)) => push(out, kind, &String::from_utf8_lossy(part.contents())),
            (PartType::Text(text), None) => push(out, PartKind::Text, text),
            (PartType::Html(html), None) => {
                push(out, PartKind::Text, &mail_parser::decoders::html::html_to_text(html));
            }
            (PartType::Binary(_) | PartType::InlineBinary(_), None) => {
                // A report in a part of a type that nobody knows is still a report.
                let text = String::from_utf8_lossy(part.contents());
                if kind.starts_with("message/") {
                    push(out, PartKind::Returned, &text);
                } else if depth < DEPTH && text.contains("Final-Recipient:") {
                    push(out, PartKind::DeliveryStatus, &text);
                }
            }
        }
    }
}

fn push(out: &mut Vec<Part>, kind: PartKind, text: &str) {
    let text = text.get(..text.floor_char_boundary(LONGEST_TEXT)).unwrap_or_default();
    out.push(Part { kind, text: text.replace("\r\n", "\n").replace('\r', "\n") });
}

fn unix_line_ends(octets: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\r', octets).is_none() {
        return Cow::Borrowed(octets);
    }
    let mut out = Vec::with_capacity(octets.len());
    let mut octets = octets.iter().peekable();
    while let Some(octet) = octets.next() {
        if *octet == b'\r' {
            if octets.peek() == Some(&&b'\n') {
                octets.next();
            }
            out.push(b'\n');
        } else {
            out.push(*octet);
        }
    }
    Cow::Owned(out)
}

/// A mailbox file begins each message with `From `.
fn without_envelope_line(octets: &[u8]) -> &[u8] {
    let mut rest = octets;
    while rest.first().is_some_and(u8::is_ascii_whitespace) {
        rest = rest.get(1..).unwrap_or_default();
    }
    if rest.starts_with(b"From ") || rest.starts_with(b">From ") {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        rest = rest.get(end..).unwrap_or_default();
    }
    rest
}
