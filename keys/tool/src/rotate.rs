//! A new key set for a box in use: who opens it from now on. A quorum of those who open it today wants it, each on their own machine, and
//! the box counts those who want the very same.

use std::path::Path;
use std::time::{Duration, Instant};

use postkeep_keys::wire::{Reply, Request, Seal};
use postkeep_keys::{Cause, Custodian, KeySet, Offer, Token};
use serde_json::json;

use crate::arguments::{At, Holding, Trust};
use crate::attest::{self, Vouching};
use crate::client::Client;
use crate::outcome::{Failure, Outcome, bad, must_be_new, read, refused, write_new};
use crate::{online, work};

/// New slots are made in seconds; a second disk that does not answer is waited for.
const MADE_WITHIN: Duration = Duration::from_secs(240);
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What is wanted.
pub(crate) struct Wanted<'a> {
    /// The new key set; the same people with new shares, where there is none.
    pub(crate) to: Option<&'a Path>,
    /// Why.
    pub(crate) reason: &'a str,
    /// The words of the share, where it is not taken from a key.
    pub(crate) paper: Option<&'a Path>,
    /// Whether nobody is asked.
    pub(crate) is_sure: bool,
    /// Where the new token goes.
    pub(crate) out: &'a Path,
}

pub(crate) fn rotate(holding: &Holding, at: &At, vouching: &Vouching, wanted: &Wanted<'_>) -> Result<Outcome, Failure> {
    let out = wanted.out;
    must_be_new(out)?;
    let (token, _) = work::token(&holding.token, &holding.trust)?;
    let set = match wanted.to {
        None => token.key_set(),
        Some(file) => {
            let text = read(file)?;
            let text = std::str::from_utf8(&text).map_err(|_| bad(format!("{}: no text", file.display())))?;
            KeySet::parse(text).map_err(|error| bad(format!("{}: {error}", file.display())))?
        }
    };
    let client = Client::new(&at.address, at.certificate)?;
    let state = online::state_of(&client)?;
    let Some(offer) = &state.changes else {
        return Err(refused(match state.seal {
            Seal::Open => {
                "the box is being given a new key set at this moment; ask `state`, and fetch its token".to_owned()
            }
            seal => format!("the box is {}; it takes a new key set only while it is open", online::named(seal)),
        }));
    };
    if offer.cause != Cause::Change {
        return Err(refused("what the box offers is to open it, and not for a new key set; it is not what it says"));
    }
    work::must_be_of(&token, offer)?;
    // It was open since it was started: it is.
    let vouched = attest::vouched(&client, &token, offer, vouching, false)?;
    if !wanted.is_sure || at.certificate.is_none() {
        online::confirm(&client, &state, (offer, &vouched), Some(&change(&token, &set)))?;
    }
    let (held, answer) =
        work::answer(&token, holding, (offer, vouched.grade), wanted.reason, wanted.paper, Some(set.clone()))?;
    match client.ask(&Request::Answer { answer })? {
        Reply::Counted { progress } => {
            let (count, threshold) = (progress.count, progress.threshold);
            let said = format!(
                "Your answer counts: {count} of {threshold} want this key set. The others give the same file (`rotate --to`), within a day. \
                 Then everybody fetches the new token (`enrol`).\n"
            );
            Ok(Outcome::new(said, json!({"name": held.name, "count": count, "threshold": threshold, "changed": false})))
        }
        Reply::Changes => {
            let (new, note) = changed(&client, &token, offer, (&set, vouching.unattested), &holding.trust)?;
            write_new(out, note.as_bytes())?;
            let said = format!(
                "Your answer was the last that was needed: {} of {} custodians open the box from now on.\n\
                 {} is its token, key set {}; its sum is {}.\n\
                 Now each of them fetches it (`enrol`), compares the sum, and puts the new share on paper. UNTIL {} OF THEM HAVE ENROLLED the shares \
                 before open the box as well: keep them, and do not seal it. Then they are worth nothing.\n",
                set.threshold,
                set.custodians.len(),
                out.display(),
                new.epoch,
                new.sum(),
                set.threshold,
            );
            let json = json!({"name": held.name, "changed": true, "epoch": new.epoch, "token": new.sum(), "file": out});
            Ok(Outcome::new(said, json))
        }
        _ => Err(refused("the box does not count the answer; its console and its journal say why")),
    }
}

/// The token of the new key set, once the box has it.
fn changed(
    client: &Client,
    before: &Token,
    offer: &Offer,
    (set, may_change_tpm): (&KeySet, bool),
    trust: &Trust,
) -> Result<(Token, String), Failure> {
    let began = Instant::now();
    while began.elapsed() < MADE_WITHIN {
        std::thread::sleep(BETWEEN_LOOKS);
        let Ok(state) = online::state_of(client) else { continue };
        if state.epoch > before.epoch {
            let Reply::Token { note } = client.ask(&Request::Token)? else { return Err(online::strange()) };
            let (token, _) = work::token_of(note.as_bytes(), "the token of the box", trust)?;
            if token.volume != before.volume || token.key_set() != *set {
                return Err(refused(
                    "the box has a new key set, and it is another one than you wanted: ask the other custodians",
                ));
            }
            if before.tpm.is_some() && before.tpm != token.tpm && !may_change_tpm {
                return Err(refused(
                    "the new token names another TPM than yours, or none, or other keys of Secure Boot: the machine was changed, or somebody is in it. \
                     Look into it before you enrol",
                ));
            }
            return Ok((token, note));
        }
        if state.changes.is_some_and(|new| new.boot != offer.boot) {
            return Err(refused(
                "the box could not make the new key set, and the one before holds; its journal says why",
            ));
        }
    }
    Err(refused(format!(
        "the box has taken the order, and does not say within {} s that the new key set is made; ask `state`",
        MADE_WITHIN.as_secs()
    )))
}

/// What changes, in lines.
fn change(before: &Token, set: &KeySet) -> String {
    let old = before.key_set();
    let mut said = format!(
        "  key set      {} \u{2192} {}\n  opened by    {} of {} \u{2192} {} of {}\n",
        before.epoch,
        before.epoch + 1,
        old.threshold,
        old.custodians.len(),
        set.threshold,
        set.custodians.len()
    );
    said += &listed("", &old.custodians, &set.custodians);
    let none = Vec::new();
    let recovery = |set: &'_ KeySet| set.recovery.as_ref().map_or_else(|| none.clone(), |set| set.custodians.clone());
    said += &listed("recovery: ", &recovery(&old), &recovery(set));
    if let Some(recovery) = &set.recovery {
        said += &format!("  recovered by {} of {}\n", recovery.threshold, recovery.custodians.len());
    }
    for warning in set.warnings() {
        said += &format!("  warning      {warning}\n");
    }
    said
}

fn listed(what: &str, old: &[Custodian], new: &[Custodian]) -> String {
    let line = |does: &str, custodian: &Custodian| {
        let keys: Vec<String> = custodian.recipients.iter().map(ToString::to_string).collect();
        format!("  {does:<12} {what}{}  {}\n", custodian.name, keys.join(" "))
    };
    let missing = |from: &[Custodian], custodian: &Custodian| !from.iter().any(|other| other.name == custodian.name);
    let mut said = String::new();
    for custodian in old.iter().filter(|custodian| missing(new, custodian)) {
        said += &line("leaves", custodian);
    }
    for custodian in new.iter().filter(|custodian| missing(old, custodian)) {
        said += &line("comes", custodian);
    }
    let has_other_keys = |custodian: &&Custodian| !old.contains(custodian) && !missing(old, custodian);
    for custodian in new.iter().filter(has_other_keys) {
        said += &line("other keys", custodian);
    }
    said
}
