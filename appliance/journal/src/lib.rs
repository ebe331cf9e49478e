//! The events that an operator looks for in the journal, in one place: each has a `MESSAGE_ID` that never changes, a
//! name, fields, and a meaning; `docs/operate/journal.md` is held against this table by a test.
//!
//! An event goes through [`log`], so that a program that logs elsewhere says its message all the same. A program
//! that has no log of its own calls [`start`], and what it tells goes to the journal only.

use std::fmt::{self, Display};

use log::kv::{ToValue as _, Value};
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

mod events;

pub use events::*;

/// One kind of event, with `N` fields beside its message.
#[derive(Debug, Clone, Copy)]
pub struct Event<const N: usize> {
    /// `MESSAGE_ID`: 128 bits in hexadecimal digits, made by chance once and kept for ever.
    pub id: &'static str,
    /// `POSTKEEP_EVENT`: the same for people.
    pub name: &'static str,
    /// How grave it is.
    pub level: Level,
    /// Its fields, in the order in which [`Self::tell`] takes their values.
    pub fields: [&'static str; N],
}

/// An event as the documentation has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// The name of its constant here.
    pub constant: &'static str,
    /// `MESSAGE_ID`.
    pub id: &'static str,
    /// `POSTKEEP_EVENT`.
    pub name: &'static str,
    /// How grave it is.
    pub level: Level,
    /// Its fields.
    pub fields: &'static [&'static str],
    /// What has happened.
    pub meaning: &'static str,
}

impl<const N: usize> Event<N> {
    /// Says that it has happened. A value that there is not is an empty text.
    pub fn tell(&self, message: fmt::Arguments<'_>, values: [&dyn Display; N]) {
        let values = values.map(|value| value.to_string());
        let mut pairs: Vec<(&str, Value<'_>)> =
            vec![("MESSAGE_ID", self.id.to_value()), ("POSTKEEP_EVENT", self.name.to_value())];
        pairs.extend(self.fields.iter().zip(&values).map(|(field, value)| (*field, value.as_str().to_value())));
        log::logger()
            .log(&Record::builder().args(message).level(self.level).target("postkeep").key_values(&pairs).build());
    }
}

/// Sends what this process tells to the journal, as `identifier`; does nothing where no journal listens to it.
///
/// # Errors
/// The journal cannot be reached although this process is connected to it, or there is a log already.
pub fn start(identifier: &str) -> Result<(), String> {
    if !systemd_journal_logger::connected_to_journal() {
        return Ok(());
    }
    let journal = JournalLog::empty().map_err(|error| format!("cannot reach the journal: {error}"))?;
    let journal = journal.with_syslog_identifier(identifier.to_owned());
    log::set_boxed_logger(Box::new(Ours(journal))).map_err(|error| format!("cannot log to the journal: {error}"))?;
    log::set_max_level(LevelFilter::Info);
    Ok(())
}

/// Hands on what our own programs say. What libraries say of their work is of use to those who write them; what they warn of is to operators.
struct Ours<L>(L);

impl<L: Log> Log for Ours<L> {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        let is_wanted = of.target().starts_with("postkeep")
            // Its errors come back to whoever has asked it, and strangers can cause them.
            || of.level() <= Level::Warn && !of.target().starts_with("tss_esapi");
        is_wanted && self.0.enabled(of)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Heard(Mutex<Vec<String>>);

    impl Log for Heard {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    #[test]
    fn what_libraries_say_of_their_work_is_not_told_and_what_they_warn_of_is() {
        let log = Ours(Heard(Mutex::default()));
        let say = |target, level, text| {
            log.log(&Record::builder().target(target).level(level).args(format_args!("{text}")).build());
        };
        say("hyper::proto", Level::Info, "read 7 octets");
        say("hyper::proto", Level::Warn, "it does not answer");
        say("tss_esapi::context", Level::Error, "Error in unsealing");
        say("postkeep_sealed::opener", Level::Info, "anna has answered");
        say("postkeep", Level::Info, "an event");
        assert_eq!(*log.0.0.lock().unwrap(), ["it does not answer", "anna has answered", "an event"]);
    }
}
