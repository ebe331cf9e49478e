//! The server's side: routes, the socket's life, `/metrics`. The same routes over TLS are [`crate::door`]'s.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use postkeep_configuration::Configuration;
use postkeep_mta::Engine;
use postkeep_mta::engine::{QueueReport, QueueStatus};
use postkeep_mta::selector::Selector;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{ActionRequest, Problem, ReceiverStatus, ReloadReport, Status};
use crate::door::{Door, DoorError};
use crate::managers::Managers;
use crate::suppression;
use crate::system::{self, Places};
use crate::update::{self, Updates};

/// Largest request body.
const BODY_LIMIT: usize = 64 * 1024;

/// What a reload answers: a report, or every error of the file in one text.
pub type ReloadAnswer = Pin<Box<dyn Future<Output = Result<ReloadReport, String>> + Send>>;

/// What the daemon lends to control: the things that are not the engine's.
pub trait Reloader: Send + Sync + 'static {
    /// Reads the configuration again and takes it over.
    fn reload(&self) -> ReloadAnswer;
    /// How the daemon is.
    fn status(&self) -> Status;
    /// How each receiver of events is.
    fn receivers(&self) -> Vec<ReceiverStatus>;
    /// Metrics beside the engine's, in the OpenMetrics text form without `# EOF`.
    fn further_metrics(&self) -> String;
}

/// Why a door of control could not be opened.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The Unix socket.
    #[error("cannot open the control socket {path}: {error}; check [control] socket and the folder's rights")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another daemon answers there.
    #[error("another postkeepd answers at the control socket {0}: stop it first, or name another [control] socket")]
    InUse(PathBuf),
    /// The door for management.
    #[error("{0}")]
    Door(#[from] DoorError),
    /// The metrics address.
    #[error("cannot listen at [metrics] address {address}: {error}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
}

/// The open doors of control.
pub struct Control {
    tasks: Vec<JoinHandle<()>>,
    closing: watch::Sender<bool>,
    socket: PathBuf,
    /// Where metrics are served, with the port that was given out.
    pub metrics: Option<SocketAddr>,
    /// Where the door for management is, with the port that was given out.
    pub api: Option<SocketAddr>,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// Of the socket, by the kernel's word.
    User(Option<u32>),
    /// Of the door for management, by their certificate.
    Manager(Arc<str>),
}

impl Peer {
    /// Who it is: by their own word, and by what is known.
    pub(crate) fn name(&self, actor: &str) -> String {
        match self {
            Self::User(Some(user)) => format!("{actor} (uid {user})"),
            Self::User(None) => actor.to_owned(),
            Self::Manager(name) => format!("{actor} (client {name})"),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::User(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    reloader: Arc<dyn Reloader>,
    pub(crate) places: Places,
    pub(crate) updates: Updates,
}

impl Control {
    /// Opens the control socket and, if configured, the metrics address and the door for management, which lets in
    /// whoever `managers` has.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub async fn open(
        configuration: &Configuration,
        managers: &Arc<Managers>,
        places: Places,
        engine: Engine,
        reloader: Arc<dyn Reloader>,
    ) -> Result<Self, ControlError> {
        let socket = &configuration.control.socket;
        let updates = Updates::below(places.root());
        let shared = Shared { engine, reloader, places, updates };
        let routes = routes(&shared);
        let (closing, watched) = watch::channel(false);
        let mut tasks = Vec::new();
        let mut door_address = None;
        if let Some(api) = &configuration.api {
            let (door, listener) = Door::open(api, Arc::clone(managers), routes.clone(), watched).await?;
            door_address = listener.local_addr().ok();
            tasks.push(door.serve(listener));
        }
        let listener = bind(socket).await?;
        tasks.push(serve_socket(listener, routes));
        let mut bound = None;
        if let Some(address) = configuration.metrics.as_ref().map(|metrics| metrics.address) {
            let listener =
                TcpListener::bind(address).await.map_err(|error| ControlError::Metrics { address, error })?;
            bound = listener.local_addr().ok();
            tasks.push(serve_metrics(listener, shared));
        }
        Ok(Self { tasks, closing, socket: socket.to_owned(), metrics: bound, api: door_address })
    }
}

// No async functions: those are compiled where they are awaited, in each program anew.

fn serve_socket(listener: UnixListener, routes: Router) -> JoinHandle<()> {
    tokio::spawn(async move {
        let routes = routes.into_make_service_with_connect_info::<Peer>();
        if let Err(error) = axum::serve(listener, routes).await {
            log::error!("control: {error}");
        }
    })
}

fn serve_metrics(listener: TcpListener, shared: Shared) -> JoinHandle<()> {
    let routes = Router::new().route("/metrics", get(scrape)).with_state(shared);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            log::error!("metrics: {error}");
        }
    })
}

/// What is served at the socket and at the door for management alike.
fn routes(shared: &Shared) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/queue", get(queue).post(act))
        .route("/v1/reload", post(reload))
        .route("/v1/events", get(receivers))
        .route("/v1/system", get(system::show))
        .route("/v1/system/sbom", get(system::bill))
        .route("/metrics", get(scrape))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .merge(suppression::routes())
        .merge(update::routes())
        .with_state(shared.clone())
}

impl Drop for Control {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |error| ControlError::Socket { path: path.to_owned(), error };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        // A socket of a daemon that was killed is in the way; one that answers is not ours to remove,
        // and neither is anything that is no socket.
        Ok(found) if found.file_type().is_socket() => {
            match tokio::net::UnixStream::connect(path).await {
                Ok(_) => return Err(ControlError::InUse(path.to_owned())),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(failed(error)),
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => {
            let error = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "something else than a socket is there");
            return Err(failed(error));
        }
        Err(_) => {}
    }
    // Bound under another name and moved when its rights are set: nobody else can connect in between.
    let half = path.with_extension("half");
    match std::fs::remove_file(&half) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&half).map_err(failed)?;
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    std::fs::rename(&half, path).map_err(failed)?;
    Ok(listener)
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json(shared.reloader.status())
}

async fn receivers(State(shared): State<Shared>) -> Json<Vec<ReceiverStatus>> {
    Json(shared.reloader.receivers())
}

async fn queue(State(shared): State<Shared>, Query(selector): Query<Selector>) -> Json<QueueStatus> {
    Json(shared.engine.status(&selector.normalised()))
}

async fn act(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<ActionRequest>,
) -> Result<Json<QueueReport>, Refusal> {
    if request.selector.is_everything() && !request.all && request.action.is_grave() {
        let detail = "a selector without stream, domain, site or source means the whole queue: say \"all\": true \
                      (--all) if it is meant";
        return Err(Refusal(Problem { title: "nothing was done".into(), status: 422, detail: detail.into() }));
    }
    match shared.engine.act(request.selector, request.action, &peer.name(&request.actor)).await {
        Ok(report) => Ok(Json(report)),
        Err(detail) => Err(Refusal(Problem { title: "nothing was done".into(), status: 409, detail })),
    }
}

async fn reload(State(shared): State<Shared>) -> Result<Json<ReloadReport>, Refusal> {
    match shared.reloader.reload().await {
        Ok(report) => Ok(Json(report)),
        Err(detail) => {
            Err(Refusal(Problem { title: "the running configuration stays in place".into(), status: 422, detail }))
        }
    }
}

async fn scrape(State(shared): State<Shared>) -> Response {
    let mut text = shared.engine.metrics();
    let end = text.find("# EOF").unwrap_or(text.len());
    text.insert_str(end, &shared.reloader.further_metrics());
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

pub(crate) struct Refusal(pub(crate) Problem);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("application/problem+json"));
        response
    }
}
