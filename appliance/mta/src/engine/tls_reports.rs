//! TLS reports: what was counted of each UTC day becomes one report for each domain that asks for it, sent by mail or by
//! HTTPS within four hours after the day (RFC 8460).
//!
//! Counts are written out every few minutes and when the daemon stops. A report is sent before it is noted as sent: a
//! crash in between sends it twice, under the same identifier.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use postkeep_configuration::TlsReports;
use postkeep_protection::https::Request;
use postkeep_protection::reports::{self, Applied, Day, Document, Failure, Place, Sender};
use postkeep_smtp::envelope::{BodyKind, Envelope, Recipient, TlsRequest};
use postkeep_smtp::{Address, header};

use super::Inner;
use crate::clock::{self, seconds};
use crate::metadata::Metadata;

/// Counts are written out, and reports that are due are sent, this often.
const EVERY: Duration = Duration::from_secs(300);
/// Time for handing in one report by HTTPS.
const PATIENCE: Duration = Duration::from_secs(60);
/// Days that are over and not yet reported; older ones are given up.
const MOST_DAYS: usize = 3;
/// Octets of a file of counts.
const LARGEST: u64 = 256 << 20;

/// What is counted.
#[derive(Default)]
pub(crate) struct TlsSessions(Mutex<Days>);

#[derive(Default)]
struct Days {
    today: Option<Day>,
    over: Vec<Day>,
    changed: bool,
}

impl Days {
    fn turn(&mut self, now: u64) {
        if let Some(day) = self.today.take_if(|day| day.is_over(now)) {
            if day.uncounted() > 0 {
                log::warn!("tls-reports: {} sessions of too many domains were not counted", day.uncounted());
            }
            self.over.push(day);
            if self.over.len() > MOST_DAYS {
                let old = self.over.remove(0);
                log::warn!("tls-reports: {} reports of the day {} were never sent", old.domains().count(), old.start);
            }
        }
    }
}

impl TlsSessions {
    pub(super) fn count(&self, domain: &str, applied: &Applied, failure: Option<Failure>) {
        let now = u64::from(seconds(clock::now()));
        let mut days = self.0.lock();
        days.turn(now);
        days.today.get_or_insert_with(|| Day::of(now)).count(domain, applied, failure);
        days.changed = true;
    }

    /// Reads what was counted before a restart.
    pub(super) fn load(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let path = file(folder);
        let octets = match fs::metadata(&path) {
            Ok(data) if data.len() > LARGEST => Err(io::Error::other("it is too large")),
            Ok(_) => fs::read(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
        };
        let kept = octets.and_then(|octets| serde_json::from_slice::<Vec<Day>>(&octets).map_err(io::Error::other));
        match kept {
            Ok(kept) => {
                let now = u64::from(seconds(clock::now()));
                let mut days = self.0.lock();
                for day in kept {
                    if day.is_over(now) {
                        days.over.push(day);
                    } else {
                        days.today = Some(day);
                    }
                }
            }
            Err(error) => log::error!("tls-reports: {} is passed over: {error}", path.display()),
        }
        Ok(())
    }

    /// Writes out what was counted, if anything was.
    pub(super) fn keep(&self, folder: &Path) {
        let octets = {
            let mut days = self.0.lock();
            if !std::mem::take(&mut days.changed) {
                return;
            }
            let all: Vec<&Day> = days.over.iter().chain(&days.today).collect();
            serde_json::to_vec(&all).unwrap_or_default()
        };
        if let Err(error) = write(&file(folder), &octets) {
            log::error!("tls-reports: what was counted cannot be kept: {error}");
            self.0.lock().changed = true;
        }
    }

    /// Days that are over, with the domains whose reports are due.
    fn due(&self, now: u64) -> Vec<(Day, Vec<String>)> {
        let mut days = self.0.lock();
        days.turn(now);
        days.over
            .iter()
            .map(|day| {
                let due = day.domains().filter(|domain| now >= reports::due(day, domain, SPREAD));
                (day.clone(), due.map(str::to_owned).collect())
            })
            .collect()
    }

    fn done(&self, start: u64, domain: &str) {
        let mut days = self.0.lock();
        if let Some(day) = days.over.iter_mut().find(|day| day.start == start) {
            day.done(domain);
        }
        days.over.retain(|day| !day.is_done());
        days.changed = true;
    }
}

/// What nobody takes for a day is not sent any more (RFC 8460 §3.2).
fn is_late(day: &Day) -> bool {
    u64::from(seconds(clock::now())) > day.start + 2 * reports::DAY
}

/// Spreads reports differently from other senders' that run the same program.
const SPREAD: u64 = 0x706f_7374_6b65_6570;

fn file(folder: &Path) -> PathBuf {
    folder.join("days.json")
}

fn write(path: &Path, octets: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        // A reload may have asked for reports.
        fs::create_dir_all(folder)?;
    }
    postkeep_files::replace(path, octets)
}

impl Inner {
    /// Writes out counts, for as long as the daemon runs.
    pub(super) async fn keep_sessions(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Some(settings) = self.configuration.load().tls_reports.clone() {
                let engine = Arc::clone(&self);
                let _ = tokio::task::spawn_blocking(move || engine.tls_sessions.keep(&settings.directory)).await;
            }
        }
    }

    /// Sends reports, for as long as the daemon runs.
    pub(super) async fn report_sessions(self: Arc<Self>) {
        loop {
            if let Some(settings) = self.configuration.load().tls_reports.clone() {
                for (day, domains) in self.tls_sessions.due(u64::from(seconds(clock::now()))) {
                    for domain in domains {
                        if self.report(&settings, &day, &domain).await {
                            self.tls_sessions.done(day.start, &domain);
                            let (engine, folder) = (Arc::clone(&self), settings.directory.clone());
                            let _ = tokio::task::spawn_blocking(move || engine.tls_sessions.keep(&folder)).await;
                        }
                    }
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// One domain's report. Whether it is done with: sent, or not asked for.
    async fn report(&self, settings: &TlsReports, day: &Day, domain: &str) -> bool {
        let Some(counts) = day.counts(domain) else { return true };
        let texts = match self.resolver.load_full().texts(&reports::record_name(domain)).await {
            Ok(texts) => texts,
            Err(error) => {
                log::debug!("tls-reports: {domain}: {error}; trying again");
                return is_late(day);
            }
        };
        let places = reports::places(texts.iter().map(Vec::as_slice));
        if places.is_empty() {
            return true;
        }
        let submitter = settings.from.rsplit_once('@').map_or("", |(_, domain)| domain);
        let contact = settings.contact.as_deref().unwrap_or(&settings.from);
        let sender = Sender { organization: &settings.organization, contact, submitter };
        let document = Document::new(day, domain, counts, &sender);
        // Each place gets it, and one that cannot be reached costs the others nothing.
        let mut sent = false;
        for place in places {
            let result = match &place {
                Place::Mail(address) => self.mail_report(settings, &document, address).await,
                Place::Https(url) => self.post_report(&document, url).await,
            };
            match result {
                Ok(()) => sent = true,
                Err(why) => log::warn!("tls-reports: the report for {domain} cannot be sent to {place:?}: {why}"),
            }
        }
        if sent {
            log::info!("tls-reports: {} sent", document.id());
        }
        sent || is_late(day)
    }

    async fn mail_report(&self, settings: &TlsReports, document: &Document, to: &str) -> Result<(), String> {
        let to: Address = to.parse().map_err(|_| format!("{to:?} is no address"))?;
        let from: Address = settings.from.parse().map_err(|_| format!("{:?} is no address", settings.from))?;
        let content = document.mail(from.as_str(), to.as_str()).map_err(|error| error.to_string())?;
        let content = Bytes::from(content);
        let header_length = header::header_length(&content);
        let message_id = header::fields(content.get(..header_length).unwrap_or_default())
            .filter_map(Result::ok)
            .find(|field| field.is("Message-ID"))
            .and_then(|field| String::from_utf8(field.unfolded().into_owned()).ok())
            .unwrap_or_default();
        let metadata = Metadata {
            envelope: Envelope {
                sender: Some(from.clone()),
                recipients: vec![Recipient::new(to)],
                body: BodyKind::SevenBit,
                smtputf8: false,
                ret: None,
                envelope_id: None,
                // A report about TLS that does not work must not fail for it (RFC 8460 §3).
                tls: TlsRequest::NotRequired,
            },
            stream: settings.stream.as_deref().unwrap_or("default").into(),
            credential: "postkeep".into(),
            from_domain: from.domain().into(),
            message_id: message_id.into(),
            list: None,
            unsubscribe: None,
            pool: None,
            job: None,
            composed: false,
            has_dot_lines: content.starts_with(b".") || memchr::memmem::find(&content, b"\r\n.").is_some(),
            eight_bit: !content.is_ascii(),
            header_length: header_length as u32,
            body_hash: None,
        };
        let (id, now) = (self.spool.next_id(), clock::now());
        let time = Timestamp::from_microsecond(now as i64).unwrap_or_default();
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&time).unwrap_or_default();
        let has_date = header::fields(content.get(..header_length).unwrap_or_default())
            .any(|field| field.is_ok_and(|field| field.is("Date")));
        let prefix = match has_date {
            true => Bytes::from_static(b"TLS-Required: No\r\n"),
            false => Bytes::from(format!("TLS-Required: No\r\nDate: {date}\r\n")),
        };
        self.keep_own(id, now, metadata, prefix, content).await.map_err(|error| error.to_string())
    }

    async fn post_report(&self, document: &Document, url: &str) -> Result<(), String> {
        let place = self.place_of(url).await?;
        let gzip = document.gzip().map_err(|error| error.to_string())?;
        let request = Request {
            host: &place.host,
            port: place.port,
            addresses: &place.addresses,
            path: &place.path,
            post: Some(("application/tlsrpt+gzip", gzip.into())),
            most: 64 * 1024,
            within: PATIENCE,
        };
        self.policies.client().request(&request).await.map(|_| ()).map_err(|error| error.to_string())
    }
}
