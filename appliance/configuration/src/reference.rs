//! The reference page, `docs/operate/configuration.md`: a hand-written introduction, then
//! every table and key with type, default and meaning, made from the schema.

use std::fmt::Write;

use serde_json::Value;

use crate::change::needs_restart;
use crate::schema::schema;

/// The hand-written part.
const INTRODUCTION: &str = include_str!("reference/introduction.md");

/// The whole page.
pub fn reference() -> String {
    let schema = schema();
    let mut page = Page { schema: &schema, text: INTRODUCTION.to_owned(), shared: Vec::new() };
    page.write();
    page.text
}

struct Page<'a> {
    schema: &'a Value,
    text: String,
    /// Tables that occur only within others: name of the type, and the headers under which they occur.
    shared: Vec<(String, Vec<String>)>,
}

/// How a table stands in the file.
fn header(name: &str, schema: &Value) -> Option<(String, String)> {
    if let Some(of) = table_of(schema) {
        return Some((format!("[{name}]"), of));
    }
    if let Some(of) = schema.get("items").and_then(table_of) {
        return Some((format!("[[{name}]]"), of));
    }
    schema.get("additionalProperties").and_then(table_of).map(|of| (format!("[{name}.NAME]"), of))
}

/// The name of the type that a schema refers to.
fn table_of(schema: &Value) -> Option<String> {
    let direct = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref"));
    Some(direct?.as_str()?.rsplit('/').next()?.to_owned())
}

impl Page<'_> {
    fn definition(&self, name: &str) -> &Value {
        &self.schema["definitions"][name]
    }

    fn is_table(&self, name: &str) -> bool {
        self.definition(name).get("properties").is_some()
    }

    fn write(&mut self) {
        let schema = self.schema;
        let Some(properties) = schema["properties"].as_object() else { return };
        let required =
            |name: &str| schema["required"].as_array().is_some_and(|keys| keys.iter().any(|key| key == name));

        self.section("Keys before the first table", "Of the file as a whole.");
        for (name, property) in properties.iter().filter(|(name, property)| header(name, property).is_none()) {
            self.row("", name, property, required(name));
        }
        let mut documented = Vec::new();
        for (name, property) in properties {
            let Some((header, of)) = header(name, property) else { continue };
            let meaning = description(property).to_owned();
            self.table(name, &header, &of, &meaning);
            documented.push(of);
        }
        let shared = std::mem::take(&mut self.shared);
        for (of, headers) in shared.into_iter().filter(|(of, _)| !documented.contains(of)) {
            let title = headers.iter().map(|header| format!("`{header}`")).collect::<Vec<_>>().join(", ");
            self.section(&title, description(self.definition(&of)).to_owned().as_str());
            self.rows("", &of);
        }
    }

    fn table(&mut self, name: &str, header: &str, of: &str, meaning: &str) {
        self.section(&format!("`{header}`"), meaning);
        self.rows(name, of);
    }

    fn section(&mut self, title: &str, text: &str) {
        let _ = write!(self.text, "\n### {title}\n\n{text}\n\n| key | type | default | meaning |\n|---|---|---|---|\n");
    }

    fn rows(&mut self, table: &str, of: &str) {
        let definition = self.definition(of).clone();
        let required =
            |name: &str| definition["required"].as_array().is_some_and(|keys| keys.iter().any(|key| key == name));
        let Some(properties) = definition["properties"].as_object() else { return };
        for (name, property) in properties {
            self.row(table, name, property, required(name));
        }
    }

    fn row(&mut self, table: &str, name: &str, property: &Value, required: bool) {
        let kind = match table_of(property).filter(|of| self.is_table(of)) {
            Some(of) => {
                let header = format!("[{}.{name}]", self.title_of(table));
                match self.shared.iter_mut().find(|(known, _)| *known == of) {
                    Some((_, headers)) => headers.push(header),
                    None => self.shared.push((of.clone(), vec![header])),
                }
                if of == "LaneLimits" { "table, keys as in `[lane]`".to_owned() } else { "table, see below".to_owned() }
            }
            None => self.kind(property),
        };
        let default = if required {
            "required".to_owned()
        } else {
            property.get("default").map_or_else(|| "none".to_owned(), |default| format!("`{default}`"))
        };
        let mut meaning = description(property).to_owned();
        for (word, text) in self.words(property) {
            let _ = write!(meaning, "<br>`\"{word}\"`: {text}");
        }
        let path = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
        if needs_restart(&path) {
            meaning.push_str(" *A change needs a restart.*");
        }
        let _ = writeln!(self.text, "| `{name}` | {kind} | {} | {} |", cell(&default), cell(&meaning));
    }

    /// The name of a table as its header has it.
    fn title_of(&self, table: &str) -> String {
        let schema = &self.schema["properties"][table];
        header(table, schema).map_or_else(|| table.to_owned(), |(header, _)| header.trim_matches(['[', ']']).to_owned())
    }

    fn kind(&self, schema: &Value) -> String {
        if let Some(own) = schema["x-type"].as_str() {
            return own.to_owned();
        }
        match table_of(schema).as_deref() {
            Some("Duration") => return "duration".to_owned(),
            Some("ByteSize") => return "size".to_owned(),
            Some("Rate") => return "rate".to_owned(),
            Some(_) => return "word".to_owned(),
            None => {}
        }
        let name = schema["type"].as_str().unwrap_or("string");
        match (name, schema["format"].as_str()) {
            ("array", _) => format!("list of {}s", self.kind(&schema["items"])),
            ("object", _) => format!("table of {}s by name", self.kind(&schema["additionalProperties"])),
            ("integer", _) => "whole number".to_owned(),
            ("number", _) => "number".to_owned(),
            ("boolean", _) => "`true` or `false`".to_owned(),
            (_, Some("ipv4")) => "IPv4 address".to_owned(),
            (_, Some("ipv6")) => "IPv6 address".to_owned(),
            (other, _) => other.to_owned(),
        }
    }

    /// The words that a key may have, with their meaning.
    fn words(&self, schema: &Value) -> Vec<(String, String)> {
        let Some(of) = table_of(schema) else { return Vec::new() };
        let definition = self.definition(&of);
        let Some(choices) = definition["oneOf"].as_array() else { return Vec::new() };
        choices
            .iter()
            .filter_map(|choice| {
                let word = choice["const"].as_str().or_else(|| choice.pointer("/enum/0")?.as_str())?;
                Some((word.to_owned(), description(choice).to_owned()))
            })
            .collect()
    }
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// A text within a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
