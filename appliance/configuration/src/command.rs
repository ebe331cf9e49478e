//! `postkeep config check`, `config schema` and `credential hash` without the command line:
//! text for people or JSON for programs, and an exit code.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::load::{Loaded, Options, load_with};
use crate::password::hash_password;
use crate::problem::{Errors, Problem, Severity};

/// Done.
pub const DONE: u8 = 0;
/// The check found errors.
pub const FAILED: u8 = 1;
/// The input cannot be used.
pub const BAD_INPUT: u8 = 2;

/// What a command prints and how it exits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output, with a newline at its end.
    pub text: String,
    /// For standard error; empty when all is well.
    pub complaint: String,
    /// Exit code: [`DONE`], [`FAILED`] or [`BAD_INPUT`].
    pub code: u8,
}

/// `postkeep config check FILE`: all errors and warnings, or that there are none.
pub fn check(path: &Path, options: &Options, json: bool) -> Outcome {
    let result = load_with(path, options);
    let code = if result.is_ok() { DONE } else { FAILED };
    let text = if json { check_json(path, &result) } else { check_text(path, &result) };
    Outcome { text, complaint: String::new(), code }
}

/// `postkeep config schema`: the JSON Schema.
pub fn schema() -> Outcome {
    Outcome { text: crate::schema::schema_text(), complaint: String::new(), code: DONE }
}

/// `postkeep credential hash`: the line for `password-hash`. `input` is what standard input
/// holds; one newline at its end does not count.
pub fn hash(input: &str, json: bool) -> Outcome {
    let refused = |complaint: String| Outcome { text: String::new(), complaint, code: BAD_INPUT };
    let password = input.strip_suffix('\n').unwrap_or(input);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return refused("no password came in: type it, or pipe it into this command\n".to_owned());
    }
    if password.contains(['\n', '\r', '\0']) {
        return refused("the password has more than one line or a NUL; AUTH cannot carry that\n".to_owned());
    }
    match hash_password(password) {
        Ok(hash) if json => {
            Outcome { text: format!("{}\n", json!({ "password-hash": hash })), complaint: String::new(), code: DONE }
        }
        Ok(hash) => Outcome { text: format!("{hash}\n"), complaint: String::new(), code: DONE },
        Err(error) => refused(format!("the password could not be hashed: {error}\n")),
    }
}

fn check_text(path: &Path, result: &Result<Loaded, Errors>) -> String {
    let mut text = String::new();
    match result {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                let _ = writeln!(text, "{warning}");
            }
            let configuration = &loaded.configuration;
            let _ = writeln!(
                text,
                "{}: good: {}, {}, {}, {}, {}; {}",
                path.display(),
                counted(loaded.files.len(), "file"),
                counted(configuration.listener.len(), "listener"),
                counted(configuration.stream_names().count(), "stream"),
                counted(configuration.source.len(), "source"),
                counted(configuration.pool.len(), "pool"),
                counted(loaded.warnings.len(), "warning"),
            );
        }
        Err(errors) => {
            let _ = writeln!(text, "{errors}");
        }
    }
    text
}

fn check_json(path: &Path, result: &Result<Loaded, Errors>) -> String {
    let (good, problems, files): (bool, &[Problem], Vec<_>) = match result {
        Ok(loaded) => (true, &loaded.warnings, loaded.files.iter().map(|file| file.display().to_string()).collect()),
        Err(errors) => (false, &errors.problems, Vec::new()),
    };
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let report = json!({
        "file": path.display().to_string(),
        "good": good,
        "files": files,
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "problems": problems,
    });
    format!("{report:#}\n")
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_one_line_and_an_empty_password_is_refused() {
        let outcome = hash("correct horse\n", false);
        assert_eq!(outcome.code, DONE);
        assert!(outcome.text.starts_with("$argon2id$") && outcome.text.ends_with('\n'));
        assert_eq!(hash("\r\n", false).code, BAD_INPUT);
        assert_eq!(hash("a\nb\n", true).code, BAD_INPUT);
    }

    #[test]
    fn a_file_that_is_not_there_fails_the_check_with_its_name() {
        let outcome = check(Path::new("/nonexistent/postkeep.toml"), &Options::default(), false);
        assert_eq!(outcome.code, FAILED);
        assert!(outcome.text.contains("cannot open /nonexistent/postkeep.toml"), "{}", outcome.text);
        let json = check(Path::new("/nonexistent/postkeep.toml"), &Options::default(), true);
        let json: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
        assert_eq!(json["good"], false);
        assert_eq!(json["errors"], 1);
    }
}
