//! A start on which a version on trial has not been judged: whether it is given more time, since it is at work or waits for people.

/// The unit that judges.
pub const GATE: &str = "postkeep-gate.service";
/// Is starting as long as the box waits for its custodians.
const SEALED: &str = "postkeep-open.service";
/// What they need to open it.
const LETS_CUSTODIANS_IN: [&str; 2] = ["postkeep-opener.service", "postkeep-door.service"];
/// Is starting as long as the data volume is being opened; without a TPM and custodians a person types its passphrase.
const OPENS: &str = "systemd-cryptsetup@postkeep\\x2ddata.service";

/// What a box is opened by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// It has a TPM.
    pub has_tpm: bool,
    /// It has custodians: there is a token on its boot partition.
    pub has_custodians: bool,
    /// Enough of them have answered, and the volume did not open.
    pub is_refused: bool,
}

/// Why this start goes on, if it does. `state` is what systemd calls the state of a unit.
///
/// # Errors
/// systemd does not say.
pub fn excuse<E>(opened: Opened, state: impl Fn(&str) -> Result<String, E>) -> Result<Option<&'static str>, E> {
    let is_starting = |unit| Ok::<_, E>(state(unit)? == "activating");
    if is_starting(GATE)? {
        return Ok(Some("it is being judged"));
    }
    if is_starting("postkeepd.service")? {
        return Ok(Some("the mail core is still starting, and knows how long it may take"));
    }
    // People take their time, and sleep at night. A version that does not let them in has no such excuse.
    if opened.has_custodians {
        let lets_in =
            LETS_CUSTODIANS_IN.iter().try_fold(true, |all, unit| Ok::<_, E>(all && state(unit)? == "active"))?;
        if !opened.is_refused && is_starting(SEALED)? && lets_in {
            return Ok(Some("it waits for its custodians, who can reach it"));
        }
    } else if !opened.has_tpm && is_starting(OPENS)? {
        return Ok(Some("it waits for its passphrase"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUSTODIANS: Opened = Opened { has_tpm: false, has_custodians: true, is_refused: false };

    /// What becomes of a start on which these units are starting, and these are active.
    fn told(opened: Opened, starting: &[&str], active: &[&str]) -> Option<&'static str> {
        let state = |unit: &str| {
            let state = if starting.contains(&unit) {
                "activating"
            } else if active.contains(&unit) {
                "active"
            } else {
                "inactive"
            };
            Ok::<_, ()>(state.to_owned())
        };
        excuse(opened, state).unwrap()
    }

    #[test]
    fn what_hangs_has_no_excuse_with_a_tpm_and_without() {
        for has_tpm in [false, true] {
            for has_custodians in [false, true] {
                let opened = Opened { has_tpm, has_custodians, ..CUSTODIANS };
                assert_eq!(told(opened, &["postkeep-settle.service"], &LETS_CUSTODIANS_IN), None, "{opened:?}");
                assert!(told(opened, &[GATE], &[]).unwrap().contains("judged"));
                assert!(told(opened, &["postkeepd.service"], &[]).unwrap().contains("still starting"));
            }
        }
    }

    #[test]
    fn people_are_waited_for_as_long_as_they_can_reach_it() {
        assert!(told(CUSTODIANS, &[SEALED], &LETS_CUSTODIANS_IN).unwrap().contains("custodians"));
        assert_eq!(told(CUSTODIANS, &[SEALED], &LETS_CUSTODIANS_IN[..1]), None, "its door is not there");
        assert_eq!(told(Opened { is_refused: true, ..CUSTODIANS }, &[SEALED], &LETS_CUSTODIANS_IN), None);
        // Nobody is asked for a passphrase where custodians open it, and where a TPM does.
        let passphrase = Opened { has_custodians: false, ..CUSTODIANS };
        assert!(told(passphrase, &[OPENS], &[]).unwrap().contains("passphrase"));
        assert_eq!(told(CUSTODIANS, &[OPENS], &LETS_CUSTODIANS_IN), None);
        assert_eq!(told(Opened { has_tpm: true, ..passphrase }, &[OPENS], &[]), None, "a TPM needs no such time");
    }
}
