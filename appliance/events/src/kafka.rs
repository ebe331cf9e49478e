//! Events to Kafka: acknowledged by all replicas in sync, idempotent, in order for each key.

use std::io;
use std::time::Duration;

use postkeep_configuration as configuration;
use postkeep_configuration::KafkaKey;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, ClientContext};

use crate::cursor::Cursor;
use crate::event::Event;
use crate::runner::{Failure, Sink};

/// How long the brokers may take for a batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the library says goes to those who look for it: failures are told once, by whoever tries again.
#[derive(Clone)]
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        log::debug!("librdkafka: {facility} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("librdkafka: {error}: {reason}");
    }
}

/// A topic.
pub(crate) struct Kafka {
    producer: FutureProducer<Quiet>,
    topic: String,
    key: KafkaKey,
    brokers: String,
}

impl Kafka {
    /// # Errors
    /// The library refuses the settings.
    pub(crate) fn new(settings: &configuration::Kafka) -> io::Result<Self> {
        let brokers = settings.brokers.join(",");
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &brokers)
            .set("client.id", "postkeep")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .set("reconnect.backoff.max.ms", "10000")
            .set_log_level(RDKafkaLogLevel::Error);
        let producer = FutureProducer::from_config_and_context(&client, Quiet).map_err(io::Error::other)?;
        Ok(Self { producer, topic: settings.topic.clone(), key: settings.key, brokers })
    }
}

impl Sink for Kafka {
    async fn deliver(&mut self, events: &[Event], _: &mut Cursor) -> Result<(), Failure> {
        let failed = |detail: String| Failure::new(format!("topic {} at {}: {detail}", self.topic, self.brokers));
        let mut under_way = Vec::with_capacity(events.len());
        for event in events {
            let key = match self.key {
                KafkaKey::Message => &event.message,
                KafkaKey::Domain => &event.domain,
                KafkaKey::Stream => &event.stream,
            };
            let headers = OwnedHeaders::new()
                .insert(Header { key: "id", value: Some(&event.id) })
                .insert(Header { key: "event", value: Some(&event.name) });
            let record = FutureRecord::to(&self.topic).key(key).payload(&event.text).headers(headers);
            let sent = self.producer.send_result(record).map_err(|(error, _)| failed(error.to_string()))?;
            under_way.push(sent);
        }
        for sent in under_way {
            match sent.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(failed(error.to_string())),
                Err(_) => return Err(failed("the client was closed".to_owned())),
            }
        }
        Ok(())
    }
}
