//! The files as one tree, each value with the place where it stands; what the types are
//! read from, and what answers "where is this said?".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::path::{KeyPath, Step};
use crate::problem::{Place, Problem, Severity};

/// Deepest nesting of tables and arrays; the types need six.
const DEEPEST: usize = 16;
/// Syntax errors reported for one file; after the first few they are usually echoes.
const MOST_SYNTAX_ERRORS: usize = 10;

/// The texts that were read.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
}

/// Octets of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Sources {
    /// Keeps a text and gives its number.
    pub(crate) fn add(&mut self, path: PathBuf, text: String) -> usize {
        self.files.push(Source { path, text });
        self.files.len() - 1
    }

    pub(crate) fn text(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |source| &source.text)
    }

    pub(crate) fn path(&self, file: usize) -> &Path {
        self.files.get(file).map_or(Path::new(""), |source| &source.path)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| source.path.as_path())
    }

    /// Line and column of the beginning of a span.
    pub(crate) fn place(&self, span: Span) -> Place {
        let text = self.text(span.file);
        let before = &text[..floor(text, span.start)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            file: self.path(span.file).to_owned(),
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// A problem with its place; without a span it concerns no line.
    pub(crate) fn problem(
        &self,
        severity: Severity,
        path: &KeyPath,
        span: Option<Span>,
        message: impl Into<String>,
        remedy: Option<String>,
    ) -> Problem {
        let mut problem = Problem {
            severity,
            place: None,
            key: path.to_string(),
            message: message.into(),
            remedy,
            source: None,
            title: path.in_table().replace(char::is_control, "\u{fffd}"),
            width: 1,
        };
        let Some(span) = span else { return problem };
        problem.place = Some(self.place(span));
        let text = self.text(span.file);
        let start = floor(text, span.start);
        let end = floor(text, span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let line = text[line_start..line_end].trim_end_matches('\r');
        // A hash is not printed, nor what somebody wrote in its place.
        if !line.contains("password") && !line.contains("$argon2") && line.len() <= 240 {
            problem.source =
                Some(line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect());
            problem.width = text[start..end.min(line_end)].chars().count().max(1);
        }
        problem
    }
}

/// The nearest character boundary at or before `position`.
fn floor(text: &str, position: usize) -> usize {
    text.floor_char_boundary(position)
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The value, or the header of a table.
    pub(crate) at: Span,
    /// The key, if it has one.
    pub(crate) key_at: Option<Span>,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    /// What people call this kind of value.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime => "a date or time",
            Value::Array(items) if !items.is_empty() && self.is_tables() => "an array of tables",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// An array of nothing but tables, or an empty one.
    fn is_tables(&self) -> bool {
        matches!(&self.value, Value::Array(items) if items.iter().all(|item| matches!(item.value, Value::Table(_))))
    }

    /// The key, else the value.
    pub(crate) fn best_at(&self) -> Span {
        self.key_at.unwrap_or(self.at)
    }

    /// The node at `path`, or the nearest above it that exists, and whether it is the one asked for.
    pub(crate) fn find(&self, path: &KeyPath) -> (&Node, bool) {
        let mut node = self;
        for step in path.steps() {
            let next = match (&node.value, step) {
                (Value::Table(table), Step::Key(key)) => table.get(key),
                (Value::Array(items), Step::Index(index)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => return (node, false),
            }
        }
        (node, true)
    }
}

/// Reads one text of `sources`; `None` when it is not TOML or nested too deeply, and then `problems` says why.
pub(crate) fn read(sources: &Sources, file: usize, problems: &mut Vec<Problem>) -> Option<Node> {
    let text = sources.text(file);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut seen = Vec::new();
        for error in errors.into_iter().take(10 * MOST_SYNTAX_ERRORS) {
            let range = error.span().unwrap_or(text.len()..text.len());
            let span = Span { file, start: range.start, end: range.end };
            let line = sources.place(span).line;
            // One error a line: what follows on the same line is its echo.
            if seen.contains(&line) || seen.len() >= MOST_SYNTAX_ERRORS {
                continue;
            }
            seen.push(line);
            problems.push(sources.problem(
                Severity::Error,
                &KeyPath::root(),
                Some(span),
                format!("this is not TOML: {}", error.message()),
                syntax_remedy(error.message()),
            ));
        }
        return None;
    }
    let mut reader = Reader { sources, file, problems, sound: true };
    let root = Span { file, start: 0, end: 0 };
    let value = reader.table(table.into_inner(), &KeyPath::root(), 0);
    reader.sound.then_some(Node { at: root, key_at: None, value })
}

fn syntax_remedy(message: &str) -> Option<String> {
    let remedy = if message.contains("duplicate key") {
        "say each key once in its table, and each `[table]` header once"
    } else if message.contains("string values must be quoted") {
        "put quotes around text: key = \"value\""
    } else {
        return None;
    };
    Some(remedy.to_owned())
}

struct Reader<'a> {
    sources: &'a Sources,
    file: usize,
    problems: &'a mut Vec<Problem>,
    sound: bool,
}

impl Reader<'_> {
    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span { file: self.file, start: range.start, end: range.end }
    }

    fn table(&mut self, table: DeTable<'_>, path: &KeyPath, depth: usize) -> Value {
        let mut nodes = BTreeMap::new();
        for (key, value) in table {
            let key_at = self.span(key.span());
            let key = key.into_inner().into_owned();
            let mut node = self.node(value, &path.key(&key), depth + 1);
            node.key_at = Some(key_at);
            nodes.insert(key, node);
        }
        Value::Table(nodes)
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, path: &KeyPath, depth: usize) -> Node {
        let at = self.span(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(integer) => {
                let digits = integer.as_str();
                Value::Integer(i64::from_str_radix(digits, integer.radix()).unwrap_or_else(|_| {
                    self.fail(path, at, "this whole number is too large".to_owned());
                    0
                }))
            }
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or_else(|_| {
                self.fail(path, at, "this is not a number".to_owned());
                0.0
            })),
            DeValue::Boolean(boolean) => Value::Boolean(boolean),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(_) | DeValue::Table(_) if depth >= DEEPEST => {
                self.fail(path, at, format!("tables and arrays are nested deeper than {DEEPEST}"));
                Value::Boolean(false)
            }
            DeValue::Array(array) => Value::Array(
                array
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| self.node(item, &path.at(index), depth + 1))
                    .collect(),
            ),
            DeValue::Table(table) => self.table(table, path, depth),
        };
        Node { at, key_at: None, value }
    }

    fn fail(&mut self, path: &KeyPath, at: Span, message: String) {
        self.sound = false;
        self.problems.push(self.sources.problem(Severity::Error, path, Some(at), message, None));
    }
}

/// Adds what another file says: tables merge, arrays of tables append, anything said twice is an error.
pub(crate) fn merge(into: &mut Node, from: Node, path: &KeyPath, sources: &Sources, problems: &mut Vec<Problem>) {
    let both_tables = into.is_tables() && from.is_tables();
    match (&mut into.value, from.value) {
        (Value::Table(own), Value::Table(other)) => {
            for (key, node) in other {
                match own.get_mut(&key) {
                    Some(existing) => merge(existing, node, &path.key(&key), sources, problems),
                    None => {
                        own.insert(key, node);
                    }
                }
            }
        }
        (Value::Array(own), Value::Array(other)) if both_tables => own.extend(other),
        _ => {
            let first = sources.place(into.best_at());
            let again = from.key_at.unwrap_or(from.at);
            problems.push(sources.problem(
                Severity::Error,
                path,
                Some(again),
                format!("this is set twice: first at {first}, then here"),
                Some("keep it in one file; only tables and arrays of tables may be spread over several".to_owned()),
            ));
        }
    }
}
