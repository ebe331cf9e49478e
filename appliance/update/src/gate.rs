//! Whether this start of the machine is a good one: a new version stays only when mail works on it.
//!
//! The gate runs at each start, before `boot-complete.target`. It asks the mail core to examine itself (queue, keys,
//! suppression, a message that goes all the way to a sink) and waits while that is still starting. Only a version on
//! trial is sent back; on one that has proved itself a failure is said, and the box goes on as well as it can.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the mail core may take until it is well. A spool of millions is read in some seconds.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// Which.
    pub name: String,
    /// Whether it is well.
    pub well: bool,
    /// What was found.
    pub detail: String,
    /// How many entries the suppression list has.
    #[serde(default)]
    pub entries: Option<u64>,
}

/// What the gate sees when it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// There is no configuration of mail yet: nothing can be examined but that the box is up.
    Unconfigured,
    /// The unit of the mail core has failed for good, with what systemd says.
    Failed(String),
    /// It does not answer, or not yet, with why.
    Silent(String),
    /// It has examined itself.
    Examined(Vec<Check>),
}

/// What the gate concludes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Look again.
    Wait,
    /// This start is good.
    Well(String),
    /// It is not.
    Unwell(String),
}

/// How many entries the suppression list has, as an examination says.
#[must_use]
pub fn suppressed(checks: &[Check]) -> Option<u64> {
    checks.iter().find_map(|check| check.entries)
}

/// The verdict after `elapsed` since the gate began to look. `suppressed` is how many entries the suppression list had at the last good start,
/// where this version has still to prove that it finds it; none if mail was not configured then. A list that has lost more than half of them
/// was not read in full; an owner who has taken as many out since that start updates after the next.
#[must_use]
pub fn judge(seen: &Seen, suppressed: Option<u64>, elapsed: Duration) -> Verdict {
    let over = elapsed >= PATIENCE;
    match seen {
        Seen::Unconfigured if suppressed.is_some() => Verdict::Unwell(
            "there is no configuration of mail, and there was one at the last good start before".to_owned(),
        ),
        Seen::Unconfigured => Verdict::Well("there is no configuration of mail yet".to_owned()),
        Seen::Failed(why) => Verdict::Unwell(format!("the mail core does not run: {why}")),
        Seen::Silent(why) if over => {
            Verdict::Unwell(format!("the mail core did not answer within {} seconds: {why}", PATIENCE.as_secs()))
        }
        Seen::Silent(_) => Verdict::Wait,
        Seen::Examined(checks) => {
            let lost = suppressed.zip(self::suppressed(checks)).filter(|(before, now)| *now < before.div_ceil(2));
            let lost = lost.map(|(before, now)| {
                format!("suppression: the list has {now} entries, and had {before} at the last good start before")
            });
            let unwell: Vec<String> = checks
                .iter()
                .filter(|check| !check.well)
                .map(|check| format!("{}: {}", check.name, check.detail))
                .chain(lost)
                .collect();
            match (checks.is_empty(), unwell.is_empty()) {
                (true, _) => Verdict::Unwell("the mail core examined nothing".to_owned()),
                (false, true) => {
                    let names: Vec<&str> = checks.iter().map(|check| &*check.name).collect();
                    Verdict::Well(format!("{} are well", names.join(", ")))
                }
                // What needs a moment (a receiver that is slow, a disk that syncs) gets it.
                (false, false) if !over => Verdict::Wait,
                (false, false) => Verdict::Unwell(unwell.join("; ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, well: bool) -> Check {
        Check { name: name.to_owned(), well, detail: "detail".to_owned(), entries: None }
    }

    #[test]
    fn a_version_that_does_not_find_whom_not_to_write_to_is_sent_back() {
        let seen = |entries| Seen::Examined(vec![Check { entries: Some(entries), ..check("suppression", true) }]);
        let Verdict::Unwell(why) = judge(&seen(0), Some(7), PATIENCE) else { panic!() };
        assert!(why.contains("the list has 0 entries, and had 7"), "{why}");
        for (entries, before) in [(3, 7), (0, 1), (499_999, 1_000_000)] {
            assert!(matches!(judge(&seen(entries), Some(before), PATIENCE), Verdict::Unwell(_)), "{entries} {before}");
        }
        for (entries, before) in [(4, Some(7)), (1, Some(1)), (0, Some(0)), (0, None), (9, Some(7))] {
            assert!(matches!(judge(&seen(entries), before, Duration::ZERO), Verdict::Well(_)), "{entries} {before:?}");
        }
    }

    #[test]
    fn a_start_is_good_when_everything_is_well_and_not_when_nothing_was_examined() {
        let seen = Seen::Examined(vec![check("queue", true), check("message", true)]);
        assert!(matches!(judge(&seen, None, Duration::ZERO), Verdict::Well(_)));
        assert!(matches!(judge(&Seen::Examined(Vec::new()), None, Duration::ZERO), Verdict::Unwell(_)));
        assert!(matches!(judge(&Seen::Unconfigured, None, Duration::ZERO), Verdict::Well(_)));
        assert!(matches!(judge(&Seen::Unconfigured, Some(0), Duration::ZERO), Verdict::Unwell(_)), "it was configured");
    }

    #[test]
    fn what_may_still_come_is_waited_for_and_not_for_ever() {
        let unwell = Seen::Examined(vec![check("queue", true), check("message", false)]);
        for seen in [unwell, Seen::Silent("connection refused".to_owned())] {
            assert_eq!(judge(&seen, None, PATIENCE - Duration::from_secs(1)), Verdict::Wait);
            let Verdict::Unwell(why) = judge(&seen, None, PATIENCE) else { panic!("{seen:?}") };
            assert!(why.contains("message: detail") || why.contains("connection refused"), "{why}");
        }
        let failed = Seen::Failed("exit-code".to_owned());
        assert!(matches!(judge(&failed, None, Duration::ZERO), Verdict::Unwell(_)), "nobody waits for what is over");
    }
}
