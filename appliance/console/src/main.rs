//! `postkeep-console`: the screen, the part behind it that acts, and the owner's side of a challenge.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use postkeep_console::act::{self, Places as ActPlaces};
use postkeep_console::answer::{AnswerArguments, answer};
use postkeep_console::screen::{self, Options};
use postkeep_console::watch::Places;
use tokio::net::UnixListener;

/// The screen on tty1 and the serial port of a box.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-console",
    version,
    after_help = "Exit codes: 0 done; 1 failed; 2 bad usage.\n\n\
                  Examples: postkeep-console show --once\n          \
                  postkeep-console answer --key owner.key '0410G 20G4Z ...'"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The terminal to show the screen on; absent: standard input and output.
    #[arg(long, value_name = "PATH")]
    terminal: Option<PathBuf>,
    /// The socket of the part that acts.
    #[arg(long, value_name = "PATH", default_value = "/run/postkeep-act.socket", global = true)]
    socket: PathBuf,
    /// Only ASCII, and no QR codes; what TERM=dumb means too.
    #[arg(long, global = true)]
    plain: bool,
    /// Where the measured posture of the machine stands.
    #[arg(long, value_name = "FILE", default_value = "/run/postkeep-posture/posture.json", global = true)]
    posture: PathBuf,
    /// Where it stands how the disks are.
    #[arg(long, value_name = "FILE", default_value = "/run/postkeep-disks-watch/status.json", global = true)]
    disks: PathBuf,
    /// Where the worst posture of all starts stands.
    #[arg(long, value_name = "FILE", default_value = "/run/postkeep-posture/history.json", global = true)]
    history: PathBuf,
    /// Where the fingerprint stands by which the box is known at its door for management.
    #[arg(long, value_name = "FILE", default_value = "/run/postkeep-settle/box-fingerprint", global = true)]
    box_fingerprint: PathBuf,
    /// The socket of the opener, on a box that custodians open.
    #[arg(long, value_name = "PATH", default_value = "/run/postkeep-opener.socket", global = true)]
    opener: PathBuf,
    /// Where the sum of the certificate stands that the door of the seal shows.
    #[arg(long, value_name = "FILE", default_value = "/run/postkeep-door/fingerprint", global = true)]
    door: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// On the owner's own machine: shows what a challenge asks for, and signs it; `postkeep console answer` is the same.
    Answer(AnswerArguments),
    /// Prints the status screen as text.
    Show {
        /// Once, and ends.
        #[arg(long, required = true)]
        once: bool,
        /// Columns of the screen.
        #[arg(long, default_value_t = 80)]
        columns: u16,
        /// Rows of the screen.
        #[arg(long, default_value_t = 24)]
        rows: u16,
    },
    /// Run by postkeep-act.service: does what the owner has signed. The socket is standard input, or --socket is made.
    Act {
        /// Makes the socket instead of taking it from systemd.
        #[arg(long)]
        listen: bool,
        /// How long a challenge can be answered, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=600))]
        valid: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(arguments));
            // An opener that does not answer is not waited for: sealing waits for this program.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("postkeep-console: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let options = Options {
        terminal: arguments.terminal,
        socket: arguments.socket,
        plain: arguments.plain || dumb,
        places: Places {
            posture: arguments.posture,
            disks: arguments.disks,
            history: arguments.history,
            opener: arguments.opener,
            door: arguments.door,
            box_fingerprint: arguments.box_fingerprint,
            release: "/etc/os-release".into(),
        },
    };
    match arguments.verb {
        None => screen::run(options).await,
        Some(Verb::Show { columns, rows, .. }) => {
            let text = screen::show_once(&options, columns, rows).await;
            print(&text)
        }
        Some(Verb::Act { listen, valid }) => {
            postkeep_journal::start("postkeep-act")?;
            act::serve(listener(listen, &options)?, ActPlaces::default(), Duration::from_secs(valid)).await
        }
        Some(Verb::Answer(arguments)) => {
            let answer = answer(&arguments, std::io::stdin().lock(), std::io::stderr().lock());
            print(&format!(
                "{}
",
                answer.map_err(|error| error.to_string())?
            ))
        }
    }
}

fn listener(listen: bool, options: &Options) -> Result<UnixListener, String> {
    if listen {
        let path = &options.socket;
        return UnixListener::bind(path)
            .map_err(|error| format!("cannot listen at {}: {error}; is another one running?", path.display()));
    }
    let failed = |error: std::io::Error| {
        format!("standard input is not a listening socket: {error}; this verb is run by postkeep-act.service")
    };
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let socket = std::os::unix::net::UnixListener::from(socket);
    // Fails on anything that is no socket.
    socket.local_addr().map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(socket).map_err(failed)
}

fn print(text: &str) -> Result<(), String> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| format!("cannot print: {error}"))
}
