//! `postkeep-opener`: keeps the seal of the box. Run by a unit of the image; custodians use `postkeep keys`.

use std::alloc::System;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use postkeep_keys::wire::{Reply, Request, Seal};
use postkeep_sealed::cause::{Last, leave};
use postkeep_sealed::line;
use postkeep_sealed::opener::{Opener, Place};
use postkeep_sealed::volume::Volume;
use zeroizing_alloc::ZeroAlloc;

/// Between two looks at a box that waits.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the seal of the box.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-opener",
    version,
    after_help = "Exit codes: 0 done; 1 failed; 2 bad usage.\n\nRun by units of the image, not by people; see `postkeep keys --help`."
)]
struct Arguments {
    /// The boot partition.
    #[arg(long, value_name = "FOLDER", default_value = "/efi")]
    boot: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answers at the socket that is standard input; opens the volume when enough custodians have answered.
    Serve {
        /// The volume.
        #[arg(long, value_name = "PATH", default_value = "/dev/postkeep-data")]
        volume: PathBuf,
        /// Its name when it is open.
        #[arg(long, value_name = "NAME", default_value = "postkeep-data")]
        name: String,
        /// Where it is mounted.
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/postkeep")]
        data: PathBuf,
    },
    /// Waits until the volume is open.
    Wait {
        /// The opener's socket.
        #[arg(long, value_name = "SOCKET", default_value = "/run/postkeep-opener.socket")]
        socket: PathBuf,
    },
    /// Leaves word for the next start that the volume was closed in order.
    Closed,
}

/// Shares and keys pass through libraries that free them as they are.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    if let Err(why) = postkeep_journal::start("postkeep-opener") {
        say(&why);
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Serve { volume, name, data } => {
            let volume = Volume { device: volume, name, program: "cryptsetup".into(), mapper: "/dev/mapper".into() };
            let place = Place { boot: arguments.boot, data, volume, systemctl: "systemctl".into() };
            let Some(opener) = Opener::start(place)? else {
                return Err("no custodians open this box: it has no token".into());
            };
            let listener = UnixListener::from(rustix::stdio::stdin().try_clone_to_owned()?);
            let offer = opener.handle(&Request::State);
            if let Reply::State(state) = offer
                && let Some(offer) = state.offer
            {
                // The console shows it as well; this is for whoever reads the serial line.
                say(&format!("sealed: {offer}"));
            }
            let opener = Arc::clone(&opener);
            line::serve(&listener, move |request| opener.handle(request));
            Ok(())
        }
        Verb::Wait { socket } => loop {
            match line::ask(&socket, &Request::State, ANSWER) {
                Ok(Reply::State(state)) if state.seal == Seal::Open => return Ok(()),
                // Also while the opener is busy, or starts again: who waits, waits.
                _ => std::thread::sleep(LOOK_AGAIN),
            }
        },
        Verb::Closed => Ok(leave(&arguments.boot, Last::Closed)?),
    }
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}
