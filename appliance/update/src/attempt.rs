//! An update that is under way, over restarts and losses of power: what was wanted, and how it ended.

use std::fmt;

use jiff::Timestamp;
use postkeep_journal::{UPDATE_ABANDONED, UPDATE_FELL_BACK, UPDATE_INSTALLED, UPDATE_ROLLED_BACK, UPDATE_TAKEN};
use postkeep_release::Version;
use serde::{Deserialize, Serialize};

use crate::boot_file::Standing;

/// An update or a way back that has begun and whose end is not known yet. Kept on the data volume, which both versions
/// read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attempt {
    /// What ran when it began.
    pub from: Version,
    /// What is to run.
    pub to: Version,
    /// When it began.
    pub since: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// Its owner wants a version again that had proved itself; nothing is installed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
    /// What had proved itself when it began, but for what ran: the way back, as long as its slot is whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<Version>,
    /// What the new version found wrong with itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwell: Option<String>,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The other slot is being written; it does not start yet.
    Writing,
    /// The other slot is whole and is started next.
    Written,
    /// The machine goes down for it.
    Restarting,
}

/// Something that happened to the version of this box; kept for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A release lies whole in the other slot.
    Installed {
        /// What ran.
        from: Version,
        /// What was installed.
        to: Version,
    },
    /// It has proved itself.
    Taken {
        /// What ran before.
        from: Version,
        /// What runs.
        to: Version,
    },
    /// It has not, and the version before runs again.
    FellBack {
        /// What did not prove itself.
        from: Version,
        /// What runs again.
        to: Version,
        /// Why.
        reason: String,
    },
    /// The owner wanted the version before.
    RolledBack {
        /// What ran.
        from: Version,
        /// What was gone back to.
        to: Version,
    },
    /// It was begun and came to nothing; what ran still runs.
    Abandoned {
        /// What was to run.
        to: Version,
        /// Why not.
        reason: String,
    },
}

impl Event {
    /// Says in the journal that it has happened.
    pub fn tell(&self) {
        match self {
            Self::Installed { from, to } => UPDATE_INSTALLED.tell(format_args!("{self}"), [from, to]),
            Self::Taken { from, to } => UPDATE_TAKEN.tell(format_args!("{self}"), [from, to]),
            Self::FellBack { from, to, reason } => UPDATE_FELL_BACK.tell(format_args!("{self}"), [from, to, reason]),
            Self::RolledBack { from, to } => UPDATE_ROLLED_BACK.tell(format_args!("{self}"), [from, to]),
            Self::Abandoned { to, reason } => UPDATE_ABANDONED.tell(format_args!("{self}"), [to, reason]),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed { from, to } => write!(out, "{to} installed beside {from}"),
            Self::Taken { from, to } => write!(out, "{to} has proved itself and stays, after {from}"),
            Self::FellBack { from, to, reason } => {
                write!(out, "{from} did not prove itself, {to} runs again: {reason}")
            }
            Self::RolledBack { from, to } => write!(out, "back from {from} to {to}, as its owner wanted"),
            Self::Abandoned { to, reason } => write!(out, "nothing became of {to}: {reason}"),
        }
    }
}

impl Attempt {
    /// How it has ended when [`Self::to`] has proved itself.
    #[must_use]
    pub const fn proven(&self) -> Event {
        let Self { from, to, .. } = *self;
        if self.back { Event::RolledBack { from, to } } else { Event::Taken { from, to } }
    }
}

/// What this start of the machine means for an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It is not decided yet: the version that runs has to prove itself, or the other one was not started yet.
    Open,
    /// It has ended thus.
    Ended(Event),
}

/// What this start means: `running` runs, and `wanted` is what the boot file of [`Attempt::to`] says (none when it is
/// not there).
#[must_use]
pub fn reconcile(attempt: &Attempt, running: Version, wanted: Option<Standing>) -> Meaning {
    let to = attempt.to;
    if running == to {
        return match wanted {
            // Blessed; the power may have gone before that was written down.
            Some(Standing::Good) => Meaning::Ended(attempt.proven()),
            // A boot partition where what runs has no file was changed by hand: the gate decides.
            _ => Meaning::Open,
        };
    }
    let fell = |reason: String| Meaning::Ended(Event::FellBack { from: to, to: running, reason });
    match (attempt.stage, wanted, &attempt.unwell) {
        (_, _, Some(reason)) => fell(reason.clone()),
        (Stage::Writing, _, None) => Meaning::Ended(Event::Abandoned {
            to,
            reason: "the machine stopped while the slot was being written; apply it again".to_owned(),
        }),
        (_, Some(Standing::Bad), None) => fell(
            "it was started as often as it may be and did not come far enough to say what is wrong; the journal of \
             those starts, if they had one, is the last before this one"
                .to_owned(),
        ),
        (_, Some(Standing::Good), None) if attempt.back => Meaning::Ended(Event::Abandoned {
            to,
            reason: "the machine stopped before it was made the next to start; ask for it again".to_owned(),
        }),
        (_, None, None) => fell("its boot file is not there any more".to_owned()),
        // The firmware or a person at the screen chose the old one; it is still to be started.
        (Stage::Written | Stage::Restarting, Some(_), None) => Meaning::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Version = Version::new(1, 0, 0);
    const B: Version = Version::new(1, 1, 0);

    fn attempt(stage: Stage) -> Attempt {
        Attempt { from: A, to: B, since: Timestamp::UNIX_EPOCH, stage, back: false, spared: Vec::new(), unwell: None }
    }

    fn ended(meaning: Meaning) -> Event {
        match meaning {
            Meaning::Ended(event) => event,
            Meaning::Open => panic!("open"),
        }
    }

    #[test]
    fn a_new_version_is_open_until_it_is_blessed() {
        let here = attempt(Stage::Restarting);
        assert_eq!(reconcile(&here, B, Some(Standing::OnTrial { left: 2, done: 1 })), Meaning::Open);
        assert_eq!(ended(reconcile(&here, B, Some(Standing::Good))), Event::Taken { from: A, to: B });
    }

    #[test]
    fn the_old_version_says_why_it_runs_again() {
        let mut here = attempt(Stage::Restarting);
        let event = ended(reconcile(&here, A, Some(Standing::Bad)));
        assert!(matches!(&event, Event::FellBack { from: B, to: A, reason } if reason.contains("as often")), "{event}");
        here.unwell = Some("the queue does not open".to_owned());
        // Also when the power went after that was written and before the boot file was condemned.
        for standing in [Standing::Bad, Standing::OnTrial { left: 2, done: 1 }] {
            let event = ended(reconcile(&here, A, Some(standing)));
            assert!(matches!(&event, Event::FellBack { reason, .. } if reason.contains("queue")), "{event}");
        }
    }

    #[test]
    fn a_loss_of_power_while_the_slot_is_written_leaves_what_ran() {
        for wanted in [None, Some(Standing::Bad), Some(Standing::OnTrial { left: 3, done: 0 })] {
            assert!(matches!(ended(reconcile(&attempt(Stage::Writing), A, wanted)), Event::Abandoned { to: B, .. }));
        }
        let started = Some(Standing::OnTrial { left: 3, done: 0 });
        assert_eq!(reconcile(&attempt(Stage::Written), A, started), Meaning::Open);
        assert!(matches!(ended(reconcile(&attempt(Stage::Written), A, None)), Event::FellBack { .. }));
    }

    #[test]
    fn a_way_back_has_ended_when_the_older_one_has_proved_itself() {
        let here = Attempt { from: B, to: A, back: true, ..attempt(Stage::Restarting) };
        assert_eq!(reconcile(&here, A, Some(Standing::OnTrial { left: 2, done: 1 })), Meaning::Open);
        assert_eq!(ended(reconcile(&here, A, Some(Standing::Good))), Event::RolledBack { from: B, to: A });
        let event = ended(reconcile(&here, B, Some(Standing::Bad)));
        assert!(matches!(event, Event::FellBack { from: A, to: B, .. }), "{event}");
        // The power went before a boot file was renamed.
        assert!(matches!(ended(reconcile(&here, B, Some(Standing::Good))), Event::Abandoned { to: A, .. }));
    }
}
