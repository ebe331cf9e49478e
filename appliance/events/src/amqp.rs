//! Events to a broker that speaks AMQP 0-9-1: persistent messages, each confirmed by the broker.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_compat::Compat;
use async_rs::{Runtime, TokioRuntime};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::AMQPErrorKind;
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind};
use postkeep_configuration as configuration;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cursor::Cursor;
use crate::event::{Event, filled};
use crate::runner::{Failure, Sink};
use crate::secret_line;

/// How long the broker may take for a batch.
const PATIENCE: Duration = Duration::from_secs(30);
/// Delivery mode of messages that the broker keeps over its own restart.
const PERSISTENT: u8 = 2;
/// Octets of a short string of AMQP at most: routing keys and ids are such.
const LONGEST_SHORT: usize = 255;

/// An exchange.
pub(crate) struct Amqp {
    uri: AMQPUri,
    exchange: String,
    routing_key: String,
    tls: Option<Arc<ClientConfig>>,
    open: Option<(Connection, Channel)>,
}

impl Amqp {
    /// # Errors
    /// The URL or the password cannot be used.
    pub(crate) fn new(settings: &configuration::Amqp) -> io::Result<Self> {
        let mut uri: AMQPUri = settings.url.parse().map_err(|error: String| io::Error::other(error))?;
        if let Some(file) = &settings.password {
            uri.authority.userinfo.password = secret_line(file)?;
        }
        let is_tls = uri.scheme == AMQPScheme::AMQPS;
        let tls = is_tls.then(|| postkeep_trust::client(settings.extra_roots.as_deref())).transpose()?;
        let (exchange, routing_key) = (settings.exchange.clone(), settings.routing_key.clone());
        Ok(Self { uri, exchange, routing_key, tls, open: None })
    }

    async fn channel(&mut self) -> Result<Channel, lapin::Error> {
        if let Some((_, channel)) = self.open.as_ref().filter(|(_, channel)| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let properties = ConnectionProperties::default().with_connection_name("postkeep".into());
        let connection = match self.tls.clone() {
            None => Connection::connect_uri(self.uri.clone(), properties).await?,
            Some(tls) => {
                let connect = async move |uri: AMQPUri, _: TokioRuntime| {
                    let stream = through_tls(uri.authority.host, uri.authority.port, Arc::clone(&tls)).await?;
                    Ok(AsyncTcpStream::Plain(Compat::new(stream)))
                };
                Connection::connector(self.uri.clone(), Runtime::tokio_current(), connect, properties).await?
            }
        };
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        self.open = Some((connection, channel.clone()));
        Ok(channel)
    }

    async fn publish(&mut self, events: &[Event]) -> Result<(), Failure> {
        let failed = |error: lapin::Error| Failure::new(error.to_string());
        let channel = self.channel().await.map_err(failed)?;
        // The default exchange hands to the queue of that name: without one, nobody has it. Another
        // exchange may well have no reader of some events.
        let options = BasicPublishOptions { mandatory: self.exchange.is_empty(), ..BasicPublishOptions::default() };
        let mut under_way = Vec::with_capacity(events.len());
        for event in events {
            let key = short(&filled(&self.routing_key, event));
            let time = event.time.parse::<jiff::Timestamp>().map_or(0, |time| time.as_second());
            let properties = BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type("application/json".into())
                .with_message_id(short(&event.id))
                .with_type(short(&event.name))
                .with_timestamp(u64::try_from(time).unwrap_or(0));
            let sent = channel.basic_publish(short(&self.exchange), key, options, &event.text, properties).await;
            under_way.push(sent.map_err(failed)?);
        }
        for sent in under_way {
            // A broker that forbids something closes the channel; what was lost with it was not refused.
            let answer = sent.await.map_err(|error| match error.kind() {
                ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(_)) => {
                    Failure::refusal(error.to_string())
                }
                _ => failed(error),
            });
            match answer? {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(returned)) => {
                    return Err(Failure::refusal(format!("no queue for it: {}", returned.reply_text)));
                }
                Confirmation::Nack(_) => return Err(Failure::refusal("the broker refused it")),
                Confirmation::NotRequested => return Err(Failure::new("the broker confirms nothing")),
            }
        }
        Ok(())
    }
}

/// A text in a short string, which has bounds: an event's id begins with what tells it apart on this box, and is
/// whole in the event itself.
fn short(text: &str) -> ShortString {
    let part = text.get(..text.floor_char_boundary(LONGEST_SHORT)).unwrap_or_default();
    ShortString::try_new(part).unwrap_or_default()
}

/// A connection whose other end is behind TLS. The library takes a socket and nothing else, so it gets one
/// end of a pair, and what comes out of the other is carried over.
async fn through_tls(host: String, port: u16, tls: Arc<ClientConfig>) -> io::Result<TcpStream> {
    let host = host.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut ours, &mut stream).await;
    });
    TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(theirs)))
}

impl Sink for Amqp {
    async fn deliver(&mut self, events: &[Event], _: &mut Cursor) -> Result<(), Failure> {
        let result = tokio::time::timeout(PATIENCE, self.publish(events)).await;
        let failure = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new("no answer in time"),
        };
        // Another connection, in case this one is what is wrong.
        if let Some((connection, _)) = self.open.take() {
            let closed = connection.close(200, "".into());
            let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
        }
        let place = format!("{}:{}", self.uri.authority.host, self.uri.authority.port);
        let detail = format!("exchange \"{}\" at {place}: {}", self.exchange, failure.detail);
        Err(Failure { detail, ..failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_a_short_string_is_cut_between_characters() {
        assert_eq!(short("postkeep.delivered").as_str(), "postkeep.delivered");
        let long = format!("20261126T211200Z-000-4711@{}", "ö".repeat(200));
        let cut = short(&long);
        assert!(long.starts_with(cut.as_str()) && (254..=255).contains(&cut.as_str().len()), "{cut}");
    }
}
