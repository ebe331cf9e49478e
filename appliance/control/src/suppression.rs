//! The suppression list over HTTP: what is known about an address, entries in and out, files in.

use std::io::{self, BufRead, Read};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Channel};
use postkeep_mta::clock;
use postkeep_smtp::Address;
use postkeep_suppression::{
    ChangeError, Format, ImportEvent, ImportOptions, Origin, Outcome, Reason, Removal, Scope, Statistics, Step,
    SuppressionView, import,
};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::api::{ImportLine, Problem, SuppressionAdditions};
use crate::server::{Peer, Refusal, Shared};

/// Entries in one call; more belong into a file.
const MOST_ENTRIES: usize = 10_000;
/// Octets of the JSON of one call.
const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// Pieces of a file that wait for the import.
const PIECES_WAITING: usize = 16;

/// The paths of the list.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/suppressions", get(find).post(add).delete(remove))
        .route("/v1/suppressions/statistics", get(statistics))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        // A file has no size that would be too large: it is read in pieces.
        .merge(Router::new().route("/v1/suppressions/import", post(take_file)).layer(DefaultBodyLimit::disable()))
}

#[derive(Debug, Deserialize)]
struct Asked {
    address: String,
}

async fn find(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Result<Json<SuppressionView>, Refusal> {
    let address = parse(&asked.address)?;
    let entries = shared.engine.suppression().find(&address).map_err(|error| unavailable(error.to_string()))?;
    Ok(Json(SuppressionView { address: address.as_str().to_owned(), entries }))
}

async fn add(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<SuppressionAdditions>,
) -> Result<Json<Outcome>, Refusal> {
    if request.entries.len() > MOST_ENTRIES {
        let detail = format!("more than {MOST_ENTRIES} entries: import them as a file (/v1/suppressions/import)");
        return Err(bad_input(detail));
    }
    let actor = peer.name(&request.actor);
    let now = clock::seconds(clock::now());
    let steps: Result<Vec<Step>, String> =
        request.entries.into_iter().map(|addition| addition.step(Scope::All, request.origin, &actor, now)).collect();
    shared.engine.suppression().change(steps.map_err(bad_input)?).await.map(Json).map_err(|error| refusal(&error))
}

#[derive(Debug, Deserialize)]
struct Unwanted {
    address: String,
    scope: Option<Scope>,
    reason: Option<Reason>,
    #[serde(default)]
    actor: String,
}

async fn remove(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(unwanted): Query<Unwanted>,
) -> Result<Json<Outcome>, Refusal> {
    let step = Step::Remove(Removal {
        address: parse(&unwanted.address)?,
        scope: unwanted.scope,
        reason: unwanted.reason,
        origin: Origin::Command,
        time: clock::seconds(clock::now()),
        note: peer.name(&unwanted.actor).into(),
    });
    shared.engine.suppression().change(vec![step]).await.map(Json).map_err(|error| refusal(&error))
}

async fn statistics(State(shared): State<Shared>) -> Json<Statistics> {
    Json(shared.engine.suppression().statistics())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileAsked {
    format: Option<String>,
    reason: Option<Reason>,
    scope: Option<Scope>,
    note: Option<String>,
    #[serde(default)]
    actor: String,
}

/// Takes a file line by line and answers line by line while it comes: refused lines, progress, the report.
async fn take_file(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(asked): Query<FileAsked>,
    body: Body,
) -> Result<Response, Refusal> {
    let format = match asked.format.as_deref() {
        None | Some("auto") => None,
        Some(name) => Some(Format::named(name).map_err(|error| bad_input(error.to_string()))?),
    };
    let actor = peer.name(&asked.actor);
    let options = ImportOptions {
        format,
        reason: asked.reason,
        scope: asked.scope.unwrap_or(Scope::All),
        note: asked.note.map_or_else(|| actor.clone(), |note| format!("{actor}: {note}")).into(),
        now: clock::seconds(clock::now()),
    };
    log::info!("suppression: {actor}: import");
    let (pieces, input) = mpsc::channel(PIECES_WAITING);
    tokio::spawn(feed(body, pieces));
    let (mut answer, channel) = Channel::<Bytes>::new(PIECES_WAITING);
    let list = shared.engine.suppression().clone();
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        // Whoever does not read the answer any more is not written to; the import goes on.
        let mut say = |line: &ImportLine| {
            let mut text = serde_json::to_vec(line).unwrap_or_default();
            text.push(b'\n');
            let _ = runtime.block_on(answer.send_data(text.into()));
        };
        let outcome = import(&list, Pieces { input, piece: Bytes::new() }, &options, |event| match event {
            ImportEvent::Progress(report) => say(&ImportLine::Progress(report.clone())),
            ImportEvent::Refused { line, reason } => say(&ImportLine::Refused { line, reason }),
        });
        match outcome {
            Ok((report, unsettled)) => {
                runtime.block_on(list.settled(unsettled));
                log::info!("suppression: imported: {report:?}");
                say(&ImportLine::Report(report));
            }
            Err(error) => {
                log::warn!("suppression: import: {error}");
                let title = "the import ended before its time".into();
                say(&ImportLine::Problem(Problem { title, status: 422, detail: error.to_string() }));
            }
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(channel)).into_response())
}

/// Hands the pieces of a body to whoever reads them on another thread.
async fn feed(mut body: Body, pieces: mpsc::Sender<io::Result<Bytes>>) {
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(piece) => Ok(piece),
                Err(_) => continue,
            },
            Err(error) => Err(io::Error::other(format!("the upload was cut short: {error}"))),
        };
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

/// The pieces of a body as something that can be read.
struct Pieces {
    input: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = self.fill_buf()?;
        let length = octets.len().min(buffer.len());
        buffer[..length].copy_from_slice(&octets[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.input.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => break,
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        let _ = self.piece.split_to(amount.min(self.piece.len()));
    }
}

fn parse(address: &str) -> Result<Address, Refusal> {
    address.parse().map_err(|error| bad_input(format!("{address:?}: {error}")))
}

fn bad_input(detail: String) -> Refusal {
    Refusal(Problem { title: "nothing was done".into(), status: 422, detail })
}

fn unavailable(detail: String) -> Refusal {
    Refusal(Problem { title: "nothing was done".into(), status: 503, detail })
}

fn refusal(error: &ChangeError) -> Refusal {
    match error {
        ChangeError::TooManyScopes => bad_input(error.to_string()),
        _ => unavailable(error.to_string()),
    }
}
