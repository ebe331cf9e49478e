//! The list as a file of ours or of another service.

use std::io::{self, Write};

use super::format::{Format, FormatError, WrittenColumn};
use super::time;
use crate::entry::{Entry, Reason};
use crate::journal::Detail;

/// Writes entries as CSV.
pub struct Exporter<W: Write> {
    format: &'static Format,
    columns: Vec<&'static WrittenColumn>,
    only: Option<Reason>,
    output: csv::Writer<W>,
    /// Entries written.
    pub written: u64,
    /// Entries for which the format has no word.
    pub unsayable: u64,
}

impl<W: Write> Exporter<W> {
    /// Begins a file of all entries, or of those with one reason.
    ///
    /// # Errors
    /// It cannot be written, or the format needs one reason.
    pub fn new(format: &'static Format, only: Option<Reason>, output: W) -> Result<Self, FormatError> {
        if format.words.is_empty() && only.is_none() {
            return Err(FormatError::OneReason(format.name.clone()));
        }
        let columns: Vec<&WrittenColumn> = format
            .write
            .iter()
            .filter(|column| column.only.is_empty() || only.is_some_and(|reason| column.only.contains(&reason)))
            .collect();
        let mut output = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(output);
        if format.header {
            output
                .write_record(columns.iter().map(|column| &column.header))
                .map_err(|error| FormatError::Unwritable(error.to_string()))?;
        }
        Ok(Self { format, columns, only, output, written: 0, unsayable: 0 })
    }

    /// Writes an entry, unless it is not one of those meant or the format cannot say what it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, detail: &Detail, entry: &Entry) -> io::Result<()> {
        if self.only.is_some_and(|reason| reason != entry.reason) {
            return Ok(());
        }
        let word = self.format.word_for(entry.reason);
        if !self.format.words.is_empty() && word.is_none() {
            self.unsayable += 1;
            return Ok(());
        }
        for column in &self.columns {
            match column.value.as_str() {
                "address" => self.output.write_field(&*detail.address)?,
                "reason" => self.output.write_field(word.unwrap_or_default())?,
                "scope" => self.output.write_field(entry.scope.to_string())?,
                "origin" => self.output.write_field(entry.origin.as_str())?,
                "note" => self.output.write_field(&*detail.note)?,
                "rfc3339" => self.output.write_field(time::rfc3339(entry.time))?,
                "rfc2822" => self.output.write_field(time::rfc2822(entry.time))?,
                "unix" => self.output.write_field(entry.time.to_string())?,
                fixed => self.output.write_field(fixed.trim_start_matches('='))?,
            }
        }
        self.output.write_record(None::<&[u8]>)?;
        self.written += 1;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> io::Result<(u64, u64)> {
        self.output.flush()?;
        Ok((self.written, self.unsayable))
    }
}
