//! The list as calls over HTTP say it: what is asked and answered at the control socket and at the HTTP doors.

use std::path::Path;

use postkeep_smtp::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::addresses::{AddressesError, addresses};
use crate::entry::{Entry, Origin, Reason, Scope};
use crate::list::{Addition, IDENTITY_FILE, Step};
use crate::seal::Identity;

/// What is known about an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SuppressionView {
    /// As the list reads it.
    pub address: String,
    /// Every reason in every scope; none: it is not in the list.
    pub entries: Vec<Entry>,
}

/// An entry to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SuppressionAddition {
    /// Whom not to write to.
    pub address: String,
    /// Why.
    pub reason: Reason,
    /// For which mail; absent: all, or for a token that may not say so, its own stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Kept sealed with the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl SuppressionAddition {
    /// The step that brings it in, on the word of `actor`, at `now` in Unix seconds.
    ///
    /// # Errors
    /// The address is none.
    pub fn step(self, scope: Scope, origin: Origin, actor: &str, now: u32) -> Result<Step, String> {
        let who: Address = self.address.parse().map_err(|error| format!("{:?}: {error}", self.address))?;
        let note = self.note.map_or_else(|| actor.to_owned(), |note| format!("{actor}: {note}"));
        Ok(Step::Add(Addition {
            who: who.into(),
            scope: self.scope.unwrap_or(scope),
            reason: self.reason,
            origin,
            time: now,
            note: note.into(),
        }))
    }
}

/// An entry with its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ListedEntry {
    /// Whom not to write to.
    pub address: String,
    /// What is known.
    #[serde(flatten)]
    pub entry: Entry,
    /// Who or what said so.
    #[serde(skip)]
    pub note: String,
}

/// Some entries of the list, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// They.
    pub entries: Vec<ListedEntry>,
    /// There are more behind them.
    pub has_more: bool,
}

/// Reads `limit` entries that `wanted` likes, after the first `skip` of them. Reads the journal from its beginning:
/// takes time in proportion to the list, and blocks.
///
/// # Errors
/// The journal is sealed to others, who alone can read its addresses; or it cannot be read.
pub fn page(folder: &Path, skip: usize, limit: usize, wanted: impl Fn(&Entry) -> bool) -> Result<Page, AddressesError> {
    let identity = Identity::read(&folder.join(IDENTITY_FILE))?;
    let (mut page, mut seen) = (Page::default(), 0usize);
    let read = addresses(folder, &[identity], |detail, entry| {
        if !wanted(entry) {
            return Ok(());
        }
        seen += 1;
        if seen <= skip {
            return Ok(());
        }
        if page.entries.len() >= limit {
            page.has_more = true;
            return Err(String::new());
        }
        let (address, note) = (detail.address.to_string(), detail.note.to_string());
        page.entries.push(ListedEntry { address, entry: entry.clone(), note });
        Ok(())
    });
    match read {
        Ok(_) | Err(AddressesError::Stopped(_)) => Ok(page),
        Err(error) => Err(error),
    }
}
