//! Events by HTTP POST, signed as the Standard Webhooks specification says: HMAC-SHA256 over id, time and body.
//!
//! One request at a time, so that events come in order. Redirects are not followed; only a 2xx answer counts.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use postkeep_configuration as configuration;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cursor::Cursor;
use crate::event::Event;
use crate::runner::{Failure, Sink};

/// Octets of an answer that are read.
const ANSWER_LIMIT: usize = 64 * 1024;
/// A receiver may ask to be left alone for so long.
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// What a secret begins with in its file.
const SECRET_PREFIX: &str = "whsec_";

/// A receiver by HTTP.
pub(crate) struct Webhook {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    key: hmac::Key,
    timeout: Duration,
    /// An open connection.
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Webhook {
    /// # Errors
    /// The secret, the roots or the URL cannot be used.
    pub(crate) fn new(settings: &configuration::Webhook) -> io::Result<Self> {
        let uri: Uri = settings.url.parse().map_err(io::Error::other)?;
        let is_https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let tls = is_https.then(|| postkeep_trust::client(settings.extra_roots.as_deref())).transpose()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret(&settings.secret)?);
        Ok(Self { uri, host, port, tls, key, timeout: settings.timeout.as_std(), connection: None })
    }

    async fn post(&mut self, events: &[Event]) -> Result<(), Failure> {
        let body = body(events);
        let id = message_id(events);
        let time = Timestamp::now().as_second();
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.host().unwrap_or_default();
        let host = self.uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let request = Request::post(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("Postkeep/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", time)
            .header("webhook-signature", signature(&self.key, &id, time, &body))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::new(error.to_string()))?;
        let mut connection = self.connection().await?;
        let response =
            connection.send_request(request).await.map_err(|error| self.failure(format!("did not answer: {error}")))?;
        let status = response.status();
        let rest = retry_after(&response);
        // Read, so that the connection can be used again; what it says is of no use but in an error.
        let answer = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        if status.is_success() {
            if answer.is_ok() {
                self.connection = Some(connection);
            }
            return Ok(());
        }
        let said = answer.map(|answer| answer.to_bytes()).unwrap_or_default();
        let said: String = String::from_utf8_lossy(&said).chars().filter(|c| !c.is_control()).take(200).collect();
        let hint = if status.is_redirection() { "; redirects are not followed" } else { "" };
        let mut failure = self.failure(format!("answered {status}{hint}: {said}"));
        failure.is_refusal = is_refusal(status);
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            failure.at_least = rest;
        }
        Err(failure)
    }

    /// The open connection, if it is still good, or another.
    async fn connection(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        if let Some(mut open) = self.connection.take()
            && open.ready().await.is_ok()
        {
            return Ok(open);
        }
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| self.failure(format!("cannot be reached: {error}")))?;
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.shake_hands(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|error| self.failure(error.to_string()))?;
                let stream = TlsConnector::from(Arc::clone(tls))
                    .connect(name, stream)
                    .await
                    .map_err(|error| self.failure(format!("speaks no TLS that can be trusted: {error}")))?;
                self.shake_hands(TokioIo::new(stream)).await
            }
        }
    }

    async fn shake_hands<T>(&self, stream: T) -> Result<SendRequest<Full<Bytes>>, Failure>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(stream).await.map_err(|error| self.failure(format!("speaks no HTTP: {error}")))?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn failure(&self, detail: String) -> Failure {
        Failure::new(format!("{}:{} {detail}", self.host, self.port))
    }
}

impl Sink for Webhook {
    async fn deliver(&mut self, events: &[Event], _: &mut Cursor) -> Result<(), Failure> {
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.post(events)).await {
            Ok(result) => result,
            Err(_) => Err(self.failure(format!("did not answer within {timeout:?}"))),
        }
    }
}

/// `{"events":[…]}`.
fn body(events: &[Event]) -> Vec<u8> {
    let mut body = b"{\"events\":[".to_vec();
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&event.text);
    }
    body.extend_from_slice(b"]}");
    body
}

/// The same events have the same id, whenever they are sent.
fn message_id(events: &[Event]) -> String {
    let mut hasher = blake3::Hasher::new();
    for event in events {
        hasher.update(event.id.as_bytes()).update(b"\n");
    }
    format!("msg_{}", hasher.finalize().to_hex().as_str().get(..32).unwrap_or_default())
}

fn signature(key: &hmac::Key, id: &str, time: i64, body: &[u8]) -> String {
    let mut signed = String::new();
    // Writing to a String cannot fail.
    let _ = write!(signed, "{id}.{time}.");
    let mut context = hmac::Context::with_key(key);
    context.update(signed.as_bytes());
    context.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
}

/// The secret in a file: `whsec_` and base64 of 24 to 64 octets.
fn secret(file: &Path) -> io::Result<Vec<u8>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display())))?;
    text.trim()
        .strip_prefix(SECRET_PREFIX)
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .filter(|secret| (24..=64).contains(&secret.len()))
        .ok_or_else(|| {
            io::Error::other(format!(
                "{} holds no secret; make one with: echo \"whsec_$(openssl rand -base64 32)\" > FILE",
                file.display()
            ))
        })
}

/// Whether an answer may be meant for these very events: a receiver that is overloaded, moved or gone says nothing
/// of them.
fn is_refusal(status: StatusCode) -> bool {
    let says_nothing = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    (status.is_client_error() || status.is_server_error()) && !says_nothing.contains(&status)
}

/// Seconds that the receiver asks for.
fn retry_after<T>(response: &Response<T>) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the Standard Webhooks specification's reference libraries.
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
