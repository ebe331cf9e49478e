//! From the tree to the types, with every error found on the way: a value that does not fit
//! is reported, left out, and the reading begins anew until nothing is left to report.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use crate::name::shown;
use crate::path::KeyPath;
use crate::problem::{Problem, Severity};
use crate::suggest::nearest;
use crate::tree::{Node, Sources, Span, Value};
use crate::types::Configuration;

/// Most errors reported for one configuration.
const MOST_ERRORS: usize = 100;

/// What became of a tree.
pub(crate) struct Read {
    /// The configuration, if nothing that it needs was left out.
    pub(crate) configuration: Option<Configuration>,
    /// Tables in which a key was not known: what else is wrong in them may follow from that.
    pub(crate) doubtful: BTreeSet<KeyPath>,
}

/// Reads the types from a tree and reports all that does not fit.
pub(crate) fn read(root: &Node, sources: &Sources, problems: &mut Vec<Problem>) -> Read {
    let context = Context { bad: RefCell::default(), unknown: RefCell::default() };
    let report =
        |path: &KeyPath, span: Option<Span>, message: String, remedy: Option<String>, problems: &mut Vec<Problem>| {
            if problems.len() < MOST_ERRORS {
                problems.push(sources.problem(Severity::Error, path, span, message, remedy));
            }
        };
    let mut complete = true;
    let configuration = loop {
        let node = Item { node: root, path: KeyPath::root(), context: &context };
        let error = match Configuration::deserialize(node) {
            Ok(configuration) => break complete.then_some(configuration),
            Err(error) => error,
        };
        complete = false;
        let path = error.path.unwrap_or_default();
        match error.what {
            // What was left out because it was wrong is not missing.
            What::Missing(field) if context.bad.borrow().contains(&path.key(field)) => {}
            What::Missing(field) => {
                let message =
                    format!("{} has no `{field}`", if path.is_root() { "the configuration" } else { "this table" });
                report(&path, error.at, message, Some(missing_remedy(&path, field)), problems);
            }
            What::Wrong { message, remedy } => report(&path, error.at, message, remedy, problems),
        }
        if path.is_root() || !context.bad.borrow_mut().insert(path) || problems.len() >= MOST_ERRORS {
            break None;
        }
    };
    let unknown = context.unknown.into_inner();
    for unknown in &unknown {
        report(&unknown.path, Some(unknown.at), unknown.message.clone(), unknown.remedy.clone(), problems);
    }
    Read { configuration, doubtful: unknown.into_iter().map(|unknown| unknown.path.parent()).collect() }
}

fn missing_remedy(path: &KeyPath, field: &str) -> String {
    match field {
        "hostname" => {
            "write hostname = \"mail.example.com\" before the first table, with the name of this box".to_owned()
        }
        "password-hash" => "make one with `postkeep credential hash`".to_owned(),
        "sender-domains" => "name the domains it may send from: sender-domains = [\"example.com\"]".to_owned(),
        "sources" => "name its sources with their weights: sources = { a = 100 }".to_owned(),
        "address" => "give the address and port: address = \"0.0.0.0:25\"".to_owned(),
        _ if path.is_root() => format!("add `{field}`"),
        _ => format!("add `{field}` to this table"),
    }
}

struct Context {
    /// Values that were reported and are left out.
    bad: RefCell<BTreeSet<KeyPath>>,
    unknown: RefCell<Vec<Unknown>>,
}

struct Unknown {
    path: KeyPath,
    at: Span,
    message: String,
    remedy: Option<String>,
}

impl Context {
    fn is_bad(&self, path: &KeyPath) -> bool {
        self.bad.borrow().contains(path)
    }

    /// Reports the keys of a table that its type does not have.
    fn check_keys(&self, item: &Item<'_>, fields: &'static [&'static str]) {
        let Value::Table(table) = &item.node.value else { return };
        for (key, node) in table.iter().filter(|(key, _)| !fields.contains(&key.as_str())) {
            let path = item.path.key(key);
            if !self.bad.borrow_mut().insert(path.clone()) || self.unknown.borrow().len() >= MOST_ERRORS {
                continue;
            }
            let (message, remedy) = unknown_key(key, &item.path, fields);
            self.unknown.borrow_mut().push(Unknown { path, at: node.best_at(), message, remedy });
        }
    }
}

fn unknown_key(key: &str, table: &KeyPath, fields: &[&str]) -> (String, Option<String>) {
    const TOP: [&str; 2] = ["hostname", "include"];
    let mut message = format!("unknown key {}", shown(key).replace('"', "`"));
    let remedy = if let Some(meant) = nearest(key, fields.iter().copied()) {
        message.push_str(&format!("; did you mean `{meant}`?"));
        None
    } else if !table.is_root() && TOP.contains(&key) {
        Some(format!("`{key}` belongs at the top of a file, before the first [table] header"))
    } else {
        Some(format!("known here: {}", fields.join(", ")))
    };
    (message, remedy)
}

/// Why a value cannot be read.
#[derive(Debug)]
struct Error {
    path: Option<KeyPath>,
    at: Option<Span>,
    what: What,
}

#[derive(Debug)]
enum What {
    Missing(&'static str),
    Wrong { message: String, remedy: Option<String> },
}

impl Error {
    fn wrong(message: String, remedy: Option<String>) -> Self {
        Self { path: None, at: None, what: What::Wrong { message, remedy } }
    }

    /// The first place that is attached is the innermost, and stays.
    fn at(mut self, item: &Item<'_>) -> Self {
        if self.path.is_none() {
            self.path = Some(item.path.clone());
            self.at = Some(match self.what {
                What::Missing(_) => item.node.best_at(),
                What::Wrong { .. } => item.node.at,
            });
            if item.path.is_root() {
                self.at = Some(Span { start: 0, end: 0, ..item.node.at });
            }
            if let (What::Wrong { message, remedy }, Value::String(text)) = (&mut self.what, &item.node.value) {
                explain(text, message, remedy);
            }
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Missing(field) => write!(out, "`{field}` is missing"),
            What::Wrong { message, .. } => out.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        // The units say what they expect; that is the remedy.
        match text.split_once("; expected ") {
            Some((message, expected)) => Self::wrong(message.to_owned(), Some(format!("write {expected}"))),
            None => Self::wrong(text, None),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: None, at: None, what: What::Missing(field) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let mut message = format!("{} is not a word that is known here", shown(variant));
        if let Some(meant) = nearest(variant, expected.iter().copied()) {
            message.push_str(&format!("; did you mean \"{meant}\"?"));
        }
        Self::wrong(message, Some(format!("write one of {known}")))
    }
}

/// Says more about addresses than the standard library does.
fn explain(text: &str, message: &mut String, remedy: &mut Option<String>) {
    let address = text.parse::<IpAddr>().ok();
    let (new, help) = match message.as_str() {
        "invalid IPv4 address syntax" => (
            "is not an IPv4 address",
            match address {
                Some(IpAddr::V6(_)) => "this is an IPv6 address: write ipv6 = ".to_owned() + &shown(text),
                _ => "write an address such as \"192.0.2.10\"".to_owned(),
            },
        ),
        "invalid IPv6 address syntax" => (
            "is not an IPv6 address",
            match address {
                Some(IpAddr::V4(_)) => "this is an IPv4 address: write ipv4 = ".to_owned() + &shown(text),
                _ => "write an address such as \"2001:db8::10\", without brackets".to_owned(),
            },
        ),
        "invalid socket address syntax" => (
            "is not an address with a port",
            match address {
                Some(IpAddr::V4(address)) => format!("add the port: \"{address}:25\""),
                Some(IpAddr::V6(address)) => format!("add the port: \"[{address}]:25\""),
                None => "write an address, not a name, and a port: \"0.0.0.0:25\" or \"[::]:25\"".to_owned(),
            },
        ),
        "invalid IP address syntax" => (
            "is not a network",
            match address {
                Some(IpAddr::V4(address)) => format!("add the length of the prefix; one address is \"{address}/32\""),
                Some(IpAddr::V6(address)) => format!("add the length of the prefix; one address is \"{address}/128\""),
                None => "write a network such as \"192.0.2.0/24\" or \"2001:db8::/48\"".to_owned(),
            },
        ),
        _ => return,
    };
    *message = format!("{} {new}", shown(text));
    *remedy = Some(help);
}

/// A node on its way into a type.
#[derive(Clone)]
struct Item<'a> {
    node: &'a Node,
    path: KeyPath,
    context: &'a Context,
}

impl<'a> Item<'a> {
    fn expected(&self, what: &str, remedy: Option<String>) -> Error {
        Error::wrong(format!("this is {}, where {what} is needed", self.node.kind()), remedy).at(self)
    }

    fn table_access(&self) -> Option<TableAccess<'a>> {
        match &self.node.value {
            Value::Table(table) => Some(TableAccess { iter: table.iter(), next: None, item: self.clone() }),
            _ => None,
        }
    }

    /// The name of the table, for examples of its header.
    fn header(&self) -> String {
        self.path.to_string()
    }

    fn integer(&self, least: i64, most: i64) -> Result<i64, Error> {
        match self.node.value {
            Value::Integer(number) if (least..=most).contains(&number) => Ok(number),
            Value::Integer(number) => Err(Error::wrong(
                format!("{number} is not within {least} to {most}"),
                Some(format!("write a whole number from {least} to {most}")),
            )
            .at(self)),
            Value::String(ref text) if text.parse::<i64>().is_ok() => {
                Err(self.expected("a whole number", Some(format!("leave the quotes out: {text}"))))
            }
            _ => Err(self.expected("a whole number", None)),
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let most = i64::try_from(<$type>::MAX).unwrap_or(i64::MAX);
            let least = i64::try_from(<$type>::MIN).unwrap_or(i64::MIN);
            let number = self.integer(least, most)?;
            // The range was checked just above, so the conversion keeps the number.
            visitor.$visit(number as $type).map_err(|error: Error| error.at(&self))
        })*
    };
}

impl<'de> Deserializer<'de> for Item<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(boolean) => visitor.visit_bool(*boolean),
            Value::Datetime => Err(Error::wrong("a date or time is not known here".to_owned(), None)),
            Value::Array(items) => {
                visitor.visit_seq(ArrayAccess { iter: items.iter().enumerate(), item: self.clone() })
            }
            Value::Table(_) => match self.table_access() {
                Some(access) => visitor.visit_map(access),
                None => Err(Error::wrong("this is not a table".to_owned(), None)),
            },
        }
        .map_err(|error| error.at(&self))
    }

    integers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::Float(number) => visitor.visit_f64(number),
            Value::Integer(number) => visitor.visit_f64(number as f64),
            _ => Err(self.expected("a number", None)),
        }
        .map_err(|error| error.at(&self))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Boolean(boolean) => visitor.visit_bool(*boolean).map_err(|error: Error| error.at(&self)),
            Value::String(text) if matches!(text.as_str(), "true" | "false") => {
                Err(self.expected("true or false", Some(format!("leave the quotes out: {text}"))))
            }
            _ => Err(self.expected("true or false", None)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(text) => visitor.visit_str(text).map_err(|error: Error| error.at(&self)),
            _ => Err(self.expected("a string", Some("put it in quotes".to_owned()))),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Array(items) => visitor
                .visit_seq(ArrayAccess { iter: items.iter().enumerate(), item: self.clone() })
                .map_err(|error| error.at(&self)),
            Value::Table(_) => {
                Err(self.expected("an array of tables", Some(format!("write double brackets: [[{}]]", self.header()))))
            }
            Value::String(text) => {
                Err(self.expected("an array", Some(format!("put it in brackets: [{}]", shown(text)))))
            }
            _ => Err(self.expected("an array", None)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.table_access() {
            Some(access) => visitor.visit_map(access).map_err(|error| error.at(&self)),
            None if matches!(self.node.value, Value::Array(_)) => Err(self.expected(
                "a table of tables",
                Some(format!("give each a name and single brackets: [{}.NAME]", self.header())),
            )),
            None => Err(self.expected("a table", None)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.context.check_keys(&self, fields);
        match self.table_access() {
            Some(access) => visitor.visit_map(access).map_err(|error| error.at(&self)),
            None if matches!(self.node.value, Value::Array(_)) => {
                Err(self.expected("one table", Some(format!("write single brackets: [{}]", self.header()))))
            }
            None => Err(self.expected("a table", None)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(text) => {
                let word: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
                visitor.visit_enum(word).map_err(|error| error.at(&self))
            }
            _ => {
                let known = variants.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
                Err(self.expected("a word in quotes", Some(format!("write one of {known}"))))
            }
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct TableAccess<'a> {
    iter: std::collections::btree_map::Iter<'a, String, Node>,
    next: Option<Item<'a>>,
    item: Item<'a>,
}

impl<'de> MapAccess<'de> for TableAccess<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        for (key, node) in self.iter.by_ref() {
            let path = self.item.path.key(key);
            if self.item.context.is_bad(&path) {
                continue;
            }
            let item = Item { node, path, context: self.item.context };
            let word: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
            let value = seed.deserialize(word).map_err(|error| error.at(&item))?;
            self.next = Some(item);
            return Ok(Some(value));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.next.take() {
            Some(item) => seed.deserialize(item.clone()).map_err(|error| error.at(&item)),
            None => Err(Error::wrong("a value was asked for before its key".to_owned(), None)),
        }
    }
}

struct ArrayAccess<'a> {
    iter: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    item: Item<'a>,
}

impl<'de> SeqAccess<'de> for ArrayAccess<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        for (index, node) in self.iter.by_ref() {
            let path = self.item.path.at(index);
            if self.item.context.is_bad(&path) {
                continue;
            }
            let item = Item { node, path, context: self.item.context };
            return seed.deserialize(item.clone()).map(Some).map_err(|error| error.at(&item));
        }
        Ok(None)
    }
}
