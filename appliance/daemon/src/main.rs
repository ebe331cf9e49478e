//! `postkeepd`: reads the configuration, starts the rooms, supervises them,
//! stops them in order. No logic of its own.

mod daemon;
mod logging;
mod supervision;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The mail core of Postkeep: takes mail in, keeps it safe, paces it, signs it, delivers it.
#[derive(Debug, Parser)]
#[command(
    name = "postkeepd",
    version,
    after_help = "Signals: HUP reads the configuration again (a bad file leaves the running one in place); \
                  TERM and INT close the doors, let transactions under way finish for up to 30 seconds, and stop.\n\n\
                  Exit codes: 0 stopped in order, 1 could not start or failed, 2 bad usage or bad configuration.\n\n\
                  Example: postkeepd --config /etc/postkeep/postkeep.toml"
)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/postkeep/postkeep.toml")]
    config: PathBuf,
    /// Written once all doors are open: one line for each door, then the control socket.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Least weighty log lines that are written: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: log::LevelFilter,
    /// Below which folder the box's own files are looked for: its release, its posture, its bill of materials.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::start(arguments.log) {
        eprintln!("postkeepd: cannot start the log: {error}");
        return ExitCode::from(1);
    }
    let loaded = match postkeep_mta::load_configuration(&arguments.config, true) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!("cannot start threads: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(daemon::run(arguments.config, loaded.configuration, arguments.ready_file, &arguments.root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            let is_configuration =
                matches!(error.downcast_ref(), Some(postkeep_mta::engine::StartError::Configuration(_)));
            ExitCode::from(if is_configuration { 2 } else { 1 })
        }
    }
}
