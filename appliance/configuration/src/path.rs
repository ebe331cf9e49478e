//! Where in the configuration something is said: `source.a.ipv4`, `listener[0].address`.

use std::fmt;
use std::str::FromStr;

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the top of the configuration to a key. Its text form is the one that
/// `place_of` takes, that errors print in JSON and that `postkeep config explain` shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyPath(Vec<Step>);

impl KeyPath {
    /// The top.
    pub fn root() -> Self {
        Self::default()
    }

    /// The key `name` below this.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(name.to_owned()));
        Self(steps)
    }

    /// The element `index` of this array, counted from 0.
    #[must_use]
    pub fn at(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this is the top.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// One step up; the top stays the top.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    /// The last key, if the last step is a key.
    pub fn last_key(&self) -> Option<&str> {
        match self.0.last() {
            Some(Step::Key(name)) => Some(name),
            _ => None,
        }
    }

    /// The form errors print: the header of the table as it stands in the file, then the key:
    /// `[source.a] ipv4`, `[[listener]] address`, `hostname`.
    pub fn in_table(&self) -> String {
        // A table header goes down to the last table: everything but the last key, and for
        // an array of tables its name in double brackets.
        let Some(split) = self.0.iter().rposition(|step| matches!(step, Step::Key(_))) else {
            return self.to_string();
        };
        let (table, rest) = self.0.split_at(split);
        if table.is_empty() {
            // `[[listener]]` itself, or a key at the top.
            return self.to_string();
        }
        let names: Vec<String> = table
            .iter()
            .filter_map(|step| match step {
                Step::Key(name) => Some(quoted(name)),
                Step::Index(_) => None,
            })
            .collect();
        let header = match table.last() {
            Some(Step::Index(_)) => format!("[[{}]]", names.join(".")),
            _ => format!("[{}]", names.join(".")),
        };
        format!("{header} {}", Self(rest.to_vec()))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if position == 0 => out.write_str(&quoted(name))?,
                Step::Key(name) => write!(out, ".{}", quoted(name))?,
                Step::Index(index) => write!(out, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl serde::Serialize for KeyPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not a key path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a key path; write one such as source.a.ipv4, listener[0].address or provider.\"my own\".tls")]
pub struct NotAKeyPath(String);

impl FromStr for KeyPath {
    type Err = NotAKeyPath;

    fn from_str(text: &str) -> Result<Self, NotAKeyPath> {
        let fail = || NotAKeyPath(text.chars().take(80).collect());
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (digits, after) = after.split_once(']').ok_or_else(fail)?;
                steps.push(Step::Index(digits.parse().map_err(|_| fail())?));
                rest = after;
                continue;
            }
            if !steps.is_empty() {
                rest = rest.strip_prefix('.').ok_or_else(fail)?;
            }
            if let Some(quoted) = rest.strip_prefix('"') {
                let (key, after) = unquote(quoted).ok_or_else(fail)?;
                steps.push(Step::Key(key));
                rest = after;
            } else {
                let (key, after) = rest.split_at(rest.find(['.', '[', '"']).unwrap_or(rest.len()));
                if key.is_empty() {
                    return Err(fail());
                }
                steps.push(Step::Key(key.to_owned()));
                rest = after;
            }
        }
        Ok(Self(steps))
    }
}

/// The text up to the closing quote, where `\"` and `\\` stand for `"` and `\`, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut key = String::new();
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Some((key, &text[position + 1..])),
            '\\' => key.push(characters.next()?.1),
            other => key.push(other),
        }
    }
    None
}

/// A key as TOML writes it: bare when it can be, else in quotes.
fn quoted(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_file() {
        let source = KeyPath::root().key("source").key("a").key("ipv4");
        assert_eq!(source.to_string(), "source.a.ipv4");
        assert_eq!(source.in_table(), "[source.a] ipv4");
        let listener = KeyPath::root().key("listener").at(1);
        assert_eq!(listener.to_string(), "listener[1]");
        assert_eq!(listener.in_table(), "listener[1]");
        assert_eq!(listener.key("address").to_string(), "listener[1].address");
        assert_eq!(listener.key("address").in_table(), "[[listener]] address");
        let stream = KeyPath::root().key("dkim").at(0).key("streams").at(2);
        assert_eq!(stream.in_table(), "[[dkim]] streams[2]");
        assert_eq!(KeyPath::root().key("hostname").in_table(), "hostname");
        let spaced = KeyPath::root().key("pool").key("a \"b\\").at(3).key("c");
        assert_eq!(spaced.to_string(), r#"pool."a \"b\\"[3].c"#);
        for path in [source, listener, stream, spaced] {
            assert_eq!(path.to_string().parse(), Ok(path));
        }
        for text in [".a", "a.", "a[", "a[x]", "\"a", "a..b"] {
            assert!(text.parse::<KeyPath>().is_err(), "{text}");
        }
    }
}
