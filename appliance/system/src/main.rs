//! `postkeep-system`: the short programs that the box's own units run before mail flows. Each verb does one thing once,
//! with as few rights as it needs; the units are in `image/root`.

mod keys;
mod network;
mod passphrase;
mod resolver;
mod settle;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jiff::Timestamp;

/// Anything that ends a verb.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the box does to itself before mail flows.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-system",
    version,
    after_help = "Exit codes: 0 done, or nothing to do; 1 failed, nothing was changed; 2 bad usage.\n\n\
                  Run by units of the image, not by people."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Reads the seed on the boot partition and writes what systemd-networkd and chrony need.
    Network {
        /// The seed, as the flasher wrote it.
        #[arg(long, value_name = "FILE", default_value = "/efi/postkeep/seed")]
        seed: PathBuf,
        /// Where volatile files go.
        #[arg(long, value_name = "FOLDER", default_value = "/run")]
        run: PathBuf,
        /// Where the kernel tells about the machine.
        #[arg(long, value_name = "FOLDER", default_value = "/sys")]
        sys: PathBuf,
        /// The time servers of a seed that names none.
        #[arg(long, value_name = "FILE", default_value = "/usr/lib/postkeep/time-servers")]
        time_servers: PathBuf,
        /// The seed that the network is from so far: nothing is done unless it is a stranger's, or older.
        #[arg(long, value_name = "FILE")]
        instead_of: Option<PathBuf>,
    },
    /// Takes the seed over onto the open data volume: the configuration of mail, and keys that are missing.
    Settle {
        /// The seed, as `network` has left it.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-seed/seed")]
        seed: PathBuf,
        /// Where the configuration and the keys live.
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/postkeep/etc")]
        folder: PathBuf,
        /// Where the fingerprint of the door for management is written for the console.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-settle/box-fingerprint")]
        fingerprint: PathBuf,
        /// What the data volume has when it was given to custodians.
        #[arg(long, value_name = "PATH", default_value = "/var/lib/postkeep/keys")]
        custody: PathBuf,
    },
    /// Keeps resolv.conf as the network is: the DNS servers that systemd-networkd knows of.
    Resolver {
        /// Where networkd tells of its state.
        #[arg(long, value_name = "FILE", default_value = "/run/systemd/netif/state")]
        state: PathBuf,
        /// What /etc/resolv.conf links to.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-resolver/resolv.conf")]
        into: PathBuf,
    },
    /// First boot of a machine without a TPM: asks at the console for a passphrase of the data volume, twice.
    Passphrase {
        /// Where the passphrase goes, for whoever makes the volume.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-passphrase/passphrase")]
        into: PathBuf,
        /// The data volume; where it is there, nothing is asked.
        #[arg(long, value_name = "PATH", default_value = "/dev/postkeep-data")]
        volume: PathBuf,
    },
    /// Opens the data volume; on a machine with a TPM only one that the TPM opens.
    Volume {
        /// The data volume.
        #[arg(long, value_name = "PATH", default_value = "/dev/postkeep-data")]
        volume: PathBuf,
        /// The TPM.
        #[arg(long, value_name = "PATH", default_value = "/dev/tpmrm0")]
        chip: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Err(why) = postkeep_journal::start("postkeep-system") {
        say(&why);
    }
    let now = Timestamp::now();
    let done = match Arguments::parse().verb {
        Verb::Network { seed, run, sys, time_servers, instead_of } => {
            let instead_of = instead_of.as_deref();
            let place = network::Place { seed: &seed, run: &run, sys: &sys, time_servers: &time_servers, instead_of };
            network::apply(&place)
        }
        Verb::Settle { seed, folder, fingerprint, custody } => {
            settle::settle(&seed, &folder, &fingerprint, &custody, now)
        }
        Verb::Resolver { state, into } => resolver::follow(&state, &into),
        Verb::Volume { volume, chip } => volume::open(&volume, &chip),
        Verb::Passphrase { into, volume } => passphrase::choose(&into, &volume),
    };
    match done {
        Ok(lines) => {
            for line in lines {
                say(&line);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}
