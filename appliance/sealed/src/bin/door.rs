//! `postkeep-door`: what custodians reach from outside. Run by a unit of the image, with a user of its own, without a disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use postkeep_keys::Sum;
use postkeep_sealed::door::{Door, Identity};
use tokio::net::TcpListener;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The door of the box's seal.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-door",
    version,
    after_help = "Run by units of the image, not by people; see `postkeep keys --help`."
)]
struct Arguments {
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8444")]
    address: SocketAddr,
    /// The opener's socket.
    #[arg(long, value_name = "SOCKET", default_value = "/run/postkeep-opener.socket")]
    opener: PathBuf,
    /// Where the sum of its certificate is written for the console.
    #[arg(long, value_name = "FILE", default_value = "/run/postkeep-door/fingerprint")]
    fingerprint: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(why) = postkeep_journal::start("postkeep-door") {
        eprintln!("postkeep: {why}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run(arguments)));
    if let Err(error) = done {
        eprintln!("postkeep: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let identity = Identity::new()?;
    let sum = Sum::of(identity.certificate());
    let address = arguments.address;
    let listener = TcpListener::bind(address).await.map_err(|error| format!("cannot listen at {address}: {error}"))?;
    std::fs::write(&arguments.fingerprint, format!("{sum}\n"))
        .map_err(|error| format!("cannot write {}: {error}", arguments.fingerprint.display()))?;
    let door = Door::new(identity, arguments.opener)?;
    log::info!("the door of the seal is at {}; its certificate is {sum}", listener.local_addr()?);
    door.serve(listener).await;
    Ok(())
}
