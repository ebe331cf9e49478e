//! One connection to a provider: which command may follow which, and what
//! becomes of its recipients.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Final, Mailboxes, Moment, Reason, Then, fill, within};
use crate::command::{self, Command};
use crate::rulebook::{Certificate, Host, Provider, hurried};

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
    /// MAIL was refused: what was sent ahead with it (RFC 2920) is no breach, and is refused with it.
    refused: Option<Refused>,
    /// When the last command came.
    now: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    ForNow,
    ForGood,
}

#[derive(Debug, Default)]
struct Transaction {
    sender: String,
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
        Self {
            site,
            host,
            source,
            tls: false,
            greeted: false,
            extended: false,
            messages: 0,
            mail: None,
            refused: None,
            now: Moment::ZERO,
        }
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
            && rules
                .capabilities
                .iter()
                .any(|line| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
    }

    /// Whether the provider takes 8-bit content from this connection.
    pub fn eight_bit(&self, rules: &Provider) -> bool {
        self.offers(rules, "8BITMIME")
    }

    /// Largest message taken, in octets.
    pub fn largest(&self, rules: &Provider) -> u64 {
        rules.largest().unwrap_or(64 << 20)
    }

    fn fault(&self, mailboxes: &mut Mailboxes, text: &str) -> Answer {
        mailboxes.fault(text);
        Answer::say(text)
    }

    /// The sender broke the protocol in a way that only the edge can see.
    pub fn protocol_fault(&self, mailboxes: &mut Mailboxes, what: &str) {
        mailboxes.fault(what);
    }

    /// One command line, without its CRLF.
    pub fn command(&mut self, mailboxes: &mut Mailboxes, line: &[u8], now: Moment) -> Answer {
        self.now = now;
        let command = command::parse(line);
        if !matches!(command, Command::Rcpt { .. } | Command::Data | Command::Bdat { .. }) {
            self.refused = None;
        }
        match command {
            Command::Ehlo(_) => self.ehlo(mailboxes),
            Command::Helo(_) => {
                self.greeted = true;
                self.extended = false;
                self.mail = None;
                Answer::say(format!("250 {}", self.host.name))
            }
            Command::StartTls => {
                if self.tls || self.host.certificate == Certificate::None {
                    return self.fault(mailboxes, "502 5.5.1 STARTTLS not offered");
                }
                Answer::say("220 2.0.0 Ready to start TLS").and(Then::StartTls)
            }
            Command::Mail { address, parameters } => {
                let answer = self.mail(mailboxes, &address, &parameters, now);
                self.refused = match answer.reply.as_deref().and_then(|text| text.chars().next()) {
                    Some('4') => Some(Refused::ForNow),
                    Some('5') => Some(Refused::ForGood),
                    _ => None,
                };
                answer
            }
            Command::Rcpt { address, .. } => {
                let answer = self.rcpt(mailboxes, &address, now);
                let said = answer.reply.as_deref().unwrap_or_default();
                if said.starts_with('5') && self.refused != Some(Refused::ForNow) {
                    mailboxes.troubles.refuse(&address, now);
                } else if !said.starts_with('2') {
                    mailboxes.troubles.put_off(&address, now);
                }
                if answer.then != Then::Continue {
                    self.lose(mailboxes);
                }
                answer
            }
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

    /// The connection ends over what its transaction has met: all of its recipients are put off.
    fn lose(&self, mailboxes: &mut Mailboxes) {
        mailboxes.troubles.lose(self.source, self.site, self.now);
        for recipient in self.mail.iter().flat_map(|mail| &mail.recipients) {
            mailboxes.troubles.put_off(recipient, self.now);
        }
    }

    fn ehlo(&mut self, mailboxes: &Mailboxes) -> Answer {
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
                    if rules.largest().is_some_and(|limit| announced > limit) {
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
            mailboxes.troubles.turn_away(self.site, now);
            return mailboxes.refuse(Reason::TooManyMessages, text).and(Then::Close);
        }
        if let Some(rate) = rules.limits.message_rate {
            let hurry = mailboxes.hurry;
            if !within(mailboxes.messages.entry((self.source, self.site)).or_default(), rate, hurry, now) {
                let text = fill(&rules.replies.message_rate, &self.host.name, self.source, "");
                let closes = text.starts_with("421");
                mailboxes.troubles.turn_away(self.site, now);
                let answer = mailboxes.refuse(Reason::MessageRate, text);
                return if closes { answer.and(Then::Close) } else { answer };
            }
        }
        self.mail = Some(Transaction { sender: address.to_owned(), ..Transaction::default() });
        Answer::say("250 2.1.0 Ok")
    }

    fn rcpt(&mut self, mailboxes: &mut Mailboxes, address: &str, now: Moment) -> Answer {
        let rules = Arc::clone(&mailboxes.rules);
        let delay = rules.mood.slow_reply.as_std();
        let (host, source) = (self.host.name.clone(), self.source);
        let utf8 = self.offers(&rules, "SMTPUTF8");
        let Some(mail) = self.mail.as_mut() else {
            return self.no_mail(mailboxes);
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
            return mailboxes
                .refuse(Reason::TooManyRecipients, fill(&rules.replies.too_many_recipients, &host, source, address));
        }
        let (attempt, first) = {
            let entry = mailboxes.tries.entry(address.to_owned()).or_insert((0, now));
            entry.0 += 1;
            *entry
        };
        let mood = &rules.mood;
        if mailboxes.happens("unknown", address, 0, mood.unknown) {
            return mailboxes
                .refuse(Reason::Unknown, fill(&rules.replies.unknown, &host, source, address))
                .after(delay);
        }
        if mailboxes.happens("drop-at-command", address, attempt, mood.drop_at_command) {
            mailboxes.count(Reason::DroppedAtCommand);
            return Answer { reply: None, delay: Duration::ZERO, then: Then::Drop };
        }
        if mailboxes.happens("goodbye", address, attempt, mood.goodbye) {
            return mailboxes
                .refuse(Reason::Goodbye, fill(&rules.replies.goodbye, &host, source, address))
                .and(Then::Close);
        }
        if mailboxes.happens("greylist", address, 0, mood.greylist)
            && (attempt == 1 || now < first + hurried(mood.greylist_wait, mailboxes.hurry))
        {
            return mailboxes
                .refuse(Reason::Greylisted, fill(&rules.replies.greylisted, &host, source, address))
                .after(delay);
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

    /// A command that needs a transaction, without one.
    fn no_mail(&self, mailboxes: &mut Mailboxes) -> Answer {
        let text = "503 5.5.1 Need MAIL first";
        if self.refused.is_some() { Answer::say(text) } else { self.fault(mailboxes, text) }
    }

    /// A drop inside the data comes within the first octets, so that it hits short messages too.
    fn drop_after(&self, mailboxes: &mut Mailboxes) -> Option<usize> {
        let drop = self.mail.as_ref().is_some_and(|mail| mail.drop_in_data);
        if drop {
            mailboxes.count(Reason::DroppedInData);
            self.lose(mailboxes);
        }
        drop.then_some(256)
    }

    fn data(&mut self, mailboxes: &mut Mailboxes) -> Answer {
        match &self.mail {
            None => self.no_mail(mailboxes),
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
        let refuse = |answer| Final { answer, sender: String::new(), accepted: Vec::new() };
        let Some(mail) = self.mail.take() else {
            return refuse(Answer::say("503 5.5.1 Need MAIL first"));
        };
        if mail.recipients.is_empty() {
            return refuse(Answer::say("554 5.5.1 No valid recipients"));
        }
        if size as u64 > self.largest(&rules) || mail.rejected_content {
            mail.recipients.iter().for_each(|recipient| mailboxes.troubles.refuse(recipient, self.now));
        }
        if size as u64 > self.largest(&rules) {
            return refuse(mailboxes.refuse(Reason::TooLarge, "552 5.3.4 Message size exceeds fixed limit".into()));
        }
        if mail.rejected_content {
            let text = fill(&rules.replies.rejected_content, &self.host.name, self.source, "");
            mailboxes.troubles.turn_away(self.site, self.now);
            return refuse(mailboxes.refuse(Reason::RejectedContent, text).after(delay));
        }
        if mail.lost_reply {
            mailboxes.count(Reason::LostReply);
            let answer = Answer { reply: None, delay: Duration::ZERO, then: Then::Drop };
            return Final { answer, sender: mail.sender, accepted: mail.recipients };
        }
        mailboxes.troubles.serve(self.source, self.site);
        let text = fill(&rules.replies.accepted, &self.host.name, self.source, "");
        Final { answer: Answer::say(text).after(delay), sender: mail.sender, accepted: mail.recipients }
    }
}
