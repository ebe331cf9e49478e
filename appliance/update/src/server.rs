//! The updater's socket: status, plan, files in, apply, back. Whoever may open it (the mail core, for its doors) may ask;
//! what is installed was signed by the release key whatever they ask.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as Named, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use postkeep_release::{LARGEST_MANIFEST, Release, Version};
use tokio::net::UnixListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::api::{Activity, ApplyRequest, Installed, Plan, Problem, ReleaseRequest, RollbackRequest, Status};
use crate::attempt::{Attempt, Event, Stage};
use crate::boot_file::{BootFile, Standing};
use crate::install::{self, Programs};
use crate::place::Place;
use crate::plan::{BoxFacts, plan};
use crate::staging::Staging;
use crate::store::Store;

/// Pieces of a file that wait for the disk; whoever sends waits then.
const PIECES_WAITING: usize = 16;
/// A client that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// The answer to a request is on its way before the mail core, through which it goes, is stopped, and whoever waits has heard that
/// the slot is written.
const BEFORE_RESTART: Duration = Duration::from_secs(5);

/// The updater.
pub struct Updater {
    place: Place,
    programs: Programs,
    store: Store,
    staging: Staging,
    /// What is being done, for whoever asks.
    activity: Mutex<Activity>,
    /// Held by whoever changes something: one at a time.
    busy: Arc<tokio::sync::Mutex<()>>,
}

/// A refusal on its way out.
struct Refused(StatusCode, &'static str, String);

impl Refused {
    fn conflict(why: impl ToString) -> Self {
        Self(StatusCode::CONFLICT, "not now", why.to_string())
    }

    fn release(why: impl ToString) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, "this release is not installed", why.to_string())
    }

    fn failed(why: impl ToString) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, "the updater failed", why.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, title, detail) = self;
        (status, Json(Problem { title: title.to_owned(), status: status.as_u16(), detail })).into_response()
    }
}

impl Updater {
    /// An updater of the box at `place`.
    #[must_use]
    pub fn new(place: Place, programs: Programs, store: Store) -> Self {
        let staging = Staging::new(&store.folder().join("staged"));
        Self { place, programs, store, staging, activity: Mutex::default(), busy: Arc::default() }
    }

    /// Serves at `listener` until something breaks.
    ///
    /// # Errors
    /// What broke.
    pub async fn serve(self, listener: UnixListener) -> io::Result<()> {
        axum::serve(listener, routes(Arc::new(self))).await
    }

    fn set(&self, activity: Activity) {
        *self.activity.lock() = activity;
    }

    fn facts(&self, release: &Release) -> Result<BoxFacts, Refused> {
        let running = self.place.running().map_err(Refused::failed)?;
        let folder = self.store.folder();
        let system = rustix::fs::statvfs(folder)
            .map_err(|error| Refused::failed(format!("cannot tell the room on {}: {error}", folder.display())))?;
        // What a power cut has left half there must not stand in the way of the release for good.
        let freed = self.staging.freed_by(release).map_err(Refused::failed)?;
        Ok(BoxFacts {
            running,
            disks: self.place.disks().map_err(Refused::failed)?,
            boot_room: self.place.boot_room(running).map_err(Refused::failed)?,
            data_format: self.store.formats().map_err(Refused::failed)?.written,
            installed: self.place.boot_files().map_err(Refused::failed)?.iter().map(|file| file.version).collect(),
            starts: self.place.starts(release.secure_boot_certificate),
            room: system.f_bavail.saturating_mul(system.f_frsize).saturating_add(freed),
        })
    }

    /// The release that a request brings, if somebody trusted has signed it, and what would be done with it.
    fn plan(&self, request: &ReleaseRequest) -> Result<(Release, Plan), Refused> {
        let trusted = self.place.release_keys().map_err(Refused::failed)?;
        let (release, signers) =
            Release::open_signed(request.release.as_bytes(), &trusted).map_err(Refused::release)?;
        let signed_by = signers.iter().map(|key| key.name().to_owned()).collect();
        let plan = self.plan_for(&release, signed_by, request.allow_older)?;
        Ok((release, plan))
    }

    /// What would be done with a release that was believed, as the box is now.
    fn plan_for(&self, release: &Release, signed_by: Vec<String>, allow_older: bool) -> Result<Plan, Refused> {
        let running = self.place.running().map_err(Refused::failed)?;
        if matches!(self.place.standing(running).map_err(Refused::failed)?, Some(Standing::OnTrial { .. })) {
            return Err(Refused::conflict(format!(
                "{running} has still to prove itself, and the version before is the way back from it; wait until it has \
                 (`update status`)"
            )));
        }
        let facts = self.facts(release)?;
        let staged = |role| self.staging.has(release, role);
        plan(release, signed_by, &facts, allow_older, staged).map_err(Refused::release)
    }

    fn status(&self) -> Result<Status, Refused> {
        let running = self.place.running().map_err(Refused::failed)?;
        let files = self.place.boot_files().map_err(Refused::failed)?;
        Ok(Status {
            running,
            versions: files
                .iter()
                .map(|file| Installed {
                    version: file.version,
                    standing: file.standing(),
                    running: file.version == running,
                })
                .collect(),
            activity: self.activity.lock().clone(),
            attempt: self.store.attempt().map_err(Refused::failed)?,
            history: self.store.history().map_err(Refused::failed)?,
        })
    }

    /// Writes the slot. Blocks for as long as that takes.
    fn install(&self, release: &Release) -> Result<(), String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        self.staging.recheck(release).map_err(|error| words(&error))?;
        let running = self.place.running().map_err(|error| words(&error))?;
        let disks = self.place.disks().map_err(|error| words(&error))?;
        let now = Timestamp::now();
        let spared = install::proven(&self.place, running).map_err(|error| words(&error))?;
        let mut attempt = Attempt {
            from: running,
            to: release.version,
            since: now,
            stage: Stage::Writing,
            back: false,
            spared,
            unwell: None,
        };
        self.store.begin(&attempt).map_err(|error| words(&error))?;
        let done = install::install(&self.place, &self.programs, release, running, self.staging.folder(), &disks);
        if let Err(error) = done {
            let reason = error.to_string();
            let event = Event::Abandoned { to: release.version, reason: reason.clone() };
            self.store.end(event, now).map_err(|error| words(&error))?;
            return Err(reason);
        }
        attempt.stage = Stage::Written;
        if let Err(error) = self.store.begin(&attempt) {
            // What is not written down does not start.
            let _ = install::undo(&self.place, &self.programs, release.version, running, &attempt.spared);
            return Err(words(&error));
        }
        if let Err(error) = install::copy_boot(&self.programs) {
            // What was installed is whole on the disk that the box was started from.
            say(&format!("the other disk still starts what it started before: {error}"));
        }
        let event = Event::Installed { from: running, to: release.version };
        self.store.note(event, Timestamp::now()).map_err(|error| words(&error))?;
        // What is left is garbage; that it cannot be removed is no reason to fail.
        let _ = self.staging.clear();
        Ok(())
    }

    /// Makes `to` the version that starts next instead of `running`; what happened is told when it has proved itself.
    fn go_back(&self, running: Version, to: Version) -> Result<(), String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let was_good = self.place.standing(running).map_err(|error| words(&error))? == Some(Standing::Good);
        let now = Timestamp::now();
        let stage = Stage::Restarting;
        let attempt = Attempt { from: running, to, since: now, stage, back: true, spared: Vec::new(), unwell: None };
        self.store.begin(&attempt).map_err(|error| words(&error))?;
        // In this order the power may go between the two: `to` starts then, as what has proved itself.
        let mut done = install::rename(&self.place, running, BootFile::condemned);
        if was_good {
            // What ran a moment ago works; what did so months ago, perhaps not any more. It has its tries, and the way back
            // from it is what runs. From a version on trial there is no other way than this one.
            done = done.and_then(|()| install::rename(&self.place, to, BootFile::renewed));
        }
        done.map_err(|error| {
            let reason = words(&error);
            let good = if was_good { &[running, to][..] } else { &[to] };
            for version in good {
                let _ = install::rename(&self.place, *version, |file| BootFile::good(file.version));
            }
            let _ = self.store.end(Event::Abandoned { to, reason: reason.clone() }, now);
            reason
        })
    }

    fn restart(&self, to: Version) {
        self.set(Activity::Restarting { version: to });
        if let Ok(Some(mut attempt)) = self.store.attempt() {
            attempt.stage = Stage::Restarting;
            if let Err(error) = self.store.begin(&attempt) {
                say(&error.to_string());
            }
        }
        say(&format!("the machine starts again, to run {to}"));
        if let Err(error) = install::drain_and_restart(&self.programs) {
            say(&error.to_string());
            self.set(Activity::Failed { reason: error.to_string() });
        }
    }
}

fn routes(updater: Arc<Updater>) -> Router {
    Router::new()
        .route("/v1/update", get(status))
        .route("/v1/update/plan", post(make_plan))
        .route("/v1/update/stage", post(stage))
        .route("/v1/update/apply", post(apply))
        .route("/v1/update/rollback", post(rollback))
        // A manifest within JSON: some characters are written as two.
        .layer(DefaultBodyLimit::max(2 * LARGEST_MANIFEST + 1024))
        .merge(Router::new().route("/v1/update/files/{name}", put(file)).layer(DefaultBodyLimit::disable()))
        .with_state(updater)
}

/// Runs something that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Refused::failed(error)),
    }
}

async fn status(State(updater): State<Arc<Updater>>) -> Result<Json<Status>, Refused> {
    blocking(move || updater.status()).await.map(Json)
}

async fn make_plan(
    State(updater): State<Arc<Updater>>,
    Json(request): Json<ReleaseRequest>,
) -> Result<Json<Plan>, Refused> {
    blocking(move || updater.plan(&request)).await.map(|(_, plan)| Json(plan))
}

async fn stage(
    State(updater): State<Arc<Updater>>,
    Json(request): Json<ReleaseRequest>,
) -> Result<Json<Plan>, Refused> {
    let guard = Arc::clone(&updater.busy).try_lock_owned().map_err(|_| busy())?;
    blocking(move || {
        // Held by the work and not by the request, which its client may give up.
        let _one_at_a_time = guard;
        let (release, plan) = updater.plan(&request)?;
        updater.staging.begin(&request.release, &release).map_err(Refused::failed)?;
        let waiting = plan.files.iter().filter(|file| !file.staged).map(|file| file.size).sum();
        updater.set(Activity::Staging { version: plan.version, octets: 0, of: waiting });
        Ok(Json(plan))
    })
    .await
}

async fn file(
    State(updater): State<Arc<Updater>>,
    Named(name): Named<String>,
    body: Body,
) -> Result<StatusCode, Refused> {
    let guard = Arc::clone(&updater.busy).try_lock_owned().map_err(|_| busy())?;
    let (pieces, waiting) = channel(PIECES_WAITING);
    let counting = Arc::clone(&updater);
    let taking = tokio::spawn(blocking(move || {
        // As above: whoever tries again while half a file is still being removed is told to wait.
        let _one_at_a_time = guard;
        let trusted = updater.place.release_keys().map_err(Refused::failed)?;
        let release = updater.staging.release(&trusted).map_err(Refused::conflict)?;
        updater.staging.receive(&release, &name, Pieces { waiting, piece: Bytes::new() }).map_err(Refused::release)
    }));
    // Whatever goes wrong here, the other side sees the end and says what that means for the file.
    let _ = feed(body, pieces, &counting).await;
    match taking.await {
        Ok(done) => done.map(|()| StatusCode::NO_CONTENT),
        Err(error) => Err(Refused::failed(error)),
    }
}

/// Passes a body on until it ends, breaks off or nobody wants more of it.
async fn feed(mut body: Body, pieces: Sender<Bytes>, updater: &Updater) -> Option<()> {
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await.ok()??.ok()?;
        let Ok(piece) = frame.into_data() else { continue };
        if let Activity::Staging { octets, .. } = &mut *updater.activity.lock() {
            *octets += piece.len() as u64;
        }
        // A disk that is slow holds up this connection.
        pieces.send(piece).await.ok()?;
    }
}

async fn apply(State(updater): State<Arc<Updater>>, Json(request): Json<ApplyRequest>) -> Result<StatusCode, Refused> {
    let guard = Arc::clone(&updater.busy).try_lock_owned().map_err(|_| busy())?;
    let checking = Arc::clone(&updater);
    let release = blocking(move || {
        let trusted = checking.place.release_keys().map_err(Refused::failed)?;
        let release = checking.staging.release(&trusted).map_err(Refused::conflict)?;
        if release.version != request.version {
            return Err(Refused::conflict(format!("{} is staged, not {}", release.version, request.version)));
        }
        if !checking.staging.is_complete(&release) {
            return Err(Refused::conflict("files of the release are missing; stage it again, what is there stays"));
        }
        // What was staged may lie there for long, and the box may have gone back, or started another version, since.
        checking.plan_for(&release, Vec::new(), request.allow_older)?;
        Ok(release)
    })
    .await?;
    updater.set(Activity::Installing { version: release.version });
    tokio::task::spawn_blocking(move || {
        let _one_at_a_time = guard;
        say(&format!("installing {} into the slot that does not run", release.version));
        match updater.install(&release) {
            Ok(()) => {
                say(&format!("{} is installed and has still to prove itself", release.version));
                updater.set(Activity::Installed { version: release.version });
                if request.restart {
                    std::thread::sleep(BEFORE_RESTART);
                    updater.restart(release.version);
                }
            }
            Err(reason) => {
                say(&format!("{} could not be installed: {reason}", release.version));
                updater.set(Activity::Failed { reason });
            }
        }
    });
    Ok(StatusCode::ACCEPTED)
}

async fn rollback(
    State(updater): State<Arc<Updater>>,
    Json(request): Json<RollbackRequest>,
) -> Result<(StatusCode, Json<Status>), Refused> {
    let guard = Arc::clone(&updater.busy).try_lock_owned().map_err(|_| busy())?;
    blocking(move || {
        let running = updater.place.running().map_err(Refused::failed)?;
        let back = install::way_back(&updater.place, running).map_err(Refused::failed)?;
        let to = back.ok_or_else(|| {
            Refused::conflict(format!("there is no other version than {running} on this box that has proved itself"))
        })?;
        if request.to.is_some_and(|wanted| wanted != to) {
            return Err(Refused::conflict(format!("the version to go back to is {to}")));
        }
        let formats = updater.store.formats().map_err(Refused::failed)?;
        // A version that never ran on this data came with the flash, before there was any of a later format.
        let reads = formats.versions.get(&to.to_string()).map(|format| &format.reads);
        if let (Some(written), Some(reads)) = (formats.written, reads)
            && !reads.contains(&written)
        {
            return Err(Refused::conflict(format!(
                "the data on this box has format {written}, which {to} cannot read; install a version that can"
            )));
        }
        updater.go_back(running, to).map_err(Refused::failed)?;
        let status = updater.status()?;
        std::thread::spawn(move || {
            let _one_at_a_time = guard;
            std::thread::sleep(BEFORE_RESTART);
            updater.restart(to);
        });
        Ok((StatusCode::ACCEPTED, Json(status)))
    })
    .await
}

fn busy() -> Refused {
    Refused::conflict("another update is being worked on; see its status")
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}

/// What comes over a socket, for whoever reads files.
struct Pieces {
    waiting: Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.waiting.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let taken = self.piece.split_to(buffer.len().min(self.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
