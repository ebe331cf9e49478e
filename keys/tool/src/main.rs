//! `postkeep-keys`: reads arguments, asks the keys room, prints what it answers. It runs on a custodian's own machine; nothing of it is
//! in the image.

mod arguments;
mod attest;
mod client;
mod export;
mod identities;
mod online;
mod outcome;
mod paper;
mod recover;
mod rotate;
mod split;
mod ssh_ed25519;
mod terminal;
mod work;

use std::alloc::System;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use postkeep_keys::Purpose;
use postkeep_keys::challenge::Asked;
use serde_json::json;
use zeroizing_alloc::ZeroAlloc;

use self::arguments::{Arguments, Command};
use self::outcome::{Failure, Outcome};

/// Shares and keys pass through libraries that free them as they are.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match run(arguments.command, arguments.json) {
        Ok(outcome) => {
            let mut out = std::io::stdout().lock();
            let written = if json { writeln!(out, "{}", outcome.json) } else { out.write_all(outcome.text.as_bytes()) };
            match written.and_then(|()| out.flush()) {
                // A closed pipe is the reader's choice, not our failure.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    let _ = writeln!(std::io::stderr().lock(), "error: cannot write the result: {error}");
                    ExitCode::from(outcome::FAILED)
                }
                _ => ExitCode::SUCCESS,
            }
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

fn run(command: Command, quiet: bool) -> Result<Outcome, Failure> {
    match command {
        Command::Generate { out, passphrase, guard } => work::generate(&out, passphrase, guard.as_deref()),
        Command::Recipient { identity } => work::recipient(&identity),
        Command::Show { file, trust } => work::show(&file, &trust),
        Command::Paper { holding, out, check } => work::paper(&holding, out.as_deref(), check.as_deref()),
        Command::Unseal { holding, to, vouching, reason, paper } => {
            work::unseal(&holding, &to, &vouching, &reason, paper.as_deref())
        }
        Command::Enrol { at, trust, vouching, identity, name, out } => {
            online::enrol(&at, &trust, &vouching, &identity, name.as_ref(), &out)
        }
        Command::Token { at, out } => online::token(&at, &out),
        Command::State { at } => online::state(&at),
        Command::Restart { at, member } => online::respond(&at, Asked::Restart, &member),
        Command::Prove { at, member } => online::respond(&at, Asked::Possession, &member),
        Command::Recover { token, trust, identities, papers, recovery, out } => {
            let purpose = if recovery { Purpose::Recovery } else { Purpose::Opening };
            let brought = recover::Brought { identities: &identities, papers: &papers, purpose };
            recover::recover(&token, &trust, &brought, &out)
        }
        Command::Rotate { holding, at, vouching, to, reason, paper, yes, out } => {
            let (to, paper) = (to.as_deref(), paper.as_deref());
            let wanted = rotate::Wanted { to, reason: &reason, paper, is_sure: yes, out: &out };
            rotate::rotate(&holding, &at, &vouching, &wanted)
        }
        Command::Split { keys, volume, out, key, recovery_key } => {
            let into = split::Into { token: &out, opening: &key, recovery: recovery_key.as_deref() };
            split::split(&keys, &volume, &into)
        }
        Command::Export { keys, from, name, out } => export::export(&keys, &from, name.as_deref(), &out, quiet),
        Command::Import { from, trust, identities, recovery, out } => {
            let purpose = if recovery { Purpose::Recovery } else { Purpose::Opening };
            let brought = recover::Brought { identities: &identities, papers: &[], purpose };
            export::import(&from, &trust, &brought, &out, quiet)
        }
        Command::Seal { at, member, wait } => online::seal(&at, &member, Duration::from_secs(wait)),
    }
}
