//! `postkeep bounce classify`: one JSON line for each recipient of each message that came back.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use postkeep_configuration::command::Outcome;
use postkeep_deliverability::reply::RuleBook;
use postkeep_feedback::{Finding, LARGEST};
use serde::Serialize;

use crate::{BAD_INPUT, failure};

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    #[serde(flatten)]
    finding: Finding,
}

/// Classifies every file that can be read; one that cannot does not stop the rest. Lines are written as
/// they come, so that a folder of a million files needs no memory.
pub(crate) fn classify(files: &[PathBuf], rules: &[PathBuf]) -> Outcome {
    let book = match RuleBook::with_files(rules, 1.0) {
        Ok(book) => book,
        Err(error) => return failure(BAD_INPUT, &error.to_string()),
    };
    let mut complaint = String::new();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for file in files {
        let name = file.display().to_string();
        let message = match read(file) {
            Ok(message) => message,
            Err(error) => {
                complaint.push_str(&format!("postkeep: cannot read {name}: {error}\n"));
                continue;
            }
        };
        for finding in postkeep_feedback::classify(&message, &book) {
            let written = serde_json::to_writer(&mut out, &Line { file: &name, finding })
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
            // A closed pipe is the reader's choice.
            if written.is_err() {
                return Outcome { text: String::new(), complaint, code: 0 };
            }
        }
    }
    let _ = out.flush();
    let code = if complaint.is_empty() { 0 } else { BAD_INPUT };
    Outcome { text: String::new(), complaint, code }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(LARGEST as u64).read_to_end(&mut message)?;
    } else {
        std::fs::File::open(file)?.take(LARGEST as u64).read_to_end(&mut message)?;
    }
    Ok(message)
}
