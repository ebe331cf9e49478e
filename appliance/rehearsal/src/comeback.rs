//! What comes back after a mailbox provider has accepted mail: a bounce when
//! it finds out later that nobody has the address, a complaint of the
//! recipient, an automatic reply. Who sends what follows from the seed; it goes
//! to the return path, or to the address that `CFBL-Address` names, by SMTP,
//! as from a stranger.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::chance::Chance;
use crate::client::{Client, Submission};
use crate::content::{self, ID_HEADER, SENDER_HEADER, STREAM_HEADER};
use crate::internet::StreamPromise;
use crate::rulebook::{Mood, Provider};

/// Reports on their way; more hold up the mailboxes that send them.
const WAITING: usize = 1024;
/// Most sentences about what cannot come back.
const SAMPLES: usize = 5;
/// Tries of one report.
const TRIES: u32 = 50;
/// Wait before the next.
const PAUSE: Duration = Duration::from_millis(200);

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A report that nobody has the address (RFC 3464, `5.1.1`).
    Bounce,
    /// An abuse report (RFC 5965).
    Complaint,
    /// An automatic reply (RFC 3834).
    AutoReply,
}

/// Something that came back, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// What it was.
    pub kind: Kind,
    /// Who sent it back.
    pub recipient: String,
    /// The mark of the message that it answers.
    pub id: String,
    /// Whether the door took it, or its last words.
    pub taken: Result<(), String>,
}

/// What would have come back, but for a return path that the product does not take back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Astray {
    /// Of streams that leave return paths alone.
    pub explained: u64,
    /// Of others.
    pub unexplained: u64,
    /// The first of the others, in words.
    pub samples: Vec<String>,
}

/// A report on its way.
struct Report {
    kind: Kind,
    recipient: String,
    id: String,
    sender: String,
    to: String,
    content: Vec<u8>,
}

/// Everything that comes back.
pub(crate) struct Comebacks {
    /// Domain of the return paths that the daemon takes back; `None`: it takes none.
    domain: Option<String>,
    chance: Chance,
    queue: mpsc::Sender<Report>,
    arrivals: Mutex<Option<mpsc::Receiver<Report>>>,
    book: Arc<Book>,
}

#[derive(Default)]
struct Book {
    waiting: AtomicU64,
    astray: Mutex<Astray>,
    done: Mutex<VecDeque<Returned>>,
}

impl Book {
    fn done(&self) -> MutexGuard<'_, VecDeque<Returned>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Comebacks {
    pub(crate) fn new(domain: Option<String>, chance: Chance) -> Self {
        let (queue, arrivals) = mpsc::channel(WAITING);
        Self { domain, chance, queue, arrivals: Mutex::new(Some(arrivals)), book: Arc::default() }
    }

    /// Begins to send to the daemon's door; `None` when that was done before.
    pub(crate) fn open(&self, door: Submission) -> Option<AbortHandle> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let book = Arc::clone(&self.book);
        let task = tokio::spawn(async move {
            let mut client = None;
            while let Some(report) = arrivals.recv().await {
                let taken = send(&mut client, &door, &report).await;
                let Report { kind, recipient, id, .. } = report;
                book.done().push_back(Returned { kind, recipient, id, taken });
                book.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        });
        Some(task.abort_handle())
    }

    /// Reports that have not come to an end.
    pub(crate) fn waiting(&self) -> u64 {
        self.book.waiting.load(Ordering::Relaxed)
    }

    /// Reports that have.
    pub(crate) fn done(&self) -> Vec<Returned> {
        self.book.done().iter().cloned().collect()
    }

    /// What cannot come back.
    pub(crate) fn astray(&self) -> Astray {
        self.book.astray.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A provider has accepted a message with this return path: whoever sends something back, does.
    pub(crate) async fn note(
        &self,
        rules: &Provider,
        streams: &HashMap<String, StreamPromise>,
        recipients: &[String],
        sender: &str,
        message: &[u8],
    ) {
        let Some(domain) = &self.domain else { return };
        let (head, _) = content::split(message);
        let Some(id) = content::header(head, ID_HEADER) else { return };
        // Other return paths belong to others, who are not in the rehearsal.
        let comes = sender.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
        // Nothing is sent back to nobody (RFC 5321 §4.5.5).
        if !comes && content::header(head, SENDER_HEADER).is_none_or(|sent| sent == "<>") {
            return;
        }
        for recipient in recipients.iter().filter(|recipient| recipient.is_ascii()) {
            let Some(kind) = kind_of(self.chance, &rules.name, &rules.mood, recipient) else { continue };
            if !comes {
                let stream = content::header(head, STREAM_HEADER).unwrap_or_default();
                self.go_astray(streams.get(&stream).is_some_and(|promise| promise.verp), recipient, sender);
                continue;
            }
            let host = rules.site.iter().flat_map(|site| &site.host).map(|host| host.name.as_str()).next();
            let report = written(kind, recipient, sender, head, &id, host.unwrap_or("mx.rehearsal.test"));
            self.book.waiting.fetch_add(1, Ordering::Relaxed);
            if self.queue.send(report).await.is_err() {
                self.book.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn go_astray(&self, verp: bool, recipient: &str, sender: &str) {
        let mut astray = self.book.astray.lock().unwrap_or_else(PoisonError::into_inner);
        if !verp {
            astray.explained += 1;
            return;
        }
        astray.unexplained += 1;
        if astray.samples.len() < SAMPLES {
            astray.samples.push(format!("{recipient} would have answered, but to {sender}, which is not taken back"));
        }
    }
}

/// What a recipient sends back; one thing at most.
fn kind_of(chance: Chance, provider: &str, mood: &Mood, recipient: &str) -> Option<Kind> {
    let drawn = chance.share(provider, recipient, "comes-back", 0);
    let mut below = 0.0;
    [(Kind::Bounce, mood.bounce_later), (Kind::Complaint, mood.complain), (Kind::AutoReply, mood.auto_reply)]
        .into_iter()
        .find_map(|(kind, share)| {
            below += share;
            (drawn < below).then_some(kind)
        })
}

async fn send(client: &mut Option<Client>, door: &Submission, report: &Report) -> Result<(), String> {
    let mut last = String::new();
    for tries in 0..TRIES {
        if tries > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut open = match client.take() {
            Some(open) => open,
            None => match Client::connect(door).await {
                Ok(open) => open,
                Err(error) => {
                    last = error.to_string();
                    continue;
                }
            },
        };
        match open.submit(&report.sender, &report.to, &report.content).await {
            Ok((code, text)) => {
                *client = (!open.is_over()).then_some(open);
                match code / 100 {
                    2 => return Ok(()),
                    5 => return Err(format!("{code} {text}")),
                    _ => last = format!("{code} {text}"),
                }
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// The report as its sender writes it.
fn written(kind: Kind, recipient: &str, return_path: &str, head: &[u8], id: &str, host: &str) -> Report {
    let original = String::from_utf8_lossy(head);
    let domain = recipient.rsplit_once('@').map_or("rehearsal.test", |(_, domain)| domain);
    let boundary = format!("=_{id}");
    let mut to = return_path.to_owned();
    let mut sender = String::new();
    let common = |from: &str, subject: &str, to: &str| {
        format!(
            "From: {from}\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: Mon, 23 Nov 2026 10:05:00 +0000\r\n\
             Message-ID: <{id}.back@{host}>\r\nMIME-Version: 1.0\r\n"
        )
    };
    let content = match kind {
        Kind::Bounce => format!(
            "{}Auto-Submitted: auto-replied\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"{boundary}\"\r\n\r\n\
             --{boundary}\r\nContent-Type: text/plain\r\n\r\nYour message could not be delivered to {recipient}.\r\n\r\n\
             --{boundary}\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; {host}\r\n\r\n\
             Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 <{recipient}>: Recipient address rejected: User unknown\r\n\r\n\
             --{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n{original}\r\n--{boundary}--\r\n",
            common(&format!("Mail Delivery System <mailer-daemon@{host}>"), "Undelivered mail", return_path)
        ),
        Kind::Complaint => {
            // The address that the sender asks for, RFC 9477 §3.1; others are told at the return path.
            if let Some(address) = content::header(head, "CFBL-Address") {
                to = address.split(';').next().unwrap_or_default().trim().to_owned();
            }
            sender = format!("feedback@{host}");
            format!(
                "{}Content-Type: multipart/report; report-type=feedback-report; boundary=\"{boundary}\"\r\n\r\n\
                 --{boundary}\r\nContent-Type: text/plain\r\n\r\nThis is an email abuse report.\r\n\r\n\
                 --{boundary}\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n\
                 User-Agent: Rehearsal/1.0\r\nVersion: 1\r\nOriginal-Rcpt-To: <{recipient}>\r\n\r\n\
                 --{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n{original}\r\n--{boundary}--\r\n",
                common(&format!("<feedback@{host}>"), "Complaint", &to)
            )
        }
        Kind::AutoReply => format!(
            "{}Auto-Submitted: auto-replied\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             I am out of the office until Monday.\r\n",
            common(&format!("<{recipient}>"), &format!("Automatic reply: away from {domain}"), return_path)
        ),
    };
    Report { kind, recipient: recipient.to_owned(), id: id.to_owned(), sender, to, content: content.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_sends_one_kind_back_in_the_shares_of_the_rule_book() {
        let mood = Mood { bounce_later: 0.1, complain: 0.2, auto_reply: 0.3, ..Mood::default() };
        let mut counts = [0u32; 3];
        for number in 0..10_000 {
            if let Some(kind) = kind_of(Chance::new(3), "one", &mood, &format!("person-{number}@one.test")) {
                counts[kind as usize] += 1;
            }
        }
        for (count, share) in counts.into_iter().zip([1000, 2000, 3000]) {
            assert!((share - 200..share + 200).contains(&count), "{count} instead of {share}");
        }
    }

    #[tokio::test]
    async fn what_cannot_come_back_is_counted_and_excused_only_where_the_stream_leaves_return_paths_alone() {
        let text = "[[provider]]\nname = \"one\"\nsource = \"x\"\nchecked = \"2026-11-27\"\nweight = 1\n\
            [[provider.site]]\ndomains = [\"one.test\"]\n[provider.mood]\ncomplain = 1.0\n";
        let rules = crate::rulebook::RuleBook::parse(text).unwrap().provider.remove(0);
        let comebacks = Comebacks::new(Some("back.test".to_owned()), Chance::new(1));
        let streams = HashMap::from([
            ("verp".to_owned(), StreamPromise { verp: true, ..StreamPromise::default() }),
            ("plain".to_owned(), StreamPromise::default()),
        ]);
        for (stream, sent, arrived) in [
            ("verp", "a@sender.test", "token@back.test"),
            ("verp", "a@sender.test", "a@sender.test"),
            ("plain", "a@sender.test", "a@sender.test"),
            ("verp", "", ""),
        ] {
            let head = format!("{ID_HEADER}: r1\r\n{STREAM_HEADER}: {stream}\r\n{SENDER_HEADER}: <{sent}>\r\n\r\n");
            comebacks.note(&rules, &streams, &["b@one.test".to_owned()], arrived, head.as_bytes()).await;
        }
        let astray = comebacks.astray();
        assert_eq!((comebacks.waiting(), astray.explained, astray.unexplained), (1, 1, 1), "{astray:?}");
    }

    #[test]
    fn a_complaint_goes_to_the_address_that_the_mail_asks_for_and_returns_its_header() {
        let head = b"CFBL-Address: fbl@a.test; report=arf\r\nX-Postkeep-Token: abc\r\n";
        let report = written(Kind::Complaint, "b@c.test", "token@back.a.test", head, "r1", "mx.c.test");
        assert_eq!(report.to, "fbl@a.test");
        assert!(memchr::memmem::find(&report.content, b"\r\nX-Postkeep-Token: abc\r\n").is_some());
        let bounce = written(Kind::Bounce, "b@c.test", "token@back.a.test", head, "r1", "mx.c.test");
        assert_eq!((bounce.to.as_str(), bounce.sender.as_str()), ("token@back.a.test", ""));
        assert_eq!(content::reports(&bounce.content)[0].status, "5.1.1");
    }
}
