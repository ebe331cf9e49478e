//! `postkeep`: the one command that people type. Reads arguments, calls the
//! rooms, prints what they answer. No logic of its own.

mod arguments;
mod bounce;
mod console;
mod queue;
mod rehearse;
mod reply;
mod show;
mod spool;
mod suppression;
mod system;
mod tls_report;
mod token;
mod update;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use postkeep_configuration::command::{self, Outcome};
use postkeep_control::{BoxProfile, Client, ClientError};

use self::arguments::{
    Arguments, BounceCommand, Command, ConfigCommand, CredentialCommand, EventsCommand, SpoolCommand, TlsReportCommand,
};

/// A check or a promise failed.
const FAILED: u8 = 1;
/// Bad usage or bad input.
const BAD_INPUT: u8 = 2;
/// The daemon cannot be reached.
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => failure(FAILED, &format!("cannot start threads: {error}")),
    };
    // A closed pipe is the reader's choice, not our failure.
    let _ = std::io::stdout().lock().write_all(outcome.text.as_bytes());
    let _ = std::io::stderr().lock().write_all(outcome.complaint.as_bytes());
    ExitCode::from(outcome.code)
}

async fn run(arguments: Arguments) -> Outcome {
    let json = arguments.json;
    let client = match client(&arguments) {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    match arguments.command {
        Command::Config(ConfigCommand::Check { file, no_files }) => {
            let outcome = command::check(&file, &postkeep_mta::options(!no_files), json);
            if outcome.code != 0 || no_files {
                return outcome;
            }
            // What the files hold is tried as the daemon would.
            match postkeep_mta::load_configuration(&file, true)
                .map(|loaded| postkeep_mta::engine::try_out(&loaded.configuration))
            {
                Ok(Err(error)) => failure(BAD_INPUT, &error.to_string()),
                _ => outcome,
            }
        }
        Command::Config(ConfigCommand::Schema) => command::schema(),
        Command::Config(ConfigCommand::Explain { file, recipient, sender, stream }) => {
            let loaded = match postkeep_mta::load_configuration(&file, true) {
                Ok(loaded) => loaded,
                Err(errors) => return failure(BAD_INPUT, &errors.to_string()),
            };
            match postkeep_mta::explain::explain(&loaded, &recipient, sender.as_deref(), stream.as_deref()).await {
                Ok(explanation) => show::value(&explanation, json, ToString::to_string),
                Err(error) => failure(BAD_INPUT, &error),
            }
        }
        Command::Console(command) => console::run(&command, json),
        Command::Flash { arguments } => become_program("postkeep-flash", &arguments, json),
        Command::Keys { arguments } => become_program("postkeep-keys", &arguments, json),
        Command::Credential(CredentialCommand::Hash) => {
            let mut input = String::new();
            match std::io::stdin().take(4096).read_to_string(&mut input) {
                Ok(_) => command::hash(&input, json),
                Err(error) => failure(BAD_INPUT, &format!("cannot read the password from standard input: {error}")),
            }
        }
        Command::Token(command) => token::run(&command, json),
        Command::Queue(command) => queue::run(&client, command, json).await,
        Command::Reload => match client.reload().await {
            Ok(report) => show::value(&report, json, show::reload),
            Err(error) => client_failure(&error),
        },
        Command::Status => match client.status().await {
            Ok(status) => show::value(&status, json, show::status),
            Err(error) => client_failure(&error),
        },
        Command::System(command) => system::run(&client, &command, json).await,
        Command::Api(command) => system::api(&command, json),
        Command::Update(command) => update::run(&client, command, json).await,
        Command::Health => update::health(&client, json).await,
        Command::TlsReport(TlsReportCommand::Show { files }) => tls_report::show(&files, json),
        Command::Events(EventsCommand::Status) => match client.receivers().await {
            Ok(receivers) => show::value(&receivers, json, |receivers| show::receivers(receivers)),
            Err(error) => client_failure(&error),
        },
        Command::Bounce(BounceCommand::Classify { files, rules }) => bounce::classify(&files, &rules),
        Command::Reply(command) => reply::run(&command, json),
        Command::Suppression(command) => suppression::run(&client, command, json).await,
        Command::Spool(SpoolCommand::Inspect { directory, messages }) => spool::inspect(&directory, messages, json),
        Command::Rehearse(options) => rehearse::run(*options, json).await,
    }
}

/// Becomes the program called `name`, which is a file of its own for machines that have nothing else of ours, from beside this one or from the
/// PATH. Comes back only when it is not there.
fn become_program(name: &str, arguments: &[OsString], json: bool) -> Outcome {
    use std::os::unix::process::CommandExt as _;
    let name = Path::new(name);
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(name)).filter(|path| path.exists());
    let program = beside.as_deref().unwrap_or(name);
    let error = std::process::Command::new(program).args(json.then_some("--json")).args(arguments).exec();
    failure(BAD_INPUT, &format!("cannot start {}: {error}; scripts/static builds it", program.display()))
}

/// The way to the daemon: a box, where one is named, or the socket of this machine.
fn client(arguments: &Arguments) -> Result<Client, Outcome> {
    let named =
        arguments.managed_box.clone().or_else(|| std::env::var("POSTKEEP_BOX").ok().filter(|name| !name.is_empty()));
    // What needs no daemon must not fail for want of one.
    let needs_none = matches!(
        arguments.command,
        Command::Api(_)
            | Command::Bounce(_)
            | Command::Config(_)
            | Command::Console(_)
            | Command::Credential(_)
            | Command::Flash { .. }
            | Command::Rehearse(_)
            | Command::Reply(_)
            | Command::Spool(_)
            | Command::TlsReport(_)
            | Command::Token(_)
    );
    let Some(named) = named.filter(|_| !needs_none) else { return Ok(Client::new(&arguments.socket)) };
    let profile = BoxProfile::find(&named, arguments.identity.as_deref(), arguments.box_fingerprint)
        .map_err(|error| failure(BAD_INPUT, &error.to_string()))?;
    Client::of_box(profile).map_err(|error| client_failure(&error))
}

/// An outcome that only complains.
pub(crate) fn failure(code: u8, complaint: &str) -> Outcome {
    Outcome { text: String::new(), complaint: format!("postkeep: {}\n", complaint.trim_end()), code }
}

/// What a failed talk with the daemon means.
pub(crate) fn client_failure(error: &ClientError) -> Outcome {
    let code = match error {
        ClientError::Unreachable(_) => UNREACHABLE,
        ClientError::Refused(_) | ClientError::Answer(_) => FAILED,
    };
    failure(code, &error.to_string())
}
