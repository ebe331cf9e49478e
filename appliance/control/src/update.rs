//! Updates, for whoever may use the doors: what they ask is passed on to the updater, which has the rights that the
//! mail core has not. From an HTTPS mirror the mail core fetches, since the updater has no network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Channel, Limited};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use postkeep_mta::Engine;
use postkeep_mta::engine::HealthCheck;
use postkeep_update::LARGEST_MANIFEST;
use postkeep_update::api::{Plan, ReleaseRequest};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::mpsc::channel;

use crate::api::Problem;
use crate::server::{Refusal, Shared};

/// An answer of the updater.
const LARGEST_ANSWER: usize = 1024 * 1024;
/// Time for the manifest, and for each file, from a mirror.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(30);
const FILE_PATIENCE: Duration = Duration::from_secs(3600);
/// Pieces of a file that wait for the updater.
const PIECES_WAITING: usize = 16;

/// Asks for the release that a mirror has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MirrorRequest {
    /// `https://…`, the folder that `release.note` and its files lie in.
    pub mirror: String,
    /// An older version may take the place of a newer one.
    #[serde(default)]
    pub allow_older: bool,
    /// The files are fetched as well, in the background.
    #[serde(default)]
    pub stage: bool,
}

/// How the fetching from a mirror goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fetching {
    /// It goes on.
    pub active: bool,
    /// Why it ended before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The way to the updater, and what is fetched for it.
#[derive(Debug, Clone)]
pub(crate) struct Updates {
    socket: PathBuf,
    fetching: Arc<Mutex<Fetching>>,
}

impl Updates {
    /// Of a box whose `/` is `root`.
    pub(crate) fn below(root: &Path) -> Self {
        let socket = root.join(postkeep_update::SOCKET.trim_start_matches('/'));
        Self { socket, fetching: Arc::default() }
    }

    async fn send(&self, request: Request<Body>) -> Result<Response, String> {
        let words = |error: &dyn std::fmt::Display| format!("cannot talk to the updater: {error}");
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            format!(
                "cannot reach the updater at {}: {error}; only boxes that were flashed have one",
                self.socket.display()
            )
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await.map_err(|error| words(&error))?.map(Body::new).into_response())
    }

    /// A question in JSON; the answer, or what the updater has against it.
    async fn ask(&self, path: &str, question: &ReleaseRequest) -> Result<Bytes, Refusal> {
        let octets = serde_json::to_vec(question).unwrap_or_default();
        let request = request(Method::POST, path).header(CONTENT_TYPE, "application/json").body(Body::from(octets));
        let response =
            self.send(request.map_err(|error| unavailable(error.to_string()))?).await.map_err(unavailable)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| unavailable(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Refusal(problem),
            Err(_) => unavailable(format!("the updater answers {status}")),
        })
    }

    /// Fetches the files that are not there yet, one after the other.
    async fn fetch(&self, engine: &Engine, mirror: &str, plan: &Plan) -> Result<(), String> {
        for file in plan.files.iter().filter(|file| !file.staged) {
            let most = usize::try_from(file.size).unwrap_or(usize::MAX);
            let (pieces, mut waiting) = channel(PIECES_WAITING);
            let (mut out, body) = Channel::<Bytes, std::io::Error>::new(PIECES_WAITING);
            let passing = tokio::spawn(async move {
                while let Some(piece) = waiting.recv().await {
                    if out.send_data(piece).await.is_err() {
                        return;
                    }
                }
            });
            let put = request(Method::PUT, &format!("/v1/update/files/{}", file.name)).body(Body::new(body));
            let put = self.send(put.map_err(|error| error.to_string())?);
            let url = format!("{mirror}{}", file.name);
            let (fetched, answer) = tokio::join!(engine.fetch(&url, most, FILE_PATIENCE, pieces), put);
            let _ = passing.await;
            // What the mirror did is the reason; that the file is cut off then is only what follows.
            fetched.map_err(|error| format!("{url}: {error}"))?;
            let answer = answer?;
            if !answer.status().is_success() {
                let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
                let body = body.map_err(|error| error.to_string())?.to_bytes();
                let problem: Result<Problem, _> = serde_json::from_slice(&body);
                return Err(problem.map_or_else(|_| "the updater did not take the file".to_owned(), |it| it.detail));
            }
        }
        Ok(())
    }
}

/// The paths of updates and of the examination.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/health", post(health))
        .route("/v1/update/mirror", get(fetching).post(mirror))
        // Files are read in pieces; the updater bounds them by what the manifest says.
        .merge(
            Router::new()
                .route("/v1/update", any(pass_on))
                .route("/v1/update/{*rest}", any(pass_on))
                .layer(DefaultBodyLimit::disable()),
        )
}

async fn health(State(shared): State<Shared>) -> Json<Vec<HealthCheck>> {
    Json(shared.engine.examine().await)
}

async fn pass_on(State(shared): State<Shared>, asked: Request<Body>) -> Result<Response, Refusal> {
    let (parts, body) = asked.into_parts();
    let mut request = request(parts.method, parts.uri.path());
    if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, kind);
    }
    let request = request.body(body).map_err(|error| unavailable(error.to_string()))?;
    shared.updates.send(request).await.map_err(unavailable)
}

async fn fetching(State(shared): State<Shared>) -> Json<Fetching> {
    Json(shared.updates.fetching.lock().clone())
}

async fn mirror(State(shared): State<Shared>, Json(asked): Json<MirrorRequest>) -> Result<Response, Refusal> {
    let mirror = match asked.mirror.strip_suffix("release.note").unwrap_or(&asked.mirror) {
        folder if folder.ends_with('/') => folder.to_owned(),
        folder => format!("{folder}/"),
    };
    let url = format!("{mirror}release.note");
    let (pieces, mut waiting) = channel::<Bytes>(PIECES_WAITING);
    let gathering = async {
        let mut octets = Vec::new();
        while let Some(piece) = waiting.recv().await {
            octets.extend_from_slice(&piece);
        }
        octets
    };
    let fetch = shared.engine.fetch(&url, LARGEST_MANIFEST, MANIFEST_PATIENCE, pieces);
    let (fetched, octets) = tokio::join!(fetch, gathering);
    fetched.map_err(|error| {
        Refusal(Problem {
            title: "the mirror has no release for this box".into(),
            status: StatusCode::BAD_GATEWAY.as_u16(),
            detail: format!("{url}: {error}"),
        })
    })?;
    let release = String::from_utf8_lossy(&octets).into_owned();
    let question = ReleaseRequest { release, allow_older: asked.allow_older };
    if !asked.stage {
        let plan = shared.updates.ask("/v1/update/plan", &question).await?;
        return Ok(([(CONTENT_TYPE, "application/json")], plan).into_response());
    }
    // Before anything of the release that is being fetched is taken away for this one.
    if shared.updates.fetching.lock().active {
        return Err(fetching_already());
    }
    let octets = shared.updates.ask("/v1/update/stage", &question).await?;
    let plan: Plan = serde_json::from_slice(&octets).map_err(|error| unavailable(error.to_string()))?;
    {
        // Nothing is waited for between this and the task: a client that leaves cannot leave it marked as under way.
        let mut fetching = shared.updates.fetching.lock();
        if fetching.active {
            return Err(fetching_already());
        }
        *fetching = Fetching { active: true, failed: None };
    }
    tokio::spawn(async move {
        let done = shared.updates.fetch(&shared.engine, &mirror, &plan).await;
        if let Err(error) = &done {
            log::warn!("update: {} could not be fetched: {error}", plan.version);
        }
        *shared.updates.fetching.lock() = Fetching { active: false, failed: done.err() };
    });
    Ok(([(CONTENT_TYPE, "application/json")], octets).into_response())
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "updater")
}

fn fetching_already() -> Refusal {
    let detail = "another release is being fetched; see `postkeep update status`";
    Refusal(Problem { title: "not now".into(), status: 409, detail: detail.into() })
}

fn unavailable(detail: impl Into<String>) -> Refusal {
    Refusal(Problem { title: "updates cannot be worked on".into(), status: 503, detail: detail.into() })
}

#[cfg(test)]
mod tests {
    use postkeep_update::gate::Check;

    use super::*;

    #[test]
    fn the_gate_reads_what_the_mail_core_says_of_itself() {
        let said =
            HealthCheck { name: "message".into(), well: false, detail: "it did not arrive".into(), entries: None };
        let read: Check = serde_json::from_slice(&serde_json::to_vec(&said).unwrap()).unwrap();
        assert_eq!((read.name, read.well, read.detail), (said.name, said.well, said.detail));
    }
}
