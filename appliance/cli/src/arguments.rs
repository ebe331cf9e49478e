//! The command line: `postkeep NOUN VERB`.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use postkeep_console::answer::AnswerArguments;
use postkeep_control::{BillFormat, Fingerprint};
use postkeep_rehearsal::{Block, Ports};
use postkeep_release::Version;
use postkeep_suppression::{Reason, Scope};

/// Runs, watches and rehearses a Postkeep mail core.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep",
    version,
    after_help = "Exit codes: 0 done, 1 a check or promise failed, 2 bad usage or bad input, 3 the daemon cannot be reached.\n\n\
                  Example: postkeep --box box.toml queue show"
)]
pub(crate) struct Arguments {
    /// Answer in JSON; its keys are stable.
    #[arg(long, global = true)]
    pub json: bool,
    /// Control socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/postkeep/control.sock")]
    pub socket: PathBuf,
    /// A box to talk to over the network: its address, or a profile (a .toml file with address, fingerprint, identity).
    /// Stands before the noun; POSTKEEP_BOX in the environment does the same.
    #[arg(long = "box", id = "managed_box", value_name = "ADDRESS|FILE", conflicts_with = "socket")]
    pub managed_box: Option<String>,
    /// Who asks, at a box: the file that `postkeep api identity new` made.
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// By what the box is known: the SHA-256 fingerprint that its console shows.
    #[arg(long, value_name = "FINGERPRINT")]
    pub box_fingerprint: Option<Fingerprint>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check and explain configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Whom not to write to.
    #[command(subcommand)]
    Suppression(SuppressionCommand),
    /// Make credentials.
    #[command(subcommand)]
    Credential(CredentialCommand),
    /// Make access tokens for the HTTP doors.
    #[command(subcommand)]
    Token(TokenCommand),
    /// See and change what waits.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Who is told what happened to mail.
    #[command(subcommand)]
    Events(EventsCommand),
    /// Have the daemon read its configuration again; a bad file leaves the running one in place.
    Reload,
    /// How the daemon is.
    Status,
    /// What a box is, what its start is worth, and what is in it.
    #[command(subcommand)]
    System(SystemCommand),
    /// Install releases, and go back.
    #[command(subcommand)]
    Update(UpdateCommand),
    /// Whether mail works: queue, keys, suppression list, and a message that goes the whole way to a sink on the machine.
    Health,
    /// Management over the network.
    #[command(subcommand)]
    Api(ApiCommand),
    /// Take apart mail that came back.
    #[command(subcommand)]
    Bounce(BounceCommand),
    /// Read reports of other senders about TLS.
    #[command(subcommand)]
    TlsReport(TlsReportCommand),
    /// What receivers' replies mean.
    #[command(subcommand)]
    Reply(ReplyCommand),
    /// Look into a spool.
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Allow what somebody asks for at the console of a box.
    #[command(subcommand)]
    Console(ConsoleCommand),
    /// Put a release onto the disks of a server, from its rescue system: runs postkeep-flash, which is one static file.
    #[command(disable_help_flag = true, after_help = "Example: postkeep flash inventory")]
    Flash {
        /// What postkeep-flash is told; --help for its own.
        #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// For custodians: a key of one's own, opening and sealing a box. Runs postkeep-keys, which is one static file.
    #[command(disable_help_flag = true, after_help = "Example: postkeep keys generate --out anna.key")]
    Keys {
        /// What postkeep-keys is told; --help for its own.
        #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Send a campaign through a configuration in a simulated internet on loopback.
    #[command(
        after_help = "Examples: postkeep rehearse --config /etc/postkeep/postkeep.toml --recipients 10000 --seed 7 --summary summary.json\n          postkeep rehearse --config postkeep.toml --box 10.1.0.1 --block 10.0.0.0/8 --prepare folder\n          postkeep rehearse --prepared folder --recipients 1000\n          postkeep rehearse --prepared folder --no-campaign --serve"
    )]
    Rehearse(Box<RehearseArguments>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a file with its includes and report every error with its place and remedy.
    #[command(after_help = "Example: postkeep config check /etc/postkeep/postkeep.toml")]
    Check {
        /// The file.
        file: PathBuf,
        /// Do not look at the files that it names (keys, certificates).
        #[arg(long)]
        no_files: bool,
    },
    /// Show which source, limits, TLS and signature a message would get, and why.
    #[command(
        after_help = "Example: postkeep config explain postkeep.toml someone@example.org --sender news@sender.example --stream news"
    )]
    Explain {
        /// The file.
        file: PathBuf,
        /// To whom.
        recipient: String,
        /// From whom: decides the signature.
        #[arg(long)]
        sender: Option<String>,
        /// In which stream.
        #[arg(long)]
        stream: Option<String>,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Release, kernel, how long it runs, posture of this start and the worst of all.
    #[command(after_help = "Example: postkeep --box box.toml system show --json")]
    Show,
    /// Print the bill of materials of the release.
    #[command(after_help = "Example: postkeep --box box.toml system sbom --format spdx > postkeep.spdx.json")]
    Sbom {
        /// cyclonedx or spdx.
        #[arg(long, value_parser = bill_format)]
        format: BillFormat,
    },
}

fn bill_format(word: &str) -> Result<BillFormat, String> {
    BillFormat::ALL
        .into_iter()
        .find(|format| format.as_str() == word)
        .ok_or_else(|| "write cyclonedx or spdx".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiCommand {
    /// Who you are for boxes: a key, and a certificate whose fingerprint they list.
    #[command(subcommand)]
    Identity(IdentityCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Make one, in a new file that only you can read; prints the fingerprint for the seed's [api] clients.
    #[command(after_help = "Example: postkeep api identity new --output operator.pem --name ann@example.com")]
    New {
        /// The file; never overwritten.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Stands in the certificate, for people.
        #[arg(long, default_value = "postkeep client")]
        name: String,
    },
    /// Print its fingerprint.
    #[command(after_help = "Example: postkeep api identity show operator.pem")]
    Show {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConsoleCommand {
    /// Show what a challenge asks for, sign it with the owner's key, and print the answer that is typed at the console.
    #[command(
        after_help = "Run it where the owner's key is; it needs no network and no daemon. What is signed goes to standard error, the\nanswer to standard output. Read what stands there before saying yes: it is all that is done, on that machine,\nonce, within ten minutes.\n\nExamples: postkeep console answer --key owner.key 05W7H TJ27Y 6BY65 ... KAT0C\n          zbarcam --raw --oneshot | postkeep console answer --key owner.key --yes -\n          postkeep console answer --key owner.key --json --yes 05W7H..."
    )]
    Answer(AnswerArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// How far the accounting file, each webhook and each broker is, and what it has missed.
    #[command(after_help = "Example: postkeep events status --json")]
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Read a password from standard input and print the value for `password-hash`.
    #[command(after_help = "Example: postkeep credential hash < password-file")]
    Hash,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token: give it to the sender, and its hash to `[[token]] hash`. It is shown once.
    New,
    /// Read a token from standard input and print the value for `hash`.
    #[command(after_help = "Example: postkeep token hash < token-file")]
    Hash,
}

/// Which part of the queue; several must all match, none is everything.
#[derive(Debug, Clone, Args)]
pub(crate) struct Selection {
    /// Mail of this stream.
    #[arg(long)]
    pub stream: Option<String>,
    /// Mail for this recipient domain.
    #[arg(long)]
    pub domain: Option<String>,
    /// Mail for this site, named as `queue show` prints it.
    #[arg(long)]
    pub site: Option<String>,
    /// Mail that may leave from this source; for pause: what would leave from it.
    #[arg(long)]
    pub source: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// What waits, where, and why.
    Show {
        #[command(flatten)]
        selection: Selection,
        /// Rows of mail to print; JSON has all.
        #[arg(long, default_value_t = 30)]
        rows: usize,
    },
    /// Attempt nothing of it until resumed; survives restarts.
    #[command(after_help = "Without a selection, --all is needed: it pauses everything, also what is yet to come.")]
    Pause {
        #[command(flatten)]
        selection: Selection,
        /// The whole queue is meant.
        #[arg(long)]
        all: bool,
    },
    /// Lift the pauses that the selection covers.
    Resume {
        #[command(flatten)]
        selection: Selection,
    },
    /// Remove it without telling the senders.
    #[command(after_help = "Without a selection, --all is needed: it removes the whole queue.")]
    Delete {
        #[command(flatten)]
        selection: Selection,
        /// The whole queue is meant.
        #[arg(long)]
        all: bool,
    },
    /// Return it to its senders now, as if its time were up.
    #[command(after_help = "Without a selection, --all is needed: it returns the whole queue.")]
    Expire {
        #[command(flatten)]
        selection: Selection,
        /// The whole queue is meant.
        #[arg(long)]
        all: bool,
    },
    /// Make it due now, lift back-offs, and ask the DNS again.
    Retry {
        #[command(flatten)]
        selection: Selection,
    },
    /// Send it to other hosts until cleared; survives restarts.
    #[command(
        after_help = "Examples: postkeep queue reroute --domain example.org --to relay.example.net:25\n          postkeep queue reroute --domain example.org --clear"
    )]
    Reroute {
        #[command(flatten)]
        selection: Selection,
        /// Hosts in order: name, name:port, 192.0.2.1:25 or [2001:db8::1]:25.
        #[arg(long, value_delimiter = ',', required_unless_present = "clear")]
        to: Vec<String>,
        /// Back to the normal route.
        #[arg(long, conflicts_with = "to")]
        clear: bool,
        /// The whole queue is meant.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BounceCommand {
    /// Say for each recipient of each message what it is: bounce, delay, complaint, auto-reply or none.
    #[command(
        after_help = "One JSON line for each recipient: file, recipient, kind, status, class, scope, suppress, reason.\nA file that cannot be read is named on standard error; the others are classified all the same (exit code 2).\n\nExample: postkeep bounce classify /var/mail/bounces/*.eml"
    )]
    Classify {
        /// Messages, one a file; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Rules of your own, tried before the shipped ones; may be repeated.
        #[arg(long, value_name = "FILE")]
        rules: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TlsReportCommand {
    /// Show what a report says (RFC 8460): sessions that were protected, and how the others failed.
    #[command(
        after_help = "With --json one line for each file: file, and report in the form of RFC 8460.\nA file that cannot be read is named on standard error; the others are shown all the same (exit code 2).\n\nExample: postkeep tls-report show google.com!example.org!1790000000!1790086399.json.gz"
    )]
    Show {
        /// Reports: JSON, gzip, or the mail that brought them; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplyCommand {
    /// Show which rule a reply meets, whom it concerns and what follows.
    #[command(
        after_help = "Examples: postkeep reply explain '421 4.7.0 [TSS04] deferred' --provider yahoo\n          postkeep reply explain '550 5.1.1 no such user' --stage rcpt --json"
    )]
    Explain {
        /// The reply on one line, with its code.
        text: String,
        /// The provider whose site said it, as `config explain` names it.
        #[arg(long)]
        provider: Option<String>,
        /// The command that was refused: greeting, ehlo, mail, rcpt, data or final.
        #[arg(long, default_value = "rcpt")]
        stage: String,
        /// Rules of your own, tried before the shipped ones; may be repeated.
        #[arg(long, value_name = "FILE")]
        rules: Vec<PathBuf>,
    },
    /// Hold every rule against its own examples; exit code 1 when one does not keep them.
    #[command(after_help = "Example: postkeep reply check --rules /etc/postkeep/replies.toml")]
    Check {
        /// Rules of your own, tried before the shipped ones; may be repeated.
        #[arg(long, value_name = "FILE")]
        rules: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SuppressionCommand {
    /// Put addresses into the list; done when no delivery to them is under way any more.
    #[command(
        after_help = "Examples: postkeep suppression add ann@example.org\n          postkeep suppression add ann@example.org --reason unsubscribe --scope stream:news"
    )]
    Add {
        /// Whom not to write to.
        #[arg(required = true)]
        addresses: Vec<String>,
        /// Why: complaint, unsubscribe, hard-bounce, manual or block (recorded only).
        #[arg(long, default_value = "manual", value_parser = reason)]
        reason: Reason,
        /// For which mail: all, stream:NAME or list:NAME; default: all.
        #[arg(long)]
        scope: Option<Scope>,
        /// Kept sealed with the address.
        #[arg(long)]
        note: Option<String>,
    },
    /// Take an address out, or only its entries of one reason or scope; exit code 1 when it has none.
    #[command(after_help = "Example: postkeep suppression remove ann@example.org --reason hard-bounce")]
    Remove {
        /// Who may be written to again.
        address: String,
        /// Only entries with this reason.
        #[arg(long, value_parser = reason)]
        reason: Option<Reason>,
        /// Only entries of this scope.
        #[arg(long)]
        scope: Option<Scope>,
    },
    /// What is known about an address.
    Show {
        /// The address.
        address: String,
    },
    /// How many entries there are, and what they need.
    Status,
    /// Read a CSV file of ours or of another service into the list.
    #[command(
        after_help = "A line that cannot be used is told and stops no other; exit code 1 then. An import that was cut short is\nbegun again from the start: what is known already is only counted.\n\nExamples: postkeep suppression import bounces.csv --format sendgrid --reason hard-bounce --refused bad.txt\n          zcat list.csv.gz | postkeep suppression import -"
    )]
    Import(ImportArguments),
    /// Write the list as CSV. Reads the journal's files, not the daemon: works on a copy, too.
    #[command(
        after_help = "Examples: postkeep suppression export > list.csv\n          postkeep suppression export --format mailgun --reason hard-bounce --identity owner.txt --output bounces.csv"
    )]
    Export(ExportArguments),
    /// Get the secret back out of the journal, for a box that has lost it.
    RestoreSecret {
        /// The `[suppression] directory`.
        #[arg(default_value = "/var/lib/postkeep/suppression")]
        directory: PathBuf,
        /// age identity that opens the journal; may be repeated; default: the box's own.
        #[arg(long, value_name = "FILE")]
        identity: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// auto, postkeep, sendgrid, mailgun, postmark or ses.
    #[arg(long, default_value = "auto")]
    pub format: String,
    /// What its entries are, where the file does not say.
    #[arg(long, value_parser = reason)]
    pub reason: Option<Reason>,
    /// For which mail they hold, where the file does not say; default: all.
    #[arg(long)]
    pub scope: Option<Scope>,
    /// Kept sealed with entries that have no note of their own.
    #[arg(long)]
    pub note: Option<String>,
    /// Only read it and say what would be refused; the daemon is not asked.
    #[arg(long)]
    pub dry_run: bool,
    /// Write refused lines, number and reason, to this file.
    #[arg(long, value_name = "FILE")]
    pub refused: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The `[suppression] directory`, or a copy of it.
    #[arg(long, default_value = "/var/lib/postkeep/suppression")]
    pub directory: PathBuf,
    /// age identity that opens the journal; may be repeated; default: the box's own.
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// postkeep, sendgrid, mailgun, postmark or ses.
    #[arg(long, default_value = "postkeep")]
    pub format: String,
    /// Only entries with this reason; formats with a file for each reason need it.
    #[arg(long, value_parser = reason)]
    pub reason: Option<Reason>,
    /// Only entries of this scope.
    #[arg(long)]
    pub scope: Option<Scope>,
    /// Where to; must not exist. Default: standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

fn reason(word: &str) -> Result<Reason, String> {
    Reason::ALL
        .into_iter()
        .find(|reason| reason.as_str() == word)
        .ok_or_else(|| "write complaint, unsubscribe, hard-bounce, manual or block".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolCommand {
    /// List the segments, messages and damages of a spool whose daemon is stopped; changes nothing.
    Inspect {
        /// The `[spool] directory`.
        directory: PathBuf,
        /// List every message that is not complete.
        #[arg(long)]
        messages: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RehearseArguments {
    /// The configuration to rehearse; it is not changed, and nothing leaves this machine.
    #[arg(long, value_name = "FILE", required_unless_present = "prepared", conflicts_with = "prepared")]
    pub config: Option<PathBuf>,
    /// Recipients of the campaign.
    #[arg(long, default_value_t = 10_000)]
    pub recipients: u64,
    /// The same seed gives the same campaign and the same whims of the providers.
    #[arg(long, default_value_t = 1, conflicts_with = "prepared")]
    pub seed: u64,
    /// How many times faster waits pass, of the configuration and of the providers.
    #[arg(long, default_value_t = 60.0, value_name = "TIMES", conflicts_with = "prepared")]
    pub hurry: f64,
    /// Give up after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, conflicts_with = "prepared")]
    pub deadline: u64,
    /// Connections that submit the campaign.
    #[arg(long, default_value_t = 6)]
    pub connections: usize,
    /// Verify the signature of every so many-th message; 1 is all.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub verify_every: u64,
    /// Another rule book of mailbox providers than the shipped one.
    #[arg(long, value_name = "FILE", conflicts_with = "prepared")]
    pub rules: Option<PathBuf>,
    /// Private addresses that the simulated internet has: NETWORK/PREFIX. This machine must have them already.
    #[arg(long, value_name = "NETWORK", default_value_t, conflicts_with = "prepared")]
    pub block: Block,
    /// Port of the simulated MX hosts; default: any that is free, and 25 for a box elsewhere.
    #[arg(long, conflicts_with = "prepared")]
    pub port: Option<u16>,
    /// Prepare the rehearsal of a box that runs elsewhere, in this folder, and run nothing.
    #[arg(long, value_name = "FOLDER", requires = "box_address", conflicts_with_all = ["prepared", "serve", "daemon", "scratch"])]
    pub prepare: Option<PathBuf>,
    /// Private address at which that box is reached.
    #[arg(long = "box", id = "box_address", value_name = "ADDRESS", requires = "prepare")]
    pub box_address: Option<Ipv4Addr>,
    /// Port of the name server, for a box elsewhere.
    #[arg(long, default_value_t = Ports::default().names, requires = "prepare", value_name = "PORT")]
    pub names_port: u16,
    /// Port of the host of MTA-STS policies, for a box elsewhere.
    #[arg(long, default_value_t = Ports::default().policies, requires = "prepare", value_name = "PORT")]
    pub policies_port: u16,
    /// Port at which the records of a box elsewhere are taken.
    #[arg(long, default_value_t = Ports::default().events, requires = "prepare", value_name = "PORT")]
    pub events_port: u16,
    /// Rehearse the box that this folder was prepared for, and that has been started with it.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["daemon", "scratch"])]
    pub prepared: Option<PathBuf>,
    /// Wait so many seconds for the doors of a box elsewhere.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "prepared")]
    pub wait: u64,
    /// Send nothing; with --serve.
    #[arg(long, requires = "serve")]
    pub no_campaign: bool,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
    /// Write the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Keep the simulated internet and the daemon up, and print the addresses to talk to.
    #[arg(long)]
    pub serve: bool,
    /// The daemon to run; default: the one beside this program.
    #[arg(long, value_name = "PATH")]
    pub daemon: Option<PathBuf>,
    /// Folder for spool, records and keys; default: a temporary one that is removed afterwards.
    #[arg(long, value_name = "DIRECTORY")]
    pub scratch: Option<PathBuf>,
}

/// `postkeep update …`.
#[derive(Debug, Subcommand)]
pub(crate) enum UpdateCommand {
    /// Say what installing a release would do, or why it may not be installed. Changes nothing.
    #[command(after_help = "Examples:\n  postkeep --box box.toml update plan ./release.note\n  \
                            postkeep --box box.toml update plan https://updates.example/postkeep/")]
    Plan(ReleaseArguments),
    /// Install a release into the slot that does not run, and start the machine again with it.
    ///
    /// Mail that is being taken in or delivered is finished before the restart. The new version has to prove itself: the
    /// box opens its queue and keys, checks its suppression list and delivers a message to a sink. If it cannot, the version
    /// that runs now comes back by itself; `update status` says why.
    #[command(after_help = "Examples:\n  postkeep --box box.toml update apply ./release.note\n  \
                            postkeep --box box.toml update apply https://updates.example/postkeep/ --no-restart")]
    Apply {
        #[command(flatten)]
        release: ReleaseArguments,
        /// Install only; the release runs after the next restart, whenever that is.
        #[arg(long)]
        no_restart: bool,
        /// Install it although the box is not well now (`postkeep health`). The new version has to be well all the same, or it
        /// is sent back: say this where the new version is the cure.
        #[arg(long)]
        although_unwell: bool,
    },
    /// What runs, what could run, what is being done, and what happened.
    Status,
    /// Go back to the version before, which is still in the other slot. The machine starts again, and that version has to prove
    /// itself; if it does not, what runs now comes back.
    Rollback {
        /// Go back to this version and to no other.
        #[arg(long, value_name = "VERSION")]
        to: Option<Version>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    /// The signed manifest, release.note, with its files beside it; or an https folder that has both, from which the box
    /// fetches itself.
    #[arg(value_name = "RELEASE.NOTE|URL")]
    pub release: String,
    /// An older version may take the place of a newer one. Older versions have known faults.
    #[arg(long)]
    pub allow_older: bool,
}
