//! The words of accounting files, as PowerMTA's users know them: types of lines and columns.

use crate::types::Accounting;

/// A type of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineType {
    /// In the first column.
    pub short: &'static str,
    /// Its long name, which configurations may use as well.
    pub long: &'static str,
    /// Columns that `*` stands for, in order; `type` goes before them.
    pub columns: &'static [&'static str],
}

const ATTEMPT: &[&str] = &[
    "timeLogged",
    "timeQueued",
    "orig",
    "rcpt",
    "orcpt",
    "dsnAction",
    "dsnStatus",
    "dsnDiag",
    "dsnMta",
    "bounceCat",
    "srcType",
    "srcMta",
    "dlvType",
    "dlvSourceIp",
    "dlvDestinationIp",
    "dlvEsmtpAvailable",
    "dlvSize",
    "vmta",
    "jobId",
    "envId",
    "queue",
    "vmtaPool",
];

/// All types, in the order in which their columns stand in a file with several.
pub const TYPES: [LineType; 8] = [
    LineType { short: "d", long: "delivery", columns: ATTEMPT },
    LineType { short: "b", long: "bounce", columns: ATTEMPT },
    LineType { short: "t", long: "transient", columns: ATTEMPT },
    LineType {
        short: "tq",
        long: "transient-queue",
        columns: &[
            "timeLogged",
            "dsnAction",
            "dsnStatus",
            "dsnDiag",
            "dsnMta",
            "bounceCat",
            "dlvType",
            "dlvSourceIp",
            "dlvDestinationIp",
            "vmta",
            "jobId",
            "queue",
            "vmtaPool",
        ],
    },
    LineType {
        short: "r",
        long: "receipt",
        columns: &["timeLogged", "timeQueued", "orig", "srcType", "srcMta", "dlvSize", "jobId", "envId"],
    },
    LineType {
        short: "f",
        long: "feedback-loop",
        columns: &[
            "timeLogged",
            "orig",
            "rcpt",
            "format",
            "feedbackType",
            "userAgent",
            "reportingMta",
            "reportedDomain",
            "repSourceIp",
            "rcvSourceIp",
            "header_From",
            "header_Return-Path",
            "header_X-job",
            "header_Subject",
            "jobId",
        ],
    },
    LineType {
        short: "rb",
        long: "remote-bounce",
        columns: &[
            "timeLogged",
            "orig",
            "rcpt",
            "dsnAction",
            "dsnStatus",
            "dsnDiag",
            "dsnMta",
            "bounceCat",
            "jobId",
            "dsnReportingMta",
            "rcvSourceIp",
        ],
    },
    LineType {
        short: "rs",
        long: "remote-status",
        columns: &[
            "timeLogged",
            "orig",
            "rcpt",
            "dsnAction",
            "dsnStatus",
            "dsnDiag",
            "dsnMta",
            "jobId",
            "dsnReportingMta",
            "rcvSourceIp",
        ],
    },
];

/// Columns that any type may have on request.
pub const ON_REQUEST: [&str; 16] = [
    "totalSecondsQueued",
    "dlvTlsProtocol",
    "dlvTlsCipher",
    "user",
    "header_Message-Id",
    "id",
    "message",
    "event",
    "stream",
    "provider",
    "site",
    "class",
    "scope",
    "rule",
    "stage",
    "attempt",
];

/// Finds a type by either of its names.
pub fn line_type(name: &str) -> Option<&'static LineType> {
    TYPES.iter().find(|known| known.short == name || known.long == name)
}

/// Every column that there is, but `type`.
pub fn all_columns() -> impl Iterator<Item = &'static str> + Clone {
    TYPES.iter().flat_map(|known| known.columns.iter().copied()).chain(ON_REQUEST)
}

impl Accounting {
    /// The columns of a type, in order, without `type`.
    ///
    /// # Errors
    /// `record-fields` names what is no column.
    pub fn columns(&self, of: &LineType) -> Result<Vec<&'static str>, String> {
        let is_about =
            |types: &str| types.split(',').any(|name| line_type(name.trim()).is_some_and(|known| known == of));
        let Some((_, fields)) = self.record_fields.iter().find(|(types, _)| is_about(types)) else {
            return Ok(of.columns.to_vec());
        };
        let known = |name: &str| all_columns().find(|column| *column == name).ok_or_else(|| name.to_owned());
        let mut columns: Vec<&'static str> = Vec::new();
        let mut without = Vec::new();
        for field in fields {
            match field.strip_prefix('!') {
                Some(name) => without.push(known(name)?),
                None if field == "*" => columns.extend(of.columns),
                // The first column of every line.
                None if field == "type" => {}
                None => columns.push(known(field)?),
            }
        }
        // Only exclusions: from the usual ones.
        if columns.is_empty() {
            columns.extend(of.columns);
        }
        let mut seen = Vec::new();
        columns.retain(|column| {
            let keep = !without.contains(column) && !seen.contains(column);
            seen.push(column);
            keep
        });
        Ok(columns)
    }
}
