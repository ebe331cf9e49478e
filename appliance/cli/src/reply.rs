//! `postkeep reply …`: what receivers' replies mean, and whether the rules keep their examples.

use std::fmt::Write;
use std::path::PathBuf;

use postkeep_configuration::command::Outcome;
use postkeep_deliverability::provider::ProviderTable;
use postkeep_deliverability::reply::{RuleBook, Stage, parse_reply};
use serde::Serialize;

use crate::arguments::ReplyCommand;
use crate::{BAD_INPUT, FAILED, failure, show};

/// The answer of `reply explain --json`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Explanation {
    class: &'static str,
    scope: &'static str,
    reaction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
    suppress: bool,
    /// Absent: judged by its codes alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The answer of `reply check --json`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    rules: usize,
    faults: Vec<String>,
}

/// Runs one reply command.
pub(crate) fn run(command: &ReplyCommand, json: bool) -> Outcome {
    match command {
        ReplyCommand::Explain { text, provider, stage, rules } => {
            explain(text, provider.as_deref(), stage, rules, json)
        }
        ReplyCommand::Check { rules } => check(rules, json),
    }
}

fn explain(text: &str, provider: Option<&str>, stage: &str, rules: &[PathBuf], json: bool) -> Outcome {
    let stages = [Stage::Greeting, Stage::Ehlo, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Final];
    let Some(stage) = stages.into_iter().find(|known| known.as_str() == stage) else {
        return failure(BAD_INPUT, &format!("{stage:?} is none of greeting, ehlo, mail, rcpt, data and final"));
    };
    let Some(reply) = parse_reply(text) else {
        return failure(BAD_INPUT, &format!("{text:?} does not begin with a reply code such as 550"));
    };
    if let (Some(name), Ok(table)) = (provider, ProviderTable::shipped())
        && table.by_name(name).is_none()
    {
        let known: Vec<&str> = table.providers().iter().map(|provider| &*provider.name).collect();
        return failure(BAD_INPUT, &format!("{name:?} is no shipped provider; there are {}", known.join(", ")));
    }
    let book = match RuleBook::with_files(rules, 1.0) {
        Ok(book) => book,
        Err(error) => return failure(BAD_INPUT, &error.to_string()),
    };
    let verdict = book.judge(stage, &reply, provider);
    let rule = verdict.rule.as_ref().and_then(|name| book.rules().find(|rule| rule.name == *name));
    let explanation = Explanation {
        class: verdict.class,
        scope: verdict.scope.as_str(),
        reaction: verdict.reaction.as_str(),
        duration: verdict.reaction.length().map(|length| length.to_string()),
        suppress: verdict.reaction == postkeep_deliverability::reply::Reaction::Suppress,
        rule: rule.map(|rule| rule.name.to_string()),
        source: rule.map(|rule| rule.source.to_string()),
        checked: rule.map(|rule| rule.checked.to_string()),
        note: verdict.note.map(|note| note.to_string()),
    };
    show::value(&explanation, json, text_of)
}

fn text_of(explanation: &Explanation) -> String {
    let mut out = String::new();
    let follows = match (explanation.reaction, &explanation.duration) {
        ("retry", _) => "tried again by the schedule".to_owned(),
        ("bounce", _) => "returned to the sender".to_owned(),
        ("suppress", _) => "returned to the sender, and this recipient is not written to again".to_owned(),
        ("slow", _) => "tried again; a failure is counted, and enough of them slow it down".to_owned(),
        ("hold", Some(length)) => format!("left alone for {length}; the message is tried again"),
        (_, Some(length)) => format!("left alone for {length}, and a person is told; the message is tried again"),
        (other, None) => other.to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "class     {}", explanation.class);
    let _ = writeln!(out, "concerns  {}", explanation.scope);
    let _ = writeln!(out, "follows   {} ({follows})", explanation.reaction);
    match &explanation.rule {
        Some(rule) => {
            let _ = writeln!(out, "rule      {rule}");
            let source = explanation.source.as_deref().unwrap_or("-");
            let checked = explanation.checked.as_deref().unwrap_or("-");
            let _ = writeln!(out, "source    {source} (checked {checked})");
        }
        None => out.push_str("rule      none: judged by its codes alone\n"),
    }
    if let Some(note) = &explanation.note {
        let _ = writeln!(out, "note      {note}");
    }
    out
}

fn check(rules: &[PathBuf], json: bool) -> Outcome {
    let book = match RuleBook::with_files(rules, 1.0) {
        Ok(book) => book,
        Err(error) => return failure(BAD_INPUT, &error.to_string()),
    };
    let checked = Checked { rules: book.rules().count(), faults: book.check() };
    let code = if checked.faults.is_empty() { 0 } else { FAILED };
    let outcome = show::value(&checked, json, |checked| match checked.faults.as_slice() {
        [] => format!("{} rules keep their examples\n", checked.rules),
        faults => faults.iter().fold(String::new(), |out, fault| out + fault + "\n"),
    });
    Outcome { code, ..outcome }
}
