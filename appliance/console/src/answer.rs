//! The owner's side of a challenge: shows what is asked, and signs it. Needs no network, and no box.

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

use clap::Args;
use postkeep_notes::SignerKey;

use crate::challenge::Challenge;

/// How the owner answers; the same words in every program that does it.
#[derive(Debug, Clone, Args)]
pub struct AnswerArguments {
    /// The owner's private key, as `postkeep-flash key generate` wrote it.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The name of the key, where the file does not say it.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Does not ask before it signs.
    #[arg(long)]
    pub yes: bool,
    /// The challenge, as the console shows it or as its QR code says it; `-` reads it from standard input.
    #[arg(required = true, value_name = "CHALLENGE")]
    pub challenge: Vec<String>,
}

/// Characters of a challenge that are read; the longest has far fewer.
const LONGEST: u64 = 4096;

/// The answer to the challenge, in groups of characters. What is about to be signed is written to `said`, and unless
/// `--yes` was given, "yes" is read from `typed`.
///
/// # Errors
/// The challenge is none, the key cannot be read, or the answer was not "yes".
pub fn answer(
    arguments: &AnswerArguments,
    mut typed: impl BufRead,
    mut said: impl Write,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut code = arguments.challenge.join(" ");
    if code == "-" {
        if !arguments.yes {
            return Err("a challenge from standard input needs --yes: nothing is left to be typed at".into());
        }
        code.clear();
        (&mut typed)
            .take(LONGEST)
            .read_to_string(&mut code)
            .map_err(|error| format!("cannot read the challenge from standard input: {error}"))?;
    }
    let challenge = Challenge::from_code(&code)?;
    let key = SignerKey::read(&arguments.key, arguments.name.as_deref())?;
    write!(said, "{}", challenge.text())?;
    if !arguments.yes {
        write!(said, "\nSign this as {}? Type yes: ", key.verifier().name())?;
        said.flush()?;
        let mut line = String::new();
        (&mut typed)
            .take(LONGEST)
            .read_line(&mut line)
            .map_err(|error| format!("cannot read what was typed: {error}"))?;
        if line.trim() != "yes" {
            return Err("not signed".into());
        }
    }
    Ok(challenge.answer(&key)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::{Identity, VALID};
    use crate::deed::Deed;

    fn asked() -> Challenge {
        let identity = Identity { machine: [1; 16], boot: [2; 16] };
        Challenge::new(identity, Deed::Reboot, [3; 10], "2026-11-27T05:00:00Z".parse().unwrap(), VALID)
    }

    fn arguments(folder: &std::path::Path) -> (AnswerArguments, SignerKey) {
        let key = SignerKey::generate("example.com/owner").unwrap();
        let file = folder.join("owner.pem");
        key.write(&file).unwrap();
        let challenge = asked().to_code().split(' ').map(str::to_owned).collect();
        (AnswerArguments { key: file, name: None, yes: false, challenge }, key)
    }

    #[test]
    fn what_is_signed_is_shown_and_only_yes_signs_it() {
        let folder = tempfile::tempdir().unwrap();
        let (arguments, key) = arguments(folder.path());
        let mut said = Vec::new();
        let answered = answer(&arguments, &b"yes\n"[..], &mut said).unwrap();
        asked().verify(&answered, key.verifier()).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with(&asked().text()) && said.contains("Sign this as example.com/owner?"), "{said}");
        for typed in ["", "y\n", "no\n"] {
            assert_eq!(answer(&arguments, typed.as_bytes(), Vec::new()).unwrap_err().to_string(), "not signed");
        }
    }

    #[test]
    fn a_challenge_comes_from_a_pipe_too_and_a_slip_in_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (mut arguments, key) = arguments(folder.path());
        arguments.challenge = vec!["-".to_owned()];
        assert!(answer(&arguments, &b""[..], Vec::new()).unwrap_err().to_string().contains("needs --yes"));
        arguments.yes = true;
        let scanned = asked().to_code().replace(' ', "") + "\n";
        let answered = answer(&arguments, scanned.as_bytes(), Vec::new()).unwrap();
        asked().verify(&answered, key.verifier()).unwrap();
        let slipped = scanned.replacen('0', "1", 1);
        let error = answer(&arguments, slipped.as_bytes(), Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("the challenge: "), "{error}");
    }
}
