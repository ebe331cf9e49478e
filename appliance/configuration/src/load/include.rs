//! Reading a file and all it includes, depth first, each file once, within limits.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::name::shown;
use crate::path::KeyPath;
use crate::problem::{Problem, Severity};
use crate::tree::{self, Node, Sources, Span, Value};

/// Largest single file, in octets.
const LARGEST_FILE: u64 = 4 << 20;
/// Largest sum of all files, in octets.
const LARGEST_TOTAL: u64 = 16 << 20;
/// Most files.
const MOST_FILES: usize = 256;
/// Includes within includes.
const DEEPEST: usize = 8;

/// Reads `path` and what it includes into one tree; `None` when anything was wrong, and then `problems` says what.
pub(super) fn read_all(path: &Path, sources: &mut Sources, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut reader = Reader { sources, problems, open: Vec::new(), done: Vec::new(), total: 0, sound: true };
    let tree = reader.file(path, None, 0);
    let sound = reader.sound;
    tree.filter(|_| sound)
}

struct Reader<'a> {
    sources: &'a mut Sources,
    problems: &'a mut Vec<Problem>,
    /// Files that are being read, outermost first, by their true path.
    open: Vec<PathBuf>,
    /// Files that were read, and where each was included.
    done: Vec<(PathBuf, Option<Span>)>,
    total: u64,
    sound: bool,
}

impl Reader<'_> {
    fn fail(&mut self, at: Option<Span>, message: String, remedy: Option<&str>) {
        self.sound = false;
        let path = if at.is_some() { KeyPath::root().key("include") } else { KeyPath::root() };
        let problem = self.sources.problem(Severity::Error, &path, at, message, remedy.map(str::to_owned));
        self.problems.push(problem);
    }

    /// Reads one file; `at` is the line that includes it.
    fn file(&mut self, path: &Path, at: Option<Span>, depth: usize) -> Option<Node> {
        let true_path = match path.canonicalize() {
            Ok(true_path) => true_path,
            Err(error) => {
                self.fail(at, format!("cannot open {}: {error}", path.display()), None);
                return None;
            }
        };
        if self.open.contains(&true_path) {
            self.fail(at, format!("{} includes itself", path.display()), Some("take one of the includes out"));
            return None;
        }
        if let Some((_, first)) = self.done.iter().find(|(done, _)| *done == true_path) {
            let first = first.map_or_else(String::new, |span| format!(", first at {}", self.sources.place(span)));
            self.fail(at, format!("{} is included twice{first}", path.display()), Some("take one of the includes out"));
            return None;
        }
        if depth > DEEPEST {
            self.fail(at, format!("includes are nested deeper than {DEEPEST}"), Some("include from the main file"));
            return None;
        }
        if self.done.len() >= MOST_FILES {
            self.fail(at, format!("there are more than {MOST_FILES} files"), Some("put several files into one"));
            return None;
        }
        let text = match self.text(&true_path) {
            Ok(text) => text,
            Err(complaint) => {
                self.fail(at, format!("cannot read {}: {complaint}", path.display()), None);
                return None;
            }
        };
        let file = self.sources.add(path.to_owned(), text);
        self.done.push((true_path.clone(), at));
        self.open.push(true_path);
        let tree = match tree::read(self.sources, file, self.problems) {
            Some(mut tree) => {
                self.includes(&mut tree, path, depth);
                Some(tree)
            }
            None => {
                self.sound = false;
                None
            }
        };
        self.open.pop();
        tree
    }

    fn text(&mut self, path: &Path) -> Result<String, String> {
        // Asked before opening, because opening a pipe waits.
        let metadata = path.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a file".to_owned());
        }
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut octets = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut octets).map_err(|error| error.to_string())?;
        let length = octets.len() as u64;
        self.total += length;
        if length > LARGEST_FILE {
            return Err(format!("it is larger than {}MiB", LARGEST_FILE >> 20));
        }
        if self.total > LARGEST_TOTAL {
            return Err(format!("all files together are larger than {}MiB", LARGEST_TOTAL >> 20));
        }
        String::from_utf8(octets).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
            format!("line {line} is not UTF-8")
        })
    }

    /// Takes `include` out of a tree and merges what it names into the tree.
    fn includes(&mut self, tree: &mut Node, path: &Path, depth: usize) {
        let Value::Table(table) = &mut tree.value else { return };
        // What is not an array of strings stays, and is reported with the other types.
        let of_strings = |node: &Node| matches!(&node.value, Value::Array(items) if items.iter().all(|item| matches!(item.value, Value::String(_))));
        if !table.get("include").is_some_and(of_strings) {
            return;
        }
        let Some(Node { value: Value::Array(items), .. }) = table.remove("include") else { return };
        let folder = path.parent().unwrap_or(Path::new(""));
        for item in items {
            let Value::String(pattern) = &item.value else { continue };
            let files = match matching(folder, pattern) {
                Ok(files) => files,
                Err(complaint) => {
                    self.fail(Some(item.at), complaint, Some("write a path such as \"conf.d/*.toml\""));
                    continue;
                }
            };
            for file in files {
                if let Some(other) = self.file(&file, Some(item.at), depth + 1) {
                    let before = self.problems.len();
                    tree::merge(tree, other, &KeyPath::root(), self.sources, self.problems);
                    self.sound &= self.problems.len() == before;
                }
            }
        }
    }
}

/// The files that a pattern names, sorted; a pattern without `*` names one, whether it exists or not.
fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let (parents, last) =
        pattern.rsplit_once('/').map_or(("", pattern), |(_, last)| (&pattern[..pattern.len() - last.len()], last));
    if last.is_empty() || last == "." || last == ".." {
        return Err(format!("{} names no file", shown(pattern)));
    }
    if parents.contains('*') {
        return Err(format!("{} has a * before its last part", shown(pattern)));
    }
    let folder = folder.join(parents);
    if !last.contains('*') {
        return Ok(vec![folder.join(last)]);
    }
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
    let entries = match listed.read_dir() {
        Ok(entries) => entries,
        // A folder for additions that nobody made is an empty one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot list {}: {error}", listed.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot list {}: {error}", listed.display()))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let file = folder.join(name);
        // Hidden files are editors' and package managers' leftovers.
        if !name.starts_with('.') && star_matches(last, name) && !file.is_dir() {
            files.push(file);
        }
        if files.len() > MOST_FILES {
            return Err(format!("{} names more than {MOST_FILES} files", shown(pattern)));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether `name` fits a pattern in which `*` is any text, also none.
fn star_matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(position) => rest = &rest[position + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("*", "", true),
            ("aa*a", "aa", false),
            ("same", "same", true),
        ] {
            assert_eq!(star_matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
