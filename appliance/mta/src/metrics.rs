//! Counters and gauges in Prometheus' text form. Counters are counted where
//! things happen; gauges are set from a snapshot just before each scrape.

use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::records::Event;

/// Labels of outcomes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    event: &'static str,
    provider: String,
    source: String,
    stream: String,
}

/// Labels of one-dimensional counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabel {
    stream: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabel {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// What the gauges are set to before a scrape.
#[derive(Debug, Clone, Default)]
pub struct Levels {
    /// Recipients that could go now.
    pub ready: u64,
    /// Recipients that wait for their time.
    pub waiting: u64,
    /// Recipients that a connection holds.
    pub taken: u64,
    /// Open outgoing connections by provider.
    pub connections_out: Vec<(String, u64)>,
    /// Bytes in spool segments.
    pub spool_bytes: u64,
    /// Messages in the spool.
    pub spool_messages: u64,
    /// Record lines dropped.
    pub records_dropped: u64,
    /// Bodies held in memory for their first attempt, bytes.
    pub memory_bodies: u64,
    /// Entries of the suppression list.
    pub suppression: Vec<(postkeep_suppression::Reason, u64)>,
}

/// All metrics of the mail core.
pub struct Metrics {
    registry: RwLock<Registry>,
    received: Family<StreamLabel, Counter>,
    without_one_click: Family<StreamLabel, Counter>,
    refused: Family<CodeLabel, Counter>,
    outcomes: Family<OutcomeLabels, Counter>,
    /// Open connections to our doors.
    pub connections_in: Gauge,
    connections_out: Family<ProviderLabel, Gauge>,
    queue: Family<StateLabel, Gauge>,
    seconds: Histogram,
    spool_bytes: Gauge<u64, AtomicU64>,
    spool_messages: Gauge<u64, AtomicU64>,
    records_dropped: Gauge<u64, AtomicU64>,
    memory_bodies: Gauge<u64, AtomicU64>,
    suppression: Family<ReasonLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("postkeep");
        let metrics = Self {
            registry: RwLock::new(Registry::default()),
            received: Family::default(),
            without_one_click: Family::default(),
            refused: Family::default(),
            outcomes: Family::default(),
            connections_in: Gauge::default(),
            connections_out: Family::default(),
            queue: Family::default(),
            seconds: Histogram::new([0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 14_400.0, 86_400.0]),
            spool_bytes: Gauge::default(),
            spool_messages: Gauge::default(),
            records_dropped: Gauge::default(),
            memory_bodies: Gauge::default(),
            suppression: Family::default(),
        };
        registry.register("messages_received", "Messages accepted and durable", metrics.received.clone());
        registry.register(
            "messages_without_one_click",
            "Messages accepted without a whole and signed pair of one-click unsubscribe, in streams that ask for it",
            metrics.without_one_click.clone(),
        );
        registry.register(
            "refusals",
            "Messages or commands refused at the doors, by reply code",
            metrics.refused.clone(),
        );
        registry.register(
            "outcomes",
            "What happened to recipients, by event, provider, source and stream",
            metrics.outcomes.clone(),
        );
        registry.register("connections_in", "Open connections to the doors", metrics.connections_in.clone());
        registry.register(
            "connections_out",
            "Open connections to receivers, by provider",
            metrics.connections_out.clone(),
        );
        registry.register("queue_recipients", "Queued recipients, by state", metrics.queue.clone());
        registry.register("delivery_seconds", "Time from acceptance to delivery", metrics.seconds.clone());
        registry.register("spool_bytes", "Bytes in spool segments", metrics.spool_bytes.clone());
        registry.register("spool_messages", "Messages in the spool", metrics.spool_messages.clone());
        registry.register("records_dropped", "Record lines dropped since the start", metrics.records_dropped.clone());
        registry.register(
            "memory_bodies_bytes",
            "Bodies in memory for their first attempt",
            metrics.memory_bodies.clone(),
        );
        registry.register(
            "suppression_entries",
            "Entries of the suppression list, by reason",
            metrics.suppression.clone(),
        );
        *metrics.registry.write() = registry;
        metrics
    }
}

impl Metrics {
    /// A message was accepted.
    pub fn received(&self, stream: &str) {
        self.received.get_or_create(&StreamLabel { stream: stream.to_owned() }).inc();
    }

    /// A message of a stream that asks for one-click unsubscribe was accepted without it.
    pub fn without_one_click(&self, stream: &str) {
        self.without_one_click.get_or_create(&StreamLabel { stream: stream.to_owned() }).inc();
    }

    /// A client was refused something with this reply code.
    pub fn refused(&self, code: u16) {
        self.refused.get_or_create(&CodeLabel { code }).inc();
    }

    /// A recipient reached an outcome.
    pub fn outcome(&self, event: Event, provider: &str, source: &str, stream: &str, count: u64) {
        let labels = OutcomeLabels {
            event: word(event),
            provider: provider.to_owned(),
            source: source.to_owned(),
            stream: stream.to_owned(),
        };
        self.outcomes.get_or_create(&labels).inc_by(count);
    }

    /// A recipient was delivered this long after acceptance.
    pub fn delivered_after(&self, seconds: f64) {
        self.seconds.observe(seconds);
    }

    /// The text for a scrape.
    pub fn render(&self, levels: &Levels) -> String {
        for (state, value) in [("ready", levels.ready), ("waiting", levels.waiting), ("taken", levels.taken)] {
            self.queue.get_or_create(&StateLabel { state }).set(value as i64);
        }
        self.connections_out.clear();
        for (provider, count) in &levels.connections_out {
            self.connections_out.get_or_create(&ProviderLabel { provider: provider.clone() }).set(*count as i64);
        }
        self.spool_bytes.set(levels.spool_bytes);
        self.spool_messages.set(levels.spool_messages);
        self.records_dropped.set(levels.records_dropped);
        self.memory_bodies.set(levels.memory_bodies);
        for (reason, count) in &levels.suppression {
            self.suppression.get_or_create(&ReasonLabel { reason: reason.as_str() }).set(*count as i64);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.read());
        text
    }
}

fn word(event: Event) -> &'static str {
    match event {
        Event::Received => "received",
        Event::Refused => "refused",
        Event::Attempted => "attempted",
        Event::Deferred => "deferred",
        Event::Delivered => "delivered",
        Event::Bounced => "bounced",
        Event::Expired => "expired",
        Event::Suppressed => "suppressed",
        Event::Removed => "removed",
        Event::RemoteBounce => "remote-bounce",
        Event::RemoteDelay => "remote-delay",
        Event::Complaint => "complaint",
        Event::AutoReply => "auto-reply",
        Event::Returned => "returned",
        Event::Unsubscribed => "unsubscribed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_counters_and_the_levels_given() {
        let metrics = Metrics::default();
        metrics.received("news");
        metrics.outcome(Event::Delivered, "google", "a", "news", 3);
        metrics.refused(554);
        let text = metrics.render(&Levels { ready: 7, ..Levels::default() });
        for line in [
            "postkeep_messages_received_total{stream=\"news\"} 1",
            "postkeep_outcomes_total{event=\"delivered\",provider=\"google\",source=\"a\",stream=\"news\"} 3",
            "postkeep_refusals_total{code=\"554\"} 1",
            "postkeep_queue_recipients{state=\"ready\"} 7",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
