//! What is asked of a box over the network, besides opening it.

use std::path::Path;

use postkeep_keys::challenge::{Asked, respond as answer_to};
use postkeep_keys::wire::{Reply, Request, Seal, State};
use postkeep_keys::{Name, Token};
use serde_json::json;

use crate::arguments::At;
use crate::client::Client;
use crate::identities;
use crate::outcome::{Failure, Outcome, bad, refused, write_new};

pub(crate) fn token(at: &At, out: &Path) -> Result<Outcome, Failure> {
    if out.exists() {
        return Err(bad(format!("{} is there already; name a new file, nothing is overwritten", out.display())));
    }
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

pub(crate) fn state(at: &At) -> Result<Outcome, Failure> {
    let client = client(at)?;
    let state = state_of(&client)?;
    let mut said =
        format!("volume       {}\nkey set      {}\nseal         {}\n", state.volume, state.epoch, named(state.seal));
    if let Some(offer) = &state.offer {
        said += &format!("cause        {}\noffer        {offer}\n", offer.cause.name());
    }
    for progress in &state.progress {
        let names: Vec<&str> = progress.answered.iter().map(Name::as_str).collect();
        let who = if names.is_empty() { "nobody yet".to_owned() } else { names.join(", ") };
        said += &format!("{:<12} {} of {}: {who}\n", progress.purpose.name(), names.len(), progress.threshold);
    }
    for proven in &state.possession {
        let last = proven.last.map_or_else(|| "never".to_owned(), |last| format!("{last:.0}"));
        said += &format!("proven       {:<10} {last}{}\n", proven.name, if proven.is_due { ", due again" } else { "" });
    }
    let certificate = client.certificate();
    if let Some(certificate) = certificate {
        said += &format!("certificate  {certificate}\n");
    }
    Ok(Outcome::new(said, json!({"state": state, "certificate": certificate})))
}

pub(crate) fn respond(at: &At, asked: Asked, identity: &Path, name: &Name) -> Result<Outcome, Failure> {
    // Before anything is asked of the box.
    let identities = identities::open(identity)?;
    let identities: Vec<&dyn age::Identity> =
        identities.iter().map(|identity| &**identity as &dyn age::Identity).collect();
    let client = client(at)?;
    let question = match client.ask(&Request::Ask { asked, name: name.clone() })? {
        Reply::Question { question } => question,
        Reply::Refused => {
            let state = state_of(&client)?;
            return Err(refused(match state.seal {
                Seal::Open => format!("the box has no custodian called {name}"),
                seal => format!("the box is {}, and asks nothing then", named(seal)),
            }));
        }
        _ => return Err(strange()),
    };
    let (_, response) = answer_to(question.as_bytes(), asked, &identities).map_err(bad)?;
    let said = match (client.ask(&Request::Respond { asked, name: name.clone(), response })?, asked) {
        (Reply::Done, Asked::Possession) => format!("The box has written down that {name} holds their key.\n"),
        (Reply::Done, Asked::Seal) => "The box is being sealed: mail stops, and the volume is closed.\n".to_owned(),
        (Reply::Refused, _) => return Err(refused("the box does not count the response; its journal says why")),
        _ => return Err(strange()),
    };
    Ok(Outcome::new(said, json!({"name": name, "asked": asked, "done": true})))
}

/// How the box is.
pub(crate) fn state_of(client: &Client) -> Result<State, Failure> {
    match client.ask(&Request::State)? {
        Reply::State(state) => Ok(*state),
        _ => Err(strange()),
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

fn strange() -> Failure {
    bad("the box says what was not asked: one of them is older than the other")
}
