//! Questions to the person who types: for age, for its plugins, and for ourselves. Standard output stays free for what was asked for.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use age::secrecy::SecretString;

/// The terminal, as the age crate asks for one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal;

impl Terminal {
    /// A line that is not shown while it is typed; nothing, if there is nobody to ask.
    pub(crate) fn secret(question: &str) -> Option<SecretString> {
        rpassword::prompt_password(format!("{question}: ")).ok().map(SecretString::from)
    }

    /// A word to whoever types, beside what they asked for.
    pub(crate) fn say(word: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{word}");
    }

    fn line(question: &str) -> Option<String> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let mut error = std::io::stderr().lock();
        write!(error, "{question} ").and_then(|()| error.flush()).ok()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).ok()?;
        Some(line.trim().to_owned())
    }
}

impl age::Callbacks for Terminal {
    fn display_message(&self, message: &str) {
        Self::say(message);
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let no = no.unwrap_or("no");
        let answer = Self::line(&format!("{message} [{yes}/{no}]"))?;
        Some(answer.eq_ignore_ascii_case(yes))
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        Self::line(&format!("{description}:"))
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        Self::secret(description)
    }
}
