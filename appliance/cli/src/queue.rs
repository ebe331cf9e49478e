//! `postkeep queue …`.

use postkeep_configuration::command::Outcome;
use postkeep_control::Client;
use postkeep_mta::engine::QueueAction;
use postkeep_mta::selector::Selector;

use crate::arguments::{QueueCommand, Selection};
use crate::{BAD_INPUT, client_failure, failure, show};

/// Runs one queue command.
pub(crate) async fn run(client: &Client, command: QueueCommand, json: bool) -> Outcome {
    let (selection, action, all) = match command {
        QueueCommand::Show { selection, rows } => {
            return match client.queue(&selector(selection)).await {
                Ok(status) => show::value(&status, json, |status| show::queue(status, rows)),
                Err(error) => client_failure(&error),
            };
        }
        QueueCommand::Pause { selection, all } => (selection, QueueAction::Pause, all),
        QueueCommand::Resume { selection } => (selection, QueueAction::Resume, true),
        QueueCommand::Delete { selection, all } => (selection, QueueAction::Delete, all),
        QueueCommand::Expire { selection, all } => (selection, QueueAction::Expire, all),
        QueueCommand::Retry { selection } => (selection, QueueAction::Retry, true),
        QueueCommand::Reroute { selection, to, all, .. } => (selection, QueueAction::Reroute { hosts: to }, all),
    };
    let selector = selector(selection);
    // A forgotten selection must not cost the whole queue.
    if selector.is_everything() && action.is_grave() && !all {
        return failure(
            BAD_INPUT,
            "without --stream, --domain, --site or --source the whole queue is meant: say --all if you mean it",
        );
    }
    match client.act(selector, action, all, &actor()).await {
        Ok(report) => show::value(&report, json, |report| format!("{}\n", report.summary)),
        Err(error) => client_failure(&error),
    }
}

fn selector(selection: Selection) -> Selector {
    Selector { stream: selection.stream, domain: selection.domain, site: selection.site, source: selection.source }
        .normalised()
}

/// Who types, for the records.
pub(crate) fn actor() -> String {
    std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".to_owned())
}
