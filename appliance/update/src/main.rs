//! `postkeep-update`: the privileged part of updates. `serve` answers at its socket, `gate` lets a start of the machine
//! prove itself. Run by units of the image; people use `postkeep update`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use postkeep_release::{DataFormat, Version};
use postkeep_update::attempt::{Attempt, Meaning, Stage, reconcile};
use postkeep_update::boot_file::{BootFile, Standing};
use postkeep_update::gate::{Check, Seen, Verdict, judge, suppressed};
use postkeep_update::install::{self, Programs};
use postkeep_update::place::Place;
use postkeep_update::server::Updater;
use postkeep_update::store::{FOLDER, Store};
use postkeep_update::trial::{GATE, Opened, excuse};

/// Between two looks at the mail core.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The mail core examines itself within half a minute.
const ANSWER: Duration = Duration::from_secs(45);
/// An examination has some lines.
const LONGEST_ANSWER: usize = 256 * 1024;

const SEAL: &str = "postkeep-seal.target";
/// Written when enough custodians have answered and the volume did not open: that is no waiting.
const UNOPENED: &str = "run/postkeep-opener.unopened";
/// Who they are; on the boot partition of a box that has any.
const TOKEN: &str = "efi/postkeep/token";
/// Asks again and again whether a version on trial has been judged.
const TIMER: &str = "postkeep-trial-failed.timer";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The privileged part of updates.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-update",
    version,
    after_help = "Exit codes: 0 done, the start is a good one; 1 it is not, or something failed; 2 bad usage.\n\n\
                  Run by units of the image, not by people; see `postkeep update --help`."
)]
struct Arguments {
    /// Where the box is found.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answers at the socket that is standard input.
    Serve,
    /// Decides whether this start of the machine is a good one.
    Gate {
        /// The mail core's control socket.
        #[arg(long, value_name = "SOCKET", default_value = "/run/postkeep/control.sock")]
        control: PathBuf,
        /// The mail core's configuration: while there is none, nothing is examined.
        #[arg(long, value_name = "FILE", default_value = "/var/lib/postkeep/etc/postkeep.toml")]
        configuration: PathBuf,
    },
    /// Starts the machine again, where its version has not proved itself and another start leads somewhere.
    Again,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(why) = postkeep_journal::start("postkeep-update") {
        say(&why);
    }
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(code) => code,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let place = Place::new(&arguments.root);
    let store = Store::new(&place.path(FOLDER));
    match arguments.verb {
        Verb::Serve => {
            let listener = std::os::unix::net::UnixListener::from(rustix::stdio::stdin().try_clone_to_owned()?);
            listener.set_nonblocking(true)?;
            let listener = tokio::net::UnixListener::from_std(listener)?;
            Updater::new(place, Programs::default(), store).serve(listener).await?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Gate { control, configuration } => gate(&place, &store, &control, &configuration).await,
        Verb::Again => again(&place, &Programs::default()),
    }
}

fn again(place: &Place, programs: &Programs) -> Result<ExitCode, Failure> {
    // Also where the gate has been stopped since, with a disk that went. And a box that its owner has sealed stays so.
    if install::has_been_active(programs, GATE)? || install::has_been_active(programs, SEAL)? {
        install::stop(programs, TIMER)?;
        return Ok(ExitCode::SUCCESS);
    }
    let opened = Opened {
        has_tpm: place.path("dev/tpmrm0").exists(),
        has_custodians: place.path(TOKEN).exists(),
        is_refused: place.path(UNOPENED).exists(),
    };
    if let Some(why) = excuse(opened, |unit| install::state(programs, unit))? {
        say(&format!("this start goes on: {why}"));
        return Ok(ExitCode::SUCCESS);
    }
    let running = place.running()?;
    if install::is_worth_a_start(place, running)? {
        say(&format!("{running} has not proved itself; the machine starts again"));
        install::restart(programs)?;
    } else {
        say(&format!("{running} has not proved itself, and no other version would be started"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn gate(place: &Place, store: &Store, control: &Path, configuration: &Path) -> Result<ExitCode, Failure> {
    let running = place.running()?;
    store.runs(running, DataFormat::ours())?;
    let mut attempt = store.attempt()?;
    if let Some(open) = &attempt
        && let Meaning::Ended(event) = reconcile(open, running, place.standing(open.to)?)
    {
        say(&event.to_string());
        if open.stage == Stage::Writing
            && let Err(error) = install::restore(place, &Programs::default(), &open.spared)
        {
            say(&format!("what was good before is not made good again: {error}"));
        }
        store.end(event, Timestamp::now())?;
        attempt = None;
    }
    let on_trial = matches!(place.standing(running)?, Some(Standing::OnTrial { .. }));
    // Its owner may have emptied it since: that is no fault of what has proved itself.
    let suppressed_before = if on_trial { store.suppressed()? } else { None };
    let began = Instant::now();
    let programs = Programs::default();
    let examined = loop {
        let seen = look(&programs, control, configuration).await;
        match judge(&seen, suppressed_before, began.elapsed()) {
            Verdict::Wait => tokio::time::sleep(LOOK_AGAIN).await,
            Verdict::Well(what) => {
                let checks: &[Check] = if let Seen::Examined(checks) = &seen { checks } else { &[] };
                if let Err(error) = store.found(suppressed(checks)) {
                    say(&error.to_string());
                }
                break Ok(what);
            }
            Verdict::Unwell(why) => break Err(why),
        }
    };
    match examined {
        Ok(what) => {
            say(&format!("this start of {running} is good: {what}"));
            if let Some(attempt) = attempt.filter(|attempt| attempt.to == running) {
                store.end(attempt.proven(), Timestamp::now())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Err(why) if on_trial => send_back(place, store, &programs, running, attempt, why)?,
        Err(why) => say(&format!("this start of {running} is not a good one: {why}")),
    }
    Ok(ExitCode::FAILURE)
}

/// A new version that is not well: says why, is not tried again, and the machine starts with the one before.
fn send_back(
    place: &Place,
    store: &Store,
    programs: &Programs,
    running: Version,
    attempt: Option<Attempt>,
    why: String,
) -> Result<(), Failure> {
    let Some(back) = install::way_back_from_trial(place, running, attempt.as_ref())? else {
        say(&format!("{running} is not well, and there is no other version to go back to: {why}"));
        return Ok(());
    };
    say(&format!("{running} is not well, {back} comes back: {why}"));
    let mut attempt = attempt.unwrap_or(Attempt {
        from: back,
        to: running,
        since: Timestamp::now(),
        stage: Stage::Restarting,
        back: false,
        spared: Vec::new(),
        unwell: None,
    });
    attempt.unwell = Some(why);
    // First why, then the deed: the one that comes back tells.
    store.begin(&attempt)?;
    install::rename(place, back, |file| BootFile::good(file.version))?;
    install::rename(place, running, BootFile::condemned)?;
    install::drain_and_restart(programs)?;
    Ok(())
}

async fn look(programs: &Programs, control: &Path, configuration: &Path) -> Seen {
    if !configuration.exists() {
        return Seen::Unconfigured;
    }
    if let Some(why) = install::failed(programs) {
        return Seen::Failed(why);
    }
    match tokio::time::timeout(ANSWER, examine(control)).await {
        Ok(Ok(checks)) => Seen::Examined(checks),
        Ok(Err(error)) => Seen::Silent(error.to_string()),
        Err(_) => Seen::Silent("it does not finish examining itself".to_owned()),
    }
}

/// Lets the mail core examine itself.
async fn examine(control: &Path) -> Result<Vec<Check>, Failure> {
    let stream = tokio::net::UnixStream::connect(control).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post("/v1/health").header("host", "postkeepd").body(Full::new(bytes::Bytes::new()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("it answers {status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}
