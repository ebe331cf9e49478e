//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use postkeep_keys::Name;

const EXAMPLES: &str = "\
What a custodian does, in this order:
  postkeep-keys generate --passphrase --out anna.key      once: makes your key. Keep the file; send the line age1… to the owner of the box
  postkeep-keys show box.token                            who opens the box, how many it takes, and whether you can
  postkeep-keys paper --token box.token --identity anna.key --out share.txt
                                                          your share on paper, for the day on which the file is lost
  postkeep-keys unseal --token box.token --identity anna.key --offer 'postkeep-offer-1:…' --reason 'planned work'
                                                          your answer to a box that waits; nobody but that box can read it

Nothing that these commands print is secret, but for what `paper` prints.

Exit status:
  0  done
  1  a file could not be written
  2  bad usage or bad input: a file is missing, damaged, or for something else
  3  refused: what was asked for is not safe, or is not for you";

/// Holds a share of a Postkeep box: makes your key, shows what you hold, answers when the box asks.
#[derive(Debug, Parser)]
#[command(name = "postkeep-keys", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Prints JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a new key (age, X25519) and prints its public half.
    Generate {
        /// Where the key goes. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Asks for a passphrase, without which the file is of no use to anybody.
        #[arg(long, conflicts_with = "guard")]
        passphrase: bool,
        /// Has a device guard the key: an identity file of an age plugin, such as age-plugin-yubikey writes. The device is needed
        /// each time the key is used.
        #[arg(long, value_name = "FILE")]
        guard: Option<PathBuf>,
    },
    /// Prints the public half of a key.
    Recipient {
        /// The file with your key.
        identity: PathBuf,
    },
    /// Says who opens a box, from its token; or what is wrong with a key set, before an owner signs it.
    Show {
        /// The token of a box, or a key set in TOML.
        file: PathBuf,
        #[command(flatten)]
        trust: Trust,
    },
    /// Writes your share as words, to be printed and locked away; or reads words back.
    Paper {
        #[command(flatten)]
        holding: Holding,
        /// Where the sheet goes [default: the screen]. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Reads words from this file (`-`: what you type) instead, and says whether they are a share of the token.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "identity"])]
        check: Option<PathBuf>,
    },
    /// Answers a box that waits to be opened. The answer is a text that only this start of the box can read.
    Unseal {
        #[command(flatten)]
        holding: Holding,
        /// The line that the box shows on its console.
        #[arg(long, value_name = "LINE")]
        offer: String,
        /// Why you open it; it is written into the records of the box.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Takes the share from words on paper (`-`: what you type) instead of your key.
        #[arg(long, value_name = "FILE", conflicts_with = "identity")]
        paper: Option<PathBuf>,
    },
}

/// Whose token is believed.
#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The key of the box, as it was when you enrolled; or a file with it. Without it nobody's signature is checked.
    #[arg(long, value_name = "KEY")]
    pub(crate) box_key: Option<String>,
}

/// A share that somebody holds.
#[derive(Debug, Args)]
pub(crate) struct Holding {
    /// The token of the box.
    #[arg(long, value_name = "FILE")]
    pub(crate) token: PathBuf,
    #[command(flatten)]
    pub(crate) trust: Trust,
    /// The file with your key.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// What you are called in the token; needed where your key opens more than one share.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Takes the share of the recovery set, which opens the box without its TPM.
    #[arg(long)]
    pub(crate) recovery: bool,
}
