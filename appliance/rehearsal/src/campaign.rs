//! The campaign: a repeatable stream of messages of the kinds that real
//! senders produce, with marks by which the receivers can tell whether
//! anything was lost, doubled or altered on the way.

use std::fmt::Write as _;

use base64::Engine as _;
use fastrand::Rng;

use crate::chance::Chance;
use crate::content::{
    BODY_HEADER, FIELDS_HEADER, ID_HEADER, MEANING_HEADER, SENDER_HEADER, STREAM_HEADER, fields_mark, meaning, sum,
};
use crate::rulebook::RuleBook;

/// What a campaign is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Recipients in all.
    pub recipients: u64,
    /// Domains of From and of the return path.
    pub domains: Vec<String>,
    /// Header that names the stream.
    pub stream_header: String,
    /// Streams to choose from; `None` is a message that names none.
    pub streams: Vec<Option<String>>,
    /// Most recipients of one message.
    pub recipients_per_message: usize,
    /// Largest body, in octets, at least 1024.
    pub largest_body: usize,
}

/// One recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// The address.
    pub address: String,
    /// Place of the provider in the rule book.
    pub provider: usize,
    /// `NOTIFY=NEVER` (RFC 3461): no report is wanted.
    pub never_notify: bool,
}

/// What a body is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Plain ASCII text.
    Text,
    /// Text and HTML side by side.
    Html,
    /// UTF-8 text, sent as 8bit.
    EightBit,
    /// Lines that begin with dots, and one that looks like the end and a new transaction.
    Dots,
    /// Lines just under the longest that RFC 5321 allows.
    LongLines,
    /// An attachment in base64.
    Attachment,
}

/// How a message is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By SMTP.
    Smtp,
    /// By HTTP, as `message/rfc822`.
    Http,
}

/// Share of the messages that go in by HTTP.
const HTTP_SHARE: f64 = 1.0 / 3.0;

/// One message of the campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its mark.
    pub id: String,
    /// Return path; `None` is the null sender.
    pub sender: Option<String>,
    /// From.
    pub from: String,
    /// Recipients.
    pub to: Vec<To>,
    /// Stream it asks for.
    pub stream: Option<String>,
    /// Kind of body.
    pub kind: Kind,
    /// Wanted size of the body, in octets.
    pub size: usize,
    /// Some recipient has an address beyond ASCII.
    pub utf8: bool,
    /// To be sent with BDAT.
    pub chunking: bool,
    /// How it is handed over.
    pub way: Way,
    seed: u64,
}

/// Yields the messages of a plan until it has enough recipients.
pub struct Campaign {
    plan: Plan,
    /// Domains with the provider's place, and their weights summed up.
    domains: Vec<(String, usize, u64)>,
    rng: Rng,
    left: u64,
    number: u64,
    person: u64,
}

impl Campaign {
    /// A campaign to the domains of a book.
    pub fn new(plan: Plan, book: &RuleBook) -> Self {
        let mut domains = Vec::new();
        let mut sum = 0;
        for (provider, entry) in book.provider.iter().enumerate() {
            let sites = entry.site.len().max(1) as u64;
            for site in &entry.site {
                let count = site.domains.len() as u64;
                for (place, domain) in site.domains.iter().enumerate() {
                    // The first domain of a site gets 70 % of its mail.
                    let part = match (place, count) {
                        (_, 1) => 100,
                        (0, _) => 70,
                        _ => 30 / (count - 1),
                    };
                    sum += u64::from(entry.weight) * 100 * part / sites;
                    domains.push((domain.clone(), provider, sum));
                }
            }
        }
        let rng = Rng::with_seed(Chance::new(plan.seed).number("campaign", "", "", 0));
        Self { left: plan.recipients, rng, domains, plan, number: 0, person: 0 }
    }

    fn recipient(&mut self, utf8: bool, never_notify: bool, domain: Option<&(String, usize)>) -> To {
        let (domain, provider) = match domain {
            Some((domain, provider)) => (domain.clone(), *provider),
            None => self.domain(),
        };
        self.person += 1;
        let name = if utf8 { "jürgen" } else { "person" };
        To { address: format!("{name}-{}@{domain}", self.person), provider, never_notify }
    }

    fn domain(&mut self) -> (String, usize) {
        let total = self.domains.last().map_or(0, |(_, _, sum)| *sum).max(1);
        let drawn = self.rng.u64(0..total);
        let place = self.domains.partition_point(|(_, _, sum)| *sum <= drawn);
        self.domains
            .get(place)
            .map_or_else(|| ("example.test".to_owned(), 0), |(name, provider, _)| (name.clone(), *provider))
    }
}

impl Iterator for Campaign {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if self.left == 0 {
            return None;
        }
        self.number += 1;
        let id = format!("r{:x}-{:06}", self.plan.seed, self.number);
        let share = self.rng.f64();
        let utf8 = share < 0.005;
        let most = self.plan.recipients_per_message.clamp(1, 20) as u64;
        let count = if !utf8 && share < 0.085 { self.rng.u64(2..=most.max(2)) } else { 1 };
        let count = count.min(self.left).min(most);
        self.left -= count;
        let never = self.rng.f64() < 0.01;
        // Half of the messages with several recipients go to one domain.
        let common = (count > 1 && self.rng.bool()).then(|| self.domain());
        let to = (0..count).map(|_| self.recipient(utf8, never, common.as_ref())).collect();
        let domain = self.rng.usize(0..self.plan.domains.len().max(1));
        let domain = self.plan.domains.get(domain).cloned().unwrap_or_else(|| "sender.test".to_owned());
        let stream = self.rng.usize(0..self.plan.streams.len().max(1));
        let stream = self.plan.streams.get(stream).cloned().flatten();
        let kind = match self.rng.u32(0..100) {
            0..40 => Kind::Text,
            40..65 => Kind::Html,
            65..75 => Kind::EightBit,
            75..83 => Kind::Dots,
            83..88 => Kind::LongLines,
            _ => Kind::Attachment,
        };
        let null_sender = self.rng.f64() < 0.005;
        // Sizes as campaigns have them: most small, some large.
        let sender = (!null_sender).then(|| format!("bounce+{id}@{domain}"));
        let way = way(Chance::new(self.plan.seed), &id, sender.is_some() && !utf8 && !never);
        let size = 1024 + (self.rng.f64().powi(2) * self.plan.largest_body.saturating_sub(1024) as f64) as usize;
        Some(Message {
            sender,
            from: format!("news@{domain}"),
            to,
            stream,
            kind,
            size,
            utf8,
            chunking: self.rng.f64() < 0.25,
            way,
            seed: self.rng.u64(..),
            id,
        })
    }
}

/// What only SMTP can say (no sender, `NOTIFY`, SMTPUTF8) goes in by SMTP.
fn way(chance: Chance, id: &str, either: bool) -> Way {
    if either && chance.share("campaign", id, "way", 0) < HTTP_SHARE { Way::Http } else { Way::Smtp }
}

const WORDS: [&str; 24] = [
    "letter", "harbour", "lantern", "paper", "window", "garden", "morning", "bread", "river", "winter", "copper",
    "thread", "summer", "market", "bridge", "orchard", "violet", "station", "pencil", "meadow", "signal", "kettle",
    "island", "feather",
];
const WORDS_BEYOND_ASCII: [&str; 8] = ["Grüße", "façade", "señal", "čaj", "żółw", "ελιά", "чай", "日本"];

impl Message {
    /// Whether the content has octets above 127.
    pub fn eight_bit(&self) -> bool {
        self.kind == Kind::EightBit || self.utf8
    }

    /// The stream that it belongs to.
    pub fn stream_name(&self) -> &str {
        self.stream.as_deref().unwrap_or("default")
    }

    /// The same message, again, to one of its recipients alone.
    pub fn again(&self, chance: Chance, number: usize, to: &To) -> Self {
        let id = format!("{}-again-{number}", self.id);
        Self {
            sender: self.sender.as_ref().map(|_| {
                let domain = self.from.rsplit_once('@').map_or("sender.test", |(_, domain)| domain);
                format!("bounce+{id}@{domain}")
            }),
            to: vec![to.clone()],
            way: way(chance, &id, self.sender.is_some() && !self.utf8 && !to.never_notify),
            id,
            ..self.clone()
        }
    }

    /// The whole content with CRLF line ends, marked and summed; not dot-stuffed.
    pub fn content(&self, stream_header: &str) -> Vec<u8> {
        let mut rng = Rng::with_seed(self.seed);
        let (mime, body) = self.body(&mut rng);
        let mut head = String::with_capacity(800);
        if let Some(stream) = &self.stream {
            let _ = write!(head, "{stream_header}: {stream}\r\n");
        }
        let to = self.to.first().map_or("", |to| to.address.as_str());
        let _ = write!(
            head,
            "From: \"Harbour News\" <{}>\r\nTo: <{to}>\r\nSubject: {} {} {}\r\n",
            self.from,
            word(&mut rng),
            word(&mut rng),
            self.id
        );
        // Some senders leave these to their server.
        if rng.f64() < 0.9 {
            head.push_str("Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n");
        }
        if rng.f64() < 0.9 {
            let domain = self.from.rsplit_once('@').map_or("sender.test", |(_, domain)| domain);
            let _ = write!(head, "Message-ID: <{}@{domain}>\r\n", self.id);
        }
        let _ = write!(head, "MIME-Version: 1.0\r\n{mime}\r\n");
        // The sum of the meaning covers the MIME structure, so it is taken of the message as it will be.
        let whole = [head.as_bytes(), b"\r\n", &body].concat();
        let _ = write!(
            head,
            "{ID_HEADER}: {}\r\n{STREAM_HEADER}: {}\r\n{SENDER_HEADER}: <{}>\r\n{BODY_HEADER}: {}\r\n{MEANING_HEADER}: {}\r\n",
            self.id,
            self.stream_name(),
            self.sender.as_deref().unwrap_or_default(),
            sum(&body),
            meaning(&whole)
        );
        let mark = fields_mark(head.as_bytes(), stream_header);
        let _ = write!(head, "{FIELDS_HEADER}: {mark}\r\n\r\n");
        let mut content = head.into_bytes();
        content.extend_from_slice(&body);
        content
    }

    /// MIME headers (without the last CRLF) and body.
    fn body(&self, rng: &mut Rng) -> (String, Vec<u8>) {
        match self.kind {
            Kind::Text => (plain("us-ascii", "7bit"), lines(rng, self.size, |_, _| {}).into_bytes()),
            Kind::EightBit => {
                let text = lines(rng, self.size, |rng, line| {
                    line.push(' ');
                    line.push_str(rng.choice(WORDS_BEYOND_ASCII).unwrap_or_default());
                });
                (plain("utf-8", "8bit"), text.into_bytes())
            }
            Kind::Dots => {
                let mut text = lines(rng, self.size, |rng, line| {
                    let dots = [".", "..", "...", ". "];
                    line.insert_str(0, rng.choice(dots).unwrap_or_default());
                });
                text.insert_str(
                    0,
                    ".\r\n.\r\nMAIL FROM:<smuggled@sender.test>\r\nRCPT TO:<smuggled@gmail.test>\r\nDATA\r\n.\r\n",
                );
                (plain("us-ascii", "7bit"), text.into_bytes())
            }
            Kind::LongLines => {
                let mut text = String::new();
                while text.len() < self.size {
                    let mut line = String::new();
                    while line.len() < 985 {
                        line.push_str(word(rng));
                    }
                    line.truncate(rng.usize(900..=996));
                    text.push_str(&line);
                    text.push_str("\r\n");
                }
                (plain("us-ascii", "7bit"), text.into_bytes())
            }
            Kind::Html => {
                let boundary = format!("=_{:016x}", rng.u64(..));
                let text = lines(rng, self.size / 2, |_, _| {});
                let html = lines(rng, self.size / 2, |_, line| {
                    line.insert_str(0, "<p>");
                    line.push_str("</p>");
                });
                let body = format!(
                    "--{boundary}\r\n{}\r\n\r\n{text}\r\n--{boundary}\r\nContent-Type: text/html; charset=us-ascii\r\n\r\n<html><body>\r\n{html}</body></html>\r\n\r\n--{boundary}--\r\n",
                    plain("us-ascii", "7bit"),
                );
                (format!("Content-Type: multipart/alternative; boundary=\"{boundary}\""), body.into_bytes())
            }
            Kind::Attachment => {
                let boundary = format!("=_{:016x}", rng.u64(..));
                let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(self.size * 3 / 4).collect();
                let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
                let mut wrapped = String::with_capacity(encoded.len() + encoded.len() / 38);
                for line in encoded.as_bytes().chunks(76) {
                    wrapped.push_str(&String::from_utf8_lossy(line));
                    wrapped.push_str("\r\n");
                }
                let body = format!(
                    "--{boundary}\r\n{}\r\n\r\nSee what is enclosed.\r\n\r\n--{boundary}\r\nContent-Type: application/octet-stream; name=\"enclosed.bin\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"enclosed.bin\"\r\n\r\n{wrapped}--{boundary}--\r\n",
                    plain("us-ascii", "7bit"),
                );
                (format!("Content-Type: multipart/mixed; boundary=\"{boundary}\""), body.into_bytes())
            }
        }
    }
}

fn word(rng: &mut Rng) -> &'static str {
    rng.choice(WORDS).unwrap_or_default()
}

fn plain(charset: &str, encoding: &str) -> String {
    format!("Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}")
}

fn lines(rng: &mut Rng, size: usize, mut change: impl FnMut(&mut Rng, &mut String)) -> String {
    let mut text = String::with_capacity(size + 100);
    while text.len() < size {
        let mut line = String::with_capacity(80);
        while line.len() < 60 {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word(rng));
        }
        change(rng, &mut line);
        text.push_str(&line);
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{fields_are_whole, header, split};

    fn plan(seed: u64, recipients: u64) -> Plan {
        Plan {
            seed,
            recipients,
            domains: vec!["sender.test".to_owned()],
            stream_header: "X-Postkeep-Stream".to_owned(),
            streams: vec![None, Some("news".to_owned())],
            recipients_per_message: 100,
            largest_body: 20_000,
        }
    }

    #[test]
    fn a_campaign_repeats_and_has_exactly_its_recipients() {
        let book = RuleBook::shipped().unwrap();
        let one: Vec<_> = Campaign::new(plan(1, 3000), &book).collect();
        let again: Vec<_> = Campaign::new(plan(1, 3000), &book).collect();
        assert_eq!(one, again);
        assert_ne!(one, Campaign::new(plan(2, 3000), &book).collect::<Vec<_>>());
        assert_eq!(one.iter().map(|message| message.to.len()).sum::<usize>(), 3000);
        let domains: std::collections::HashSet<_> =
            one.iter().flat_map(|message| &message.to).map(|to| to.address.rsplit_once('@').unwrap().1).collect();
        assert!(domains.len() >= 20, "{} domains", domains.len());
        assert!(one.iter().any(|message| message.utf8));
        assert!(one.iter().any(|message| message.sender.is_none()));
        let http = one.iter().filter(|message| message.way == Way::Http).count();
        assert!((one.len() / 4..one.len() / 2).contains(&http), "{http} of {} by HTTP", one.len());
    }

    #[test]
    fn contents_are_whole_lines_within_the_limits_and_carry_true_sums() {
        let book = RuleBook::shipped().unwrap();
        let mut kinds = std::collections::HashSet::new();
        for message in Campaign::new(plan(3, 400), &book) {
            kinds.insert(format!("{:?}", message.kind));
            let content = message.content("X-Postkeep-Stream");
            assert!(content.ends_with(b"\r\n"));
            assert_eq!(content.is_ascii(), !message.eight_bit());
            for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                assert_eq!(line.last(), Some(&b'\r'));
                assert!(line.len() <= 998, "a line of {} octets", line.len());
                assert!(!line[..line.len() - 1].contains(&b'\r'));
            }
            let (head, body) = split(&content);
            assert_eq!(header(head, ID_HEADER).as_deref(), Some(message.id.as_str()));
            assert_eq!(header(head, BODY_HEADER), Some(sum(body)));
            assert_eq!(header(head, MEANING_HEADER), Some(meaning(&content)));
            let arrived = String::from_utf8_lossy(head).replace("X-Postkeep-Stream: news\r\n", "");
            assert!(fields_are_whole(arrived.as_bytes(), false), "{arrived}");
            assert!(content.len() < 32_000, "{:?} of {} octets", message.kind, content.len());
        }
        assert_eq!(kinds.len(), 6);
    }
}
