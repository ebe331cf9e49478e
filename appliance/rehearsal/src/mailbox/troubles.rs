//! What a provider remembers of its own refusals, so that the account can
//! tell mail that was kept out from mail that was forgotten.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::Moment;

/// Connections lost in a row after which a careful sender leaves a site alone.
const IN_A_ROW: u32 = 3;

/// Whom a provider put off, and when its sites turned senders away.
#[derive(Debug, Default)]
pub struct Troubles {
    /// When each was last put off or refused.
    put_off: HashMap<String, Moment>,
    refused: HashSet<String>,
    /// Seconds in which a sender was turned away, by site: enough to tell when, and bounded by the length of the rehearsal.
    turned_away: HashMap<usize, BTreeSet<u64>>,
    lost: HashMap<(IpAddr, usize), u32>,
    served: HashSet<usize>,
}

impl Troubles {
    /// A recipient was answered with a 4xx, or the connection was dropped over it.
    pub(super) fn put_off(&mut self, recipient: &str, now: Moment) {
        match self.put_off.get_mut(recipient) {
            Some(last) => *last = now,
            None => _ = self.put_off.insert(recipient.to_owned(), now),
        }
    }

    /// A recipient was answered with a 5xx, after which some senders try again.
    pub(super) fn refuse(&mut self, recipient: &str, now: Moment) {
        self.put_off(recipient, now);
        if !self.refused.contains(recipient) {
            self.refused.insert(recipient.to_owned());
        }
    }

    /// A sender was turned away, whoever the mail was for.
    pub(super) fn turn_away(&mut self, site: usize, now: Moment) {
        self.turned_away.entry(site).or_default().insert(now.as_secs());
    }

    /// A connection was ended over one recipient; several in a row make a sender stay away.
    pub(super) fn lose(&mut self, source: IpAddr, site: usize, now: Moment) {
        let lost = self.lost.entry((source, site)).or_default();
        *lost += 1;
        if *lost >= IN_A_ROW {
            self.turn_away(site, now);
        }
    }

    /// A message was taken.
    pub(super) fn serve(&mut self, source: IpAddr, site: usize) {
        self.lost.remove(&(source, site));
        self.served.insert(site);
    }

    /// Whether this recipient was ever refused for good, with a 5xx.
    pub fn was_refused(&self, recipient: &str) -> bool {
        self.refused.contains(recipient)
    }

    /// Whether this recipient was last put off or refused in that time: one who was tried once and then forgotten was not.
    pub fn was_put_off(&self, recipient: &str, from: Moment, to: Moment) -> bool {
        self.put_off.get(recipient).is_some_and(|last| (from..=to).contains(last))
    }

    /// Whether a site turned senders away in that time.
    pub fn turned_away(&self, site: usize, from: Moment, to: Moment) -> bool {
        self.turned_away.get(&site).is_some_and(|seconds| seconds.range(from.as_secs()..=to.as_secs()).next().is_some())
    }

    /// Whether a site ever took a message.
    pub fn has_served(&self, site: usize) -> bool {
        self.served.contains(&site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_lost_connection_turns_nobody_away_but_three_in_a_row_do() {
        let source = IpAddr::from([127, 1, 0, 1]);
        let at = Moment::from_secs;
        let mut troubles = Troubles::default();
        troubles.lose(source, 0, at(1));
        troubles.lose(source, 0, at(2));
        troubles.serve(source, 0);
        troubles.lose(source, 0, at(3));
        assert!(!troubles.turned_away(0, at(0), at(9)) && troubles.has_served(0));
        troubles.lose(source, 0, at(4));
        troubles.lose(source, 0, at(5));
        assert!(troubles.turned_away(0, at(5), at(9)) && !troubles.turned_away(0, at(6), at(9)));
        troubles.put_off("a@b.test", at(2));
        troubles.refuse("a@b.test", at(5));
        assert!(troubles.was_refused("a@b.test") && troubles.was_put_off("a@b.test", at(5), at(9)));
        assert!(!troubles.was_put_off("a@b.test", at(6), at(9)));
        troubles.turn_away(1, at(7));
        assert!(troubles.turned_away(1, at(0), at(7)) && !troubles.has_served(1));
    }
}
