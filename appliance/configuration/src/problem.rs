//! What is wrong with a configuration, where, and what to do about it; for people
//! (`file:line:column:` and the line with a caret) and as JSON.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// A point in a file; lines and columns are counted from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// The file, as it was opened.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Whether a configuration can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// No: nothing of the configuration is used.
    Error,
    /// Yes, but somebody should look.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Where; absent when there is no file (a text, or a file that cannot be opened).
    #[serde(flatten)]
    pub place: Option<Place>,
    /// Key path, `source.a.ipv4`; empty when it is about the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The line itself; absent when it may hold a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Key with its table header, as people read it.
    #[serde(skip)]
    pub(crate) title: String,
    /// Characters to underline, 1 or more.
    #[serde(skip)]
    pub(crate) width: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(out, "{place}: ")?;
        }
        if self.severity == Severity::Warning {
            out.write_str("warning: ")?;
        }
        if !self.title.is_empty() {
            write!(out, "{}: ", self.title)?;
        }
        out.write_str(&self.message)?;
        if let (Some(place), Some(source)) = (&self.place, &self.source) {
            let gutter = place.line.to_string().len().max(4);
            write!(out, "\n{:>gutter$} | {source}", place.line)?;
            // Tabs stay tabs, so that the caret stands below its character.
            let before: String =
                source.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let room = source.chars().count().saturating_sub(place.column - 1).max(1);
            write!(out, "\n{:>gutter$} | {before}{}", "", "^".repeat(self.width.clamp(1, room)))?;
        }
        if let Some(remedy) = &self.remedy {
            write!(out, "\n     = {remedy}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong: at least one error, and the warnings found beside it,
/// in the order of the files and lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Errors {
    /// Errors and warnings, ordered by file and line.
    pub problems: Vec<Problem>,
}

impl Errors {
    /// How many of the problems are errors.
    pub fn count(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(out, "{problem}")?;
        }
        let count = self.count();
        write!(out, "{count} error{}; nothing of this configuration is used", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Errors {}
