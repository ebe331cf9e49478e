//! The parts of a mail, and the MIME message that they make.

use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::mime::{BodyPart, MimePart};
use serde::{Deserialize, Serialize};

use crate::placeholder::{FillError, Into as As, Style, Values, fill, has_placeholders};

/// Columns of a line of base64 (RFC 2045 §6.8).
const BASE64_LINE: usize = 76;

/// A name and an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// What is shown; may hold placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `local@domain`.
    pub address: String,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its name.
    pub filename: String,
    /// `application/pdf`.
    pub content_type: String,
    /// Its octets in base64, in lines that a mail may have; see [`Attachment::new`].
    encoded: String,
    /// Shown in the HTML under `cid:`; absent: attached.
    pub content_id: Option<String>,
}

impl Attachment {
    /// From octets in base64 on one line, which is written into every mail as it is: a file is encoded once,
    /// however many recipients it has.
    pub fn new(filename: String, content_type: String, base64: &str, content_id: Option<String>) -> Self {
        let mut encoded = String::with_capacity(base64.len() + base64.len() / BASE64_LINE * 2 + 2);
        let mut rest = base64;
        while !rest.is_empty() {
            // Base64 is ASCII; what is not was refused before.
            let (line, after) = rest.split_at(rest.floor_char_boundary(BASE64_LINE.min(rest.len())));
            encoded.push_str(line);
            encoded.push_str("\r\n");
            rest = after;
        }
        Self { filename, content_type, encoded, content_id }
    }

    /// Octets in a mail.
    pub fn size(&self) -> usize {
        self.encoded.len()
    }
}

/// What a mail is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// `From`.
    pub from: Mailbox,
    /// `To`; of a document, each recipient's own stands here instead.
    pub to: Vec<Mailbox>,
    /// `Cc`.
    pub cc: Vec<Mailbox>,
    /// `Reply-To`.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`.
    pub subject: String,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// Files.
    pub attachments: Vec<Attachment>,
    /// `Date`, Unix seconds.
    pub date: i64,
    /// Left and right side of `Message-ID`.
    pub message_id: (String, String),
    /// Values for all recipients.
    pub values: Values,
    /// How placeholders are written.
    #[serde(default)]
    pub style: Style,
}

impl Composition {
    /// Whether some part has a placeholder.
    pub fn has_placeholders(&self) -> bool {
        let names = self.to.iter().filter_map(|to| to.name.as_deref());
        let bodies = [self.text.as_deref(), self.html.as_deref()];
        let mut texts = self.header_texts().chain(names).chain(bodies.into_iter().flatten());
        texts.any(|text| has_placeholders(text, self.style))
    }

    /// Every text of the header that may hold placeholders and is the same for all recipients.
    fn header_texts(&self) -> impl Iterator<Item = &str> {
        let names = [&self.from].into_iter().chain(&self.reply_to).filter_map(|mailbox| mailbox.name.as_deref());
        [self.subject.as_str()].into_iter().chain(self.headers.iter().map(|(_, value)| value.as_str())).chain(names)
    }

    /// The message for all recipients.
    ///
    /// # Errors
    /// A placeholder without a value.
    pub fn message(&self) -> Result<Vec<u8>, FillError> {
        self.build(&self.to, &Values::new(), &self.message_id.0)
    }

    /// The message for one recipient, the `number`-th.
    pub(crate) fn message_for(&self, to: &Mailbox, own: &Values, number: usize) -> Result<Vec<u8>, FillError> {
        self.build(std::slice::from_ref(to), own, &format!("{}.{number}", self.message_id.0))
    }

    /// About how many octets the texts of one recipient's message have in a mail, and a proof that it can be built:
    /// every text is filled as [`Self::message_for`] does it. Files are the same for all and are not looked at.
    pub(crate) fn weight_for(&self, to: &Mailbox, own: &Values) -> Result<usize, FillError> {
        let bodies = [(&self.text, As::Text), (&self.html, As::Html)];
        let bodies = bodies.into_iter().filter_map(|(text, into)| Some((text.as_deref()?, into)));
        let headers = self.header_texts().chain(to.name.as_deref()).map(|text| (text, As::Header));
        headers.chain(bodies).try_fold(0, |sum, (text, into)| {
            let filled = fill(text, into, self.style, own, &self.values)?;
            // Quoted-printable makes three octets of one that is no ASCII.
            let wide = filled.bytes().filter(|octet| !octet.is_ascii() || *octet == b'=').count();
            Ok(sum + filled.len() + 2 * wide)
        })
    }

    fn build(&self, to: &[Mailbox], own: &Values, id: &str) -> Result<Vec<u8>, FillError> {
        let header =
            |text: &str| fill(text, As::Header, self.style, own, &self.values).map(|filled| filled.into_owned());
        let mailbox = |mailbox: &Mailbox| -> Result<Address<'static>, FillError> {
            let name = mailbox.name.as_deref().map(header).transpose()?.filter(|name| !name.trim().is_empty());
            Ok(Address::new_address(name, mailbox.address.clone()))
        };
        let list =
            |mailboxes: &[Mailbox]| mailboxes.iter().map(mailbox).collect::<Result<Vec<_>, _>>().map(Address::new_list);
        let mut message = MessageBuilder::new()
            .header("Date", mail_builder::headers::date::Date::new(self.date))
            .header("Message-ID", Raw::new(format!("<{id}@{}>", self.message_id.1)))
            .from(mailbox(&self.from)?);
        if !to.is_empty() {
            message = message.to(list(to)?);
        }
        if !self.cc.is_empty() {
            message = message.cc(list(&self.cc)?);
        }
        if !self.reply_to.is_empty() {
            message = message.reply_to(list(&self.reply_to)?);
        }
        message = message.subject(header(&self.subject)?);
        for (name, value) in &self.headers {
            let value = header(value)?;
            // What is ASCII is a value that programs read: lists of ids, addresses of pages. Encoded words break those.
            message = if value.is_ascii() {
                message.header(name.as_str(), Raw::new(value))
            } else {
                message.header(name.as_str(), Text::new(value))
            };
        }
        if let Some(text) = &self.text {
            message = message.text_body(fill(text, As::Text, self.style, own, &self.values)?);
        }
        if let Some(html) = &self.html {
            message = message.html_body(fill(html, As::Html, self.style, own, &self.values)?);
        }
        if self.text.is_none() && self.html.is_none() {
            message = message.text_body("");
        }
        for attachment in &self.attachments {
            // With the encoding named, the builder writes the part as it is.
            let part =
                MimePart::new(attachment.content_type.as_str(), BodyPart::Text(attachment.encoded.as_str().into()));
            let part = match &attachment.content_id {
                Some(id) => part.inline().cid(id.as_str()),
                None => part.attachment(attachment.filename.as_str()),
            };
            message.attachments.get_or_insert_default().push(part.transfer_encoding("base64"));
        }
        // Into memory: nothing can fail.
        Ok(message.write_to_vec().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;

    pub(crate) fn example() -> Composition {
        Composition {
            from: Mailbox { name: Some("Shop, the".into()), address: "shop@sender.example".into() },
            to: vec![Mailbox { name: None, address: "ann@example.org".into() }],
            cc: Vec::new(),
            reply_to: Vec::new(),
            subject: "Hello {{first}}, grüße".into(),
            text: Some("Dear {{first}}.\n".into()),
            html: Some("<p>Dear {{first}}</p>".into()),
            headers: vec![("X-Kind".into(), "week {{week}}".into())],
            attachments: vec![Attachment::new(
                "a.bin".into(),
                "application/octet-stream".into(),
                &"QUJD".repeat(60),
                None,
            )],
            date: 1_790_000_000,
            message_id: ("0123".into(), "mail.sender.example".into()),
            values: [("week".to_owned(), "7".to_owned())].into(),
            style: Style::Braces,
        }
    }

    #[test]
    fn the_message_reads_as_it_was_put_together() {
        let values = [("first".to_owned(), "Ann <Lee>".to_owned())].into();
        let to = Mailbox { name: Some("Ann".into()), address: "ann@example.org".into() };
        let octets = example().message_for(&to, &values, 3).unwrap();
        assert!(!octets.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'), "line ends are CRLF");
        assert!(octets.split(|octet| *octet == b'\n').all(|line| line.len() < 999));
        let parsed = MessageParser::default().parse(&octets).unwrap();
        assert_eq!(parsed.subject(), Some("Hello Ann <Lee>, grüße"));
        assert_eq!(parsed.message_id(), Some("0123.3@mail.sender.example"));
        assert_eq!(parsed.from().and_then(|from| from.first()).and_then(|from| from.name()), Some("Shop, the"));
        assert_eq!(parsed.body_text(0).as_deref(), Some("Dear Ann <Lee>.\r\n"));
        assert_eq!(parsed.body_html(0).as_deref(), Some("<p>Dear Ann &lt;Lee&gt;</p>"));
        let link = format!("<https://sender.example/u/{}>", "x".repeat(100));
        let mut with_link = example();
        with_link.headers.push(("List-Unsubscribe".into(), link.clone()));
        let octets = with_link.message_for(&to, &values, 3).unwrap();
        assert!(octets.windows(link.len()).any(|window| window == link.as_bytes()), "as it was said");
        assert_eq!(parsed.header_raw("X-Kind").map(str::trim), Some("week 7"));
        let file = parsed.attachments().next().unwrap();
        assert_eq!((file.attachment_name(), file.contents()), (Some("a.bin"), "ABC".repeat(60).as_bytes()));
        assert!(example().message().is_err(), "first is missing");
    }
}
