//! Which part of the queue an administrator means: any mix of stream, domain,
//! site and source. An absent part matches everything.

use serde::{Deserialize, Serialize};

/// A filter over queued mail and lanes. All given parts must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Selector {
    /// Stream name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Recipient domain, lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Site name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Source name. For mail: the sources of the pool that the mail leaves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What a selector is held against. `None` is "not known yet" and matches only
/// a selector that does not ask.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Stream of the mail.
    pub stream: &'a str,
    /// Recipient domain.
    pub domain: &'a str,
    /// Site the domain resolved to, once it has.
    pub site: Option<&'a str>,
    /// Sources that may carry it.
    pub sources: &'a [String],
}

impl Selector {
    /// True when nothing is asked for: the whole queue.
    pub fn is_everything(&self) -> bool {
        *self == Selector::default()
    }

    /// Lower-cases the domain and site, as the queue keeps them.
    pub fn normalised(mut self) -> Self {
        for part in [&mut self.domain, &mut self.site].into_iter().flatten() {
            part.make_ascii_lowercase();
        }
        self
    }

    /// Does everything that `other` names fall under this selector too?
    pub fn covers(&self, other: &Selector) -> bool {
        let covers = |mine: &Option<String>, theirs: &Option<String>| mine.is_none() || mine == theirs;
        covers(&self.stream, &other.stream)
            && covers(&self.domain, &other.domain)
            && covers(&self.site, &other.site)
            && covers(&self.source, &other.source)
    }

    /// Does the mail of `subject` fall under this selector?
    pub fn matches_mail(&self, subject: Subject<'_>) -> bool {
        let same =
            |asked: &Option<String>, value: Option<&str>| asked.as_deref().is_none_or(|asked| value == Some(asked));
        same(&self.stream, Some(subject.stream))
            && same(&self.domain, Some(subject.domain))
            && same(&self.site, subject.site)
            && self.source.as_ref().is_none_or(|asked| subject.sources.contains(asked))
    }

    /// Does a transaction of this stream and domain on this lane fall under it?
    pub fn matches_lane(&self, stream: &str, domain: &str, site: &str, source: &str) -> bool {
        let same = |asked: &Option<String>, value: &str| asked.as_deref().is_none_or(|asked| asked == value);
        same(&self.stream, stream) && same(&self.domain, domain) && same(&self.site, site) && same(&self.source, source)
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        let parts =
            [("stream", &self.stream), ("domain", &self.domain), ("site", &self.site), ("source", &self.source)];
        let mut first = true;
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, "{}{name}={value}", if first { "" } else { " " })?;
                first = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_given_part_must_match_and_absent_parts_match_all() {
        let sources = vec!["a".to_owned(), "b".to_owned()];
        let mail = Subject { stream: "news", domain: "example.org", site: Some("mx.example.org"), sources: &sources };
        let unknown_site = Subject { site: None, ..mail };
        assert!(Selector::default().matches_mail(mail));
        let site = Selector { site: Some("mx.example.org".into()), ..Selector::default() };
        assert!(site.matches_mail(mail));
        assert!(!site.matches_mail(unknown_site));
        let mixed = Selector { stream: Some("news".into()), source: Some("b".into()), ..Selector::default() };
        assert!(mixed.matches_mail(mail));
        assert!(!Selector { stream: Some("bills".into()), ..mixed.clone() }.matches_mail(mail));
        assert!(mixed.matches_lane("news", "example.org", "s", "b"));
        assert!(!mixed.matches_lane("news", "example.org", "s", "a"));
        assert_eq!(mixed.to_string(), "stream=news source=b");
    }
}
