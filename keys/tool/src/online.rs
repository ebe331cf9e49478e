//! What is asked of a box over the network, besides opening it.

use std::path::Path;
use std::time::{Duration, Instant};

use age::Callbacks as _;
use postkeep_keys::challenge::{Asked, respond as answer_to};
use postkeep_keys::wire::{Reply, Request, Seal, State};
use postkeep_keys::{Grade, Held, Name, Offer, Purpose, Token};
use serde_json::json;

use crate::arguments::{At, Member, Trust};
use crate::attest::{self, Vouched, Vouching};
use crate::client::Client;
use crate::identities;
use crate::outcome::{Failure, Outcome, bad, must_be_new, read, refused, write_new};
use crate::terminal::Terminal;
use crate::work;

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

pub(crate) fn token(at: &At, out: &Path) -> Result<Outcome, Failure> {
    must_be_new(out)?;
    let client = client(at)?;
    let Reply::Token { note } = client.ask(&Request::Token)? else { return Err(strange()) };
    let token = Token::unverified(note.as_bytes()).map_err(bad)?;
    write_new(out, note.as_bytes())?;
    let said = format!(
        "{} is the token of the volume {}, key set {}; its sum is {}.\n\
         Compare the sum with the other custodians and with the console of the box before you rely on it.\n",
        out.display(),
        token.volume,
        token.epoch,
        token.sum()
    );
    Ok(Outcome::new(said, json!({"volume": token.volume, "epoch": token.epoch, "token": token.sum(), "file": out})))
}

/// A custodian's first day: the token, whether one's own key opens a share in it, and the proof of that to the box.
pub(crate) fn enrol(
    at: &At,
    trust: &Trust,
    vouching: &Vouching,
    identity: &Path,
    name: Option<&Name>,
    out: &Path,
) -> Result<Outcome, Failure> {
    let client = client(at)?;
    let Reply::Token { note } = client.ask(&Request::Token)? else { return Err(strange()) };
    let (token, is_checked) = work::token_of(note.as_bytes(), "the token of the box", trust)?;
    let mut mine: Vec<Held> = Vec::new();
    for purpose in [Purpose::Opening, Purpose::Recovery] {
        mine.extend(work::shares_of(&token, identity, name, purpose)?);
    }
    let state = state_of(&client)?;
    // On the first day nobody knows the box by its TPM yet: what is seen is whether that in the token answers, and what it vouches for.
    let vouched = match state.offer.as_ref().or(state.changes.as_ref()) {
        _ if vouching.releases.is_empty() => None,
        Some(offer) => {
            work::must_be_of(&token, offer)?;
            Some(attest::vouched(&client, &token, offer, vouching, false)?)
        }
        None => {
            return Err(refused(format!(
                "the box is {}, and its TPM is asked in a moment; try again",
                named(state.seal)
            )));
        }
    };
    // Whoever tries once more, since the proof did not come through, has it already.
    if !read(out).is_ok_and(|kept| *kept == *note.as_bytes()) {
        write_new(out, note.as_bytes())?;
    }
    let set = token.key_set();
    let mut said = format!(
        "{} is the token of the volume {}, key set {}; its sum is {}.\n\
         {} of {} custodians open it.\n",
        out.display(),
        token.volume,
        token.epoch,
        token.sum(),
        set.threshold,
        set.custodians.len()
    );
    for held in &mine {
        said += &format!("Your key opens the share of {} for {}.\n", held.name, held.purpose.name());
    }
    said += vouched.as_ref().map_or("", |vouched| &vouched.said);
    let is_open = state.seal == Seal::Open;
    let mut names: Vec<Name> = mine.iter().map(|held| held.name.clone()).collect();
    names.sort();
    names.dedup();
    for name in names.iter().filter(|_| is_open) {
        said += &ask(&client, &token, Asked::Possession, name, identity)?;
    }
    if !is_open {
        said += "The box is not open, and writes nothing down: prove it when it is (`postkeep-keys prove`).\n";
    }
    said += "Compare the sum with the other custodians, keep the file, and put your share on paper (`postkeep-keys paper`).\n";
    let json = json!({
        "volume": token.volume, "epoch": token.epoch, "token": token.sum(), "file": out, "signature-checked": is_checked,
        "names": names, "proven": is_open, "grade": vouched.as_ref().map(|vouched| vouched.grade),
        "posture": vouched.and_then(|vouched| vouched.posture),
    });
    Ok(Outcome::new(said, json))
}

pub(crate) fn state(at: &At) -> Result<Outcome, Failure> {
    let client = client(at)?;
    let state = state_of(&client)?;
    let mut said =
        format!("volume       {}\nkey set      {}\nseal         {}\n", state.volume, state.epoch, named(state.seal));
    if let Some(offer) = &state.offer {
        said += &format!("cause        {}\noffer        {offer}\n", offer.cause.name());
    }
    for progress in &state.progress {
        said +=
            &format!("{:<12} {} of {} have answered\n", progress.purpose.name(), progress.count, progress.threshold);
    }
    let certificate = client.certificate();
    if let Some(certificate) = certificate {
        said += &format!("certificate  {certificate}\n");
    }
    Ok(Outcome::new(said, json!({"state": state, "certificate": certificate})))
}

/// `wait`: how long it may take until the box is sealed.
pub(crate) fn seal(at: &At, member: &Member, wait: Duration) -> Result<Outcome, Failure> {
    let outcome = respond(at, Asked::Seal, member)?;
    if wait.is_zero() {
        return Ok(outcome);
    }
    let began = Instant::now();
    while began.elapsed() < wait {
        std::thread::sleep(BETWEEN_LOOKS);
        // While it is being sealed its opener is started anew, and does not answer for a moment.
        if let Ok(state) = client(at).and_then(|client| state_of(&client))
            && state.seal == Seal::Sealed
        {
            let json = json!({"name": member.name, "asked": Asked::Seal, "done": true, "sealed": true});
            return Ok(Outcome::new(
                "The box is sealed: mail has stopped, and the volume is closed.\n".to_owned(),
                json,
            ));
        }
    }
    Err(refused(format!(
        "the box has taken the order, and does not say within {} s that it is sealed; ask `state`, or have it switched off",
        wait.as_secs()
    )))
}

pub(crate) fn respond(at: &At, asked: Asked, member: &Member) -> Result<Outcome, Failure> {
    // Before anything is asked of the box.
    let name = &member.name;
    let (token, _) = work::token(&member.token, &member.trust)?;
    let set = token.key_set();
    let all = set.custodians.iter().chain(set.recovery.iter().flat_map(|set| &set.custodians));
    if !all.clone().any(|custodian| custodian.name == *name) {
        let known: Vec<&str> = all.map(|custodian| custodian.name.as_str()).collect();
        return Err(bad(format!("nobody called {name} is in the token; it names {}", known.join(", "))));
    }
    let said = ask(&client(at)?, &token, asked, name, &member.identity)?;
    Ok(Outcome::new(said, json!({"name": name, "asked": asked, "done": true})))
}

/// Has the box ask `name` a question, answers it with the key in `identity`, and says what became of it.
fn ask(client: &Client, token: &Token, asked: Asked, name: &Name, identity: &Path) -> Result<String, Failure> {
    let identities = identities::open(identity)?;
    let identities: Vec<&dyn age::Identity> =
        identities.iter().map(|identity| &**identity as &dyn age::Identity).collect();
    let question = match client.ask(&Request::Ask { asked, name: name.clone() })? {
        Reply::Question { question } => question,
        Reply::Refused => {
            let state = state_of(client)?;
            return Err(refused(match state.seal {
                Seal::Open if asked == Asked::Restart => {
                    "the box is open, and is not started anew under its mail; have it sealed first (`seal`)".to_owned()
                }
                Seal::Open if state.changes.is_none() => {
                    "the box is being given a new key set; try again in a moment, with the new token".to_owned()
                }
                Seal::Open => format!("the box does not know {name}: it has another token than yours"),
                seal => format!("the box is {}, and asks nothing then", named(seal)),
            }));
        }
        _ => return Err(strange()),
    };
    let (question, response) = answer_to(question.as_bytes(), asked, &identities).map_err(bad)?;
    // Whoever stands in between may hand on the question of another box of ours.
    if question.volume != token.volume || question.name != *name {
        return Err(refused(format!(
            "the question is that of another box (volume {}) to {}, and is not answered: somebody is in between, or the address is wrong",
            question.volume, question.name
        )));
    }
    Ok(match (client.ask(&Request::Respond { asked, name: name.clone(), response })?, asked) {
        (Reply::Done, Asked::Possession) => format!("The box has written down that {name} holds their key.\n"),
        (Reply::Done, Asked::Seal) => "The box is being sealed: mail stops, and the volume is closed.\n".to_owned(),
        (Reply::Done, Asked::Restart) => {
            "The machine is started anew: it offers itself again in some minutes, with another certificate.\n"
                .to_owned()
        }
        (Reply::Failed, Asked::Restart) => {
            return Err(refused("the box could not do it, and its journal says why; have it switched off and on"));
        }
        (Reply::Failed, Asked::Possession) => {
            return Err(refused("the box could not write it down; its journal says why. Try again later"));
        }
        (Reply::Failed, Asked::Seal) => {
            return Err(refused(
                "THE BOX IS NOT SEALED: it could not do it, and its journal says why. Try again, or have it switched off",
            ));
        }
        (Reply::Refused, _) => return Err(refused("the box does not count the response; its journal says why")),
        _ => return Err(strange()),
    })
}

/// How the box is.
pub(crate) fn state_of(client: &Client) -> Result<State, Failure> {
    match client.ask(&Request::State)? {
        Reply::State(state) => Ok(*state),
        _ => Err(strange()),
    }
}

/// Has whoever types say that what answers is their box, and that they want `change`, where they want one.
pub(crate) fn confirm(
    client: &Client,
    state: &State,
    (offer, vouched): (&Offer, &Vouched),
    change: Option<&str>,
) -> Result<(), Failure> {
    let certificate = client.certificate().map_or_else(String::new, |sum| sum.to_string());
    let wanted = change.map_or_else(String::new, |change| format!("What you want:\n{change}"));
    // What the console of a box shows that is open, or that waits.
    let shown = if change.is_some() {
        String::new()
    } else {
        format!("  cause        {}\n  start        {}\n", offer.cause.name(), offer.boot)
    };
    let is_vouched = vouched.grade >= Grade::A2;
    let question = format!(
        "A box answers there.\n  volume       {}\n  key set      {}\n{shown}  certificate  {certificate}\n{}{}{wanted}{}{}?",
        state.volume,
        state.epoch,
        vouched.said,
        if is_vouched {
            ""
        } else {
            "Compare with its console, or ask somebody who sees it. Whoever stands in between would get your share.\n"
        },
        if is_vouched { "Shall it have your share" } else { "Is it your box" },
        if change.is_some() { ", and is that what you want" } else { "" },
    );
    match Terminal.confirm(&question, "yes", Some("no")) {
        Some(true) => Ok(()),
        Some(false) => Err(refused("nothing was sent")),
        // Nobody is there to be asked, and its TPM has said what they would have looked for.
        None if is_vouched && change.is_none() => Ok(()),
        None => Err(refused(format!(
            "nobody can be asked whether this is your box: give {}--certificate {certificate}, once you have compared it with its console\n{wanted}",
            if change.is_some() { "--yes and " } else { "" },
        ))),
    }
}

/// For people.
pub(crate) fn named(seal: Seal) -> &'static str {
    match seal {
        Seal::Sealed => "sealed",
        Seal::Opening => "being opened",
        Seal::Open => "open",
        Seal::Sealing => "being sealed",
    }
}

fn client(at: &At) -> Result<Client, Failure> {
    Client::new(&at.address, at.certificate)
}

pub(crate) fn strange() -> Failure {
    bad("the box says what was not asked: one of them is older than the other")
}
