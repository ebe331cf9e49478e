//! What a file of a service looks like.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::entry::Reason;

/// A file format of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Format {
    /// What `--format` says.
    pub name: String,
    /// From where it is known.
    pub source: String,
    /// When that was looked at.
    pub checked: String,
    pub(super) header: bool,
    pub(super) address: Vec<String>,
    pub(super) marks: Vec<String>,
    #[serde(default)]
    pub(super) time: Vec<String>,
    #[serde(default)]
    pub(super) reason: Vec<String>,
    #[serde(default)]
    pub(super) scope: Vec<String>,
    #[serde(default)]
    pub(super) note: Vec<String>,
    #[serde(default)]
    pub(super) words: Vec<Word>,
    #[serde(default)]
    pub(super) implied: Vec<Implied>,
    pub(super) write: Vec<WrittenColumn>,
}

/// A word of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    pub(super) word: String,
    pub(super) reason: Reason,
}

/// A column that says what the file is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Implied {
    pub(super) column: String,
    pub(super) reason: Reason,
}

/// A column of an export.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenColumn {
    pub(super) header: String,
    pub(super) value: String,
    /// Only in files of these reasons; empty: in all.
    #[serde(default)]
    pub(super) only: Vec<Reason>,
}

/// Why a file is of no known format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No such name.
    #[error("there is no format {0:?}: write auto or one of {names}", names = names())]
    Name(String),
    /// The first line tells nothing.
    #[error(
        "the first line, {0:?}, is that of no known format: say --format NAME; a header has a column address, email or EmailAddress"
    )]
    Header(String),
    /// Nobody says what the entries are.
    #[error(
        "a file of {format} does not say what its entries are: say --reason hard-bounce, block, complaint, unsubscribe or manual{hint}"
    )]
    Reason {
        /// The format.
        format: String,
        /// What to mind.
        hint: &'static str,
    },
    /// An export of all reasons into a format that has a file for each.
    #[error("{0} has a file for each reason: say --reason hard-bounce, block, complaint or unsubscribe")]
    OneReason(String),
    /// A file that has no line.
    #[error("the file is empty")]
    Empty,
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    Unwritable(String),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Formats {
    format: Vec<Format>,
}

static FORMATS: LazyLock<Vec<Format>> = LazyLock::new(|| {
    toml::from_str::<Formats>(include_str!("../../formats.toml")).map(|formats| formats.format).unwrap_or_default()
});

fn names() -> String {
    FORMATS.iter().map(|format| format.name.as_str()).collect::<Vec<_>>().join(", ")
}

impl Format {
    /// All formats.
    pub fn all() -> &'static [Self] {
        &FORMATS
    }

    /// The format of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<&'static Self, FormatError> {
        FORMATS.iter().find(|format| format.name == name).ok_or_else(|| FormatError::Name(name.to_owned()))
    }

    /// The format of a file whose first line has these fields.
    pub(super) fn of_first_line(fields: &[String]) -> Result<&'static Self, FormatError> {
        let has = |name: &String| fields.iter().any(|field| normal(field) == normal(name));
        let by_header = FORMATS.iter().find(|format| format.header && format.marks.iter().all(has));
        let is_bare = fields.first().is_some_and(|first| first.contains('@'));
        by_header
            .or_else(|| FORMATS.iter().find(|format| is_bare && !format.header && fields.len() == 2))
            .ok_or_else(|| FormatError::Header(fields.join(",").chars().take(120).collect()))
    }

    /// Our reason for a word of the service.
    pub(super) fn reason_of(&self, word: &str) -> Option<Reason> {
        self.words.iter().find(|known| known.word.eq_ignore_ascii_case(word)).map(|known| known.reason)
    }

    /// The service's word for a reason; `None`: it has none, or its files are of one reason only.
    pub(super) fn word_for(&self, reason: Reason) -> Option<&str> {
        self.words.iter().find(|known| known.reason == reason).map(|known| known.word.as_str())
    }
}

/// A column name as names are compared.
pub(super) fn normal(name: &str) -> String {
    name.chars().filter(|letter| !matches!(letter, ' ' | '-' | '_' | '\u{feff}')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_formats_are_read_and_each_has_a_source_and_a_day() {
        let names: Vec<&str> = Format::all().iter().map(|format| format.name.as_str()).collect();
        assert_eq!(names, ["postkeep", "sendgrid", "mailgun", "postmark", "ses"]);
        for format in Format::all() {
            assert!(!format.source.is_empty() && format.checked.starts_with("20"), "{}", format.name);
        }
    }

    #[test]
    fn a_file_is_known_by_its_first_line() {
        let of = |line: &str| {
            let fields: Vec<String> = line.split(',').map(str::to_owned).collect();
            Format::of_first_line(&fields).map(|format| format.name.as_str())
        };
        assert_eq!(of("address,reason,scope,time"), Ok("postkeep"));
        assert_eq!(of("status,reason,email,created"), Ok("sendgrid"));
        assert_eq!(of("\u{feff}address,code,error,created_at"), Ok("mailgun"));
        assert_eq!(of("Email Address,Suppression Reason,Origin,CreatedAt"), Ok("postmark"));
        assert_eq!(of("ann@example.org,BOUNCE"), Ok("ses"));
        assert!(matches!(of("name,phone"), Err(FormatError::Header(_))));
    }
}
