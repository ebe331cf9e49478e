//! `postkeep rehearse`.

use std::path::Path;
use std::time::Duration;

use postkeep_configuration::command::Outcome;
use postkeep_rehearsal::{Error, News, Options, Ports, Summary, Watching, prepare, rehearse, serve};

use crate::arguments::RehearseArguments;
use crate::{BAD_INPUT, FAILED, failure};

/// Runs a rehearsal to its summary, keeps it up, or prepares one of a box elsewhere.
pub(crate) async fn run(arguments: RehearseArguments, json: bool) -> Outcome {
    let options = Options {
        recipients: if arguments.no_campaign { 0 } else { arguments.recipients },
        seed: arguments.seed,
        hurry: arguments.hurry,
        deadline: Duration::from_secs(arguments.deadline),
        connections: arguments.connections,
        daemon: arguments.daemon,
        scratch: arguments.scratch,
        rules: arguments.rules,
        block: arguments.block,
        port: arguments.port.unwrap_or_default(),
        prepared: arguments.prepared,
        wait: Duration::from_secs(arguments.wait),
        verify_every: arguments.verify_every,
        watching: if arguments.quiet { Watching::Nobody } else { Watching::Somebody },
        ..Options::new(arguments.config.unwrap_or_default())
    };
    if let (Some(folder), Some(at)) = (&arguments.prepare, arguments.box_address) {
        let ports = Ports {
            mail: arguments.port.unwrap_or(Ports::default().mail),
            names: arguments.names_port,
            policies: arguments.policies_port,
            events: arguments.events_port,
        };
        return match prepare(&options, at, folder, ports) {
            Ok(text) => Outcome { text, complaint: String::new(), code: 0 },
            Err(error) => refused(&error),
        };
    }
    let summary_file = arguments.summary.as_deref();
    if arguments.serve {
        let told = serve(options, |news| match news {
            News::Up(addresses) => eprint!("{addresses}stop        Ctrl-C\n\n"),
            News::Done(summary) => {
                eprint!("{summary}");
                if let Err(complaint) = write(summary, summary_file) {
                    eprintln!("postkeep: {complaint}");
                }
                eprintln!("still up; stop with Ctrl-C");
            }
        });
        return match told.await {
            Ok(()) => Outcome { text: String::new(), complaint: String::new(), code: 0 },
            Err(error) => refused(&error),
        };
    }
    match rehearse(options).await {
        Ok(summary) => {
            if let Err(complaint) = write(&summary, summary_file) {
                return failure(FAILED, &complaint);
            }
            let text = if json { summary.to_json() } else { summary.to_string() };
            Outcome { text, complaint: String::new(), code: if summary.kept { 0 } else { FAILED } }
        }
        Err(error) => refused(&error),
    }
}

fn write(summary: &Summary, file: Option<&Path>) -> Result<(), String> {
    let Some(file) = file else { return Ok(()) };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    std::fs::write(file, summary.to_json()).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

fn refused(error: &Error) -> Outcome {
    let code = match error {
        Error::Configuration(_) | Error::RuleBook(_) => BAD_INPUT,
        _ => FAILED,
    };
    failure(code, &error.to_string())
}
