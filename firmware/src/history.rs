//! The worst that a machine ever was, kept on its data volume. What cannot be read of it counts as the worst it could
//! be: a history that somebody has spoilt does not begin anew.

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use crate::posture::{Grade, History, Posture, Sentence};

/// A history is a few sentences.
const LARGEST: u64 = 256 * 1024;

/// What became known when a posture was remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// All starts so far, this one included.
    pub history: History,
    /// The worst grade of the starts before; absent: this is the first.
    pub before: Option<Grade>,
    /// This start is worse than all before.
    pub is_worse: bool,
}

/// Takes `posture` over into the history at `file`, durably, and says what the history is now. `now` is in seconds
/// since 1970.
///
/// # Errors
/// The file cannot be read or written; the sentence says why. Nothing has changed then.
pub fn remember(posture: &Posture, file: &Path, now: u64) -> Result<Remembered, String> {
    let mut history = read(file, now)?;
    let before = history.worst.as_ref().map(|worst| worst.grade);
    let is_worse = history.observe(posture, now);
    let text = serde_json::to_string_pretty(&history).map_err(|error| format!("cannot write the history: {error}"))?;
    // Also when nothing is new: what was spoilt is whole again, and says so.
    postkeep_files::replace(file, (text + "\n").as_bytes())
        .map_err(|error| format!("cannot keep the history of this machine in {}: {error}", file.display()))?;
    Ok(Remembered { history, before, is_worse: is_worse && before.is_some() })
}

fn read(file: &Path, now: u64) -> Result<History, String> {
    let mut octets = Vec::new();
    match std::fs::File::open(file).and_then(|open| open.take(LARGEST).read_to_end(&mut octets)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(History::default()),
        Err(error) => return Err(format!("cannot read the history of this machine, {}: {error}", file.display())),
    }
    Ok(serde_json::from_slice(&octets).unwrap_or_else(|error| {
        let mut history = History::default();
        history.observe(&spoilt(&error.to_string()), now);
        history
    }))
}

fn spoilt(why: &str) -> Posture {
    let sentence = Sentence {
        at_best: Grade::D,
        seen: format!("The history of this machine could not be read: {why}."),
        means: "What it was before is not known, and counts as the worst. Flash it anew to begin a new one.".to_owned(),
    };
    Posture { grade: Grade::D, sentences: vec![sentence] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posture(grade: Grade) -> Posture {
        let sentence = Sentence { at_best: grade, seen: format!("Seen {grade}."), means: "So.".to_owned() };
        Posture { grade, sentences: vec![sentence] }
    }

    #[test]
    fn the_worst_start_is_remembered_over_better_ones_and_only_a_worse_one_is_news() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history.json");
        let first = remember(&posture(Grade::B), &file, 1).unwrap();
        assert_eq!((first.before, first.is_worse), (None, false));
        let worse = remember(&posture(Grade::C), &file, 2).unwrap();
        assert_eq!((worse.before, worse.is_worse), (Some(Grade::B), true));
        let better = remember(&posture(Grade::A), &file, 3).unwrap();
        assert_eq!((better.before, better.is_worse), (Some(Grade::C), false));
        let worst = better.history.worst.unwrap();
        assert_eq!((worst.grade, worst.since, worst.sentences[0].seen.as_str()), (Grade::C, 2, "Seen C."));
        // What is in the file is what was said.
        let kept: History = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(kept.worst, Some(worst));
    }

    #[test]
    fn a_history_that_was_spoilt_is_no_clean_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history.json");
        for content in [&b""[..], b"{\"worst\": {\"gr", b"{\"worst\": {\"grade\": \"Z\"}}", b"\xff"] {
            std::fs::write(&file, content).unwrap();
            let kept = remember(&posture(Grade::A), &file, 7).unwrap();
            let worst = kept.history.worst.unwrap();
            assert_eq!((worst.grade, worst.since), (Grade::D, 7), "{content:?}");
            assert!(worst.sentences[0].seen.contains("could not be read"));
            // And it stays so.
            assert_eq!(remember(&posture(Grade::A), &file, 8).unwrap().history.worst.unwrap().since, 7);
        }
    }

    #[test]
    fn where_nothing_can_be_kept_nothing_is_claimed() {
        let folder = tempfile::tempdir().unwrap();
        let error = remember(&posture(Grade::A), &folder.path().join("no/history.json"), 1).unwrap_err();
        assert!(error.contains("cannot keep the history"), "{error}");
    }
}
