//! `postkeep suppression …`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use postkeep_configuration::command::Outcome;
use postkeep_control::{Client, ClientError, FileOptions, ImportLine, SuppressionAddition, SuppressionAdditions};
use postkeep_mta::clock::timestamp_seconds;
use postkeep_suppression::{
    Entry, Exporter, Format, IDENTITY_FILE, Identity, ImportEvent, ImportOptions, ImportReport, Origin, Scope,
    Statistics, addresses, restore_secret, try_out,
};
use serde_json::json;

use crate::arguments::{ExportArguments, ImportArguments, SuppressionCommand};
use crate::queue::actor;
use crate::{BAD_INPUT, FAILED, client_failure, failure, show};

/// Refused lines that are shown one by one when no file is named for them.
const SHOWN_REFUSALS: u64 = 20;

/// Runs one command.
pub(crate) async fn run(client: &Client, command: SuppressionCommand, json: bool) -> Outcome {
    match command {
        SuppressionCommand::Add { addresses, reason, scope, note } => {
            let entries = addresses
                .into_iter()
                .map(|address| SuppressionAddition { address, reason, scope: scope.clone(), note: note.clone() })
                .collect();
            let additions = SuppressionAdditions { entries, origin: Origin::Command, actor: actor() };
            match client.suppress(&additions).await {
                Ok(outcome) => show::value(&outcome, json, |outcome| {
                    format!("{} added, {} known already\n", outcome.added, outcome.known)
                }),
                Err(error) => client_failure(&error),
            }
        }
        SuppressionCommand::Remove { address, reason, scope } => {
            match client.unsuppress(&address, scope.as_ref(), reason, &actor()).await {
                Ok(outcome) if outcome.removed == 0 => failure(
                    FAILED,
                    &format!("{address} has no such entry; `postkeep suppression show` lists what it has"),
                ),
                Ok(outcome) => show::value(&outcome, json, |outcome| format!("{} entries removed\n", outcome.removed)),
                Err(error) => client_failure(&error),
            }
        }
        SuppressionCommand::Show { address } => match client.suppressions(&address).await {
            Ok(view) => show::value(&view, json, |view| {
                if view.entries.is_empty() {
                    return format!("{} is not in the list\n", view.address);
                }
                view.entries.iter().fold(String::new(), |text, entry| text + &line(&view.address, entry))
            }),
            Err(error) => client_failure(&error),
        },
        SuppressionCommand::Status => match client.suppression_statistics().await {
            Ok(statistics) => show::value(&statistics, json, status),
            Err(error) => client_failure(&error),
        },
        SuppressionCommand::Import(arguments) => import(client, arguments, json).await,
        SuppressionCommand::Export(arguments) => export(&arguments),
        SuppressionCommand::RestoreSecret { directory, identity } => {
            let identities = match identities(&directory, &identity) {
                Ok(identities) => identities,
                Err(outcome) => return outcome,
            };
            match restore_secret(&directory, &identities) {
                Ok(path) => {
                    let text = format!("the secret is back in {}\n", path.display());
                    show::value(&json!({ "secret": path }), json, |_| text)
                }
                Err(error) => failure(BAD_INPUT, &error.to_string()),
            }
        }
    }
}

fn line(address: &str, entry: &Entry) -> String {
    let effect = if entry.reason.suppresses() { "" } else { "  (recorded only, suppresses nothing)" };
    format!(
        "{address}  {:<12} {:<20} since {}  by {}{effect}\n",
        entry.reason.as_str(),
        entry.scope.to_string(),
        timestamp_seconds(entry.time),
        entry.origin.as_str()
    )
}

fn status(statistics: &Statistics) -> String {
    let mut text = String::new();
    for (reason, count) in &statistics.entries {
        let _ = writeln!(text, "{:<12} {count:>12}", reason.as_str());
    }
    let mebibytes = |octets: u64| octets as f64 / f64::from(1 << 20);
    let _ = writeln!(
        text,
        "filter {:.1} MiB in memory, index {:.1} MiB and journal {:.1} MiB on disk, {} changes not yet in the index",
        mebibytes(statistics.filter_bytes),
        mebibytes(statistics.index_bytes),
        mebibytes(statistics.journal_bytes),
        statistics.recent
    );
    text
}

/// A file that counts what is read of it.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

async fn import(client: &Client, arguments: ImportArguments, json: bool) -> Outcome {
    let (input, size): (Box<dyn Read + Send>, u64) = if arguments.file.as_os_str() == "-" {
        (Box::new(io::stdin()), 0)
    } else {
        match File::open(&arguments.file) {
            Ok(file) => {
                let size = file.metadata().map_or(0, |metadata| metadata.len());
                (Box::new(file), size)
            }
            Err(error) => return failure(BAD_INPUT, &format!("{}: {error}", arguments.file.display())),
        }
    };
    let mut refusals = match Refusals::new(arguments.refused.as_deref()) {
        Ok(refusals) => refusals,
        Err(error) => return failure(BAD_INPUT, &format!("cannot write the refused lines: {error}")),
    };
    let read = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: input, read: Arc::clone(&read) };
    // Only on a terminal; indicatif keeps silent elsewhere.
    let bar = ProgressBar::new(size);
    if let Ok(style) = ProgressStyle::with_template("{bytes}/{total_bytes} {wide_bar} {eta}  {msg}") {
        bar.set_style(style);
    }
    let progress = |report: &ImportReport| {
        bar.set_position(read.load(Ordering::Relaxed));
        bar.set_message(format!("{} lines, {} refused", report.lines, report.refused));
    };
    let report = if arguments.dry_run {
        try_file(counted, &arguments, |event| match event {
            ImportEvent::Progress(report) => progress(report),
            ImportEvent::Refused { line, reason } => refusals.take(&bar, line, &reason),
        })
    } else {
        let options = FileOptions {
            format: Some(arguments.format),
            reason: arguments.reason,
            scope: arguments.scope,
            note: arguments.note,
            actor: actor(),
        };
        client
            .import(counted, &options, |line| match line {
                ImportLine::Progress(report) => progress(report),
                ImportLine::Refused { line, reason } => refusals.take(&bar, *line, reason),
                ImportLine::Report(_) | ImportLine::Problem(_) => {}
            })
            .await
            .map_err(|error| match error {
                ClientError::Refused(problem) => failure(BAD_INPUT, &format!("{}: {}", problem.title, problem.detail)),
                error => client_failure(&error),
            })
    };
    bar.finish_and_clear();
    refusals.finish();
    match report {
        Ok(report) => {
            let mut outcome = show::value(&report, json, |report| imported(report, arguments.dry_run));
            // The good lines are in; whoever runs this in a script must hear of the others.
            if report.refused > 0 {
                outcome.code = FAILED;
            }
            outcome
        }
        Err(outcome) => outcome,
    }
}

/// Reads a file as the daemon would, and asks nobody.
fn try_file(
    input: impl Read,
    arguments: &ImportArguments,
    on: impl FnMut(ImportEvent<'_>),
) -> Result<ImportReport, Outcome> {
    let bad = |error: &dyn std::fmt::Display| failure(BAD_INPUT, &error.to_string());
    let format = match arguments.format.as_str() {
        "auto" => None,
        name => Some(Format::named(name).map_err(|error| bad(&error))?),
    };
    let options = ImportOptions {
        format,
        reason: arguments.reason,
        scope: arguments.scope.clone().unwrap_or(Scope::All),
        note: arguments.note.as_deref().unwrap_or_default().into(),
        now: 0,
    };
    try_out(BufReader::new(input), &options, on, |_| ()).map_err(|error| bad(&error))
}

/// Where refused lines go: a file, or the first of them to standard error.
struct Refusals {
    file: Option<BufWriter<File>>,
    shown: u64,
    unwritten: Option<io::Error>,
}

impl Refusals {
    fn new(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?.map(BufWriter::new);
        Ok(Self { file, shown: 0, unwritten: None })
    }

    fn take(&mut self, bar: &ProgressBar, line: u64, reason: &str) {
        match &mut self.file {
            Some(file) => {
                if let Err(error) = writeln!(file, "{line}: {reason}") {
                    self.unwritten.get_or_insert(error);
                }
            }
            None => {
                self.shown += 1;
                if self.shown <= SHOWN_REFUSALS {
                    bar.suspend(|| complain(&format!("line {line}: {reason}")));
                }
            }
        }
    }

    fn finish(self) {
        if let Some(error) = self.file.and_then(|mut file| file.flush().err()).or(self.unwritten) {
            complain(&format!("the refused lines could not all be written: {error}"));
        }
        if self.shown > SHOWN_REFUSALS {
            complain(&format!("and {} more; --refused FILE takes them all", self.shown - SHOWN_REFUSALS));
        }
    }
}

/// Says something while the command goes on.
fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "postkeep: {text}");
}

fn imported(report: &ImportReport, dry_run: bool) -> String {
    let ImportReport { format, lines, added, known, refused, .. } = report;
    let mut text = if dry_run {
        format!(
            "{lines} lines of a {format} file: {} could be used, {refused} not; nothing was changed\n",
            lines - refused
        )
    } else {
        format!("{lines} lines of a {format} file: {added} added, {known} known already, {refused} refused\n")
    };
    if report.undated > 0 {
        let _ = writeln!(text, "{} had no readable time and hold since now", report.undated);
    }
    text
}

fn identities(directory: &Path, files: &[PathBuf]) -> Result<Vec<Identity>, Outcome> {
    let own = [directory.join(IDENTITY_FILE)];
    let files = if files.is_empty() { &own[..] } else { files };
    files.iter().map(|file| Identity::read(file).map_err(|error| failure(BAD_INPUT, &error.to_string()))).collect()
}

fn export(arguments: &ExportArguments) -> Outcome {
    let identities = match identities(&arguments.directory, &arguments.identity) {
        Ok(identities) => identities,
        Err(outcome) => return outcome,
    };
    let output: Box<dyn Write> = match arguments.output.as_deref().map(File::create_new) {
        None => Box::new(BufWriter::new(io::stdout().lock())),
        Some(Ok(file)) => Box::new(BufWriter::new(file)),
        Some(Err(error)) => return failure(BAD_INPUT, &format!("cannot make the file: {error}")),
    };
    let outcome = Format::named(&arguments.format)
        .and_then(|format| Exporter::new(format, arguments.reason, output))
        .map_err(|error| failure(BAD_INPUT, &error.to_string()));
    let mut exporter = match outcome {
        Ok(exporter) => exporter,
        Err(outcome) => return outcome,
    };
    let read = match addresses(&arguments.directory, &identities, |detail, entry| {
        if arguments.scope.as_ref().is_some_and(|scope| *scope != entry.scope) {
            return Ok(());
        }
        exporter.write(detail, entry).map_err(|error| format!("cannot write the export: {error}"))
    }) {
        Ok(read) => read,
        Err(error) => return failure(BAD_INPUT, &error.to_string()),
    };
    let (written, unsayable) = match exporter.finish() {
        Ok(counts) => counts,
        Err(error) => return failure(FAILED, &format!("cannot write the export: {error}")),
    };
    let mut complaint = format!("{written} entries written\n");
    if unsayable > 0 {
        let _ = writeln!(complaint, "{unsayable} left out: {} has no word for their reasons", arguments.format);
    }
    if read.unnamed > 0 {
        let _ = writeln!(complaint, "{} left out: the reports that brought them hid the address", read.unnamed);
    }
    for damage in &read.damages {
        let _ = writeln!(complaint, "damaged: {damage}");
    }
    if read.locked > 0 {
        let files: Vec<String> = read.locked_files.iter().map(|path| path.display().to_string()).collect();
        let _ = writeln!(
            complaint,
            "{} left out: no identity given opens {}; name more with --identity",
            read.locked,
            files.join(", ")
        );
    }
    let code = if read.locked > 0 || !read.damages.is_empty() { FAILED } else { 0 };
    Outcome { text: String::new(), complaint, code }
}
