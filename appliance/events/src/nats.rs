//! Events to a stream of NATS JetStream, each acknowledged. `Nats-Msg-Id` is the event's id, by which the
//! stream leaves out what it has already, within its own window.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, Context};
use async_nats::{ConnectOptions, HeaderMap};
use bytes::Bytes;
use postkeep_configuration as configuration;
use rustls::ClientConfig;

use crate::cursor::Cursor;
use crate::event::{Event, filled};
use crate::runner::{Failure, Sink};
use crate::secret_line;

/// How long servers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream, by the subject that it takes in.
pub(crate) struct Nats {
    servers: Vec<String>,
    subject: String,
    user: Option<String>,
    password: Option<String>,
    tls: Option<Arc<ClientConfig>>,
    context: Option<Context>,
}

impl Nats {
    /// # Errors
    /// The password or the roots cannot be read.
    pub(crate) fn new(settings: &configuration::Nats) -> io::Result<Self> {
        let is_tls = settings.servers.iter().any(|server| server.starts_with("tls://"));
        Ok(Self {
            servers: settings.servers.clone(),
            subject: settings.subject.clone(),
            user: settings.user.clone(),
            password: settings.password.as_deref().map(secret_line).transpose()?,
            tls: is_tls.then(|| postkeep_trust::client(settings.extra_roots.as_deref())).transpose()?,
            context: None,
        })
    }

    async fn context(&mut self) -> Result<Context, String> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let options = match (&self.user, &self.password) {
            (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
            (None, Some(token)) => ConnectOptions::with_token(token.clone()),
            _ => ConnectOptions::new(),
        };
        // The servers that were named are those to go to: others need not be reachable from here.
        let mut options = options.name("postkeep").connection_timeout(PATIENCE).ignore_discovered_servers();
        if let Some(tls) = &self.tls {
            options = options.tls_client_config(ClientConfig::clone(tls)).require_tls(true);
        }
        let client = options.connect(self.servers.as_slice()).await.map_err(|error| error.to_string())?;
        let mut context = jetstream::new(client);
        context.set_timeout(PATIENCE);
        self.context = Some(context.clone());
        Ok(context)
    }

    async fn publish(&mut self, events: &[Event]) -> Result<(), Failure> {
        let context = self.context().await.map_err(Failure::new)?;
        let failure = |error: PublishError| {
            let is_refusal = match error.kind() {
                PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => false,
                // A server says nothing to a message that this user may not send, but is there.
                PublishErrorKind::TimedOut => context.client().connection_state() == State::Connected,
                _ => true,
            };
            Failure { is_refusal, ..Failure::new(error.to_string()) }
        };
        let mut under_way = Vec::with_capacity(events.len());
        for event in events {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", event.id.as_str());
            let subject = filled(&self.subject, event);
            let sent = context.publish_with_headers(subject, headers, Bytes::from(event.text.clone())).await;
            // Too large is seen here already.
            under_way.push(sent.map_err(failure)?);
        }
        for sent in under_way {
            sent.await.map_err(failure)?;
        }
        Ok(())
    }
}

impl Sink for Nats {
    async fn deliver(&mut self, events: &[Event], _: &mut Cursor) -> Result<(), Failure> {
        let result = tokio::time::timeout(3 * PATIENCE, self.publish(events)).await;
        let failure = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new("no answer in time"),
        };
        // Another connection, in case this one is what is wrong.
        self.context = None;
        let detail = format!("subject {} at {}: {}", self.subject, self.servers.join(", "), failure.detail);
        Err(Failure { detail, ..failure })
    }
}
