//! `postkeep queue …`.

use postkeep_configuration::command::Outcome;
use postkeep_control::Client;
use postkeep_mta::engine::QueueAction;
use postkeep_mta::selector::Selector;

use crate::arguments::{QueueCommand, Selection};
use crate::{BAD_INPUT, client_failure, failure, show};

/// Runs one queue command.
pub(crate) async fn run(client: &Client, command: QueueCommand, json: bool) -> Outcome {
    let (selection, action) = match command {
        QueueCommand::Show { selection, rows } => {
            return match client.queue(&selector(selection)).await {
                Ok(status) => show::value(&status, json, |status| show::queue(status, rows)),
                Err(error) => client_failure(&error),
            };
        }
        QueueCommand::Pause { selection } => (selection, QueueAction::Pause),
        QueueCommand::Resume { selection } => (selection, QueueAction::Resume),
        QueueCommand::Delete { selection, all } => match meant(&selection, all, "delete") {
            Ok(()) => (selection, QueueAction::Delete),
            Err(outcome) => return outcome,
        },
        QueueCommand::Expire { selection, all } => match meant(&selection, all, "expire") {
            Ok(()) => (selection, QueueAction::Expire),
            Err(outcome) => return outcome,
        },
        QueueCommand::Retry { selection } => (selection, QueueAction::Retry),
        QueueCommand::Reroute { selection, to, .. } => (selection, QueueAction::Reroute { hosts: to }),
    };
    match client.act(selector(selection), action, &actor()).await {
        Ok(report) => show::value(&report, json, |report| format!("{}\n", report.summary)),
        Err(error) => client_failure(&error),
    }
}

/// A forgotten selection must not cost the whole queue.
fn meant(selection: &Selection, all: bool, verb: &str) -> Result<(), Outcome> {
    if selector(selection.clone()).is_everything() && !all {
        return Err(failure(
            BAD_INPUT,
            &format!(
                "queue {verb} without --stream, --domain, --site or --source means the whole queue: say --all if you mean it"
            ),
        ));
    }
    Ok(())
}

fn selector(selection: Selection) -> Selector {
    Selector { stream: selection.stream, domain: selection.domain, site: selection.site, source: selection.source }
        .normalised()
}

/// Who types, for the records.
fn actor() -> String {
    std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".to_owned())
}
