//! Mail that comes back: bounces, delays, complaints and automatic replies, told apart and
//! taken apart, one finding for each recipient.
//!
//! Read are delivery status notifications (RFC 3464), abuse reports (RFC 5965, 6591, 6650, redacted ones
//! too), automatic replies (RFC 3834), notifications of Amazon SES, and the prose of mail servers that know none of these. What a
//! finding means is asked of the rule book. Nothing in a message makes this panic; depth, parts and sizes are bounded.
//!
//! Suppression is the careful answer: it is said only where a mail server speaks, about this recipient and nobody
//! else, in words and codes that leave no doubt that nobody has the address. A block, a full or closed mailbox, a
//! refusal of the sender, or of the content, never does; what people, lists and automatic replies write never does.

mod address;
mod automatic;
mod codes;
mod details;
mod judgement;
mod notification;
mod opened;
mod prose;
mod report;
mod sender;
mod status;
mod words;

use postkeep_deliverability::reply::RuleBook;
use serde::Serialize;

use opened::Opened;
use sender::Sender;

/// Largest message that is read whole; of a larger one, its beginning.
pub const LARGEST: usize = 4 << 20;
/// Findings in one message at most.
pub const MOST_FINDINGS: usize = 1000;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It will not be delivered.
    Bounce,
    /// Not yet delivered, still being tried.
    Delay,
    /// The recipient, or their provider, complained.
    Complaint,
    /// A machine answered in the recipient's name.
    AutoReply,
    /// None of these; also a report of success.
    None,
}

/// What is known of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// Their address; absent when the report hides it.
    pub recipient: Option<String>,
    /// What came back.
    pub kind: Kind,
    /// Enhanced status code (RFC 3463), the receiver's own where it says one.
    pub status: Option<String>,
    /// A word from the rule book's list; for complaints the feedback type.
    pub class: String,
    /// Whom it concerns.
    pub scope: &'static str,
    /// This recipient is not to be written to again.
    pub suppress: bool,
    /// What was said, on one line.
    pub reason: String,
}

/// What a report says of itself and of the message that it is about; absent: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Details {
    /// `User-Agent` of an abuse report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// `Reporting-MTA`, without its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting_mta: Option<String>,
    /// `Remote-MTA` of the first recipient, without its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_mta: Option<String>,
    /// `Reported-Domain` of an abuse report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_domain: Option<String>,
    /// `Source-IP` of an abuse report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// `From` of the message that came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its `Return-Path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_path: Option<String>,
    /// Its `X-job`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Its `Subject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// What every reader reads.
#[derive(Debug, Clone, Copy)]
struct Material<'a> {
    opened: &'a Opened,
    sender: Sender,
    /// The words for people.
    words: &'a str,
    book: &'a RuleBook,
}

impl Finding {
    /// A complaint about this mail, also where it hides whose it is: whoever knows that otherwise may believe it.
    pub fn is_against_mail(&self) -> bool {
        self.kind == Kind::Complaint && self.scope == "recipient"
    }

    fn nothing() -> Self {
        Self {
            recipient: None,
            kind: Kind::None,
            status: None,
            class: "none".to_owned(),
            scope: "message",
            suppress: false,
            reason: String::new(),
        }
    }
}

/// Takes a message apart. At least one finding; one of [`Kind::None`] when it is nothing of the sort.
pub fn classify(message: &[u8], book: &RuleBook) -> Vec<Finding> {
    classify_with_details(message, None, book).0
}

/// The same, with what the report says beside its findings. `return_path`: the sender in the envelope that the
/// message came in, `""` for the null one; absent when only the message is at hand.
pub fn classify_with_details(message: &[u8], return_path: Option<&str>, book: &RuleBook) -> (Vec<Finding>, Details) {
    let Some(opened) = Opened::new(message.get(..LARGEST).unwrap_or(message), return_path) else {
        return (vec![Finding::nothing()], Details::default());
    };
    let words = words::words(&opened);
    let material = Material { sender: Sender::of(&opened, &words), opened: &opened, words: &words, book };
    let readers: [fn(&Material<'_>) -> Vec<Finding>; 6] =
        [report::read, status::read, notification::read, prose::read_named, automatic::read, prose::read];
    let mut findings =
        readers.iter().map(|read| read(&material)).find(|findings| !findings.is_empty()).unwrap_or_default();
    findings.truncate(MOST_FINDINGS);
    if findings.is_empty() {
        findings.push(Finding::nothing());
    }
    (findings, details::read(&opened))
}
