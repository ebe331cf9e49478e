//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples, in a rescue system:
  postkeep-flash inventory
  postkeep-flash plan  --image postkeep.raw.zst --release release.note --release-key release.pub \\
                       --disk /dev/nvme0n1 --disk /dev/nvme1n1 --seed box.seed --owner-key owner.pub
  postkeep-flash write --image postkeep.raw.zst --release release.note --release-key release.pub \\
                       --disk /dev/nvme0n1 --disk /dev/nvme1n1 --seed box.seed --owner-key owner.pub
  postkeep-flash replace --left /dev/nvme0n1 --disk /dev/nvme1n1

Examples, at the operator's desk:
  postkeep-flash key generate --name example.com/owner --out owner.pem >owner.pub
  postkeep config check --no-files postkeep.toml
  postkeep-flash seed make --from seed.toml --key owner.pem --mail postkeep.toml --out box.seed
  postkeep-flash seed check box.seed

Exit status:
  0  done
  1  a disk, or this system, failed while the work was done; the same command goes on with it
  2  bad usage or bad input: a file is missing, damaged, not signed, or for something else; no disk was changed
  3  refused: this machine or this disk cannot be used, or nobody confirmed; no disk was changed";

/// Puts a Postkeep release and a seed onto the disks of a rented server.
#[derive(Debug, Parser)]
#[command(name = "postkeep-flash", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Prints JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Reads sys and proc below this folder.
    #[arg(long, global = true, hide = true, default_value = "/")]
    pub(crate) root: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Says what machine this is, and how far it could be trusted; changes nothing.
    Inventory {
        /// The provider starts the machine over the network first.
        #[arg(long)]
        provider_netboot: bool,
    },
    /// Checks everything that `write` checks, says what it would do, and changes nothing.
    Plan(Work),
    /// Erases the disks that are named and puts the image and the seed onto them.
    Write {
        #[command(flatten)]
        work: Work,
        /// The serial number of a disk that may be erased, instead of typing it; once for each disk.
        #[arg(long, value_name = "SERIAL")]
        yes_erase: Vec<String>,
        /// Keeps the state of the work in this file [default: beside the image]. With it, the same command goes on after
        /// an interruption.
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
        /// Writes the record into this file too, as JSON.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// After how many MiB the disks are synced.
        #[arg(long, hide = true, default_value_t = 128)]
        sync_every: u64,
    },
    /// Puts a new disk in the place of one that a box with two disks has lost; the box fills it at its next start.
    Replace {
        /// The disk that is left; it is only read.
        #[arg(long, value_name = "DEVICE")]
        left: PathBuf,
        /// The new disk.
        #[arg(long, value_name = "DEVICE")]
        disk: PathBuf,
        /// The serial number of the new disk, which may be erased, instead of typing it.
        #[arg(long, value_name = "SERIAL")]
        yes_erase: Vec<String>,
    },
    /// From the installer's medium: shows the machine, asks which disks, and does what `write` does.
    Install {
        /// Where the release, its image and perhaps the seed are.
        #[arg(long, value_name = "FOLDER", default_value = "/run/medium/postkeep")]
        medium: PathBuf,
        /// Where another stick is, which may have the seed.
        #[arg(long, value_name = "FOLDER", default_value = "/run/seed")]
        stick: PathBuf,
        /// The public keys that releases are signed with, one on each line.
        #[arg(long, value_name = "FILE", default_value = "/usr/lib/postkeep/release-keys")]
        release_keys: PathBuf,
    },
    /// What a box is told at the flash.
    #[command(subcommand)]
    Seed(SeedCommand),
    /// The owner's key.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Args)]
pub(crate) struct Work {
    /// The image: a .raw or .raw.zst file.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: PathBuf,
    /// The signed manifest of the release.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: PathBuf,
    /// The public key that releases are signed with, or a file with one on each line; more than one may be believed.
    #[arg(long, value_name = "KEY", required = true)]
    pub(crate) release_key: Vec<String>,
    /// The disk; two of them: the box is mirrored, and runs on with either.
    #[arg(long, value_name = "DEVICE", required = true)]
    pub(crate) disk: Vec<PathBuf>,
    /// The signed seed.
    #[arg(long, value_name = "FILE")]
    pub(crate) seed: PathBuf,
    /// The owner that the seed has to name: a public key, or a file that holds it.
    #[arg(long, value_name = "KEY")]
    pub(crate) owner_key: Option<String>,
    /// Takes a release that is older than what is on the disk.
    #[arg(long)]
    pub(crate) allow_older: bool,
    /// The provider starts the machine over the network first.
    #[arg(long)]
    pub(crate) provider_netboot: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SeedCommand {
    /// Makes a seed from a TOML file and signs it.
    Make {
        /// What the seed says, without format, issued and owner.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// The owner's private key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Whose key it is, where the file does not say so.
        #[arg(long)]
        name: Option<String>,
        /// The configuration of mail (postkeep.toml) that goes into the seed.
        #[arg(long, value_name = "FILE")]
        mail: Option<PathBuf>,
        /// The seed.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Adds a signature: a box changes hands with the signatures of both owners.
    Sign {
        /// The seed, signed by the owner that it names.
        file: PathBuf,
        /// The private key of the other.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Whose key it is, where the file does not say so.
        #[arg(long)]
        name: Option<String>,
        /// The seed with both signatures.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Says what is in a seed, and whether it would be taken.
    Check {
        /// The seed.
        file: PathBuf,
        /// The owner that it has to name: a public key, or a file that holds it.
        #[arg(long, value_name = "KEY")]
        owner_key: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key, writes its private half into a new file and prints the public one.
    Generate {
        /// Whose key it is, for example example.com/owner.
        #[arg(long)]
        name: String,
        /// The new file, readable by its owner only.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Prints the public half of a private key.
    Show {
        /// The private key.
        file: PathBuf,
        /// Whose key it is, where the file does not say so.
        #[arg(long)]
        name: Option<String>,
    },
}
