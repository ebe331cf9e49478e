//! What the rooms ask a configuration: the stream a name means, the pool it leaves from,
//! the pace of a retry. All of it total: an unchecked configuration gets `None`, never a panic.

use std::sync::LazyLock;

use crate::types::{Configuration, Pool, Stream};

/// Name of the stream that always exists, and of the pool that is taken when none is named.
pub const DEFAULT: &str = "default";

/// What `default` is when the configuration does not write it down.
static DEFAULT_STREAM: LazyLock<Stream> = LazyLock::new(Stream::default);

impl Configuration {
    /// The stream of that name; for a name that no longer exists (a reload took it away while
    /// its mail was queued) and for an unwritten `default`, the default stream.
    pub fn stream(&self, name: &str) -> &Stream {
        self.stream.get(name).or_else(|| self.stream.get(DEFAULT)).unwrap_or(&DEFAULT_STREAM)
    }

    /// Whether mail may be put into a stream of that name.
    pub fn has_stream(&self, name: &str) -> bool {
        name == DEFAULT || self.stream.contains_key(name)
    }

    /// Names of all streams, `default` among them, in order.
    pub fn stream_names(&self) -> impl Iterator<Item = &str> {
        let unwritten = (!self.stream.contains_key(DEFAULT)).then_some(DEFAULT);
        unwritten.into_iter().chain(self.stream.keys().map(String::as_str))
    }

    /// The pool that a stream leaves from: the one it names, else the one named `default`,
    /// else the only one. A checked configuration has one for each of its streams.
    pub fn pool_of(&self, stream: &str) -> Option<(&str, &Pool)> {
        match &self.stream(stream).pool {
            Some(name) => self.pool.get_key_value(name),
            None => self.pool.get_key_value(DEFAULT).or_else(|| match self.pool.len() {
                1 => self.pool.first_key_value(),
                _ => None,
            }),
        }
        .map(|(name, pool)| (name.as_str(), pool))
    }

    /// EHLO name of a source: its own, else `hostname`.
    pub fn ehlo_of(&self, source: &str) -> &str {
        self.source.get(source).and_then(|source| source.ehlo.as_deref()).unwrap_or(&self.hostname)
    }
}

impl Pool {
    /// Sources that take part: weight 1 or more.
    pub fn active(&self) -> impl Iterator<Item = (&str, u32)> {
        self.sources.iter().filter(|(_, weight)| **weight > 0).map(|(name, weight)| (name.as_str(), *weight))
    }
}
