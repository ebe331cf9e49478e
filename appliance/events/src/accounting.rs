//! The accounting file: events as lines of CSV, in the form that PowerMTA's users read.
//!
//! The cursor says how long the file is that holds everything up to its place. Lines are written and
//! synced first and the cursor after them; what a crash leaves behind that length is cut off at the
//! next start and written again. So every event has its line, and has it once.

mod category;
mod output;
mod row;

use std::io;

use postkeep_configuration as configuration;
use postkeep_configuration::accounting::{LineType, TYPES, line_type};
use serde_json::Value;

use self::output::Files;
use self::row::Rows;
use crate::cursor::{Cursor, Output};
use crate::event::Event;
use crate::runner::{Failure, Sink};

/// Which type of line an event makes.
fn type_of(event: &str) -> Option<&'static LineType> {
    line_type(match event {
        "delivered" => "d",
        "bounced" | "expired" | "suppressed" | "removed" => "b",
        "deferred" => "t",
        "attempted" => "tq",
        "received" => "r",
        "complaint" => "f",
        "remote-bounce" => "rb",
        "remote-delay" => "rs",
        _ => return None,
    })
}

/// The events that make lines of these types.
pub(crate) fn events_of(settings: &configuration::Accounting) -> Vec<String> {
    let wanted: Vec<_> = settings.types.iter().filter_map(|name| line_type(name)).collect();
    configuration::EVENTS
        .iter()
        .filter(|event| type_of(event).is_some_and(|of| wanted.contains(&of)))
        .map(|event| (*event).to_owned())
        .collect()
}

/// The accounting file as a receiver of events.
pub(crate) struct Accounting {
    rows: Rows,
    files: Files,
}

impl Accounting {
    /// Opens the folder and cuts off what a crash has left.
    ///
    /// # Errors
    /// A folder or file cannot be used.
    pub(crate) fn open(settings: &configuration::Accounting, cursor: &Cursor) -> io::Result<Self> {
        let types: Vec<_> = TYPES
            .iter()
            .filter(|of| settings.types.iter().any(|name| line_type(name).is_some_and(|named| named == *of)))
            .collect();
        let rows = Rows::new(settings, &types).map_err(io::Error::other)?;
        let files = Files::open(settings, rows.header()?, cursor.output())?;
        Ok(Self { rows, files })
    }

    fn write(&mut self, events: &[Event], cursor: &mut Cursor) -> io::Result<()> {
        let Some(last) = events.last() else { return Ok(()) };
        let mut lines = row::lines();
        for event in events {
            let Some(of) = type_of(&event.name) else { continue };
            let record: Value = serde_json::from_slice(&event.text)?;
            self.rows.write(of, &record, &mut lines)?;
        }
        self.files.close_when_due();
        if let Some(output) = self.files.begin() {
            // On record before it is there: what a crash leaves of it is cut to nothing.
            cursor.set_output(output)?;
        }
        let output: Output = self.files.append(&lines.into_inner().map_err(|error| error.into_error())?)?;
        cursor.advance_with(last.end.clone(), output.clone()).inspect_err(|_| self.files.cut())?;
        self.files.keep(output);
        Ok(())
    }
}

impl Sink for Accounting {
    async fn deliver(&mut self, events: &[Event], cursor: &mut Cursor) -> Result<(), Failure> {
        tokio::task::block_in_place(|| self.write(events, cursor)).map_err(|error| {
            Failure::new(format!("cannot write accounting files in {}: {error}", self.files.directory().display()))
        })
    }

    fn tick(&mut self) -> Option<String> {
        if self.files.is_due() {
            tokio::task::block_in_place(|| self.files.close_when_due());
        }
        self.files.trouble()
    }
}
