//! A passphrase for the data volume of a machine without a TPM, chosen at the console at the first boot: asked for twice,
//! since a slip would close the volume for good.

use std::path::Path;
use std::process::{Command, Stdio};

/// Characters that a passphrase has at least. It is all that keeps the disk closed to whoever takes it away.
const SHORTEST: usize = 12;
/// cryptsetup takes no longer ones from a file without being told to.
const LONGEST: usize = 512;

/// How a question is put to the person at the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// What is typed is for this program alone.
    First,
    /// What is typed is also remembered in the kernel for two and a half minutes, where the opening of the volume looks
    /// before it asks.
    Again,
}

/// Asks until a passphrase has been typed twice, and writes it to `into`, readable for root only. Does nothing when
/// there is a `volume` already: the first boot was cut short after it was made, and its passphrase is asked for when it
/// is opened.
///
/// # Errors
/// Nobody can be asked, or `into` cannot be written.
pub(crate) fn choose(into: &Path, volume: &Path) -> Result<Vec<String>, crate::Failure> {
    if volume.exists() {
        return Ok(vec![format!("there is a data volume already ({}): no passphrase is chosen", volume.display())]);
    }
    let passphrase = agree(ask)?;
    postkeep_files::replace(into, &passphrase).map_err(|error| format!("cannot keep the passphrase: {error}"))?;
    Ok(Vec::new())
}

/// Puts questions until two answers agree.
fn agree(mut ask: impl FnMut(&str, Question) -> Result<Vec<u8>, crate::Failure>) -> Result<Vec<u8>, crate::Failure> {
    let mut wrong = String::new();
    loop {
        let question = format!("{wrong}Choose a passphrase for the data volume ({SHORTEST} characters at least):");
        let first = ask(&question, Question::First)?;
        if let Err(why) = check(&first) {
            wrong = why;
            continue;
        }
        if ask("The same passphrase again; you need it at each start of this machine:", Question::Again)? == first {
            return Ok(first);
        }
        wrong = "The two were not the same. ".to_owned();
    }
}

fn check(passphrase: &[u8]) -> Result<(), String> {
    let characters = String::from_utf8_lossy(passphrase).chars().count();
    if characters < SHORTEST {
        return Err(format!("That was too short ({characters} characters). "));
    }
    if passphrase.len() > LONGEST {
        return Err(format!("That was too long (more than {LONGEST} octets). "));
    }
    Ok(())
}

/// Whoever sits at a console answers; systemd's agents listen on all of them.
fn ask(question: &str, kind: Question) -> Result<Vec<u8>, crate::Failure> {
    let mut command = Command::new("systemd-ask-password");
    command.args(["--timeout=0", "-n", "--id=postkeep:passphrase"]);
    if kind == Question::Again {
        command.arg("--keyname=cryptsetup");
    }
    let asked = command.arg(question).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let asked = asked.map_err(|error| format!("cannot ask for a passphrase: systemd-ask-password: {error}"))?;
    if !asked.status.success() {
        return Err(
            format!("nobody answered the question for a passphrase: systemd-ask-password: {}", asked.status).into()
        );
    }
    Ok(asked.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = Vec<(String, Question)>;

    /// What is agreed on when the person types these, and the questions.
    fn typing(answers: &[&str]) -> (Result<Vec<u8>, crate::Failure>, Asked) {
        let mut asked = Vec::new();
        let mut left = answers.iter();
        let agreed = agree(|question, kind| {
            asked.push((question.to_owned(), kind));
            left.next().map(|answer| answer.as_bytes().to_vec()).ok_or_else(|| "nobody is there".into())
        });
        (agreed, asked)
    }

    #[test]
    fn what_was_typed_twice_is_the_passphrase() {
        let (agreed, asked) = typing(&["correct horse battery", "correct horse battery"]);
        assert_eq!(agreed.unwrap(), b"correct horse battery");
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].1, Question::Again);
    }

    #[test]
    fn a_slip_is_told_and_the_question_is_put_again() {
        let (agreed, asked) = typing(&[
            "short",
            "correct horse battery",
            "correct horse bettery",
            "another one, then",
            "another one, then",
        ]);
        assert_eq!(agreed.unwrap(), b"another one, then");
        assert!(asked[1].0.starts_with("That was too short (5 characters). Choose"), "{asked:?}");
        assert!(asked[3].0.starts_with("The two were not the same. Choose"), "{asked:?}");
        let long = "x".repeat(LONGEST + 1);
        assert!(typing(&[&long]).1[1].0.starts_with("That was too long"));
    }

    #[test]
    fn without_an_answer_nothing_is_agreed_on() {
        assert!(typing(&["correct horse battery"]).0.is_err());
    }

    #[test]
    fn where_there_is_a_volume_nobody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("passphrase");
        let said = choose(&into, folder.path()).unwrap();
        assert!(said[0].contains("already") && !into.exists(), "{said:?}");
    }
}
