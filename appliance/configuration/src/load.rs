//! From files to a checked configuration. Either everything is right and a [`Loaded`] comes
//! out, or [`Errors`] says all that is wrong; there is nothing between.

mod include;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::check;
use crate::deserialize;
use crate::path::KeyPath;
use crate::problem::{Errors, Place, Problem, Severity};
use crate::tree::{self, Node, Sources, Value};
use crate::types::Configuration;

/// Most findings of one kind that are reported; the rest is counted.
const MOST_FINDINGS: usize = 200;
/// Largest text that [`parse`] and [`parse_untrusted`] read, in octets.
pub const LARGEST_TEXT: usize = 1 << 20;

/// What else to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether certificates, keys and roots must exist and look right. Off for an example, for a
    /// file that is to run elsewhere, and for a text of unknown origin.
    pub check_files: bool,
    /// Names of the providers whose rules are shipped: a `[provider.NAME]` that is not among them
    /// needs `mx-suffix`. `None`: not checked.
    pub shipped_providers: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { check_files: true, shipped_providers: None }
    }
}

impl Options {
    /// Looks at no file but the configuration itself.
    pub fn without_files() -> Self {
        Self { check_files: false, ..Self::default() }
    }
}

/// A configuration that may be used.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration: includes followed, relative paths joined to the folder of the file that says them.
    pub configuration: Configuration,
    /// The files it was read from, the main one first.
    pub files: Vec<PathBuf>,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
    tree: Node,
    sources: Sources,
}

impl Loaded {
    /// Where a key is said, `lane.connections`, `source.a.ipv4`, `listener[0].address`;
    /// `None` when it is not said and its default counts, or when this is no key path.
    pub fn place_of(&self, key: &str) -> Option<Place> {
        let path: KeyPath = key.parse().ok()?;
        match self.tree.find(&path) {
            (node, true) if !path.is_root() => Some(self.sources.place(node.best_at())),
            _ => None,
        }
    }

    /// The line on which a key is said, without its indentation; absent where [`Self::place_of`] is,
    /// and where the line may hold a secret.
    pub fn line_of(&self, key: &str) -> Option<String> {
        let path: KeyPath = key.parse().ok()?;
        match self.tree.find(&path) {
            (node, true) if !path.is_root() => self
                .sources
                .problem(Severity::Warning, &path, Some(node.best_at()), "", None)
                .source
                .map(|line| line.trim().to_owned()),
            _ => None,
        }
    }
}

/// Reads and checks a file, its includes and the files it names.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded, Errors> {
    load_with(path, &Options::default())
}

/// As [`load`], with other [`Options`].
pub fn load_with(path: impl AsRef<Path>, options: &Options) -> Result<Loaded, Errors> {
    let mut sources = Sources::default();
    let mut problems = Vec::new();
    let tree = include::read_all(path.as_ref(), &mut sources, &mut problems);
    finish(tree, sources, problems, options)
}

/// Reads and checks a text, as from an editor or a test; `name` stands for the file in errors.
/// Includes are refused, relative paths stay as they are. At most [`LARGEST_TEXT`] octets.
pub fn parse(name: &str, text: &str, options: &Options) -> Result<Loaded, Errors> {
    let mut sources = Sources::default();
    let mut problems = Vec::new();
    if text.len() > LARGEST_TEXT {
        problems.push(sources.problem(
            Severity::Error,
            &KeyPath::root(),
            None,
            format!("this text is {} octets long; {LARGEST_TEXT} are read at most", text.len()),
            None,
        ));
        return finish(None, sources, problems, options);
    }
    let file = sources.add(PathBuf::from(name), text.to_owned());
    let tree = tree::read(&sources, file, &mut problems);
    if let Some(Node { value: Value::Table(table), .. }) = &tree
        && let Some(include) = table.get("include")
        && !matches!(&include.value, Value::Array(items) if items.is_empty())
    {
        problems.push(sources.problem(
            Severity::Error,
            &KeyPath::root().key("include"),
            Some(include.best_at()),
            "a text that is not a file cannot include files",
            None,
        ));
    }
    finish(tree, sources, problems, options)
}

/// Reads and checks octets of any origin: no file is opened, no panic, bounded time and memory.
pub fn parse_untrusted(octets: &[u8]) -> Result<Configuration, Errors> {
    let text = match std::str::from_utf8(octets) {
        Ok(text) => text,
        Err(error) => {
            let problem = Sources::default().problem(
                Severity::Error,
                &KeyPath::root(),
                None,
                format!("this is not UTF-8 from octet {} on", error.valid_up_to()),
                None,
            );
            return Err(Errors { problems: vec![problem] });
        }
    };
    parse("text", text, &Options::without_files()).map(|loaded| loaded.configuration)
}

/// The configuration as one TOML text that reads back as the same configuration, defaults written out.
/// Fails only when a path is not UTF-8.
pub fn to_toml(configuration: &Configuration) -> Result<String, toml::ser::Error> {
    toml::to_string(configuration)
}

fn finish(
    tree: Option<Node>,
    sources: Sources,
    mut problems: Vec<Problem>,
    options: &Options,
) -> Result<Loaded, Errors> {
    let Some(mut tree) = tree else {
        return Err(errors(problems, &sources));
    };
    check::check_permissions(&tree, &sources, options, &mut problems);
    let read = deserialize::read(&tree, &sources, &mut problems);
    let Some(mut configuration) = read.configuration else {
        return Err(errors(problems, &sources));
    };
    configuration.include.clear();
    resolve_paths(&mut configuration, &tree, &sources);
    if let Value::Table(table) = &mut tree.value {
        table.remove("include");
    }

    let findings = check::check(&configuration, options);
    let mut left_out = 0;
    for finding in findings {
        // In a table with an unknown key much else may follow from that key: one thing at a time.
        if finding.severity == Severity::Error && is_doubtful(&finding.path, &read.doubtful) {
            continue;
        }
        if problems.len() >= MOST_FINDINGS {
            left_out += 1;
            continue;
        }
        let (node, found) = tree.find(&finding.path);
        let span = if found && !finding.at_key { node.at } else { node.best_at() };
        problems.push(sources.problem(finding.severity, &finding.path, Some(span), finding.message, finding.remedy));
    }
    if left_out > 0 {
        let message = format!("{left_out} more are not shown");
        problems.push(sources.problem(Severity::Warning, &KeyPath::root(), None, message, None));
    }

    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(errors(problems, &sources));
    }
    let files = sources.paths().map(Path::to_owned).collect();
    Ok(Loaded { configuration, files, warnings: sorted(problems, &sources), tree, sources })
}

fn is_doubtful(path: &KeyPath, doubtful: &BTreeSet<KeyPath>) -> bool {
    doubtful.contains(path) || doubtful.contains(&path.parent())
}

fn errors(problems: Vec<Problem>, sources: &Sources) -> Errors {
    Errors { problems: sorted(problems, sources) }
}

/// In the order of the files, then of the lines; what has no place comes last.
fn sorted(mut problems: Vec<Problem>, sources: &Sources) -> Vec<Problem> {
    let order: Vec<&Path> = sources.paths().collect();
    problems.sort_by_cached_key(|problem| match &problem.place {
        Some(place) => {
            (order.iter().position(|path| *path == place.file).unwrap_or(usize::MAX - 1), place.line, place.column)
        }
        None => (usize::MAX, 0, 0),
    });
    problems
}

/// Joins relative paths to the folder of the file that says them, so that it does not matter
/// where a program was started.
fn resolve_paths(configuration: &mut Configuration, tree: &Node, sources: &Sources) {
    let root = KeyPath::root();
    let resolve = |path: KeyPath, value: &mut PathBuf| {
        let (node, true) = tree.find(&path) else { return };
        if let Some(folder) = sources.path(node.at.file).parent()
            && !value.as_os_str().is_empty()
        {
            *value = folder.join(&*value);
        }
    };
    resolve(root.key("spool").key("directory"), &mut configuration.spool.directory);
    resolve(root.key("records").key("directory"), &mut configuration.records.directory);
    resolve(root.key("suppression").key("directory"), &mut configuration.suppression.directory);
    resolve(root.key("control").key("socket"), &mut configuration.control.socket);
    if let Some(api) = &mut configuration.api {
        resolve(root.key("api").key("certificate"), &mut api.certificate);
        resolve(root.key("api").key("key"), &mut api.key);
    }
    resolve(root.key("mta-sts").key("directory"), &mut configuration.mta_sts.directory);
    if let Some(reports) = &mut configuration.tls_reports {
        resolve(root.key("tls-reports").key("directory"), &mut reports.directory);
    }
    if let Some(anchors) = &mut configuration.resolver.trust_anchors {
        resolve(root.key("resolver").key("trust-anchors"), anchors);
    }
    if let Some(extra_roots) = &mut configuration.delivery.extra_roots {
        resolve(root.key("delivery").key("extra-roots"), extra_roots);
    }
    for (index, listener) in configuration.listener.iter_mut().enumerate() {
        let path = root.key("listener").at(index);
        if let Some(certificate) = &mut listener.certificate {
            resolve(path.key("certificate"), certificate);
        }
        if let Some(key) = &mut listener.key {
            resolve(path.key("key"), key);
        }
    }
    for (index, door) in configuration.http.iter_mut().enumerate() {
        let path = root.key("http").at(index);
        if let Some(certificate) = &mut door.certificate {
            resolve(path.key("certificate"), certificate);
        }
        if let Some(key) = &mut door.key {
            resolve(path.key("key"), key);
        }
    }
    if let Some(acme) = &mut configuration.acme {
        let path = root.key("acme");
        resolve(path.key("directory"), &mut acme.directory);
        if let Some(roots) = &mut acme.extra_roots {
            resolve(path.key("extra-roots"), roots);
        }
        if let Some(account) = &mut acme.external_account {
            resolve(path.key("external-account").key("secret"), &mut account.secret);
        }
    }
    for (index, dkim) in configuration.dkim.iter_mut().enumerate() {
        resolve(root.key("dkim").at(index).key("key"), &mut dkim.key);
    }
    resolve_event_paths(configuration, resolve);
}

/// The same for receivers of events.
fn resolve_event_paths(configuration: &mut Configuration, resolve: impl Fn(KeyPath, &mut PathBuf)) {
    let root = KeyPath::root();
    let resolve_optional = |path: KeyPath, value: &mut Option<PathBuf>| {
        if let Some(value) = value {
            resolve(path, value);
        }
    };
    if let Some(accounting) = &mut configuration.accounting {
        resolve(root.key("accounting").key("directory"), &mut accounting.directory);
        resolve_optional(root.key("accounting").key("move-to"), &mut accounting.move_to);
    }
    for (index, webhook) in configuration.webhook.iter_mut().enumerate() {
        let path = root.key("webhook").at(index);
        resolve(path.key("secret"), &mut webhook.secret);
        resolve_optional(path.key("extra-roots"), &mut webhook.extra_roots);
    }
    for (index, amqp) in configuration.amqp.iter_mut().enumerate() {
        let path = root.key("amqp").at(index);
        resolve_optional(path.key("password"), &mut amqp.password);
        resolve_optional(path.key("extra-roots"), &mut amqp.extra_roots);
    }
    for (index, nats) in configuration.nats.iter_mut().enumerate() {
        let path = root.key("nats").at(index);
        resolve_optional(path.key("password"), &mut nats.password);
        resolve_optional(path.key("extra-roots"), &mut nats.extra_roots);
    }
}

#[cfg(test)]
mod tests;
