//! A file of suppressed addresses into the list.
//!
//! Lines are taken in portions; each is durable before it is counted. While one is made durable the next is
//! read. A line that cannot be used is told with its number and reason and stops nothing. An import that was
//! cut short is begun again from the start: what is known already is counted and written nowhere.

use std::io::BufRead;
use std::sync::Arc;

use postkeep_smtp::Address;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::format::{Format, FormatError, normal};
use super::lines::{Line, Lines};
use super::time;
use crate::entry::{Origin, Reason, Scope};
use crate::list::{Addition, ChangeError, Outcome, Step, Suppression, Who, suppressed};
use crate::secret::Key;

/// Lines of a portion. Large, because the index is asked in its own order for each.
const PORTION: usize = 1 << 17;

/// How a file is to be read.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Its format; `None`: what its first line says.
    pub format: Option<&'static Format>,
    /// What its entries are, where the file does not say.
    pub reason: Option<Reason>,
    /// For which mail they hold, where the file does not say.
    pub scope: Scope,
    /// Kept with each entry that has no note of its own; sealed.
    pub note: Arc<str>,
    /// Time of entries that have none, Unix seconds.
    pub now: u32,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImportReport {
    /// The format of the file.
    pub format: String,
    /// Entries read, without header and empty lines.
    pub lines: u64,
    /// Entries that are new.
    pub added: u64,
    /// Entries that were there already.
    pub known: u64,
    /// Entries that could not be used; each was told.
    pub refused: u64,
    /// Entries without a readable time; they hold since now.
    pub undated: u64,
    /// Octets of the file.
    pub octets: u64,
}

/// What is told on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportEvent<'a> {
    /// So far.
    Progress(&'a ImportReport),
    /// A line that cannot be used.
    Refused {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why an import ended before its time. What was durable until then holds.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file as a whole.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The list.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Where the columns are.
struct Columns {
    address: usize,
    reason: Option<usize>,
    time: Option<usize>,
    scope: Option<usize>,
    note: Option<usize>,
}

/// Reads `input` into the list. Blocks; not for the threads of the runtime. Afterwards, wait with
/// [`Suppression::settled`] for the deliveries that were under way.
///
/// # Errors
/// The file is of no known format, or the list cannot be changed.
pub fn import(
    list: &Suppression,
    input: impl BufRead,
    options: &ImportOptions,
    on: impl FnMut(ImportEvent<'_>),
) -> Result<(ImportReport, Unsettled), ImportError> {
    let mut under_way = UnderWay { list, waiting: None, keys: Vec::new() };
    let mut portion = Vec::with_capacity(PORTION.min(4096));
    let mut report = each(input, options, on, |addition, report| {
        let Who::Address(address) = &addition.who else { return Ok(()) };
        portion.push((list.key(address), Step::Add(addition)));
        if portion.len() >= PORTION {
            under_way.hand_in(std::mem::take(&mut portion), report)?;
        }
        Ok(())
    })?;
    under_way.hand_in(portion, &mut report)?;
    under_way.finish(&mut report)?;
    Ok((report, Unsettled(under_way.keys)))
}

/// Reads `input` as [`import`] would, and changes nothing.
///
/// # Errors
/// The file is of no known format.
pub fn try_out(
    input: impl BufRead,
    options: &ImportOptions,
    on: impl FnMut(ImportEvent<'_>),
    mut found: impl FnMut(&Addition),
) -> Result<ImportReport, ImportError> {
    each(input, options, on, |addition, _| {
        found(&addition);
        Ok(())
    })
}

/// Hands over the entries of a file.
fn each(
    input: impl BufRead,
    options: &ImportOptions,
    mut on: impl FnMut(ImportEvent<'_>),
    mut take: impl FnMut(Addition, &mut ImportReport) -> Result<(), ImportError>,
) -> Result<ImportReport, ImportError> {
    let mut lines = Lines::new(input);
    let unreadable = |error: std::io::Error| FormatError::Unreadable(error.to_string());
    let first = lines.next().map_err(unreadable)?.ok_or(FormatError::Empty)?;
    let fields = first.fields.as_ref().map_err(|reason| FormatError::Header((*reason).to_owned()))?.to_strings();
    let format = match options.format {
        Some(format) => format,
        None => Format::of_first_line(&fields)?,
    };
    let columns = Columns::find(format, &fields)?;
    let implied = implied(format, &fields);
    if columns.reason.is_none() && options.reason.or(implied).is_none() {
        let hint = if format.name == "sendgrid" { "; mind that blocks must not come in as hard-bounce" } else { "" };
        return Err(FormatError::Reason { format: format.name.clone(), hint }.into());
    }
    let mut report = ImportReport { format: format.name.clone(), ..ImportReport::default() };
    let mut next = if format.header { lines.next().map_err(unreadable)? } else { Some(first) };
    while let Some(line) = next {
        report.lines += 1;
        match read_line(&line, &columns, format, options, implied, &mut report) {
            Ok(addition) => take(addition, &mut report)?,
            Err(reason) => {
                report.refused += 1;
                on(ImportEvent::Refused { line: line.number, reason });
                if !line.more.is_empty() {
                    lines.reread(line);
                }
            }
        }
        report.octets = lines.octets();
        if report.lines.is_multiple_of(PORTION as u64) {
            on(ImportEvent::Progress(&report));
        }
        next = lines.next().map_err(unreadable)?;
    }
    Ok(report)
}

/// Addresses to which deliveries may still be under way.
pub struct Unsettled(Vec<Key>);

impl Suppression {
    /// Waits until no delivery to what was imported is under way that began before.
    pub async fn settled(&self, unsettled: Unsettled) {
        self.wait_for(unsettled.0).await;
    }
}

/// One portion is on its way to the disk while the next is read.
struct UnderWay<'a> {
    list: &'a Suppression,
    waiting: Option<oneshot::Receiver<Result<Outcome, ChangeError>>>,
    /// Addresses with a delivery under way when they became visible.
    keys: Vec<Key>,
}

impl UnderWay<'_> {
    fn hand_in(&mut self, portion: Vec<(Key, Step)>, report: &mut ImportReport) -> Result<(), ChangeError> {
        self.finish(report)?;
        if !portion.is_empty() {
            self.keys.extend(suppressed(&portion));
            self.waiting = Some(self.list.hand_in(portion)?);
        }
        Ok(())
    }

    fn finish(&mut self, report: &mut ImportReport) -> Result<(), ChangeError> {
        if let Some(waiting) = self.waiting.take() {
            let outcome = waiting.blocking_recv().map_err(|_| ChangeError::Closed)??;
            report.added += outcome.added;
            report.known += outcome.known;
            // It is visible now: only what is under way at this moment can still arrive.
            self.list.keep_under_way(&mut self.keys);
        }
        Ok(())
    }
}

impl Columns {
    fn find(format: &Format, fields: &[String]) -> Result<Self, FormatError> {
        let place = |names: &[String]| {
            if !format.header {
                return names.first().and_then(|number| number.parse::<usize>().ok()?.checked_sub(1));
            }
            names.iter().find_map(|name| fields.iter().position(|field| normal(field) == normal(name)))
        };
        Ok(Self {
            address: place(&format.address)
                .ok_or_else(|| FormatError::Header(fields.join(",").chars().take(120).collect()))?,
            reason: place(&format.reason),
            time: place(&format.time),
            scope: place(&format.scope),
            note: place(&format.note),
        })
    }
}

/// What the columns say about the whole file.
fn implied(format: &Format, fields: &[String]) -> Option<Reason> {
    format
        .implied
        .iter()
        .find(|implied| fields.iter().any(|field| normal(field) == normal(&implied.column)))
        .map(|implied| implied.reason)
}

fn read_line(
    line: &Line,
    columns: &Columns,
    format: &Format,
    options: &ImportOptions,
    implied: Option<Reason>,
    report: &mut ImportReport,
) -> Result<Addition, String> {
    let fields = line.fields.as_ref().map_err(|reason| (*reason).to_owned())?;
    let field = |column: Option<usize>| column.and_then(|column| fields.get(column)).filter(|field| !field.is_empty());
    let address = field(Some(columns.address)).ok_or("there is no address in it")?;
    let address: Address = address.parse().map_err(|error: postkeep_smtp::AddressError| error.to_string())?;
    let reason = match field(columns.reason) {
        Some(word) => format
            .reason_of(word)
            .ok_or_else(|| format!("{:?} is no reason that {} has", shortened(word), format.name))?,
        None => options.reason.or(implied).ok_or("it does not say why; --reason says it for all")?,
    };
    let scope = match field(columns.scope) {
        Some(text) => text.parse().map_err(|error: crate::entry::ScopeError| error.to_string())?,
        None => options.scope.clone(),
    };
    let time = field(columns.time).and_then(time::parse);
    if columns.time.is_some() && time.is_none() {
        report.undated += 1;
    }
    let note = field(columns.note).map_or_else(|| Arc::clone(&options.note), Into::into);
    Ok(Addition { who: address.into(), scope, reason, origin: Origin::Import, time: time.unwrap_or(options.now), note })
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

#[cfg(test)]
mod tests;
