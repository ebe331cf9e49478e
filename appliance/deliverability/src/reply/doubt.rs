//! Words that leave a doubt whether nobody has an address: with one of them in a reply nobody is suppressed for it,
//! whatever its codes say. Data like the rules (`appliance/deliverability/rules/doubts.toml`).

use std::sync::{Arc, LazyLock};

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

/// Memory that one pattern may compile to.
const PATTERN_SIZE: usize = 4 << 20;

/// A link says nothing about a mailbox: many end in `/policy` or carry the source's address.
static LINK: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?i)\b(?:https?://|www\.)[^\s>]*").ok());

/// A doubt as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Written {
    pub name: String,
    text: String,
    unless: Option<String>,
    source: String,
    checked: String,
    #[serde(default)]
    examples: Vec<String>,
    #[serde(default)]
    not: Vec<String>,
}

/// A doubt.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    pub name: Arc<str>,
    text: Regex,
    /// Taken out before `text` is looked for.
    unless: Option<Regex>,
    examples: Vec<String>,
    not: Vec<String>,
}

impl Doubt {
    pub(super) fn compile(written: Written) -> Result<Self, String> {
        if written.source.is_empty() || written.checked.is_empty() {
            return Err(
                "source and checked are empty: say where the fact is from, and when it was looked at".to_owned()
            );
        }
        let pattern = |text: &str| {
            RegexBuilder::new(text)
                .case_insensitive(true)
                .size_limit(PATTERN_SIZE)
                .build()
                .map_err(|error| format!("it is not a pattern: {error}"))
        };
        Ok(Self {
            name: written.name.into(),
            text: pattern(&written.text)?,
            unless: written.unless.as_deref().map(pattern).transpose()?,
            examples: written.examples,
            not: written.not,
        })
    }

    /// Whether it is in a text that is [`bare`].
    pub(super) fn is_in(&self, text: &str) -> bool {
        // Most texts hold no doubt: only the others are copied.
        self.text.is_match(text)
            && self.unless.as_ref().is_none_or(|unless| self.text.is_match(&unless.replace_all(text, " ")))
    }

    /// The faults of its examples, one sentence each.
    pub(super) fn check(&self) -> Vec<String> {
        let name = &self.name;
        let mut faults = Vec::new();
        if self.examples.is_empty() {
            faults.push(format!("doubt {name:?} has no example"));
        }
        for example in self.examples.iter().filter(|example| !self.is_in(&bare(example))) {
            faults.push(format!("doubt {name:?}: it is not in {example:?}"));
        }
        for example in self.not.iter().filter(|example| self.is_in(&bare(example))) {
            faults.push(format!("doubt {name:?}: it is in {example:?} and must not be"));
        }
        faults
    }
}

/// The text without links.
pub(super) fn bare(text: &str) -> String {
    LINK.as_ref().map_or_else(|| text.to_owned(), |link| link.replace_all(text, " ").into_owned())
}
