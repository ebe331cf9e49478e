//! The client's side: what `postkeep` uses to talk to a running daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use postkeep_mta::engine::{QueueAction, QueueReport, QueueStatus};
use postkeep_mta::selector::Selector;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::api::{ActionRequest, Problem, ReloadReport, Status};

/// Largest answer read: a queue of a million domains fits.
const ANSWER_LIMIT: usize = 512 * 1024 * 1024;
/// Deleting millions takes its time; a daemon that is gone answers nothing at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "cannot reach postkeepd at {path}: {error}; is it running, and may you open its socket? (--socket PATH names another)"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It said no.
    #[error("{}: {}", .0.title, .0.detail)]
    Refused(Problem),
    /// The answer makes no sense.
    #[error("postkeepd answered what this program does not understand: {0}; are both of the same version?")]
    Answer(String),
}

/// A way to a running daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for the daemon behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// See [`ClientError`]; the same for all others.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/status", None).await
    }

    /// Part of the queue.
    pub async fn queue(&self, selector: &Selector) -> Result<QueueStatus, ClientError> {
        let parts = [
            ("stream", &selector.stream),
            ("domain", &selector.domain),
            ("site", &selector.site),
            ("source", &selector.source),
        ];
        let query: Vec<String> =
            parts.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_deref()?)))).collect();
        self.ask::<(), _>(Method::GET, &format!("/v1/queue?{}", query.join("&")), None).await
    }

    /// Does something to a part of the queue; with `all` an empty selector may mean the whole of it.
    pub async fn act(
        &self,
        selector: Selector,
        action: QueueAction,
        all: bool,
        actor: &str,
    ) -> Result<QueueReport, ClientError> {
        let request = ActionRequest { selector, action, actor: actor.to_owned(), all };
        self.ask(Method::POST, "/v1/queue", Some(&request)).await
    }

    /// Reads the configuration again.
    pub async fn reload(&self) -> Result<ReloadReport, ClientError> {
        self.ask::<(), _>(Method::POST, "/v1/reload", None).await
    }

    async fn ask<T: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<A, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::Unreachable { path: self.socket.clone(), error })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| answer(&error))?;
        tokio::spawn(connection);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| answer(&error))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "postkeepd")
            .header("content-type", "application/json")
            .body(Body::from(bytes))
            .map_err(|error| answer(&error))?;
        let response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|error| answer(&error))?
            .map_err(|error| answer(&error))?;
        let status = response.status();
        let bytes: Bytes = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|error| answer(&error))?
            .to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| answer(&error));
        }
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem {
            title: "postkeepd refused the request".into(),
            status: status.as_u16(),
            detail: String::from_utf8_lossy(&bytes).into_owned(),
        });
        Err(ClientError::Refused(problem))
    }
}

/// Percent-encodes what is not plain in a query value.
fn encode(value: &str) -> String {
    use std::fmt::Write;
    value.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}
