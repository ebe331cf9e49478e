//! `postkeep tls-report show`: reports that other senders make about how well they could protect mail to us.

use std::io::Read;
use std::path::{Path, PathBuf};

use postkeep_configuration::command::Outcome;
use postkeep_protection::reports::{LARGEST_REPORT, Received};
use serde::Serialize;

use crate::BAD_INPUT;

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    report: &'a Received,
}

/// Shows every report that can be read; one that cannot does not stop the rest.
pub(crate) fn show(files: &[PathBuf], json: bool) -> Outcome {
    let (mut text, mut complaint) = (String::new(), String::new());
    for file in files {
        let name = file.display().to_string();
        let read = read(file).map_err(|error| error.to_string());
        let report = read.and_then(|octets| Received::read(&octets).map_err(|error| error.to_string()));
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                complaint.push_str(&format!("postkeep: {name}: {error}\n"));
                continue;
            }
        };
        if json {
            text.push_str(&serde_json::to_string(&Line { file: &name, report: &report }).unwrap_or_default());
            text.push('\n');
            continue;
        }
        let (start, end) = report.range();
        text.push_str(&format!("{name}: {} from {start} to {end}, {}\n", report.organization(), report.id()));
        for sessions in report.sessions() {
            text.push_str(&format!(
                "  {}: {} sessions protected, {} failed\n",
                sessions.domain, sessions.successes, sessions.failures
            ));
        }
        for failure in report.failures() {
            text.push_str(&format!("    {failure}\n"));
        }
    }
    let code = if complaint.is_empty() { 0 } else { BAD_INPUT };
    Outcome { text, complaint, code }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    let most = LARGEST_REPORT as u64 + 1;
    if file == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut octets)?;
    } else {
        std::fs::File::open(file)?.take(most).read_to_end(&mut octets)?;
    }
    Ok(octets)
}
