//! What comes back: tokens that go out with each mail, and what follows when one of them returns.
//!
//! A report is believed about a recipient only as far as a token proves that the box wrote to them: a
//! return path that only this box makes, or a header of the returned mail. What strangers claim about other
//! addresses is recorded and changes nothing.

use jiff::Timestamp;
use postkeep_configuration::{Feedback, LearntScope};
use postkeep_feedback::{Details, Finding, Kind, classify_with_details};
use postkeep_intake::Returned;
use postkeep_smtp::envelope::{BodyKind, Envelope, Recipient, TlsRequest};
use postkeep_smtp::{Address, Reply, header};
use postkeep_spool::MessageId;
use postkeep_suppression::{Addition, LongToken, Origin, Reason, Scope, ShortToken, Step, Who};

use super::Inner;
use super::gatekeeper::refusal;
use super::state::Batch;
use crate::clock::{self, Micros, seconds};
use crate::message::Message;
use crate::metadata::Metadata;
use crate::records::{Event, Record};

/// Fields that carry a long token.
const TOKEN_FIELDS: [&str; 2] = ["X-Postkeep-Token", "CFBL-Feedback-ID"];
/// Tokens that are looked at in one report.
const MOST_TOKENS: usize = 64;

/// The tokens of one mail to one recipient.
pub(super) struct MailTokens {
    pub(super) return_path: Address,
    /// Whole header fields, CRLF ended.
    pub(super) headers: String,
}

/// To whom a finding belongs.
struct Belonging<'a> {
    who: Who,
    message: MessageId,
    mail: Option<&'a LongToken>,
}

impl Inner {
    /// The tokens for a batch; `None`: its stream or its sender has none.
    pub(super) fn tokens_for(&self, batch: &Batch, message: &Message) -> Option<MailTokens> {
        let configuration = self.configuration.load();
        let feedback = configuration.feedback.as_ref()?;
        let metadata = &message.metadata;
        // Reports have the null sender, and nothing may come back to that.
        metadata.envelope.sender.as_ref()?;
        if !configuration.stream(&metadata.stream).verp {
            return None;
        }
        // One recipient, or the token would be somebody else's.
        let [entry] = batch.entries[..] else { return None };
        let address = &metadata.envelope.recipients.get(usize::from(entry.recipient))?.address;
        let tokens = self.suppression.tokens();
        let local = tokens.return_path(address, message.id.0, entry.recipient);
        let long = tokens.long(&LongToken {
            address: address.clone(),
            message: message.id.0,
            recipient: entry.recipient,
            time: message.received,
            stream: metadata.stream.clone(),
            list: metadata.list.clone(),
        });
        let mut headers = String::with_capacity(2 * long.len() + 160);
        if let Some(first) = feedback.report_addresses.first() {
            headers.push_str(&format!("CFBL-Address: {first}; report=arf\r\nCFBL-Feedback-ID: {long}\r\n"));
        }
        headers.push_str(&format!("X-Postkeep-Token: {long}\r\n"));
        Some(MailTokens { return_path: format!("{local}@{}", feedback.domain).parse().ok()?, headers })
    }

    /// See [`postkeep_intake::Gatekeeper::takes_back`].
    pub(super) fn takes_back(&self, recipient: &Address) -> Option<Result<(), Reply>> {
        let configuration = self.configuration.load();
        let feedback = configuration.feedback.as_ref()?;
        if is_report_address(feedback, recipient) {
            return Some(Ok(()));
        }
        if !recipient.domain().eq_ignore_ascii_case(&feedback.domain) {
            return None;
        }
        // Somebody has to read what comes there.
        let is_role = is_role(recipient) && feedback.forward_to.is_some();
        let is_known = self.suppression.tokens().open_return_path(recipient.local()).is_some() || is_role;
        Some(if is_known { Ok(()) } else { Err(Reply::new(550, (5, 1, 1), "no such address here")) })
    }

    /// See [`postkeep_intake::Gatekeeper::take_back`].
    pub(super) async fn take_back(&self, returned: Returned) -> Result<(), Reply> {
        let configuration = self.configuration.load_full();
        let Some(feedback) = &configuration.feedback else {
            return Err(Reply::new(550, (5, 1, 1), "no such address here"));
        };
        let (book, content) = (self.replies.load_full(), returned.content.clone());
        let return_path = returned.sender.as_ref().map_or(String::new(), |sender| sender.as_str().to_owned());
        // Some reports are large, and some are made to be slow.
        let (findings, details) =
            tokio::task::spawn_blocking(move || classify_with_details(&content, Some(&return_path), &book))
                .await
                .map_err(|_| Reply::new(451, (4, 3, 0), "the report could not be read; try again later"))?;
        let tokens = self.suppression.tokens();
        let mails: Vec<LongToken> =
            token_texts(&returned.content).filter_map(|text| tokens.open_long(text)).take(MOST_TOKENS).collect();
        let path = returned.recipients.iter().find_map(|recipient| tokens.open_return_path(recipient.local()));
        let is_trusted = feedback.trust_networks.iter().any(|network| network.contains(&returned.peer.ip()));

        let now = clock::now();
        let mut steps = Vec::new();
        let mut told = Vec::with_capacity(findings.len());
        for finding in &findings {
            let belonging = self.belonging(finding, findings.len(), path, &mails, is_trusted);
            let step = belonging.as_ref().and_then(|belonging| {
                let learnt = match finding.kind {
                    Kind::Complaint => configuration.suppression.complaints,
                    _ => configuration.suppression.hard_bounces,
                };
                step(finding, belonging, learnt, now)
            });
            told.push((finding, belonging, step.is_some()));
            steps.extend(step);
        }
        if !steps.is_empty() {
            self.suppression.record(steps).await.map_err(|error| {
                log::error!("a report could not be taken in: {error}");
                Reply::new(451, (4, 3, 0), "the report could not be taken in; try again later")
            })?;
        }
        let is_for_people = findings.iter().all(|finding| finding.kind == Kind::None)
            || returned
                .recipients
                .iter()
                .any(|recipient| is_role(recipient) && recipient.domain().eq_ignore_ascii_case(&feedback.domain));
        if is_for_people {
            match feedback.forward_to.as_ref().and_then(|text| text.parse().ok()) {
                Some(to) => self.forward(&returned, to, now).await?,
                // A machine's success report needs no reader; a person is told that there is none.
                None if returned.sender.is_none() => {}
                None => return Err(Reply::new(550, (5, 7, 1), "this address takes reports; nobody reads it")),
            }
        }
        for (finding, belonging, suppressed) in told {
            self.write_feedback(&returned, (finding, &details), belonging.as_ref(), suppressed, now);
        }
        Ok(())
    }

    /// Whom a finding is about, as far as a token or the network proves it.
    fn belonging<'a>(
        &self,
        finding: &Finding,
        findings: usize,
        path: Option<ShortToken>,
        mails: &'a [LongToken],
        is_trusted: bool,
    ) -> Option<Belonging<'a>> {
        let tokens = self.suppression.tokens();
        let named: Option<Address> = finding.recipient.as_ref().and_then(|text| text.parse().ok());
        let mail_of = |test: &dyn Fn(&LongToken) -> bool| mails.iter().find(|mail| test(mail));
        if let Some(path) = path {
            let mail = mail_of(&|mail| tokens.is_of(path.key, &mail.address));
            if let Some(address) = named.as_ref().filter(|address| tokens.is_of(path.key, address)) {
                return Some(Belonging { who: address.clone().into(), message: MessageId(path.message), mail });
            }
            // The recipient may have forwarded it, or the report may hide them: one report, one recipient.
            return (findings == 1).then(|| Belonging {
                who: mail.map_or(Who::Key(path.key), |mail| mail.address.clone().into()),
                message: MessageId(path.message),
                mail,
            });
        }
        let by_name =
            named.as_ref().and_then(|named| mail_of(&|mail| tokens.key_of(&mail.address) == tokens.key_of(named)));
        let only = (findings == 1 && mails.windows(2).all(|two| two[0] == two[1])).then(|| mails.first()).flatten();
        if let Some(mail) = by_name.or(only) {
            let who = mail.address.clone().into();
            return Some(Belonging { who, message: MessageId(mail.message), mail: Some(mail) });
        }
        named.filter(|_| is_trusted).map(|address| Belonging { who: address.into(), message: MessageId(0), mail: None })
    }

    /// What is no report goes to people.
    async fn forward(&self, returned: &Returned, to: Address, now: Micros) -> Result<(), Reply> {
        let configuration = self.configuration.load();
        let hops = header::fields(returned.content.get(..returned.header_length).unwrap_or_default())
            .filter(|field| field.as_ref().is_ok_and(|field| field.is("Received")))
            .count();
        if hops > configuration.intake.hops as usize {
            return Err(Reply::new(554, (5, 4, 6), "a mail loop"));
        }
        let id = self.spool.next_id();
        let time = Timestamp::from_microsecond(now as i64).unwrap_or_default();
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&time).unwrap_or_default();
        let prefix = format!(
            "Received: from {} ([{}])\r\n\tby {} (Postkeep) with ESMTP id {id}; {date}\r\n",
            returned.helo,
            returned.peer.ip(),
            configuration.hostname
        );
        let metadata = Metadata {
            envelope: Envelope {
                sender: None,
                recipients: vec![Recipient::new(to)],
                body: if returned.eight_bit { BodyKind::EightBitMime } else { BodyKind::SevenBit },
                smtputf8: false,
                ret: None,
                envelope_id: None,
                tls: TlsRequest::Unsaid,
            },
            stream: "default".into(),
            credential: "postkeep".into(),
            // Not ours to sign: somebody else wrote it.
            from_domain: "".into(),
            message_id: "".into(),
            list: None,
            unsubscribe: None,
            pool: None,
            job: None,
            composed: false,
            has_dot_lines: returned.has_dot_lines,
            eight_bit: returned.eight_bit,
            header_length: returned.header_length as u32,
            body_hash: None,
        };
        self.keep_own(id, now, metadata, prefix.into(), returned.content.clone()).await.map_err(|error| refusal(&error))
    }

    fn write_feedback(
        &self,
        returned: &Returned,
        (finding, details): (&Finding, &Details),
        belonging: Option<&Belonging<'_>>,
        suppressed: bool,
        now: Micros,
    ) {
        let event = match finding.kind {
            Kind::Bounce => Event::RemoteBounce,
            Kind::Delay => Event::RemoteDelay,
            Kind::Complaint => Event::Complaint,
            Kind::AutoReply => Event::AutoReply,
            Kind::None => Event::Returned,
        };
        let message =
            belonging.filter(|belonging| belonging.message.0 > 0).map(|belonging| belonging.message.to_string());
        let proven = belonging.and_then(|belonging| match &belonging.who {
            Who::Address(address) => Some(address.as_str()),
            Who::Key(_) => None,
        });
        let stream = belonging.and_then(|belonging| belonging.mail).map(|mail| &*mail.stream);
        self.records.write(
            now,
            event,
            Record {
                message: message.as_deref(),
                recipient: proven.or(finding.recipient.as_deref()),
                sender: Some(returned.sender.as_ref().map_or("", |sender| sender.as_str())),
                stream,
                peer: Some(returned.peer.to_string()),
                size: Some(returned.content.len() as u64),
                class: Some(&finding.class),
                scope: Some(finding.scope),
                status: finding.status.as_deref(),
                suppress: Some(suppressed),
                report: (*details != Details::default()).then_some(details),
                detail: match (belonging, finding.kind) {
                    (None, Kind::Bounce | Kind::Complaint) if finding.reason.is_empty() => Some("no token proves it"),
                    _ => Some(finding.reason.as_str()).filter(|reason| !reason.is_empty()),
                },
                ..Record::default()
            },
        );
        self.metrics.outcome(event, "", "", stream.unwrap_or(""), 1);
    }
}

fn is_role(recipient: &Address) -> bool {
    ["postmaster", "abuse"].iter().any(|role| recipient.local().eq_ignore_ascii_case(role))
}

fn is_report_address(feedback: &Feedback, recipient: &Address) -> bool {
    feedback.report_addresses.iter().any(|address| address.eq_ignore_ascii_case(recipient.as_str()))
}

/// What a finding does to the suppression list.
fn step(finding: &Finding, belonging: &Belonging<'_>, learnt: LearntScope, now: Micros) -> Option<Step> {
    // A complaint may hide its recipient, or name several: the token says whose it is.
    let is_proven = belonging.message != MessageId(0) && finding.is_against_mail();
    if !finding.suppress && !is_proven {
        return None;
    }
    let reason = if finding.kind == Kind::Complaint { Reason::Complaint } else { Reason::HardBounce };
    let scope = match (learnt, belonging.mail) {
        (LearntScope::None, _) => return None,
        (LearntScope::Stream, Some(mail)) => Scope::Stream(mail.stream.clone()),
        // Which stream it was is not known: better too much than mail to somebody who is not there.
        (LearntScope::All, _) | (LearntScope::Stream, None) => Scope::All,
    };
    Some(Step::Add(Addition {
        who: belonging.who.clone(),
        scope,
        reason,
        origin: Origin::Report,
        time: seconds(now),
        note: format!("{} ({})", finding.reason, belonging.message).into(),
    }))
}

/// Values of token fields, wherever they stand in a report: in a part of its own, in an attached message,
/// behind `> `.
fn token_texts(content: &[u8]) -> impl Iterator<Item = &str> {
    let content = content.get(..postkeep_feedback::LARGEST).unwrap_or(content);
    content.split(|octet| *octet == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let (name, value) = line.split_at(colon);
        let name = std::str::from_utf8(name).ok()?.trim_start_matches(['>', ' ', '\t']);
        let is_token = TOKEN_FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name.trim_end()));
        is_token.then(|| std::str::from_utf8(value.get(1..)?).ok().map(str::trim)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_wherever_a_report_puts_the_header() {
        let report = b"Subject: x\r\n\r\nX-Postkeep-Token: one\r\n> x-postkeep-token:two \r\nCFBL-Feedback-ID: three\nX-Postkeep-Tokens: no\r\n: no\r\n";
        assert_eq!(token_texts(report).collect::<Vec<_>>(), ["one", "two", "three"]);
    }
}
