//! The operator's side: owners' keys and seeds, made and checked far from any server.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use jiff::Timestamp;
use postkeep_notes::SignerKey;
use postkeep_seed::{Seed, SeedError, networkd_files};
use serde_json::json;

use crate::arguments::{KeyCommand, SeedCommand};
use crate::outcome::{Failure, Outcome, bad, public_key, read};

pub(crate) fn key(command: KeyCommand) -> Result<Outcome, Failure> {
    let key = match command {
        KeyCommand::Generate { name, out } => {
            let key = SignerKey::generate(&name).map_err(bad)?;
            key.write(&out).map_err(bad)?;
            key
        }
        KeyCommand::Show { file, name } => SignerKey::read(&file, name.as_deref()).map_err(bad)?,
    };
    let public = key.verifier().to_string();
    Ok(Outcome { text: format!("{public}\n"), json: json!({"public-key": public}) })
}

pub(crate) fn seed(command: SeedCommand) -> Result<Outcome, Failure> {
    match command {
        SeedCommand::Make { from, key, name, mail, out } => {
            let key = SignerKey::read(&key, name.as_deref()).map_err(bad)?;
            let named = |why: String| bad(format!("{}: {why}", from.display()));
            let text = text_of(&from)?;
            let configuration = mail.map(|path| text_of(&path)).transpose()?;
            let seed = Seed::draft_with(&text, configuration, key.verifier(), Timestamp::now())
                .map_err(|error| named(error.to_string()))?;
            let note = seed.sign(&key).map_err(|error| named(error.to_string()))?;
            write(&out, &note)?;
            Ok(described(&seed))
        }
        SeedCommand::Sign { file, key, name, out } => {
            let key = SignerKey::read(&key, name.as_deref()).map_err(bad)?;
            let named = |why: SeedError| bad(format!("{}: {why}", file.display()));
            let note = Seed::countersign(&read(&file)?, &key, Timestamp::now()).map_err(named)?;
            let seed = Seed::open(note.as_bytes(), Some(key.verifier()), Timestamp::now()).map_err(named)?;
            write(&out, &note)?;
            Ok(described(&seed))
        }
        SeedCommand::Check { file, owner_key } => {
            let owner = owner_key.as_deref().map(public_key).transpose()?;
            let seed = Seed::open(&read(&file)?, owner.as_ref(), Timestamp::now())
                .map_err(|error| bad(format!("{}: {error}", file.display())))?;
            Ok(described(&seed))
        }
    }
}

fn text_of(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?).map_err(|_| bad(format!("{}: it is not a text (UTF-8)", path.display())))
}

/// Nothing is overwritten: a seed may be out already.
fn write(out: &Path, note: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(out)
        .and_then(|mut file| file.write_all(note.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| bad(format!("cannot write {}: {error}; name a new file", out.display())))
}

fn described(seed: &Seed) -> Outcome {
    let mut text = format!("owner        {}\nissued       {}\n", seed.owner, seed.issued);
    let mut line = |name: &str, value: String| {
        // A string takes everything.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    if let Some(expires) = seed.expires {
        line("expires", expires.to_string());
    }
    line("host", seed.hostname.clone().unwrap_or_else(|| "not named".to_owned()));
    match &seed.machine {
        None => line("machine", "any".to_owned()),
        Some(machine) => {
            let given = [("serial number", &machine.serial), ("UUID", &machine.uuid)];
            for (name, value) in given {
                if let Some(value) = value {
                    line("machine", format!("{name} {value}"));
                }
            }
            machine.mac.iter().for_each(|mac| line("machine", format!("network card {mac}")));
        }
    }
    for file in seed.mail.iter().flat_map(|mail| &mail.files) {
        line("file", format!("{}, {} octets", file.name, file.content.len()));
    }
    if let Some(keys) = &seed.keys {
        line("opened by", format!("{} of {}", keys.threshold, keys.custodians.len()));
        keys.custodians.iter().for_each(|custodian| line("custodian", custodian.name.to_string()));
        keys.warnings().into_iter().for_each(|warning| line("warning", warning));
    }
    seed.api.iter().flat_map(|api| &api.clients).for_each(|client| line("client", client.clone()));
    seed.api.iter().flat_map(|api| &api.readers).for_each(|reader| line("reader", reader.clone()));
    let mail = seed
        .mail
        .as_ref()
        .map_or("not configured".to_owned(), |mail| format!("configured, {} octets", mail.configuration.len()));
    line("mail", mail);
    for (name, content) in networkd_files(&seed.network) {
        line("network", name);
        content.lines().for_each(|content| line("", content.to_owned()));
    }
    Outcome { text, json: json!(seed) }
}
