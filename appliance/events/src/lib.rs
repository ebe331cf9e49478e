//! Events: tells others what happened to mail. An accounting file, webhooks, AMQP, Kafka and NATS.
//!
//! The record files are the buffer: the mail core writes them once, each receiver follows them with a
//! cursor of its own and at its own pace. So no receiver, however slow or dead, holds up mail; each is
//! told every event at least once, with an id that stays the same; and how far it may lag behind is
//! bounded. What is lost to that bound is counted and logged.

mod accounting;
mod amqp;
mod cursor;
mod event;
mod follower;
mod kafka;
mod nats;
mod privacy;
mod reader;
mod runner;
mod status;
mod webhook;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postkeep_configuration::{ByteSize, Configuration, EventsFrom, LocalPart};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cursor::Cursor;
use crate::event::Selection;
use crate::privacy::Privacy;
use crate::runner::{Pace, Runner, Sink, first_place};
use crate::status::{Board, Shared};

pub use crate::status::Status;

/// How long the last request of a receiver may take when the daemon stops.
const LAST_REQUEST: Duration = Duration::from_secs(3);
/// How long all of them are waited for.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Where cursors lie, below the folder of the records.
const CURSORS: &str = "receivers";
/// Events at a time for brokers and the accounting file.
const BATCH: usize = 500;
/// Longest gap between tries at a webhook, which may be down for hours.
const WEBHOOK_GAP: Duration = Duration::from_secs(300);
/// And at a broker.
const BROKER_GAP: Duration = Duration::from_secs(30);

/// Why a receiver of events could not be begun with.
#[derive(Debug, Error)]
#[error("{receiver}: {error}")]
pub struct StartError {
    /// `webhook shop`.
    receiver: String,
    /// What was tried, and why it failed.
    error: io::Error,
}

/// All receivers of events, at work.
pub struct Events {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    board: Board,
}

/// Reads how receivers are; cheap to clone.
#[derive(Debug, Clone)]
pub struct Observer(Board);

impl Observer {
    /// How each receiver is, in the order of the configuration.
    pub fn statuses(&self) -> Vec<Status> {
        self.0.statuses()
    }

    /// Families of metrics in the OpenMetrics text form, without `# EOF`.
    pub fn metrics(&self) -> String {
        self.0.metrics()
    }
}

/// What all kinds of receivers have.
struct Common<'a> {
    kind: &'static str,
    name: &'a str,
    events: Vec<String>,
    local_part: LocalPart,
    buffer: ByteSize,
    from: EventsFrom,
}

impl Events {
    /// Begins with every receiver of the configuration, beside the runtime. `written` changes whenever
    /// records were written; without it they are looked for every few seconds.
    ///
    /// # Errors
    /// A folder, a secret or a cursor cannot be used.
    pub fn start(configuration: &Configuration, written: watch::Receiver<u64>) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let events = Self { tasks: JoinSet::new(), stop, board: Board::default() };
        let mut starter = Starter { configuration, written, stopped, events };
        starter.start()?;
        Ok(starter.events)
    }

    /// Reads how receivers are.
    pub fn observer(&self) -> Observer {
        Observer(self.board.clone())
    }

    /// Lets each receiver be told what is there, for some seconds, and stops. What is left is sent after
    /// the next start.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
            log::info!("events: some receivers are told the rest after the next start");
        }
    }
}

struct Starter<'a> {
    configuration: &'a Configuration,
    written: watch::Receiver<u64>,
    stopped: watch::Receiver<bool>,
    events: Events,
}

impl Starter<'_> {
    fn start(&mut self) -> Result<(), StartError> {
        let configuration = self.configuration;
        if let Some(settings) = &configuration.accounting {
            let common = Common {
                kind: "accounting",
                name: "accounting",
                events: accounting::events_of(settings),
                local_part: settings.local_part,
                buffer: settings.buffer,
                from: settings.from,
            };
            let pace = Pace { longest_gap: BROKER_GAP, ..pace(&common) };
            self.add(&common, pace, |cursor| accounting::Accounting::open(settings, cursor))?;
        }
        for settings in &configuration.webhook {
            let common = Common {
                kind: "webhook",
                name: &settings.name,
                events: settings.events.clone(),
                local_part: settings.local_part,
                buffer: settings.buffer,
                from: settings.from,
            };
            let pace = Pace {
                batch: settings.batch_events as usize,
                linger: settings.batch_age.as_std(),
                longest_gap: WEBHOOK_GAP,
                retry_for: Some(settings.retry_for.as_std()),
                ..pace(&common)
            };
            self.add(&common, pace, |_| webhook::Webhook::new(settings))?;
        }
        for settings in &configuration.amqp {
            let common = Common {
                kind: "amqp",
                name: &settings.name,
                events: settings.events.clone(),
                local_part: settings.local_part,
                buffer: settings.buffer,
                from: settings.from,
            };
            self.add(&common, pace(&common), |_| amqp::Amqp::new(settings))?;
        }
        for settings in &configuration.kafka {
            let common = Common {
                kind: "kafka",
                name: &settings.name,
                events: settings.events.clone(),
                local_part: settings.local_part,
                buffer: settings.buffer,
                from: settings.from,
            };
            self.add(&common, pace(&common), |_| kafka::Kafka::new(settings))?;
        }
        for settings in &configuration.nats {
            let common = Common {
                kind: "nats",
                name: &settings.name,
                events: settings.events.clone(),
                local_part: settings.local_part,
                buffer: settings.buffer,
                from: settings.from,
            };
            self.add(&common, pace(&common), |_| nats::Nats::new(settings))?;
        }
        Ok(())
    }

    fn add<S: Sink>(
        &mut self,
        common: &Common<'_>,
        pace: Pace,
        sink: impl FnOnce(&Cursor) -> io::Result<S>,
    ) -> Result<(), StartError> {
        let label = if common.kind == common.name {
            common.kind.to_owned()
        } else {
            format!("{} {}", common.kind, common.name)
        };
        let failed = |error| StartError { receiver: label.clone(), error };
        let directory: PathBuf = self.configuration.records.directory.clone();
        let folder = directory.join(CURSORS).join(label.replace(' ', "-"));
        let cursor = Cursor::open(&folder, || first_place(&directory, common.from)).map_err(failed)?;
        // One key for all: an address has the same sum wherever it goes.
        let key = directory.join(CURSORS).join("address-key");
        let selection = Selection {
            events: common.events.clone(),
            privacy: Privacy::open(common.local_part, &key).map_err(failed)?,
            hostname: self.configuration.hostname.clone(),
        };
        let sink = sink(&cursor).map_err(failed)?;
        let shared = Arc::new(Shared::default());
        self.events.board.0.push((common.kind, common.name.to_owned(), Arc::clone(&shared)));
        let runner = Runner {
            label: label.clone(),
            sink,
            pace,
            selection,
            cursor,
            directory,
            shared,
            written: self.written.clone(),
            stop: self.stopped.clone(),
        };
        self.events.tasks.spawn(runner.run());
        Ok(())
    }
}

/// The pace of brokers.
fn pace(common: &Common<'_>) -> Pace {
    Pace {
        batch: BATCH,
        linger: Duration::ZERO,
        longest_gap: BROKER_GAP,
        retry_for: None,
        buffer: common.buffer.bytes(),
    }
}

/// The first line of a file with a secret.
fn secret_line(file: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display())))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(io::Error::other(format!("{} is empty: write the secret into its first line", file.display())));
    }
    Ok(line.to_owned())
}
