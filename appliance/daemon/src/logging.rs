//! Where log lines go: to the journal with their structured fields when systemd
//! started us, to standard error with a time stamp otherwise.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};
use postkeep_mta::clock;
use systemd_journal_logger::JournalLog;

/// Starts logging for the process.
///
/// # Errors
/// The journal cannot be reached although we were connected to it, or a logger is already set.
pub(crate) fn start(level: LevelFilter) -> Result<(), Box<dyn std::error::Error>> {
    if systemd_journal_logger::connected_to_journal() {
        JournalLog::new()?
            .with_extra_fields([("VERSION", env!("CARGO_PKG_VERSION"))])
            .with_syslog_identifier("postkeepd".to_owned())
            .install()?;
    } else {
        log::set_logger(&StandardError)?;
    }
    log::set_max_level(level);
    Ok(())
}

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries below speak only when something is wrong.
        metadata.target().starts_with("postkeep") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {:<5} {}\n", clock::timestamp(clock::now()), record.level(), record.args());
            // Nobody is left to tell when standard error is gone.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
