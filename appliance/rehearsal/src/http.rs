//! The rehearsal's HTTP client: one connection, kept open, to the daemon's
//! HTTP door by TLS or to its control socket. Answers are bounded in size and
//! in time.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::campaign::Message;
use crate::client::{Answered, tls_connector};

/// Wait for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Largest answer that is read, in octets.
const LARGEST_ANSWER: usize = 4 << 20;

/// Where and how to hand messages over by HTTP.
#[derive(Debug, Clone)]
pub struct HttpDoor {
    /// Address of the door.
    pub address: SocketAddr,
    /// Name its certificate must bear.
    pub host: String,
    /// The campaign's token.
    pub token: String,
    /// Trusted authority.
    pub authority: CertificateDer<'static>,
}

/// An open connection.
pub(crate) struct HttpClient {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: Option<String>,
}

/// What the door said to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// An answer for each recipient.
    Answer(Answered),
    /// Not now; the same call may be made again.
    Later(String),
}

#[derive(Deserialize)]
struct Taken {
    id: String,
    #[serde(default)]
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Rejected {
    address: String,
    detail: String,
}

impl HttpClient {
    /// Connects to an HTTP door by TLS.
    pub(crate) async fn connect(to: &HttpDoor) -> io::Result<Self> {
        let socket = TcpStream::connect(to.address).await?;
        socket.set_nodelay(true)?;
        let (connector, name) = tls_connector(&to.host, Some(&to.authority))?;
        let stream = connector.connect(name, socket).await?;
        Self::over(stream, to.host.clone(), Some(to.token.clone())).await
    }

    /// Connects to a control socket.
    pub(crate) async fn control(socket: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(socket).await?, "control".to_owned(), None).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: String,
        token: Option<String>,
    ) -> io::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("an HTTP connection ended: {error}");
            }
        });
        Ok(Self { sender, host, token })
    }

    /// Asks for a path with its query; the status and the body.
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<(u16, Bytes)> {
        let mut request = Request::get(path).header(HOST, &self.host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        self.exchange(request.body(Full::default()).map_err(io::Error::other)?).await
    }

    /// Hands over a message; its mark is the key by which the door tells a repetition.
    ///
    /// # Errors
    /// There is no answer; the same call may be made again.
    pub(crate) async fn send(&mut self, message: &Message, content: &[u8]) -> io::Result<Said> {
        let to: Vec<String> = message.to.iter().map(|to| encoded(&to.address)).collect();
        let path = format!(
            "/api/v1/messages?from={}&to={}",
            encoded(message.sender.as_deref().unwrap_or_default()),
            to.join(",")
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "message/rfc822")
            .header("Idempotency-Key", &message.id)
            .header(AUTHORIZATION, format!("Bearer {}", self.token.as_deref().unwrap_or_default()))
            .body(Full::new(Bytes::copy_from_slice(content)))
            .map_err(io::Error::other)?;
        let (status, body) = self.exchange(request).await?;
        said(message, status, &body)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> io::Result<(u16, Bytes)> {
        let exchange = async {
            self.sender.ready().await.map_err(io::Error::other)?;
            let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn said(message: &Message, status: u16, body: &[u8]) -> io::Result<Said> {
    let text = || String::from_utf8_lossy(body).into_owned();
    match status {
        202 => {
            let taken: Taken = serde_json::from_slice(body).map_err(io::Error::other)?;
            let recipients = message.to.iter().map(|to| {
                let rejected = taken.rejected.iter().find(|rejected| rejected.address == to.address);
                rejected.map_or(Ok(()), |rejected| Err(rejected.detail.clone()))
            });
            Ok(Said::Answer(Answered { recipients: recipients.collect(), queued: Some(taken.id) }))
        }
        408 | 409 | 429 | 500.. => Ok(Said::Later(format!("{status} {}", text()))),
        _ => {
            let refusal = format!("{status} {}", text());
            Ok(Said::Answer(Answered {
                recipients: message.to.iter().map(|_| Err(refusal.clone())).collect(),
                queued: None,
            }))
        }
    }
}

/// Percent-encoded for a query.
pub(crate) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len() + 8), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_query_is_encoded() {
        assert_eq!(encoded("bounce+r1-000001@a.test"), "bounce%2Br1-000001@a.test");
        assert_eq!(encoded("a&b=c,ü"), "a%26b%3Dc%2C%C3%BC");
    }
}
