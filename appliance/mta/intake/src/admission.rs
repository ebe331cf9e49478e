//! Whether a message may enter, decided without sockets, clock or files.
//!
//! A sender is a credential or a network; its [`SenderPolicy`] says which domains it
//! may use, in MAIL FROM and in `From`, and which streams. The null return path is
//! allowed to every known sender. The header must have one readable `From` and no
//! field twice that RFC 5322 §3.6 allows once; `Date` and `Message-ID` are sane, and added or
//! refused when missing. Octets above 127 in the header are taken without
//! SMTPUTF8, as most receivers do, but a `From` must be UTF-8.

mod fields;
pub mod one_click;
mod policy;
pub mod powermta;
mod received;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use postkeep_configuration::{self as configuration, Configuration, MissingHeader};
use postkeep_smtp::data::{Content, ContentError};
use postkeep_smtp::envelope::TlsRequest;
use postkeep_smtp::{Address, Reply, header, mailbox};

use crate::TlsSummary;
use fields::Fields;
pub use one_click::OneClick;
pub use policy::SenderPolicy;

/// A `Date` further ahead than this is refused, in seconds.
const LATEST_DATE: i64 = 2 * 86_400;
/// Longest list identifier, in octets (RFC 2919 §2).
const LONGEST_LIST_ID: usize = 255;
/// A `Date` before 1990 is refused.
const EARLIEST_DATE: i64 = 631_152_000;

/// What the header of every message is held to.
#[derive(Debug, Clone)]
pub struct ContentRules {
    hostname: String,
    hops: usize,
    missing_date: MissingHeader,
    missing_message_id: MissingHeader,
    stream_header: String,
    streams: BTreeSet<String>,
    /// Streams that ask for one-click unsubscribe.
    one_click: BTreeMap<String, configuration::OneClick>,
    /// Pools and sources, one of which a message may choose.
    pools: BTreeSet<String>,
}

/// How and when a message came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Its queue id.
    pub id: &'a str,
    /// Now.
    pub now: Timestamp,
    /// The client's address.
    pub client: IpAddr,
    /// What the client called itself.
    pub helo: &'a str,
    /// It said EHLO.
    pub extended: bool,
    /// It authenticated.
    pub authenticated: bool,
    /// It came by HTTP.
    pub http: bool,
    /// It said SMTPUTF8.
    pub smtputf8: bool,
    /// Its TLS.
    pub tls: Option<&'a TlsSummary>,
}

/// What an admitted message has besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its stream.
    pub stream: String,
    /// `Received`, and `Date` and `Message-ID` where they were missing.
    pub prefix: Bytes,
    /// Domain of the first `From` mailbox, A-labels.
    pub from_domain: String,
    /// `Message-ID` with its brackets.
    pub message_id: String,
    /// The list that `List-Id` names, if it is the sender's own; lower case, without brackets.
    pub list: Option<String>,
    /// `TLS-Required: No`.
    pub tls_not_required: bool,
    /// One-click unsubscribe; `None`: the stream does not ask for it.
    pub one_click: Option<OneClick>,
    /// The pool or source that the message chose.
    pub pool: Option<String>,
    /// The sender's name for the job that the message belongs to.
    pub job: Option<String>,
    /// Envelope id of the header, xtext; that of the envelope comes before it.
    pub envelope_id: Option<String>,
}

impl Admitted {
    /// What the sender asks of TLS: REQUIRETLS in the envelope counts more than the header (RFC 8689 §4.1).
    pub fn tls_request(&self, envelope: TlsRequest) -> TlsRequest {
        match envelope {
            TlsRequest::Unsaid if self.tls_not_required => TlsRequest::NotRequired,
            said => said,
        }
    }
}

impl ContentRules {
    /// As the configuration says.
    pub fn new(configuration: &Configuration) -> Self {
        let intake = &configuration.intake;
        Self {
            hostname: configuration.hostname.clone(),
            hops: intake.hops as usize,
            missing_date: intake.missing_date,
            missing_message_id: intake.missing_message_id,
            stream_header: intake.stream_header.clone(),
            streams: configuration.stream.keys().cloned().chain([policy::DEFAULT_STREAM.to_owned()]).collect(),
            one_click: configuration
                .stream
                .iter()
                .filter(|(_, stream)| stream.unsubscribe != configuration::OneClick::Off)
                .map(|(name, stream)| (name.clone(), stream.unsubscribe))
                .collect(),
            pools: configuration.pool.keys().chain(configuration.source.keys()).cloned().collect(),
        }
    }

    /// Judges a whole content, cuts out of it what was meant for the box alone, and says what to put before it. Where the
    /// box is to write the pair of one-click unsubscribe, a pair that is not whole is cut out too.
    pub fn admit(
        &self,
        content: &mut Content,
        policy: &SenderPolicy,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, Reply> {
        let block = content.octets.get(..content.header_length).unwrap_or_default();
        let fields = Fields::collect(block, &self.stream_header).map_err(|reason| bad_content(&reason))?;
        if fields.received > self.hops {
            let text = format!("more than {} hops: a mail loop", self.hops);
            return Err(Reply::new(554, (5, 4, 6), text));
        }
        let from_domain = from_domain(&fields, policy)?;
        let message_id = self.message_id(&fields)?;
        let date_is_missing = self.date_is_missing(&fields, arrival.now)?;
        let (stream, stream_range) = self.stream(&fields, policy)?;
        // Whoever unsubscribes may do so from this list alone: it must not be another sender's.
        let list =
            fields.list.as_ref().and_then(|field| list_id(&field.unfolded())).filter(|list| policy.owns_list(list));
        let one_click =
            self.one_click.get(&stream).map(|policy| OneClick { policy: *policy, pair: one_click::pair(block) });
        let asked = self.powermta(block, policy)?;
        let mut cuts = asked.ranges;
        // Whom else a mail goes to is nobody's business (RFC 5322 §3.6.3).
        cuts.extend(fields.blind);
        cuts.extend(stream_range);
        if let Some(OneClick { policy: configuration::OneClick::Add, pair }) = &one_click
            && pair.lack.is_some()
        {
            cuts.extend(pair.ranges.iter().cloned());
        }

        let mut prefix = BytesMut::with_capacity(320);
        received::write(&mut prefix, &self.hostname, arrival);
        if date_is_missing {
            received::write_date(&mut prefix, arrival.now);
        }
        let message_id = match message_id {
            Some(present) => present,
            None => {
                let added = format!("<{}@{}>", arrival.id, self.hostname);
                prefix.extend_from_slice(b"Message-ID: ");
                prefix.extend_from_slice(added.as_bytes());
                prefix.extend_from_slice(b"\r\n");
                added
            }
        };
        let tls_not_required = fields.tls_not_required;
        // From the end, so that what stands before keeps its place.
        cuts.sort_unstable_by_key(|range| std::cmp::Reverse(range.start));
        cuts.dedup();
        cuts.into_iter().for_each(|range| content.cut(range));
        Ok(Admitted {
            stream,
            prefix: prefix.freeze(),
            from_domain,
            message_id,
            list,
            one_click,
            pool: asked.virtual_mta,
            job: asked.job,
            envelope_id: asked.envelope_id,
            tls_not_required,
        })
    }

    /// What PowerMTA's fields ask for, where the sender may ask.
    fn powermta(&self, block: &[u8], policy: &SenderPolicy) -> Result<powermta::Asked, Reply> {
        if !policy.has_powermta_headers() {
            return Ok(powermta::Asked::default());
        }
        let asked = powermta::asked(block).map_err(|reason| bad_content(&reason))?;
        match &asked.virtual_mta {
            Some(name) if !self.pools.contains(name) => Err(policy_refusal(
                "the X-Virtual-MTA field names neither a pool nor a source; name a [pool.NAME] that is configured"
                    .to_owned(),
            )),
            _ => Ok(asked),
        }
    }

    fn message_id(&self, fields: &Fields<'_>) -> Result<Option<String>, Reply> {
        match (&fields.message_id, self.missing_message_id) {
            (Some(field), _) => match header::message_id(&field.unfolded()) {
                Some(id) => Ok(Some(id.to_owned())),
                None => Err(bad_content("the Message-ID field is not one <left@right> without spaces")),
            },
            (None, MissingHeader::Add) => Ok(None),
            (None, MissingHeader::Refuse) => Err(bad_content("the Message-ID field is missing")),
        }
    }

    fn date_is_missing(&self, fields: &Fields<'_>, now: Timestamp) -> Result<bool, Reply> {
        match (&fields.date, self.missing_date) {
            (Some(field), _) => check_date(&field.unfolded(), now).map(|()| false),
            (None, MissingHeader::Add) => Ok(true),
            (None, MissingHeader::Refuse) => Err(bad_content("the Date field is missing")),
        }
    }

    /// The stream, and where the field that named it stands.
    fn stream(
        &self,
        fields: &Fields<'_>,
        policy: &SenderPolicy,
    ) -> Result<(String, Option<std::ops::Range<usize>>), Reply> {
        let Some(field) = &fields.stream else {
            return Ok((policy.stream().to_owned(), None));
        };
        let value = field.unfolded();
        let name = std::str::from_utf8(&value).unwrap_or_default();
        if !self.streams.contains(name) {
            return Err(policy_refusal(format!("the {} field names no stream that is configured", self.stream_header)));
        }
        if !policy.may_choose(name) {
            return Err(policy_refusal(format!("{} may not choose the stream {name}", policy.name())));
        }
        Ok((name.to_owned(), Some(field.range.clone())))
    }
}

/// MAIL: whether a sender may use that return path.
pub fn judge_sender(policy: &SenderPolicy, sender: Option<&Address>) -> Result<(), Reply> {
    match sender {
        Some(sender) if !policy.allows_domain(sender.domain()) => Err(Reply::new(
            553,
            (5, 7, 1),
            format!("{} may not send from the domain {}", policy.name(), sender.domain()),
        )),
        _ => Ok(()),
    }
}

/// RCPT: whether mail can go to such an address at all. Address literals are refused: what they
/// reach has no domain, so no provider, no policy and no reputation to keep.
pub fn judge_recipient(recipient: &Address) -> Result<(), Reply> {
    if recipient.is_literal() {
        return Err(Reply::new(550, (5, 1, 2), "mail to address literals is not taken: use a domain"));
    }
    Ok(())
}

/// The reply to a content that the reader refused.
pub fn content_reply(error: &ContentError) -> Reply {
    match error {
        ContentError::TooLarge { .. } => Reply::new(552, (5, 3, 4), error.to_string()),
        ContentError::NoMemory => Reply::new(452, (4, 3, 1), error.to_string()),
        ContentError::BareLineEnd { .. } | ContentError::Nul { .. } | ContentError::LineTooLong { .. } => {
            bad_content(&error.to_string())
        }
    }
}

/// The domain of the first mailbox; every mailbox must be allowed.
fn from_domain(fields: &Fields<'_>, policy: &SenderPolicy) -> Result<String, Reply> {
    let Some(field) = &fields.from else {
        return Err(bad_content("the From field is missing"));
    };
    let addresses = mailbox::addresses(field.value)
        .map_err(|error| bad_content(&format!("the From field cannot be read: {error}")))?;
    for address in &addresses {
        if !policy.allows_domain(address.domain()) {
            return Err(policy_refusal(format!(
                "{} may not use the domain {} in the From field",
                policy.name(),
                address.domain()
            )));
        }
    }
    match addresses.first() {
        Some(first) => Ok(first.domain().to_owned()),
        None => Err(bad_content("the From field has no mailbox")),
    }
}

/// The identifier of `List-Id: phrase <identifier>` (RFC 2919 §2); what is none names no list.
fn list_id(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let inner = text.strip_suffix('>')?;
    let identifier = inner.get(inner.rfind('<')? + 1..)?;
    let is_one = (1..=LONGEST_LIST_ID).contains(&identifier.len())
        && identifier.bytes().all(|octet| octet.is_ascii_graphic() && !b"<>()[]:;@\\,\"".contains(&octet));
    is_one.then(|| identifier.to_ascii_lowercase())
}

fn check_date(value: &[u8], now: Timestamp) -> Result<(), Reply> {
    const PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    let Ok(date) = PARSER.parse_timestamp(value).or_else(|_| PARSER.parse_timestamp(without_zone_name(value))) else {
        return Err(bad_content("the Date field is not a date such as `Tue, 24 Nov 2026 09:00:00 +0000`"));
    };
    let seconds = date.as_second();
    if seconds < EARLIEST_DATE || seconds > now.as_second().saturating_add(LATEST_DATE) {
        return Err(bad_content("the Date field is before 1990 or more than two days ahead"));
    }
    Ok(())
}

/// The zone written as a name nobody knows means no more than `-0000` (RFC 5322 §4.3).
fn without_zone_name(value: &[u8]) -> Vec<u8> {
    let value = value.trim_ascii_end();
    let name = value.iter().rev().take_while(|octet| octet.is_ascii_alphabetic()).count();
    match value.get(..value.len() - name) {
        Some(rest) if (1..=5).contains(&name) && rest.ends_with(b" ") => [rest, b"-0000"].concat(),
        _ => value.to_vec(),
    }
}

/// 550 5.6.0: the content is not what a message must be.
fn bad_content(reason: &str) -> Reply {
    Reply::new(550, (5, 6, 0), reason)
}

/// 550 5.7.1: this sender may not.
fn policy_refusal(reason: String) -> Reply {
    Reply::new(550, (5, 7, 1), reason)
}

#[cfg(test)]
mod tests;
