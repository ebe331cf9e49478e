//! `postkeep-flash`: reads arguments, asks the library, prints what it answers.

mod arguments;
mod desk;
mod install;
mod outcome;
mod work;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use postkeep_flash::inventory::{Inventory, addresses};
use postkeep_flash::posture::posture;
use serde_json::json;

use self::arguments::{Arguments, Command};
use self::install::Medium;
use self::outcome::{Failure, Outcome, REFUSED};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    // A closed pipe is the reader's choice, not our failure.
    match run(arguments) {
        Ok(outcome) => {
            let text = if json { format!("{}\n", outcome.json) } else { outcome.text };
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Failure { code, why }) => {
            if json {
                let _ = writeln!(std::io::stdout().lock(), "{}", json!({"error": why, "code": code}));
            }
            let _ = writeln!(std::io::stderr().lock(), "error: {why}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    let root = arguments.root.as_path();
    match arguments.command {
        Command::Inventory { provider_netboot } => {
            let machine = Inventory::read(root, &addresses());
            // A machine that is of no use is still described; that is what the command is for.
            let (grade, remarks) = match posture(&machine, provider_netboot) {
                Ok(found) => (format!("at best {:?}", found.grade), found.remarks),
                Err(unfit) => ("none".to_owned(), vec![unfit.to_string()]),
            };
            let remarked: String = remarks.iter().map(|remark| format!("             {remark}\n")).collect();
            Ok(Outcome {
                text: format!("{machine}posture      {grade}\n{remarked}"),
                json: json!({"machine": machine, "posture": grade, "remarks": remarks}),
            })
        }
        Command::Plan(options) => {
            let prepared = work::prepare(root, &options, arguments.json)?;
            Ok(Outcome::of_record(&prepared.record))
        }
        Command::Write { work: options, yes_erase, state, record, sync_every } => {
            let prepared = work::prepare(root, &options, arguments.json)?;
            work::confirm(&prepared.disks, &yes_erase).map_err(|why| Failure { code: REFUSED, why }).and_then(|()| {
                work::write(root, prepared, state, record, sync_every.saturating_mul(1 << 20), arguments.json)
            })
        }
        Command::Replace { left, disk, yes_erase } => work::replace(root, &left, &disk, &yes_erase, arguments.json),
        Command::Install { medium, stick, release_keys } => {
            install::install(root, &Medium { folder: medium, stick, release_keys })
        }
        Command::Seed(command) => desk::seed(command),
        Command::Key(command) => desk::key(command),
    }
}
