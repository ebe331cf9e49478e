//! Events: tells others what happened to mail. An accounting file, webhooks, AMQP, Kafka and NATS.
//!
//! The record files are the buffer: the mail core writes them once, each receiver follows them with a
//! cursor of its own and at its own pace. So no receiver, however slow or dead, holds up mail; each is
//! told every event at least once, with an id that stays the same; and how far it may lag behind is
//! bounded. What is lost to that bound is counted and logged.

mod accounting;
mod amqp;
mod complaints;
mod cursor;
mod event;
mod follower;
mod kafka;
mod nats;
mod privacy;
mod reader;
mod receiver;
mod runner;
mod status;
mod webhook;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postkeep_configuration::{ByteSize, Configuration, EventsFrom, LocalPart};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::complaints::Complaints;
use crate::cursor::Cursor;
use crate::receiver::Receiver;
use crate::runner::{Pace, Sink};
use crate::status::{Board, Shared};

pub use crate::status::Status;

/// How long the last request of a receiver may take when the daemon stops.
const LAST_REQUEST: Duration = Duration::from_secs(3);
/// How long all of them are waited for.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Events at a time for brokers and the accounting file.
const BATCH: usize = 500;
/// Longest gap between tries at a webhook, which may be down for hours.
const WEBHOOK_GAP: Duration = Duration::from_secs(300);
/// And at a broker.
const BROKER_GAP: Duration = Duration::from_secs(30);

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
struct Common {
    kind: &'static str,
    name: String,
    events: Vec<String>,
    local_part: LocalPart,
    buffer: ByteSize,
    from: EventsFrom,
}

/// That of a table with a name and a list of events.
macro_rules! common {
    ($kind:literal, $settings:expr) => {
        Common {
            kind: $kind,
            name: $settings.name.clone(),
            events: $settings.events.clone(),
            local_part: $settings.local_part,
            buffer: $settings.buffer,
            from: $settings.from,
        }
    };
}

impl Events {
    /// Begins with every receiver of the configuration, beside the runtime. `written` changes whenever
    /// records were written; without it they are looked for every few seconds.
    ///
    /// What cannot be opened, a folder that is not mounted for example, is tried again: nothing here may
    /// keep mail from being taken.
    pub fn start(configuration: &Configuration, written: watch::Receiver<u64>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let events = Self { tasks: JoinSet::new(), stop, board: Board::default() };
        let mut starter = Starter { configuration, written, stopped, events };
        starter.start();
        starter.events
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
    fn start(&mut self) {
        let configuration = self.configuration;
        if let Some(settings) = configuration.accounting.clone() {
            let common = Common {
                kind: "accounting",
                name: "accounting".to_owned(),
                events: accounting::events_of(&settings),
                local_part: settings.local_part,
                buffer: settings.buffer,
                from: settings.from,
            };
            let pace = pace(&common);
            self.add(common, pace, move |cursor| accounting::Accounting::open(&settings, cursor));
        }
        for settings in configuration.webhook.iter().cloned() {
            let common = common!("webhook", settings);
            let pace = Pace {
                batch: settings.batch_events as usize,
                linger: settings.batch_age.as_std(),
                longest_gap: WEBHOOK_GAP,
                retry_for: Some(settings.retry_for.as_std()),
                outage_for: Some(settings.retry_for.as_std()),
                ..pace(&common)
            };
            self.add(common, pace, move |_| webhook::Webhook::new(&settings));
        }
        for settings in configuration.amqp.iter().cloned() {
            let common = common!("amqp", settings);
            let pace = Pace { retry_for: Some(settings.retry_for.as_std()), ..pace(&common) };
            self.add(common, pace, move |_| amqp::Amqp::new(&settings));
        }
        for settings in configuration.kafka.iter().cloned() {
            let common = common!("kafka", settings);
            let pace = Pace { retry_for: Some(settings.retry_for.as_std()), ..pace(&common) };
            self.add(common, pace, move |_| kafka::Kafka::new(&settings));
        }
        for settings in configuration.nats.iter().cloned() {
            let common = common!("nats", settings);
            let pace = Pace { retry_for: Some(settings.retry_for.as_std()), ..pace(&common) };
            self.add(common, pace, move |_| nats::Nats::new(&settings));
        }
    }

    fn add<S, F>(&mut self, common: Common, pace: Pace, sink: F)
    where
        S: Sink,
        F: FnMut(&Cursor) -> io::Result<S> + Send + 'static,
    {
        let label = if common.kind == common.name {
            common.kind.to_owned()
        } else {
            format!("{} {}", common.kind, common.name)
        };
        let shared = Arc::new(Shared::default());
        self.events.board.0.push((common.kind, common.name.clone(), Arc::clone(&shared)));
        let receiver = Receiver {
            common,
            label,
            pace,
            sink,
            directory: self.configuration.records.directory.clone(),
            hostname: self.configuration.hostname.clone(),
            shared,
            written: self.written.clone(),
            stop: self.stopped.clone(),
            first: None,
            complaints: Complaints::default(),
        };
        self.events.tasks.spawn(receiver.begin());
    }
}

/// The pace of brokers and of the accounting file.
fn pace(common: &Common) -> Pace {
    Pace {
        batch: BATCH,
        linger: Duration::ZERO,
        longest_gap: BROKER_GAP,
        retry_for: None,
        outage_for: None,
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
