//! What a caller may say in JSON, and the composition that it becomes. Pure.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postkeep_composition::{Attachment, Composition, Mailbox, Recipient, Style, Values};
use postkeep_smtp::Address;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::bounded::{list, optional_table, table};
use crate::problem::Fault;

/// Recipients of one call.
pub(crate) const MOST_RECIPIENTS: usize = 10_000;
/// Addresses for replies.
const MOST_REPLY_TO: usize = 64;
/// Header fields of one message.
const MOST_HEADERS: usize = 64;
/// Files of one message.
const MOST_ATTACHMENTS: usize = 64;
/// Values of one recipient, or for all.
pub(crate) const MOST_VALUES: usize = 256;
/// Octets of all files of a call for many, in base64: each mail has them anew.
const BATCH_FILES: usize = 3 << 20;
/// Longest subject, name or header value, in octets.
const LONGEST_VALUE: usize = 4096;

/// Fields that the box writes itself, or that other keys of the request stand for.
const RESERVED: [&str; 22] = [
    "from",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "received",
    "return-path",
    "dkim-signature",
    "sender",
    "list-id",
    "x-postkeep-token",
    "cfbl-address",
    "cfbl-feedback-id",
    "authentication-results",
    "arc-seal",
];

/// An address, alone or with a name.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum MailboxRequest {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    Text(String),
    /// With its name apart.
    Parts(MailboxParts),
}

impl<'de> Deserialize<'de> for MailboxRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = MailboxRequest;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an address, as text or as {\"address\":…}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MailboxRequest, E> {
                match text.len() {
                    0..=LONGEST_VALUE => Ok(MailboxRequest::Text(text.to_owned())),
                    _ => Err(E::custom(format!("an address is longer than {LONGEST_VALUE} octets"))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MailboxRequest, A::Error> {
                let parts = MailboxParts::deserialize(MapAccessDeserializer::new(map))?;
                if parts.address.len() > LONGEST_VALUE {
                    return Err(A::Error::custom(format!("an address is longer than {LONGEST_VALUE} octets")));
                }
                Ok(MailboxRequest::Parts(parts))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Default for MailboxRequest {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// An address with its name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct MailboxParts {
    pub(crate) address: String,
    pub(crate) name: Option<String>,
    /// Values of this recipient; in `to` only.
    #[serde(default, deserialize_with = "optional_table::<MOST_VALUES, _, _>")]
    pub(crate) substitutions: Option<Values>,
}

/// A file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct AttachmentRequest {
    pub(crate) filename: String,
    #[serde(default = "octets")]
    pub(crate) content_type: String,
    /// Base64.
    pub(crate) content: String,
    /// Shown in the HTML as `cid:…`.
    pub(crate) content_id: Option<String>,
}

fn octets() -> String {
    "application/octet-stream".to_owned()
}

/// A message as parts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct MessageRequest {
    pub(crate) from: MailboxRequest,
    #[serde(deserialize_with = "list::<MOST_RECIPIENTS, _, _>")]
    pub(crate) to: Vec<MailboxRequest>,
    #[serde(default, deserialize_with = "list::<MOST_RECIPIENTS, _, _>")]
    pub(crate) cc: Vec<MailboxRequest>,
    #[serde(default, deserialize_with = "list::<MOST_RECIPIENTS, _, _>")]
    pub(crate) bcc: Vec<MailboxRequest>,
    #[serde(default, deserialize_with = "list::<MOST_REPLY_TO, _, _>")]
    pub(crate) reply_to: Vec<MailboxRequest>,
    /// Return path; absent: the address of `from`.
    pub(crate) sender: Option<String>,
    #[serde(default)]
    pub(crate) subject: String,
    pub(crate) text: Option<String>,
    pub(crate) html: Option<String>,
    #[serde(default, deserialize_with = "table::<MOST_HEADERS, _, _>")]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "list::<MOST_ATTACHMENTS, _, _>")]
    pub(crate) attachments: Vec<AttachmentRequest>,
    /// Values for all recipients.
    #[serde(default, deserialize_with = "table::<MOST_VALUES, _, _>")]
    pub(crate) substitutions: Values,
    pub(crate) stream: Option<String>,
    /// Identifier for `List-Id`.
    pub(crate) list: Option<String>,
    /// How placeholders are written; never said by a caller.
    #[serde(skip)]
    #[schemars(skip)]
    pub(crate) style: Style,
}

/// What a request becomes.
#[derive(Debug)]
pub(crate) struct Composed {
    pub(crate) composition: Composition,
    /// Return path.
    pub(crate) sender: Address,
    /// Envelope, each address once, in the order of the request.
    pub(crate) recipients: Vec<Address>,
    /// With values of their own: each gets a message of their own.
    pub(crate) each: Option<Vec<Recipient>>,
}

/// Collects faults with their places.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn push(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        // A caller with ten thousand bad addresses has seen enough after some.
        if self.0.len() < 100 {
            self.0.push(Fault { pointer: pointer.into(), detail: detail.into() });
        }
    }
}

/// Turns a request into a composition, or names every place that is wrong.
///
/// `id` and `hostname` make the `Message-ID`, `now` the date; the field that names the stream has a key of its own.
pub(crate) fn compose(
    request: MessageRequest,
    id: &str,
    hostname: &str,
    stream_header: &str,
    now: i64,
) -> Result<Composed, Vec<Fault>> {
    let mut faults = Faults::default();
    let from = mailbox(request.from, "/from", &mut faults);
    let to = mailboxes(request.to, "/to", &mut faults);
    let cc = mailboxes(request.cc, "/cc", &mut faults);
    let bcc = mailboxes(request.bcc, "/bcc", &mut faults);
    let reply_to = mailboxes(request.reply_to, "/reply-to", &mut faults);
    line(&request.subject, "/subject", &mut faults);
    for (name, value) in &request.headers {
        header(name, value, stream_header, &mut faults);
    }
    if request.headers.len() > MOST_HEADERS {
        faults.push("/headers", format!("more than {MOST_HEADERS} fields"));
    }
    let attachments = attachments(request.attachments, &mut faults);
    if to.len() + cc.len() + bcc.len() > MOST_RECIPIENTS {
        faults.push("/to", format!("more than {MOST_RECIPIENTS} recipients: make several calls"));
    }
    if to.is_empty() {
        faults.push("/to", "there is no recipient");
    }
    let sender = match &request.sender {
        Some(text) => address(text, "/sender", &mut faults),
        None => from.as_ref().and_then(|from| from.mailbox.address.parse().ok()),
    };
    let mut headers: Vec<(String, String)> = request.headers.into_iter().collect();
    if let Some(list) = &request.list {
        let is_one = (1..=255).contains(&list.len())
            && list.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-_".contains(&octet));
        if is_one {
            headers.push(("List-Id".to_owned(), format!("<{list}>")));
        } else {
            faults.push("/list", "this is no list identifier: write one such as weekly.example.com");
        }
    }
    for (pointer, text) in [("/text", &request.text), ("/html", &request.html)] {
        if text.as_ref().is_some_and(|text| has_odd_controls(text)) {
            faults.push(pointer, ODD_CONTROLS);
        }
    }
    values(&request.substitutions, "/substitutions", &mut faults);
    for (number, one) in to.iter().enumerate() {
        if let Some(own) = &one.values {
            values(own, &format!("/to/{number}/substitutions"), &mut faults);
        }
    }
    let composition = Composition {
        from: from.as_ref().map_or_else(|| Mailbox { name: None, address: String::new() }, |from| from.mailbox.clone()),
        to: to.iter().map(|to| to.mailbox.clone()).collect(),
        cc: cc.iter().map(|cc| cc.mailbox.clone()).collect(),
        reply_to: reply_to.into_iter().map(|reply_to| reply_to.mailbox).collect(),
        subject: request.subject,
        text: request.text.map(with_line_feeds),
        html: request.html.map(with_line_feeds),
        headers,
        attachments,
        date: now,
        message_id: (id.to_owned(), hostname.to_owned()),
        values: request.substitutions,
        style: request.style,
    };
    let is_each = composition.has_placeholders() || to.iter().any(|to| to.values.is_some());
    if is_each && !(cc.is_empty() && bcc.is_empty()) {
        faults.push(
            "/cc",
            "with placeholders or substitutions each recipient gets a message of their own: put all into to",
        );
    }
    if is_each && composition.attachments.iter().map(Attachment::size).sum::<usize>() > BATCH_FILES {
        faults.push("/attachments", "files of a call for many have 2 MiB together: put larger ones where a link leads");
    }
    let mut seen = HashSet::new();
    let (mut recipients, mut each) = (Vec::new(), Vec::new());
    for one in to.into_iter().chain(cc).chain(bcc) {
        let Ok(address) = one.mailbox.address.parse::<Address>() else { continue };
        if seen.insert(address.clone()) {
            recipients.push(address);
            each.push(Recipient { mailbox: one.mailbox, values: one.values.unwrap_or_default() });
        }
    }
    match (faults.0.is_empty(), sender) {
        (true, Some(sender)) => Ok(Composed { composition, sender, recipients, each: is_each.then_some(each) }),
        _ => Err(faults.0),
    }
}

/// A mailbox that was checked.
struct Checked {
    mailbox: Mailbox,
    values: Option<Values>,
}

fn mailboxes(requests: Vec<MailboxRequest>, pointer: &str, faults: &mut Faults) -> Vec<Checked> {
    requests
        .into_iter()
        .enumerate()
        .filter_map(|(number, request)| mailbox(request, &format!("{pointer}/{number}"), faults))
        .collect()
}

fn mailbox(request: MailboxRequest, pointer: &str, faults: &mut Faults) -> Option<Checked> {
    let (parts, place) = match request {
        MailboxRequest::Parts(parts) => (parts, format!("{pointer}/address")),
        MailboxRequest::Text(text) => {
            let (name, address) = name_and_address(&text);
            let (name, address) = (name.map(str::to_owned), address.to_owned());
            (MailboxParts { address, name, substitutions: None }, pointer.to_owned())
        }
    };
    if let Some(name) = &parts.name {
        line(name, &format!("{pointer}/name"), faults);
    }
    let address = address(&parts.address, &place, faults)?;
    if address.is_literal() {
        faults.push(place, "mail to address literals is not taken: use a domain");
        return None;
    }
    let mailbox = Mailbox { name: parts.name, address: address.as_str().to_owned() };
    Some(Checked { mailbox, values: parts.substitutions })
}

/// The two of `Name <address>`, or the address alone.
pub(crate) fn name_and_address(text: &str) -> (Option<&str>, &str) {
    match text.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => {
            let name = name.trim().trim_matches('"');
            (Some(name).filter(|name| !name.is_empty()), address.trim())
        }
        None => (None, text.trim()),
    }
}

fn address(text: &str, pointer: &str, faults: &mut Faults) -> Option<Address> {
    match text.parse() {
        Ok(address) => Some(address),
        Err(error) => {
            let error: postkeep_smtp::AddressError = error;
            faults.push(pointer, error.to_string());
            None
        }
    }
}

/// What no text of a mail may hold.
const ODD_CONTROLS: &str = "a text has no control characters but tabs and line ends";

fn has_odd_controls(text: &str) -> bool {
    text.chars().any(|letter| letter.is_control() && !matches!(letter, '\t' | '\r' | '\n'))
}

/// Line ends as line feeds; the mail's own are made of them.
fn with_line_feeds(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

fn values(values: &Values, pointer: &str, faults: &mut Faults) {
    if values.len() > MOST_VALUES {
        faults.push(pointer, format!("more than {MOST_VALUES} values"));
    }
    for (name, value) in values {
        if has_odd_controls(value) || value.contains('\r') {
            faults.push(format!("{pointer}/{name}"), "a value has no control characters but tabs and line feeds");
        }
    }
}

/// A text that becomes one line of a header.
fn line(text: &str, pointer: &str, faults: &mut Faults) {
    if text.chars().any(char::is_control) {
        faults.push(pointer, "a header has no line ends and control characters");
    } else if text.len() > LONGEST_VALUE {
        faults.push(pointer, format!("longer than {LONGEST_VALUE} octets"));
    }
}

fn header(name: &str, value: &str, stream_header: &str, faults: &mut Faults) {
    let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
    let is_name = (1..=76).contains(&name.len()) && name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':');
    if !is_name {
        faults.push(&pointer, "this is no name of a header field");
    } else if RESERVED.iter().chain([&stream_header]).any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        faults.push(&pointer, "this field is written by the box, or another key of the request stands for it");
    }
    line(value, &pointer, faults);
}

fn attachments(requests: Vec<AttachmentRequest>, faults: &mut Faults) -> Vec<Attachment> {
    if requests.len() > MOST_ATTACHMENTS {
        faults.push("/attachments", format!("more than {MOST_ATTACHMENTS} files"));
    }
    let mut attachments = Vec::with_capacity(requests.len().min(MOST_ATTACHMENTS));
    for (number, request) in requests.into_iter().take(MOST_ATTACHMENTS).enumerate() {
        let pointer = format!("/attachments/{number}");
        line(&request.filename, &format!("{pointer}/filename"), faults);
        let kind = request.content_type.as_str();
        let is_type = kind.split_once('/').is_some_and(|(kind, subtype)| {
            let is_token = |text: &str| {
                !text.is_empty()
                    && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&octet))
            };
            is_token(kind) && is_token(subtype) && !kind.eq_ignore_ascii_case("multipart")
        });
        if !is_type {
            faults.push(format!("{pointer}/content-type"), "this is no media type: write one such as application/pdf");
        }
        if request
            .content_id
            .as_ref()
            .is_some_and(|id| !id.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'<' && octet != b'>'))
        {
            faults.push(format!("{pointer}/content-id"), "a content id has no spaces and brackets");
        }
        // Line ends are what many encoders put in.
        let content: String = request.content.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        if STANDARD.decode(&content).is_err() {
            faults.push(format!("{pointer}/content"), "this is not base64 (RFC 4648 §4, with padding)");
        }
        attachments.push(Attachment::new(request.filename, request.content_type, &content, request.content_id));
    }
    attachments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(json: &str) -> Result<Composed, Vec<Fault>> {
        compose(
            serde_json::from_str(json).expect("the shape is right"),
            "0123",
            "mail.example.com",
            "X-Postkeep-Stream",
            1_790_000_000,
        )
    }

    #[test]
    fn recipients_without_values_share_one_message_and_are_told_once() {
        let made = composed(
            r#"{"from":"Shop <shop@example.com>","to":["ann@example.org",{"address":"bob@example.org","name":"Bob"},"ANN@example.org"],
                "cc":["ann@example.org"],"bcc":["cid@example.org"],"subject":"Hi","text":"Hi"}"#,
        )
        .unwrap();
        let names: Vec<&str> = made.recipients.iter().map(Address::as_str).collect();
        // Local parts differ by case, so both stand.
        assert_eq!(names, ["ann@example.org", "bob@example.org", "ANN@example.org", "cid@example.org"]);
        assert!(made.each.is_none());
        assert_eq!(made.sender.as_str(), "shop@example.com");
        let text = String::from_utf8(made.composition.message().unwrap()).unwrap();
        assert!(text.contains("bob@example.org") && !text.contains("cid@example.org"), "{text}");
    }

    #[test]
    fn values_or_placeholders_make_a_message_for_each() {
        let with_values = r#"{"from":"a@example.com","to":[{"address":"ann@example.org","substitutions":{"x":"1"}},"bob@example.org"],"text":"Hi"}"#;
        assert_eq!(composed(with_values).unwrap().each.map(|each| each.len()), Some(2));
        let with_placeholder =
            r#"{"from":"a@example.com","to":["ann@example.org"],"text":"Hi {{x}}","substitutions":{"x":"1"}}"#;
        assert!(composed(with_placeholder).unwrap().each.is_some());
        let with_cc = r#"{"from":"a@example.com","to":["ann@example.org"],"cc":["b@example.org"],"text":"Hi {{x}}"}"#;
        assert_eq!(composed(with_cc).unwrap_err()[0].pointer, "/cc");
    }

    #[test]
    fn every_wrong_place_is_named() {
        let faults = composed(
            r#"{"from":"nobody","to":["a@b.example","x","y@[192.0.2.1]"],"subject":"two\nlines","sender":"?",
                "headers":{"DKIM-Signature":"x","x-postkeep-stream":"news","Bad Name":"y","X-Fine":"z"},"list":"a b",
                "attachments":[{"filename":"f","content":"%%","content-type":"pdf"}]}"#,
        )
        .unwrap_err();
        let places: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(
            places,
            [
                "/from",
                "/to/1",
                "/to/2",
                "/subject",
                "/headers/Bad Name",
                "/headers/DKIM-Signature",
                "/headers/x-postkeep-stream",
                "/attachments/0/content-type",
                "/attachments/0/content",
                "/sender",
                "/list"
            ]
        );
    }
}
