//! `postkeep console answer`: the owner's side of what somebody asks for at the console of a box.

use postkeep_configuration::command::Outcome;
use postkeep_console::answer::answer;
use serde_json::json;

use crate::arguments::ConsoleCommand;
use crate::{BAD_INPUT, failure, show};

/// Runs one command.
pub(crate) fn run(command: &ConsoleCommand, json: bool) -> Outcome {
    let ConsoleCommand::Answer(arguments) = command;
    match answer(arguments, std::io::stdin().lock(), std::io::stderr().lock()) {
        Ok(answer) => show::value(&json!({ "answer": answer }), json, |_| format!("{answer}\n")),
        Err(error) => failure(BAD_INPUT, &error.to_string()),
    }
}
