//! One event as receivers get it: the record, with an id in front.

use postkeep_configuration::LocalPart;
use serde::Deserialize;
use std::borrow::Cow;

use crate::follower::Position;
use crate::privacy::Privacy;
use crate::reader::Line;

/// What is read of every record.
#[derive(Debug, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    domain: Cow<'a, str>,
    #[serde(borrow, default)]
    recipient: Cow<'a, str>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The same each time it is sent, and no other event's.
    pub(crate) id: String,
    /// When it happened, RFC 3339.
    pub(crate) time: String,
    /// What happened.
    pub(crate) name: String,
    /// Queue id; may be empty.
    pub(crate) message: String,
    /// Stream; may be empty.
    pub(crate) stream: String,
    /// The recipient's domain; may be empty.
    pub(crate) domain: String,
    /// JSON.
    pub(crate) text: Vec<u8>,
    /// Behind it.
    pub(crate) end: Position,
}

/// Which events a receiver gets, and in which form.
#[derive(Debug)]
pub(crate) struct Selection {
    /// Names; `*` is all.
    pub(crate) events: Vec<String>,
    /// What becomes of addresses.
    pub(crate) privacy: Privacy,
    /// Name of this box, which makes ids its own.
    pub(crate) hostname: String,
}

impl Selection {
    /// The event of a line, if it is wanted.
    ///
    /// # Errors
    /// The line is no record.
    pub(crate) fn event(&self, line: &Line) -> Result<Option<Event>, serde_json::Error> {
        let head: Head<'_> = serde_json::from_slice(&line.text)?;
        if !self.events.iter().any(|name| name == "*" || *name == head.event) {
            return Ok(None);
        }
        let id = self.id(&line.start);
        // A name in quotes, as JSON has it.
        let mut text = [b"{\"id\":".as_slice(), &serde_json::to_vec(&id)?, b","].concat();
        let domain = if head.domain.is_empty() {
            head.recipient.rsplit_once('@').map_or("", |(_, domain)| domain)
        } else {
            &head.domain
        };
        let event = Event {
            time: head.time.into_owned(),
            name: head.event.into_owned(),
            message: head.message.into_owned(),
            stream: head.stream.into_owned(),
            domain: domain.to_ascii_lowercase(),
            text: Vec::new(),
            end: Position { file: line.start.file.clone(), offset: line.end },
            id,
        };
        if self.privacy.mode() == LocalPart::Plain {
            text.extend_from_slice(line.text.get(1..).unwrap_or_default());
        } else {
            let mut record = serde_json::from_slice(&line.text)?;
            self.privacy.apply(&mut record);
            text.extend_from_slice(serde_json::to_vec(&record)?.get(1..).unwrap_or_default());
        }
        Ok(Some(Event { text, ..event }))
    }

    /// The id of the event that begins there: `20261126T211200Z-000-4711@mail.example.com`.
    fn id(&self, start: &Position) -> String {
        let file = start.file.trim_start_matches("records-").trim_end_matches(".jsonl");
        format!("{file}-{}@{}", start.offset, self.hostname)
    }
}

/// A template with `{event}`, `{stream}` and `{domain}` filled in. What separates words in routing keys and
/// subjects, or means something there, becomes `_`; nothing becomes `none`.
pub(crate) fn filled(template: &str, event: &Event) -> String {
    let word = |value: &str| -> String {
        let is_plain = |character: &char| character.is_alphanumeric() || "-_+=~".contains(*character);
        let word: String =
            value.chars().take(120).map(|character| if is_plain(&character) { character } else { '_' }).collect();
        if word.is_empty() { "none".to_owned() } else { word }
    };
    template
        .replace("{event}", &word(&event.name))
        .replace("{stream}", &word(&event.stream))
        .replace("{domain}", &word(&event.domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let start = Position { file: "records-20261126T211200Z-000.jsonl".into(), offset: 4711 };
        Line { start, end: 4711 + text.len() as u64 + 1, text: text.as_bytes().to_vec() }
    }

    fn selection(events: &[&str]) -> Selection {
        Selection {
            events: events.iter().map(|name| (*name).to_owned()).collect(),
            privacy: Privacy::plain(),
            hostname: "mail.example.com".into(),
        }
    }

    #[test]
    fn an_event_is_its_record_with_an_id_in_front() {
        let text = r#"{"time":"2026-11-26T21:12:00.000001Z","event":"delivered","message":"07","recipient":"a@B.example","stream":"news"}"#;
        let event = selection(&["delivered"]).event(&line(text)).expect("a record").expect("wanted");
        let id = "20261126T211200Z-000-4711@mail.example.com";
        assert_eq!(String::from_utf8_lossy(&event.text), text.replacen('{', &format!("{{\"id\":\"{id}\","), 1));
        assert_eq!((event.id.as_str(), event.domain.as_str()), (id, "b.example"));
        assert_eq!(selection(&["bounced"]).event(&line(text)).expect("a record"), None);
        assert!(selection(&["*"]).event(&line(text)).expect("a record").is_some());
        assert!(selection(&["*"]).event(&line("{\"time\"")).is_err());
        assert_eq!(filled("mail.{event}.{domain}.{stream}", &event), "mail.delivered.b_example.news");
    }
}
