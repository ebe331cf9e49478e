//! Programs of the system that are asked to do something.

use std::process::{Command, Output};

/// What of a program's words is told on; the last are the ones that matter.
const MOST_WORDS: usize = 600;

/// A program did not do it.
#[derive(Debug, thiserror::Error)]
#[error("{program} failed: {why}")]
pub struct RunError {
    /// Which.
    pub program: String,
    /// What it said.
    pub why: String,
}

/// Runs `command` to its end; returns what it printed.
///
/// # Errors
/// It cannot be run, or ends with another status than 0.
pub fn run(command: &mut Command) -> Result<String, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |why: String| RunError { program: program.clone(), why };
    let Output { status, stdout, stderr } = command.output().map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&stderr).into_owned();
    let words = words.trim();
    let begin = words.char_indices().rev().nth(MOST_WORDS).map_or(0, |(at, _)| at);
    Err(failed(format!("{status}: {}", &words[begin..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_told_with_its_last_words() {
        assert_eq!(run(Command::new("echo").arg("done")).unwrap(), "done\n");
        let error = run(Command::new("sh").args(["-c", "echo no room >&2; exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "sh failed: exit status: 3: no room");
        assert!(run(&mut Command::new("/nonexistent")).is_err());
        let long = run(Command::new("sh").args(["-c", "printf 'ö%.0s' $(seq 2000) >&2; exit 1"])).unwrap_err();
        assert!(long.why.len() < 3 * MOST_WORDS, "{}", long.why.len());
    }
}
