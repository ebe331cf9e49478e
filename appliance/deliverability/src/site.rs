//! An MX set becomes one name, so that every domain served by the same hosts shares one queue and
//! one set of limits. The order of the hosts, their preferences, their case and repetitions do not
//! matter; different sets get different names.

use std::fmt;
use std::sync::Arc;

use mail_auth::common::crypto::HashAlgorithm;

/// Longest site name, in octets. A longer one is cut and ends in `~` and 16 hexadecimal digits of
/// the SHA-256 of the whole, so that nobody can make two sets meet.
pub const LONGEST_SITE_NAME: usize = 200;

/// Name of a site: the host where there is one, else the alternatives before what all hosts end
/// in: `(mx1|mx2).example.net`. A `?` after the alternatives says that the common part by itself
/// is a host too: `(alt1|alt2)?.gmail-smtp-in.l.google.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// The name of these hosts; `None` when there are none.
    pub fn from_hosts<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Option<Self> {
        let mut names: Vec<String> = hosts.into_iter().map(|host| normalised(host.as_ref())).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !name.is_empty());
        let (first, others) = names.split_first()?;
        let name = if others.is_empty() { first.clone() } else { rolled_up(first, others, &names) };
        Some(Self(bounded(name).into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SiteName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for SiteName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Lower case, no dot at the end, and nothing that could be taken for our own signs.
fn normalised(host: &str) -> String {
    let mut name = String::with_capacity(host.len());
    for character in host.trim_end_matches('.').chars() {
        match character {
            'A'..='Z' => name.push(character.to_ascii_lowercase()),
            'a'..='z' | '0'..='9' | '-' | '_' | '.' | ':' | '[' | ']' => name.push(character),
            // DNS allows any octet in a label; those that no mail host has are spelled out.
            other => name.extend(format!("{{{:x}}}", u32::from(other)).chars()),
        }
    }
    name
}

fn rolled_up(first: &str, others: &[String], all: &[String]) -> String {
    let mut common = first.len();
    for other in others {
        common = common.min(common_labels(first, other));
    }
    let suffix = &first[first.len() - common..];
    let mut name = String::with_capacity(all.iter().map(String::len).sum());
    name.push('(');
    let mut suffix_is_host = false;
    let mut any = false;
    for host in all {
        let alternative = &host[..host.len() - common];
        if alternative.is_empty() {
            suffix_is_host = true;
            continue;
        }
        if any {
            name.push('|');
        }
        any = true;
        name.push_str(alternative.strip_suffix('.').unwrap_or(alternative));
    }
    name.push(')');
    if suffix_is_host {
        name.push('?');
    }
    if !suffix.is_empty() {
        name.push('.');
        name.push_str(suffix);
    }
    name
}

/// Octets at the end of both that are whole labels.
fn common_labels(left: &str, right: &str) -> usize {
    let mut common = 0;
    let mut length = 0;
    for (a, b) in left.rsplit('.').zip(right.rsplit('.')) {
        if a != b {
            break;
        }
        length += a.len();
        common = length;
        // The dot before the next label.
        length += 1;
    }
    common
}

fn bounded(name: String) -> String {
    if name.len() <= LONGEST_SITE_NAME {
        return name;
    }
    let digest = HashAlgorithm::Sha256.hash(name.as_bytes());
    let tail: String = digest.as_ref().iter().take(8).map(|octet| format!("{octet:02x}")).collect();
    let mut short = name;
    short.truncate(LONGEST_SITE_NAME - tail.len() - 1);
    short.push('~');
    short.push_str(&tail);
    short
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn site(hosts: &[&str]) -> String {
        SiteName::from_hosts(hosts).expect("hosts").to_string()
    }

    #[test]
    fn one_host_is_its_own_site() {
        assert_eq!(site(&["MX.Example.NET."]), "mx.example.net");
        assert_eq!(site(&["mx.example.net", "mx.example.net."]), "mx.example.net");
        assert_eq!(SiteName::from_hosts::<&str>([]), None);
        assert_eq!(SiteName::from_hosts(["", "."]), None);
    }

    #[test]
    fn hosts_roll_up_before_their_common_end() {
        assert_eq!(site(&["mx2.example.net", "mx1.example.net"]), "(mx1|mx2).example.net");
        assert_eq!(site(&["a.mx.example.net", "b.example.net"]), "(a.mx|b).example.net");
        assert_eq!(site(&["a.example", "b.test"]), "(a.example|b.test)");
        // Labels are compared whole.
        assert_eq!(site(&["xmx.net", "mx.net"]), "(mx|xmx).net");
    }

    #[test]
    fn a_host_that_is_the_common_end_itself_is_marked() {
        assert_eq!(
            site(&["gmail-smtp-in.l.google.com", "alt2.gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"]),
            "(alt1|alt2)?.gmail-smtp-in.l.google.com"
        );
    }

    #[test]
    fn literals_and_ports_of_fixed_routes_make_readable_names() {
        assert_eq!(site(&["[192.0.2.1]:25"]), "[192.0.2.1]:25");
        assert_eq!(site(&["127.0.0.1:2525", "127.0.0.2:2525"]), "(127.0.0.1:2525|127.0.0.2:2525)");
    }

    #[test]
    fn strange_octets_cannot_imitate_another_site() {
        assert_ne!(site(&["(mx1|mx2).example.net"]), site(&["mx1.example.net", "mx2.example.net"]));
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let hosts = |last: &str| -> Vec<String> {
            (0..60).map(|n| format!("host{n:04}.example.net")).chain([last.to_owned()]).collect()
        };
        let one = SiteName::from_hosts(hosts("zz1.example.net")).expect("hosts");
        let other = SiteName::from_hosts(hosts("zz2.example.net")).expect("hosts");
        assert_eq!(one.as_str().len(), LONGEST_SITE_NAME);
        assert_ne!(one, other);
    }

    fn host() -> impl Strategy<Value = String> {
        proptest::collection::vec("[a-c]{1,2}", 1..4).prop_map(|labels| labels.join("."))
    }

    proptest! {
        #[test]
        fn order_case_and_repetition_do_not_matter(
            hosts in proptest::collection::vec(host(), 1..6),
            seed in any::<u64>(),
        ) {
            let name = SiteName::from_hosts(&hosts);
            let mut other: Vec<String> = hosts.iter().chain(&hosts).map(|h| h.to_ascii_uppercase()).collect();
            let length = other.len();
            other.rotate_left(seed as usize % length);
            other.reverse();
            prop_assert_eq!(SiteName::from_hosts(&other), name);
        }

        #[test]
        fn different_sets_have_different_names(
            one in proptest::collection::btree_set(host(), 1..5),
            other in proptest::collection::btree_set(host(), 1..5),
        ) {
            let names = |set: &BTreeSet<String>| SiteName::from_hosts(set);
            prop_assert_eq!(one == other, names(&one) == names(&other));
        }

        #[test]
        fn any_text_gives_a_bounded_name(hosts in proptest::collection::vec(any::<String>(), 0..20)) {
            if let Some(name) = SiteName::from_hosts(&hosts) {
                prop_assert!(name.as_str().len() <= LONGEST_SITE_NAME);
                prop_assert!(name.as_str().is_ascii());
            }
        }
    }
}
