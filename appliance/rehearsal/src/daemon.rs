//! Runs `postkeepd` as its users do: as a process with a configuration file,
//! ended by SIGTERM to its own process id.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::Error;

/// Wait for the daemon to open its doors.
const START: Duration = Duration::from_secs(30);
/// Wait for it to finish what is in flight.
const STOP: Duration = Duration::from_secs(45);
/// Lines of its log that an error shows.
const TAIL: usize = 12;

/// Wait for it to be gone after it was killed, before its folder goes.
const KILLED: Duration = Duration::from_secs(2);

/// A running `postkeepd`. It is killed if it is dropped without [`Daemon::stop`].
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

/// The binary: as given, else beside this program (or its parent folder, where tests run).
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe()
        .map_err(|error| Error::Daemon(format!("cannot learn where this program is: {error}")))?;
    let folders = own.ancestors().skip(1).take(2);
    let tried: Vec<PathBuf> = folders.map(|folder| folder.join("postkeepd")).collect();
    tried.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
        Error::Daemon(format!("no postkeepd at {}; build it, or name it with --daemon PATH", places.join(" or ")))
    })
}

impl Daemon {
    /// Starts the daemon and waits until its doors are open. Its log goes to `scratch`/postkeepd.log.
    pub(crate) async fn start(binary: &Path, configuration: &Path, scratch: &Path) -> Result<Self, Error> {
        let log = scratch.join("postkeepd.log");
        let ready = scratch.join("ready");
        let _ = std::fs::remove_file(&ready);
        let output =
            File::create(&log).map_err(|error| Error::Io(format!("cannot write {}: {error}", log.display())))?;
        let errors =
            output.try_clone().map_err(|error| Error::Io(format!("cannot write {}: {error}", log.display())))?;
        let child = Command::new(binary)
            .arg("--config")
            .arg(configuration)
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::Daemon(format!("cannot start {}: {error}", binary.display())))?;
        let mut daemon = Self { child, log };
        let deadline = Instant::now() + START;
        while !ready.exists() {
            if let Some(status) = daemon.ended() {
                return Err(Error::Daemon(format!("postkeepd ended at once ({status}):\n{}", daemon.log_tail())));
            }
            if Instant::now() > deadline {
                return Err(Error::Daemon(format!(
                    "postkeepd was not ready after {} s:\n{}",
                    START.as_secs(),
                    daemon.log_tail()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(daemon)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text =
            std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
    }

    /// Asks it to stop (SIGTERM) and waits for it.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|error| Error::Daemon(format!("cannot stop postkeepd: {error}")))?;
        }
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::Daemon(format!("postkeepd ended with {status}:\n{}", self.log_tail()))),
            Ok(Err(error)) => Err(Error::Daemon(format!("cannot wait for postkeepd: {error}"))),
            Err(_) => Err(Error::Daemon(format!(
                "postkeepd did not stop within {} s of SIGTERM and was killed:\n{}",
                STOP.as_secs(),
                self.log_tail()
            ))),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error says that it has ended.
        if self.ended().is_some() || self.child.start_kill().is_err() {
            return;
        }
        let until = Instant::now() + KILLED;
        while self.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
