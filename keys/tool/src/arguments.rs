//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use postkeep_keys::{Name, Sum, VolumeId};

use crate::attest::Vouching;

const EXAMPLES: &str = "\
What a custodian does, in this order:
  postkeep-keys generate --passphrase --out anna.key      once: makes your key. Keep the file; send the line age1… to the owner of the box
  postkeep-keys enrol --box mail-1.example.com:8444 --identity anna.key --out box.token
                                                          once the box runs: whether your key opens a share, and that the box knows so
  postkeep-keys show box.token                            who opens the box, how many it takes, and whether you can
  postkeep-keys paper --token box.token --identity anna.key --out share.txt
                                                          your share on paper, for the day on which the file is lost
  postkeep-keys unseal --token box.token --identity anna.key --box mail-1.example.com:8444 --reason 'planned work'
                                                          your answer to a box that waits; nobody but that box can read it
  postkeep-keys unseal --token box.token --identity anna.key --box mail-1.example.com:8444 --reason 'planned work' \
      --release release.note --release-key release.pub    the same, if the box has a TPM: only if it runs that release, unchanged
  postkeep-keys unseal --token box.token --identity anna.key --offer 'postkeep-offer-1:…' --reason 'no network'
                                                          the same as a text, to be carried to its console
  postkeep-keys prove --box mail-1.example.com:8444 --token box.token --identity anna.key --name anna
                                                          once a quarter: that you still hold your key
  postkeep-keys seal --box mail-1.example.com:8444 --token box.token --identity anna.key --name anna
                                                          closes the box now; it takes a quorum to open it again
  postkeep-keys restart --box mail-1.example.com:8444 --token box.token --identity anna.key --name anna
                                                          starts the machine of a sealed box anew, so that its TPM vouches for it again
  postkeep-keys rotate --box mail-1.example.com:8444 --token box.token --identity anna.key --to keys.toml --reason 'ben leaves' --out new.token
                                                          who opens the box from now on; a quorum wants it, each with the same file
  postkeep-keys recover --token box.token --identity anna.key --identity ben.key --out volume.key
                                                          its machine is gone and its disk is not: what opens the volume anywhere
  postkeep-keys export --keys keys.toml --in list.csv --out list.postkeep
                                                          a file that a quorum reads, and nobody alone
  postkeep-keys import --in list.postkeep --identity anna.key --identity ben.key --out list.csv
                                                          what is in it

Nothing that these commands print is secret, but for what `paper` prints and `recover` writes.

Exit status:
  0  done
  1  a file could not be written
  2  bad usage or bad input: a file is missing, damaged, or for something else
  3  refused: what was asked for is not safe, or does not count";

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
    /// Answers a box that waits to be opened. Only this start of the box can read the answer.
    Unseal {
        #[command(flatten)]
        holding: Holding,
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        vouching: Vouching,
        /// Why you open it; it is written into the records of the box.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Takes the share from words on paper (`-`: what you type) instead of your key.
        #[arg(long, value_name = "FILE", conflicts_with = "identity")]
        paper: Option<PathBuf>,
    },
    /// Your first day as a custodian of a box: fetches its token, sees whether your key opens a share in it, and proves that to the box.
    Enrol {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        trust: Trust,
        #[command(flatten)]
        vouching: Vouching,
        /// The file with your key.
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
        /// What you are called in the token; needed where your key opens the shares of several.
        #[arg(long, value_name = "NAME")]
        name: Option<Name>,
        /// Where the token goes. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Fetches the token of a box, to keep it and to compare it.
    Token {
        #[command(flatten)]
        at: At,
        /// Where it goes. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Asks a box how its seal is: whether it is open, why not, and how many have answered.
    State {
        #[command(flatten)]
        at: At,
    },
    /// Proves to an open box that you still hold your key. Do it once a quarter.
    Prove {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        member: Member,
    },
    /// Has the machine of a sealed box started anew, so that its TPM vouches for it again. Any one custodian may.
    Restart {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        member: Member,
    },
    /// Opens the volume of a machine that is gone, from its disk: enough custodians at one desk make the passphrase itself. Works for shares
    /// that need no TPM: those of the recovery set, or all of a box without one.
    Recover {
        /// The token of the box.
        #[arg(long, value_name = "FILE")]
        token: PathBuf,
        #[command(flatten)]
        trust: Trust,
        /// A file with a custodian's key; once for each.
        #[arg(long = "identity", value_name = "FILE", required_unless_present = "papers")]
        identities: Vec<PathBuf>,
        /// A file with the words of a share; once for each.
        #[arg(long = "paper", value_name = "FILE")]
        papers: Vec<PathBuf>,
        /// Takes the shares of the recovery set.
        #[arg(long)]
        recovery: bool,
        /// Where the passphrase goes: 32 octets for cryptsetup. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Gives an open box a new key set: custodians come or go, the threshold changes, or everybody gets a new share since one was lost.
    /// As many as open the box have to want it, with the same file, within a day. Shares of the key set before are worth nothing once as many of
    /// the new one have enrolled.
    Rotate {
        #[command(flatten)]
        holding: Holding,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        vouching: Vouching,
        /// The new key set, in TOML, as `show` describes it [default: the same custodians, with new shares].
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Why; it is written into the records of the box.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Takes the share from words on paper (`-`: what you type) instead of your key.
        #[arg(long, value_name = "FILE", conflicts_with = "identity")]
        paper: Option<PathBuf>,
        /// Does not show what changes and ask; with --certificate.
        #[arg(long, requires = "certificate")]
        yes: bool,
        /// Where the new token goes, if yours is the last answer that is needed. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Makes shares for a LUKS2 volume that is none of a box, such as a disk with backups, and the key that opens it; `recover` makes that
    /// key again.
    Split {
        /// Who the custodians are, in TOML.
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// The UUID of the volume (cryptsetup luksUUID DEVICE).
        #[arg(long, value_name = "UUID")]
        volume: VolumeId,
        /// Where the token with the shares goes. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Where the key goes: 32 octets for cryptsetup. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where the key of the recovery set goes, if there is one.
        #[arg(long, value_name = "FILE")]
        recovery_key: Option<PathBuf>,
    },
    /// Makes a file that as many custodians read together as the key set says, and nobody alone: a backup, or what goes to another machine.
    Export {
        /// Who the custodians are, in TOML, as `show` describes it.
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// What is exported (`-`: standard input).
        #[arg(long = "in", value_name = "FILE")]
        from: PathBuf,
        /// What it is called in the export; everybody may read that [default: the name of the file].
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Where the export goes. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Gives back what is in an export: enough custodians at one desk, with their keys.
    Import {
        /// The export.
        #[arg(long = "in", value_name = "FILE")]
        from: PathBuf,
        #[command(flatten)]
        trust: Trust,
        /// A file with a custodian's key; once for each.
        #[arg(long = "identity", value_name = "FILE", required = true)]
        identities: Vec<PathBuf>,
        /// Takes the shares of the recovery set.
        #[arg(long)]
        recovery: bool,
        /// Where the content goes, once all of it is right. An existing file is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Seals a box now. Any one custodian may: mail stops, and the volume is closed. It takes a quorum to open it again.
    Seal {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        member: Member,
        /// So long it is waited until the box is sealed; 0: not at all.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        wait: u64,
    },
}

/// Which box is asked.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The door of the box's seal, HOST:PORT.
    #[arg(long = "box", value_name = "ADDRESS")]
    pub(crate) address: String,
    /// The sum of its certificate, as its console shows it; without it, the one that it shows is believed and printed.
    #[arg(long, value_name = "SUM")]
    pub(crate) certificate: Option<Sum>,
}

/// Somebody who is in a token.
#[derive(Debug, Args)]
pub(crate) struct Member {
    /// The token of the box.
    #[arg(long, value_name = "FILE")]
    pub(crate) token: PathBuf,
    #[command(flatten)]
    pub(crate) trust: Trust,
    /// The file with your key.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: PathBuf,
    /// What you are called in the token.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Name,
}

/// Where an answer goes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Way {
    /// The line that the box shows on its console: the answer is printed, to be carried there.
    #[arg(long, value_name = "LINE")]
    pub(crate) offer: Option<String>,
    /// The door of the box's seal, HOST:PORT: the answer is sent there.
    #[arg(long = "box", value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
}

/// Where an answer goes, and to whom.
#[derive(Debug, Args)]
pub(crate) struct To {
    #[command(flatten)]
    pub(crate) way: Way,
    /// The sum of the box's certificate, as its console shows it. Without it you are shown what answers and asked whether that is
    /// your box: whoever stands in between would get your share.
    #[arg(long, value_name = "SUM", requires = "address")]
    pub(crate) certificate: Option<Sum>,
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
