//! A box that its custodians open: what the screen tells of its seal, and an answer that is pasted at it, for a network that is cut.
//!
//! Nothing here is secret: an answer is encrypted to the opener, and what the opener says of itself may be photographed. Who has
//! answered is not told at the rack, only how many have.

use std::path::Path;
use std::time::Duration;

use postkeep_keys::wire::{Reply, Request, Seal, State};
use postkeep_sealed::line;

/// The opener decides in milliseconds.
const ANSWER: Duration = Duration::from_secs(5);
/// Octets of a pasted answer; an armoured one has less than two thousand.
const LONGEST: usize = 8 << 10;
const BEGINS: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const ENDS: &str = "-----END AGE ENCRYPTED FILE-----";

/// How the seal of the box is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Custody {
    /// In a sentence.
    pub told: String,
    /// What custodians need to answer; absent: the box is open.
    pub offer: Option<String>,
    /// The sum of the certificate of the door that they reach from outside; absent: it is not open.
    pub door: Option<String>,
}

impl Custody {
    fn of(state: &State, door: Option<String>) -> Self {
        let waits = |progress: &postkeep_keys::Progress| {
            format!("for {} {} of {} have answered", progress.purpose.name(), progress.count, progress.threshold)
        };
        let waits = state.progress.iter().map(waits).collect::<Vec<_>>().join(", ");
        let told = match (state.seal, &state.offer) {
            (Seal::Sealed, Some(offer)) => format!("waits for its custodians ({}): {waits}", offer.cause.name()),
            (Seal::Sealed, None) => "waits for its custodians".to_owned(),
            (Seal::Opening, _) => "enough custodians have answered, and the data volume is being opened".to_owned(),
            (Seal::Open, _) if !state.progress.is_empty() => {
                format!("opened by its custodians; some of them want a new key set: {waits}")
            }
            (Seal::Open, _) => {
                let silent = state.possession.iter().filter(|proven| proven.is_due).count();
                match silent {
                    0 => "opened by its custodians".to_owned(),
                    _ => format!(
                        "opened by its custodians; {silent} of {} have not proved lately that they hold their key",
                        state.possession.len()
                    ),
                }
            }
            (Seal::Sealing, _) => "a custodian has it sealed".to_owned(),
        };
        Self { told, offer: state.offer.as_ref().map(ToString::to_string), door }
    }
}

/// Asks the opener; nothing, where the box has none.
///
/// # Errors
/// It has one, which does not answer.
pub(crate) async fn look(opener: &Path, door: Option<String>) -> Result<Option<Custody>, String> {
    if !opener.exists() {
        return Ok(None);
    }
    match ask(opener, Request::State).await? {
        Reply::State(state) => Ok(Some(Custody::of(&state, door))),
        _ => Err("the opener answers something else".to_owned()),
    }
}

/// Hands over an answer, and says what became of it.
pub(crate) async fn hand_over(opener: &Path, answer: String) -> Result<String, String> {
    match ask(opener, Request::Answer { answer }).await? {
        Reply::Counted { progress } => {
            Ok(format!("It counts: {} of {} have answered.", progress.count, progress.threshold))
        }
        Reply::Opens => Ok("It counts, and enough have answered: the data volume is being opened.".to_owned()),
        Reply::Refused => {
            Err("It does not count: it may be an answer to an earlier offer, or to another box; the journal says why"
                .to_owned())
        }
        _ => Err("the opener answers something else".to_owned()),
    }
}

async fn ask(opener: &Path, request: Request) -> Result<Reply, String> {
    let opener = opener.to_owned();
    let asked = tokio::task::spawn_blocking(move || line::ask(&opener, &request, ANSWER)).await;
    asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// An answer that is being pasted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pasted {
    text: String,
    /// What was said to it, or what is wrong with it.
    pub said: Option<String>,
    /// Whether it has been handed over, and nothing was said to it yet.
    pub waiting: bool,
    /// Whether the offer fills the screen as a picture.
    pub picture: bool,
}

impl Pasted {
    /// One more character; the answer, when this was its last.
    pub fn put(&mut self, character: char) -> Option<String> {
        if self.waiting {
            return None;
        }
        self.said = None;
        match character {
            '\r' | '\n' if self.text.ends_with('\n') || self.text.is_empty() => {}
            '\r' | '\n' => self.text.push('\n'),
            ' '..='~' => self.text.push(character),
            _ => {}
        }
        // A prompt or a greeting that was copied with it.
        if let Some(at) = self.text.find(BEGINS) {
            self.text.drain(..at);
        }
        if self.text.starts_with(BEGINS) && self.text.ends_with(ENDS) {
            self.waiting = true;
            return Some(std::mem::take(&mut self.text) + "\n");
        }
        if self.text.len() > LONGEST {
            self.text.clear();
            self.said = Some("That is longer than an answer is, and was thrown away; paste it anew.".to_owned());
        }
        None
    }

    /// Throws away what came so far.
    pub fn empty(&mut self) {
        if !self.waiting {
            *self = Self { picture: self.picture, ..Self::default() };
        }
    }

    /// How much has come, in words.
    #[must_use]
    pub fn told(&self) -> String {
        if self.waiting {
            return "The answer is being looked at...".to_owned();
        }
        match &self.said {
            Some(said) => said.clone(),
            None if self.text.starts_with(BEGINS) => {
                format!("{} lines of an answer have come; its last line is still missing.", self.text.lines().count())
            }
            None if self.text.is_empty() => "Nothing has come yet.".to_owned(),
            None => "What came does not begin as an answer does.".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pasted(text: &str) -> (Pasted, Vec<String>) {
        let mut pasted = Pasted::default();
        let answers = text.chars().filter_map(|character| pasted.put(character)).collect();
        (pasted, answers)
    }

    #[test]
    fn an_answer_is_complete_with_its_last_line_whatever_stands_around_it() {
        for text in [
            format!("{BEGINS}\nYWdl\n{ENDS}"),
            format!("$ postkeep-keys unseal\r\n\r\n{BEGINS}\r\nYWdl\r\n{ENDS}\r\n"),
            format!("\u{1b}[200~{BEGINS}\n\nYWdl\n{ENDS}\n"),
        ] {
            let (after, answers) = pasted(&text);
            assert_eq!(answers, [format!("{BEGINS}\nYWdl\n{ENDS}\n")], "{text:?}");
            assert!(after.waiting);
        }
    }

    #[test]
    fn what_is_no_answer_is_told_and_has_an_end() {
        assert_eq!(pasted("").0.told(), "Nothing has come yet.");
        assert!(pasted("hello").0.told().contains("does not begin"));
        assert!(pasted(&format!("{BEGINS}\nYWdl\n")).0.told().starts_with("2 lines"));
        let (mut after, answers) = pasted(&"x".repeat(LONGEST + 1));
        assert!(answers.is_empty() && after.told().contains("longer than an answer"));
        after.empty();
        assert_eq!(after, Pasted::default());
    }

    #[tokio::test]
    async fn a_box_without_an_opener_has_no_custodians() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(look(&folder.path().join("nobody"), None).await, Ok(None));
        // A socket that nobody serves any more.
        let socket = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(look(&socket, None).await.unwrap_err().contains("cannot be reached"));
    }
}
