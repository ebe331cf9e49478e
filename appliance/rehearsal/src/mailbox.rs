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
use crate::rulebook::{Provider, hurried};

mod session;
mod troubles;

pub use session::{Counts, Session};
pub use troubles::Troubles;

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
    /// The return path; empty: the null sender.
    pub sender: String,
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
    troubles: Troubles,
    faults: Vec<String>,
}

/// Most breaches of the protocol that are kept in words.
const FAULTS: usize = 5;

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
            troubles: Troubles::default(),
            faults: Vec::new(),
        }
    }

    /// Its rules.
    pub fn rules(&self) -> &Arc<Provider> {
        &self.rules
    }

    /// Whom it refused, put off and turned away.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// How often it said no, by reason.
    pub fn reasons(&self) -> &BTreeMap<Reason, u64> {
        &self.reasons
    }

    /// What was said to the first senders who broke the protocol.
    pub fn faults(&self) -> &[String] {
        &self.faults
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
                self.troubles.turn_away(site, now);
                return self.refuse(Reason::UnknownSource, text).and(Then::Close);
            }
        }
        if rules.limits.connections.is_some_and(|limit| open > limit) {
            let text = fill(&rules.replies.too_many_connections);
            self.troubles.turn_away(site, now);
            return self.refuse(Reason::TooManyConnections, text).and(Then::Close);
        }
        if let Some(rate) = rules.limits.connection_rate
            && !within(self.connected.entry((source, site)).or_default(), rate, self.hurry, now)
        {
            let text = fill(&rules.replies.connection_rate);
            self.troubles.turn_away(site, now);
            return self.refuse(Reason::ConnectionRate, text).and(Then::Close);
        }
        Answer::say(fill(&rules.replies.greeting)).after(greeting_delay)
    }

    fn fault(&mut self, what: &str) {
        self.count(Reason::ProtocolFault);
        if self.faults.len() < FAULTS {
            self.faults.push(what.to_owned());
        }
    }

    fn refuse(&mut self, reason: Reason, text: String) -> Answer {
        self.count(reason);
        Answer::say(text)
    }

    fn count(&mut self, reason: Reason) {
        *self.reasons.entry(reason).or_default() += 1;
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

#[cfg(test)]
mod tests;
