//! `postkeep system …` and `postkeep api …`.

use postkeep_configuration::command::Outcome;
use postkeep_control::{Client, Identity, IdentityError, System};
use serde::Serialize;

use crate::arguments::{ApiCommand, IdentityCommand, SystemCommand};
use crate::{BAD_INPUT, client_failure, failure, show};

/// Runs one system command.
pub(crate) async fn run(client: &Client, command: &SystemCommand, json: bool) -> Outcome {
    match command {
        SystemCommand::Show => match client.system().await {
            Ok(system) => show::value(&system, json, text),
            Err(error) => client_failure(&error),
        },
        SystemCommand::Sbom { format } => match client.bill(*format).await {
            Ok(bill) => {
                Outcome { text: String::from_utf8_lossy(&bill).into_owned(), complaint: String::new(), code: 0 }
            }
            Err(error) => client_failure(&error),
        },
    }
}

fn text(system: &System) -> String {
    let image = system.image.as_deref().map_or("no image of ours".to_owned(), |image| format!("image {image}"));
    let mut lines = vec![
        format!("{}: {image}, postkeepd {}, Linux {}", system.hostname, system.version, system.kernel),
        format!("up {} since {}", span(system.uptime_seconds), system.booted),
    ];
    match &system.posture {
        Some(posture) => {
            lines.push(format!("posture {}", posture.grade));
            let deciding = posture.sentences.iter().filter(|sentence| sentence.at_best == posture.grade);
            lines.extend(deciding.map(|sentence| format!("  {} {}", sentence.seen, sentence.means)));
        }
        None => lines.push("posture not known".to_owned()),
    }
    if let Some(worst) = system.history.as_ref().and_then(|history| history.worst.as_ref()) {
        let since = i64::try_from(worst.since).ok().and_then(|since| jiff::Timestamp::from_second(since).ok());
        let since = since.map_or_else(|| "a day that cannot be".to_owned(), |since| since.to_string());
        let reason = worst.sentences.first().map_or("", |sentence| sentence.seen.as_str());
        lines.push(format!("worst of all starts: {}, first at {since}: {reason}", worst.grade));
    }
    lines.extend(system.disks.as_ref().map(ToString::to_string));
    lines.extend(system.publish.iter().map(|record| format!("publish {} TXT {}", record.name, record.text)));
    let forms: Vec<&str> = system.sbom.iter().map(|form| form.as_str()).collect();
    lines.push(format!("bill of materials: {}", if forms.is_empty() { "none".to_owned() } else { forms.join(", ") }));
    lines.extend(system.unknown.iter().cloned());
    lines.join("\n") + "\n"
}

/// Seconds as people say them.
fn span(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// What is told of an identity.
#[derive(Serialize)]
struct Told {
    fingerprint: String,
}

/// Runs one command about management over the network.
pub(crate) fn api(command: &ApiCommand, json: bool) -> Outcome {
    let ApiCommand::Identity(command) = command;
    let (identity, new): (Result<Identity, IdentityError>, bool) = match command {
        IdentityCommand::New { output, name } => (Identity::make(output, name), true),
        IdentityCommand::Show { file } => (Identity::read(file), false),
    };
    match identity {
        Ok(identity) => {
            let told = Told { fingerprint: identity.fingerprint().to_string() };
            show::value(&told, json, |told| {
                let hint = "Put it into the seed:\n\n    [api]\n    clients = [\"";
                match new {
                    true => format!("{0}\n\n{hint}{0}\"]\n", told.fingerprint),
                    false => format!("{}\n", told.fingerprint),
                }
            })
        }
        Err(error) => failure(BAD_INPUT, &error.to_string()),
    }
}
