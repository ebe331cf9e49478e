//! The rule book: receivers' texts and codes, and what they mean. Rules are data
//! (`appliance/deliverability/rules`, its README has the keys); the first that fits decides.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postkeep_configuration::units::Duration;
use postkeep_smtp::client::Stage;
use postkeep_smtp::reply::{EnhancedCode, Reply};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::doubt::{self, Doubt};
use super::named::Parties;
use super::{Reaction, Scope, Verdict, class, settled};

/// The shipped files, in the order in which they are tried.
const SHIPPED: [(&str, &str); 7] = [
    ("doubts.toml", include_str!("../../rules/doubts.toml")),
    ("google.toml", include_str!("../../rules/google.toml")),
    ("yahoo.toml", include_str!("../../rules/yahoo.toml")),
    ("microsoft.toml", include_str!("../../rules/microsoft.toml")),
    ("apple.toml", include_str!("../../rules/apple.toml")),
    ("europe.toml", include_str!("../../rules/europe.toml")),
    ("general.toml", include_str!("../../rules/general.toml")),
];
/// Largest file of rules that is read.
const LARGEST_FILE: u64 = 1 << 20;
/// Longest text of a reply that is held against the rules, in octets.
const LONGEST_TEXT: usize = 4096;
/// Memory that one pattern may compile to.
const PATTERN_SIZE: usize = 4 << 20;

/// What a reply is held against the rules with. A stage or code that is not known does not stand in a
/// rule's way (a report often lacks them); a status that is missing does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    /// The command that was refused.
    pub stage: Option<Stage>,
    /// Reply code.
    pub code: Option<u16>,
    /// Enhanced code.
    pub status: Option<EnhancedCode>,
    /// The whole reply on one line.
    pub text: &'a str,
    /// Whose site it is.
    pub provider: Option<&'a str>,
}

/// A rule that a reply met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// Whom the reply concerns.
    pub scope: Scope,
    /// What to do.
    pub reaction: Reaction,
    /// What it is about.
    pub class: &'static str,
    /// Where the fact is from.
    pub source: Arc<str>,
    /// When that was looked at.
    pub checked: Arc<str>,
    /// What an operator should know.
    pub note: Option<Arc<str>>,
}

/// Why a file of rules cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct RuleError {
    /// The file.
    pub file: String,
    /// The rule and what is wrong with it, and what would be right.
    pub problem: String,
}

/// All rules, and what leaves a doubt whatever they say.
#[derive(Debug, Clone, Default)]
pub struct RuleBook {
    rules: Vec<Compiled>,
    doubts: Vec<Doubt>,
}

#[derive(Debug, Clone)]
struct Compiled {
    rule: Rule,
    file: Arc<str>,
    providers: Vec<String>,
    codes: Vec<u16>,
    statuses: Vec<StatusPattern>,
    stages: Vec<Stage>,
    text: Option<Regex>,
    examples: Vec<String>,
    not: Vec<String>,
}

/// `5.1.1`, `x.7.26`, `5.1.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StatusPattern {
    class: Option<u8>,
    subject: u16,
    detail: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Written>,
    #[serde(default)]
    doubt: Vec<doubt::Written>,
}

/// A rule as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    provider: OneOrMore,
    #[serde(default)]
    code: Vec<u16>,
    #[serde(default)]
    status: Vec<String>,
    text: Option<String>,
    #[serde(default)]
    stage: Vec<String>,
    scope: String,
    class: String,
    reaction: String,
    duration: Option<Duration>,
    source: String,
    checked: String,
    note: Option<String>,
    #[serde(default)]
    examples: Vec<String>,
    #[serde(default)]
    not: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    #[default]
    None,
    One(String),
    More(Vec<String>),
}

impl RuleBook {
    /// The rules that come with this program.
    ///
    /// # Errors
    /// A fault of the program.
    pub fn shipped() -> Result<Self, RuleError> {
        let mut book = Self::default();
        for (name, text) in SHIPPED {
            book.add(name, text)?;
        }
        Ok(book)
    }

    /// The owner's files first, then the shipped rules; the times of all are multiplied by `hold_scale`.
    ///
    /// # Errors
    /// A file cannot be read, or a rule in it cannot be used.
    pub fn with_files(files: &[PathBuf], hold_scale: f64) -> Result<Self, RuleError> {
        let mut book = Self::default();
        for file in files {
            book.add(&file.display().to_string(), &read(file)?)?;
        }
        for (name, text) in SHIPPED {
            book.add(name, text)?;
        }
        for compiled in &mut book.rules {
            if let Reaction::Hold { length } | Reaction::Alarm { length } = &mut compiled.rule.reaction {
                let scaled = (length.as_micros() as f64 * hold_scale).max(1e6);
                *length = Duration::from_micros(scaled as u64);
            }
        }
        Ok(book)
    }

    /// Adds the rules of a file behind those that are there.
    fn add(&mut self, file: &str, text: &str) -> Result<(), RuleError> {
        let error = |problem: String| RuleError { file: file.to_owned(), problem };
        let parsed: File = toml::from_str(text).map_err(|problem| error(problem.to_string()))?;
        let file: Arc<str> = file.into();
        for written in parsed.doubt {
            let name = written.name.clone();
            let doubt = Doubt::compile(written).map_err(|problem| error(format!("doubt {name:?}: {problem}")))?;
            if self.doubts.iter().any(|known| known.name == doubt.name) {
                return Err(error(format!("doubt {name:?} is there twice: give each its own name")));
            }
            self.doubts.push(doubt);
        }
        for written in parsed.rule {
            let name = written.name.clone();
            let compiled = compile(written, &file).map_err(|problem| error(format!("rule {name:?}: {problem}")))?;
            if self.rules.iter().any(|known| known.rule.name == compiled.rule.name) {
                return Err(error(format!("rule {name:?} is there twice: give each its own name")));
            }
            self.rules.push(compiled);
        }
        Ok(())
    }

    /// The first rule that fits.
    pub fn find(&self, subject: &Subject<'_>) -> Option<&Rule> {
        let text = without_addresses(cut(subject.text));
        self.rules.iter().find(|rule| rule.fits(subject, &text)).map(|rule| &rule.rule)
    }

    /// The name of what in these words leaves a doubt that nobody has the address: then nobody is suppressed
    /// for them, whatever rule and code say so.
    pub fn doubt(&self, text: &str) -> Option<&str> {
        let text = doubt::bare(&without_addresses(cut(text)));
        self.doubts.iter().find(|doubt| doubt.is_in(&text)).map(|doubt| &*doubt.name)
    }

    /// The same, where it is known whom the reply is for: one that names somebody else suppresses nobody.
    pub fn judge_for(&self, parties: &Parties<'_>, stage: Stage, reply: &Reply, provider: Option<&str>) -> Verdict {
        let mut verdict = self.judge(stage, reply, provider);
        let has_moved = verdict.class == "mailbox-moved";
        if verdict.reaction == Reaction::Suppress && !has_moved && parties.leave_out_whom(&reply.text) {
            verdict.reaction = Reaction::Bounce;
        }
        verdict
    }

    /// Judges a reply that refused something at this stage.
    pub fn judge(&self, stage: Stage, reply: &Reply, provider: Option<&str>) -> Verdict {
        let text = one_line(reply);
        let subject = Subject {
            stage: Some(stage),
            code: Some(reply.code),
            status: super::enhanced_of(reply),
            text: &text,
            provider,
        };
        let fallback = super::judge_by_codes(stage, reply);
        match self.find(&subject) {
            Some(rule) => {
                let mut verdict = settled(rule, stage, reply, fallback);
                if verdict.reaction == Reaction::Suppress && self.doubt(&text).is_some() {
                    verdict.reaction = Reaction::Bounce;
                }
                verdict
            }
            None => fallback,
        }
    }

    /// Every rule in its order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|rule| &rule.rule)
    }

    /// Holds every rule against its own examples. The faults, one sentence each; empty when all is well.
    pub fn check(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.doubts.iter().flat_map(Doubt::check).collect();
        for rule in &self.rules {
            let (file, name) = (&rule.file, &rule.rule.name);
            if rule.examples.is_empty() {
                faults.push(format!("{file}: rule {name:?} has no example"));
            }
            let provider = rule.providers.first().map(String::as_str);
            let met = |text: &str| {
                let stage = rule.stages.first().copied();
                let parsed = parse_reply(text);
                let subject = Subject {
                    stage,
                    code: parsed.as_ref().map(|reply| reply.code),
                    status: parsed.as_ref().and_then(super::enhanced_of),
                    text,
                    provider,
                };
                self.find(&subject).map(|rule| Arc::clone(&rule.name))
            };
            for example in &rule.examples {
                match met(example) {
                    Some(found) if found == *name => {}
                    Some(found) => faults.push(format!("{file}: rule {name:?}: {example:?} meets {found:?} before it")),
                    None => faults.push(format!("{file}: rule {name:?}: {example:?} does not meet it")),
                }
            }
            for example in &rule.not {
                if met(example).as_ref() == Some(name) {
                    faults.push(format!("{file}: rule {name:?}: {example:?} meets it and must not"));
                }
            }
        }
        faults
    }
}

impl Compiled {
    fn fits(&self, subject: &Subject<'_>, text: &str) -> bool {
        let provider_fits = self.providers.is_empty()
            || subject.provider.is_some_and(|provider| self.providers.iter().any(|own| own == provider));
        let status_fits = self.statuses.is_empty()
            || subject.status.is_some_and(|status| self.statuses.iter().any(|pattern| pattern.fits(status)));
        let code_fits = self.codes.is_empty() || subject.code.is_none_or(|code| self.codes.contains(&code));
        let stage_fits = self.stages.is_empty() || subject.stage.is_none_or(|stage| self.stages.contains(&stage));
        provider_fits
            && status_fits
            && code_fits
            && stage_fits
            && self.text.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }
}

impl StatusPattern {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let class = match parts.next()? {
            "x" => None,
            class => Some(class.parse().ok().filter(|class| matches!(class, 2 | 4 | 5))?),
        };
        let subject = parts.next()?.parse().ok()?;
        let detail = match parts.next()? {
            "*" => None,
            detail => Some(detail.parse().ok()?),
        };
        parts.next().is_none().then_some(Self { class, subject, detail })
    }

    fn fits(self, status: EnhancedCode) -> bool {
        self.class.is_none_or(|class| class == status.class)
            && self.subject == status.subject
            && self.detail.is_none_or(|detail| detail == status.detail)
    }
}

/// A reply written as one line, `550 5.1.1 no such user`; lines joined with hyphens are read as well.
pub fn parse_reply(text: &str) -> Option<Reply> {
    let text = text.trim_start();
    let code: u16 = text.get(..3)?.parse().ok().filter(|code| (200..600).contains(code))?;
    let rest = text.get(3..)?.trim_start_matches([' ', '-']);
    let (first, after) = rest.split_once([' ', '\n']).unwrap_or((rest, ""));
    Some(match EnhancedCode::parse(first) {
        Some(status) if u16::from(status.class) == code / 100 => {
            Reply { code, enhanced: Some(status), text: after.to_owned() }
        }
        _ => Reply::plain(code, rest),
    })
}

/// The whole reply as the rules see it.
fn one_line(reply: &Reply) -> String {
    let mut text = reply.code.to_string();
    if let Some(status) = reply.enhanced {
        text.push_str(&format!(" {status}"));
    }
    for line in reply.text.lines() {
        text.push(' ');
        text.push_str(line.trim());
    }
    text
}

/// What an address is called says nothing about it: `<spam@example.org>` is no spam.
fn without_addresses(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let is_part = |character: char| !character.is_whitespace() && !"<>()[],;\"".contains(character);
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|character| !is_part(character)) {
        let word = piece.trim_end_matches(|character| !is_part(character));
        match word.contains('@') {
            true => out.push_str(piece.get(word.len()..).unwrap_or_default()),
            false => out.push_str(piece),
        }
    }
    Cow::Owned(out)
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST_TEXT)).unwrap_or_default()
}

fn read(file: &Path) -> Result<String, RuleError> {
    let error = |problem: String| RuleError { file: file.display().to_string(), problem };
    let size = std::fs::metadata(file).map_err(|problem| error(format!("cannot be read: {problem}")))?.len();
    if size > LARGEST_FILE {
        return Err(error(format!("is larger than {} KiB", LARGEST_FILE >> 10)));
    }
    std::fs::read_to_string(file).map_err(|problem| error(format!("cannot be read: {problem}")))
}

fn compile(written: Written, file: &Arc<str>) -> Result<Compiled, String> {
    let scope = Scope::parse(&written.scope).ok_or_else(|| {
        format!("scope {:?} is none of recipient, message, stream, sender-domain, source, lane and site", written.scope)
    })?;
    let class = class::find(&written.class).ok_or_else(|| {
        let known: Vec<&str> = class::CLASSES.iter().map(|(class, _)| *class).collect();
        format!("class {:?} is not known; there are {}", written.class, known.join(", "))
    })?;
    let reaction = match (written.reaction.as_str(), written.duration) {
        ("retry", None) => Reaction::Retry,
        ("bounce", None) => Reaction::Bounce,
        ("suppress", None) if scope == Scope::Recipient => Reaction::Suppress,
        ("suppress", None) => return Err("suppress is for the scope recipient: a block never suppresses".to_owned()),
        ("slow", None) => Reaction::Slow,
        ("hold", Some(length)) => Reaction::Hold { length },
        ("alarm", Some(length)) => Reaction::Alarm { length },
        ("hold" | "alarm", None) => return Err(format!("{} needs a duration such as \"30m\"", written.reaction)),
        ("retry" | "bounce" | "suppress" | "slow", Some(_)) => {
            return Err(format!("{} has no duration: take it out, or say hold or alarm", written.reaction));
        }
        (other, _) => {
            return Err(format!("reaction {other:?} is none of retry, bounce, suppress, slow, hold and alarm"));
        }
    };
    if written.text.is_none() && written.status.is_empty() && written.code.is_empty() {
        return Err("it fits everything: give it a code, a status or a text".to_owned());
    }
    let statuses = written
        .status
        .iter()
        .map(|text| {
            StatusPattern::parse(text).ok_or_else(|| format!("status {text:?} is not like 5.1.1, x.7.26 or 5.1.*"))
        })
        .collect::<Result<_, _>>()?;
    let stages = written
        .stage
        .iter()
        .map(|text| {
            [Stage::Greeting, Stage::Ehlo, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Final]
                .into_iter()
                .find(|stage| stage.as_str() == text)
                .ok_or_else(|| format!("stage {text:?} is none of greeting, ehlo, mail, rcpt, data and final"))
        })
        .collect::<Result<_, _>>()?;
    let text = written
        .text
        .map(|text| {
            RegexBuilder::new(&text)
                .case_insensitive(true)
                .size_limit(PATTERN_SIZE)
                .build()
                .map_err(|error| format!("its text is not a pattern: {error}"))
        })
        .transpose()?;
    Ok(Compiled {
        rule: Rule {
            name: written.name.into(),
            scope,
            reaction,
            class,
            source: written.source.into(),
            checked: written.checked.into(),
            note: written.note.map(Into::into),
        },
        file: Arc::clone(file),
        providers: match written.provider {
            OneOrMore::None => Vec::new(),
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(more) => more,
        },
        codes: written.code,
        statuses,
        stages,
        text,
        examples: written.examples,
        not: written.not,
    })
}

#[cfg(test)]
mod tests;
