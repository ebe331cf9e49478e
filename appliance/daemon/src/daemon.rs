//! The life of the daemon: open in order, wait for signals, close in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postkeep_certificates::Certificates;
use postkeep_configuration::{Configuration, TakesEffect};
use postkeep_control::{Control, Managers, Places, ReceiverStatus, ReloadReport, Reloader, Status};
use postkeep_events::{Events, Observer};
use postkeep_injection::HttpDoors;
use postkeep_intake::Doors;
use postkeep_mta::{Engine, clock};
use postkeep_suppression::Suppression;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::supervision;

/// How long clients and transactions may take to finish after a signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How long a client in the middle of a message is waited for.
const DOORS_GRACE: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs until a signal says stop.
pub(crate) async fn run(
    path: PathBuf,
    configuration: Configuration,
    ready_file: Option<PathBuf>,
    root: &Path,
) -> Result<(), Failure> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let configuration = Arc::new(ArcSwap::from_pointee(configuration));
    let engine = {
        let configuration = Arc::clone(&configuration);
        // Reading a large spool back blocks for seconds.
        tokio::task::block_in_place(|| -> Result<Engine, Failure> {
            let suppression = Suppression::open(&configuration.load().suppression)?;
            Ok(Engine::start(configuration, suppression)?)
        })?
    };
    let events = {
        let (configuration, written) = (configuration.load_full(), engine.records_written());
        tokio::task::block_in_place(|| Events::start(&configuration, written))
    };
    let signals = [&mut hang_up, &mut terminate, &mut interrupt];
    let served = serve((&path, root), &configuration, &engine, events.observer(), ready_file, signals).await;
    // Also when the doors could not be opened: mail that was left from before is on its way already.
    engine.stop(STOP_GRACE).await;
    // After the last record.
    events.stop().await;
    tokio::task::block_in_place(|| engine.suppression().close());
    postkeep_journal::STOPPED.tell(format_args!("stopped"), [&engine.queued()]);
    served
}

/// Opens the doors and waits for signals.
async fn serve(
    (path, root): (&Path, &Path),
    configuration: &Arc<ArcSwap<Configuration>>,
    engine: &Engine,
    events: Observer,
    ready_file: Option<PathBuf>,
    [hang_up, terminate, interrupt]: [&mut Signal; 3],
) -> Result<(), Failure> {
    let current = configuration.load_full();
    let doors = Arc::new(Doors::open(&current, Arc::new(engine.clone()))?);
    let certificates = match &current.acme {
        Some(acme) => Some(tokio::task::block_in_place(|| Certificates::open(acme))?),
        None => None,
    };
    let http = Arc::new(
        HttpDoors::open(&current, Arc::new(engine.clone()), engine.suppression().clone(), certificates.as_deref())
            .await?,
    );
    let managers = Arc::new(Managers::new(&current));
    let supervisor = Arc::new(Supervisor {
        path: path.to_owned(),
        configuration: Arc::clone(configuration),
        engine: engine.clone(),
        events,
        doors: Arc::clone(&doors),
        http: Arc::clone(&http),
        managers: Arc::clone(&managers),
        since: clock::now(),
        reloading: tokio::sync::Mutex::new(()),
    });
    let handle = Arc::new(Handle(Arc::clone(&supervisor)));
    let control = Control::open(&current, &managers, Places::below(root), engine.clone(), handle).await?;
    if let Some(file) = ready_file {
        write_ready_file(&file, &doors, &http, &control, &current)?;
    }
    let addresses = doors.addresses();
    let addresses: Vec<String> = addresses.iter().chain(http.addresses()).map(ToString::to_string).collect();
    let open = addresses.join(", ");
    postkeep_journal::READY.tell(format_args!("ready: {open}"), [&open, &engine.queued()]);
    supervision::ready(&addresses);
    let mut watchdog = supervision::Watchdog::of_this_process();
    // After the doors are open: that is where names are proved.
    let renewal = certificates.map(Certificates::keep);

    loop {
        tokio::select! {
            () = watchdog.due() => supervision::alive(&engine.waiting()),
            // It tells how that went.
            _ = hang_up.recv() => drop(supervisor.take_over().await),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    log::info!("stopping");
    supervision::stopping();
    if let Some(renewal) = renewal {
        renewal.abort();
    }
    let (closed, ()) = tokio::join!(doors.close(DOORS_GRACE), http.close(DOORS_GRACE));
    if closed.aborted > 0 {
        log::warn!("{} clients were cut off in the middle of a message that was not yet accepted", closed.aborted);
    }
    drop(control);
    Ok(())
}

fn write_ready_file(
    file: &std::path::Path,
    doors: &Doors<Engine>,
    http: &HttpDoors<Engine>,
    control: &Control,
    configuration: &Configuration,
) -> std::io::Result<()> {
    let mut text: String = doors.addresses().iter().map(|address| format!("smtp {address}\n")).collect();
    text.extend(http.addresses().iter().map(|address| format!("http {address}\n")));
    text.push_str(&format!("control {}\n", configuration.control.socket.display()));
    if let Some(address) = control.metrics {
        text.push_str(&format!("metrics {address}\n"));
    }
    if let Some(address) = control.api {
        text.push_str(&format!("api {address}\n"));
    }
    // Whoever waits for the file must never see half of it.
    let half = file.with_extension("half");
    std::fs::write(&half, text)?;
    std::fs::rename(&half, file)
}

/// Holds the parts together for reloads and status.
struct Supervisor {
    path: PathBuf,
    configuration: Arc<ArcSwap<Configuration>>,
    engine: Engine,
    events: Observer,
    doors: Arc<Doors<Engine>>,
    http: Arc<HttpDoors<Engine>>,
    managers: Arc<Managers>,
    since: clock::Micros,
    reloading: tokio::sync::Mutex<()>,
}

impl Supervisor {
    /// Reads the configuration again, and tells the log how that went.
    async fn take_over(&self) -> Result<ReloadReport, String> {
        let taken = self.read_again().await;
        match &taken {
            Ok(report) => {
                let (changed, need_restart) = (report.changed.len(), report.need_restart.len());
                postkeep_journal::CONFIGURATION_TAKEN.tell(
                    format_args!("configuration read again: {changed} keys changed, {need_restart} need a restart"),
                    [&report.changed.join("; "), &report.need_restart.join("; ")],
                );
            }
            Err(errors) => postkeep_journal::CONFIGURATION_REFUSED.tell(
                format_args!("configuration not taken over, the running one stays in place:\n{errors}"),
                [errors],
            ),
        }
        taken
    }

    async fn read_again(&self) -> Result<ReloadReport, String> {
        let _one_at_a_time = self.reloading.lock().await;
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || postkeep_mta::load_configuration(&path, true))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|errors| errors.to_string())?;
        let old = self.configuration.load_full();
        let changes = postkeep_configuration::changes(&old, &loaded.configuration);
        let new = Arc::new(loaded.configuration);
        // The doors check certificates and tables before they change anything;
        // if the engine then refuses, they go back to what they had.
        self.doors.reload(&new).map_err(|error| error.to_string())?;
        if let Err(error) = self.http.reload(&new) {
            self.doors.reload(&old).map_err(|again| format!("{error}; and the doors could not go back: {again}"))?;
            return Err(error.to_string());
        }
        if let Err(error) = self.engine.reload(Arc::clone(&new)) {
            self.doors.reload(&old).map_err(|again| format!("{error}; and the doors could not go back: {again}"))?;
            self.http.reload(&old).map_err(|again| format!("{error}; and the doors could not go back: {again}"))?;
            return Err(error.to_string());
        }
        self.managers.reload(&new);
        let mut report = ReloadReport {
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
            ..ReloadReport::default()
        };
        for change in changes {
            match change.takes_effect {
                TakesEffect::Now => report.changed.push(change.to_string()),
                TakesEffect::Restart => report.need_restart.push(change.key.to_string()),
            }
        }
        for key in &report.need_restart {
            log::warn!("{key} has changed but takes effect only at the next start");
        }
        Ok(report)
    }
}

/// What control holds of the supervisor.
struct Handle(Arc<Supervisor>);

impl Reloader for Handle {
    fn reload(&self) -> postkeep_control::ReloadAnswer {
        let supervisor = Arc::clone(&self.0);
        Box::pin(async move { supervisor.take_over().await })
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: clock::timestamp(self.0.since),
            doors: self
                .0
                .doors
                .addresses()
                .iter()
                .map(ToString::to_string)
                .chain(self.0.http.addresses().iter().map(|address| format!("http {address}")))
                .collect(),
            connections: self.0.doors.connections(),
            queued: self.0.engine.queued(),
        }
    }

    fn receivers(&self) -> Vec<ReceiverStatus> {
        let told = |status: postkeep_events::Status| {
            let (last_error, time) = status.last_error.unzip();
            ReceiverStatus {
                kind: status.kind.to_owned(),
                name: status.name,
                file: status.file,
                offset: status.offset,
                lag_octets: status.lag_octets,
                lag_seconds: status.lag_seconds,
                sent: status.sent,
                retried: status.retried,
                dropped: status.dropped,
                lost_files: status.lost_files,
                failing: status.failing,
                last_error,
                last_error_time: time.map(|time| time.to_string()),
            }
        };
        self.0.events.statuses().into_iter().map(told).collect()
    }

    fn further_metrics(&self) -> String {
        self.0.events.metrics()
    }
}
