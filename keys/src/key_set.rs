//! Who opens a box, as its owner says it: custodians, how many of them are needed, and who recovers it when its machine is gone.
//!
//! A key set is part of what the owner signs (the seed, or a later order); shares are made from it on the box ([`crate::Token`]).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{MOST_SHARES, Purpose, Recipient, secret_line};

/// One key that is used, one that lies in a safe place.
pub const MOST_RECIPIENTS: usize = 2;
const LONGEST_NAME: usize = 32;

/// Who opens a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// How many custodians it takes to open.
    pub threshold: u8,
    /// Who they are.
    #[serde(rename = "custodian")]
    pub custodians: Vec<Custodian>,
    /// Who opens it without its TPM: other keys, kept away from any network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Quorum>,
}

/// So many of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// How many it takes.
    pub threshold: u8,
    /// Who they are.
    #[serde(rename = "custodian")]
    pub custodians: Vec<Custodian>,
}

/// A person who holds a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custodian {
    /// What they are called, in logs and on screens.
    pub name: Name,
    /// Their keys: the share is encrypted to each, and each alone reads it.
    pub recipients: Vec<Recipient>,
}

/// What a custodian is called: small letters, digits and dashes, 32 at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a key set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is no key set.
    #[error("the key set cannot be read: {0}")]
    Syntax(String),
    /// See the text. The key is not repeated.
    #[error(
        "there is a secret key in line {line}: a key set holds public halves only (age1…), and goes through many hands; if this file \
         was anywhere else, make a new key"
    )]
    Secret {
        /// Where, from 1.
        line: usize,
    },
    /// See the text.
    #[error("{}: {threshold} of {count} custodians cannot open: it takes 1 at least, all at most, and there are {MOST_SHARES} at most", .purpose.name())]
    Threshold {
        /// Of which set.
        purpose: Purpose,
        /// How many are to open.
        threshold: u8,
        /// How many there are.
        count: usize,
    },
    /// See the text.
    #[error("{}: {name} is there twice; give each custodian a name of their own", .purpose.name())]
    NameTwice {
        /// Of which set.
        purpose: Purpose,
        /// Whose name.
        name: Name,
    },
    /// See the text.
    #[error("{}: {name} has {count} recipients; give the key that is used, and one spare key if there is one", .purpose.name())]
    Recipients {
        /// Of which set.
        purpose: Purpose,
        /// Whose.
        name: Name,
        /// How many.
        count: usize,
    },
    /// See the text.
    #[error("{}: {name} and {other} have the same key: who holds it would count twice", .purpose.name())]
    RecipientTwice {
        /// Of which set.
        purpose: Purpose,
        /// Whose.
        name: Name,
        /// And whose.
        other: Name,
    },
}

impl KeySet {
    /// The key set that a TOML text says.
    ///
    /// # Errors
    /// It is no key set, or one that cannot be used.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        if let Some(line) = secret_line(text) {
            return Err(KeySetError::Secret { line });
        }
        let set: Self = toml::from_str(text).map_err(|error| KeySetError::Syntax(error.to_string()))?;
        set.check()?;
        Ok(set)
    }

    /// It as a TOML text, which [`KeySet::parse`] reads.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn text(&self) -> Result<String, KeySetError> {
        toml::to_string(self).map_err(|error| KeySetError::Syntax(error.to_string()))
    }

    /// Says what is wrong with it, if anything is.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn check(&self) -> Result<(), KeySetError> {
        check(Purpose::Opening, self.threshold, &self.custodians)?;
        self.recovery.iter().try_for_each(|set| check(Purpose::Recovery, set.threshold, &set.custodians))
    }

    /// What its owner should know before shares are made; nothing that speaks against them.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let count = self.custodians.len();
        let spare = count.saturating_sub(usize::from(self.threshold));
        match (spare, &self.recovery) {
            (0, None) => warnings.push(format!(
                "all {count} shares are needed and there is no recovery set: one lost share is the loss of all data"
            )),
            (0, Some(_)) => {
                warnings.push(format!("all {count} shares are needed: one lost share calls for the recovery set"))
            }
            (spare, None) => {
                warnings.push(format!("there is no recovery set: once {} shares are lost, so is all data", spare + 1))
            }
            (_, Some(_)) => {}
        }
        if self.threshold == 1 && count > 1 {
            warnings.push(format!("any one of {count} custodians opens the box alone"));
        }
        let both = |custodian: &&Custodian| {
            self.recovery
                .iter()
                .flat_map(|set| &set.custodians)
                .any(|other| other.recipients.iter().any(|recipient| custodian.recipients.contains(recipient)))
        };
        if let Some(custodian) = self.custodians.iter().find(both) {
            let name = &custodian.name;
            warnings.push(format!("{name}'s key is in the recovery set as well: what loses one share loses the other"));
        }
        warnings
    }
}

fn check(purpose: Purpose, threshold: u8, custodians: &[Custodian]) -> Result<(), KeySetError> {
    let count = custodians.len();
    if threshold == 0 || usize::from(threshold) > count || count > usize::from(MOST_SHARES) {
        return Err(KeySetError::Threshold { purpose, threshold, count });
    }
    let mut names = BTreeSet::new();
    for (at, custodian) in custodians.iter().enumerate() {
        let name = custodian.name.clone();
        if !names.insert(&custodian.name) {
            return Err(KeySetError::NameTwice { purpose, name });
        }
        let recipients = &custodian.recipients;
        if recipients.is_empty() || recipients.len() > MOST_RECIPIENTS {
            return Err(KeySetError::Recipients { purpose, name, count: recipients.len() });
        }
        let same = |other: &&Custodian| other.recipients.iter().any(|recipient| recipients.contains(recipient));
        if let Some(other) = custodians[..at].iter().find(same) {
            return Err(KeySetError::RecipientTwice { purpose, name: other.name.clone(), other: name });
        }
    }
    Ok(())
}

impl Name {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_letter = |letter: u8| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if text.is_empty() || text.len() > LONGEST_NAME || !text.bytes().all(is_letter) || text.starts_with('-') {
            return Err(format!("a custodian's name is small letters, digits and dashes, {LONGEST_NAME} at most"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
