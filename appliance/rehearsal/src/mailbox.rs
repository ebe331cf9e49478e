//! A simulated mailbox provider as a state machine without sockets or clock:
//! (event, now) in, reply out. What it decides about a recipient is a pure
//! function of (seed, provider, recipient, attempt); only limits and
//! greylisting look at the time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postkeep_configuration::units::Rate;

use crate::chance::Chance;
use crate::command::{self, Command};
use crate::rulebook::{Host, Provider, hurried};

/// Time since the rehearsal began.
pub type Moment = Duration;

/// Why a provider said something other than yes; counted for the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Too many connections at once.
    TooManyConnections,
    /// New connections too fast.
    ConnectionRate,
    /// Too many messages on one connection.
    TooManyMessages,
    /// Messages too fast.
    MessageRate,
    /// Too many recipients in a transaction.
    TooManyRecipients,
    /// Source address not known yet.
    UnknownSource,
    /// Greylisted.
    Greylisted,
    /// No such user.
    Unknown,
    /// Mailbox full.
    Full,
    /// 421 in mid-stream.
    Goodbye,
    /// Connection dropped at RCPT.
    DroppedAtCommand,
    /// Connection dropped inside the data.
    DroppedInData,
    /// Accepted, then dropped before the reply.
    LostReply,
    /// Refused after the data.
    RejectedContent,
    /// Larger than SIZE.
    TooLarge,
    /// The sender broke the protocol: what it used was not offered, or out of order.
    ProtocolFault,
}

/// What the edge does after it has sent the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Read the next command.
    Continue,
    /// Start TLS.
    StartTls,
    /// Read data up to the final dot. `drop_after`: drop the connection after so many octets.
    ReadData {
        /// Drop the connection without a word after so many octets.
        drop_after: Option<usize>,
    },
    /// Read a chunk of so many octets, then call [`Session::chunk`].
    ReadChunk {
        /// Octets to read.
        size: usize,
        /// Whether the message ends with it.
        last: bool,
        /// Drop the connection without a word after so many octets.
        drop_after: Option<usize>,
    },
    /// Close politely.
    Close,
    /// Close without a reply.
    Drop,
}

/// An answer to one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Code and text; lines separated by `\n`, code only before the first. `None`: say nothing.
    pub reply: Option<String>,
    /// Wait before the reply.
    pub delay: Duration,
    /// What follows.
    pub then: Then,
}

impl Answer {
    fn say(reply: impl Into<String>) -> Self {
        Self { reply: Some(reply.into()), delay: Duration::ZERO, then: Then::Continue }
    }

    fn and(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// What became of a whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Final {
    /// The reply and what follows.
    pub answer: Answer,
    /// Recipients the provider has taken responsibility for, whether or not it says so.
    pub accepted: Vec<String>,
}

/// One provider, over all its hosts and connections.
#[derive(Debug)]
pub struct Mailboxes {
    rules: Arc<Provider>,
    chance: Chance,
    hurry: f64,
    /// Attempts so far and the time of the first.
    tries: HashMap<String, (u32, Moment)>,
    connected: HashMap<(IpAddr, usize), VecDeque<Moment>>,
    messages: HashMap<(IpAddr, usize), VecDeque<Moment>>,
    first_seen: HashMap<IpAddr, Moment>,
    reasons: BTreeMap<Reason, u64>,
    samples: BTreeMap<Reason, String>,
}

impl Mailboxes {
    /// A provider with nobody connected. Waits in its rules are divided by `hurry`.
    pub fn new(rules: Arc<Provider>, seed: u64, hurry: f64) -> Self {
        Self {
            rules,
            chance: Chance::new(seed),
            hurry,
            tries: HashMap::new(),
            connected: HashMap::new(),
            messages: HashMap::new(),
            first_seen: HashMap::new(),
            reasons: BTreeMap::new(),
            samples: BTreeMap::new(),
        }
    }

    /// Its rules.
    pub fn rules(&self) -> &Arc<Provider> {
        &self.rules
    }

    /// How often it said no, by reason.
    pub fn reasons(&self) -> &BTreeMap<Reason, u64> {
        &self.reasons
    }

    /// One reply text for each reason that occurred.
    pub fn samples(&self) -> &BTreeMap<Reason, String> {
        &self.samples
    }

    /// Somebody connected; `open` connections, this one included, now come from that source to this site.
    pub fn connect(&mut self, site: usize, host: &str, source: IpAddr, open: u32, now: Moment) -> Answer {
        let rules = Arc::clone(&self.rules);
        let fill = |text: &str| fill(text, host, source, "");
        let greeting_delay = rules.mood.slow_greeting.as_std();
        if !rules.mood.unknown_source_wait.is_zero() {
            let first = *self.first_seen.entry(source).or_insert(now);
            if now < first + hurried(rules.mood.unknown_source_wait, self.hurry) {
                let text = fill(&rules.replies.unknown_source);
                return self.refuse(Reason::UnknownSource, text).and(Then::Close);
            }
        }
        if rules.limits.connections.is_some_and(|limit| open > limit) {
            let text = fill(&rules.replies.too_many_connections);
            return self.refuse(Reason::TooManyConnections, text).and(Then::Close);
        }
        if let Some(rate) = rules.limits.connection_rate
            && !within(self.connected.entry((source, site)).or_default(), rate, self.hurry, now)
        {
            let text = fill(&rules.replies.connection_rate);
            return self.refuse(Reason::ConnectionRate, text).and(Then::Close);
        }
        Answer::say(fill(&rules.replies.greeting)).after(greeting_delay)
    }

    fn refuse(&mut self, reason: Reason, text: String) -> Answer {
        *self.reasons.entry(reason).or_default() += 1;
        self.samples.entry(reason).or_insert_with(|| text.clone());
        Answer::say(text)
    }

    fn count(&mut self, reason: Reason, text: &str) {
        *self.reasons.entry(reason).or_default() += 1;
        self.samples.entry(reason).or_insert_with(|| text.to_owned());
    }

    /// Whether this attempt falls into a share.
    fn happens(&self, purpose: &str, recipient: &str, attempt: u32, share: f64) -> bool {
        share > 0.0 && self.chance.share(&self.rules.name, recipient, purpose, attempt) < share
    }
}

/// Whether one more event at `now` keeps a rate; counts it if so. Windows of
/// whole minutes and more shrink with `hurry`, never below a second.
fn within(events: &mut VecDeque<Moment>, rate: Rate, hurry: f64, now: Moment) -> bool {
    let window = hurried_window(rate, hurry);
    while events.front().is_some_and(|first| *first + window <= now) {
        events.pop_front();
    }
    if events.len() >= rate.count as usize {
        return false;
    }
    events.push_back(now);
    true
}

/// Length of a rate's stretch in a hurried rehearsal: divided, but not below one second.
pub fn hurried_window(rate: Rate, hurry: f64) -> Duration {
    let real = rate.per.as_std();
    hurried(rate.per, hurry).max(Duration::from_secs(1)).min(real)
}

fn fill(text: &str, host: &str, source: IpAddr, recipient: &str) -> String {
    if !text.contains('{') {
        return text.to_owned();
    }
    text.replace("{host}", host).replace("{source}", &source.to_string()).replace("{recipient}", recipient)
}

/// One connection to a provider.
#[derive(Debug)]
pub struct Session {
    site: usize,
    host: Host,
    source: IpAddr,
    tls: bool,
    greeted: bool,
    extended: bool,
    messages: u32,
    mail: Option<Transaction>,
}

#[derive(Debug, Default)]
struct Transaction {
    recipients: Vec<String>,
    commands: u32,
    drop_in_data: bool,
    lost_reply: bool,
    rejected_content: bool,
    chunking: bool,
    chunked: usize,
}

/// Facts about the open transaction that the judge wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// MAIL commands on this connection.
    pub messages: u32,
    /// RCPT commands in the open transaction.
    pub recipients: u32,
}

impl Session {
    /// A connection from `source` to `host` of `site`.
    pub fn new(site: usize, host: Host, source: IpAddr) -> Self {
        Self { site, host, source, tls: false, greeted: false, extended: false, messages: 0, mail: None }
    }

    /// TLS is up: everything said before is forgotten (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.greeted = false;
        self.extended = false;
        self.mail = None;
    }

    /// Counts for the judge.
    pub fn counts(&self) -> Counts {
        Counts { messages: self.messages, recipients: self.mail.as_ref().map_or(0, |mail| mail.commands) }
    }

    fn offers(&self, rules: &Provider, keyword: &str) -> bool {
        self.extended
            && rules.capabilities.iter().any(|line| {
                line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword))
            })
    }

    fn size_limit(rules: &Provider) -> Option<u64> {
        rules.capabilities.iter().find_map(|line| line.strip_prefix("SIZE ")?.parse().ok())
    }

    /// Whether the provider takes 8-bit content from this connection.
    pub fn eight_bit(&self, rules: &Provider) -> bool {
        self.offers(rules, "8BITMIME")
    }

    /// Largest message taken, in octets.
    pub fn largest(&self, rules: &Provider) -> u64 {
        Self::size_limit(rules).unwrap_or(64 << 20)
    }

    fn fault(&self, mailboxes: &mut Mailboxes, text: &str) -> Answer {
        mailboxes.refuse(Reason::ProtocolFault, text.to_owned())
    }

    /// The sender broke the protocol in a way that only the edge can see.
    pub fn protocol_fault(&self, mailboxes: &mut Mailboxes, what: &str) {
        mailboxes.count(Reason::ProtocolFault, what);
    }

    /// One command line, without its CRLF.
    pub fn command(&mut self, mailboxes: &mut Mailboxes, line: &[u8], now: Moment) -> Answer {
        match command::parse(line) {
            Command::Ehlo(_) => self.ehlo(mailboxes),
            Command::Helo(_) => {
                self.greeted = true;
                self.extended = false;
                self.mail = None;
                Answer::say(format!("250 {}", self.host.name))
            }
            Command::StartTls => {
                use crate::rulebook::Certificate;
                if self.tls || self.host.certificate == Certificate::None {
                    return self.fault(mailboxes, "502 5.5.1 STARTTLS not offered");
                }
                Answer::say("220 2.0.0 Ready to start TLS").and(Then::StartTls)
            }
            Command::Mail { address, parameters } => self.mail(mailboxes, &address, &parameters, now),
            Command::Rcpt { address, .. } => self.rcpt(mailboxes, &address, now),
            Command::Data => self.data(mailboxes),
            Command::Bdat { size, last } => self.bdat(mailboxes, size, last),
            Command::Rset => {
                self.mail = None;
                Answer::say("250 2.0.0 Ok")
            }
            Command::Noop => Answer::say("250 2.0.0 Ok"),
            Command::Quit => Answer::say("221 2.0.0 Bye").and(Then::Close),
            Command::Other => self.fault(mailboxes, "500 5.5.2 Command not recognized"),
        }
    }

    fn ehlo(&mut self, mailboxes: &Mailboxes) -> Answer {
        use crate::rulebook::Certificate;
        self.greeted = true;
        self.extended = true;
        self.mail = None;
        let mut text = format!("250 {}", self.host.name);
        for line in &mailboxes.rules.capabilities {
            text.push('\n');
            text.push_str(line);
        }
        if !self.tls && self.host.certificate != Certificate::None {
            text.push_str("\nSTARTTLS");
        }
        Answer::say(text)
    }

    fn mail(&mut self, mailboxes: &mut Mailboxes, address: &str, parameters: &[String], now: Moment) -> Answer {
        let rules = Arc::clone(&mailboxes.rules);
        if !self.greeted || self.mail.is_some() {
            return self.fault(mailboxes, "503 5.5.1 Bad sequence of commands");
        }
        let mut utf8 = false;
        for parameter in parameters {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key.to_ascii_uppercase().as_str() {
                "SIZE" if self.offers(&rules, "SIZE") => {
                    let announced = value.parse::<u64>().unwrap_or(0);
                    if Self::size_limit(&rules).is_some_and(|limit| announced > limit) {
                        return mailboxes.refuse(Reason::TooLarge, "552 5.3.4 Message size exceeds fixed limit".into());
                    }
                }
                "BODY" if self.offers(&rules, "8BITMIME") => {}
                "SMTPUTF8" if self.offers(&rules, "SMTPUTF8") => utf8 = true,
                "RET" | "ENVID" if self.offers(&rules, "DSN") => {}
                _ => return self.fault(mailboxes, &format!("555 5.5.4 Unsupported parameter {key}")),
            }
        }
        if !address.is_ascii() && !utf8 {
            return self.fault(mailboxes, "553 5.6.7 Address needs SMTPUTF8");
        }
        self.messages += 1;
        if rules.limits.messages_per_connection.is_some_and(|limit| self.messages > limit) {
            let text = fill(&rules.replies.too_many_messages, &self.host.name, self.source, "");
            return mailboxes.refuse(Reason::TooManyMessages, text).and(Then::Close);
        }
        if let Some(rate) = rules.limits.message_rate {
            let hurry = mailboxes.hurry;
            if !within(mailboxes.messages.entry((self.source, self.site)).or_default(), rate, hurry, now) {
                let text = fill(&rules.replies.message_rate, &self.host.name, self.source, "");
                let closes = text.starts_with("421");
                let answer = mailboxes.refuse(Reason::MessageRate, text);
                return if closes { answer.and(Then::Close) } else { answer };
            }
        }
        self.mail = Some(Transaction::default());
        Answer::say("250 2.1.0 Ok")
    }

    fn rcpt(&mut self, mailboxes: &mut Mailboxes, address: &str, now: Moment) -> Answer {
        let rules = Arc::clone(&mailboxes.rules);
        let delay = rules.mood.slow_reply.as_std();
        let (host, source) = (self.host.name.clone(), self.source);
        let utf8 = self.offers(&rules, "SMTPUTF8");
        let Some(mail) = self.mail.as_mut() else {
            return self.fault(mailboxes, "503 5.5.1 Need MAIL first");
        };
        mail.commands += 1;
        if !address.is_ascii() && !utf8 {
            return self.fault(mailboxes, "553 5.6.7 Address needs SMTPUTF8");
        }
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let here = rules
            .site
            .get(self.site)
            .is_some_and(|site| site.domains.iter().any(|name| name.eq_ignore_ascii_case(domain)));
        if !here {
            return self.fault(mailboxes, "550 5.7.1 Relaying denied");
        }
        if rules.limits.recipients_per_transaction.is_some_and(|limit| mail.commands > limit) {
            return mailboxes.refuse(Reason::TooManyRecipients, fill(&rules.replies.too_many_recipients, &host, source, address));
        }
        let (attempt, first) = {
            let entry = mailboxes.tries.entry(address.to_owned()).or_insert((0, now));
            entry.0 += 1;
            *entry
        };
        let mood = &rules.mood;
        if mailboxes.happens("unknown", address, 0, mood.unknown) {
            return mailboxes.refuse(Reason::Unknown, fill(&rules.replies.unknown, &host, source, address)).after(delay);
        }
        if mailboxes.happens("drop-at-command", address, attempt, mood.drop_at_command) {
            mailboxes.count(Reason::DroppedAtCommand, "connection dropped at RCPT");
            return Answer { reply: None, delay: Duration::ZERO, then: Then::Drop };
        }
        if mailboxes.happens("goodbye", address, attempt, mood.goodbye) {
            return mailboxes.refuse(Reason::Goodbye, fill(&rules.replies.goodbye, &host, source, address)).and(Then::Close);
        }
        if mailboxes.happens("greylist", address, 0, mood.greylist)
            && (attempt == 1 || now < first + hurried(mood.greylist_wait, mailboxes.hurry))
        {
            return mailboxes.refuse(Reason::Greylisted, fill(&rules.replies.greylisted, &host, source, address)).after(delay);
        }
        let full_for = 1 + (mailboxes.chance.number(&rules.name, address, "full-for", 0) % 3) as u32;
        if mailboxes.happens("full-for-good", address, 0, mood.full_for_good)
            || (attempt <= full_for && mailboxes.happens("full", address, 0, mood.full))
        {
            return mailboxes.refuse(Reason::Full, fill(&rules.replies.full, &host, source, address)).after(delay);
        }
        // What happens to the whole message is decided by its recipients, once each.
        mail.drop_in_data |= mailboxes.happens("drop-in-data", address, attempt, mood.drop_in_data);
        mail.lost_reply |= mailboxes.happens("lost-reply", address, attempt, mood.lost_reply);
        mail.rejected_content |= mailboxes.happens("rejected-content", address, 0, mood.rejected_content);
        mail.recipients.push(address.to_owned());
        Answer::say("250 2.1.5 Ok").after(delay)
    }

    /// A drop inside the data comes within the first octets, so that it hits short messages too.
    fn drop_after(&self, mailboxes: &mut Mailboxes) -> Option<usize> {
        let drop = self.mail.as_ref().is_some_and(|mail| mail.drop_in_data);
        if drop {
            mailboxes.count(Reason::DroppedInData, "connection dropped inside the data");
        }
        drop.then_some(256)
    }

    fn data(&mut self, mailboxes: &mut Mailboxes) -> Answer {
        match &self.mail {
            None => self.fault(mailboxes, "503 5.5.1 Need MAIL first"),
            Some(mail) if mail.chunking => self.fault(mailboxes, "503 5.5.1 DATA after BDAT"),
            // Not a fault: with PIPELINING the sender could not know (RFC 2920 §3.1).
            Some(mail) if mail.recipients.is_empty() => Answer::say("554 5.5.1 No valid recipients"),
            Some(_) => {
                let drop_after = self.drop_after(mailboxes);
                Answer::say("354 End data with <CR><LF>.<CR><LF>").and(Then::ReadData { drop_after })
            }
        }
    }

    fn bdat(&mut self, mailboxes: &mut Mailboxes, size: u64, last: bool) -> Answer {
        let rules = Arc::clone(&mailboxes.rules);
        if !self.offers(&rules, "CHUNKING") {
            // The chunk follows whether we want it or not; there is no way on.
            return self.fault(mailboxes, "503 5.5.1 BDAT not offered").and(Then::Close);
        }
        let size = match usize::try_from(size) {
            Ok(octets) if size <= self.largest(&rules) => octets,
            // The chunk follows, and nobody wants to read it.
            _ => return mailboxes.refuse(Reason::TooLarge, "552 5.3.4 Chunk too large".into()).and(Then::Close),
        };
        let first = self.mail.as_ref().is_some_and(|mail| !mail.chunking);
        let drop_after = if first { self.drop_after(mailboxes) } else { None };
        if let Some(mail) = self.mail.as_mut() {
            mail.chunking = true;
        }
        Answer { reply: None, delay: Duration::ZERO, then: Then::ReadChunk { size, last, drop_after } }
    }

    /// A chunk that is not the last was read.
    pub fn chunk(&mut self, size: usize) -> Answer {
        match self.mail.as_mut() {
            Some(mail) if !mail.recipients.is_empty() => {
                mail.chunked += size;
                Answer::say(format!("250 2.0.0 {} octets received", mail.chunked))
            }
            Some(_) => Answer::say("554 5.5.1 No valid recipients"),
            None => Answer::say("503 5.5.1 Need MAIL first"),
        }
    }

    /// The whole message was read; `size` in octets.
    pub fn finish(&mut self, mailboxes: &mut Mailboxes, size: usize) -> Final {
        let rules = Arc::clone(&mailboxes.rules);
        let delay = rules.mood.slow_reply.as_std();
        let refuse = |answer| Final { answer, accepted: Vec::new() };
        let Some(mail) = self.mail.take() else {
            return refuse(Answer::say("503 5.5.1 Need MAIL first"));
        };
        if mail.recipients.is_empty() {
            return refuse(Answer::say("554 5.5.1 No valid recipients"));
        }
        if size as u64 > self.largest(&rules) {
            return refuse(mailboxes.refuse(Reason::TooLarge, "552 5.3.4 Message size exceeds fixed limit".into()));
        }
        if mail.rejected_content {
            let text = fill(&rules.replies.rejected_content, &self.host.name, self.source, "");
            return refuse(mailboxes.refuse(Reason::RejectedContent, text).after(delay));
        }
        if mail.lost_reply {
            mailboxes.count(Reason::LostReply, "accepted, connection dropped before the reply");
            let answer = Answer { reply: None, delay: Duration::ZERO, then: Then::Drop };
            return Final { answer, accepted: mail.recipients };
        }
        let text = fill(&rules.replies.accepted, &self.host.name, self.source, "");
        Final { answer: Answer::say(text).after(delay), accepted: mail.recipients }
    }
}

#[cfg(test)]
mod tests;
