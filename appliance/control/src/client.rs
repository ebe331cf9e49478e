//! The client's side: what `postkeep` uses to talk to a running daemon.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::api::{ActionRequest, ImportLine, Problem, ReceiverStatus, ReloadReport, Status, SuppressionAdditions};
use crate::profile::BoxProfile;
use crate::system::{BillFormat, System};
use crate::update::{Fetching, MirrorRequest};
use crate::way::Way;
use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, Channel, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use postkeep_mta::engine::{HealthCheck, QueueAction, QueueReport, QueueStatus};
use postkeep_mta::selector::Selector;
use postkeep_suppression::{ImportReport, Outcome, Reason, Scope, Statistics, SuppressionView};
use postkeep_update::api as update;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Largest answer read: a queue of a million domains fits.
const ANSWER_LIMIT: usize = 512 * 1024 * 1024;
/// Octets of a file sent in one piece.
const PIECE: usize = 256 * 1024;
/// Pieces that wait for the daemon.
const PIECES_WAITING: usize = 4;
/// Longest line of an answer that comes line by line.
const LONGEST_LINE: usize = 1024 * 1024;
/// A connection that is over says within so long why.
const FAREWELL: Duration = Duration::from_secs(1);
/// Deleting millions takes its time; a daemon that is gone answers nothing at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens, or it is not who is meant. A sentence.
    #[error("{0}")]
    Unreachable(String),
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
    way: Way,
}

impl Client {
    /// A client for the daemon behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { way: Way::Socket(socket.to_owned()) }
    }

    /// A client for a box, over the network.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn of_box(profile: BoxProfile) -> Result<Self, ClientError> {
        Ok(Self { way: Way::to_box(profile).map_err(ClientError::Unreachable)? })
    }

    /// What the box is.
    pub async fn system(&self) -> Result<System, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/system", None).await
    }

    /// The bill of materials of its release, as it is.
    pub async fn bill(&self, format: BillFormat) -> Result<Bytes, ClientError> {
        let path = format!("/v1/system/sbom?format={}", format.as_str());
        collected(self.send(Method::GET, &path, Body::empty()).await?).await
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// See [`ClientError`]; the same for all others.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/status", None).await
    }

    /// How each receiver of events is.
    pub async fn receivers(&self) -> Result<Vec<ReceiverStatus>, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/events", None).await
    }

    /// Part of the queue.
    pub async fn queue(&self, selector: &Selector) -> Result<QueueStatus, ClientError> {
        let parts = [
            ("stream", &selector.stream),
            ("domain", &selector.domain),
            ("site", &selector.site),
            ("source", &selector.source),
        ];
        let query = query(parts.map(|(key, value)| (key, value.as_deref())));
        self.ask::<(), _>(Method::GET, &format!("/v1/queue?{query}"), None).await
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

    /// What is known about an address.
    pub async fn suppressions(&self, address: &str) -> Result<SuppressionView, ClientError> {
        self.ask::<(), _>(Method::GET, &format!("/v1/suppressions?{}", query([("address", Some(address))])), None).await
    }

    /// Puts addresses into the suppression list. On return no delivery to them is under way any more.
    pub async fn suppress(&self, additions: &SuppressionAdditions) -> Result<Outcome, ClientError> {
        self.ask(Method::POST, "/v1/suppressions", Some(additions)).await
    }

    /// Takes an address out of the suppression list, or only entries of a scope or reason.
    pub async fn unsuppress(
        &self,
        address: &str,
        scope: Option<&Scope>,
        reason: Option<Reason>,
        actor: &str,
    ) -> Result<Outcome, ClientError> {
        let scope = scope.map(ToString::to_string);
        let query = query([
            ("address", Some(address)),
            ("actor", Some(actor)),
            ("scope", scope.as_deref()),
            ("reason", reason.map(Reason::as_str)),
        ]);
        self.ask::<(), _>(Method::DELETE, &format!("/v1/suppressions?{query}"), None).await
    }

    /// Numbers about the suppression list.
    pub async fn suppression_statistics(&self) -> Result<Statistics, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/suppressions/statistics", None).await
    }

    /// Lets the mail core examine itself.
    pub async fn examine(&self) -> Result<Vec<HealthCheck>, ClientError> {
        self.ask::<(), _>(Method::POST, "/v1/health", None).await
    }

    /// How the versions of the box are.
    pub async fn update_status(&self) -> Result<update::Status, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/update", None).await
    }

    /// What would be done with a release; with `stage` its files may come then.
    pub async fn update_plan(
        &self,
        request: &update::ReleaseRequest,
        stage: bool,
    ) -> Result<update::Plan, ClientError> {
        let path = if stage { "/v1/update/stage" } else { "/v1/update/plan" };
        self.ask(Method::POST, path, Some(request)).await
    }

    /// The same with the release that a mirror has; with `stage` the box fetches its files.
    pub async fn update_from_mirror(&self, request: &MirrorRequest) -> Result<update::Plan, ClientError> {
        self.ask(Method::POST, "/v1/update/mirror", Some(request)).await
    }

    /// How that fetching goes.
    pub async fn update_fetching(&self) -> Result<Fetching, ClientError> {
        self.ask::<(), _>(Method::GET, "/v1/update/mirror", None).await
    }

    /// Brings one file of a staged release.
    pub async fn update_file(&self, name: &str, file: impl Read + Send + 'static) -> Result<(), ClientError> {
        self.send(Method::PUT, &format!("/v1/update/files/{}", encode(name)), streamed(file)).await.map(drop)
    }

    /// Has a staged release installed; the answer comes before that is done.
    pub async fn update_apply(&self, request: &update::ApplyRequest) -> Result<(), ClientError> {
        let octets = serde_json::to_vec(request).map_err(|error| ClientError::Answer(error.to_string()))?;
        self.send(Method::POST, "/v1/update/apply", Body::from(octets)).await.map(drop)
    }

    /// Goes back to the version before.
    pub async fn update_rollback(&self, request: &update::RollbackRequest) -> Result<update::Status, ClientError> {
        self.ask(Method::POST, "/v1/update/rollback", Some(request)).await
    }

    /// Reads a file into the suppression list; `on` hears of refused lines and of progress.
    pub async fn import(
        &self,
        file: impl Read + Send + 'static,
        options: &FileOptions,
        mut on: impl FnMut(&ImportLine),
    ) -> Result<ImportReport, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let path = format!("/v1/suppressions/import?{}", options.query());
        let mut response = self.send(Method::POST, &path, streamed(file)).await?;
        let mut waiting = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(piece) = frame.map_err(|error| answer(&error))?.into_data() else { continue };
            waiting.extend_from_slice(&piece);
            while let Some(end) = waiting.iter().position(|octet| *octet == b'\n') {
                let line: ImportLine = serde_json::from_slice(&waiting[..end]).map_err(|error| answer(&error))?;
                waiting.drain(..=end);
                match line {
                    ImportLine::Report(report) => return Ok(report),
                    ImportLine::Problem(problem) => return Err(ClientError::Refused(problem)),
                    other => on(&other),
                }
            }
            if waiting.len() > LONGEST_LINE {
                return Err(answer(&"a line without end"));
            }
        }
        Err(answer(&"the answer ended before the report; what was counted until then holds"))
    }

    async fn ask<T: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<A, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| answer(&error))?,
            None => Vec::new(),
        };
        let bytes = collected(self.send(method, path, Body::from(bytes)).await?).await?;
        serde_json::from_slice(&bytes).map_err(|error| answer(&error))
    }

    /// Sends a request; the answer is a success.
    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, ClientError> {
        let answer = |error: &dyn std::fmt::Display| ClientError::Answer(error.to_string());
        let stream = self.way.connect().await.map_err(ClientError::Unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| answer(&error))?;
        let driven = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "postkeepd")
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| answer(&error))?;
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let response = match sent.map_err(|error| answer(&error))? {
            Ok(response) => response,
            Err(error) => {
                // The request only hears that it is over; the connection knows why.
                let error = match tokio::time::timeout(FAREWELL, driven).await {
                    Ok(Ok(Err(cause))) => cause,
                    _ => error,
                };
                return Err(self.way.hint(&error).map_or_else(|| answer(&error), ClientError::Unreachable));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = collected(response).await?;
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem {
            title: "postkeepd refused the request".into(),
            status: status.as_u16(),
            detail: String::from_utf8_lossy(&bytes).into_owned(),
        });
        Err(ClientError::Refused(problem))
    }
}

/// A body that is read while it is sent.
fn streamed(mut file: impl Read + Send + 'static) -> Body {
    let (mut pieces, channel) = Channel::<Bytes, std::io::Error>::new(PIECES_WAITING);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    if runtime.block_on(pieces.send_data(piece.into())).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return pieces.abort(error),
            }
        }
    });
    Body::new(channel)
}

async fn collected(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| ClientError::Answer(error.to_string()))
}

/// How a file is to be read into the suppression list.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Its format; absent: what its first line says.
    pub format: Option<String>,
    /// What its entries are, where it does not say.
    pub reason: Option<Reason>,
    /// For which mail they hold, where it does not say.
    pub scope: Option<Scope>,
    /// Kept sealed with entries that have no note of their own.
    pub note: Option<String>,
    /// Who asks.
    pub actor: String,
}

impl FileOptions {
    fn query(&self) -> String {
        let scope = self.scope.as_ref().map(ToString::to_string);
        query([
            ("format", self.format.as_deref()),
            ("reason", self.reason.map(Reason::as_str)),
            ("scope", scope.as_deref()),
            ("note", self.note.as_deref()),
            ("actor", Some(&self.actor)),
        ])
    }
}

/// A query of those parts that have a value.
fn query<const N: usize>(parts: [(&str, Option<&str>); N]) -> String {
    let parts: Vec<String> =
        parts.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode((*value)?)))).collect();
    parts.join("&")
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
