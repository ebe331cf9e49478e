//! Events to Kafka: acknowledged by all replicas in sync, idempotent, in order for each key.

use std::io;
use std::time::Duration;

use postkeep_configuration as configuration;
use postkeep_configuration::KafkaKey;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
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
    client: ClientConfig,
    /// Absent after an error from which it does not recover.
    producer: Option<FutureProducer<Quiet>>,
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
        let producer = Some(begin(&client).map_err(io::Error::other)?);
        Ok(Self { client, producer, topic: settings.topic.clone(), key: settings.key, brokers })
    }

    async fn publish(&mut self, events: &[Event]) -> Result<(), Failure> {
        let producer = match &self.producer {
            Some(producer) => producer,
            None => self.producer.insert(begin(&self.client).map_err(failure)?),
        };
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
            under_way.push(producer.send_result(record).map_err(|(error, _)| failure(error))?);
        }
        for sent in under_way {
            match sent.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(failure(error)),
                Err(_) => return Err(Failure::new("the client was closed")),
            }
        }
        Ok(())
    }

    /// Lets go of a producer that will never work again: the library keeps to its promise of order and of no
    /// doubles by refusing everything from then on. A new one may send some again; so says our own promise.
    fn forget_if_fatal(&mut self) -> Option<String> {
        let (_, reason) = self.producer.as_ref()?.client().fatal_error()?;
        let producer = self.producer.take();
        // It waits for its threads.
        tokio::task::spawn_blocking(move || drop(producer));
        Some(reason)
    }
}

fn begin(client: &ClientConfig) -> Result<FutureProducer<Quiet>, KafkaError> {
    FutureProducer::from_config_and_context(client, Quiet)
}

fn failure(error: KafkaError) -> Failure {
    let code = error.rdkafka_error_code();
    // A producer that has given up refuses all; and silence is nobody's word.
    let is_silence = matches!(
        code,
        None | Some(
            RDKafkaErrorCode::MessageTimedOut
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::QueueFull
                | RDKafkaErrorCode::PurgeQueue
                | RDKafkaErrorCode::PurgeInflight
        )
    );
    Failure { is_refusal: !is_silence, ..Failure::new(error.to_string()) }
}

impl Sink for Kafka {
    async fn deliver(&mut self, events: &[Event], _: &mut Cursor) -> Result<(), Failure> {
        let Err(failure) = self.publish(events).await else { return Ok(()) };
        let mut detail = format!("topic {} at {}: {}", self.topic, self.brokers, failure.detail);
        if let Some(reason) = self.forget_if_fatal() {
            detail.push_str(&format!(" ({reason}); with a new client"));
        }
        Err(Failure { detail, ..failure })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::RDKafkaApiKey;

    use super::*;
    use crate::follower::Position;

    fn event() -> Event {
        Event {
            id: "1@mail.example.com".into(),
            time: "2026-11-26T21:12:00Z".into(),
            name: "delivered".into(),
            message: "07".into(),
            stream: String::new(),
            domain: String::new(),
            text: b"{}".to_vec(),
            end: Position::beginning(),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_client_that_has_given_up_for_good_is_replaced() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("mail", 1, 1).expect("a topic");
        let settings = configuration::Kafka {
            name: "warehouse".into(),
            brokers: cluster.bootstrap_servers().split(',').map(str::to_owned).collect(),
            topic: "mail".into(),
            key: KafkaKey::Message,
            events: vec!["*".into()],
            retry_for: configuration::Duration::from_secs(86_400),
            local_part: configuration::LocalPart::Plain,
            buffer: configuration::ByteSize::mebibytes(1),
            from: configuration::EventsFrom::End,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let mut cursor = Cursor::open(folder.path(), || Ok(Position::beginning())).expect("a cursor");
        let mut kafka = Kafka::new(&settings).expect("a client");
        kafka.deliver(&[event()], &mut cursor).await.expect("taken");
        // The head of the line is out of order: nothing can be right any more.
        cluster.request_errors(RDKafkaApiKey::Produce, &[RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
        let failure = kafka.deliver(&[event()], &mut cursor).await.expect_err("a fatal error");
        assert!(failure.detail.contains("with a new client"), "{failure:?}");
        kafka.deliver(&[event()], &mut cursor).await.expect("taken by the new one");
    }
}
