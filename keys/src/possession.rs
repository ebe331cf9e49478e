//! Who has shown lately that they still have their key. A custodian who left, or whose device broke, is found by a question once a
//! quarter, and not in the night when the box waits to be opened.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Name, Token};

/// How long a proof is good: a quarter of a year, 91 days.
pub const QUARTER: SignedDuration = SignedDuration::from_hours(91 * 24);

/// When each custodian of an epoch has last proved possession.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Possession {
    /// Of which epoch's shares. A new key set is proved anew.
    epoch: u64,
    #[serde(default)]
    proven: BTreeMap<Name, Timestamp>,
}

/// A custodian, and how long ago they were heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Proven {
    /// Who.
    pub name: Name,
    /// When they last proved it; nothing: never in this epoch.
    pub last: Option<Timestamp>,
    /// Whether they have to prove it again.
    pub is_due: bool,
}

impl Possession {
    /// That of shares for which nobody has proved anything yet: they are due, and the first proof is part of their enrolment.
    #[must_use]
    pub fn new(token: &Token) -> Self {
        Self { epoch: token.epoch, proven: BTreeMap::new() }
    }

    /// Whether it is of the shares that `token` has.
    #[must_use]
    pub fn is_of(&self, token: &Token) -> bool {
        self.epoch == token.epoch
    }

    /// Writes down that `name` has proved it; an earlier `now` than the last changes nothing (a clock was set back).
    pub fn prove(&mut self, name: &Name, now: Timestamp) {
        let last = self.proven.entry(name.clone()).or_insert(now);
        *last = now.max(*last);
    }

    /// Each custodian of `token`, in its order, and whether they are due at `now`. For the shares of another epoch nothing is proven.
    #[must_use]
    pub fn of(&self, token: &Token, now: Timestamp) -> Vec<Proven> {
        let is_of_this = self.is_of(token);
        let proven = |name: &Name| {
            let last = self.proven.get(name).filter(|_| is_of_this).copied();
            let is_due = last.is_none_or(|last| now.duration_since(last) >= QUARTER);
            Proven { name: name.clone(), last, is_due }
        };
        token.opening.holders.iter().map(|holder| proven(&holder.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Custodian, KeySet, Recipient, System};

    #[test]
    fn a_year_of_proofs_in_a_moment() {
        let custodian = |name: &str| Custodian {
            name: name.parse().unwrap(),
            recipients: vec![Recipient::of(&age::x25519::Identity::generate())],
        };
        let set = KeySet { threshold: 1, custodians: vec![custodian("anna"), custodian("ben")], recovery: None };
        let volume = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
        let token = |epoch| Token::make(&set, &volume, epoch, &mut System).unwrap().token;
        let (first, second) = (token(1), token(2));
        let day = |day: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * day);
        let mut possession = Possession::new(&first);
        let due = |possession: &Possession, token: &Token, at| {
            let due = possession.of(token, day(at)).into_iter().filter(|proven| proven.is_due);
            due.map(|proven| proven.name.to_string()).collect::<Vec<_>>()
        };
        let anna = "anna".parse().unwrap();
        assert_eq!(due(&possession, &first, 0), ["anna", "ben"]);
        possession.prove(&anna, day(1));
        possession.prove(&"ben".parse().unwrap(), day(1));
        assert!(due(&possession, &first, 91).is_empty());
        assert_eq!(due(&possession, &first, 92), ["anna", "ben"]);
        possession.prove(&anna, day(92));
        assert_eq!(due(&possession, &first, 182), ["ben"]);
        // Set back by a year: what was proved stays proved.
        possession.prove(&anna, day(92 - 365));
        assert_eq!(due(&possession, &first, 182), ["ben"]);
        assert_eq!(due(&possession, &first, 183), ["anna", "ben"]);
        // New shares: who has proved the old ones has not proved these.
        assert_eq!(due(&possession, &second, 93), ["anna", "ben"]);
        assert_eq!(due(&Possession::new(&second), &second, 93), ["anna", "ben"]);
    }
}
