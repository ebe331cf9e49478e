//! What the verbs do.

use std::path::Path;

use jiff::Timestamp;
use postkeep_keys::wire::{Reply, Request};
use postkeep_keys::{
    Answer, Cause, Grade, Held, KeySet, Name, Offer, Purpose, Recipient, Token, TokenError, envelope, words,
};
use postkeep_notes::VerifierKey;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::arguments::{Holding, To, Trust};
use crate::attest::{self, Vouching};
use crate::client::Client;
use crate::identities::{self, Keeping};
use crate::outcome::{Failure, Outcome, bad, must_be_new, read, refused, write_new};
use crate::terminal::Terminal;
use crate::{online, paper};

pub(crate) fn generate(out: &Path, passphrase: bool, guard: Option<&Path>) -> Result<Outcome, Failure> {
    // Said before anybody types a passphrase or touches a device.
    must_be_new(out)?;
    let keeping = match guard {
        Some(guard) => Keeping::Guard(read(guard)?),
        None if passphrase => Keeping::Passphrase(identities::new_passphrase()?),
        None => Keeping::Plain,
    };
    if matches!(keeping, Keeping::Plain) {
        Terminal::say("The key is not closed: whoever reads the file holds it. --passphrase or --guard close it.");
    }
    let (text, recipient) = identities::generate(&keeping, Timestamp::now())?;
    write_new(out, text.as_bytes())?;
    Ok(Outcome::new(format!("{recipient}\n"), json!({"recipient": recipient, "file": out})))
}

pub(crate) fn recipient(identity: &Path) -> Result<Outcome, Failure> {
    let recipients = identities::recipients(identity)?;
    Ok(Outcome::new(
        recipients.iter().map(|line| format!("{line}\n")).collect::<String>(),
        json!({"recipients": recipients}),
    ))
}

pub(crate) fn show(file: &Path, trust: &Trust) -> Result<Outcome, Failure> {
    let octets = read(file)?;
    let text = std::str::from_utf8(&octets)
        .map_err(|_| bad(format!("{}: this is neither a token nor a key set", file.display())))?;
    // What an owner is about to sign has no volume, no shares and no signature.
    if !text.contains("\n\n\u{2014} ") {
        let set = KeySet::parse(text).map_err(|error| bad(format!("{}: {error}", file.display())))?;
        let (said, json) = described(&set);
        return Ok(Outcome::new(said, json!({"key-set": json, "warnings": set.warnings()})));
    }
    let (token, checked) = token(file, trust)?;
    let (said, json) = described(&token.key_set());
    let text = format!(
        "volume       {}\nkey set      {}\ntoken        {}\nsignature    {}\n{said}",
        token.volume,
        token.epoch,
        token.sum(),
        if checked { "of the box" } else { "not checked: give --box-key" },
    );
    let json = json!({
        "volume": token.volume, "epoch": token.epoch, "token": token.sum(), "signature-checked": checked, "key-set": json,
        "warnings": token.key_set().warnings(),
    });
    Ok(Outcome::new(text, json))
}

pub(crate) fn paper(holding: &Holding, out: Option<&Path>, check: Option<&Path>) -> Result<Outcome, Failure> {
    let (token, _) = token(&holding.token, &holding.trust)?;
    if let Some(check) = check {
        let held = from_paper(&token, check, purpose(holding))?;
        let said =
            format!("These words are {}'s share for {} of key set {}.\n", held.name, held.purpose.name(), token.epoch);
        return Ok(Outcome::new(said, json!({"name": held.name, "purpose": held.purpose, "epoch": token.epoch})));
    }
    let held = from_identity(&token, holding)?;
    let sheet = paper::sheet(&token, &held, Timestamp::now());
    let Some(out) = out else {
        return Ok(Outcome { text: sheet, json: json!({"name": held.name, "purpose": held.purpose}) });
    };
    write_new(out, sheet.as_bytes())?;
    let said = format!(
        "{} holds {}'s share, for nobody's eyes but theirs: print it, check it (--check), and remove the file.\n",
        out.display(),
        held.name
    );
    Ok(Outcome::new(said, json!({"name": held.name, "purpose": held.purpose, "file": out})))
}

pub(crate) fn unseal(
    holding: &Holding,
    to: &To,
    vouching: &Vouching,
    reason: &str,
    paper: Option<&Path>,
) -> Result<Outcome, Failure> {
    let (token, _) = token(&holding.token, &holding.trust)?;
    if let Some(offer) = &to.way.offer {
        let offer: Offer = offer.parse().map_err(|why| bad(format!("the offer cannot be read: {why}")))?;
        must_be_sealed(&offer)?;
        let vouched = attest::of_text(&token, vouching)?;
        let (held, answer) = answer(&token, holding, (&offer, vouched.grade), reason, paper, None)?;
        let json = json!({
            "name": held.name, "purpose": held.purpose, "boot": offer.boot, "grade": vouched.grade, "posture": vouched.posture, "answer": answer,
        });
        return Ok(Outcome::new(answer, json));
    }
    let client = Client::new(to.way.address.as_deref().unwrap_or_default(), to.certificate)?;
    let state = online::state_of(&client)?;
    let Some(offer) = &state.offer else {
        return Err(refused(format!("the box does not wait to be opened: it is {}", online::named(state.seal))));
    };
    must_be_sealed(offer)?;
    // Before anything is asked of the TPM of another box.
    must_be_of(&token, offer)?;
    let vouched = attest::vouched(&client, &token, offer, vouching, true)?;
    if to.certificate.is_none() {
        online::confirm(&client, &state, (offer, &vouched), None)?;
    }
    let (held, answer) = answer(&token, holding, (offer, vouched.grade), reason, paper, None)?;
    let (said, is_open) = match client.ask(&Request::Answer { answer })? {
        Reply::Counted { progress } => {
            let names: Vec<&str> = progress.answered.iter().map(Name::as_str).collect();
            (
                format!("Your answer counts: {} of {} ({}).\n", progress.count, progress.threshold, names.join(", ")),
                false,
            )
        }
        Reply::Opens => ("Your answer counts, and is the last that was needed: the box opens.\n".to_owned(), true),
        _ => return Err(refused("the box does not count the answer; its console and its journal say why")),
    };
    let json = json!({
        "name": held.name, "purpose": held.purpose, "boot": offer.boot, "grade": vouched.grade, "posture": vouched.posture,
        "opens": is_open, "certificate": client.certificate(),
    });
    Ok(Outcome::new(vouched.said + &said, json))
}

/// Makes sure that `offer` is one to open a box.
fn must_be_sealed(offer: &Offer) -> Result<(), Failure> {
    if offer.cause == Cause::Change {
        return Err(refused("the box that offers this is open; what it offers is for a new key set (`rotate`)"));
    }
    Ok(())
}

/// Makes sure that `offer` is that of the box with `token`.
pub(crate) fn must_be_of(token: &Token, offer: &Offer) -> Result<(), Failure> {
    if offer.token == token.sum() {
        return Ok(());
    }
    Err(refused(format!(
        "the box asks for the shares of another token ({}) than the one you have ({}): it has a new key set, is another box, \
         or only looks like yours. Ask the other custodians whether they know of a new token before you fetch one",
        offer.token,
        token.sum()
    )))
}

/// The share of whoever types, and their answer to an offer of which they could make sure so much: that the box opens, or is given a new key set.
pub(crate) fn answer(
    token: &Token,
    holding: &Holding,
    (offer, grade): (&Offer, Grade),
    reason: &str,
    paper: Option<&Path>,
    change: Option<KeySet>,
) -> Result<(Held, String), Failure> {
    must_be_of(token, offer)?;
    let held = match paper {
        Some(paper) => from_paper(token, paper, purpose(holding))?,
        None => from_identity(token, holding)?,
    };
    let answer =
        Answer { token: offer.token, boot: offer.boot, held: held.clone(), grade, reason: reason.to_owned(), change };
    Ok((held, envelope::armour(&answer.seal(offer).map_err(bad)?)))
}

/// The token in `file`, and whether its signature is known to be that of the box.
pub(crate) fn token(file: &Path, trust: &Trust) -> Result<(Token, bool), Failure> {
    token_of(&read(file)?, &file.display().to_string(), trust)
}

/// The same of a note that came from `place`.
pub(crate) fn token_of(note: &[u8], place: &str, trust: &Trust) -> Result<(Token, bool), Failure> {
    let named = |error: TokenError| bad(format!("{place}: {error}"));
    match &trust.box_key {
        None => {
            let token = Token::unverified(note).map_err(named)?;
            Terminal::say(&format!("Nobody's signature under {place} was checked: --box-key has it checked."));
            Ok((token, false))
        }
        Some(given) => Ok((Token::open(note, &keys_of(given)?).map_err(named)?, true)),
    }
}

/// The key that was typed, or those in the file that was named.
pub(crate) fn keys_of(given: &str) -> Result<Vec<VerifierKey>, Failure> {
    match given.parse::<VerifierKey>() {
        Ok(key) => Ok(vec![key]),
        Err(_) if Path::new(given).exists() => {
            let text = read(Path::new(given))?;
            match VerifierKey::of_lines(&String::from_utf8_lossy(&text)) {
                Ok(keys) if keys.is_empty() => Err(bad(format!("{given}: there is no key in it"))),
                keys => keys.map_err(|error| bad(format!("{given}: {error}"))),
            }
        }
        Err(error) => Err(bad(format!("{error}; there is no file of that name either"))),
    }
}

fn purpose(holding: &Holding) -> Purpose {
    if holding.recovery { Purpose::Recovery } else { Purpose::Opening }
}

/// The shares for `purpose` that the key in `file` opens, of all custodians or of the one called `name`.
pub(crate) fn shares_of(
    token: &Token,
    file: &Path,
    name: Option<&Name>,
    purpose: Purpose,
) -> Result<Vec<Held>, Failure> {
    let identities = identities::open(file)?;
    let identities: Vec<&dyn age::Identity> =
        identities.iter().map(|identity| &**identity as &dyn age::Identity).collect();
    let held = token.open_shares(name, &identities).map_err(bad)?;
    Ok(held.into_iter().filter(|held| held.purpose == purpose).collect())
}

/// The one share that is asked for, out of those that the key opens.
fn from_identity(token: &Token, holding: &Holding) -> Result<Held, Failure> {
    let file = holding.identity.as_deref().ok_or_else(|| bad("--identity FILE is missing: the file with your key"))?;
    let mut held = shares_of(token, file, holding.name.as_ref(), purpose(holding))?;
    match (held.pop(), held.is_empty()) {
        (Some(held), true) => Ok(held),
        (Some(last), false) => {
            let names: Vec<&str> = held.iter().chain([&last]).map(|held| held.name.as_str()).collect();
            Err(bad(format!("your key opens the shares of {}; say with --name which you mean", names.join(" and "))))
        }
        (None, _) if holding.recovery => Err(refused("your key opens no share of the recovery set")),
        (None, _) => Err(refused("your key opens a share of the recovery set only; --recovery takes it")),
    }
}

/// The share that is written in `file`, and whose it is: words do not say it, but its commitment does.
pub(crate) fn from_paper(token: &Token, file: &Path, purpose: Purpose) -> Result<Held, Failure> {
    if file == Path::new("-") {
        Terminal::say(
            "Type the 26 words, with or without their numbers, four letters of each at least; then Ctrl-D on a line of its own.",
        );
    }
    let text = read(file)?;
    let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
    let share = words::share(&text).map_err(bad)?;
    let at = usize::from(share.place.get()) - 1;
    let name = token.shares(purpose).and_then(|shares| shares.holders.get(at)).map(|holder| holder.name.clone());
    match name.filter(|name: &Name| token.keeps(name, purpose, &share)) {
        Some(name) => Ok(Held { name, purpose, share }),
        None => Err(refused(format!(
            "these words are a share, and none for {} of this token (key set {}): they belong to another box or an earlier key set",
            purpose.name(),
            token.epoch
        ))),
    }
}

fn described(set: &KeySet) -> (String, Value) {
    let listed = |custodians: &[postkeep_keys::Custodian]| {
        let keys = |recipients: &[Recipient]| {
            recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n             ")
        };
        custodians.iter().map(|one| format!("  {:<10} {}\n", one.name, keys(&one.recipients))).collect::<String>()
    };
    let mut said = format!("opened by    {} of {}\n{}", set.threshold, set.custodians.len(), listed(&set.custodians));
    if let Some(recovery) = &set.recovery {
        said += &format!(
            "recovered by {} of {}\n{}",
            recovery.threshold,
            recovery.custodians.len(),
            listed(&recovery.custodians)
        );
    }
    for warning in set.warnings() {
        said += &format!("warning      {warning}\n");
    }
    (said, json!(set))
}
